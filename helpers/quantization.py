"""What the INT8 notebooks need around neural-compressor, ONNX Runtime and NNCF."""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nncf
import numpy as np
import onnx
import openvino as ov
from datasets import Dataset
from IPython.display import clear_output
from onnxruntime import quantization as ort

from helpers.compat import neural_compressor
from helpers.export import quiet
from helpers.runtimes import runtime_logits


class CalibrationLoader:
    """Calibration sentences as neural-compressor asks for them; `inputs` are as NNCF takes them.

    Iterating yields ({"input_ids", "attention_mask"}, label), int64 arrays of shape (1, length).
    """

    batch_size = 1

    def __init__(self, encoded: Dataset):
        names = ("input_ids", "attention_mask")
        self.inputs = [
            {name: np.array([row[name]], dtype=np.int64) for name in names} for row in encoded
        ]

    def __iter__(self) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        return ((row, 0) for row in self.inputs)

    def __len__(self) -> int:
        return len(self.inputs)


def graph_logits(graph, encoded: Dataset, *, description: str = "") -> np.ndarray:
    """`runtime_logits` of a graph in memory, as neural-compressor hands it to `eval_func`."""
    model = getattr(graph, "model", graph).SerializeToString()
    return runtime_logits("onnxruntime", model, encoded, description=description)


def save_quantized(model, path: Path) -> None:
    """Save what neural-compressor's `fit` returned.

    Raises:
        RuntimeError: it returned None, its way to say that no trial met the criterion.
    """
    if model is None:
        raise RuntimeError(
            "neural-compressor found no INT8 model within the accuracy criterion: allow a larger "
            "max_accuracy_loss, keep more operators in FP32, or stay with the FP32 model"
        )
    model.save(str(path))


def quantize_with_onnxruntime(
    source: Path, target: Path, calibration: CalibrationLoader, **settings
) -> None:
    """Static INT8 with ONNX Runtime's own quantizer; `settings` are those of `quantize_static`.

    By default every MatMul and Gemm gets unsigned activations and signed weights with one scale a
    column, as pairs of QuantizeLinear and DequantizeLinear; ranges are minimum and maximum over the
    calibration sentences. An input `token_type_ids` is fed zeros.
    """
    wanted = {entry.name for entry in onnx.load(source, load_external_data=False).graph.input}

    class Reader(ort.CalibrationDataReader):
        rows = iter(calibration.inputs)

        def get_next(self):
            row = next(self.rows, None)
            return row and {name: row.get(name, 0 * row["input_ids"]) for name in wanted}

    defaults = {
        "quant_format": ort.QuantFormat.QDQ,
        "op_types_to_quantize": ["MatMul", "Gemm"],
        "per_channel": True,
        "activation_type": ort.QuantType.QUInt8,
        "weight_type": ort.QuantType.QInt8,
    }
    with quiet():
        ort.quantize_static(source, target, Reader(), **defaults | settings)


def quantize_with_nncf(
    model: ov.Model | onnx.ModelProto, calibration: CalibrationLoader, **settings
) -> ov.Model | onnx.ModelProto:
    """Static INT8 with NNCF's settings for transformers, SmoothQuant included.

    `settings` are those of `nncf.quantize`; by default activations are symmetric. The result is a
    model of the same kind, an ONNX model in the QDQ form.
    """
    defaults = {
        "model_type": nncf.ModelType.TRANSFORMER,
        "preset": nncf.QuantizationPreset.PERFORMANCE,
        "subset_size": len(calibration),
    }
    with quiet():
        quantized = nncf.quantize(model, nncf.Dataset(calibration.inputs), **defaults | settings)
    clear_output()  # of NNCF's progress bars
    return quantized


@contextmanager
def tuning_log() -> Iterator[list[str]]:
    """Collect what neural-compressor says of its trials; the rest of its log is silenced.

    Its working files go to a folder that is removed; else it leaves an `nc_workspace` behind.
    """
    trials: list[str] = []

    def collect(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        telling = ("Tune ", "***", "Applied", "Start to fallback")
        if message.startswith(telling) or "accuracy goal" in message:
            trials.append(message.strip("* "))
        return False  # nothing goes on to be shown

    logger = logging.getLogger("neural_compressor")
    logger.addFilter(collect)
    try:
        with warnings.catch_warnings(action="ignore"), tempfile.TemporaryDirectory() as workspace:
            neural_compressor.set_workspace(workspace)
            yield trials
    finally:
        logger.removeFilter(collect)
