"""Figures: one style, one colour a family of models, units, intervals, and `alt`, all in words.

Who draws names the family; no colour follows from a name that is shown. An interval is anything
with `value`, `low` and `high`, such as `metrics.Accuracy` or a ratio of the benchmark. What one
notebook alone shows is drawn on its page, from `new_figure`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import offset_copy

from helpers.metrics import Interval

mpl.style.use(Path(__file__).with_name("tutorial.mplstyle"))
COLOURS = {
    "baseline": "#000000",
    "teacher": "#0072B2",
    "student": "#D55E00",
    "other": "#009E73",
    "blog": "#777777",
}
PALE = "#BBBBBB"
_SURE = "95 % interval"


def new_figure(
    width: float = 7.2, height: float = 3.6, *grid: int, **axes_labels: str
) -> tuple[Figure, Axes | np.ndarray]:
    """A figure (inches) and its axes: one, or where `grid` gives rows and columns an array.

    Who draws on them says in the figure's `alt`, in words, what it shows.
    """
    figure = Figure(figsize=(width, height))
    figure.alt = ""
    return figure, figure.subplots(*grid, subplot_kw=axes_labels)


def show(figure: Figure, path: Path) -> None:
    """Show a figure in a notebook with its alt text, and save it as `path` + .svg and + .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".svg", ".png"):
        save(figure, path.with_name(path.name + suffix))
    png = path.with_name(path.name + ".png").read_bytes()
    display(Image(data=png, alt=figure.alt, width=round(100 * figure.get_figwidth())))


def save(figure: Figure, path: Path) -> None:
    """Save a figure with its alt text inside, the same bytes for the same figure."""
    svg = {"Title": figure.alt, "Date": None}
    figure.savefig(path, metadata=svg if path.suffix == ".svg" else {"Description": figure.alt})


def plot_learning_curve(
    history: Sequence[Mapping[str, float]], *, ylabel: str, family: str = "student"
) -> Figure:
    """Training loss against epochs, from `trainer.state.log_history`."""
    logged = [entry for entry in history if "loss" in entry]
    losses = [float(entry["loss"]) for entry in logged]
    figure, axes = new_figure(xlabel="epoch", ylabel=ylabel)
    axes.plot([e["epoch"] for e in logged], losses, marker="o", color=COLOURS[family])
    axes.set(ylim=(0, None))
    said = f"from {losses[0]:.3f} to {losses[-1]:.3f}" if losses else "nothing was trained here"
    figure.alt = f"Learning curve, {ylabel}: {said}."
    return figure


