"""The blog's engine, Intel's reference NLP engine, in an environment that `make engine` builds.

It survives inside `intel-extension-for-transformers` 1.4.2, for Python 3.9 to 3.11 on x86-64 with
AVX-512, and needs libraries of its time. It reads ONNX graphs in which BERT is written as exporters
of its time wrote it, with INT8 as QuantizeLinear and DequantizeLinear around MatMul; it then fuses
each layer, attention included.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from helpers.bench.worker import ENGINE, OWN
from helpers.bench.workers import WorkerError, WorkerProcess
from helpers.environment import ROOT, instruction_sets, physical_cores

FOLDER = ROOT / ".engine"


def engine_fault(folder: Path = FOLDER) -> str | None:
    """Why the engine cannot be used here, or None."""
    if not (folder / ".ready").exists():
        return "its environment is not installed: run `make engine`"
    if "avx512f" not in instruction_sets():
        return "this CPU has no AVX-512 instructions"
    return None


def engine_command() -> list[str | Path]:
    """How `WorkerProcess` starts a process of the engine."""
    return [FOLDER / "bin" / "python", "-I", Path(__file__).with_name("worker.py")]


def engine_logits(
    model: Path, tokenizer: Path, sentences: Sequence[str], *, max_length: int
) -> dict[str, np.ndarray]:
    """{"student_engine": logits} of shape (sentences, classes) FP32; {} where it cannot run.

    Why it cannot is printed. `tokenizer` is a folder.
    """
    row = {"runtime": ENGINE, "source": str(model), "tokenizer": str(tokenizer), "options": {}}
    how = {"threads": physical_cores(), "max_length": max_length, "command": engine_command()}
    try:
        if fault := engine_fault():
            raise WorkerError(fault)
        with WorkerProcess({"engine": row}, sentences, [OWN], **how) as engine:
            if faults := engine.wait_until_loaded():
                raise WorkerError(faults["engine"])
            return {"student_engine": engine.logits("engine", OWN)}
    except WorkerError as error:
        print(f"no row of the blog's engine here: {error}")
        return {}
