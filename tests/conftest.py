"""Shared fixtures: a tiny BERT classifier over the real vocabulary, saved as the artefacts are.

Also an index for pip that is a folder, with wheels made on the spot.
"""

import os
import zipfile
from pathlib import Path

import pytest
from datasets import Dataset

from helpers.data import tokenize
from helpers.export import export_onnx
from helpers.training import load_classifier, load_tokenizer, untrained_classifier
from helpers.tutorial.profile import ROOT, load_profile

SENTENCES = [
    "a gripping, funny and deeply moving film",
    "dull",
    "it never took off and always seemed static, though everything might be literate and smart",
    "one of the year's best",
    "the acting is wooden and the plot is worse",
    "",
]


@pytest.fixture(scope="session")
def tiny_architecture():
    small = {"layers": 2, "hidden": 32, "heads": 2, "intermediate": 64}
    return load_profile("default").student.architecture.model_copy(update=small)


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer(ROOT / "checkpoints/bert-mini", model_max_length=64)


@pytest.fixture(scope="session")
def tiny_model(tiny_architecture):
    model = untrained_classifier(tiny_architecture, seed=3)
    for parameter in model.parameters():
        parameter.data.mul_(3)  # logits far enough from 0 to have labels worth comparing
    return model


@pytest.fixture(scope="session")
def tiny_folder(tiny_model, tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("artifacts") / "student"
    tiny_model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_onnx(tiny_folder, tiny_architecture) -> Path:
    path = tiny_folder.parent / "student.onnx"
    export_onnx(load_classifier(tiny_folder, tiny_architecture), path)
    return path


@pytest.fixture(scope="session")
def tiny_openvino(tiny_onnx) -> Path:
    import openvino

    path = tiny_onnx.with_name("student.xml")
    openvino.save_model(openvino.Core().read_model(tiny_onnx), path, compress_to_fp16=False)
    return path


@pytest.fixture(scope="session")
def encoded(tokenizer) -> Dataset:
    return tokenize(Dataset.from_dict({"sentence": SENTENCES * 8}), tokenizer, 64)


def wheel(folder: Path, name: str, members: dict[str, bytes]) -> Path:
    """Write a wheel to a folder; returns its path."""
    info = f"{name}-1.0.dist-info"
    own = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode(),
        "WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": b"",
    }
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in (members | {f"{info}/{n}": c for n, c in own.items()}).items():
            archive.writestr(member, content)
    return path


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """A folder of wheels that is the only place pip looks into."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return folder
