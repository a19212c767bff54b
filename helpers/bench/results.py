"""What the benchmark found, as rows and as `benchmark.json`."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from helpers import metrics
from helpers.bench.engine import ENGINE, engine_fault
from helpers.bench.rounds import MIN_ROUNDS, OWN, Measurements, Variant
from helpers.bench.statistics import speedup
from helpers.environment import describe_environment, git_commit

if TYPE_CHECKING:
    from datasets import Dataset
    from pandas.io.formats.style import Styler

    from helpers.tutorial.profile import Profile

_PROTOCOL = {
    "batch_size": 1,
    "tokenisation": "padded: outside the timed region; own lengths: inside",
    "process": "one for each runtime, bound to as many physical cores as threads",
    "order": "shuffled in every round, the same sentences for all",
    "latency": "typical: the median over the rounds of a round's mean",
    "speedup": "ratio of two typical latencies; 95 %: bootstrap over the rounds of one run",
    "stops": f"at {MIN_ROUNDS} rounds or more, once the headlines are within `precision`",
}


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
) -> tuple[dict[str, float], dict[str, metrics.Accuracy], dict[str, str]]:
    """Sort out the rows that label the test sentences otherwise than their own FP32.

    `fp32` maps a model to the name of its FP32 predictions. Returns by row the share of sentences
    with FP32's label; its accuracy; and why it is not to be timed: that share is below `agreement`,
    or there is nothing to compare.
    """
    shares, accuracies, strayed = {}, {}, {}
    for row in variants:
        logits, exact = predictions.get(row.predictions), predictions.get(fp32.get(row.model))
        if logits is not None:
            accuracies[row.name] = metrics.measure_accuracy(logits, test["label"])
        if exact is None:
            continue
        if logits is None:
            fault = engine_fault() if row.runtime == ENGINE else None
            strayed[row.name] = fault or "has no logits on the test sentences"
            continue
        share = shares[row.name] = metrics.agreement(logits, exact)
        if share < agreement:
            strayed[row.name] = f"has FP32's label on {share:.1%} of the test sentences only"
    return shares, accuracies, strayed


def benchmark_rows(
    variants: Sequence[Variant],
    found: Measurements,
    accuracies: Mapping[str, metrics.Accuracy],
    *,
    over: Sequence[str],
) -> list[dict[str, Any]]:
    """Rows of `benchmark.json`: one for each row that was timed, thread count and workload.

    `accuracies` are by row. `speedups` are over the rows named `over`, of which the first also
    gives `speedup_vs_bert_base_pytorch`.
    """
    rows = []
    for (threads, workload), timings in found.timings.items():
        for variant in (v for v in variants if v.name in timings):
            fields = ("name", "model", "family", "runtime", "precision", "size_mb")
            row = {field: getattr(variant, field) for field in fields}
            row |= {"threads": threads, "sequence_length": workload}
            row["latency_ms"] = timings[variant.name].summary()
            row["accuracy"] = None
            if a := accuracies.get(variant.name):
                row["accuracy"] = {"value": a.value, "ci95": [a.low, a.high], "n": a.n}
            ratios = {slow: speedup(timings[slow], timings[variant.name]) for slow in over}
            row["speedups"] = {name: ratio._asdict() for name, ratio in ratios.items()}
            row["speedup_vs_bert_base_pytorch"] = ratios[over[0]].value
            rows.append(row)
    return rows


def results_table(rows: Sequence[Mapping], threads: int) -> "Styler":
    """The rows at one thread count, to read: padded as in the blog, then from text to label.

    Milliseconds are typical ones; "times" is over the first of `speedups`.
    """
    shown = {}
    for row in (row for row in rows if row["threads"] == threads):
        kind = "text, " if row["sequence_length"] == OWN else ""
        latency, ratio = row["latency_ms"], next(iter(row["speedups"].values()))
        line = shown.setdefault(row["name"], {"MB": row["size_mb"]})
        line["accuracy"] = f"{row['accuracy']['value']:.4f}" if row["accuracy"] else None
        line |= {f"{kind}ms": latency["typical"], f"{kind}p99": latency["p99"]}
        line[f"{kind}times"] = str(metrics.Interval(**ratio))
    return pd.DataFrame(shown).T.style.format(precision=2, na_rep="")


def write_benchmark(
    path: Path, profile: "Profile", rows: Sequence[Mapping], found: Measurements, **sections
) -> None:
    """Write `benchmark.json`: profile, environment, protocol, rows and the raw timings in ms.

    `sections` are further entries, stored as they are.
    """
    raw = [
        {
            "threads": threads,
            "sequence_length": workload,
            "timings": {name: timing.rounds for name, timing in timings.items()},
        }
        for (threads, workload), timings in found.timings.items()
    ]
    others = {f"{count} threads, {work}": share for (count, work), share in found.others.items()}
    document = {
        "profile": profile.name,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git_commit(),
        "environment": describe_environment() | {"threads": sorted({n for n, _ in found.timings})},
        "protocol": _PROTOCOL | {"others_used": others} | profile.benchmark.model_dump(),
        "rows": rows,
        "unavailable": found.unavailable,
        **sections,
        "raw_ms": raw,
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
