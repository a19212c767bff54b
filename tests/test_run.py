"""The runner on small notebooks of its own."""

import json

import nbformat
import pytest

from helpers import run


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
    monkeypatch.setenv("PROFILE", "smoke")
    real = run.Artifacts
    monkeypatch.setattr(run, "Artifacts", lambda p: real(p, root=tmp_path / "artifacts"))
    return tmp_path


RESULT = {
    "unavailable": {"reference engine": "its environment is not installed"},
    "protocol": {"sequence_length": 64},
    "environment": {"threads": [1]},
    "rows": [
        {
            "name": "student", "threads": 1, "sequence_length": 64, "size_mb": 11.0,
            "latency_ms": {"p50": 1.25}, "accuracy": {"value": 0.9},
            "speedup_vs_bert_base_pytorch": 70.0,
        }
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
    assert "70.0x" in printed and "0.9000" in printed and "report.html" in printed
    executed = nbformat.read(artifacts / "executed/02_b.ipynb", as_version=4)
    assert executed.cells[0].outputs[0].text == "from the first\n"
    report = (artifacts / "report.html").read_text()
    assert "from the first" in report
    assert 'src="http' not in report and "<link" not in report


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
