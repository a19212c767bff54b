"""What a run leaves to read: the HTML report, the results as text, the committed reference run.

`python -m helpers.tutorial.report` renders the README's tables and picture anew from the reference run, and
with `--seeds 43 44` gathers the accuracies of runs with those seeds first.
"""

import argparse
import html
import json
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from helpers.tutorial.artifacts import Artifacts, write_whole
from helpers.tutorial.profile import DEFAULT, ROOT, Profile, load_profile

RESULTS = ("<!-- results: begin -->", "<!-- results: end -->")
NOTEBOOKS = ("<!-- notebooks: begin -->", "<!-- notebooks: end -->")
SEEDS = ("<!-- seeds: begin -->", "<!-- seeds: end -->")
_SEEDED = {  # rows of the table of seeds: an artefact with logits on the test sentences, and whose
    "Teacher": ("predictions_01.npz", "teacher"),
    "BERT-Mini not distilled": ("predictions_02.npz", "gold"),
    "BERT-Mini": ("predictions_02.npz", "augmented"),
    "BERT-Mini, ONNX Runtime INT8 static": ("predictions_04.npz", "student_int8"),
    "BERT-Mini, OpenVINO INT8, static shapes, first token": (
        "predictions_04.npz",
        "student_int8_fast",
    ),
}
_README_ROWS = (  # the blog's, the teacher, and the fastest that need no engine
    "Teacher, PyTorch FP32",
    "BERT-Base, PyTorch FP32",
    "BERT-Base, ONNX Runtime INT8 dynamic",
    "BERT-Mini not distilled, PyTorch FP32",
    "BERT-Mini, PyTorch FP32",
    "BERT-Mini, ONNX Runtime FP32",
    "BERT-Mini, ONNX Runtime INT8 static",
    "BERT-Mini, OpenVINO INT8",
    "BERT-Mini, OpenVINO INT8, static shapes, first token",
    "BERT-Mini, reference engine INT8",
)
_LEADING = ("05_frontier", "05_factors", "02_ladder")  # pictures at the top of the report
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


def write_report(
    executed: Sequence[Path], target: Path, results: dict, *, title: str, figures: Path
) -> None:
    """Write one HTML page that needs no network: results, pictures, environment, notebooks.

    The solutions of exercises are left out: the page is what participants take home.
    `figures` is the folder of the run's pictures; their titles become the alt texts.
    """
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in executed}
    contents = " · ".join(f"[{name}](#{name})" for name in notebooks)
    summary = summary_text(results).replace("\n", "\n\n")
    parts = [
        f"{_STYLE}\n\n# {title}\n\n{summary}\n\n{contents}",
        f"## Results\n\n{results_markdown(results)}",
        "## Pictures\n\n" + "\n".join(_pictures(figures)),
        f"## Environment\n\n{_environment_markdown(results)}",
    ]
    page = nbformat.v4.new_notebook(metadata=next(iter(notebooks.values())).metadata)
    page.cells = [nbformat.v4.new_markdown_cell(part) for part in parts]
    for name, notebook in notebooks.items():
        page.cells.append(nbformat.v4.new_markdown_cell(f'<a id="{name}"></a>\n\n---'))
        page.cells += [
            _readable(cell)
            for cell in notebook.cells
            if "solution" not in cell.metadata.get("tags", ())
        ]
    exporter = HTMLExporter(
        template_name="lab", embed_images=True, mathjax_url="", require_js_url="",
        mermaid_js_url="", jquery_url="", jupyter_widgets_base_url="",
        exclude_input_prompt=True, exclude_output_prompt=True,
    )  # fmt: skip
    body, _ = exporter.from_notebook_node(page, {"metadata": {"name": title}})
    write_whole(target, body)


def _pictures(figures: Path) -> Iterable[str]:
    for name in _LEADING:
        if (path := figures / f"{name}.svg").exists():
            drawn = path.read_bytes()
            title = re.search(rb"<title>(.*?)</title>", drawn, re.DOTALL)[1].decode()
            alt = html.escape(html.unescape(title))
            yield f'<img alt="{alt}" src="data:image/svg+xml;base64,{b64encode(drawn).decode()}">\n'


