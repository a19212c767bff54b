import warnings

import numpy as np
import pytest

from helpers.onnx_models import INTEGER_OPERATORS, operator_counts, size_mb
from helpers.quantization import (
    CalibrationLoader,
    QuantizationError,
    graph_logits,
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
