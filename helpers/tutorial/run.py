"""Run notebooks in order: fresh ones are skipped, what stops a run says how to resume it.

`run_steps` is what `make run` and `make deeper` call. A notebook's executed copy, with its outputs,
lies in `artifacts/<profile>/executed/`, what its cells write in `run.log`, its minutes and memory
in `times.json`.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from typing import IO

import nbformat
import psutil
from filelock import FileLock, Timeout
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import PythonExporter
from rich.console import Console
from rich.live import Live
from rich.text import Text

from helpers import Lesson
from helpers.tutorial.profile import ProfileError, load_profile
from helpers.tutorial.report import conclude, reference_times
from helpers.tutorial.sources import SourceError, fetch
from helpers.tutorial.steps import NOTEBOOKS, Step, StepError, run_command, write_whole

MAIN_LINE = ("01", "02", "03", "04", "05")
DEEPER = ("06", "07", "08", "09", "10")
_PATIENCE_S = 20  # with a cell that was interrupted
_SAMPLING_S = 5  # of memory: often enough to see a peak, too seldom to disturb a benchmark
_ALONE = {"look", "single", "solution"}  # tags of cells that several processes do not run


class Display:
    """One line for each notebook that is done; on a terminal also the cell at work.

    `expected` holds the minutes that notebooks took in an earlier run, None where none tells; what
    remains is scaled by how this run compares with it so far.
    """

    def __init__(self, expected: Mapping[str, float | None], console: Console | None = None):
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._expected, self._took = dict(expected), {}
        self._wide = max(map(len, self._expected), default=0)
        self._name, self._began, self._cell = "", 0.0, ""

    @contextlib.contextmanager
    def running(self, name: str) -> Iterator[None]:
        """Show that a notebook is at work."""
        self._name, self._began, self._cell = name, time.monotonic(), "starting"
        if not self._console.is_terminal:
            self._console.print(f"{name:{self._wide}s}  begins{self._left()}")
        live = Live(console=self._console, get_renderable=self._line, refresh_per_second=0.5)
        with live if self._console.is_terminal else contextlib.nullcontext():
            yield

    def cell(self, number: int, count: int, source: str) -> None:
        """Say which code cell is at work."""
        title = next((line for line in source.splitlines() if line.strip()), "")
        self._cell = f"cell {number}/{count}: {title}"

    def done(self, name: str, minutes: float, gigabytes: float) -> None:
        """Say what a notebook took."""
        self._took[name] = minutes
        took = f"{minutes:4.1f} min  {gigabytes:.1f} GB"
        self._console.print(f"{name:{self._wide}s}  {took}{self._left()}")

    def fresh(self, name: str) -> None:
        """Say that a notebook is skipped."""
        self._console.print(f"{name:{self._wide}s}  fresh")

    def remaining(self) -> float | None:
        """Minutes to go, or None where no earlier run tells."""
        if None in self._expected.values():
            return None
        before = sum(self._expected[name] for name in self._took)
        pace = sum(self._took.values()) / before if before else 1.0
        left = {name: pace * m for name, m in self._expected.items() if name not in self._took}
        if self._name in left:
            left[self._name] = max(0.0, left[self._name] - self._minutes())
        return sum(left.values())

    def _minutes(self) -> float:
        return (time.monotonic() - self._began) / 60

    def _left(self) -> str:
        left = self.remaining()
        return f"; about {left:.0f} min to go" if left else ""

    def _line(self) -> Text:
        line = f"{self._name:{self._wide}s}  {self._minutes():4.1f} min{self._left()}  {self._cell}"
        return Text(line, no_wrap=True, overflow="ellipsis")


class PeakMemory(threading.Thread):
    """Watches how much memory this process and its descendants take for themselves, without files.

    It reads two counters a process every few seconds; walking through all their pages, as the
    exact figure would need, took 7 % of a core and disturbed what the benchmark measures.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.gigabytes = 0.0
        self._over = threading.Event()

    def run(self):
        """Take samples until told to stop."""
        me = psutil.Process()
        while True:
            used = 0
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    info = process.memory_info()
                    used += info.rss - getattr(info, "shared", 0)
            self.gigabytes = max(self.gigabytes, used / 1e9)
            if self._over.wait(_SAMPLING_S):
                break

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self.join()


class LoggingClient(NotebookClient):
    """Executes a notebook and copies what its cells write to a log, as they write it."""

    def __init__(self, notebook, *, log: IO[str], **settings):
        super().__init__(notebook, **settings)
        self._written = log
        self.stopped = threading.Event()

    def output(self, outs, msg, display_id, cell_index):
        """Handle one message from the kernel; of a progress bar every state gets a line."""
        if msg["msg_type"] == "stream":
            self._written.write(msg["content"]["text"].replace("\r", "\n"))
            self._written.flush()
        return super().output(outs, msg, display_id, cell_index)

    def execute_or_interrupt(self) -> None:
        """Execute all cells; a signal interrupts the cell at work, so that it can clean up.

        The cells are awaited in a thread, because in the main one the client takes the signal
        itself and shuts the kernel down wherever it stands.

        Raises:
            KeyboardInterrupt: the run was stopped; the kernel is gone.
        """
        with ThreadPoolExecutor(1) as pool:
            over = pool.submit(self.execute)
            try:
                over.result()
            except KeyboardInterrupt:
                self.stopped.set()
                for stop in (self.km.interrupt_kernel, partial(self.km.shutdown_kernel, now=True)):
                    with contextlib.suppress(RuntimeError):  # there is no kernel yet, or no more
                        asyncio.run(stop())
                    if wait([over], timeout=_PATIENCE_S).done:
                        break
                raise


