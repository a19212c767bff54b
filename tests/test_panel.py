"""The panel's answers are the classifiers'; its table says what they are and hides nothing."""

import re

import numpy as np
import pytest

from helpers.classify import Classifier
from helpers.panel import CALLS, Panel, _count_words_read, occlusion

SENTENCE = "a gripping, funny and deeply moving film"
WEIGHTS = {"sun": (0.0, 0.0, 3.0), "rain": (2.0, 0.0, 0.0)}


class Weighed:
    """A double: each class's logit is the sum of its words' weights."""

    labels = ("wet", "dry", "bright")

    def __init__(self):
        self.calls = []

    def encode(self, sentence):
        return np.array([sentence.split()]), None

    def probabilities(self, sentences):
        self.calls.append(list(sentences))
        none = (0.0, 0.0, 0.0)
        rows = [[WEIGHTS.get(word, none) for word in s.split()] for s in sentences]
        logits = np.array([np.sum([none, *row], axis=0) for row in rows])
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def classifiers(tiny_folder, tiny_onnx):
    return {"PyTorch": Classifier(tiny_folder), "ONNX": Classifier(tiny_onnx, threads=1)}


def test_occlusion_by_hand_follows_the_label_of_the_whole_sentence():
    double = Weighed()
    (_, sun), (_, same), (_, rain) = occlusion(double, "sun  and\train")
    whole = np.exp(3) / (np.exp(3) + np.exp(2) + 1)
    assert sun == pytest.approx(whole - 1 / (np.exp(2) + 2))
    assert rain == pytest.approx(whole - np.exp(3) / (np.exp(3) + 2)) and rain < 0
    assert same == pytest.approx(0) and occlusion(double, " \t ") == []
    assert double.calls[0] == ["sun  and\train", "and rain", "sun rain", "sun and"]


def test_words_that_are_cut_off_have_no_effect(classifiers):
    words = [f"word{'s' * (n % 3)}" for n in range(300)]
    for classifier in classifiers.values():
        read = _count_words_read(classifier, words)
        assert 0 < read < classifier.max_length
        effects = [effect for _, effect in occlusion(classifier, " ".join(words))]
        assert len(effects) == 300 and any(effects[:read]) and not any(effects[read:])


def test_answers_are_the_classifiers_own_on_a_click_and_a_changed_field(classifiers):
    panel = Panel(classifiers, "dull")
    panel.field.value = SENTENCE
    assert "gripping" in panel.output.value and ">dull<" not in panel.output.value
    panel.output.value = ""
    panel.button.click()
    assert "gripping" in panel.output.value
    answers = panel.answer(SENTENCE)
    assert [answer.name for answer in answers] == ["PyTorch", "ONNX"]
    for answer, classifier in zip(answers, classifiers.values(), strict=True):
        (probabilities,) = classifier.probabilities([SENTENCE])
        assert answer.label == classifier.labels[probabilities.argmax()]
        assert answer.probability == pytest.approx(probabilities.max(), abs=1e-6)
        assert dict(answer.effects) == pytest.approx(dict(occlusion(classifier, SENTENCE)))
        assert 0 < answer.latency_ms < 10_000


def test_the_table_says_effects_without_colour_too_and_its_parts_are_named():
    double = Weighed()
    html = Panel({"one": double, "two": double}, "sun and rain").output.value
    assert double.calls[:CALLS] == [["sun and rain"]] * CALLS
    words = html[html.index('class="words"') :]
    assert re.search(r'title="\+0\.\d+" style="[^"]+">sun<', words)
    assert re.search(r'title="\+0\.000" style="[^"]+">and<', words)
    assert re.search(r'title="-0\.\d+" style="[^"]+">rain<', words)
    assert "<td>bright</td>" in html
    assert html.count('scope="col"') == 5 and html.count('scope="row"') == 2


def test_what_is_typed_is_never_markup(classifiers):
    attack = "<script>alert(1)</script> <img src=x onerror=alert(2)>"
    html = Panel({"<b>one</b>": classifiers["ONNX"]}, attack).output.value
    assert "<script" not in html and "<img" not in html and "<b>" not in html
    assert "&lt;script&gt;" in html and "&lt;b&gt;one" in html


def test_front_ends_with_and_without_widgets(classifiers):
    panel = Panel(classifiers, "")
    assert "type a sentence" in panel._repr_mimebundle_()["text/plain"]
    panel.field.value = SENTENCE
    bundle = panel._repr_mimebundle_(include=None, exclude=None)
    view = bundle["application/vnd.jupyter.widget-view+json"]
    assert view["model_id"] == panel.widget.model_id
    assert bundle["text/html"] == panel.output.value
    for name, line in zip(classifiers, bundle["text/plain"].splitlines(), strict=True):
        assert re.fullmatch(rf"{name}: (nega|posi)tive \(0\.\d{{3}}\), \d+\.\d\d ms", line)
