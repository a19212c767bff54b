"""What a run leaves to read: an HTML report, and the committed results in README and notebooks.

`python -m helpers.tutorial.report` renders these anew, and with `--seeds 43 44` gathers the
accuracies of runs with those seeds first.

README.md and docs/reproduce.md hold markers, `<!-- results: begin -->` and so on; what stands
between them is rendered from `results/<profile>.json`, so that no figure is typed by hand.
"""

import argparse
import html
import json
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import nbformat
import numpy as np
from nbconvert import HTMLExporter
from nbformat.v4 import new_markdown_cell, new_notebook
from rich.console import Console
from rich.markdown import Markdown

from helpers import Lesson
from helpers.metrics import measure_accuracy
from helpers.tutorial.profile import DEFAULT, ROOT, Profile, load_profile
from helpers.tutorial.steps import LAST_OF_MAIN, NOTEBOOKS, Step, StepError, write_whole

BLOG_SPEEDUP = 16.47
_ACCURACIES = {  # a row: the step and the name of its logits on the test sentences
    "Teacher": ("01", "teacher"),
    "BERT-Mini, gold labels only": ("02", "gold"),
    "BERT-Mini": ("02", "student"),
    "BERT-Mini, ONNX Runtime INT8 static": ("04", "student_int8"),
    "BERT-Mini, OpenVINO INT8": ("04", "student_int8_fast"),
}
_README_ROWS = (
    "BERT-Base, PyTorch FP32",
    "BERT-Base, ONNX Runtime INT8 dynamic",
    "BERT-Mini, PyTorch FP32",
    "BERT-Mini, ONNX Runtime INT8 static",
    "BERT-Mini, OpenVINO INT8",
    "BERT-Mini, blog's engine INT8",
)
_LEADING = ("05_frontier", "05_factors", "05_story")  # pictures at the top of the report
# for a phone: nothing wider than the page but what scrolls by itself
_STYLE = """<style>
body { max-width: 60rem; margin: 0 auto; padding: 0 0.75rem; }
.jp-Cell { padding: 0 !important; }
.jp-RenderedHTMLCommon { font-size: 1rem; line-height: 1.5; }
.jp-RenderedHTMLCommon table { display: block; overflow-x: auto; max-width: 100%; margin: 0 0 1em; }
.jp-RenderedHTMLCommon td, .jp-RenderedHTMLCommon th { font-size: 0.8rem; max-width: none; }
.jp-OutputArea-output, .highlight { overflow-x: auto; }
.jp-OutputArea-child { max-width: 100%; }
img { max-width: 100%; height: auto; }
</style>"""


def conclude(profile: Profile, steps: Sequence[Step], times: dict, *, refresh: bool) -> None:
    """Say where what was run lies; after the main line, write the report and show the results.

    With `refresh` the executed copies and the results become the committed ones.
    """
    folder = steps[0].folder
    copies = [folder / "executed" / step.notebook.name for step in steps]
    if refresh:
        refresh_notebooks(copies, times)
    if not (folder / "benchmark.json").exists() or Step(LAST_OF_MAIN, profile).fault():
        print(f"executed copies: artifacts/{profile.name}/executed/")
        return
    results = read_results(folder / "benchmark.json")
    results |= {"notebooks": times, "accuracies": accuracies(profile)}
    executed = sorted((folder / "executed").glob("*.ipynb"))
    write_report(executed, folder / "report.html", results, profile.description)
    if refresh:
        kept = {key: value for key, value in results.items() if key != "raw_ms"}
        target = ROOT / "results" / f"{profile.name}.json"
        write_whole(target, json.dumps(kept, indent=1) + "\n")
        render()
    text = f"{results_table(results)}\n\n{headline(results)}\n"
    console = Console(highlight=False)
    console.print(Markdown(text), width=max(console.width, 110))
    print(f"artifacts/{profile.name}/: report.html, benchmark.json, executed/, figures/")


