"""For maintainers: make a finished run the committed one, and render README from it.

    .venv/bin/python .ci/refresh.py             after `make run`, and `make deeper` where it was run
    .venv/bin/python .ci/refresh.py --render    README and its picture alone, from results/
    .venv/bin/python .ci/refresh.py --add FILE  the same, with a benchmark.json of another machine

README.md holds markers, `<!-- results: begin -->` and so on; what stands between them is rendered
from `results/`, so that no figure is typed by hand. `default.json` is of the committed run.
"""

import argparse
import html
import json
import re
from pathlib import Path
from typing import Annotated, Literal

import nbformat
import pandas as pd
from pydantic import BaseModel, Field, PositiveInt, ValidationError

from helpers import plots
from helpers.bench.rounds import QUIET
from helpers.tutorial import report
from helpers.tutorial.profile import DEFAULT, ROOT, load_profile
from helpers.tutorial.run import DEEPER, MAIN_LINE, is_fresh, read_times
from helpers.tutorial.steps import LAST_OF_MAIN, NOTEBOOKS, Step, write_whole


def refresh() -> None:
    """Store the results of the default profile's run, and its notebooks' outputs."""
    profile = load_profile(DEFAULT)
    steps = [Step(number, profile) for number in (*MAIN_LINE, *DEEPER)]
    folder = steps[0].folder
    times = read_times(folder / "times.json")
    ran = [step for step in steps if step.name in times and is_fresh(step, times)]
    if not set(MAIN_LINE) <= {step.number for step in ran}:
        raise SystemExit("the default profile was not run to its end with this code: make run")
    times = {step.name: times[step.name] for step in ran}
    renewed = {step.notebook: renewed_notebook(step, **times[step.name]) for step in ran}
    results = report.gather_results(profile, folder, times)
    kept = {key: value for key, value in results.items() if key != "raw_ms"}
    write_whole(ROOT / "results" / f"{DEFAULT}.json", json.dumps(kept, indent=1) + "\n")
    for path, notebook in renewed.items():
        write_whole(path, nbformat.writes(notebook) + "\n")


def renewed_notebook(step: Step, minutes: float, gigabytes: float) -> nbformat.NotebookNode:
    """A notebook with the outputs of its executed copy; its opening says what they took."""
    notebook = nbformat.read(step.notebook, as_version=4)
    copy = nbformat.read(step.folder / "executed" / step.notebook.name, as_version=4)
    cells, ran = ([c for c in n.cells if c.cell_type == "code"] for n in (notebook, copy))
    if [cell.source for cell in cells] != [cell.source for cell in ran]:
        raise SystemExit(f"{step.name} has other cells than were run: make run FROM={step.number}")
    for cell, executed in zip(cells, ran, strict=True):
        cell.outputs, cell.execution_count = executed.outputs, executed.execution_count
    took = f"| Takes | {minutes:.1f} minutes and {gigabytes:.1f} GB in the committed run |"
    opening = notebook.cells[0]
    opening.source = re.sub(r"^\| Takes \| .* \|$", took, opening.source, flags=re.MULTILINE)
    return notebook


class _Environment(BaseModel):
    cpu: str = Field(pattern=r"^[\w ()@.,/+-]{1,80}$")  # it goes into a table and a file's name
    instruction_sets: list[Annotated[str, Field(pattern="^[a-z0-9_]+$")]]
    physical_cores: PositiveInt
    threads: list[PositiveInt] = Field(min_length=1)


class _Results(BaseModel):
    profile: Literal["default"]
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    environment: _Environment
    protocol: dict
    rows: list[dict]
    headline: str
    baselines: dict[str, str]


def add_results(source: Path, folder: Path) -> Path:
    """Check a reader's `benchmark.json` and store it in `folder` under its machine's name.

    Raises:
        ValueError: it cannot be read, or is no such file; the message is one line.
    """
    try:
        results = report.read_results(source)
        machine = _Results.model_validate(results).environment
        rows = {
            row["name"]: row["latency_ms"]
            for row in report.padded_rows(results, machine.threads[0])
        }
        fast, protocol = results["headline"], results["protocol"]
        settings = load_profile(DEFAULT).benchmark.model_dump()
        if machine.threads[0] != 1 or settings != {name: protocol[name] for name in settings}:
            raise ValueError("it was not run with the default settings of the benchmark")
        if max(protocol["others_used"].values()) >= QUIET:
            raise ValueError("other programs used the machine meanwhile")
        for name in (results["baselines"]["pytorch"], fast, fast.replace("INT8", "FP32")):
            1 / float(rows[name]["typical"])
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{source} cannot be used: {error!r}") from None
    words = [machine.cpu, *machine.instruction_sets[-1:], str(machine.physical_cores), "cores"]
    target = folder / f"{re.sub('[^a-z0-9]+', '-', ' '.join(words).lower())}.json"
    results.pop("raw_ms", None)
    write_whole(target, json.dumps(results, indent=1) + "\n")
    return target


def machines_table(folder: Path) -> str:
    """The machines whose results lie in a folder, on one thread each, as Markdown."""
    heads = ["machine", "instructions", "BERT-Base, PyTorch, ms", "student, OpenVINO FP32, ms"]
    heads += ["student, fastest INT8, ms", "times BERT-Base", "times FP32"]
    table = [heads]
    for path in sorted(folder.glob("*.json")):
        results = report.read_results(path)
        environment, baselines = results["environment"], results["baselines"]
        rows = report.padded_rows(results, environment["threads"][0])
        ms = {row["name"]: row["latency_ms"]["typical"] for row in rows}
        base, fast = ms[baselines["pytorch"]], ms[results["headline"]]
        fp32 = ms[results["headline"].replace("INT8", "FP32")]
        machine = f"{html.escape(environment['cpu'])}, {results['date']}"
        latencies = [f"{base:.1f}", f"{fp32:.2f}", f"{fast:.2f}"]
        ratios = [f"{base / fast:.0f}x", f"{fp32 / fast:.2f}x"]
        table.append([machine, ", ".join(environment["instruction_sets"]), *latencies, *ratios])
    return report.markdown_table(table, words=2)


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
    picture = plots.plot_frontier(rows, blog, label=shown)
    plots.save(picture, root / "results" / f"{DEFAULT}.svg")
    text = (root / "README.md").read_text(encoding="utf-8")
    blocks = {
        "headline": report.headline(results),
        "results": report.results_table(results),
        "machines": machines_table(root / "results"),
        "notebooks": notebooks_table(results["notebooks"]),
    }
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{block}\n{end}{rest.partition(end)[2]}"
    write_whole(root / "README.md", text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--render", action="store_true")
    parser.add_argument("--add", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.add:
        try:
            print("stored", add_results(options.add, ROOT / "results"))
        except ValueError as error:
            raise SystemExit(f"error: {error}") from None
    elif not options.render:
        refresh()
    render()
