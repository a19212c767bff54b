"""The runner on small notebooks of its own."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_notebook
from rich.console import Console
from rich.text import Text

from helpers.tutorial import report, run, steps
from helpers.tutorial.profile import ROOT

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
    monkeypatch.delenv("MAKELEVEL", raising=False)
    for module in (run, steps, report):
        monkeypatch.setattr(module, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(run, "fetch", lambda *_: None)
    monkeypatch.setattr(run.Lesson, "data", lambda _: None)
    yield tmp_path
    shutil.rmtree(ROOT / "artifacts" / name, ignore_errors=True)


def results(project):
    return ROOT / "artifacts" / os.environ["SET"].removeprefix("name=")


def write(folder, number, *sources, tags=()):
    cells = [new_code_cell(source) for source in sources]
    for cell in cells:
        cell.metadata["tags"] = list(tags)
    nbformat.write(new_notebook(cells=cells), folder / f"{number}_a.ipynb")


def lesson(folder, number, needs=(), more=""):
    patch = PATCH.format(folder=str(folder))
    write(folder, number, patch, MAKES.format(number=number, needs=list(needs)) + more)


def runs(project, number):
    path = project / f"ran-{number}"
    return len(path.read_text()) if path.exists() else 0


def test_fresh_steps_are_skipped_and_changed_ones_run_again(project, capfd):
    lesson(project, "01")
    lesson(project, "02", needs=["01"])
    assert run.run_steps(["01", "02"]) == 0, capfd.readouterr()
    assert "how long this takes is not known" in capfd.readouterr().out
    assert run.run_steps(["01", "02"]) == 0
    assert capfd.readouterr().out.count("fresh") == 2
    lesson(project, "02", needs=["01"], more="x = 1")
    assert run.run_steps(["01", "02"]) == 0
    printed = capfd.readouterr().out
    assert "01_a  fresh\n" in printed and "02_a  fresh" not in printed
    assert "before, this took 0 minutes" in printed
    assert (runs(project, "01"), runs(project, "02")) == (1, 2)
    assert run.run_steps(["01", "02"], force_from="02") == 0
    assert (runs(project, "01"), runs(project, "02")) == (1, 3)
    assert set(json.loads((results(project) / "times.json").read_text())) == {"01_a", "02_a"}


def test_what_is_missing_is_said_before_anything_runs(project, capfd):
    lesson(project, "05")
    lesson(project, "06", needs=["05"])
    write(project, "07", "open('seven', 'w')")
    assert run.run_steps(["06", "07"]) == 2
    errors = capfd.readouterr().err
    assert f"{results(project).name}/05.txt is missing. Run notebook 05 first: " in errors
    assert "python3 -m helpers.tutorial run --profile smoke" in errors and "--from 05" in errors
    assert not (project / "seven").exists()


SCRIPT = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from helpers.tutorial import run, steps, report
for module in (run, steps, report):
    module.NOTEBOOKS = Path(sys.argv[1])
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


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
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
    resume = f'python3 -m helpers.tutorial run --profile smoke --set "{os.environ["SET"]}"\n'
    assert resume in errors and resume in (results(project) / "run.log").read_text()
    assert not psutil.wait_procs(kernels, timeout=10)[1]
    left = {path.name for path in results(project).rglob("*") if path.is_file()}
    assert not {name for name in left if "teacher" in name or "safetensors" in name} - {
        "teacher.lock"
    }
    assert "01.json" not in left


def test_two_runs_at_once_are_refused(project, capfd):
    write(project, "01", "x = 1")
    results(project).mkdir(parents=True)
    with FileLock(results(project) / ".run.lock"):
        assert run.run_steps(["01"]) == 2
    errors = capfd.readouterr().err
    assert "another run is at work in artifacts/test-" in errors and 'SET="name=..."' in errors


def test_a_failing_cell_stops_the_run_and_says_how_to_resume(project, capfd, monkeypatch):
    monkeypatch.setenv("MAKELEVEL", "1")
    write(project, "01", "x = 1", "raise OSError('no such thing')")
    write(project, "02", "open('two', 'w')")
    assert run.run_steps(["01", "02"]) == 1
    errors = capfd.readouterr().err
    assert "01_a.ipynb stopped" in errors and "no such thing" in errors
    assert f'to resume: make run PROFILE=smoke SET="{os.environ["SET"]}"\n' in errors
    assert not (project / "two").exists()
    assert (results(project) / "executed/01_a.ipynb").exists()


def test_a_dead_kernel_is_explained(project, capfd):
    write(project, "01", "import os; os.kill(os.getpid(), 9)")
    assert run.run_steps(["01"]) == 1
    errors = capfd.readouterr().err
    assert "the kernel died, most often for want of memory" in errors and "to resume" in errors


@pytest.fixture
def small_disk(project):
    """The folder of the results on a disk of 200 kB."""
    folder = results(project)
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("where", ["a cell", "the log"])
def test_a_full_disk_ends_the_run_with_its_reason(project, small_disk, capfd, where):
    cell = {
        "a cell": f"open({str(small_disk / 'x')!r}, 'w').write('x' * 10**6)",
        "the log": "print('x' * 10**6)",
    }[where]
    write(project, "01", cell)
    assert run.run_steps(["01"]) == 1
    errors = capfd.readouterr().err
    assert "No space left on device" in errors and "to resume: " in errors
    assert not list(small_disk.rglob("*.new"))


def test_results_that_cannot_be_written_are_one_line(project, capfd):
    write(project, "01", "x = 1")
    results(project).parent.mkdir(exist_ok=True)
    results(project).write_text("a file")
    try:
        assert run.run_steps(["01"]) == 1
        assert f"error: artifacts/{results(project).name} cannot be" in capfd.readouterr().err
    finally:
        results(project).unlink()


def test_an_unknown_step_or_profile_is_named(project, capfd, monkeypatch):
    write(project, "01", "x = 1")
    assert run.run_steps(["09"]) == 2
    assert "no notebook is numbered '09'; known: 01" in capfd.readouterr().err
    monkeypatch.setenv("PROFILE", "lapdog")
    assert run.run_steps(["01"]) == 2
    assert "known profiles: blog, blog-train, laptop, pretrain, smoke" in capfd.readouterr().err


COUNT = "import os; open(f'trained-{os.environ[\"RANK\"]}-of-{os.environ[\"WORLD_SIZE\"]}', 'w')"


def test_several_processes_train_before_the_notebook_runs(project, monkeypatch):
    monkeypatch.chdir(project)
    both = [new_code_cell(f"import os\nif 'RANK' in os.environ: {COUNT}"), new_code_cell("1 / 1")]
    both[1].source, both[1].metadata["tags"] = "open('alone', 'a').write('x')", ["single"]
    nbformat.write(new_notebook(cells=both), project / "01_a.ipynb")
    write(project, "02", "import os\nassert 'RANK' not in os.environ")
    assert run.run_steps(["01", "02"], processes=2) == 0
    assert {p.name for p in project.glob("trained-*")} == {"trained-0-of-2", "trained-1-of-2"}
    assert (project / "alone").read_text() == "x"


def test_the_runner_hardly_takes_any_time_of_a_core():
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(4)]
    display = run.Display({"01_a": 1.0}, Console(file=io.StringIO(), force_terminal=True))
    with display.running("01_a"), run.PeakMemory() as memory:
        time.sleep(1)  # what begins once
        began, used = time.monotonic(), time.process_time()
        time.sleep(2 * run._SAMPLING_S)
        share = (time.process_time() - used) / (time.monotonic() - began)
    for child in children:
        child.kill()
        child.wait()
    assert share < 0.01
    assert 0.01 < memory.gigabytes < 100


def test_what_remains_follows_the_pace_of_this_run(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = run.Display({"a": 1.0, "b": 2.0, "c": 3.0}, Console(file=io.StringIO()))
    assert display.remaining() == 6.0
    with display.running("a"):
        now[0] = 30.0
        assert display.remaining() == 5.5
    display.done("a", 2.0, 1.0)  # twice as long as before
    assert display.remaining() == 10.0
    with display.running("b"):
        now[0] = 1200.0  # longer than expected
        assert display.remaining() == 6.0
    assert run.Display({"a": 1.0, "new": None}).remaining() is None


def test_a_narrow_terminal_cuts_the_cell_alone(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=70)
    display = run.Display({"01_finetune_teacher": 5.0}, console)
    with display.running("01_finetune_teacher"):
        display.cell(3, 9, "\nrows = [" + "a long line " * 20)
    display.done("01_finetune_teacher", 1.5, 2.0)
    shown = Text.from_ansi(console.file.getvalue()).plain
    assert "about 5 min to go  cell 3/9: rows" in shown and "\u2026" in shown
    assert "01_finetune_teacher   1.5 min  2.0 GB" in shown
    assert max(map(len, shown.splitlines())) <= 70


def test_too_little_memory_is_said_beforehand(capsys):
    free = psutil.virtual_memory().available / 1e9
    profile = steps.Profile.model_construct(name="x", description="y")
    run._forecast(profile, [{"minutes": 7.4, "gigabytes": free + 100}])
    printed = capsys.readouterr().out
    assert "before, this took 7 minutes" in printed and "warning: only" in printed


def test_a_damaged_record_of_times_is_passed_over(tmp_path):
    for damage in ("", "[1", '{"01_a": 7}', "[]"):
        (tmp_path / "times.json").write_text(damage)
        assert run._read_times(tmp_path / "times.json") == {}
