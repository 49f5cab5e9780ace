"""What a run computes on, and the most that it can draw."""

import ctypes
import os
import platform
import re
import subprocess
from importlib.metadata import version
from pathlib import Path

import torch


def versions() -> dict[str, str]:
    """Return the versions of what computes the metrics."""
    packages = ("ddpm-cars", "torch", "diffusers", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


_POWERCAP = Path("/sys/class/powercap")

_CPUINFO = Path("/proc/cpuinfo")

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def device_name(device: torch.device) -> str:
    """Return the name that a person knows a device by, such as "NVIDIA H100" or that of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    text = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def cpu_warnings(device: torch.device, num_processes: int, mixed_precision: str) -> list[str]:
    """Return what makes a network on a CPU many times slower than it could be, and the cure; nothing on a GPU."""
    warnings = []
    if device.type == "cpu" and mixed_precision == "bf16" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        # An x86 CPU older than AVX-512.
        warnings.append("this CPU has no arithmetic for bf16 and imitates it; mixed_precision no is many times faster")
    return warnings + idle_cores_warnings(device, num_processes)


def idle_cores_warnings(device: torch.device, num_processes: int) -> list[str]:
    """Return that a process which computes on the CPU has been given one of many cores, and the cure, or nothing."""
    n = num_cores()
    # One thread is the launcher's default; who sets OMP_NUM_THREADS and starts without it means it.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if device.type == "cpu" and launched and num_processes == 1 and torch.get_num_threads() == 1 < n:
        flag = f"--num_cpu_threads_per_process {n}"
        return [f"accelerate launch uses one of {n} cores; launch with {flag}, or start with python in its place"]
    return []


def keep_freed_memory(device: torch.device) -> None:
    """Make this process keep what it frees for its next use, where it computes on a CPU and glibc manages its memory.

    Otherwise large blocks go back to the system, which gives them again page by page, filled with zeros: about 12,000
    times in a training step of the network `tiny`, a tenth of its time.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def power_limit_watts(device: torch.device) -> float | None:
    """Return the power that a GPU, or all CPUs of the machine together, may draw for long; None where nothing says."""
    if device.type == "cuda":
        return _gpu_limit_watts(device)
    if device.type != "cpu":
        return None
    # Packages are intel-rapl:0, intel-rapl:1; their parts, intel-rapl:0:0, count within them. AMD has the same names.
    packages = [p for p in _POWERCAP.glob("intel-rapl:*") if p.name.count(":") == 1]
    try:
        limits = [int((package / "constraint_0_power_limit_uw").read_text()) / 1e6 for package in packages]
    except (OSError, ValueError):
        return None
    return sum(limits) if limits and all(limits) else None


def _gpu_limit_watts(device: torch.device) -> float | None:
    query = ["nvidia-smi", "--query-gpu=uuid,power.limit", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30).stdout.splitlines()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        # CUDA numbers only the devices that a process may see, so numbers would not do.
        return next(float(line.rpartition(",")[2]) for line in lines if uuid in line)
    except (OSError, subprocess.SubprocessError, StopIteration, ValueError):
        return None


def describe_hardware(device: torch.device, num_processes: int) -> dict[str, str | int | float | None]:
    """Return JSON values that name what some processes compute on, with the limit of all of it together in watts."""
    limit = power_limit_watts(device)
    # Processes share the CPUs of their machine, and have a GPU each.
    num_devices = 1 if device.type == "cpu" else num_processes
    return {
        "device": device_name(device),
        "num_processes": num_processes,
        "power_limit_watts": None if limit is None else limit * num_devices,
    }
