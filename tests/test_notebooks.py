"""A lint of the committed notebooks: they must read well where they are only looked at."""

import ast
import re
from statistics import median

import nbformat
import pytest

from helpers.tutorial.profile import ROOT
from helpers.tutorial.run import MAIN_LINE
from helpers.tutorial.steps import NOTEBOOKS
from tests.solutions import solutions, with_solutions

PATHS = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def prose(notebook):
    return [c.source for c in notebook.cells if c.cell_type == "markdown"]


def tags(cell):
    return set(cell.metadata.get("tags", ()))


def texts(cell):
    for output in cell.outputs:
        yield output.get("text", "")
        for kind, content in output.get("data", {}).items():
            if not kind.startswith("image/png"):
                yield str(content)


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    loaded = nbformat.read(path, as_version=4)
    nbformat.validate(loaded)
    return loaded


def test_it_was_run_in_order_without_errors(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output.output_type for cell in code_cells(notebook) for output in cell.outputs}
    assert "error" not in kinds


def test_its_outputs_are_those_of_the_default_profile(notebook):
    said = "".join(text for cell in code_cells(notebook)[:2] for text in texts(cell))
    assert re.search(r"^profile +default\b", said, re.MULTILINE)


def test_it_opens_with_what_it_needs(path, notebook):
    opening = notebook.cells[0].source
    assert opening.startswith(f"# {int(path.name[:2])}. ")
    for row in ("You learn", "Reads", "Writes", "Takes"):
        assert f"| {row} |" in opening
    if path.name[:2] not in MAIN_LINE:
        assert "ptional" in opening.split("\n\n")[1]
    first, second = code_cells(notebook)[:2]
    hosted = {"hosted"} if path.name[:2] in MAIN_LINE else set()
    assert tags(first) == {"parameters"} | hosted
    assert re.search('^PROFILE = ""', first.source, re.MULTILINE)
    assert f'start("{path.name[:2]}"' in "".join(second.source.split()).replace("(\n", "(")
    assert "profile=PROFILE" in second.source


def test_its_code_is_plain(notebook):
    for cell in code_cells(notebook):
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), cell.source
        assert "helpers.tutorial" not in cell.source or "hosted" in tags(cell)


def test_it_ends_with_checks_that_hold(notebook):
    last = code_cells(notebook)[-1]
    assert tags(last) == {"look", "nbval-check-output"}
    said = "".join(o.text for o in last.outputs if o.get("name") == "stdout")
    assert said and all(line.endswith(": True") for line in said.splitlines()), said


def test_its_exercises_have_collapsed_solutions_that_check_themselves(path, notebook):
    found, text = solutions(notebook), "\n".join(prose(notebook))
    assert len(found) == len(re.findall(r"^\*\*\d\.\*\* ", text, re.M)) == text.count("<details>")
    assert len(found) == 3 or path.name[:2] not in MAIN_LINE
    for code in found:
        assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(code))), code
    whole = with_solutions(path)
    nbformat.validate(whole)
    added = [cell.source for cell in whole.cells if "solution" in tags(cell)]
    assert [source.partition("\n")[2] for source in added] == found


def test_it_carries_no_path_of_one_machine(notebook):
    for cell in code_cells(notebook):
        for text in (cell.source, *texts(cell)):
            assert not re.search(r"(?<![\w.:/])/(home|root|Users|work|tmp|usr)/", text), text[:300]
            assert str(ROOT) not in text


def test_every_picture_is_described(notebook):
    for cell in code_cells(notebook):
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert len(pictures) >= len(re.findall(r"lesson\.(show|add_point)\(", cell.source))
        assert all(len(output.metadata["image/png"]["alt"]) > 40 for output in pictures)
    for alt, file in re.findall(r"!\[(.*?)\]\((.*?)\)", "\n".join(prose(notebook)), re.DOTALL):
        assert len(alt) > 40 and (NOTEBOOKS / file).exists(), file


@pytest.mark.parametrize("path", PATHS[: len(MAIN_LINE)], ids=lambda path: path.stem)
def test_a_lesson_of_the_main_line_is_lean(notebook):
    cells, text = code_cells(notebook), "\n".join(prose(notebook))
    lines = [len(cell.source.splitlines()) for cell in cells]
    body = ast.parse(cells[1].source).body
    imports = [node.end_lineno for node in body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert len(cells) <= 16 and median(lines) <= 8 and imports[-1] <= 12
    for part in ("**Predict first.**", "## Take home", "## Checks", "](images/", "glossary.md"):
        assert part in text, part
    assert sum("lesson.add_point(" in cell.source for cell in cells) == 1
