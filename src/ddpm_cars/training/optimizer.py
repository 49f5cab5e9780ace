"""The optimiser and its learning rate: all that the other modules need to know of either."""

from collections.abc import Callable, Mapping

import torch
from diffusers import UNet2DModel
from diffusers.optimization import get_scheduler

from ddpm_cars.config.training import TrainingConfig


def make_optimizer(
    config: TrainingConfig, unet: UNet2DModel, device: torch.device, captured: bool
) -> torch.optim.Optimizer:
    """Make the optimiser of a network; where a graph replays its step, it reads the learning rate from the device."""
    optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return optimizer_class(
        unet.parameters(),
        lr=torch.tensor(config.learning_rate, device=device) if captured else config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        fused=device.type in ("cpu", "cuda"),
    )


def name_and_tensors_per_weight(config: TrainingConfig) -> tuple[str, int]:
    """Return the name of the optimiser's family, and how many tensors of the size of the weights it keeps."""
    return {"adam": ("Adam", 2), "adamw": ("Adam", 2)}[config.optimizer]


def make_learning_rate(config: TrainingConfig, total_steps: int) -> Callable[[int], float]:
    """Return the learning rate as a function of the step, counted from 0, by diffusers' schedules."""
    # The schedule itself is a function; diffusers wraps it in an object with a state, around some optimiser.
    anything = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    schedule = get_scheduler(
        config.lr_scheduler, anything, num_warmup_steps=config.lr_warmup_steps, num_training_steps=total_steps
    )
    factor = schedule.lr_lambdas[0]
    return lambda step: config.learning_rate * factor(step)


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Set the learning rate of the next step, on the device where a graph reads it there."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate


def announce_capture(optimizer: torch.optim.Optimizer) -> None:
    """Tell an optimiser whether its step is being captured, because it refuses or warns where it does not know."""
    for group in optimizer.param_groups:
        group["capturable"] = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def flatten_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimiser's tensors as "INDEX.NAME", where INDEX is the position of the parameter."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": torch.as_tensor(value) for i, named in state.items() for name, value in named.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an optimiser the tensors that `flatten_optimizer` returned; its hyper-parameters stay its own."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        i, name = key.split(".", 1)
        state.setdefault(int(i), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
