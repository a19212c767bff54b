"""Steps: what each notebook is made from, and whether what it left behind still fits.

A step is a notebook. Its stamp is a digest of all that decides its results: the settings it reads,
the helper modules it imports, its own cells, the versions of the packages, what the settings'
references stand for, and the stamps of the steps whose results it reads. What a step makes lies in
`artifacts/<profile>/`; `steps/<number>.json` beside it records under which stamp, and the SHA-256
of each result. A step is fresh while its stamp is the same and its results are as they were
written. Cells tagged `look` or `solution`, which only show, are no part of the stamp.
"""

import ast
import hashlib
import importlib.metadata
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import nbformat
from filelock import FileLock

from helpers.tutorial.profile import DEFAULT, ROOT, Profile
from helpers.tutorial.sources import digest, identify, sha256

NOTEBOOKS = ROOT / "notebooks"
SHOWING = {"look", "solution"}  # tags of cells that decide no result
_ALWAYS_READ = ("seed", "max_length", "data")
_SHOWING_MODULES = {"helpers", "helpers.environment", "helpers.plots", "helpers.panel"}
_PACKAGES = (
    "datasets",
    "neural-compressor",
    "nncf",
    "numpy",
    "onnx",
    "onnxruntime",
    "openvino",
    "scikit-learn",
    "torch",
    "transformers",
)


class StepError(RuntimeError):
    """A step's results are missing or no longer fit; the message says which command mends it."""


def notebook_of(number: str) -> Path:
    """The notebook whose name begins with `number`, two digits.

    Raises:
        ValueError: there is none; the message lists the numbers there are.
    """
    notebooks = {path.name[:2]: path for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")}
    if number not in notebooks:
        known = ", ".join(sorted(notebooks))
        raise ValueError(f"no notebook is numbered {number!r}; known: {known}")
    return notebooks[number]


class Step:
    """One notebook under one profile.

    What it needs and makes is read off its call of `start`, so that nothing is declared twice.
    """

    def __init__(self, number: str, profile: Profile, *, root: Path = ROOT / "artifacts"):
        self.number, self.profile = number, profile
        self.notebook = notebook_of(number)
        self.folder = root / profile.name
        self._root = root
        source = _deciding_code(self.notebook)
        self._tree = ast.parse(source)
        self.needs, self.makes = _declared(self._tree)

    def before(self) -> list["Step"]:
        """The steps whose results this one reads."""
        return [Step(number, self.profile, root=self._root) for number in self.needs]

    def stamp(self) -> dict:
        """All that decides the results, part by part."""
        read = sorted({*_ALWAYS_READ, *_sections_read(self._tree)} & set(Profile.model_fields))
        references = self.profile.references(*read)
        return {
            "settings": _hash(self.profile.model_dump(mode="json", include=set(read))),
            "sources": {reference: identify(reference) for reference in references.values()},
            "cells": _hash(ast.unparse(self._tree)),
            "helpers": {name: _code(name) for name in _helpers_read(self._tree)},
            "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "steps": {step.number: step.digest() for step in self.before()},
        }

    def digest(self) -> str:
        """The stamp as one short number."""
        return _hash(self.stamp())[:16]

    def fault(self) -> str | None:
        """Why the results cannot be used, with the command that mends it, or None."""
        for step in self.before():
            if fault := step.fault():
                return fault
        record = self._record()
        missing = [name for name in self.makes if name not in record["results"]]
        gone = [name for name in record["results"] if not (self.folder / name).exists()]
        if missing or gone:
            what = f"{self._shown((missing + gone)[0])} is missing"
        elif differs := _difference(record["stamp"], self.stamp()):
            what = f"{self.notebook.stem} was run with {differs}"
        elif damaged := [n for n, made in record["results"].items() if not self._as_made(n, made)]:
            what = f"{self._shown(damaged[0])} is damaged: it is not what was written"
        else:
            return None
        return f"{what}. Run notebook {self.number} first: {run_command(self.number, self.profile)}"

    def resumable(self, name: str) -> Path:
        """A folder for what lets a killed run go on; another one after a change of the stamp."""
        return self.folder / "resume" / f"{self.number}-{name}-{self.digest()}"

    @contextmanager
    def saving(self, name: str) -> Iterator[Path]:
        """Give a path to write a result to; on success it takes its place, as a whole.

        Where several processes write the same result, one does after another; what a killed one
        left half written goes with the next.
        """
        if name not in self.makes:
            raise ValueError(f"{name} is not among what the notebook says it makes: {self.makes}")
        aside = self.folder / ".saving" / name
        aside.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(aside.with_name(f"{name}.lock")):
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir()
            try:
                yield aside / name
                self._keep(name, aside)
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def _keep(self, name: str, aside: Path) -> None:
        with FileLock(self.folder / ".saving" / "record.lock"):
            record, stamp = self._record(), self.stamp()
            if record["stamp"] != stamp:  # what was made under another stamp is void
                record = {"stamp": stamp, "results": {}}
            record["results"].pop(name, None)
            self._write(record)
            for made in aside.iterdir():  # an OpenVINO model is two files
                final = self.folder / made.name
                if final.is_dir():
                    shutil.rmtree(final)
                made.replace(final)
            record["results"][name] = self._content(name) | {"sha256": self._sum(name)}
            self._write(record)

    def _files(self, name: str) -> list[Path]:
        path = self.folder / name
        if path.is_dir():
            return sorted(file for file in path.rglob("*") if file.is_file())
        return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]

    def _content(self, name: str) -> dict:
        """Sizes and times of a result's files: unchanged, they spare hashing it again."""
        try:
            told = [file.lstat() for file in self._files(name)]
        except OSError:
            return {}
        return {"bytes": [s.st_size for s in told], "mtime_ns": [s.st_mtime_ns for s in told]}

    def _sum(self, name: str) -> str:
        return "-".join(sha256(file) for file in self._files(name))

    def _as_made(self, name: str, made: dict) -> bool:
        if any(file.is_symlink() for file in [self.folder / name, *self._files(name)]):
            return False
        told = self._content(name)
        if told == {key: made.get(key) for key in told} and told:
            return True
        return told.get("bytes") == made.get("bytes") and self._sum(name) == made.get("sha256")

    def _record(self) -> dict:
        path = self.folder / "steps" / f"{self.number}.json"
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            return {"stamp": dict(record["stamp"]), "results": dict(record["results"])}
        except (OSError, ValueError, KeyError, TypeError):  # none yet, or damaged: run it again
            return {"stamp": {}, "results": {}}

    def _write(self, record: dict) -> None:
        path = self.folder / "steps" / f"{self.number}.json"
        path.parent.mkdir(exist_ok=True)
        write_whole(path, json.dumps(record, indent=1) + "\n")

    def _shown(self, name: str) -> str:
        return f"artifacts/{self.profile.name}/{name}"


