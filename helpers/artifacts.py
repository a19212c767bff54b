"""Where a run's results lie, who makes each, and whether what lies there fits the profile.

Everything goes to `artifacts/<profile>/`. A file or folder is written aside and renamed, so that
its name stands for a whole artefact; `manifest.json` records what each was made with: a digest of
the settings, of the artefacts it was made from, of its own content, of the code and the versions
that decide it, and what the profile's references stood for, such as the commit of a model from the
hub. The cells of a notebook play no part: they are the reader's to change.
"""

import ast
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from pydantic import TypeAdapter

from helpers.assets import digest, identify
from helpers.profile import DEFAULT, ROOT, Profile


class Recipe(NamedTuple):
    """What an artefact is made by and from: a change in any of it makes the artefact stale.

    `uses_inputs` tells for a profile whether the inputs play a part in it.
    """

    notebook: str
    settings: tuple[str, ...]  # parts of the profile
    inputs: tuple[str, ...] = ()  # other artefacts
    uses_inputs: Callable[[Profile], bool] = lambda profile: True


_PRETRAIN = "00_pretrain_student"
_TEACHER, _STUDENT = "01_finetune_teacher", "02_distill_student"
_EXPORT, _INT8, _BENCHMARK = "03_export_onnx", "04_quantize_int8", "05_benchmark_cpu"
_PRUNE = "06_prune_and_orchestrate"
_INT8_STUDENTS = {  # each with what it was quantized from
    "student_int8.onnx": "student.onnx",
    "student_int8_dynamic.onnx": "student.onnx",
    "student_int8_openvino.xml": "student.onnx",
    "student_int8_fast.xml": "student_fast.onnx",
    "student_int8_asymmetric.xml": "student_fast.onnx",
    "student_int8_engine.onnx": "student_engine.onnx",
}
_INT8_BASELINES = ("baseline_int8.onnx", "baseline_int8_openvino.xml")

RECIPES = {
    "pretrained": Recipe(_PRETRAIN, ("seed", "max_length", "data", "pretraining", "student")),
    "pretraining.json": Recipe(_PRETRAIN, (), ("pretrained",)),
    "teacher": Recipe(_TEACHER, ("seed", "max_length", "data", "teacher")),
    "predictions_01.npz": Recipe(_TEACHER, (), ("teacher",)),
    "transfer.parquet": Recipe(_STUDENT, ("augmentation", "transfer", "generation"), ("teacher",)),
    "student_gold": Recipe(_STUDENT, ("seed", "max_length", "data", "student")),
    "student": Recipe(
        _STUDENT,
        ("student",),
        ("transfer.parquet",),
        lambda profile: profile.student.distil_augmented.epochs > 0,
    ),
    "predictions_02.npz": Recipe(_STUDENT, (), ("student_gold", "student")),
    **{
        name: Recipe(_EXPORT, (), ("student",))
        for name in ("student.onnx", "student_fast.onnx", "student_engine.onnx")
    },
    "baseline.onnx": Recipe(
        _EXPORT,
        ("seed", "baseline"),
        ("teacher",),
        lambda profile: profile.baseline.weights == "teacher",
    ),
    "predictions_03.npz": Recipe(_EXPORT, (), ("student.onnx",)),
    **{
        name: Recipe(_INT8, ("quantization",), (source,)) for name, source in _INT8_STUDENTS.items()
    },
    **{name: Recipe(_INT8, (), ("baseline.onnx",)) for name in _INT8_BASELINES},
    "predictions_04.npz": Recipe(_INT8, (), (*_INT8_STUDENTS, *_INT8_BASELINES)),
    "benchmark.json": Recipe(
        _BENCHMARK,
        ("benchmark",),
        ("teacher", "student_gold", "baseline.onnx", *_INT8_BASELINES, *_INT8_STUDENTS),
    ),
    "student_pruned.onnx": Recipe(
        _PRUNE, ("seed", "max_length", "compression"), ("student", "transfer.parquet")
    ),
    "student_pruned_int8.xml": Recipe(_PRUNE, ("quantization",), ("student_pruned.onnx",)),
    "frontier.json": Recipe(
        _PRUNE,
        ("benchmark",),
        (
            "student_pruned_int8.xml",
            "student_int8_fast.xml",
            "student_int8_openvino.xml",
            "student_int8_dynamic.onnx",
        ),
    ),
}

