"""ONNX files of BERT-type classifiers: export, the reader's notes inside them, what they hold."""

import json
import math
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel

INPUTS = ("input_ids", "attention_mask")
ENGINE_INPUTS = ("input_ids", "token_type_ids", "attention_mask")  # the reference engine's order
# matrix products and what is fused around them, in integer arithmetic
INTEGER_OPERATORS = {
    "MatMulInteger",
    "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat",
    "QLinearMatMul",
    "QGemm",
    "QAttention",
}
FLOAT_PRODUCTS = {"MatMul", "FusedMatMul", "Gemm", "FusedGemm", "Attention"}
CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


class PlainBert(nn.Module):
    """A BERT classifier spelt out plainly: the same weights and logits, an easier graph.

    `first_token_only` leaves out what nobody reads: the head sees the first token alone, so in the
    last layer only that token's query, attention output and feed-forward block are computed.
    Without `token_types` there is no such input, and every token is of type 0, as in single
    sentences.
    """

    def __init__(
        self, model: PreTrainedModel, *, first_token_only: bool, token_types: bool = False
    ):
        super().__init__()
        self.model, self.first_token_only, self.token_types = model, first_token_only, token_types

    def forward(self, input_ids, *others):
        """Logits from `input_ids`, `token_type_ids` where it is an input, and `attention_mask`."""
        *token_type_ids, attention_mask = others
        embeddings, length = self.model.bert.embeddings, input_ids.size(1)
        states = embeddings.word_embeddings(input_ids)
        if self.token_types:
            states = states + embeddings.token_type_embeddings(token_type_ids[0])
            states = states + embeddings.position_embeddings(embeddings.position_ids[:, :length])
        else:
            always = (
                embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
            )
            states = states + always[:length]
        states = embeddings.LayerNorm(states)
        real = attention_mask[:, None, None, :].to(states.dtype)
        bias = (1.0 - real) * torch.finfo(states.dtype).min
        *lower, last = self.model.bert.encoder.layer
        for layer in lower:
            states = self._layer(layer, states, states, bias)
        first = states[:, :1] if self.first_token_only else states
        first = self._layer(last, first, states, bias)[:, 0]
        return self.model.classifier(torch.tanh(self.model.bert.pooler.dense(first)))

    @staticmethod
    def _layer(layer, asking, states, bias):
        """One encoder layer for the tokens `asking` (batch, n, hidden), attending to `states`."""
        attention, projected = layer.attention.self, layer.attention.output
        heads, size = attention.num_attention_heads, attention.attention_head_size

        def by_head(rows):
            return rows.view(rows.size(0), rows.size(1), heads, size).permute(0, 2, 1, 3)

        if heads:
            query = by_head(attention.query(asking))
            key, value = by_head(attention.key(states)), by_head(attention.value(states))
            scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(size) + bias
            context = torch.matmul(torch.softmax(scores, dim=-1), value).permute(0, 2, 1, 3)
            context = context.contiguous().view(context.size(0), context.size(1), heads * size)
            gathered = projected.dense(context)
        else:  # all pruned away: nothing is gathered from other tokens
            gathered = projected.dense.bias
        attended = projected.LayerNorm(gathered + asking)
        widened = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(attended))
        return layer.output.LayerNorm(layer.output.dense(widened) + attended)


def export_onnx(
    model: PreTrainedModel | PlainBert,
    path: Path,
    *,
    opset: int = 17,
    inputs: Sequence[str] = INPUTS,
) -> None:
    """Export a classifier with the given inputs, in this order, and the output `logits`.

    Batch size and length are dynamic; inputs are int64 (batch, length), the output is float32
    (batch, classes). Attention is traced as plain matrix products, which every runtime and
    quantizer recognises.

    Raises:
        onnx.checker.ValidationError: the exported graph is not valid ONNX.
    """
    model = model.eval().cpu()
    if isinstance(model, PreTrainedModel):
        model.set_attn_implementation("eager")
    example = torch.ones((2, 8), dtype=torch.int64)
    axes = {0: "batch", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            (example,) * len(inputs),
            path,
            input_names=list(inputs),
            output_names=["logits"],
            dynamic_axes={name: axes for name in inputs} | {"logits": {0: "batch"}},
            opset_version=opset,
            dynamo=False,
        )
    onnx.checker.check_model(str(path), full_check=True)


def write_notes(path: Path, *, tokenizer: str, max_length: int, labels: tuple[str, ...]) -> None:
    """Store in the file what a program needs to feed it text.

    `tokenizer` is a folder relative to the ONNX file; `max_length` counts word pieces.
    """
    model = onnx.load(path)
    notes = {"tokenizer": tokenizer, "max_length": str(max_length), "labels": json.dumps(labels)}
    onnx.helper.set_model_props(model, notes)
    onnx.save(model, path)


def operator_counts(path: Path, *, optimised: bool = False) -> Counter:
    """How many operators of each type a file holds, or what ONNX Runtime makes of it to run."""
    if not optimised:
        graph = onnx.load(path, load_external_data=False).graph
        return Counter(node.op_type for node in graph.node)
    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(scratch, "optimised.onnx"))
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return operator_counts(Path(options.optimized_model_filepath))


def operator_table(**files: Path) -> pd.DataFrame:
    """Counts of each operator type, one column a file, the most frequent first."""
    table = pd.DataFrame({name: operator_counts(path) for name, path in files.items()})
    table = table.fillna(0).astype(int)
    return table.loc[table.sum(axis=1).sort_values(ascending=False).index]


def operator_times(path: Path, input_ids: Sequence[int], *, runs: int = 60) -> dict[str, float]:
    """Milliseconds per inference that each operator type takes, by ONNX Runtime's profiler.

    One sentence, one thread; the median over `runs` of each operator, summed by type. The types
    are those of the graph as the runtime has optimised it, which fuses operators of the file.
    """
    ids = np.array([input_ids], dtype=np.int64)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch, "profile"))
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        for _ in range(runs):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[tuple[str, str], list[int]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["args"]["op_name"], event["name"]].append(event["dur"])
    times: dict[str, float] = defaultdict(float)
    for (kind, _), microseconds in durations.items():
        times[kind] += float(np.median(microseconds)) / 1000
    return dict(times)


def compare_logits(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """Largest and mean absolute difference of two logit arrays, and the share of equal labels."""
    gap = np.abs(reference - other)
    return {
        "largest difference": float(gap.max()),
        "mean difference": float(gap.mean()),
        "same label": float(np.mean(reference.argmax(1) == other.argmax(1))),
    }


def size_mb(path: Path) -> float:
    """Size on disk in MB of a file, or of the weights in a folder.

    A MB is 2^20 bytes, as in the blog's table. An OpenVINO `.xml` counts together with its `.bin`.
    """
    if path.is_dir():
        files = list(path.glob("*.safetensors"))
    else:
        files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(file.stat().st_size for file in files) / 2**20
