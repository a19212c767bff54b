"""What the benchmark found, as rows and as `benchmark.json`."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from helpers.bench.engine import ENGINE, engine_fault
from helpers.bench.rounds import MIN_ROUNDS, Measurements, Variant
from helpers.bench.statistics import Estimate, speedup, typical
from helpers.environment import describe_environment, git_commit

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas.io.formats.style import Styler

    from helpers.metrics import Accuracy
    from helpers.tutorial.profile import Profile

OWN_LENGTHS = "own"
_PROTOCOL = {
    "batch_size": 1,
    "tokenisation": "padded: outside the timed region; own lengths: inside",
    "process": "one for each runtime, bound to as many physical cores as threads",
    "order": "shuffled in every round, the same sentences for all",
    "latency": "typical: the median over the rounds of a round's mean",
    "speedup": "ratio of two typical latencies; 95 %: bootstrap over the rounds of one run",
    "stops": f"at {MIN_ROUNDS} rounds or more, once the headlines are within `precision`",
}


class Labels(NamedTuple):
    """How the rows label the test sentences; see `check_labels`."""

    timed: list[Variant]
    strayed: dict[str, str]
    shares: dict[str, float]
    accuracies: dict[str, "Accuracy"]


def load_predictions(folder: Path, numbers: Sequence[str]) -> dict[str, np.ndarray]:
    """Logits on the test sentences, (sentences, classes), by name, from these notebooks."""
    found = {}
    for number in numbers:
        with np.load(folder / f"predictions_{number}.npz") as stored:
            found |= dict(stored)
    return found


def check_labels(
    variants: Sequence[Variant],
    predictions: Mapping[str, np.ndarray],
    test: "Dataset",
    fp32: Mapping[str, str],
    agreement: float,
) -> Labels:
    """Sort out the rows that label the test sentences otherwise than their own FP32.

    `fp32` maps a model to the name of its FP32 predictions. Returns the rows to be `timed`, those
    with FP32's label on at least the share `agreement` of the sentences or with nothing to
    compare; why the others `strayed`; all `shares`, by row; and all `accuracies`, by predictions.
    """
    from helpers import metrics

    shares, accuracies, strayed = {}, {}, {}
    for row in variants:
        if (logits := predictions.get(row.predictions)) is None:
            if fp32.get(row.model) in predictions:  # then it should have some
                fault = engine_fault() if row.runtime == ENGINE else None
                strayed[row.name] = fault or "has no logits on the test sentences"
            continue
        accuracies[row.predictions] = metrics.measure_accuracy(logits, test["label"])
        if fp32.get(row.model) in predictions:
            shares[row.name] = metrics.agreement(logits, predictions[fp32[row.model]])
    for name, share in shares.items():
        if share < agreement:
            strayed[name] = f"has FP32's label on {share:.1%} of the test sentences only"
    timed = [row for row in variants if row.name not in strayed]
    return Labels(timed, strayed, shares, accuracies)


def benchmark_rows(
    variants: Sequence[Variant],
    found: Measurements,
    accuracies: Mapping[str, "Accuracy"],
    *,
    over: Sequence[str],
) -> list[dict[str, Any]]:
    """Rows of `benchmark.json`: one for each row, thread count and main workload.

    `accuracies` maps a row's `predictions` to its accuracy. `speedups` are over the rows named
    `over`, of which the first also gives `speedup_vs_bert_base_pytorch`.
    """
    rows = []
    for (threads, workload), timings in found.timings.items():
        for variant in (v for v in variants if v.name in timings):
            ratios = {slow: speedup(timings[slow], timings[variant.name]) for slow in over}
            main, accuracy = ratios[over[0]], accuracies.get(variant.predictions)
            if accuracy:
                interval = [accuracy.low, accuracy.high]
                accuracy = {"value": accuracy.value, "ci95": interval, "n": accuracy.n}
            rows.append(
                {
                    "name": variant.name,
                    "model": variant.model,
                    "family": variant.family,
                    "runtime": variant.runtime,
                    "precision": variant.precision,
                    "threads": threads,
                    "sequence_length": workload.size or OWN_LENGTHS,
                    "size_mb": variant.size_mb,
                    "memory_mb": found.memory_mb.get((threads, variant.name)),
                    "latency_ms": timings[variant.name].summary(),
                    "accuracy": accuracy,
                    "speedup_vs_bert_base_pytorch": main.value,
                    "speedup_ci95": [main.low, main.high],
                    "speedups": {name: ratio._asdict() for name, ratio in ratios.items()},
                }
            )
    return rows


def results_table(rows: Sequence[Mapping], threads: int) -> "Styler":
    """The rows at one thread count, to read: padded as in the blog, then from text to label.

    Milliseconds are typical ones; "times" is over the first of `speedups`.
    """
    import pandas as pd

    shown = {}
    for row in (row for row in rows if row["threads"] == threads):
        line, latency = shown.setdefault(row["name"], {}), row["latency_ms"]
        line["MB"] = row["size_mb"]
        line["accuracy"] = row["accuracy"] and row["accuracy"]["value"]
        kind = "text, " if row["sequence_length"] == OWN_LENGTHS else ""
        line |= {f"{kind}ms": latency["typical"], f"{kind}p99": latency["p99"]}
        line[f"{kind}times"] = row["speedup_vs_bert_base_pytorch"]
        line[f"{kind}95 %"] = "{:.1f} to {:.1f}".format(*row["speedup_ci95"])
    table = pd.DataFrame(shown).T
    digits = {"MB": "{:.1f}", "accuracy": "{:.4f}"}
    for kind in ("", "text, "):
        digits |= {f"{kind}ms": "{:.2f}", f"{kind}p99": "{:.2f}", f"{kind}times": "{:.1f}"}
    return table.style.format({name: digits.get(name) for name in table}, na_rep="")


def sweep_rows(found: Measurements) -> list[dict[str, Any]]:
    """Rows on cost as work grows: by length ("filled") and by batch.

    `median_ms` and `per_second`, sentences, are over the rounds, with their 95 % intervals.
    """
    rows = []
    for (threads, workload), timings in found.timings.items():
        sentences = workload.size if workload.kind == "batch" else 1
        for name, timing in timings.items():
            row = {"name": name, "threads": threads, "kind": workload.kind, "size": workload.size}
            value, low, high = row["median_ms"] = typical(timing)
            row["per_second"] = [1000 * sentences / ms for ms in (value, high, low)]
            rows.append(row)
    return rows


def story_point(rows: Sequence[Mapping], name: str) -> dict[str, float]:
    """A row's point in the story's picture: from text to label, on the fewest threads."""
    row = next(r for r in rows if (r["name"], r["sequence_length"]) == (name, OWN_LENGTHS))
    milliseconds, accuracy = row["latency_ms"]["typical"], row["accuracy"]["value"]
    return {"accuracy": accuracy, "milliseconds": milliseconds, "megabytes": row["size_mb"]}


def write_benchmark(
    path: Path,
    profile: "Profile",
    rows: Sequence[Mapping],
    found: Measurements,
    *,
    factors: Mapping[int, Mapping[str, Estimate]],
    **sections,
) -> None:
    """Write `benchmark.json`: profile, environment, protocol, rows and the raw timings in ms.

    `factors` are those of `statistics.decompose` by thread count; `sections` are further entries,
    stored as they are.
    """
    counts = sorted({row["threads"] for row in rows})
    others = {
        f"{threads} threads, {work}": share for (threads, work), share in found.others.items()
    }
    document = {
        "profile": profile.name,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git_commit(),
        "environment": describe_environment() | {"threads": counts},
        "protocol": _PROTOCOL | {"others_used": others} | profile.benchmark.model_dump(),
        "rows": rows,
        "unavailable": found.unavailable,
        "factors": {
            threads: {step: factor._asdict() for step, factor in steps.items()}
            for threads, steps in factors.items()
        },
        **sections,
        "raw_ms": [
            {
                "threads": threads,
                "sequence_length": workload.size or OWN_LENGTHS,
                "workload": workload.kind,
                "timings": {name: timing.rounds for name, timing in timings.items()},
            }
            for (threads, workload), timings in found.timings.items()
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
