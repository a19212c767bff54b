"""Our rows beside the blog's."""

import pytest

from helpers.report import beside_blog

BLOG = [
    {"name": "base", "latency_ms": 16.0, "accuracy": 0.940},
    {"name": "mini", "latency_ms": 4.0, "accuracy": 0.928},
    {"name": "engine", "latency_ms": 1.0, "accuracy": 0.928},
]
NAMES = {"base": "BERT-Base", "mini": "BERT-Mini", "engine": "Engine"}


def row(name, latency, accuracy, speedup):
    return {
        "name": name,
        "latency_ms": {"p50": latency},
        "accuracy": accuracy and {"value": accuracy},
        "speedups": {"BERT-Base": {"value": speedup}},
    }


def test_differences_are_those_of_the_figures():
    rows = [row("BERT-Base", 80.0, 0.945, 1.0), row("BERT-Mini", 8.0, 0.918, 10.0)]
    base, mini, _ = beside_blog(BLOG, rows, NAMES, {"Engine": "not installed"})
    assert base["ours, ms"] == 80.0 and base["points"] == pytest.approx(0.5)
    assert (mini["blog, speedup"], mini["ours, speedup"]) == (4.0, 10.0)
    assert mini["ours / blog"] == pytest.approx(2.5)
    assert mini["points"] == pytest.approx(-1.0)
    assert base["why not"] == mini["why not"] == ""


def test_a_row_that_could_not_be_measured_says_why():
    rows = [row("BERT-Base", 80.0, None, 1.0)]
    base, mini, engine = beside_blog(BLOG, rows, NAMES, {"Engine": "not installed"})
    assert base["points"] is None and "untrained" in base["why not"]
    assert mini["ours, ms"] is None and "strays from its own FP32" in mini["why not"]
    assert engine["why not"] == "not installed" and engine["ours / blog"] is None
