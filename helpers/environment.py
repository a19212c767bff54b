"""The machine and the versions a result was obtained on."""

import os
import platform
from functools import cache
from importlib.metadata import version

import cpuinfo
import psutil

from helpers.profile import Profile

# x86 and Arm instruction sets that decide how fast matrix products are
_TELLING = (
    "avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "avx512_fp16",
    "amx_tile", "amx_int8", "amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
_PACKAGES = (
    "torch", "transformers", "datasets", "onnx", "onnxruntime", "openvino", "nncf",
    "neural-compressor", "numpy",
)  # fmt: skip


@cache
def _cpu_info() -> dict:
    return cpuinfo.get_cpu_info()  # takes a second


def cpu_model() -> str:
    """The processor's own name for itself."""
    return _cpu_info().get("brand_raw") or platform.processor() or "unknown"


def instruction_sets() -> list[str]:
    """Those of this CPU's instruction sets that decide how fast matrix products are."""
    flags = set(_cpu_info().get("flags", ()))
    return [name for name in _TELLING if name in flags]


def physical_cores() -> int:
    """Physical cores this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(psutil.cpu_count(logical=False) or usable, usable)


def describe_environment() -> dict:
    """CPU, instruction sets, cores, memory and versions, as stored in `benchmark.json`."""
    return {
        "cpu": cpu_model(),
        "instruction_sets": instruction_sets(),
        "physical_cores": physical_cores(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in _PACKAGES},
    }


def print_environment(profile: Profile, *packages: str) -> None:
    """Print the profile, the CPU and the versions that matter to a notebook."""
    print(f"profile  {profile.name}: {profile.description}")
    print(f"cpu      {cpu_model()}, {physical_cores()} cores, {' '.join(instruction_sets())}")
    print("versions " + ", ".join(f"{name} {version(name)}" for name in packages))
