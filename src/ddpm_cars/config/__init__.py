"""The settings of every command, as frozen dataclasses. The docstring of a field is its `--help` text."""

from ddpm_cars.config.commands import (
    CalibrateConfig,
    DemoConfig,
    EvaluateConfig,
    PushConfig,
    SampleConfig,
    ShowConfig,
    ToyCarsConfig,
)
from ddpm_cars.config.pictures import ImageConfig, PicturesConfig, PicturesOfRunConfig
from ddpm_cars.config.training import NoiseConfig, TrainCommandConfig, TrainingConfig
from ddpm_cars.errors import ConfigError

__all__ = [
    "CalibrateConfig",
    "ConfigError",
    "DemoConfig",
    "EvaluateConfig",
    "ImageConfig",
    "NoiseConfig",
    "PicturesConfig",
    "PicturesOfRunConfig",
    "PushConfig",
    "SampleConfig",
    "ShowConfig",
    "ToyCarsConfig",
    "TrainCommandConfig",
    "TrainingConfig",
]
