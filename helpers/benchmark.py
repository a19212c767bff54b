"""Latency on the CPU: every variant in its own process, interleaved rounds, ratios per round.

A round gives every variant a turn, in a shuffled order, on the same sentences. A slow spell of
the machine then falls on all variants alike, and a speedup is taken within a round: the baseline's
mean over the variant's, the median of that over the rounds.
"""

import json
import multiprocessing
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy.stats import bootstrap
from tqdm import tqdm

from helpers.environment import physical_cores
from helpers.profile import Architecture, Benchmark
from helpers.runtimes import load_model

OWN_LENGTHS = "own"
# Idle threads of a runtime spin for a while before they sleep; at 5 ms they still disturbed the
# next variant's turn on two threads (90th percentiles twice the median), at 50 ms they do not.
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Variant:
    """One row of the benchmark.

    `source` is a model file or folder, an `Architecture` for a PyTorch model with untrained
    weights, or for the TF-IDF baseline the (sentences, labels) it is fitted on. `tokenizer` is a
    folder; `predictions` names the row's logits on the test sentences, None for untrained weights.
    """

    name: str
    model: str
    runtime: str
    precision: str
    source: Any
    tokenizer: Path | None = None
    size_mb: float | None = None
    predictions: str | None = None


@dataclass
class Timings:
    """Latencies of one variant in milliseconds: one list of calls for each round."""

    rounds: list[list[float]] = field(default_factory=list)

    def round_means(self) -> np.ndarray:
        """Mean latency of each round, ms, shape (rounds,)."""
        return np.array([np.mean(calls) for calls in self.rounds])

    def summary(self) -> dict[str, float]:
        """Percentiles, mean and standard deviation over all calls, ms."""
        calls = np.concatenate([np.asarray(calls) for calls in self.rounds])
        p50, p90, p99 = np.percentile(calls, [50, 90, 99])
        deviation = calls.std(ddof=1) if len(calls) > 1 else 0.0
        values = {"p50": p50, "p90": p90, "p99": p99, "mean": calls.mean(), "std": deviation}
        return {name: float(value) for name, value in values.items()}


@dataclass(frozen=True)
class Speedup:
    """Median of the per-round ratios, with a bootstrap 95 % interval."""

    value: float
    low: float
    high: float


def speedup(baseline: Timings, variant: Timings, *, seed: int = 0) -> Speedup:
    """How many times faster `variant` is than `baseline`, from the ratios within each round.

    Raises:
        ValueError: the two were not timed in the same number of rounds.
    """
    ratios = baseline.round_means() / variant.round_means()
    if len(ratios) < 2 or np.ptp(ratios) == 0:
        return Speedup(*[float(np.median(ratios))] * 3)
    interval = bootstrap(
        (ratios,), np.median, n_resamples=2000, method="percentile", rng=seed
    ).confidence_interval
    return Speedup(float(np.median(ratios)), float(interval.low), float(interval.high))


def run_benchmark(
    variants: Sequence[Variant],
    sentences: Sequence[str],
    settings: Benchmark,
    *,
    max_length: int,
    seed: int,
) -> dict[tuple[int, int | str], dict[str, Timings]]:
    """Time every variant at every thread count, padded and at the sentences' own lengths.

    Batch size is 1 and tokenising lies outside the timed region, as in the blog; TF-IDF has no
    such division and is timed from text to probability. Returns timings by
    (threads, sequence length), then by the variant's name.
    """
    results: dict[tuple[int, int | str], dict[str, Timings]] = {}
    workloads = (settings.sequence_length, OWN_LENGTHS)
    inputs = {v.name: _inputs(v, sentences, workloads, max_length) for v in variants}
    counts = dict.fromkeys(count or physical_cores() for count in settings.threads)
    for threads in counts:
        with ExitStack() as stack:
            workers = {
                variant.name: stack.enter_context(_worker(variant, inputs[variant.name], threads))
                for variant in variants
            }
            for name, connection in workers.items():
                _expect(connection, name)  # loaded, on the right number of threads
            for workload in workloads:
                results[threads, workload] = _run_rounds(
                    workers, workload, len(sentences), settings, seed, threads
                )
    return results


def _run_rounds(workers, workload, count, settings, seed, threads) -> dict[str, Timings]:
    rng = random.Random(seed)
    timings = {name: Timings() for name in workers}
    description = f"timing, {threads} thread{'s' * (threads > 1)}, length {workload}"
    for number in tqdm(range(settings.warmup_rounds + settings.rounds), desc=description):
        chosen = [rng.randrange(count) for _ in range(settings.calls_per_turn)]
        order = rng.sample(list(workers), len(workers))
        for name in order:
            workers[name].send((workload, chosen))
            calls = _expect(workers[name], name)
            if number >= settings.warmup_rounds:
                timings[name].rounds.append(calls)
            time.sleep(_PAUSE_S)
    return timings


@contextmanager
def _worker(variant: Variant, inputs: dict, threads: int):
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    job = (there, variant, inputs, threads)
    process = context.Process(target=_serve, args=job, daemon=True, name=variant.name)
    process.start()
    there.close()
    try:
        yield here
    finally:
        here.close()
        process.join(timeout=10)
        if process.is_alive():
            process.kill()
            process.join()


