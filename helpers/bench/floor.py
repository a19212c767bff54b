"""The floor under a latency: a model's operations at the highest rate seen on this CPU."""

import contextlib
import io
import multiprocessing
import time
from dataclasses import dataclass

import numpy as np

from helpers.bench.rounds import keep_to_cores
from helpers.tutorial.profile import Architecture

_WIDTH, _DEPTH, _TRIES = 1024, 8, 12


@dataclass(frozen=True)
class Peak:
    """Highest measured rates in operations a second (a multiplication and an addition are two)."""

    fp32: float
    int8: float


def count_operations(shape: Architecture, length: int) -> int:
    """Operations in the matrix products of a BERT classifier on one sentence of `length` tokens.

    Per layer: four projections (hidden x hidden) and two in the feed-forward block for each token,
    and the two products of attention for each pair of tokens. The pooler reads one token.
    """
    projections = length * (4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate)
    attention = 2 * length**2 * shape.hidden
    return 2 * (shape.layers * (projections + attention) + shape.hidden**2)


def measure_peak(threads: int) -> Peak:
    """Measure the rates in a process bound to as many cores as threads.

    Eight square layers of width 1,024 with ReLU between them on 1,024 rows, large enough that
    nothing but the products counts, run by OpenVINO in FP32 and after NNCF's quantization in INT8.
    The fastest of twelve runs counts: it was possible.
    """
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_measure, (threads,))


def _measure(threads: int) -> Peak:
    import nncf
    import openvino as ov

    from helpers.quantization import quiet

    keep_to_cores(threads)
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((_WIDTH, _WIDTH)).astype(np.float32)
    with quiet(), contextlib.redirect_stdout(io.StringIO()):  # it draws progress bars
        int8 = nncf.quantize(_stack_of_layers(rng), nncf.Dataset([rows]), subset_size=1)
    operations = 2 * _DEPTH * _WIDTH**3
    rates = []
    for model in (_stack_of_layers(rng), int8):
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = ov.compile_model(model, "CPU", settings).create_infer_request()
        seconds = []
        for _ in range(_TRIES):
            start = time.perf_counter()
            request.infer([rows], share_inputs=True)
            seconds.append(time.perf_counter() - start)
        rates.append(operations / min(seconds))
    return Peak(*rates)


def _stack_of_layers(rng):
    import openvino as ov
    from openvino import opset13 as ops

    given = ops.parameter([_WIDTH, _WIDTH], np.float32, name="rows")
    states = given
    for _ in range(_DEPTH):
        weights = rng.standard_normal((_WIDTH, _WIDTH)).astype(np.float32) / np.sqrt(_WIDTH)
        states = ops.relu(ops.matmul(states, ops.constant(weights), False, True))
    return ov.Model([states], [given], "stack")
