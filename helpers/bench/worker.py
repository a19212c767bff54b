"""A process that loads rows and times them, as `workers.WorkerProcess` starts it.

The blog's engine has a Python of its own, in `.engine`, without this package: what this file needs
of the package is imported where other runtimes are loaded. Requests come on standard input and are
answered on standard output, one JSON value a line. The first is the job, see `workers.py`; it is
answered with {"faults": {row: reason}, "memory_mb": what the process holds}. Others are one of

    {"row": name, "workload": 64}    -> the row's logits of each input
    {"row": ..., "workload": ..., "chosen": [2, 0, 5], "milliseconds": 30}    -> see time_block

An answer {"error": text} ends the conversation.
"""

import importlib
import json
import os
import sys
import time
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import psutil

ENGINE = "blog's engine"
OWN = "own"
_IMPORTS = {"pytorch": "transformers", "scikit-learn": "sklearn"}  # what takes long to import


def time_block(run: Callable, items: list[tuple], *, milliseconds: float) -> list[float]:
    """Time calls on the items in order, as often as fit into the given time, at least once each.

    `items` are tuples of arguments. Returns the milliseconds of each call. Before that the items
    are run for a third of the time, untimed: after a pause a core's caches are cold and its clock
    is low for a few calls.
    """
    started = time.perf_counter()
    for item in items:
        run(*item)
        if 3000 * (time.perf_counter() - started) > milliseconds:
            break
    calls, started = [], time.perf_counter()
    while not calls or 1000 * (time.perf_counter() - started) < milliseconds:
        for item in items:
            start = time.perf_counter_ns()
            run(*item)
            calls.append((time.perf_counter_ns() - start) / 1e6)
    return calls


def warm_up(run: Callable, items: list[tuple], *, milliseconds: float) -> None:
    """Call it on items of all lengths, then until two blocks' medians differ by less than 5 %."""
    for item in items:  # a runtime prepares for a length when it first sees it
        run(*item)
    last = 0.0
    for _ in range(10):
        median = float(np.median(time_block(run, items[:1], milliseconds=milliseconds)))
        if abs(median - last) < 0.05 * last:
            return
        last = median


def load_row(row: dict, job: dict) -> dict[int | str, tuple[Callable, list[tuple]]]:
    """Load a row and warm it up; returns by workload its function and what that is called with."""
    loaded = {}
    for workload in job["workloads"]:
        length, options = 0 if workload == OWN else workload, dict(row["options"])
        if length and "buckets" in options:  # compile for it alone, as padding is to count
            options["buckets"] = [length]
        wanted = {"runtime": row["runtime"], "source": row["source"], "options": options}
        model = _load_model(json.dumps(wanted), job["threads"])
        encode = _load_encoder(row, job["max_length"], length)

        def from_text(text, encode=encode, model=model):
            return model(*encode(text))

        run = model if length else from_text
        items = [encode(text) if length else (text,) for text in job["sentences"]]
        if job["warm_ms"]:
            lengths = [np.size(encode(text)[0]) for text in job["sentences"]]
            different = list(dict(zip(lengths, items, strict=True)).values())
            warm_up(run, different, milliseconds=job["warm_ms"])
        loaded[workload] = run, items
    return loaded


@cache
def _load_model(wanted: str, threads: int) -> Callable:
    """The function that runs a model, which rows and workloads share; `wanted` is JSON."""
    row = json.loads(wanted)
    source, runtime = row["source"], row["runtime"]
    if runtime == ENGINE:
        graph = _import_compiler()(source)
        return lambda *parts: next(iter(graph.inference(list(parts)).values()))[0]
    if runtime == "scikit-learn":
        from helpers.training import fit_tfidf

        return fit_tfidf(*source).predict_proba
    from helpers.runtimes import load_model

    source = Path(source) if isinstance(source, str) else _untrained(**source)
    return load_model(runtime, source, threads=threads, **row["options"]).run


@cache
def _untrained(**shape: int):
    """A PyTorch model with untrained weights, built once for all rows of its shape."""
    from helpers.training import untrained_classifier

    return untrained_classifier(types.SimpleNamespace(**shape), seed=0)


def _load_encoder(row: dict, max_length: int, length: int) -> Callable[[str], tuple]:
    """A function from a text to a model's arguments, padded to `length` unless that is 0."""
    if row["runtime"] == "scikit-learn":
        return lambda text: ([text],)
    if row["runtime"] == ENGINE:
        return _load_engine_encoder(row, max_length, length)
    from helpers.runtimes import load_text_encoder, pad_rows

    encode = load_text_encoder(Path(row["tokenizer"]), max_length)
    return (lambda text: pad_rows([encode(text)[0][0]], length)) if length else encode


def _load_engine_encoder(row: dict, max_length: int, length: int) -> Callable[[str], tuple]:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(row["tokenizer"] + "/tokenizer.json")
    tokenizer.enable_truncation(max_length)
    if length := row["options"].get("pad_to", length):
        tokenizer.enable_padding(length=length)

    def encode(text):
        encoding = tokenizer.encode(text)
        # this order of inputs, and 32-bit integers: anything else is silently wrong
        parts = (encoding.ids, [0] * len(encoding.ids), encoding.attention_mask)
        return tuple(np.array([part], dtype=np.int32) for part in parts)

    return encode


@cache
def _import_compiler() -> Callable:
    """Return the engine's `compile`, past its packages' own `__init__`, which import the world."""
    package = "intel_extension_for_transformers"
    folder = Path(np.__file__).parents[1] / package
    for name, path in ((package, folder), (f"{package}.transformers", folder / "transformers")):
        module = types.ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module
    return importlib.import_module(f"{package}.transformers.runtime.compile").compile


def _first_line(error: Exception) -> str:
    """The line of a message that tells most: the first, unless it only says where it comes from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    said = lines[-1] if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {said}"


def _converse(hear: Callable[[], str], say: Callable) -> None:
    job, loaded, faults = json.loads(hear()), {}, {}
    # import, then bind: so several processes share all cores for the imports
    for runtime in {row["runtime"] for row in job["rows"].values()}:
        if runtime == ENGINE:
            _import_compiler()
        else:
            importlib.import_module(_IMPORTS.get(runtime, runtime))
    if hasattr(psutil.Process, "cpu_affinity"):  # not on macOS
        psutil.Process().cpu_affinity(job["cpus"])
    for name, row in job["rows"].items():
        try:
            loaded[name] = load_row(row, job)
        except Exception as error:  # whatever it is, the other side must hear of it
            faults[name] = _first_line(error)
    say({"faults": faults, "memory_mb": psutil.Process().memory_full_info().uss / 2**20})
    while line := hear():
        request = json.loads(line)
        run, items = loaded[request["row"]][request["workload"]]
        if "chosen" in request:
            chosen = [items[index] for index in request["chosen"]]
            say(time_block(run, chosen, milliseconds=request["milliseconds"]))
        else:
            say([np.ravel(run(*item)).tolist() for item in items])


def main() -> None:
    """Keep standard output to the conversation: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        _converse(sys.stdin.readline, say)
    except Exception as error:
        say({"error": _first_line(error)})


if __name__ == "__main__":
    main()
