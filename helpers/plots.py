"""Figures: one style, one colour a family of models, units, intervals, and `alt`, all in words.

A row or a caller names the family ("teacher", "student", "baseline", "other" or "blog"); no colour
follows from a name that is shown. An interval is anything with `value`, `low` and `high`, such as
`metrics.Accuracy`, `metrics.Interval` or a ratio of the benchmark.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox
from pandas import DataFrame
from sklearn.metrics import ConfusionMatrixDisplay

from helpers.metrics import Interval

mpl.style.use(Path(__file__).with_name("tutorial.mplstyle"))
COLOURS = {
    "baseline": "#000000",
    "teacher": "#0072B2",
    "student": "#D55E00",
    "other": "#009E73",
    "blog": "#777777",
}
FAMILIES = {"BERT-Base": "baseline", "BERT-Mini": "student", "all-mpnet-base-v2": "teacher"}
_PALE = "#BBBBBB"
_SURE = "95 % interval"
_PIXELS = 100  # an inch of a figure, where a notebook shows it


class Picture(Figure):
    """A figure that says in words, in `alt`, what it shows."""

    alt: str = ""


def show(figure: Picture, path: Path) -> None:
    """Show a figure in a notebook with its alt text, and save it as `path` + .svg and + .png."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix in (".svg", ".png"):
        save(figure, path.with_name(path.name + suffix))
    png = path.with_name(path.name + ".png").read_bytes()
    display(Image(data=png, alt=figure.alt, width=round(figure.get_figwidth() * _PIXELS)))


def save(figure: Picture, path: Path) -> None:
    """Save a figure with its alt text inside, the same bytes for the same figure."""
    svg = {"Title": figure.alt, "Date": None}
    figure.savefig(path, metadata=svg if path.suffix == ".svg" else {"Description": figure.alt})


def plot_lengths(lengths: Sequence[int], *, cut: int) -> Picture:
    """Histogram of sentence lengths in word pieces, with the length at which they are cut."""
    figure, axes = _figure(xlabel="length (word pieces)", ylabel="sentences")
    axes.hist(lengths, bins=np.arange(0, max(*lengths, cut) + 2, 2), color=COLOURS["other"])
    axes.axvline(cut, color="black", linestyle="--", label=f"cut at {cut}")
    axes.legend()
    middle, long = np.percentile(lengths, [50, 90])
    figure.alt = f"Histogram of {len(lengths)} sentence lengths: median {middle:.0f} word pieces, "
    figure.alt += f"90th percentile {long:.0f}, cut at {cut}."
    return figure


def plot_learning_curve(
    history: Sequence[Mapping[str, float]], *, ylabel: str, family: str = "student"
) -> Picture:
    """Training loss against epochs, from `trainer.state.log_history`."""
    logged = [(entry["epoch"], float(entry["loss"])) for entry in history if "loss" in entry]
    figure, axes = _figure(xlabel="epoch", ylabel=ylabel)
    axes.plot(*np.array(logged).reshape(-1, 2).T, marker="o", color=COLOURS[family])
    axes.set(ylim=(0, None))
    figure.alt = f"Learning curve: {ylabel}; nothing was trained here."
    if logged:
        figure.alt = f"Learning curve: {ylabel} from {logged[0][1]:.3f} to {logged[-1][1]:.3f}."
    return figure


