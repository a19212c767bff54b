"""What the repository ships fits together: pins, lock, environment, checkpoint, README."""

import hashlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from safetensors import safe_open

from helpers.profile import ROOT, load_profile
from helpers.report import NOTEBOOKS, RESULTS, read_results, results_picture, with_results
from helpers.training import load_classifier, load_tokenizer

BERT_MINI = ROOT / "checkpoints/bert-mini"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def direct_pins() -> dict[str, str]:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pins = {}
    for requirement in wanted:
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        pins[requirement.name.lower().replace("_", "-")] = specifier.version
    return pins


def test_the_lock_holds_every_direct_pin_with_hashes():
    lock = (ROOT / "requirements.lock").read_text()
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.MULTILINE))
    left_out = set(PROJECT["tool"]["uv"]["pip"]["no-emit-package"])
    for name, version in direct_pins().items():
        assert name in left_out or locked.get(name) == version, name
    blocks = re.split(r"^(?=[\w.-]+==)", lock, flags=re.MULTILINE)[1:]
    assert len(blocks) > 100
    assert all("--hash=sha256:" in block for block in blocks)
    assert "://" not in lock
    assert not re.search(r"python_full_version [<>=!]+ '3\.\d+\.\d", lock), (
        "one for 3.11.1 and 3.11.9"
    )


def test_conda_users_get_the_same_pins():
    environment = (ROOT / "environment.yml").read_text()
    entries = [line.strip()[2:] for line in environment.splitlines() if line.strip()[:2] == "- "]
    assert entries[-2:] == ["-r requirements.txt", "-e ."]
    (python,) = (entry.partition("=")[2] for entry in entries if entry.startswith("python="))
    assert SpecifierSet(PROJECT["project"]["requires-python"]).contains(f"{python}.0")
    assert [entry for entry in entries if "==" in entry] == []


def test_every_import_of_the_project_is_a_direct_dependency():
    sources = [*ROOT.glob("helpers/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    sources.remove(ROOT / "helpers/engine_worker.py")  # it runs in an environment of its own
    imported = set()
    for path in sources:
        pattern = r'^\s*"?(?:from|import) ([a-zA-Z_]\w*)'
        imported |= set(re.findall(pattern, path.read_text(), re.MULTILINE))
    distributions = {"sklearn": "scikit-learn", "IPython": "ipykernel", "cpuinfo": "py-cpuinfo"}
    ours = set(sys.stdlib_module_names) | {"helpers"}
    wanted = {distributions.get(name, name).replace("_", "-") for name in imported - ours}
    assert wanted <= set(direct_pins()), wanted - set(direct_pins())


def test_the_hooks_run_only_what_the_environment_holds():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"repo: (\S+)", hooks) == ["local"]
    entries = re.findall(r"entry: (\S+)(.*)", hooks)
    assert len(entries) == hooks.count("- id:") == hooks.count("language: system") > 0
    assert {command for command, _ in entries} <= {".venv/bin/ruff", ".venv/bin/python"}
    for path in re.findall(r"tests/\w+\.py", " ".join(options for _, options in entries)):
        assert (ROOT / path).exists(), path


def test_the_checkpoint_is_the_one_its_card_describes():
    card = (BERT_MINI / "README.md").read_text()
    digest = hashlib.sha256((BERT_MINI / "model.safetensors").read_bytes()).hexdigest()
    assert digest in card
    with safe_open(BERT_MINI / "model.safetensors", "pt") as weights:
        shapes = {name: weights.get_slice(name).get_shape() for name in weights.keys()}  # noqa: SIM118
        dtypes = {weights.get_slice(name).get_dtype() for name in shapes}
    assert dtypes == {"F16"}
    parameters = sum(torch.Size(shape).numel() for shape in shapes.values())
    assert f"{parameters:,}" in card
    assert shapes["embeddings.word_embeddings.weight"] == [30522, 256]


def test_the_checkpoint_gives_a_known_output():
    tokenizer = load_tokenizer(BERT_MINI)
    pieces = ["[CLS]", "an", "un", "##watch", "##able", "film", "!", "[SEP]"]
    encoded = tokenizer("An unwatchable film!", return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"][0]) == pieces
    model = load_classifier(BERT_MINI, load_profile("laptop").student.architecture).bert.eval()
    with torch.inference_mode():
        states = model(**encoded).last_hidden_state
    assert states.shape == (1, len(pieces), 256)
    known = torch.tensor([1.23413, -2.60879, 0.24394, -0.13749])  # on x86-64, FP32
    torch.testing.assert_close(states[0, 0, :4], known, atol=2e-3, rtol=0)


def test_the_commands_of_the_readme_exist():
    readme = (ROOT / "README.md").read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = set(re.findall(r"\bmake ([a-z]+)", readme))
    assert {"run", "test", "lab"} <= used <= targets
    for page in ("CONTRIBUTING.md", "docs/workshop.md"):
        assert set(re.findall(r"`make ([a-z]+)", (ROOT / page).read_text())) <= targets
    for module in set(re.findall(r"python -m (helpers\.\w+)", readme)):
        done = subprocess.run([sys.executable, "-m", module, "--help"], capture_output=True)
        assert done.returncode == 0, module
    for link in re.findall(r"\]\(([^)#:]+)\)", readme):
        assert (ROOT / link).exists(), link


def test_the_readmes_figures_are_those_of_the_reference_run():
    readme = (ROOT / "README.md").read_text()
    assert all(mark in readme for mark in (*RESULTS, *NOTEBOOKS))
    assert with_results(readme, read_results(ROOT / "results/laptop.json")) == readme


def test_the_readmes_picture_is_that_of_the_reference_run(tmp_path):
    results_picture(read_results(ROOT / "results/laptop.json"), tmp_path / "new.svg")
    texts = [
        re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text())
        for path in (tmp_path / "new.svg", ROOT / "results/laptop.svg")
    ]
    assert len(texts[0]) > 20 and texts[0] == texts[1]


def test_an_unfit_python_is_refused_in_one_line(tmp_path):
    fake = tmp_path / "python9"
    fake.write_text('#!/bin/sh\necho "Python 9.9"\n[ "$1" = --version ]\n')
    fake.chmod(0o755)
    done = subprocess.run(
        ["make", "-C", ROOT, "--silent", "--no-print-directory", ".venv/.never", f"PYTHON={fake}",
         "READY=.venv/.never"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode != 0
    line, *rest = done.stderr.splitlines()
    assert line.startswith("error: Python 3.11 or 3.12 is needed") and "Python 9.9" in line
    assert all(other.startswith("make") for other in rest)
    assert "PYTHON=" in line or "none was found" in line


# Each platform that README and `pyproject.toml` name, as uv calls it.
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_35", "aarch64-apple-darwin", "windows")


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_lock_can_be_installed_by_its_hashes(tmp_path, platform, python):
    command = [
        Path(sys.prefix, "bin/uv"), "pip", "install", "--dry-run", "--no-deps", "--require-hashes",
        "--only-binary=:all:", f"--python-platform={platform}", f"--python-version={python}",
        f"--target={tmp_path / 'target'}", f"--requirement={ROOT / 'requirements.lock'}",
    ]  # fmt: skip
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-1000:]
    assert int(re.search(r"Would install (\d+) packages", done.stderr)[1]) > 100
