"""Training a model, from its settings to a published pipeline."""

from ddpm_cars.training.trainer import Trainer, train

__all__ = ["Trainer", "train"]
