"""A process that loads rows and times them, for the runtimes of this package's own environment.

Started as `python -m helpers.bench.worker`; the conversation is that of `engine_worker.py`.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil

from helpers.bench.engine_worker import Worker, main

_IMPORTS = {"pytorch": "transformers", "scikit-learn": "sklearn"}  # what takes long to import


class RuntimeWorker(Worker):
    """Rows of PyTorch, ONNX Runtime, OpenVINO or scikit-learn."""

    def prepare(self) -> None:
        """Import the runtime, then bind: so several processes share all cores for the imports."""
        for row in self.job["rows"].values():
            importlib.import_module(_IMPORTS.get(row["runtime"], row["runtime"]))
        process = psutil.Process()
        if hasattr(process, "cpu_affinity"):  # not on macOS
            process.cpu_affinity(self.job["cpus"])
        self._built = {}

    def load(self, row: dict, workloads: list[str]) -> dict[str, Callable]:
        """Return by workload the function that runs the row on one item.

        A row with static shapes is compiled for one length alone where all inputs are padded.
        """
        if row["runtime"] == "scikit-learn":
            from helpers.training import fit_tfidf

            pipeline = fit_tfidf(*row["source"])
            return dict.fromkeys(workloads, lambda text: pipeline.predict_proba([text]))
        from helpers.runtimes import load_model, load_text_encoder

        encode = load_text_encoder(Path(row["tokenizer"]), self.job["max_length"])
        source, loaded, runs = self._source(row), {}, {}
        for workload in workloads:
            kind, options = workload.split()[0], dict(row["options"])
            if kind in ("padded", "batch") and "buckets" in options:
                ids, _ = self.job["inputs"][row["tokenizer"]][workload]["items"][0]
                options["buckets"] = [len(ids[0])]
            key = str(options)
            if key not in loaded:
                threads = self.job["threads"]
                loaded[key] = load_model(row["runtime"], source, threads=threads, **options).run
            runs[workload] = _from_text(loaded[key], encode) if kind == "own" else loaded[key]
        return runs

    def convert(self, item) -> tuple:
        """The arguments of one call: a text, or int64 ids and mask (rows, length)."""
        if isinstance(item, str):
            return (item,)
        return tuple(np.array(part, dtype=np.int64) for part in item)

    def _source(self, row: dict):
        """A path, or a model with untrained weights, which is built once for all its rows."""
        if isinstance(row["source"], str):
            return Path(row["source"])
        from helpers.training import untrained_classifier

        key = str(row["source"])
        if key not in self._built:
            self._built[key] = untrained_classifier(SimpleNamespace(**row["source"]), seed=0)
        return self._built[key]


def _from_text(run: Callable, encode: Callable) -> Callable:
    return lambda text: run(*encode(text))


if __name__ == "__main__":
    main(RuntimeWorker)
