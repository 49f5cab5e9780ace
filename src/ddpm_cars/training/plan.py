"""What a run will take, found out before it starts."""

from pathlib import Path

from diffusers import UNet2DModel
from torch.distributed.tensor import DTensor

from ddpm_cars.data.row_decoding import measure
from ddpm_cars.training.memory import activation_bytes_per_image
from ddpm_cars.training.prepare import Setup


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"


def _picture_lines(run: Setup) -> list[str]:
    config = run.config
    classes = [f"classes      {len(run.class_names)}: {', '.join(run.class_names[:8])}"] if run.class_names else []
    if run.pictures is None:
        cost = measure(config, run.num_channels)
        return [
            f"images     streamed from {len(run.source.shards)} shards of {config.dataset_name} in "  # type: ignore
            f"{run.source.num_lanes} lanes",  # type: ignore
            f"per image  {cost['bytes_per_image']:,.0f} bytes to read, "
            f"{cost['decode_milliseconds_per_image']:.2f} ms of one core to decode",
            *classes,
        ]
    report = run.pictures.report
    return [
        f"images     {len(run.pictures.images):,} at {config.resolution}x{config.resolution}, "
        f"{len(report['bad_images'])} left out as bad, {len(report['duplicates'])} sets of copies",
        f"report       {run.output_dir / 'pictures.json'}",
        *classes,
    ]


def describe(run: Setup, found: Path | None) -> list[str]:
    """Return the plan of a run as lines of text: images, network, steps, memory, where things go.

    Args:
        run: The run, before its first step.
        found: The checkpoint that it continues from, None if it begins anew.
    """
    config, unet = run.config, run.state.unet
    weights = sum(p.numel() for p in unet.parameters())
    # Of a network that is spread over processes each one holds a part.
    here = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in unet.parameters())
    whole_step = f"{run.batch_size} images x {run.accelerator.num_processes} processes x {run.accumulation} times"
    lines = _picture_lines(run)
    if run.held_out is not None:
        lines.append(f"held out     {len(run.held_out):,} images of {config.validation_split}")
    epochs = ""
    if run.pictures is not None:
        epochs = f", {run.total_steps * run.global_batch_size / len(run.pictures.images):.1f} epochs"
    flips = "flipped at random" if config.random_flip else "never flipped"
    lines += [
        f"prepared     {config.resize}, {flips}",
        f"network      {weights:,} parameters, {run.device}, mixed_precision {run.accelerator.mixed_precision}",
        f"a step       {run.global_batch_size} images: {whole_step}",
        f"steps        {run.state.step:,} done, {run.total_steps:,} in all{epochs}",
    ]
    states = 4 * here * (4 + len(run.state.averages))
    # A copy, because the weights themselves may be spread over processes.
    copy = UNet2DModel.from_config(unet.config).to(run.device)
    if config.gradient_checkpointing:
        copy.enable_gradient_checkpointing()
    activations = run.batch_size * activation_bytes_per_image(copy, run.accelerator)
    lines.append(
        f"memory       {_megabytes(states + activations)} a process: weights, gradients, Adam and "
        f"{len(run.state.averages)} averages {_megabytes(states)}, activations {_megabytes(activations)}"
    )
    disk = 4 * weights * (3 + len(run.state.averages))
    lines += [
        f"output       {run.output_dir}, a checkpoint is {_megabytes(disk)}",
        f"begins       {'anew' if found is None else f'from {found}'}",
    ]
    return lines
