"""Imports between the rooms go one way, and docs/architecture.md knows every module."""

import ast
import re

import pytest

from helpers.tutorial.profile import ROOT

MODULES = sorted(ROOT.glob("helpers/**/*.py"))
PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")


def imported(path) -> set[str]:
    """The helper modules that run when a module runs; those for types alone are left out."""
    tree, found = ast.parse(path.read_text(encoding="utf-8")), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.startswith("helpers")}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    room = path.parent.name
    closed = {"helpers": ("bench", "tutorial"), "bench": ("tutorial",), "tutorial": ()}[room]
    if path == ROOT / "helpers/__init__.py":  # opens the tutorial to a notebook
        closed = ("bench",)
    for name in imported(path):
        assert not name.startswith(tuple(f"helpers.{other}" for other in closed)), name


def test_the_page_on_architecture_lists_every_module_and_no_other():
    listed = set(re.findall(r"^  (\w+) {2,}", PAGE, re.MULTILINE))
    lessons = {path.stem.strip("_") for path in ROOT.glob("helpers/*.py")}
    assert {name.strip("_") for name in listed} == lessons
    for room in ("bench", "tutorial"):
        assert f"helpers/{room}/" in PAGE
