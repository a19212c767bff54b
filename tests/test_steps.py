"""What makes a step's results stale, and what does not; results are whole or not there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from helpers.tutorial import steps
from helpers.tutorial.profile import ROOT, load_profile
from helpers.tutorial.steps import Step, StepError

FIRST = """from helpers import start
from helpers.{module} import something
lesson = start("01", makes=["model", "fast.xml"])
loss = "mse"
print(lesson.profile.teacher)"""
SECOND = """lesson = start("02", needs=["01"], makes=["answers.npz"])"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two notebooks over two helper modules, of which one imports the other."""
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "helpers/tutorial").mkdir(parents=True)
    (tmp_path / "helpers/__init__.py").touch()
    (tmp_path / "helpers/first.py").write_text("import helpers.second\nx = 1\n")
    (tmp_path / "helpers/second.py").write_text('"""Text."""\n\n\ndef f():\n    return 1\n')
    (tmp_path / "helpers/plots.py").write_text("colour = 1\n")
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    monkeypatch.setattr(steps, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("PROFILE", "smoke")
    monkeypatch.delenv("SET", raising=False)
    write(tmp_path, "01", FIRST.format(module="first"), "from helpers import plots", look="1 + 1")
    write(tmp_path, "02", SECOND)
    return tmp_path


def write(project, number, *sources, look="2"):
    cells = [new_code_cell(source) for source in sources]
    cells.append(new_code_cell(look, metadata={"tags": ["look"]}))
    nbformat.write(new_notebook(cells=cells), project / f"notebooks/{number}_a.ipynb")


def step(project, number="01"):
    return Step(number, load_profile(), root=project / "artifacts")


def make(project, number="01"):
    """Make all results of a step, as its notebook would."""
    made = step(project, number)
    for name in made.makes:
        with made.saving(name) as path:
            if name == "model":
                path.mkdir()
                (path / "weights").write_bytes(b"123")
            else:
                path.write_text(name)
            if name.endswith(".xml"):
                path.with_suffix(".bin").write_text("weights")


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_needs_and_makes_are_read_off_the_notebook(project):
    assert step(project).makes == ["model", "fast.xml"] and step(project).needs == []
    assert step(project, "02").needs == ["01"]
    assert step(project).sections == ["data", "max_length", "seed", "teacher"]


def test_a_step_is_fresh_after_its_results_are_saved(project):
    assert "model is missing. Run notebook 01 first: " in step(project).fault()
    make(project)
    assert step(project).fault() is None
    assert "02_a" in {s.name for s in [step(project, "02")]}
    make(project, "02")
    assert step(project, "02").fault() is None


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("notebooks/01_a.ipynb", "mse", "cosine", "other cells than it has now"),
        ("notebooks/01_a.ipynb", '"1 + 1"', '"1 + 2"', None),
        ("helpers/second.py", "return 1", "return 2", "another version of helpers.second"),
        ("helpers/second.py", "return 1", "return 1  # a comment", None),
        ("helpers/second.py", "Text", "Other text", None),
        ("helpers/plots.py", "colour = 1", "colour = 2", None),
    ],
)
def test_code_that_decides_makes_results_stale(project, file, old, new, said):
    make(project)
    make(project, "02")
    edit(project / file, old, new)
    fault = step(project, "02").fault()
    assert fault is None if said is None else said in fault and "Run notebook 01 first" in fault


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("teacher.training.epochs=1", "other settings"),
        ("data.labels=3", "other settings"),
        ("teacher.model=checkpoints/bert-mini", "other settings"),
        ("quantization.trials=9", None),
    ],
)
def test_settings_count_where_they_are_read(project, monkeypatch, changes, said):
    make(project)
    monkeypatch.setenv("SET", changes)
    fault = step(project).fault()
    assert fault is None if said is None else said in fault


def test_a_profile_that_is_handed_on_counts_as_a_whole(project, monkeypatch):
    write(project, "01", FIRST.format(module="first"), "f(lesson.profile)")
    make(project)
    monkeypatch.setenv("SET", "quantization.trials=9")
    assert "other settings" in step(project).fault()


def test_package_versions_count_their_build_does_not(project, monkeypatch):
    make(project)
    real = steps.importlib.metadata.version
    for suffix, said in (("+cu130", None), (".post1", "another version of openvino")):
        monkeypatch.setattr(
            steps.importlib.metadata,
            "version",
            lambda name, end=suffix: real(name).partition("+")[0] + end * (name == "openvino"),
        )
        steps._version.cache_clear()
        fault = step(project).fault()
        assert fault is None if said is None else said in fault
    steps._version.cache_clear()


def test_results_of_an_earlier_step_count(project):
    make(project)
    make(project, "02")
    make(project)
    assert step(project, "02").fault() is None, "the same results again"
    with step(project).saving("model") as path:
        path.write_text("another")
    assert "other results of the notebooks before it" in step(project, "02").fault()


@pytest.mark.parametrize("harm", ["remove", "cut", "flip", "link", "bin"])
def test_a_damaged_result_is_noticed(project, harm):
    make(project)
    weights = project / "artifacts/smoke/model/weights"
    if harm == "remove":
        shutil.rmtree(weights.parent)
    elif harm == "cut":
        weights.write_bytes(b"12")
    elif harm == "flip":
        weights.write_bytes(b"124")
    elif harm == "link":
        weights.unlink()
        weights.symlink_to("/etc/hostname")
    else:
        (project / "artifacts/smoke/fast.bin").unlink()
    fault = step(project).fault()
    assert ("is missing" if harm == "remove" else "is damaged") in fault


