"""The reference engine: its absence is explained; where it is installed, its logits are right."""

import shutil

import numpy as np
import pytest
import torch

from helpers.engine import EngineError, EngineProcess, engine_fault
from helpers.onnx_models import ENGINE_INPUTS, PlainBert, export_onnx
from helpers.profile import Architecture
from helpers.quantization import CalibrationLoader, quantize_with_onnxruntime
from helpers.training import predict_logits, untrained_classifier
from tests.conftest import SENTENCES

installed = pytest.mark.skipif(engine_fault() is not None, reason=f"engine: {engine_fault()}")
TEXTS = [sentence for sentence in SENTENCES if sentence]


def test_a_missing_environment_says_how_to_get_it(tmp_path):
    assert "run `make engine`" in engine_fault(tmp_path)
    (tmp_path / "failure.txt").write_text("ERROR: one\nERROR: No matching distribution found\n")
    assert engine_fault(tmp_path).endswith("No matching distribution found")
    with pytest.raises(EngineError, match="No matching distribution"):
        EngineProcess(tmp_path, tmp_path, {}, threads=1, max_length=8, folder=tmp_path)


def test_a_process_that_dies_is_reported(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / ".ready").touch()
    python = tmp_path / "bin/python"
    python.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(EngineError, match="its process died; it last said: out of luck"):
        EngineProcess(tmp_path, tmp_path, {}, threads=1, max_length=8, folder=tmp_path)


@pytest.fixture(scope="module")
def engine_files(tokenizer, encoded, tmp_path_factory):
    """A small student as the engine reads it, FP32 and INT8, and its logits by PyTorch.

    The engine knows certain hidden sizes alone, 256 among them.
    """
    folder = tmp_path_factory.mktemp("engine")
    shape = Architecture(layers=2, hidden=256, heads=4, intermediate=512, vocabulary=30522)
    model = untrained_classifier(shape, seed=5)
    for parameter in model.parameters():  # exporters merge equal weights; the engine cannot
        parameter.data.mul_(2).add_(0.02 * torch.randn_like(parameter))
    tokenizer.save_pretrained(folder / "tokenizer")
    plain = PlainBert(model, first_token_only=False, token_types=True)
    export_onnx(plain, folder / "fp32.onnx", opset=14, inputs=ENGINE_INPUTS)
    calibration = CalibrationLoader(encoded.select(range(5)))
    quantize_with_onnxruntime(
        folder / "fp32.onnx", folder / "int8.onnx", calibration, op_types_to_quantize=["MatMul"]
    )
    rows = [encoded[SENTENCES.index(text)] for text in TEXTS]
    logits = predict_logits(model, encoded.from_list(rows), tokenizer)
    return folder, logits


@installed
@pytest.mark.parametrize(("name", "tolerance"), [("fp32", 0.02), ("int8", 0.3)])
def test_its_logits_are_those_of_the_model(engine_files, name, tolerance):
    folder, expected = engine_files
    with EngineProcess(
        folder / f"{name}.onnx", folder / "tokenizer", {"text": TEXTS}, threads=1,
        max_length=64, pad_to=64,
    ) as engine:  # fmt: skip
        found = engine.logits("text")
        calls = engine.time("text", [1, 0], milliseconds=2)
    spread = np.ptp(expected)
    assert np.abs(found - expected).max() < tolerance * max(spread, 1)
    assert len(calls) >= 2 and min(calls) > 0


@installed
def test_a_model_it_cannot_read_is_an_error(engine_files, tmp_path):
    folder, _ = engine_files
    (tmp_path / "bad.onnx").write_text("not a model")
    with pytest.raises(EngineError):
        EngineProcess(
            tmp_path / "bad.onnx", folder / "tokenizer", {"text": TEXTS}, threads=1, max_length=64
        )
    shutil.rmtree(tmp_path)
