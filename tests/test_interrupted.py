"""Notebooks 1 to 3 killed at random moments and run again: all is whole, and the end the same."""

import os
import random
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest

from helpers.tutorial.profile import ROOT, load_profile
from helpers.tutorial.steps import Step
from tests.test_own_data import small_run, write_reviews

STEPS = ("01", "02", "03")
KILLS = int(os.environ.get("KILLS", "8"))
RUN = "import sys; from helpers.tutorial.run import run_steps; sys.exit(run_steps(sys.argv[1:]))"
CHECKPOINTS = (
    "teacher.training.checkpoints=3 student.gold.checkpoints=3 student.distil.checkpoints=3"
)


def run_for(seconds: float | None) -> tuple[int, str] | None:
    """Exit status and errors of a run; None where it was killed after so long, kernel and all."""
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = subprocess.Popen([sys.executable, "-c", RUN, *STEPS], cwd=ROOT, **pipes)
    try:
        errors = running.communicate(timeout=seconds)[1]
        return running.returncode, errors
    except subprocess.TimeoutExpired:
        kernels = psutil.Process(running.pid).children(recursive=True)
        for process in (running, *kernels):
            process.kill()
        running.communicate()
        assert not psutil.wait_procs(kernels, timeout=60)[1]
        return None


def logits(folder) -> dict[str, np.ndarray]:
    stored = [np.load(folder / f"predictions_{number}.npz") for number in STEPS]
    return {name: values for one in stored for name, values in one.items()}


@pytest.mark.slow
def test_what_is_killed_at_random_ends_as_what_is_not(tmp_path):
    write_reviews(tmp_path / "mine.csv")
    rng = random.Random(seed := random.SystemRandom().randrange(10**6))
    with small_run(tmp_path / "mine.csv", "whole", CHECKPOINTS) as whole:
        began = time.monotonic()
        status, errors = run_for(None)
        assert status == 0, errors
        seconds, before = time.monotonic() - began, logits(whole)
    with small_run(tmp_path / "mine.csv", "killed", CHECKPOINTS) as killed:
        moments = [rng.uniform(0.05, 0.4) * seconds for _ in range(KILLS)]
        ended = [run_for(moment) for moment in moments]
        print(f"seed {seed}: {seconds:.0f} s, killed {ended.count(None)} times")
        assert run_for(None)[0] == 0
        assert ended.count(None) > 1 and Step("03", load_profile()).fault() is None
        assert not [path for path in (killed / ".saving").iterdir() if path.is_dir()]
        after = logits(killed)
    assert before.keys() == after.keys()
    for name, values in before.items():
        np.testing.assert_array_equal(after[name], values, err_msg=name)
