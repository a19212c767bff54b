"""Profiles: everything that differs between two runs, declared together and checked on loading.

A profile is a TOML file in `profiles/`; no code asks for its name. The default profile is the
schema: `default.toml` states every setting with its meaning, and a setting's type follows from the
value there. Another profile may `extend` it, and the environment variable SET changes single
settings for one run: `SET="name=trial seed=7 teacher.frozen_layers=0"`. Neither can add a setting.
"""

import json
import os
import re
import shlex
import tomllib
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from helpers.tutorial.setup import ROOT, TutorialError

DEFAULT = "default"
_FOLDER = ROOT / "profiles"

# Settings with these names hold what a run takes from outside: an asset's name, a repository on the
# hub, or a path; "" for none. `helpers.tutorial.sources.locate` turns one into a folder or file.
_FROM_OUTSIDE = {"source", "train", "model", "checkpoint", "start", "text"}
# What a table with a learning rate, which is a training, has where it does not state it.
_TRAINING = {"start": "", "dropout": None, "checkpoints": 0}
_CHOICES = {
    "baseline.weights": Literal["untrained", "teacher"],
    "pretraining.objective": Literal["both", "hidden_states", "masked_words"],
    "transfer.scores": Literal["teacher", "stored"],
}
# By the end of a setting's full name; all other whole numbers are positive, all others 0 or more.
_LIMITS = {
    r"_share|_probability|_loss|precision|confidence": {"ge": 0, "lt": 1},
    r"warmup|dropout|masked|cuts\.\w+": {"ge": 0, "lt": 1},
    r"agreement|top_p": {"ge": 0, "le": 1},
    r"learning_rates?|temperature": {"gt": 0},
    r"seed|labels|threads|epochs|checkpoints|copies|frozen_layers": {"ge": 0},
    r"data\.\w+_sentences|(transfer|distillation|compression|pretraining)\.sentences": {"ge": 0},
    r"max_length": {"ge": 8, "le": 512},  # BERT has 512 positions
    r"starts|\.(sweep_)?rounds": {"ge": 2},  # one has no interval
}


class ProfileError(TutorialError):
    """A profile that does not exist or does not validate; the message says what to change."""


class Section(BaseModel):
    """A table of a profile; its settings are attributes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def references(self, *settings: str) -> dict[str, str]:
        """The references in these settings, or in all of them, by their full names."""
        found = {}
        for name in settings or type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Section):
                found |= {f"{name}.{inner}": ref for inner, ref in value.references().items()}
            elif name in _FROM_OUTSIDE and value:
                found[name] = value
        return found


class Profile(Section):
    """One profile; the settings of `default.toml` are added to these when one is loaded."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", coerce_numbers_to_str=True)]
    base: str = DEFAULT  # the file it was loaded from
    changes: str = ""  # what SET changed, as it was given

    @model_validator(mode="after")
    def _fits_together(self):
        for part in (self.baseline, self.teacher, self.student):
            hidden, heads = part.architecture.hidden, part.architecture.heads
            if hidden % heads:
                raise ValueError(f"hidden {hidden} is not a multiple of heads {heads}")
        shape = self.teacher.architecture
        if self.teacher.frozen_layers > shape.layers:
            raise ValueError(f"teacher.frozen_layers is over its {shape.layers} layers")
        differs = self.baseline.architecture.model_dump() != shape.model_dump()
        if self.baseline.weights == "teacher" and differs:
            raise ValueError("baseline.weights is the teacher's, whose architecture differs")
        if self.transfer.scores == "stored" and self.transfer.training_sentences:
            remedy = "set transfer.training_sentences=false"
            raise ValueError(f"training sentences have no stored scores: {remedy}")
        if not (self.transfer.source or self.transfer.training_sentences):
            raise ValueError("transfer has no sentences: name a transfer.source")
        states = self.pretraining.hidden_states
        pairs = (states.teacher_layers, states.student_layers, states.layer_weights)
        if len(set(map(len, pairs))) > 1:
            raise ValueError("teacher_layers, student_layers and layer_weights differ in length")
        return self


@cache
def _schema() -> type[Profile]:
    """The class of all profiles: a field for each setting of the default profile."""
    return _make_section("", _read(DEFAULT, _FOLDER), base=Profile)


def _make_section(name: str, settings: dict[str, Any], base: type = Section) -> type[Section]:
    prefix = f"{name}." if name else ""
    fields = {key: (_type_of(prefix + key, value), ...) for key, value in settings.items()}
    if "learning_rate" in settings:
        defaults = {key: (_type_of(key, value), value) for key, value in _TRAINING.items()}
        fields = defaults | fields
    return create_model(name or base.__name__, __base__=base, **fields)


def _type_of(name: str, value: Any) -> Any:
    """The type of the setting with this full name and this default."""
    if name in _CHOICES:
        return _CHOICES[name]
    if isinstance(value, dict):
        return _make_section(name, value)
    if isinstance(value, list):
        item = _type_of(name, value[0] if value else "")
        return Annotated[list[item], Field(min_length=min(1, len(value)))]
    if value is None:
        return _type_of(name, 0.0) | None
    if isinstance(value, bool | str):
        return Annotated[type(value), Field(strict=True)]
    limits = {"ge": 1} if isinstance(value, int) else {"ge": 0}
    for ending, others in _LIMITS.items():
        if re.search(f"({ending})$", name):
            limits = others
    return Annotated[type(value), Field(strict=True, allow_inf_nan=False, **limits)]


def known_profiles(folder: Path = _FOLDER) -> list[str]:
    """Names of the profiles in `folder`, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load_profile(name: str = "", *, folder: Path = _FOLDER) -> Profile:
    """Load the profile called `name`, or else the one the environment variable PROFILE names.

    Raises:
        ProfileError: the name is unknown, or the file or the environment variable SET holds a
            missing, misspelt or impossible setting; the message names it.
    """
    name = name or os.environ.get("PROFILE") or DEFAULT
    changes = os.environ.get("SET", "").strip()
    settings = {"name": name} | _merged(_read(name, folder), _parse_changes(changes))
    try:
        return _schema()(**{"base": name, "changes": changes} | settings)
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
        words = shlex.shlex(changes, posix=True)
        words.whitespace_split, words.escape, words.commenters = True, "", ""  # as in C:\reviews
        for pair in words:
            key, _, text = pair.partition("=")
            try:
                change = tomllib.loads(f"{key} = {text}")
            except tomllib.TOMLDecodeError:
                change = tomllib.loads(f"{key} = {json.dumps(text, ensure_ascii=False)}")
            parsed = _merged(parsed, change)
    except ValueError as error:
        raise ProfileError(f"SET: {error}; its form is section.key=value") from None
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
