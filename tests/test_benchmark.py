"""The statistics on samples with known answers, and a real measurement of small models."""

import json
import time

import numpy as np
import pytest

from helpers.benchmark import (
    OWN,
    OWN_LENGTHS,
    Timings,
    Variant,
    Workload,
    benchmark_rows,
    decompose,
    run_benchmark,
    speedup,
    sweep_rows,
    write_benchmark,
)
from helpers.engine_worker import time_turn
from helpers.environment import describe_environment, physical_cores
from helpers.floor import count_operations, measure_peak
from helpers.metrics import Accuracy
from helpers.profile import Benchmark, load_profile
from helpers.runtimes import load_model, load_text_encoder


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


def test_factors_multiply_to_the_total():
    rng = np.random.default_rng(2)
    chain = [timings(*(latency * rng.normal(1, 0.03, 30))) for latency in (100, 8, 4, 1)]
    *factors, total = decompose(chain)
    assert len(factors) == 3
    assert np.prod([factor.value for factor in factors]) == pytest.approx(total.value)
    for factor, truth in zip([*factors, total], [12.5, 2, 4, 100], strict=True):
        assert factor.value == pytest.approx(truth, rel=0.04)
        assert factor.low < truth < factor.high


def test_a_planted_outlier_and_drift_leave_the_factors_alone():
    drift = np.linspace(1, 3, 40)
    slow, fast = 50 * drift, 5 * drift
    slow[11] *= 40
    (factor, total) = decompose([timings(*slow), timings(*fast)])
    assert factor.value == total.value == pytest.approx(10, rel=0.05)


def test_a_turn_takes_its_time_and_misses_no_item():
    seen = []
    calls = time_turn(lambda item: seen.append(item), [("a",), ("b",)], milliseconds=5)
    assert sum(calls) <= 50 and len(calls) > 100
    assert seen[:2] == ["a", "b"] and seen[-1] == "b"
    calls = time_turn(lambda item: time.sleep(0.02), [(1,), (2,), (3,)], milliseconds=5)
    assert len(calls) == 3 and min(calls) > 19


@pytest.fixture(scope="module")
def variants(tiny_folder, tiny_onnx, tiny_architecture):
    common = {"model": "tiny", "precision": "FP32", "tokenizer": tiny_folder}
    static = {"buckets": (8, 32, 64)}
    return [
        Variant("baseline", runtime="pytorch", source=tiny_architecture, **common),
        Variant("autograd", runtime="pytorch", source=tiny_folder, predictions="p",
                options={"mode": "autograd"}, **common),
        Variant("onnx", runtime="onnxruntime", source=tiny_onnx, size_mb=1.0, **common),
        Variant("openvino", runtime="openvino", source=tiny_onnx, options=static, **common),
        Variant("gone", runtime="onnxruntime", source=tiny_onnx.with_name("none.onnx"),
                optional=True, **common),
        Variant("tfidf", "TF-IDF", "scikit-learn", "FP64", (["good film", "bad film"], [1, 0])),
    ]  # fmt: skip


SETTINGS = Benchmark(
    sequence_length=32, sentences=2, warmup_rounds=1, rounds=3, sweep_rounds=2,
    sentences_per_turn=2, turn_ms=1, threads=[0], lengths=[8, 16], batches=[3],
)  # fmt: skip
SENTENCES = ["a good film", "a bad film, and a long one at that"]
PADDED = Workload("padded", 32)


def test_a_real_measurement_has_every_row(variants, tmp_path):
    found = run_benchmark(
        variants, SENTENCES, SETTINGS, workloads=[PADDED, OWN], max_length=64, seed=0
    )
    ran = [variant for variant in variants if variant.name != "gone"]
    assert "none.onnx" in found.unavailable.pop("gone") and not found.unavailable
    assert set(found.timings) == {(physical_cores(), workload) for workload in (PADDED, OWN)}
    for block in found.timings.values():
        assert set(block) == {variant.name for variant in ran}
        for timing in block.values():
            assert len(timing.rounds) == 3 and all(len(calls) >= 2 for calls in timing.rounds)
            assert all(latency > 0 for calls in timing.rounds for latency in calls)
    assert all(0 <= share <= 1.5 for share in found.others.values())
    assert all(10 < memory < 4000 for memory in found.memory_mb.values())
    accuracies = {"p": Accuracy(0.9, 0.8, 0.95, 100)}
    rows = benchmark_rows(variants, found, accuracies, baseline="baseline", also=["onnx"])
    assert len(rows) == len(ran) * len(found.timings)
    for row in rows:
        assert (row["accuracy"] is not None) == (row["name"] == "autograd")
        low, high = row["speedup_ci95"]
        assert low <= row["speedup_vs_bert_base_pytorch"] <= high
        assert row["speedups"]["baseline"]["value"] == row["speedup_vs_bert_base_pytorch"]
        if row["name"] == "baseline":
            assert row["speedup_vs_bert_base_pytorch"] == 1
    path = tmp_path / "benchmark.json"
    profile = load_profile("smoke")
    write_benchmark(path, profile, describe_environment(), rows, found, factors={"a": 1})
    document = json.loads(path.read_text())
    assert {"profile", "environment", "protocol", "rows", "commit", "factors"} <= set(document)
    assert {"cpu", "instruction_sets", "threads", "versions"} <= set(document["environment"])
    assert set(document["rows"][0]) >= {
        "name", "model", "runtime", "precision", "threads", "sequence_length", "size_mb",
        "latency_ms", "accuracy", "speedup_vs_bert_base_pytorch",
    }  # fmt: skip
    lengths = {block["sequence_length"] for block in document["raw_ms"]}
    assert lengths == {32, OWN_LENGTHS}


