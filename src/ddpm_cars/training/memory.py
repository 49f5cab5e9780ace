"""How much memory a step takes, measured rather than guessed."""

from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, release_memory
from accelerate.utils.memory import should_reduce_batch_size
from diffusers import UNet2DModel

from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import say
from ddpm_cars.training.averages import num_averages
from ddpm_cars.training.network import place_network
from ddpm_cars.training.optimizer import name_and_tensors_per_weight
from ddpm_cars.training.run import Run


def _loss(unet: UNet2DModel, batch_size: int, accelerator: Accelerator) -> torch.Tensor:
    size, device = unet.config.sample_size, unet.device
    x_t = torch.zeros(batch_size, unet.config.in_channels, size, size, device=device)
    labels = None
    if unet.config.num_class_embeds is not None:
        labels = torch.zeros(batch_size, dtype=torch.long, device=device)
    with accelerator.autocast():
        return unet(x_t, torch.zeros_like(x_t[:, 0, 0, 0]), class_labels=labels).sample.float().square().mean()


def activation_bytes_per_image(unet: UNet2DModel, accelerator: Accelerator) -> int:
    """Return how many bytes the forward pass keeps for the backward pass, measured on one image.

    Args:
        unet: The network, in training mode, on its device.
        accelerator: Decides the precision.
    """
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(unet, 1, accelerator)
    return sum(kept.values())


def step_fits(unet: UNet2DModel, batch_size: int, accelerator: Accelerator, num_copies: int) -> bool:
    """Try whether forward and backward pass fit into memory beside what the optimiser and the averages will take.

    Args:
        unet: The network, on its device; its gradients are cleared.
        batch_size: Images at a time.
        accelerator: Decides the precision.
        num_copies: How many times the size of the weights the optimiser and the averages take.
    """
    reserved: list[torch.Tensor] = []
    try:
        for _ in range(num_copies):
            reserved += [torch.zeros_like(p) for p in unet.parameters()]
        _loss(unet, batch_size, accelerator).backward()
        return True
    except MemoryError:
        return False
    except RuntimeError as error:
        # The second is how oneDNN, which computes convolutions on CPUs, says that it got no memory.
        if not (should_reduce_batch_size(error) or "could not create a primitive" in str(error)):
            raise
        return False
    finally:
        unet.zero_grad(set_to_none=True)
        reserved.clear()
        release_memory()


def split_until_it_fits(run: Run) -> Run:
    """Halve the batch that a process computes at a time until a step fits into memory; the global batch stays.

    Raises:
        UserError: If not even a batch that cannot be halved fits.
    """
    unet, dropout_seeds = place_network(run)
    num_copies = name_and_tensors_per_weight(run.config)[1] + num_averages(run.config)
    while True:
        dropout_seeds.values = [0] * run.batch_size
        if all(gather_object([step_fits(unet, run.batch_size, run.accelerator, num_copies)])):
            run.accelerator.gradient_accumulation_steps = run.accumulation
            return run
        if run.batch_size % 2:
            raise UserError(
                f"train_batch_size is {run.config.train_batch_size}; not even {run.batch_size} images at a time fit "
                "into memory, which cannot be halved. Take a smaller network, or gradient_checkpointing"
            )
        run = replace(run, batch_size=run.batch_size // 2, accumulation=run.accumulation * 2)
        say(
            f"memory is short: {run.batch_size} images at a time, {run.accumulation} times per step; "
            "the run stays the same"
        )
