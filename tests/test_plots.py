"""Every figure is drawn and says in words what it shows; names do not cover each other."""

from itertools import combinations

import pytest
from matplotlib.text import Text
from PIL import Image

from helpers import plots
from helpers.metrics import Accuracy, Interval

ACCURACY = Accuracy(0.9, 0.88, 0.92, 500)
RATIOS = {"model": Interval(10, 9, 11), "slower": Interval(0.5, 0.4, 0.6)}
CURVES = {"a": {200: ACCURACY, 500: ACCURACY}, "one": {500: ACCURACY}}
LOSSES = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": "0.5"}]
BLOG = [{"name": "blog's row", "latency_ms": 3.0, "accuracy": 0.92, "size_mb": 40.0}]


def row(name, family, ms, accuracy):
    row = {"name": name, "family": family, "size_mb": 40.0, "latency_ms": {"typical": ms}}
    return row | {"accuracy": accuracy and {"value": accuracy, "ci95": [0.8, 1.0]}}


def point(name, step="02", milliseconds=2.0):
    numbers = {"accuracy": [0.9, 0.88, 0.92], "milliseconds": milliseconds, "megabytes": 40}
    return {"step": step, "name": name, "family": "student"} | numbers


ROWS = [row("a", "baseline", 40.0, 0.9), row("b", "other", 1.0, 0.9), row("c", "other", 0.5, None)]
FIGURES = {
    "curve": (plots.plot_learning_curve(LOSSES, ylabel="x"), "from 2.000 to 0.500"),
    "nothing trained": (plots.plot_learning_curve([], ylabel="x"), "nothing was trained"),
    "accuracies": (plots.plot_accuracies({"a": ACCURACY}, {}), "a: 90 (88 to 92)"),
    "lines": (
        plots.plot_lines(CURVES, xlabel="labels", ylabel="%", scale=100, log_y=True),
        "% by labels: a: 90 at 200, 90 at 500; one: 90 at 500.",
    ),
    "bars": (plots.plot_bars(RATIOS, xlabel="times"), "model: 10 (9 to 11); slower: 0.5 (0.4"),
    "story": (plots.plot_story([point("a", "01"), point("b")]), "b: 2.00 ms, 90.0%, 40 MB"),
    "frontier": (
        plots.plot_frontier(ROWS, BLOG, label=["b", "c"]),
        "the blog, on its machine: blog's row: 3.00 ms",
        "here: a: 40.00 ms",
        "c: 0.50 ms, untrained.",
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_says_what_it_shows_and_is_kept_twice(name, tmp_path):
    figure, *said = FIGURES[name]
    assert all(words in figure.alt for words in said), figure.alt
    plots.show(figure, tmp_path / name)
    assert figure.alt[:20].encode() in (tmp_path / f"{name}.svg").read_bytes()
    assert Image.open(tmp_path / f"{name}.png").text["Description"] == figure.alt


def test_names_cover_no_point_and_no_name():
    close = [point(f"a model with a long name {n}", milliseconds=2 + n / 5) for n in range(6)]
    figure = plots.plot_story(close)
    (axes,) = figure.axes
    assert {text.get_text() for text in axes.texts} == {p["name"] for p in close}
    figure.draw_without_rendering()  # puts annotations where they belong
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
    assert not any(box.overlaps(axes.bbox) for box in boxes)  # all stand over the axes
    assert all(box.y1 <= figure.bbox.y1 for box in boxes)
