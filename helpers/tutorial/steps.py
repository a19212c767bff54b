"""Steps: what each notebook is made from, and whether what it left behind still fits.

A step is a notebook; docs/architecture.md says what its stamp is made of. What a step makes lies in
`artifacts/<profile>/`; `steps/<number>.json` beside it records under which stamp, and the SHA-256
of each result. A step is fresh while its stamp and its results are as they were.
"""

import ast
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel

from helpers.environment import PACKAGES
from helpers.tutorial.profile import DEFAULT, ROOT, Profile
from helpers.tutorial.setup import TutorialError, shown
from helpers.tutorial.sources import digest, files_of, identify

NOTEBOOKS = ROOT / "notebooks"
LAST_OF_MAIN = "05"  # `make run` ends with it; `make deeper` goes on
SHOWING = {"look", "solution"}  # tags of cells that decide no result
_ALWAYS_READ = {"seed", "max_length", "data"}
_SAYS_NOTHING = {"name", "description", "base", "changes"}
_SHOWING_MODULES = {"helpers", "helpers.environment", "helpers.plots"}


class StepError(TutorialError):
    """A step's results are missing or no longer fit; the message says which command mends it."""


class Record(BaseModel):
    """What a step made: under which stamp, and the SHA-256 of each result."""

    stamp: dict[str, str | None] = {}
    results: dict[str, str] = {}


def notebook_of(number: str) -> Path:
    """The notebook whose name begins with `number`; ValueError lists the numbers there are."""
    notebooks = {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}
    if number not in notebooks:
        raise ValueError(f"no notebook is numbered {number!r}; known: {', '.join(notebooks)}")
    return notebooks[number]


class Step:
    """One notebook under one profile.

    What it needs and makes is read off its call of `start`, so that nothing is declared twice. The
    stamp is taken once: code that changes while a notebook runs makes its results stale.
    """

    def __init__(self, number: str, profile: Profile, known: dict[str, "Step"] | None = None):
        self.number, self.profile = number, profile
        self.notebook = notebook_of(number)
        self.name = self.notebook.stem
        self.folder = ROOT / "artifacts" / profile.name
        self._record_path = self.folder / "steps" / f"{number}.json"
        self._saved: set[str] = set()
        self._code = _deciding_code(self.notebook)
        self.needs, self.makes = _declared(self._code)
        known = {} if known is None else known  # each step before is built once
        for needed in self.needs:
            if needed not in known:
                known[needed] = Step(needed, profile, known)
        self.before = [known[needed] for needed in self.needs]

    @cached_property
    def sections(self) -> list[str]:
        """The settings it reads, as in `profile.teacher`; all, where it hands the profile on."""
        fields, code = set(type(self.profile).model_fields), ast.unparse(self._code)
        calls = (node for node in ast.walk(self._code) if isinstance(node, ast.Call))
        given = (ast.unparse(argument) for call in calls for argument in call.args)
        if not any(re.fullmatch(r"(\w+\.)*profile", argument) for argument in given):
            fields &= _ALWAYS_READ.union(re.findall(r"\bprofile\.(\w+)", code))
        return sorted(fields - _SAYS_NOTHING)

    @cached_property
    def stamp(self) -> dict[str, str | None]:
        """All that decides the results, part by part."""
        packages = (*PACKAGES, "optuna", "scikit-learn")
        parts = {
            "settings": _hash(self.profile.model_dump(mode="json", include=set(self.sections))),
            "cells": _hash(ast.unparse(self._code)),
        }
        parts |= {ref: identify(ref) for ref in self.profile.references(*self.sections).values()}
        parts |= _helpers_read(self._code)
        # without the build: "+cpu" and "+cu130" compute the same
        parts |= {name: version(name).partition("+")[0] for name in packages}
        return parts | {step.name: _hash(step._record().model_dump()) for step in self.before}

    def fault(self) -> str | None:
        """Why the results cannot be used, with the command that mends it, or None."""
        for step in self.before:
            if fault := step.fault():
                return fault
        record, folder = self._record(), f"artifacts/{self.profile.name}"
        there = [name for name in record.results if (self.folder / name).exists()]
        if missing := [name for name in self.makes if name not in there]:
            what = f"{folder}/{missing[0]} is missing"
        elif other := sorted(dict(record.stamp.items() ^ self.stamp.items())):
            what = f"{self.name} was run with other {', '.join(other)}"
        elif damaged := [n for n in self.makes if digest(self.folder / n) != record.results[n]]:
            what = f"{folder}/{damaged[0]} is damaged: it is not what was written"
        else:
            return None
        command = run_command(self.number, self.profile, FROM=self.number)
        return f"{what}. Run notebook {self.number} first: {command}"

    def files(self) -> list[Path]:
        """The files of the results, and the record of them."""
        made = [file for name in self.makes for file in files_of(self.folder / name)]
        return [*made, self._record_path]

    def resumable(self, name: str) -> Path:
        """A folder for what lets a killed run go on; another one after a change of the stamp."""
        folder = self.folder / "resume" / f"{self.number}-{_hash(self.stamp)[:16]}"
        self.forget(but=folder)  # nothing can go on from the others
        return folder / name

    def forget(self, but: Path | None = None) -> None:
        """Remove what a killed run would go on from."""
        for folder in self.folder.glob(f"resume/{self.number}-*"):
            if folder != but:
                shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def saving(self, name: str) -> Iterator[Path]:
        """Give a path to write a result to; on success it takes its place, as a whole.

        Where several kernels write results of a step, one does after another; what a killed one
        left half written goes with the next. Where several processes train together, the first
        alone writes; the others get a path that is thrown away, and wait.
        """
        if name not in self.makes:
            raise ValueError(f"{name} is not among what the notebook says it makes: {self.makes}")
        if int(os.environ.get("RANK", "0")) > 0:
            with tempfile.TemporaryDirectory() as nowhere:
                yield Path(nowhere, name)
        else:
            aside = self.folder / ".saving" / name
            aside.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(aside.with_name(f"{self.number}.lock")):
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir()
                try:
                    yield aside / name
                    self._keep(name, aside)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def _keep(self, name: str, aside: Path) -> None:
        """Move what was written into its place and record it."""
        if not (aside / name).exists():
            raise FileNotFoundError(f"{name} was to be saved, and nothing was written")
        record = self._record()
        if record.stamp != self.stamp:  # what was made under another stamp is void
            record = Record(stamp=self.stamp)
        record.results.pop(name, None)
        self._write(record)  # killed from here on, the result counts as missing
        for made in aside.iterdir():  # an OpenVINO model is two files
            final = self.folder / made.name
            if final.is_dir():
                shutil.rmtree(final)
            made.replace(final)
        record.results[name] = digest(self.folder / name)
        self._write(record)
        self._saved.add(name)
        if set(self.makes) <= self._saved:  # another run begins from the beginning
            self.forget()

    def _record(self) -> Record:
        try:
            return Record.model_validate_json(self._record_path.read_bytes())
        except (OSError, ValueError):  # none yet, or damaged
            return Record()

    def _write(self, record: Record) -> None:
        self._record_path.parent.mkdir(exist_ok=True)
        write_whole(self._record_path, record.model_dump_json(indent=1) + "\n")


