"""Set-up: a virtual environment under the lock's hashes, made by the standard library alone.

This runs in whatever Python a system has (3.9 or newer), so it imports nothing that must be
installed. An environment is ready when the digest of the locks lies in it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
ENGINE_VERSIONS = ("3.11", "3.10")
LOCKS = (ROOT / "requirements.lock", ROOT / "requirements-torch.lock")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyTorch's own: builds without CUDA
_KERNEL = re.compile(  # what a notebook's server and kernel run by; other versions crash Colab's
    r"(comm|debugpy|ipykernel|ipython|ipywidgets|jupyter[\w-]*|matplotlib-inline|notebook[\w-]*"
    r"|prompt-toolkit|pyzmq|tornado|traitlets|widgetsnbextension)=="
)
_HASHED = ["--require-hashes", "--no-deps", "--requirement"]
_LARGE_MB = 30
_MARK = ".tutorial-ready"  # in an environment: the digest of the locks it was made from
_PROBE = "import sys; print(sys.executable, '%d.%d' % sys.version_info[:2], sep='|')"


class TutorialError(RuntimeError):
    """Something that the reader can mend; the message says how."""


def shown(command: str, **options: str) -> str:
    """The command as the reader types it, on every system.

    Options have make's names, such as FROM="03"; those without a value are left out.
    """
    words = ["python" if os.name == "nt" else "python3", "-m", "helpers.tutorial", command]
    for name, value in options.items():
        if value:
            value = value.replace('"', r"\"")
            words += [f"--{name.lower()}", f'"{value}"' if re.search(r"[\s=\"]", value) else value]
    return " ".join(words)


def is_ready(prefix: str | Path) -> bool:
    """Whether an environment holds what the locks say."""
    mark = Path(prefix, _MARK)
    return mark.exists() and mark.read_text(encoding="utf-8") == _digest()


def prepare(*, here: bool = False) -> Path:
    """The interpreter that has all packages; `.venv` is made or mended where need be.

    With `here` they are installed into the environment of this interpreter (conda, Colab).
    """
    _use_what_is_at_hand()
    here = here or is_ready(sys.prefix) or Path(sys.prefix) == VENV
    prefix, python = (Path(sys.prefix), Path(sys.executable)) if here else (VENV, _python_of(VENV))
    if is_ready(prefix) and _ask([python, "--version"]) is not None:
        return python
    if not here and _ask([python, "-m", "pip", "--version"]) is None:  # or it was left half-made
        base = find_python(named=os.environ.get("PYTHON", ""))
        print(f"set-up 1 of 4: .venv with {base}", flush=True)
        _make_venv(base, VENV)
    print("set-up 2 of 4: the packages of requirements.lock", flush=True)
    locked, torch = package_arguments(python)
    if here and "COLAB_RELEASE_TAG" in os.environ:
        entries = re.split(r"^(?=\w)", LOCKS[0].read_text(encoding="utf-8"), flags=re.MULTILINE)
        others = "".join(entry for entry in entries if not _KERNEL.match(entry))
        locked[-1] = str(Path(prefix, "tutorial.lock"))
        Path(locked[-1]).write_text(others, encoding="utf-8")
        torch = ["torch"]  # is there, and fits its torchvision
    _pip_install(python, *locked)
    print(f"set-up 3 of 4: torch{' for CPUs' if CPU_INDEX in torch else ''}", flush=True)
    _pip_install(python, *torch)
    print("set-up 4 of 4: this repository", flush=True)
    _pip_install(python, "--no-deps", "--no-build-isolation", "--editable", str(ROOT))
    Path(prefix, _MARK).write_text(_digest(), encoding="utf-8")
    return python


def prepare_engine() -> None:
    """Make `.engine`, the environment of the blog's engine, where it is not there yet."""
    wanted, engine = ROOT / "requirements-engine.txt", ROOT / ".engine"
    mark = engine / ".ready"
    if mark.exists() and mark.stat().st_mtime > wanted.stat().st_mtime:
        return
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise TutorialError("the blog's engine is for Linux on x86-64 alone: its row is left out")
    _use_what_is_at_hand()
    _make_venv(find_python(ENGINE_VERSIONS, fetched="3.11"), engine)
    _pip_install(_python_of(engine), *_HASHED, str(wanted))
    mark.touch()


def package_arguments(python: str | Path) -> list[list[str]]:
    """What pip is told to get all packages, call by call: those of the lock, then torch.

    torch comes in a build for each kind of machine. Where pip has an index or a folder of its own,
    that decides, by version. On Linux without an NVIDIA GPU it is PyTorch's index of CPU builds, if
    that answers at once. Otherwise it is the default index's build, under the lock's hashes.
    """
    locked, torch = ([*_HASHED, str(lock)] for lock in LOCKS)
    settings = (_ask([python, "-m", "pip", "config", "list"]) or "").lower().replace("_", "-")
    asking = f"import urllib.request as u; u.urlopen('{CPU_INDEX}/torch/', timeout=4)"
    gpu = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists()
    pin = re.search(r"^torch==[\w.]+", LOCKS[1].read_text(encoding="utf-8"), re.MULTILINE)[0]
    if re.search(r"(index-url|no-index|find-links)=", settings):
        torch = [pin]
    elif sys.platform == "linux" and not gpu and _ask([python, "-c", asking], 5) is not None:
        torch = ["--index-url", CPU_INDEX, "--no-deps", pin]
    return [locked, torch]


