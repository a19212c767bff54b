"""The reference NLP engine of the blog, in an environment of its own that `make engine` builds.

It survives inside `intel-extension-for-transformers` 1.4.2, for Python 3.9 to 3.11 on x86-64, and
needs libraries of its time. It reads ONNX graphs in which BERT is spelt as exporters of its time
spelt it, with INT8 as QuantizeLinear and DequantizeLinear around MatMul; it then fuses each layer,
attention included. Its answers come over a pipe from `helpers/engine_worker.py`.
"""

import contextlib
import json
import os
import subprocess
from collections import deque
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np

from helpers.tutorial.profile import ROOT

FOLDER = ROOT / ".engine"
_WORKER = Path(__file__).with_name("engine_worker.py")


class EngineError(RuntimeError):
    """The engine is not there, or it failed; the message says how."""


def engine_fault(folder: Path = FOLDER) -> str | None:
    """Why the engine cannot be used here, or None."""
    if not (folder / ".ready").exists():
        failure = folder / "failure.txt"
        said = failure.read_text(encoding="utf-8").strip() if failure.exists() else ""
        reason = said.splitlines()[-1] if said else "run `make engine`"
        return f"its environment is not installed: {reason}"
    return None


class EngineProcess:
    """One model in the engine, on a fixed number of threads, in a process of its own.

    `inputs` maps a workload's name to its inputs: texts, or pairs of lists `input_ids` and
    `attention_mask`. A text is cut at `max_length` word pieces, and padded to `pad_to` where that
    is given. Use as a context manager.

    Raises:
        EngineError: the environment is missing, or the engine cannot load or run the model.
    """

    def __init__(
        self,
        model: Path,
        tokenizer: Path,
        inputs: dict[str, list],
        *,
        threads: int,
        max_length: int,
        pad_to: int | None = None,
        folder: Path = FOLDER,
    ):
        if fault := engine_fault(folder):
            raise EngineError(fault)
        job = {
            "model": str(model),
            "tokenizer": str(tokenizer / "tokenizer.json"),
            "inputs": inputs,
            "threads": threads,
            "max_length": max_length,
            "pad_to": pad_to,
        }
        python = folder / "bin" / "python"
        self._process = subprocess.Popen(
            [python, "-I", _WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "GLOG_minloglevel": "2"},
        )
        self._said: deque[str] = deque(maxlen=20)
        listen = partial(self._said.extend, self._process.stderr)
        self._listener = Thread(target=listen, daemon=True)
        self._listener.start()
        try:
            ready = self._ask(job)["ready"]
        except EngineError:
            self.close()
            raise
        self.pid = ready["process"]
        if ready["cores"] != threads:
            self.close()
            raise EngineError(f"it has {ready['cores']} cores for {threads} threads")

    def logits(self, workload: str) -> np.ndarray:
        """Logits (inputs, classes) of a workload's inputs, float32."""
        return np.array(self._ask({"logits": workload}), dtype=np.float32)

    def time(self, workload: str, chosen: list[int], milliseconds: float) -> list[float]:
        """Milliseconds of each call of a turn on chosen inputs: see `engine_worker.time_turn`."""
        return self._ask({"time": workload, "chosen": chosen, "milliseconds": milliseconds})

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):  # it may have died with words unread
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def _ask(self, request):
        with contextlib.suppress(BrokenPipeError):  # it died; what it said comes below
            print(json.dumps(request), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            self._listener.join(timeout=10)  # its last words may still be on the way
            said = [line.strip() for line in self._said if "Check failure" not in line]
            raise EngineError(f"its process died; it last said: {said[-1] if said else 'nothing'}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise EngineError(answer["error"])
        return answer
