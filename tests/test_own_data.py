"""A reader's own sentences, in three named classes, by one setting."""

import json
import os
import random
import shutil
import subprocess
import sys

import nbformat
import numpy as np
import pandas as pd
import pytest

from helpers.classify import Classifier
from helpers.data import class_names, load_data, tokenize
from helpers.export import export_onnx
from helpers.training import fine_tune, load_classifier, predict_logits
from helpers.tutorial.profile import ROOT, load_profile
from helpers.tutorial.run import run_steps

WORDS = {
    "complaint": ["broken", "late", "refund", "useless"],
    "praise": ["lovely", "fast", "thanks", "perfect"],
    "question": ["when", "how", "where", "which"],
}
THINGS = ["parcel", "lamp", "kettle", "phone", "chair", "shirt", "clock", "bottle", "desk"]


def write_reviews(path, count: int = 450) -> None:
    """Sentences about things that were bought, each class told by its words."""
    rng, rows = random.Random(5), {}
    while len(rows) < count:
        label = list(WORDS)[len(rows) % 3]
        words = [*rng.sample(WORDS[label], 2), *rng.sample(THINGS, 3), str(rng.randrange(1000))]
        rng.shuffle(words)
        rows[" ".join(words)] = label
    pd.DataFrame(rows.items(), columns=["sentence", "label"]).to_csv(path, index=False)


def test_three_classes_go_from_a_csv_to_a_classifier(tmp_path, tokenizer):
    write_reviews(tmp_path / "mine.csv")
    settings = load_profile("laptop")
    own = settings.data.model_copy(update={"source": str(tmp_path / "mine.csv")})
    data = load_data(tmp_path / "mine.csv", own)
    names = class_names(data)
    assert names == ("complaint", "praise", "question")
    encoded, shape = tokenize(data, tokenizer, 64), settings.student.architecture
    trainer = fine_tune(
        ROOT / "checkpoints/bert-mini",
        shape,
        settings.student.gold,
        encoded["labelled"],
        tokenizer,
        name="own",
        folder=tmp_path / "checkpoints",
        seed=1,
        labels=names,
    )
    trainer.save_model(tmp_path / "student")
    again = load_classifier(tmp_path / "student", shape, finished=True, labels=names)
    with pytest.raises(ValueError, match="has the classes"):
        load_classifier(tmp_path / "student", shape, finished=True)
    export_onnx(again, tmp_path / "student.onnx")
    logits = predict_logits(again, encoded["test"], tokenizer)
    assert logits.shape == (len(data["test"]), 3)
    assert np.mean(logits.argmax(axis=1) == data["test"]["label"]) > 0.8
    answers = [
        list(Classifier(tmp_path / name).classify(data["test"]["sentence"]))
        for name in ("student", "student.onnx")
    ]
    expected = [names[number] for number in logits.argmax(axis=1)]
    for answered in answers:
        assert [label for label, _ in answered] == expected
        assert all(probability > 1 / 3 for _, probability in answered)


SMALL = (
    "teacher.model=checkpoints/bert-mini "
    "teacher.architecture.layers=4 teacher.architecture.hidden=256 teacher.architecture.heads=4 "
    "teacher.architecture.intermediate=1024 teacher.architecture.vocabulary=30522 "
    "teacher.training.epochs=4 teacher.frozen_layers=0 baseline.architecture.layers=1"
)


# Verdicts on the data and the baseline: words alone tell these classes apart, so that TF-IDF and
# INT8 make no mistake, and the baseline is one layer.
OF_THE_DATA = ("the teacher beats TF-IDF", "INT8 is faster")


def failed_checks(path) -> list[str]:
    """The checks at the end of an executed notebook that are not true."""
    cells = nbformat.read(path, as_version=4).cells
    (checks,) = (c for c in cells if "nbval-check-output" in c.metadata.get("tags", []))
    lines = [line.rpartition(": ") for line in checks.outputs[0].text.splitlines()]
    return [check for check, _, outcome in lines if outcome != "True"]


@pytest.mark.slow
def test_three_classes_go_through_all_notebooks(tmp_path):
    write_reviews(tmp_path / "mine.csv")
    folder = ROOT / "artifacts" / f"test-{os.getpid()}"
    changes = f"name={folder.name} data.source={tmp_path / 'mine.csv'} {SMALL}"
    try:
        done = subprocess.run(
            [sys.executable, "-m", "helpers.tutorial", "run"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"PROFILE": "smoke", "SET": changes},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        rows = json.loads((folder / "benchmark.json").read_text())["rows"]
        rated = {row["name"]: row["accuracy"]["value"] for row in rows if row["accuracy"]}
        assert rated["BERT-Mini, PyTorch FP32"] > 0.8
        labelled = list(Classifier(folder / "student_int8_fast.xml").classify(["late broken lamp"]))
        assert labelled[0][0] == "complaint"
        for path in sorted((folder / "executed").glob("*.ipynb")):
            assert all(check.startswith(OF_THE_DATA) for check in failed_checks(path)), path
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sentence,mark\nfine,1\n", "has no column 'label'"),
        ("sentence,label\nfine,1\ngood,1\n", "no sentence is left for"),
    ],
)
def test_a_file_that_does_not_do_stops_the_run_before_it_begins(
    tmp_path, monkeypatch, capsys, content, complaint
):
    (tmp_path / "mine.csv").write_text(content)
    monkeypatch.setenv("PROFILE", "smoke")
    monkeypatch.setenv("SET", f"name=x data.source={tmp_path / 'mine.csv'}")
    assert run_steps(["01"]) == 2
    assert f"error: {tmp_path / 'mine.csv'}" in (said := capsys.readouterr().err)
    assert complaint in said
    assert not list((ROOT / "artifacts/x").glob("executed/*"))
    shutil.rmtree(ROOT / "artifacts/x", ignore_errors=True)
