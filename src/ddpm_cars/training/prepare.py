"""Getting a run ready: all that it needs before its state, checked in the order of what it costs to find out."""

from collections.abc import Callable
from dataclasses import replace

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration

from ddpm_cars.config.fields import AUTO
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.decoding import image_mode
from ddpm_cars.data.pictures import Pictures, load_pictures
from ddpm_cars.data.row_decoding import first_images
from ddpm_cars.data.shards import open_shards
from ddpm_cars.errors import UserError, missing_packages
from ddpm_cars.networks.model_config import read_model_config
from ddpm_cars.runs.checkpoints import newest_values
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.console import warn
from ddpm_cars.runtime.folders import FolderLock, refuse_inside
from ddpm_cars.runtime.hardware import cpu_warnings, device_name, keep_freed_memory
from ddpm_cars.runtime.processes import connect, on_main, together
from ddpm_cars.sampling.samplers import check_sampler
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler
from ddpm_cars.training.choices import (
    choose_as_before,
    choose_for_device,
    choose_for_length,
    left_to_the_machine,
)
from ddpm_cars.training.network import create_network, split_until_it_fits, try_network
from ddpm_cars.training.optimizer import make_learning_rate
from ddpm_cars.training.run import Run
from ddpm_cars.training.validation import HeldOut


def prepare(config: TrainingConfig) -> Run:
    """Take the output folder, load the images and return the run, whose folder stays locked.

    Raises UserError if images, network and settings do not fit together, or the output folder cannot be used.
    """
    refuse_inside(config.output_dir, config.train_data_dir)
    folder = RunFolder(config.output_dir)
    chosen = _choose_before_images(config, folder)
    accelerator = make_accelerator(chosen)
    keep_freed_memory(accelerator.device)
    slow = cpu_warnings(accelerator.device, accelerator.num_processes, accelerator.mixed_precision)
    for warning in (*config.warnings(), *slow):
        warn(warning)
    lock = FolderLock(folder.path)
    on_main(lock.acquire)
    try:
        return _prepare(config, chosen, folder, accelerator, lock)
    except BaseException:
        lock.release()
        raise


def _choose_before_images(config: TrainingConfig, folder: RunFolder) -> TrainingConfig:
    """Choose what does not depend on the images, as before where a run is continued."""
    processes = connect()
    before = None if config.overwrite_output_dir else newest_values(folder.checkpoints)
    if before is not None:
        config = choose_as_before(config, before, processes.device, processes.num_processes)
    return choose_for_device(config, processes.device)


def _prepare(
    given: TrainingConfig, config: TrainingConfig, folder: RunFolder, accelerator: Accelerator, lock: FolderLock
) -> Run:
    device, num_processes = accelerator.device, accelerator.num_processes
    num_channels = _network_channels(config)
    images = None if config.streaming else _load_training_images(config, accelerator, num_channels)
    class_names: tuple[str, ...] = ()
    if config.class_conditional:
        class_names = (images or open_shards(config, str(config.split))).class_names
    noise_scheduler = make_noise_scheduler(config)
    held_out = None
    if config.validation_split is not None:
        shown, labels = _load_held_out_images(config, accelerator, num_channels, images)
        held_out = HeldOut(shown, labels, noise_scheduler, config.seed)
    num_images = None if images is None else len(images.images)
    config = choose_for_length(config, device, num_images, num_processes)
    assert config.max_train_steps is not None
    check_sampler(noise_scheduler, config.num_inference_steps or config.num_train_timesteps)
    # Tensor cores read channels-last. Group normalisation that is not compiled goes back and forth between the two
    # orders, and a CPU's convolutions are slower with channels last.
    channels_last = device.type == "cuda" and config.compile
    run = Run(
        config=config,
        chosen=left_to_the_machine(given),
        folder=folder,
        lock=lock,
        accelerator=accelerator,
        hardware={
            "device": device_name(device),
            "num_processes": num_processes,
            "mixed_precision": accelerator.mixed_precision,
        },
        memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        num_channels=num_channels,
        images=images,
        class_names=class_names,
        noise_scheduler=noise_scheduler,
        held_out=held_out,
        batch_size=config.train_batch_size,
        accumulation=config.gradient_accumulation_steps,
        total_steps=config.max_train_steps,
        learning_rate=make_learning_rate(config, config.max_train_steps),
    )
    # One process may be short of memory, or have another device.
    run = replace(run, activation_bytes_per_image=together(lambda: try_network(run))[0])
    # A CPU's memory is seldom what is short, and a batch of its size is small.
    may_be_large = given.train_batch_size == AUTO and device.type != "cpu"
    return split_until_it_fits(run) if config.auto_find_batch_size or may_be_large else run


