"""Run notebooks in order: fresh ones are skipped, what stops a run says how to resume it.

A notebook's executed copy, with its outputs, lies in `artifacts/<profile>/executed/`, what its
cells write in `run.log`, its minutes and memory in `times.json`.
"""

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import IO

import nbformat
import psutil
from filelock import FileLock, Timeout
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import PythonExporter
from pydantic import TypeAdapter
from rich.console import Console
from rich.markup import escape

from helpers import Lesson
from helpers.tutorial.profile import load_profile
from helpers.tutorial.report import conclude
from helpers.tutorial.setup import TutorialError
from helpers.tutorial.sources import fetch
from helpers.tutorial.steps import NOTEBOOKS, Step, StepError, run_command, write_whole

MAIN_LINE = ("01", "02", "03", "04", "05")
DEEPER = ("06", "07", "08", "09", "10")
_PATIENCE_S = 20  # with a cell that was interrupted
_SAMPLING_S = 5  # of memory: often enough to see a peak, too seldom to disturb a benchmark
_ALONE = {"look", "single", "solution"}  # tags of cells that several processes do not run
_STOPPED = (CellExecutionError, DeadKernelError, subprocess.CalledProcessError)
_STOPPED += (KeyboardInterrupt, OSError, RuntimeError)
_SIGNALS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, n)]


class _LoggingClient(NotebookClient):
    """Copies what cells write to `written`, as they write it."""

    written: IO[str]

    def output(self, outs, msg, display_id, cell_index):
        """Handle one message from the kernel; of a progress bar every state gets a line."""
        if msg["msg_type"] == "stream":
            self.written.write(msg["content"]["text"].replace("\r", "\n"))
            self.written.flush()
        return super().output(outs, msg, display_id, cell_index)


def execute_notebook(
    path: Path, target: Path, *, log: IO[str], on_cell: Callable | None = None
) -> float:
    """Execute one notebook in the notebooks' folder and write the executed copy to `target`.

    The copy is written whether or not a cell fails. What cells write goes to `log` too; `on_cell`
    is called as nbclient calls its `on_cell_execute`. Returns the most memory taken, in gigabytes.

    Raises:
        CellExecutionError, DeadKernelError: a cell failed, or the kernel died.
    """
    notebook = nbformat.read(path, as_version=4)
    settings = {"timeout": None, "kernel_name": "python3", "on_cell_execute": on_cell}
    settings |= {"coalesce_streams": True, "extra_arguments": ["--log-level=ERROR"]}
    client = _LoggingClient(notebook, resources={"metadata": {"path": str(NOTEBOOKS)}}, **settings)
    client.written = log
    kernel = client.create_kernel_manager()
    try:
        return _attend(
            client.execute,
            lambda: asyncio.run(kernel.interrupt_kernel()),  # the cell at work cleans up
            lambda: asyncio.run(kernel.shutdown_kernel(now=True)),
        )
    finally:
        write_whole(target, nbformat.writes(notebook) + "\n")


def train_together(path: Path, script: Path, processes: int, log: IO[str]) -> float:
    """Run a notebook's training and labelling cells in several processes that work together.

    They leave their checkpoints where the notebook, run afterwards, finds them. A notebook where no
    cell is tagged `single` has nothing for several processes. Returns gigabytes of memory.

    Raises:
        subprocess.CalledProcessError: a process failed.
    """
    notebook = nbformat.read(path, as_version=4)
    tags = {cell.id: set(cell.metadata.get("tags", ())) for cell in notebook.cells}
    if "single" not in set().union(*tags.values()):
        return 0.0
    notebook.cells = [cell for cell in notebook.cells if not _ALONE & tags[cell.id]]
    write_whole(script, PythonExporter().from_notebook_node(notebook)[0])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += [f"--num_processes={processes}", "--num_machines=1", "--mixed_precision=no"]
    command += ["--dynamo_backend=no", str(script)]
    with subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT) as launched:
        gigabytes = _attend(launched.wait, launched.terminate)  # it ends its workers
    if launched.returncode:
        raise subprocess.CalledProcessError(launched.returncode, "accelerate launch")
    return gigabytes


def _attend(work: Callable[[], object], *stops: Callable[[], object]) -> float:
    """Let work be done in a thread; after a signal call `stops` in turn until it is over.

    In the main thread nbclient would take the signal itself and shut the kernel down wherever it
    stands. Returns the peak of memory meanwhile, in gigabytes.
    """
    peak = 0.0
    with ThreadPoolExecutor(1) as pool:
        over = pool.submit(work)
        try:
            while not wait([over], timeout=_SAMPLING_S).done:
                peak = max(peak, _memory_gb())
            over.result()
        except KeyboardInterrupt:
            for stop in stops:
                with suppress(RuntimeError):  # there is no kernel yet, or no more
                    stop()
                if wait([over], timeout=_PATIENCE_S).done:
                    break
            raise
    return peak


def _memory_gb() -> float:
    """What this process and its descendants take for themselves, without files.

    Two counters a process: the exact figure takes 7 % of a core, which disturbs a benchmark.
    """
    used, me = 0, psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):
            info = process.memory_info()
            used += info.rss - getattr(info, "shared", 0)
    return used / 1e9


