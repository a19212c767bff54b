import pickle
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertForMaskedLM, TrainerCallback

from helpers import training
from helpers.data import tokenize
from helpers.environment import has_bf16
from helpers.training import (
    DistillationTrainer,
    SeededTrainer,
    bert_config,
    fine_tune,
    freeze_lower_layers,
    load_classifier,
    load_tokenizer,
    predict_logits,
    training_arguments,
    untrained_classifier,
)
from helpers.tutorial.profile import ROOT, load_profile

FAST = {"epochs": 8, "learning_rate": 5e-3, "batch_size": 8, "weight_decay": 0.0, "warmup": 0.0}
SETTINGS = load_profile("default").teacher.training.model_copy(update=FAST)


@pytest.fixture(scope="module")
def few(tokenizer):
    """Sentences that are quickly learnt."""
    rows = {"sentence": ["a wonderful film", "a terrible film"] * 20, "label": [1, 0] * 20}
    return tokenize(Dataset.from_dict(rows), tokenizer, 64)


def test_logits_come_in_the_datasets_order_also_fast(tiny_model, tokenizer, encoded):
    expected = []
    for row in encoded:
        inputs = {name: torch.tensor([row[name]]) for name in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            expected.append(tiny_model(**inputs).logits[0].numpy())
    expected = np.stack(expected)
    logits = predict_logits(tiny_model, encoded, tokenizer)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    fast = predict_logits(tiny_model, encoded, tokenizer, quick=True)
    tolerance = 0.05 if has_bf16("cpu") else 1e-4  # BF16 keeps 8 bits of a number
    np.testing.assert_allclose(fast, expected, atol=tolerance * np.abs(expected).max())


def test_killed_scoring_goes_on(tiny_model, tokenizer, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_BLOCK", 20)
    whole = predict_logits(tiny_model, encoded, tokenizer)
    collect, calls = training.collect_rows, []

    def killed_in_its_second_block(*args, **options):
        calls.append(len(args[1]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return collect(*args, **options)

    monkeypatch.setattr(training, "collect_rows", killed_in_its_second_block)
    with pytest.raises(KeyboardInterrupt):
        predict_logits(tiny_model, encoded, tokenizer, keep=tmp_path)
    again = predict_logits(tiny_model, encoded, tokenizer, keep=tmp_path)
    np.testing.assert_array_equal(again, whole)
    assert calls == [20, 20, 20, 8]  # the first block was not scored again


def test_stored_scores_are_the_scores(tiny_model, tokenizer, encoded):
    given = [[7.0, 8.0]] * len(encoded)
    scores = predict_logits(
        tiny_model, encoded.add_column("prediction", given), tokenizer, quick=True
    )
    assert scores.shape == (len(encoded), 2) and (scores == [7.0, 8.0]).all()


def test_the_distillation_loss_equals_one_computed_by_hand():
    logits = torch.tensor([[1.0, -1.0], [0.5, 2.0]])
    model = lambda **_: SimpleNamespace(logits=logits)  # noqa: E731
    trainer, scores = object.__new__(DistillationTrainer), torch.tensor([[2.0, -2.0], [0.0, 0.0]])
    for gold in ([0, 0], [1, 1]):  # gold labels play no part
        inputs = {"prediction": scores, "labels": torch.tensor(gold)}
        # ((1-2)^2 + (-1+2)^2 + (0.5-0)^2 + (2-0)^2) / 4 = (1 + 1 + 0.25 + 4) / 4
        assert trainer.compute_loss(model, inputs).item() == pytest.approx(1.5625)


def test_freezing_leaves_the_upper_layers_and_the_head(tiny_architecture):
    model = untrained_classifier(tiny_architecture, seed=0)
    freeze_lower_layers(model, 1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("embeddings" in name or "layer.0." in name for name in trained)
    assert any("layer.1." in name for name in trained) and "classifier.weight" in trained


def test_random_weights_follow_the_seed(tiny_architecture, tokenizer, tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 0})
    options = {"name": "random", "folder": tmp_path}
    weights = []
    for seed in (0, 0, 1):
        done = fine_tune(None, tiny_architecture, settings, None, tokenizer, seed=seed, **options)
        weights.append(done.model.bert.encoder.layer[0].attention.self.query.weight)
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


class Malicious:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


def publish(folder, model):
    """A folder as the hub's older repositories have it: a pickled state dict and a vocabulary."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(model.config.to_json_string())
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    shutil.copy(ROOT / "checkpoints/bert-mini/vocab.txt", folder)


def test_a_published_state_dict_is_read_if_it_is_whole_fits_and_runs_no_code(
    tiny_architecture, tokenizer, encoded, tmp_path
):
    model = untrained_classifier(tiny_architecture, seed=5)
    publish(tmp_path, model)
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()
    loaded = load_classifier(tmp_path, tiny_architecture, finished=True)
    expected = predict_logits(model, encoded, tokenizer)
    np.testing.assert_allclose(predict_logits(loaded, encoded, tokenizer), expected, atol=1e-5)
    model.config.id2label = {0: "POSITIVE", 1: "NEGATIVE"}
    publish(tmp_path, model)
    with pytest.raises(ValueError, match="has the classes"):
        load_classifier(tmp_path, tiny_architecture, finished=True)
    publish(tmp_path, BertForMaskedLM(bert_config(tiny_architecture)))
    with pytest.raises(ValueError, match=r"no finished classifier: it lacks .*classifier.weight"):
        load_classifier(tmp_path, tiny_architecture, finished=True)
    load_classifier(tmp_path, tiny_architecture)
    for name in ("pytorch_model.bin", "training_args.bin"):
        torch.save({"weights": Malicious(tmp_path / "it-ran")}, tmp_path / name)
    with pytest.raises(pickle.UnpicklingError):
        load_classifier(tmp_path, tiny_architecture)
    assert not (tmp_path / "it-ran").exists()


def test_another_shape_or_vocabulary_is_refused(
    tiny_folder, tiny_architecture, tokenizer, tmp_path
):
    deeper = tiny_architecture.model_copy(update={"layers": 4})
    with pytest.raises(ValueError, match=r"'layers': 2.*the profile declares.*'layers': 4"):
        load_classifier(tiny_folder, deeper)
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    other_tokenizer = load_tokenizer(other)
    other_tokenizer.add_tokens(["filmography"])
    other_tokenizer.save_pretrained(other)
    with pytest.raises(ValueError, match="another vocabulary"):
        fine_tune(other, tiny_architecture, SETTINGS, None, tokenizer, seed=0)


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


def test_an_interrupted_training_goes_on_to_the_same_end(
    tiny_folder, tiny_architecture, tokenizer, few, tmp_path, capsys
):
    settings = SETTINGS.model_copy(update={"epochs": 2, "checkpoints": 4, "learning_rate": 1e-3})
    start = (tiny_folder, tiny_architecture, settings, few, tokenizer)

    def train(name, kind=SeededTrainer):
        options = {"name": name, "folder": tmp_path / name, "trainer_class": kind}
        return fine_tune(*start, seed=0, **options).model.state_dict()

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("broken", partial(SeededTrainer, callbacks=[Interrupt()]))
    for step in (6, 10):  # from the last checkpoint; once done, nothing is left to do
        resumed = train("broken")
        assert f"broken: goes on from step {step}\n" in capsys.readouterr().out
        for name, weights in whole.items():
            torch.testing.assert_close(resumed[name], weights, msg=name)


def test_a_batch_is_shared_by_all_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="a batch of 8 is not shared by 3 processes"):
        training_arguments(SETTINGS, folder=tmp_path, seed=0)
