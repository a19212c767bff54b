"""A reader's own sentences, in three named classes, by one setting."""

import json
import os
import random
import shutil
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

from helpers.classify import Classifier
from helpers.data import class_names, load_data, tokenize
from helpers.export import export_onnx
from helpers.training import fine_tune, load_classifier, predict_logits
from helpers.tutorial.profile import ROOT, load_profile
from helpers.tutorial.run import MAIN_LINE, run_steps

WORDS = {
    "complaint": ["broken", "late", "refund", "useless"],
    "praise": ["lovely", "fast", "thanks", "perfect"],
    "question": ["when", "how", "where", "which"],
}
THINGS = ["parcel", "lamp", "kettle", "phone", "chair", "shirt", "clock", "bottle", "desk"]
# Settings of a run in minutes: teacher and student are one small model.
SMALL = (
    "teacher.model=checkpoints/bert-mini "
    "teacher.architecture.layers=4 teacher.architecture.hidden=256 teacher.architecture.heads=4 "
    "teacher.architecture.intermediate=1024 teacher.architecture.vocabulary=30522 "
    "teacher.training.epochs=4 teacher.frozen_layers=0 baseline.architecture.layers=1"
)
# Verdicts that such sentences need not bear out: words alone tell the classes apart, so that no
# model makes a mistake, with a teacher or without; and the baseline is one layer.
OF_THE_DATA = (
    "the teacher beats TF-IDF",
    "distilled, its logits are nearer",
    "and it gives the teacher's answer",
    "INT8 is faster",
)


def write_reviews(path, count: int = 450) -> None:
    """Sentences about things that were bought, each class told by its words."""
    rng, rows = random.Random(5), {}
    while len(rows) < count:
        label = list(WORDS)[len(rows) % 3]
        words = [*rng.sample(WORDS[label], 2), *rng.sample(THINGS, 3), str(rng.randrange(1000))]
        rng.shuffle(words)
        rows[" ".join(words)] = label
    pd.DataFrame(rows.items(), columns=["sentence", "label"]).to_csv(path, index=False)


def failed_checks(path) -> list[str]:
    """The checks at the end of an executed notebook that are not true."""
    cells = nbformat.read(path, as_version=4).cells
    (checks,) = (c for c in cells if "nbval-check-output" in c.metadata.get("tags", []))
    lines = [line.rpartition(": ") for line in checks.outputs[0].text.splitlines()]
    return [check for check, _, outcome in lines if outcome != "True"]


def test_three_classes_go_from_a_csv_to_a_classifier(tmp_path, tokenizer):
    write_reviews(tmp_path / "mine.csv", 240)
    settings = load_profile("default")
    own = settings.data.model_copy(update={"source": str(tmp_path / "mine.csv")})
    data = load_data(own, Path)
    names = class_names(data)
    assert names == ("complaint", "praise", "question")
    encoded, student = tokenize(data, tokenizer, 64), settings.student
    settings = student.gold.model_copy(update={"epochs": 3})
    start = (ROOT / student.checkpoint, student.architecture, settings)
    options = {"name": "own", "folder": tmp_path / "checkpoints", "seed": 1, "labels": names}
    trainer = fine_tune(*start, encoded["labelled"], tokenizer, **options)
    trainer.save_model(tmp_path / "student")
    again = load_classifier(tmp_path / "student", start[1], finished=True, labels=names)
    export_onnx(again, tmp_path / "student.onnx")
    logits = predict_logits(again, encoded["test"], tokenizer)
    assert logits.shape == (len(data["test"]), 3)
    assert np.mean(logits.argmax(axis=1) == data["test"]["label"]) > 0.8
    expected = [names[number] for number in logits.argmax(axis=1)]
    for name in ("student", "student.onnx"):
        answers = list(Classifier(tmp_path / name).classify(data["test"]["sentence"]))
        assert [label for label, _ in answers] == expected
        assert all(probability > 1 / 3 for _, probability in answers)


@contextmanager
def small_run(source, name, more=""):
    """Set PROFILE and SET for a run on a file of sentences; its folder goes afterwards."""
    folder = ROOT / "artifacts" / f"test-{os.getpid()}-{name}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROFILE", "smoke")
        patch.setenv("SET", f"name={folder.name} data.source={source} {SMALL} {more}")
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def own_run(tmp_path):
    with small_run(tmp_path / "mine.csv", "own") as folder:
        yield folder


@pytest.mark.slow
def test_three_classes_go_through_all_notebooks(tmp_path, own_run, capsys):
    write_reviews(tmp_path / "mine.csv")
    assert run_steps(MAIN_LINE) == 0, capsys.readouterr().err[-3000:]
    rows = json.loads((own_run / "benchmark.json").read_text())["rows"]
    rated = {row["name"]: row["accuracy"]["value"] for row in rows if row["accuracy"]}
    assert rated["BERT-Mini, PyTorch FP32"] > 0.8
    labelled = list(Classifier(own_run / "student_int8_fast.xml").classify(["late broken lamp"]))
    assert labelled[0][0] == "complaint"
    for path in sorted((own_run / "executed").glob("*.ipynb")):
        assert all(check.startswith(OF_THE_DATA) for check in failed_checks(path)), path


def test_a_file_that_does_not_do_stops_the_run_before_it_begins(tmp_path, own_run, capsys):
    (tmp_path / "mine.csv").write_text("sentence,mark\nfine,1\n")
    assert run_steps(["01"]) == 2
    said = capsys.readouterr().err
    assert f"error: {tmp_path / 'mine.csv'} has no column 'label'" in said
    assert not list(own_run.glob("executed/*"))
