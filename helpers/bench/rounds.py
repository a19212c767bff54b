"""Latency on the CPU: the rows of a table timed in interleaved rounds.

A round gives every row a block of calls, in a shuffled order, on the same sentences. A slow spell
of the machine then falls on all rows, though not on all by the same factor. Rows of one runtime
share a process that loads each model once; a row with `isolate` has one of its own. The rounds end
when the ratios that matter are known narrowly enough. No library does this: benchmark tools time
one row after another.
"""

import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from tqdm import tqdm

from helpers.bench.engine import ENGINE, engine_command, engine_fault
from helpers.bench.statistics import Timings, speedup
from helpers.bench.worker import OWN, time_block
from helpers.bench.workers import WorkerError, WorkerProcess
from helpers.environment import physical_cores

if TYPE_CHECKING:
    from datasets import Dataset

    from helpers.tutorial.profile import Profile, Section

MIN_ROUNDS = 8
QUIET = 0.05  # share of the machine
# Idle threads of a runtime spin for a while before they sleep; at 5 ms they still disturbed the
# next row's block on two threads (90th percentiles twice the median), at 50 ms they do not.
_PAUSE_S = 0.05


@dataclass(frozen=True)
class Variant:
    """One row of the benchmark.

    `source` is a model file or folder, an architecture for a PyTorch model with untrained
    weights, or for scikit-learn the (sentences, labels) that TF-IDF is fitted on. `tokenizer` is a
    folder; `predictions` names the row's logits on the test sentences, "" for untrained weights.
    `options` go to `runtimes.load_model`. Where an `optional` row cannot be run, the benchmark goes
    on without it and says why. With `isolate` the row has a process of its own. `family` is the
    row's colour in figures, see `plots.COLOURS`.
    """

    name: str
    model: str
    runtime: str
    precision: str
    source: Any
    tokenizer: Path | None = None
    size_mb: float | None = None
    predictions: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    optional: bool = False
    isolate: bool = False
    family: str = "other"


