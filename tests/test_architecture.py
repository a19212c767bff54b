"""docs/architecture.md tells the truth about the modules and their imports."""

import ast
import re

import pytest

from helpers.profile import ROOT

PAGE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
LISTED = {
    module: {name for name in imports.split(", ") if name}
    for module, imports in re.findall(r"^\| `(\w+)` \| .+? \| ?(.*?) ?\|$", PAGE, re.MULTILINE)
}
MODULES = {path.stem: path for path in ROOT.glob("helpers/*.py") if path.stem != "__init__"}


def test_every_module_is_listed_once():
    assert set(LISTED) == set(MODULES)
    assert len(re.findall(r"^\| `", PAGE, re.MULTILINE)) == len(LISTED)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_what_the_page_says(module):
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("helpers"):
            _, _, name = node.module.partition(".")
            found |= {name} if name else {alias.name for alias in node.names}
    assert found == LISTED[module]
