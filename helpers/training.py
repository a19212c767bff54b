"""Models, devices, training arguments and batch prediction around `transformers.Trainer`."""

import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import openvino as ov
import torch
import transformers
from accelerate.utils import extract_model_from_parallel
from datasets import Dataset
from tqdm import tqdm
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from helpers.data import LABELS
from helpers.environment import has_bf16
from helpers.tutorial.profile import Architecture, Training

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# How a model is read from a folder: nothing from the network, safetensors where there are any and
# else a state dict of tensors alone (`weights_only` unpickles nothing more), FP32, plain attention.
FROM_FOLDER = {
    "dtype": torch.float32,
    "attn_implementation": "eager",
    "local_files_only": True,
    "weights_only": True,
    "trust_remote_code": False,
}


def pick_device() -> str:
    """The fastest device at hand: cuda, then mps, then cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def process_count() -> int:
    """How many processes train together: 1, unless `accelerate launch` started more."""
    return int(os.environ.get("WORLD_SIZE", 1))


def load_tokenizer(folder: Path, **settings) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a local folder; `settings` override those stored with it."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, **settings)


def load_classifier(
    folder: Path,
    architecture: Architecture,
    *,
    pretrained: bool = True,
    finished: bool = False,
    dropout: float | None = None,
    labels: Sequence[str] = LABELS,
) -> PreTrainedModel:
    """Load an encoder from a local folder under a classification head, in FP32.

    Attention is computed as plain matrix products: at these sizes that trains faster on a CPU than
    PyTorch's fused kernel, and it is what gets exported.

    A folder without a head gets a new one, drawn from torch's current seed. With `pretrained`
    False all weights are drawn anew and only the configuration is read; a `finished` model must
    bring its head. `dropout` replaces the model's own rates where it is given; `labels` names the
    classes.

    Raises:
        ValueError: the folder's model is not of the given architecture, lacks the head it should
            bring, or has other classes than ours or in another order.
    """
    settings = {
        "num_labels": len(labels),
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        **dropout_rates(dropout),
    }
    if finished:
        _check_labels(folder, labels)
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **settings)
    if (found := Architecture.of(config)) != architecture:
        raise ValueError(f"{folder} holds {found}, the profile declares {architecture}")
    if not pretrained:
        return AutoModelForSequenceClassification.from_config(
            config, dtype=torch.float32, attn_implementation="eager"
        )
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, output_loading_info=True, **FROM_FOLDER
    )
    if finished and (lacking := sorted(report["missing_keys"])):
        raise ValueError(f"{folder} is no finished classifier: it lacks {', '.join(lacking)}")
    return model


def _check_labels(folder: Path, labels: Sequence[str]) -> None:
    """Refuse a classifier with more or fewer classes, or that names them in another order."""
    named = AutoConfig.from_pretrained(folder, local_files_only=True).id2label
    theirs = [named[i].lower() for i in sorted(named)]
    ours = [label.lower() for label in labels]
    if len(theirs) != len(ours) or (set(theirs) == set(ours) and theirs != ours):
        raise ValueError(f"{folder} has the classes {theirs}, the data has {ours}")


def dropout_rates(dropout: float | None) -> dict[str, float]:
    """BERT's configuration entries for one dropout rate everywhere; None leaves its own."""
    if dropout is None:
        return {}
    return {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}


def bert_config(architecture: Architecture, **settings) -> BertConfig:
    """BERT's configuration in a given shape; `settings` go to `BertConfig` as they are."""
    return BertConfig(
        num_hidden_layers=architecture.layers,
        hidden_size=architecture.hidden,
        num_attention_heads=architecture.heads,
        intermediate_size=architecture.intermediate,
        vocab_size=architecture.vocabulary,
        **settings,
    )


def untrained_classifier(architecture: Architecture, *, seed: int) -> PreTrainedModel:
    """Build a BERT classifier of two classes, with weights drawn from `seed`, in FP32."""
    torch.manual_seed(seed)
    return BertForSequenceClassification(bert_config(architecture, num_labels=len(LABELS))).eval()


def freeze_lower_layers(model: PreTrainedModel, layers: int) -> None:
    """Fix the embeddings and the `layers` lowest encoder layers; 0 fixes nothing."""
    if layers:
        frozen = [model.base_model.embeddings, *model.base_model.encoder.layer[:layers]]
        for module in frozen:
            module.requires_grad_(False)


def _machine_arguments() -> dict:
    """Those of `TrainingArguments` that follow from the machine, and quiet."""
    device = pick_device()
    return {
        "bf16": has_bf16(device),
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "log_level": "error",
        "log_level_replica": "error",
        "disable_tqdm": True,
        "report_to": "none",
    }


