"""The processes in which rows are timed, as the notebook's process sees them."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from helpers.bench import worker
from helpers.environment import ROOT, cpus_for


class WorkerError(RuntimeError):
    """A process that times rows failed or died; the message says how."""


class WorkerProcess:
    """Rows of one runtime in a process bound to as many physical cores as threads.

    `rows` maps names to `source`, `tokenizer` (a folder), `runtime` and `options`, as in
    `rounds.Variant`; for `workloads` see `rounds.run_benchmark`. With `warm_ms` each row is warmed
    up. Loading begins at once and goes on by itself. Use as a context manager. The process ends
    with its parent, however that ends: its input ends.
    """

    def __init__(
        self,
        rows: Mapping[str, dict],
        sentences: Sequence[str],
        workloads: Sequence[int | str],
        *,
        threads: int,
        max_length: int,
        warm_ms: float = 0,
        command: Sequence[str | Path] = (sys.executable, "-m", worker.__name__),
    ):
        self._names = list(rows)
        self.memory_mb = 0.0  # what the process holds for itself, once all is loaded
        self._said = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "GLOG_minloglevel": "2"},
        )
        given = {"rows": rows, "sentences": list(sentences), "workloads": list(workloads)}
        sizes = {"threads": threads, "max_length": max_length, "warm_ms": warm_ms}
        self._tell(**given, **sizes, cpus=cpus_for(threads))

    def wait_until_loaded(self) -> dict[str, str]:
        """Wait for loading and warming up; returns the reasons of rows that cannot be run."""
        try:
            ready = self._hear()
        except WorkerError as error:
            return dict.fromkeys(self._names, str(error))
        self.memory_mb = ready["memory_mb"]
        return ready["faults"]

    def logits(self, row: str, workload: int | str) -> np.ndarray:
        """Logits (sentences, classes), float32."""
        self._tell(row=row, workload=workload)
        return np.array(self._hear(), dtype=np.float32)

    def time(self, row: str, workload: int | str, chosen: list[int], ms: float) -> list[float]:
        """Milliseconds of each call of a block on chosen sentences: `worker.time_block`."""
        self._tell(row=row, workload=workload, chosen=chosen, milliseconds=ms)
        return self._hear()

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *_) -> None:
        with contextlib.suppress(BrokenPipeError), self._process:  # it may hold words unread
            self._process.kill()  # nothing is lost
        self._said.close()

    def _tell(self, **request) -> None:
        with contextlib.suppress(BrokenPipeError):  # it died; what it said is heard next
            print(as_json(request), file=self._process.stdin, flush=True)

    def _hear(self):
        line = self._process.stdout.readline()
        if not line:
            status, _ = self._process.wait(), self._said.seek(0)
            said = [line.strip() for line in self._said if "Check failure" not in line]
            last = said[-1] if said else "nothing"
            raise WorkerError(f"its process died ({status}); it last said: {last}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise WorkerError(answer["error"])
        return answer


def as_json(value) -> str:
    """JSON of rows: paths as text, an architecture as its settings."""
    return json.dumps(
        value, default=lambda v: v.model_dump() if hasattr(v, "model_dump") else str(v)
    )
