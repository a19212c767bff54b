"""The exported folder, and the tools of docs/deploy.md on it; EXPORTED names one of a real run."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import Mock

import numpy as np
import pytest
from transformers import pipeline

from helpers.classify import Classifier
from helpers.runtimes import load_model, load_text_encoder
from helpers.tutorial import publish
from helpers.tutorial.profile import ROOT, load_profile
from helpers.tutorial.steps import StepError

PAGE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
PYTHON, JS, JSON = (re.findall(rf"```{k}\n(.*?)```", PAGE, re.S) for k in ("python", "js", "json"))
LABELS = ("negative", "positive")
DATA = publish.Lesson(publish.Step("01", load_profile("smoke"))).data()
SENTENCES = [*DATA["test"]["sentence"][:46], "long " * 99, "naïve café — ﬁ", "😀 字", "مرحبا"]
OVERLAY = """optimum-onnx==0.1.0 optimum-intel==1.27.0 optimum==2.1.0 transformers==4.57.6
    tokenizers==0.22.2 huggingface-hub==0.36.0 datasets==4.4.1"""
ASK = """import json, sys, transformers
models = openvino, onnx, transformers.AutoModelForSequenceClassification.from_pretrained(".")
print(json.dumps([[logits(s, m).tolist() for s in json.loads(sys.argv[1])] for m in models]))"""
ASK_JS = """const { model, tokenizer } = classify, texts = JSON.parse(process.argv[2]);
const ask = async text => (await model(tokenizer(text, { truncation: true }))).logits.tolist();
console.log(JSON.stringify(await Promise.all(texts.map(ask))));"""
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def folder(tiny_folder, tiny_openvino, tmp_path, monkeypatch) -> Path:
    """Exported without npm, from a double of a finished run's last step, of a tiny student."""
    run = Mock(profile=load_profile("smoke"), folder=tmp_path / "run", fault=str)
    shutil.copytree(tiny_folder, run.folder / "student")
    for made in (made for made in publish.COPIED.values() if "/" not in made):
        shutil.copy(tiny_openvino.with_suffix(Path(made).suffix), run.folder / made)
    shutil.copy(ROOT / "results/default.json", run.folder / "benchmark.json")
    right = np.eye(2)[DATA["test"]["label"]]
    monkeypatch.setattr(publish, "load_predictions", lambda *_: defaultdict(lambda: right))
    monkeypatch.setattr(publish, "Step", lambda *_: run)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    target = Path(os.environ.get("EXPORTED", tmp_path / "student")).absolute()
    if not target.exists():
        publish.export(target)
    return target


def agree(folder, name, found, runtime, atol=1e-4):
    model, encode = load_model(runtime, folder / name, threads=1), load_text_encoder(folder, 64)
    ours = np.concatenate([model.run(*encode(sentence)) for sentence in SENTENCES])
    found = np.reshape(found, (50, 2))
    same, gap = (ours.argmax(1) == found.argmax(1)).sum(), np.abs(ours - found).max()
    assert same == 50 and gap < atol, f"{name}: {same} labels the same, difference {gap:.1e}"


def test_our_own_reader_transformers_and_the_programs_of_the_page(capsys, folder, monkeypatch):
    assert "EXPORTED" in os.environ or "left out: npm is not" in capsys.readouterr().out
    card = publish.ModelCard.load(folder / "README.md")
    assert re.search(r"openvino_model.xml.* (0\.\d{4}|1\.0000) .* \| \d+\.\d\d \|\n", card.text)
    for name in publish.MODELS:
        reader = Classifier(folder / name.replace("model.safetensors", ""), threads=1)
        assert reader.labels == LABELS and f"| `{name}`, " in card.text and card.data.eval_results
    monkeypatch.chdir(folder)
    exec(PYTHON[0], named := {})
    run, model, feed = named["session"].run, named["model"], named["feed"]
    agree(folder, "onnx/model_static.onnx", [run(None, feed(s)) for s in SENTENCES], "onnxruntime")
    agree(folder, "openvino_model.xml", [model(feed(s))[0] for s in SENTENCES], "openvino")
    ask = pipeline("text-classification", ".", function_to_apply="none", top_k=None)
    scores = [sorted(ask([s], truncation=True)[0], key=lambda a: a["label"]) for s in SENTENCES]
    agree(folder, ".", [[answer["score"] for answer in two] for two in scores], "pytorch")
    sent = {i["name"]: np.reshape(i["data"], i["shape"]) for i in json.loads(JSON[0])["inputs"]}
    np.testing.assert_equal(sent, feed("a gripping film"))
    assert run(["logits"], sent)[0].shape == model(sent)["logits"].shape == (1, 2)