def plot_accuracies(
    accuracies: Mapping[str, object], families: Mapping[str, str] | None = None
) -> Picture:
    """One line a model: its accuracy, an interval. `families` maps names to families."""
    figure, axes = _figure(height=0.45 * len(accuracies) + 0.9, xlabel=f"accuracy (%), {_SURE}")
    for row, (name, accuracy) in enumerate(accuracies.items()):
        (x,), spread = _scaled([accuracy], 100)
        colour = COLOURS[(families or {}).get(name, "other")]
        axes.errorbar(x, row, xerr=spread, fmt="o", color=colour)
        axes.annotate(f"{x:.1f}", (x, row), (0, 7), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.set(ylim=(len(accuracies) - 0.4, -0.7))
    figure.alt = "Accuracy with 95 % intervals. " + _listed(
        f"{name} {100 * a.value:.1f} % ({100 * a.low:.1f} to {100 * a.high:.1f})"
        for name, a in accuracies.items()
    )
    return figure


def plot_confusion(matrix: np.ndarray, labels: Sequence[str]) -> Picture:
    """Confusion matrix: rows are the gold labels, columns the predicted ones."""
    side = 2.4 + 0.6 * len(labels)
    figure, axes = _figure(side, side - 0.4)
    shown = ConfusionMatrixDisplay(matrix, display_labels=labels)
    shown.plot(ax=axes, cmap="Blues", colorbar=False, values_format="d")
    axes.set(xlabel="predicted (sentences)", ylabel="gold (sentences)")
    axes.grid(False)
    figure.alt = "Confusion matrix. " + _listed(
        f"gold {labels[row]}, predicted {labels[column]}: {count} sentences"
        for (row, column), count in np.ndenumerate(matrix)
    )
    return figure


def plot_label_curve(
    series: Mapping[str, Mapping[int, object]], families: Mapping[str, str] | None = None
) -> Picture:
    """Accuracy against the number of labels: `series` maps a name to {labels: interval}.

    A name with one point is a marker with an error bar, others are lines with bands. Names of one
    family share its colour, in shades.
    """
    figure, axes = _figure(
        9.6, xlabel="sentences with a label (log scale)", ylabel=f"accuracy (%), {_SURE}"
    )
    alt = _curves(axes, series, families or {}, scale=100)
    figure.alt = f"Accuracy in percent by number of labelled sentences. {alt}"
    return figure


def plot_calibration(series: Mapping[str, Mapping[int, object]], *, reference: object) -> Picture:
    """Accuracy against calibration sentences, one line a way to quantize; `reference` is FP32's."""
    figure, axes = _figure(
        9.6, xlabel="calibration sentences (log scale)", ylabel=f"accuracy (%), {_SURE}"
    )
    axes.axhline(100 * reference.value, color="black", linestyle="--", label="FP32")
    alt = _curves(axes, series, {}, scale=100)
    figure.alt = f"Accuracy by calibration sentences; FP32 {100 * reference.value:.1f} %. {alt}"
    return figure


def plot_sweep(rows: Sequence[Mapping], value: str, *, xlabel: str, ylabel: str) -> Picture:
    """One line a variant over the sizes of a sweep, with bands, on logarithmic axes.

    `rows` have `name`, `size` and what `value` names (median_ms or per_second): (value, low, high).
    """
    figure, axes = _figure(9.6, xlabel=xlabel, ylabel=f"{ylabel}, {_SURE}")
    series = {}
    for row in rows:
        series.setdefault(row["name"], {})[row["size"]] = Interval(*row[value])
    figure.alt = f"{ylabel} by {xlabel}. {_curves(axes, series, {})}"
    axes.set_yscale("log")
    _plain_ticks(axes.yaxis)
    return figure


def plot_story(points: Sequence[Mapping]) -> Picture:
    """Accuracy against latency, area in proportion to size, of the models made so far.

    `points` have `step`, `name`, `accuracy` (share of 1), `milliseconds` and `megabytes`; those of
    steps before the last are paler.
    """
    figure, axes = _figure(xlabel="latency, a quick look (ms); area: size", ylabel="accuracy (%)")
    last = max(point["step"] for point in points)
    for point in points:
        alpha = 0.8 if point["step"] == last else 0.3
        _dot(axes, point, color=COLOURS["student"], alpha=alpha)
    _write_names(axes, points)
    figure.alt = "Accuracy against latency of the models so far. " + _in_words(points)
    return figure


def plot_frontier(
    rows: Sequence[Mapping],
    blog: Sequence[Mapping] = (),
    *,
    label: Sequence[str] = (),
    marked: Sequence[str] = (),
) -> Picture:
    """Accuracy against latency, area in proportion to size: ours, and the blog's beside it.

    `rows` are rows of `benchmark.json` at one thread count and length; those without an accuracy
    are left out. Rows in `label` have colour and name, rows in `marked` a ring, the others are
    grey. `blog` rows have `name`, `latency_ms`, `accuracy`, `size_mb`, and a panel of their own on
    the same axes; all are named unless `label` names some of them.
    """
    if not {row["name"] for row in blog} & {*label}:
        label = [*label, *(row["name"] for row in blog)]
    panels = {"here": [_point(row) for row in rows if row["accuracy"]]}
    if blog:
        panels = {"the blog, on its machine": [_point(row) for row in blog]} | panels
    figure = Picture(figsize=(5.4 * len(panels) + 1.8, 4.4))
    both = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, points) in zip(both, panels.items(), strict=True):
        axes.set(title=title if blog else "", xlabel="median latency, batch 1 (ms); area: size")
        for point in points:
            named = point["name"] in label
            _dot(axes, point, color=point["colour"] if named else _PALE, interval=named)
            if point["name"] in marked:
                at = point["milliseconds"], 100 * point["accuracy"]
                axes.scatter(*at, s=200, facecolors="none", edgecolors="black")
        if any(point["name"] not in label for point in points):
            axes.scatter([], [], color=_PALE, label="other rows")
            axes.legend(loc="lower right")
    both[0].set(ylabel=f"accuracy (%), ours with {_SURE}")
    for axes, points in zip(both, panels.values(), strict=True):
        _write_names(axes, points, label)
    parts = (f"{title}: {_in_words(points)}" for title, points in panels.items())
    figure.alt = "Accuracy against latency. " + " ".join(parts)
    return figure


