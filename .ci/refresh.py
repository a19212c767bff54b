"""For maintainers: make a finished run the committed one, and render README from it.

    .venv/bin/python .ci/refresh.py             after `make run`, and `make deeper` where it was run
    .venv/bin/python .ci/refresh.py --render    README and its picture alone, from results/

README.md holds markers, `<!-- results: begin -->` and so on; what stands between them is rendered
from `results/default.json`, so that no figure is typed by hand.
"""

import json
import re
import sys
from pathlib import Path

import nbformat
import pandas as pd

from helpers import plots
from helpers.tutorial import report
from helpers.tutorial.profile import DEFAULT, ROOT, load_profile
from helpers.tutorial.run import DEEPER, MAIN_LINE, is_fresh, read_times
from helpers.tutorial.steps import LAST_OF_MAIN, NOTEBOOKS, Step, write_whole


def refresh() -> None:
    """Make the default profile's executed copies, and its results, the committed ones."""
    profile = load_profile(DEFAULT)
    steps = [Step(number, profile) for number in (*MAIN_LINE, *DEEPER)]
    folder = steps[0].folder
    times = read_times(folder / "times.json")
    for step in steps:
        copy = folder / "executed" / step.notebook.name
        if (
            is_fresh(step, times)
            and step.name in times
            and _sources(copy) == _sources(step.notebook)
        ):
            refresh_notebook(copy, **times[step.name])
        elif step.number in MAIN_LINE:
            raise SystemExit(f"{step.name} was not run to its end as it is now: make run FROM=01")
        else:
            times.pop(step.name, None)
    results = report.gather_results(profile, folder, times)
    kept = {key: value for key, value in results.items() if key != "raw_ms"}
    write_whole(ROOT / "results" / f"{DEFAULT}.json", json.dumps(kept, indent=1) + "\n")


def _sources(path: Path) -> list[str]:
    return [cell.source for cell in nbformat.read(path, as_version=4).cells]


def refresh_notebook(executed: Path, minutes: float, gigabytes: float) -> None:
    """Make an executed copy the committed notebook, which says in its opening what it took."""
    notebook = nbformat.read(executed, as_version=4)
    took = f"| Takes | {minutes:.1f} minutes and {gigabytes:.1f} GB in the committed run |"
    opening = notebook.cells[0]
    opening.source = re.sub(r"^\| Takes \| .* \|$", took, opening.source, flags=re.MULTILINE)
    write_whole(NOTEBOOKS / executed.name, nbformat.writes(notebook) + "\n")


def notebooks_table(times: dict[str, dict]) -> str:
    """Each notebook's title, question, minutes and memory in the committed run, as Markdown."""
    rows = [["notebook", "you learn", "minutes", "GB"]]
    main = [took for name, took in times.items() if name[:2] <= LAST_OF_MAIN]
    for name, took in sorted(times.items()):
        opening = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells[0].source
        title = re.search(r"^# \d+\. (.*)$", opening, re.MULTILINE)[1]
        learn = re.search(r"^\| You learn \| (.*) \|$", opening, re.MULTILINE)[1]
        link = f"[{int(name[:2])} {title}](notebooks/{name}.ipynb)"
        rows.append([link, learn, f"{took['minutes']:.1f}", f"{took['gigabytes']:.1f}"])
        if name[:2] == LAST_OF_MAIN:
            minutes, most = sum(t["minutes"] for t in main), max(t["gigabytes"] for t in main)
            rows.append(["1 to 5", "", f"{minutes:.1f}", f"{most:.1f}"])
    return report.markdown_table(rows, words=2)


def render(root: Path = ROOT) -> None:
    """Render README's headline, tables and picture from `results/`."""
    results = report.read_results(root / "results" / f"{DEFAULT}.json")
    rows = report.padded_rows(results, results["environment"]["threads"][-1])
    shown = [row["name"] for row in rows if row["name"].endswith(report.SHOWN)]
    blog = pd.read_csv(root / "results" / "blog_2022.csv", comment="#").to_dict("records")
    level = results["accuracies"]["Teacher"]
    picture = plots.plot_frontier(rows, blog, label=shown, level=level)
    plots.save(picture, root / "results" / f"{DEFAULT}.svg")
    text = (root / "README.md").read_text(encoding="utf-8")
    blocks = {
        "headline": report.headline(results),
        "results": report.results_table(results),
        "notebooks": notebooks_table(results["notebooks"]),
    }
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{block}\n{end}{rest.partition(end)[2]}"
    write_whole(root / "README.md", text)


if __name__ == "__main__":
    if "--render" not in sys.argv:
        refresh()
    render()