def reference_times(profile: Profile) -> dict[str, dict[str, float]]:
    """Minutes and gigabytes of each notebook in the committed run of this profile, if any."""
    path = ROOT / "results" / f"{profile.base}.json"
    return read_results(path).get("notebooks", {}) if path.exists() else {}


def read_results(path: Path) -> dict:
    """Read a `benchmark.json`, or a committed one."""
    return json.loads(path.read_text(encoding="utf-8"))


def accuracies(profile: Profile) -> dict[str, float]:
    """Accuracy on the test sentences of the main line's models, by name; those that there are."""
    found, steps = {}, {number: Step(number, profile) for number in ("01", "02", "04")}
    for step in steps.values():
        if fault := step.fault():
            raise StepError(fault)
    labels = np.array(Lesson(steps["01"]).data()["test"]["label"])
    for name, (number, key) in _ACCURACIES.items():
        with np.load(steps[number].folder / f"predictions_{number}.npz") as logits:
            if key in logits:
                found[name] = measure_accuracy(logits[key], labels).value
    return found


def write_report(executed: Sequence[Path], target: Path, results: dict, title: str) -> None:
    """Write one HTML page that needs no network: results, pictures, environment, notebooks."""
    contents = " · ".join(f"[{path.stem}](#{path.stem})" for path in executed)
    shown = {key: results[key] for key in ("profile", "date", "commit")} | results["environment"]
    pairs = "\n".join(
        f"| {k.replace('_', ' ')} | {html.escape(_flat(v))} |" for k, v in shown.items()
    )
    pictures = "\n".join(_pictures(target.parent / "figures"))
    parts = [
        f"{_STYLE}\n\n# {title}\n\n{headline(results)}\n\n{contents}",
        f"## Results\n\n{results_table(results)}",
        f"## Pictures\n\n{pictures}",
        f"## Environment\n\n| | |\n|---|---|\n{pairs}",
    ]
    page = new_notebook(cells=[new_markdown_cell(part) for part in parts])
    for path in executed:
        notebook = nbformat.read(path, as_version=4)
        page.metadata = notebook.metadata
        page.cells.append(new_markdown_cell(f'<a id="{path.stem}"></a>\n\n---'))
        page.cells += [_readable(cell) for cell in notebook.cells]
    nowhere = dict.fromkeys(
        (
            "mathjax_url",
            "require_js_url",
            "mermaid_js_url",
            "jquery_url",
            "jupyter_widgets_base_url",
        ),
        "",
    )
    exporter = HTMLExporter(template_name="lab", embed_images=True, **nowhere)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    resources = {"metadata": {"name": title, "path": str(NOTEBOOKS)}}
    write_whole(target, exporter.from_notebook_node(page, resources)[0])


