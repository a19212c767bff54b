"""What the INT8 notebook needs around neural-compressor, ONNX Runtime and NNCF."""

import json
import logging
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nncf
import numpy as np
import onnx
import onnxruntime
import openvino as ov
from datasets import Dataset
from IPython.display import clear_output
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)

from helpers.environment import physical_cores
from helpers.classify import NOTES
from helpers.runtimes import load_model
from helpers.training import collect_rows


class QuantizationError(RuntimeError):
    """Quantization gave no model that meets its criterion."""


class CalibrationLoader:
    """Calibration sentences in the form neural-compressor asks for.

    Iterating yields ({"input_ids", "attention_mask"}, label), int64 arrays of shape (1, length).
    """

    batch_size = 1

    def __init__(self, encoded: Dataset):
        self._rows = [
            {
                name: np.array([row[name]], dtype=np.int64)
                for name in ("input_ids", "attention_mask")
            }
            for row in encoded
        ]

    def __iter__(self) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        return ((row, 0) for row in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def inputs(self) -> list[dict[str, np.ndarray]]:
        """The inputs alone, as NNCF takes them."""
        return self._rows


def runtime_logits(runtime, source, encoded: Dataset, tokenizer, *, description: str) -> np.ndarray:
    """Logits (n, classes) of a model file over a tokenised dataset, on every physical core.

    Sentences go one by one, unpadded: a quantizer that takes its ranges from the data at hand
    must see the sentences as the benchmark will show them.
    """
    model = load_model(runtime, source, threads=physical_cores())

    def run(batch):
        return model.run(batch["input_ids"], batch["attention_mask"])

    return collect_rows(run, encoded, tokenizer, description=description, batch_size=1)


def graph_logits(graph, encoded: Dataset, tokenizer, *, description: str) -> np.ndarray:
    """The same for a graph in memory, as neural-compressor hands it to its evaluation function."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "graph.onnx")
        onnx.save(getattr(graph, "model", graph), path)
        return runtime_logits("onnxruntime", path, encoded, tokenizer, description=description)


def save_quantized(model, path: Path) -> None:
    """Save what neural-compressor's `fit` returned.

    Raises:
        QuantizationError: it returned None, its way to say that no trial met the criterion.
    """
    if model is None:
        raise QuantizationError(
            "neural-compressor found no INT8 model within the accuracy criterion: allow a larger "
            "max_accuracy_loss, keep more operators in FP32, or stay with the FP32 model, which "
            "is unchanged"
        )
    model.save(str(path))


def quantize_with_onnxruntime(
    source: Path, target: Path, calibration: CalibrationLoader, **settings
) -> None:
    """Static INT8 with ONNX Runtime's own quantizer.

    Unless `settings`, those of `quantize_static`, say otherwise: every MatMul and Gemm gets
    unsigned activations and signed weights with one scale a column, as pairs of QuantizeLinear and
    DequantizeLinear; ranges are minimum and maximum over the calibration sentences. An input
    `token_type_ids` is fed zeros.
    """
    wanted = {entry.name for entry in onnx.load(source, load_external_data=False).graph.input}

    class Reader(CalibrationDataReader):
        rows = iter(calibration.inputs)

        def get_next(self):
            row = next(self.rows, None)
            return row and {name: row.get(name, 0 * row["input_ids"]) for name in wanted}

    defaults = {
        "quant_format": QuantFormat.QDQ,
        "op_types_to_quantize": ["MatMul", "Gemm"],
        "per_channel": True,
        "activation_type": QuantType.QUInt8,
        "weight_type": QuantType.QInt8,
    }
    with quiet():
        quantize_static(source, target, Reader(), **defaults | settings)


def quantize_with_nncf(
    source: Path,
    target: Path,
    calibration: CalibrationLoader,
    *,
    notes: dict | None = None,
    **settings,
) -> None:
    """Static INT8 of an ONNX file with NNCF's recipe for transformers, SmoothQuant included.

    The target is an OpenVINO model (`.xml`) or, in the QDQ form, an ONNX file. Unless `settings`,
    those of `nncf.quantize`, say otherwise, activations are symmetric. `notes` are those of
    `onnx_models.write_notes`, for OpenVINO.
    """
    read = onnx.load if target.suffix == ".onnx" else ov.Core().read_model
    defaults = {
        "model_type": nncf.ModelType.TRANSFORMER,
        "preset": nncf.QuantizationPreset.PERFORMANCE,
        "subset_size": len(calibration),
    }
    with quiet():
        model = nncf.quantize(read(source), nncf.Dataset(calibration.inputs), **defaults | settings)
    clear_output()  # of NNCF's progress bars
    if target.suffix == ".onnx":
        onnx.save(model, target)
    else:
        save_openvino(model, target, **notes or {})


def openvino_products(path: Path) -> Counter:
    """How many of an OpenVINO model's products with weights run in integers, and in floats.

    Counted in the compiled model. The products inside attention, which OpenVINO fuses with what
    stands between them, are not among them.
    """
    compiled = ov.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    operators = [operator.rt_info for operator in compiled.get_runtime_model().get_ops()]
    precisions = [
        info["runtimePrecision"].astype(str)
        for info in operators
        if info["layerType"].astype(str) == "FullyConnected"
    ]
    return Counter("integer" if name in ("i8", "u8") else "float" for name in precisions)


def layer_states(path: Path, encoded: Dataset, layers: int) -> list[np.ndarray]:
    """What each encoder layer of an exported model hands on, FP32 (tokens, hidden) a layer.

    `path` is an ONNX file, run with ONNX Runtime, or an OpenVINO model. It must hold the tensors
    by the names the FP32 export gave them, as quantizers leave them; all sentences' tokens are in
    the dataset's order.

    Raises:
        KeyError: the file does not hold such a tensor.
    """
    names = [
        f"/bert/encoder/layer.{layer}/output/LayerNorm/LayerNormalization_output_0"
        for layer in range(layers)
    ]
    rows = CalibrationLoader(encoded).inputs
    if path.suffix == ".xml":
        model = ov.Core().read_model(path)
        model.add_outputs(names)
        compiled = ov.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        found = [[results[name] for name in names] for results in map(compiled, rows)]
    else:
        model = onnx.load(path)
        there = {name for node in model.graph.node for name in node.output}
        if lacking := set(names) - there:
            raise KeyError(f"{path.name} has no {min(lacking)}")
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        found = [session.run(names, row) for row in rows]
    return [np.concatenate([states[0] for states in layer]) for layer in zip(*found, strict=True)]


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back the warnings and log lines of the quantizers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def tuning_log() -> Iterator[list[str]]:
    """Collect what neural-compressor says of its trials and of what it falls back to.

    The rest of its log is silenced, and its working files go to a folder that is removed; without
    that it leaves an `nc_workspace` wherever it runs.
    """
    trials: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record):
            message = record.getMessage()
            telling = ("Tune ", "***", "Applied", "Start to fallback")
            if message.startswith(telling) or "accuracy goal" in message:
                trials.append(message.strip("* "))

    logger = logging.getLogger("neural_compressor")
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    logger.handlers, logger.propagate = [Collect()], False
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as workspace:
            warnings.simplefilter("ignore")
            from neural_compressor import set_workspace

            set_workspace(workspace)
            yield trials
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def save_openvino(model: ov.Model, path: Path, **notes) -> None:
    """Save an OpenVINO model as `.xml` and `.bin`, its unquantized weights in FP32.

    `notes` are those of `onnx_models.write_notes`.
    """
    for name, value in notes.items():
        text = value if isinstance(value, str) else json.dumps(value)
        model.set_rt_info(text, [NOTES, name])
    ov.save_model(model, path, compress_to_fp16=False)
