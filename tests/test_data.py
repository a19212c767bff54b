import json
import lzma
import random
from pathlib import Path

import datasets
import pandas as pd
import pytest
from datasets import Dataset

from helpers.data import (
    LABELS,
    class_names,
    load_data,
    load_labelled,
    load_text,
    load_transfer,
    normalised,
    read_movie_reviews,
    split_by_hash,
    tokenize,
    training_sentences,
)
from helpers.tutorial.profile import load_profile
from helpers.tutorial.sources import locate


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
    settings = load_profile("default").data
    rated = dict(rows := read_movie_reviews(locate(settings.source) / "sentences.tsv"))
    assert len(rows) == 10_605
    assert all(-4 <= rating <= 4 for rating in rated.values())
    data = load_data(locate(settings.source), settings)
    assert class_names(data) == LABELS and data["test"].num_rows >= 2_000
    for row in data["dev"]:
        assert row["label"] == int(rated[row["sentence"]] > 0)
        assert abs(rated[row["sentence"]]) >= settings.min_rating


def test_unlabelled_text_is_read_plain_and_compressed(tmp_path):
    text = "a fine film\n\n  \nnaïve — but fine\n"
    (tmp_path / "plain.txt").write_text(text, encoding="utf-8")
    with lzma.open(tmp_path / "packed.txt.xz", "wt", encoding="utf-8") as stream:
        stream.write(text)
    for name in ("plain.txt", "packed.txt.xz"):
        assert load_text(tmp_path / name)["sentence"][:] == ["a fine film", "naïve — but fine"]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("blank.txt", b"\n \n", "holds no sentence"),
        ("latin.txt", b"na\xefve\n", "can't decode byte 0xef .*save it as UTF-8"),
        ("words.xlsx", b"", "cannot be read; known are .csv"),
        ("missing.txt", None, "holds no .csv"),
    ],
)
def test_text_that_cannot_be_read_is_explained(tmp_path, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        load_text(tmp_path / name)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Arrow files of these tests go with them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def write_lines(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps({"text": s, "label": n}) + "\n" for s, n in rows))


def load(source, *, train=None, labels=0, seed=0, **changes):
    settings = load_profile("default").data.model_copy(update={"source": str(source), **changes})
    return load_data(source, settings, train=train, labels=labels, seed=seed)


def numbers(rows):
    """The numbers that sentences such as "train 7" end with, in order."""
    return sorted(int(sentence.split()[-1]) for sentence in rows["sentence"])


def some(count, word):
    return [(f"{word} {i}", i % 2) for i in range(count)]


def test_published_splits_are_kept_less_what_is_held_out(tmp_path):
    folder = tmp_path / "sst2"
    leaked = [("DEV  7!", 1), ("test 3", 1)]
    write_lines(folder / "train.jsonl", some(200, "train") + leaked)
    write_lines(folder / "dev.jsonl", some(30, "dev"))
    write_lines(folder / "test.jsonl", some(40, "test"))
    data = load(folder)
    assert data["dev"]["sentence"][:] == [f"dev {i}" for i in range(30)]
    assert data["test"]["label"][:] == [i % 2 for i in range(40)]
    assert set(data["labelled"]["sentence"]) == {f"train {i}" for i in range(200)}


def test_lacking_splits_are_taken_out_of_the_training_sentences(tmp_path):
    (tmp_path / "mine.csv").write_text(
        "sentence,label\n" + "".join(f'"one, {i}",{i % 2}\n' for i in range(400))
    )
    data = load(tmp_path / "mine.csv")
    split = {name: set(rows["sentence"]) for name, rows in data.items()}
    assert len(set.union(*split.values())) == sum(map(len, split.values())) == 400
    assert 50 < len(split["test"]) < 130 and 15 < len(split["dev"]) < 70


def test_a_split_whose_labels_are_hidden_is_passed_over(tmp_path):
    write_lines(tmp_path / "train.jsonl", some(20, "train"))
    write_lines(tmp_path / "test.jsonl", [(f"test {i}", -1) for i in range(5)])
    assert set(load_labelled(tmp_path)) == {"train"}


