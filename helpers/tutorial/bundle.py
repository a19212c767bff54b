"""What a workshop hands out: finished results to start from, and all that works with no network.

`bundle` gathers the results of a finished run, so that anybody enters at any notebook with real
numbers. `wheelhouse` gathers the repository, the packages, the archives of data and weights, and
the bundle where there is one; set-up uses `wheels/` in place of the network where it lies beside
the Makefile. Wheels are for one kind of machine and one Python: gather on each kind into the same
folder. PROFILE and SET count as in a run.
"""

import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.tutorial.profile import ROOT, Profile, ProfileError, load_profile
from helpers.tutorial.run import DEEPER, MAIN_LINE
from helpers.tutorial.sources import (
    MAIN,
    SourceError,
    download_archives,
    load_assets,
    pip_download,
)
from helpers.tutorial.steps import Step, StepError

_BESIDE = ("story.json", "times.json")


def finished_files(profile: Profile) -> list[Path]:
    """The results of a finished run with their records, and of the deeper notebooks that were run.

    Raises:
        StepError: a notebook of the main line has not been run, or its results no longer fit.
    """
    steps = [Step(number, profile) for number in MAIN_LINE]
    for step in steps:
        if fault := step.fault():
            raise StepError(fault)
    for number in DEEPER:
        try:
            step = Step(number, profile)
        except ValueError:  # there is no such notebook
            continue
        steps += [step] if not step.fault() else []
    found = [file for step in steps for file in step.files()]
    beside = [steps[0].folder / name for name in _BESIDE]
    return found + [path for path in beside if path.exists()]


def bundle(target: Path) -> int:
    """Write the results of the profile's run to a folder, or to a file where it ends in .zip.

    Unpacked in a clone's folder they lie in `artifacts/<profile>/`. Returns the exit status.
    """
    try:
        profile = load_profile()
        files = finished_files(profile)
        with tempfile.TemporaryDirectory(dir=target.absolute().parent) as scratch:
            packed = target.suffix == ".zip"
            folder = Path(scratch) if packed else target
            for file in files:
                copy = folder / file.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, copy)
            if packed:
                shutil.make_archive(str(target.with_suffix("")), "zip", scratch)
    except (ProfileError, StepError, OSError) as error:
        print(f"error: {target}: {error}", file=sys.stderr)
        return 1
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{target}: {len(files)} files, {size:.0f} MB, results of the profile {profile.name}.")
    print("To use it: unpack it in the folder of a clone of the same commit.")
    return 0


def wheelhouse(target: Path) -> int:
    """Gather into the folder all that run, test and lab need; returns the exit status."""
    try:
        copy_repository(target)
        gather_packages(target / "wheels")
        profiles = [load_profile(), load_profile("smoke")]
        wanted = {reference for p in profiles for reference in p.references(*MAIN).values()}
        for name in sorted(wanted & set(load_assets())):
            download_archives(load_assets()[name], target / "wheels")
    except (SourceError, ProfileError, OSError) as error:
        print(f"error: {target} is not complete: {error}", file=sys.stderr)
        print("Run the same again: what is there already is kept.", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in (target / "wheels").iterdir()) / 1e9
    kind = f"Python {'.'.join(platform.python_version_tuple()[:2])} on {platform.system()}"
    print(f"{target}: {size:.1f} GB in wheels/, for {kind}, {platform.machine()}.")
    print("For other machines or Pythons, run the same on one of each kind, into this folder.")
    print("To use it: copy it to a disk; there, make run, make test and make lab need no network.")
    if bundle(target):
        print("It has no finished results to start from; after a run, gather again to add them.")
    return 0


def copy_repository(target: Path, *, source: Path = ROOT) -> None:
    """Copy the files that git tracks, as they are in the working tree.

    Raises:
        SourceError: the source is no clone, such as a folder that was gathered before.
    """
    command = ["git", "-C", source, "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    tracked = [name for name in done.stdout.split("\0") if name and (source / name).exists()]
    if not tracked:
        raise SourceError(f"{source} is no clone made by git: {done.stderr.strip() or 'no files'}")
    for name in tracked:
        path = target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / name, path)


def gather_packages(wheels: Path) -> None:
    """Download the packages as set-up would take them, and the blog's engine if possible.

    Raises:
        SourceError: pip could not download one.
    """
    from helpers.tutorial.setup import package_arguments

    for arguments in package_arguments(sys.executable):
        pip_download(wheels, *arguments)
    try:
        engine = ROOT / "requirements-engine.txt"
        pip_download(wheels, "--no-deps", "--require-hashes", "--requirement", engine)
    except SourceError as error:
        print(f"left out: the blog's engine: {error}")
