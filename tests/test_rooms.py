"""Imports between the rooms go one way."""

import ast

import pytest

from helpers.tutorial.profile import ROOT
from helpers.tutorial.steps import _imported_helpers


def imported(path) -> set[str]:
    """The helper modules that run when a module runs; those for types alone are left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING":
            node.body = []
    return _imported_helpers(tree)


@pytest.mark.parametrize("path", sorted(ROOT.glob("helpers/**/*.py")), ids=str)
def test_imports_go_one_way(path):
    room = path.parent.name
    closed = {"helpers": ("bench", "tutorial"), "bench": ("tutorial",), "tutorial": ()}[room]
    if path == ROOT / "helpers/__init__.py":  # opens the tutorial to a notebook
        closed = ("bench",)
    for name in imported(path):
        assert not name.startswith(tuple(f"helpers.{other}" for other in closed)), name