def training_arguments(
    settings: Training, *, folder: Path, seed: int, **changes
) -> TrainingArguments:
    """Arguments for `Trainer`: the profile's hyperparameters on the fastest device at hand.

    Sentences of like length share a batch. Several processes share the profile's batch, and save
    their state at the end, so that one process can go on. `changes` go to `TrainingArguments` as
    they are.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """
    processes = process_count()
    if settings.batch_size % processes:
        raise ValueError(f"a batch of {settings.batch_size} is not shared by {processes} processes")
    arguments = {
        "output_dir": folder,
        "num_train_epochs": settings.epochs,
        "learning_rate": settings.learning_rate,
        "per_device_train_batch_size": settings.batch_size // processes,
        "weight_decay": settings.weight_decay,
        "warmup_steps": settings.warmup,
        "train_sampling_strategy": "group_by_length",
        "seed": seed,
        "label_names": ["labels", "prediction"],
        "save_strategy": "steps" if settings.checkpoints or processes > 1 else "no",
        "save_steps": 1 / (settings.checkpoints + 1) if settings.checkpoints else 0.9999,
        "save_total_limit": 1,
        "logging_steps": 0.05,
        **_machine_arguments(),
    }
    return TrainingArguments(**arguments | changes)


class _SeededSampler(LengthGroupedSampler):
    """Sentences of like length together, in an order that follows from a seed and the epoch."""

    def __init__(self, sampler: LengthGroupedSampler, *, seed: int, epoch: Callable[[], float]):
        super().__init__(sampler.batch_size, lengths=sampler.lengths)
        self._seed, self._epoch = seed, epoch

    def __iter__(self):
        self.generator = torch.Generator().manual_seed(self._seed + int(self._epoch() or 0))
        return super().__iter__()


class SeededTrainer(Trainer):
    """A `Trainer` whose order of sentences follows from the seed and the epoch alone.

    `Trainer` itself draws the order from the global random state: there, several processes may
    disagree on it, and an interrupted epoch goes on in another order than it began.
    """

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        return _SeededSampler(sampler, seed=self.args.seed, epoch=lambda: self.state.epoch)


class _ProgressBar(TrainerCallback):
    def __init__(self, description: str):
        self.description = description

    def on_train_begin(self, args, state, control, **kwargs):
        self._began, self._first = time.monotonic(), state.global_step
        self._bar = tqdm(
            total=state.max_steps, initial=self._first, desc=self.description, unit=" steps"
        )

    def on_step_end(self, args, state, control, **kwargs):
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        self._bar.close()
        seconds, steps = time.monotonic() - self._began, state.global_step - self._first
        if self._first:
            print(f"{self.description}: went on from step {self._first} of {state.max_steps}")
        if steps:
            rate = steps * args.train_batch_size * args.world_size / seconds
            print(f"{self.description}: {steps} steps, {rate:.0f} sentences a second")


def show_progress(trainer: Trainer, description: str) -> None:
    """Show training as one plain text bar, in a terminal and in a notebook alike."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_ProgressBar(description))


def run_training(trainer: Trainer, name: str) -> None:
    """Train, from the last checkpoint on if there is one; with 0 epochs, leave the model as is."""
    show_progress(trainer, name)
    if trainer.args.num_train_epochs:
        trainer.train(resume_from_checkpoint=last_checkpoint(Path(trainer.args.output_dir)))
    else:
        print(f"{name}: taken as it is")


def _longest_first(dataset: Dataset) -> np.ndarray:
    """Positions of a tokenised dataset's sentences, the longest first."""
    return np.argsort(-np.asarray(dataset["length"]), kind="stable")


