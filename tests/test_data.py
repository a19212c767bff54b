import lzma
import random

import pytest

from helpers.assets import locate
from helpers.data import load_data, load_text, normalised, read_movie_reviews, split_by_hash
from helpers.profile import load_profile


def keys(rows):
    return {normalised(sentence) for sentence, _ in rows}


def test_no_sentence_is_in_two_splits_however_it_is_written():
    words = ["good", "bad", "film", "plot", "acting", "never", "quite", "works"]
    rng = random.Random(0)
    base = [" ".join(rng.choices(words, k=6)) for _ in range(500)]
    variants = base + [s.upper() + " !" for s in base] + [s.replace(" ", "  ") for s in base]
    splits = split_by_hash([(s, 1) for s in variants], 0.2, 0.1)
    train, dev, test = (keys(splits[name]) for name in ("train", "dev", "test"))
    assert not train & dev and not train & test and not dev & test
    assert train | dev | test == keys([(s, 1) for s in base])
    assert sum(map(len, splits.values())) == len(train | dev | test)


def test_a_sentence_stays_in_its_split_when_others_are_added():
    before = split_by_hash([(f"sentence number {i}", i % 2) for i in range(300)], 0.2, 0.1)
    after = split_by_hash([(f"sentence number {i}", i % 2) for i in range(900)], 0.2, 0.1)
    for name, rows in before.items():
        assert set(rows) <= set(after[name])


def test_contradicting_labels_drop_the_sentence():
    splits = split_by_hash([("Fine.", 1), ("fine", 0), ("great", 1), ("GREAT!", 1)], 0.2, 0.1)
    assert [row for rows in splits.values() for row in rows] == [("great", 1)]


def test_shares_are_met_and_classes_mixed_in_order():
    rows = [(f"positive {i}", 1) for i in range(3000)] + [(f"negative {i}", 0) for i in range(3000)]
    splits = split_by_hash(rows, 0.22, 0.10)
    assert len(splits["test"]) / 6000 == pytest.approx(0.22, abs=0.02)
    assert len(splits["dev"]) / 6000 == pytest.approx(0.10, abs=0.02)
    first = [label for _, label in splits["train"][:500]]
    assert 0.4 < sum(first) / len(first) < 0.6


def test_the_default_data_is_what_the_readme_says():
    profile = load_profile("laptop")
    rated = read_movie_reviews(locate(profile.data.source) / "sentences.tsv")
    assert len(rated) == 10_605
    assert all(-4 <= rating <= 4 for _, rating in rated)
    data = load_data(profile.data)
    assert data["test"].num_rows >= 2_000
    ratings = dict(rated)
    for row in data["dev"]:
        assert row["label"] == int(ratings[row["sentence"]] > 0)
        assert abs(ratings[row["sentence"]]) >= profile.data.min_rating


def test_unlabelled_text_is_read_plain_and_compressed(tmp_path):
    text = "a fine film\n\n  \nnaïve — but fine\n"
    (tmp_path / "plain.txt").write_text(text, encoding="utf-8")
    with lzma.open(tmp_path / "packed.txt.xz", "wt", encoding="utf-8") as stream:
        stream.write(text)
    for name in ("plain.txt", "packed.txt.xz"):
        assert load_text(tmp_path / name)["sentence"][:] == ["a fine film", "naïve — but fine"]


def test_text_that_cannot_be_read_is_explained(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        load_text(tmp_path / "none.txt")
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="holds no sentence"):
        load_text(tmp_path / "blank.txt")
    (tmp_path / "latin.txt").write_bytes(b"na\xefve\n")
    with pytest.raises(ValueError, match="cannot be read as UTF-8"):
        load_text(tmp_path / "latin.txt")
