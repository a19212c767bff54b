"""What the repository ships fits together: pins, lock, environment, checkpoint, README."""

import ast
import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from packaging.requirements import Requirement

from helpers.training import load_classifier, load_tokenizer
from helpers.tutorial import report
from helpers.tutorial.profile import ROOT, load_profile
from helpers.tutorial.steps import NOTEBOOKS

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
    text = "".join((ROOT / f"requirements{part}.lock").read_text() for part in ("", "-torch"))
    locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.MULTILINE))
    assert direct_pins().items() <= locked.items()
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) > 100 and all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "telemetry" not in text  # openvino's sends usage statistics, unasked


def test_every_import_of_the_project_is_a_direct_dependency():
    modules = [path for path in ROOT.glob("helpers/**/*.py") if "engine_w" not in path.stem]
    code = [path.read_text() for path in modules]
    for path in ROOT.glob("notebooks/*.ipynb"):
        code += [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    imported = set()
    for node in (node for source in code for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    distributions = {"sklearn": "scikit-learn", "IPython": "ipykernel", "cpuinfo": "py-cpuinfo"}
    ours = {*sys.stdlib_module_names, "helpers", "packaging", "ray", "torchao"}  # pip's; extras
    wanted = {distributions.get(name, name).replace("_", "-") for name in imported - ours}
    assert wanted <= set(direct_pins()), wanted - set(direct_pins())


def test_the_checkpoint_is_the_one_its_card_describes_and_gives_a_known_output():
    for folder in (BERT_MINI, BERT_MINI.with_name("bert-mini-mlm")):
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert digest in (folder / "README.md").read_text()
    tokenizer = load_tokenizer(BERT_MINI)
    pieces = ["[CLS]", "an", "un", "##watch", "##able", "film", "!", "[SEP]"]
    encoded = tokenizer("An unwatchable film!", return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(encoded["input_ids"][0]) == pieces
    model = load_classifier(BERT_MINI, load_profile("default").student.architecture).bert.eval()
    with torch.inference_mode():
        states = model(**encoded).last_hidden_state
    assert states.shape == (1, len(pieces), 256)
    known = torch.tensor([1.23413, -2.60879, 0.24394, -0.13749])  # on x86-64, FP32
    torch.testing.assert_close(states[0, 0, :4], known, atol=2e-3, rtol=0)


def test_the_links_of_the_documentation_lead_somewhere():
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_the_readmes_figures_are_those_of_the_committed_run(tmp_path):
    shutil.copy(ROOT / "README.md", tmp_path)
    shutil.copytree(ROOT / "results", tmp_path / "results")
    runpy.run_path(str(ROOT / ".ci/refresh.py"))["render"](tmp_path)
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()
    svgs = [(root / "results/default.svg").read_text() for root in (tmp_path, ROOT)]
    drawn, committed = (re.findall(r"<text[^>]*>([^<]*)</text>", svg) for svg in svgs)
    assert len(drawn) > 10 and drawn == committed


def test_the_report_needs_no_network_and_describes_its_pictures(tmp_path):
    for folder in ("executed", "figures"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "results/default.svg", tmp_path / "figures/05_frontier.svg")
    for name in ("01_finetune_teacher", "05_benchmark_cpu"):
        shutil.copy(NOTEBOOKS / f"{name}.ipynb", tmp_path / "executed")
    results = report.read_results(ROOT / "results/default.json")
    report.write_report(tmp_path, results, "a title")
    page = (tmp_path / "report.html").read_text()
    assert "//cdn" not in page and not re.search(r"""<(script|link)[^>]+(src|href)=["']?\w""", page)
    images = re.findall(r"<img [^>]*>", page)
    assert len(images) > 8
    for image in images:
        assert 'src="data:image/' in image and len(re.search(r'alt="([^"]*)"', image)[1]) > 40
    assert results["headline"] in page and 'class="jp-RenderedHTMLCommon' in page


# Each platform that README and `pyproject.toml` name, as uv calls it.
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_35", "aarch64-apple-darwin", "windows")


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_lock_can_be_installed_by_its_hashes(tmp_path, platform, python):
    command = [Path(sys.prefix, "bin/uv"), "pip", "install", "--dry-run", "--no-deps"]
    command += ["--require-hashes", "--only-binary=:all:", f"--target={tmp_path / 'target'}"]
    command += [f"--python-platform={platform}", f"--python-version={python}"]
    command.append(f"--requirement={ROOT / 'requirements.lock'}")
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-1000:]
    assert int(re.search(r"Would install (\d+) packages", done.stderr)[1]) > 100