@dataclass
class Measurements:
    """What `run_benchmark` found.

    `timings` by (threads, workload), then by name; `others` by (threads, workload), the share of
    the machine that other programs used meanwhile; `memory_mb` by (threads, name), what the process
    of an isolated row holds for itself; `unavailable` gives reasons by name.
    """

    timings: dict[tuple[int, int | str], dict[str, Timings]] = field(default_factory=dict)
    others: dict[tuple[int, int | str], float] = field(default_factory=dict)
    memory_mb: dict[tuple[int, str], float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """How many rounds there were, whether the machine was quiet, and what was left out."""
        lines = []
        for case, timings in self.timings.items():
            rounds, share = len(next(iter(timings.values())).rounds), self.others[case]
            verdict = "quiet" if share < QUIET else "BUSY: do not quote these figures"
            lines.append(f"{_said(*case)}: {rounds} rounds; others used {share:.1%}, {verdict}")
        lines += [f"left out: {name}: {reason}" for name, reason in self.unavailable.items()]
        return "\n".join(lines)


def make_rows(model: str, table: Mapping[str, tuple], folder: Path, **settings) -> list[Variant]:
    """Rows of one model: `table` maps what they run on to what they are.

    That is (runtime, precision, source, predictions) and options, if any, as in `Variant`; a source
    is a name in `folder`, or an architecture, as large as `baseline.onnx`. `settings` hold for all.
    """
    from helpers.export import size_mb  # heavy: not into every process

    rows = []
    for what, (runtime, precision, source, predictions, *options) in table.items():
        file = folder / (source if isinstance(source, str) else "baseline.onnx")
        source = file if isinstance(source, str) else source
        given = {"tokenizer": folder / "student", "size_mb": size_mb(file)}
        given |= {"predictions": predictions, "options": options[0] if options else {}}
        given |= {"optional": runtime == ENGINE} | settings
        rows.append(Variant(f"{model}, {what}", model, runtime, precision, source, **given))
    return rows


def tfidf_row(labelled: "Dataset") -> Variant:
    """The row of TF-IDF and a logistic regression, fitted on sentences with labels."""
    fitted_on = (list(labelled["sentence"]), list(labelled["label"]))
    name = "TF-IDF + logistic regression"
    return Variant(name, "TF-IDF", "scikit-learn", "FP64", fitted_on, predictions="tfidf")


def pytorch_baseline(profile: "Profile") -> tuple[Any, str]:
    """What the baseline on PyTorch is loaded from, and the name of its predictions, if any."""
    if profile.baseline.weights == "teacher":
        return "teacher", "baseline_onnx"  # FP32; the teacher's own may be in BF16
    return profile.baseline.architecture, ""


def thread_counts(settings: "Section") -> list[int]:
    """The thread counts to time at, the smallest first; 0 stands for every physical core."""
    return sorted({count or physical_cores() for count in settings.threads})


def run_benchmark(
    variants: Sequence[Variant],
    sentences: Sequence[str],
    settings: "Section",
    *,
    workloads: Sequence[int | str],
    max_length: int,
    seed: int,
    headlines: Sequence[tuple[str, str]] = (),
    threads: Sequence[int] = (),
    rounds: int = 0,
    unavailable: Mapping[str, str] | None = None,
) -> Measurements:
    """Time every row at every thread count on every workload, in shuffled rounds.

    A workload is a number of word pieces that each sentence is padded to, tokenised beforehand; or
    OWN, each sentence as text and unpadded, where tokenising is timed. One call gets one sentence.
    The rounds end once the 95 % interval of each of the `headlines`, ratios (slow row, fast row),
    reaches no further than `settings.precision` of the ratio to either side, but not before
    MIN_ROUNDS; or after `rounds`, by default `settings.rounds`. `unavailable` gives reasons of rows
    that are left out already.

    Raises:
        RuntimeError: a row that is not optional could not be loaded, or died.
    """
    found = Measurements(unavailable=dict(unavailable or {}))
    for count in threads or thread_counts(settings):
        with ExitStack() as stack:
            how = {"threads": count, "max_length": max_length, "warm_ms": 2 * settings.block_ms}
            workers = _start_workers(variants, found, stack, sentences, workloads, **how)
            for case in ((count, workload) for workload in workloads):
                used, began = _used_by_others(), time.monotonic()
                how = {"rounds": rounds or settings.rounds, "rng": random.Random(seed)}
                timed = _run_rounds(workers, case, len(sentences), settings, headlines, **how)
                capacity = (time.monotonic() - began) * (psutil.cpu_count() or 1)
                found.timings[case] = timed
                found.others[case] = max(0.0, (_used_by_others() - used) / capacity)
    return found


def _start_workers(variants, found, stack, *given, threads, **sizes) -> dict[str, WorkerProcess]:
    """Start all processes, then wait for each; returns by row the process it is in."""
    together, started, workers = defaultdict(list), [], {}
    for variant in variants:
        if variant.runtime == ENGINE and (fault := engine_fault()):
            found.unavailable.setdefault(variant.name, fault)
        if variant.name not in found.unavailable:
            together[variant.name if variant.isolate else variant.runtime].append(variant)
    for members in together.values():
        command = {"command": engine_command()} if members[0].runtime == ENGINE else {}
        rows = {variant.name: vars(variant) for variant in members}
        worker = WorkerProcess(rows, *given, threads=threads, **sizes, **command)
        started.append((members, stack.enter_context(worker)))
    for members, worker in started:
        faults = worker.wait_until_loaded()
        for variant, name in ((variant, variant.name) for variant in members):
            if name not in faults:
                workers[name] = worker
                if variant.isolate:
                    found.memory_mb[threads, name] = worker.memory_mb
            elif variant.optional:
                found.unavailable[name] = faults[name]
            else:
                raise RuntimeError(f"{name}: {faults[name]}")
    return workers


def _run_rounds(
    workers, case, sentences, settings, headlines, *, rounds, rng
) -> dict[str, Timings]:
    timings = {name: Timings() for name in workers}
    for number in tqdm(range(settings.warmup_rounds + rounds), desc=f"timing, {_said(*case)}"):
        chosen = rng.choices(range(sentences), k=settings.sentences_per_block)
        for name in rng.sample(list(workers), len(workers)):
            try:
                calls = workers[name].time(name, case[1], chosen, settings.block_ms)
            except WorkerError as error:
                raise RuntimeError(f"{name}: {error}") from error
            if number >= settings.warmup_rounds:
                timings[name].rounds.append(calls)
            time.sleep(_PAUSE_S)
        timed = number + 1 - settings.warmup_rounds
        if timed >= MIN_ROUNDS and narrow(timings, headlines, settings.precision):
            break
    return timings


def narrow(
    timings: Mapping[str, Timings], headlines: Sequence[tuple[str, str]], precision: float
) -> bool:
    """Whether the intervals of all headlines that were timed are narrow; False if none was."""
    reach = []
    for slow, fast in headlines:
        if slow in timings and fast in timings:
            ratio = speedup(timings[slow], timings[fast])
            reach.append(max(ratio.high - ratio.value, ratio.value - ratio.low) / ratio.value)
    return bool(reach) and max(reach) <= precision


def time_together(
    runs: Mapping[str, Callable], items: Sequence[tuple], *, rounds: int, block_ms: float, seed: int
) -> dict[str, Timings]:
    """Time functions of one thread in this process, in shuffled rounds on the same arguments."""
    rng, timings = random.Random(seed), {name: Timings() for name in runs}
    for _ in tqdm(range(rounds), desc="timing, 1 thread"):
        for name in rng.sample(list(runs), len(runs)):
            calls = time_block(runs[name], list(items), milliseconds=block_ms)
            timings[name].rounds.append(calls)
    return timings


def _used_by_others() -> float:
    """Seconds that programs outside this process and its children have kept the CPUs busy."""
    times, own = psutil.cpu_times(), psutil.Process()
    used = sum(times) - times.idle - getattr(times, "iowait", 0) - getattr(times, "guest", 0)
    for process in [own, *own.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            used -= sum(process.cpu_times()[:4])  # its children that have ended are in it
    return used


def _said(threads: int, workload: int | str) -> str:
    what = workload if workload == OWN else f"padded {workload}"
    return f"{threads} thread{'s' if threads > 1 else ''}, {what}"
