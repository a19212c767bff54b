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
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

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
    figure, axes = _figure()
    axes.hist(lengths, bins=np.arange(0, max(*lengths, cut) + 2, 2), color=COLOURS["other"])
    axes.axvline(cut, color="black", linestyle="--", label=f"cut at {cut}")
    axes.set(xlabel="length (word pieces)", ylabel="sentences")
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
    figure, axes = _figure()
    axes.plot(*zip(*logged, strict=True), marker="o", color=COLOURS[family])
    axes.set(xlabel="epoch", ylabel=ylabel, ylim=(0, None))
    figure.alt = f"Learning curve: {ylabel} from {logged[0][1]:.3f} to {logged[-1][1]:.3f}."
    return figure


def plot_accuracies(
    accuracies: Mapping[str, object], families: Mapping[str, str] | None = None
) -> Picture:
    """One line a model: its accuracy as an interval. `families` maps names to families."""
    figure, axes = _figure(height=0.45 * len(accuracies) + 0.9)
    for row, (name, accuracy) in enumerate(accuracies.items()):
        middle, spread = _scaled([accuracy], 100)
        colour = COLOURS[(families or {}).get(name, "other")]
        axes.errorbar(middle, row, xerr=spread, fmt="o", color=colour)
        axes.annotate(
            f"{middle[0]:.1f}", (middle[0], row), (0, 7), textcoords="offset points", ha="center"
        )
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.set(xlabel="accuracy (%), 95 % interval", ylim=(len(accuracies) - 0.4, -0.7))
    figure.alt = "Accuracy with 95 % intervals. " + _listed(
        f"{name} {100 * a.value:.1f} % ({100 * a.low:.1f} to {100 * a.high:.1f})"
        for name, a in accuracies.items()
    )
    return figure


def plot_confusion(matrix: np.ndarray, labels: Sequence[str]) -> Picture:
    """Confusion matrix: rows are the gold labels, columns the predicted ones."""
    side = 2.4 + 0.6 * len(labels)
    figure, axes = _figure(side, side - 0.4)
    axes.imshow(matrix)
    for (row, column), count in np.ndenumerate(matrix):
        shade = "white" if count > matrix.max() / 2 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=shade)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
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
    figure, axes = _figure(9.6)
    alt = _curves(axes, series, families or {}, scale=100)
    axes.set(xlabel="sentences with a label (log scale)", ylabel="accuracy (%), 95 % interval")
    figure.alt = f"Accuracy in percent by number of labelled sentences. {alt}"
    return figure


def plot_calibration(series: Mapping[str, Mapping[int, object]], *, reference: object) -> Picture:
    """Accuracy against calibration sentences, one line a way to quantize; `reference` is FP32's."""
    figure, axes = _figure(9.6)
    axes.axhline(100 * reference.value, color="black", linestyle="--", label="FP32")
    alt = _curves(axes, series, {}, scale=100)
    axes.set(xlabel="calibration sentences (log scale)", ylabel="accuracy (%), 95 % interval")
    figure.alt = f"Accuracy by calibration sentences; FP32 {100 * reference.value:.1f} %. {alt}"
    return figure


def plot_sweep(rows: Sequence[Mapping], value: str, *, xlabel: str, ylabel: str) -> Picture:
    """One line a variant over the sizes of a sweep, with bands, on logarithmic axes.

    `rows` have `name`, `size` and what `value` names (median_ms or per_second): (value, low, high).
    """
    figure, axes = _figure(9.6)
    series = {}
    for row in rows:
        series.setdefault(row["name"], {})[row["size"]] = Interval(*row[value])
    alt = _curves(axes, series, {})
    axes.set(xlabel=xlabel, ylabel=f"{ylabel}, 95 % interval", yscale="log")
    figure.alt = f"{ylabel} by {xlabel}. {alt}"
    return figure