def length_sorted_batches(
    dataset: Dataset, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield (positions, padded batch) over a tokenised dataset, longest sentences first.

    Each batch holds `input_ids` and `attention_mask`, int64 of shape (batch, longest).
    """
    order = _longest_first(dataset)
    encoded = dataset.select_columns(["input_ids", "attention_mask"])
    for start in range(0, len(order), batch_size):
        positions = order[start : start + batch_size]
        yield positions, dict(tokenizer.pad(encoded[positions], return_tensors="np"))


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint that `Trainer` left in a folder, or None.

    `trainer_state.json` is what `Trainer` writes last into a checkpoint.
    """
    whole = [path.parent for path in folder.glob("checkpoint-*/trainer_state.json")]
    return max(whole, key=lambda path: int(path.name.split("-")[1]), default=None)


def fine_tune(
    checkpoint: Path,
    architecture: Architecture,
    settings: Training,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    folder: Path,
    seed: int,
    pretrained: bool = True,
    labels: Sequence[str] = LABELS,
    trainer_class: type[Trainer] = SeededTrainer,
) -> Trainer:
    """Train a classifier from a checkpoint on a tokenised dataset; returns the trainer, done.

    The arguments up to the tokenizer are those of `load_classifier` and `training_arguments`;
    `name` stands before the progress bar, and a `trainer_class` of one's own brings its own loss.

    Raises:
        ValueError: as `load_classifier` and `training_arguments`, or the checkpoint reads other
            word pieces than the tokenizer makes.
    """
    set_seed(seed)
    if load_tokenizer(checkpoint).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{checkpoint} has another vocabulary than the student's tokenizer")
    model = load_classifier(
        checkpoint,
        architecture,
        pretrained=pretrained,
        finished=pretrained and settings.epochs == 0,
        dropout=settings.dropout,
        labels=labels,
    )
    return train_model(
        model, settings, dataset, tokenizer, name=name, folder=folder, seed=seed,
        trainer_class=trainer_class,
    )  # fmt: skip


def train_model(
    model: PreTrainedModel,
    settings: Training,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    name: str,
    folder: Path,
    seed: int,
    trainer_class: Callable[..., Trainer] = SeededTrainer,
    **changes,
) -> Trainer:
    """Train a model at hand on a tokenised dataset; returns the trainer, done.

    The arguments are those of `fine_tune`, and `changes` those of `training_arguments`.
    """
    trainer = trainer_class(
        model=model,
        args=training_arguments(settings, folder=folder, seed=seed, **changes),
        train_dataset=dataset,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    run_training(trainer, name)
    return trainer


def collect_rows(
    run: Callable[[dict[str, np.ndarray]], np.ndarray],
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    description: str,
    batch_size: int = 32,
) -> np.ndarray:
    """Call `run` on every batch and return its rows, FP32 (n, size), in the dataset's order."""
    positions, rows = [np.empty(0, dtype=int)], []
    with tqdm(total=len(dataset), desc=description, unit=" sentences") as bar:
        for chosen, batch in length_sorted_batches(dataset, tokenizer, batch_size):
            positions.append(chosen)
            rows.append(run(batch))
            bar.update(len(chosen))
    return np.concatenate(rows)[np.argsort(np.concatenate(positions))].astype(np.float32)


def without_autocast(model: PreTrainedModel) -> PreTrainedModel:
    """A model without the autocast that `Trainer` puts around its `forward` in mixed precision."""
    return extract_model_from_parallel(model, keep_fp32_wrapper=False)


def predict_logits(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    description: str = "predicting",
) -> np.ndarray:
    """Logits (n, classes) of a PyTorch classifier in FP32, on the device it lies on.

    `Trainer.predict` is not used: with batches grouped by length it returns the predictions in
    the order of its sampler, not of the dataset.
    """
    model = without_autocast(model).eval()

    def run(batch):
        with torch.inference_mode():
            inputs = {key: torch.as_tensor(rows).to(model.device) for key, rows in batch.items()}
            return model(**inputs).logits.float().cpu().numpy()

    return collect_rows(run, dataset, tokenizer, description=description)


def score_sentences(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    description: str = "scoring",
) -> np.ndarray:
    """Logits (n, classes) as fast as the machine gives them, for large transfer sets.

    On a CPU, OpenVINO runs the model, in BF16 where the hardware has it. On an accelerator, or
    where `accelerate launch` started several processes, `Trainer` shares the sentences out, each
    to one process, and every process gets all the logits.
    """
    if pick_device() != "cpu" or process_count() > 1:
        with tempfile.TemporaryDirectory() as scratch:  # `Trainer` wants a folder to exist
            scorer = Trainer(
                model=model,
                args=TrainingArguments(
                    scratch, per_device_eval_batch_size=256, **_machine_arguments()
                ),
                processing_class=tokenizer,
                data_collator=DataCollatorWithPadding(tokenizer),
            )
            scorer.remove_callback(PrinterCallback)
            order = _longest_first(dataset)
            scores = scorer.predict(dataset.select(order)).predictions
        return scores[np.argsort(order)].astype(np.float32)
    compiled = compile_for_scoring(model)

    def run(batch):
        return compiled([batch["input_ids"], batch["attention_mask"]])[0]

    return collect_rows(run, dataset, tokenizer, description=description)


def compile_for_scoring(model: PreTrainedModel) -> ov.CompiledModel:
    """Compile a PyTorch classifier with OpenVINO for batches of any shape."""
    example = {
        "input_ids": torch.ones((2, 8), dtype=torch.int64),
        "attention_mask": torch.ones((2, 8), dtype=torch.int64),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = ov.convert_model(model.eval(), example_input=example)
    precision = "bf16" if has_bf16("cpu") else "f32"
    return ov.compile_model(converted, "CPU", {"INFERENCE_PRECISION_HINT": precision})
