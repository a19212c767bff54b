"""Sentences and labels: reading, splitting without leaks, tokenising."""

import csv
import hashlib
import re
import unicodedata
from pathlib import Path

from datasets import Dataset, DatasetDict, disable_progress_bars, load_dataset
from datasets.exceptions import DatasetGenerationError
from transformers import PreTrainedTokenizerBase

from helpers.assets import fetch_asset
from helpers.augment import MASK
from helpers.profile import Data

disable_progress_bars()  # of seconds' work; they would litter the notebooks

LABELS = ("negative", "positive")
SPLITS = ("train", "dev", "test")


def load_data(settings: Data) -> DatasetDict:
    """Return the profile's sentences as `train`, `dev` and `test`.

    Columns: `sentence` (str) and `label` (0 negative, 1 positive). Source: the movie-review
    sentences of Hutto and Gilbert 2014, each with the mean of 20 ratings from -4 to 4; the sign
    of the mean is the label, and means nearer to 0 than `min_rating` are left out.
    """
    rated = read_movie_reviews(fetch_asset(settings.source) / "sentences.tsv")
    labelled = [(s, int(rating > 0)) for s, rating in rated if abs(rating) >= settings.min_rating]
    splits = split_by_hash(labelled, settings.test_share, settings.dev_share)
    limits = {"train": settings.train_sentences, "test": settings.test_sentences}
    return DatasetDict(
        {
            name: Dataset.from_dict(
                {
                    "sentence": [sentence for sentence, _ in rows][: limits.get(name) or None],
                    "label": [label for _, label in rows][: limits.get(name) or None],
                }
            )
            for name, rows in splits.items()
        }
    )


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
    """Add `input_ids` and `attention_mask`, cut at `max_length` word pieces and not padded.

    The augmentation's mask becomes the tokenizer's own mask token.
    """

    def encode(batch):
        sentences = [s.replace(MASK, tokenizer.mask_token) for s in batch["sentence"]]
        return tokenizer(
            sentences, truncation=True, max_length=max_length, return_token_type_ids=False
        )

    return data.map(encode, batched=True, load_from_cache_file=False)
