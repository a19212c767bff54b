"""The loss as notebook 2 has it: the cell is taken out of the notebook and run here."""

from types import SimpleNamespace

import nbformat
import pytest
import torch

from helpers.profile import ROOT
from helpers.training import SeededTrainer


@pytest.fixture(scope="module")
def trainer_class():
    notebook = nbformat.read(ROOT / "notebooks/02_distill_student.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "distillation-loss" in c.metadata.get("tags", ()))
    scope = {"SeededTrainer": SeededTrainer, "torch": torch}
    exec(cell.source, scope)
    return scope["DistillationTrainer"]


def loss_of(trainer_class, logits, **inputs):
    def model(**_):
        return SimpleNamespace(logits=logits)

    inputs = {name: torch.tensor(values) for name, values in inputs.items()}
    return trainer_class.compute_loss(object.__new__(trainer_class), model, inputs)


def test_the_loss_equals_one_computed_by_hand(trainer_class):
    logits = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    scores = [[2.0, -2.0], [0.0, 0.0]]
    # ((1-2)^2 + (-1+2)^2 + (0.5-0)^2 + (2-0)^2) / 4 = (1 + 1 + 0.25 + 4) / 4
    assert loss_of(trainer_class, logits, prediction=scores).item() == pytest.approx(1.5625)


def test_gold_labels_play_no_part(trainer_class):
    logits = torch.tensor([[3.0, -3.0], [1.0, 1.0]])
    scores = [[3.0, -3.0], [1.0, 1.0]]
    for labels in ([0, 0], [1, 1]):
        inputs = {"prediction": scores, "labels": labels}
        assert loss_of(trainer_class, logits, **inputs).item() == 0


def test_the_gradient_pulls_towards_the_scores(trainer_class):
    logits = torch.tensor([[1.0, -1.0]], requires_grad=True)
    loss_of(trainer_class, logits, prediction=[[4.0, -1.0]]).backward()
    assert logits.grad[0, 0] < 0
    assert logits.grad[0, 1] == 0