def find_python(
    versions: Sequence[str] = VERSIONS, *, fetched: str = "3.12", named: str = ""
) -> str:
    """An interpreter of one of `versions` that can make a virtual environment.

    It is `named`, or else this one, or one on the PATH, or the version `fetched` through uv.
    TutorialError says what to install.
    """
    commands = [[sys.executable], ["python3"], *([f"python{v}"] for v in versions), ["python"]]
    if os.name == "nt":
        commands += [["py", f"-{version}"] for version in versions]
    lacks, there = "", f"{named or 'python3'} was not found"
    for command in [[named]] if named else commands:
        path, _, version = (_ask([*command, "-c", _PROBE]) or "").strip().partition("|")
        if version in versions:
            if _ask([path, "-c", "import ensurepip"]) is not None:
                return path
            lacks = f"Python {version} is here without venv. On Debian and Ubuntu its package is "
            lacks += f"python{version}-venv: sudo apt install python{version}-venv"
        elif version:
            there = f"{command[0]} is {version}"
    if not named and (path := _python_through_uv(fetched)):
        return path
    raise TutorialError(
        lacks
        or f"Python {', '.join(versions[:-1])} or {versions[-1]} is needed; {there}. "
        f"Install one, or uv, which brings one, or name one: PYTHON=/path/to/python{fetched}"
    )


def _python_through_uv(version: str) -> str | None:
    """A Python that uv downloads; where there is no uv, this Python's pip brings it, locked."""
    with tempfile.TemporaryDirectory() as scratch:
        uv = shutil.which("uv") or shutil.which("uv", path=_python_of(VENV).parent)
        if not uv:
            lock = LOCKS[0].read_text(encoding="utf-8")
            wanted = Path(scratch, "uv.txt")
            wanted.write_text(re.search(r"^uv==.*\n(?:[ \t].*\n)*", lock, re.MULTILINE)[0])
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", scratch]
            _ask([*pip, *_HASHED, wanted], 120)
            uv = str(Path(scratch, "bin", "uv.exe" if os.name == "nt" else "uv"))
        if _ask([uv, "--version"]) is None:
            return None
        print(f"no fitting Python is installed: uv fetches {version}", flush=True)
        subprocess.run([uv, "python", "install", version])
        return (_ask([uv, "python", "find", version]) or "").strip() or None


def run_module(name: str, *arguments: object, **environment: str) -> int:
    """Run a module of this environment at the repository's root; returns its exit status."""
    return run_patiently([sys.executable, "-m", name, *map(str, arguments)], **environment)


def run_patiently(command: Sequence[str], **environment: str) -> int:
    """Run a command at the repository's root; after Ctrl-C, which it hears too, await its end."""
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environment}) as running:
        while True:
            try:
                return running.wait()
            except KeyboardInterrupt:
                continue


def _use_what_is_at_hand() -> None:
    """Let `wheels/` stand in for the network, and `.home` for a home that cannot be written."""
    if (ROOT / "wheels").is_dir():
        os.environ["PIP_NO_INDEX"] = "1"
        os.environ["PIP_FIND_LINKS"] = (ROOT / "wheels").as_uri()
    home = os.environ.get("HOME") or "/nowhere"
    if os.name != "nt" and not (Path(home).is_dir() and os.access(home, os.W_OK)):
        os.environ["HOME"] = str(ROOT / ".home")
        Path(os.environ["HOME"]).mkdir(exist_ok=True)
        print("no home that can be written: .home/ stands in for it", flush=True)


def _make_venv(base: str, target: Path) -> None:
    if subprocess.run([base, "-m", "venv", "--clear", str(target)]).returncode:
        raise TutorialError(f"{target} cannot be made: copy the folder to a disk of its own")


def _pip_install(python: Path, *arguments: str) -> None:
    """Run pip; of what it says a person sees what is large, and all errors."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", *arguments]
    command.append("--progress-bar=off")
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    said = []
    with subprocess.Popen(command, errors="replace", **piped) as running:
        for line in running.stdout:
            said.append(line)
            size = re.search(r"Downloading (?:\S*/)?([^\s-]+)\S* \(([\d.]+) ([MG])B\)", line)
            if size and (size[3] == "G" or float(size[2]) >= _LARGE_MB):
                print(f"  {size[1]}: {size[2]} {size[3]}B", flush=True)
    if running.returncode:
        first = next((i for i, line in enumerate(said) if line.startswith("ERROR")), -20)
        hint = "wheels/ lacks what this machine and Python need: gather it on one of its kind "
        hint += f"({shown('wheelhouse FOLDER')}), or remove wheels/ to install from the network"
        reason = hint if (ROOT / "wheels").is_dir() else "pip could not install what is needed"
        raise TutorialError("".join(said[first:]) + reason)


def _python_of(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def _digest() -> str:
    return hashlib.sha256(b"".join(lock.read_bytes() for lock in LOCKS)).hexdigest()


def _ask(command: Sequence[str | Path], seconds: float = 60) -> str | None:
    """What a command prints, or None where it fails or is not there."""
    try:
        words = [str(word) for word in command]
        done = subprocess.run(words, capture_output=True, text=True, timeout=seconds)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout
