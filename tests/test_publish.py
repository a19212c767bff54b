"""The exported folder: whole or not there, and every tool that docs/deploy.md names agrees on it.

`EXPORTED=folder python -m pytest tests/test_publish.py -m slow` asks them about a real run's.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace as Double

import numpy as np
import pytest
from huggingface_hub import ModelCard
from transformers import pipeline

from helpers import Lesson
from helpers.classify import Classifier
from helpers.data import LABELS
from helpers.runtimes import load_model, load_text_encoder
from helpers.tutorial import publish
from helpers.tutorial.profile import ROOT, load_profile
from helpers.tutorial.steps import Step
from tests.test_classify import ODD

PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
SHOWN = {kind: re.findall(rf"```{kind}\n(.*?)```", PAGE, re.S) for kind in ("python", "js", "json")}
DATA = Lesson(Step("01", load_profile("smoke"))).data()
SENTENCES = [*DATA["test"]["sentence"][:44], *ODD[2:8]]
OVERLAY = "optimum-onnx==0.1.0 optimum-intel==1.27.0 optimum==2.1.0 transformers==4.57.6"
OVERLAY += " tokenizers==0.22.2 huggingface-hub==0.36.0 datasets==4.4.1"
ASK_OPTIMUM = """
import json, sys
from transformers import AutoModelForSequenceClassification
def ask(model, text):
    return model(**tokenizer(text, truncation=True, return_tensors="pt")).logits.tolist()
texts, plain = json.load(sys.stdin), AutoModelForSequenceClassification.from_pretrained(".")
print(json.dumps([[ask(model, text) for text in texts] for model in (openvino, onnx, plain)]))
"""
ASK_JS = """
const { model, tokenizer } = classify, texts = JSON.parse(process.argv[2]), answers = [];
for (const text of texts) answers.push((await model(tokenizer(text, { truncation: true }))).logits);
console.log(JSON.stringify(answers.map(logits => logits.tolist())));
"""


@pytest.fixture
def run(tiny_folder, tiny_openvino, tmp_path, monkeypatch):
    """A double of a finished run's last step, of a tiny student, where there is no npm."""
    shutil.copytree(tiny_folder, tmp_path / "run/student")
    for made in set(publish.COPIED.values()) - {
        f"student/{path.name}" for path in tiny_folder.iterdir()
    }:
        shutil.copy(tiny_openvino.with_suffix(Path(made).suffix), tmp_path / "run" / made)
    shutil.copy(ROOT / "results/default.json", tmp_path / "run/benchmark.json")
    stems = {"teacher", *(stem for stem, *_ in publish.MODELS.values())}
    for number in ("01", "02", "04"):
        right = dict.fromkeys(stems, np.eye(2)[DATA["test"]["label"]])
        np.savez(tmp_path / f"run/predictions_{number}.npz", **right)
    run = Double(profile=load_profile("smoke"), folder=tmp_path / "run", fault=lambda: None)
    monkeypatch.setattr(publish, "Step", lambda *_: run)
    monkeypatch.setattr(publish, "Lesson", lambda _: Double(data=lambda: DATA))
    monkeypatch.setattr(publish.shutil, "which", lambda _: None)
    return run


@pytest.fixture
def folder(run, tmp_path, monkeypatch) -> Path:
    target = Path(os.environ.get("EXPORTED", tmp_path / "student")).absolute()
    assert target.exists() or publish.export(target) == 0
    monkeypatch.undo()
    return target


def agree(folder, name, found, atol=1e-4):
    model = {".onnx": "onnxruntime", ".xml": "openvino"}.get(Path(name).suffix, "pytorch")
    model, encode = load_model(model, folder / name, threads=1), load_text_encoder(folder, 64)
    wanted = np.concatenate([model.run(*encode(sentence)) for sentence in SENTENCES])
    gap = np.abs(wanted - np.reshape(found, (50, 2))).max()
    same = (wanted.argmax(1) == np.reshape(found, (50, 2)).argmax(1)).sum()
    print(f"{name}: largest difference {gap:.1e}, {same} of 50 labels the same")
    assert same == 50 and gap < atol


