"""The blog profiles, notebooks and all, against the hub's double: true names, tiny models."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pytest
from datasets import Dataset

from helpers.data import tokenize
from helpers.profile import ROOT, Architecture
from helpers.run import NOTEBOOKS, execute_notebook, launch
from helpers.training import last_checkpoint, load_classifier, load_tokenizer, predict_logits
from tests.blog_double import BASE, MINI, publish_blog, reviews
from tests.hub_double import HubDouble

TEACHER, STUDENT = NOTEBOOKS / "01_finetune_teacher.ipynb", NOTEBOOKS / "02_distill_student.ipynb"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubDouble() as double:
        publish_blog(double, tmp_path_factory.mktemp("blog"))
        yield double


def shapes(section: str, shape: Architecture) -> str:
    return " ".join(f"{section}.architecture.{k}={v}" for k, v in shape.model_dump().items())


@pytest.fixture
def run_in(hub, tmp_path, monkeypatch):
    """Set a profile with tiny shapes, on the double; gives the folder of its artefacts."""
    folder = ROOT / "artifacts" / f"test-{os.getpid()}"

    def prepare(profile: str, changes: str = ""):
        tiny = [shapes("teacher", BASE), shapes("baseline", BASE), shapes("student", MINI)]
        monkeypatch.setenv("PROFILE", profile)
        monkeypatch.setenv("SET", " ".join([f"name={folder.name}", *tiny, changes]))
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setenv("TUTORIAL_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        return folder

    yield prepare
    shutil.rmtree(folder, ignore_errors=True)


def execute(notebook, target) -> None:
    with target.with_suffix(".log").open("w") as log:
        execute_notebook(notebook, target, log=log, announce=lambda *_: None)


def printed(path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") for output in outputs)


def test_published_checkpoints_are_taken_as_they_are(hub, run_in, tmp_path):
    folder = run_in("blog")
    for notebook in (TEACHER, STUDENT):
        execute(notebook, tmp_path / notebook.name)
    said = printed(tmp_path / TEACHER.name) + printed(tmp_path / STUDENT.name)
    for name in ("teacher", "gold", "augmented"):
        assert f"{name}: taken as it is" in said
    manifest = json.loads((folder / "manifest.json").read_text())
    place = "hf://moshew/bert-mini-sst2-distilled"
    commit, files = hub.repositories["moshew/bert-mini-sst2-distilled"]
    assert manifest["student"]["sources"][place] == f"commit {commit}"
    assert not any("training_args" in request for request in hub.requests)
    logits = np.load(folder / "predictions_02.npz")["augmented"]
    (tmp_path / "direct").mkdir()
    for name, content in files.items():
        (tmp_path / "direct" / name).write_bytes(content)
    tokenizer = load_tokenizer(tmp_path / "direct")
    test = Dataset.from_dict({"sentence": [sentence for sentence, _ in reviews(120, 3)]})
    direct = predict_logits(
        load_classifier(tmp_path / "direct", MINI, finished=True),
        tokenize(test, tokenizer, 64),
        tokenizer,
    )
    np.testing.assert_allclose(logits, direct, atol=1e-4)


SMALL = (
    "data.train_sentences=200 generation.sentences=16 quantization.calibration_sentences=20 "
    "student.distil_augmented.batch_size=16 benchmark.sentences=6 benchmark.threads=[0] "
    "benchmark.warmup_rounds=1 benchmark.rounds=3 benchmark.sweep_rounds=2 "
    "benchmark.lengths=[16] benchmark.batches=[1] quantization.study_sentences=[10] "
    "quantization.trials=1 compression.seeds=1 compression.sentences=200 "
    "compression.aware_sentences=32 compression.sparse.batch_size=8 compression.prune.batch_size=8 "
    "compression.one_shot.batch_size=8 "
    "student.checkpoint=hf://google/bert_uncased_L-4_H-256_A-4"  # the double's, of tiny shape
)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["blog", "blog-train"])
def test_the_whole_run_ends_with_the_blogs_table_beside_ours(run_in, profile):
    folder = run_in(profile, SMALL)
    done = subprocess.run(
        [sys.executable, "-m", "helpers.run"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((folder / "benchmark.json").read_text())["rows"]
    assert (folder / "frontier.json").exists()
    rated = {row["name"] for row in rows if row["accuracy"]}
    assert {"BERT-Base, PyTorch FP32", "BERT-Base, ONNX Runtime INT8 dynamic"} <= rated
    assert "Teacher, PyTorch FP32" not in rated, "the teacher is BERT-Base itself here"
    cells = nbformat.read(folder / "executed/05_benchmark_cpu.ipynb", as_version=4).cells
    (table,) = (cell for cell in cells if "beside_blog(" in cell.source)
    shown = "".join(output.get("data", {}).get("text/html", "") for output in table.outputs)
    for name in ("BERT-Base PyTorch FP32", "BERT-Mini reference NLP engine INT8", "points"):
        assert name in shown


def test_two_processes_train_and_label_as_one_would(run_in, tmp_path):
    folder = run_in(
        "blog-train",
        """student.rungs='["gold","distil_augmented"]' data.train_sentences=100 """
        "transfer.scores=teacher "
        "transfer.sentences=101 generation.sentences=16 generation.confidence=0.2 "
        "teacher.training.learning_rate=0.005 teacher.training.epochs=10 "
        "student.distil_augmented.epochs=1 student.distil_augmented.batch_size=10",
    )
    launch(TEACHER, tmp_path / "teacher.py", 2)
    execute(TEACHER, tmp_path / TEACHER.name)
    assert "teacher: went on from step 40 of 40" in printed(tmp_path / TEACHER.name)
    launch(STUDENT, tmp_path / "student.py", 2)

    transfer = Dataset.from_parquet(str(folder / "transfer.parquet"), keep_in_memory=True)
    sentences = transfer["sentence"][:]
    assert sentences[:100] == [sentence for sentence, _ in reviews(500, 4)][:100]
    assert sentences[-101:] == [sentence for sentence, _ in reviews(400, 5)][:101]
    assert len(sentences) > 201, "nothing was written by the language model"
    assert len(set(sentences)) == len(sentences), "a sentence was labelled twice"
    tokenizer = load_tokenizer(folder / "teacher")
    alone = predict_logits(
        load_classifier(folder / "teacher", BASE), tokenize(transfer, tokenizer, 64), tokenizer
    )
    scores = np.array(transfer["prediction"][:])
    assert scores.std() > 0.1
    np.testing.assert_allclose(scores, alone, atol=0.05 * np.abs(alone).max())

    (checkpoints,) = (folder / "checkpoints").glob("student-augmented-*")
    state = json.loads((last_checkpoint(checkpoints) / "trainer_state.json").read_text())
    assert state["global_step"] == -(-101 // 10), "the batch is not what the profile says"