def plot_story(points: Sequence[Mapping]) -> Picture:
    """Accuracy against latency, area in proportion to size, of the models made so far.

    `points` have `step`, `name`, `accuracy` (share of 1), `milliseconds` and `megabytes`; those of
    steps before the last are paler.
    """
    figure, axes = _figure()
    last, student = max(point["step"] for point in points), COLOURS["student"]
    shown = [
        (p["name"], p["milliseconds"], p["accuracy"], p["megabytes"], None, student) for p in points
    ]
    alphas = [0.8 if point["step"] == last else 0.3 for point in points]
    alt = _cloud(axes, shown, [p["name"] for p in points], alphas=alphas)
    axes.set(xlabel="latency, a quick look (ms, log scale); area: size", ylabel="accuracy (%)")
    figure.alt = f"Accuracy against latency of the models so far. {alt}"
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
    ours = [_point(row) for row in rows if row["accuracy"]]
    theirs = [
        (r["name"], r["latency_ms"], r["accuracy"], r["size_mb"], None, COLOURS["blog"])
        for r in blog
    ]
    panels = {"the blog, on its machine": theirs, "here": ours} if blog else {"": ours}
    if not {r["name"] for r in blog} & set(label):
        label = [*label, *(r["name"] for r in blog)]
    figure, both = _figure(
        5.4 * len(panels) + 1.8, 4.4, ncols=len(panels), sharex=True, sharey=True, squeeze=False
    )
    figure.alt = "Accuracy against latency. "
    for axes, title in zip(both[0], panels, strict=True):
        axes.set(title=title, xlabel="median latency, batch 1 (ms, log scale); area: size")
    both[0, 0].set(ylabel="accuracy (%), ours with 95 % interval")
    for axes, (title, points) in zip(both[0], panels.items(), strict=True):
        figure.alt += f"{title}: {_cloud(axes, points, label, marked=marked)} "
    return figure


def plot_speedups(rows: Sequence[Mapping], *, over: str = "", blog: float = 16.47) -> Picture:
    """Speedup of each row over the row `over`, by default the first that its `speedups` name."""
    over = over or next(iter(rows[0]["speedups"]))
    figure, axes = _figure(9.6, 0.35 * len(rows) + 1.2)
    ratios = {row["name"]: _interval(row["speedups"][over]) for row in rows}
    _bars(axes, ratios, [0] * len(rows), [_colour(row) for row in rows])
    axes.axvline(blog, color=COLOURS["blog"], linestyle="--", label=f"the blog's {blog}x")
    axes.set(xlabel=f"times as fast as {over} (log scale), 95 % interval")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0))
    figure.alt = f"Speedup over {over}. " + _ratios(ratios)
    return figure


def plot_waterfall(factors: Mapping[str, object]) -> Picture:
    """Factors (intervals) that multiply to the last one, each bar standing on those before."""
    figure, axes = _figure(height=0.5 * len(factors) + 1)
    starts = np.cumprod([1.0] + [factor.value for factor in factors.values()])[:-1]
    starts[-1] = 1.0
    colours = [COLOURS["student"]] * (len(factors) - 1) + [COLOURS["other"]]
    _bars(axes, factors, starts, colours)
    axes.set(xlabel="times as fast, multiplied up (log scale), 95 % intervals")
    figure.alt = "What the speedup is made of. " + _ratios(factors)
    return figure


def plot_operator_times(times: Mapping[str, Mapping[str, float]]) -> Picture:
    """Milliseconds of one inference by operator type, one bar a model file."""
    figure, axes = _figure(9.6, 0.5 * len(times) + 1.6)
    left, kinds = np.zeros(len(times)), {kind for found in times.values() for kind in found}
    largest = {kind: max(found.get(kind, 0) for found in times.values()) for kind in kinds}
    for kind in sorted(sorted(kinds), key=largest.get, reverse=True)[:7]:
        widths = [found.get(kind, 0.0) for found in times.values()]
        axes.barh(list(times), widths, left=left, label=kind)
        left += widths
    rest = [sum(found.values()) for found in times.values()] - left
    axes.barh(list(times), rest, left=left, label="others", color=_PALE)
    axes.set(xlabel="time in operators per inference (ms)")
    axes.invert_yaxis()
    axes.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
    figure.alt = "Time by operator in one inference. " + _listed(
        f"{name}: {sum(found.values()):.2f} ms, most in {max(found, key=found.get)}"
        for name, found in times.items()
    )
    return figure


