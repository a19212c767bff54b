"""What makes a step's results stale, and what does not; results are whole or not there."""

import shutil
import subprocess
import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from helpers import start
from helpers.tutorial import steps
from helpers.tutorial.profile import ROOT, load_profile
from helpers.tutorial.steps import Step, StepError

FIRST = """from helpers import first, start
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
    (tmp_path / "helpers/first.py").write_text("from helpers.second import f\n")
    (tmp_path / "helpers/second.py").write_text('"""Text."""\n\n\ndef f():\n    return 1\n')
    (tmp_path / "helpers/plots.py").write_text("colour = 1\n")
    monkeypatch.setattr(steps, "ROOT", tmp_path)
    monkeypatch.setattr(steps, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setenv("PROFILE", "smoke")
    monkeypatch.delenv("SET", raising=False)
    write(tmp_path, "01", FIRST, "from helpers import plots", look="1 + 1")
    write(tmp_path, "02", SECOND)
    return tmp_path


def write(project, number, *cells, look="2"):
    cells = [new_code_cell(source) for source in cells]
    cells.append(new_code_cell(look, metadata={"tags": ["look"]}))
    nbformat.write(new_notebook(cells=cells), project / f"notebooks/{number}_a.ipynb")


def step(project, number="01"):
    return Step(number, load_profile())


def make(project, number="01", text="made", running=None):
    """Make all results of a step, as its notebook would."""
    made = running or step(project, number)
    for name in made.makes:
        with made.saving(name) as path:
            if name == "model":
                path.mkdir()
                (path / "weights").write_text(text)
            else:
                path.write_text(name)
            if name.endswith(".xml"):
                path.with_suffix(".bin").write_text("weights")


def edit(path, old, new):
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_what_a_step_reads_and_makes_is_read_off_its_notebook(project):
    first = step(project)
    assert (first.needs, first.makes) == ([], ["model", "fast.xml"])
    assert first.sections == ["data", "max_length", "seed", "teacher"]
    write(project, "01", FIRST, "%matplotlib inline\nx = 1", "this is no Python")
    assert step(project).makes == ["model", "fast.xml"]
    write(project, "01", "profile, x = lesson.profile, profile.teacher", "profile.student.x")
    assert step(project).sections == ["data", "max_length", "seed", "student", "teacher"]
    write(project, "01", "profile = lesson.profile", "write(target, profile)")
    assert {"benchmark", "quantization"} < set(step(project).sections)


def test_a_step_is_fresh_after_its_results_are_saved(project):
    assert "model is missing. Run notebook 01 first: " in step(project, "02").fault()
    make(project)
    assert step(project).fault() is None
    make(project, "02")
    assert step(project, "02").fault() is None
    record = (project / "artifacts/smoke/steps/01.json").read_text()
    assert str(project) not in record and str(ROOT) not in record
    make(project)
    assert step(project, "02").fault() is None, "the same results again"
    make(project, text="others")
    assert "was run with other 01_a. Run notebook 02" in step(project, "02").fault()


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("notebooks/01_a.ipynb", "mse", "cosine", "other cells"),
        ("notebooks/01_a.ipynb", '"1 + 1"', '"1 + 2"', None),
        ("helpers/second.py", "return 1", "return 2", "other helpers.second"),
        ("helpers/second.py", "Text", "Other text", None),
        ("helpers/plots.py", "colour = 1", "colour = 2", None),
        (None, "", "teacher.training.epochs=1", "other settings"),
        (None, "", "teacher.model=checkpoints/bert-mini", "checkpoints/bert-mini, settings"),
        (None, "", "quantization.trials=9", None),
    ],
)
def test_what_decides_makes_results_stale(project, monkeypatch, file, old, new, said):
    make(project)
    make(project, "02")
    if file:
        edit(project / file, old, new)
    else:
        monkeypatch.setenv("SET", new)
    fault = step(project, "02").fault()
    assert fault is None if said is None else said in fault and "Run notebook 01 first" in fault


def test_package_versions_count_their_build_does_not(project, monkeypatch):
    make(project)
    real, end = steps.version, "+cu130"
    monkeypatch.setattr(
        steps, "version", lambda name: real(name).partition("+")[0] + end * (name == "openvino")
    )
    assert step(project).fault() is None
    end = ".post1"
    assert "other openvino" in step(project).fault()


@pytest.mark.parametrize("harm", ["remove", "cut", "flip", "bin"])
def test_a_damaged_result_is_noticed(project, harm):
    make(project)
    results = project / "artifacts/smoke"
    weights = results / "model/weights"
    if harm == "remove":
        shutil.rmtree(weights.parent)
    elif harm == "bin":
        (results / "fast.bin").unlink()
    else:
        weights.write_text({"cut": "mad", "flip": "mode"}[harm])
    assert ("is missing" if harm == "remove" else "is damaged") in step(project).fault()


def test_a_damaged_record_is_no_record(project):
    make(project)
    for damage in ("", "[]", '{"stamp": 1, "results": 2}', '{"results": {"model": 1}}'):
        (project / "artifacts/smoke/steps/01.json").write_text(damage)
        assert "model is missing" in step(project).fault()


def test_an_unsaved_result_leaves_the_one_before_it(project):
    make(project)
    with pytest.raises(OSError), step(project).saving("model") as path:
        path.write_text("half")
        raise OSError("no space")
    assert step(project).fault() is None
    assert (project / "artifacts/smoke/model/weights").read_text() == "made"
    with (
        pytest.raises(FileNotFoundError, match="nothing was written"),
        step(project).saving("model"),
    ):
        pass
    with pytest.raises(ValueError, match="is not among what the notebook says it makes"):
        step(project).saving("other").__enter__()


WRITER = """
import sys, time
from pathlib import Path
from helpers.tutorial import steps
from helpers.tutorial.profile import load_profile
project = Path(sys.argv[1])
steps.ROOT, steps.NOTEBOOKS = project, project / "notebooks"
step = steps.Step("01", load_profile())
with step.saving("model") as path:
    path.mkdir()
    for i in range(20):
        (path / f"weights-{i}").write_text(sys.argv[2])
        print(i, flush=True)
        time.sleep(0.02)