def run_command(number: str, profile: Profile, *, alone: bool = False, **options: str) -> str:
    """The command that runs a notebook with the same settings; options are such as FROM="03".

    One of the deeper notebooks is run `alone`, or with the others.
    """
    base = "" if profile.base == DEFAULT else profile.base
    command = "run" if number <= LAST_OF_MAIN else "deeper"
    command += f" {number}" if alone else ""
    return shown(command, PROFILE=base, SET=profile.changes, **options)


def write_whole(path: Path, text: str) -> None:
    """Write a text file aside and rename it, so that it is never there by half."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _deciding_code(notebook: Path) -> ast.Module:
    """The code of the cells that decide a notebook's results, in order."""
    code = []
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] != "code" or SHOWING & set(cell["metadata"].get("tags", ())):
            continue
        source = re.sub(r"^(\s*)[%!]", r"\1#", "".join(cell["source"]), flags=re.MULTILINE)
        try:
            ast.parse(source)
        except SyntaxError:  # it will fail when it runs
            source = repr(source)
        code.append(source)
    return ast.parse("\n".join(code))


def _declared(code: ast.Module) -> tuple[list[str], list[str]]:
    """`needs` and `makes` of the notebook's call of `start`."""
    for node in ast.walk(code):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "start":
            given = {word.arg: word.value for word in node.keywords}
            needs, makes = (given.get(name, ast.List([])) for name in ("needs", "makes"))
            return list(ast.literal_eval(needs)), list(ast.literal_eval(makes))
    return [], []


def _helpers_read(code: ast.Module) -> dict[str, str]:
    """Digests of the helper modules that code imports, and that they import, by name.

    Those that only show, and those that run the tutorial, are left out; so are comments,
    docstrings and layout.
    """
    found: dict[str, str] = {}
    waiting = _imported_helpers(code)
    while waiting:
        name = waiting.pop()
        if name not in found.keys() | _SHOWING_MODULES and not name.startswith("helpers.tutorial"):
            module = ast.parse(_module(name).read_text(encoding="utf-8"))
            waiting |= _imported_helpers(module)
            for node in ast.walk(module):
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    node.value.value = ""  # a docstring
            found[name] = _hash(ast.unparse(module))
    return dict(sorted(found.items()))


def _imported_helpers(code: ast.Module) -> set[str]:
    names = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if re.match(r"helpers\b", name) and _module(name).exists()}


def _module(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _hash(value: dict | str) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
