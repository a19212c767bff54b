"""The runner on small notebooks of its own."""

import io
import json
import re
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from rich.console import Console
from rich.text import Text

from helpers import run
from helpers.progress import Progress


def write(folder, name, *cells):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    nbformat.write(notebook, folder / name)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of small notebooks, with artefacts of its own."""
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setattr(run, "NOTEBOOKS", tmp_path / "notebooks")
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setattr(run, "fetch_profile_assets", lambda *_: None)
    monkeypatch.setattr(run, "_check_data", lambda *_: None)
    monkeypatch.setenv("PROFILE", "smoke")
    real = run.Artifacts
    monkeypatch.setattr(run, "Artifacts", lambda p: real(p, root=tmp_path / "artifacts"))
    return tmp_path


RESULT = {
    "profile": "smoke", "date": "2026-01-02", "commit": "abc",
    "unavailable": {"reference engine": "its environment is not installed"},
    "protocol": {"sequence_length": 64},
    "environment": {
        "cpu": "a <fast> CPU", "physical_cores": 2, "instruction_sets": ["avx2"], "threads": [1],
        "versions": {"torch": "1.2.3"},
    },
    "baselines": {"pytorch": "the base"},
    "factors": {"1": {"model": {"value": 70.0}, "in all": {"value": 70.0}}},
    "rows": [
        {
            "name": "student", "threads": 1, "sequence_length": length, "size_mb": 11.0,
            "precision": "INT8", "latency_ms": {"p50": 1.25}, "accuracy": {"value": 0.9},
            "speedup_vs_bert_base_pytorch": 70.0, "speedup_ci95": [69.0, 71.5],
        }
        for length in (64, "own")
    ],
}  # fmt: skip


def test_notebooks_run_in_order_and_end_with_the_table(project, capfd):
    artifacts = project / "artifacts/smoke"
    write(project / "notebooks", "02_b.ipynb", "print(open('one').read())")
    write(project / "notebooks", "01_a.ipynb", "open('one', 'w').write('from the first')")
    artifacts.mkdir(parents=True)
    (artifacts / "benchmark.json").write_text(json.dumps(RESULT))
    assert run.main([]) == 0
    printed = capfd.readouterr().out
    assert printed.index("01_a") < printed.index("02_b")
    assert "left out: reference engine: its environment is not installed" in printed
    assert "70.0x" in printed and "report.html" in printed
    assert "1 thread: student takes 1.25 ms a sentence, 70.0 times (69.0 to 71.5)" in printed
    executed = nbformat.read(artifacts / "executed/02_b.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text == "from the first\n"
    assert "from the first" in (artifacts / "run.log").read_text()
    assert "from the first" not in printed
    assert set(json.loads((artifacts / "steps.json").read_text())) == {"01_a", "02_b"}
    assert "from the first" in (artifacts / "report.html").read_text()


def test_a_run_says_beforehand_what_it_takes(project, capfd):
    artifacts = project / "artifacts/smoke"
    artifacts.mkdir(parents=True)
    (artifacts / "benchmark.json").write_text(json.dumps(RESULT))
    write(project / "notebooks", "01_a.ipynb", "x = 1")
    assert run.main([]) == 0
    assert "how long this takes is not known here yet" in capfd.readouterr().out
    (artifacts / "steps.json").write_text('{"01_a": {"minutes": 7.4, "gigabytes": 3.25}}')
    assert run.main([]) == 0
    printed = capfd.readouterr().out
    assert "before, this took 7 minutes and 3.2 GB of memory" in printed
    assert "warning" not in printed
    free = psutil.virtual_memory().available / 1e9
    steps = {"01_a": {"minutes": 7.4, "gigabytes": free + 100}}
    (artifacts / "steps.json").write_text(json.dumps(steps))
    assert run.main([]) == 0
    assert "warning: only" in capfd.readouterr().out
    assert re.search(r"01_a +about 7.4 min\n01_a +done in 0.\d min, 0.\d GB\n", printed)


def test_what_remains_follows_the_pace_of_this_run(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = Progress(["a", "b", "c"], {"a": 1.0, "b": 2.0, "c": 3.0})
    assert progress.remaining() == 6.0
    progress.start("a")
    now[0] = 30.0
    assert progress.remaining() == 5.5
    now[0] = 120.0  # twice as long as before
    progress.finish("a", 1.0)
    assert progress.remaining() == 10.0
    progress.start("b")
    now[0] = 1200.0  # longer than expected
    assert progress.remaining() == 6.0
    assert Progress(["a", "new"], {"a": 1.0}).remaining() is None


def test_a_terminal_sees_one_line_a_notebook_and_the_cell_at_work():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Progress(["01_a", "02_b"], {"01_a": 1.0, "02_b": 2.0}, console=console) as progress:
        progress.start("01_a")
        progress.finish("01_a", 1.5)
        progress.start("02_b")
        progress.cell("02_b", 3, 9, "rows = [x for x in table]")
    shown = console.file.getvalue()
    assert "3/9  rows = [x for x in table]" in shown and "1.5 GB" in shown
    assert "runs   02_b    0.0 min" in Text.from_ansi(shown).plain


def test_a_narrow_terminal_cuts_the_cell_alone():
    console = Console(file=io.StringIO(), force_terminal=True, width=60)
    with Progress(
        ["01_finetune_teacher"], {"01_finetune_teacher": 5.0}, console=console
    ) as progress:
        progress.start("01_finetune_teacher")
        progress.cell("01_finetune_teacher", 3, 9, "a long line " * 20)
    shown = Text.from_ansi(console.file.getvalue()).plain
    assert "runs   01_finetune_teacher  0.0 min    3/9  a long" in shown and "\u2026" in shown
    assert max(map(len, shown.splitlines())) <= 60


INTERRUPTED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
from pathlib import Path
from helpers import run
run.ROOT = Path(sys.argv[1])
run.NOTEBOOKS = run.ROOT / "notebooks"
run.fetch_profile_assets = run._check_data = lambda *_: None
real = run.Artifacts
run.Artifacts = lambda profile: real(profile, root=run.ROOT / "artifacts")
sys.exit(run.main([]))
"""