def _readable(cell):
    """A cell as a page shows it: pictures with their alt text, widgets as their plain answer."""
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        data.pop("application/vnd.jupyter.widget-view+json", None)
        if png := data.pop("image/png", None):
            of = output.get("metadata", {}).get("image/png", {})
            alt, width = html.escape(of.get("alt", "")), of.get("width", "")
            source = f"data:image/png;base64,{png}"
            data["text/html"] = f'<img alt="{alt}" width="{width}" src="{source}">'
    return cell


def _environment_markdown(results: dict) -> str:
    shown = {"profile": results["profile"], "date": results["date"], "commit": results["commit"]}
    shown |= results["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in shown.pop("versions").items())
    rows = []
    for name, value in shown.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        rows.append(f"| {name.replace('_', ' ')} | {html.escape(text)} |")
    return "\n".join(["| | |", "|---|---|", *rows, f"| versions | {versions} |"])


def reference_steps(profile: Profile) -> dict[str, dict]:
    """Minutes and gigabytes of each notebook in the profile's reference run, if there is one."""
    reference = ROOT / "results" / f"{profile.base}.json"
    return read_results(reference).get("steps", {}) if reference.exists() else {}


def read_results(path: Path) -> dict:
    """Read a `benchmark.json`."""
    return json.loads(path.read_text(encoding="utf-8"))


def _rows(results: dict, threads: int, length: int | str) -> list[dict]:
    """The rows timed on so many threads at one length."""
    wanted = (threads, length)
    return [row for row in results["rows"] if (row["threads"], row["sequence_length"]) == wanted]


def _cells(results: dict, threads: int, length: int | str) -> dict[str, tuple[str, ...]]:
    """By name: size, accuracy, median latency and speedup, as text."""
    return {
        row["name"]: (
            f"{row['size_mb']:.1f}" if row["size_mb"] else "",
            f"{row['accuracy']['value']:.4f}" if row["accuracy"] else "",
            f"{row['latency_ms']['p50']:.2f}",
            f"{row['speedup_vs_bert_base_pytorch']:.1f}x",
        )
        for row in _rows(results, threads, length)
    }


def results_text(results: dict) -> str:
    """The rows at the padded length, as plain text, one block for each thread count."""
    lines, length = [], results["protocol"]["sequence_length"]
    for threads in results["environment"]["threads"]:
        lines.append(f"\nbatch 1, {length} word pieces, {threads} thread{'s' * (threads > 1)}")
        lines.append(f"{'':70s}{'MB':>8s}{'accuracy':>10s}{'p50 ms':>9s}{'speedup':>9s}")
        for name, (size, accuracy, latency, ratio) in _cells(results, threads, length).items():
            lines.append(f"{name:70s}{size:>8s}{accuracy:>10s}{latency:>9s}{ratio:>9s}")
    lines += [f"left out: {name}: {why}" for name, why in results["unavailable"].items()]
    return "\n".join(lines)


def summary_text(results: dict) -> str:
    """The numbers that matter, in a few lines: accuracies, and the fastest INT8 row's speedups."""
    length, lines = results["protocol"]["sequence_length"], []
    for threads in results["environment"]["threads"]:
        rows = [row for row in _rows(results, threads, length) if row["accuracy"]]
        int8 = [row for row in rows if row["precision"] == "INT8"]
        best = max(int8 or rows, key=lambda row: row["speedup_vs_bert_base_pytorch"])
        ratio, (low, high) = best["speedup_vs_bert_base_pytorch"], best["speedup_ci95"]
        lines.append(
            f"{threads} thread{'s' * (threads > 1)}: {best['name']} takes "
            f"{best['latency_ms']['p50']:.2f} ms a sentence, {ratio:.1f} times "
            f"({low:.1f} to {high:.1f}) as fast as {results['baselines']['pytorch']}; "
            f"accuracy {best['accuracy']['value']:.4f}"
        )
    return "\n".join(lines)


def results_markdown(results: dict, *, only: Sequence[str] = ()) -> str:
    """Size, accuracy, latencies and speedups of all rows, or only some; below them the factors."""
    environment, length = results["environment"], results["protocol"]["sequence_length"]
    counts = environment["threads"]
    heads = [f"{n} thread{'s' * (n > 1)}, ms | speedup" for n in counts]
    lines = [
        f"Batch 1, {length} word pieces, on {html.escape(environment['cpu'])} "
        f"({environment['physical_cores']} cores, {', '.join(environment['instruction_sets'])}), "
        f"{results['date']}; last columns: from text to label at the sentences' own lengths, on "
        f"{counts[-1]} threads:",
        "",
        f"| | MB | accuracy | {' | '.join(heads)} | from text, ms | speedup |",
        "|---|--:|--:|" + "--:|" * (2 * len(counts) + 2),
    ]
    blocks = [_cells(results, threads, length) for threads in counts]
    blocks.append(_cells(results, counts[-1], "own"))
    for name, (size, accuracy, *_) in blocks[0].items():
        if only and name not in only:
            continue
        timed = " | ".join(" | ".join(block[name][2:]) for block in blocks)
        lines.append(f"| {name} | {size} | {accuracy} | {timed} |")
    lines.append("")
    for threads, factors in results["factors"].items():
        *steps, total = factors.items()
        product = " x ".join(f"{factor['value']:.2f} ({step})" for step, factor in steps)
        count = f"{threads} thread{'s' * (int(threads) > 1)}"
        lines.append(f"- {count}: {total[1]['value']:.1f}x = {product}")
    return "\n".join(lines)


def beside_blog(
    blog: list[dict], rows: list[dict], names: dict[str, str], unavailable: dict[str, str]
) -> list[dict]:
    """The blog's rows beside ours, each with the difference, or with why there is none.

    `blog` holds name, latency_ms and accuracy (or None), its slowest row first; `rows` are those of
    `benchmark.json` at one thread count; `names` gives our row for each of the blog's. Speedups are
    over the first row of each; differences in accuracy are in points.
    """
    ours = {row["name"]: row for row in rows}
    first, reference = blog[0], names[blog[0]["name"]]
    table = []
    for theirs in blog:
        name = names[theirs["name"]]
        entry = {
            "row": theirs["name"],
            "blog, ms": theirs["latency_ms"],
            "ours, ms": None,
            "blog, speedup": first["latency_ms"] / theirs["latency_ms"],
            "ours, speedup": None,
            "ours / blog": None,
            "blog, accuracy": theirs["accuracy"],
            "ours, accuracy": None,
            "points": None,
            "why not": "",
        }
        if (mine := ours.get(name)) is None:
            entry["why not"] = unavailable.get(name, "left out: it strays from its own FP32")
        else:
            entry["ours, ms"] = mine["latency_ms"]["p50"]
            entry["ours, speedup"] = mine["speedups"][reference]["value"]
            entry["ours / blog"] = entry["ours, speedup"] / entry["blog, speedup"]
            if mine["accuracy"]:
                entry["ours, accuracy"] = mine["accuracy"]["value"]
                entry["points"] = 100 * (entry["ours, accuracy"] - theirs["accuracy"])
            else:
                entry["why not"] = "its weights are untrained: no accuracy"
        table.append(entry)
    return table


def results_picture(results: dict, target: Path) -> None:
    """Draw the README's picture, accuracy against latency beside the blog's, as SVG."""
    import pandas as pd

    from helpers import plots

    count, length = results["environment"]["threads"][-1], results["protocol"]["sequence_length"]
    rows = _rows(results, count, length)
    blog = pd.read_csv(ROOT / "results" / "blog_2022.csv", comment="#").to_dict("records")
    plots.save(plots.plot_frontier(rows, blog), target)


def _between(text: str, marks: tuple[str, str], block: str) -> str:
    begin, end = marks
    return re.sub(f"{begin}.*{end}", lambda _: f"{begin}\n{block}\n{end}", text, flags=re.DOTALL)


def with_results(readme: str, results: dict) -> str:
    """Return the README's text with its tables of results and notebooks rendered anew."""
    readme = _between(readme, RESULTS, results_markdown(results, only=_README_ROWS))
    return _between(readme, NOTEBOOKS, notebooks_markdown(results["steps"]))


def collect_seeds(profile: Profile, seeds: Sequence[int]) -> dict:
    """Accuracies of the profile's own run and of those with other seeds, by row.

    The others' artefacts go by the name `<profile>-seed-<seed>`.

    Raises:
        ArtifactError: one of the runs is missing, or was made with other settings.
    """
    import numpy as np

    from helpers.data import load_data
    from helpers.metrics import measure_accuracy

    labels = np.array(load_data(profile.data)["test"]["label"])
    others = [{"name": f"{profile.name}-seed-{seed}", "seed": seed} for seed in seeds]
    accuracies: dict[str, list[float]] = {name: [] for name in _SEEDED}
    for changes in ({}, *others):
        artifacts = Artifacts(profile.model_copy(update=changes))
        artifacts.require(*{file for file, _ in _SEEDED.values()})
        for name, (file, key) in _SEEDED.items():
            with np.load(artifacts.path(file)) as logits:
                accuracies[name].append(measure_accuracy(logits[key], labels).value)
    return {"profile": profile.name, "seeds": [profile.seed, *seeds], "accuracies": accuracies}


def seeds_markdown(collected: dict) -> str:
    """Accuracy with each seed, their mean and how far apart they lie, in points."""
    lines = [
        f"| seed | {' | '.join(map(str, collected['seeds']))} | mean | apart, points |",
        "|---|" + "--:|" * (len(collected["seeds"]) + 2),
    ]
    for name, values in collected["accuracies"].items():
        shown = " | ".join(f"{value:.4f}" for value in values)
        apart = 100 * (max(values) - min(values))
        lines.append(f"| {name} | {shown} | {sum(values) / len(values):.4f} | {apart:.2f} |")
    return "\n".join(lines)


def refresh_seeds(collected: dict, *, root: Path = ROOT) -> None:
    """Make the accuracies of several seeds the committed ones and render the README from them."""
    write_whole(root / "results" / "seeds.json", json.dumps(collected, indent=1) + "\n")
    render_readme(root=root)


def notebooks_markdown(steps: dict[str, dict], *, root: Path = ROOT) -> str:
    """What each notebook of the main job teaches, leaves behind and took in the reference run."""
    lines = ["| notebook | you learn | leaves behind | minutes | GB |", "|---|---|---|--:|--:|"]
    for name, step in steps.items():
        opening = nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4).cells[0].source
        title = re.search(r"^# \d+\. (.*)$", opening, re.MULTILINE)[1]
        learn, writes = (
            re.search(rf"^\| {row} \| (.*) \|$", opening, re.MULTILINE)[1]
            for row in ("You learn", "Writes")
        )
        lines.append(
            f"| [{int(name[:2])} {title}](notebooks/{name}.ipynb) | {learn} | "
            f"{writes.partition(' in `artifacts')[0]} | "
            f"{step['minutes']:.1f} | {step['gigabytes']:.1f} |"
        )
    minutes = sum(step["minutes"] for step in steps.values())
    gigabytes = max(step["gigabytes"] for step in steps.values())
    lines.append(f"| in all | | | {minutes:.1f} | {gigabytes:.1f} |")
    return "\n".join(lines)


