"""What a run leaves to read: the HTML report, the results as text, the committed reference run."""

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


def _padded(results: dict, threads: int) -> list[tuple[str, str, str, str, str]]:
    length = results["protocol"]["sequence_length"]
    cells = []
    for row in results["rows"]:
        if (row["threads"], row["sequence_length"]) == (threads, length):
            accuracy = row["accuracy"]
            cells.append(
                (
                    row["name"],
                    f"{row['size_mb']:.1f}" if row["size_mb"] else "",
                    f"{row['latency_ms']['p50']:.2f}",
                    f"{row['speedup_vs_bert_base_pytorch']:.1f}x",
                    f"{accuracy['value']:.4f}" if accuracy else "",
                )
            )
    return cells


def results_text(results: dict) -> str:
    """The rows at the padded length, as plain text, one block for each thread count."""
    lines = []
    for threads in results["environment"]["threads"]:
        length = results["protocol"]["sequence_length"]
        lines.append(f"\nbatch 1, {length} word pieces, {threads} thread{'s' * (threads > 1)}")
        lines.append(f"{'':40s}{'MB':>8s}{'p50 ms':>9s}{'speedup':>9s}{'accuracy':>10s}")
        for name, size, latency, speedup, accuracy in _padded(results, threads):
            lines.append(f"{name:40s}{size:>8s}{latency:>9s}{speedup:>9s}{accuracy:>10s}")
    return "\n".join(lines)


def results_markdown(results: dict) -> str:
    """The table of the README: size and accuracy, then latency and speedup by thread count."""
    environment = results["environment"]
    counts = environment["threads"]
    heads = [f"{n} thread{'s' * (n > 1)}, ms | speedup" for n in counts]
    lines = [
        f"Batch 1, {results['protocol']['sequence_length']} word pieces, on "
        f"{environment['cpu']} ({environment['physical_cores']} cores, "
        f"{', '.join(environment['instruction_sets'])}):",
        "",
        f"| | MB | accuracy | {' | '.join(heads)} |",
        "|---|--:|--:|" + "--:|" * (2 * len(counts)),
    ]
    for rows in zip(*(_padded(results, threads) for threads in counts), strict=True):
        name, size, _, _, accuracy = rows[0]
        timed = " | ".join(f"{latency} | {speedup}" for _, _, latency, speedup, _ in rows)
        lines.append(f"| {name} | {size} | {accuracy} | {timed} |")
    return "\n".join(lines)


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
    """Make a run's results the committed reference and render the README's table from them."""
    reference = {key: value for key, value in results.items() if key != "raw_ms"}
    target = root / "results" / f"{results['profile']}.json"
    target.write_text(json.dumps(reference, indent=1) + "\n", encoding="utf-8")
    readme = root / "README.md"
    text = with_results(readme.read_text(encoding="utf-8"), results)
    readme.write_text(text, encoding="utf-8")
