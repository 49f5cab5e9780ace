"""How much memory a step takes, measured rather than guessed."""

import torch
from accelerate import Accelerator
from accelerate.utils import release_memory
from accelerate.utils.memory import should_reduce_batch_size
from diffusers import UNet2DModel


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


def step_fits(unet: UNet2DModel, batch_size: int, accelerator: Accelerator, num_averages: int) -> bool:
    """Try whether forward and backward pass fit into memory beside what the optimiser and the averages will take.

    Args:
        unet: The network, on its device; its gradients are cleared.
        batch_size: Images at a time.
        accelerator: Decides the precision.
        num_averages: Moving averages of the weights that are kept.
    """
    reserved: list[torch.Tensor] = []
    try:
        # Adam keeps two tensors like the weights, every average one.
        for _ in range(2 + num_averages):
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
