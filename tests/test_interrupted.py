"""Kernels killed at random over the whole sequence: what is left is whole, the end the same."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import psutil
import pytest

from helpers.artifacts import RECIPES, Artifacts
from helpers.profile import ROOT, load_profile
from tests.test_own_data import SMALL, write_reviews

STEPS = ("01", "02", "03", "04", "05", "06")
KILLS = int(os.environ.get("KILLS", "20"))
CHECKPOINTS = "teacher.training.checkpoints=3 student.distil_augmented.checkpoints=3"


def start(step: str, changes: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "helpers.run", "--only", step], cwd=ROOT,
        env=os.environ | {"PROFILE": "smoke", "SET": changes},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def kill_kernel(running: subprocess.Popen, when: Callable[[float], bool]) -> bool:
    """Kill the kernel when its age in seconds is right; False where the notebook ended before."""
    began = None
    while running.poll() is None:
        kernels = []
        for process in psutil.Process(running.pid).children():
            with contextlib.suppress(psutil.Error):  # it may have ended meanwhile
                if "ipykernel_launcher" in " ".join(process.cmdline()):
                    kernels.append(process)
        began = began or (time.monotonic() if kernels else None)
        if kernels and when(time.monotonic() - began):
            family = kernels[0].children(recursive=True)
            kernels[0].kill()
            _, orphans = psutil.wait_procs(family, timeout=60)
            assert not orphans, orphans
            return True
        time.sleep(0.05)
    return False


def outcome(artifacts: Artifacts) -> dict:
    """All of a finished run that does not depend on time."""
    found = {}
    for step in (1, 2, 3, 4):
        stored = np.load(artifacts.path(f"predictions_0{step}.npz"))
        found |= {f"{step} {name}": values for name, values in stored.items()}
    for name in ("benchmark.json", "frontier.json"):
        rows = json.loads(artifacts.path(name).read_text())["rows"]
        found[name] = np.array(
            [f"{r['name']} {r['size_mb']} {r['accuracy'] and r['accuracy']['value']}" for r in rows]
        )
    return found


@pytest.mark.slow
def test_kernels_killed_at_random_change_nothing(tmp_path, monkeypatch):
    write_reviews(tmp_path / "mine.csv")
    monkeypatch.setenv("PROFILE", "smoke")
    seed = random.SystemRandom().randrange(10**6)
    print(f"seed of the moments: {seed}")
    rng, names = random.Random(seed), [f"test-{os.getpid()}-{kind}" for kind in ("whole", "killed")]
    changes = [
        f"name={name} data.source={tmp_path / 'mine.csv'} {SMALL} {CHECKPOINTS}" for name in names
    ]
    folders = []
    for change in changes:
        monkeypatch.setenv("SET", change)
        folders.append(Artifacts(load_profile()))
    whole, killed = folders
    try:
        for step in STEPS:
            running = start(step, changes[0])
            said, _ = running.communicate()
            assert running.returncode == 0, said[-2000:]
        seconds = [
            60 * step["minutes"]
            for step in json.loads(whole.path("steps.json").read_text()).values()
        ]
        running = start("01", changes[1])
        states = "checkpoints/*/checkpoint-*/trainer_state.json"
        assert kill_kernel(running, lambda _: any(killed.folder.glob(states)))
        running.communicate()
        assert running.returncode == 1
        running = start("01", changes[1])
        running.communicate()
        assert "went on from step" in killed.path("run.log").read_text()
        done = 0
        for place, step in enumerate(STEPS):
            for _ in range(KILLS // len(STEPS) + (place < KILLS % len(STEPS))):
                running = start(step, changes[1])
                moment = rng.uniform(0, seconds[place])
                was_killed = kill_kernel(running, lambda age, moment=moment: age > moment)
                said, _ = running.communicate()
                print(f"{step}, {moment:.1f} of {seconds[place]:.1f} s: killed {was_killed}")
                if was_killed:
                    done += 1
                    assert running.returncode == 1, said[-2000:]
                    assert f"FROM={step}" in said
                for name, recipe in RECIPES.items():
                    if "01" <= recipe.notebook[:2] < step:
                        killed.require(name)  # what came before is as it was
            running = start(step, changes[1])
            said, _ = running.communicate()
            assert running.returncode == 0, said[-2000:]
        print(f"killed {done} times")
        assert done >= KILLS * 0.6 and not [
            path for path in killed.path(".writing").iterdir() if path.is_dir()
        ]
        before, after = outcome(whole), outcome(killed)
        assert set(before) == set(after)
        for name, values in before.items():
            np.testing.assert_array_equal(after[name], values, err_msg=name)
    finally:
        for artifacts in folders:
            shutil.rmtree(artifacts.folder, ignore_errors=True)
