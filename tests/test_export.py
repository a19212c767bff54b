import json

import numpy as np
import onnx
import onnxruntime
import pytest

from helpers.onnx_models import (
    PlainBert,
    compare_logits,
    export_onnx,
    operator_counts,
    operator_times,
    size_mb,
)
from helpers.quantization import runtime_logits
from helpers.runtimes import load_model
from helpers.training import predict_logits


def test_the_export_computes_what_pytorch_does(tiny_model, tiny_onnx, tokenizer, encoded):
    reference = predict_logits(tiny_model, encoded, tokenizer)
    for runtime in ("onnxruntime", "openvino"):
        exported = runtime_logits(runtime, tiny_onnx, encoded, tokenizer, description=runtime)
        parity = compare_logits(reference, exported)
        assert parity["largest difference"] < 1e-3, runtime
        assert parity["same label"] == 1.0, runtime


def test_leaving_out_what_nobody_reads_changes_no_logit(tiny_model, tokenizer, encoded, tmp_path):
    reference = predict_logits(tiny_model, encoded, tokenizer)
    for first_token_only in (False, True):
        path = tmp_path / f"{first_token_only}.onnx"
        export_onnx(PlainBert(tiny_model, first_token_only=first_token_only), path)
        exported = runtime_logits("onnxruntime", path, encoded, tokenizer, description="plain")
        assert compare_logits(reference, exported)["largest difference"] < 1e-3


@pytest.mark.parametrize("shape", [(1, 1), (1, 64), (5, 17), (16, 3)])
def test_batch_and_length_are_dynamic(tiny_onnx, shape):
    ids = np.full(shape, 2000, dtype=np.int64)
    model = load_model("onnxruntime", tiny_onnx, threads=1)
    assert model.run(ids, np.ones_like(ids)).shape == (shape[0], 2)


def test_padding_changes_nothing(tiny_onnx):
    model = load_model("onnxruntime", tiny_onnx, threads=1)
    ids = np.array([[101, 2307, 2143, 102]])
    padded = np.pad(ids, ((0, 0), (0, 20)))
    mask = (padded > 0).astype(np.int64)
    np.testing.assert_allclose(
        model.run(ids, np.ones_like(ids)), model.run(padded, mask), atol=1e-4
    )


def test_the_file_says_what_feeds_it(tiny_onnx):
    notes = onnxruntime.InferenceSession(tiny_onnx).get_modelmeta().custom_metadata_map
    assert notes["tokenizer"] == "student" and notes["max_length"] == "64"
    assert json.loads(notes["labels"]) == ["negative", "positive"]


def test_operators_are_counted_and_timed(tiny_onnx):
    counts = operator_counts(tiny_onnx)
    # a layer: 3 projections, 2 attention products, 1 output, 2 feed-forward
    assert counts["MatMul"] == 2 * 8
    assert sum(counts.values()) == len(onnx.load(tiny_onnx).graph.node)
    times = operator_times(tiny_onnx, [101, 2307, 102], runs=5)
    assert times["MatMul"] > 0 and all(t >= 0 for t in times.values())


def test_size_counts_mebibytes(tmp_path):
    (tmp_path / "model.xml").write_bytes(b"x" * 2**19)
    (tmp_path / "model.bin").write_bytes(b"x" * 2**20)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 2**21)
    assert size_mb(tmp_path / "model.xml") == 1.5
    assert size_mb(tmp_path / "model.bin") == 1
    assert size_mb(tmp_path) == 2