def _network_channels(config: TrainingConfig) -> int:
    """Return the channels of the images that the network takes, which is tried on torch's device meta.

    That takes no memory, so that a network that cannot be trained is told before images are decoded.
    """
    with torch.device("meta"):
        unet = create_network(config, None)
    num_channels = unet.config.in_channels
    if config.model_config is not None and read_model_config(config.model_config)[1].keys() <= {"sample_size"}:
        millions = sum(p.numel() for p in unet.parameters()) / 1e6
        warn(
            f"model_config {config.model_config} sets nothing, so the network has the defaults of diffusers: "
            f"{millions:.0f} million parameters"
        )
    try:
        image_mode(num_channels)
    except UserError as error:
        raise UserError(f"model_config {config.model_config} has in_channels {num_channels}: {error}") from error
    return num_channels


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """Make the accelerator of a run: its device, precision, processes and tracker.

    Raises UserError if the tracker is not installed, or the device does not have the precision.
    """
    # accelerate would train without a log.
    if config.logger is not None and LoggerType(config.logger) not in get_available_trackers():
        raise missing_packages(f"logger {config.logger}", config.logger)
    try:
        accelerator = Accelerator(
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            mixed_precision=config.mixed_precision,
            log_with=config.logger,
            project_config=ProjectConfiguration(config.output_dir, logging_dir=str(RunFolder(config.output_dir).logs)),
        )
    except ValueError as error:
        raise UserError(f"mixed_precision is {config.mixed_precision}: {error}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:
        raise UserError(
            f"mixed_precision is fp16, which {accelerator.device.type} computes without scaling small gradients up; "
            "use bf16 or no"
        )
    return accelerator


def make_noise_scheduler(config: TrainingConfig) -> DDPMCarsScheduler:
    """Make the scheduler that training noises with and the saved pipeline samples with."""
    return DDPMCarsScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        trained_betas=None if config.trained_betas is None else list(config.trained_betas),
        scale_betas_for_timesteps=config.scale_betas_for_timesteps,
        rescale_betas_zero_snr=config.rescale_betas_zero_snr,
        prediction_type=config.prediction_type,
        variance_type=config.variance_type,
    )


def _load_training_images(config: TrainingConfig, accelerator: Accelerator, num_channels: int) -> Pictures:
    def load() -> Pictures:
        return load_pictures(
            config,
            num_channels,
            label_column=config.label_column if config.class_conditional else None,
            excluded_split=config.validation_split,
        )

    return _once_per_machine(accelerator, load)


def _load_held_out_images(
    config: TrainingConfig, accelerator: Accelerator, num_channels: int, training_images: Pictures | None
) -> tuple:
    """Return the first images of the held-out split, uint8 (number, H, W, C), and their labels or None."""
    n = config.num_validation_images
    if training_images is None:
        return first_images(config, num_channels, str(config.validation_split), n)
    of_split = replace(config, split=config.validation_split, validation_split=None)
    column = config.label_column if config.class_conditional else None
    images = _once_per_machine(accelerator, lambda: load_pictures(of_split, num_channels, label_column=column))
    if training_images.class_names != images.class_names:
        raise UserError(
            f"validation_split {config.validation_split} has the classes {', '.join(images.class_names)}, "
            f"and training has {', '.join(training_images.class_names)}; they must be the same"
        )
    shared = len(set(images.digests.tolist()) & set(training_images.digests.tolist()))
    if shared:
        warn(f"{shared} images of validation_split are among the training images as well")
    return images.images[:n], None if images.labels is None else images.labels[:n]


def _once_per_machine(accelerator: Accelerator, load: Callable[[], Pictures]) -> Pictures:
    """Load images, which the first process of a machine decodes and the others read from what it has kept."""
    first, loaded = accelerator.is_local_main_process, []
    # Too large to be sent to the other processes.
    together(lambda: loaded.append(load()), here=first)
    return loaded[0] if first else load()