def test_a_sweep_has_a_row_for_every_size(variants):
    sizes = [Workload("filled", 8), Workload("filled", 16), Workload("batch", 3)]
    chosen = [variant for variant in variants if variant.name in ("onnx", "openvino")]
    found = run_benchmark(
        chosen, SENTENCES, SETTINGS, workloads=sizes, max_length=64, seed=0, rounds=2
    )
    rows = sweep_rows(found)
    assert [(row["kind"], row["size"]) for row in rows[::2]] == [tuple(size) for size in sizes]
    for row in rows:
        sentences = row["size"] if row["kind"] == "batch" else 1
        median, low, high = row["median_ms"]
        assert low <= median <= high
        assert row["per_second"] == pytest.approx(
            [1000 * sentences / ms for ms in (median, high, low)]
        )


def test_a_variant_that_cannot_be_loaded_is_named(variants, tmp_path):
    broken = Variant("broken", "tiny", "onnxruntime", "FP32", tmp_path / "none.onnx",
                     variants[0].tokenizer)  # fmt: skip
    with pytest.raises(RuntimeError, match="broken"):
        run_benchmark([variants[2], broken], SENTENCES, SETTINGS, workloads=[PADDED],
                      max_length=64, seed=0)  # fmt: skip


@pytest.mark.parametrize("runtime", ["pytorch", "onnxruntime", "openvino"])
def test_a_runtime_runs_on_the_threads_it_was_given(runtime, tiny_folder, tiny_onnx):
    source = tiny_folder if runtime == "pytorch" else tiny_onnx
    for threads in (1, physical_cores()):
        assert load_model(runtime, source, threads=threads).threads == threads


def test_more_threads_than_the_runtime_takes_are_refused(tiny_onnx):
    with pytest.raises(RuntimeError, match=r"openvino uses \d+ threads instead of 4096"):
        load_model("openvino", tiny_onnx, threads=4096)


def test_static_shapes_give_the_logits_of_the_dynamic_model(tiny_onnx):
    dynamic = load_model("openvino", tiny_onnx, threads=1)
    static = load_model("openvino", tiny_onnx, threads=1, buckets=(4, 16))
    rng = np.random.default_rng(0)
    for length in (1, 4, 5, 16):
        ids = rng.integers(1000, 20000, size=(3, length))
        mask = np.ones_like(ids)
        np.testing.assert_allclose(static.run(ids, mask), dynamic.run(ids, mask), atol=1e-4)
    with pytest.raises(ValueError, match="17 word pieces do not fit the longest bucket, 16"):
        static.run(np.ones((1, 17), dtype=np.int64), np.ones((1, 17), dtype=np.int64))


@pytest.mark.parametrize("mode", ["autograd", "inference_mode"])
def test_pytorch_modes_agree(tiny_folder, mode):
    ids = np.array([[101, 2307, 2143, 102]])
    logits = load_model("pytorch", tiny_folder, threads=1, mode=mode).run(ids, np.ones_like(ids))
    expected = load_model("pytorch", tiny_folder, threads=1).run(ids, np.ones_like(ids))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_the_light_text_encoder_cuts_as_transformers_does(tiny_folder, tokenizer):
    encode = load_text_encoder(tiny_folder, 64)
    for sentence in ("", "a film", "naïve café … 😀 [MASK] \x00 字", "word " * 300):
        ids, mask = encode(sentence)
        expected = tokenizer(sentence, truncation=True, max_length=64)["input_ids"]
        assert ids.tolist() == [expected] and mask.all() and ids.dtype == np.int64


def test_operations_are_counted_as_by_hand(tiny_architecture):
    # 2 layers, hidden 32, feed-forward 64, 10 tokens; a product of a and b counts 2ab
    tokens = 10 * (4 * 32 * 32 + 2 * 32 * 64)
    pairs = 2 * 10 * 10 * 32
    assert count_operations(tiny_architecture, 10) == 2 * (2 * (tokens + pairs) + 32 * 32)


def test_peaks_are_rates_of_a_cpu():
    peak = measure_peak(1)
    assert 1e9 < peak.fp32 < 1e13 and 1e9 < peak.int8 < 1e14
