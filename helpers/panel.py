"""A panel to type sentences into: every model's answer side by side, and the words it rests on.

Where no widgets live, such as in an executed copy or on a page, it is the table of its first
sentence.
"""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import ipywidgets as widgets

from helpers.classify import Classifier, PredictError, occlusion

CALLS = 5
SAME_GESTURE = 0.3  # seconds
FAINT = 0.02  # of the largest effect: no eye tells its shade from none
# Okabe and Ito's sky blue and orange: dark text reads well on both, and on all between and white
_FOR, _AGAINST = (86, 180, 233), (230, 159, 0)
_STYLE = """<style>
.answers { border-collapse: collapse; width: 100%; font-size: 14px; line-height: 1.7; }
.answers caption { caption-side: bottom; text-align: left; padding: 8px; line-height: 1.5; }
.answers th, .answers td { padding: 6px 8px; text-align: left; vertical-align: baseline; }
.answers tbody th { line-height: 1.4; }
.answers thead th { border-bottom: 1px solid; white-space: nowrap; }
.answers .number { text-align: right; font-variant-numeric: tabular-nums; }
.answers .words { width: 50%; min-width: 12em; overflow-wrap: anywhere; }
.answers .words span { padding: 1px 3px; border-radius: 3px; }
</style>"""


@dataclass(frozen=True)
class Answer:
    """One model's answer to a sentence; `effects` are those of `helpers.classify.occlusion`."""

    name: str
    label: str
    probability: float
    latency_ms: float
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
        self.button = widgets.Button(button_style="primary")
        self.output = widgets.HTML(layout=widgets.Layout(overflow="auto"))
        self.widget = widgets.VBox([widgets.HBox([self.field, self.button]), self.output])
        self.field.observe(lambda _: self._show(), "value")
        self.button.on_click(self._clicked)
        self._show()

    def answer(self, sentence: str) -> list[Answer]:
        """Every classifier's answer, in their order.

        A latency is the median of `CALLS` calls from text to label, after one to warm up.

        Raises:
            PredictError: the sentence has no words.
        """
        if not sentence.split():
            raise PredictError("There is nothing to classify: type a sentence first.")
        return [_answer(name, model, sentence) for name, model in self.classifiers.items()]

    def _show(self) -> None:
        self.button.description = "Classifying"
        try:
            answers = self.answer(self.field.value)
            threads = {model.threads for model in self.classifiers.values()}
            self.output.value = answers_html(answers, threads=sorted(threads))
            self._plain = answers_text(answers)
        except PredictError as error:
            self._plain = str(error)
            self.output.value = f'<p role="alert">{escape(self._plain)}</p>'
        finally:
            self.button.description = "Classify"
        self._shown = time.monotonic()

    def _clicked(self, _) -> None:
        # a click that leaves a changed field arrives right behind the answer to that change
        if time.monotonic() - self._shown > SAME_GESTURE:
            self._show()

    def _repr_mimebundle_(self, **_) -> dict:
        static = {"text/html": self.output.value, "text/plain": self._plain}
        return self.widget._repr_mimebundle_() | static


def _answer(name: str, classifier: Classifier, sentence: str) -> Answer:
    probabilities = classifier.probabilities([sentence])[0]
    seconds = []
    for _ in range(CALLS):
        began = time.perf_counter()
        label = classifier.labels[int(classifier.probabilities([sentence])[0].argmax())]
        seconds.append(time.perf_counter() - began)
    return Answer(
        name,
        label,
        float(probabilities.max()),
        1000 * statistics.median(seconds),
        occlusion(classifier, sentence),
    )


def answers_text(answers: Sequence[Answer]) -> str:
    """One line for each answer."""
    width = max((len(answer.name) for answer in answers), default=0)
    return "\n".join(
        f"{a.name:{width}}  {a.label} ({a.probability:.3f}), {a.latency_ms:.2f} ms" for a in answers
    )


def answers_html(answers: Sequence[Answer], *, threads: Sequence[int]) -> str:
    """The answers as one table; each word is shaded by its effect, on one scale for all rows."""
    largest = max((abs(effect) for a in answers for _, effect in a.effects), default=0.0)
    rows = "".join(
        f'<tr><th scope="row">{escape(a.name)}</th><td>{escape(a.label)}</td>'
        f'<td class="number">{a.probability:.3f}</td><td class="number">{a.latency_ms:.2f}</td>'
        f'<td class="words">{_words_html(a.effects, largest)}</td></tr>'
        for a in answers
    )
    counts = f"{' or '.join(map(str, threads))} thread{'s' * (list(threads) != [1])}"
    return f"""{_STYLE}<table class="answers">
<caption>Words shaded <span{_shade(1.0)}>blue</span> speak for the label, words shaded
<span{_shade(-1.0)}>orange</span> against it: the shade is how far the label's probability falls or
rises when the word is left out, by {largest:.3f} at the darkest. <strong>Bold</strong> is each
row's strongest word for its label, <u>underlined</u> the strongest against. Latency: from text to
label, median of {CALLS} calls after one to warm up, on this machine, {counts}.
</caption>
<thead><tr><th scope="col">Model</th><th scope="col">Label</th>
<th scope="col" class="number">Probability</th><th scope="col" class="number">Latency, ms</th>
<th scope="col">What each word does</th></tr></thead>
<tbody>{rows}</tbody></table>"""


def _words_html(effects: Sequence[tuple[str, float]], largest: float) -> str:
    values = [effect for _, effect in effects]
    spans = []
    for word, effect in effects:
        text = escape(word)
        if effect == max(values) > 0:
            text = f"<strong>{text}</strong>"
        if effect == min(values) < 0:
            text = f"<u>{text}</u>"
        spans.append(f'<span title="{effect:+z.3f}"{_shade(effect / (largest or 1))}>{text}</span>')
    return " ".join(spans)


def _shade(share: float) -> str:
    """A background from none near 0 to the full colour at 1 or -1, as an attribute."""
    if abs(share) < FAINT:
        return ""
    full = _FOR if share > 0 else _AGAINST
    rgb = ", ".join(str(round(255 + (channel - 255) * abs(share))) for channel in full)
    return f' style="background-color: rgb({rgb}); color: black"'
