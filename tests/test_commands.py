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

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
PAGES.remove(ROOT / "CHANGELOG.md")  # names what there was
COMMAND = r"(?:^|`)((?:make [a-z]|(?:\S*python3? )-m helpers\.tutorial )[^`\n]*)"
SHOWN = {
    command
    for page in PAGES
    for command in re.findall(COMMAND, page.read_text(encoding="utf-8"), re.MULTILINE)
}


@pytest.mark.parametrize("command", sorted(SHOWN))
def test_a_command_of_the_documentation_is_understood(command):
    """What make would start, or what is typed, is read by the command line's own parser."""
    words = shlex.split(command.split(" #")[0])
    if words[0] == "make":
        make = ["make", "--dry-run", "--no-print-directory", *words[1:]]
        done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        words = shlex.split(done.stdout.strip().splitlines()[-1])
    arguments = words[words.index("helpers.tutorial") + 1 :]
    assert commands._parser().parse_args(arguments).command in commands.COMMANDS


def fake_python(folder: Path, name: str, version: str, *, venv: bool = True) -> Path:
    """A program that answers as set-up asks an interpreter."""
    path, status = folder / name, 0 if venv else 1
    answers = f"*ensurepip) exit {status};; *) echo '{path}|{version}';;"
    path.write_text(f"#!/bin/sh\ncase $2 in {answers} esac\n")
    path.chmod(0o755)
    return path


def test_set_up_finds_a_python_that_fits_or_says_what_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(setup.sys, "executable", str(tmp_path / "missing"))
    monkeypatch.setattr(setup, "_python_through_uv", lambda version: None)
    fake_python(tmp_path, "python3", "3.9")
    with pytest.raises(setup.TutorialError, match=r"python3 is 3\.9"):
        setup.find_python()
    fake_python(tmp_path, "python3.12", "3.12", venv=False)
    with pytest.raises(setup.TutorialError, match=r"apt install python3\.12-venv"):
        setup.find_python()
    fits = fake_python(tmp_path, "python3.13", "3.13")
    assert setup.find_python() == str(fits)
    fits.unlink()
    monkeypatch.setattr(setup, "_python_through_uv", lambda version: f"/uv/{version}")
    assert setup.find_python() == "/uv/3.12"


def test_a_mirror_decides_which_torch_comes(monkeypatch):
    monkeypatch.setattr(setup, "_ask", lambda command, seconds=60: "global.index-url='x'")
    _, torch = setup.package_arguments("python")
    assert len(torch) == 1 and torch[0].startswith("torch==")


def test_pips_own_errors_are_shown_whole(index):
    with pytest.raises(setup.TutorialError, match=r"(?s)no-such-package.*could not install"):
        setup._pip_install(Path(sys.executable), "--dry-run", "no-such-package==1.0")
