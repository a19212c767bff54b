"""One interface to every runtime: token arrays in, logits out, on a fixed number of threads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
RuntimeName = Literal["pytorch", "onnxruntime", "openvino"]


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run.

    `run(input_ids, attention_mask)` takes int64 arrays of shape (batch, length) and returns
    float32 logits (batch, classes); `threads` is what the runtime itself reports.
    """

    run: Run
    threads: int


def load_model(runtime: RuntimeName, source, *, threads: int) -> LoadedModel:
    """Load a model for inference on the CPU with exactly `threads` threads.

    `source` is a path (a folder of safetensors for PyTorch, an `.onnx` file for ONNX Runtime and
    OpenVINO, an `.xml` for OpenVINO), or for PyTorch a model that is already built.

    Raises:
        RuntimeError: the runtime would use another number of threads.
    """
    load = {"pytorch": _load_pytorch, "onnxruntime": _load_onnxruntime, "openvino": _load_openvino}
    loaded = load[runtime](source, threads)
    if loaded.threads != threads:
        raise RuntimeError(f"{runtime} uses {loaded.threads} threads instead of {threads}")
    return loaded


def _load_pytorch(source, threads: int) -> LoadedModel:
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading; a worker's would mix with its parent's
    torch.set_num_threads(threads)
    model = source
    if isinstance(source, str | Path):
        model = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    model.eval()

    def run(input_ids, attention_mask):
        with torch.inference_mode():
            return model(
                input_ids=torch.from_numpy(input_ids),
                attention_mask=torch.from_numpy(attention_mask),
            ).logits.numpy()

    return LoadedModel(run, torch.get_num_threads())


def _load_onnxruntime(source: Path, threads: int) -> LoadedModel:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])

    def run(input_ids, attention_mask):
        return session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})[0]

    return LoadedModel(run, session.get_session_options().intra_op_num_threads)


def _load_openvino(source: Path, threads: int) -> LoadedModel:
    import openvino

    compiled = openvino.compile_model(
        str(source),
        "CPU",
        {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",  # else BF16 where the CPU has it
        },
    )
    request = compiled.create_infer_request()

    def run(input_ids, attention_mask):
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        return request.infer(feed, share_inputs=True)[0]

    return LoadedModel(run, compiled.get_property("INFERENCE_NUM_THREADS"))
