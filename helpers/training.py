"""Training and scoring classifiers: models, settings, the distillation loss, batch prediction."""

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import openvino as ov
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import extract_model_from_parallel, gather_object
from datasets import Dataset
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
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

if TYPE_CHECKING:
    from helpers.tutorial.profile import Section

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

# How a model is read from a folder: nothing from the network, safetensors or else a state dict of
# tensors alone (`weights_only` unpickles nothing more), FP32, plain attention.
FROM_FOLDER = {
    "dtype": torch.float32,
    "attn_implementation": "eager",
    "local_files_only": True,
    "weights_only": True,
    "trust_remote_code": False,
}
_BLOCK = 8192  # sentences whose scores are kept together


def fit_tfidf(sentences: Sequence[str], labels: Sequence[int]) -> Pipeline:
    """Fit TF-IDF over words and word pairs and a logistic regression on it."""
    features = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    classifier = LogisticRegression(C=10, max_iter=1000)
    return make_pipeline(features, classifier).fit(list(sentences), list(labels))


def load_tokenizer(folder: Path, **settings) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a local folder; `settings` override those stored with it."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True, **settings)


def load_classifier(
    folder: Path,
    architecture: "Section",
    *,
    labels: Sequence[str] = LABELS,
    finished: bool = False,
    dropout: float | None = None,
) -> PreTrainedModel:
    """Load an encoder from a local folder under a classification head, in FP32.

    A folder without a head gets a new one, drawn from torch's current seed; a `finished` model must
    bring its own. `labels` names the classes, `dropout` replaces the model's own rates. Attention
    is plain matrix products: so it trains faster on a CPU, and so it is exported.

    Raises:
        ValueError: the folder's model is not of the given architecture, lacks the head it should
            bring, or has other classes than ours or in another order.
    """
    config = AutoConfig.from_pretrained(folder, local_files_only=True, **dropout_rates(dropout))
    theirs = [config.id2label[i].lower() for i in sorted(config.id2label)]
    ours = [label.lower() for label in labels]
    other_order = set(theirs) == set(ours) and theirs != ours
    if finished and (len(theirs) != len(ours) or other_order):
        raise ValueError(f"{folder} has the classes {theirs}, the data has {ours}")
    config.update(_names_of(labels))
    found = {name: getattr(config, ours) for name, ours in _SHAPE.items()}
    declared = {name: getattr(architecture, name) for name in _SHAPE}
    if found != declared:
        raise ValueError(f"{folder} holds a model of {found}, the profile declares {declared}")
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder, config=config, output_loading_info=True, **FROM_FOLDER
    )
    if finished and (lacking := sorted(report["missing_keys"])):
        raise ValueError(f"{folder} is no finished classifier: it lacks {', '.join(lacking)}")
    return model


_SHAPE = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
}


def _names_of(labels: Sequence[str]) -> dict[str, dict]:
    """The entries of a configuration that name the classes, and so tell their number."""
    numbers = {label: number for number, label in enumerate(labels)}
    return {"id2label": dict(enumerate(labels)), "label2id": numbers}


def dropout_rates(dropout: float | None) -> dict[str, float]:
    """BERT's configuration entries for one dropout rate everywhere; None leaves its own."""
    names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
    return {} if dropout is None else dict.fromkeys(names, dropout)


def bert_config(architecture: "Section", **settings) -> BertConfig:
    """BERT's configuration in a given shape; `settings` go to `BertConfig` as they are."""
    shape = {theirs: getattr(architecture, ours) for ours, theirs in _SHAPE.items()}
    return BertConfig(**shape, **settings)


def untrained_classifier(
    architecture: "Section", *, seed: int, labels: Sequence[str] = LABELS, **settings
) -> PreTrainedModel:
    """Build a BERT classifier with weights from `seed`, in FP32; `settings` go to `BertConfig`."""
    torch.manual_seed(seed)
    config = bert_config(architecture, **_names_of(labels), **settings)
    return BertForSequenceClassification(config).eval()


def load_baseline(
    settings: "Section", teacher: Path, *, labels: Sequence[str], seed: int
) -> PreTrainedModel:
    """BERT-Base as the profile's `baseline` has it: the teacher, or untrained weights, in FP32."""
    if settings.weights == "teacher":
        return load_classifier(teacher, settings.architecture, labels=labels)
    return untrained_classifier(settings.architecture, seed=seed, labels=labels)


def freeze_lower_layers(model: PreTrainedModel, layers: int) -> None:
    """Fix the embeddings and the `layers` lowest encoder layers; 0 fixes nothing."""
    if layers:
        for module in (model.base_model.embeddings, *model.base_model.encoder.layer[:layers]):
            module.requires_grad_(False)