def test_training_sentences_may_come_from_another_source(tmp_path):
    write_lines(tmp_path / "phrases.jsonl", [*some(50, "phrase"), ("dev 1", 0)])
    for split in ("train", "dev", "test"):
        write_lines(tmp_path / f"sst2/{split}.jsonl", some(20, split))
    data = load(tmp_path / "sst2", train=tmp_path / "phrases.jsonl")
    assert set(data["labelled"]["sentence"]) == {f"phrase {i}" for i in range(50)}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("sentence,mark\nfine,1\n", "has no column 'label'; it has"),
        ("words,label\nfine,1\n", "has no column 'sentence' or 'text'"),
        ("sentence,label\nfine,1\n,0\n  ,1\n", "train: 2 rows have no sentence: 2, 3"),
        ("sentence,label\nfine,1\nbad,\n", "train: 1 rows have no label: 2"),
        ("sentence,label\nfine,1\nbad,no\n", "numbers in some rows and names in others"),
        ("sentence,label\nna\u00efve,1\n", "can't decode byte 0xef .*save it as UTF-8"),
    ],
)
def test_labelled_data_that_does_not_fit_is_explained(tmp_path, content, complaint):
    (tmp_path / "mine.csv").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=complaint):
        load_labelled(tmp_path / "mine.csv")


def write_csv(path, rows):
    pd.DataFrame(rows, columns=["sentence", "label"]).to_csv(path, index=False)


def test_numbers_are_no_sentiments_unless_the_profile_says_so(tmp_path):
    write_csv(tmp_path / "spam.csv", some(300, "mail"))
    assert class_names(load(tmp_path / "spam.csv")) == ("0", "1")
    named = load(tmp_path / "spam.csv", class_names=["ham", "spam"])
    assert class_names(named) == ("ham", "spam")
    assert all(row["label"] == int(row["sentence"].split()[1]) % 2 for row in named["test"])
    with pytest.raises(ValueError, match=r"has 2 classes, data.class_names 3"):
        load(tmp_path / "spam.csv", class_names=["ham", "spam", "other"])


def test_few_keep_their_label_and_the_others_are_text_alone(tmp_path):
    write_csv(tmp_path / "mine.csv", sorted(some(400, "one"), key=lambda row: row[1]))
    whole = load(tmp_path / "mine.csv")
    assert len(whole["unlabelled"]) == 0 and whole["unlabelled"].column_names == ["sentence"]
    draws = [load(tmp_path / "mine.csv", labels=60, seed=seed) for seed in (0, 0, 1)]
    chosen = [set(draw["labelled"]["sentence"]) for draw in draws]
    assert chosen[0] == chosen[1] != chosen[2]
    for draw in draws:
        assert len(draw["labelled"]) == 60 and draw["unlabelled"].column_names == ["sentence"]
        assert 15 < sum(draw["labelled"]["label"]) < 45  # though the file is sorted by label
        assert numbers(training_sentences(draw)) == numbers(whole["labelled"])
        assert draw["dev"]["sentence"][:] == whole["dev"]["sentence"][:]
    more = load(tmp_path / "mine.csv", labels=90)
    assert more["labelled"]["sentence"][:60] == draws[0]["labelled"]["sentence"][:]


@pytest.mark.parametrize(
    ("named", "classes"),
    [(["good", "bad", "so-so"], ("bad", "good", "so-so")), ([5, 4, 3, 2, 1], tuple("12345"))],
)
def test_classes_may_be_many_and_keep_their_order(tmp_path, named, classes):
    write_csv(tmp_path / "mine.csv", [(f"NA {i}", named[i % len(named)]) for i in range(300)])
    data = load(tmp_path / "mine.csv")
    assert class_names(data) == classes
    for split in ("labelled", "dev", "test"):
        for row in data[split]:
            number = int(row["sentence"].split()[1])
            assert classes[row["label"]] == str(named[number % len(named)])


def test_words_that_pandas_takes_for_nothing_are_words(tmp_path):
    write_csv(tmp_path / "mine.csv", [("NA", "null"), ("None", "nan"), ("fine", "null")])
    assert load_labelled(tmp_path / "mine.csv")["train"][:2] == [("NA", "null"), ("None", "nan")]


