"""Results of several machines, one JSON each in `results/`: checked and added, and the nearest."""

import json
import re
from math import log2
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, PositiveInt, ValidationError

from helpers.tutorial.report import padded_rows, read_results
from helpers.tutorial.steps import write_whole


class _Environment(BaseModel):
    cpu: str = Field(pattern=r"^[\w ()@.,/+-]{1,80}$")  # it goes into a table and a file's name
    instruction_sets: list[Annotated[str, Field(pattern="^[a-z0-9_]+$")]]
    physical_cores: PositiveInt
    threads: list[PositiveInt] = Field(min_length=1)


class _Results(BaseModel):
    profile: Literal["default"]
    date: str = Field(pattern=r"^\d{4}-\d\d-\d\d$")
    environment: _Environment
    protocol: dict
    rows: list[dict]
    headline: str
    baselines: dict[str, str]


def add_results(source: Path, folder: Path) -> Path:
    """Check a reader's `benchmark.json` and store it in `folder` under its machine's name.

    Raises:
        ValueError: it cannot be read, or is no such file; the message is one line.
    """
    try:
        results = read_results(source)
        machine = _Results.model_validate(results).environment
        rows = {row["name"]: row["latency_ms"] for row in padded_rows(results, machine.threads[0])}
        fast = results["headline"]
        for name in (results["baselines"]["pytorch"], fast, fast.replace("INT8", "FP32")):
            1 / float(rows[name]["typical"])
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{source}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
        raise ValueError(f"{source} cannot be used: {error!r}") from None
    words = [machine.cpu, *machine.instruction_sets[-1:], str(machine.physical_cores), "cores"]
    target = folder / f"{re.sub('[^a-z0-9]+', '-', ' '.join(words).lower())}.json"
    results.pop("raw_ms", None)
    write_whole(target, json.dumps(results, indent=1) + "\n")
    return target


def nearest_machine(environment: dict, folder: Path) -> str:
    """Which machine of `folder` to compare with, by instructions, then cores; "" for its own."""

    def distance(other):
        ours, theirs = set(environment["instruction_sets"]), set(other["instruction_sets"])
        cores = abs(log2(environment["physical_cores"] / other["physical_cores"]))
        return 1 - len(ours & theirs) / max(1, len(ours | theirs)), cores

    near = min(
        (read_results(p)["environment"] for p in sorted(folder.glob("*.json"))), key=distance
    )
    if near["cpu"] == environment["cpu"] and distance(near)[0] == 0:
        return ""
    return f"{near['cpu']} ({near['physical_cores']} cores, {', '.join(near['instruction_sets'])})"