def plot_speedups(rows: Sequence[Mapping], *, over: str = "", blog: float = 16.47) -> Picture:
    """Speedup of each row over the row `over`, by default the first that its `speedups` name."""
    over = over or next(iter(rows[0]["speedups"]))
    found = {row["name"]: row["speedups"][over] for row in rows}
    ratios = {name: Interval(r["value"], r["low"], r["high"]) for name, r in found.items()}
    figure, axes = _figure(9.6, 0.35 * len(rows) + 1.2, xlabel=f"times as fast as {over}, {_SURE}")
    _bars(axes, ratios, [1.0] * len(rows), [_colour(row) for row in rows])
    axes.axvline(blog, color=COLOURS["blog"], linestyle="--", label=f"the blog's {blog}x")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0))
    figure.alt = f"Speedup over {over}. {_ratios(ratios)}"
    return figure


def plot_waterfall(factors: Mapping[str, object]) -> Picture:
    """Factors (intervals) that multiply to the last one, each bar standing on those before."""
    figure, axes = _figure(height=0.5 * len(factors) + 1, xlabel=f"times as fast, {_SURE}")
    starts = np.cumprod([1.0] + [factor.value for factor in factors.values()])[:-1]
    starts[-1] = 1.0
    colours = [COLOURS["student"]] * (len(factors) - 1) + [COLOURS["other"]]
    _bars(axes, factors, starts, colours)
    figure.alt = f"What the speedup is made of. {_ratios(factors)}"
    return figure


def plot_operator_times(times: Mapping[str, Mapping[str, float]]) -> Picture:
    """Milliseconds of one inference by operator type, one bar a model file."""
    figure, axes = _figure(9.6, 0.5 * len(times) + 1.6, xlabel="time in operators (ms)")
    table = DataFrame(times).fillna(0)
    table = table.loc[table.max(axis=1).sort_values(ascending=False, kind="stable").index]
    shown = table[:7].T.assign(others=table[7:].sum())
    left = np.zeros(len(shown))
    for number, kind in enumerate(shown):
        colour = _PALE if kind == "others" else f"C{number}"
        axes.barh(shown.index, shown[kind], left=left, label=kind, color=colour)
        left += shown[kind]
    axes.invert_yaxis()
    axes.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
    totals = table.sum()
    parts = (f"{name}: {totals[name]:.2f} ms, most in {table[name].idxmax()}" for name in times)
    figure.alt = "Time by operator in one inference. " + _listed(parts)
    return figure


