import contextlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertForMaskedLM, DataCollatorWithPadding, Trainer, TrainerCallback

from helpers.data import tokenize
from helpers.environment import has_bf16
from helpers.predict import Classifier
from helpers.profile import ROOT, Architecture, Training
from helpers.runtimes import load_model
from helpers.training import (
    SeededTrainer,
    bert_config,
    fine_tune,
    freeze_lower_layers,
    load_classifier,
    load_tokenizer,
    predict_logits,
    run_training,
    score_sentences,
    show_progress,
    training_arguments,
    untrained_classifier,
)

SETTINGS = Training(epochs=8, learning_rate=5e-3, batch_size=8, weight_decay=0.0, warmup=0.0)


def alone(model, row):
    inputs = {k: torch.tensor([row[k]]) for k in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        return model(**inputs).logits[0].numpy()


def test_predictions_come_in_the_datasets_order(tiny_model, tokenizer, encoded):
    logits = predict_logits(tiny_model, encoded, tokenizer)
    expected = np.stack([alone(tiny_model, row) for row in encoded])
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_fast_scoring_gives_the_same_labels(tiny_model, tokenizer, encoded):
    slow = predict_logits(tiny_model, encoded, tokenizer)
    fast = score_sentences(tiny_model, encoded, tokenizer)
    tolerance = 0.05 if has_bf16("cpu") else 1e-4  # BF16 keeps 8 bits of a number
    np.testing.assert_allclose(fast, slow, atol=tolerance * np.abs(slow).max())


def test_training_learns_and_predicts_in_fp32(tiny_architecture, tokenizer, tmp_path):
    sentences = ["a wonderful film", "a terrible film"] * 40
    data = Dataset.from_dict({"sentence": sentences, "label": [1, 0] * 40})
    encoded = tokenize(data, tokenizer, 64)
    model = untrained_classifier(tiny_architecture, seed=0)
    trainer = Trainer(
        model=model,
        args=training_arguments(SETTINGS, folder=tmp_path, seed=0),
        train_dataset=encoded,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    show_progress(trainer, "test")
    trainer.train()
    logits = predict_logits(trainer.model, encoded, tokenizer)
    assert (logits.argmax(1) == np.array([1, 0] * 40)).all()
    trainer.save_model(tmp_path / "saved")
    again = load_classifier(tmp_path / "saved", tiny_architecture)
    np.testing.assert_allclose(predict_logits(again, encoded, tokenizer), logits, atol=1e-5)


def test_freezing_leaves_the_upper_layers_and_the_head(tiny_architecture):
    model = untrained_classifier(tiny_architecture, seed=0)
    freeze_lower_layers(model, 1)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("embeddings" in name or "layer.0." in name for name in trained)
    assert any("layer.1." in name for name in trained) and "classifier.weight" in trained


def test_a_model_of_another_shape_is_refused(tiny_folder):
    with pytest.raises(ValueError, match=r"layers=2.*the profile declares.*layers=4"):
        load_classifier(
            tiny_folder,
            Architecture(layers=4, hidden=32, heads=2, intermediate=64, vocabulary=30522),
        )


def test_random_weights_differ_from_the_checkpoints_and_follow_the_seed():
    folder = ROOT / "checkpoints/bert-mini"
    shape = Architecture(layers=4, hidden=256, heads=4, intermediate=1024, vocabulary=30522)
    weights = []
    for seed, pretrained in ((0, False), (0, False), (1, False), (0, True)):
        torch.manual_seed(seed)
        model = load_classifier(folder, shape, pretrained=pretrained)
        weights.append(model.bert.encoder.layer[0].attention.self.query.weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[3])


def hub_like(folder, model, tokenizer, **settings):
    """A folder as the hub's older repositories have it: a pickled state dict and a vocabulary."""
    folder.mkdir()
    model.config.update(settings)
    (folder / "config.json").write_text(model.config.to_json_string())
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    (folder / "vocab.txt").write_bytes((ROOT / "checkpoints/bert-mini/vocab.txt").read_bytes())
    return folder


def test_a_state_dict_is_read_where_there_are_no_safetensors(
    tiny_architecture, tokenizer, encoded, tmp_path
):
    model = untrained_classifier(tiny_architecture, seed=5)
    folder = hub_like(tmp_path / "published", model, tokenizer)
    assert load_tokenizer(folder).get_vocab() == tokenizer.get_vocab()
    loaded = load_classifier(folder, tiny_architecture, finished=True)
    expected = predict_logits(model, encoded, tokenizer)
    np.testing.assert_allclose(predict_logits(loaded, encoded, tokenizer), expected, atol=1e-5)


class Malicious:
    def __init__(self, witness):
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


def test_a_pickle_that_runs_code_is_refused(tiny_architecture, tokenizer, tmp_path):
    model = untrained_classifier(tiny_architecture, seed=5)
    folder = hub_like(tmp_path / "published", model, tokenizer)
    witness = tmp_path / "it-ran"
    for name in ("pytorch_model.bin", "training_args.bin"):
        torch.save({"weights": Malicious(witness)}, folder / name)
    with pytest.raises(pickle.UnpicklingError):
        load_classifier(folder, tiny_architecture)
    assert not witness.exists()


def test_code_that_a_repository_brings_is_not_run(
    tiny_folder, tiny_architecture, tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    folder, witness = tmp_path / "published", tmp_path / "it-ran"
    shutil.copytree(tiny_folder, folder)
    (folder / "evil.py").write_text(
        f"from pathlib import Path\nPath({str(witness)!r}).touch()\n"
        "from transformers import BertConfig as Config, BertTokenizerFast as Tokens\n"
        "from transformers import BertForSequenceClassification as Model\n"
    )
    ours = {
        "config.json": {
            "AutoConfig": "evil.Config",
            "AutoModelForSequenceClassification": "evil.Model",
        },
        "tokenizer_config.json": {"AutoTokenizer": ["evil.Tokens", "evil.Tokens"]},
    }
    for name, auto_map in ours.items():
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | {"auto_map": auto_map}))
    for load in (
        lambda: load_tokenizer(folder),
        lambda: load_classifier(folder, tiny_architecture),
        lambda: load_model("pytorch", folder, threads=1),
        lambda: Classifier(folder, threads=1),
    ):
        with contextlib.suppress(ValueError, OSError):  # to refuse is as good as to ignore
            load()
        assert not witness.exists()


def test_an_unfinished_or_otherwise_labelled_classifier_is_refused(
    tiny_architecture, tokenizer, tmp_path
):
    shape = bert_config(tiny_architecture)
    encoder = hub_like(tmp_path / "encoder", BertForMaskedLM(shape), tokenizer)
    with pytest.raises(ValueError, match=r"no finished classifier: it lacks .*classifier.weight"):
        load_classifier(encoder, tiny_architecture, finished=True)
    load_classifier(encoder, tiny_architecture)
    model = untrained_classifier(tiny_architecture, seed=5)
    turned = {"id2label": {0: "POSITIVE", 1: "NEGATIVE"}}
    other = hub_like(tmp_path / "turned", model, tokenizer, **turned)
    with pytest.raises(ValueError, match="has the classes"):
        load_classifier(other, tiny_architecture, finished=True)


def test_another_vocabulary_is_refused(tiny_folder, tiny_architecture, tokenizer, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    other_tokenizer = load_tokenizer(other)
    other_tokenizer.add_tokens(["filmography"])
    other_tokenizer.save_pretrained(other)
    with pytest.raises(ValueError, match="another vocabulary"):
        fine_tune(
            other, tiny_architecture, SETTINGS, Dataset.from_dict({}), tokenizer,
            name="x", folder=tmp_path, seed=0,
        )  # fmt: skip


class Interrupt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 7:
            raise KeyboardInterrupt


def test_an_interrupted_training_goes_on_to_the_same_end(
    tiny_folder, tiny_architecture, tokenizer, tmp_path, capsys
):
    data = Dataset.from_dict({"sentence": ["a fine film", "a dull one"] * 20, "label": [1, 0] * 20})
    encoded = tokenize(data, tokenizer, 64)
    settings = SETTINGS.model_copy(update={"epochs": 2, "checkpoints": 4, "learning_rate": 1e-3})

    def trainer(folder):
        torch.manual_seed(0)
        return SeededTrainer(
            model=load_classifier(tiny_folder, tiny_architecture),
            args=training_arguments(settings, folder=folder, seed=0),
            train_dataset=encoded,
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )

    whole = trainer(tmp_path / "whole")
    run_training(whole, "whole")
    broken = trainer(tmp_path / "broken")
    broken.add_callback(Interrupt())
    with pytest.raises(KeyboardInterrupt):
        run_training(broken, "broken")
    resumed = trainer(tmp_path / "broken")
    run_training(resumed, "broken")
    assert "broken: went on from step 6 of 10" in capsys.readouterr().out
    for name, weights in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], weights, msg=name)
    again = trainer(tmp_path / "broken")
    run_training(again, "broken")
    assert "went on from step 10 of 10" in capsys.readouterr().out
    for name, weights in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], weights, msg=name)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_pickle_in_a_checkpoint_does_not_run(
    tiny_folder, tiny_architecture, tokenizer, tmp_path, name
):
    data = Dataset.from_dict({"sentence": ["a fine film", "a dull one"] * 20, "label": [1, 0] * 20})
    encoded = tokenize(data, tokenizer, 64)

    def train(epochs):
        settings = SETTINGS.model_copy(update={"epochs": epochs, "checkpoints": 4})
        fine_tune(
            tiny_folder, tiny_architecture, settings, encoded, tokenizer, name="x",
            folder=tmp_path / "checkpoints", seed=0,
        )  # fmt: skip

    train(epochs=2)
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    witness = tmp_path / "it-ran"
    for planted in (name, "training_args.bin", "pytorch_model.bin"):
        torch.save({"weights": Malicious(witness)}, checkpoint / planted)
    with pytest.raises(pickle.UnpicklingError):
        train(epochs=4)  # goes on from the checkpoint
    assert not witness.exists()


def test_a_batch_is_shared_by_all_processes(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="a batch of 8 is not shared by 3 processes"):
        training_arguments(SETTINGS, folder=tmp_path, seed=0)
