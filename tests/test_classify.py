"""The classifier and its command: one line out for one line in, one for a fault."""

import io
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pytest
from onnxruntime.quantization import quantize_dynamic

from helpers import classify
from helpers.classify import Classifier, PredictError, length_buckets
from helpers.quantization import CalibrationLoader, quantize_with_onnxruntime
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


def write_as(ending: str, folder: Path, sentences: list[str]) -> Path:
    path = folder / f"reviews.{ending}"
    frame = pd.DataFrame({"id": range(len(sentences)), "text": sentences})
    if ending == "parquet":
        frame.to_parquet(path, row_group_size=10)
    elif ending == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    elif ending == "txt":
        path.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == "tsv" else ",")
    return path


@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl", "parquet"])
def test_a_corpus_keeps_its_order_in_every_format(ending, tmp_path, tiny_openvino, monkeypatch):
    monkeypatch.setattr(classify, "PART", 16)
    sentences = [*SENTENCES, "NA", "null", "12", 'he said "no"', "ünïcode, 字"] * 4
    if ending != "txt":
        sentences[20] = "two\nlines"
    classifier = Classifier(tiny_openvino, many=True)
    source = write_as(ending, tmp_path, sentences)
    classify.classify_file(classifier, tiny_openvino, source, tmp_path / "labels")
    found, expected = pd.read_parquet(tmp_path / "labels"), [*classifier.classify(sentences)]
    assert found["sentence"].tolist() == sentences
    assert found["label"].tolist() == [label for label, _ in expected]
    np.testing.assert_allclose(found["probability"], [share for _, share in expected], atol=1e-6)
    assert len(list((tmp_path / "labels").iterdir())) == 3


def test_a_killed_corpus_goes_on_where_it_was(tmp_path, tiny_openvino, monkeypatch, capsys):
    monkeypatch.setattr(classify, "PART", 64)
    source = write_as("csv", tmp_path, [f"film number {n} " * (n % 9) for n in range(4000)])
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
    assert found["sentence"].tolist() == pd.read_csv(source).fillna("")["text"].tolist()
    source.write_text("text\nanother film\n")
    assert classify.main(arguments) == 2
    assert "parts of another model or input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none.csv", None, "cannot be read"),
        ("none.txt", None, "cannot be read"),
        ("other.csv", b"id,review\n1,fine\n", "no column 'sentence' or 'text'"),
        ("latin.csv", b"text\nna\xefve\n", "cannot be read: .*UTF8"),
        ("ragged.csv", b"text\nfine\ndull,grey\n", "cannot be read: .*columns"),
        ("broken.parquet", b"PAR1", "cannot be read"),
        ("broken.jsonl", b'{"text": "fine"}\n{"text"', "cannot be read"),
    ],
)
def test_a_corpus_that_cannot_be_read_says_why_in_one_line(tmp_path, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PredictError, match=complaint) as raised:
        list(classify.read_sentences(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_no_answer_depends_on_the_company(tiny_folder, tiny_onnx, tiny_openvino, encoded):
    static, dynamic = (tiny_onnx.with_name(f"{kind}.onnx") for kind in ("static", "dynamic"))
    quantize_with_onnxruntime(tiny_onnx, static, CalibrationLoader(encoded.select(range(6))))
    quantize_dynamic(tiny_onnx, dynamic)
    sentences = [*SENTENCES, "a film " * 30, *(f"film number {n}" for n in range(9))]
    for path in (tiny_folder, tiny_onnx, tiny_openvino, static, dynamic):
        classifier = Classifier(path, many=True)
        assert classifier.batch == (1 if path == dynamic else classify.BATCH)
        alone = np.concatenate([classifier.probabilities([one]) for one in sentences])
        for company in (sentences, sentences[::-1], sentences[:3]):
            order = [sentences.index(one) for one in company]
            together = classifier.probabilities(company)
            np.testing.assert_allclose(together, alone[order], atol=1e-4, err_msg=str(path))
        classifier.batch = classify.BATCH
        changed = np.abs(classifier.probabilities(sentences) - alone).max() > 1e-4
        assert changed == (path == dynamic)
