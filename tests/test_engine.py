"""The blog's engine: its absence is explained; where it can run, its logits are right."""

import numpy as np
import pytest
import torch

from helpers.bench import engine
from helpers.bench.worker import ENGINE
from helpers.bench.workers import WorkerProcess
from helpers.export import ENGINE_INPUTS, ENGINE_OPSET, PlainBert, export_onnx
from helpers.quantization import CalibrationLoader, quantize_with_onnxruntime
from helpers.training import predict_logits, untrained_classifier
from helpers.tutorial.profile import load_profile
from tests.conftest import SENTENCES

can_run = pytest.mark.skipif(engine.engine_fault() is not None, reason=str(engine.engine_fault()))
TEXTS = [sentence for sentence in SENTENCES if sentence]


def test_what_is_missing_is_explained(tmp_path, monkeypatch, capsys):
    assert "run `make engine`" in engine.engine_fault(tmp_path)
    (tmp_path / ".ready").touch()
    monkeypatch.setattr(engine, "instruction_sets", lambda: ["avx2"])
    assert "AVX-512" in engine.engine_fault(tmp_path)
    assert engine.engine_logits(tmp_path, tmp_path, TEXTS, max_length=8) == {}
    assert "no row of the blog's engine here: " in capsys.readouterr().out


def test_a_process_that_dies_is_reported(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    python.chmod(0o755)
    with WorkerProcess({"row": {}}, [], [], threads=1, max_length=8, command=[python]) as dying:
        faults = dying.wait_until_loaded()
    assert faults == {"row": "its process died (3); it last said: out of luck"}


@pytest.fixture(scope="module")
def engine_files(tokenizer, encoded, tmp_path_factory):
    """A small student as the engine reads it, FP32 and INT8, and its logits by PyTorch.

    The engine knows certain hidden sizes alone, 256 among them.
    """
    folder = tmp_path_factory.mktemp("engine")
    sizes = {"layers": 2, "hidden": 256, "heads": 4, "intermediate": 512}
    shape = load_profile("default").student.architecture.model_copy(update=sizes)
    model = untrained_classifier(shape, seed=5)
    for parameter in model.parameters():  # exporters merge equal weights; the engine cannot
        parameter.data.mul_(2).add_(0.02 * torch.randn_like(parameter))
    tokenizer.save_pretrained(folder / "tokenizer")
    plain = PlainBert(model, first_token_only=False, token_types=True)
    export_onnx(plain, folder / "fp32.onnx", opset=ENGINE_OPSET, inputs=ENGINE_INPUTS)
    calibration = CalibrationLoader(encoded.select(range(5)))
    quantize_with_onnxruntime(
        folder / "fp32.onnx", folder / "int8.onnx", calibration, op_types_to_quantize=["MatMul"]
    )
    (folder / "bad.onnx").write_text("not a model")
    rows = [encoded[SENTENCES.index(text)] for text in TEXTS]
    return folder, predict_logits(model, encoded.from_list(rows), tokenizer)


@can_run
@pytest.mark.parametrize(("name", "tolerance"), [("fp32", 0.02), ("int8", 0.3)])
def test_its_logits_are_those_of_the_model(engine_files, name, tolerance):
    folder, expected = engine_files
    model, tokenizer = str(folder / f"{name}.onnx"), str(folder / "tokenizer")
    row = {"runtime": ENGINE, "source": model, "tokenizer": tokenizer, "options": {"pad_to": 64}}
    how = {"threads": 1, "max_length": 64, "command": engine.engine_command()}
    with WorkerProcess({"row": row}, TEXTS, ["own"], **how) as running:
        assert running.wait_until_loaded() == {}
        found = running.logits("row", "own")
        calls = running.time("row", "own", [1, 0], 2)
    assert np.abs(found - expected).max() < tolerance * max(np.ptp(expected), 1)
    assert len(calls) >= 2 and min(calls) > 0


@can_run
def test_a_model_it_cannot_read_is_explained(engine_files, capsys):
    folder, _ = engine_files
    bad, tokenizer = folder / "bad.onnx", folder / "tokenizer"
    assert engine.engine_logits(bad, tokenizer, TEXTS, max_length=64) == {}
    assert "no row of the blog's engine here" in capsys.readouterr().out
