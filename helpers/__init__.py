"""What the notebooks share. One begins with `lesson = start("03", needs=["02"], makes=[...])`.

The modules of this folder are what lessons import; `helpers.bench` measures latencies;
`helpers.tutorial` runs the tutorial itself, and only this file opens it to a notebook.
"""

from __future__ import annotations  # set-up reads this file in whatever Python there is

import inspect
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import DatasetDict
    from matplotlib.figure import Figure


class Lesson:
    """One notebook at work: its profile, its data, what it reads, and where its results go."""

    def __init__(self, step):
        self._step, self.profile = step, step.profile
        self.saving, self.resumable = step.saving, step.resumable  # see `Step`

    def data(self, *, labels: int | None = None, seed: int = 0) -> DatasetDict:
        """The sentences: splits `labelled`, `unlabelled`, `dev` and `test`, see `load_data`."""
        from helpers.data import load_data

        return load_data(self.profile.data, self.locate, labels=labels, seed=seed)

    def locate(self, reference: str) -> Path:
        """The file or folder that a reference of the profile stands for, fetched if need be."""
        from helpers.tutorial.sources import locate

        settings = {value: name for name, value in self.profile.references().items()}
        return locate(reference, setting=settings.get(reference, ""))

    def path(self, name: str) -> Path:
        """Where a result called `name` lies."""
        return self._step.folder / name

    def show(self, figure: Figure, name: str, alt: str = "") -> None:
        """Show a figure with its own alt text or `alt`, and keep it as SVG and PNG."""
        from helpers.plots import show

        figure.alt = alt or figure.alt
        show(figure, self.path("figures") / f"{self._step.number}_{name}")

    def source(self, shown) -> None:
        """Show the source code of a function or class of the helpers."""
        from IPython.display import Markdown, display

        display(Markdown(f"```python\n{inspect.getsource(shown)}```"))

    @cached_property
    def example(self) -> str:
        """The sentence that runs through all notebooks: the first of dev."""
        return self.data()["dev"][0]["sentence"]

    def add_point(
        self, name: str, *, accuracy, milliseconds: float, megabytes: float, family: str = "student"
    ) -> None:
        """Add a model to the picture that grows from notebook to notebook, and show it.

        `accuracy` on the test sentences has `value`, `low` and `high`; `megabytes` are on disk;
        `family` is the model's colour, see `plots.COLOURS`.
        """
        from helpers.plots import plot_story
        from helpers.tutorial.steps import write_whole

        path = self.path("story.json")
        points = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        point = {"step": self._step.number, "name": name, "family": family}
        point |= {"accuracy": [accuracy.value, accuracy.low, accuracy.high]}
        point |= {"milliseconds": milliseconds, "megabytes": megabytes}
        points = [p for p in points if p["step"] <= point["step"] and p["name"] != name] + [point]
        write_whole(path, json.dumps(points, indent=1) + "\n")
        self.show(plot_story(points), "story")


def start(
    number: str, *, needs: Sequence[str] = (), makes: Sequence[str] = (), profile: str = ""
) -> Lesson:
    """Begin the notebook `number`: load its profile, check what it reads, print the environment.

    `needs` are the numbers of the notebooks whose results it reads, `makes` the names of its own.
    The profile is the one named here, or else by the environment variable PROFILE.

    Raises:
        ProfileError: the profile does not exist or is not valid.
        StepError: a result of an earlier notebook is missing, damaged or no longer fits.
        SourceError: data or weights cannot be had.
    """
    from helpers.environment import print_environment
    from helpers.tutorial.profile import load_profile
    from helpers.tutorial.sources import fetch
    from helpers.tutorial.steps import Step, StepError

    step = Step(number, load_profile(profile))
    if (sorted(step.needs), sorted(step.makes)) != (sorted(needs), sorted(makes)):
        raise StepError(f"{step.notebook.name} on the disk says otherwise: save it first")
    for earlier in step.before:
        if fault := earlier.fault():
            raise StepError(fault)
    fetch(step.profile, *step.sections)
    _ = step.stamp  # as the code is now
    print_environment(step.profile)
    return Lesson(step)
