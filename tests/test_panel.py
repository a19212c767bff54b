"""The panel's answers are the classifiers'; its table says what they are and hides nothing."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from helpers.panel import CALLS, Panel
from helpers.predict import Classifier, PredictError, occlusion

SENTENCE = "a gripping, funny and deeply moving film"


class Weighed:
    """A double: each class's logit is the sum of its words' weights."""

    threads = 3

    def __init__(self, weights: dict[str, tuple[float, ...]], labels: tuple[str, ...]):
        self.weights, self.labels, self.calls = weights, labels, []

    def words_read(self, sentence):
        return len(sentence.split())

    def probabilities(self, sentences):
        self.calls.append(list(sentences))
        none = (0.0,) * len(self.labels)
        rows = [[self.weights.get(word, none) for word in s.split()] for s in sentences]
        logits = np.array([np.sum([none, *row], axis=0) for row in rows])
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


TWO = {"good": (0.0, 2.0), "bad": (1.0, 0.0)}
THREE = {"sun": (0.0, 0.0, 3.0), "rain": (2.0, 0.0, 0.0)}


@pytest.fixture(scope="module")
def classifiers(tiny_folder, tiny_onnx):
    return {"PyTorch": Classifier(tiny_folder), "ONNX": Classifier(tiny_onnx, threads=1)}


@pytest.fixture(scope="module")
def panel(classifiers):
    return Panel(classifiers, SENTENCE)


class Table(HTMLParser):
    """The body's rows as lists of their cells' texts, and every tag with its attributes."""

    def __init__(self, html: str):
        super().__init__()
        self.rows, self.tags, self._open = [], [], False
        self.feed(html)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.rows]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag):
        self._open = self._open and tag not in ("th", "td")

    def handle_data(self, data):
        if self._open:
            self.rows[-1][-1] += data


def logistic(x):
    return 1 / (1 + np.exp(-x))


def test_occlusion_by_hand():
    double = Weighed(TWO, ("negative", "positive"))
    (good, up), (plain, same), (bad, down) = occlusion(double, "good  film\tbad")
    assert (good, plain, bad) == ("good", "film", "bad")
    assert up == pytest.approx(logistic(1) - logistic(-1))
    assert same == pytest.approx(0)
    assert down == pytest.approx(logistic(1) - logistic(2)) and down < 0
    assert double.calls == [["good  film\tbad", "film bad", "good bad", "good film"]]


def test_occlusion_follows_the_label_of_the_whole_sentence():
    double = Weighed(THREE, ("wet", "dry", "bright"))
    (_, sun), (_, rain) = occlusion(double, "sun rain")
    whole = np.exp(3) / (np.exp(3) + np.exp(2) + 1)
    assert sun == pytest.approx(whole - 1 / (np.exp(2) + 2))
    assert rain == pytest.approx(whole - np.exp(3) / (np.exp(3) + 2))


def test_occlusion_of_next_to_nothing(classifiers):
    for classifier in classifiers.values():
        assert occlusion(classifier, "") == occlusion(classifier, " \t ") == []
        ((word, effect),) = occlusion(classifier, "dull")
        with_it, without = classifier.probabilities(["dull", ""])
        label = with_it.argmax()
        assert word == "dull"
        assert effect == pytest.approx(with_it[label] - without[label], abs=1e-6)


def test_words_that_are_cut_off_have_no_effect(classifiers):
    words = [f"word{'s' * (n % 3)}" for n in range(300)]
    for classifier in classifiers.values():
        read = classifier.words_read(" ".join(words))
        assert 0 < read < classifier.max_length
        same, as_well, less = classifier.probabilities(
            [" ".join(words), " ".join(words[:read]), " ".join(words[: read - 1])]
        )
        np.testing.assert_allclose(same, as_well, atol=1e-6)
        assert np.abs(same - less).max() > 1e-6
        effects = occlusion(classifier, " ".join(words))
        assert [word for word, _ in effects] == words
        assert any(effect for _, effect in effects[:read])
        assert not any(effect for _, effect in effects[read:])


@pytest.mark.parametrize("sentence", ["\u200b \x00", "字 " * 300, "مرحبا بالعالم", "a\x1cb " * 90])
def test_odd_sentences_are_answered(panel, sentence):
    assert [len(a.effects) for a in panel.answer(sentence)] == 2 * [len(sentence.split())]


def test_answers_are_the_classifiers_own(panel, classifiers):
    answers = panel.answer(SENTENCE)
    assert [a.name for a in answers] == ["PyTorch", "ONNX"]
    for answer, classifier in zip(answers, classifiers.values(), strict=True):
        (probabilities,) = classifier.probabilities([SENTENCE])
        assert answer.label == classifier.labels[probabilities.argmax()]
        assert answer.probability == pytest.approx(probabilities.max(), abs=1e-6)
        assert dict(answer.effects) == pytest.approx(dict(occlusion(classifier, SENTENCE)))
        assert 0 < answer.latency_ms < 10_000


def test_latency_is_the_median_of_the_calls_after_the_first(monkeypatch):
    clock = iter([0, 5, 10, 11, 20, 22, 30, 33, 40, 40.5])  # seconds: 5, 1, 2, 3, 0.5
    double = Weighed(TWO, ("negative", "positive"))
    panel = Panel({}, "good")
    panel.classifiers["double"] = double
    monkeypatch.setattr("helpers.panel.time.perf_counter", lambda: next(clock))
    (answer,) = panel.answer("good")
    assert answer.latency_ms == 2000
    assert double.calls == [["good"]] * (1 + CALLS) + [["good", ""]]


def test_three_classes_and_any_number_of_models():
    labels = ("wet", "dry", "bright")
    double = Weighed(THREE, labels)
    panel = Panel({f"model {n}": double for n in range(4)}, "sun rain")
    table = Table(panel.output.value)
    head, *rows = table.rows
    assert len(rows) == 4 and all(len(row) == len(head) for row in rows)
    assert rows[3][:3] == ["model 3", "bright", f"{np.exp(3) / (np.exp(3) + np.exp(2) + 1):.3f}"]
    assert f"{double.threads} threads" in panel.output.value


def test_the_words_say_their_effect_without_colour_too():
    panel = Panel({"double": Weighed(TWO, ("negative", "positive"))}, "good film bad")
    up, down = logistic(1) - logistic(-1), logistic(2) - logistic(1)
    html = panel.output.value
    words = html[html.index('class="words"') :]
    assert re.search(rf'title="\+{up:.3f}" style="[^"]+"><strong>good</strong>', words)
    assert '<span title="+0.000">film</span>' in words
    assert re.search(rf'title="-{down:.3f}" style="[^"]+"><u>bad</u>', words)
    assert words.count("<strong>") == words.count("<u>") == 1
    assert f"{up:.3f} at the darkest" in " ".join(html.split())


def test_the_table_is_accessible(panel):
    tags = Table(panel.output.value).tags
    assert [a for tag, a in tags if tag == "table"] == [{"class": "answers"}]
    assert [tag for tag, _ in tags].count("caption") == 1
    scopes = [attributes["scope"] for tag, attributes in tags if tag == "th"]
    assert scopes == ["col"] * 5 + ["row"] * 2


def test_what_is_typed_is_never_markup(classifiers):
    attack = '<script>alert("1")</script> <img src=x onerror=alert(2)> & "quoted"'
    panel = Panel({"<b>one</b>": classifiers["ONNX"]}, attack)
    table = Table(panel.output.value)
    assert not {"script", "img", "b"} & {tag for tag, _ in table.tags}
    assert not any(name.startswith("on") for _, attributes in table.tags for name in attributes)
    assert table.rows[1][0] == "<b>one</b>" and table.rows[1][4] == attack


def test_a_click_and_a_changed_field_answer_anew(classifiers, monkeypatch):
    panel = Panel(classifiers, SENTENCE)
    before = Table(panel.output.value).rows
    panel.field.value = "dull"
    after = Table(panel.output.value).rows
    assert [row[4] for row in before[1:]] == [SENTENCE] * 2
    assert [row[4] for row in after[1:]] == ["dull"] * 2
    asked = []
    monkeypatch.setattr(panel, "answer", lambda sentence: asked.append(sentence) or [])
    panel.button.click()  # the same gesture as the change: it has its answer
    assert asked == []
    monkeypatch.setattr("helpers.panel.SAME_GESTURE", 0)
    panel.button.click()
    assert asked == ["dull"]


def test_an_empty_sentence_is_answered_in_words(panel, classifiers):
    with pytest.raises(PredictError, match="type a sentence"):
        panel.answer("  ")
    blank = Panel(classifiers, "")
    assert "type a sentence" in blank.output.value and "<table" not in blank.output.value
    assert "type a sentence" in blank._repr_mimebundle_()["text/plain"]
    blank.field.value = "dull"
    assert "<table" in blank.output.value


def test_one_bundle_for_front_ends_with_and_without_widgets(panel):
    bundle = panel._repr_mimebundle_(include=None, exclude=None)
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "text/html", "text/plain"}
    assert view["model_id"] == panel.widget.model_id
    assert bundle["text/html"] == panel.output.value
    lines = bundle["text/plain"].splitlines()
    assert [line.split()[0] for line in lines] == ["PyTorch", "ONNX"]
    assert all(
        re.search(r"(negative|positive) \(0\.\d{3}\), \d+\.\d\d ms$", line) for line in lines
    )
