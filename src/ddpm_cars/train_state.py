"""What a run has to remember, and how it is written and read."""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

from ddpm_cars import checkpoints
from ddpm_cars.config import ConfigError, TrainingConfig

# These may change between the parts of one run: they decide where it ends and what it shows, not how it trains.
_FREE_BETWEEN_PARTS = {
    "output_dir",
    "overwrite_output_dir",
    "cache_dir",
    "train_data_dir",
    "num_epochs",
    "max_train_steps",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "save_images_steps",
    "eval_batch_size",
    "num_inference_steps",
    "logging_steps",
    "logger",
}


@dataclass
class TrainState:
    """All that changes while a run trains."""

    unet: UNet2DModel
    optimizer: torch.optim.Optimizer
    ema: EMAModel | None
    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    def save(self, folder: Path, config: TrainingConfig, num_images: int, scaler: Any) -> Path:
        """Write a checkpoint into `folder`."""
        names = [name for name, _ in self.unet.named_parameters()]
        tensors = {"unet": self.unet.state_dict(), "optimizer": checkpoints.flatten_optimizer(self.optimizer)}
        if self.ema is not None:
            tensors["ema"] = dict(zip(names, self.ema.shadow_params, strict=True))
        state = {
            "config": asdict(config),
            "num_images": num_images,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "history": self.history,
        }
        return checkpoints.save_checkpoint(folder, self.step, tensors, state)

    def load(self, path: Path, config: TrainingConfig, num_images: int, scaler: Any) -> None:
        """Continue from the checkpoint at `path`.

        Raises:
            ConfigError: If it belongs to a run with other settings or pictures.
        """
        tensors, state = checkpoints.load_checkpoint(path)
        _check_same_run(path, state, config, num_images)
        self.unet.load_state_dict(tensors["unet"])
        checkpoints.restore_optimizer(self.optimizer, tensors["optimizer"])
        if self.ema is not None:
            for shadow, (name, _) in zip(self.ema.shadow_params, self.unet.named_parameters(), strict=True):
                shadow.copy_(tensors["ema"][name])
            self.ema.optimization_step = state["step"]
        if scaler is not None and state["scaler"] is not None:
            scaler.load_state_dict(state["scaler"])
        self.step, self.history = state["step"], state["history"]


def _check_same_run(path: Path, state: dict[str, Any], config: TrainingConfig, num_images: int) -> None:
    now = {**asdict(config), "number of pictures": num_images}
    # A setting that came later was at its default.
    defaults = {f.name: f.default for f in fields(TrainingConfig)}
    then = {**defaults, **state["config"], "number of pictures": state["num_images"]}
    compared = [name for name in now if name not in _FREE_BETWEEN_PARTS]
    changed = [f"{name} {then.get(name)} (now {now[name]})" for name in compared if then.get(name) != now[name]]
    if changed:
        raise ConfigError(
            f"{path} belongs to a run with {', '.join(changed)}; go back to those settings, choose another "
            "output_dir, or pass --overwrite_output_dir to start again"
        )
