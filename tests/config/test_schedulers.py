"""The names of schedulers, and what is said of others."""

import re

import diffusers
import pytest

from ddpm_cars.config.commands import EvaluateConfig, SampleConfig
from ddpm_cars.config.schedulers import SCHEDULERS
from ddpm_cars.errors import UserError


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DDIM", "DDIMScheduler"),
        ("ddim", "DDIMScheduler"),
        ("DPMSolverMultistep", "DPMSolverMultistepScheduler"),
        ("dpm++", "DPMSolverMultistepScheduler"),
        ("dpmsolver++", "DPMSolverMultistepScheduler"),
        ("euler", "EulerDiscreteScheduler"),
        ("euler_a", "EulerAncestralDiscreteScheduler"),
        ("ddpm", "DDPMCarsScheduler"),
        ("DPM++ 2M", "DPMSolverMultistepScheduler"),
        ("DDIMSchedular", "DDIMScheduler"),
    ],
)
def test_a_scheduler_that_is_no_class_is_answered_with_one(name: str, meant: str):
    words = rf"{re.escape(name)}, which is no scheduler for these models; did you mean {meant}\?$"
    with pytest.raises(UserError, match=f"^scheduler is {words}"):
        SampleConfig(pretrained_model_name_or_path="m", scheduler=name)
    with pytest.raises(UserError, match=f"^schedulers has {words}"):
        EvaluateConfig(pretrained_model_name_or_path="m", schedulers=("fixed_small", name))


@pytest.mark.parametrize("name", ["Foo", "FooScheduler", "UNet2DModel", ""])
def test_a_scheduler_like_no_other_is_answered_with_all(name: str):
    with pytest.raises(
        UserError,
        match=f"^scheduler is {name}, which is no scheduler for these models; choose one of DDPMCars.*, DDIMS",
    ):
        SampleConfig(pretrained_model_name_or_path="m", scheduler=name)


@pytest.mark.parametrize(
    "name",
    [
        *("FlowMatchEulerDiscreteScheduler", "FlowMatchEuler", "EDMEulerScheduler", "SASolverScheduler", "lcm"),
        *("UnCLIPScheduler", "IPNDMScheduler", "LCMScheduler", "VQDiffusionScheduler", "DDIMInverseScheduler"),
    ],
)
def test_a_scheduler_for_other_models_is_answered_with_all_and_none_that_looks_like_it(name: str):
    words = (
        f"^scheduler is {name}, which is a scheduler of diffusers for other models; choose one of DDPMCars.*, DDIMS"
    )
    with pytest.raises(UserError, match=words):
        SampleConfig(pretrained_model_name_or_path="m", scheduler=name)


def test_the_schedulers_are_those_of_diffusers_that_fit():
    fitting = {member.name for member in diffusers.schedulers.KarrasDiffusionSchedulers}
    # That one computes with other noise levels than those of these models.
    assert set(SCHEDULERS) == {"DDPMCarsScheduler"} | fitting - {"EDMEulerScheduler"}


def test_a_misspelt_variance_is_answered_with_one():
    with pytest.raises(
        UserError,
        match=r"^schedulers has fixed_smal, which is no scheduler for these models; did you mean fixed_small",
    ):
        EvaluateConfig(pretrained_model_name_or_path="m", schedulers="fixed_smal")
