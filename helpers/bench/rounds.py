"""Latency on the CPU: every variant in its own process, interleaved rounds, ratios per round.

A round gives every variant a turn, in a shuffled order, on the same sentences. A slow spell of
the machine then falls on all variants alike, and a speedup is taken within a round: the baseline's
mean over the variant's, the median of that over the rounds.
"""

import contextlib
import json
import multiprocessing
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from tqdm import tqdm

from helpers.bench.engine import EngineError, EngineProcess
from helpers.bench.engine_worker import time_turn
from helpers.environment import git_commit, physical_cores
from helpers.tutorial.profile import Architecture, Benchmark
from helpers.runtimes import load_model, load_text_encoder, pad_rows

OWN_LENGTHS = "own"
# Idle threads of a runtime spin for a while before they sleep; at 5 ms they still disturbed the
# next variant's turn on two threads (90th percentiles twice the median), at 50 ms they do not.
_PAUSE_S = 0.05
_ENGINE = "reference engine"


class Workload(NamedTuple):
    """What one call is given.

    kind       size           a call gets
    "padded"   word pieces    one sentence, padded to this length; tokenising is not timed
    "own"                     one sentence as text, unpadded; tokenising is timed
    "filled"   word pieces    as many real word pieces, from sentences joined
    "batch"    sentences      as many sentences, padded to the benchmark's length
    """

    kind: str
    size: int = 0


OWN = Workload("own")


@dataclass(frozen=True)
class Variant:
    """One row of the benchmark.

    `source` is a model file or folder, an `Architecture` for a PyTorch model with untrained
    weights, or for the TF-IDF baseline the (sentences, labels) it is fitted on. `tokenizer` is a
    folder; `predictions` names the row's logits on the test sentences, None for untrained weights.
    `options` go to `runtimes.load_model`. Where an `optional` variant cannot be run, the benchmark
    goes on without it and says why.
    """

    name: str
    model: str
    runtime: str
    precision: str
    source: Any
    tokenizer: Path | None = None
    size_mb: float | None = None
    predictions: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    optional: bool = False


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
    return Speedup(*_median(baseline.round_means() / variant.round_means(), seed))


