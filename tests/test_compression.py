import copy
import warnings

import numpy as np
import pytest

from helpers.compression import (
    compress,
    count_weights,
    encoder_shape,
    export_aware,
    remove_pruned,
    zero_share,
)
from helpers.onnx_models import PlainBert, compare_logits, export_onnx
from helpers.profile import Training
from helpers.quantization import runtime_logits
from helpers.training import load_classifier, predict_logits

SETTINGS = Training(epochs=2, learning_rate=2e-3, batch_size=8, weight_decay=0.0, warmup=0.0)
STEPS = 2 * 48 // 8

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from neural_compressor.config import QuantizationAwareTrainingConfig, WeightPruningConfig


def pruning(*patterns, scope="local"):
    return WeightPruningConfig(
        list(patterns), pruning_scope=scope, start_step=1, end_step=STEPS // 2, pruning_frequency=1
    )


@pytest.fixture
def student(tiny_folder, tiny_architecture):
    return load_classifier(tiny_folder, tiny_architecture, dropout=0.0)


@pytest.fixture(scope="module")
def scored(encoded):
    return encoded.add_column("prediction", [[-1.5, 1.5]] * len(encoded))


@pytest.fixture
def train(scored, tokenizer, tmp_path):
    def run(model, *methods, **changes):
        return compress(
            model, methods, SETTINGS, scored, tokenizer, name="test", folder=tmp_path, seed=1,
            **changes,
        )  # fmt: skip

    return run


HEADS = {"pattern": "mha", "pruning_type": "magnitude", "target_sparsity": 0.5}
NEURONS = {
    "op_names": ["layer.0.output.dense", "layer.1.output.dense"], "pattern": "channelx1",
    "pruning_type": "magnitude", "target_sparsity": 0.5,
}  # fmt: skip


def test_the_loss_is_the_distance_to_the_teachers_scores(student, train, scored, tokenizer):
    nothing = {"op_names": ["encoder"], "pattern": "1x1", "target_sparsity": 0.01}
    wanted = np.array(scored["prediction"])
    before = np.mean((predict_logits(student, scored, tokenizer) - wanted) ** 2)
    trained = train(student, pruning(nothing | {"pruning_type": "magnitude"}))
    after = np.mean((predict_logits(trained, scored, tokenizer) - wanted) ** 2)
    assert after < 0.7 * before


def test_magnitude_pruning_leaves_zeros_and_shapes(student, train):
    shape = encoder_shape(student)
    sparse = {"op_names": ["encoder"], "pattern": "1x1", "pruning_type": "magnitude"}
    trained = train(student, pruning(sparse | {"target_sparsity": 0.8}, scope="global"))
    assert zero_share(trained) == pytest.approx(0.8, abs=0.01)
    assert encoder_shape(trained) == shape


def test_what_was_pruned_is_removed_and_nothing_changes(
    student, train, scored, tokenizer, tmp_path
):
    whole = count_weights(student)
    pruned = train(student, pruning(HEADS, NEURONS))
    expected = predict_logits(pruned, scored, tokenizer)
    smaller = remove_pruned(pruned)
    assert encoder_shape(smaller) == [(1, 32), (1, 32)]
    assert count_weights(smaller) == whole / 2
    assert compare_logits(expected, predict_logits(smaller, scored, tokenizer))[
        "largest difference"
    ] < 1e-4  # fmt: skip
    assert zero_share(smaller) < 0.01
    trained = train(smaller, pruning(NEURONS | {"target_sparsity": 0.1}))  # it can go on training
    path = tmp_path / "smaller.onnx"
    export_onnx(PlainBert(trained, first_token_only=True), path)
    exported = runtime_logits("onnxruntime", path, scored, tokenizer, description="test")
    logits = predict_logits(trained, scored, tokenizer)
    assert compare_logits(logits, exported)["largest difference"] < 1e-3


def test_a_layer_without_heads_is_exported(student, train, scored, tokenizer, tmp_path):
    lost = copy.deepcopy(student)
    attention = lost.bert.encoder.layer[1].attention
    for linear in (attention.self.query, attention.self.key, attention.self.value):
        linear.weight.data.zero_()
    attention.output.dense.weight.data.zero_()
    smaller = remove_pruned(lost)
    assert encoder_shape(smaller) == [(2, 64), (0, 64)]
    for first_token_only in (False, True):
        path = tmp_path / f"{first_token_only}.onnx"
        export_onnx(PlainBert(smaller, first_token_only=first_token_only), path)
        exported = runtime_logits("openvino", path, scored, tokenizer, description="test")
        logits = predict_logits(smaller, scored, tokenizer)
        assert compare_logits(logits, exported)["largest difference"] < 1e-3


def test_nothing_to_remove_is_an_error(student):
    with pytest.raises(ValueError, match="no head and no neuron is zero"):
        remove_pruned(student)


def test_quantization_aware_training_ends_in_integers(student, train, scored, tokenizer, tmp_path):
    off = {"weight": {"dtype": ["fp32"]}, "activation": {"dtype": ["fp32"]}}
    config = QuantizationAwareTrainingConfig(op_type_dict={"Embedding": off})
    trained = train(student, config, bf16=False)
    kinds = {type(module).__module__ for module in trained.modules()}
    assert "torch.ao.nn.quantized.modules.linear" in kinds
    path = tmp_path / "aware.onnx"
    export_aware(trained, path)
    expected = predict_logits(trained, scored, tokenizer)
    exported = runtime_logits("onnxruntime", path, scored, tokenizer, description="test")
    assert np.corrcoef(expected.ravel(), exported.ravel())[0, 1] > 0.99
