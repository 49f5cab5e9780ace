"""A calibration travels in the config, and is used for nothing that it was not measured for."""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler

from ddpm_cars import DDPMCarsScheduler
from tests.support.scheduler_helpers import (
    SIZE,
    calibration_of,
    exact,
    gaussian_mse,
    random_calibration,
    seeded,
)


@pytest.mark.parametrize("variance_type", ["analytic", "spectral"])
def test_calibration_survives_files_configs_and_other_schedulers(variance_type: str, tmp_path: Path):
    scheduler = exact(variance_type, random_calibration())
    scheduler.save_pretrained(tmp_path)
    ddim = diffusers.DDIMScheduler.from_config(scheduler.config)
    ddim.save_pretrained(tmp_path / "ddim")
    others = [
        DDPMCarsScheduler.from_pretrained(tmp_path),
        DDPMCarsScheduler.from_config(scheduler.config),
        DDPMCarsScheduler.from_config(ddim.config),
        DDPMCarsScheduler.from_pretrained(tmp_path / "ddim"),
        DDPMCarsScheduler.from_config(DDPMScheduler.from_pretrained(tmp_path).config),
    ]
    x = torch.randn(2, 3, *SIZE, generator=seeded(5))
    scheduler.set_timesteps(10)
    expected = scheduler.step(x, scheduler.timesteps[2], x, generator=seeded(5)).prev_sample
    for other in others:
        other.set_timesteps(10)
        assert torch.equal(other.step(x, other.timesteps[2], x, generator=seeded(5)).prev_sample, expected)


def test_a_calibration_is_not_printed_number_by_number():
    scheduler = exact("spectral", random_calibration())
    assert len(repr(scheduler)) < 2000
    assert "spectral" in repr(scheduler)
    assert json.loads(scheduler.to_json_string())["_calibration"]["eps_mse"] == random_calibration()["eps_mse"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"num_train_timesteps": 500}, "measured with 1000 timesteps, not 500"),
        ({"beta_end": 0.03}, "another noise schedule"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "another noise schedule"),
    ],
)
def test_a_calibration_is_refused_by_another_schedule(other: dict, message: str):
    calibrated = exact("analytic", calibration_of(gaussian_mse(0.3)))
    with pytest.raises(ValueError, match=message):
        DDPMCarsScheduler.from_config(calibrated.config, **other).set_timesteps(10)
    with pytest.raises(ValueError, match=message):
        DDPMCarsScheduler(**other).set_calibration(calibration_of(gaussian_mse(0.3)))


@pytest.mark.parametrize("variance_type", ["analytic", "spectral"])
def test_calibrated_variances_say_how_to_get_them(variance_type: str):
    x = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match=rf"{variance_type}.*ddpm_cars\.calibrate"):
        DDPMCarsScheduler(variance_type=variance_type).step(x, 5, x)


def test_spectral_refuses_what_it_was_not_calibrated_for():
    with pytest.raises(ValueError, match="no bands"):
        exact("spectral", calibration_of(gaussian_mse(0.3))).set_timesteps(10)
    scheduler = exact("spectral", random_calibration())
    for shape in ((1, 3, 8, 8), (1, 1, *SIZE), (1, 3, SIZE[0] * SIZE[1])):
        x = torch.zeros(shape)
        with pytest.raises(ValueError, match=r"calibrated for .* = \(3, 6, 10\)"):
            scheduler.step(x, 5, x)


def test_forgetting_a_calibration():
    scheduler = exact("analytic", calibration_of(gaussian_mse(0.3)))
    scheduler.set_timesteps(10)
    scheduler.set_calibration(None)
    with pytest.raises(ValueError, match="calibrate"):
        scheduler.set_timesteps(10)


def test_as_many_values_as_timesteps_are_needed():
    short = calibration_of(gaussian_mse(0.3)) | {"eps_mse": [0.5]}
    with pytest.raises(ValueError, match="1000 timesteps but 1 values of eps_mse"):
        DDPMCarsScheduler().set_calibration(short)
