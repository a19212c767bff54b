"""The classifier and its command: one line out for one line in, one for a fault."""

import io
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from onnxruntime.quantization import quantize_dynamic

from helpers import classify
from helpers.classify import Classifier, PredictError
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


def command(model) -> list[str]:
    return [sys.executable, "-m", "helpers.classify", "--model", str(model)]


def test_one_line_out_for_one_line_in_in_order(tiny_folder, tiny_openvino):
    sentences = SENTENCES + ODD + SENTENCES[::-1] + [f"film number {i}" for i in range(256)]
    text = "\n".join(sentences).encode() + b"\r\n"
    done = subprocess.run(command(tiny_openvino), input=text, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    answers = [line.split("\t") for line in done.stdout.decode().splitlines()]
    expected = [share for _, share in Classifier(tiny_folder).classify(sentences)]
    np.testing.assert_allclose([float(share) for _, share in answers], expected, atol=1e-3)
    for label, share in answers:
        assert label == ("positive" if float(share) > 0.5 else "negative")
    assert list(Classifier(tiny_folder).classify([])) == []


def test_a_long_sentence_does_not_slow_the_short_ones(tiny_onnx):
    sentences, batches = ["a fine film", "long " * 90, *["dull"] * 21], []
    Classifier(tiny_onnx).probabilities(sentences, batches.append)
    assert batches == [1, 22]  # the long one runs alone


@pytest.mark.parametrize("model", ["tiny_folder", "tiny_onnx", "tiny_openvino"])
def test_threads_get_the_answers_to_their_own_sentences(model, request):
    classifier = Classifier(request.getfixturevalue(model), threads=1)
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
    (tmp_path / "orphan.onnx").write_bytes(tiny_onnx.read_bytes())
    unnamed, cut = (shutil.copytree(tiny_folder, tmp_path / name) for name in ("unnamed", "cut"))
    (unnamed / "config.json").write_text("{}")
    (cut / "model.safetensors").unlink()
    (cut / "model.onnx").write_bytes(tiny_onnx.read_bytes()[:5000])
    (cut / "model.xml").write_text("<net")
    for name, complaint in {
        "orphan.onnx": "does not hold config.json",
        "unnamed": "not a classifier's folder",
        "cut": "cannot be loaded by pytorch",
        "cut/model.onnx": "cannot be loaded by onnxruntime",
        "cut/model.xml": "cannot be loaded by openvino",
    }.items():
        with pytest.raises(PredictError, match=complaint):
            Classifier(tmp_path / name)


def test_the_command_says_a_fault_in_one_line_with_status_2(
    tmp_path, tiny_onnx, monkeypatch, capsys
):
    given = io.TextIOWrapper(io.BytesIO(b"fine\nna\xefve\n"))
    monkeypatch.setattr(sys, "stdin", given)
    for model, said in (
        (tmp_path / "none", f"error: {tmp_path / 'none'} does not exist\n"),
        (tiny_onnx, "error: line 2 of the input is not UTF-8\n"),
    ):
        assert classify.main(["--model", str(model)]) == 2
        assert capsys.readouterr() == ("", said)


def test_a_reader_that_stops_early_causes_no_traceback(tiny_onnx):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(command(tiny_onnx), **pipes)
    process.stdout.close()
    _, errors = process.communicate(b"a film\n" * 5000)
    assert (process.returncode, errors) == (0, b"")


WRITERS = {
    "txt": lambda frame, path: path.write_text("\n".join([*frame["text"], ""]), encoding="utf-8"),
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "tsv": lambda frame, path: frame.to_csv(path, index=False, sep="\t"),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
    "parquet": lambda frame, path: frame.to_parquet(path, row_group_size=10),
}


@pytest.mark.parametrize("ending", [*WRITERS, "CSV"])
def test_a_corpus_keeps_its_order_in_every_format(ending, tmp_path, tiny_openvino, monkeypatch):
    monkeypatch.setattr(classify, "PART", 16)
    sentences = [*SENTENCES, "NA", "null", "12", 'he said "no"', "ünïcode, 字"] * 4
    if ending != "txt":
        sentences[20] = "two\nlines"
    classifier = Classifier(tiny_openvino, many=True)
    source = tmp_path / f"reviews.{ending}"
    WRITERS[ending.lower()](pd.DataFrame({"id": range(len(sentences)), "text": sentences}), source)
    classify.classify_file(classifier, tiny_openvino, source, tmp_path / "labels")
    found, expected = pd.read_parquet(tmp_path / "labels"), [*classifier.classify(sentences)]
    assert found["sentence"].tolist() == sentences
    assert found["label"].tolist() == [label for label, _ in expected]
    np.testing.assert_allclose(found["probability"], [share for _, share in expected], atol=1e-6)
    assert len(list((tmp_path / "labels").iterdir())) == 3


def test_a_killed_corpus_goes_on_where_it_was(tmp_path, tiny_openvino, monkeypatch, capsys):
    monkeypatch.setattr(classify, "PART", 64)
    source, sentences = tmp_path / "reviews.csv", [f"film {n} " * (n % 9) for n in range(4000)]
    WRITERS["csv"](pd.DataFrame({"text": sentences}), source)
    arguments = ["--model", str(tiny_openvino), str(source), str(tmp_path / "labels")]
    code = "from helpers import classify as c; c.PART = 64; raise SystemExit(c.main())"
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        while len(parts := sorted(tmp_path.glob("labels/part-*"))) < 2 and process.poll() is None:
            time.sleep(0.005)
        process.kill()
    assert process.returncode not in (0, 2)
    before = [part.stat().st_mtime_ns for part in parts]
    assert classify.main(arguments) == 0
    said = capsys.readouterr().err
    assert "openvino, FP32 where it is not INT8" in said and "4000/4000" in said
    assert [part.stat().st_mtime_ns for part in parts] == before
    found = pd.read_parquet(tmp_path / "labels")
    assert found["sentence"].tolist() == sentences
    parts[0].rename(tmp_path / "elsewhere")
    assert classify.main(arguments) == 2
    (tmp_path / "elsewhere").rename(parts[0])
    source.write_text("text\nanother film\n")
    assert classify.main(arguments) == 2
    assert capsys.readouterr().err.count("parts of another model or input") == 2
    assert classify.main([*arguments[:2], str(tmp_path), str(tmp_path / "more")]) == 2
    assert "is no file, which is read twice" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none.csv", None, "cannot be read"),
        ("other.csv", b"id,review\n1,fine\n", "no column 'sentence' or 'text'"),
        ("latin.csv", b"text\nna\xefve\n", "cannot be read: .*UTF8"),
        ("ragged.csv", b"text\nfine\ndull,grey\n", "cannot be read: .*columns"),
        ("broken.jsonl", b'{"text": "fine"}\n{"text"', "cannot be read"),
    ],
)
def test_a_corpus_that_cannot_be_read_says_why_in_one_line(tmp_path, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PredictError, match=complaint) as raised:
        list(classify.read_sentences(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_no_answer_depends_on_the_company(tiny_onnx, tiny_openvino):
    quantize_dynamic(tiny_onnx, dynamic := tiny_onnx.with_name("dynamic.onnx"))
    sentences = [*SENTENCES, "a film " * 30, *(f"film number {n}" for n in range(9))]
    for path in (tiny_onnx, tiny_openvino, dynamic):
        classifier = Classifier(path, many=True)
        assert classifier.batch == (1 if path == dynamic else classify.BATCH)
        alone = np.concatenate([classifier.probabilities([one]) for one in sentences])
        together = classifier.probabilities(sentences)
        np.testing.assert_allclose(together, alone, atol=1e-4, err_msg=str(path))
