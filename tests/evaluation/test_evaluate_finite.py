"""A model whose images are not finite is not measured."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.errors import UserError
from ddpm_cars.evaluation.evaluate import evaluate
from ddpm_cars.toy_cars import draw_car
from tests.support.overflow import beyond_float32
from tests.support.trainer_helpers import forget_accelerate


class Pixels(torch.nn.Flatten):
    """Features that need no network."""


@pytest.fixture
def config(make_unet: Callable[..., UNet2DModel], tmp_path: Path):
    for split, number in (("train", 80), ("test", 4)):
        (tmp_path / "cars" / split).mkdir(parents=True)
        for i in range(number):
            draw_car(i, 8).save(tmp_path / "cars" / split / f"{i}.png")
    scheduler = DDPMCarsScheduler(num_train_timesteps=20)
    DDPMCarsPipeline(beyond_float32(make_unet()), scheduler).save_pretrained(tmp_path / "model")
    yield lambda **more: EvaluateConfig(
        pretrained_model_name_or_path=str(tmp_path / "model"),
        train_data_dir=str(tmp_path / "cars"),
        cache_dir=str(tmp_path / "cache"),
        extractor=f"{__name__}:Pixels",
        mixed_precision="no",
        **more,
    )
    forget_accelerate()


def test_images_that_are_not_finite_give_no_figures(config: Callable[..., EvaluateConfig], tmp_path: Path):
    message = (
        r"^fixed_small with 20 steps: The model output is not finite in step 1 of 20 \(timestep 19\), .*: weights that"
    )
    with pytest.raises(UserError, match=message):
        evaluate(config())
    metrics = json.loads((tmp_path / "model" / "evaluation" / "metrics.json").read_text())
    assert metrics["samples"] == []
    assert "floor" in metrics


def test_a_likelihood_that_clipping_would_make_finite_is_none(config: Callable[..., EvaluateConfig], tmp_path: Path):
    with pytest.raises(
        UserError,
        match=r"^The model output is not finite at timestep 0, .*: weights that have diverged are the usual cause",
    ):
        evaluate(config(validation_split="test", num_likelihood_images=4))
    metrics = json.loads((tmp_path / "model" / "evaluation" / "metrics.json").read_text())
    assert not metrics.get("likelihood")