def _expect(connection, name: str):
    try:
        answer = connection.recv()
    except EOFError:
        raise RuntimeError(f"the process that timed {name} died") from None
    if isinstance(answer, Exception):
        raise RuntimeError(f"{name}: {answer}") from answer
    return answer


def _serve(connection, variant: Variant, inputs: dict, threads: int) -> None:
    """Body of a worker process: load the variant, then time what the parent asks for."""
    try:
        _keep_to_cores(threads)
        run = _load(variant, threads)
        for arguments in _one_of_each_shape(inputs):
            run(*arguments)
        connection.send("ready")
        while True:
            workload, chosen = connection.recv()
            run(*inputs[workload][chosen[0]])  # wakes the caches after the others' turns
            connection.send([_milliseconds(run, inputs[workload][index]) for index in chosen])
    except EOFError:
        return  # the parent is done
    except Exception as error:
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _one_of_each_shape(inputs: dict) -> list[tuple]:
    """Arguments to warm up with: runtimes prepare for a shape when they first see it."""
    shapes = {}
    for arguments in (arguments for workload in inputs.values() for arguments in workload):
        shapes.setdefault(getattr(arguments[0], "shape", None), arguments)
    return list(shapes.values())


def _milliseconds(run, arguments: tuple) -> float:
    start = time.perf_counter_ns()
    run(*arguments)
    return (time.perf_counter_ns() - start) / 1e6


def _keep_to_cores(threads: int) -> None:
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        process.cpu_affinity(process.cpu_affinity()[:threads])


def _load(variant: Variant, threads: int):
    """Return a function that runs the variant once on one sentence's inputs."""
    if variant.runtime == "scikit-learn":
        from helpers.baselines import fit_tfidf

        pipeline = fit_tfidf(*variant.source)
        return lambda sentence: pipeline.predict_proba([sentence])
    source = variant.source
    if isinstance(source, Architecture):
        from helpers.training import untrained_classifier

        source = untrained_classifier(source, seed=0)
    return load_model(variant.runtime, source, threads=threads).run


def _inputs(variant: Variant, sentences, workloads, max_length) -> dict[int | str, list[tuple]]:
    """What the variant is run on, by workload: one tuple of arguments a sentence."""
    if variant.tokenizer is None:
        return {workload: [(sentence,) for sentence in sentences] for workload in workloads}
    from helpers.training import load_tokenizer

    tokenizer = load_tokenizer(variant.tokenizer)
    inputs = {}
    for workload in workloads:
        own = workload == OWN_LENGTHS
        encoded = tokenizer(
            list(sentences),
            truncation=True,
            max_length=max_length if own else workload,
            padding=False if own else "max_length",
        )
        inputs[workload] = [
            (np.array([ids], dtype=np.int64), np.array([mask], dtype=np.int64))
            for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"], strict=True)
        ]
    return inputs


def benchmark_rows(
    variants: Sequence[Variant],
    results: dict[tuple[int, int | str], dict[str, Timings]],
    accuracies: dict[str, Any],
    *,
    baseline: str,
) -> list[dict[str, Any]]:
    """Rows of `benchmark.json`, one for each variant, thread count and sequence length.

    `accuracies` maps a variant's `predictions` to its `metrics.Accuracy`; `baseline` is the name
    of the variant that speedups are measured against.
    """
    rows = []
    for (threads, length), timings in results.items():
        for variant in variants:
            ratio = speedup(timings[baseline], timings[variant.name])
            accuracy = accuracies.get(variant.predictions)
            rows.append(
                {
                    "name": variant.name,
                    "model": variant.model,
                    "runtime": variant.runtime,
                    "precision": variant.precision,
                    "threads": threads,
                    "sequence_length": length,
                    "size_mb": variant.size_mb,
                    "latency_ms": timings[variant.name].summary(),
                    "accuracy": accuracy
                    and {
                        "value": accuracy.value,
                        "ci95": [accuracy.low, accuracy.high],
                        "n": accuracy.n,
                    },
                    "speedup_vs_bert_base_pytorch": ratio.value,
                    "speedup_ci95": [ratio.low, ratio.high],
                }
            )
    return rows


def machine_load() -> dict[str, float]:
    """Share of the CPU that others use, over one second, and the load of the last minute."""
    return {
        "cpu_percent": psutil.cpu_percent(interval=1.0),
        "load_1_minute": psutil.getloadavg()[0],
    }


def write_benchmark(
    path: Path, profile, environment: dict, rows: list, results, load: dict
) -> None:
    """Write `benchmark.json`: profile, environment, protocol, rows and the raw timings in ms."""
    document = {
        "profile": profile.name,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment | {"threads": sorted({row["threads"] for row in rows})},
        "protocol": {
            "batch_size": 1,
            "tokenisation": "outside the timed region",
            "process": "one for each variant, bound to as many cores as threads",
            "order": "shuffled in every round, the same sentences for all",
            "speedup": "median over rounds of baseline mean / variant mean, bootstrap 95 %",
            "load_before": load,
            **profile.benchmark.model_dump(),
        },
        "rows": rows,
        "raw_ms": [
            {
                "threads": threads,
                "sequence_length": length,
                "timings": {name: asdict(t)["rounds"] for name, t in timings.items()},
            }
            for (threads, length), timings in results.items()
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
