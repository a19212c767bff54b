"""A panel to type sentences into: every model's answer side by side, and the words it rests on.

Where no widgets live, such as in an executed copy or on a page, it is the table of its first
sentence.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from statistics import median
from time import sleep
from timeit import repeat
from typing import NamedTuple

import ipywidgets as widgets

from helpers.classify import Classifier, PredictError

CALLS = 5
_STYLE = """<style>
.answers { border-collapse: collapse; width: 100%; font-size: 14px; }
.answers caption { caption-side: bottom; text-align: left; padding: 8px; }
.answers th, .answers td { padding: 6px 8px; text-align: left; }
.answers .words { width: 50%; overflow-wrap: anywhere; background: white; color: black; }
</style>"""


class Answer(NamedTuple):
    """One model's answer to a sentence; `effects` are those of `occlusion`."""

    name: str
    label: str
    probability: float
    latency_ms: float
    effects: list[tuple[str, float]]


def occlusion(classifier: Classifier, sentence: str) -> list[tuple[str, float]]:
    """What each word does for the answer, after Zeiler and Fergus 2014: leave it out and see.

    Returns each word, split at blanks, with how much the probability of the sentence's label falls
    without it: above 0 it speaks for the label, below 0 against it. Words that the classifier cuts
    off have 0.
    """
    words = sentence.split()
    read = _count_words_read(classifier, words)
    without = [" ".join(words[:n] + words[n + 1 :]) for n in range(read)]
    whole, *others = classifier.probabilities([sentence, *without])
    label = whole.argmax()
    effects = [float(whole[label] - other[label]) for other in others]
    return list(zip(words, effects + [0.0] * (len(words) - read), strict=True))


def _count_words_read(classifier: Classifier, words: Sequence[str]) -> int:
    """How many of the words are read; the cut at the longest length takes the others."""
    whole = classifier.encode(" ".join(words))[0].tolist()
    for count in range(len(words)):
        if classifier.encode(" ".join(words[:count]))[0].tolist() == whole:
            return count
    return len(words)


class Panel:
    """A field for a sentence, a button, and a table with a row for each classifier.

    The table answers what the field holds: anew after Enter, a click, or leaving a changed field.
    """

    def __init__(
        self,
        classifiers: Mapping[str, Classifier],
        sentence: str = "slow at first, but it ends well",
    ):
        self.classifiers = dict(classifiers)
        self.field = widgets.Text(
            sentence,
            description="Sentence",
            continuous_update=False,  # else Enter may overtake the last letters
            layout=widgets.Layout(flex="1 1 auto", width="auto"),
        )
        self.button = widgets.Button(description="Classify", button_style="primary")
        self.output = widgets.HTML(layout=widgets.Layout(overflow="auto"))
        self.widget = widgets.VBox([widgets.HBox([self.field, self.button]), self.output])
        self.field.observe(lambda _: self._show(), "value")
        self.button.on_click(lambda _: self._show())
        self._show()

    def answer(self, sentence: str) -> list[Answer]:
        """Every classifier's answer, in their order.

        A latency is the median of `CALLS` calls from text to label, after one to warm up.

        Raises:
            PredictError: the sentence has no words.
        """
        if not sentence.split():
            raise PredictError("There is nothing to classify: type a sentence first.")
        answers = []
        for name, model in self.classifiers.items():
            sleep(0.05)  # threads of the runtime before it spin a while before they sleep
            (shares,) = model.probabilities([sentence])
            seconds = repeat(partial(model.probabilities, [sentence]), repeat=CALLS, number=1)
            label, latency = model.labels[int(shares.argmax())], 1000 * median(seconds)
            answers.append(Answer(name, label, shares.max(), latency, occlusion(model, sentence)))
        return answers

    def _show(self) -> None:
        try:
            answers = self.answer(self.field.value)
            self.output.value = _table(answers)
            self._plain = "\n".join(
                f"{a.name}: {a.label} ({a.probability:.3f}), {a.latency_ms:.2f} ms" for a in answers
            )
        except PredictError as error:
            self._plain = str(error)
            self.output.value = f'<p role="alert">{escape(self._plain)}</p>'

    def _repr_mimebundle_(self, **_) -> dict:
        static = {"text/html": self.output.value, "text/plain": self._plain}
        return self.widget._repr_mimebundle_() | static


def _table(answers: Sequence[Answer]) -> str:
    """The answers in HTML; each word is shaded by its effect, on one scale for all rows."""
    largest = max((abs(effect) for a in answers for _, effect in a.effects), default=0) or 1
    heads = ("Model", "Label", "Probability", "Latency, ms", "What each word does")
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(a.name)}</th><td>{escape(a.label)}</td>'
        f"<td>{a.probability:.3f}</td><td>{a.latency_ms:.2f}</td>"
        f'<td class="words">{" ".join(_word(*effect, largest) for effect in a.effects)}</td></tr>'
        for a in answers
    )
    return f"""{_STYLE}<table class="answers">
<caption>Words shaded blue speak for the label and words shaded orange against it: the darker, the
more the label's probability changes without the word.</caption>
<thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table>"""


def _word(word: str, effect: float, largest: float) -> str:
    # sky blue and orange (Okabe and Ito): black reads well on both
    colour = "86 180 233" if effect > 0 else "230 159 0"
    shade = f"background: rgb({colour} / {abs(effect) / largest:.2f})"
    return f'<span title="{effect:+z.3f}" style="{shade}">{escape(word)}</span>'
