"""For maintainers: the pins and the locks resolved anew, lifted, asked about vulnerabilities.

`.venv/bin/python .ci/packages.py COMMAND`, of `lock`, `newest` and `audit`.
"""

import argparse
import re
import sys
from pathlib import Path

from helpers.tutorial.setup import LOCKS, ROOT, VENV, run_module

PINS = ROOT / "requirements.txt"
BY_ITSELF = ROOT / "requirements-no-deps.txt"
_FOR_TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
_PIN = re.compile(r"^([\w.-]+)==([\w.]+)", re.MULTILINE)


def lock(*, upgrade: bool = False) -> int:
    """Resolve the pins for all systems and Pythons; what is locked stays, unless `upgrade`.

    torch and what its CUDA build needs go into a lock of their own. Returns the exit status.
    """
    whole = VENV / "whole.lock"
    whole.write_text("".join(one.read_text(encoding="utf-8") for one in LOCKS), encoding="utf-8")
    if status := _resolve(ROOT / "pyproject.toml", whole, upgrade=upgrade):
        return status
    entries = re.split(r"^(?=[a-z])", whole.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    of_torch = [entry for entry in entries if _FOR_TORCH.match(entry)]
    others = [entry for entry in entries if not _FOR_TORCH.match(entry)]
    for path, kept in zip(LOCKS, (others, of_torch), strict=True):
        heading = "# Made from requirements.txt by `.ci/packages.py lock`.\n"
        path.write_text(heading + "".join(kept), encoding="utf-8")
    return 0


def newest() -> int:
    """Lift each pin of requirements.txt to the newest that resolves, and lock it."""
    wanted, found = VENV / "wanted.txt", VENV / "found.txt"
    pins = PINS.read_text(encoding="utf-8")
    wanted.write_text(pins.replace("==", ">="), encoding="utf-8")
    if status := _resolve(wanted, found, upgrade=True):
        return status
    versions = dict(_PIN.findall(found.read_text(encoding="utf-8")))
    lifted = _PIN.sub(lambda pin: f"{pin[1]}=={versions[pin[1]]}", pins)
    PINS.write_text(lifted, encoding="utf-8")
    return lock(upgrade=True)


def audit() -> int:
    """Ask the Python advisory database about what is installed, less what SECURITY.md accepts."""
    security = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    accepted = re.findall(r"^\| ((?:CVE|GHSA|PYSEC)-\S+)", security, re.MULTILINE)
    folders = [path for env in (VENV, ROOT / ".engine") for path in env.rglob("site-packages")]
    return run_module(
        *("uv", "tool", "run", "pip-audit==2.10.1", "--skip-editable"),
        *(f"--path={folder}" for folder in folders),
        *(f"--ignore-vuln={finding}" for finding in accepted),
    )


def _resolve(wanted: Path, target: Path, *, upgrade: bool) -> int:
    options = ["--quiet", "--no-header", "--output-file", target]
    if upgrade:
        options.append("--upgrade")
    return run_module("uv", "pip", "compile", *options, wanted, BY_ITSELF)


COMMANDS = {"lock": lock, "newest": newest, "audit": audit}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=COMMANDS)
    sys.exit(COMMANDS[parser.parse_args().command]())
