"""The student to take home: one folder that other people's tools load, and a page that classifies.

The folder has the layout that transformers, Optimum and Transformers.js know. Its model card says
how the student was made and what the run measured; on its page the INT8 student answers inside the
browser.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from hashlib import sha256
from pathlib import Path

from huggingface_hub import EvalResult, HfApi, ModelCard, ModelCardData, get_token

from helpers import Lesson
from helpers.bench.results import load_predictions
from helpers.export import size_mb
from helpers.metrics import measure_accuracy
from helpers.tutorial.profile import Profile, load_profile
from helpers.tutorial.report import read_results
from helpers.tutorial.sources import SourceError, load_assets
from helpers.tutorial.steps import LAST_OF_MAIN, Step, StepError, write_whole

MODELS = {  # in the folder: the name and ending in the run, and the end of the benchmark's row
    "model.safetensors": ("student", "/model.safetensors", "PyTorch FP32"),
    "onnx/model.onnx": ("student", ".onnx", "ONNX Runtime FP32"),
    "onnx/model_quantized.onnx": ("student_int8_dynamic", ".onnx", "ONNX Runtime INT8 dynamic"),
    "onnx/model_static.onnx": ("student_int8", ".onnx", "ONNX Runtime INT8 static"),
    "openvino_model.xml": ("student_int8_fast", ".xml", "OpenVINO INT8"),
}
COPIED = {name: stem + ending for name, (stem, ending, _) in MODELS.items()}
COPIED |= {name: f"student/{name}" for name in ("config.json", "tokenizer.json")}
COPIED["openvino_model.bin"] = "student_int8_fast.bin"
# What the page computes with, from npm: packages, SHA-256 of their archives joined, files of dist/
PACKAGES = ("@huggingface/tokenizers@0.2.0", "onnxruntime-web@1.30.0")
SHA256 = "847f11a940a1f9ceb5223d6fbecb831644f4d82a2481fce66e5ccaf3bbeb97cb"
TAKEN = {"tokenizers.min.mjs", "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"}


def export(target: Path, *, repository: str | None = None, agreed: bool = False) -> None:
    """Write the profile's student to a new folder, and send it to the hub where a name is given.

    A folder exported before then goes as it is. OSError says what stands in the way.
    """
    if not (repository and (target / "openvino_model.xml").exists()):
        _write(target)
    if repository:
        _push(target, repository, agreed=agreed)


def _write(target: Path) -> None:
    """Write the folder aside and rename it, so that it is never there by half."""
    step = Step(LAST_OF_MAIN, load_profile())
    if fault := step.fault():
        raise StepError(fault)
    if target.exists():
        target.rmdir()  # an empty folder, or an error
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as scratch:
        folder = Path(scratch, target.name)
        (folder / "onnx").mkdir(parents=True)
        for name, made in COPIED.items():
            shutil.copyfile(step.folder / made, folder / name)
        settings = read_results(step.folder / "student/tokenizer_config.json")
        settings.pop("local_files_only", None)
        settings["tokenizer_class"] = "BertTokenizer"  # transformers 4 knows none of 5's new names
        write_whole(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
        page = "to see the page: python -m http.server in it, then /demo/ in a browser"
        try:
            _write_page(folder / "demo")
        except SourceError as error:
            page = f"the page was left out: {error}"
        model_card(step.profile, step.folder, folder).save(folder / "README.md")
        folder.rename(target)
    print(f"{target}: the student of the profile {step.profile.name}; {page}")


def model_card(profile: Profile, run: Path, folder: Path) -> ModelCard:
    """The model card of the exported `folder`, from the results in `run`.

    Latencies are the benchmark's; accuracies are of the stored logits, of FP32 files the student's.
    """
    assets, source = load_assets(), profile.data.source
    data, logits = Lesson(Step("01", profile)).data(), load_predictions(run, ["01", "02", "04"])
    stems = ["teacher", *(stem for stem, *_ in MODELS.values())]
    rated = {stem: measure_accuracy(logits[stem], data["test"]["label"]) for stem in stems}
    task = ("text-classification", source, assets.get(source, {}).get("description", source))
    measured = [
        EvalResult(*task, "accuracy", round(rated[stem].value, 4), metric_name=file)
        for file, (stem, *_) in MODELS.items()
    ]
    return ModelCard.from_template(
        ModelCardData(model_name=profile.student.name, eval_results=measured),
        template_path=str(Path(__file__).with_name("card.md")),
        config=read_results(folder / "config.json"),
        results=read_results(run / "benchmark.json"),
        **{"profile": profile, "assets": assets, "data": data, "rated": rated, "models": MODELS},
        **{"folder": folder, "size_mb": size_mb},
    )


def _write_page(demo: Path) -> None:
    """Write the page into the new folder `demo`, and beside it what it computes with, from npm."""
    if not (npm := shutil.which("npm")):
        raise SourceError("npm is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        options = ["--loglevel=error", "--prefer-offline", "--fetch-retries=0", *PACKAGES]
        done = subprocess.run([npm, "pack", *options], cwd=scratch, capture_output=True, text=True)
        packed = sorted(Path(scratch).glob("*.tgz"))
        if sha256(b"".join(path.read_bytes() for path in packed)).hexdigest() != SHA256:
            said = done.stderr.strip() or "other files came than those that are pinned"
            raise SourceError(f"npm pack: {said.splitlines()[0]}")
        for path in packed:
            shutil.unpack_archive(path, scratch)
        shutil.copytree(f"{scratch}/package/dist", demo, ignore=lambda _, names: {*names} - TAKEN)
    shutil.copyfile(Path(__file__).with_name("demo.html"), demo / "index.html")


def _push(folder: Path, repository: str, *, agreed: bool) -> None:
    """Show what would be uploaded, ask, and upload it to the hub with the user's own token."""
    if not get_token():
        raise PermissionError("you are not logged in to the hub: `hf auth login`, or set HF_TOKEN")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.relative_to(folder).as_posix()}")
    print(f"to {repository}, which all can see unless it is private already")
    if not agreed and not (sys.stdin.isatty() and input("Upload? [y/N] ").lower() == "y"):
        raise PermissionError("nothing was uploaded; --yes says that you agree")
    try:
        HfApi().create_repo(repository, exist_ok=True)
        HfApi().upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # the client's own exceptions share no base class
        raise ConnectionError(f"{repository}: {str(error).strip().splitlines()[0]}") from None
