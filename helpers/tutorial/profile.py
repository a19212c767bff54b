"""Profiles: everything that differs between two runs, declared together and validated on loading.

A profile is a TOML file in `profiles/`. It holds data, models, architectures and hyperparameters;
no code asks for a profile's name. A profile may `extend` another and state only what differs, and
the environment variable SET changes single settings for one run: `SET="name=trial seed=7
teacher.frozen_layers=0"`. Results go by the profile's name, so a trial with a name of its own
leaves the others alone. What each setting means stands beside it in `profiles/laptop.toml`.
"""

import os
import shlex
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = "laptop"

Share = Annotated[float, Field(gt=0, lt=1)]
Portion = Annotated[float, Field(ge=0, lt=1)]  # a share that may be 0
Rate = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Counts = Annotated[list[Count], Field(min_length=1)]
Positives = Annotated[list[Positive], Field(min_length=1)]
Rates = Annotated[list[Rate], Field(min_length=1)]
Weights = Annotated[list[Weight], Field(min_length=1)]

# What a run takes from outside: an asset's name, a repository on the hub, or a path; "" for none.
# `helpers.tutorial.sources.locate` turns one into a folder or file, so SET can replace any of them.
_FROM_OUTSIDE = object()
Reference = Annotated[str, _FROM_OUTSIDE]


class ProfileError(ValueError):
    """A profile that does not exist or does not validate; the message says what to change."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def references(self, *settings: str) -> dict[str, str]:
        """The references in these settings, or in all of them, by their full names."""
        found = {}
        for name in settings or type(self).model_fields:
            value = getattr(self, name)
            if _FROM_OUTSIDE in type(self).model_fields[name].metadata and value:
                found[name] = value
            elif isinstance(value, _Section):
                found |= {f"{name}.{inner}": ref for inner, ref in value.references().items()}
        return found


class Architecture(_Section):
    """Shape of a BERT-type encoder."""

    layers: Positive
    hidden: Positive
    heads: Positive
    intermediate: Positive
    vocabulary: Positive

    @model_validator(mode="after")
    def _heads_divide_hidden(self):
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        return self


class Training(_Section):
    """Hyperparameters of one training.

    `start` is where the weights come from, if not from the section's own model; with 0 epochs they
    are taken as they are, head included. `warmup` is a share of the steps; `dropout` replaces the
    model's own where it is given. With `checkpoints`, the state is saved that many times on the
    way, and a run that was interrupted goes on from the last.
    """

    start: Reference = ""
    epochs: Count
    learning_rate: Rate
    batch_size: Positive
    weight_decay: Weight
    warmup: Portion
    dropout: Portion | None = None
    checkpoints: Count = 0


class Data(_Section):
    """Where the sentences come from and how they are split; a limit of 0 takes all.

    Splits that the source brings are kept; the shares are of those it lacks. `train` may name
    another source for the training sentences alone. Of these, `labels` keep their label; the
    others are the unlabelled text that only a teacher can make use of. `class_names` name classes
    that are numbers in the source.
    """

    source: Reference
    train: Reference = ""
    class_names: list[str] = []
    labels: Count
    min_rating: Annotated[float, Field(ge=0, le=4)]
    test_share: Share
    dev_share: Share
    train_sentences: Count
    test_sentences: Count


class Baseline(_Section):
    """The model all speedups are measured against, untrained or with the teacher's weights."""

    name: str
    architecture: Architecture
    weights: Literal["untrained", "teacher"]


class Teacher(_Section):
    """The large model: where it comes from, its shape, and how it is fine-tuned."""

    model: Reference
    architecture: Architecture
    frozen_layers: Count
    training: Training

    @model_validator(mode="after")
    def _something_trains(self):
        if self.frozen_layers > self.architecture.layers:
            raise ValueError(f"frozen_layers is over the model's {self.architecture.layers} layers")
        return self


class Student(_Section):
    """The small model: trained on the gold labels, and on the teacher's scores."""

    name: str
    checkpoint: Reference
    architecture: Architecture
    gold: Training
    distil: Training


class Transfer(_Section):
    """Sentences to distil on besides the training sentences, scored by the teacher or "stored"."""

    source: Reference
    scores: Literal["teacher", "stored"]
    sentences: Count
    training_sentences: bool


class Augmentation(_Section):
    """Perturbed copies of sentences, after Tang et al. 2019."""

    copies: Count
    mask_probability: Share
    pos_probability: Share
    ngram_probability: Share
    longest_ngram: Positive


class Generation(_Section):
    """Sentences that a causal language model writes after labelled examples; "" for none."""

    model: Reference
    sentences: Positive
    examples: Positive
    longest: Positive
    temperature: Rate
    top_p: Annotated[float, Field(gt=0, le=1)]
    confidence: Portion


class Distillation(_Section):
    """The curves of "distillation in depth": each budget of labels is drawn `draws` times."""

    budgets: Positives
    draws: Positive
    augmentation: Augmentation
    generation: Generation


