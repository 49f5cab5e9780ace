"""An evaluation that is interrupted in the process of somebody who goes on, as in a notebook."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.evaluation.evaluate import evaluate
from ddpm_cars.toy_cars import draw_car
from tests.support.trainer_helpers import forget_accelerate


class Interrupted(torch.nn.Flatten):
    """Features whose computation somebody interrupts, once the extractor is loaded."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 16:
            raise KeyboardInterrupt
        return super().forward(x)


def test_an_interrupted_evaluation_gives_its_folder_back(tmp_path: Path, make_unet: Callable[..., UNet2DModel]):
    (tmp_path / "cars").mkdir()
    for i in range(80):
        draw_car(i, 8).save(tmp_path / "cars" / f"{i}.png")
    DDPMCarsPipeline(make_unet(), DDPMCarsScheduler()).save_pretrained(tmp_path / "model")
    config = EvaluateConfig(
        pretrained_model_name_or_path=str(tmp_path / "model"),
        train_data_dir=str(tmp_path / "cars"),
        cache_dir=str(tmp_path / "cache"),
        extractor=f"{__name__}:Interrupted",
        mixed_precision="no",
    )
    try:
        # The second one is not refused, although the first one's folder is remembered with its traceback.
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                evaluate(config)
    finally:
        forget_accelerate()
    assert [path.name for path in (tmp_path / "model" / "evaluation").iterdir()] == ["metrics.json"]
