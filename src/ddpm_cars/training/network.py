"""The network of a run: what its settings make of a preset or a file, and how it lies on the device."""

from typing import Any

import torch
from accelerate.utils import TorchDynamoPlugin
from diffusers import UNet2DModel

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.diffusion.seeds import seed_new_weights
from ddpm_cars.networks.layers import RowSeeds, replace_layers, seed_dropout
from ddpm_cars.networks.unet import create_unet
from ddpm_cars.pipeline_ddpm_cars import compiler_options
from ddpm_cars.training.run import Run


def create_network(config: TrainingConfig, num_classes: int | None) -> UNet2DModel:
    """Create the network that the settings name, with weights from torch's global generator.

    Args:
        config: The run's settings.
        num_classes: How many classes it learns, or None.

    Raises:
        UserError: If the settings do not make a network.
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
    """Create the network of a run on its device, with the weights that the seed draws.

    Returns:
        The network, and where the seeds of its dropout are put before every forward pass.
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
