"""What the benchmark found, as rows and as `benchmark.json`."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.bench.rounds import MIN_ROUNDS, Measurements, Variant
from helpers.bench.statistics import speedup, typical
from helpers.environment import describe_environment, git_commit

if TYPE_CHECKING:
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


def write_benchmark(
    path: Path, profile: "Profile", rows: Sequence[Mapping], found: Measurements, **sections
) -> None:
    """Write `benchmark.json`: profile, environment, protocol, rows and the raw timings in ms.

    `sections` are further entries, such as sweeps or factors, stored as they are.
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