def test_ctrl_c_leaves_nothing_half_written(project):
    write(
        project / "notebooks",
        "01_a.ipynb",
        f"""
import time
from pathlib import Path
from helpers.artifacts import Artifacts
from helpers.profile import load_profile
artifacts = Artifacts(load_profile(), root=Path({str(project / "artifacts")!r}))
with artifacts.writing("teacher") as half:
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    Path("started").touch()
    time.sleep(60)
""",
    )
    command = [sys.executable, "-c", INTERRUPTED, str(project)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (project / "notebooks/started").exists() and running.poll() is None:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 130, errors
    assert "interrupted in 01_a.ipynb; to resume: make run PROFILE=smoke FROM=01" in errors
    artifacts = project / "artifacts/smoke"
    assert {path.name for path in artifacts.iterdir()} == {
        ".run.lock", ".writing", "executed", "run.log"
    }  # fmt: skip
    assert [path.name for path in (artifacts / ".writing").iterdir()] in ([], ["teacher.lock"])


def test_two_runs_at_once_are_refused(project, capfd):
    write(project / "notebooks", "01_a.ipynb", "open('started', 'w')\nimport time; time.sleep(3)")
    command = [sys.executable, "-c", INTERRUPTED, str(project)]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    while not (project / "notebooks/started").exists() and first.poll() is None:
        time.sleep(0.1)
    assert run.main([]) == 2
    errors = capfd.readouterr().err
    assert "another run is at work in artifacts/smoke" in errors and 'SET="name=..."' in errors
    first.communicate(timeout=60)
    assert run.main(["--only", "01"]) == 0


def test_a_damaged_record_of_times_is_passed_over(project):
    write(project / "notebooks", "00_a.ipynb", "x = 1")
    steps = project / "artifacts/smoke/steps.json"
    steps.parent.mkdir(parents=True)
    for damage in ("", "[1", '{"00_a": 7}'):
        steps.write_text(damage)
        assert run.main(["--only", "00"]) == 0
        assert set(json.loads(steps.read_text())) == {"00_a"}


def test_artefacts_that_cannot_be_written_are_one_line(project, capfd):
    write(project / "notebooks", "01_a.ipynb", "x = 1")
    (project / "artifacts").write_text("a file")
    assert run.main([]) == 1
    assert "error: artifacts/smoke cannot be written:" in capfd.readouterr().err


@pytest.fixture
def small_disk(project):
    """The folder of the artefacts on a disk of 200 kB."""
    folder = project / "artifacts"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("where", ["a cell", "the log", "the executed copy"])
def test_a_full_disk_ends_the_run_with_its_reason(project, small_disk, capfd, where):
    cell = {
        "a cell": f"open({str(small_disk / 'x')!r}, 'w').write('x' * 10**6)",
        "the log": "print('x' * 10**6)",
        "the executed copy": f"import sys; sys.stdout.write('x' * 150_000)\n"
        f"open({str(small_disk / 'x')!r}, 'w').write('x' * 30_000)",
    }[where]
    write(project / "notebooks", "01_a.ipynb", cell)
    assert run.main([]) == 1
    errors = capfd.readouterr().err
    assert "No space left on device" in errors and "to resume: make run" in errors
    assert not list(small_disk.rglob("*.new"))


def test_a_failing_cell_stops_the_run_and_says_how_to_resume(project, capfd):
    write(project / "notebooks", "01_a.ipynb", "x = 1")
    write(project / "notebooks", "02_b.ipynb", "x = 1", "raise OSError('no such thing')")
    write(project / "notebooks", "03_c.ipynb", "open('three', 'w')")
    assert run.main([]) == 1
    errors = capfd.readouterr().err
    assert "02_b.ipynb stopped" in errors and "no such thing" in errors
    assert "make run PROFILE=smoke FROM=02" in errors
    assert not (project / "notebooks/three").exists()
    assert (project / "artifacts/smoke/executed/02_b.ipynb").exists()


def test_resuming_keeps_what_was_set_for_the_run(project, capfd, monkeypatch):
    monkeypatch.setenv("SET", "name=trial seed=7")
    write(project / "notebooks", "01_a.ipynb", "raise OSError")
    assert run.main([]) == 1
    assert 'make run PROFILE=smoke SET="name=trial seed=7" FROM=01' in capfd.readouterr().err


def test_a_dead_kernel_is_reported(project, capfd):
    write(project / "notebooks", "01_a.ipynb", "import os; os.kill(os.getpid(), 9)")
    assert run.main([]) == 1
    errors = capfd.readouterr().err
    assert "kernel died" in errors and "FROM=01" in errors


def test_from_skips_what_comes_before(project):
    write(project / "notebooks", "01_a.ipynb", "raise OSError")
    write(project / "notebooks", "02_b.ipynb", "x = 1")
    (project / "artifacts/smoke").mkdir(parents=True)
    (project / "artifacts/smoke/benchmark.json").write_text(json.dumps(RESULT))
    assert run.main(["--from", "02"]) == 0


def test_an_unknown_step_or_profile_is_named(project, capfd, monkeypatch):
    write(project / "notebooks", "01_a.ipynb", "x = 1")
    assert run.main(["--from", "09"]) == 2
    assert "no notebook is numbered '09'; known: 01" in capfd.readouterr().err
    monkeypatch.setenv("PROFILE", "lapdog")
    assert run.main([]) == 2
    assert "known profiles: blog, blog-train, laptop, pretrain, smoke" in capfd.readouterr().err


def test_no_further_than_a_step(project, capfd):
    for name in ("01_a", "02_b", "03_c"):
        write(project / "notebooks", f"{name}.ipynb", f"open({name!r}, 'w')")
    assert run.main(["--to", "02"]) == 0
    assert sorted(path.name for path in (project / "notebooks").glob("0?_?")) == ["01_a", "02_b"]
    assert "executed/02_b.ipynb" in capfd.readouterr().out
    assert run.main(["--from", "03", "--to", "02"]) == 2
    assert "02 comes before 03" in capfd.readouterr().err


def test_one_step_alone(project, capfd):
    write(project / "notebooks", "00_a.ipynb", "open('zero', 'w')")
    write(project / "notebooks", "01_b.ipynb", "raise OSError")
    assert run.main(["--only", "00"]) == 0
    assert (project / "notebooks/zero").exists()
    assert "executed copy: artifacts/smoke/executed/00_a.ipynb" in capfd.readouterr().out


COUNT = "import os; open(f'trained-{os.environ[\"RANK\"]}-of-{os.environ[\"WORLD_SIZE\"]}', 'w')"


def test_several_processes_run_what_is_no_probe_before_the_notebook(project, monkeypatch):
    monkeypatch.chdir(project)
    path = project / "notebooks/00_a.ipynb"
    write(path.parent, path.name, "import os\nif 'RANK' in os.environ: " + COUNT, "open('p', 'w')")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata["tags"] = ["probe"]
    nbformat.write(notebook, path)
    assert run.main(["--only", "00", "--processes", "2"]) == 0
    assert {p.name for p in project.glob("trained-*")} == {"trained-0-of-2", "trained-1-of-2"}
    assert not (project / "p").exists() and (project / "notebooks/p").exists()


def test_a_notebook_without_probes_is_for_one_process(project):
    write(project / "notebooks", "00_a.ipynb", "x = 1")
    assert not run.export_script(project / "notebooks/00_a.ipynb", project / "script.py")
    assert not (project / "script.py").exists()
