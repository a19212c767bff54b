"""Ratios of latencies with their intervals: one definition for tables, factors and text.

A round's latency is the mean of its calls; a row's latency is the median over the rounds; a ratio
is one such median over another, so that factors multiply to their total exactly. Its interval is
a bootstrap's over whole rounds: what disturbs a round falls on both rows of the ratio.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import bootstrap

from helpers.metrics import Interval

if TYPE_CHECKING:
    from helpers.tutorial.profile import Section


@dataclass
class Timings:
    """Latencies of one row in milliseconds: one list of calls for each round."""

    rounds: list[list[float]] = field(default_factory=list)

    def round_means(self) -> np.ndarray:
        """Mean latency of each round, ms, shape (rounds,)."""
        return np.array([np.mean(calls) for calls in self.rounds])

    def summary(self) -> dict[str, float]:
        """In ms: `typical` and `mean` over the rounds; percentiles and spread of all calls."""
        calls = np.concatenate(self.rounds)
        p50, p90, p99 = np.percentile(calls, [50, 90, 99])
        means = self.round_means()
        values = {"typical": np.median(means), "p50": p50, "p90": p90, "p99": p99}
        values |= {"mean": means.mean(), "std": calls.std(ddof=1) if len(calls) > 1 else 0.0}
        return {name: float(value) for name, value in values.items()}


def speedup(slow: Timings, fast: Timings, *, seed: int = 0) -> Interval:
    """How many times as fast as `slow` the row `fast` is.

    Raises:
        ValueError: the two were not timed in the same number of rounds, or in a single one.
    """
    means = slow.round_means(), fast.round_means()

    def ratio(slow, fast, axis=-1):
        return np.median(slow, axis) / np.median(fast, axis)

    how = {"n_resamples": 2000, "paired": True, "method": "percentile"}
    interval = bootstrap(means, ratio, rng=seed, **how).confidence_interval
    return Interval(float(ratio(*means)), float(interval.low), float(interval.high))


def decompose(timings: Mapping[str, Timings], chain: Mapping[str, str]) -> dict[str, Interval]:
    """Factors along a chain of rows, each named after its step, and their product, "in all".

    `chain` maps each row to the step that leads to it; the first row's is not read. Where a row
    was not timed, its step is counted together with the next; of a single row there are none.
    """
    factors, waiting, timed = {}, [], []
    for name, step in chain.items():
        waiting.append(step)
        if name in timings:
            if timed:
                factors[" + ".join(waiting)] = speedup(timings[timed[-1]], timings[name])
            waiting = []
            timed.append(name)
    if factors:
        factors["in all"] = speedup(timings[timed[0]], timings[timed[-1]])
    return factors


def count_operations(shape: "Section", length: int, *, first_token_only: bool = False) -> int:
    """Operations in the matrix products of a BERT classifier on one sentence of `length` tokens.

    A multiplication and an addition are two. Per layer: four projections (hidden x hidden) and two
    in the feed-forward block for each token, and the two products of attention for each pair of
    tokens. The pooler reads one token. With `first_token_only` the last layer makes keys and values
    of all tokens, all else of the first.
    """
    square, wide = shape.hidden**2, 2 * shape.hidden * shape.intermediate

    def layer(tokens):
        """A layer that computes so many of the tokens."""
        return tokens * (2 * square + wide + 2 * length * shape.hidden) + 2 * length * square

    last = layer(1 if first_token_only else length)
    return 2 * ((shape.layers - 1) * layer(length) + last + square)
