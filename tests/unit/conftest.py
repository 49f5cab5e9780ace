"""Fixtures of the tests of training and of pictures."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from ddpm_cars.config import TrainingConfig
from ddpm_cars.data import Pictures
from ddpm_cars.toy_cars import write_toy_cars

from .picture_helpers import cache_times, load_small, make_pictures
from .trainer_helpers import forget_accelerate


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
        output_dir=str(tmp_path / "run"),
        eval_batch_size=1,
        num_inference_steps=2,
        logging_steps=3,
    )
    return lambda **changes: replace(defaults, **changes)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of plain colours in two splits."""
    return make_pictures(tmp_path / "pictures")


@pytest.fixture
def load(folder: Path, tmp_path: Path) -> Callable[..., Pictures]:
    """Return a function that loads `folder` small, with other settings where given."""
    return partial(load_small, tmp_path)


@pytest.fixture
def cached(tmp_path: Path) -> Callable[[], dict[str, int]]:
    """Return a function that tells when the files of the cache were written."""
    return partial(cache_times, tmp_path)
