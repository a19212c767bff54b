import random

import pytest

from helpers.augment import MASK, Augmenter, SentenceWriter
from helpers.profile import load_profile
from tests.blog_double import publish_writer, reviews

CORPUS = [
    "The acting is wooden and the plot is worse.",
    "A gripping, funny and deeply moving film!",
    "It doesn't work, not even for a minute.",
    "One of the best films of the year, by far.",
]


def augmenter(**changes):
    settings = load_profile("laptop").augmentation.model_copy(update=changes)
    return Augmenter(CORPUS, settings)


def test_the_seed_decides_everything():
    assert augmenter().augment(CORPUS, seed=7) == augmenter().augment(CORPUS, seed=7)
    assert augmenter().augment(CORPUS, seed=7) != augmenter().augment(CORPUS, seed=8)


def test_nothing_is_repeated_and_nothing_is_an_original():
    new = augmenter(copies=30).augment(CORPUS, seed=1)
    assert len(new) == len(set(new)) > len(CORPUS)
    assert not set(new) & set(CORPUS)
    assert all(new)


def test_words_keep_their_apostrophes():
    assert "doesn't" in [word for word, _ in augmenter().tag(CORPUS[2])]


def test_masking_alone_hits_its_share_of_words():
    changes = {"mask_probability": 0.3, "pos_probability": 1e-9, "ngram_probability": 1e-9}
    masking, rng = augmenter(**changes), random.Random(0)
    words = [w for _ in range(300) for s in CORPUS for w in masking.perturb(s, rng).split()]
    assert sum(word == MASK for word in words) / len(words) == pytest.approx(0.3, abs=0.03)


def test_replacement_keeps_the_part_of_speech():
    changes = {"mask_probability": 1e-9, "pos_probability": 1 - 1e-9, "ngram_probability": 1e-9}
    replacing, rng = augmenter(**changes), random.Random(0)
    known = {}
    for sentence in CORPUS:
        for word, tag in replacing.tag(sentence):
            known.setdefault(word, set()).add(tag)
    for _ in range(20):
        replaced = replacing.perturb(CORPUS[0], rng).split()
        for (_, tag), word in zip(replacing.tag(CORPUS[0]), replaced, strict=True):
            assert tag in known[word]


def test_ngrams_are_runs_of_the_sentence():
    changes = {"mask_probability": 1e-9, "pos_probability": 1e-9, "ngram_probability": 1 - 1e-9}
    sampling, rng = augmenter(**changes), random.Random(0)
    words = [word for word, _ in sampling.tag(CORPUS[1])]
    for _ in range(50):
        run = sampling.perturb(CORPUS[1], rng).split()
        assert 1 <= len(run) <= 5
        assert any(words[i : i + len(run)] == run for i in range(len(words)))


def test_a_language_model_writes_sentences_of_both_labels(tmp_path):
    publish_writer(tmp_path)
    settings = load_profile("blog-train").generation.model_copy(update={"sentences": 24})
    writer = SentenceWriter(tmp_path / "gpt2", settings)
    rows = reviews(60, 1)
    sentences, labels = [s for s, _ in rows], [label for _, label in rows]
    written = writer.write(sentences, labels, ("negative", "positive"), seed=3)
    assert 12 <= len(written) <= 24 and {label for _, label in written} == {0, 1}
    assert all(text and "\n" not in text for text, _ in written)
    assert written == writer.write(sentences, labels, ("negative", "positive"), seed=3)
    assert written != writer.write(sentences, labels, ("negative", "positive"), seed=4)


def test_the_prompt_shows_examples_and_leaves_a_line_open(tmp_path):
    writer = object.__new__(SentenceWriter)
    prompt = writer.prompt(["a fine film", "a warm one"], "positive")
    assert prompt == "positive review: a fine film\npositive review: a warm one\npositive review:"
