"""Pretraining: the helpers, the loss as notebook 00 has it, and a run in two processes."""

import json
import os
import shutil
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from helpers.pretraining import (
    MappedStudent,
    load_encoder,
    map_vocabulary,
    mask_tokens,
    mean_pool,
    principal_components,
    sentence_features,
    untrained_encoder,
)
from helpers.profile import ROOT
from helpers.run import launch
from helpers.training import last_checkpoint

NOTEBOOK = ROOT / "notebooks/00_pretrain_student.ipynb"


class Pieces:
    """The part of a tokenizer that the alignment asks for."""

    def __init__(self, pieces, **special):
        self.pieces = pieces
        roles = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
        self.__dict__ |= dict(zip(roles, special["special"], strict=True))

    def get_vocab(self):
        return {piece: i for i, piece in enumerate(self.pieces)}


STUDENT = Pieces(
    ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "film", "##s"],
    special=["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"],
)


def test_vocabularies_meet_by_text_and_special_tokens_by_role():
    teacher = Pieces(
        ["<s>", "<pad>", "</s>", "[UNK]", "##s", "dull", "film", "<mask>"],
        special=["<s>", "</s>", "<pad>", "[UNK]", "<mask>"],
    )
    assert map_vocabulary(STUDENT, teacher).tolist() == [1, 3, 0, 2, 7, 6, 4]


def test_a_piece_that_the_teacher_lacks_is_named():
    teacher = Pieces(
        ["<s>", "<pad>", "</s>", "[UNK]", "film", "<mask>"],
        special=["<s>", "</s>", "<pad>", "[UNK]", "<mask>"],
    )
    with pytest.raises(ValueError, match="lacks 1 of the student's word pieces: '##s'"):
        map_vocabulary(STUDENT, teacher)


def test_principal_components_keep_distances_of_a_table_of_low_rank():
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(200, 4, generator=generator) @ torch.randn(4, 32, generator=generator)
    reduced, kept = principal_components(table, 4, std=0.04)
    assert reduced.shape == (200, 4)
    assert kept == pytest.approx(1)
    assert reduced.std().item() == pytest.approx(0.04, rel=0.01)
    ratio = torch.pdist(reduced) / torch.pdist(table)
    assert torch.allclose(ratio, ratio.mean(), rtol=1e-3)
    _, less = principal_components(table, 2, std=0.04)
    assert 0.3 < less < 0.95


def test_the_mean_leaves_padding_out():
    states = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    assert mean_pool(states, torch.tensor([[1, 1, 0]])).tolist() == [[2.0, 3.0]]


def test_masking_spares_the_ends_and_padding():
    ids = torch.arange(10, 18).repeat(2000, 1)
    mask = torch.tensor([1, 1, 1, 1, 1, 1, 0, 0]).repeat(2000, 1)
    torch.manual_seed(0)
    masked = mask_tokens(ids, mask, share=0.25, mask_id=1) == 1
    assert not masked[:, [0, 5, 6, 7]].any()
    assert masked[:, 1:5].float().mean().item() == pytest.approx(0.25, abs=0.02)
    full = mask_tokens(ids, torch.ones_like(ids), share=0.999, mask_id=1) == 1
    assert not full[:, [0, 7]].any() and full[:, 1:7].float().mean() > 0.99
    assert torch.equal(mask_tokens(ids, mask, share=0.0, mask_id=1), ids)


def test_the_student_gives_the_chosen_layers_mapped(tiny_architecture):
    encoder = untrained_encoder(tiny_architecture, seed=0)
    mapped = MappedStudent(encoder, [1, 2], 48)
    ids = torch.tensor([[101, 2143, 102]])
    states = mapped(ids, torch.ones_like(ids))
    assert [tuple(state.shape) for state in states] == [(1, 3, 48)] * 2
    last = encoder(ids).last_hidden_state
    assert torch.allclose(states[1], mapped.maps[1](last), atol=1e-6)


def test_features_are_means_in_the_datasets_order(tiny_folder, encoded, tokenizer):
    encoder = load_encoder(tiny_folder)
    features = sentence_features(encoder, encoded, tokenizer, description="features")
    assert features.shape == (len(encoded), 32)
    for i in (0, 1, 5):
        ids = torch.tensor([encoded[i]["input_ids"]])
        with torch.inference_mode():
            expected = encoder(ids).last_hidden_state.mean(1)[0].numpy()
        assert np.allclose(features[i], expected, atol=1e-5)


@pytest.fixture(scope="module")
def state_loss():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (cell,) = (c for c in notebook.cells if "pretraining-loss" in c.metadata.get("tags", ()))
    settings = SimpleNamespace(layer_weights=[0.5, 2.0], pooled_weight=3.0)
    scope = {"F": F, "mean_pool": mean_pool, "SETTINGS": settings}
    exec(cell.source, scope)
    return scope["state_loss"]


def test_the_loss_equals_one_computed_by_hand(state_loss):
    # layer-normalised, [1, 3] is [-1, 1] and [5, 1] is [1, -1]
    targets = [torch.tensor([[[1.0, 3.0], [9.0, 9.0]]]), torch.tensor([[[5.0, 1.0], [9.0, 9.0]]])]
    mapped = [torch.tensor([[[0.0, 1.0], [7.0, 7.0]]]), torch.tensor([[[1.0, 1.0], [7.0, 7.0]]])]
    loss = state_loss(mapped, targets, torch.tensor([[1, 0]]))
    cosine = (5 + 1) / (np.sqrt(26) * np.sqrt(2))
    by_hand = 0.5 * (1 + 0) / 2 + 2.0 * (0 + 4) / 2 + 3.0 * (1 - cosine)
    assert loss.item() == pytest.approx(by_hand, rel=1e-3)


def test_a_half_written_checkpoint_is_passed_over(tmp_path):
    assert last_checkpoint(tmp_path / "none") is None
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}/trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path):
    """`make pretrain PROCESSES=2` on 100 sentences: the profile's batch, and as many steps."""
    name = f"test-{os.getpid()}"
    changes = f"name={name} data.train_sentences=100 pretraining.training.batch_size=10"
    environment = {"PROFILE": "smoke", "SET": changes, "OMP_NUM_THREADS": "1"}
    folder = ROOT / "artifacts" / name
    try:
        with pytest.MonkeyPatch.context() as patch:
            for key, value in environment.items():
                patch.setenv(key, value)
            launch(NOTEBOOK, tmp_path / "pretrain.py", 2)
        assert "fit_probe(" not in (tmp_path / "pretrain.py").read_text().split("SETTINGS")[1]
        state = json.loads((folder / "pretrained/trainer_state.json").read_text())
        assert state["global_step"] == 10
        weights = load_encoder(folder / "pretrained").state_dict()
        assert all(bool(w.isfinite().all()) for w in weights.values())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
