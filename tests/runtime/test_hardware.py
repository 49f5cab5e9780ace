"""What a command computes on, and what slows it down."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch

import ddpm_cars
from ddpm_cars.runtime import hardware, threads
from ddpm_cars.runtime.hardware import cpu_warnings, device_name, fast_precision, free_memory
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


def give_features(monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], machine: str = "x86_64") -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(features, True), raising=False)
    monkeypatch.setattr(platform, "machine", lambda: machine)


@pytest.mark.parametrize(
    ("features", "machine", "precision", "imitates"),
    [
        (("avx2",), "x86_64", "no", True),
        (("avx2", "avx512_f", "avx512_vnni"), "AMD64", "no", True),
        (("avx2", "avx512_f", "avx512_bf16"), "x86_64", "bf16", False),
        (("avx512_bf16", "amx_tile", "amx_bf16"), "x86_64", "bf16", False),
        # Nobody has shown that a network trains faster in it there.
        (("neon", "bf16"), "aarch64", "no", False),
    ],
)
def test_a_cpu_computes_in_bf16_where_it_has_arithmetic_for_it(
    monkeypatch: pytest.MonkeyPatch, features: tuple[str, ...], machine: str, precision: str, imitates: bool
):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    give_features(monkeypatch, features, machine)
    assert fast_precision(CPU) == precision
    assert cpu_warnings(CPU, 1, "no") == []
    found = ["imitates it; mixed_precision no is faster" in line for line in cpu_warnings(CPU, 1, "bf16")]
    assert found == [True] * imitates


@pytest.mark.parametrize(("native", "precision"), [(True, "bf16"), (False, "no")])
def test_a_gpu_computes_in_bf16_unless_it_would_imitate_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, precision: str
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert fast_precision(torch.device("cuda", 0)) == precision
    assert fast_precision(torch.device("mps")) == "no"


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the file is one of Linux")
@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="there is nothing to compare with")
def test_the_file_of_linux_gives_the_same_precision_as_torch(monkeypatch: pytest.MonkeyPatch):
    of_torch = fast_precision(CPU)
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert fast_precision(CPU) == of_torch


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="only Linux has control groups")
def test_a_container_may_have_less_memory_than_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    whole = free_memory(CPU)
    assert whole is not None
    groups = re.findall(r"^0::/(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)
    for folder in (tmp_path, *(tmp_path / group for group in groups)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text("max\n")
    assert free_memory(CPU) == pytest.approx(whole, rel=0.5)
    (folder / "memory.max").write_text("4096\n")
    assert not groups or free_memory(CPU) == 4096


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


def test_a_copy_of_the_package_that_is_not_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch):
    def version_of_others(name: str) -> str:
        if name == "ddpm-cars":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(hardware, "version", version_of_others)
    found = hardware.versions()
    assert list(found) == ["python", "ddpm-cars", "torch", "diffusers", "numpy"]
    assert found["ddpm-cars"] == ddpm_cars.__version__
