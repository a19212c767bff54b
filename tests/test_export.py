import numpy as np
import onnx
import onnxruntime
import pytest

from helpers.export import (
    ENGINE_INPUTS,
    ENGINE_OPSET,
    PlainBert,
    compare_logits,
    export_onnx,
    operator_counts,
    read_tensors,
    size_mb,
)
from helpers.runtimes import load_model, runtime_logits
from helpers.training import predict_logits


@pytest.fixture(scope="module")
def expected(tiny_model, encoded, tokenizer):
    return predict_logits(tiny_model, encoded, tokenizer)


def test_the_export_computes_what_pytorch_does(expected, tiny_onnx, encoded):
    for runtime in ("onnxruntime", "openvino"):
        parity = compare_logits(expected, runtime_logits(runtime, tiny_onnx, encoded))
        assert parity["largest difference"] < 1e-3, runtime
        assert parity["same label"] == 1.0, runtime


@pytest.mark.parametrize("first_token_only", [False, True])
def test_the_plain_spelling_changes_no_logit(
    first_token_only, expected, tiny_model, encoded, tmp_path
):
    path = tmp_path / "plain.onnx"
    export_onnx(PlainBert(tiny_model, first_token_only=first_token_only), path)
    found = runtime_logits("onnxruntime", path, encoded)
    assert compare_logits(expected, found)["largest difference"] < 1e-3


def test_the_engines_spelling_has_its_inputs_in_its_order(expected, tiny_model, encoded, tmp_path):
    path = tmp_path / "engine.onnx"
    model = PlainBert(tiny_model, first_token_only=False, token_types=True)
    export_onnx(model, path, inputs=ENGINE_INPUTS, opset=ENGINE_OPSET)
    session = onnxruntime.InferenceSession(path)
    assert [entry.name for entry in session.get_inputs()] == list(ENGINE_INPUTS)
    assert onnx.load(path).opset_import[0].version == ENGINE_OPSET
    ids = np.array([encoded[0]["input_ids"]])
    feed = dict(zip(ENGINE_INPUTS, (ids, 0 * ids, np.ones_like(ids)), strict=True))
    np.testing.assert_allclose(session.run(None, feed)[0], expected[:1], atol=1e-3)


def test_batch_and_length_are_dynamic_and_padding_changes_nothing(tiny_onnx):
    model = load_model("onnxruntime", tiny_onnx, threads=1)
    for shape in ((1, 1), (1, 64), (5, 17)):
        ids = np.full(shape, 2000, dtype=np.int64)
        assert model.run(ids, np.ones_like(ids)).shape == (shape[0], 2)
    ids = np.array([[101, 2307, 2143, 102]])
    padded = np.pad(ids, ((0, 0), (0, 20)))
    found = model.run(padded, (padded > 0).astype(np.int64))
    np.testing.assert_allclose(found, model.run(ids, np.ones_like(ids)), atol=1e-4)


def test_operators_are_counted(tiny_onnx):
    counts = operator_counts(tiny_onnx)
    # a layer: 3 projections, 2 attention products, 1 output, 2 feed-forward
    assert counts["MatMul"] == 2 * 8
    assert sum(counts.values()) == len(onnx.load(tiny_onnx).graph.node)
    assert sum(operator_counts(tiny_onnx, optimised=True).values()) < sum(counts.values())


def test_tensors_inside_a_file_can_be_read(tiny_onnx):
    name = "/bert/encoder/layer.{}/output/LayerNorm/LayerNormalization_output_0"
    rows = [
        {"input_ids": np.full((1, n), 2000), "attention_mask": np.ones((1, n), dtype=np.int64)}
        for n in (3, 5)
    ]
    found = read_tensors(tiny_onnx, [name.format(0), name.format(1)], rows)
    assert [values.shape for values in found.values()] == [(8, 32)] * 2


def test_size_counts_mebibytes(tmp_path):
    (tmp_path / "model.xml").write_bytes(b"x" * 2**19)
    (tmp_path / "model.bin").write_bytes(b"x" * 2**20)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 2**21)
    assert size_mb(tmp_path / "model.xml") == 1.5
    assert size_mb(tmp_path / "model.bin") == 1
    assert size_mb(tmp_path) == 2
