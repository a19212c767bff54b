"""What notebooks 3 and 4 do not check of exported files: the engine's inputs, and sizes on disk."""

import numpy as np
import onnx
import onnxruntime

from helpers.export import ENGINE_INPUTS, ENGINE_OPSET, PlainBert, export_onnx, size_mb
from helpers.training import predict_logits


def test_the_engines_spelling_has_its_inputs_in_its_order(tiny_model, encoded, tokenizer, tmp_path):
    path = tmp_path / "engine.onnx"
    model = PlainBert(tiny_model, first_token_only=False, token_types=True)
    export_onnx(model, path, inputs=ENGINE_INPUTS, opset=ENGINE_OPSET)
    session = onnxruntime.InferenceSession(path)
    assert [entry.name for entry in session.get_inputs()] == list(ENGINE_INPUTS)
    assert onnx.load(path).opset_import[0].version == ENGINE_OPSET
    ids = np.array([[*encoded[0]["input_ids"], 0, 0]])  # padded
    feed = dict(zip(ENGINE_INPUTS, (ids, 0 * ids, np.sign(ids)), strict=True))
    expected = predict_logits(tiny_model, encoded.select([0]), tokenizer)
    np.testing.assert_allclose(session.run(None, feed)[0], expected, atol=1e-3)


def test_size_counts_mebibytes(tmp_path):
    (tmp_path / "model.xml").write_bytes(b"x" * 2**19)
    (tmp_path / "model.bin").write_bytes(b"x" * 2**20)
    (tmp_path / "model.safetensors").write_bytes(b"x" * 2**21)
    assert size_mb(tmp_path / "model.xml") == 1.5
    assert size_mb(tmp_path / "model.bin") == 1
    assert size_mb(tmp_path) == 2
