"""Figures: one palette, the same colour for the same model everywhere, units on every axis."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from helpers.benchmark import Speedup
from helpers.metrics import Accuracy

# Okabe and Ito's palette, told apart with every common form of colour blindness
_PALETTE = {
    "baseline": "#000000",
    "teacher": "#0072B2",
    "student": "#D55E00",
    "other": "#009E73",
    "blog": "#999999",
}


def _figure(figsize: tuple[float, float] = (7.2, 3.6)):
    figure, axes = plt.subplots(figsize=figsize, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def plot_lengths(lengths: Sequence[int], *, cut: int) -> Figure:
    """Histogram of sentence lengths in word pieces, with the length at which they are cut."""
    figure, axes = _figure()
    axes.hist(lengths, bins=np.arange(0, max(*lengths, cut) + 2, 2), color=_PALETTE["other"])
    axes.axvline(cut, color=_PALETTE["baseline"], linestyle="--", label=f"cut at {cut}")
    axes.set(xlabel="length (word pieces)", ylabel="sentences")
    axes.legend()
    return figure


def plot_learning_curve(history: Sequence[Mapping[str, float]], *, ylabel: str) -> Figure:
    """Training loss against the share of an epoch, from `trainer.state.log_history`."""
    logged = [entry for entry in history if "loss" in entry]
    figure, axes = _figure()
    axes.plot(
        [entry["epoch"] for entry in logged], [float(entry["loss"]) for entry in logged],
        marker="o", color=_PALETTE["teacher"],
    )  # fmt: skip
    if not logged:
        axes.set_title("nothing was trained here")
    axes.set(xlabel="epoch", ylabel=ylabel, ylim=(0, None))
    return figure


def plot_accuracies(accuracies: Mapping[str, Accuracy]) -> Figure:
    """One row a system: accuracy on the test sentences with its 95 % interval."""
    figure, axes = _figure()
    for row, (name, accuracy) in enumerate(accuracies.items()):
        low, high = accuracy.value - accuracy.low, accuracy.high - accuracy.value
        axes.errorbar(
            100 * accuracy.value, row, xerr=[[100 * low], [100 * high]], fmt="o", capsize=4,
            color=_colour(name),
        )  # fmt: skip
        axes.annotate(
            f"{100 * accuracy.value:.1f}", (100 * accuracy.value, row), xytext=(0, 7),
            textcoords="offset points", ha="center",
        )  # fmt: skip
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.set(xlabel="test accuracy (%), 95 % interval", ylim=(len(accuracies) - 0.4, -0.6))
    return figure


def plot_calibration(
    series: Mapping[str, Mapping[int, Accuracy]], *, reference: Accuracy
) -> Figure:
    """Accuracy with its 95 % interval against the number of calibration sentences.

    One line a way to quantize; `reference` is FP32's.
    """
    figure, axes = _figure(figsize=(9.6, 3.6))
    axes.axhline(100 * reference.value, color=_PALETTE["baseline"], linestyle="--", label="FP32")
    for place, (name, points) in enumerate(series.items()):
        counts = np.array(list(points))
        values = np.array([[a.value, a.low, a.high] for a in points.values()]).T * 100
        axes.errorbar(
            counts * 1.08**place, values[0], yerr=[values[0] - values[1], values[2] - values[0]],
            fmt="-" + "os^Dv"[place % 5], capsize=3, label=name,
            color=list(_PALETTE.values())[1 + place % 4],
        )  # fmt: skip
    axes.set_xscale("log")
    counts = sorted({count for points in series.values() for count in points})
    axes.set_xticks(counts, counts)
    axes.set(xlabel="calibration sentences", ylabel="accuracy (%), 95 % interval")
    axes.legend(fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left", frameon=False)
    return figure


def plot_confusion(matrix: np.ndarray, labels: Sequence[str]) -> Figure:
    """Confusion matrix: rows are the gold labels, columns the predicted ones."""
    figure, axes = _figure(figsize=(3.6, 3.2))
    axes.imshow(matrix, cmap="Blues")
    for (row, column), count in np.ndenumerate(matrix):
        shade = "white" if count > matrix.max() / 2 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=shade)
    axes.set_xticks(range(len(labels)), labels)
    axes.set_yticks(range(len(labels)), labels)
    axes.set(xlabel="predicted", ylabel="gold")
    axes.grid(False)
    return figure


def plot_frontier(
    rows: Sequence[Mapping], blog: Sequence[Mapping] = (), *, marked: Sequence[str] = ()
) -> Figure:
    """Accuracy against latency, marker area in proportion to size: ours and the blog's.

    `rows` are rows of `benchmark.json` at one thread count and length; those without an accuracy
    are left out, and those whose names are `marked` get a ring. `blog` rows have `name`,
    `latency_ms`, `accuracy` and `size_mb`.
    """
    figure, axes = _figure(figsize=(9.6, 4.8))
    for entry in blog:
        axes.scatter(
            entry["latency_ms"], 100 * entry["accuracy"], s=2 * entry["size_mb"], alpha=0.4,
            color=_PALETTE["blog"],
        )  # fmt: skip
    shown = [row for row in rows if row["accuracy"]]
    for number, row in enumerate(shown, start=1):
        x, y = row["latency_ms"]["p50"], 100 * row["accuracy"]["value"]
        low, high = (abs(100 * limit - y) for limit in row["accuracy"]["ci95"])
        colour = _colour(row["name"])
        axes.errorbar(x, y, yerr=[[low], [high]], color=colour, alpha=0.5, capsize=3)
        axes.scatter(x, y, s=2 * (row["size_mb"] or 1), color=colour, alpha=0.6)
        if row["name"] in marked:
            axes.scatter(x, y, s=160, facecolors="none", edgecolors="black", linewidths=1.5)
        axes.annotate(
            str(number), (x, y + high), xytext=(0, 3 + 11 * (number % 4)),
            textcoords="offset points", ha="center", fontsize=9,
        )  # fmt: skip
        axes.scatter([], [], s=40, color=colour, label=f"{number}  {row['name']}")
    if blog:
        axes.scatter([], [], s=40, color=_PALETTE["blog"], alpha=0.4, label="the blog, its machine")
    if marked:
        axes.scatter([], [], s=60, facecolors="none", edgecolors="black", label="on the frontier")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel="median latency, batch 1 (ms)", ylabel="accuracy (%), 95 % interval")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=9, frameon=False)
    return figure


def plot_speedups(rows: Sequence[Mapping]) -> Figure:
    """Speedup of each row over BERT-Base on PyTorch FP32, with its 95 % interval."""
    figure, axes = _figure(figsize=(7.2, 0.4 * len(rows) + 1))
    for place, row in enumerate(rows):
        value = row["speedup_vs_bert_base_pytorch"]
        low, high = row["speedup_ci95"]
        axes.barh(
            place, value, color=_colour(row["name"]), xerr=[[value - low], [high - value]],
            capsize=3, alpha=0.8,
        )  # fmt: skip
        axes.annotate(
            f"{value:.1f}x", (high, place), xytext=(4, 0), textcoords="offset points", va="center"
        )
    axes.axvline(16.47, color=_PALETTE["baseline"], linestyle="--", label="the blog's 16.47x")
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set(xlabel="speedup over BERT-Base, PyTorch FP32 (same rounds)")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False)
    return figure


def plot_waterfall(factors: Mapping[str, Speedup]) -> Figure:
    """Factors that multiply to the last one, each bar standing on the product of those before."""
    figure, axes = _figure(figsize=(7.2, 0.5 * len(factors) + 1))
    *steps, total = factors.items()
    reached = 1.0
    for place, (_, factor) in enumerate(steps):
        axes.barh(place, reached * (factor.value - 1), left=reached, color=_PALETTE["student"])
        reached *= factor.value
        axes.annotate(
            f"{factor.value:.2f}x", (reached, place), xytext=(4, 0), textcoords="offset points",
            va="center",
        )  # fmt: skip
    value = total[1].value
    spread = [[value - total[1].low], [total[1].high - value]]
    axes.barh(len(steps), value - 1, left=1, color=_PALETTE["teacher"], xerr=spread, capsize=3)
    axes.annotate(
        f"{value:.1f}x", (total[1].high, len(steps)), xytext=(4, 0), textcoords="offset points",
        va="center",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(1, value * 1.8)
    axes.set_yticks(range(len(factors)), list(factors))
    axes.invert_yaxis()
    axes.set(xlabel="times faster, multiplied up (log scale); interval of the total 95 %")
    return figure


def plot_sweep(rows: Sequence[Mapping], value: str, *, xlabel: str, ylabel: str) -> Figure:
    """One line a variant over the sizes of a sweep; `value` names what is drawn: p50 or per_second.

    `rows` are rows of a sweep in `benchmark.json` at one thread count.
    """
    figure, axes = _figure()
    for place, name in enumerate(dict.fromkeys(row["name"] for row in rows)):
        points = [
            (row["size"], row["latency_ms"][value] if value == "p50" else row[value])
            for row in rows
            if row["name"] == name
        ]
        style = ("-", "--", ":", "-.")[place % 4]
        marker = "os^Dv"[place % 5]
        colour = list(_PALETTE.values())[place % len(_PALETTE)]
        axes.plot(*zip(*points, strict=True), style, marker=marker, color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    sizes = sorted({row["size"] for row in rows})
    axes.set_xticks(sizes, sizes)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left", frameon=False)
    return figure


def plot_operator_times(times: Mapping[str, Mapping[str, float]]) -> Figure:
    """Share of one inference each operator type takes, ms, one bar a model file."""
    figure, axes = _figure()
    kinds = sorted({kind for t in times.values() for kind in t})
    left = np.zeros(len(times))
    for kind in sorted(kinds, key=lambda k: -max(t.get(k, 0) for t in times.values()))[:8]:
        widths = np.array([t.get(kind, 0.0) for t in times.values()])
        axes.barh(list(times), widths, left=left, label=kind)
        left += widths
    rest = np.array([sum(t.values()) for t in times.values()]) - left
    axes.barh(list(times), rest, left=left, label="others", color=_PALETTE["blog"])
    axes.invert_yaxis()
    axes.set(xlabel="time in operators per inference (ms)")
    axes.legend(fontsize=8, bbox_to_anchor=(1.0, 1.0), loc="upper left")
    return figure


def _colour(name: str) -> str:
    if "BERT-Mini" in name or "student" in name:
        return _PALETTE["student"]
    if "eacher" in name:
        return _PALETTE["teacher"]
    return _PALETTE["baseline"] if "BERT-Base" in name else _PALETTE["other"]
