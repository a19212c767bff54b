import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorWithPadding, Trainer

from helpers.data import tokenize
from helpers.environment import has_bf16
from helpers.profile import ROOT, Architecture, Training
from helpers.training import (
    freeze_lower_layers,
    load_classifier,
    predict_logits,
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
