"""The commands that README and docs name exist, and set-up picks its Python and packages well."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.tutorial import __main__ as commands
from helpers.tutorial import setup
from helpers.tutorial.profile import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SHOWN = [
    (page.name, command)
    for page in PAGES
    for command in re.findall(
        r"(?:^|`)((?:make [a-z]|(?:\S*python3? )-m helpers\.tutorial )[^`\n]*)",
        page.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
]


def test_readme_names_the_two_commands():
    assert {("README.md", "make run"), ("README.md", "make test")} <= set(SHOWN)


@pytest.mark.parametrize(("page", "command"), sorted(set(SHOWN)))
def test_a_command_of_the_documentation_is_understood(page, command):
    """What make would start, or what is typed, is read by the command line's own parser."""
    words = shlex.split(command.split(" #")[0])
    if words[0] == "make":
        done = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", *words[1:]],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        words = shlex.split(done.stdout.strip().splitlines()[-1])
    arguments = words[words.index("helpers.tutorial") + 1 :]
    assert commands._parser().parse_args(arguments).command in commands.COMMANDS


def test_the_classifier_of_the_readme_can_be_called():
    done = subprocess.run(
        [sys.executable, "-m", "helpers.classify", "--help"], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 0


def test_help_needs_no_package():
    """The command line starts where nothing is installed yet."""
    done = subprocess.run(
        [
            sys.executable,
            "-S",
            "-I",
            "-c",
            "import sys; sys.path.insert(0, '.');"
            "sys.argv = ['x', 'help']; from helpers.tutorial.__main__ import main; main()",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "run" in done.stdout


def fake_python(folder: Path, name: str, version: str, *, venv: bool = True) -> Path:
    """A program that answers as set-up's probe expects it of an interpreter."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{path}|{version}|{venv}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bare_path(tmp_path, monkeypatch):
    """A PATH with nothing on it but what a test puts there; no uv, no fitting Python of ours."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(setup.sys, "executable", str(tmp_path / "missing"))
    monkeypatch.setattr(setup, "_python_through_uv", lambda version: None)
    return tmp_path


def test_a_fitting_python_is_found(bare_path):
    fake_python(bare_path, "python3", "3.9")
    fits = fake_python(bare_path, "python3.13", "3.13")
    assert setup.find_python() == str(fits)


def test_an_unfit_python_is_named(bare_path):
    fake_python(bare_path, "python3", "3.9")
    with pytest.raises(setup.SetupError, match=r"python3 is 3\.9"):
        setup.find_python()


def test_the_package_of_a_missing_venv_is_named(bare_path):
    fake_python(bare_path, "python3", "3.12", venv=False)
    with pytest.raises(setup.SetupError, match=r"apt install python3\.12-venv"):
        setup.find_python()


def test_where_no_python_fits_uv_brings_one(bare_path, monkeypatch):
    monkeypatch.setattr(setup, "_python_through_uv", lambda version: f"/uv/{version}")
    assert setup.find_python() == "/uv/3.12"


def test_a_mirror_decides_which_torch_comes(monkeypatch):
    monkeypatch.setattr(setup, "_ask", lambda command, seconds=60: "global.index-url='x'")
    _, torch = setup.package_arguments("python")
    assert len(torch) == 1 and torch[0].startswith("torch==")


def test_messages_print_the_readers_command(monkeypatch):
    monkeypatch.delenv("MAKELEVEL", raising=False)
    assert setup.shown("run", FROM="03", SET="").endswith("-m helpers.tutorial run --from 03")
    monkeypatch.setenv("MAKELEVEL", "1")
    assert setup.shown("run", FROM="03", SET="seed=7") == 'make run FROM=03 SET="seed=7"'