def execute_notebook(
    path: Path, target: Path, *, log: IO[str], announce: Callable[[int, int, str], None]
) -> None:
    """Execute one notebook in the notebooks' folder and write the executed copy to `target`.

    The copy is written whether or not a cell fails. What cells write goes to `log` too; `announce`
    is called with the number, the count and the source of each code cell when it begins.

    Raises:
        CellExecutionError: a cell failed.
        DeadKernelError: the kernel died.
        KeyboardInterrupt: the run was stopped.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def on_cell(cell, cell_index):
        if client.stopped.is_set():
            raise RuntimeError("stopped")
        if cell.cell_type == "code":
            announce(cells.index(cell) + 1, len(cells), cell.source)

    client = LoggingClient(
        notebook,
        log=log,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        on_cell_execute=on_cell,
    )
    try:
        client.execute_or_interrupt()
    finally:
        write_whole(target, nbformat.writes(notebook) + "\n")


def train_together(path: Path, script: Path, processes: int, log: IO[str]) -> None:
    """Run a notebook's training and labelling cells in several processes that work together.

    They leave their checkpoints where the notebook, run afterwards, finds them. A notebook where no
    cell is tagged `single` has nothing for several processes.

    Raises:
        subprocess.CalledProcessError: a process failed.
    """
    notebook = nbformat.read(path, as_version=4)
    tags = [set(cell.metadata.get("tags", ())) for cell in notebook.cells]
    if not any("single" in tagged for tagged in tags):
        return
    pairs = zip(notebook.cells, tags, strict=True)
    notebook.cells = [cell for cell, tagged in pairs if not _ALONE & tagged]
    write_whole(script, PythonExporter().from_notebook_node(notebook)[0])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += [f"--num_processes={processes}", "--num_machines=1", "--mixed_precision=no"]
    command += ["--dynamo_backend=no", str(script)]
    with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as launched:
        try:
            launched.wait()
        except KeyboardInterrupt:
            launched.terminate()  # it ends its workers
            raise
    if launched.returncode:
        raise subprocess.CalledProcessError(launched.returncode, "accelerate launch")


def run_steps(
    numbers: Sequence[str],
    *,
    force_from: str | None = None,
    processes: int = 1,
    refresh: bool = False,
) -> int:
    """Run the notebooks with these numbers under the profile of the environment.

    Those that are fresh are skipped; with `force_from` the run begins there, and nothing counts as
    fresh. With `refresh` the executed copies become the committed notebooks, and the results the
    committed ones. Returns the exit status; 130 where a signal stopped it.
    """
    try:
        profile = load_profile()
        numbers = [number for number in sorted(numbers) if number >= (force_from or "")]
        steps = [Step(number, profile) for number in numbers]
        for earlier in (earlier for step in steps for earlier in step.before):
            if earlier.number not in numbers and (fault := earlier.fault()):
                raise StepError(fault)  # now, and not after the notebooks before it
        fetch(profile, *sorted({section for step in steps for section in step.sections}))
        os.environ["TUTORIAL_RUNNER"] = str(os.getpid())  # the benchmark leaves it out of "others"
        with _folder_to_ourselves(steps[0].folder), _signals_interrupt():
            return _run(steps, force=bool(force_from), processes=processes, refresh=refresh)
    except KeyboardInterrupt:  # before the first notebook
        return 130
    except (ProfileError, SourceError, StepError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # a disk that is full, or cannot be written
        print(f"error: artifacts/{profile.name} cannot be written: {error}", file=sys.stderr)
        return 1


def _run(steps: list[Step], *, force: bool, processes: int, refresh: bool) -> int:
    """Run what is not fresh of the steps, in order, and conclude; returns the exit status."""
    profile, folder = steps[0].profile, steps[0].folder
    (folder / "executed").mkdir(exist_ok=True)
    times = _read_times(folder / "times.json")
    stale = [step for step in steps if force or not _is_fresh(step, times, refresh=refresh)]
    known = reference_times(profile) | times
    if stale:
        Lesson(stale[0]).data()  # what is wrong with the sentences is said before anything long
        _forecast(profile, [known.get(step.name) for step in stale])
    display = Display({step.name: known.get(step.name, {}).get("minutes") for step in stale})
    if not stale:
        display = Display({step.name: 0.0 for step in steps})
    together = str(processes) if processes > 1 else ""
    again = run_command(steps[0].number, profile, PROCESSES=together)
    with (folder / "run.log").open("w", encoding="utf-8") as log:
        for step in steps:
            step = Step(step.number, profile)  # those before it may have changed
            if not force and _is_fresh(step, times, refresh=refresh):
                display.fresh(step.name)
                continue
            if force:
                step.forget()
            times.pop(step.name, None)
            write_whole(folder / "times.json", json.dumps(times, indent=1) + "\n")
            log.write(f"\n== {step.name}\n")
            began = time.monotonic()
            try:
                with display.running(step.name), PeakMemory() as memory:
                    _execute(step, log=log, display=display, processes=processes)
            except (Exception, KeyboardInterrupt) as error:
                return _explain(error, step, folder / "run.log", again)
            minutes = (time.monotonic() - began) / 60
            times[step.name] = {
                "minutes": round(minutes, 2),
                "gigabytes": round(memory.gigabytes, 2),
            }
            write_whole(folder / "times.json", json.dumps(times, indent=1) + "\n")
            display.done(step.name, minutes, memory.gigabytes)
    conclude(profile, steps, times, refresh=refresh)
    return 0


def _execute(step: Step, *, log: IO[str], display: Display, processes: int) -> None:
    copy = step.folder / "executed" / step.notebook.name
    write_whole(copy, step.notebook.read_text(encoding="utf-8"))
    if processes > 1:
        train_together(step.notebook, copy.with_suffix(".py"), processes, log)
    execute_notebook(step.notebook, copy, log=log, announce=display.cell)


def _is_fresh(step: Step, times: dict, *, refresh: bool) -> bool:
    """Whether a step's results fit and its notebook was run to its end, or came in a bundle."""
    copy = step.folder / "executed" / step.notebook.name
    if step.fault() or (copy.exists() and step.name not in times):
        return False
    if not refresh:
        return True
    sources = [
        [cell.source for cell in nbformat.read(path, as_version=4).cells]
        for path in (copy, step.notebook)
        if path.exists()
    ]
    return len(sources) == 2 and sources[0] == sources[1]


