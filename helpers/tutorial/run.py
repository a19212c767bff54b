"""Run the numbered notebooks in order, showing progress; then write one HTML report.

python -m helpers.tutorial.run            every notebook, in the profile that PROFILE names
python -m helpers.tutorial.run --from 03  from that step on; --to 04: no further than that one
python -m helpers.tutorial.run --only 00  one notebook alone, such as the optional 00
python -m helpers.tutorial.run --processes 4  train and label in so many processes (several GPUs, or CPUs)
python -m helpers.tutorial.run --refresh  also store the executed copies as the committed notebooks
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable
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
from nbconvert.preprocessors import TagRemovePreprocessor
from pydantic import TypeAdapter

from helpers.tutorial.artifacts import Artifacts, make_command, write_whole
from helpers.tutorial.sources import AssetError, fetch_profile_assets
from helpers.tutorial.profile import MAIN_JOB, ROOT, Profile, ProfileError, load_profile
from helpers.tutorial.progress import Progress
from helpers.tutorial.report import (
    read_results,
    reference_steps,
    refresh_notebooks,
    refresh_results,
    results_text,
    summary_text,
    write_report,
)

NOTEBOOKS = ROOT / "notebooks"
_PATIENCE_S = 20  # with a cell that was interrupted
_STEPS = TypeAdapter(dict[str, dict[str, float]])  # `steps.json`


class LoggingClient(NotebookClient):
    """Executes a notebook and copies what its cells write to a log, as they write it."""

    def __init__(self, notebook, *, log: IO[str], **settings):
        super().__init__(notebook, **settings)
        self._written = log
        self.stopped = threading.Event()  # by Ctrl-C

    def output(self, outs, msg, display_id, cell_index):
        """Handle one message from the kernel; of a progress bar every state gets a line."""
        if msg["msg_type"] == "stream":
            self._written.write(msg["content"]["text"].replace("\r", "\n"))
            self._written.flush()
        return super().output(outs, msg, display_id, cell_index)

    def execute_or_interrupt(self) -> None:
        """Execute all cells; on Ctrl-C the cell at work is interrupted, so that it can clean up.

        The cells are awaited in a thread, because in the main one the client takes the signal
        itself and shuts the kernel down wherever it stands.

        Raises:
            KeyboardInterrupt: the user stopped it; the kernel is gone.
        """
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(self.execute)
            try:
                done.result()
            except KeyboardInterrupt:
                self.stopped.set()
                for stop in (self.km.interrupt_kernel, partial(self.km.shutdown_kernel, now=True)):
                    with contextlib.suppress(RuntimeError):  # there is no kernel yet, or no more
                        asyncio.run(stop())
                    if wait([done], timeout=_PATIENCE_S).done:
                        break
                raise


def numbered_notebooks(first: str = "01", last: str | None = None) -> list[Path]:
    """The notebooks in order, from the step `first` (two digits) to `last`; the main job is 01 on.

    Raises:
        ValueError: no notebook has that number, or `last` comes before `first`.
    """
    notebooks = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    known = [path.name[:2] for path in notebooks]
    for number in filter(None, (first, last)):
        if number not in known:
            raise ValueError(f"no notebook is numbered {number!r}; known: {', '.join(known)}")
    last = last or known[-1]
    if last < first:
        raise ValueError(f"{last} comes before {first}")
    return [path for path in notebooks if first <= path.name[:2] <= last]


def execute_notebook(
    path: Path, target: Path, *, log: IO[str], announce: Callable[[int, int, str], None]
) -> None:
    """Execute one notebook in the notebooks' folder and write the executed copy to `target`.

    The copy is written whether or not a cell fails. What cells write goes to `log` too; `announce`
    is called with the place, count and first line of each code cell when its turn comes.

    Raises:
        CellExecutionError: a cell failed.
        DeadKernelError: the kernel died.
        KeyboardInterrupt: the user stopped it.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]

    def on_cell(cell, cell_index):
        if client.stopped.is_set():
            raise RuntimeError("stopped by the user")
        if cell.cell_type == "code":
            title = next((line for line in cell.source.splitlines() if line.strip()), "")
            announce(cells.index(cell) + 1, len(cells), title)

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


