"""What the repository ships fits together: pins, lock, environment, checkpoint, README."""

import hashlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.tutorial import report
from helpers.tutorial.profile import ROOT
from helpers.tutorial.steps import NOTEBOOKS


def test_the_locks_hold_every_direct_pin_with_hashes():
    pins = (ROOT / "requirements.txt").read_text() + (ROOT / "requirements-no-deps.txt").read_text()
    text = "".join((ROOT / f"requirements{part}.lock").read_text() for part in ("", "-torch"))
    locked = re.findall(r"^[\w.-]+==[\w.]+", text, re.MULTILINE)
    assert set(re.findall(r"^[a-z].*", pins, re.MULTILINE)) <= set(locked)
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert len(blocks) > 100 and all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text
    assert "telemetry" not in text  # openvino's sends usage statistics, unasked


def test_the_checkpoints_are_those_that_their_cards_describe():
    for folder in (ROOT / "checkpoints/bert-mini", ROOT / "checkpoints/bert-mini-mlm"):
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert digest in (folder / "README.md").read_text()


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
