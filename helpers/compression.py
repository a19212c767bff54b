"""Pruning, distillation and quantization-aware training with neural-compressor, under `Trainer`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset
from neural_compressor.config import DistillationConfig, KnowledgeDistillationLossConfig
from neural_compressor.training import CompressionManager, prepare_compression
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, set_seed

from helpers.export import export_onnx
from helpers.tutorial.profile import Training
from helpers.quantization import quiet
from helpers.training import SeededTrainer, train_model, without_autocast


class _Hooks(TrainerCallback):
    """Calls what neural-compressor wants called in a training loop, where `Trainer` is there."""

    def __init__(self, manager: CompressionManager):
        self._hooks = manager.callbacks

    def on_epoch_begin(self, args, state, control, **kwargs):
        self._hooks.on_epoch_begin(int(state.epoch or 0))

    def on_step_begin(self, args, state, control, **kwargs):
        self._hooks.on_step_begin(state.global_step)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._hooks.on_before_optimizer_step()

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._hooks.on_after_optimizer_step()

    def on_step_end(self, args, state, control, **kwargs):
        self._hooks.on_step_end()

    def on_epoch_end(self, args, state, control, **kwargs):
        self._hooks.on_epoch_end()


class CompressionTrainer(SeededTrainer):
    """A `Trainer` that neural-compressor's distillation gives its loss.

    The teacher is not asked: its scores are the dataset's column `prediction`.
    """

    def __init__(self, *args, manager: CompressionManager, **kwargs):
        super().__init__(*args, **kwargs)
        self._manager = manager
        self.add_callback(_Hooks(manager))

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """The distillation's loss of the logits, FP32, against the stored scores."""
        scores = inputs.pop("prediction").float()
        outputs = model(**inputs)
        loss = self._manager.callbacks.on_after_compute_loss(
            inputs, outputs.logits.float(), 0.0, teacher_output=scores
        )
        return (loss, outputs) if return_outputs else loss


# The blog's loss, as neural-compressor spells it: none of the labels, all of the teacher's scores
_MSE_ON_LOGITS = KnowledgeDistillationLossConfig(loss_types=["CE", "MSE"], loss_weights=[0.0, 1.0])


def compress(
    model: PreTrainedModel,
    methods: Sequence,
    settings: Training,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    folder: Path,
    seed: int,
    **changes,
) -> PreTrainedModel:
    """Train a model under neural-compressor's `methods`, distilling all the while.

    `methods` are configurations such as `WeightPruningConfig`; several make one orchestration.
    `dataset` is tokenised and holds the teacher's scores in `prediction`; the other arguments are
    those of `training.train_model`. The model is changed in place and returned in evaluation mode.
    """
    set_seed(seed)
    distillation = DistillationConfig(teacher_model=nn.Identity(), criterion=_MSE_ON_LOGITS)
    with quiet():
        manager = prepare_compression(model, [distillation, *methods])
        manager.callbacks.on_train_begin()
        trainer = train_model(
            manager.model.model, settings, dataset, tokenizer, name=name, folder=folder, seed=seed,
            trainer_class=partial(CompressionTrainer, manager=manager), **changes,
        )  # fmt: skip
        without_autocast(trainer.model).eval()
        manager.callbacks.on_train_end()
    return manager.model.model


def remove_pruned(model: PreTrainedModel) -> PreTrainedModel:
    """Cut the heads and neurons that pruning has set to zero out of the matrices, in place.

    neural-compressor finds them in the traced model and leaves the number of neurons a multiple of
    32; which zero ones stay for that is drawn from Python's random state. The model computes what
    it computed before, with fewer products.

    Raises:
        ValueError: there was nothing to remove.
    """
    # its package hides this module behind a function of the same name
    from neural_compressor.compression.pruner.model_slim.auto_slim import (
        model_slim_ffn2,
        model_slim_mha,
    )

    before = count_weights(model)
    with quiet(), torch.no_grad():
        model_slim_ffn2(model.eval())
        model_slim_mha(model)
    if count_weights(model) == before:
        raise ValueError("no head and no neuron is zero throughout: nothing was removed")
    return model


def encoder_shape(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Attention heads and feed-forward neurons of each layer of a BERT."""
    return [
        (layer.attention.self.num_attention_heads, layer.intermediate.dense.out_features)
        for layer in model.bert.encoder.layer
    ]


def _linears(model: PreTrainedModel) -> list[torch.Tensor]:
    encoder = model.bert.encoder
    return [module.weight for module in encoder.modules() if isinstance(module, nn.Linear)]


def count_weights(model: PreTrainedModel) -> int:
    """Weights in the encoder's matrices, zeros included."""
    return sum(weight.numel() for weight in _linears(model))


def zero_share(model: PreTrainedModel) -> float:
    """Share of zeros among the weights of the encoder's matrices."""
    return sum(int((weight == 0).sum()) for weight in _linears(model)) / count_weights(model)


class _Logits(nn.Module):
    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask):
        return self.model(input_ids=input_ids, attention_mask=attention_mask).logits


def export_aware(model: PreTrainedModel, path: Path) -> None:
    """Export what quantization-aware training left, an INT8 model of PyTorch's, as a QDQ file."""
    export_onnx(_Logits(model), path)
