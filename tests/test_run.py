"""The runner, and the bundle of what it made, on small notebooks of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import nbformat
import psutil
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_notebook

from helpers.tutorial import bundle, report, run, steps
from helpers.tutorial.profile import ROOT, load_profile
from tests.conftest import wheel

PATCH = """
from pathlib import Path
from helpers.tutorial import steps
steps.NOTEBOOKS = Path({folder!r})
from helpers import start
"""
MAKES = """
lesson = start("{number}", needs={needs}, makes=["{number}.txt"])
with lesson.saving("{number}.txt") as path:
    path.write_text("{number}")
with open("ran-{number}", "a") as ran: ran.write("x")
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder of small notebooks, and a profile whose results go to a folder of their own."""
    name = f"test-{os.getpid()}"
    monkeypatch.setenv("PROFILE", "smoke")
    monkeypatch.setenv("SET", f"name={name}")
    for module in (run, steps, report):
        monkeypatch.setattr(module, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(run, "fetch", lambda *_: None)
    monkeypatch.setattr(run.Lesson, "data", lambda _: None)
    yield tmp_path
    shutil.rmtree(ROOT / "artifacts" / name, ignore_errors=True)


def results():
    return ROOT / "artifacts" / os.environ["SET"].removeprefix("name=")


def write(folder, number, *sources):
    cells = [new_code_cell(source) for source in sources]
    nbformat.write(new_notebook(cells=cells), folder / f"{number}_a.ipynb")


def lesson(folder, number, needs=(), more=""):
    patch = PATCH.format(folder=str(folder))
    write(folder, number, patch, MAKES.format(number=number, needs=list(needs)) + more)


@pytest.fixture
def quick(project, monkeypatch):
    """The project, whose notebooks run in this process and not in a kernel of their own."""

    def execute(path, target, **_):
        for cell in nbformat.read(path, as_version=4).cells:
            exec(cell.source, namespace)
        return 0.0

    namespace = {}
    monkeypatch.chdir(project)
    monkeypatch.setattr(run, "execute_notebook", execute)
    return project


def runs(project, *numbers):
    return [len((project / f"ran-{number}").read_text()) for number in numbers]


def test_fresh_steps_are_skipped_and_changed_ones_run_again(quick, capfd):
    def run_again(*numbers, **how):
        assert run.run_steps(list(numbers), **how) == 0, capfd.readouterr()
        return capfd.readouterr().out

    lesson(quick, "01")
    lesson(quick, "02", needs=["01"])
    run_again("01", "02")
    assert run_again("01", "02").count("fresh") == 2
    lesson(quick, "02", needs=["01"], more="x = 1")
    printed = run_again("01", "02")
    assert "01_a  fresh\n" in printed and "02_a  fresh" not in printed
    assert runs(quick, "01", "02") == [1, 2]
    run_again("02", force=True)
    assert runs(quick, "01", "02") == [1, 3]
    assert set(json.loads((results() / "times.json").read_text())) == {"01_a", "02_a"}


def test_a_bundle_lets_anybody_enter_in_the_middle(quick, monkeypatch):
    numbers = [*run.MAIN_LINE, "06"]
    for before, number in zip([None, *numbers], numbers, strict=False):
        lesson(quick, number, needs=[before] if before else [])
    monkeypatch.setattr(bundle, "DEEPER", ["06"])
    target = quick / "new" / "results.zip"
    with pytest.raises(steps.StepError, match=r"01.txt is missing. Run notebook 01 first"):
        bundle.bundle(target)
    assert run.run_steps(run.MAIN_LINE) == 0
    for folder in (target, quick / "folder"):
        bundle.bundle(folder)
    clone = quick / "clone"
    with zipfile.ZipFile(target) as archive:
        archive.extractall(clone)
    for root in (clone, quick / "folder"):
        with monkeypatch.context() as patched:
            patched.setattr(steps, "ROOT", root)
            faults = [steps.Step(n, load_profile()).fault() for n in numbers]
        assert faults[:-1] == [None] * 5 and "06.txt is missing" in faults[-1]
    shutil.rmtree(results())
    shutil.copytree(clone / "artifacts" / results().name, results())
    assert run.run_steps(["03", "04", "05"], force=True) == run.run_steps(run.MAIN_LINE) == 0
    assert runs(quick, *run.MAIN_LINE) == [1, 1, 2, 2, 2]


def test_a_wheelhouse_is_a_clone_with_its_packages(project, index, monkeypatch, capsys):
    name = wheel(index, "tiny", {"tiny.py": b""}).name
    monkeypatch.setattr(bundle, "package_arguments", lambda _: [["tiny"]])
    monkeypatch.setattr(bundle, "load_assets", dict)
    lesson(project, "01")  # it was not run
    monkeypatch.setattr(bundle, "MAIN_LINE", ["01"])
    bundle.wheelhouse(project / "stick")
    said = capsys.readouterr()
    assert "left out: the blog's engine" in said.out and "no finished results" in said.out
    assert (project / "stick/wheels" / name).exists()
    assert (project / "stick/helpers/tutorial/setup.py").exists()
    assert not (project / "stick/artifacts").exists()


def test_what_forbids_a_run_is_said_before_anything_runs(project, capfd, monkeypatch):
    def refused(*numbers, status=2):
        assert run.run_steps(list(numbers)) == status
        return capfd.readouterr().err

    lesson(project, "05")
    lesson(project, "06", needs=["05"])
    write(project, "07", "open('seven', 'w')")
    errors = refused("06", "07")
    assert f"{results().name}/05.txt is missing. Run notebook 05 first: " in errors
    assert "python3 -m helpers.tutorial run --profile smoke" in errors and "--from 05" in errors
    results().mkdir(parents=True, exist_ok=True)
    with FileLock(results() / ".run.lock"):
        errors = refused("07")
        assert "another run is at work in artifacts/test-" in errors and 'SET="name=..."' in errors
    shutil.rmtree(results())
    results().write_text("a file")
    assert f"error: artifacts/{results().name} cannot be" in refused("07", status=1)
    results().unlink()
    assert "no notebook is numbered '09'; known: 05, 06, 07" in refused("09")
    monkeypatch.setenv("PROFILE", "lapdog")
    known = "known profiles: blog, blog-train, default, pretrain, smoke"
    assert known in refused("07") and not (project / "seven").exists()


SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from helpers.tutorial import run, steps, report
run.NOTEBOOKS = steps.NOTEBOOKS = report.NOTEBOOKS = Path(sys.argv[1])
run.fetch = lambda *_: None
run.Lesson.data = lambda _: None
sys.exit(run.run_steps(["01"]))
"""
HALF = """
import time
lesson = start("01", makes=["teacher"])
with lesson.saving("teacher") as half:
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    open("started", "w")
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_leaves_nothing_half_written_and_says_how_to_resume(project, name):
    write(project, "01", PATCH.format(folder=str(project)), HALF)
    command = [sys.executable, "-c", SCRIPT, str(project)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (project / "started").exists() and running.poll() is None:
        time.sleep(0.1)
    kernels = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(getattr(signal, name))
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert f"interrupted in 01_a.ipynb ({name})" in errors
    resume = (
        f'python3 -m helpers.tutorial run --profile smoke --set "{os.environ["SET"]}" --to 01\n'
    )
    assert resume in errors and resume in (results() / "run.log").read_text()
    assert not psutil.wait_procs(kernels, timeout=10)[1]
    left = {path.name for path in results().rglob("*") if path.is_file()}
    assert not {"model.safetensors", "01.json"} & left


def test_a_failing_cell_or_dead_kernel_says_how_to_resume(project, capfd):
    write(project, "01", "x = 1", "raise OSError('no such thing')")
    write(project, "02", "open('two', 'w')")
    assert run.run_steps(["01", "02"]) == 1
    errors = capfd.readouterr().err
    assert "01_a.ipynb stopped" in errors and "no such thing" in errors and "to resume: " in errors
    assert not (project / "two").exists()
    assert (results() / "executed/01_a.ipynb").exists()
    write(project, "01", "import os; os.kill(os.getpid(), 9)")
    assert run.run_steps(["01"]) == 1
    errors = capfd.readouterr().err
    assert "the kernel died, most often for want of memory" in errors and "to resume" in errors


@pytest.mark.parametrize("where", ["a cell", "the log"])
def test_a_full_disk_ends_the_run_with_its_reason(project, capfd, where):
    results().mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", results()]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    opened = f"open({str(results() / 'x')!r}, 'w').write" if where == "a cell" else "print"
    write(project, "01", f"{opened}('x' * 10**6)")
    try:
        assert run.run_steps(["01"]) == 1
        errors = capfd.readouterr().err
        assert "No space left on device" in errors and "to resume: " in errors
        assert not list(results().rglob("*.new"))
    finally:
        subprocess.run(["umount", results()], check=True)


def test_several_processes_train_before_the_notebook_runs(project, monkeypatch):
    monkeypatch.chdir(project)
    train = "import os\nif 'RANK' in os.environ: open('trained-' + os.environ['RANK'], 'w')"
    alone = new_code_cell("open('alone', 'a').write('x')", metadata={"tags": ["single"]})
    notebook = new_notebook(cells=[new_code_cell(train), alone])
    nbformat.write(notebook, project / "01_a.ipynb")
    write(project, "02", "import os\nassert 'RANK' not in os.environ")
    assert run.run_steps(["01", "02"], processes=2) == 0
    assert {p.name for p in project.glob("trained-*")} == {"trained-0", "trained-1"}
    assert (project / "alone").read_text() == "x"


def test_the_runner_hardly_takes_any_time_of_a_core(monkeypatch):
    monkeypatch.setattr(run, "_SAMPLING_S", 1)
    children, used = [subprocess.Popen(["sleep", "60"]) for _ in range(4)], []

    def notebook():
        for seconds in (0.5, 3):
            time.sleep(seconds)
            used.append(time.process_time())

    gigabytes = run._attend(notebook)
    for child in children:
        child.kill()
        child.wait()
    assert (used[1] - used[0]) / 3 < 0.02
    assert 0.01 < gigabytes < 100


def test_a_damaged_record_of_times_is_passed_over(tmp_path):
    for damage in ("", "[1", '{"01_a": 7}', "[]"):
        (tmp_path / "times.json").write_text(damage)
        assert run.read_times(tmp_path / "times.json") == {}
