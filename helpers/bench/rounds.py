"""Latency on the CPU: the rows of a table timed in interleaved rounds.

A round gives every row a block of calls, in a shuffled order, on the same sentences. A slow spell
of the machine then falls on all rows alike. Rows of one runtime share a process that loads each
model once; a row with `isolate` has one of its own. The rounds end when the ratios that matter are
known narrowly enough. No library does this: benchmark tools time one row after another.
"""

import contextlib
import os
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import psutil
from tqdm import tqdm

from helpers.bench.engine import ENGINE, start_engine
from helpers.bench.engine_worker import time_block
from helpers.bench.statistics import Timings, speedup
from helpers.bench.workers import WorkerError, WorkerProcess
from helpers.environment import physical_cores
from helpers.runtimes import load_text_encoder, pad_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from helpers.tutorial.profile import Profile, Section

MIN_ROUNDS = 8
QUIET = 0.05  # share of the machine
# Idle threads of a runtime spin for a while before they sleep; at 5 ms they still disturbed the
# next row's block on two threads (90th percentiles twice the median), at 50 ms they do not.
_PAUSE_S = 0.05


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

    def __str__(self) -> str:
        return f"{self.kind} {self.size or ''}".strip()


OWN = Workload("own")


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

    def job(self) -> dict[str, Any]:
        """What its process is told, as JSON has it."""
        source = str(self.source) if isinstance(self.source, Path) else self.source
        if hasattr(source, "model_dump"):
            source = source.model_dump()
        names = {"runtime": self.runtime, "options": self.options}
        return {"source": source, "tokenizer": str(self.tokenizer), **names}


@dataclass
class Measurements:
    """What `run_benchmark` found.

    `timings` by (threads, workload), then by name; `memory_mb` by (threads, name), what the process
    of an isolated row holds for itself once the row is loaded and warm; `others` by (threads,
    workload), the share of the machine that other programs used meanwhile; `unavailable` gives
    reasons by name.
    """

    timings: dict[tuple[int, Workload], dict[str, Timings]] = field(default_factory=dict)
    memory_mb: dict[tuple[int, str], float] = field(default_factory=dict)
    others: dict[tuple[int, Workload], float] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """How many rounds there were, whether the machine was quiet, and what was left out."""
        lines = []
        for (threads, workload), timings in self.timings.items():
            rounds, share = len(next(iter(timings.values())).rounds), self.others[threads, workload]
            verdict = "quiet" if share < QUIET else "BUSY: do not quote these figures"
            count = f"{threads} thread{'s' if threads > 1 else ''}"
            lines.append(
                f"{count}, {workload}: {rounds} rounds; others used {share:.1%}, {verdict}"
            )
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
        weighed = folder / (source if isinstance(source, str) else "baseline.onnx")
        row = Variant(
            f"{model}, {what}",
            model,
            runtime,
            precision,
            source=weighed if isinstance(source, str) else source,
            tokenizer=folder / "student",
            size_mb=size_mb(weighed),
            predictions=predictions,
            options=options[0] if options else {},
        )
        rows.append(replace(row, **{"optional": runtime == ENGINE} | settings))
    return rows


def tfidf_row(labelled: "Dataset") -> Variant:
    """The row of TF-IDF and a logistic regression, fitted on sentences with labels."""
    fitted_on = (list(labelled["sentence"]), list(labelled["label"]))
    name = "TF-IDF + logistic regression"
    return Variant(name, "TF-IDF", "scikit-learn", "FP64", fitted_on, predictions="tfidf")


def pytorch_baseline(profile: "Profile") -> tuple[Any, str]:
    """What the baseline on PyTorch is loaded from, and the name of its predictions.

    Its weights are the teacher's where the profile says so, or else untrained: no predictions.
    """
    if profile.baseline.weights == "teacher":
        return "teacher", "teacher"
    return profile.baseline.architecture, ""


