"""Ray Data on a cluster of two nodes, of which one is killed: every sentence is labelled once."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from helpers.classify import Classifier
from helpers.tutorial.profile import ROOT

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
classify_ray = pytest.importorskip("helpers.classify_ray")


class Slow(classify_ray.Labeller):
    """Says which node it is on, and takes its time, so that the kill falls between two pieces."""

    def __call__(self, table):
        labelled = super().__call__(table)
        time.sleep(1)
        (Path(os.environ["SEEN"]) / ray.get_runtime_context().get_node_id()).touch()
        return labelled


def test_a_killed_node_costs_no_sentence_and_doubles_none(tmp_path, tiny_openvino, monkeypatch):
    from ray.cluster_utils import Cluster

    seen = tmp_path / "seen"
    seen.mkdir()
    for name, value in {"SEEN": seen, "PYTHONPATH": ROOT}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(classify_ray, "PART", 50)
    sentences = [f"film number {number}" for number in range(2000)]
    source = tmp_path / "reviews.csv"
    rows = {"id": range(2000), "sentence": sentences, "label": "its own"}
    pd.DataFrame(rows).to_csv(source, index=False)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    try:
        doomed = cluster.add_node(num_cpus=2)
        ray.init(address=cluster.address, log_to_driver=False)
        with ThreadPoolExecutor(1) as pool:
            paths = tiny_openvino, source, tmp_path / "labels"
            work = pool.submit(classify_ray.classify_corpus, *paths, actor=Slow)
            while not work.done() and doomed.node_id not in {path.name for path in seen.iterdir()}:
                time.sleep(0.1)
            assert not work.done(), work.result()
            cluster.remove_node(doomed, allow_graceful=False)
            work.result(timeout=300)
    finally:
        ray.shutdown()
        cluster.shutdown()
    found = pd.read_parquet(tmp_path / "labels").sort_values("id")
    assert found["id"].tolist() == list(range(2000))
    expected = [label for label, _ in Classifier(tiny_openvino, many=True).classify(sentences)]
    assert found["label"].tolist() == expected
