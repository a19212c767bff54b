"""A process that loads rows and times them; as it stands, rows of the blog's engine.

The blog's engine has a Python of its own, in `.engine`, without this package: so this file imports
nothing of it. `worker.py` is the same for all other runtimes. Requests come on standard input and
are answered on standard output, one JSON value a line. The first is the job, see `workers.py`; it
is answered with {"process": id, "faults": {row: reason}}. Each of the others is one of

    {"row": name, "workload": name}    -> the row's logits of each input
    {"row": ..., "workload": ..., "chosen": [2, 0, 5], "milliseconds": 30}    -> see time_block

An answer {"error": text} ends the conversation.
"""

import json
import os
import sys
import time
import types
from pathlib import Path


def time_block(run, items: list, *, milliseconds: float) -> list:
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


def warm_up(run, items: list, *, milliseconds: float, blocks: int = 10) -> None:
    """Run each item once, then call until two blocks' medians differ by less than 5 %."""
    for item in items:  # a runtime prepares for a length when it first sees it
        run(*item)
    last = None
    for _ in range(blocks):
        calls = time_block(run, items[:1], milliseconds=milliseconds)
        median = sorted(calls)[len(calls) // 2]
        if last and abs(median / last - 1) < 0.05:
            return
        last = median


class Worker:
    """Rows of the blog's engine on given CPUs; a subclass does other runtimes."""

    def __init__(self, job: dict):
        self.job, self.rows, self.faults = job, {}, {}
        self.prepare()
        for name, row in job["rows"].items():
            try:
                self.rows[name] = self._load_and_warm(row)
            except Exception as error:  # whatever it is, the other side must hear of it
                self.faults[name] = _first_line(error)

    def prepare(self) -> None:
        """Import what is needed, then bind the process to its CPUs."""
        self._compile = _import_compiler()
        os.sched_setaffinity(0, self.job["cpus"])

    def load(self, row: dict, workloads: list):
        """Return by workload the function that runs the row on one item."""
        import numpy as np
        import tokenizers

        graph = self._compile(row["source"])
        tokenizer = tokenizers.Tokenizer.from_file(row["tokenizer"] + "/tokenizer.json")
        tokenizer.enable_truncation(self.job["max_length"])
        if length := row["options"].get("pad_to"):
            tokenizer.enable_padding(length=length)

        def run(item):
            if isinstance(item, str):
                encoding = tokenizer.encode(item)
                item = encoding.ids, encoding.attention_mask
            ids, mask = item
            # this order of inputs, and 32-bit integers: anything else is silently wrong
            feed = [np.array([row], dtype=np.int32) for row in (ids, [0] * len(ids), mask)]
            return next(iter(graph.inference(feed).values()))[0]

        return dict.fromkeys(workloads, run)

    def convert(self, item) -> tuple:
        """The arguments of one call: of a text, or of a list of ids and a list of mask."""
        return ((item if isinstance(item, str) else [part[0] for part in item]),)

    def answer(self, request: dict) -> list:
        """Answer a request for logits or timings."""
        run, items = self.rows[request["row"]][request["workload"]]
        if "chosen" not in request:
            return [run(*item).tolist() for item in items]
        chosen = [items[index] for index in request["chosen"]]
        return time_block(run, chosen, milliseconds=request["milliseconds"])

    def _load_and_warm(self, row: dict) -> dict:
        given = self.job["inputs"][row["tokenizer"]]
        runs, loaded = self.load(row, list(given)), {}
        for workload, inputs in given.items():
            items = [self.convert(item) for item in inputs["items"]]
            warm = [items[index] for index in inputs["warm"]]
            warm_up(runs[workload], warm, milliseconds=self.job["warm_ms"])
            loaded[workload] = (runs[workload], items)
        return loaded


def _import_compiler():
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


def _first_line(error: Exception) -> str:
    """The line of a message that tells most: the first, unless it only says where it comes from."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    said = lines[-1] if lines[0].endswith(":") else lines[0]
    return f"{type(error).__name__}: {said}"


def main(worker_class: type = Worker) -> None:
    """Keep standard output to the conversation: what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value) -> None:
        print(json.dumps(value), file=answers, flush=True)

    try:
        worker = worker_class(json.loads(sys.stdin.readline()))
        say({"process": os.getpid(), "faults": worker.faults})
        for line in sys.stdin:
            say(worker.answer(json.loads(line)))
    except Exception as error:
        say({"error": _first_line(error)})


if __name__ == "__main__":
    main()
