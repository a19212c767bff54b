"""One interface to every runtime: token arrays in, logits out, on a fixed number of threads."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Literal

import numpy as np
import tokenizers

from helpers.environment import has_bf16

Run = Callable[[np.ndarray, np.ndarray], np.ndarray]
RuntimeName = Literal["pytorch", "onnxruntime", "openvino"]


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run.

    `run(input_ids, attention_mask)` takes int64 arrays of shape (batch, length) and returns
    float32 logits (batch, classes), from any thread; `threads` is what the runtime itself reports.
    """

    run: Run
    threads: int


def load_model(runtime: RuntimeName, source, *, threads: int, **options) -> LoadedModel:
    """Load a model for inference on the CPU with exactly `threads` threads.

    `source` is a path (a folder of safetensors for PyTorch, an `.onnx` file for ONNX Runtime and
    OpenVINO, an `.xml` for OpenVINO), or for PyTorch a model that is already built.

    Options of PyTorch: `mode`, one of "inference_mode" (the default), "autograd" (as the blog timed
    it) and "compile" (`torch.compile`, which needs a C++ compiler). Of OpenVINO: `hint`, the
    precision of what is not INT8, "f32" (the default) or "bf16"; and `buckets`, lengths to which
    inputs are padded so that the model is compiled once for each, at batch size 1.

    Raises:
        RuntimeError: the runtime would use another number of threads, or an option cannot be had
            on this machine.
    """
    load = {"pytorch": _load_pytorch, "onnxruntime": _load_onnxruntime, "openvino": _load_openvino}
    loaded = load[runtime](source, threads, **options)
    if loaded.threads != threads:
        raise RuntimeError(f"{runtime} uses {loaded.threads} threads instead of {threads}")
    return loaded


def _load_pytorch(source, threads: int, mode: str = "inference_mode") -> LoadedModel:
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
    if mode == "compile":
        if not shutil.which("g++"):
            raise RuntimeError("torch.compile needs a C++ compiler, and there is no g++")
        if " " in torch.__file__:  # it hands the compiler this path without quotes
            raise RuntimeError("torch.compile needs a path to PyTorch without blanks")
        model = torch.compile(model)

    def run(input_ids, attention_mask):
        with torch.inference_mode(mode != "autograd"):
            logits = model(
                input_ids=torch.from_numpy(input_ids),
                attention_mask=torch.from_numpy(attention_mask),
            ).logits
            return logits.detach().numpy()

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


def _load_openvino(
    source: Path, threads: int, hint: str = "f32", buckets: Sequence[int] = ()
) -> LoadedModel:
    if hint == "bf16" and not has_bf16("cpu"):
        raise RuntimeError("this CPU has no BF16 instructions")
    core = _openvino_core()
    model = core.read_model(str(source))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,  # else BF16 where the CPU has it
    }

    def compile_for(length):
        static = model.clone()
        static.reshape({tensor.any_name: (1, length) for tensor in static.inputs})
        return core.compile_model(static, "CPU", settings)

    if buckets:
        by_length = {length: compile_for(length) for length in sorted(buckets)}
        run = _one_at_a_time(_run_in_buckets(by_length))
        return LoadedModel(run, _openvino_threads(*by_length.values()))
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run(input_ids, attention_mask):
        feed = {"input_ids": input_ids, "attention_mask": attention_mask}
        return request.infer(feed, share_inputs=True)[0]

    return LoadedModel(_one_at_a_time(run), _openvino_threads(compiled))


def _one_at_a_time(run: Run) -> Run:
    """Let one thread after another into a request, which holds the inputs and outputs of one."""
    lock = Lock()

    def run_alone(input_ids, attention_mask):
        with lock:
            return run(input_ids, attention_mask)

    return run_alone


@cache
def _openvino_core():
    """One for the whole process, as its makers advise: models come and go under it."""
    import openvino

    return openvino.Core()


def _openvino_threads(*compiled) -> int:
    return max(model.get_property("INFERENCE_NUM_THREADS") for model in compiled)


def _run_in_buckets(by_length: dict) -> Run:
    """Run a model of the shortest fitting length on each row, through arrays that stay in place."""
    import openvino

    held = {}
    for length, compiled in by_length.items():
        request = compiled.create_infer_request()
        arrays = [np.zeros((1, length), dtype=np.int64) for _ in range(2)]
        for name, array in zip(("input_ids", "attention_mask"), arrays, strict=True):
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        held[length] = (request, *arrays, request.get_output_tensor(0).data)
    longest = max(held)
    fitting = [held[min(length for length in held if length >= n)] for n in range(longest + 1)]

    def run_row(input_ids, attention_mask):
        n = len(input_ids)
        if n > longest:
            raise ValueError(f"{n} word pieces do not fit the longest bucket, {longest}")
        request, ids, mask, logits = fitting[n]
        ids[0, :n], ids[0, n:] = input_ids, 0
        mask[0, :n], mask[0, n:] = attention_mask, 0
        request.infer()
        return logits.copy()

    def run(input_ids, attention_mask):
        rows = zip(input_ids, attention_mask, strict=True)
        return np.concatenate([run_row(*row) for row in rows])

    return run


def pad_rows(rows: Sequence[np.ndarray], length: int | None = None) -> tuple:
    """Pad or cut rows of ids to one length, by default the longest's.

    Returns `input_ids`, with 0 where the mask is 0, and `attention_mask`, int64 (rows, length).
    """
    length = length or max(map(len, rows))
    ids = np.zeros((len(rows), length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for place, row in enumerate(rows):
        kept = row[:length]
        ids[place, : len(kept)], mask[place, : len(kept)] = kept, 1
    return ids, mask


def load_text_encoder(tokenizer: Path, max_length: int) -> Callable[[str], tuple]:
    """Return a function from a text to `input_ids` and `attention_mask`, int64 (1, length).

    It calls the tokenizers library itself, which for one sentence takes a fraction of the time of
    `transformers`' tokenizer around it and cuts the same word pieces. What cannot be encoded as
    UTF-8, a surrogate without its other half, is read as a question mark.
    """
    encoder = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    encoder.enable_truncation(max_length)
    encoder.no_padding()

    def encode(text):
        text = text.encode("utf-8", errors="replace").decode("utf-8")
        ids = np.array([encoder.encode(text).ids], dtype=np.int64)
        return ids, np.ones_like(ids)

    return encode
