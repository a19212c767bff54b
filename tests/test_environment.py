"""Cores, read off the files of machines that this one is not."""

import joblib
import psutil
import pytest

from helpers import environment
from helpers.environment import core_groups, cpus_for, physical_cores


def fake_topology(root, cores: dict[int, tuple[int, int]]):
    """`cores` maps a logical CPU to its (package, core)."""
    for cpu, (package, core) in cores.items():
        folder = root / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "physical_package_id").write_text(f"{package}\n")
        (folder / "core_id").write_text(f"{core}\n")
    return root


def test_siblings_are_told_apart_from_cores(tmp_path, monkeypatch):
    neighbours = {cpu: (0, cpu // 2) for cpu in range(8)}
    root = fake_topology(tmp_path / "neighbours", neighbours)
    assert core_groups(range(8), sysfs=root) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    halves = {cpu: (cpu % 8 // 4, cpu % 4) for cpu in range(16)}  # two packages, siblings 8 apart
    root = fake_topology(tmp_path / "halves", halves)
    assert core_groups(range(16), sysfs=root) == [[n, n + 8] for n in range(8)]
    hybrid = {0: (0, 0), 1: (0, 0), 2: (0, 1), 3: (0, 1), 4: (0, 2), 5: (0, 3)}
    root = fake_topology(tmp_path / "hybrid", hybrid)
    groups = core_groups([1, 2, 3, 4, 5], sysfs=root)  # CPU 0 is not ours
    assert groups == [[1], [2, 3], [4], [5]]
    monkeypatch.setattr(environment, "core_groups", lambda cpus: groups)
    assert cpus_for(2) == [1, 2] and cpus_for(4) == [1, 2, 4, 5]
    assert cpus_for(5) == [1, 2, 3, 4, 5]  # more threads than cores: siblings too


def test_where_nothing_is_known_siblings_are_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else 4)
    assert core_groups(range(8), sysfs=tmp_path) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    monkeypatch.setattr(psutil, "cpu_count", lambda logical=True: 8 if logical else None)
    assert core_groups([0, 1], sysfs=tmp_path) == [[0], [1]]


@pytest.mark.parametrize(("allowed", "cores"), [(8, 4), (2, 2), (1, 1)])
def test_a_quota_bounds_the_cores(monkeypatch, allowed, cores):
    monkeypatch.setattr(environment, "core_groups", lambda cpus: [[0], [1], [2], [3]])
    monkeypatch.setattr(joblib, "cpu_count", lambda: allowed)
    assert physical_cores() == cores
