"""The HTML report, the README's tables, our rows beside the blog's."""

import re
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import plots, report
from helpers.metrics import Accuracy
from helpers.profile import ROOT, load_profile
from helpers.report import (
    beside_blog,
    notebooks_markdown,
    reference_steps,
    with_measured,
    write_report,
)
from tests.test_run import RESULT

BLOG = [
    {"name": "base", "latency_ms": 16.0, "accuracy": 0.940},
    {"name": "mini", "latency_ms": 4.0, "accuracy": 0.928},
    {"name": "engine", "latency_ms": 1.0, "accuracy": 0.928},
]
NAMES = {"base": "BERT-Base", "mini": "BERT-Mini", "engine": "Engine"}


def row(name, latency, accuracy, speedup):
    return {
        "name": name,
        "latency_ms": {"p50": latency},
        "accuracy": accuracy and {"value": accuracy},
        "speedups": {"BERT-Base": {"value": speedup}},
    }


def test_differences_are_those_of_the_figures():
    rows = [row("BERT-Base", 80.0, 0.945, 1.0), row("BERT-Mini", 8.0, 0.918, 10.0)]
    base, mini, _ = beside_blog(BLOG, rows, NAMES, {"Engine": "not installed"})
    assert base["ours, ms"] == 80.0 and base["points"] == pytest.approx(0.5)
    assert (mini["blog, speedup"], mini["ours, speedup"]) == (4.0, 10.0)
    assert mini["ours / blog"] == pytest.approx(2.5)
    assert mini["points"] == pytest.approx(-1.0)
    assert base["why not"] == mini["why not"] == ""


def test_a_row_that_could_not_be_measured_says_why():
    rows = [row("BERT-Base", 80.0, None, 1.0)]
    base, mini, engine = beside_blog(BLOG, rows, NAMES, {"Engine": "not installed"})
    assert base["points"] is None and "untrained" in base["why not"]
    assert mini["ours, ms"] is None and "strays from its own FP32" in mini["why not"]
    assert engine["why not"] == "not installed" and engine["ours / blog"] is None


class Page(HTMLParser):
    """Collects what a page loads, links to and shows."""

    def __init__(self, text):
        super().__init__()
        self.loaded, self.images, self.links, self.ids = [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs.get("id")}
        if tag == "img":
            self.images.append(attrs)
        if tag == "a":
            self.links.append(attrs.get("href", ""))
        if tag in ("img", "script", "iframe", "link"):
            self.loaded += [attrs[name] for name in ("src", "href") if name in attrs]


@pytest.fixture
def page(tmp_path):
    """The report of a run of one notebook with a picture, a widget and an exercise."""
    figure = plots.plot_confusion(np.array([[1, 2], [3, 4]]), ["<no>", "yes"])
    (tmp_path / "figures").mkdir()
    plots.save(figure, tmp_path / "figures/05_frontier.svg")
    shown = {"image/png": "aGk=", "text/plain": "<Image>"}
    picture = new_output("display_data", shown, metadata={"image/png": {"alt": 'a "4" \u00e9'}})
    widget = new_output(
        "display_data",
        {
            "application/vnd.jupyter.widget-view+json": {"model_id": "x"},
            "text/html": "<b>a plain answer</b>",
        },
    )
    cells = [
        new_markdown_cell("# 1. A lesson"),
        new_code_cell("draw()", outputs=[picture, widget]),
        new_code_cell("spoiler", metadata={"tags": ["solution"]}),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "01_lesson.ipynb")
    target = tmp_path / "report.html"
    write_report(
        [tmp_path / "01_lesson.ipynb"], target, RESULT, title="A run", figures=tmp_path / "figures"
    )
    return target.read_text(encoding="utf-8")


def test_the_report_opens_from_disk_without_a_network(page):
    found = Page(page)
    assert found.images
    assert [url for url in found.loaded if url and not url.startswith("data:")] == []
    assert not re.search(r"url\(['\"]?http|@import", page)
    assert {"01_lesson"} <= found.ids and "#01_lesson" in found.links
    assert 'name="viewport"' in page


def test_the_report_has_results_environment_pictures_and_notebooks(page):
    assert "70.0 times (69.0 to 71.5) as fast as the base" in page
    assert "a &lt;fast&gt; CPU" in page and "torch 1.2.3" in page and "abc" in page
    assert "A lesson" in page and "a plain answer" in page
    assert "spoiler" not in page and "widget-view" not in page


def test_every_picture_of_the_report_has_an_alt_text(page):
    drawn, shown = Page(page).images
    assert drawn["alt"].startswith("Confusion matrix. gold <no>, predicted <no>: 1 sentences")
    assert shown["alt"] == 'a "4" \u00e9'


