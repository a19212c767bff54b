import json
import lzma
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
    read_movie_reviews,
    split_by_hash,
    training_sentences,
)
from helpers.tutorial.profile import load_profile
from helpers.tutorial.sources import locate

SHARES = {"test": 0.22, "dev": 0.10}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Arrow files of these tests go with them."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def some(count, word):
    return [(f"{word} {i}", i % 2) for i in range(count)]


def write_csv(path, rows):
    path.parent.mkdir(exist_ok=True)
    pd.DataFrame(rows, columns=["sentence", "label"]).to_csv(path, index=False)


def load(source, *, labels=0, seed=0, **changes):
    settings = load_profile("default").data.model_copy(update={"source": str(source), **changes})
    return load_data(settings, Path, labels=labels, seed=seed)


def test_no_sentence_is_in_two_splits_however_it_is_written_and_contradictions_are_dropped():
    base = [f"good film number {i}" for i in range(500)]
    variants = base + [s.upper() + " !" for s in base] + [s.replace(" ", "  ") for s in base]
    rows = [(sentence, 1) for sentence in variants] + [("Fine.", 1), ("fine", 0)]
    splits = split_by_hash(rows, SHARES)
    assert sorted(sentence for rows in splits.values() for sentence, _ in rows) == sorted(base)


def test_shares_are_met_classes_are_mixed_and_more_rows_move_none():
    rows = sorted(some(6000, "review"), key=lambda row: row[1])
    splits = split_by_hash(rows, SHARES)
    assert len(splits["test"]) / 6000 == pytest.approx(0.22, abs=0.02)
    assert len(splits["dev"]) / 6000 == pytest.approx(0.10, abs=0.02)
    assert 200 < sum(label for _, label in splits["train"][:500]) < 300
    for name, fewer in split_by_hash(rows[::3], SHARES).items():
        assert set(fewer) <= set(splits[name])


def test_the_default_data_is_what_the_readme_says():
    settings = load_profile("default").data
    rated = dict(rows := read_movie_reviews(locate(settings.source) / "sentences.tsv"))
    assert len(rows) == 10_605
    assert all(-4 <= rating <= 4 for rating in rated.values())
    data = load_data(settings, locate)
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
        ("blank.txt", "\n \n", "holds no sentence"),
        ("latin.txt", "na\u00efve\n", "can't decode byte 0xef .*save it as UTF-8"),
        ("words.xlsx", "", "cannot be read; known are .csv"),
        ("missing.txt", None, "holds no .csv"),
        ("a.csv", "sentence,mark\nfine,1\n", "has no column 'label'; it has"),
        ("a.csv", "words,label\nfine,1\n", "has no column 'sentence' or 'text'"),
        ("a.csv", "sentence,label\nfine,1\n,0\n  ,1\n", "train: 2 rows have no sentence: 2, 3"),
        ("a.csv", "sentence,label\nfine,1\nbad,\n", "train: 1 rows have no label: 2"),
        ("a.csv", "sentence,label\nfine,1\nbad,no\n", "numbers in some rows and names in others"),
    ],
)
def test_a_file_that_cannot_be_read_is_explained(tmp_path, name, content, complaint):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="latin-1")
    read = load_labelled if name.endswith(".csv") else load_text
    with pytest.raises(ValueError, match=complaint):
        read(tmp_path / name)


def test_published_splits_are_kept_less_what_is_held_out(tmp_path):
    leaked = [("TEST 1", 1), ("dev  3 !", 1)]
    rows = {
        "train": [*some(200, "train"), *leaked],
        "dev": [*some(30, "dev"), ("test 5.", 1)],
        "test": some(40, "test"),
    }
    (tmp_path / "mine").mkdir()
    for split, written in rows.items():
        lines = (json.dumps({"text": sentence, "label": label}) for sentence, label in written)
        (tmp_path / f"mine/{split}.jsonl").write_text("\n".join(lines))
    with pytest.warns(UserWarning) as warned:
        data = load(tmp_path / "mine")
    messages = "\n".join(str(warning.message) for warning in warned)
    assert "2 sentences of train are held out" in messages
    assert "1 sentences of dev are held out" in messages
    assert data["dev"]["sentence"][:] == [f"dev {i}" for i in range(30)]
    assert data["test"]["label"][:] == [i % 2 for i in range(40)]
    assert set(data["labelled"]["sentence"]) == {f"train {i}" for i in range(200)}
    write_csv(tmp_path / "phrases.csv", [*some(50, "phrase"), ("dev 1", 0)])
    other = load(tmp_path / "mine", train=str(tmp_path / "phrases.csv"))
    assert set(other["labelled"]["sentence"]) == {f"phrase {i}" for i in range(50)}


def test_a_split_whose_labels_are_hidden_is_passed_over(tmp_path):
    write_csv(tmp_path / "train.csv", some(20, "train"))
    write_csv(tmp_path / "test.csv", [(f"test {i}", -1) for i in range(5)])
    assert set(load_labelled(tmp_path)) == {"train"}


