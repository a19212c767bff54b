"""Ratios of latencies with their intervals: one definition for tables, factors and text.

A round's latency is the mean of its calls; a row's latency is the median over the rounds; a ratio
is one such median over another, so that factors multiply to their total exactly. Its interval is
a bootstrap's over whole rounds: what disturbs a round falls on both rows of the ratio.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

_DRAWS = 2000


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass
class Timings:
    """Latencies of one row in milliseconds: one list of calls for each round."""

    rounds: list[list[float]] = field(default_factory=list)

    def round_means(self) -> np.ndarray:
        """Mean latency of each round, ms, shape (rounds,)."""
        return np.array([np.mean(calls) for calls in self.rounds])

    def summary(self) -> dict[str, float]:
        """In ms: `typical`, the median over the rounds; of all calls percentiles, mean, spread."""
        calls = np.concatenate([np.asarray(calls) for calls in self.rounds])
        p50, p90, p99 = np.percentile(calls, [50, 90, 99])
        values = {"typical": np.median(self.round_means()), "p50": p50, "p90": p90, "p99": p99}
        values |= {"mean": calls.mean(), "std": calls.std(ddof=1) if len(calls) > 1 else 0.0}
        return {name: float(value) for name, value in values.items()}


def speedup(slow: Timings, fast: Timings, *, seed: int = 0) -> Estimate:
    """How many times as fast as `slow` the row `fast` is.

    Raises:
        ValueError: the two were not timed in the same number of rounds.
    """
    means = np.array([slow.round_means(), fast.round_means()])
    drawn = np.median(means[:, _draws(means.shape[1], seed)], axis=2)
    middle = np.median(means, axis=1)
    return _estimate(middle[0] / middle[1], drawn[0] / drawn[1])


def typical(timings: Timings, *, seed: int = 0) -> Estimate:
    """The median over the rounds, ms."""
    means = timings.round_means()
    drawn = np.median(means[_draws(len(means), seed)], axis=1)
    return _estimate(np.median(means), drawn)


def decompose(timings: Mapping[str, Timings], chain: Mapping[str, str]) -> dict[str, Estimate]:
    """Factors along a chain of rows, each named after its step, and their product, "in all".

    `chain` maps each row to the step that leads to it; the first row's is not read. Where a row
    was not timed, its step is counted together with the next.
    """
    factors, waiting, before = {}, [], ""
    for name, step in chain.items():
        waiting.append(step)
        if name not in timings:
            continue
        if before:
            factors[" + ".join(waiting)] = speedup(timings[before], timings[name])
        waiting, before = [], name
    first = next(name for name in chain if name in timings)
    return factors | {"in all": speedup(timings[first], timings[before])}


def over_runs(ratios: Sequence[float]) -> Estimate:
    """Geometric mean of a ratio over repeated runs, with Student's 95 % interval of its log."""
    from scipy.stats import t  # heavy: not into every process

    logs = np.log(ratios)
    reach = t.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    return Estimate(*(float(np.exp(logs.mean() + d)) for d in (0, -reach, reach)))


def _draws(rounds: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(rounds, size=(_DRAWS, rounds))


def _estimate(value: float, drawn: np.ndarray) -> Estimate:
    return Estimate(float(value), *map(float, np.percentile(drawn, [2.5, 97.5])))
