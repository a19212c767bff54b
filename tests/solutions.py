"""Exercises' solutions, which readers find collapsed in the notebooks, made to run.

`python -m tests.solutions FOLDER` writes a copy of each notebook there, with its solutions as code
cells at the end, for nbval to run.
"""

import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell

from helpers.tutorial.steps import NOTEBOOKS

SOLUTION = re.compile(
    r"<details>\s*<summary>Solution</summary>\n\n```python\n(.*?)\n```\n\n</details>", re.DOTALL
)


def solutions(notebook) -> list[str]:
    """The code of a notebook's solutions, in order."""
    cells = (cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    return [code for source in cells for code in SOLUTION.findall(source)]


def with_solutions(path: Path):
    """A notebook with its solutions as code cells at the end, each after a line that names it."""
    notebook = nbformat.read(path, as_version=4)
    for number, code in enumerate(solutions(notebook), start=1):
        cell = new_code_cell(f"# Solution {number}\n{code}", id=f"solution-{number}")
        cell.metadata["tags"] = ["solution"]
        notebook.cells.append(cell)
    return notebook


def main(folder: Path) -> None:
    """Write the copies; those of an earlier call go."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.ipynb"):
        old.unlink()
    for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        nbformat.write(with_solutions(path), folder / path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
