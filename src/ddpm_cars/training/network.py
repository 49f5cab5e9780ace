"""The network of a run: made of a preset or a file, tried, placed on the device, wrapped, and its memory measured."""

from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import TorchDynamoPlugin, gather_object, release_memory
from accelerate.utils.memory import should_reduce_batch_size
from diffusers import UNet2DModel

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.diffusion.seeds import seed_new_weights, seeded_generator
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

    Args:
        config: The settings.
        num_classes: The number of classes; None where there are none, or nobody knows them yet.

    Raises:
        UserError: If the settings do not make a network that can be trained on images.
    """
    overrides: dict[str, Any] = {"dropout": config.dropout} if config.dropout else {}
    unet = create_unet(
        config.preset,
        config.resolution,
        config.model_config,
        learn_variance=config.variance_type == "learned_range",
        # The label after the last class stands for a hidden class.
        num_class_embeds=None if num_classes is None else num_classes + (config.class_dropout_prob > 0),
        num_train_timesteps=config.num_train_timesteps,
        **overrides,
    )
    if not config.class_conditional:
        for name in ("class_embed_type", "num_class_embeds"):
            if (value := unet.config[name]) is not None:
                raise UserError(
                    f"model_config {config.model_config} has the {name} {value}, and the run learns no classes; "
                    f"give --class_conditional, or take {name} out of the file"
                )
    return unet


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


def _loss(unet: UNet2DModel, x_t: torch.Tensor, t: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    num_labels = unet.config.num_class_embeds
    class_labels = None if num_labels is None else t.clamp(max=num_labels - 1)
    with accelerator.autocast():
        return unet(x_t, t, class_labels=class_labels).sample.float().square().mean()


def _images_of_zeros(unet: UNet2DModel, batch_size: int) -> torch.Tensor:
    size = unet.config.sample_size
    return torch.zeros(batch_size, unet.config.in_channels, size, size, device=unet.device)


def try_network(run: Run) -> int:
    """Try whether the network of a run can be trained, with its precision, labels, first and last timestep.

    Returns:
        How many bytes the forward pass of one image keeps for the backward pass.

    Raises:
        UserError: If a forward or backward pass fails, gives values that are not finite, or does not fit into memory
            with one image.
    """
    name = f"model_config {run.config.model_config}" if run.config.model_config else f"preset {run.config.preset}"
    on = f"on {run.device.type} with mixed_precision {run.accelerator.mixed_precision}"
    try:
        return _try_first_and_last_timestep(run)
    except UserError:
        raise
    except FloatingPointError as error:
        raise UserError(f"{name} makes a network that cannot be trained {on}: {error}") from error
    except Exception as error:
        if _is_short_of_memory(error):
            raise UserError(
                f"not even one image fits into memory {on}; take a smaller network, or gradient_checkpointing"
            ) from error
        if run.config.model_config is None:
            raise
        said = " ".join(str(error).split())
        raise UserError(f"{name} makes a network that takes no step {on}: {type(error).__name__}: {said}") from error
    finally:
        release_memory()


def _try_first_and_last_timestep(run: Run) -> int:
    unet, dropout_seeds = place_network(run)
    dropout_seeds.values = [0]
    images = _images_of_zeros(unet, 1)
    x_t = torch.randn(images.shape, generator=seeded_generator(run.config.seed)).to(images)
    num_bytes = 0
    for timestep in sorted({0, run.config.num_train_timesteps - 1}):
        num_bytes = _try_step(unet, x_t, torch.tensor([timestep], device=run.device), run.accelerator)
    return num_bytes


def _try_step(unet: UNet2DModel, x_t: torch.Tensor, t: torch.Tensor, accelerator: Accelerator) -> int:
    """Take a forward and backward pass, and return how many bytes the first kept for the second.

    Raises FloatingPointError if the output or a gradient is not finite.
    """
    weights = {p.untyped_storage().data_ptr() for p in unet.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = _loss(unet, x_t, t, accelerator)
    if not loss.isfinite():
        raise FloatingPointError(
            f"before training its output at timestep {t.item()} is not finite, "
            f"{_where_not_finite(unet, x_t, t, accelerator)}"
        )
    loss.backward()
    for name, p in unet.named_parameters():
        if p.grad is not None and not p.grad.isfinite().all():
            raise FloatingPointError(
                f"before any training the gradient of {name} at timestep {t.item()} is not finite"
            )
    return sum(kept.values())


def _where_not_finite(unet: UNet2DModel, x_t: torch.Tensor, t: torch.Tensor, accelerator: Accelerator) -> str:
    """Say in which layer values that are not finite come up, and what can be done about it."""
    if unet.config.time_embedding_type == "fourier":
        return (
            "because time_embedding_type fourier takes the logarithm of the timestep and divides by it, and timesteps "
            "begin at 0; use positional"
        )
    names = {module: name for name, module in unet.named_modules()}
    found: list[str] = []

    def look(module: torch.nn.Module, _: Any, output: Any) -> None:
        if not found and isinstance(output, torch.Tensor) and not output.isfinite().all():
            found.append(f"first after its layer {names[module]}")

    handles = [module.register_forward_hook(look) for module in names]
    with torch.no_grad():
        _loss(unet, x_t, t, accelerator)
    for handle in handles:
        handle.remove()
    cure = "; give mixed_precision bf16 or no" if accelerator.mixed_precision == "fp16" else ""
    return (found[0] if found else "in its last operation") + cure


def _is_short_of_memory(error: BaseException) -> bool:
    # The last is how oneDNN, which computes convolutions on CPUs, says that it got no memory.
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (should_reduce_batch_size(error) or "could not create a primitive" in str(error))
    )


def step_fits(unet: UNet2DModel, batch_size: int, accelerator: Accelerator, num_copies: int) -> bool:
    """Try whether forward and backward pass fit into memory beside what the optimiser and the averages will take.

    That is `num_copies` times the size of the weights. The gradients of the network are cleared.
    """
    reserved: list[torch.Tensor] = []
    try:
        for _ in range(num_copies):
            reserved += [torch.zeros_like(p) for p in unet.parameters()]
        x_t = _images_of_zeros(unet, batch_size)
        _loss(unet, x_t, torch.zeros(batch_size, dtype=torch.long, device=unet.device), accelerator).backward()
        return True
    except (MemoryError, RuntimeError) as error:
        if not _is_short_of_memory(error):
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
