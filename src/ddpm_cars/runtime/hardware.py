"""What a command computes on, and what makes it slower than it could be."""

import ctypes
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch

import ddpm_cars
from ddpm_cars.runtime.threads import CGROUPS, group_limits, num_cores

_CPUINFO = Path("/proc/cpuinfo")
# The numbers of two options in malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that compute."""
    # A copy of this package that is not installed, such as a checkout on the path, has no metadata.
    own = {"python": platform.python_version(), "ddpm-cars": ddpm_cars.__version__}
    return own | {name: version(name) for name in ("torch", "diffusers", "numpy")}


def device_name(device: torch.device) -> str:
    """Return the name of a device as its maker sells it, such as "NVIDIA H100"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    found = re.search(r"^model name\s*:\s*(.+)$", _cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def fast_precision(device: torch.device) -> Literal["no", "bf16"]:
    """Return the precision that a network is quickest in on a device, among those in which it also trains well.

    It is known by the features of the device and not measured, so it is the same on every start: bf16 where a GPU or
    an x86 processor has arithmetic for it (AMX or AVX-512 BF16), and "no", which is float32, everywhere else.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if device.type == "cpu" and _x86_has_bf16() else "no"


def launcher_precision() -> str | None:
    """Return the precision that accelerate was configured with, None if it is its default, "no"."""
    word = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    return None if word == "no" else word


def default_precision(device: torch.device) -> str:
    """Return the precision of a network where nobody has said one: that of the launcher, else `fast_precision`."""
    return launcher_precision() or fast_precision(device)


def describe_computing(device: torch.device, mixed_precision: str) -> str:
    """Return a line that says what a network is computed on, and in which precision."""
    return f"computing on {device_name(device)} with mixed_precision {mixed_precision}"


def _x86_has_bf16() -> bool:
    names = ("amx_bf16", "avx512_bf16")
    if hasattr(torch.cpu, "get_capabilities"):
        features = torch.cpu.get_capabilities()
        return any(features.get(name, False) for name in names)
    # This is an earlier version of torch.
    found = re.search(r"^flags\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return found is not None and not set(names).isdisjoint(found[1].split())


def _cpuinfo() -> str:
    return _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""


def cpu_warnings(device: torch.device, num_processes: int, mixed_precision: str) -> list[str]:
    """Return warnings, each with its cure, of what makes a network on a CPU many times slower than it could be."""
    warnings = []
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if device.type == "cpu" and mixed_precision == "bf16" and is_x86 and not _x86_has_bf16():
        warnings.append("this CPU has no arithmetic for bf16 and imitates it; mixed_precision no is faster")
    n = num_cores()
    # One thread is the default of the launcher. Without the launcher, OMP_NUM_THREADS has been set on purpose.
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ
    if device.type == "cpu" and launched and num_processes == 1 and torch.get_num_threads() == 1 < n:
        flag = f"--num_cpu_threads_per_process {n}"
        warnings.append(
            f"accelerate launch uses one of {n} cores; launch with {flag}, or start with ddpm-cars in its place"
        )
    return warnings


def keep_freed_memory(device: torch.device) -> None:
    """Make a process that computes on a CPU keep the memory that it frees, where glibc manages it.

    Otherwise large blocks go back to the system, which returns them page by page, filled with zeros. A training step
    of the network `tiny` asks for about 12,000 such pages, a tenth of its time.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def resident_memory() -> int | None:
    """Return how many bytes of memory this process has now; None where nothing says that."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if statm.exists() else None


def free_memory(device: torch.device) -> int | None:
    """Return how many bytes of a device's memory this process can still have; None where nothing says that."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE) if meminfo.exists() else None
    if device.type != "cpu" or found is None:
        return None
    free = 1024 * int(found[1])
    # A container may have less, by one of two versions of Linux. What it uses includes files that can be forgotten.
    first = CGROUPS / "memory" / "memory.limit_in_bytes"
    limits = [*group_limits("memory.max"), *([first.read_text()] if first.exists() else [])]
    return min([free, *(int(limit) for limit in limits if limit.strip().isdecimal())])