def training_arguments(
    settings: "Section", *, folder: Path, seed: int, **changes
) -> TrainingArguments:
    """Arguments for `Trainer`: the profile's hyperparameters on the fastest device at hand.

    Sentences of like length share a batch, several processes share the profile's batch, and
    `changes` go to `TrainingArguments` as they are.

    Raises:
        ValueError: the batch cannot be shared out evenly.
    """
    processes = int(os.environ.get("WORLD_SIZE", 1))  # `accelerate launch` sets it
    if settings.batch_size % processes:
        raise ValueError(f"a batch of {settings.batch_size} is not shared by {processes} processes")
    device = PartialState().device.type
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
        # several processes save their state at the end, so that one process can go on
        "save_strategy": "steps" if settings.checkpoints or processes > 1 else "no",
        "save_steps": 1 / (settings.checkpoints + 1) if settings.checkpoints else 0.9999,
        "save_total_limit": 1,
        "logging_steps": 0.05,
        "bf16": has_bf16(device),
        "use_cpu": device == "cpu",
        "dataloader_pin_memory": device == "cuda",
        "log_level_replica": "error",
        "disable_tqdm": True,
    }
    return TrainingArguments(**arguments | changes)


class _SeededSampler(LengthGroupedSampler):
    """Sentences of like length together, in an order that follows from the seed and the epoch."""

    def __init__(self, trainer: Trainer, sampler: LengthGroupedSampler):
        super().__init__(sampler.batch_size, lengths=sampler.lengths)
        self._trainer = trainer

    def __iter__(self):
        seed = self._trainer.args.seed + int(self._trainer.state.epoch or 0)
        self.generator = torch.Generator().manual_seed(seed)
        return super().__iter__()


class SeededTrainer(Trainer):
    """A `Trainer` whose order of sentences follows from the seed and the epoch alone.

    `Trainer` itself draws the order from the global random state: there, several processes may
    disagree on it, and an interrupted epoch goes on in another order than it began.
    """

    def _get_train_sampler(self, train_dataset=None):
        return _SeededSampler(self, super()._get_train_sampler(train_dataset))


class DistillationTrainer(SeededTrainer):
    """A `Trainer` whose target is the teacher's scores: mean squared error on the logits."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        """Mean, over sentences and classes, of (logit - score) squared; no label enters."""
        scores = inputs.pop("prediction")
        outputs = model(**inputs)
        loss = torch.nn.functional.mse_loss(outputs.logits.float(), scores.float())
        return (loss, outputs) if return_outputs else loss


class _ProgressBar(TrainerCallback):
    """One plain text bar, in a terminal and in a notebook alike."""

    def __init__(self, name: str):
        self._name = name

    def on_train_begin(self, args, state, control, **kwargs):
        done, total = state.global_step, state.max_steps
        self._bar = tqdm(desc=self._name, initial=done, total=total, unit=" steps")

    def on_step_end(self, args, state, control, **kwargs):
        self._bar.update()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "loss" in (logs or {}):
            self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}")

    def on_train_end(self, args, state, control, **kwargs):
        self._bar.close()


def run_training(trainer: Trainer, name: str) -> None:
    """Train, from the last checkpoint on if there is one; with 0 epochs, leave the model as is."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_ProgressBar(name))
    if not trainer.args.num_train_epochs:
        print(f"{name}: taken as it is")
        return
    # `Trainer` writes this file last: with it, a checkpoint is whole
    found = Path(trainer.args.output_dir).glob("checkpoint-*/trainer_state.json")
    steps = max((int(path.parent.name.split("-")[1]) for path in found), default=0)
    last = Path(trainer.args.output_dir, f"checkpoint-{steps}") if steps else None
    if last:
        print(f"{name}: goes on from step {steps}")
    trainer.train(resume_from_checkpoint=last)