def with_measured(opening: str, step: dict) -> str:
    """A notebook's opening cell with what the notebook took, as it was measured."""
    took = f"{step['minutes']:.1f} minutes and {step['gigabytes']:.1f} GB in the committed run"
    return re.sub(r"^\| Takes \| .* \|$", f"| Takes | {took} |", opening, flags=re.MULTILINE)


def refresh_notebooks(executed: list[Path], steps: dict[str, dict], *, root: Path = ROOT) -> None:
    """Make executed copies the committed notebooks, which say in their opening what they took."""
    for path in executed:
        notebook = nbformat.read(path, as_version=4)
        opening = notebook.cells[0]
        opening.source = with_measured(opening.source, steps[path.stem])
        write_whole(root / "notebooks" / path.name, nbformat.writes(notebook) + "\n")


def refresh_results(results: dict, steps: dict[str, dict], *, root: Path = ROOT) -> None:
    """Make a run's results the committed reference and render the README from them."""
    reference = {key: value for key, value in results.items() if key != "raw_ms"}
    target = root / "results" / f"{results['profile']}.json"
    write_whole(target, json.dumps(reference | {"steps": steps}, indent=1) + "\n")
    render_readme(root=root)


def render_readme(*, root: Path = ROOT) -> None:
    """Render the README's table and picture from the reference run in `results/`."""
    results = read_results(root / "results" / "laptop.json")
    results_picture(results, root / "results" / "laptop.svg")
    readme = root / "README.md"
    text = with_results(readme.read_text(encoding="utf-8"), results)
    if (seeds := root / "results" / "seeds.json").exists():
        text = _between(text, SEEDS, seeds_markdown(read_results(seeds)))
    write_whole(readme, text)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m helpers.tutorial.report", description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="gather these runs")
    chosen = parser.parse_args()
    if chosen.seeds:
        refresh_seeds(collect_seeds(load_profile(DEFAULT), chosen.seeds))
    else:
        render_readme()


if __name__ == "__main__":
    main()