def _flat(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _pictures(figures: Path) -> Iterator[str]:
    for name in _LEADING:
        if (path := figures / f"{name}.svg").exists():
            drawn = path.read_bytes()
            title = re.search(rb"<title>(.*?)</title>", drawn, re.DOTALL)[1].decode()
            alt, source = html.escape(html.unescape(title)), b64encode(drawn).decode()
            yield f'<img alt="{alt}" src="data:image/svg+xml;base64,{source}">\n'


def _readable(cell):
    """A cell as a page shows it: pictures with their alt text, widgets as their plain answer."""
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        data.pop("application/vnd.jupyter.widget-view+json", None)
        if png := data.pop("image/png", None):
            of = output.get("metadata", {}).get("image/png", {})
            alt, width = html.escape(of.get("alt", "")), of.get("width", "")
            data["text/html"] = (
                f'<img alt="{alt}" width="{width}" src="data:image/png;base64,{png}">'
            )
    return cell


def headline(results: dict) -> str:
    """The result in three sentences: how fast, whether the blog's factor holds, how accurate."""
    environment, length = results["environment"], results["protocol"]["sequence_length"]
    timed, ratios = [], []
    for threads in environment["threads"]:
        (row,) = _rows(results, threads, length, results["headline"])
        ratio, best = (
            row["speedups"][results["baselines"][key]] for key in ("autograd", "best_fp32")
        )
        ratios.append(ratio["value"])
        timed.append(
            f"with {_threads(threads)} it takes {row['latency_ms']['typical']:.2f} ms, "
            f"{ratio['value']:.1f} times ({ratio['low']:.1f} to {ratio['high']:.1f}) as fast as "
            f"BERT-Base on PyTorch as the blog timed it, and {best['value']:.1f} times as fast as "
            "BERT-Base on its best FP32 runtime"
        )
    over = [ratio > BLOG_SPEEDUP for ratio in ratios]
    holds = "is exceeded" if all(over) else "is exceeded in part" if any(over) else "is not reached"
    accuracy = ", ".join(f"{name} {value:.3f}" for name, value in results["accuracies"].items())
    return (
        f"Our fastest INT8 row is {results['headline']}: on {html.escape(environment['cpu'])}, "
        f"{environment['physical_cores']} cores, {'; '.join(timed)}. The blog's {BLOG_SPEEDUP}x "
        f"{holds}. Accuracy on the test sentences: {accuracy}."
    )


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _rows(results: dict, threads: int, length: int | str, name: str = "") -> list[dict]:
    """The rows timed on so many threads at one length; of one name, where it is given."""
    timed = [
        r for r in results["rows"] if (r["threads"], r["sequence_length"]) == (threads, length)
    ]
    return [row for row in timed if name in ("", row["name"])]


def results_table(results: dict, only: Sequence[str] = ()) -> str:
    """Size, accuracy, latency and speedup of all rows, or only some, as Markdown."""
    environment, length = results["environment"], results["protocol"]["sequence_length"]
    blocks = [(f"{_threads(n)}, ms", n, length) for n in environment["threads"]]
    if not only:
        blocks.append(("from text, ms", environment["threads"][-1], "own"))
    columns = [heading for block, *_ in blocks for heading in (block, "speedup")]
    lines = [
        f"Batch 1, {length} word pieces, on {html.escape(environment['cpu'])} "
        f"({environment['physical_cores']} cores, {', '.join(environment['instruction_sets'])}), "
        f"{results['date']}. Speedup is over {results['baselines']['pytorch']}.",
        "",
        f"| | MB | accuracy | {' | '.join(columns)} |",
        f"|---|--:|--:|{'--:|' * len(columns)}",
    ]
    for row in _rows(results, environment["threads"][0], length):
        if only and row["name"] not in only:
            continue
        cells = [f"{row['size_mb']:.1f}" if row["size_mb"] else ""]
        cells.append(f"{row['accuracy']['value']:.4f}" if row["accuracy"] else "")
        for _, threads, size in blocks:
            for timed in _rows(results, threads, size, row["name"])[:1]:
                cells.append(f"{timed['latency_ms']['typical']:.2f}")
                cells.append(f"{timed['speedup_vs_bert_base_pytorch']:.1f}x")
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    lines += [
        f"\nLeft out: {name}: {why}" for name, why in results["unavailable"].items() if not only
    ]
    return "\n".join(lines)


def notebooks_table(times: dict[str, dict]) -> str:
    """Each notebook's title, question, minutes and memory in the committed run, as Markdown."""
    lines = ["| notebook | you learn | minutes | GB |", "|---|---|--:|--:|"]
    main = [took for name, took in times.items() if name[:2] <= LAST_OF_MAIN]
    for name, took in sorted(times.items()):
        opening = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells[0].source
        title = re.search(r"^# \d+\. (.*)$", opening, re.MULTILINE)[1]
        learn = re.search(r"^\| You learn \| (.*) \|$", opening, re.MULTILINE)[1]
        link = f"[{int(name[:2])} {title}](notebooks/{name}.ipynb)"
        lines.append(f"| {link} | {learn} | {took['minutes']:.1f} | {took['gigabytes']:.1f} |")
        if name[:2] == LAST_OF_MAIN:
            minutes, most = sum(t["minutes"] for t in main), max(t["gigabytes"] for t in main)
            lines.append(f"| 1 to 5 | | {minutes:.1f} | {most:.1f} |")
    return "\n".join(lines)


def refresh_notebooks(executed: Sequence[Path], times: dict[str, dict]) -> None:
    """Make executed copies the committed notebooks, which say in their opening what they took."""
    for path in executed:
        notebook, took = nbformat.read(path, as_version=4), times[path.stem]
        measured = (
            f"{took['minutes']:.1f} minutes and {took['gigabytes']:.1f} GB in the committed run"
        )
        opening = notebook.cells[0]
        opening.source = re.sub(
            r"^\| Takes \| .* \|$", f"| Takes | {measured} |", opening.source, flags=re.MULTILINE
        )
        write_whole(NOTEBOOKS / path.name, nbformat.writes(notebook) + "\n")


def render(root: Path = ROOT) -> None:
    """Render README's headline, tables and picture, and the table of seeds, from `results/`."""
    import pandas as pd

    from helpers import plots

    results = read_results(root / "results" / f"{DEFAULT}.json")
    rows = _rows(
        results, results["environment"]["threads"][-1], results["protocol"]["sequence_length"]
    )
    blog = pd.read_csv(root / "results" / "blog_2022.csv", comment="#").to_dict("records")
    picture = plots.plot_frontier(rows, blog, label=_README_ROWS)
    plots.save(picture, root / "results" / f"{DEFAULT}.svg")
    blocks = {
        "headline": headline(results),
        "results": results_table(results, only=_README_ROWS),
        "notebooks": notebooks_table(results["notebooks"]),
    }
    _fill(root / "README.md", blocks)
    if (seeds := root / "results" / "seeds.json").exists():
        _fill(root / "docs" / "reproduce.md", {"seeds": seeds_table(read_results(seeds))})


def _fill(path: Path, blocks: Mapping[str, str]) -> None:
    text = path.read_text(encoding="utf-8")
    for name, block in blocks.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        filled = f"{begin}\n{block}\n{end}"
        text = re.sub(f"{begin}.*?{end}", lambda _, new=filled: new, text, flags=re.DOTALL)
    write_whole(path, text)


def collect_seeds(profile: Profile, seeds: Sequence[int]) -> dict:
    """Accuracies of the profile's own run and of those with other seeds, by row.

    The results of the others go by the name `<profile>-seed-<seed>`.

    Raises:
        StepError: one of the runs is missing, or was made with other settings.
    """
    others = [{"name": f"{profile.name}-seed-{seed}", "seed": seed} for seed in seeds]
    found = [accuracies(profile.model_copy(update=changes)) for changes in ({}, *others)]
    rows = {name: [run[name] for run in found] for name in found[0]}
    return {"profile": profile.name, "seeds": [profile.seed, *seeds], "accuracies": rows}


def seeds_table(collected: dict) -> str:
    """Accuracy with each seed, their mean, and the distance of the highest from the lowest."""
    heads = " | ".join(map(str, collected["seeds"]))
    lines = [f"| seed | {heads} | mean | highest minus lowest, points |"]
    lines.append("|---|" + "--:|" * (len(collected["seeds"]) + 2))
    for name, values in collected["accuracies"].items():
        shown = " | ".join(f"{value:.4f}" for value in values)
        spread = 100 * (max(values) - min(values))
        lines.append(f"| {name} | {shown} | {sum(values) / len(values):.4f} | {spread:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m helpers.tutorial.report", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="gather these runs")
    if seeds := parser.parse_args().seeds:
        collected = json.dumps(collect_seeds(load_profile(DEFAULT), seeds), indent=1)
        write_whole(ROOT / "results" / "seeds.json", collected + "\n")
    render()


if __name__ == "__main__":
    main()
