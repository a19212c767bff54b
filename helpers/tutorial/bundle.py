"""What a workshop hands out: finished results to start from, and all that works with no network.

docs/workshop.md says how to use them. PROFILE and SET count as in a run.
"""

import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from helpers.tutorial.profile import ROOT, Profile, load_profile
from helpers.tutorial.run import DEEPER, MAIN_LINE
from helpers.tutorial.setup import package_arguments
from helpers.tutorial.sources import MAIN, SourceError, download_archives, load_assets, pip_download
from helpers.tutorial.steps import Step, StepError


def finished_files(profile: Profile) -> list[Path]:
    """The results of a finished run with their records, and of the deeper notebooks that were run.

    StepError names a notebook of the main line whose results are missing or no longer fit.
    """
    found = []
    for step in (Step(number, profile) for number in (*MAIN_LINE, *DEEPER)):
        if not (fault := step.fault()):
            found += step.files()
        elif step.number in MAIN_LINE:
            raise StepError(fault)
    beside = [ROOT / "artifacts" / profile.name / name for name in ("story.json", "times.json")]
    return found + [path for path in beside if path.exists()]


def bundle(target: Path) -> None:
    """Write the results of the profile's run to a folder, or to a file where it ends in .zip.

    Unpacked in a clone's folder they lie in `artifacts/<profile>/`.
    """
    profile = load_profile()
    files = finished_files(profile)
    if target.suffix == ".zip":
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.relative_to(ROOT))
    else:
        _copy(files, target)
    size = sum(file.stat().st_size for file in files) / 1e6
    print(f"{target}: {len(files)} files, {size:.0f} MB, results of the profile {profile.name}.")
    print("To use it: unpack it in the folder of a clone of the same commit.")


def wheelhouse(target: Path) -> None:
    """Gather into the folder all that run, test and lab need: `wheels/` stands for the network.

    Wheels are for one kind of machine and one Python: gather on each kind into the same folder.
    """
    wheels = target / "wheels"
    profiles = [load_profile(), load_profile("smoke")]
    try:
        _copy(_tracked_files(), target)
        for arguments in package_arguments(sys.executable):
            pip_download(wheels, *arguments)
        wanted = {reference for p in profiles for reference in p.references(*MAIN).values()}
        for name in sorted(wanted & set(load_assets())):
            download_archives(load_assets()[name], wheels)
    except SourceError as error:
        again = "run the same again, what is there already is kept"
        raise SourceError(f"{target} is not complete, {again}: {error}") from None
    try:
        engine = ROOT / "requirements-engine.txt"
        pip_download(wheels, "--no-deps", "--require-hashes", "--requirement", engine)
    except SourceError as error:
        print(f"left out: the blog's engine: {error}")
    size = sum(path.stat().st_size for path in wheels.iterdir()) / 1e9
    kind = f"Python {'.'.join(platform.python_version_tuple()[:2])} on {platform.system()}"
    print(f"{target}: {size:.1f} GB in wheels/, for {kind}, {platform.machine()}.")
    print("For other machines or Pythons, run the same on one of each kind, into this folder.")
    print("To use it: copy it to a disk; there, make run, make test and make lab need no network.")
    try:
        bundle(target)
    except StepError as error:
        print(f"It has no finished results to start from: {error}")


def _tracked_files() -> list[Path]:
    """The files that git tracks; what is not committed of them goes along."""
    command = ["git", "-C", ROOT, "ls-files", "-z"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8")
    found = [ROOT / name for name in done.stdout.split("\0") if name]
    if not found:
        raise SourceError(f"{ROOT} is no clone made by git: {done.stderr.strip() or 'no files'}")
    return [path for path in found if path.exists()]


def _copy(files: list[Path], target: Path) -> None:
    """Copy files of the repository to the same places in another folder."""
    for file in files:
        copy = target / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)
