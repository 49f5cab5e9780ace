"""What a command computes on, and what makes it slower than it could be."""

import ctypes
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path

import torch

_CPUINFO = Path("/proc/cpuinfo")
# The numbers of two options in malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    packages = ("ddpm-cars", "torch", "diffusers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def device_name(device: torch.device) -> str:
    """Return the name of a device as its maker sells it, such as "NVIDIA H100"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_warnings(device: torch.device, num_processes: int, mixed_precision: str) -> list[str]:
    """Return warnings, each with its cure, of what makes a network on a CPU many times slower than it could be."""
    warnings = []
    if device.type == "cpu" and mixed_precision == "bf16" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        # This is an x86 CPU from before AVX-512.
        warnings.append("this CPU has no arithmetic for bf16 and imitates it; mixed_precision no is many times faster")
    return warnings + idle_cores_warnings(device, num_processes)


def idle_cores_warnings(device: torch.device, num_processes: int) -> list[str]:
    """Return a warning if the launcher lets the only process of a run use one of many cores."""
    n = num_cores()
    # One thread is the default of the launcher. Without the launcher, OMP_NUM_THREADS has been set on purpose.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if device.type == "cpu" and launched and num_processes == 1 and torch.get_num_threads() == 1 < n:
        flag = f"--num_cpu_threads_per_process {n}"
        return [f"accelerate launch uses one of {n} cores; launch with {flag}, or start with python in its place"]
    return []


def keep_freed_memory(device: torch.device) -> None:
    """Make a process that computes on a CPU keep the memory that it frees, where glibc manages it.

    Otherwise large blocks go back to the system, which returns them page by page, filled with zeros. A training step
    of the network `tiny` asks for about 12,000 such pages, a tenth of its time.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