def test_unchanged_files_are_not_hashed_again_copied_ones_once(project, monkeypatch):
    make(project)
    monkeypatch.setattr(steps, "sha256", None)
    assert step(project).fault() is None
    monkeypatch.undo()
    monkeypatch.setattr(steps, "ROOT", project)
    monkeypatch.setattr(steps, "NOTEBOOKS", project / "notebooks")
    monkeypatch.setenv("PROFILE", "smoke")
    (project / "artifacts/smoke/model/weights").touch()  # as unpacking a bundle does
    assert step(project).fault() is None


def test_an_unsaved_result_leaves_the_one_before_it(project):
    make(project)
    with pytest.raises(OSError), step(project).saving("model") as path:
        path.write_text("half")
        raise OSError("no space")
    assert step(project).fault() is None
    assert (project / "artifacts/smoke/model/weights").read_bytes() == b"123"
    with pytest.raises(ValueError, match="is not among what the notebook says it makes"):
        step(project).saving("other").__enter__()


WRITER = """
import sys, time
from pathlib import Path
from helpers.tutorial import steps
from helpers.tutorial.profile import load_profile
project = Path(sys.argv[1])
steps.ROOT, steps.NOTEBOOKS = project, project / "notebooks"
step = steps.Step("01", load_profile(), root=project / "artifacts")
with step.saving("model") as path:
    path.mkdir()
    for i in range(20):
        (path / f"weights-{i}").write_text(sys.argv[2])
        print(i, flush=True)
        time.sleep(float(sys.argv[3]))
"""


def writer(project, text, pause):
    command = [sys.executable, "-c", WRITER, str(project), text, str(pause)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_nothing_that_counts(project):
    killed = writer(project, "half", 10)
    killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert "model is missing" in step(project).fault()
    make(project)
    assert step(project).fault() is None
    saving = project / "artifacts/smoke/.saving"
    assert [path for path in saving.iterdir() if path.is_dir()] == []


def test_two_writers_leave_one_whole_result(project):
    both = [writer(project, text, 0.02) for text in ("a", "b")]
    assert [one.communicate() and one.returncode for one in both] == [0, 0]
    files = list((project / "artifacts/smoke/model").iterdir())
    assert len(files) == 20 and len({file.read_text() for file in files}) == 1


def test_one_of_several_processes_writes(project, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with step(project).saving("model") as path:
        path.write_text("thrown away")
    assert not (project / "artifacts/smoke/model").exists()


def test_a_changed_loss_does_not_go_on_from_the_checkpoints_of_the_old_one(project):
    before = step(project).resumable("teacher")
    before.mkdir(parents=True)
    assert step(project).resumable("teacher") == before
    edit(project / "notebooks/01_a.ipynb", "mse", "cosine")
    assert step(project).resumable("teacher") != before
    assert not before.exists()


def test_what_a_killed_run_would_go_on_from_is_gone_when_all_is_saved(project):
    step(project).resumable("teacher").mkdir(parents=True)
    make(project)
    assert not step(project).resumable("teacher").exists()


def test_code_that_changes_while_a_notebook_runs_makes_its_results_stale(project):
    running = step(project)
    running.begin()
    edit(project / "notebooks/01_a.ipynb", "mse", "cosine")
    for name in running.makes:
        with running.saving(name) as path:
            path.write_text("made by the old cells")
            path.with_suffix(".bin").write_text("weights")
    assert "other cells than it has now" in step(project).fault()


@pytest.mark.parametrize(
    "damage", ["", "[]", '{"stamp": 1, "results": 2}', '{"results": {"model": 1}}']
)
def test_a_damaged_record_is_no_record(project, damage):
    make(project)
    (project / "artifacts/smoke/steps/01.json").write_text(damage)
    assert "model is missing" in step(project).fault()


def test_a_cell_that_is_no_python_and_one_with_a_magic_are_read(project):
    write(project, "01", FIRST.format(module="first"), "%matplotlib inline\nx = 1", "this is no")
    assert step(project).makes == ["model", "fast.xml"]


def test_start_names_what_is_missing(monkeypatch, tmp_path):
    from helpers import start

    monkeypatch.setattr(steps, "NOTEBOOKS", tmp_path)
    (tmp_path / "notebooks").mkdir()
    for number, source in (("01", 'start("01", makes=["a"])'), ("02", SECOND)):
        cells = [new_code_cell(source)]
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{number}_a.ipynb")
    name = f"test-{os.getpid()}-{time.time_ns()}"
    monkeypatch.setenv("SET", f"name={name}")
    with pytest.raises(
        StepError, match=rf"{name}/a is missing. Run notebook 01 first: .*FROM|from"
    ):
        start("02", needs=["01"], makes=["answers.npz"], profile="smoke")
    with pytest.raises(StepError, match="on the disk says otherwise: save it first"):
        start("02", needs=["01"], makes=["other"], profile="smoke")
    assert not (ROOT / "artifacts" / name).exists()


def test_records_hold_no_path_of_this_machine(project):
    make(project)
    record = (project / "artifacts/smoke/steps/01.json").read_text()
    assert str(project) not in record and str(ROOT) not in record
    assert set(json.loads(record)["results"]["model"]) == {"bytes", "mtime_ns", "sha256"}
