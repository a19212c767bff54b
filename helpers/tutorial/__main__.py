"""The tutorial's commands: `python -m helpers.tutorial COMMAND`, on every system.

The first one makes `.venv`, by whatever Python runs it. The Makefile has the same under its names.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.tutorial.setup import ROOT, SetupError, is_ready, prepare, prepare_engine

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
        for name in (".venv", ".engine", ".home", "artifacts"):
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
    if command in ("run", "deeper"):
        return _notebooks(options)
    if command in ("bundle", "wheelhouse"):
        from helpers.tutorial import bundle

        return getattr(bundle, command)(options.target.absolute())
    return globals()[f"_{command}"](options)


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
    folder = ROOT / "artifacts/smoke"
    together = ("--numprocesses=2", "--dist=loadfile")
    status = _module("helpers.tutorial.sources", **smoke)
    status = status or _module("pytest", "tests", *together, **one_thread)
    shutil.rmtree(folder, ignore_errors=True)
    status = status or _module("tests.solutions", folder / "tested")
    nbval = ("--nbval-lax", "--nbval-current-env", "--nbval-cell-timeout=900", "--durations=5")
    copies = sorted((folder / "tested").glob("*.ipynb"))
    main_line = [path for path in copies if path.name[:2] in MAIN_LINE]
    deeper = [path for path in copies if path.name[:2] not in MAIN_LINE]
    status = status or _module("pytest", *nbval, *main_line, **smoke)
    status = status or _module("pytest", "tests/test_jupyterlab.py", "-m", "browser", **smoke)
    if options.deeper:
        status = status or _module("pytest", *nbval, *together, *deeper, **smoke, **one_thread)
    return status


def _lab(_: argparse.Namespace) -> int:
    fetched = _module("helpers.tutorial.sources")
    return fetched or _module("jupyterlab", "--LabApp.default_url=/lab/tree/notebooks")


def _assets(_: argparse.Namespace) -> int:
    return _module("helpers.tutorial.sources")


def _lint(_: argparse.Namespace) -> int:
    return _module("ruff", "check", ".") or _module("ruff", "format", "--check", ".")


def _seeds(options: argparse.Namespace) -> int:
    for seed in options.seeds:
        changes = f"name=laptop-seed-{seed} seed={seed}"
        if status := _module("helpers.tutorial", "run", "--to", "04", SET=changes):
            return status
    return _module("helpers.tutorial.report", "--seeds", *options.seeds)


def _readme(_: argparse.Namespace) -> int:
    return _module("helpers.tutorial.report")


def _lock(_: argparse.Namespace, *, upgrade: bool = False) -> int:
    """Resolve for all systems and Pythons; torch and what its CUDA build needs are set apart."""
    locks, whole = (
        (ROOT / "requirements.lock", ROOT / "requirements-torch.lock"),
        ROOT / ".venv/lock",
    )
    whole.write_text("".join(lock.read_text(encoding="utf-8") for lock in locks), encoding="utf-8")
    if status := _resolve("pyproject.toml", whole, upgrade=upgrade):
        return status
    entries = re.split(r"^(?=[a-z])", whole.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    apart = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
    for lock in locks:
        kept = [one for one in entries if bool(apart.match(one)) == ("torch" in lock.name)]
        heading = "# Made from requirements.txt by `python -m helpers.tutorial lock`.\n"
        lock.write_text(heading + "".join(kept), encoding="utf-8")
    return 0


def _newest(options: argparse.Namespace) -> int:
    pins, wanted, found = (
        ROOT / "requirements.txt",
        ROOT / ".venv/wanted.txt",
        ROOT / ".venv/found.txt",
    )
    text = pins.read_text(encoding="utf-8")
    wanted.write_text(text.replace("==", ">="), encoding="utf-8")
    if status := _resolve(wanted, found, upgrade=True):
        return status
    newest = dict(re.findall(r"^([\w.-]+)==([\w.]+)", found.read_text(), re.MULTILINE))
    pin = re.compile(r"^([\w.-]+)==\S+", re.MULTILINE)
    pins.write_text(pin.sub(lambda m: f"{m[1]}=={newest[m[1]]}", text), encoding="utf-8")
    return _lock(options, upgrade=True)


def _resolve(wanted: str | Path, target: Path, *, upgrade: bool) -> int:
    options = ["--quiet", "--no-header", "--output-file", target, *["--upgrade"] * upgrade]
    return _module("uv", "pip", "compile", *options, wanted, "requirements-no-deps.txt")


def _audit(_: argparse.Namespace) -> int:
    accepted = re.findall(
        r"^\| ((?:CVE|GHSA|PYSEC)-\S+)",
        (ROOT / "SECURITY.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    folders = [path for env in (".venv", ".engine") for path in (ROOT / env).rglob("site-packages")]
    return _module(
        *("uv", "tool", "run", "pip-audit==2.10.1", "--skip-editable"),
        *(f"--path={path}" for path in folders),
        *(f"--ignore-vuln={finding}" for finding in accepted),
    )


def _module(name: str, *arguments: object, **environment: str) -> int:
    """Run a module of this environment; returns its exit status."""
    command = [sys.executable, "-m", name, *map(str, arguments)]
    return subprocess.run(command, env=os.environ | environment).returncode


if __name__ == "__main__":
    sys.exit(main())
