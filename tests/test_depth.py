"""What notebooks 09 and 10 hold in their own cells, run on a tiny model and against hand counts."""

import copy

import nbformat
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers.pytorch_utils import prune_linear_layer

from helpers.export import PlainBert
from helpers.tutorial.steps import notebook_of

IDS = torch.tensor([[101, 2143, 2003, 2204, 102], [101, 10634, 102, 0, 0]])
MASK = (IDS > 0).long()


def cells(number, tag, **names):
    """The functions of a notebook's cells with this tag."""
    notebook = nbformat.read(notebook_of(number), as_version=4)
    code = [cell.source for cell in notebook.cells if tag in cell.metadata.get("tags", ())]
    scope = {"torch": torch, "nn": nn, "F": F, "np": np, **names}
    exec("\n".join(code), scope)
    return scope


def logits(model):
    with torch.inference_mode():
        return PlainBert(model, first_token_only=True)(IDS, MASK)


def test_a_shape_is_cut_where_the_loss_feels_least(tiny_model):
    pruning = cells("09", "pruned-shapes", prune_linear_layer=prune_linear_layer)
    model = copy.deepcopy(tiny_model).eval()
    batch = {"input_ids": IDS, "attention_mask": MASK, "prediction": torch.ones(2, 2)}
    layer = model.bert.encoder.layer[0]
    layer.output.dense.weight.data[:, 40:] = 0  # 24 neurons that nothing reads
    layer.attention.output.dense.weight.data[:, :16] = 0  # nor the first head
    before = logits(model)
    scores = pruning["sensitivities"](model, [batch])
    assert scores[0][0][0] == 0 and scores[0][1][40:].max() == 0 < scores[0][1][:40].min()
    scores[1] = (torch.tensor([1.0, 2.0]), torch.ones(64))
    whole = pruning["cut_to"](copy.deepcopy(model), scores, layers=2, heads=2, neurons=40)
    assert pruning["shape"](whole) == [(2, 40), (2, 40)]
    first = pruning["cut_to"](model, scores, layers=1, heads=1, neurons=40)
    first.bert.encoder.layer.append(whole.bert.encoder.layer[1])
    assert torch.allclose(logits(whole), logits(first), atol=1e-5) and before.isfinite().all()
    # by hand, on 5 word pieces: one head of 16 columns in the first layer, two in the last
    layers = 2 * 32 * 16 * 10 + 2 * 16 * 25 + 2 * 32 * 40 * 5, 2 * 32 * 32 * 6 + 320 + 2 * 32 * 40
    assert pruning["count_products"](first, 5) == sum(layers)


def test_the_loss_on_hidden_states_equals_one_computed_by_hand():
    # layer-normalised, [1, 3] is [-1, 1] and [5, 1] is [1, -1]
    targets = [torch.tensor([[[1.0, 3.0], [9.0, 9.0]]]), torch.tensor([[[5.0, 1.0], [9.0, 9.0]]])]
    mapped = [torch.tensor([[[0.0, 1.0], [7.0, 7.0]]]), torch.tensor([[[1.0, 1.0], [7.0, 7.0]]])]
    loss = cells("10", "pretraining-code")["state_loss"](
        mapped, targets, torch.tensor([[1, 0]]), layer_weights=[0.5, 2.0], pooled_weight=3.0
    )
    cosine = (5 + 1) / (np.sqrt(26) * np.sqrt(2))
    by_hand = 0.5 * (1 + 0) / 2 + 2.0 * (0 + 4) / 2 + 3.0 * (1 - cosine)
    assert loss.item() == pytest.approx(by_hand, rel=1e-3)


def test_masking_spares_the_ends_and_padding():
    ids, mask = torch.arange(10, 18).repeat(2000, 1), torch.tensor([[1] * 6 + [0] * 2] * 2000)
    masked = cells("10", "pretraining-code")["mask_tokens"](ids, mask, share=0.25, mask_id=1) == 1
    assert not masked[:, [0, 5, 6, 7]].any()
    assert masked[:, 1:5].float().mean().item() == pytest.approx(0.25, abs=0.02)
