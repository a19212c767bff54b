"""Figures: one style, the same colour for the same model everywhere, units, intervals, alt text."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import matplotlib.style
import numpy as np
from IPython.display import Image, display
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from helpers.bench.rounds import Speedup
from helpers.metrics import Accuracy

mpl.style.use(Path(__file__).with_name("tutorial.mplstyle"))
COLOURS = {
    "baseline": "#000000",
    "teacher": "#0072B2",
    "student": "#D55E00",
    "other": "#009E73",
    "blog": "#999999",
}
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
    svg = path.suffix == ".svg"
    figure.savefig(
        path, metadata={"Title": figure.alt, "Date": None} if svg else {"Description": figure.alt}
    )


def _figure(figsize: tuple[float, float] | None = None, **subplots):
    figure = Picture(figsize=figsize)
    return figure, figure.subplots(**subplots)


def _shades(colour: str, count: int) -> list[tuple[float, ...]]:
    """Shades of one model's colour, dark to light, for its variants in one figure."""
    base = np.array(to_rgb(colour))
    steps = np.linspace(-0.6, 0.55, count) if count > 1 else [0.0]
    return [tuple(base * (1 + s) if s < 0 else base + (1 - base) * s) for s in steps]


def plot_lengths(lengths: Sequence[int], *, cut: int) -> Picture:
    """Histogram of sentence lengths in word pieces, with the length at which they are cut."""
    figure, axes = _figure()
    axes.hist(lengths, bins=np.arange(0, max(*lengths, cut) + 2, 2), color=COLOURS["other"])
    axes.axvline(cut, color=COLOURS["baseline"], linestyle="--", label=f"cut at {cut}")
    axes.set(xlabel="length (word pieces)", ylabel="sentences")
    axes.legend()
    figure.alt = (
        f"Histogram of {len(lengths)} sentence lengths: median {np.median(lengths):.0f} word "
        f"pieces, 90th percentile {np.percentile(lengths, 90):.0f}, cut at {cut}."
    )
    return figure


def plot_learning_curve(history: Sequence[Mapping[str, float]], *, ylabel: str) -> Picture:
    """Training loss against the share of an epoch, from `trainer.state.log_history`."""
    logged = [entry for entry in history if "loss" in entry]
    figure, axes = _figure()
    axes.plot(
        [entry["epoch"] for entry in logged], [float(entry["loss"]) for entry in logged],
        marker="o", color=COLOURS["teacher"],
    )  # fmt: skip
    axes.set(xlabel="epoch", ylabel=ylabel, ylim=(0, None))
    if not logged:
        axes.set_title("nothing was trained here")
        figure.alt = "An empty learning curve: nothing was trained here."
        return figure
    first, last = float(logged[0]["loss"]), float(logged[-1]["loss"])
    figure.alt = f"Learning curve: {ylabel} from {first:.3f} to {last:.3f}."
    return figure


def plot_accuracies(accuracies: Mapping[str, Accuracy]) -> Picture:
    """One row a system: accuracy on the test sentences with its 95 % interval."""
    figure, axes = _figure()
    for row, (name, accuracy) in enumerate(accuracies.items()):
        low, high = accuracy.value - accuracy.low, accuracy.high - accuracy.value
        axes.errorbar(
            100 * accuracy.value, row, xerr=[[100 * low], [100 * high]], fmt="o",
            color=_colour(name),
        )  # fmt: skip
        axes.annotate(
            f"{100 * accuracy.value:.1f}", (100 * accuracy.value, row), xytext=(0, 7),
            textcoords="offset points", ha="center",
        )  # fmt: skip
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.set(xlabel="test accuracy (%), 95 % interval", ylim=(len(accuracies) - 0.4, -0.6))
    figure.alt = "Test accuracy with 95 % intervals. " + _listed(
        f"{name} {100 * a.value:.1f} % ({100 * a.low:.1f} to {100 * a.high:.1f})"
        for name, a in accuracies.items()
    )
    return figure