def test_lacking_splits_are_taken_out_of_the_training_sentences_once_each(tmp_path):
    write_csv(tmp_path / "mine.csv", [*some(400, "one"), ("ONE 3", 1), ("one 4", 0)])
    with pytest.warns(UserWarning, match="2 rows repeat a sentence"):
        data = load(tmp_path / "mine.csv")
    split = {name: set(rows["sentence"]) for name, rows in data.items()}
    assert len(set.union(*split.values())) == sum(map(len, split.values())) == 400
    assert 50 < len(split["test"]) < 130 and 15 < len(split["dev"]) < 70


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
        sentences = training_sentences(draw)["sentence"][:]
        assert sorted(sentences) == sorted(whole["labelled"]["sentence"])
        assert draw["dev"]["sentence"][:] == whole["dev"]["sentence"][:]
    more = load(tmp_path / "mine.csv", labels=90)
    assert more["labelled"]["sentence"][:60] == draws[0]["labelled"]["sentence"][:]


def test_notes_beside_parquet_files_do_not_stand_in_their_way(tmp_path):
    write_csv(tmp_path / "notes.csv", [("a note", 1)])
    for split in ("train", "test"):
        frame = pd.DataFrame(some(5, split), columns=["sentence", "label"])
        frame.to_parquet(tmp_path / f"{split}.parquet")
    assert load_labelled(tmp_path) == {name: some(5, name) for name in ("train", "test")}


@pytest.mark.parametrize(
    ("named", "classes"),
    [(["null", "bad", "so-so"], ("bad", "null", "so-so")), ([5, 4, 3, 2, 1], tuple("12345"))],
)
def test_classes_may_be_many_and_keep_their_order(tmp_path, named, classes):
    rows = [(f"film {i}", named[i % len(named)]) for i in range(300)]
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "mine/train.csv", tmp_path / "mine.csv"):
        write_csv(path, [*rows, ("NA", named[0])])
    # "NA" and "null" are words, which pandas takes for nothing
    for path in (tmp_path / "mine", tmp_path / "mine.csv"):
        assert load_labelled(path)["train"][-1] == ("NA", named[0])
    data = load(tmp_path / "mine.csv")
    assert class_names(data) == classes
    for split in ("labelled", "dev", "test"):
        for row in data[split]:
            number = int(row["sentence"].removeprefix("film ").replace("NA", "0"))
            assert classes[row["label"]] == str(named[number % len(named)])


GOOD = [(f"fine {i}", "good") for i in range(100)]
RARE = [(f"one {i}", "ab"[i % 100 == 0]) for i in range(900)]
UNKNOWN = {"train": some(50, "one"), "test": [("two", 0), ("three", 7)]}


@pytest.mark.parametrize(
    ("files", "labels", "complaint"),
    [
        ({"train": [("fine", "good")] * 9}, 0, "no sentence is left for"),
        ({"train": GOOD}, 0, "have one label, 'good'"),
        (UNKNOWN, 0, "test has labels training lacks: 7"),
        ({"train": RARE}, 5, r"no labelled sentence of b: raise data.labels \(5\)"),
    ],
)
def test_what_cannot_be_learnt_or_tested_is_refused(tmp_path, files, labels, complaint):
    for name, rows in files.items():
        write_csv(tmp_path / f"mine/{name}.csv", rows)
    with pytest.raises(ValueError, match=complaint):
        load(tmp_path / "mine", labels=labels)


def test_a_transfer_set_adds_a_source_and_keeps_its_scores_or_not(tmp_path):
    write_csv(tmp_path / "mine.csv", some(100, "one"))
    data = load(tmp_path / "mine.csv", labels=20)
    held_out = data["test"][0]["sentence"]
    rows = {"sentence": ["two 1", held_out.upper(), None, "two 2"], "label": [0, 1, 1, 1]}
    rows["prediction"] = [[1.5, -1.5], [0.0, 0.25], [0.0, 0.0], [-1.0, 1.0]]
    Dataset.from_dict(rows).to_parquet(tmp_path / "scored.parquet")
    (tmp_path / "plain.txt").write_text("three\nfour\n")

    def transfer(name, **changes):
        changes = {"source": str(tmp_path / name), "training_sentences": False} | changes
        settings = load_profile("default").transfer.model_copy(update=changes)
        return load_transfer(data, settings, Path)

    stored = transfer("scored.parquet", scores="stored")
    assert stored["sentence"][:] == ["two 1", "two 2"]
    assert stored["prediction"][:] == [[1.5, -1.5], [-1.0, 1.0]]
    both = transfer("scored.parquet", training_sentences=True)
    assert both["sentence"][:-2] == training_sentences(data)["sentence"][:]
    bare = transfer("scored.parquet", sentences=1)
    assert bare.column_names == ["sentence"] and bare["sentence"][:] == ["two 1"]
    assert transfer("plain.txt")["sentence"][:] == ["three", "four"]
    with pytest.raises(ValueError, match="no column 'prediction'"):
        transfer("plain.txt", scores="stored")
