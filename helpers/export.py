"""ONNX files of BERT-type classifiers: exported, compared, and what they hold."""

import logging
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn
from transformers import PreTrainedModel

INPUTS = ("input_ids", "attention_mask")
ENGINE_INPUTS = ("input_ids", "token_type_ids", "attention_mask")  # the blog's engine's order
_CPU = ["CPUExecutionProvider"]
OPSET, ENGINE_OPSET = 17, 14  # the newest that neural-compressor reads; that of the blog's engine


def run_layer(layer: nn.Module, queries, states, bias):
    """One encoder layer of BERT for the tokens in `queries`, which attend to `states`.

    `queries` is (batch, n, hidden), `states` (batch, length, hidden), `bias` (batch, 1, 1, length):
    0 for a word piece, a very low number for padding. Returns (batch, n, hidden).
    """
    attention, projected = layer.attention.self, layer.attention.output
    heads, size = attention.num_attention_heads, attention.attention_head_size

    def by_head(rows):
        return rows.view(rows.size(0), rows.size(1), heads, size).permute(0, 2, 1, 3)

    if heads:
        query = by_head(attention.query(queries))
        key, value = by_head(attention.key(states)), by_head(attention.value(states))
        scores = torch.matmul(query, key.transpose(-1, -2)) / math.sqrt(size) + bias
        context = torch.matmul(torch.softmax(scores, dim=-1), value).permute(0, 2, 1, 3)
        context = context.contiguous().view(context.size(0), context.size(1), heads * size)
        gathered = projected.dense(context)
    else:  # all heads are pruned away: nothing comes from other tokens
        gathered = projected.dense.bias
    attended = projected.LayerNorm(gathered + queries)
    widened = layer.intermediate.intermediate_act_fn(layer.intermediate.dense(attended))
    return layer.output.LayerNorm(layer.output.dense(widened) + attended)


class PlainBert(nn.Module):
    """A BERT classifier written out plainly: the same weights and logits, an easier graph.

    With `first_token_only` the last layer computes the first token alone, which is all that the
    head reads. Without `token_types` every token is of type 0, as in single sentences.
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
            types, positions = embeddings.token_type_embeddings, embeddings.position_embeddings
            states = states + (positions.weight + types.weight[0])[:length]
        states = embeddings.LayerNorm(states)
        real = attention_mask[:, None, None, :].to(states.dtype)
        bias = (1.0 - real) * torch.finfo(states.dtype).min
        *lower, last = self.model.bert.encoder.layer
        for layer in lower:
            states = run_layer(layer, states, states, bias)
        queries = states[:, :1] if self.first_token_only else states
        first = run_layer(last, queries, states, bias)[:, 0]
        return self.model.classifier(torch.tanh(self.model.bert.pooler.dense(first)))


def export_onnx(
    model: nn.Module, path: Path, *, inputs: Sequence[str] = INPUTS, opset: int = OPSET
) -> None:
    """Export a classifier with the given inputs, in this order, and the output `logits`.

    Batch size and length are dynamic; inputs are int64 (batch, length), the output is float32
    (batch, classes). Attention is traced as plain matrix products, which every runtime and
    quantizer recognises. The graph is checked to be valid ONNX.
    """
    model = model.eval().cpu()
    if isinstance(model, PreTrainedModel):
        model.set_attn_implementation("eager")
    example, axes = torch.ones((2, 8), dtype=torch.int64), {0: "batch", 1: "length"}
    with quiet():
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


def read_tensors(
    path: Path, names: Sequence[str], rows: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """What tensors inside an ONNX file hold, by name: those of all rows one below the other.

    `rows` are inputs of one sentence each; a tensor (1, length, size) becomes (tokens, size).
    """
    model = onnx.load(path)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=_CPU)
    held = zip(*(session.run(list(names), dict(row)) for row in rows), strict=True)
    found = zip(names, held, strict=True)
    return {name: np.concatenate(values, axis=1)[0] for name, values in found}


def operator_counts(path: Path, *, optimised: bool = False) -> Counter:
    """How many operators of each type a file holds, or what ONNX Runtime makes of it to run."""
    if not optimised:
        graph = onnx.load(path, load_external_data=False).graph
        return Counter(node.op_type for node in graph.node)
    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(Path(scratch, "optimised.onnx"))
        onnxruntime.InferenceSession(str(path), options, providers=_CPU)
        return operator_counts(Path(options.optimized_model_filepath))


def compare_logits(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Largest and mean absolute difference of two logit arrays, and the share of equal labels."""
    gap = np.abs(expected - found)
    return {
        "largest difference": float(gap.max()),
        "mean difference": float(gap.mean()),
        "same label": float(np.mean(expected.argmax(1) == found.argmax(1))),
    }


def size_mb(path: Path) -> float:
    """Size on disk in MB, of 2^20 bytes as in the blog's table, of a file or a folder's weights.

    An OpenVINO `.xml` counts together with its `.bin`.
    """
    if path.is_dir():
        files = list(path.glob("*.safetensors"))
    else:
        files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    return sum(file.stat().st_size for file in files) / 2**20


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the warnings and log lines of exporters and quantizers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
