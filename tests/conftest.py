import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable

import diffusers
import pytest
import torch
from diffusers import DiffusionPipeline, UNet2DModel

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
