"""What a run leaves to read: an HTML report, and a table of its results in the terminal."""

import html
import json
from collections.abc import Sequence
from math import log2
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbformat.v4 import new_markdown_cell, new_notebook
from rich.console import Console
from rich.markdown import Markdown

from helpers import Lesson
from helpers.tutorial.profile import ROOT, Profile
from helpers.tutorial.steps import LAST_OF_MAIN, NOTEBOOKS, Step, write_whole

BLOG_SPEEDUP = 16.47
# ends of the names of the rows that a reader sees first; notebook 5 has them all
SHOWN = ("PyTorch FP32", "INT8 static", "OpenVINO INT8", "engine INT8")


def conclude(profile: Profile, folder: Path, times: dict) -> None:
    """Say where what was run lies; after the main line, write the report and show the results."""
    if not (folder / "benchmark.json").exists() or Step(LAST_OF_MAIN, profile).fault():
        print(f"executed copies: artifacts/{profile.name}/executed/")
        return
    results = gather_results(profile, folder, times)
    write_report(folder, results, profile.description)
    console = Console(highlight=False)
    text = f"{results_table(results)}\n\n{headline(results)}\n"
    console.print(Markdown(text), width=max(console.width, 110))
    if near := nearest_machine(results["environment"], ROOT / "results"):
        print(f"README's nearest machine: {near}; CONTRIBUTING.md says how to add yours")
    print(f"artifacts/{profile.name}/: report.html, benchmark.json, executed/, figures/")


def read_results(path: Path) -> dict:
    """Read a `benchmark.json`, or a committed one."""
    return json.loads(path.read_text(encoding="utf-8"))


def nearest_machine(environment: dict, folder: Path) -> str:
    """Which machine of `folder` to compare with, by instructions, then cores; "" for its own."""

    def distance(other):
        ours, theirs = set(environment["instruction_sets"]), set(other["instruction_sets"])
        cores = abs(log2(environment["physical_cores"] / other["physical_cores"]))
        return 1 - len(ours & theirs) / max(1, len(ours | theirs)), cores

    machines = [read_results(path)["environment"] for path in sorted(folder.glob("*.json"))]
    near = min(machines, key=distance)
    if near["cpu"] == environment["cpu"] and distance(near)[0] == 0:
        return ""
    return f"{near['cpu']} ({near['physical_cores']} cores, {', '.join(near['instruction_sets'])})"


def gather_results(profile: Profile, folder: Path, times: dict) -> dict:
    """`benchmark.json` with what the notebooks took, and what notebook 2 found."""
    from helpers.bench.results import load_predictions  # these take seconds
    from helpers.metrics import compare_paired, measure_accuracy

    data, logits = Lesson(Step("01", profile)).data(), load_predictions(folder, ["01", "02"])
    labels = data["test"]["label"]
    rated = {"Teacher": logits["teacher"], "BERT-Mini": logits["student"]}
    accuracies = {name: measure_accuracy(given, labels).value for name, given in rated.items()}
    gain = compare_paired(logits["student"], logits["gold"], labels)
    told = {"labels": len(data["labelled"]), "gain": [gain.difference, gain.low, gain.high]}
    results = read_results(folder / "benchmark.json")
    return results | {"notebooks": times, "accuracies": accuracies, "distillation": told}


