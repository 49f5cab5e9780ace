from tests.support.environment import forget_the_environment

# Before any library reads it.
forget_the_environment()

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel

from ddpm_cars.config import TrainingConfig
from ddpm_cars.data import Pictures
from ddpm_cars.toy_cars import write_toy_cars
from tests.support.picture_helpers import cache_times, load_small, make_pictures
from tests.support.trainer_helpers import forget_accelerate

torch.set_num_threads(1)
diffusers.utils.logging.disable_progress_bar()
DiffusionPipeline._progress_bar_config = {"disable": True}


def _make_unet(seed: int = 0, **config) -> UNet2DModel:
    torch.manual_seed(seed)
    defaults = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (4, 8),
        "norm_num_groups": 2,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    return UNet2DModel(**{**defaults, **config}).eval()


@pytest.fixture(scope="session")
def make_unet() -> Callable[..., UNet2DModel]:
    """Build an untrained UNet of two tiny blocks; keywords go to its config."""
    return _make_unet


@pytest.fixture(scope="session")
def unet() -> UNet2DModel:
    """A three-channel UNet for 8x8 images that no test may change."""
    return _make_unet()


@pytest.fixture(scope="session")
def tiny_unet_config() -> dict:
    """What a `--model_config` file holds for the smallest network worth training."""
    return {
        "block_out_channels": [4, 8],
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "attention_head_dim": 4,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
    }


@pytest.fixture
def fresh_accelerate() -> Iterator[None]:
    """Leave nothing of a run's accelerate to the next test."""
    yield
    forget_accelerate()


@pytest.fixture(scope="session")
def twelve_and_four_cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy cars at 8x8: 12 in train, 4 in test."""
    return write_toy_cars(tmp_path_factory.mktemp("cars") / "cars", 12, 4, 8)


@pytest.fixture
def make_config(
    twelve_and_four_cars: Path, tmp_path: Path, tiny_unet_config: dict, fresh_accelerate: None
) -> Callable[..., TrainingConfig]:
    """Return a function that changes settings of a run of six tiny steps."""
    model_config = tmp_path / "unet.json"
    model_config.write_text(json.dumps(tiny_unet_config))
    defaults = TrainingConfig(
        train_data_dir=str(twelve_and_four_cars),
        cache_dir=str(tmp_path / "cache"),
        resolution=8,
        model_config=str(model_config),
        num_train_timesteps=20,
        train_batch_size=4,
        max_train_steps=6,
        lr_scheduler="constant",
        learning_rate=1e-2,
        mixed_precision="no",
        ema_half_life_steps=(7000,),
        output_dir=str(tmp_path / "run"),
        eval_batch_size=1,
        num_inference_steps=2,
        logging_steps=3,
    )
    return lambda **changes: replace(defaults, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of plain colours in two splits."""
    return make_pictures(tmp_path / "pictures")


@pytest.fixture
def load(folder: Path, tmp_path: Path) -> Callable[..., Pictures]:
    """Return a function that loads `folder` small, with other settings where given."""
    return partial(load_small, tmp_path)


@pytest.fixture
def cached(tmp_path: Path) -> Callable[[], dict[str, int]]:
    """Return a function that tells when the files of the cache were written."""
    return partial(cache_times, tmp_path)