def train_model(
    model: PreTrainedModel,
    settings: "Section",
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

    `name` stands before the progress bar, `folder` takes checkpoints, the class of the trainer
    decides on the loss, and `changes` go to `training_arguments`.
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


def fine_tune(
    checkpoint: Path | None,
    architecture: "Section",
    settings: "Section",
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    labels: Sequence[str] = LABELS,
    **options,
) -> Trainer:
    """Train a classifier from a checkpoint on a tokenised dataset; returns the trainer, done.

    The checkpoint is loaded as by `load_classifier`; None stands for weights drawn from the seed.
    `options` are those of `train_model`.

    Raises:
        ValueError: as `load_classifier` and `training_arguments`, or the checkpoint reads other
            word pieces than the tokenizer makes.
    """
    set_seed(seed)
    if checkpoint is None:
        more = dropout_rates(settings.dropout) | {"attn_implementation": "eager"}
        model = untrained_classifier(architecture, seed=seed, labels=labels, **more)
    else:
        if load_tokenizer(checkpoint).get_vocab() != tokenizer.get_vocab():
            raise ValueError(f"{checkpoint} has another vocabulary than the student's tokenizer")
        how = {"finished": settings.epochs == 0, "dropout": settings.dropout}
        model = load_classifier(checkpoint, architecture, labels=labels, **how)
    return train_model(model, settings, dataset, tokenizer, seed=seed, **options)


def without_autocast(model: PreTrainedModel) -> PreTrainedModel:
    """A model without the autocast that `Trainer` puts around its `forward` in mixed precision."""
    return extract_model_from_parallel(model, keep_fp32_wrapper=False)


def collect_rows(
    run: Callable[[dict[str, np.ndarray]], np.ndarray],
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    description: str,
) -> np.ndarray:
    """Call `run` on padded batches and return its rows, FP32 (n, size), in the dataset's order.

    A batch holds `input_ids` and `attention_mask`, int64 (32, longest), the longest first.
    """
    order = np.argsort(-np.asarray(dataset["length"]), kind="stable")
    encoded = dataset.select_columns(["input_ids", "attention_mask"])
    rows = []
    with tqdm(total=len(dataset), desc=description, unit=" sentences") as bar:
        for chosen in np.split(order, range(32, len(order), 32)):
            rows.append(run(dict(tokenizer.pad(encoded[chosen], return_tensors="np"))))
            bar.update(len(chosen))
    return np.concatenate(rows)[np.argsort(order)].astype(np.float32)


def predict_logits(
    model: PreTrainedModel,
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    description: str = "predicting",
    quick: bool = False,
    keep: Path | None = None,
) -> np.ndarray:
    """Logits (n, classes) of a PyTorch classifier, in the dataset's order.

    In FP32 on the device the model lies on. `quick` is for large models and transfer sets: on the
    fastest device, in BF16 where that has it, on a CPU through OpenVINO. Several processes share
    the sentences out, and each gets all the logits. In the folder `keep`, one for this model and
    these sentences alone, they are stored on the way, so that a run that was killed goes on. A
    transfer set that came with scores, in a column `prediction`, has them already.
    """
    if quick and "prediction" in dataset.column_names:
        return np.array(dataset["prediction"], dtype=np.float32)
    model, state = without_autocast(model).eval(), PartialState()
    device = state.device if quick else model.device
    half = quick and has_bf16(device.type)
    compiled = quick and device.type == "cpu"
    run = _compiled(model, half) if compiled else _on_device(model.to(device), half)
    blocks = []
    for start in range(0, len(dataset), _BLOCK):
        stored = keep / f"{start}.npy" if keep else None
        if stored and stored.exists():
            blocks.append(np.load(stored))
            continue
        block = dataset.select(range(start, min(start + _BLOCK, len(dataset))))
        with state.split_between_processes(block) as own:
            done = [collect_rows(run, own, tokenizer, description=description)] if len(own) else []
        blocks.append(np.concatenate(gather_object(done)))
        if stored and state.is_main_process:
            keep.mkdir(parents=True, exist_ok=True)
            np.save(aside := stored.with_name("new.npy"), blocks[-1])
            aside.replace(stored)
    return np.concatenate(blocks)


def _on_device(model: PreTrainedModel, half: bool) -> Callable:
    """A classifier as a function from a batch to logits, with `half` under BF16 autocast."""

    def run(batch):
        inputs = {key: torch.as_tensor(rows).to(model.device) for key, rows in batch.items()}
        mixed = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=half)
        with torch.inference_mode(), mixed:
            return model(**inputs).logits.float().cpu().numpy()

    return run


def _compiled(model: PreTrainedModel, half: bool) -> Callable:
    """The same, compiled on the CPU with OpenVINO."""
    names = ("input_ids", "attention_mask")
    with warnings.catch_warnings(action="ignore"):
        example = {name: torch.ones((2, 8), dtype=torch.int64) for name in names}
        converted = ov.convert_model(model, example_input=example)
    settings = {"INFERENCE_PRECISION_HINT": "bf16" if half else "f32"}
    settings["INFERENCE_NUM_THREADS"] = torch.get_num_threads()
    compiled = ov.compile_model(converted, "CPU", settings)
    return lambda batch: compiled([batch[name] for name in names])[0]
