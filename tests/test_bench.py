"""The statistics on samples with known answers, and a real measurement of small models."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset

from helpers.bench import results, rounds, worker
from helpers.bench.rounds import OWN, Variant
from helpers.bench.statistics import Timings, count_operations, decompose, speedup
from helpers.bench.worker import time_block
from helpers.bench.workers import as_json
from helpers.environment import physical_cores
from helpers.tutorial.profile import load_profile


def timings(*round_latencies) -> Timings:
    return Timings([[float(latency)] * 3 for latency in round_latencies])


def test_summary_of_a_known_sample():
    summary = Timings([list(range(1, 51)), list(range(51, 101))]).summary()
    assert summary["p50"] == summary["mean"] == summary["typical"] == 50.5
    assert (summary["p90"], summary["p99"]) == pytest.approx((90.1, 99.01))
    assert summary["std"] == pytest.approx(29.011, abs=1e-3)


def test_a_constant_ratio_has_no_spread_and_a_drift_leaves_a_ratio_alone():
    assert speedup(timings(10, 20, 40), timings(1, 2, 4)) == (10, 10, 10)
    with pytest.raises(ValueError):  # unlike rounds
        speedup(timings(1, 2, 3), timings(1, 2))
    drift = np.linspace(1, 3, 60)  # the machine becomes three times slower
    noise = np.random.default_rng(0).normal(1, 0.02, size=(2, 60))
    slow, fast = 50 * drift * noise[0], 5 * drift * noise[1]
    slow[7] *= 40
    ratio = speedup(timings(*slow), timings(*fast))
    assert ratio.value == pytest.approx(10, rel=0.03) and ratio.low < 10 < ratio.high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(100):
        ratio = speedup(timings(*rng.normal(10, 1, 40)), timings(*np.ones(40)), seed=seed)
        covered += ratio.low <= 10 <= ratio.high
    assert 88 <= covered <= 100


def test_factors_multiply_to_the_total_and_agree_with_the_rows():
    rng = np.random.default_rng(2)
    latencies = {"base": 100, "mini": 8, "runtime": 4, "int8": 1}
    timed = {name: timings(*(ms * rng.normal(1, 0.03, 30))) for name, ms in latencies.items()}
    chain = {"base": "", "mini": "model", "runtime": "runtime", "int8": "precision"}
    factors = decompose(timed, chain)
    assert list(factors) == ["model", "runtime", "precision", "in all"]
    total = factors["in all"]
    assert np.prod([f.value for f in factors.values()]) == pytest.approx(total.value**2, rel=1e-12)
    assert total == speedup(timed["base"], timed["int8"])
    for factor, truth in zip(factors.values(), [12.5, 2, 4, 100], strict=True):
        assert factor.value == pytest.approx(truth, rel=0.04)
        assert factor.low < truth < factor.high
    del timed["runtime"]  # it strayed, and was not timed
    assert list(decompose(timed, chain)) == ["model", "runtime + precision", "in all"]
    assert decompose(dict([timed.popitem()]), chain) == {}


def test_rounds_may_end_once_all_headlines_are_narrow():
    rng = np.random.default_rng(3)
    steady, fast = timings(*np.full(8, 10)), timings(*rng.normal(1, 0.001, 8))
    timed = {"slow": steady, "fast": fast, "shaky": timings(*rng.normal(1, 0.4, 8))}
    assert rounds.narrow(timed, [("slow", "fast")], 0.03)
    assert rounds.narrow(timed, [("slow", "fast"), ("slow", "not timed")], 0.03)
    assert not rounds.narrow(timed, [("slow", "fast"), ("slow", "shaky")], 0.03)
    assert not rounds.narrow(timed, [], 0.03)


def test_a_block_takes_its_time_and_misses_no_item():
    seen = []
    calls = time_block(lambda item: seen.append(item), [("a",), ("b",)], milliseconds=5)
    assert sum(calls) <= 50 and len(calls) > 100
    assert seen[:2] == ["a", "b"] and seen[-1] == "b"
    calls = time_block(lambda item: time.sleep(0.02), [(1,), (2,), (3,)], milliseconds=5)
    assert len(calls) == 3 and min(calls) > 19


def test_a_row_that_labels_otherwise_than_its_fp32_is_not_timed(tmp_path):
    table = {
        "fp32": ("mini", "p"),
        "good": ("mini", "good"),
        "strayed": ("mini", "bad"),
        "none": ("mini", "x"),
        "other": ("other", "other"),
        "untrained": ("base", ""),
    }
    rows = [Variant(n, model, "", "", "", predictions=p) for n, (model, p) in table.items()]
    for number, right in {"03": {"p": 100, "other": 50}, "04": {"good": 99, "bad": 98}}.items():
        logits = {name: np.eye(2)[[1] * n + [0] * (100 - n)] for name, n in right.items()}
        np.savez(tmp_path / f"predictions_{number}.npz", **logits)
    stored = results.load_predictions(tmp_path, ["03", "04"])
    test = Dataset.from_dict({"label": [1] * 100})
    found = results.check_labels(rows, stored, test, fp32={"mini": "p"}, agreement=0.99)
    shares, accuracies, strayed = found
    assert shares == {"fp32": 1, "good": 0.99, "strayed": 0.98}
    assert "98.0%" in strayed["strayed"] and set(strayed) == {"strayed", "none"}
    assert accuracies["strayed"].value == 0.98
    assert set(accuracies) == {"fp32", "good", "strayed", "other"}


@pytest.fixture(scope="module")
def tiny_rows(tiny_onnx, tiny_architecture):
    (tiny_onnx.parent / "baseline.onnx").write_bytes(tiny_onnx.read_bytes())
    table = {
        "untrained": ("pytorch", "FP32", tiny_architecture, ""),
        "autograd": ("pytorch", "FP32", "student", "p", {"mode": "autograd"}),
        "onnx": ("onnxruntime", "FP32", "student.onnx", "p"),
        "openvino": ("openvino", "FP32", "student.onnx", "", {"buckets": (8, 32, 64)}),
    }
    made = rounds.make_rows("tiny", table, tiny_onnx.parent)
    labelled = Dataset.from_dict({"sentence": ["good film", "bad film"], "label": [1, 0]})
    return {row.name: row for row in [*made, rounds.tfidf_row(labelled)]}


SMALL = {"sequence_length": 32, "sentences": 2, "block_ms": 1}
SETTINGS = load_profile("smoke").benchmark.model_copy(update=SMALL)
SENTENCES = ["a good film", "a bad film, and a long one at that"]
HOW = {"max_length": 64, "seed": 0}


def test_every_runtime_labels_texts_and_padded_sentences(tiny_rows):
    job = {"threads": 1, "max_length": 64, "warm_ms": 1, "sentences": SENTENCES}
    for row in tiny_rows.values():
        told = json.loads(as_json(vars(row)))
        loaded = worker.load_row(told, job | {"workloads": [32, OWN]})
        padded, own = ([run(*item) for item in items] for run, items in loaded.values())
        np.testing.assert_allclose(padded, own, atol=1e-4)
        if "buckets" in row.options:  # a shorter one would leave padding out
            with pytest.raises(ValueError, match=r"the longest of \[32\]"):
                loaded[32][0](*np.ones((2, 1, 33), dtype=int))


def test_a_real_measurement_has_every_row(tiny_rows, tmp_path):
    timed = [tiny_rows["tiny, onnx"], tiny_rows["tiny, openvino"]]
    alone = replace(timed[0], name="alone", isolate=True)
    gone = replace(timed[0], name="gone", source=tmp_path / "none.onnx", optional=True)
    rows, how = [*timed, alone, gone], HOW | {"unavailable": {"strayed": "so"}}
    found = rounds.run_benchmark(rows, SENTENCES, SETTINGS, workloads=[32, OWN], **how)
    assert "none.onnx" in found.unavailable.pop("gone") and found.unavailable == {"strayed": "so"}
    with pytest.raises(RuntimeError, match=r"gone: .*none\.onnx"):
        needed = [replace(gone, optional=False)]
        rounds.run_benchmark(needed, SENTENCES, SETTINGS, workloads=[OWN], **HOW)
    assert set(found.timings) == {(1, 32), (1, OWN)}
    for block in found.timings.values():
        assert set(block) == {"tiny, onnx", "tiny, openvino", "alone"}
        for timing in block.values():
            assert len(timing.rounds) == 3 and all(len(calls) >= 2 for calls in timing.rounds)
    assert set(found.memory_mb) == {(1, "alone")}  # the others share
    assert all(0 <= share <= 1.5 for share in found.others.values())
    assert "3 rounds" in str(found) and "left out: strayed: so" in str(found)
    table = results.benchmark_rows(rows, found, {}, over=["alone", "tiny, onnx"])
    assert len(table) == 3 * 2
    for row in table:
        assert row["speedups"]["alone"]["value"] == row["speedup_vs_bert_base_pytorch"]


def test_no_threads_stand_for_every_core_and_no_count_comes_twice():
    several = SETTINGS.model_copy(update={"threads": [0, 1, physical_cores()]})
    assert rounds.thread_counts(several) == sorted({1, physical_cores()})


def test_operations_are_counted_as_by_hand(tiny_architecture):
    # 2 layers, hidden 32, feed-forward 64, 10 tokens; a product of a and b counts 2ab
    tokens = 10 * (4 * 32 * 32 + 2 * 32 * 64)
    pairs = 2 * 10 * 10 * 32
    assert count_operations(tiny_architecture, 10) == 2 * (2 * (tokens + pairs) + 32 * 32)
    keys_and_values, one = 10 * 2 * 32 * 32, 2 * 32 * 32 + 2 * 32 * 64 + 2 * 10 * 32
    last = keys_and_values + one
    first_only = count_operations(tiny_architecture, 10, first_token_only=True)
    assert first_only == 2 * (tokens + pairs + last + 32 * 32)
