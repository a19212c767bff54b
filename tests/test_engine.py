"""The blog's engine: what is missing or wrong is explained; notebook 4 checks its labels."""

import pytest

from helpers.bench import engine
from helpers.bench.workers import WorkerProcess

can_run = pytest.mark.skipif(engine.engine_fault() is not None, reason=str(engine.engine_fault()))


def test_what_is_missing_is_explained(tmp_path, monkeypatch, capsys):
    assert "run `make engine`" in engine.engine_fault(tmp_path)
    (tmp_path / ".ready").touch()
    monkeypatch.setattr(engine, "instruction_sets", lambda: ["avx2"])
    assert "AVX-512" in engine.engine_fault(tmp_path)
    assert engine.engine_logits(tmp_path, tmp_path, [], max_length=8) == {}
    assert "no row of the blog's engine here: " in capsys.readouterr().out


def test_a_process_that_dies_is_reported(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    python.chmod(0o755)
    with WorkerProcess({"row": {}}, [], [], threads=1, max_length=8, command=[python]) as dying:
        faults = dying.wait_until_loaded()
    assert faults == {"row": "its process died (3); it last said: out of luck"}


@can_run
def test_a_model_it_cannot_read_is_explained(tokenizer, tmp_path, capsys):
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "bad.onnx").write_text("not a model")
    assert engine.engine_logits(tmp_path / "bad.onnx", tmp_path, ["a film"], max_length=64) == {}
    assert "no row of the blog's engine here" in capsys.readouterr().out