def plot_weight_histogram(weights: np.ndarray, quantized: Mapping[str, np.ndarray]) -> Picture:
    """A matrix's weights, and by name what they become: integers from -127 to 127."""
    figure, panels = _figure(9.6, 2.8, 1, 1 + len(quantized))
    panels[0].hist(np.ravel(weights), bins=200, color=COLOURS["teacher"])
    panels[0].set(title="FP32", xlabel="weight", ylabel="weights")
    parts = [f"FP32 from {weights.min():.3f} to {weights.max():.3f}"]
    for axes, (name, codes) in zip(panels[1:], quantized.items(), strict=True):
        axes.hist(np.ravel(codes), bins=np.arange(-127.5, 128), color=COLOURS["student"])
        axes.set(title=name, xlabel="integer")
        axes.sharey(panels[1])
        parts.append(f"{name} {len(np.unique(codes))} values, {np.mean(codes == 0):.1%} of them 0")
    figure.alt = f"Histograms of {weights.size} weights: {_listed(parts)}"
    return figure


def plot_activation_grid(values: np.ndarray, scale: float, zero_point: int) -> Picture:
    """A histogram of activations under the 256 steps of UINT8, scale * (k - zero_point).

    The panel on the right looks at the middle 98 % of the values.
    """
    figure, both = _figure(9.6, 3.2, 1, 2)
    steps, values = scale * (np.arange(256) - zero_point), np.ravel(values)
    whole, middle = (values.min(), values.max()), np.percentile(values, [1, 99])
    used = int(np.sum((steps >= middle[0]) & (steps <= middle[1])))
    for axes, limits in zip(both, (whole, middle), strict=True):
        axes.hist(values, bins=200, range=tuple(limits), color=COLOURS["teacher"], log=True)
        for step in steps:
            axes.axvline(step, color="black", alpha=0.4, linewidth=0.5)
        axes.set(xlabel="activation", ylabel="values (log scale)", xlim=limits)
    both[0].set_title(f"all values, 256 steps of {scale:.3g}")
    both[1].set_title(f"the middle 98 %: {used} of 256 steps")
    figure.alt = (
        f"Histogram of {len(values)} activations from {whole[0]:.2f} to {whole[1]:.2f}: 98 % of "
        f"them lie between {middle[0]:.2f} and {middle[1]:.2f}, on {used} of the 256 steps."
    )
    return figure


def _figure(width: float = 7.2, height: float = 3.6, *grid: int, **labels: str):
    figure = Picture(figsize=(width, height))
    return figure, figure.subplots(*grid, subplot_kw=labels)


def _colour(row: Mapping) -> str:
    return COLOURS[row.get("family") or FAMILIES.get(row["model"], "other")]


def _point(row: Mapping) -> dict:
    """A row of a benchmark, or of the blog's table, as `plot_story` has its points."""
    point = {"name": row["name"], "megabytes": row["size_mb"] or 1}
    if not isinstance(row["accuracy"], Mapping):
        numbers = {"milliseconds": row["latency_ms"], "accuracy": row["accuracy"]}
        return point | numbers | {"colour": COLOURS["blog"]}
    accuracy = Interval(row["accuracy"]["value"], *row["accuracy"]["ci95"])
    numbers = {"milliseconds": row["latency_ms"]["p50"], "accuracy": accuracy.value}
    return point | numbers | {"interval": accuracy, "colour": _colour(row)}


def _scaled(intervals: Iterable, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) and how far their intervals reach below and above them (2, n)."""
    value, low, high = scale * np.array([(i.value, i.low, i.high) for i in intervals]).T
    return value, np.array([value - low, high - value])


def _plain_ticks(axis: Axis) -> None:
    """Give a logarithmic axis plain numbers, at 1, 2 and 5."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _curves(axes: Axes, series: Mapping, families: Mapping[str, str], scale: float = 1) -> str:
    """Draw {name: {x: interval}} over a logarithmic x; returns it in words."""
    seen: list[str | None] = []
    for place, (name, points) in enumerate(series.items()):
        family = families.get(name)
        colour = np.array(to_rgb(COLOURS[family] if family else f"C{place}"))
        if family:  # the next one of a family is a shade paler
            colour += (1 - colour) * min(0.4 * seen.count(family), 0.8)
        seen.append(family)
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
    axes.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return _listed(
        f"{name}: " + ", ".join(f"{scale * i.value:.3g} at {x}" for x, i in points.items())
        for name, points in series.items()
    )