def run_command(number: str, profile: Profile) -> str:
    """The command that runs the tutorial from a notebook on, with the same settings."""
    words = ["make run" if number <= "05" else "make deeper"]
    if profile.base != DEFAULT:
        words.append(f"PROFILE={profile.base}")
    if profile.changes:
        words.append('SET="{}"'.format(profile.changes.replace('"', r"\"")))
    return " ".join([*words, f"FROM={number}"])


def write_whole(path: Path, text: str) -> None:
    """Write a text file aside and rename it, so that it is never there by half."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _difference(made: dict, now: dict) -> str | None:
    """What of a stamp has changed, in words, or None."""
    said = {
        "settings": "other settings",
        "cells": "other cells than it has now",
        "steps": "other results of the notebooks before it",
    }
    for part, value in now.items():
        if made.get(part) == value:
            continue
        if part in said:
            return said[part]
        before = made.get(part) or {}
        changed = [name for name in value if before.get(name) != value[name]]
        return f"another version of {', '.join(changed or before)}"
    return None


def _deciding_code(notebook: Path) -> str:
    """The code of the cells that decide a notebook's results, in order."""
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(
        cell.source
        for cell in cells
        if cell.cell_type == "code" and not SHOWING & set(cell.metadata.get("tags", ()))
    )


def _declared(tree: ast.AST) -> tuple[list[str], list[str]]:
    """`needs` and `makes` of the notebook's call of `start`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "start":
            given = {word.arg: word.value for word in node.keywords}
            return tuple(
                ast.literal_eval(given[name]) if name in given else []
                for name in ("needs", "makes")
            )
    return [], []


def _sections_read(tree: ast.AST) -> set[str]:
    """Attributes that are read of anything called `profile`: `lesson.profile.teacher`."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and "profile" in (getattr(node.value, "attr", None), getattr(node.value, "id", None))
    }


def _helpers_read(tree: ast.AST) -> list[str]:
    """The helper modules that code imports, and those that they import, but those that only show."""
    found: set[str] = set()
    waiting = _imported_helpers(tree)
    while waiting:
        name = waiting.pop()
        if name not in found | _SHOWING_MODULES and not name.startswith("helpers.tutorial"):
            found.add(name)
            waiting |= _imported_helpers(ast.parse(_module(name).read_text(encoding="utf-8")))
    return sorted(found)


def _imported_helpers(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return {name for name in names if re.match(r"helpers\b", name) and _module(name).exists()}


def _module(name: str) -> Path:
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _code(module: str) -> str:
    """A digest of a module's code; comments, docstrings and layout play no part in it."""
    tree = ast.parse(_module(module).read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body[0].value = ast.Constant("")
    return _hash(ast.unparse(tree))


def _hash(value: dict | str) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