def run_steps(numbers: Sequence[str], *, force: bool = False, processes: int = 1) -> int:
    """Run the notebooks with these numbers under the profile of the environment.

    Those that are fresh are skipped, unless `force`. Returns the exit status; 130 where a signal
    stopped it.
    """
    status = 2
    try:
        profile = load_profile()
        steps = [Step(number, profile) for number in sorted(numbers)]
        for earlier in (earlier for step in steps for earlier in step.before):
            if earlier.number not in numbers and (fault := earlier.fault()):
                raise StepError(fault)  # now, and not after the notebooks before it
        fetch(profile, *sorted({section for step in steps for section in step.sections}))
        folder = steps[0].folder
        (folder / "executed").mkdir(parents=True, exist_ok=True)
        for name in _SIGNALS:
            if signal.getsignal(name) != signal.SIG_IGN:  # nohup means it
                signal.signal(name, _interrupt)
        with FileLock(folder / ".run.lock", timeout=0):
            return _run(steps, force=force, processes=processes)
    except KeyboardInterrupt:  # before the first notebook
        return 130
    except (TutorialError, ValueError) as error:
        text = str(error)
    except Timeout:
        text = f"another run is at work in artifacts/{profile.name}: wait for its end, or give "
        text += 'this one a name: SET="name=..."'
    except OSError as error:  # a disk that is full, or cannot be written
        text, status = f"artifacts/{profile.name} cannot be written: {error}", 1
    print(f"error: {text}", file=sys.stderr)
    return status


def _run(steps: list[Step], *, force: bool, processes: int) -> int:
    """Run what is not fresh of the steps, in order, and conclude; returns the exit status."""
    profile, folder = steps[0].profile, steps[0].folder
    record = folder / "times.json"
    times = read_times(record)
    console = Console(highlight=False, soft_wrap=True)
    print(f"profile {profile.name}: {profile.description}; Ctrl-C stops, and says how to resume")
    if force or not all(is_fresh(step, times) for step in steps):
        Lesson(steps[0]).data()  # what is wrong with the sentences is said before anything long
    with (folder / "run.log").open("w", encoding="utf-8") as log:
        for step in steps:
            step = Step(step.number, profile)  # those before it may have changed
            if not force and is_fresh(step, times):
                console.print(f"{step.name}  fresh")
                continue
            if force:
                step.forget()
            times.pop(step.name, None)
            write_whole(record, json.dumps(times, indent=1) + "\n")
            log.write(f"\n== {step.name}\n")
            began = time.monotonic()
            try:
                peak = _execute(step, processes, log, console)
            except _STOPPED as error:
                first, last = steps[0].number, steps[-1].number
                alone = first == last and first in DEEPER
                until = "" if alone or last in (MAIN_LINE[-1], DEEPER[-1]) else last
                together = str(processes) if processes > 1 else ""
                how = {"alone": alone, "TO": until, "PROCESSES": together}
                resume = run_command(first, profile, **how)
                return _explain(error, step, folder / "run.log", resume)
            minutes = (time.monotonic() - began) / 60
            times[step.name] = {"minutes": round(minutes, 2), "gigabytes": round(peak, 2)}
            write_whole(record, json.dumps(times, indent=1) + "\n")
            console.print(f"{step.name}  {minutes:.1f} min, {peak:.1f} GB")
    conclude(profile, folder, times)
    return 0


def _execute(step: Step, processes: int, log: IO[str], console: Console) -> float:
    """Run a step's notebook; on a terminal a line shows its cell at work. Returns gigabytes."""
    copy, peak = step.folder / "executed" / step.notebook.name, 0.0
    write_whole(copy, step.notebook.read_text(encoding="utf-8"))
    console.print(f"{step.name}  begins")
    with console.status(step.name, refresh_per_second=0.5) as status:

        def show(cell, **_):
            status.update(escape(f"{step.name}  {cell.source.strip().splitlines()[0]}"))

        if processes > 1:
            peak = train_together(step.notebook, copy.with_suffix(".py"), processes, log)
        return max(peak, execute_notebook(step.notebook, copy, log=log, on_cell=show))


def is_fresh(step: Step, times: dict) -> bool:
    """Whether a step's results fit and its notebook was run to its end, or came in a bundle."""
    copy = step.folder / "executed" / step.notebook.name
    return not step.fault() and (step.name in times or not copy.exists())


def _interrupt(number: int, _) -> None:
    """Let a termination and a closed terminal do what Ctrl-C does, once."""
    for name in _SIGNALS:
        signal.signal(name, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


def read_times(path: Path) -> dict[str, dict[str, float]]:
    """What the notebooks took here before; nothing where the file is missing or damaged."""
    try:
        return TypeAdapter(dict[str, dict[str, float]]).validate_json(path.read_bytes())
    except (OSError, ValueError):
        return {}


def _explain(error: BaseException, step: Step, log: Path, resume: str) -> int:
    """Say what stopped a notebook and how to resume; returns the exit status."""
    name = step.notebook.name
    if isinstance(error, KeyboardInterrupt):
        text = f"interrupted in {name} ({error}); nothing is half-written"
    elif isinstance(error, DeadKernelError):
        text = f"error: {name} stopped: the kernel died, most often for want of memory"
    else:
        text = f"error: {name} stopped\n{error}\n"
        text += f"what the cells wrote: artifacts/{step.profile.name}/{log.name}"
    text += f"\nto resume: {resume}"
    with suppress(OSError), log.open("a", encoding="utf-8") as end:
        end.write(f"\n{text}\n")
    with suppress(OSError):  # a closed terminal
        print(f"\n{text}", file=sys.stderr, flush=True)
    return 130 if isinstance(error, KeyboardInterrupt) else 1
