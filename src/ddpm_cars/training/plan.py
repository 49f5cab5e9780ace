"""What a run will take, found out before it starts."""

from pathlib import Path

from torch.distributed.tensor import DTensor

from ddpm_cars.data.row_decoding import measure
from ddpm_cars.data.stream import ShardStream
from ddpm_cars.training.network import activation_bytes_per_image, place_network
from ddpm_cars.training.optimizer import name_and_tensors_per_weight
from ddpm_cars.training.run import Run
from ddpm_cars.training.state import TrainState


def describe(run: Run, state: TrainState, found: Path | None) -> list[str]:
    """Return the plan of a run that continues from the checkpoint `found`, or begins anew, as lines of text."""
    config, parameters = run.config, list(state.unet.parameters())
    lines = _image_lines(run, state)
    if run.held_out is not None:
        lines.append(f"held out     {len(run.held_out):,} images of {config.validation_split}")
    epochs = ""
    if run.images is not None:
        epochs = f", {run.total_steps * run.global_batch_size / len(run.images.images):.1f} epochs"
    flips = "flipped at random" if config.random_flip else "never flipped"
    num_weights, num_processes = sum(p.numel() for p in parameters), run.accelerator.num_processes
    return [
        *lines,
        f"prepared     {config.resize}, {flips}",
        f"network      {num_weights:,} parameters, {run.device}, mixed_precision {run.accelerator.mixed_precision}",
        f"a step       {run.global_batch_size} images: {run.batch_size} images x {num_processes} processes x "
        f"{run.accumulation} times",
        f"steps        {state.step:,} done, {run.total_steps:,} in all{epochs}",
        *_size_lines(run, state),
        f"begins       {'anew' if found is None else f'from {found}'}",
    ]


def _image_lines(run: Run, state: TrainState) -> list[str]:
    config, source = run.config, state.source
    classes = [f"classes      {len(run.class_names)}: {', '.join(run.class_names[:8])}"] if run.class_names else []
    if isinstance(source, ShardStream):
        cost = measure(config, run.num_channels)
        return [
            f"images     streamed from {len(source.shards)} shards of {config.dataset_name} in "
            f"{source.num_lanes} lanes",
            f"per image  {cost['bytes_per_image']:,.0f} bytes to read, "
            f"{cost['decode_milliseconds_per_image']:.2f} ms of one core to decode",
            *classes,
        ]
    assert run.images is not None
    report = run.images.report
    return [
        f"images     {len(run.images.images):,} at {config.resolution}x{config.resolution}, "
        f"{len(report['bad_images'])} left out as bad, {len(report['duplicates'])} sets of copies",
        f"report       {run.folder.image_report}",
        *classes,
    ]


def _size_lines(run: Run, state: TrainState) -> list[str]:
    weights, num_averages = list(state.unet.parameters()), len(state.averages.tensors)
    # Of a network that is spread over processes each one holds a part.
    here = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in weights)
    optimizer, tensors_per_weight = name_and_tensors_per_weight(run.config)
    memory = 4 * here * (2 + tensors_per_weight + num_averages)
    disk = 4 * sum(p.numel() for p in weights) * (1 + tensors_per_weight + num_averages)
    # Another network, because the weights of this one may be spread over processes.
    unet, dropout_seeds = place_network(run)
    dropout_seeds.values = [0]
    activations = run.batch_size * activation_bytes_per_image(unet, run.accelerator)
    return [
        f"memory       {_megabytes(memory + activations)} a process: weights, gradients, {optimizer} and "
        f"{num_averages} averages {_megabytes(memory)}, activations {_megabytes(activations)}",
        f"output       {run.folder.path}, a checkpoint is {_megabytes(disk)}",
    ]


def _megabytes(num_bytes: float) -> str:
    return f"{num_bytes / 2**20:,.0f} MiB"
