"""Accuracy with its uncertainty, and paired comparison of two classifiers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import datasets
import evaluate
import numpy as np
from scipy.stats import binomtest


class AccuracyWithInterval(evaluate.Metric):
    """Accuracy with a 95 % Wilson score interval, as a metric of `evaluate` that needs no hub.

    `compute(predictions=..., references=...)` takes integer labels of shape (n,) and returns
    `accuracy`, `ci_low`, `ci_high` (shares of 1) and `n`.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy with a 95 % Wilson score interval",
            citation="Wilson 1927, Probable Inference, the Law of Succession, and ...",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float | int]:
        correct = int(np.sum(np.asarray(predictions) == np.asarray(references)))
        interval = binomtest(correct, len(references)).proportion_ci(method="wilson")
        return {
            "accuracy": correct / len(references),
            "ci_low": float(interval.low),
            "ci_high": float(interval.high),
            "n": len(references),
        }


@dataclass(frozen=True)
class Accuracy:
    """An accuracy and its 95 % interval, as shares of 1, over `n` sentences."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f} (95 % interval {self.low:.4f} to {self.high:.4f}, n = {self.n})"


def measure_accuracy(logits: np.ndarray, labels: np.ndarray) -> Accuracy:
    """Accuracy of `logits` (n, classes) against integer `labels` (n,)."""
    metric = AccuracyWithInterval()
    result = metric.compute(predictions=np.argmax(logits, axis=1), references=np.asarray(labels))
    return Accuracy(result["accuracy"], result["ci_low"], result["ci_high"], result["n"])


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
        return (
            f"{100 * self.difference:+.2f} points "
            f"(95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f}, "
            f"McNemar p = {self.p_value:.3f}; "
            f"only the first is right {self.only_a_correct} times, "
            f"only the second {self.only_b_correct} times)"
        )


def compare_paired(logits_a: np.ndarray, logits_b: np.ndarray, labels) -> PairedComparison:
    """McNemar's exact test of two classifiers on the same sentences, in the same order.

    The interval of the difference is Wald's for paired proportions (Agresti 2013, section 11.1).
    """
    labels = np.asarray(labels)
    right_a = np.argmax(logits_a, axis=1) == labels
    right_b = np.argmax(logits_b, axis=1) == labels
    only_a, only_b = int(np.sum(right_a & ~right_b)), int(np.sum(right_b & ~right_a))
    n = len(labels)
    difference = (only_a - only_b) / n
    deviation = np.sqrt(only_a + only_b - (only_a - only_b) ** 2 / n) / n
    discordant = only_a + only_b
    p_value = binomtest(only_a, discordant).pvalue if discordant else 1.0
    return PairedComparison(
        only_a,
        only_b,
        difference,
        float(difference - 1.96 * deviation),
        float(difference + 1.96 * deviation),
        float(p_value),
    )


def agreement(logits_a: np.ndarray, logits_b: np.ndarray) -> float:
    """Share of sentences to which two classifiers give the same label."""
    return float(np.mean(np.argmax(logits_a, axis=1) == np.argmax(logits_b, axis=1)))


class Interval(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def mean_over_seeds(runs: Sequence[np.ndarray], labels, *, reference=None) -> Interval:
    """Mean accuracy over several seeds' logits (n, classes), or how far it lies over a reference's.

    `reference` is one model's logits on the same sentences. The interval is a bootstrap's over
    seeds and sentences alike: it tells what another seed and other sentences would have changed.
    """
    labels = np.asarray(labels)
    right = np.array([np.argmax(logits, axis=1) == labels for logits in runs], dtype=float)
    if reference is not None:
        right -= np.argmax(reference, axis=1) == labels
    rng, (seeds, n) = np.random.default_rng(0), right.shape
    counts = rng.multinomial(n, np.full(n, 1 / n), size=2000)  # how often each sentence is drawn
    by_seed = counts @ right.T / n
    drawn = np.take_along_axis(by_seed, rng.integers(seeds, size=(2000, seeds)), axis=1)
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return Interval(float(right.mean()), float(low), float(high))