def thread_counts(settings: "Section") -> list[int]:
    """The thread counts to time at, the smallest first; 0 stands for every physical core."""
    return sorted({count or physical_cores() for count in settings.threads})


def run_benchmark(
    variants: Sequence[Variant],
    sentences: Sequence[str],
    settings: "Section",
    *,
    workloads: Sequence[Workload],
    max_length: int,
    seed: int,
    headlines: Sequence[tuple[str, str]] = (),
    threads: Sequence[int] = (),
    rounds: int = 0,
    unavailable: Mapping[str, str] | None = None,
) -> Measurements:
    """Time every row at every thread count on every workload, in shuffled rounds.

    The rounds end once the 95 % interval of each of the `headlines`, ratios (slow row, fast row),
    reaches no further than `settings.precision` of the ratio to either side, but not before
    MIN_ROUNDS; or after `rounds`, by default `settings.rounds`. `unavailable` gives reasons of rows
    that are left out already.

    Raises:
        RuntimeError: a row that is not optional could not be loaded, or died.
    """
    found = Measurements(unavailable=dict(unavailable or {}))
    rounds = rounds or settings.rounds
    inputs = {
        str(tokenizer): _inputs(tokenizer, sentences, workloads, settings, max_length)
        for tokenizer in {variant.tokenizer for variant in variants}
    }
    for count in threads or thread_counts(settings):
        with ExitStack() as stack:
            shared = {"threads": count, "max_length": max_length, "warm_ms": 5 * settings.block_ms}
            workers = _start_workers(variants, inputs, shared, found, stack)
            for workload in workloads:
                with _others_share() as others:
                    timed = _run_rounds(
                        workers, workload, inputs, settings, seed, headlines, rounds, count
                    )
                found.timings[count, workload] = timed
                found.others[count, workload] = others()
            for worker in workers.values():
                worker.close()  # all at once, before each is waited for
    return found


def _start_workers(variants, inputs, shared, found, stack) -> dict[str, WorkerProcess]:
    """Start all processes, then wait for each; returns by row the process it is in."""
    together, started, workers = defaultdict(dict), [], {}
    for variant in variants:
        if variant.name not in found.unavailable:
            process = variant.name if variant.isolate else variant.runtime
            together[process][variant.name] = variant
    for members in together.values():
        rows = {name: variant.job() for name, variant in members.items()}
        given = {row["tokenizer"]: inputs[row["tokenizer"]] for row in rows.values()}
        engine = any(row["runtime"] == ENGINE for row in rows.values())
        try:
            worker = (start_engine if engine else WorkerProcess)(rows, given, **shared)
            started.append((members, stack.enter_context(worker), {}))
        except WorkerError as error:
            started.append((members, None, dict.fromkeys(rows, str(error))))
    for members, worker, faults in started:
        faults = worker.wait_until_loaded() if worker else faults
        for name, variant in members.items():
            if name not in faults:
                workers[name] = worker
                if variant.isolate:
                    found.memory_mb[shared["threads"], name] = worker.memory_mb()
            elif variant.optional:
                found.unavailable[name] = faults[name]
            else:
                raise RuntimeError(f"{name}: {faults[name]}")
    return workers


def _run_rounds(
    workers, workload, inputs, settings, seed, headlines, rounds, threads
) -> dict[str, Timings]:
    rng, size = random.Random(seed), min(len(of[str(workload)]["items"]) for of in inputs.values())
    timings = {name: Timings() for name in workers}
    what = f"timing, {threads} thread{'s' if threads > 1 else ''}, {workload}"
    for number in tqdm(range(settings.warmup_rounds + rounds), desc=what):
        chosen = [rng.randrange(size) for _ in range(settings.sentences_per_block)]
        for name in rng.sample(list(workers), len(workers)):
            try:
                calls = workers[name].time(name, str(workload), chosen, settings.block_ms)
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