def plot_calibration(
    series: Mapping[str, Mapping[int, Accuracy]], *, reference: Accuracy
) -> Picture:
    """Accuracy with its 95 % interval against the number of calibration sentences.

    One line a way to quantize; `reference` is FP32's.
    """
    figure, axes = _figure(figsize=(9.6, 3.6))
    axes.axhline(100 * reference.value, color=COLOURS["baseline"], linestyle="--", label="FP32")
    shades = _shades(COLOURS["student"], len(series))
    for place, (name, points) in enumerate(series.items()):
        counts = np.array(list(points))
        values = np.array([[a.value, a.low, a.high] for a in points.values()]).T * 100
        axes.errorbar(
            counts * 1.08**place, values[0], yerr=[values[0] - values[1], values[2] - values[0]],
            fmt=_STROKES[place % 4] + _MARKERS[place % 5], label=name, color=shades[place],
        )  # fmt: skip
    axes.set_xscale("log")
    counts = sorted({count for points in series.values() for count in points})
    axes.set_xticks(counts, counts)
    axes.set(xlabel="calibration sentences", ylabel="accuracy (%), 95 % interval")
    axes.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
    figure.alt = (
        f"Accuracy against calibration sentences; FP32 has {100 * reference.value:.1f} %. "
    ) + _listed(
        f"{name}: " + ", ".join(f"{100 * a.value:.1f} % with {n}" for n, a in points.items())
        for name, points in series.items()
    )
    return figure


def plot_confusion(matrix: np.ndarray, labels: Sequence[str]) -> Picture:
    """Confusion matrix: rows are the gold labels, columns the predicted ones."""
    side = 2.4 + 0.6 * len(labels)
    figure, axes = _figure(figsize=(side, side - 0.4))
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


def plot_frontier(
    rows: Sequence[Mapping], blog: Sequence[Mapping] = (), *, marked: Sequence[str] = ()
) -> Picture:
    """Accuracy against latency, marker area in proportion to size: ours, and the blog's beside it.

    `rows` are rows of `benchmark.json` at one thread count and length; those without an accuracy
    are left out, and those whose names are `marked` get a ring. `blog` rows have `name`,
    `latency_ms`, `accuracy` and `size_mb`; they get a panel of their own with the same axes.
    """
    shown = [
        (r["name"], r["latency_ms"]["p50"], r["accuracy"]["value"], r["accuracy"]["ci95"],
         r["size_mb"])
        for r in rows if r["accuracy"]
    ]  # fmt: skip
    panels = {"here": shown}
    if blog:
        theirs = [(r["name"], r["latency_ms"], r["accuracy"], None, r["size_mb"]) for r in blog]
        panels = {"the blog, on its machine": theirs, "here": shown}
    figure = Picture(figsize=(5.4 * len(panels) + 1.6, 5.0 + 0.17 * len(shown)))
    both = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, points) in zip(both, panels.items(), strict=True):
        for number, (name, latency, accuracy, interval, size) in enumerate(points, start=1):
            x, y, top, colour = latency, 100 * accuracy, 100 * accuracy, _colour(name)
            if interval:
                low, top = (100 * limit for limit in interval)
                axes.errorbar(x, y, yerr=[[y - low], [top - y]], color=colour, alpha=0.5)
            axes.scatter(x, y, s=2 * (size or 1), color=colour, alpha=0.5)
            if name in marked:
                axes.scatter(x, y, s=160, facecolors="none", edgecolors="black", linewidths=1.5)
            axes.annotate(
                str(number), (x, top), xytext=(0, 3 + 11 * (number % 4)),
                textcoords="offset points", ha="center", fontsize=9,
            )  # fmt: skip
            axes.scatter([], [], s=40, color=colour, label=f"{number}  {name}")
        if set(marked) & {name for name, *_ in points}:
            ring = {"facecolors": "none", "edgecolors": "black"}
            axes.scatter([], [], s=60, **ring, label="on the frontier")
        axes.set_title(title if blog else "")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.1, y=0.2)
        axes.set(xlabel="median latency, batch 1 (ms); marker area: size (MB)")
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.14), fontsize=8)
    both[0].set(ylabel="accuracy (%), ours with 95 % interval")
    figure.alt = "Accuracy against latency."
    for title, points in panels.items():
        listed = _listed(f"{name} {x:.2f} ms, {100 * y:.1f} %" for name, x, y, *_ in points)
        figure.alt += f" {title}: {listed}" if blog else f" {listed}"
    return figure


def plot_speedups(rows: Sequence[Mapping]) -> Picture:
    """Speedup of each row over BERT-Base on PyTorch FP32, with its 95 % interval."""
    figure, axes = _figure(figsize=(9.6, 0.35 * len(rows) + 1))
    for place, row in enumerate(rows):
        value = row["speedup_vs_bert_base_pytorch"]
        low, high = row["speedup_ci95"]
        axes.barh(
            place, value, color=_colour(row["name"]), xerr=[[value - low], [high - value]],
            alpha=0.8,
        )  # fmt: skip
        axes.annotate(
            f"{value:.1f}x", (high, place), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.axvline(16.47, color=COLOURS["baseline"], linestyle="--", label="the blog's 16.47x")
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="times as fast as BERT-Base, PyTorch FP32 (log scale), 95 % interval")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0))
    figure.alt = "Speedup over BERT-Base on PyTorch FP32. " + _listed(
        f"{row['name']} {row['speedup_vs_bert_base_pytorch']:.1f}x" for row in rows
    )
    return figure


