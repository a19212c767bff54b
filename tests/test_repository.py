"""What the repository ships fits together: pins, lock, environment, checkpoint, README."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from packaging.requirements import Requirement
from safetensors import safe_open

from helpers.training import load_classifier, load_tokenizer
from helpers.tutorial import report
from helpers.tutorial.profile import ROOT, load_profile

BERT_MINI = ROOT / "checkpoints/bert-mini"


def direct_pins() -> dict[str, str]:
    pins = {}
    for name in ("requirements.txt", "requirements-no-deps.txt"):
        lines = (ROOT / name).read_text().splitlines()
        for requirement in (Requirement(line) for line in lines if re.match(r"[a-z]", line)):
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", requirement
            pins[requirement.name.lower().replace("_", "-")] = specifier.version
    return pins


def test_the_locks_hold_every_direct_pin_with_hashes():
    locks = [(ROOT / f"requirements{part}.lock").read_text() for part in ("", "-torch")]
    text = "\n".join(locks)
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
    assert {name: locked.get(name) for name in direct_pins()} == direct_pins()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) > 100
    assert all("--hash=sha256:" in block for block in blocks if re.match(r"[\w.-]+==", block))
    assert "://" not in text


def test_every_import_of_the_project_is_a_direct_dependency():
    code = [
        path.read_text() for path in ROOT.glob("helpers/**/*.py") if "engine_w" not in path.stem
    ]
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = nbformat.read(path, as_version=4).cells
        code.append("\n".join(cell.source for cell in cells if cell.cell_type == "code"))
    imported = set()
    for node in (node for source in code for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    distributions = {"sklearn": "scikit-learn", "IPython": "ipykernel", "cpuinfo": "py-cpuinfo"}
    ours = {*sys.stdlib_module_names, "helpers", "packaging"}  # pip's own needs the last one too
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


def test_the_links_of_the_documentation_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_the_readmes_figures_are_those_of_the_reference_run(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/reproduce.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    shutil.copytree(ROOT / "results", tmp_path / "results")
    report.render(tmp_path)
    for name in ("README.md", "docs/reproduce.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text(), name
    texts = [
        re.findall(r"<text[^>]*>([^<]*)</text>", (root / "results/laptop.svg").read_text())
        for root in (tmp_path, ROOT)
    ]
    assert len(texts[0]) > 10 and texts[0] == texts[1]


# Each platform that README and `pyproject.toml` name, as uv calls it.
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_35", "aarch64-apple-darwin", "windows")


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
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
