import numpy as np
import onnx
import openvino as ov
import pytest
from onnxruntime.quantization import QuantFormat

from helpers.compat import neural_compressor
from helpers.environment import has_int8_products
from helpers.export import operator_counts, size_mb
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


@pytest.fixture(scope="module")
def fp32(tiny_onnx, encoded):
    return runtime_logits("onnxruntime", tiny_onnx, encoded)


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


def near(values, expected):
    return np.corrcoef(values.ravel(), expected.ravel())[0, 1] > 0.9


def test_static_quantization_gives_integer_operators(
    tiny_onnx, calibration, encoded, fp32, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with tuning_log():
        quantized = quantize(tiny_onnx, calibration)
    save_quantized(quantized, tmp_path / "int8.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]  # and no working files
    assert operator_counts(tmp_path / "int8.onnx")["QLinearMatMul"] >= 8
    assert size_mb(tmp_path / "int8.onnx") < size_mb(tiny_onnx)
    int8 = runtime_logits("onnxruntime", tmp_path / "int8.onnx", encoded)
    if has_int8_products():  # else sums of products overflow 16 bits, in the runtime
        assert near(int8, fp32)
    np.testing.assert_array_equal(graph_logits(quantized, encoded), int8)


def test_a_criterion_that_cannot_be_met_ends_in_a_clear_error(tiny_onnx, calibration, tmp_path):
    accuracies = iter([1.0])  # FP32 is perfect, every INT8 trial is useless
    with tuning_log() as trials:
        quantized = quantize(tiny_onnx, calibration, eval_func=lambda graph: next(accuracies, 0.0))
    assert any(line.startswith("Tune 1 result") for line in trials)
    with pytest.raises(RuntimeError, match="no INT8 model within the accuracy criterion"):
        save_quantized(quantized, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_both_formats_run_on_integers(form, tiny_onnx, calibration, tmp_path):
    path = tmp_path / "int8.onnx"
    quantize_with_onnxruntime(tiny_onnx, path, calibration, quant_format=QuantFormat[form])
    running = operator_counts(path, optimised=True)
    assert running["QLinearMatMul"] >= 12 and running["MatMul"] == 0


def test_nncf_quantizes_for_both_runtimes(tiny_onnx, calibration, encoded, fp32, tmp_path):
    onnx.save(quantize_with_nncf(onnx.load(tiny_onnx), calibration), tmp_path / "int8.onnx")
    assert near(runtime_logits("onnxruntime", tmp_path / "int8.onnx", encoded), fp32)
    model = quantize_with_nncf(ov.Core().read_model(tiny_onnx), calibration)
    ov.save_model(model, tmp_path / "int8.xml", compress_to_fp16=False)
    assert near(runtime_logits("openvino", tmp_path / "int8.xml", encoded), fp32)
