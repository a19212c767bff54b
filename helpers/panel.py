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

from helpers.classify import Classifier, PredictError, occlusion

CALLS = 5
_STYLE = """<style>
.answers { border-collapse: collapse; width: 100%; font-size: 14px; line-height: 1.7; }
.answers caption { caption-side: bottom; text-align: left; padding: 8px; }
.answers th, .answers td { padding: 6px 8px; text-align: left; vertical-align: baseline; }
.answers .words { width: 50%; min-width: 12em; overflow-wrap: anywhere; }
.answers .words, .answers span { background: white; color: black; padding: 1px 3px; }
</style>"""


class Answer(NamedTuple):
    """One model's answer to a sentence; `effects` are those of `helpers.classify.occlusion`."""

    name: str
    label: str
    probability: float
    latency_ms: float
    threads: int
    effects: list[tuple[str, float]]


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
            effects = occlusion(model, sentence)
            answers.append(Answer(name, label, shares.max(), latency, model.threads, effects))
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
    largest = max((abs(effect) for a in answers for _, effect in a.effects), default=0)
    heads = ("Model", "Label", "Probability", "Latency, ms", "Threads", "What each word does")
    rows = "".join(
        f'<tr><th scope="row">{escape(a.name)}</th><td>{escape(a.label)}</td>'
        f"<td>{a.probability:.3f}</td><td>{a.latency_ms:.2f}</td><td>{a.threads}</td>"
        f'<td class="words">{_words(a.effects, largest or 1)}</td></tr>'
        for a in answers
    )
    return f"""{_STYLE}<table class="answers">
<caption>Words shaded <span style="{_shade(1)}">blue</span> speak for the label, words shaded
<span style="{_shade(-1)}">orange</span> against it: the shade is how far the label's probability
falls or rises when the word is left out, by {largest:.3f} at the darkest. <strong>Bold</strong> is
each row's strongest word for its label, <u>underlined</u> the strongest against. Latency: from text
to label, median of {CALLS} calls after one to warm up, on this machine.
</caption><thead><tr>{"".join(f'<th scope="col">{head}</th>' for head in heads)}</tr></thead>
<tbody>{rows}</tbody></table>"""


def _words(effects: Sequence[tuple[str, float]], largest: float) -> str:
    values, spans = [effect for _, effect in effects], []
    for word, effect in effects:
        text = escape(word)
        if effect == max(values) > 0:
            text = f"<strong>{text}</strong>"
        if effect == min(values) < 0:
            text = f"<u>{text}</u>"
        spans.append(
            f'<span title="{effect:+z.3f}" style="{_shade(effect / largest)}">{text}</span>'
        )
    return " ".join(spans)


def _shade(share: float) -> str:
    """Sky blue for shares up to 1, orange down to -1 (Okabe and Ito): black reads well on both."""
    return f"background: rgb({'86 180 233' if share > 0 else '230 159 0'} / {abs(share):.2f})"
