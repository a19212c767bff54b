import threading

import pytest

from helpers import artifacts as module
from helpers.artifacts import RECIPES, ArtifactError, Artifacts
from helpers.profile import ROOT, load_profile


@pytest.fixture
def artifacts(tmp_path):
    return Artifacts(load_profile("laptop"), root=tmp_path)


def make(artifacts, *names):
    for name in names:
        with artifacts.writing(name) as path:
            path.write_text(f"content of {name}")


def half_written(artifacts):
    return [path for path in artifacts.path(".writing").iterdir() if path.is_dir()]


CHAIN = ("teacher", "transfer.parquet", "student", "student.onnx")


def test_what_is_missing_names_the_notebook_to_run(artifacts):
    with pytest.raises(ArtifactError, match=r"teacher is missing.*01_finetune.*FROM=01"):
        artifacts.require("teacher")
    make(artifacts, "teacher")
    with pytest.raises(ArtifactError, match=r"transfer.parquet is missing.*02_distill.*FROM=02"):
        artifacts.require("teacher", "transfer.parquet")


def test_a_whole_chain_fits(artifacts):
    make(artifacts, *CHAIN)
    artifacts.require(*CHAIN)


def test_an_interrupted_writing_leaves_nothing(artifacts):
    with pytest.raises(KeyboardInterrupt), artifacts.writing("teacher") as path:
        path.write_text("half")
        raise KeyboardInterrupt
    assert not artifacts.path("teacher").exists()
    assert not artifacts.fits("teacher")
    assert not half_written(artifacts)


def test_an_interrupted_rewriting_keeps_the_old_one(artifacts):
    make(artifacts, "teacher")
    with pytest.raises(RuntimeError), artifacts.writing("teacher") as path:
        path.write_text("half")
        raise RuntimeError
    assert artifacts.path("teacher").read_text() == "content of teacher"
    assert artifacts.fits("teacher")


def test_other_settings_are_noticed(artifacts, tmp_path):
    make(artifacts, *CHAIN)
    profile = artifacts.profile
    other = Artifacts(profile.model_copy(update={"seed": profile.seed + 1}), root=tmp_path)
    with pytest.raises(ArtifactError, match=r"teacher was made with other settings"):
        other.require("student.onnx")


@pytest.mark.parametrize(
    ("maker", "other"), [("helpers/training.py", "_code"), ("torch", "version")]
)
def test_other_code_and_another_version_are_noticed(artifacts, monkeypatch, maker, other):
    make(artifacts, *CHAIN)
    before = artifacts.checkpoints("student", "augmented")
    real = getattr(module, other)
    asked = maker.removeprefix("helpers/").removesuffix(".py")
    monkeypatch.setattr(
        module, other, lambda name: "another" if name == asked else real(name), raising=True
    )
    with pytest.raises(
        ArtifactError, match=rf"teacher was made by another version of {maker}: run.*01_.*FROM=01"
    ):
        artifacts.require("student.onnx")
    assert artifacts.checkpoints("student", "augmented") != before
    make(artifacts, *CHAIN)
    artifacts.require("student.onnx")


def test_what_an_older_version_left_is_made_again(artifacts):
    make(artifacts, *CHAIN)
    manifest = artifacts._manifest()
    for entry in manifest.values():
        del entry["made_by"]
    artifacts._write_manifest(manifest)
    with pytest.raises(ArtifactError, match=r"made by another version of helpers/data.py"):
        artifacts.require("teacher")


def test_comments_and_docstrings_are_no_other_code(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "__file__", str(tmp_path / "artifacts.py"))
    digests = []
    for text in ('"""One."""\nx = 1  # a\n', '"""Two."""\n\nx = 1\n', '"""Two."""\nx = 2\n'):
        (tmp_path / "m.py").write_text(text)
        module._code.cache_clear()
        digests.append(module._code("m"))
    module._code.cache_clear()
    assert digests[0] == digests[1] != digests[2]


def test_settings_that_play_no_part_are_not(artifacts, tmp_path):
    make(artifacts, *CHAIN)
    benchmark = artifacts.profile.benchmark.model_copy(update={"rounds": 5})
    other = Artifacts(artifacts.profile.model_copy(update={"benchmark": benchmark}), root=tmp_path)
    other.require(*CHAIN)