def _median(values: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Median of (n,) values with the limits of its bootstrap 95 % interval."""
    median = float(np.median(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return median, median, median
    from scipy.stats import bootstrap  # heavy: not into every worker

    interval = bootstrap(
        (values,), np.median, n_resamples=2000, method="percentile", rng=seed
    ).confidence_interval
    return median, float(interval.low), float(interval.high)


def decompose(chain: Sequence[Timings], *, seed: int = 0) -> list[Speedup]:
    """Factors between neighbours of a chain of variants timed in the same rounds, then in all.

    A factor is a ratio of two medians over the rounds, so that the factors multiply to the last
    entry, the ratio of the chain's ends. Intervals (95 %) come from resampling whole rounds.
    """
    means = np.array([timings.round_means() for timings in chain])
    draws = np.random.default_rng(seed).integers(means.shape[1], size=(2000, means.shape[1]))
    drawn = np.median(means[:, draws], axis=2)
    medians = np.median(means, axis=1)
    pairs = [*zip(range(len(chain)), range(1, len(chain)), strict=False), (0, len(chain) - 1)]
    return [
        Speedup(
            float(medians[slow] / medians[fast]),
            *map(float, np.percentile(drawn[slow] / drawn[fast], [2.5, 97.5])),
        )
        for slow, fast in pairs
    ]


@dataclass
class Measurements:
    """What `run_benchmark` found.

    `timings` by (threads, workload), then by name; `memory_mb` by (threads, name), what a variant's
    process holds for itself once it is loaded and warm; `others` by (threads, workload), the share
    of the machine that other programs used meanwhile; `unavailable` gives reasons by name.
    """

    timings: dict[tuple[int, Workload], dict[str, Timings]] = field(default_factory=dict)
    memory_mb: dict[tuple[int, str], float] = field(default_factory=dict)
    others: dict[tuple[int, Workload], float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def quiet(self, threads: int, workload: Workload) -> bool:
        """Whether the machine was left to the benchmark: others took under 5 % of it."""
        return self.others[threads, workload] < 0.05


def thread_counts(settings: Benchmark) -> list[int]:
    """The thread counts to time at, the smallest first; 0 stands for every physical core."""
    return sorted({count or physical_cores() for count in settings.threads})


def run_benchmark(
    variants: Sequence[Variant],
    sentences: Sequence[str],
    settings: Benchmark,
    *,
    workloads: Sequence[Workload],
    max_length: int,
    seed: int,
    rounds: int | None = None,
) -> Measurements:
    """Time every variant at every thread count on every workload, in `rounds` shuffled rounds.

    Raises:
        RuntimeError: a variant that is not optional could not be loaded or died.
    """
    found = Measurements()
    inputs = {v.name: _inputs(v, sentences, workloads, settings, max_length) for v in variants}
    for threads in thread_counts(settings):
        with ExitStack() as stack:
            workers = {}
            present = [variant for variant in variants if variant.name not in found.unavailable]
            for variant in present:
                start = _EngineWorker if variant.runtime == _ENGINE else _SpawnedWorker
                worker = start(
                    variant, inputs[variant.name], threads, max_length, 5 * settings.turn_ms
                )
                workers[variant.name] = stack.enter_context(worker)
            for variant in present:
                try:
                    memory = workers[variant.name].wait_until_ready()
                    found.memory_mb[threads, variant.name] = memory
                except (RuntimeError, EngineError) as error:
                    if not variant.optional:
                        raise RuntimeError(f"{variant.name}: {error}") from error
                    found.unavailable[variant.name] = _reason(error)
                    del workers[variant.name]
            for worker in workers.values():
                stack.callback(worker.close)  # all at once, before each is waited for
            for workload in workloads:
                size = min(len(of[workload]) for of in inputs.values())
                with _others_share() as others:
                    timed = _run_rounds(workers, workload, size, settings, seed, threads, rounds)
                found.timings[threads, workload] = timed
                found.others[threads, workload] = others()
    return found


def _reason(error: Exception) -> str:
    """The line of a message that tells most: the first, unless it only says where it comes from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines[0].endswith(":") else lines[0]


def _run_rounds(workers, workload, count, settings, seed, threads, rounds) -> dict[str, Timings]:
    rng = random.Random(seed)
    timings = {name: Timings() for name in workers}
    what = f"{workload.kind} {workload.size or ''}".strip()
    description = f"timing, {threads} thread{'s' * (threads > 1)}, {what}"
    for number in tqdm(
        range(settings.warmup_rounds + (rounds or settings.rounds)), desc=description
    ):
        chosen = [rng.randrange(count) for _ in range(settings.sentences_per_turn)]
        for name in rng.sample(list(workers), len(workers)):
            try:
                calls = workers[name].time(workload, chosen, settings.turn_ms)
            except (RuntimeError, EngineError) as error:
                raise RuntimeError(f"{name}: {error}") from error
            if number >= settings.warmup_rounds:
                timings[name].rounds.append(calls)
            time.sleep(_PAUSE_S)
    return timings


def time_together(
    runs: Mapping[str, Callable], items: Sequence[tuple], *, rounds: int, turn_ms: float, seed: int
) -> dict[str, Timings]:
    """Time functions in this process, in shuffled rounds on the same arguments.

    For models of one runtime on one thread: idle threads of another would take the machine from
    the one whose turn it is, which is why `run_benchmark` gives each variant a process.
    """
    rng = random.Random(seed)
    timings = {name: Timings() for name in runs}
    for _ in tqdm(range(rounds), desc="timing, 1 thread"):
        for name in rng.sample(list(runs), len(runs)):
            timings[name].rounds.append(time_turn(runs[name], list(items), milliseconds=turn_ms))
    return timings


@contextmanager
def _others_share():
    """Give a function that tells, afterwards, what share of the machine other programs used."""

    def used():
        times = psutil.cpu_times()
        everyone = (
            sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0)
        )
        ours = 0.0
        for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                mine = process.cpu_times()
                ours += mine.user + mine.system
        return everyone - ours, time.monotonic()

    before, started = used()
    result = []
    yield lambda: result[0]
    after, ended = used()
    capacity = (ended - started) * (psutil.cpu_count() or 1)
    result.append(max(0.0, (after - before) / capacity))


