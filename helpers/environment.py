"""The machine and the versions a result was obtained on."""

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import version

import cpuinfo
import psutil

from helpers.tutorial.profile import ROOT, Profile

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


def has_bf16(device: str) -> bool:
    """Whether the device, "cpu", "cuda" or "mps", multiplies bfloat16 in hardware."""
    if device == "cuda":
        import torch

        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and bool({"avx512_bf16", "amx_bf16"} & set(instruction_sets()))


def has_int8_products() -> bool:
    """Whether this CPU has instructions for sums of products of INT8, such as VNNI or AMX."""
    known = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
    return bool(known & set(instruction_sets()))


def physical_cores() -> int:
    """Physical cores this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(psutil.cpu_count(logical=False) or usable, usable)


def git_commit() -> str | None:
    """The commit that is checked out, with "+" where files differ from it; None outside git."""
    try:
        state = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=+"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
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
        "versions": {name: version(name) for name in _PACKAGES},
    }


def print_environment(profile: Profile, *packages: str) -> None:
    """Print the profile, the CPU and the versions that matter to a notebook."""
    print(f"profile  {profile.name}: {profile.description}")
    print(f"cpu      {cpu_model()}, {physical_cores()} cores, {' '.join(instruction_sets())}")
    print("versions " + ", ".join(f"{name} {version(name)}" for name in packages))