@contextlib.contextmanager
def _folder_to_ourselves(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".run.lock", timeout=0):
            yield
    except Timeout:
        raise StepError(
            f"another run is at work in artifacts/{folder.name}: wait for its end, or give this "
            'one a name of its own, SET="name=..."'
        ) from None


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """Let a termination and a closed terminal do what Ctrl-C does."""

    def interrupt(number, _):
        for name in names:
            signal.signal(name, signal.SIG_IGN if name != signal.SIGINT else interrupt)
        raise KeyboardInterrupt(signal.Signals(number).name)

    names = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]
    before = {name: signal.getsignal(name) for name in names}
    for name in names:
        if name == signal.SIGINT or before[name] != signal.SIG_IGN:  # nohup means it
            signal.signal(name, interrupt)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _read_times(path: Path) -> dict[str, dict]:
    """What the notebooks took here before; nothing where the file is missing or damaged."""
    try:
        times = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: {k: float(took[k]) for k in ("minutes", "gigabytes")}
            for name, took in times.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _forecast(profile, before: list[dict | None]) -> None:
    """Say what the notebooks took before, here or in the committed run."""
    print(f"profile {profile.name}: {profile.description}")
    stop = "Ctrl-C stops, and says how to resume"
    if None in before:
        print(f"how long this takes is not known here yet; {stop}", flush=True)
        return
    minutes, gigabytes = sum(t["minutes"] for t in before), max(t["gigabytes"] for t in before)
    print(f"before, this took {minutes:.0f} minutes and {gigabytes:.1f} GB; {stop}", flush=True)
    if (free := psutil.virtual_memory().available / 1e9) < gigabytes:
        print(f"warning: only {free:.1f} GB of memory are free", flush=True)


def _explain(error: BaseException, step: Step, log: Path, again: str) -> int:
    """Say what stopped a notebook and how to resume; returns the exit status."""
    lines = [f"error: {step.notebook.name} stopped", str(error)]
    if isinstance(error, KeyboardInterrupt):
        lines = [
            f"interrupted in {step.notebook.name} ({error or 'SIGINT'}); nothing is half-written"
        ]
    elif isinstance(error, DeadKernelError):
        free = psutil.virtual_memory().available / 1e9
        lines.append(f"the kernel died, most often for want of memory; {free:.1f} GB are free now")
    elif not isinstance(error, (CellExecutionError, OSError, subprocess.CalledProcessError)):
        raise error
    if not isinstance(error, KeyboardInterrupt):
        lines.append(f"what the cells wrote: artifacts/{step.profile.name}/{log.name}")
    text = "\n".join([*lines, f"to resume: {again}"])
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as end:
        end.write(f"\n{text}\n")
    with contextlib.suppress(OSError):  # a closed terminal
        print(f"\n{text}", file=sys.stderr, flush=True)
    return 130 if isinstance(error, KeyboardInterrupt) else 1
