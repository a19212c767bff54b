"""What a run leaves to read: the HTML report, the results as text, the committed reference run.

`python -m helpers.report` renders the README's table and picture anew from the reference run.
"""

import json
import re
import shutil
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from helpers.profile import ROOT

MARKS = ("<!-- results: begin -->", "<!-- results: end -->")


def write_report(executed: list[Path], target: Path, *, title: str) -> None:
    """Join executed notebooks into one HTML page that needs no network."""
    notebooks = [nbformat.read(path, as_version=4) for path in executed]
    joined = nbformat.v4.new_notebook(metadata=notebooks[0].metadata)
    joined.cells = [cell for notebook in notebooks for cell in notebook.cells]
    exporter = HTMLExporter(
        template_name="lab", embed_images=True, mathjax_url="", require_js_url="",
        mermaid_js_url="", jquery_url="", jupyter_widgets_base_url="",
    )  # fmt: skip
    page, _ = exporter.from_notebook_node(joined, {"metadata": {"name": title}})
    target.write_text(page, encoding="utf-8")


def read_results(path: Path) -> dict:
    """Read a `benchmark.json`."""
    return json.loads(path.read_text(encoding="utf-8"))


def _cells(results: dict, threads: int, length: int | str) -> dict[str, tuple[str, ...]]:
    """By name: size, accuracy, median latency and speedup, as text."""
    return {
        row["name"]: (
            f"{row['size_mb']:.1f}" if row["size_mb"] else "",
            f"{row['accuracy']['value']:.4f}" if row["accuracy"] else "",
            f"{row['latency_ms']['p50']:.2f}",
            f"{row['speedup_vs_bert_base_pytorch']:.1f}x",
        )
        for row in results["rows"]
        if (row["threads"], row["sequence_length"]) == (threads, length)
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


def results_markdown(results: dict) -> str:
    """The table of the README: size, accuracy, latencies and speedups; below it the factors."""
    environment, length = results["environment"], results["protocol"]["sequence_length"]
    counts = environment["threads"]
    heads = [f"{n} thread{'s' * (n > 1)}, ms | speedup" for n in counts]
    lines = [
        f"Batch 1, {length} word pieces, on {environment['cpu']} "
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
    rows = [r for r in results["rows"] if (r["threads"], r["sequence_length"]) == (count, length)]
    blog = pd.read_csv(ROOT / "results" / "blog_2022.csv", comment="#").to_dict("records")
    plots.save(plots.plot_frontier(rows, blog), target)


def with_results(readme: str, results: dict) -> str:
    """Return the README's text with its results table rendered anew."""
    begin, end = MARKS
    block = f"{begin}\n{results_markdown(results)}\n{end}"
    return re.sub(f"{begin}.*{end}", lambda _: block, readme, flags=re.DOTALL)


def refresh_notebooks(executed: list[Path], *, root: Path = ROOT) -> None:
    """Make executed copies the committed notebooks."""
    for path in executed:
        shutil.copyfile(path, root / "notebooks" / path.name)


def refresh_results(results: dict, *, root: Path = ROOT) -> None:
    """Make a run's results the committed reference and render the README from them."""
    reference = {key: value for key, value in results.items() if key != "raw_ms"}
    target = root / "results" / f"{results['profile']}.json"
    target.write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")
    render_readme(root=root)


def render_readme(*, root: Path = ROOT) -> None:
    """Render the README's table and picture from the reference run in `results/`."""
    results = read_results(root / "results" / "laptop.json")
    results_picture(results, root / "results" / "laptop.svg")
    readme = root / "README.md"
    text = with_results(readme.read_text(encoding="utf-8"), results)
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    render_readme()
