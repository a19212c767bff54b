"""Gather all that a run takes from outside into one folder, which then needs no network.

The folder holds the repository's files and `wheels/`: the locked packages, torch, and the archives
of the profiles' data and weights. The Makefile uses `wheels/` in place of the network where it lies
beside it. Wheels are for one kind of machine and one Python: gather on each kind into the same
folder. SET counts as in a run, so it can bring other assets.
"""

import argparse
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.tutorial.sources import AssetError, download_archives, load_assets, pip_download
from helpers.tutorial.profile import MAIN_JOB, ROOT, ProfileError, load_profile

PROFILES = ("laptop", "smoke")


def copy_repository(target: Path, *, source: Path = ROOT) -> None:
    """Copy the files that git tracks, as they are in the working tree.

    Raises:
        AssetError: the source is no clone, such as a folder that was gathered before.
    """
    command = ["git", "-C", source, "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    tracked = [name for name in done.stdout.split("\0") if name and (source / name).exists()]
    if not tracked:
        raise AssetError(f"{source} is no clone made by git: {done.stderr.strip() or 'no files'}")
    for name in tracked:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, path)


def gather_packages(wheels: Path) -> None:
    """Download the locked packages, torch as set-up would take it, and the engine's if possible.

    Raises:
        AssetError: pip could not download one.
    """
    hashed = ("--no-deps", "--require-hashes", "--requirement")
    lock = ROOT / "requirements.lock"
    pip_download(wheels, *hashed, lock)
    with tempfile.TemporaryDirectory() as scratch:
        # Constraints with hashes would ask for one of torch, which has none.
        lines = lock.read_text(encoding="utf-8").splitlines()
        pins = [line.removesuffix("\\") for line in lines if re.match(r"[\w.-]+==", line)]
        constraints = Path(scratch, "constraints.txt")
        constraints.write_text("\n".join(pins), encoding="utf-8")
        direct = ROOT / "requirements.txt"
        pip_download(wheels, "--constraint", constraints, "--requirement", direct)
    try:
        pip_download(wheels, *hashed, ROOT / "requirements-engine.txt")
    except AssetError as error:
        print(f"left out: the reference engine: {error}")


def gather_assets(wheels: Path) -> None:
    """Download the archives of every asset that PROFILES take.

    Raises:
        AssetError: one cannot be had.
    """
    wanted = {
        reference
        for name in PROFILES
        for reference in load_profile(name).references(*MAIN_JOB).values()
    }
    for name, asset in load_assets().items():
        if name in wanted:
            download_archives(asset, wheels)


def main(arguments: list[str] | None = None) -> int:
    """Gather into the folder named on the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m helpers.tutorial.wheelhouse", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", type=Path, help="the folder, made where it is missing")
    target = parser.parse_args(arguments).target
    try:
        copy_repository(target)
        gather_packages(target / "wheels")
        gather_assets(target / "wheels")
    except (AssetError, ProfileError, OSError) as error:
        print(f"error: {target} is not complete: {error}", file=sys.stderr)
        print("Run the same again: what is there already is kept.", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in (target / "wheels").iterdir()) / 1e9
    kind = f"Python {'.'.join(platform.python_version_tuple()[:2])} on {platform.system()}"
    print(f"{target}: {size:.1f} GB in wheels/, for {kind}, {platform.machine()}.")
    print("For other machines or Pythons, run the same on one of each kind, into this folder.")
    print("To use it: copy it to a disk; there, make run, make test and make lab need no network.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
