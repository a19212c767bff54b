"""A notebook in which one step is broken on purpose does not end with all its checks true."""

import io
import os
import shutil

import nbformat
import pytest
from nbclient.exceptions import CellExecutionError

from helpers.tutorial.run import execute_notebook, run_steps
from helpers.tutorial.steps import NOTEBOOKS
from tests.test_own_data import failed_checks, small_run, write_reviews

pytestmark = pytest.mark.slow

SHUFFLED_LABELS = """data = lesson.data()
for split in ("labelled", "dev"):
    mixed = np.random.default_rng(1).permutation(data[split]["label"])
    without = data[split].remove_columns("label")
    data[split] = without.add_column("label", mixed).cast(data["test"].features)
"""
NOT_TRAINED = 'lesson.profile.teacher.training.model_copy(update={"learning_rate": 0.0})'
WRONG_SCALES = """quantization.save_quantized(model, path)
    import onnx

    damaged = onnx.load(path)
    for tensor in damaged.graph.initializer:
        if tensor.name.endswith("_scale"):
            larger = 8 * onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(larger, tensor.name))
    onnx.save(damaged, path)
"""
SURE = "the teacher is surely better than the commonest class"


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """The folder of a small run of notebooks 1 to 3, under whose settings the tests go on."""
    source = tmp_path_factory.mktemp("data") / "mine.csv"
    write_reviews(source)
    with small_run(source, "sound") as folder:
        assert run_steps(["01", "02", "03"]) == 0
        yield folder


def failed_when(name, old, new, folder) -> list[str]:
    """Execute a notebook with `old` replaced by `new`; returns the checks that are not true."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if c.cell_type == "code" and old in c.source)
    cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, folder / "broken.ipynb")
    execute_notebook(folder / "broken.ipynb", folder / "done.ipynb", log=io.StringIO())
    return failed_checks(folder / "done.ipynb")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("data = lesson.data()\n", SHUFFLED_LABELS),
        ("settings = lesson.profile.teacher.training\n", f"settings = {NOT_TRAINED}\n"),
    ],
    ids=["labels shuffled", "teacher not trained"],
)
def test_a_teacher_that_learned_nothing(sound, tmp_path, monkeypatch, old, new):
    monkeypatch.setenv("SET", os.environ["SET"].replace("-sound", "-broken"))
    try:
        assert SURE in failed_when("01_finetune_teacher", old, new, tmp_path)
    finally:
        shutil.rmtree(sound.with_name(sound.name.replace("-sound", "-broken")))


def test_wrong_scales(sound, tmp_path):
    old = "quantization.save_quantized(model, path)\n"
    failed = failed_when("04_quantize_int8", old, WRONG_SCALES, tmp_path)
    assert "student_int8 loses at most one point" in failed


def test_a_tokenizer_changed_on_the_disk(sound, tmp_path):
    file = sound / "student/tokenizer.json"
    before = file.read_text()
    file.write_text(before.replace('"film"', '"xfilm"'))
    try:
        with pytest.raises(CellExecutionError, match=r"student is damaged.*from 02"):
            failed_when("03_export_onnx", "lesson = start(", "lesson = start(", tmp_path)
    finally:
        file.write_text(before)