class HiddenStates(_Section):
    """Pretraining on a large encoder's hidden states: general distillation.

    Layers count from 1 and pair up in order; a weight of 0 leaves a pair out.
    """

    teacher: Reference
    teacher_layers: Positives
    student_layers: Positives
    layer_weights: Weights
    pooled_weight: Weight
    masked: Portion
    principal_components: bool
    training: Training

    @model_validator(mode="after")
    def _layers_pair_up(self):
        if not len(self.teacher_layers) == len(self.student_layers) == len(self.layer_weights):
            raise ValueError("teacher_layers, student_layers and layer_weights differ in length")
        return self


class MaskedWords(_Section):
    """Pretraining on masked words alone, without a teacher; `masked` is their share."""

    masked: Share
    training: Training


class Pretraining(_Section):
    """How an encoder is pretrained (optional), and how often it is fine-tuned in the comparison."""

    objective: Literal["both", "hidden_states", "masked_words"]
    text: Reference
    seeds: Positive
    learning_rates: Rates
    hidden_states: HiddenStates
    masked_words: MaskedWords


class Quantization(_Section):
    """Post-training quantization; `max_accuracy_loss` is relative, on the dev sentences."""

    calibration_sentences: Positive
    max_accuracy_loss: Share
    study_sentences: Positives
    trials: Positive


class Cut(_Section):
    """Shares of the heads and of the neurons that pruning removes, of all layers together."""

    heads: Share
    neurons: Share


class Compression(_Section):
    """Pruning, architecture search and quantization-aware training of the student (optional).

    `prune` trains while heads and neurons go, `recover` what is left; the search tries `trials`
    shapes, each trained as `search` says.
    """

    seeds: Positive
    sentences: Count
    aware_sentences: Positive
    cuts: Annotated[list[Cut], Field(min_length=1)]
    trials: Positive
    prune: Training
    recover: Training
    search: Training
    aware: Training


class Benchmark(_Section):
    """How long and at which sizes the CPU benchmark runs; a thread count of 0 is every core.

    A row is timed if it gives FP32's label for a share `agreement` of the test sentences. In a
    round each row has a block of calls of at least `block_ms` milliseconds on the same
    `sentences_per_block` sentences. There are `rounds` at most, fewer once the headline ratios are
    known to `precision`, a share of their value. Notebook 08 repeats the headlines over `starts`
    fresh starts; `lengths` and `batches` are the sizes of its sweeps, of `sweep_rounds` rounds.
    """

    sequence_length: Positive
    sentences: Positive
    agreement: Annotated[float, Field(gt=0, le=1)]
    warmup_rounds: Positive
    rounds: Positive
    precision: Share
    sentences_per_block: Positive
    block_ms: Positive
    threads: Counts
    starts: Annotated[int, Field(ge=2)]
    sweep_rounds: Positive
    lengths: Positives
    batches: Positives


class Profile(_Section):
    """One profile."""

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    description: str
    base: str = DEFAULT  # the file it was loaded from
    changes: str = ""  # what SET changed, as it was given
    seed: Count
    max_length: Annotated[int, Field(ge=8, le=512)]
    data: Data
    baseline: Baseline
    pretraining: Pretraining
    teacher: Teacher
    student: Student
    transfer: Transfer
    distillation: Distillation
    quantization: Quantization
    compression: Compression
    benchmark: Benchmark

    @model_validator(mode="after")
    def _the_baseline_fits_its_weights(self):
        same = self.baseline.architecture == self.teacher.architecture
        if self.baseline.weights == "teacher" and not same:
            raise ValueError("baseline.weights is the teacher's, whose architecture differs")
        return self


def known_profiles(folder: Path = ROOT / "profiles") -> list[str]:
    """Names of the profiles in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_profile(name: str = "", *, folder: Path = ROOT / "profiles") -> Profile:
    """Load the profile called `name`, or else the one the environment variable PROFILE names.

    Raises:
        ProfileError: the name is unknown (the message lists the known ones), or the file or the
            environment variable SET holds a missing, misspelt or impossible setting (the message
            names it).
    """
    name = name or os.environ.get("PROFILE") or DEFAULT
    changes = os.environ.get("SET", "").strip()
    settings = {"name": name} | _merged(_read(name, folder), _parse_changes(changes))
    try:
        return Profile(**{"base": name, "changes": changes} | settings)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'profile'}: {e['msg']}" for e in error.errors()
        )
        source = f"profiles/{name}.toml" + (f" with SET={changes!r}" if changes else "")
        raise ProfileError(f"{source}: {wrong}") from None


def _parse_changes(changes: str) -> dict[str, Any]:
    """Read `section.key=value` pairs with blanks between them; a value is TOML, or else text."""
    parsed: dict[str, Any] = {}
    try:
        pairs = shlex.split(changes)
    except ValueError as error:
        raise ProfileError(f"SET: {error}") from None
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not all(key.split(".")):
            raise ProfileError(f"SET: {pair!r} is not of the form section.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        for part in reversed(key.split(".")):
            value = {part: value}
        parsed = _merged(parsed, value)
    return parsed


def _read(name: str, folder: Path) -> dict[str, Any]:
    if name not in known_profiles(folder):
        known = ", ".join(known_profiles(folder))
        raise ProfileError(f"no profile is called {name!r}; known profiles: {known}")
    try:
        settings = tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"profiles/{name}.toml is not valid TOML: {error}") from None
    parent = settings.pop("extends", None)
    return _merged(_read(parent, folder), settings) if parent else settings


def _merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merged(base[key], value) if both else value
    return merged
