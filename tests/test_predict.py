import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import openvino
import pytest

from helpers.predict import Classifier, PredictError
from helpers.quantization import save_openvino
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


def predict(model, text: bytes):
    return subprocess.run(
        [sys.executable, "-m", "helpers.predict", "--model", str(model)],
        input=text,
        capture_output=True,
    )


def parse(output: bytes):
    rows = [line.split("\t") for line in output.decode().splitlines()]
    return [label for label, _ in rows], np.array([float(p) for _, p in rows])


def test_one_line_out_for_one_line_in_in_order(tiny_folder, tiny_onnx):
    sentences = (SENTENCES + ODD) * 5
    text = "\n".join(sentences).encode() + b"\n"
    answers = []
    for model in (tiny_folder, tiny_onnx):
        done = predict(model, text)
        assert done.returncode == 0, done.stderr.decode()
        labels, positive = parse(done.stdout)
        assert len(labels) == len(sentences)
        assert set(labels) <= {"negative", "positive"}
        assert [label == "positive" for label in labels] == list(positive > 0.5)
        classifier = Classifier(model)
        alone = [next(classifier.classify([s])) for s in sentences]
        assert [label for label, _ in alone] == labels
        np.testing.assert_allclose([p for _, p in alone], positive, atol=1e-4)
        answers.append((labels, positive))
    assert answers[0][0] == answers[1][0]
    np.testing.assert_allclose(answers[0][1], answers[1][1], atol=1e-3)


def test_windows_line_ends_and_a_missing_last_one(tiny_onnx):
    assert predict(tiny_onnx, b"good\r\nbad").stdout == predict(tiny_onnx, b"good\nbad\n").stdout


def test_no_input_gives_no_output(tiny_onnx):
    done = predict(tiny_onnx, b"")
    assert (done.returncode, done.stdout) == (0, b"")


def broken_models(tmp_path, tiny_onnx):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.onnx").write_text("not a model")
    (tmp_path / "cut.onnx").write_bytes(tiny_onnx.read_bytes()[:5000])
    (tmp_path / "orphan.onnx").write_bytes(tiny_onnx.read_bytes())
    return {
        "missing": "does not exist",
        "empty": "not a folder with a classifier",
        "text.onnx": "not an ONNX model",
        "cut.onnx": "not an ONNX model",
        "orphan.onnx": "the tokenizer is missing",
    }


def test_a_wrong_model_gets_one_line_and_status_2(tmp_path, tiny_onnx):
    for name, complaint in broken_models(tmp_path, tiny_onnx).items():
        done = predict(tmp_path / name, b"a film\n")
        errors = done.stderr.decode()
        assert (done.returncode, done.stdout) == (2, b""), name
        assert complaint in errors and errors.startswith("error: "), errors
        assert "Traceback" not in errors and len(errors.splitlines()) == 1, errors


def test_input_that_is_not_utf8_names_its_line(tiny_onnx):
    done = predict(tiny_onnx, b"fine\nna\xefve\n")
    assert done.returncode == 2
    assert done.stderr.decode() == "error: line 2 of the input is not UTF-8\n"


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_batches_lose_nothing(tiny_onnx, count):
    sentences = [f"film number {i}" for i in range(count)]
    assert len(list(Classifier(tiny_onnx).classify(sentences))) == count


def test_a_reader_that_stops_early_causes_no_traceback(tiny_onnx):
    command = [sys.executable, "-m", "helpers.predict", "--model", str(tiny_onnx)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
    process.stdout.close()
    _, errors = process.communicate(b"a film\n" * 5000)
    assert (process.returncode, errors) == (0, b"")


def test_length_buckets_answer_as_the_plain_path_does(tiny_openvino, tiny_folder):
    sentences = SENTENCES + ODD
    fast, plain = Classifier(tiny_openvino), Classifier(tiny_folder)
    together = list(fast.classify(sentences))
    alone = [next(fast.classify([sentence])) for sentence in sentences]
    assert together == alone
    expected = list(plain.classify(sentences))
    assert [label for label, _ in together] == [label for label, _ in expected]
    np.testing.assert_allclose([p for _, p in together], [p for _, p in expected], atol=1e-3)


@pytest.mark.parametrize("name", ["tiny_folder", "tiny_onnx", "tiny_openvino"])
def test_threads_get_the_answers_to_their_own_sentences(name, request):
    classifier = Classifier(request.getfixturevalue(name), threads=1)
    expected = {sentence: classifier.probabilities([sentence]) for sentence in SENTENCES}

    def ask(number):
        sentence = SENTENCES[number % len(SENTENCES)]
        return np.abs(classifier.probabilities([sentence]) - expected[sentence]).max()

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(ask, range(400))) < 1e-6


def test_an_answer_that_is_no_number_is_refused(tiny_onnx, monkeypatch):
    classifier = Classifier(tiny_onnx)
    broken = LoadedModel(lambda ids, mask: np.full((len(ids), 2), np.nan, np.float32), 1)
    monkeypatch.setattr(classifier, "_model", broken)
    with pytest.raises(PredictError, match="no number"):
        list(classifier.classify(["a film"]))


def test_an_openvino_model_without_notes_is_refused(tiny_onnx, tmp_path):
    save_openvino(openvino.Core().read_model(tiny_onnx), tmp_path / "bare.xml")
    done = predict(tmp_path / "bare.xml", b"a film\n")
    assert done.returncode == 2 and b"does not say which tokenizer" in done.stderr
    (tmp_path / "bare.xml").write_text("<net")
    assert b"not an OpenVINO model" in predict(tmp_path / "bare.xml", b"a film\n").stderr


def test_an_onnx_file_that_names_other_files_reads_none_of_them(tiny_onnx, tmp_path):
    model = onnx.load(tiny_onnx)
    big = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    secret = tmp_path / "secret"
    secret.write_bytes(big.raw_data)
    folder = tmp_path / "artifacts"
    shutil.copytree(tiny_onnx.parent / "student", folder / "student")
    (folder / "link").symlink_to(secret)
    for location in ("../secret", str(secret), "link"):
        big.ClearField("raw_data")
        del big.external_data[:]
        big.data_location = onnx.TensorProto.EXTERNAL
        big.external_data.add(key="location", value=location)
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(PredictError, match="cannot be loaded by onnxruntime"):
            Classifier(folder / "model.onnx")
