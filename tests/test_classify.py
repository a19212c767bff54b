"""The classifier and its command: one line out for one line in, one for a fault."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest

from helpers.classify import Classifier, PredictError, length_buckets
from helpers.runtimes import LoadedModel
from tests.conftest import SENTENCES

ODD = [
    "",
    "   ",
    "long " * 2000,
    "naïve café — ‘quotes’ … ﬁ",  # noqa: RUF001
    "مرحبا بالعالم",
    "😀😃😄 👩‍👩‍👧‍👦",
    "\x00\x01\x02 control\x7f",
    "a\u2028line\u2028separator\x0band\x0cmore\x85",
    "\u200b\u200d\ufeff",
    "字" * 300,
]


@pytest.fixture(params=["tiny_folder", "tiny_onnx", "tiny_openvino"])
def classifier(request) -> Classifier:
    return Classifier(request.getfixturevalue(request.param), threads=1)


def command(model) -> list[str]:
    return [sys.executable, "-m", "helpers.classify", "--model", str(model)]


def test_one_line_out_for_one_line_in_in_order(tiny_folder, tiny_onnx, tiny_openvino):
    sentences = SENTENCES + ODD + SENTENCES[::-1] + [f"film number {i}" for i in range(256)]
    text, answers = "\n".join(sentences).encode() + b"\r\n", []
    for model in (tiny_folder, tiny_onnx, tiny_openvino):
        done = subprocess.run(command(model), input=text, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        lines = [line.split("\t") for line in done.stdout.decode().splitlines()]
        labels, positive = zip(*lines, strict=True)
        positive = np.array(positive, dtype=float)
        assert len(labels) == len(sentences) and set(labels) <= {"negative", "positive"}
        assert [label == "positive" for label in labels] == list(positive > 0.5)
        answers.append(positive)
        np.testing.assert_allclose(positive, answers[0], atol=1e-3)
    assert list(Classifier(model).classify([])) == []


def test_a_long_sentence_does_not_slow_the_short_ones(classifier, monkeypatch):
    seen = []

    def run(ids, mask):
        seen.extend((int(row.sum()), len(row)) for row in mask)
        return np.zeros((len(ids), 2), np.float32)

    monkeypatch.setattr(classifier, "_model", LoadedModel(run, 1))
    list(classifier.classify(["dull", *["a fine film"] * 20, "long " * 90, "dull"]))
    assert len(seen) == 23 and sorted(seen)[-1] == (64, 64)
    for pieces, width in seen:
        assert width <= min(b for b in length_buckets(64) if b >= pieces)


def test_threads_get_the_answers_to_their_own_sentences(classifier):
    expected = {sentence: classifier.probabilities([sentence]) for sentence in SENTENCES}

    def ask(number):
        sentence = SENTENCES[number % len(SENTENCES)]
        return np.abs(classifier.probabilities([sentence]) - expected[sentence]).max()

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(ask, range(100))) < 1e-6


def test_an_answer_that_is_no_number_is_refused(tiny_onnx, monkeypatch):
    classifier = Classifier(tiny_onnx)
    broken = LoadedModel(lambda ids, mask: np.full((len(ids), 2), np.nan, np.float32), 1)
    monkeypatch.setattr(classifier, "_model", broken)
    with pytest.raises(PredictError, match="no number"):
        list(classifier.classify(["a film"]))


def test_a_wrong_model_says_what_is_wrong(tmp_path, tiny_folder, tiny_onnx):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/orphan.onnx").write_bytes(tiny_onnx.read_bytes())
    for name in ("student", "unnamed"):
        shutil.copytree(tiny_folder, tmp_path / name)
    (tmp_path / "student/model.safetensors").unlink()
    (tmp_path / "unnamed/config.json").write_text("{}")
    (tmp_path / "cut.onnx").write_bytes(tiny_onnx.read_bytes()[:5000])
    (tmp_path / "text.xml").write_text("<net")
    for name, complaint in {
        "missing": "does not exist",
        "empty": "does not hold config.json",
        "empty/orphan.onnx": "does not hold config.json",
        "unnamed": "not a classifier's folder",
        "student": "cannot be loaded by pytorch",
        "cut.onnx": "cannot be loaded by onnxruntime",
        "text.xml": "cannot be loaded by openvino",
    }.items():
        with pytest.raises(PredictError, match=complaint):
            Classifier(tmp_path / name)


def test_a_file_inside_a_folder_has_the_labels_of_that_folder(tmp_path, tiny_folder, tiny_onnx):
    folder = shutil.copytree(tiny_folder, tmp_path / "spam")
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"negative"', '"ham"'))
    (folder / "faster").mkdir()
    for path in (folder / "model.onnx", folder / "faster/model.onnx"):
        path.write_bytes(tiny_onnx.read_bytes())
        assert Classifier(path).labels == ("ham", "positive")


def test_the_command_says_a_fault_in_one_line_with_status_2(tmp_path, tiny_onnx):
    for model, text, said in (
        (tmp_path / "none", b"a film\n", f"error: {tmp_path / 'none'} does not exist\n"),
        (tiny_onnx, b"fine\nna\xefve\n", "error: line 2 of the input is not UTF-8\n"),
    ):
        done = subprocess.run(command(model), input=text, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr.decode()) == (2, b"", said)


def test_a_reader_that_stops_early_causes_no_traceback(tiny_onnx):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command(tiny_onnx), **pipes)
    process.stdout.close()
    _, errors = process.communicate(b"a film\n" * 5000)
    assert (process.returncode, errors) == (0, b"")


def test_an_onnx_file_that_names_other_files_reads_none_of_them(tiny_folder, tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    big = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    secret = tmp_path / "secret"
    secret.write_bytes(big.raw_data)
    folder = tmp_path / "artifacts"
    shutil.copytree(tiny_folder, folder / "student")
    (folder / "link").symlink_to(secret)
    for location in ("../secret", str(secret), "link"):
        big.ClearField("raw_data")
        del big.external_data[:]
        big.data_location = onnx.TensorProto.EXTERNAL
        big.external_data.add(key="location", value=location)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(PredictError, match="cannot be loaded by onnxruntime"):
            Classifier(folder / "model.onnx")
