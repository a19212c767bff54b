import warnings

import numpy as np
import pytest
from onnxruntime.quantization import QuantFormat

from helpers.onnx_models import INTEGER_OPERATORS, operator_counts, size_mb
from helpers.quantization import (
    CalibrationLoader,
    QuantizationError,
    graph_logits,
    layer_states,
    openvino_products,
    quantize_with_nncf,
    quantize_with_onnxruntime,
    quiet,
    runtime_logits,
    save_quantized,
    tuning_log,
)


def integer_operators(path):
    return sum(operator_counts(path)[kind] for kind in INTEGER_OPERATORS)


@pytest.fixture(scope="module")
def calibration(encoded):
    return CalibrationLoader(encoded.select(range(6)))


def quantize(path, calibration, **arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from neural_compressor.config import (
            AccuracyCriterion,
            PostTrainingQuantConfig,
            TuningCriterion,
        )
        from neural_compressor.quantization import fit

    criterion = AccuracyCriterion(tolerable_loss=0.01)
    config = PostTrainingQuantConfig(
        approach="static",
        calibration_sampling_size=[6],
        accuracy_criterion=criterion,
        tuning_criterion=TuningCriterion(max_trials=2),
    )
    return fit(str(path), config, calib_dataloader=calibration, **arguments)


def test_the_calibration_loader_yields_what_the_library_asks_for(calibration, encoded):
    assert calibration.batch_size == 1 and len(calibration) == 6
    inputs, _ = next(iter(calibration))
    assert inputs["input_ids"].shape == (1, len(encoded[0]["input_ids"]))
    assert inputs["input_ids"].dtype == inputs["attention_mask"].dtype == np.int64


def test_static_quantization_gives_integer_operators(
    tiny_onnx, calibration, encoded, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with tuning_log():
        quantized = quantize(tiny_onnx, calibration)
    save_quantized(quantized, tmp_path / "int8.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["int8.onnx"]  # and no working files
    assert integer_operators(tiny_onnx) == 0
    assert integer_operators(tmp_path / "int8.onnx") >= 8
    assert size_mb(tmp_path / "int8.onnx") < size_mb(tiny_onnx)
    fp32, int8 = (
        runtime_logits("onnxruntime", path, encoded, tokenizer, description="test")
        for path in (tiny_onnx, tmp_path / "int8.onnx")
    )
    assert np.corrcoef(fp32.ravel(), int8.ravel())[0, 1] > 0.9
    in_memory = graph_logits(quantized, encoded, tokenizer, description="test")
    np.testing.assert_array_equal(in_memory, int8)


def test_a_criterion_that_cannot_be_met_ends_in_a_clear_error(tiny_onnx, calibration, tmp_path):
    accuracies = iter([1.0])  # FP32 is perfect, every INT8 trial is useless

    with tuning_log() as trials:
        quantized = quantize(tiny_onnx, calibration, eval_func=lambda graph: next(accuracies, 0.0))
    assert any(line.startswith("Tune 1 result") for line in trials)
    with pytest.raises(QuantizationError, match="no INT8 model within the accuracy criterion"):
        save_quantized(quantized, tmp_path / "int8.onnx")
    assert not (tmp_path / "int8.onnx").exists()


def test_dynamic_quantization_gives_integer_operators(tiny_onnx, tmp_path):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with quiet():
        quantize_dynamic(tiny_onnx, tmp_path / "dynamic.onnx", weight_type=QuantType.QInt8)
    assert operator_counts(tmp_path / "dynamic.onnx")["MatMulInteger"] >= 8


def test_formats_differ_in_the_file_and_not_in_what_runs(tiny_onnx, calibration, tmp_path):
    counts = {}
    for form in ("QDQ", "QOperator"):
        path = tmp_path / f"{form}.onnx"
        quantize_with_onnxruntime(tiny_onnx, path, calibration, quant_format=QuantFormat[form])
        counts[form] = operator_counts(path), operator_counts(path, optimised=True)
    assert counts["QDQ"][0]["MatMul"] == operator_counts(tiny_onnx)["MatMul"]
    assert counts["QOperator"][0]["MatMul"] == 0
    for _, running in counts.values():
        assert running["QLinearMatMul"] >= 12 and running["MatMul"] == 0


def test_nncf_writes_for_both_runtimes(tiny_onnx, calibration, encoded, tokenizer, tmp_path):
    reference = runtime_logits("onnxruntime", tiny_onnx, encoded, tokenizer, description="test")
    for name, runtime in (("int8.onnx", "onnxruntime"), ("int8.xml", "openvino")):
        path = tmp_path / name
        quantize_with_nncf(tiny_onnx, path, calibration)
        int8 = runtime_logits(runtime, path, encoded, tokenizer, description="test")
        assert np.corrcoef(reference.ravel(), int8.ravel())[0, 1] > 0.9
    assert set(openvino_products(tmp_path / "int8.xml")) == {"integer"}
    assert set(openvino_products(tiny_onnx)) == {"float"}


def test_layers_drift_only_where_something_was_quantized(tiny_onnx, calibration, encoded, tmp_path):
    rows = encoded.select(range(6))
    expected = layer_states(tiny_onnx, rows, 2)
    assert [states.shape for states in expected] == [(sum(rows["length"]), 32)] * 2
    path = tmp_path / "int8.onnx"
    quantize_with_onnxruntime(tiny_onnx, path, calibration)
    for states, reference in zip(layer_states(path, rows, 2), expected, strict=True):
        assert 0 < np.abs(states - reference).max() < 1
    quantize_with_nncf(tiny_onnx, tmp_path / "int8.xml", calibration)
    for states, reference in zip(
        layer_states(tmp_path / "int8.xml", rows, 2), expected, strict=True
    ):
        assert 0 < np.abs(states - reference).max() < 1
    with pytest.raises(KeyError, match=r"layer\.2"):
        layer_states(tiny_onnx, rows, 3)