def plot_accuracies(
    accuracies: Mapping[str, object], families: Mapping[str, str] | None = None
) -> Figure:
    """One line a model: its accuracy, an interval. `families` maps names to families."""
    figure, axes = new_figure(height=0.45 * len(accuracies) + 0.9, xlabel=f"accuracy (%), {_SURE}")
    said = {}
    for row, (name, accuracy) in enumerate(accuracies.items()):
        (x,), spread = _scaled([accuracy], 100)
        said[name] = Interval(x, 100 * accuracy.low, 100 * accuracy.high)
        colour = COLOURS[(families or {}).get(name, "other")]
        axes.errorbar(x, row, xerr=spread, fmt="o", color=colour)
        axes.annotate(f"{x:.1f}", (x, row), (0, 7), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.set(ylim=(len(accuracies) - 0.4, -0.7))
    figure.alt = _in_words(f"Accuracy in %, {_SURE}", said)
    return figure


def plot_lines(
    series: Mapping[str, Mapping[float, object]],
    *,
    xlabel: str,
    ylabel: str,
    families: Mapping[str, str] | None = None,
    scale: float = 1,
    log_y: bool = False,
) -> Figure:
    """One line a name over a logarithmic x: `series` maps a name to {x: interval}.

    A name with one point is a marker with an error bar, others are lines with bands. Names of one
    family share its colour. What is drawn is `scale` times the values: 100 for shares in percent.
    """
    figure, axes = new_figure(9.6, xlabel=f"{xlabel} (log scale)", ylabel=f"{ylabel}, {_SURE}")
    for place, (name, points) in enumerate(series.items()):
        colour = COLOURS.get((families or {}).get(name), f"C{place}")
        xs, (values, spread) = list(points), _scaled(points.values(), scale)
        look = {"color": colour, "marker": "os^Dv"[place % 5], "label": name}
        if len(xs) == 1:
            axes.errorbar(xs, values, yerr=spread, linestyle="none", **look)
        else:
            axes.plot(xs, values, linestyle=("-", "--", ":", "-.")[place % 4], **look)
            low, high = values - spread[0], values + spread[1]
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    ticks = sorted({x for points in series.values() for x in points})
    axes.set_xticks(ticks, ticks)
    axes.xaxis.set_minor_formatter(NullFormatter())
    if log_y:
        axes.set_yscale("log")
        _plain_ticks(axes.yaxis)
    axes.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
    said = {
        name: ", ".join(f"{scale * i.value:.3g} at {x}" for x, i in points.items())
        for name, points in series.items()
    }
    figure.alt = _in_words(f"{ylabel} by {xlabel}", said)
    return figure


def plot_bars(
    ratios: Mapping[str, object], *, xlabel: str, colours: Sequence[str] | None = None
) -> Figure:
    """Ratios (intervals) as horizontal bars from 1 on a logarithmic axis.

    `colours` has one for each bar; they are the student's where nothing else is said.
    """
    figure, axes = new_figure(9.6, 0.4 * len(ratios) + 1.2, xlabel=f"{xlabel}, {_SURE}")
    values, spread = _scaled(ratios.values(), 1)
    colours = colours or COLOURS["student"]
    bars = axes.barh(range(len(ratios)), values - 1, left=1, xerr=spread, color=colours, alpha=0.8)
    axes.bar_label(bars, [f"{value:.3g}x" for value in values], padding=4)
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.margins(x=0.12)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()
    figure.alt = _in_words(xlabel, ratios)
    return figure


def plot_story(points: Sequence[Mapping]) -> Figure:
    """Accuracy against latency, area in proportion to size, of the models made so far.

    `points` have `step`, `name`, `family`, `accuracy` (share of 1, with its interval),
    `milliseconds` and `megabytes`; those of steps before the last are paler.
    """
    height = 3.2 + 0.18 * len(points)  # for the names over the axes
    figure, axes = new_figure(height=height, ylabel=f"accuracy (%), {_SURE}")
    axes.set(xlabel="latency, a quick look (ms); area: size")
    last = max(point["step"] for point in points)
    drawn = []
    for point in points:
        interval, colour = Interval(*point["accuracy"]), COLOURS[point["family"]]
        look = {"alpha": 0.8 if point["step"] == last else 0.3, "colour": colour}
        drawn.append(point | {"accuracy": interval.value, "interval": interval} | look)
    _draw_models(axes, drawn, [point["name"] for point in points])
    figure.alt = _in_words("Accuracy against latency of the models so far", _models(drawn))
    return figure


def plot_frontier(
    rows: Sequence[Mapping], blog: Sequence[Mapping] = (), *, label: Sequence[str] = ()
) -> Figure:
    """Accuracy against latency, area in proportion to size: ours, and the blog's beside it.

    `rows` are rows of `benchmark.json` at one thread count and length. Those in `label` have colour
    and name, the others are grey; a named row without an accuracy is a dashed line. `blog` rows
    have `name`, `latency_ms`, `accuracy`, `size_mb`; all are named, in a panel of their own.
    """
    label = [*label, *(row["name"] for row in blog)]
    panels = {"the blog, on its machine": blog, "here": rows} if blog else {"here": rows}
    figure = Figure(figsize=(5.4 * len(panels) + 1.8, 4.8))
    both = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    said = []
    for axes, (title, shown) in zip(both, panels.items(), strict=True):
        points = [_point(row) for row in shown if row["accuracy"]]
        where = f"{title}: " if blog else ""
        axes.set(xlabel=f"{where}latency, batch 1 (ms); area: size")
        _draw_models(axes, points, label)
        words = _models(points)
        for row in (row for row in shown if row["name"] in label and not row["accuracy"]):
            ms, colour = row["latency_ms"]["typical"], COLOURS[row["family"]]
            axes.axvline(ms, color=colour, linestyle="--", linewidth=1)
            at = {"xycoords": axes.get_xaxis_transform(), "rotation": 90, "va": "center"}
            axes.annotate(row["name"], (ms, 0.5), ha="right", fontsize=9, **at)
            words[row["name"]] = f"{ms:.2f} ms, untrained"
        said.append(_in_words(f"Accuracy against latency, {title}", words))
    both[0].set(ylabel=f"accuracy (%), ours with {_SURE}")
    figure.alt = " ".join(said)
    return figure


def _point(row: Mapping) -> dict:
    """A row of a benchmark, or of the blog's table, as `_draw_models` takes it."""
    point = {"name": row["name"], "megabytes": row["size_mb"] or 1}
    latency, accuracy = row["latency_ms"], row["accuracy"]
    if isinstance(latency, Mapping):
        point |= {"milliseconds": latency["typical"], "colour": COLOURS[row["family"]]}
    else:  # of the blog
        point |= {"milliseconds": latency, "colour": COLOURS["blog"]}
    if isinstance(accuracy, Mapping):
        point["interval"] = Interval(accuracy["value"], *accuracy["ci95"])
        accuracy = accuracy["value"]
    return point | {"accuracy": accuracy}


def _scaled(intervals: Iterable, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) and how far their intervals reach below and above them (2, n)."""
    value, low, high = scale * np.array([(i.value, i.low, i.high) for i in intervals]).T
    return value, np.array([value - low, high - value])


def _plain_ticks(axis: Axis) -> None:
    """Give a logarithmic axis plain numbers, at 1, 2 and 5."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _place(point: Mapping) -> tuple[float, float]:
    return point["milliseconds"], 100 * point["accuracy"]


def _draw_models(axes: Axes, points: Sequence[Mapping], named: Sequence[str]) -> None:
    """Draw a dot for each point, in grey where it is not named.

    Names stand over the axes, each on a thin line up from its point: the quicker the model, the
    higher its name, so that no line crosses a name.
    """
    for point in points:
        at, area = _place(point), max(2 * point["megabytes"], 12)  # square typographic points
        colour = point["colour"] if point["name"] in named else PALE
        look = {"facecolors": colour, "alpha": point.get("alpha", 0.6), "linewidths": 0}
        axes.scatter(*at, s=area, **look)
        if point["name"] in named and "interval" in point:
            axes.errorbar(*at, yerr=_scaled([point["interval"]], 100)[1], color=colour, alpha=0.5)
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.margins(x=0.15, y=0.25)
    shown = sorted((p for p in points if p["name"] in named), key=_place, reverse=True)
    if len(shown) < len(points):
        axes.scatter([], [], color=PALE, label="other rows")
        axes.legend(loc="lower center")
    top = axes.get_xaxis_transform()  # x as in the data, y = 1 at the upper edge of the axes
    line = {"arrowstyle": "-", "color": PALE, "relpos": (0, 0), "shrinkA": 0}
    for level, point in enumerate(shown):
        over = offset_copy(top, axes.figure, y=4 + 13 * level, units="points")
        look = {"textcoords": over, "fontsize": 9, "arrowprops": line, "zorder": 0}
        axes.annotate(point["name"], _place(point), (point["milliseconds"], 1), **look)


def _models(points: Iterable[Mapping]) -> dict[str, str]:
    said = "{milliseconds:.2f} ms, {accuracy:.1%}, {megabytes:.0f} MB"
    return {point["name"]: said.format(**point) for point in points}


def _in_words(title: str, said: Mapping[str, object]) -> str:
    """A figure's alternative text: what it shows, and what it says of each name."""
    return f"{title}: " + "; ".join(f"{name}: {words}" for name, words in said.items()) + "."
