"""The tutorial's commands: `python -m helpers.tutorial COMMAND`, on every system.

The first one makes `.venv`, by whatever Python runs it. The Makefile has the same under its names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.tutorial.setup import (
    ROOT,
    SetupError,
    is_ready,
    prepare,
    prepare_engine,
    run_module,
)

COMMANDS = {
    "run": "notebooks 01 to 05; what is fresh is skipped",
    "deeper": "notebooks 06 to 10, or one of them",
    "lab": "JupyterLab on the notebooks",
    "test": "unit tests, all notebooks under nbval in the profile smoke, one in a browser",
    "engine": "the blog's engine, in an environment of its own (Linux on x86-64)",
    "bundle": "finished results to start from, in a folder or a .zip",
    "wheelhouse": "all that run, test and lab need, in a folder for a USB stick",
    "assets": "fetch the data and weights of the profile",
    "setup": "only make .venv; --here installs into this Python's environment",
    "lint": "ruff on code and notebooks",
    "seeds": "notebooks 01 to 04 with other seeds, for the table of their spread",
    "readme": "render the tables and the picture from results/",
    "lock": "resolve requirements.txt anew into the locks",
    "newest": "lift each pin to the newest that resolves, and lock",
    "audit": "known vulnerabilities in what is installed; SECURITY.md lists the accepted",
    "clean": "remove .venv, .engine, .home and artifacts",
    "help": "this list",
}


def main() -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args()
    command = options.command
    os.chdir(ROOT)
    for name in ("profile", "set"):
        if getattr(options, name, None):
            os.environ[name.upper()] = getattr(options, name)
    if command == "help":
        parser.print_help()
        return 0
    if command == "clean":
        for name in (".venv", ".engine", ".home", ".tested", "artifacts"):
            shutil.rmtree(ROOT / name, ignore_errors=True)
        return 0
    try:
        if command == "engine":
            prepare_engine()
            return 0
        python = prepare(here=getattr(options, "here", False))
    except SetupError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if command == "setup":
        return 0
    if not is_ready(sys.prefix):
        return _again(python)
    return _dispatch(options)


def _dispatch(options: argparse.Namespace) -> int:
    """Run a command that needs the packages, now that they are there."""
    from helpers.tutorial import bundle, packages

    actions = {
        "run": lambda: _notebooks(options),
        "deeper": lambda: _notebooks(options),
        "lab": lambda: (
            run_module("helpers.tutorial.sources")
            or run_module("jupyterlab", "--LabApp.default_url=/lab/tree/notebooks")
        ),
        "test": lambda: _test(options),
        "bundle": lambda: bundle.bundle(options.target.absolute()),
        "wheelhouse": lambda: bundle.wheelhouse(options.target.absolute()),
        "assets": lambda: run_module("helpers.tutorial.sources"),
        "lint": lambda: (
            run_module("ruff", "check", ".") or run_module("ruff", "format", "--check", ".")
        ),
        "seeds": lambda: _seeds(options.seeds),
        "readme": lambda: run_module("helpers.tutorial.report"),
        "lock": packages.lock,
        "newest": packages.newest,
        "audit": packages.audit,
    }
    return actions[options.command]()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m helpers.tutorial", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        one = commands.add_parser(name, help=text, description=text)
        if name in ("run", "deeper", "lab", "assets", "bundle", "wheelhouse"):
            one.add_argument("--profile", help="a file of profiles/ (or the variable PROFILE)")
            one.add_argument("--set", help='single settings: "name=trial seed=7" (or SET)')
        if name in ("run", "deeper"):
            one.add_argument("--from", dest="first", metavar="NN", help="anew from here on")
            one.add_argument("--to", dest="last", metavar="NN", help="and no further")
            one.add_argument("--processes", type=int, default=1, metavar="N", help="to train in")
            one.add_argument("--refresh", action="store_true", help="commit it as the reference")
        if name == "test":
            one.add_argument("--deeper", action="store_true", help="the deeper notebooks too")
            one.add_argument("--browser", action="store_true", help="notebook 5 in JupyterLab too")
        if name == "deeper":
            one.add_argument("only", nargs="?", metavar="NN", help="this one alone")
        if name in ("bundle", "wheelhouse"):
            one.add_argument("target", type=Path, metavar="DIR", help="made where it is missing")
        if name == "seeds":
            one.add_argument("seeds", type=int, nargs="*", default=[43, 44], metavar="SEED")
        if name == "setup":
            one.add_argument("--here", action="store_true", help="for conda and Colab")
    return parser


def _again(python: Path) -> int:
    """Run the same command in the environment that is ready."""
    command = [str(python), "-m", "helpers.tutorial", *sys.argv[1:]]
    if os.name != "nt":
        os.execv(command[0], command)
    with subprocess.Popen(command) as running:
        while True:
            try:
                return running.wait()
            except KeyboardInterrupt:  # it was told too, and says how to resume
                continue


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
    return run_steps(
        numbers, force_from=first, processes=options.processes, refresh=options.refresh
    )


def _test(options: argparse.Namespace) -> int:
    from helpers.tutorial.run import MAIN_LINE

    one_thread, smoke = {"OMP_NUM_THREADS": "1"}, {"PROFILE": "smoke"}
    for name in ("PROFILE", "SET"):
        os.environ.pop(name, None)
    tested = ROOT / ".tested"  # beside notebooks/, whose relative paths hold there too
    together = ("--numprocesses=2", "--dist=loadfile")
    status = run_module("helpers.tutorial.sources", **smoke)
    status = status or run_module("pytest", "tests", *together, **one_thread)
    shutil.rmtree(ROOT / "artifacts/smoke", ignore_errors=True)
    status = status or run_module("tests.solutions", tested)
    nbval = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900", "--durations=5")
    copies = sorted(tested.glob("*.ipynb"))
    main_line = [path for path in copies if path.name[:2] in MAIN_LINE]
    deeper = [path for path in copies if path.name[:2] not in MAIN_LINE]
    status = status or run_module("pytest", *nbval, *main_line, **smoke)
    if options.browser:
        browser = ("tests/test_jupyterlab.py", "-m", "browser")
        status = status or run_module("pytest", *browser, **smoke)
    if options.deeper:
        status = status or run_module("pytest", *nbval, *together, *deeper, **smoke, **one_thread)
    return status


def _seeds(seeds: list[int]) -> int:
    for seed in seeds:
        changes = f"name=laptop-seed-{seed} seed={seed}"
        if status := run_module("helpers.tutorial", "run", "--to", "04", SET=changes):
            return status
    return run_module("helpers.tutorial.report", "--seeds", *seeds)


if __name__ == "__main__":
    sys.exit(main())
