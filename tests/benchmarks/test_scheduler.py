"""The suite `scheduler`: what it computes exactly; its timings are for reading only."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import scheduler as suite
from ddpm_cars import DDPMCarsScheduler

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the benchmark writes; its timings are for reading only."""
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, "-m", "benchmarks", "scheduler", "--repeats", "1", "--output_dir", folder]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "| cpu | step | (16, 3, 64, 64) |" in printed
    assert printed.startswith((folder / "benchmark_scheduler.md").read_text())
    return json.loads((folder / "benchmark_scheduler.json").read_text())


def test_exact_sampling_agrees_with_stock_and_orders_the_variances(benchmark: dict):
    rows = {row.pop("sampler"): row for row in map(dict, benchmark["Wasserstein-2 distance per dimension"])}
    for steps in ("10 steps", "20 steps", "50 steps"):
        distance = {name: row[steps] for name, row in rows.items()}
        for kind in ("fixed_small", "fixed_large"):
            assert distance[f"ours, {kind}"] == pytest.approx(distance[f"stock DDPM, {kind}"], abs=2e-4)
        assert distance["ours, analytic"] < min(distance["ours, fixed_small"], distance["ours, fixed_large"])
        assert distance["ours, spectral, 32 bands"] < distance["ours, spectral, 8 bands"] < distance["stock DDIM"]


def test_the_measured_start_restores_the_contrast(benchmark: dict):
    white, matched = benchmark["300 timesteps, unscaled betas"]
    assert white["std of the lightness / data"] < 0.8
    assert matched["std of the lightness / data"] >= 0.99
    assert {row["operation"] for row in benchmark["microseconds per call"]} == {"step", "add_noise"}
    assert benchmark["environment"]["diffusers"]


def test_natural_spectrum_has_the_power_it_says():
    spectrum = suite.natural_spectrum(16)
    assert spectrum.mean() == pytest.approx(0.25)
    assert np.all(np.diff(spectrum[0, 0, 1:]) < 0)
    scheduler = DDPMCarsScheduler()
    scheduler.set_calibration(suite.gaussian_calibration(spectrum))
