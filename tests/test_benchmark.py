"""The statistics on samples with known answers, and a real measurement of small models."""

import json

import numpy as np
import pytest

from helpers.benchmark import (
    OWN_LENGTHS,
    Timings,
    Variant,
    benchmark_rows,
    run_benchmark,
    speedup,
    write_benchmark,
)
from helpers.environment import describe_environment, physical_cores
from helpers.metrics import Accuracy
from helpers.profile import Benchmark, load_profile
from helpers.runtimes import load_model


def timings(*round_latencies) -> Timings:
    return Timings([[float(latency)] * 3 for latency in round_latencies])


def test_summary_of_a_known_sample():
    sample = Timings([list(range(1, 51)), list(range(51, 101))])
    summary = sample.summary()
    assert summary["p50"] == 50.5 and summary["mean"] == 50.5
    assert summary["p90"] == pytest.approx(90.1) and summary["p99"] == pytest.approx(99.01)
    assert summary["std"] == pytest.approx(29.011, abs=1e-3)


def test_a_constant_ratio_is_found_with_no_spread():
    result = speedup(timings(10, 20, 40), timings(1, 2, 4))
    assert (result.value, result.low, result.high) == (10, 10, 10)


def test_a_drift_of_the_machine_cancels():
    rng = np.random.default_rng(0)
    drift = np.linspace(1, 3, 60)  # the machine becomes three times slower
    noise = rng.normal(1, 0.02, size=(2, 60))
    result = speedup(timings(*(50 * drift * noise[0])), timings(*(5 * drift * noise[1])))
    assert result.value == pytest.approx(10, rel=0.01)
    assert result.low < 10 < result.high
    assert result.high - result.low < 0.5


def test_a_slow_round_moves_the_median_little():
    slow = [50.0] * 30
    slow[7] = 5000.0
    result = speedup(timings(*slow), timings(*([5.0] * 30)))
    assert result.value == 10


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(100):
        ratios = rng.normal(10, 1, 40)
        result = speedup(timings(*ratios), timings(*np.ones(40)), seed=seed)
        covered += result.low <= 10 <= result.high
    assert 88 <= covered <= 100


@pytest.fixture(scope="module")
def variants(tiny_folder, tiny_onnx, tiny_architecture):
    common = {"model": "tiny", "precision": "FP32", "tokenizer": tiny_folder}
    return [
        Variant("baseline", runtime="pytorch", source=tiny_architecture, **common),
        Variant("pytorch", runtime="pytorch", source=tiny_folder, predictions="p", **common),
        Variant("onnx", runtime="onnxruntime", source=tiny_onnx, size_mb=1.0, **common),
        Variant("openvino", runtime="openvino", source=tiny_onnx, **common),
        Variant("tfidf", "TF-IDF", "scikit-learn", "FP64", (["good film", "bad film"], [1, 0])),
    ]


SETTINGS = Benchmark(
    sequence_length=32, sentences=2, warmup_rounds=1, rounds=3, calls_per_turn=2, threads=[0]
)
SENTENCES = ["a good film", "a bad film, and a long one at that"]


def test_a_real_measurement_has_every_row(variants, tmp_path):
    results = run_benchmark(variants, SENTENCES, SETTINGS, max_length=64, seed=0)
    assert set(results) == {(physical_cores(), length) for length in (32, OWN_LENGTHS)}
    for block in results.values():
        for timing in block.values():
            assert [len(calls) for calls in timing.rounds] == [2, 2, 2]
            assert all(latency > 0 for calls in timing.rounds for latency in calls)
    accuracies = {"p": Accuracy(0.9, 0.8, 0.95, 100)}
    rows = benchmark_rows(variants, results, accuracies, baseline="baseline")
    assert len(rows) == len(variants) * len(results)
    for row in rows:
        assert (row["accuracy"] is not None) == (row["name"] == "pytorch")
        low, high = row["speedup_ci95"]
        assert low <= row["speedup_vs_bert_base_pytorch"] <= high
        if row["name"] == "baseline":
            assert row["speedup_vs_bert_base_pytorch"] == 1
    path = tmp_path / "benchmark.json"
    profile = load_profile("smoke")
    write_benchmark(path, profile, describe_environment(), rows, results, {"cpu_percent": 0.0})
    document = json.loads(path.read_text())
    assert {"profile", "environment", "protocol", "rows"} <= set(document)
    assert {"cpu", "instruction_sets", "threads", "versions"} <= set(document["environment"])
    assert set(document["rows"][0]) >= {
        "name", "model", "runtime", "precision", "threads", "sequence_length", "size_mb",
        "latency_ms", "accuracy", "speedup_vs_bert_base_pytorch",
    }  # fmt: skip


def test_a_variant_that_cannot_be_loaded_is_named(variants, tmp_path):
    broken = Variant("broken", "tiny", "onnxruntime", "FP32", tmp_path / "none.onnx",
                     variants[0].tokenizer)  # fmt: skip
    with pytest.raises(RuntimeError, match="broken"):
        run_benchmark([variants[0], broken], SENTENCES, SETTINGS, max_length=64, seed=0)


@pytest.mark.parametrize("runtime", ["pytorch", "onnxruntime", "openvino"])
def test_a_runtime_runs_on_the_threads_it_was_given(runtime, tiny_folder, tiny_onnx):
    source = tiny_folder if runtime == "pytorch" else tiny_onnx
    for threads in (1, physical_cores()):
        assert load_model(runtime, source, threads=threads).threads == threads


def test_more_threads_than_the_runtime_takes_are_refused(tiny_onnx):
    with pytest.raises(RuntimeError, match=r"openvino uses \d+ threads instead of 4096"):
        load_model("openvino", tiny_onnx, threads=4096)
