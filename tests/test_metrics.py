import numpy as np
import pytest

from helpers.metrics import agreement, compare_paired, mean_over_draws, measure_accuracy


def logits_for(labels):
    return np.eye(2)[np.asarray(labels)]


def test_accuracy_and_wilson_interval_of_a_known_case():
    gold = np.array([1] * 100)
    predicted = np.array([1] * 90 + [0] * 10)
    accuracy = measure_accuracy(logits_for(predicted), gold)
    assert (accuracy.value, accuracy.n) == (0.9, 100)
    # Wilson's interval for 90 of 100 with z = 1.959964
    assert accuracy.low == pytest.approx(0.8256, abs=1e-4)
    assert accuracy.high == pytest.approx(0.9448, abs=1e-4)


def test_mcnemar_of_a_known_case():
    gold = np.zeros(100, dtype=int)
    a = np.array([0] * 85 + [1] * 15)
    b = np.array([0] * 75 + [1] * 10 + [0] * 5 + [1] * 10)
    comparison = compare_paired(logits_for(a), logits_for(b), gold)
    assert (comparison.only_a_correct, comparison.only_b_correct) == (10, 5)
    assert comparison.difference == pytest.approx(0.05)
    # exact binomial, two-sided: 2 * P(X >= 10 | 15, 1/2)
    assert comparison.p_value == pytest.approx(0.3018, abs=1e-4)
    assert comparison.low < 0.05 < comparison.high


def test_equal_systems_do_not_differ():
    gold = np.array([0, 1, 1])
    comparison = compare_paired(logits_for([0, 1, 0]), logits_for([0, 1, 0]), gold)
    assert (comparison.difference, comparison.p_value) == (0, 1)
    assert agreement(logits_for([0, 1, 0, 0]), logits_for([0, 1, 1, 0])) == 0.75


def test_the_mean_over_draws_has_an_interval_for_seeds_and_sentences():
    rng = np.random.default_rng(1)
    gold = rng.integers(0, 2, 400)
    steady = [logits_for(np.where(rng.random(400) < 0.9, gold, 1 - gold)) for _ in range(3)]
    found = mean_over_draws(steady, gold)
    assert found.value == pytest.approx(np.mean([measure_accuracy(s, gold).value for s in steady]))
    assert found.low < found.value < found.high and found.high - found.low < 0.08
    wild = [logits_for(gold), logits_for(gold), logits_for(1 - gold)]  # one draw fails altogether
    spread = mean_over_draws(wild, gold)
    assert spread.value == pytest.approx(2 / 3) and spread.low < 0.05 and spread.high == 1


def test_minus_other_logits_only_differences_count():
    gold = np.array([0, 1] * 50)
    worse = gold.copy()
    worse[:10] = 1 - worse[:10]
    found = mean_over_draws([logits_for(worse)] * 2, gold, minus=logits_for(gold))
    assert found.value == pytest.approx(-0.1) and found.low < -0.1 < found.high < 0
    assert mean_over_draws([logits_for(worse)], gold, minus=logits_for(worse)) == (0, 0, 0)
    other = [logits_for(worse), logits_for(gold)]
    paired = mean_over_draws([logits_for(gold)] * 2, gold, minus=other)  # 0.1 and 0
    assert paired.value == pytest.approx(0.05) and paired.low <= 0 < paired.high


def test_no_p_value_is_called_zero():
    gold = np.zeros(100, dtype=int)
    comparison = compare_paired(logits_for(gold), logits_for(1 - gold), gold)
    assert "p < 0.001" in str(comparison) and str(comparison).startswith("+100.00 points")
