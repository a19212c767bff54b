"""Every figure is drawn, says in words what it shows, and takes no colour from a name."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from helpers import plots
from helpers.metrics import Accuracy, Interval
from helpers.tutorial.profile import ROOT

ACCURACY = Accuracy(0.9, 0.88, 0.92, 500)
FACTORS = {
    "model": Interval(10, 9, 11),
    "slower": Interval(0.5, 0.4, 0.6),
    "all": Interval(5, 4, 6),
}
BLOG = [{"name": "blog's row", "latency_ms": 3.0, "accuracy": 0.92, "size_mb": 40.0}]


def row(name, model="BERT-Mini", ms=1.0, accuracy=0.9, **others):
    interval = {"value": accuracy, "ci95": [accuracy - 0.01, accuracy + 0.01]}
    return {
        "name": name,
        "model": model,
        "latency_ms": {"p50": ms},
        "accuracy": interval if accuracy else None,
        "size_mb": 40.0,
        "speedups": {"base": {"value": 10 / ms, "low": 9 / ms, "high": 11 / ms}},
        **others,
    }


def point(name, step="02", **numbers):
    return {
        "step": step,
        "name": name,
        "accuracy": 0.9,
        "milliseconds": 2,
        "megabytes": 40,
    } | numbers


ROWS = [row("a", "BERT-Base", 40.0), row("b"), row("c", ms=0.5), row("untrained", accuracy=0.0)]
SWEEP = [{"name": "a", "size": size, "ms": (size, size - 1, size + 1)} for size in (8, 16)]
WEIGHTS = np.random.default_rng(0).normal(size=(20, 20))
FIGURES = {
    "lengths": (plots.plot_lengths([3, 9, 70], cut=64), "3 sentence lengths", "cut at 64"),
    "curve": (
        plots.plot_learning_curve(
            [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": "0.5"}], ylabel="x"
        ),
        "from 2.000 to 0.500",
    ),
    "nothing trained": (plots.plot_learning_curve([], ylabel="x"), "nothing was trained"),
    "accuracies": (plots.plot_accuracies({"a": ACCURACY}), "a 90.0 % (88.0 to 92.0)"),
    "confusion": (
        plots.plot_confusion(np.array([[5, 1], [2, 7]]), ["no", "yes"]),
        "gold no, predicted yes: 1 sentences",
    ),
    "labels": (
        plots.plot_label_curve({"a": {200: ACCURACY, 500: ACCURACY}, "one": {500: ACCURACY}}),
        "a: 90 at 200, 90 at 500; one: 90 at 500",
    ),
    "story": (plots.plot_story([point("a", "01"), point("b")]), "b 2.00 ms, 90.0 %, 40 MB"),
    "frontier": (
        plots.plot_frontier(ROWS, BLOG, label=["b"], marked=["c"]),
        "the blog, on its machine: blog's row 3.00 ms",
        "here: a 40.00 ms",
    ),
    "speedups": (plots.plot_speedups(ROWS), "Speedup over base", "b 10.00x (9.00 to 11.00)"),
    "waterfall": (plots.plot_waterfall(FACTORS), "slower 0.50x (0.40 to 0.60)"),
    "sweep": (
        plots.plot_sweep(SWEEP, "ms", xlabel="word pieces", ylabel="ms"),
        "a: 8 at 8, 16 at 16",
    ),
    "operators": (
        plots.plot_operator_times({"x.onnx": {"MatMul": 2.0, "Add": 1.0}, "y.onnx": {"Add": 0.5}}),
        "x.onnx: 3.00 ms, most in MatMul",
    ),
    "calibration": (
        plots.plot_calibration({"min-max": {8: ACCURACY, 32: ACCURACY}}, reference=ACCURACY),
        "FP32 90.0 %",
    ),
    "weights": (
        plots.plot_weight_histogram(WEIGHTS, {"q": np.zeros((20, 20))}),
        "q 1 values, 100.0%",
    ),
    "activations": (
        plots.plot_activation_grid(np.append(WEIGHTS, 50), 0.2, 12),
        "401 activations",
        "of the 256 steps",
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_shows_and_is_kept_twice(name, tmp_path):
    figure, *said = FIGURES[name]
    assert all(words in figure.alt for words in said), figure.alt
    plots.show(figure, tmp_path / name)
    svg = (tmp_path / f"{name}.svg").read_bytes()
    assert figure.alt[:20].encode() in svg
    assert Image.open(tmp_path / f"{name}.png").text["Description"] == figure.alt


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("one.svg", "two.svg"):
        plots.save(plots.plot_frontier(ROWS, BLOG, label=["b"]), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def colours(figure) -> list[str]:
    return [to_hex(bar.get_facecolor()) for bar in figure.axes[0].patches]


def test_colours_follow_the_model_and_not_the_name():
    rows = [row("BERT-Mini in the name", "BERT-Base"), row("x"), row("teacher", "spam filter")]
    rows.append(row("y", "BERT-Base", family="teacher"))
    expected = [plots.COLOURS[f].lower() for f in ("baseline", "student", "other", "teacher")]
    assert colours(plots.plot_speedups(rows)) == expected


def test_names_stand_beside_their_points_and_cover_nothing():
    close = [point(f"a model with a long name {n}", milliseconds=2 + n / 5) for n in range(6)]
    figure = plots.plot_story(close)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == [p["name"] for p in close]
    figure.draw_without_rendering()  # puts annotations where they belong
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    dots = axes.transData.transform([(p["milliseconds"], 100 * p["accuracy"]) for p in close])
    assert not any(box.contains(*dot) for box in boxes for dot in dots)


def test_only_the_rows_that_matter_have_names():
    figure = plots.plot_frontier(ROWS, BLOG, label=["b"])
    named = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert named == [["blog's row"], ["b"]]


def test_the_committed_pictures_stand_alone():
    pictures = sorted((ROOT / "notebooks" / "images").glob("*.svg"))
    assert len(pictures) >= 11
    for path in pictures:
        text = path.read_text(encoding="utf-8")
        assert len(text) < 12_000 and "<title" in text and "<desc" in text, path.name
        assert "href" not in text and text.count("http") == 1, path.name  # the namespace alone
        sizes = [int(part.split('"')[1]) for part in text.split("font-size=")[1:]]
        assert min(sizes) >= 13, path.name