def plot_weight_histogram(weights: np.ndarray, quantized: np.ndarray) -> Picture:
    """A matrix's weights before quantization, and after it as scale * (q - zero_point)."""
    figure, both = _figure(height=3.8, nrows=2, sharex=True)
    count = len(np.unique(quantized))
    shown = (("FP32", weights, "teacher"), (f"INT8, {count} values", quantized, "student"))
    for axes, (title, values, family) in zip(both, shown, strict=True):
        axes.hist(np.ravel(values), bins=400, color=COLOURS[family])
        axes.set(title=title, ylabel="weights")
    both[1].set(xlabel="value of a weight")
    figure.alt = (
        f"Histograms of {weights.size} weights: in FP32 from {weights.min():.3f} to "
        f"{weights.max():.3f}; after quantization on {count} values, on average "
        f"{np.abs(weights - quantized).mean():.5f} away."
    )
    return figure


def plot_activation_grid(values: np.ndarray, scale: float, zero_point: int) -> Picture:
    """A histogram of activations under the 256 steps of UINT8, scale * (q - zero_point).

    The lower panel looks at the middle 99 % of the values.
    """
    figure, both = _figure(height=4.4, nrows=2)
    steps, values = scale * (np.arange(256) - zero_point), np.ravel(values)
    low, high = np.percentile(values, [0.5, 99.5])
    used = int(np.sum((steps >= low) & (steps <= high)))
    titles = f"all values, 256 steps of {scale:.3g}", f"the middle 99 %: {used} of the 256 steps"
    ends = (values.min(), values.max()), (low, high)
    for axes, title, limits in zip(both, titles, ends, strict=True):
        axes.vlines(
            steps, 0, 1, transform=axes.get_xaxis_transform(), color=COLOURS["student"], lw=0.5
        )
        axes.hist(values, bins=200, range=limits, color=COLOURS["teacher"], log=True)
        axes.set(title=title, ylabel="values", xlim=limits)
    both[1].set(xlabel="value of an activation")
    figure.alt = (
        f"Histogram of {len(values)} activations from {values.min():.2f} to {values.max():.2f}: "
        f"99 % of them lie between {low:.2f} and {high:.2f}, on {used} of the 256 steps."
    )
    return figure


def _figure(width: float = 7.2, height: float = 3.6, **subplots):
    figure = Picture(figsize=(width, height))
    return figure, figure.subplots(**subplots)


def _interval(found: Mapping[str, float]) -> Interval:
    return Interval(found["value"], found["low"], found["high"])


def _point(row: Mapping) -> tuple:
    accuracy = Interval(row["accuracy"]["value"], *row["accuracy"]["ci95"])
    size, latency = row["size_mb"] or 1, row["latency_ms"]["p50"]
    return row["name"], latency, accuracy.value, size, accuracy, _colour(row)


def _colour(row: Mapping) -> str:
    return COLOURS[row.get("family") or FAMILIES.get(row["model"], "other")]


def _shades(colour: str, count: int) -> list[tuple[float, ...]]:
    """Shades of one colour, dark to light."""
    base = np.array(to_rgb(colour))
    return [tuple(base + (1 - base) * share) for share in np.linspace(0, 0.55, count)]