def test_the_card_and_our_own_reader(run, folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results and card.data.license == "apache-2.0"
    rows = json.loads((run.folder / "benchmark.json").read_text())["rows"]
    own = [r for r in rows if r["sequence_length"] == "own" and r["name"].endswith("OpenVINO INT8")]
    typical = " | ".join(f"{row['latency_ms']['typical']:.2f}" for row in own)
    assert f"to 1.0000) | {typical} |" in card.text or "EXPORTED" in os.environ
    for name in publish.MODELS:
        model = folder if name == "model.safetensors" else folder / name
        assert Classifier(model, threads=1).labels == LABELS and f"| `{name}`, " in card.text


def test_transformers_and_the_programs_of_the_page_agree(folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(SHOWN["python"][0], named := {})
    agree(folder, "onnx/model_static.onnx", [named["onnx_logits"](s) for s in SENTENCES])
    agree(folder, "openvino_model.xml", [named["openvino_logits"](s) for s in SENTENCES])
    ask = pipeline("text-classification", ".", function_to_apply="none", top_k=None)
    scores = [sorted(ask([s], truncation=True)[0], key=lambda a: a["label"]) for s in SENTENCES]
    agree(folder, ".", [[answer["score"] for answer in two] for two in scores])
    request = json.loads(SHOWN["json"][0])["inputs"]
    sent = {part["name"]: np.reshape(part["data"], part["shape"]) for part in request}
    assert named["tokenizer"].encode("a gripping film").ids == sent["input_ids"].tolist()[0]
    for answer in (named["session"].run(["logits"], sent)[0], named["model"](sent)["logits"]):
        assert answer.dtype == np.float32 and answer.shape == (1, 2)


def test_what_cannot_be_exported_is_said_in_a_line(run, tmp_path, monkeypatch, capsys):
    def full_disk(*_):
        raise OSError("No space left on device")

    assert publish.export(tmp_path / "run") == 1 and (run.folder / "student.onnx").exists()
    monkeypatch.setattr(publish.shutil, "copyfile", full_disk)
    assert publish.export(tmp_path / "new") == 1
    run.fault = lambda: "04_quantize_int8 was run with other steps (03)"
    assert publish.export(tmp_path / "new") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [path.name for path in tmp_path.iterdir()] == ["run"] and len(lines) == 3
    for line, said in zip(lines, ("not empty", "No space left", "other steps"), strict=True):
        assert line.startswith("error: ") and said in line


def test_it_pushes_only_what_was_agreed_to(folder, monkeypatch, capsys):
    push, calls = partial(publish.export, folder, repository="org/name"), []
    client = Double(
        create_repo=lambda *a, **_: calls.append(a), upload_folder=lambda **k: calls.append(k)
    )
    monkeypatch.setattr(publish, "HfApi", lambda: client)
    monkeypatch.setattr(publish, "get_token", lambda: None)
    assert push(agreed=True) == 1 and "hf auth login" in capsys.readouterr().err
    monkeypatch.setattr(publish, "get_token", lambda: "a token")
    monkeypatch.setattr(sys, "stdin", Double(isatty=lambda: False))
    assert push() == 1 and not calls and "onnx/model_static.onnx" in capsys.readouterr().out
    assert push(agreed=True) == 0
    assert calls == [("org/name",), {"repo_id": "org/name", "folder_path": folder}]
    client.upload_folder = lambda **_: Path("nowhere").stat()
    assert push(agreed=True) == 1 and "org/name: [Errno 2]" in capsys.readouterr().err


@pytest.mark.slow
def test_optimum_and_transformers_4_agree(folder, tmp_path):
    install = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        tmp_path / "4",
    ]
    subprocess.run([*install, *OVERLAY.split()], check=True)
    kept = {"env": os.environ | {"PYTHONPATH": str(tmp_path / "4")}, "cwd": folder, "text": True}
    command = [sys.executable, "-c", SHOWN["python"][1] + ASK_OPTIMUM]
    said = subprocess.run(
        command, input=json.dumps(SENTENCES), stdout=subprocess.PIPE, **kept
    ).stdout
    in_openvino, in_onnx, plain = json.loads(said.splitlines()[-1])
    agree(folder, "openvino_model.xml", in_openvino, atol=0.1)  # it may compute in BF16
    agree(folder, "onnx/model_quantized.onnx", in_onnx)
    agree(folder, ".", plain)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("npm"), reason="npm is not installed")
def test_transformers_js_agrees(folder, tmp_path):
    (tmp_path / "js").mkdir()
    (tmp_path / "js/student").symlink_to(folder)
    (tmp_path / "js/ask.mjs").write_text(SHOWN["js"][0] + ASK_JS)
    run = partial(subprocess.run, cwd=tmp_path / "js", check=True, stdout=subprocess.PIPE)
    run(["npm", "install", "--ignore-scripts", "--silent", "@huggingface/transformers@4.3.2"])
    said = run(["node", "ask.mjs", json.dumps(SENTENCES)]).stdout.splitlines()
    agree(folder, "onnx/model_quantized.onnx", json.loads(said[-1]))


@pytest.mark.slow
def test_the_page_answers_on_a_phone_offline_by_keyboard(folder):
    play = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    (folder / "demo").exists() or publish._write_page(folder / "demo")
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    server, asked, found = ThreadingHTTPServer(("127.0.0.1", 0), handler), [], []
    Thread(target=server.serve_forever, daemon=True).start()
    with play.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 640})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{server.server_port}/demo/")
        page.get_by_role("status").filter(has_text=re.compile(r"Ready: [\d.]+ MB")).wait_for()
        page.context.set_offline(True)
        for sentence in SENTENCES:
            page.get_by_label("Sentence").fill(sentence)
            page.keyboard.press("Enter")
            answer = page.locator("[aria-live=polite]").filter(has_text=re.compile(r" ms$"))
            found.append(re.match(r"(\w+) [\d.]+ %, in [\d.]+ ms", answer.inner_text())[1])
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    server.shutdown()
    assert len(asked) == 8 and all(f":{server.server_port}/" in url for url in asked)
    wanted = [
        Classifier(folder / "onnx/model_quantized.onnx", threads=1).classify([s]) for s in SENTENCES
    ]
    assert found == [label for one in wanted for label, _ in one]
