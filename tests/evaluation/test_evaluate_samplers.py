"""Which samplers are measured: those that can draw from the model; the others are left out or refused by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.errors import UserError
from ddpm_cars.evaluation.evaluate import evaluate
from ddpm_cars.toy_cars import draw_car
from tests.support.trainer_helpers import forget_accelerate


@pytest.fixture
def config_of(tmp_path: Path, make_unet: Callable[..., UNet2DModel]) -> Callable[..., EvaluateConfig]:
    (tmp_path / "cars").mkdir()
    for i in range(80):
        draw_car(i, 8).save(tmp_path / "cars" / f"{i}.png")

    def save(**scheduler: Any) -> EvaluateConfig:
        DDPMCarsPipeline(make_unet(), DDPMCarsScheduler(**scheduler)).save_pretrained(tmp_path / "model")
        return EvaluateConfig(
            pretrained_model_name_or_path=str(tmp_path / "model"),
            train_data_dir=str(tmp_path / "cars"),
            cache_dir=str(tmp_path / "cache"),
            output_dir=str(tmp_path / "out"),
            extractor="torch.nn:Flatten",
            mixed_precision="no",
            num_inference_steps=2,
        )

    return save


def test_default_samplers_that_cannot_draw_are_left_out_and_named_ones_refused(
    config_of: Callable[..., EvaluateConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = config_of(num_train_timesteps=25, beta_schedule="sigmoid", beta_end=0.5)
    try:
        named = replace(config, steps=(2,), schedulers=("DDIMScheduler", "PNDMScheduler"))
        with pytest.raises(UserError, match=r"PNDMScheduler cannot draw from this model in 2 steps .*, DDIMScheduler"):
            evaluate(named)
        with pytest.raises(UserError, match=r"^DDPMCarsScheduler cannot draw from this model in 1 step "):
            evaluate(replace(config, num_inference_steps=1))
        assert not (tmp_path / "out").exists()
        _, summary = evaluate(replace(config, steps=(25,)))
    finally:
        forget_accelerate()
    left_out = [line for line in capsys.readouterr().err.splitlines() if "is left out" in line]
    assert [line.split()[1] for line in left_out] == ["DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]
    for name in ("fixed_small", "analytic", "spectral", "DDIMScheduler"):
        assert name in summary
    assert "UniPC" not in summary