def _scaled(intervals: Iterable, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Values (n,) and how far their intervals reach below and above them (2, n)."""
    value, low, high = scale * np.array([(i.value, i.low, i.high) for i in intervals]).T
    return value, np.array([value - low, high - value])


def _curves(axes: Axes, series: Mapping, families: Mapping[str, str], scale: float = 1) -> str:
    """Draw {name: {x: interval}} over a logarithmic x; returns it in words."""
    for place, (name, points) in enumerate(series.items()):
        family = families.get(name)
        same = [other for other in series if families.get(other) == family]
        colour = _shades(COLOURS[family], len(same))[same.index(name)] if family else f"C{place}"
        xs, (values, spread) = list(points), _scaled(points.values(), scale)
        look = {"color": colour, "marker": "os^Dv"[place % 5], "label": name}
        if len(xs) == 1:
            axes.errorbar(xs, values, yerr=spread, linestyle="none", **look)
        else:
            axes.plot(xs, values, linestyle=("-", "--", ":", "-.")[place % 4], **look)
            axes.fill_between(
                xs, values - spread[0], values + spread[1], color=colour, alpha=0.15, linewidth=0
            )
    ticks = sorted({x for points in series.values() for x in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, ticks)
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return _listed(
        f"{name}: " + ", ".join(f"{scale * i.value:.3g} at {x}" for x, i in points.items())
        for name, points in series.items()
    )


def _bars(axes: Axes, ratios: Mapping[str, object], starts, colours: Sequence[str]) -> None:
    """Draw horizontal bars of ratios on a logarithmic axis, each times its start if not 0."""
    for place, (ratio, start) in enumerate(zip(ratios.values(), starts, strict=True)):
        (value,), spread = _scaled([ratio], start or 1)
        axes.barh(place, value - start, left=start, xerr=spread, color=colours[place], alpha=0.8)
        text = f"{ratio.value:.2f}x" if ratio.value < 10 else f"{ratio.value:.1f}x"
        at = (max(start, value + spread[1, 0]), place)
        axes.annotate(text, at, (4, 0), textcoords="offset points", va="center")
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_yticks(range(len(ratios)), list(ratios))
    axes.invert_yaxis()


def _cloud(axes: Axes, points, named, *, marked=(), alphas=None) -> str:
    """Draw points (name, ms, accuracy, MB, interval, colour); returns them in words."""
    for number, (name, x, accuracy, size, interval, own) in enumerate(points):
        y, colour = 100 * accuracy, own if name in named else _PALE
        alpha = alphas[number] if alphas else 0.6
        axes.scatter(x, y, s=2 * size, color=colour, alpha=alpha, linewidth=0)
        if interval and name in named:
            axes.errorbar(x, y, yerr=_scaled([interval], 100)[1], color=colour, alpha=0.5)
        if name in marked:
            axes.scatter(x, y, s=160, facecolors="none", edgecolors="black")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.15, y=0.25)
    _write_names(axes, [(p[1], 100 * p[2], p[0] if p[0] in named else "") for p in points])
    return _listed(f"{p[0]} {p[1]:.2f} ms, {100 * p[2]:.1f} %, {p[3]:.0f} MB" for p in points)


def _write_names(axes: Axes, points: Sequence[tuple[float, float, str]]) -> None:
    """Write names beside their points (x, y, name), off the points and the other names."""
    axes.figure.draw_without_rendering()  # only then it is known where the axes lie
    unit = axes.figure.dpi / 72  # pixels of a typographic point
    marks = axes.transData.transform([(x, y) for x, y, _ in points])
    taken = [Bbox.from_bounds(*(mark - 5 * unit), 10 * unit, 10 * unit) for mark in marks]
    line = {"arrowstyle": "-", "color": _PALE, "shrinkA": 0, "shrinkB": 4}
    for (x, y, name), mark in zip(points, marks, strict=True):
        if name:
            text = axes.annotate(
                name, (x, y), (0, 0), textcoords="offset points", fontsize=9, arrowprops=line
            )
            width, height = text.get_window_extent().size
            boxes = [
                Bbox.from_bounds(mark[0] + dx, mark[1] + dy, width, height)
                for far in np.arange(8, 130, 8) * unit
                for dx, dy in [(far, -height / 2), (-far - width, -height / 2)]
                + [
                    (dx, dy)
                    for dx in (-width / 2, far, -far - width)
                    for dy in (far, -far - height)
                ]
            ]
            best = min(boxes, key=lambda box: _crossings(box, taken, axes.bbox))
            text.set_position((best.p0 - mark) / unit)
            taken.append(best)


def _crossings(box: Bbox, taken: Sequence[Bbox], frame: Bbox) -> int:
    whole = frame.containsx(box.x0) and frame.containsx(box.x1)
    whole = whole and frame.containsy(box.y0) and frame.containsy(box.y1)
    return sum(box.overlaps(other) for other in taken) + (0 if whole else 10)


def _ratios(ratios: Mapping[str, object]) -> str:
    return _listed(
        f"{name} {r.value:.2f}x ({r.low:.2f} to {r.high:.2f})" for name, r in ratios.items()
    )


def _listed(parts: Iterable[str]) -> str:
    return "; ".join(parts) + "."
