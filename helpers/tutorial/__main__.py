"""The tutorial's commands: `python -m helpers.tutorial COMMAND`, on every system.

The first one makes `.venv`, by whatever Python runs it. The Makefile has the same under its names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from helpers.tutorial.setup import (
    ROOT,
    TutorialError,
    is_ready,
    prepare,
    prepare_engine,
    run_module,
    run_patiently,
)

COMMANDS = {
    "run": "notebooks 01 to 05; what is fresh is skipped",
    "deeper": "notebooks 06 to 10, or one of them",
    "lab": "JupyterLab on the notebooks",
    "test": "unit tests, and notebooks under nbval in the profile smoke",
    "engine": "the blog's engine, in an environment of its own (Linux on x86-64)",
    "bundle": "finished results to start from, in a folder or a .zip",
    "export": "the student, in a folder that other tools load, with a page that classifies",
    "wheelhouse": "all that run, test and lab need, in a folder for a USB stick",
    "results": "add a machine's benchmark.json to results/ and README's table",
    "assets": "fetch the data and weights of the profile",
    "setup": "only make .venv; --here installs into this Python's environment",
    "lint": "ruff on code and notebooks",
    "clean": "remove .venv, .engine, .home and artifacts",
    "help": "this list",
}
_WITH_SETTINGS = "run deeper lab assets bundle export wheelhouse"
OPTIONS = {  # the commands that have them, and how they are read
    "--profile": (_WITH_SETTINGS, {"help": "a file of profiles/ (or the variable PROFILE)"}),
    "--set": (_WITH_SETTINGS, {"help": 'single settings: "name=trial seed=7" (or SET)'}),
    "--from": ("run deeper", {"dest": "first", "metavar": "NN", "help": "anew from here on"}),
    "--to": ("run deeper", {"dest": "last", "metavar": "NN", "help": "and no further"}),
    "--processes": ("run deeper", {"type": int, "default": 1, "help": "to train in"}),
    "only": ("deeper", {"nargs": "?", "metavar": "NN", "help": "this one alone"}),
    "--deeper": ("test", {"action": "store_true", "help": "the deeper notebooks too"}),
    "target": ("bundle export wheelhouse", {"type": Path, "metavar": "DIR", "help": "to make"}),
    "file": ("results", {"type": Path, "metavar": "FILE", "help": "its benchmark.json"}),
    "--push": ("export", {"metavar": "ORG/NAME", "help": "then to the model hub; asks first"}),
    "--yes": ("export", {"action": "store_true", "help": "push without asking"}),
    "--here": ("setup", {"action": "store_true", "help": "for conda and Colab"}),
}


def main() -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args()
    os.chdir(ROOT)
    for name in ("profile", "set"):
        if getattr(options, name, None):
            os.environ[name.upper()] = getattr(options, name)
    if options.command == "help":
        parser.print_help()
        return 0
    if options.command == "clean":
        for name in (".venv", ".engine", ".home", ".tested", "artifacts"):
            shutil.rmtree(ROOT / name, ignore_errors=True)
        return 0
    try:
        if options.command == "engine":
            prepare_engine()
            return 0
        python = prepare(here=getattr(options, "here", False))
        if options.command == "setup":
            return 0
        return (_dispatch(options) or 0) if is_ready(sys.prefix) else _again(python)
    except (TutorialError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers.tutorial", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text)
        for option, (having, how) in OPTIONS.items():
            if name in having.split():
                command.add_argument(option, **how)
    return parser


def _dispatch(options: argparse.Namespace) -> int | None:
    """Run a command that needs the packages, now that they are there."""
    from helpers.tutorial import bundle

    command = options.command
    if command in ("run", "deeper"):
        return _notebooks(options)
    if command == "test":
        return _test(deeper=options.deeper)
    if command == "lint":
        return run_module("ruff", "check", ".") or run_module("ruff", "format", "--check", ".")
    if command in ("bundle", "wheelhouse"):
        return getattr(bundle, command)(options.target.absolute())
    if command == "export":
        from helpers.tutorial.publish import export

        return export(options.target.absolute(), repository=options.push, agreed=options.yes)
    if command == "results":
        return run_patiently([sys.executable, ".ci/refresh.py", "--add", str(options.file)])
    _assets()
    if command == "lab":
        return run_module("jupyterlab", "--LabApp.default_url=/lab/tree/notebooks")
    return 0


def _again(python: Path) -> int:
    """Run the same command in the environment that is ready."""
    command = [str(python), "-m", "helpers.tutorial", *sys.argv[1:]]
    if os.name != "nt":
        os.execv(command[0], command)
    return run_patiently(command)


def _notebooks(options: argparse.Namespace) -> int:
    from helpers.tutorial.run import DEEPER, MAIN_LINE, run_steps

    known = MAIN_LINE if options.command == "run" else DEEPER
    only = getattr(options, "only", None)
    first, last = only or options.first, only or options.last
    for number in filter(None, (first, last)):
        if number not in known:
            print(f"error: {options.command} has {', '.join(known)}, no {number}", file=sys.stderr)
            return 2
    numbers = [n for n in known if (first or known[0]) <= n <= (last or known[-1])]
    if not numbers:
        print(f"error: {last} comes before {first}", file=sys.stderr)
        return 2
    return run_steps(numbers, force=bool(options.first), processes=options.processes)


def _assets(profile: str = "") -> None:
    """Fetch what notebooks 01 to 05 take from outside."""
    from helpers.tutorial import sources
    from helpers.tutorial.profile import load_profile

    sources.fetch(load_profile(profile), *sources.MAIN)


def _test(*, deeper: bool) -> int:
    one_thread, smoke = {"OMP_NUM_THREADS": "1"}, {"PROFILE": "smoke"}
    for name in ("PROFILE", "SET"):
        os.environ.pop(name, None)
    tested = ROOT / ".tested"  # beside notebooks/, whose relative paths hold there too
    together = ("--numprocesses=2", "--dist=loadfile")
    nbval = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900", "--durations=5")
    _assets("smoke")
    status = run_module("pytest", "tests", *together, **one_thread)
    shutil.rmtree(ROOT / "artifacts/smoke", ignore_errors=True)
    status = status or run_module("tests.solutions", tested)
    status = status or run_module("pytest", *nbval, *sorted(tested.glob("0[1-5]*")), **smoke)
    if deeper:
        others = sorted(tested.glob("0[6-9]*")) + sorted(tested.glob("10*"))
        status = status or run_module("pytest", *nbval, *together, *others, **smoke, **one_thread)
    return status


if __name__ == "__main__":
    sys.exit(main())
