"""The blog's engine, Intel's reference NLP engine, in an environment that `make engine` builds.

It survives inside `intel-extension-for-transformers` 1.4.2, for Python 3.9 to 3.11 on x86-64, and
needs libraries of its time. It reads ONNX graphs in which BERT is written as exporters of its time
wrote it, with INT8 as QuantizeLinear and DequantizeLinear around MatMul; it then fuses each layer,
attention included.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from helpers.bench.workers import WorkerError, WorkerProcess
from helpers.environment import ROOT, physical_cores

ENGINE = "blog's engine"
FOLDER = ROOT / ".engine"


def engine_fault(folder: Path = FOLDER) -> str | None:
    """Why the engine cannot be used here, or None."""
    if (folder / ".ready").exists():
        return None
    failure = folder / "failure.txt"
    said = failure.read_text(encoding="utf-8").strip() if failure.exists() else ""
    reason = said.splitlines()[-1] if said else "run `make engine`"
    return f"its environment is not installed: {reason}"


def start_engine(
    rows: Mapping[str, dict], inputs: Mapping[str, dict], *, folder: Path = FOLDER, **settings
) -> WorkerProcess:
    """Start a process of the engine; the arguments are those of `WorkerProcess`.

    Raises:
        WorkerError: its environment is missing.
    """
    if fault := engine_fault(folder):
        raise WorkerError(fault)
    command = [folder / "bin" / "python", "-I", Path(__file__).with_name("engine_worker.py")]
    return WorkerProcess(rows, inputs, command=command, **settings)


def engine_logits(
    model: Path,
    tokenizer: Path,
    sentences: Sequence[str],
    *,
    max_length: int,
    folder: Path = FOLDER,
) -> dict[str, np.ndarray]:
    """{"student_engine": logits} of shape (sentences, classes) FP32; {} where it cannot run.

    Why it cannot is printed. `tokenizer` is a folder.
    """
    rows = {"engine": {"source": str(model), "tokenizer": str(tokenizer), "options": {}}}
    inputs = {str(tokenizer): {"own": {"items": list(sentences), "warm": [0]}}}
    settings = {"threads": physical_cores(), "max_length": max_length, "folder": folder}
    try:
        with start_engine(rows, inputs, **settings) as engine:
            if fault := engine.wait_until_loaded():
                raise WorkerError(fault["engine"])
            return {"student_engine": engine.logits("engine", "own")}
    except WorkerError as error:
        print(f"no row of the blog's engine here: {error}")
        return {}
