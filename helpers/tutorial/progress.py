"""What a person watches while the notebooks run: one line for each, and the cell at work."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text


@dataclass
class Step:
    """One notebook of a run; `expected` is in minutes, None where no earlier run tells."""

    name: str
    expected: float | None = None
    began: float | None = None
    minutes: float | None = None
    gigabytes: float | None = None
    cell: str = ""

    def measured(self) -> dict[str, float]:
        """What it took, as `steps.json` holds it."""
        return {"minutes": round(self.minutes, 2), "gigabytes": round(self.gigabytes, 2)}


class Progress:
    """One line for each notebook: done with its minutes and memory, at work, or waiting.

    `expected` holds the minutes that notebooks took in an earlier run, by name; what remains is
    scaled by how this run compares with it so far. On a terminal the lines are kept up to date;
    elsewhere a line is printed when a notebook begins and when it is done.
    """

    def __init__(
        self, names: Sequence[str], expected: Mapping[str, float], *, console: Console | None = None
    ):
        self.console = console or Console(highlight=False)
        self.steps = {name: Step(name, expected.get(name)) for name in names}
        self._wide = max(map(len, names))
        self._live = Live(console=self.console, get_renderable=self._table, refresh_per_second=2)

    def __enter__(self):
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_):
        self._live.stop()

    def start(self, name: str) -> None:
        """Say that a notebook begins."""
        step = self.steps[name]
        step.began = time.monotonic()
        if not self.console.is_terminal:
            about = f"about {step.expected:.1f} min" if step.expected else "begins"
            print(f"{name:{self._wide}s}  {about}", flush=True)

    def cell(self, name: str, place: int, count: int, title: str) -> None:
        """Say which of a notebook's code cells is at work."""
        self.steps[name].cell = f"{place}/{count}  {title}"

    def finish(self, name: str, gigabytes: float) -> None:
        """Say that a notebook is done, and how much memory it took at most."""
        step = self.steps[name]
        step.minutes, step.gigabytes = (time.monotonic() - step.began) / 60, gigabytes
        if not self.console.is_terminal:
            print(
                f"{name:{self._wide}s}  done in {step.minutes:.1f} min, {gigabytes:.1f} GB"
                f"{self._left()}",
                flush=True,
            )

    def _pace(self) -> float:
        """How much longer this run takes than the earlier one, from the notebooks done."""
        done = [s for s in self.steps.values() if s.minutes is not None and s.expected]
        return sum(s.minutes for s in done) / sum(s.expected for s in done) if done else 1.0

    def remaining(self) -> float | None:
        """Minutes to go, or None where no earlier run tells."""
        left = 0.0
        for step in self.steps.values():
            if step.minutes is not None:
                continue
            if step.expected is None:
                return None
            spent = (time.monotonic() - step.began) / 60 if step.began is not None else 0.0
            left += max(0.0, step.expected * self._pace() - spent)
        return left

    def _left(self) -> str:
        left = self.remaining()
        return f"; about {left:.0f} min to go" if left else ""

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        for width in (len("waits"), self._wide, len("~99.9 min")):
            table.add_column(min_width=width, no_wrap=True)
        table.add_column()  # the one that gives way in a narrow terminal
        spent = 0.0
        for step in self.steps.values():
            if step.minutes is not None:
                spent += step.minutes
                row = ("[green]done[/]", f"{step.minutes:.1f} min", f"{step.gigabytes:.1f} GB")
            elif step.began is not None:
                now = (time.monotonic() - step.began) / 60
                spent += now
                row = ("[bold]runs[/]", f"{now:.1f} min", _cut(step.cell))
            else:
                about = f"~{step.expected:.1f} min" if step.expected else ""
                row = ("[dim]waits[/]", f"[dim]{about}[/]", "")
            table.add_row(row[0], step.name, *row[1:])
        table.add_row("", "in all", f"{spent:.1f} min", self._left().removeprefix("; "))
        return table


def _cut(text: str) -> Text:
    """Text that is cut, not wrapped, where there is no room for it."""
    return Text(text, style="dim", no_wrap=True, overflow="ellipsis")
