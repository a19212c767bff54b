"""The reference NLP engine's side: runs under the Python of `.engine`, apart from this package.

Reads requests from standard input and answers on standard output, one JSON value a line. The first
names the model, the number of threads and, by workload, the inputs: texts, or pairs of `input_ids`
and `attention_mask`. After the answer {"ready": ...} each request is one of

    {"logits": workload}    -> logits of each of its inputs
    {"time": workload, "chosen": [2, 0, 5], "milliseconds": 30}    -> see time_turn

An answer {"error": text} ends the conversation. Started by `helpers/engine.py`.
"""

import json
import os
import sys
import time
import types
from pathlib import Path


def import_compiler():
    """Return the engine's `compile`, past its packages' own `__init__`, which import the world."""
    import numpy

    package = "intel_extension_for_transformers"
    folder = Path(numpy.__file__).parents[1] / package
    for name, path in ((package, folder), (f"{package}.transformers", folder / "transformers")):
        module = types.ModuleType(name)
        module.__path__ = [str(path)]
        sys.modules[name] = module
    from intel_extension_for_transformers.transformers.runtime.compile import compile

    return compile


def load(job: dict):
    """Compile the model; returns a function from one input (ids and mask, or a text) to logits."""
    import numpy as np
    import tokenizers

    graph = import_compiler()(job["model"])
    tokenizer = tokenizers.Tokenizer.from_file(job["tokenizer"])
    tokenizer.enable_truncation(job["max_length"])
    if job["pad_to"]:
        tokenizer.enable_padding(length=job["pad_to"])

    def run(ids, mask):
        # this order of inputs, and 32-bit integers: anything else is silently wrong
        feed = [np.array([row], dtype=np.int32) for row in (ids, [0] * len(ids), mask)]
        return next(iter(graph.inference(feed).values()))[0]

    def run_text(text):
        encoding = tokenizer.encode(text)
        return run(encoding.ids, encoding.attention_mask)

    return lambda item: run_text(item) if isinstance(item, str) else run(*item)


def time_turn(run, items: list[tuple], *, milliseconds: float) -> list[float]:
    """Time calls on the items in order, as often as fit into the given time, at least once each.

    Returns the milliseconds of each call. Before that the items are run for a third of the time,
    untimed: after a pause a core's caches are cold and its clock is low for a few calls.
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


def serve(requests, answer) -> None:
    """Answer requests until they end."""
    job = json.loads(next(requests))
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: job["threads"]])
    run = load(job)
    inputs = job["inputs"]
    for items in inputs.values():
        for item in items:  # it prepares for a length when it first sees it
            run(item)
    answer({"ready": {"process": os.getpid(), "cores": len(os.sched_getaffinity(0))}})
    for line in requests:
        request = json.loads(line)
        if "logits" in request:
            answer([run(item).tolist() for item in inputs[request["logits"]]])
        else:
            items = [(inputs[request["time"]][i],) for i in request["chosen"]]
            answer(time_turn(run, items, milliseconds=request["milliseconds"]))


def main() -> None:
    """Keep standard output to the conversation: what the engine prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        serve(iter(sys.stdin), answer)
    except Exception as error:  # whatever it is, the other side must hear of it
        answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