def write_report(folder: Path, results: dict, title: str) -> None:
    """Write `report.html`, one page that needs no network: results, and all executed notebooks."""
    opening = f"# {title}\n\n{headline(results)}\n\n{results_table(results)}"
    page = new_notebook(cells=[new_markdown_cell(opening)])
    for path in sorted((folder / "executed").glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        page.metadata = notebook.metadata
        page.cells += notebook.cells
    for output in (output for cell in page.cells for output in cell.get("outputs", ())):
        data = output.get("data", {})
        data.pop("application/vnd.jupyter.widget-view+json", None)
        if png := data.pop("image/png", None):  # nbconvert leaves out its alt text
            alt = html.escape(output.metadata.get("image/png", {}).get("alt", ""))
            data["text/html"] = (
                f'<img alt="{alt}" style="max-width: 100%" src="data:image/png;base64,{png}">'
            )
    nowhere = {name: "" for name in HTMLExporter.class_trait_names() if name.endswith("_url")}
    hidden = {"exclude_input_prompt": True, "exclude_output_prompt": True}
    exporter = HTMLExporter(template_name="lab", embed_images=True, **nowhere, **hidden)
    resources = {"metadata": {"name": title, "path": str(NOTEBOOKS)}}
    write_whole(folder / "report.html", exporter.from_notebook_node(page, resources)[0])


def headline(results: dict) -> str:
    """The result in sentences: how fast, with more threads, how accurate, from how many labels."""
    environment, baselines = results["environment"], results["baselines"]
    base, rated = baselines["pytorch"].removesuffix(", PyTorch FP32"), results["accuracies"]
    text, above = "", []
    for threads in environment["threads"]:
        row = next(r for r in padded_rows(results, threads) if r["name"] == results["headline"])
        blog, ort = (row["speedups"][baselines[key]] for key in ("autograd", "onnxruntime"))
        above.append(blog["value"] > BLOG_SPEEDUP)
        took = f"{row['latency_ms']['typical']:.2f} ms with {_threads(threads)}"
        times = "{value:.0f} (95 %: {low:.0f} to {high:.0f})".format(**blog)
        if text:
            text += f"It takes {took}, {times} and {ort['value']:.0f} times as fast. "
        else:
            text = (
                f"{results['headline']} takes {took} of {html.escape(environment['cpu'])}: "
                f"{times} times as fast as {base} on PyTorch with autograd on, the blog's way, "
                f"and {ort['value']:.0f} times as fast as {base} in FP32 on ONNX Runtime. "
            )
    told, form = results["distillation"], "{:+.1f} points (95 %: {:+.1f} to {:+.1f})"
    points = form.format(*(100 * share for share in told["gain"]))
    holds = "exceeded" if all(above) else "exceeded in part" if any(above) else "not reached"
    return (
        f"{text}The blog's {BLOG_SPEEDUP}x is {holds}, with {row['accuracy']['value']:.1%} of the "
        f"test sentences labelled correctly; the student in FP32 has {rated['BERT-Mini']:.1%}, "
        f"its teacher {rated['Teacher']:.1%}. Over the student on {told['labels']} gold labels "
        f"alone, distillation brings {points} in this draw of them; notebook 6 has others."
    )


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def padded_rows(results: dict, threads: int) -> list[dict]:
    """The rows timed on so many threads, all sentences padded to the same length."""
    case = (threads, results["protocol"]["sequence_length"])
    return [row for row in results["rows"] if (row["threads"], row["sequence_length"]) == case]


def results_table(results: dict) -> str:
    """Size, accuracy, latency and speedup of the rows that tell the story, as Markdown."""
    environment = results["environment"]
    heads, rows = ["", "MB", "accuracy"], {}
    for threads in environment["threads"]:
        heads += [f"{_threads(threads)}, ms", "speedup"]
        for row in (r for r in padded_rows(results, threads) if r["name"].endswith(SHOWN)):
            size = f"{row['size_mb']:.1f}" if row["size_mb"] else ""
            accuracy = f"{row['accuracy']['value']:.4f}" if row["accuracy"] else ""
            cells = rows.setdefault(row["name"], [row["name"], size, accuracy])
            cells.append(f"{row['latency_ms']['typical']:.2f}")
            cells.append(f"{row['speedup_vs_bert_base_pytorch']:.1f}x")
    opening = (
        f"Batch 1, {results['protocol']['sequence_length']} word pieces, on "
        f"{html.escape(environment['cpu'])} ({environment['physical_cores']} cores, "
        f"{', '.join(environment['instruction_sets'])}), {results['date']}. "
        f"Speedup is over {results['baselines']['pytorch']}."
    )
    left_out = [f"\nLeft out: {name}: {why}" for name, why in results["unavailable"].items()]
    return "\n".join([opening, "", markdown_table([heads, *rows.values()]), *left_out])


def markdown_table(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """Rows as a Markdown table; the first are the headings, `words` columns hold no figures."""
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    lines.insert(1, "|" + "---|" * words + "--:|" * (len(rows[0]) - words))
    return "\n".join(lines)
