"""TODO src/ddpm_cars/training/optimizer.py."""

import torch
from diffusers import UNet2DModel

from ddpm_cars.config.training import TrainingConfig


def _make_optimizer(
    config: TrainingConfig, unet: UNet2DModel, device: torch.device, captured: bool
) -> torch.optim.Optimizer:
    optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return optimizer_class(
        unet.parameters(),
        # A captured step reads it from the device.
        lr=torch.tensor(config.learning_rate, device=device) if captured else config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        fused=device.type in ("cpu", "cuda"),
    )
