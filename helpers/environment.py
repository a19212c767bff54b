"""The machine and the versions a result was obtained on."""

import platform
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import cpuinfo
import psutil

if TYPE_CHECKING:
    from helpers.tutorial.profile import Profile

ROOT = Path(__file__).resolve().parents[1]
_INT8_PRODUCTS = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
_BF16_PRODUCTS = {"avx512_bf16", "amx_bf16"}
_DECISIVE = ["avx2", "avx512f", "avx512_fp16", "amx_tile", "asimd", "bf16", "sve"]  # x86 and Arm
_DECISIVE += sorted(_INT8_PRODUCTS | _BF16_PRODUCTS)
PACKAGES = ["torch", "transformers", "datasets", "onnx", "onnxruntime", "openvino", "nncf"]
PACKAGES += ["neural-compressor", "numpy"]

_cpu_info = cache(cpuinfo.get_cpu_info)  # it takes a second


def cpu_model() -> str:
    """The processor's own name for itself."""
    return _cpu_info().get("brand_raw") or platform.processor() or "unknown"


def instruction_sets() -> list[str]:
    """Those of this CPU's instruction sets that decide how fast matrix products are."""
    return [name for name in _DECISIVE if name in _cpu_info().get("flags", ())]


def has_bf16(device: str) -> bool:
    """Whether the device, "cpu", "cuda" or "mps", multiplies bfloat16 in hardware."""
    if device == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bool(_BF16_PRODUCTS & set(instruction_sets()))


def has_int8_products() -> bool:
    """Whether this CPU has instructions for sums of products of INT8, such as VNNI or AMX."""
    return bool(_INT8_PRODUCTS & set(instruction_sets()))


def physical_cores() -> int:
    """Physical cores this process may use: by its CPU affinity and its container's CPU quota."""
    from joblib import cpu_count  # takes half a second to import

    return min(len(core_groups(_usable_cpus())), cpu_count())


def _usable_cpus() -> list[int]:
    """Numbers of the logical CPUs that this process may run on."""
    process = psutil.Process()
    if hasattr(process, "cpu_affinity"):  # not on macOS
        return sorted(process.cpu_affinity())
    return list(range(psutil.cpu_count() or 1))


def core_groups(cpus: Sequence[int], *, sysfs: Path = Path("/sys")) -> list[list[int]]:
    """Group logical CPUs by the physical core they belong to, the lowest numbers first.

    Linux says which belong together. Elsewhere they are taken to be neighbours, as Windows numbers
    them, where the counts of logical CPUs and of cores allow it, or else a core each.
    """
    groups = defaultdict(list)
    try:
        for cpu in cpus:
            topology = sysfs / f"devices/system/cpu/cpu{cpu}/topology"
            names = ("physical_package_id", "core_id")
            groups[tuple((topology / name).read_text().strip() for name in names)].append(cpu)
    except OSError:
        groups.clear()
        logical = psutil.cpu_count() or 1
        physical = psutil.cpu_count(logical=False) or logical
        each = logical // physical if logical % physical == 0 else 1
        for cpu in cpus:
            groups[cpu // each].append(cpu)
    return sorted(groups.values())


def cpus_for(threads: int) -> list[int]:
    """Logical CPUs for so many threads: a physical core each, as long as there are enough."""
    groups = core_groups(_usable_cpus())
    widest = max(map(len, groups))
    in_turn = [group[n] for n in range(widest) for group in groups if n < len(group)]
    return sorted(in_turn[:threads])


def git_commit() -> str | None:
    """The commit that is checked out, with "+" where files differ from it; None outside git."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        state = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return state.stdout.strip()


def describe_environment() -> dict:
    """CPU, instruction sets, cores, memory and versions, as stored in `benchmark.json`."""
    return {
        "cpu": cpu_model(),
        "instruction_sets": instruction_sets(),
        "physical_cores": physical_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in PACKAGES},
    }


def print_environment(profile: "Profile") -> None:
    """Print the profile, the CPU and the versions that a notebook's figures depend on."""
    print(f"profile  {profile.name}: {profile.description}")
    print(f"cpu      {cpu_model()}, {physical_cores()} cores, {' '.join(instruction_sets())}")
    print("versions " + ", ".join(f"{name} {version(name)}" for name in PACKAGES))