def test_a_changed_teacher_makes_what_follows_stale(artifacts):
    make(artifacts, *CHAIN)
    with artifacts.writing("teacher") as path:
        path.write_text("another teacher")
    with pytest.raises(ArtifactError, match=r"transfer.parquet was made from another teacher.*02_"):
        artifacts.require("student.onnx")


def test_the_same_teacher_made_again_keeps_what_follows(artifacts):
    make(artifacts, *CHAIN)
    make(artifacts, "teacher")
    artifacts.require(*CHAIN)


def test_another_commit_of_a_source_is_noticed(tmp_path, monkeypatch):
    stands_for = {}
    monkeypatch.setattr("helpers.artifacts.identify", stands_for.get)
    profile = load_profile("blog")
    make(Artifacts(profile, root=tmp_path), "teacher")
    stands_for[profile.teacher.model] = "commit 1"
    Artifacts(profile, root=tmp_path).require("teacher")
    make(Artifacts(profile, root=tmp_path), "teacher")
    stands_for[profile.teacher.model] = "commit 2"
    with pytest.raises(ArtifactError, match=r"teacher was made from another hf://.*commit 1.*01_"):
        Artifacts(profile, root=tmp_path).require("teacher")


def test_what_is_not_trained_does_not_depend_on_what_it_would_be_trained_on(tmp_path):
    blog = Artifacts(load_profile("blog"), root=tmp_path)
    make(blog, "student", "student.onnx")
    blog.require("student.onnx")


def test_checkpoints_of_other_inputs_lie_elsewhere(artifacts):
    make(artifacts, "teacher", "transfer.parquet")
    first = artifacts.checkpoints("student", "augmented")
    assert first == artifacts.checkpoints("student", "augmented")
    assert first != artifacts.checkpoints("student", "distilled")
    with artifacts.writing("transfer.parquet") as path:
        path.write_text("other scores")
    assert first != artifacts.checkpoints("student", "augmented")


def test_recipes_name_real_notebooks_and_artefacts():
    for name, recipe in RECIPES.items():
        assert (ROOT / "notebooks" / f"{recipe.notebook}.ipynb").is_file(), name
        assert set(recipe.inputs) <= set(RECIPES), name
        assert module._made_by(recipe)


def test_what_a_killed_process_left_goes_with_the_next(artifacts):
    left = artifacts.path(".writing/teacher")
    left.mkdir(parents=True)
    (left / "half").write_text("half")
    make(artifacts, "teacher")
    artifacts.require("teacher")
    assert not half_written(artifacts)


def test_two_at_once_write_one_after_the_other(artifacts, tmp_path):
    others = [Artifacts(artifacts.profile, root=tmp_path) for _ in range(4)]
    start = threading.Barrier(len(others))

    def write(one, number):
        start.wait()
        for _ in range(10):
            with one.writing("teacher") as path:
                path.mkdir()
                for name in ("a", "b"):
                    (path / name).write_text(str(number))

    threads = [
        threading.Thread(target=write, args=pair) for pair in zip(others, range(4), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    artifacts.require("teacher")
    found = {(artifacts.path("teacher") / name).read_text() for name in ("a", "b")}
    assert len(found) == 1


DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "one bit flipped": lambda path: path.write_bytes(
        bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]
    ),
    "emptied": lambda path: path.write_bytes(b""),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a link": lambda path: path.symlink_to(path.rename(path.with_name("elsewhere"))),
}


@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("name", ["teacher/model.safetensors", "student.onnx", "model.bin"])
def test_a_damaged_artefact_is_noticed_and_named(artifacts, kind, name):
    with artifacts.writing("teacher") as folder:
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")
    make(artifacts, "transfer.parquet", "student", "student.onnx", "student_fast.onnx")
    with artifacts.writing("student_int8_fast.xml") as path:
        path.write_text("<net>")
        path.with_suffix(".bin").write_bytes(b"weights")
    artifacts.require("teacher", "student.onnx", "student_int8_fast.xml")
    name = name.replace("model.bin", "student_int8_fast.bin")
    owner = {"student_int8_fast.bin": "student_int8_fast.xml"}.get(name, name.split("/")[0])
    DAMAGE[kind](artifacts.path(name))
    with pytest.raises(ArtifactError, match=rf"{owner} is (damaged|missing).*make run FROM=0"):
        artifacts.require(owner)
    assert not artifacts.fits(owner)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_manifest_is_named(artifacts, text):
    artifacts.path("manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest.json is damaged.*make run FROM=01"):
        artifacts.require("teacher")
