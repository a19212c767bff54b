"""Machines of others: a notebook opened alone, a container, continuous integration."""

import os
import re
import subprocess
import sys
import tomllib

import nbformat
import pytest
import yaml

from helpers.tutorial.profile import ROOT
from helpers.tutorial.run import MAIN_LINE
from helpers.tutorial.setup import VERSIONS
from helpers.tutorial.steps import notebook_of

ADDRESS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
# Installs nothing but the repository that `--editable` names.
STAND_IN_FOR_PIP = """
import site, sys
print("index-url=nowhere")
if "--editable" in sys.argv:
    folder = sys.argv[sys.argv.index("--editable") + 1]
    open(site.getsitepackages()[0] + "/tutorial.pth", "w").write(folder)
"""


def hosted_cell(number: str) -> str:
    cells = nbformat.read(notebook_of(number), as_version=4).cells
    return next(c.source for c in cells if "hosted" in c.metadata.get("tags", ()))


def test_the_cells_and_the_buttons_lead_to_the_same_repository():
    assert len({hosted_cell(number) for number in MAIN_LINE}) == 1
    name = ADDRESS.removeprefix("https://github.com/")
    texts = hosted_cell("01"), *re.findall(r"^\[!\[Open.*$", (ROOT / "README.md").read_text(), re.M)
    assert len(texts) == 3 and all(f"/{name}" in text for text in texts), texts


@pytest.mark.skipif(os.name == "nt" or not (ROOT / ".git").exists(), reason="no clone, or no bash")
def test_a_notebook_opened_alone_fetches_the_rest(tmp_path, monkeypatch):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    next((tmp_path / "bare").rglob("site-packages")).joinpath("pip.py").write_text(STAND_IN_FOR_PIP)
    (tmp_path / "cell.py").write_text(hosted_cell("01").replace(ADDRESS, ROOT.as_uri()))
    monkeypatch.setenv("COLAB_RELEASE_TAG", "any")
    monkeypatch.setenv("PATH", str(tmp_path / "bare/bin"), prepend=os.pathsep)
    options = {"cwd": tmp_path, "capture_output": True, "text": True}
    first, again = (subprocess.run(["python3", "-I", "cell.py"], **options) for _ in range(2))
    assert "restart the session" in first.stderr.lower(), first.stderr
    assert (again.returncode, again.stdout) == (0, ""), again.stderr  # `helpers` is there now
    installed = (tmp_path / "bare/tutorial.lock").read_text()
    assert "\nnumpy==" in installed and "\nipykernel==" not in installed  # Colab's kernel stays


def test_container_and_workflow_are_for_the_pythons_that_set_up_knows():
    for file in (".devcontainer/devcontainer.json", "environment.yml"):
        assert re.search(r"python[:=]([\d.]+)", (ROOT / file).read_text())[1] in VERSIONS
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    assert workflow["jobs"]["everywhere"]["strategy"]["matrix"]["python"] == list(VERSIONS)