def _bars(axes: Axes, ratios: Mapping[str, object], starts, colours: Sequence[str]) -> None:
    """Draw ratios as horizontal bars on a logarithmic axis, each from its start."""
    for place, (ratio, start) in enumerate(zip(ratios.values(), starts, strict=True)):
        (end,), spread = _scaled([ratio], start)
        axes.barh(place, end - start, left=start, xerr=spread, color=colours[place], alpha=0.8)
        text = f"{ratio.value:.2f}x" if ratio.value < 10 else f"{ratio.value:.1f}x"
        at = max(start, end + spread[1, 0]), place
        axes.annotate(text, at, (4, 0), textcoords="offset points", va="center")
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.margins(x=0.12)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()


def _dot(axes: Axes, point: Mapping, *, color: str, alpha: float = 0.6, interval=True) -> None:
    x, y = point["milliseconds"], 100 * point["accuracy"]
    axes.scatter(x, y, s=_area(point), color=color, alpha=alpha, linewidth=0)
    if interval and "interval" in point:
        axes.errorbar(x, y, yerr=_scaled([point["interval"]], 100)[1], color=color, alpha=0.5)
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.margins(x=0.15, y=0.25)


def _area(point: Mapping) -> float:
    return max(2 * point["megabytes"], 12)


def _write_names(axes: Axes, points: Sequence[Mapping], named: Sequence[str] | None = None) -> None:
    """Write the names of points beside them, where they cover neither points nor other names."""
    axes.figure.draw_without_rendering()  # only then it is known where the axes lie
    unit = axes.figure.dpi / 72  # pixels of a typographic point
    at = [(point["milliseconds"], 100 * point["accuracy"]) for point in points]
    marks, radii = axes.transData.transform(at), unit * np.sqrt([_area(p) / np.pi for p in points])
    taken = [Bbox([mark - r, mark + r]) for mark, r in zip(marks, radii, strict=True)]
    for point in points:
        if "interval" in point and point["name"] in named:
            x, (_, low, high) = point["milliseconds"], point["interval"]
            bar = axes.transData.transform([(x, 100 * low), (x, 100 * high)])
            taken.append(Bbox(bar).padded(2))
    for point, where, mark, radius in zip(points, at, marks, radii, strict=True):
        if named is None or point["name"] in named:
            probe = axes.text(*where, point["name"], fontsize=9)
            width, height = size = np.array(probe.get_window_extent().size)
            probe.remove()
            far = radius + 4 * unit
            corners = [(far, -height / 2), (-far - width, -height / 2)]
            for step in range(10):  # over and under the point, ever further away
                y = far + step * (height + 2)
                corners += [(x, v) for v in (y, -y - height) for x in (-width / 2, 0, -width)]
            boxes = [Bbox.from_bounds(*(mark + corner), *size) for corner in corners]
            best = min(boxes, key=lambda box: _crossings(box, taken, axes.bbox))
            taken.append(best)
            relpos = tuple(np.clip((mark - best.p0) / size, 0, 1))  # where the line meets the name
            line = {"arrowstyle": "-", "color": _PALE, "shrinkA": 0, "relpos": relpos}
            look = {"textcoords": "offset points", "fontsize": 9, "arrowprops": line}
            axes.annotate(point["name"], where, (best.p0 - mark) / unit, in_layout=False, **look)


def _crossings(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> int:
    inside = frame.contains(*box.p0) and frame.contains(*box.p1)
    return box.padded(2).count_overlaps(taken) + (0 if inside else 10)


def _in_words(points: Iterable[Mapping]) -> str:
    return _listed(
        f"{p['name']} {p['milliseconds']:.2f} ms, {100 * p['accuracy']:.1f} %, "
        f"{p['megabytes']:.0f} MB"
        for p in points
    )


def _ratios(ratios: Mapping[str, object]) -> str:
    return _listed(
        f"{name} {r.value:.2f}x ({r.low:.2f} to {r.high:.2f})" for name, r in ratios.items()
    )


def _listed(parts: Iterable[str]) -> str:
    return "; ".join(parts) + "."
