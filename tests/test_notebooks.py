"""A lint of the committed notebooks: they must read well where they are only looked at."""

import ast
import re

import nbformat
import pytest

from helpers.profile import ROOT
from helpers.run import numbered_notebooks

NOTEBOOKS = numbered_notebooks("00")
CHECK, SOLUTION, PROBE = "nbval-check-output", "solution", "probe"
COLLAPSED = {"source_hidden": True, "outputs_hidden": True}


def code_cells(notebook):
    return [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]


def tags(cell):
    return cell.metadata.get("tags", [])


def texts(cell):
    for output in cell.outputs:
        yield output.get("text", "")
        for kind, content in output.get("data", {}).items():
            if not kind.startswith("image/png"):
                yield str(content)


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    loaded = nbformat.read(request.param, as_version=4)
    nbformat.validate(loaded)
    return loaded


def test_the_six_steps_and_the_optional_one_are_there():
    steps = ["01", "02", "03", "04", "05", "06"]
    assert [path.name[:2] for path in NOTEBOOKS] == ["00", *steps]
    assert [path.name[:2] for path in numbered_notebooks()] == steps


def test_it_was_run_in_order_without_errors(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    kinds = {output.output_type for cell in code_cells(notebook) for output in cell.outputs}
    assert "error" not in kinds


def test_its_outputs_are_those_of_the_default_profile(notebook):
    assert "profile  laptop" in "".join(texts(code_cells(notebook)[0]))


def test_it_opens_with_what_it_needs(notebook):
    opening = notebook.cells[0].source
    for row in ("You learn", "Reads", "Writes", "Takes"):
        assert f"| {row} |" in opening


def test_it_ends_with_checks_that_hold(notebook):
    last = [cell for cell in code_cells(notebook) if SOLUTION not in tags(cell)][-1]
    assert CHECK in tags(last)
    verdicts = "".join(o.text for o in last.outputs if o.get("name") == "stdout").splitlines()
    assert verdicts
    for verdict in verdicts:
        assert verdict.endswith(": True"), verdict


def test_its_exercises_have_collapsed_solutions_that_check_themselves(notebook):
    cells = notebook.cells
    (heading,) = (i for i, cell in enumerate(cells) if cell.source.startswith("## Exercises\n"))
    questions, solutions = cells[heading + 1 :: 2], cells[heading + 2 :: 2]
    assert len(solutions) in (2, 3)
    assert [cell for cell in cells if SOLUTION in tags(cell)] == solutions
    pairs = zip(questions, solutions, strict=True)
    for number, (question, solution) in enumerate(pairs, start=1):
        assert question.cell_type == "markdown" and solution.cell_type == "code"
        assert question.source.startswith(f"**{number}.** ")
        assert solution.source.startswith(f"# Solution {number}\n")
        assert solution.metadata.get("jupyter") == COLLAPSED
        nodes = ast.walk(ast.parse(solution.source))
        assert any(isinstance(node, ast.Assert) for node in nodes), solution.source


def test_several_processes_run_no_solution(notebook):
    by_kind = {True: set(), False: set()}
    for cell in code_cells(notebook):
        by_kind[SOLUTION in tags(cell)].add(PROBE in tags(cell))
    assert by_kind[True] == {True in by_kind[False]}


def test_it_carries_no_path_of_one_machine_and_no_shell(notebook):
    for cell in code_cells(notebook):
        assert not re.search(r"^\s*[!%]", cell.source, re.MULTILINE), cell.source
        for text in (cell.source, *texts(cell)):
            assert not re.search(r"(?<![\w.:/])/(home|root|Users|work|tmp|usr)/", text), text[:300]
            assert str(ROOT) not in text


def test_every_plot_is_shown_and_described(notebook):
    for cell in code_cells(notebook):
        pictures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        assert cell.source.count("plots.show(") == len(pictures)
        assert all(len(output.metadata["image/png"]["alt"]) > 40 for output in pictures)


def test_cells_are_short(notebook):
    for cell in code_cells(notebook)[1:]:
        assert len(cell.source.splitlines()) <= 25, cell.source