def plot_waterfall(factors: Mapping[str, Speedup]) -> Picture:
    """Factors that multiply to the last one, each bar standing on the product of those before."""
    figure, axes = _figure(figsize=(7.2, 0.5 * len(factors) + 1))
    *steps, total = factors.items()
    reached = 1.0
    for place, (_, factor) in enumerate(steps):
        spread = [[reached * (factor.value - factor.low)], [reached * (factor.high - factor.value)]]
        axes.barh(
            place, reached * (factor.value - 1), left=reached, color=COLOURS["student"],
            xerr=spread,
        )  # fmt: skip
        axes.annotate(
            f"{factor.value:.2f}x", (reached * factor.high, place), xytext=(4, 0),
            textcoords="offset points", va="center",
        )  # fmt: skip
        reached *= factor.value
    value = total[1].value
    spread = [[value - total[1].low], [total[1].high - value]]
    axes.barh(len(steps), value - 1, left=1, color=COLOURS["other"], xerr=spread)
    axes.annotate(
        f"{value:.1f}x", (total[1].high, len(steps)), xytext=(4, 0), textcoords="offset points",
        va="center",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(1, value * 1.8)
    axes.set_yticks(range(len(factors)), list(factors))
    axes.invert_yaxis()
    axes.set(xlabel="times as fast, multiplied up (log scale), 95 % intervals")
    figure.alt = "What the speedup is made of. " + _listed(
        f"{step} {f.value:.2f}x ({f.low:.2f} to {f.high:.2f})" for step, f in factors.items()
    )
    return figure


def plot_sweep(rows: Sequence[Mapping], value: str, *, xlabel: str, ylabel: str) -> Picture:
    """One line a variant over the sizes of a sweep, with 95 % intervals.

    `rows` are rows of a sweep in `benchmark.json` at one thread count; `value` names what is drawn:
    median_ms or per_second, each (value, low, high).
    """
    figure, axes = _figure(figsize=(9.6, 3.6))
    names = list(dict.fromkeys(row["name"] for row in rows))
    lines = []
    for place, (name, shade) in enumerate(
        zip(names, _shades(_colour(names[0]), len(names)), strict=True)
    ):
        sizes, points = zip(
            *[(row["size"], row[value]) for row in rows if row["name"] == name], strict=True
        )
        middle, low, high = np.array(points).T
        axes.errorbar(
            sizes, middle, yerr=[middle - low, high - middle], color=shade, label=name,
            fmt=_STROKES[place % 4] + _MARKERS[place % 5],
        )  # fmt: skip
        at = zip(sizes, middle, strict=True)
        lines.append(f"{name}: " + ", ".join(f"{drawn:.3g} at {size}" for size, drawn in at))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = sorted({row["size"] for row in rows})
    axes.set_xticks(sizes, sizes)
    axes.set(xlabel=xlabel, ylabel=f"{ylabel}, 95 % interval")
    axes.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
    figure.alt = f"{ylabel} against {xlabel}. " + _listed(lines)
    return figure


def plot_operator_times(times: Mapping[str, Mapping[str, float]]) -> Picture:
    """Share of one inference each operator type takes, ms, one bar a model file."""
    figure, axes = _figure()
    kinds = sorted({kind for t in times.values() for kind in t})
    left = np.zeros(len(times))
    for kind in sorted(kinds, key=lambda k: -max(t.get(k, 0) for t in times.values()))[:8]:
        widths = np.array([t.get(kind, 0.0) for t in times.values()])
        axes.barh(list(times), widths, left=left, label=kind)
        left += widths
    rest = np.array([sum(t.values()) for t in times.values()]) - left
    axes.barh(list(times), rest, left=left, label="others", color=COLOURS["blog"])
    axes.invert_yaxis()
    axes.set(xlabel="time in operators per inference (ms)")
    axes.legend(bbox_to_anchor=(1.0, 1.0), loc="upper left")
    figure.alt = "Time by operator in one inference. " + _listed(
        f"{name}: {sum(of.values()):.2f} ms, most in {max(of, key=of.get)}"
        for name, of in times.items()
    )
    return figure


_STROKES, _MARKERS = ("-", "--", ":", "-."), "os^Dv"


def _listed(parts) -> str:
    return "; ".join(parts) + "."


def _colour(name: str) -> str:
    if "BERT-Mini" in name or "student" in name:
        return COLOURS["student"]
    if "eacher" in name:
        return COLOURS["teacher"]
    return COLOURS["baseline"] if "BERT-Base" in name else COLOURS["other"]