@pytest.mark.parametrize(
    ("files", "labels", "complaint"),
    [
        ({"train": [("fine", "good")] * 9}, 0, "no sentence is left for"),
        ({"train": [(f"fine {i}", "good") for i in range(100)]}, 0, "have one label, 'good'"),
        (
            {"train": some(50, "one"), "test": [("two", 0), ("three", 7)]},
            0,
            "test has labels training lacks: 7",
        ),
        (
            {"train": [(f"one {i}", "ab"[i % 100 == 0]) for i in range(900)]},
            5,
            r"no labelled sentence of b: raise data.labels \(5\)",
        ),
        ({}, 0, "holds no .csv, .tsv, .json"),
    ],
)
def test_what_cannot_be_learnt_or_tested_is_refused(tmp_path, files, labels, complaint):
    (tmp_path / "mine").mkdir()
    for name, rows in files.items():
        write_csv(tmp_path / f"mine/{name}.csv", rows)
    with pytest.raises(ValueError, match=complaint):
        load(tmp_path / "mine", labels=labels)


def test_what_is_in_two_splits_or_twice_is_left_out_with_a_warning(tmp_path):
    write_csv(tmp_path / "train.csv", [*some(50, "train"), ("TEST 1", 1), ("dev 3 !", 1)])
    write_csv(tmp_path / "dev.csv", [*some(20, "dev"), ("test 5.", 1)])
    write_csv(tmp_path / "test.csv", some(20, "test"))
    with pytest.warns(UserWarning) as warned:
        data = load(tmp_path)
    messages = "\n".join(str(warning.message) for warning in warned)
    assert "2 sentences of train are held out" in messages
    assert "1 sentences of dev are held out" in messages
    assert [len(data[name]) for name in ("labelled", "dev", "test")] == [50, 20, 20]
    write_csv(tmp_path / "mine.csv", [*some(200, "one"), ("ONE 3", 1), ("one 4", 1)])
    with pytest.warns(UserWarning, match="3 rows repeat a sentence"):
        load(tmp_path / "mine.csv")


def transfer(tmp_path, name, **changes):
    write_csv(tmp_path / "mine.csv", some(100, "one"))
    data = load(tmp_path / "mine.csv", labels=20)
    settings = load_profile("default").transfer
    changes = {"source": str(tmp_path / name), "training_sentences": False} | changes
    return data, load_transfer(data, settings.model_copy(update=changes), Path)


def test_a_transfer_set_adds_a_source_and_keeps_its_scores_or_not(tmp_path):
    write_csv(tmp_path / "mine.csv", some(100, "one"))
    held_out = load(tmp_path / "mine.csv")["test"][0]["sentence"]
    rows = {"sentence": ["two 1", held_out.upper(), "two 2"], "label": [0, 1, 1]}
    Dataset.from_dict(rows | {"prediction": [[1.5, -1.5], [0.0, 0.25], [-1.0, 1.0]]}).to_parquet(
        tmp_path / "scored.parquet"
    )
    _, stored = transfer(tmp_path, "scored.parquet", scores="stored")
    assert stored["sentence"][:] == ["two 1", "two 2"]
    assert stored["prediction"][:] == [[1.5, -1.5], [-1.0, 1.0]]
    with pytest.raises(ValueError, match="training sentences have no stored scores"):
        transfer(tmp_path, "scored.parquet", scores="stored", training_sentences=True)
    data, both = transfer(tmp_path, "scored.parquet", training_sentences=True)
    assert both["sentence"][:-2] == training_sentences(data)["sentence"][:]
    _, bare = transfer(tmp_path, "scored.parquet", sentences=1)
    assert bare.column_names == ["sentence"] and bare["sentence"][:] == ["two 1"]
    (tmp_path / "plain.txt").write_text("three\nfour\n")
    assert transfer(tmp_path, "plain.txt")[1]["sentence"][:] == ["three", "four"]
    with pytest.raises(ValueError, match="no column 'prediction'"):
        transfer(tmp_path, "plain.txt", scores="stored")


def test_memory_mapped_sentences_are_tokenised_once(tmp_path, tokenizer):
    (tmp_path / "plain.txt").write_text("a fine film\na dull film\n")
    encoded = [tokenize(load_text(tmp_path / "plain.txt"), tokenizer, 64) for _ in range(2)]
    assert encoded[0]["length"][:] == [5, 5]
    files = [[file["filename"] for file in each.cache_files] for each in encoded]
    assert files[0] and files[0] == files[1]
