"""One interface to every runtime: token arrays in, logits out, on a fixed number of threads."""

import shutil
import timeit
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Literal

import numpy as np
import tokenizers
from tqdm import tqdm

from helpers.environment import has_bf16, physical_cores

if TYPE_CHECKING:
    from datasets import Dataset

    from helpers.tutorial.profile import Section

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

    `source` is a folder of safetensors or a model that is already built for PyTorch, an `.onnx`
    file or its bytes for ONNX Runtime, an `.onnx` or `.xml` file for OpenVINO.

    Options of PyTorch: `mode`, one of "inference_mode" (the default), "autograd" (as the blog timed
    it) and "compile" (`torch.compile`, which needs a C++ compiler). Of OpenVINO: `hint`, the
    precision of what is not INT8, "f32" (the default) or "bf16"; and `buckets`, lengths in word
    pieces for each of which the model is compiled, at batch size 1, so that each sentence runs
    alone at the shortest that holds it, however wide its batch was padded. Of OpenVINO without
    buckets and of ONNX Runtime: `streams`, a divisor of `threads`: calls from so many threads run
    side by side, for many sentences rather than for a quick answer to one.

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
    if isinstance(source, str | Path):
        source = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    model = source.eval()
    if mode == "compile":
        if not shutil.which("g++"):
            raise RuntimeError("torch.compile needs a C++ compiler, and there is no g++")
        if " " in torch.__file__:  # it hands the compiler this path without quotes
            raise RuntimeError("torch.compile needs a path to PyTorch without blanks")
        model = torch.compile(model)

    def run(input_ids, attention_mask):
        ids, mask = torch.from_numpy(input_ids), torch.from_numpy(attention_mask)
        with torch.inference_mode(mode != "autograd"):
            return model(input_ids=ids, attention_mask=mask).logits.detach().numpy()

    return LoadedModel(run, torch.get_num_threads())


def _load_onnxruntime(source: Path | bytes, threads: int, streams: int = 1) -> LoadedModel:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads // streams  # 1 is the thread that calls
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    def run(input_ids, attention_mask):
        return session.run(None, {"input_ids": input_ids, "attention_mask": attention_mask})[0]

    return LoadedModel(run, streams * session.get_session_options().intra_op_num_threads)


def _load_openvino(
    source: Path, threads: int, hint: str = "f32", buckets: Sequence[int] = (), streams: int = 1
) -> LoadedModel:
    if hint == "bf16" and not has_bf16("cpu"):
        raise RuntimeError("this CPU has no BF16 instructions")
    core = _openvino_core()
    model = core.read_model(str(source))
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": streams,
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": hint,  # else BF16 where the CPU has it
    }
    if buckets:
        by_length = {}
        for length in sorted(buckets):
            static = model.clone()
            static.reshape({tensor.any_name: (1, length) for tensor in static.inputs})
            by_length[length] = core.compile_model(static, "CPU", settings)
        used = max(one.get_property("INFERENCE_NUM_THREADS") for one in by_length.values())
        return LoadedModel(_run_in_buckets(by_length), used)
    compiled = core.compile_model(model, "CPU", settings)
    free: SimpleQueue = SimpleQueue()  # a request holds the inputs and outputs of one call
    for _ in range(streams):
        free.put(compiled.create_infer_request())

    def run(input_ids, attention_mask):
        request = free.get()
        try:
            feed = {"input_ids": input_ids, "attention_mask": attention_mask}
            return request.infer(feed, share_inputs=True)[0]
        finally:
            free.put(request)

    return LoadedModel(run, compiled.get_property("INFERENCE_NUM_THREADS"))


@cache
def _openvino_core():
    """One for the whole process, as OpenVINO's documentation advises."""
    import openvino

    return openvino.Core()