# The modules of `helpers` and the packages that decide what a notebook's artefacts become.
_MAKERS = {
    _PRETRAIN: (("data", "pretraining", "training"), ("torch", "transformers")),
    _TEACHER: (("data", "training"), ("torch", "transformers")),
    _STUDENT: (("augment", "data", "training"), ("openvino", "torch", "transformers")),
    _EXPORT: (("onnx_models",), ("onnx", "torch")),
    _INT8: (("onnx_models", "quantization"), ("neural-compressor", "nncf", "onnxruntime")),
    _BENCHMARK: (
        ("benchmark", "engine_worker", "runtimes"),
        ("onnxruntime", "openvino", "torch"),
    ),
    _PRUNE: (
        ("benchmark", "compression", "onnx_models", "quantization", "runtimes", "training"),
        ("neural-compressor", "nncf", "openvino", "torch", "transformers"),
    ),
}

_ENTRIES = TypeAdapter(dict[str, dict])  # the manifest, by artefact


class ArtifactError(RuntimeError):
    """An artefact is missing or was made with other settings; names the notebook to run."""


class Artifacts:
    """The artefacts of one profile."""

    def __init__(self, profile: Profile, *, root: Path = ROOT / "artifacts"):
        self.profile = profile
        self.folder = root / profile.name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._identities: dict[str, str | None] = {}

    def path(self, name: str) -> Path:
        """Where the artefact called `name` lies, or will."""
        return self.folder / name

    def checkpoints(self, name: str, part: str = "") -> Path:
        """Folder of the checkpoints of an artefact's training, or of a part of it.

        With other settings or inputs it is another folder.
        """
        made_with = _hash(self._made_with(RECIPES[name], self._manifest()))
        return self.folder / "checkpoints" / "-".join(filter(None, (name, part, made_with[:8])))

    def require(self, *names: str) -> None:
        """Check that artefacts are whole and were made with this profile's settings and inputs.

        Raises:
            ArtifactError: the first one that does not fit, with the notebook to run again.
        """
        manifest = self._manifest()
        for name in names:
            if fault := self._fault(name, manifest) or self._damage(name, manifest):
                raise ArtifactError(fault)

    def fits(self, name: str) -> bool:
        """Whether an artefact is whole and was made with this profile's settings and inputs."""
        manifest = self._manifest()
        return not (self._fault(name, manifest) or self._damage(name, manifest))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path beside the artefact's to write to; rename it on success, or remove it.

        The path lies in a folder of its own and keeps the artefact's file name. Where several
        processes write the same artefact, one does after another; what a killed one left half
        written goes with the next.
        """
        scratch = self.folder / ".writing" / name
        scratch.parent.mkdir(exist_ok=True)
        with FileLock(scratch.with_name(f"{name}.lock")):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                yield scratch / name
                self._put_in_place(name, scratch)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def _put_in_place(self, name: str, scratch: Path) -> None:
        with FileLock(self.folder / ".manifest.lock"):
            manifest = self._manifest()
            manifest.pop(name, None)
            self._write_manifest(manifest)
            for made in scratch.iterdir():  # an OpenVINO model is two files
                final = self.path(made.name)
                if final.is_dir():
                    shutil.rmtree(final)
                made.replace(final)
            self._write_manifest(manifest | {name: self._entry(name, manifest)})

    def _fault(self, name: str, manifest: dict[str, dict]) -> str | None:
        recipe, entry = RECIPES[name], manifest.get(name)
        for needed in self._inputs(recipe):  # first what comes first
            if fault := self._fault(needed, manifest):
                return fault
        shown, remedy = self._named(name)
        if entry is None or not self.path(name).exists():
            return f"{shown} is missing: {remedy}"
        if entry["settings"] != self._settings(recipe):
            return f"{shown} was made with other settings: {remedy}"
        for maker, now in _made_by(recipe).items():
            if entry.get("made_by", {}).get(maker) != now:
                return f"{shown} was made by another version of {maker}: {remedy}"
        for reference, identity in entry.get("sources", {}).items():
            if identity and self._identify(reference) not in (None, identity):
                return f"{shown} was made from another {reference} ({identity}): {remedy}"
        for needed in self._inputs(recipe):
            if entry["inputs"][needed] != manifest[needed]["content"]:
                return f"{shown} was made from another {needed}: {remedy}"
        return None

    def _damage(self, name: str, manifest: dict[str, dict]) -> str | None:
        content = self._content(name)
        if content is None or content != manifest[name]["content"]:
            shown, remedy = self._named(name)
            return f"{shown} is damaged, it is not what was written: {remedy}"
        return None

    def _named(self, name: str) -> tuple[str, str]:
        """An artefact as messages call it, and what to do where it does not fit."""
        notebook = RECIPES[name].notebook
        command = make_command(notebook, self.profile)
        remedy = f"run notebooks/{notebook}.ipynb first ({command})"
        return f"artifacts/{self.profile.name}/{name}", remedy

    def _content(self, name: str) -> str | None:
        """SHA-256 of an artefact, of an OpenVINO model's two files together; None for links."""
        path = self.path(name)
        files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
        if any(file.is_symlink() or not file.exists() for file in files):
            return None
        return "-".join(digest(file) for file in files)

    def _entry(self, name: str, manifest: dict[str, dict]) -> dict:
        return self._made_with(RECIPES[name], manifest) | {"content": self._content(name)}

    def _made_with(self, recipe: Recipe, manifest: dict[str, dict]) -> dict:
        references = self.profile.references(*recipe.settings).values() if recipe.settings else ()
        return {
            "settings": self._settings(recipe),
            "made_by": _made_by(recipe),
            "sources": {reference: self._identify(reference) for reference in references},
            "inputs": {
                needed: manifest.get(needed, {}).get("content") for needed in self._inputs(recipe)
            },
        }

    def _inputs(self, recipe: Recipe) -> tuple[str, ...]:
        return recipe.inputs if recipe.uses_inputs(self.profile) else ()

    def _identify(self, reference: str) -> str | None:
        if self._identities.get(reference) is None:  # what is not at hand yet may come
            self._identities[reference] = identify(reference)
        return self._identities[reference]

    def _settings(self, recipe: Recipe) -> str:
        return _hash(self.profile.model_dump(mode="json", include=set(recipe.settings)))

    def _manifest(self) -> dict[str, dict]:
        path = self.path("manifest.json")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
            return _ENTRIES.validate_python(manifest)
        except (ValueError, OSError) as error:
            command = make_command(_TEACHER, self.profile)
            reason = str(error).splitlines()[0]
            raise ArtifactError(
                f"artifacts/{self.profile.name}/manifest.json is damaged ({reason}): "
                f"remove it and begin again ({command})"
            ) from None

    def _write_manifest(self, manifest: dict[str, dict]) -> None:
        write_whole(self.path("manifest.json"), json.dumps(manifest, indent=2) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Write a text file aside and rename it, so that it is never there by half."""
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def _made_by(recipe: Recipe) -> dict[str, str]:
    modules, packages = _MAKERS[recipe.notebook]
    code = {f"helpers/{module}.py": _code(module) for module in modules}
    return code | {package: version(package) for package in packages}


@cache
def _code(module: str) -> str:
    """A digest of a module's code; comments, docstrings and layout play no part in it."""
    tree = ast.parse(Path(__file__).with_name(f"{module}.py").read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented) and ast.get_docstring(node) is not None:
            node.body[0].value = ast.Constant("")
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def _hash(value: dict) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def make_command(notebook: str, profile: Profile) -> str:
    """The command that goes on from a notebook, given by its name, with the same settings."""
    pretraining = notebook == _PRETRAIN
    words = [
        "make pretrain" if pretraining else "make run",
        "" if profile.base == DEFAULT else f"PROFILE={profile.base}",
        'SET="{}"'.format(profile.changes.replace('"', r"\"")) if profile.changes else "",
        "" if pretraining else f"FROM={notebook[:2]}",
    ]
    return " ".join(filter(None, words))
