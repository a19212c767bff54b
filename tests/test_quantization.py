"""What notebook 4 does not check of INT8 models: refusals, working files, the other quantizers."""

import numpy as np
import onnx
import openvino as ov
import pytest

from helpers.compat import neural_compressor
from helpers.export import operator_counts
from helpers.quantization import (
    CalibrationLoader,
    graph_logits,
    quantize_with_nncf,
    quantize_with_onnxruntime,
    save_quantized,
    tuning_log,
)
from helpers.runtimes import runtime_logits


@pytest.fixture(scope="module")
def calibration(encoded):
    return CalibrationLoader(encoded.select(range(6)))


def quantize(path, calibration, **arguments):
    config = neural_compressor.config
    settings = config.PostTrainingQuantConfig(
        approach="static",
        calibration_sampling_size=[6],
        accuracy_criterion=config.AccuracyCriterion(tolerable_loss=0.01),
        tuning_criterion=config.TuningCriterion(max_trials=2),
    )
    fit = neural_compressor.quantization.fit
    return fit(str(path), settings, calib_dataloader=calibration, **arguments)


def test_what_is_saved_is_what_was_tried_and_no_working_files_stay(
    tiny_onnx, calibration, encoded, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with tuning_log():
        quantized = quantize(tiny_onnx, calibration)
    save_quantized(quantized, tmp_path / "int8.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]
    int8 = runtime_logits("onnxruntime", tmp_path / "int8.onnx", encoded)
    np.testing.assert_array_equal(graph_logits(quantized, encoded), int8)


def test_a_criterion_that_cannot_be_met_ends_in_a_clear_error(tiny_onnx, calibration, tmp_path):
    accuracies = iter([1.0])  # FP32 is perfect, every INT8 trial is useless
    with tuning_log() as trials:
        quantized = quantize(tiny_onnx, calibration, eval_func=lambda graph: next(accuracies, 0.0))
    assert any(line.startswith("Tune 1 result") for line in trials)
    with pytest.raises(RuntimeError, match="no INT8 model within the accuracy criterion"):
        save_quantized(quantized, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_other_quantizers_leave_no_product_in_fp32_and_keep_the_logits(
    tiny_onnx, calibration, encoded, tmp_path
):
    quantize_with_onnxruntime(tiny_onnx, tmp_path / "own.onnx", calibration)
    running = operator_counts(tmp_path / "own.onnx", optimised=True)
    assert running["QLinearMatMul"] >= 12 and running["MatMul"] == 0
    onnx.save(quantize_with_nncf(onnx.load(tiny_onnx), calibration), tmp_path / "nncf.onnx")
    model = quantize_with_nncf(ov.Core().read_model(tiny_onnx), calibration)
    ov.save_model(model, tmp_path / "nncf.xml", compress_to_fp16=False)
    fp32 = runtime_logits("onnxruntime", tiny_onnx, encoded)
    for runtime, name in (("onnxruntime", "nncf.onnx"), ("openvino", "nncf.xml")):
        int8 = runtime_logits(runtime, tmp_path / name, encoded)
        assert np.corrcoef(int8.ravel(), fp32.ravel())[0, 1] > 0.9