class _SpawnedWorker:
    """A variant in a Python process of its own, bound to as many cores as threads."""

    def __init__(
        self, variant: Variant, inputs: dict, threads: int, max_length: int, warm_ms: float
    ):
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        job = (there, variant, inputs, threads, max_length, warm_ms)
        self._process = context.Process(target=_serve, args=job, daemon=True, name=variant.name)
        self._process.start()
        there.close()

    def wait_until_ready(self) -> float:
        """Wait for loading and warming up; returns the process's own memory, MB."""
        self._expect()
        return _own_memory_mb(self._process.pid)

    def time(self, workload: Workload, chosen: list[int], milliseconds: float) -> list[float]:
        """Milliseconds of each call of a turn on the chosen inputs."""
        self._connection.send((workload, chosen, milliseconds))
        return self._expect()

    def _expect(self):
        try:
            answer = self._connection.recv()
        except EOFError:
            raise RuntimeError("its process died") from None
        if isinstance(answer, Exception):
            raise RuntimeError(str(answer)) from answer
        return answer

    def __enter__(self):
        return self

    def close(self) -> None:
        """Tell the process that it is done with, without waiting for its end."""
        self._connection.close()

    def __exit__(self, *_):
        self.close()
        self._process.join(timeout=10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class _EngineWorker:
    """The reference engine behind the same three calls."""

    def __init__(
        self, variant: Variant, inputs: dict, threads: int, max_length: int, warm_ms: float
    ):  # the engine warms up by itself
        as_lists = {
            str(workload): [
                item[0] if len(item) == 1 else [part[0].tolist() for part in item] for item in items
            ]
            for workload, items in inputs.items()
            if workload.kind != "batch"
        }
        self._start = partial(
            EngineProcess, variant.source, variant.tokenizer, as_lists, threads=threads,
            max_length=max_length, **variant.options,
        )  # fmt: skip
        self._engine = None

    def wait_until_ready(self) -> float:
        """Start it, load, warm up; returns the process's own memory, MB."""
        self._engine = self._start()
        return _own_memory_mb(self._engine.pid)

    def time(self, workload: Workload, chosen: list[int], milliseconds: float) -> list[float]:
        """The same as the others'."""
        return self._engine.time(str(workload), chosen, milliseconds)

    def __enter__(self):
        return self

    def close(self) -> None:
        """End it."""
        if self._engine:
            self._engine.close()
            self._engine = None

    def __exit__(self, *_):
        self.close()


def _own_memory_mb(pid: int) -> float:
    return psutil.Process(pid).memory_full_info().uss / 2**20


def _serve(
    connection, variant: Variant, inputs: dict, threads: int, max_length: int, warm_ms: float
) -> None:
    """Body of a worker process: load the variant, then time what the parent asks for."""
    try:
        keep_to_cores(threads)
        calls = _load(variant, threads, max_length)
        for workload, items in inputs.items():
            _warm_up(calls[workload.kind], items, milliseconds=warm_ms)
        connection.send("ready")
        while True:
            workload, chosen, milliseconds = connection.recv()
            items = [inputs[workload][index] for index in chosen]
            connection.send(time_turn(calls[workload.kind], items, milliseconds=milliseconds))
    except EOFError:
        return  # the parent is done
    except Exception as error:
        connection.send(RuntimeError(f"{type(error).__name__}: {error}"))


def _warm_up(run, items: list[tuple], *, milliseconds: float, turns: int = 10) -> None:
    """Call until the median of a turn is within 5 % of the turn before it, at most ten turns.

    A runtime prepares for each shape when it first sees it, so one input of each is run before.
    """
    for item in {getattr(item[0], "shape", item[0]): item for item in items}.values():
        run(*item)
    last = None
    for _ in range(turns):
        median = np.median(time_turn(run, items[:1], milliseconds=milliseconds))
        if last and abs(median / last - 1) < 0.05:
            return
        last = median


def keep_to_cores(threads: int) -> None:
    """Bind this process to as many cores as it is to have threads, where the system can."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):
        process.cpu_affinity(process.cpu_affinity()[:threads])


def _load(variant: Variant, threads: int, max_length: int) -> dict[str, Callable]:
    """Return by kind of workload the function that runs the variant once."""
    if variant.runtime == "scikit-learn":
        from helpers.baselines import fit_tfidf

        pipeline = fit_tfidf(*variant.source)
        return defaultdict(lambda: lambda sentence: pipeline.predict_proba([sentence]))
    source = variant.source
    if isinstance(source, Architecture):
        from helpers.training import untrained_classifier

        source = untrained_classifier(source, seed=0)
    run = load_model(variant.runtime, source, threads=threads, **variant.options).run
    encode = load_text_encoder(variant.tokenizer, max_length)
    return defaultdict(lambda: run, own=lambda text: run(*encode(text)))


def _inputs(
    variant: Variant,
    sentences: Sequence[str],
    workloads: Sequence[Workload],
    settings: Benchmark,
    max_length: int,
) -> dict[Workload, list[tuple]]:
    """What the variant is run on, by workload: one tuple of arguments a call."""
    if variant.tokenizer is None:
        return {workload: [(sentence,) for sentence in sentences] for workload in workloads}
    encode = load_text_encoder(variant.tokenizer, max_length)
    rows = [encode(sentence)[0][0] for sentence in sentences]
    inputs = {}
    for workload in workloads:
        kind, size = workload
        if kind == "own":
            inputs[workload] = [(sentence,) for sentence in sentences]
        elif kind == "padded":
            inputs[workload] = [pad_rows([row], size) for row in rows]
        elif kind == "filled":
            inner = np.concatenate([row[1:-1] for row in rows])
            longest = np.concatenate([rows[0][:1], np.resize(inner, size - 2), rows[0][-1:]])
            inputs[workload] = [pad_rows([longest], size)]
        else:
            chosen = [rows[i % len(rows)] for i in range(size)]
            inputs[workload] = [pad_rows(chosen, settings.sequence_length)]
    return inputs


def benchmark_rows(
    variants: Sequence[Variant],
    found: Measurements,
    accuracies: dict[str, Any],
    *,
    baseline: str,
    also: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Rows of `benchmark.json`: one for each variant, thread count and main workload.

    `accuracies` maps a variant's `predictions` to its `metrics.Accuracy`. Speedups are over the
    variant called `baseline`, and in `speedups` over those in `also` too.
    """
    rows = []
    for (threads, workload), timings in found.timings.items():
        if workload.kind not in ("padded", "own"):
            continue
        for variant in (v for v in variants if v.name in timings):
            ratios = {
                other: speedup(timings[other], timings[variant.name]) for other in (baseline, *also)
            }
            accuracy = accuracies.get(variant.predictions)
            rows.append(
                {
                    "name": variant.name,
                    "model": variant.model,
                    "runtime": variant.runtime,
                    "precision": variant.precision,
                    "threads": threads,
                    "sequence_length": workload.size or OWN_LENGTHS,
                    "size_mb": variant.size_mb,
                    "memory_mb": found.memory_mb[threads, variant.name],
                    "latency_ms": timings[variant.name].summary(),
                    "accuracy": accuracy
                    and {
                        "value": accuracy.value,
                        "ci95": [accuracy.low, accuracy.high],
                        "n": accuracy.n,
                    },
                    "speedup_vs_bert_base_pytorch": ratios[baseline].value,
                    "speedup_ci95": [ratios[baseline].low, ratios[baseline].high],
                    "speedups": {name: asdict(ratio) for name, ratio in ratios.items()},
                }
            )
    return rows


def sweep_rows(found: Measurements) -> list[dict[str, Any]]:
    """Rows on cost as work grows: by length ("filled") and by batch.

    `median_ms` and `per_second`, sentences, are medians over the rounds, with the limits of their
    95 % intervals.
    """
    rows = []
    for (threads, workload), timings in found.timings.items():
        if workload.kind not in ("filled", "batch"):
            continue
        sentences = workload.size if workload.kind == "batch" else 1
        for name, timing in timings.items():
            value, low, high = _median(timing.round_means())
            row = {"name": name, "threads": threads, "kind": workload.kind, "size": workload.size}
            row["median_ms"] = [value, low, high]
            row["per_second"] = [1000 * sentences / ms for ms in (value, high, low)]
            rows.append(row)
    return rows


def write_benchmark(
    path: Path, profile, environment: dict, rows: list, found: Measurements, **sections
) -> None:
    """Write `benchmark.json`: profile, environment, protocol, rows and the raw timings in ms.

    `sections` are further entries, such as sweeps or factors, stored as they are.
    """
    document = {
        "profile": profile.name,
        "date": datetime.now(UTC).date().isoformat(),
        "commit": git_commit(),
        "environment": environment | {"threads": sorted({row["threads"] for row in rows})},
        "protocol": {
            "batch_size": 1,
            "tokenisation": "padded: outside the timed region; own lengths: inside",
            "process": "one for each variant, bound to as many cores as threads",
            "order": "shuffled in every round, the same sentences for all",
            "speedup": "median over rounds of baseline mean / variant mean, bootstrap 95 %",
            "others_used": {
                f"{threads} threads, {workload.kind} {workload.size or ''}".strip(): share
                for (threads, workload), share in found.others.items()
            },
            **profile.benchmark.model_dump(),
        },
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
