"""What a command computes on, and what slows it down."""

import os
import platform
from pathlib import Path

import pytest
import torch

from ddpm_cars.runtime.hardware import cpu_warnings, device_name
from tests.support.fresh_process import run_alone

CPU = torch.device("cpu")


def test_the_cpu_has_a_name():
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert device_name(CPU)
    if "model name" in text:
        assert device_name(CPU) in text


def test_a_gpu_has_the_name_of_its_maker(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A GPU")
    assert device_name(torch.device("cuda", 0)) == "A GPU"


@pytest.mark.parametrize(("launched", "threads", "warned"), [(True, 1, True), (True, 2, False), (False, 1, False)])
def test_cores_that_the_launcher_leaves_idle_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, launched: bool, threads: int, warned: bool
):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    if launched:
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(6)))
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    line = "accelerate launch uses one of 6 cores; launch with --num_cpu_threads_per_process 6, or start with"
    assert [line in warning for warning in cpu_warnings(CPU, 1, "no")] == [True] * warned
    assert cpu_warnings(CPU, 2, "no") == cpu_warnings(torch.device("cuda"), 1, "no") == []


@pytest.mark.parametrize(
    ("capability", "mixed_precision", "warned"),
    [("AVX2", "bf16", True), ("AVX512", "bf16", False), ("DEFAULT", "bf16", False), ("AVX2", "no", False)],
)
def test_bfloat16_that_the_cpu_only_imitates_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, capability: str, mixed_precision: str, warned: bool
):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    found = [
        warning.startswith("this CPU has no arithmetic for bf16") for warning in cpu_warnings(CPU, 1, mixed_precision)
    ]
    assert found == [True] * warned


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries manage memory in other ways")
def test_memory_that_is_freed_is_kept_for_the_next_use(tmp_path: Path):
    """glibc maps blocks of this size anew each time, which costs a fault for every page of 4 kB."""
    code = """
import resource, sys, torch
from ddpm_cars.runtime.hardware import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(64 * 2**20 // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
keep_freed_memory(torch.device("meta"))
assert faults() > 0.9 * usual
keep_freed_memory(torch.device("cpu"))
faults()
assert faults() < usual / 100
"""
    run_alone(code, tmp_path)
