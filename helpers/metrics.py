"""Accuracy with its uncertainty, and paired comparison of two classifiers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import evaluate
import numpy as np
from scipy.stats import binomtest


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(frozen=True)
class Accuracy:
    """An accuracy and its 95 % Wilson score interval, as shares of 1, over `n` sentences."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f} (95 % interval {self.low:.4f} to {self.high:.4f}, n = {self.n})"


class AccuracyWithInterval(evaluate.Metric):
    """Accuracy with its Wilson interval, as a metric of `evaluate` that needs no hub."""

    def _info(self) -> evaluate.MetricInfo:
        label = datasets.Value("int64")
        features = datasets.Features({"predictions": label, "references": label})
        citation = "Wilson 1927, Probable Inference, the Law of Succession"
        return evaluate.MetricInfo(description=self.__doc__, citation=citation, features=features)

    def _compute(self, predictions, references) -> dict[str, float | int]:
        right = np.asarray(predictions) == np.asarray(references)
        interval = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
        shares = {"value": right.mean(), "low": interval.low, "high": interval.high}
        return {name: float(share) for name, share in shares.items()} | {"n": len(right)}


def measure_accuracy(logits: np.ndarray, labels: Sequence[int]) -> Accuracy:
    """Accuracy of `logits` (n, classes) against integer `labels` (n,)."""
    metric, predictions = AccuracyWithInterval(), np.argmax(logits, axis=1)
    return Accuracy(**metric.compute(predictions=predictions, references=np.asarray(labels)))


@dataclass(frozen=True)
class PairedComparison:
    """Two classifiers on the same sentences; `difference` is a's accuracy minus b's."""

    only_a_correct: int
    only_b_correct: int
    difference: float
    low: float
    high: float
    p_value: float

    def __str__(self) -> str:
        p = "p < 0.001" if self.p_value < 0.001 else f"p = {self.p_value:.3f}"
        interval = f"95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f}, McNemar {p}"
        alone = f"only the later is right {self.only_a_correct} times, only the earlier"
        alone += f" {self.only_b_correct} times"
        return f"{100 * self.difference:+.2f} points ({interval}; {alone})"


def compare_paired(
    logits_a: np.ndarray, logits_b: np.ndarray, labels: Sequence[int]
) -> PairedComparison:
    """McNemar's exact test of two classifiers on the same sentences, in the same order.

    Name the later one first: a difference below 0 then says that it is less accurate. The interval
    of the difference is Wald's for paired proportions (Agresti 2013, section 11.1).
    """
    right_a, right_b = _right(logits_a, labels), _right(logits_b, labels)
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    n, discordant = len(right_a), only_a + only_b
    difference = (only_a - only_b) / n
    margin = 1.96 * float(np.sqrt(discordant - (only_a - only_b) ** 2 / n)) / n
    interval = Interval(difference, difference - margin, difference + margin)
    p_value = float(binomtest(only_a, discordant).pvalue) if discordant else 1.0
    return PairedComparison(only_a, only_b, *interval, p_value)


def agreement(logits_a: np.ndarray, logits_b: np.ndarray) -> float:
    """Share of sentences to which two classifiers give the same label."""
    return float(np.mean(np.argmax(logits_a, axis=1) == np.argmax(logits_b, axis=1)))


def mean_over_draws(
    runs: Sequence[np.ndarray],
    labels: Sequence[int],
    *,
    minus: Sequence[np.ndarray] | np.ndarray | None = None,
) -> Interval:
    """Mean accuracy over several runs' logits, each (n, classes) on the same sentences.

    Runs are draws of the labelled sentences, or seeds. `minus` turns it into the mean difference
    from other logits: one array for all runs, or one for each run, in order. The interval is a
    bootstrap's over runs and sentences together.
    """
    right = _right(np.asarray(runs), labels).astype(float)
    if minus is not None:
        right -= _right(np.asarray(minus), labels)
    rng, (draws, n) = np.random.default_rng(0), right.shape
    counts = rng.multinomial(n, np.full(n, 1 / n), size=2000)  # how often each sentence is drawn
    by_draw = counts @ right.T / n
    drawn = np.take_along_axis(by_draw, rng.integers(draws, size=(2000, draws)), axis=1)
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return Interval(float(right.mean()), float(low), float(high))


def _right(logits: np.ndarray, labels: Sequence[int]) -> np.ndarray:
    return np.argmax(logits, axis=-1) == np.asarray(labels)