def _run_in_buckets(by_length: dict) -> Run:
    """Run each row alone, at the shortest bucket that holds it; its inputs stay in memory."""
    import openvino

    requests, lock = {}, Lock()
    for length, compiled in by_length.items():
        request = compiled.create_infer_request()
        arrays = [np.zeros((1, length), dtype=np.int64) for _ in range(2)]
        for name, array in zip(("input_ids", "attention_mask"), arrays, strict=True):
            request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        requests[length] = request, *arrays, request.get_output_tensor(0).data

    def run_row(input_ids, attention_mask):
        pieces = len(np.trim_zeros(attention_mask, "b"))  # padding left out
        length = next((length for length in by_length if length >= pieces), None)
        if length is None:
            raise ValueError(f"{pieces} word pieces do not fit the longest of {list(by_length)}")
        request, ids, mask, logits = requests[length]
        with lock:
            ids[0, :pieces], ids[0, pieces:] = input_ids[:pieces], 0
            mask[0, :pieces], mask[0, pieces:] = attention_mask[:pieces], 0
            request.infer()
            return logits.copy()

    return lambda ids, mask: np.concatenate(list(map(run_row, ids, mask)))


def pad_rows(rows: Sequence[np.ndarray], length: int | None = None) -> tuple:
    """Pad or cut rows of ids to one length, by default the longest's.

    Returns `input_ids`, with 0 where the mask is 0, and `attention_mask`, int64 (rows, length).
    """
    length = length or max(map(len, rows))
    ids = np.zeros((len(rows), length), dtype=np.int64)
    mask = np.zeros_like(ids)
    for number, row in enumerate(rows):
        kept = row[:length]
        ids[number, : len(kept)], mask[number, : len(kept)] = kept, 1
    return ids, mask


def load_rows_encoder(tokenizer: Path, max_length: int) -> Callable[[Sequence[str]], list]:
    """Return a function from texts to rows of word pieces, int64 (length,), on every core.

    It calls the tokenizers library itself, for one sentence in a fraction of the time that
    `transformers` takes. A surrogate without its other half is read as "?".
    """
    encoder = tokenizers.Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    encoder.enable_truncation(max_length)
    encoder.no_padding()

    def encode(texts):
        texts = [text.encode("utf-8", errors="replace").decode("utf-8") for text in texts]
        return [np.array(row.ids, dtype=np.int64) for row in encoder.encode_batch_fast(texts)]

    return encode


def load_text_encoder(tokenizer: Path, max_length: int) -> Callable[[str], tuple]:
    """Return a function from a text to `input_ids` and `attention_mask`, int64 (1, length)."""
    encode_rows = load_rows_encoder(tokenizer, max_length)

    def encode(text):
        ids = encode_rows([text])[0][np.newaxis]
        return ids, np.ones_like(ids)

    return encode


def runtime_logits(
    runtime: RuntimeName, source, encoded: "Dataset", *, description: str = "", **options
) -> np.ndarray:
    """Logits (n, classes) of a model over a tokenised dataset, on every physical core.

    Sentences go one by one, unpadded: what takes its ranges from the data at hand must see each
    sentence as the benchmark will show it. `options` are those of `load_model`.
    """
    model = load_model(runtime, source, threads=physical_cores(), **options)
    rows = tqdm(encoded["input_ids"], desc=description or runtime, unit=" sentences")
    return np.concatenate([model.run(*pad_rows([row])) for row in rows]).astype(np.float32)


def baseline_logits(
    settings: "Section", path: Path, encoded: "Dataset", *, name: str
) -> dict[str, np.ndarray]:
    """ONNX Runtime's logits of BERT-Base under `name`; nothing where its weights are untrained."""
    if settings.weights == "untrained":  # it has a latency and a size, and no accuracy
        return {}
    return {name: runtime_logits("onnxruntime", path, encoded, description=name)}


def median_ms(run: Run, inputs: tuple[np.ndarray, np.ndarray]) -> float:
    """A quick look at a latency: the median in ms of 30 calls, after 5 that do not count.

    `inputs` are `input_ids` and `attention_mask`. The benchmark measures with more care.
    """
    seconds = timeit.repeat(lambda: run(*inputs), number=1, repeat=35)
    return 1000 * float(np.median(seconds[5:]))
