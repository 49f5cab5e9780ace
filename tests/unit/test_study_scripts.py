"""The arithmetic of the scripts that measure: against closed forms, and against the scheduler itself."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from ddpm_cars import DDPMCarsScheduler

from .scheduler_helpers import ALPHA_BAR, calibration_of, exact, gaussian_mse

SCRIPTS = Path(__file__).parents[2] / "scripts"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_frechet_distance_of_gaussians():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(200_000, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    stds, shift = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), 0.7
    # Independent coordinates: (mu_a - mu_b)^2 + (sigma_a - sigma_b)^2 each, in any orthonormal basis.
    basis = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    got = script("variance_study").frechet_distance(a @ basis, (b * stds + shift) @ basis)
    assert got == pytest.approx(3 * shift**2 + float((1 - stds).square().sum()), rel=0.01)
    assert script("variance_study").frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_ideal_std_of_the_band_layouts_is_that_of_the_scheduler():
    scheduler = exact("analytic", calibration_of(gaussian_mse(0.3)))
    scheduler.set_timesteps(10)
    t, s = scheduler.timesteps[[3, 4]].tolist()
    x_0_variance = 0.3 * (1 - ALPHA_BAR[t]) / (ALPHA_BAR[t] * 0.3 + 1 - ALPHA_BAR[t])
    got = script("band_layouts").ideal_std(np.array(x_0_variance), t, s, ALPHA_BAR)
    assert float(got) == pytest.approx(scheduler._steps[t].noise_std, rel=1e-9)


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the benchmark writes; its timings are for reading only."""
    path = tmp_path_factory.mktemp("benchmark") / "results.json"
    command = [sys.executable, SCRIPTS / "benchmark.py", "scheduler", "--output", path]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "| cpu | step | (16, 3, 64, 64) |" in printed
    return json.loads(path.read_text())


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
    spectrum = script("benchmark").natural_spectrum(16)
    assert spectrum.mean() == pytest.approx(0.25)
    assert np.all(np.diff(spectrum[0, 0, 1:]) < 0)
    scheduler = DDPMCarsScheduler()
    scheduler.set_calibration(script("benchmark").gaussian_calibration(spectrum))
