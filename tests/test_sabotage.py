"""A notebook in which one step is broken on purpose does not end with all its checks true."""

import io
import os
import shutil

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from helpers import run
from helpers.artifacts import Artifacts
from helpers.profile import ROOT, load_profile
from tests.test_own_data import OF_THE_DATA, SMALL, failed_checks, write_reviews

pytestmark = pytest.mark.slow

SHUFFLED_LABELS = """
rng = np.random.default_rng(1)
for split in ("train", "dev"):
    mixed = rng.permutation(data[split]["label"])
    data[split] = data[split].remove_columns("label").add_column("label", mixed).cast(
        data["test"].features
    )
"""
WRONG_TOKENIZER = """
def other_ids(row):
    return {"input_ids": [row["input_ids"][0], *(i + 7 for i in row["input_ids"][1:-1]),
                          row["input_ids"][-1]]}

{split} = {split}.map(other_ids)
"""
DAMAGED_SCALES = """
    import onnx

    damaged = onnx.load(path)
    for tensor in damaged.graph.initializer:
        if tensor.name.endswith("_scale"):
            scale = onnx.numpy_helper.to_array(tensor)
            larger = (8 * scale).astype(scale.dtype)
            tensor.CopyFrom(onnx.numpy_helper.from_array(larger, tensor.name))
    onnx.save(damaged, path)
"""
SURE = "the teacher is surely better than always saying the commonest class"


@pytest.fixture(scope="module")
def trial(tmp_path_factory):
    """Artefacts of a small run of notebooks 1 to 3, and the settings of that run."""
    source = tmp_path_factory.mktemp("data") / "mine.csv"
    write_reviews(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROFILE", "smoke")
        patch.setenv("SET", f"name=test-{os.getpid()}-sound data.source={source} {SMALL}")
        artifacts = Artifacts(load_profile())
        assert run.main(["--to", "03"]) == 0
        yield artifacts
    shutil.rmtree(artifacts.folder, ignore_errors=True)


def broken(name: str, old: str, new: str, folder) -> list[str]:
    """Execute a notebook with `old` replaced by `new`; returns the checks that are not true."""
    notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if c.cell_type == "code" and old in c.source)
    cell.source = cell.source.replace(old, new)
    notebook.cells = [c for c in notebook.cells if "solution" not in c.metadata.get("tags", [])]
    nbformat.write(notebook, folder / "broken.ipynb")
    run.execute_notebook(
        folder / "broken.ipynb", folder / "done.ipynb", log=io.StringIO(), announce=lambda *_: None
    )
    return failed_checks(folder / "done.ipynb")


def test_a_sound_run_has_no_failed_check_but_those_of_its_data(trial):
    for path in trial.path("executed").iterdir():
        assert all(check.startswith(OF_THE_DATA) for check in failed_checks(path)), path


def test_shuffled_labels(trial, tmp_path, monkeypatch):
    monkeypatch.setenv("SET", os.environ["SET"].replace("-sound", "-broken"))
    try:
        read = "data = load_data(profile.data)\n"
        assert SURE in broken("01_finetune_teacher", read, read + SHUFFLED_LABELS, tmp_path)
    finally:
        shutil.rmtree(Artifacts(load_profile()).folder)


def test_an_untrained_teacher(trial, tmp_path, monkeypatch):
    monkeypatch.setenv("SET", os.environ["SET"].replace("-sound", "-broken"))
    try:
        learning = 'run_training(trainer, "teacher")'
        assert SURE in broken(
            "01_finetune_teacher", learning, "trainer.state.log_history = []", tmp_path
        )
    finally:
        shutil.rmtree(Artifacts(load_profile()).folder)


def test_damaged_scales(trial, tmp_path):
    quantized = "    save_quantized(quantized, path)\n    write_notes"
    new = quantized.replace("    write_notes", DAMAGED_SCALES + "    write_notes")
    failed = broken("04_quantize_int8", quantized, new, tmp_path)
    assert "static INT8 loses at most 1.0 point" in failed


def test_the_wrong_tokenizer_between_two_notebooks(trial, tmp_path):
    encoded = "encoded = tokenize(test, tokenizer, profile.max_length)\n"
    new = encoded + WRONG_TOKENIZER.replace("{split}", "encoded")
    failed = broken("03_export_onnx", encoded, new, tmp_path)
    assert "these are the logits notebook 2 saw" in failed


def test_a_tokenizer_changed_on_the_disk(trial, tmp_path):
    file = trial.path("student/tokenizer.json")
    before = file.read_text()
    file.write_text(before.replace('"film"', '"xfilm"'))
    try:
        with pytest.raises(CellExecutionError, match=r"student is damaged.*FROM=02"):
            broken(
                "03_export_onnx", "profile = load_profile()", "profile = load_profile()", tmp_path
            )
    finally:
        file.write_text(before)