"""


def writer(project, text):
    command = [sys.executable, "-c", WRITER, str(project), text]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_killed_writer_leaves_nothing_that_counts_and_two_one_whole_result(project):
    killed = writer(project, "half")
    killed.stdout.readline()
    killed.kill()
    killed.communicate()
    assert "model is missing" in step(project).fault()
    both = [writer(project, text) for text in ("a", "b")]
    assert [one.communicate() and one.returncode for one in both] == [0, 0]
    files = list((project / "artifacts/smoke/model").iterdir())
    assert len(files) == 20 and len({file.read_text() for file in files}) == 1
    saving = project / "artifacts/smoke/.saving"
    assert [path for path in saving.iterdir() if path.is_dir()] == []


def test_one_of_several_processes_writes(project, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    make(project)
    assert "model is missing" in step(project).fault()


def test_a_changed_loss_does_not_go_on_from_the_checkpoints_of_the_old_one(project):
    before = step(project).resumable("teacher")
    before.mkdir(parents=True)
    assert step(project).resumable("teacher") == before
    edit(project / "notebooks/01_a.ipynb", "mse", "cosine")
    after = step(project).resumable("teacher")
    assert after != before and not before.exists()
    after.mkdir(parents=True)
    make(project)
    assert not after.exists(), "nothing is left to go on with"
    again = step(project)
    again.resumable("teacher").mkdir(parents=True)
    with again.saving("fast.xml") as path:  # the first result of another run
        path.write_text("anew")
    assert after.exists()


def test_code_that_changes_while_a_notebook_runs_makes_its_results_stale(project):
    running = step(project)
    _ = running.stamp
    edit(project / "notebooks/01_a.ipynb", "mse", "cosine")
    make(project, running=running)
    assert "other cells" in step(project).fault()


def test_start_names_what_is_missing(project):
    with pytest.raises(StepError, match=r"smoke/model is missing. Run notebook 01 first: .*from"):
        start("02", needs=["01"], makes=["answers.npz"])
    with pytest.raises(StepError, match="on the disk says otherwise: save it first"):
        start("02", needs=["01"], makes=["other"])
    assert not (project / "artifacts").exists()


def test_the_notebooks_need_all_whose_results_they_read():
    profile, known, at_hand, read = load_profile("default"), {}, {}, 0
    for notebook in sorted(steps.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        number = notebook.name[:2]
        known[number] = Step(number, profile, known=known)
        at_hand[number] = {number}.union(*(at_hand[needed] for needed in known[number].needs))
        cells = nbformat.read(notebook, as_version=4).cells
        code = "".join(cell.source for cell in cells if cell.cell_type == "code")
        for earlier in known.values():
            for result in earlier.makes:
                if "." in result and f'"{result}"' in code:
                    assert earlier.number in at_hand[number], f"{number} reads {result}"
                    read += earlier.number != number
    assert read > 10
