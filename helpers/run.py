"""Run the numbered notebooks in order, showing progress; then write one HTML report.

python -m helpers.run            every notebook, in the profile that PROFILE names
python -m helpers.run --from 03  from that step on
python -m helpers.run --refresh  also store the executed copies as the committed notebooks
"""

import argparse
import sys
import time
from pathlib import Path

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from helpers.artifacts import Artifacts
from helpers.assets import AssetError, fetch_asset
from helpers.profile import ROOT, ProfileError, load_profile
from helpers.report import read_results, refresh_committed, results_text, write_report

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
    """The notebooks of the main job in order, from the step `first` (two digits) on.

    Raises:
        ValueError: no notebook has that number.
    """
    notebooks = sorted(p for p in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb") if p.name >= "01")
    chosen = [path for path in notebooks if path.name[:2] >= first]
    if first not in {path.name[:2] for path in notebooks}:
        known = ", ".join(path.name[:2] for path in notebooks)
        raise ValueError(f"no notebook is numbered {first!r}; known: {known}")
    return chosen


def execute_notebook(path: Path, target: Path) -> float:
    """Execute one notebook in the notebooks' folder and write the executed copy to `target`.

    The copy is written whether or not a cell fails. Returns the seconds it took.
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
    return time.monotonic() - started


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--from", dest="first", default="01", metavar="NN", help="first step")
    parser.add_argument(
        "--refresh", action="store_true", help="store outputs in notebooks/, results/ and README.md"
    )
    chosen = parser.parse_args(arguments)
    try:
        profile = load_profile()
        notebooks = numbered_notebooks(chosen.first)
        for name in (profile.data.source, profile.teacher.model):
            fetch_asset(name)
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
        try:
            seconds = execute_notebook(notebook, folder / notebook.name)
        except (CellExecutionError, DeadKernelError) as error:
            _explain(error, notebook, profile.name)
            return 1
        print(f"  done in {seconds / 60:.1f} min")
    executed = [folder / path.name for path in numbered_notebooks()]
    report = artifacts.path("report.html")
    write_report([path for path in executed if path.exists()], report, title=profile.description)
    results = read_results(artifacts.path("benchmark.json"))
    if chosen.refresh:
        refresh_committed(executed, results)
    print(results_text(results))
    print(f"\n{(time.monotonic() - started) / 60:.1f} min in all. Written:")
    for path in (folder, report, artifacts.path("benchmark.json")):
        print(f"  {path.relative_to(ROOT)}")
    return 0


def _explain(error: Exception, notebook: Path, profile: str) -> None:
    print(f"\nerror: {notebook.relative_to(ROOT)} stopped", file=sys.stderr)
    print(str(error), file=sys.stderr)
    memory = psutil.virtual_memory()
    if isinstance(error, DeadKernelError):
        print(f"the kernel died; {memory.available / 2**30:.1f} GiB free", file=sys.stderr)
    step = notebook.name[:2]
    print(f"to resume: make run PROFILE={profile} FROM={step}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
