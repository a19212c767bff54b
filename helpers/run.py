"""Run the numbered notebooks in order, showing progress; then write one HTML report.

python -m helpers.run            every notebook, in the profile that PROFILE names
python -m helpers.run --from 03  from that step on
python -m helpers.run --only 00  one notebook alone, such as the optional 00
python -m helpers.run --processes 4  train and label in so many processes (several GPUs, or CPUs)
python -m helpers.run --refresh  also store the executed copies as the committed notebooks
"""

import argparse
import contextlib
import subprocess
import sys
import threading
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import PythonExporter
from nbconvert.preprocessors import TagRemovePreprocessor

from helpers.artifacts import Artifacts, make_command
from helpers.assets import AssetError, fetch_profile_assets
from helpers.profile import MAIN_JOB, ROOT, Profile, ProfileError, load_profile
from helpers.report import (
    read_results,
    refresh_notebooks,
    refresh_results,
    results_text,
    write_report,
)

NOTEBOOKS = ROOT / "notebooks"


class ProgressClient(NotebookClient):
    """Executes a notebook and passes on to the terminal what its cells write as they write it."""

    def output(self, outs, msg, display_id, cell_index):
        """Handle one message from the kernel; a stream is shown at once."""
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stderr":
            sys.stderr.write(msg["content"]["text"])
            sys.stderr.flush()
        return super().output(outs, msg, display_id, cell_index)


def numbered_notebooks(first: str = "01") -> list[Path]:
    """The notebooks in order, from the step `first` (two digits) on; the main job begins at 01.

    Raises:
        ValueError: no notebook has that number.
    """
    notebooks = sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))
    if first not in {path.name[:2] for path in notebooks}:
        known = ", ".join(path.name[:2] for path in notebooks)
        raise ValueError(f"no notebook is numbered {first!r}; known: {known}")
    return [path for path in notebooks if path.name[:2] >= first]


def execute_notebook(path: Path, target: Path) -> None:
    """Execute one notebook in the notebooks' folder and write the executed copy to `target`.

    The copy is written whether or not a cell fails.

    Raises:
        CellExecutionError: a cell failed.
        DeadKernelError: the kernel died.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    started = time.monotonic()

    def announce(cell, cell_index):
        if cell.cell_type == "code":
            place = cells.index(cell) + 1
            title = next((line for line in cell.source.splitlines() if line.strip()), "")
            elapsed = time.monotonic() - started
            print(f"  [{place:2d}/{len(cells)}] {elapsed:5.0f} s  {title[:70]}", flush=True)

    client = ProgressClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOKS)}},
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],
        on_cell_execute=announce,
    )
    try:
        client.execute()
    finally:
        nbformat.write(notebook, target)


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
    parser = argparse.ArgumentParser(prog="python -m helpers.run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    steps = parser.add_mutually_exclusive_group()
    steps.add_argument("--from", dest="first", default="01", metavar="NN", help="first step")
    steps.add_argument("--only", metavar="NN", help="one step alone")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="to train in")
    parser.add_argument(
        "--refresh", action="store_true", help="store outputs in notebooks/, results/ and README.md"
    )
    chosen = parser.parse_args(arguments)
    try:
        profile = load_profile()
        notebooks = numbered_notebooks(chosen.only or chosen.first)
        if chosen.only:
            notebooks = notebooks[:1]
        sections = ("data", "student", "pretraining") if chosen.only == "00" else MAIN_JOB
        fetch_profile_assets(profile, *sections)
    except (ProfileError, AssetError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    artifacts = Artifacts(profile)
    folder = artifacts.path("executed")
    folder.mkdir(exist_ok=True)
    started = time.monotonic()
    print(f"profile {profile.name}: {profile.description}")
    for notebook in notebooks:
        print(f"\n{notebook.stem}  (at {(time.monotonic() - started) / 60:.1f} min)", flush=True)
        began = time.monotonic()
        try:
            with PeakMemory() as memory:
                if chosen.processes > 1:
                    launch(notebook, folder / f"{notebook.stem}.py", chosen.processes)
                execute_notebook(notebook, folder / notebook.name)
        except (CellExecutionError, DeadKernelError, subprocess.CalledProcessError) as error:
            _explain(error, notebook, profile)
            return 1
        except KeyboardInterrupt:
            resume = make_command(notebook.stem, profile)
            print(f"\ninterrupted; to resume: {resume}", file=sys.stderr)
            return 130
        minutes = (time.monotonic() - began) / 60
        print(f"  done in {minutes:.1f} min, at most {memory.gigabytes:.1f} GB of memory")
    if chosen.only:
        if chosen.refresh:
            refresh_notebooks([folder / notebooks[0].name])
        print(f"executed copy: {(folder / notebooks[0].name).relative_to(ROOT)}")
        return 0
    executed = [folder / path.name for path in numbered_notebooks()]
    report = artifacts.path("report.html")
    write_report([path for path in executed if path.exists()], report, title=profile.description)
    results = read_results(artifacts.path("benchmark.json"))
    if chosen.refresh:
        refresh_notebooks(executed)
        refresh_results(results)
    print(results_text(results))
    print(f"\n{(time.monotonic() - started) / 60:.1f} min in all. Written:")
    for path in (folder, report, artifacts.path("benchmark.json")):
        print(f"  {path.relative_to(ROOT)}")
    return 0


def _explain(error: Exception, notebook: Path, profile: Profile) -> None:
    print(f"\nerror: {notebook.relative_to(ROOT)} stopped", file=sys.stderr)
    print(str(error), file=sys.stderr)
    memory = psutil.virtual_memory()
    if isinstance(error, DeadKernelError):
        print(f"the kernel died; {memory.available / 2**30:.1f} GiB free", file=sys.stderr)
    print(f"to resume: {make_command(notebook.stem, profile)}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