def row_logits(
    variants: Sequence[Variant], sentences: Sequence[str], *, max_length: int
) -> dict[str, np.ndarray]:
    """Logits (sentences, classes) of rows by their `predictions`, from one text at a time.

    Optional rows that cannot be run are left out; why is printed.
    """
    texts = {"own": {"items": list(sentences), "warm": [0]}}
    inputs = {str(variant.tokenizer): texts for variant in variants}
    shared = {"threads": physical_cores(), "max_length": max_length, "warm_ms": 0}
    found = Measurements()
    with ExitStack() as stack:
        workers = _start_workers(variants, inputs, shared, found, stack)
        for name, reason in found.unavailable.items():
            print(f"left out: {name}: {reason}")
        ran = [variant for variant in variants if variant.name in workers]
        return {row.predictions: workers[row.name].logits(row.name, "own") for row in ran}


def time_together(
    runs: Mapping[str, Callable], items: Sequence[tuple], *, rounds: int, block_ms: float, seed: int
) -> dict[str, Timings]:
    """Time functions in this process, in shuffled rounds on the same arguments.

    For models of one runtime on one thread; `run_benchmark` keeps runtimes and threads off each
    other.
    """
    rng = random.Random(seed)
    timings = {name: Timings() for name in runs}
    for _ in tqdm(range(rounds), desc="timing, 1 thread"):
        for name in rng.sample(list(runs), len(runs)):
            calls = time_block(runs[name], list(items), milliseconds=block_ms)
            timings[name].rounds.append(calls)
    return timings


@contextmanager
def _others_share() -> Iterator[Callable[[], float]]:
    """Give a function that tells, afterwards, what share of the machine other programs used."""

    def used():
        times, ours = psutil.cpu_times(), 0.0
        idle = times.idle + getattr(times, "iowait", 0) + getattr(times, "guest", 0)
        for process in our_processes():
            with contextlib.suppress(psutil.Error):
                ours += sum(process.cpu_times()[:4])  # its children that have ended are in it
        return sum(times) - idle - ours, time.monotonic()

    before, started = used()
    result = []
    yield lambda: result[0]
    after, ended = used()
    capacity = (ended - started) * (psutil.cpu_count() or 1)
    result.append(max(0.0, (after - before) / capacity))


def our_processes() -> list[psutil.Process]:
    """This process and its children; under `make run`, the runner and all that it started.

    The runner names its process in the environment variable TUTORIAL_RUNNER.
    """
    own = psutil.Process()
    runner = os.environ.get("TUTORIAL_RUNNER", "")
    top = next((above for above in own.parents() if str(above.pid) == runner), own)
    return [top, *top.children(recursive=True)]


def _inputs(
    tokenizer: Path | None,
    sentences: Sequence[str],
    workloads: Sequence[Workload],
    settings: "Section",
    max_length: int,
) -> dict[str, dict]:
    """By workload what rows of a tokenizer are run on, and one input of each length to warm up."""
    if tokenizer is None:
        texts = {"items": list(sentences), "warm": [0]}
        return {str(workload): texts for workload in workloads}
    encode = load_text_encoder(tokenizer, max_length)
    rows = [encode(sentence)[0][0] for sentence in sentences]
    one_each = list({len(row): number for number, row in enumerate(rows)}.values())
    inputs = {}
    for workload in workloads:
        kind, size = workload
        if kind == "own":
            inputs[str(workload)] = {"items": list(sentences), "warm": one_each}
            continue
        if kind == "padded":
            items = [pad_rows([row], size) for row in rows]
        elif kind == "filled":
            inner = np.resize(np.concatenate([row[1:-1] for row in rows]), size - 2)
            items = [pad_rows([np.concatenate([rows[0][:1], inner, rows[0][-1:]])], size)]
        else:
            chosen = [rows[number % len(rows)] for number in range(size)]
            items = [pad_rows(chosen, settings.sequence_length)]
        as_lists = [[part.tolist() for part in item] for item in items]
        inputs[str(workload)] = {"items": as_lists, "warm": [0]}
    return inputs
