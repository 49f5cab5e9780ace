"""The network of a run: made of a preset or a file, placed on the device, wrapped, and its memory measured."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import TorchDynamoPlugin, gather_object, release_memory
from accelerate.utils.memory import should_reduce_batch_size
from diffusers import UNet2DModel

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.diffusion.seeds import seed_new_weights
from ddpm_cars.errors import UserError
from ddpm_cars.networks.layers import RowSeeds, replace_layers, seed_dropout
from ddpm_cars.networks.unet import create_unet
from ddpm_cars.pipeline_ddpm_cars import compiler_options
from ddpm_cars.runtime.console import say
from ddpm_cars.training.averages import half_lives
from ddpm_cars.training.optimizer import name_and_tensors_per_weight
from ddpm_cars.training.run import Run


def create_network(config: TrainingConfig, num_classes: int | None) -> UNet2DModel:
    """Create the network that the settings name, with weights from torch's global generator.

    Raises UserError if the settings do not make a network.
    """
    overrides: dict[str, Any] = {"dropout": config.dropout} if config.dropout else {}
    if num_classes is not None:
        # The label after the last class stands for a hidden class.
        overrides["num_class_embeds"] = num_classes + (config.class_dropout_prob > 0)
    learn_variance = config.variance_type == "learned_range"
    return create_unet(
        config.preset, config.resolution, config.model_config, learn_variance=learn_variance, **overrides
    )


def place_network(run: Run) -> tuple[UNet2DModel, RowSeeds]:
    """Return the network of a run on its device, with the weights that the seed draws, and the seeds of its dropout.

    These are set before every forward pass.
    """
    seed_new_weights(run.config.seed)
    unet = create_network(run.config, run.num_classes)
    dropout_seeds = seed_dropout(unet)
    # accelerate may compile without being asked here. Where nothing is compiled, these layers are the usual ones.
    replace_layers(unet)
    if run.config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    return unet.to(run.device, memory_format=run.memory_format), dropout_seeds


def can_capture(run: Run, dropout_seeds: RowSeeds) -> bool:
    """Return whether a compiled step may be captured in a graph: nothing in it is decided by Python."""
    accelerator, decides = run.accelerator, run.config.max_skipped_steps > 0 or dropout_seeds.num_layers > 0
    one_gpu = run.device.type == "cuda" and accelerator.num_processes == 1
    return run.config.compile and one_gpu and accelerator.scaler is None and not decides


def wrap_network(run: Run, unet: UNet2DModel, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
    """Return the network and its optimiser as accelerate runs them: compiled, and on several processes."""
    if not run.config.compile:
        # accelerate compiles it all the same where it is configured to.
        return run.accelerator.prepare(unet, optimizer)
    # A process has one state for all its accelerators, and the first of them has set it.
    state, options = run.accelerator.state, compiler_options(run.device)
    before = state.dynamo_plugin
    # Batches have one shape.
    state.dynamo_plugin = TorchDynamoPlugin(backend="inductor", dynamic=False, options=options)
    try:
        return run.accelerator.prepare(unet, optimizer)
    finally:
        state.dynamo_plugin = before


def _loss(unet: UNet2DModel, batch_size: int, accelerator: Accelerator) -> torch.Tensor:
    size, device = unet.config.sample_size, unet.device
    x_t = torch.zeros(batch_size, unet.config.in_channels, size, size, device=device)
    labels = None
    if unet.config.num_class_embeds is not None:
        labels = torch.zeros(batch_size, dtype=torch.long, device=device)
    with accelerator.autocast():
        return unet(x_t, torch.zeros_like(x_t[:, 0, 0, 0]), class_labels=labels).sample.float().square().mean()


def activation_bytes_per_image(unet: UNet2DModel, accelerator: Accelerator) -> int:
    """Return how many bytes the forward pass keeps for the backward pass, measured on one image."""
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

    That is `num_copies` times the size of the weights. The gradients of the network are cleared.
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

    Raises UserError if not even a batch that cannot be halved fits.
    """
    unet, dropout_seeds = place_network(run)
    num_copies = name_and_tensors_per_weight(run.config)[1] + len(half_lives(run.config))
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
