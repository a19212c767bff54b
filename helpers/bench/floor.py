"""The floor under a latency: a model's operations at the highest rate OpenVINO reached here."""

import multiprocessing
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from helpers.environment import bind_to_cores

if TYPE_CHECKING:
    from helpers.tutorial.profile import Section

_WIDTH, _DEPTH, _TRIES = 1024, 8, 12


@dataclass(frozen=True)
class Peak:
    """Highest measured rates in operations a second (a multiplication and an addition are two)."""

    fp32: float
    int8: float


def count_operations(shape: "Section", length: int, *, first_token_only: bool = False) -> int:
    """Operations in the matrix products of a BERT classifier on one sentence of `length` tokens.

    Per layer: four projections (hidden x hidden) and two in the feed-forward block for each token,
    and the two products of attention for each pair of tokens. The pooler reads one token. With
    `first_token_only` the last layer makes keys and values of all tokens, all else of the first.
    """
    square, wide = shape.hidden**2, 2 * shape.hidden * shape.intermediate

    def layer(tokens):
        """A layer that computes so many of the tokens."""
        return tokens * (2 * square + wide + 2 * length * shape.hidden) + 2 * length * square

    last = layer(1 if first_token_only else length)
    return 2 * ((shape.layers - 1) * layer(length) + last + square)


def measure_peak(threads: int) -> Peak:
    """Measure OpenVINO's rates in a process bound to as many cores as threads.

    Eight square layers of width 1,024 with ReLU between them on 1,024 rows, in FP32 and in INT8:
    large enough that nothing but the products counts. The fastest of twelve runs counts. It is
    what this runtime was seen to do, not a limit of the CPU.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (threads,))


def _measure(threads: int) -> Peak:
    import openvino as ov

    bind_to_cores(threads)
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (_WIDTH, _WIDTH)).astype(np.float32)
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "f32",
    }
    rates = []
    for int8 in (False, True):
        model = _stack_of_layers(rng, int8=int8)
        request = ov.compile_model(model, "CPU", settings).create_infer_request()
        seconds = []
        for _ in range(_TRIES):
            start = time.perf_counter()
            request.infer([rows], share_inputs=True)
            seconds.append(time.perf_counter() - start)
        rates.append(2 * _DEPTH * _WIDTH**3 / min(seconds))
    return Peak(*rates)


def _stack_of_layers(rng: np.random.Generator, *, int8: bool):
    """The model; for INT8 its activations and weights are marked as on 256 and 255 steps."""
    import openvino as ov
    from openvino import opset13 as ops

    def marked(values, low, levels):
        limits = [np.float32(low), np.float32(1)] * 2
        return ops.fake_quantize(values, *limits, levels) if int8 else values

    given = ops.parameter([_WIDTH, _WIDTH], np.float32, name="rows")
    states, low = given, -1
    for _ in range(_DEPTH):
        weights = rng.uniform(-1, 1, (_WIDTH, _WIDTH)).astype(np.float32)
        weights = marked(ops.constant(weights), -1, 255)
        states, low = ops.relu(ops.matmul(marked(states, low, 256), weights, False, True)), 0
    return ov.Model([states], [given], "stack")