def test_what_cannot_be_exported_is_said_in_a_line(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "copyfile", Mock(side_effect=OSError("No space left")))
    for name, said in {"run": "not empty", "new": "No space left", "old": "run 04"}.items():
        with pytest.raises((StepError, OSError), match=said):
            publish.export(tmp_path / name)
        publish.Step().fault = lambda name=name: "run 04 first" if name == "new" else None
    assert {path.name for path in tmp_path.iterdir()} <= {"run", "student"}


def test_it_pushes_only_what_was_agreed_to(folder, monkeypatch, capsys):
    push, hub = partial(publish.export, folder, repository="org/name"), Mock()
    monkeypatch.setattr(publish, "HfApi", lambda: hub)
    monkeypatch.setattr(publish, "get_token", Mock(side_effect=["", "a token", "a token"]))
    with pytest.raises(OSError, match="hf auth login"):
        push(agreed=True)
    monkeypatch.setattr(sys, "stdin", Mock(isatty=lambda: False))
    with pytest.raises(OSError, match="nothing was uploaded"):
        push()
    assert "onnx/model_static.onnx" in capsys.readouterr().out and not hub.mock_calls
    push(agreed=True)
    hub.upload_folder.assert_called_once_with(repo_id="org/name", folder_path=folder)


@pytest.mark.slow
def test_optimum_and_transformers_4_before_ours_on_the_path(folder, tmp_path):
    install = f"-m uv pip install --no-deps --target {tmp_path / '4'} {OVERLAY}"
    subprocess.run([sys.executable, *install.split()], check=True)
    ask = [sys.executable, "-c", PYTHON[1] + ASK, json.dumps(SENTENCES)]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "4")}
    found = json.loads(subprocess.check_output(ask, cwd=folder, env=environment).splitlines()[-1])
    agree(folder, "openvino_model.xml", found[0], "openvino", atol=0.1)  # it may compute in BF16
    agree(folder, "onnx/model_quantized.onnx", found[1], "onnxruntime")
    agree(folder, ".", found[2], "pytorch")


@pytest.mark.slow
def test_transformers_js(folder, tmp_path):
    (tmp_path / "student").exists() or (tmp_path / "student").symlink_to(folder)
    (tmp_path / "ask.mjs").write_text(JS[0] + ASK_JS)
    run = partial(subprocess.check_output, cwd=tmp_path)
    run(["npm", "install", "--ignore-scripts", "--silent", "@huggingface/transformers@4.3.2"])
    found = json.loads(run(["node", "ask.mjs", json.dumps(SENTENCES)]).splitlines()[-1])
    agree(folder, "onnx/model_quantized.onnx", found, "onnxruntime", 0.05)  # [SEP] may be cut off


@pytest.mark.slow
def test_the_page_on_a_phone_offline_by_keyboard(folder, monkeypatch):
    monkeypatch.undo()
    play, asked, found = pytest.importorskip("playwright.sync_api"), [], []
    (folder / "demo").exists() or publish._write_page(folder / "demo")
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    Thread(target=web.serve_forever, daemon=True).start()
    with play.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 360, "height": 640})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"http://127.0.0.1:{web.server_port}/demo/")
        page.get_by_role("status").filter(has_text=re.compile(r"Ready: [\d.]+ MB")).wait_for()
        page.context.set_offline(True)
        for sentence in SENTENCES:
            page.get_by_label("Sentence").fill(sentence)
            page.keyboard.press("Enter")
            said = page.locator("[aria-live]", has_text=re.compile(" ms$")).inner_text()
            found.append([said.startswith(label) for label in LABELS])
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert len(asked) == 8 and all(f"127.0.0.1:{web.server_port}/" in url for url in asked)
    # its labels, by OpenVINO: where there is no VNNI, sums of INT8 overflow in ONNX Runtime
    agree(folder, "onnx/model_quantized.onnx", found, "openvino", atol=9)