def test_a_figure_says_what_it_shows_and_is_kept_twice(tmp_path, capsys):
    plots.show(
        plots.plot_accuracies({"Teacher": Accuracy(0.9, 0.85, 0.93, 100)}), tmp_path / "new/ladder"
    )
    svg = (tmp_path / "new/ladder.svg").read_text()
    assert "<title>Test accuracy with 95 % intervals. Teacher 90.0 % (85.0 to 93.0).</title>" in svg
    assert (tmp_path / "new/ladder.png").read_bytes()[1:4] == b"PNG"


def test_one_model_has_one_colour_everywhere():
    names = {
        "BERT-Mini, OpenVINO INT8": "student", "BERT-Mini PyTorch FP32": "student",
        "student INT8": "student", "Teacher, PyTorch FP32": "teacher",
        "BERT-Base, PyTorch FP32": "baseline", "TF-IDF + logistic regression": "other",
    }  # fmt: skip
    for name, model in names.items():
        figure = plots.plot_accuracies({name: Accuracy(0.9, 0.8, 0.95, 100)})
        (line, *_) = figure.axes[0].lines
        assert line.get_color() == plots.COLOURS[model]


def test_what_a_notebook_took_is_written_where_readers_look(tmp_path):
    opening = "# 3. Export\n\n| | |\n|---|---|\n| You learn | things |\n| Reads | x |\n"
    opening += "| Writes | `y` in `artifacts/<profile>/` |\n| Takes | ages |"
    step = {"minutes": 3.14, "gigabytes": 2.72}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(
        new_notebook(cells=[new_markdown_cell(opening)]), tmp_path / "notebooks/03_export.ipynb"
    )
    table = notebooks_markdown({"03_export": step}, root=tmp_path)
    assert "| [3 Export](notebooks/03_export.ipynb) | things | `y` | 3.1 | 2.7 |" in table
    assert "| Takes | 3.1 minutes and 2.7 GB in the committed run |" in with_measured(opening, step)


def test_the_reference_run_says_what_every_notebook_took():
    steps = reference_steps(load_profile("laptop"))
    assert list(steps) == sorted(path.stem for path in ROOT.glob("notebooks/0[1-9]_*.ipynb"))
    assert all(0 < step["minutes"] < 60 and 0 < step["gigabytes"] < 16 for step in steps.values())
    for name, step in steps.items():
        opening = nbformat.read(ROOT / f"notebooks/{name}.ipynb", as_version=4).cells[0].source
        assert with_measured(opening, step) == opening
    assert reference_steps(load_profile("blog-train")) == {}


def test_runs_with_other_seeds_are_gathered_into_a_table(tmp_path, monkeypatch):
    labels = np.array([0, 1] * 50)
    required = []

    class Run:
        """Artefacts of a run whose answers are right but for as many as its seed says."""

        def __init__(self, profile):
            self.profile = profile

        def require(self, *names):
            required.append((self.profile.name, self.profile.seed, set(names)))

        def path(self, name):
            wrong = np.arange(len(labels)) < self.profile.seed - 40
            logits = np.eye(2)[np.where(wrong, 1 - labels, labels)]
            names = ("teacher", "gold", "augmented", "student_int8", "student_int8_fast")
            np.savez(tmp_path / "p.npz", **dict.fromkeys(names, logits))
            return tmp_path / "p.npz"

    monkeypatch.setattr(report, "Artifacts", Run)
    monkeypatch.setattr("helpers.data.load_data", lambda settings: {"test": {"label": labels}})
    collected = report.collect_seeds(load_profile("laptop"), [43, 44])
    files = {f"predictions_0{step}.npz" for step in (1, 2, 4)}
    assert required == [
        ("laptop", 42, files), ("laptop-seed-43", 43, files), ("laptop-seed-44", 44, files)
    ]  # fmt: skip
    assert collected["accuracies"]["Teacher"] == pytest.approx([0.98, 0.97, 0.96])
    table = report.seeds_markdown(collected)
    assert "| Teacher | 0.9800 | 0.9700 | 0.9600 | 0.9700 | 2.00 |" in table


def test_the_readmes_seeds_are_those_that_were_run():
    seeds = report.read_results(ROOT / "results/seeds.json")
    assert len(seeds["seeds"]) >= 3 and seeds["seeds"][0] == load_profile("laptop").seed
    assert report.seeds_markdown(seeds) in (ROOT / "README.md").read_text(encoding="utf-8")
    reference = report.read_results(ROOT / "results/laptop.json")
    rated = {row["name"]: row["accuracy"] for row in reference["rows"]}
    for name, values in seeds["accuracies"].items():
        matching = rated.get(f"{name}, PyTorch FP32") or rated[name]
        assert matching["value"] == values[0], name