def export_script(path: Path, target: Path) -> bool:
    """Write a notebook as a Python script without the cells tagged `probe`.

    Returns False, and writes nothing, where no cell is tagged: then it is for one process.
    """
    notebook = nbformat.read(path, as_version=4)
    if not any("probe" in cell.metadata.get("tags", ()) for cell in notebook.cells):
        return False
    exporter = PythonExporter()
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags={"probe"}), enabled=True)
    script, _ = exporter.from_notebook_node(notebook)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(script, encoding="utf-8")
    return True


def launch(path: Path, script: Path, processes: int) -> None:
    """Run a notebook's training and labelling cells in several processes that work together.

    They leave their checkpoints where the notebook, run afterwards, finds them.

    Raises:
        subprocess.CalledProcessError: a process failed.
    """
    if export_script(path, script):
        command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
        command += [f"--num_processes={processes}", "--num_machines=1", "--mixed_precision=no"]
        subprocess.run([*command, "--dynamo_backend=no", str(script)], check=True)


class PeakMemory(threading.Thread):
    """Watches how much memory this process and its descendants take for themselves.

    Pages of files are left out, and those that a fork shares with its parent are not counted twice.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.gigabytes = 0.0
        self._done = threading.Event()

    def run(self):
        """Take a sample every second until told to stop."""
        me = psutil.Process()
        while not self._done.wait(1.0):
            used = 0
            for process in [me, *me.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    info = process.memory_full_info()
                    used += min(info.uss, info.rss - getattr(info, "shared", 0))
            self.gigabytes = max(self.gigabytes, used / 1e9)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self.join()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.tutorial.run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--from", dest="first", default="01", metavar="NN", help="first step")
    parser.add_argument("--to", dest="last", metavar="NN", help="last step")
    parser.add_argument("--only", metavar="NN", help="one step alone")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="to train in")
    parser.add_argument(
        "--refresh", action="store_true", help="store outputs in notebooks/, results/ and README.md"
    )
    chosen = parser.parse_args(arguments)
    try:
        profile = load_profile()
        notebooks = numbered_notebooks(chosen.only or chosen.first, chosen.only or chosen.last)
        sections = ("data", "student", "pretraining") if chosen.only == "00" else MAIN_JOB
        fetch_profile_assets(profile, *sections)
        _check_data(profile)
    except (ProfileError, AssetError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        artifacts = Artifacts(profile)
        with FileLock(artifacts.path(".run.lock"), timeout=0):
            artifacts.path("executed").mkdir(exist_ok=True)
            return _run(notebooks, artifacts, chosen)
    except Timeout:
        print(
            f"error: another run is at work in artifacts/{profile.name}: wait for its end, or give "
            'this one a name of its own, SET="name=..."',
            file=sys.stderr,
        )
        return 2
    except OSError as error:  # a disk that is full, or cannot be written
        print(f"error: artifacts/{profile.name} cannot be written: {error}", file=sys.stderr)
        return 1


def _run(notebooks: list[Path], artifacts: Artifacts, chosen: argparse.Namespace) -> int:
    """Execute the notebooks one after another; returns the exit status."""
    profile, names = artifacts.profile, [notebook.stem for notebook in notebooks]
    steps_path, log_path = artifacts.path("steps.json"), artifacts.path("run.log")
    steps = _read_steps(steps_path)
    before = reference_steps(profile) | steps
    print(f"profile {profile.name}: {profile.description}")
    print(_forecast([before[name] for name in names if name in before], len(names)), flush=True)
    expected = {name: step["minutes"] for name, step in before.items()}
    at, executed = notebooks[0], [artifacts.path("executed") / path.name for path in notebooks]
    try:
        with log_path.open("w", encoding="utf-8") as log, Progress(names, expected) as progress:
            for at, copy in zip(notebooks, executed, strict=True):
                progress.start(at.stem)
                log.write(f"\n== {at.stem}\n")
                with PeakMemory() as memory:
                    if chosen.processes > 1:
                        launch(at, copy.with_suffix(".py"), chosen.processes)
                    execute_notebook(at, copy, log=log, announce=partial(progress.cell, at.stem))
                progress.finish(at.stem, memory.gigabytes)
                steps[at.stem] = progress.steps[at.stem].measured()
                write_whole(steps_path, json.dumps(steps, indent=1) + "\n")
    except (CellExecutionError, DeadKernelError, OSError, subprocess.CalledProcessError) as error:
        return _explain(error, at, profile, log_path)
    except KeyboardInterrupt:
        return _explain(None, at, profile, log_path)
    if chosen.only or chosen.last:
        if chosen.refresh:
            refresh_notebooks(executed, steps)
        for copy in executed:
            print(f"executed copy: {copy.relative_to(ROOT)}")
        return 0
    _conclude(artifacts, steps, refresh=chosen.refresh)
    print(f"\n{sum(step.minutes for step in progress.steps.values()):.1f} min in all. Written:")
    for name in ("report.html", "executed", "figures", "benchmark.json"):
        print(f"  {artifacts.path(name).relative_to(ROOT)}")
    return 0


def _conclude(artifacts: Artifacts, steps: dict[str, dict], *, refresh: bool) -> None:
    """Write the report, print the table, and with `refresh` make the run the committed one."""
    executed = [artifacts.path("executed") / path.name for path in numbered_notebooks()]
    results = read_results(artifacts.path("benchmark.json"))
    write_report(
        [path for path in executed if path.exists()], artifacts.path("report.html"), results,
        title=artifacts.profile.description, figures=artifacts.path("figures"),
    )  # fmt: skip
    if refresh:
        refresh_notebooks(executed, steps)
        refresh_results(results, {path.stem: steps[path.stem] for path in executed})
    print(results_text(results))
    print(f"\n{summary_text(results)}")


def _read_steps(path: Path) -> dict[str, dict]:
    """What earlier runs of the notebooks took; nothing where the file is missing or damaged."""
    try:
        return _STEPS.validate_json(path.read_bytes())
    except (OSError, ValueError):
        return {}


def _check_data(profile: Profile) -> None:
    """Read the sentences once before anything long begins, to say early what is wrong with them."""
    from helpers.data import load_data

    load_data(profile.data)


def _forecast(before: list[dict], count: int) -> str:
    """What the notebooks took before, here or in the reference run, and what to do about it."""
    stop = "Ctrl-C stops, and says how to resume"
    if len(before) < count:
        return f"how long this takes is not known here yet; {stop}"
    minutes = sum(step["minutes"] for step in before)
    gigabytes = max(step["gigabytes"] for step in before)
    free = psutil.virtual_memory().available / 1e9
    short = f"\nwarning: only {free:.1f} GB of memory are free" if free < gigabytes else ""
    return (
        f"before, this took {minutes:.0f} minutes and {gigabytes:.1f} GB of memory; {stop}{short}"
    )


def _explain(error: Exception | None, notebook: Path, profile: Profile, log: Path) -> int:
    """Say what stopped a notebook, None for the user; returns the exit status."""
    resume = f"to resume: {make_command(notebook.stem, profile)}"
    if error is None:
        print(f"\ninterrupted in {notebook.name}; {resume}", file=sys.stderr)
        return 130
    print(f"\nerror: {notebook.relative_to(ROOT)} stopped", file=sys.stderr)
    print(str(error), file=sys.stderr)
    if isinstance(error, DeadKernelError):
        free = psutil.virtual_memory().available / 2**30
        print(f"the kernel died; {free:.1f} GiB free", file=sys.stderr)
    print(f"what the cells wrote: {log.relative_to(ROOT)}\n{resume}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
