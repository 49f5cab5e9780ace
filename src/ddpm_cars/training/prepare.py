"""All that a run needs before its first step, checked in the order of what it costs to find out."""

import hashlib
import json
import sys
import uuid
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType, ProjectConfiguration, TorchDynamoPlugin, gather_object
from diffusers import UNet2DModel
from tqdm import tqdm

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.pictures import Pictures, load_pictures
from ddpm_cars.data.row_decoding import first_pictures
from ddpm_cars.data.shards import open_shards
from ddpm_cars.data.stream import ShardStream
from ddpm_cars.errors import RunError, UserError
from ddpm_cars.networks.compiled_layers import replace_layers
from ddpm_cars.networks.seeded_dropout import RowSeeds, seed_dropout
from ddpm_cars.networks.unet import create_unet
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline, compiler_options
from ddpm_cars.runs import saved_pipeline
from ddpm_cars.runtime.folders import FolderLock, prepare_folder
from ddpm_cars.runtime.hardware import cpu_warnings, describe_hardware, keep_freed_memory
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler
from ddpm_cars.training.averages import make_averages
from ddpm_cars.training.batches import BatchMaker, BatchOrder, MemorySource, Source, has_room, rows_of_process
from ddpm_cars.training.memory import step_fits
from ddpm_cars.training.optimizer import _make_optimizer
from ddpm_cars.training.state import NUM_SUMS, TrainState
from ddpm_cars.training.validation import HeldOut


def num_steps(config: TrainingConfig, num_images: int, num_processes: int = 1) -> int:
    """Return how many optimiser steps a run takes: `max_train_steps`, or those that `num_epochs` fill completely."""
    if config.max_train_steps is not None:
        return config.max_train_steps
    steps_per_epoch = num_images // (config.train_batch_size * config.gradient_accumulation_steps * num_processes)
    return config.num_epochs * steps_per_epoch


def make_noise_scheduler(config: TrainingConfig) -> DDPMCarsScheduler:
    """Build the scheduler that training noises with and the saved pipeline samples with."""
    return DDPMCarsScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        scale_betas_for_timesteps=config.scale_betas_for_timesteps,
        rescale_betas_zero_snr=config.rescale_betas_zero_snr,
        prediction_type=config.prediction_type,
        variance_type=config.variance_type,
    )


def _make_accelerator(config: TrainingConfig) -> Accelerator:
    # accelerate would train without a log.
    if config.logger is not None and LoggerType(config.logger) not in get_available_trackers():
        raise UserError(f'logger {config.logger} is not installed: pip install "ddpm-cars[track]"')
    try:
        accelerator = Accelerator(
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            mixed_precision=config.mixed_precision,
            log_with=config.logger,
            project_config=ProjectConfiguration(config.output_dir, logging_dir=str(Path(config.output_dir) / "logs")),
        )
    except ValueError as error:
        raise UserError(f"mixed_precision is {config.mixed_precision}: {error}") from error
    if accelerator.mixed_precision == "fp16" and accelerator.scaler is None:
        raise UserError(
            f"mixed_precision is fp16, which {accelerator.device.type} computes without scaling small gradients up; "
            "use bf16 or no"
        )
    return accelerator


class Setup:
    """What does not change while a run trains, and where its state begins.

    Args:
        config: The run's settings.

    Raises:
        UserError: If the images, the network and the settings do not fit together, or the output folder cannot be
            used.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.output_dir = Path(config.output_dir)
        self.accelerator = _make_accelerator(config)
        self.device = self.accelerator.device
        # Channels-last is what tensor cores read. Group normalisation that is not compiled goes back and forth, and a
        # CPU's convolutions are slower with it.
        channels_last = self.device.type == "cuda" and config.compile
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        keep_freed_memory(self.device)
        self.hardware = describe_hardware(self.device, self.accelerator.num_processes)
        processes, precision = self.accelerator.num_processes, self.accelerator.mixed_precision
        for warning in (*config.warnings(), *cpu_warnings(self.device, processes, precision)):
            self.warn(warning)
        self.lock = FolderLock(self.output_dir)
        self.on_main(self._take_folder)
        try:
            self._prepare()
        except BaseException:
            self.lock.release()
            raise

    def _take_folder(self) -> None:
        prepare_folder(self.output_dir)
        self.lock.acquire()

    def _prepare(self) -> None:
        config, processes = self.config, self.accelerator.num_processes
        # Without memory behind it, only to learn whether the network is possible, and its channels.
        with torch.device("meta"):
            self.num_channels = self._create_unet(None).config.in_channels
        self.global_batch_size = config.train_batch_size * config.gradient_accumulation_steps * processes
        self.batch_size, self.accumulation = config.train_batch_size, config.gradient_accumulation_steps
        self.pictures = None if config.streaming else self._load_pictures()
        self.class_names: tuple[str, ...] = ()
        if config.class_conditional:
            shown = self.pictures or open_shards(config, str(config.split))
            self.class_names = shown.class_names
        self.noise_scheduler = make_noise_scheduler(config)
        self.held_out = self._hold_out()
        torch.manual_seed(config.seed)
        unet = self._create_unet(self._num_classes())
        self.dropout_seeds: RowSeeds = seed_dropout(unet)
        # Also where accelerate compiles what is prepared; not compiled, they are what they replace.
        replace_layers(unet)
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        unet.to(self.device, memory_format=self.memory_format)
        if config.auto_find_batch_size:
            self._find_batch_size(unet)
        rows = rows_of_process(self.accelerator.process_index, processes, self.batch_size, self.accumulation)
        self.source, facts = self._open_source(rows)
        self.draw_batch = BatchMaker(
            config, self.source, rows, self.global_batch_size, self._num_classes(), self.device, self.memory_format
        )
        self.total_steps = num_steps(config, 0 if self.pictures is None else len(self.pictures.images), processes)
        self.captured = self._can_capture()
        optimizer = _make_optimizer(config, unet, self.device, self.captured)
        self.model, self.optimizer = self._prepare_for_accelerator(unet, optimizer)
        unet = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        network = {name: value for name, value in unet.config.items() if not name.startswith("_")}
        network_sha256 = hashlib.sha256(json.dumps(network, sort_keys=True).encode()).hexdigest()
        self.state = TrainState(
            unet,
            self.optimizer.optimizer,
            make_averages(config, unet),
            sums=torch.zeros(NUM_SUMS, dtype=torch.float64, device=self.device),
            facts={**facts, "network": network_sha256[:16], "global batch size": self.global_batch_size},
            total_steps=self.total_steps,
            run_id=uuid.uuid4().hex[:8],
        )

    def _prepare_for_accelerator(self, unet: UNet2DModel, optimizer: torch.optim.Optimizer) -> tuple[Any, Any]:
        if not self.config.compile:
            # It is compiled all the same where accelerate is configured to.
            return self.accelerator.prepare(unet, optimizer)
        # A process has one state for all its accelerators, and the first of them has set it.
        state, options = self.accelerator.state, compiler_options(self.device)
        before = state.dynamo_plugin
        # Batches have one shape.
        state.dynamo_plugin = TorchDynamoPlugin(backend="inductor", dynamic=False, options=options)
        try:
            return self.accelerator.prepare(unet, optimizer)
        finally:
            state.dynamo_plugin = before

    def _can_capture(self) -> bool:
        """Return whether a compiled step may be captured in a graph: nothing in it is decided on the host."""
        accelerator, on_host = self.accelerator, self.config.max_skipped_steps > 0 or self.dropout_seeds.num_layers > 0
        one_gpu = self.device.type == "cuda" and accelerator.num_processes == 1
        return self.config.compile and one_gpu and accelerator.scaler is None and not on_host

    def _create_unet(self, num_classes: int | None) -> UNet2DModel:
        config = self.config
        overrides: dict[str, Any] = {"dropout": config.dropout} if config.dropout else {}
        if num_classes is not None:
            # The label after the last class stands for a hidden one.
            overrides["num_class_embeds"] = num_classes + (config.class_dropout_prob > 0)
        learn_variance = config.variance_type == "learned_range"
        return create_unet(
            config.preset, config.resolution, config.model_config, learn_variance=learn_variance, **overrides
        )

    def _num_classes(self) -> int | None:
        return len(self.class_names) if self.config.class_conditional else None

    def _load_pictures(self) -> Pictures:
        config = self.config

        def load() -> Pictures:
            return load_pictures(
                config,
                self.num_channels,
                label_column=config.label_column if config.class_conditional else None,
                excluded_split=config.validation_split,
                report_path=self.output_dir / "pictures.json" if self.accelerator.is_main_process else None,
                min_images=1 if config.max_train_steps is not None else self.global_batch_size,
            )

        return self._once_per_machine(load)

    def _once_per_machine(self, load: Callable[[], Pictures]) -> Pictures:
        """Load images, of which the first process of a machine decodes and the others read what it has kept."""
        first = self.accelerator.is_local_main_process
        loaded = []
        self.together(lambda: loaded.append(load()), here=first)
        return loaded[0] if first else load()

    def _hold_out(self) -> HeldOut | None:
        config = self.config
        if config.validation_split is None:
            return None
        label_column = config.label_column if config.class_conditional else None
        if config.streaming:
            n = config.num_validation_images
            images, labels = first_pictures(config, self.num_channels, config.validation_split, n)
        else:
            held_out = replace(config, split=config.validation_split, validation_split=None)

            def load() -> Pictures:
                return load_pictures(held_out, self.num_channels, label_column=label_column)

            pictures = self._once_per_machine(load)
            self._warn_of_leaks(pictures)
            images = pictures.images[: config.num_validation_images]
            labels = None if pictures.labels is None else pictures.labels[: config.num_validation_images]
        return HeldOut(images, labels, self.noise_scheduler, config.seed)

    def _warn_of_leaks(self, held_out: Pictures) -> None:
        assert self.pictures is not None
        if self.pictures.class_names != held_out.class_names:
            raise UserError(
                f"validation_split {self.config.validation_split} has the classes {', '.join(held_out.class_names)}, "
                f"and training has {', '.join(self.pictures.class_names)}; they must be the same"
            )
        shared = len(set(held_out.digests.tolist()) & set(self.pictures.digests.tolist()))
        if shared:
            self.warn(f"{shared} images of validation_split are among the training images as well")

    def _open_source(self, rows: list[range]) -> tuple[Source, dict[str, Any]]:
        """Open where batches come from, and say what identifies it."""
        config = self.config
        if self.pictures is not None:
            order = BatchOrder(len(self.pictures.images), self.global_batch_size, config.seed)
            # Where a batch that just fits has been looked for, there is no memory left.
            kept = not config.auto_find_batch_size and has_room(self.device, self.pictures.images.nbytes)
            source = MemorySource(self.pictures, order, rows, self.device if kept else None)
            return source, {"pictures": self.pictures.sha256[:16]}
        stream = ShardStream(config, self.num_channels, self.global_batch_size, rows)
        return stream, {"shards": stream.fingerprint[:16]}

    def _find_batch_size(self, unet: UNet2DModel) -> None:
        """Halve the batch until a step fits into memory; the global batch stays what it is."""

        def fits() -> bool:
            self.dropout_seeds.values = [0] * self.batch_size
            num_averages = len(self.config.ema_half_life_steps) if self.config.use_ema else 0
            return all(gather_object([step_fits(unet, self.batch_size, self.accelerator, num_averages)]))

        while not fits():
            if self.batch_size % 2:
                raise UserError(
                    f"train_batch_size is {self.config.train_batch_size}; not even {self.batch_size} images at a "
                    "time fit into memory, which cannot be halved. Take a smaller network, or gradient_checkpointing"
                )
            self.batch_size, self.accumulation = self.batch_size // 2, self.accumulation * 2
            self.say(
                f"memory is short: {self.batch_size} images at a time, {self.accumulation} times per step; "
                "the run stays the same"
            )
        self.accelerator.gradient_accumulation_steps = self.accumulation

    def pipeline(self, weights: dict[str, torch.Tensor]) -> DDPMCarsPipeline:
        """Return a pipeline around a copy of the weights that `TrainState.weights` gives."""
        return saved_pipeline.make_pipeline(
            self.state.unet.config, weights, self.noise_scheduler, self.class_names, self.device
        )

    def start_trackers(self) -> None:
        """Open the tracker, or go on in the run that it knows, without the records that are to come again."""
        if self.config.logger is None:
            return
        settings = {k: v if isinstance(v, int | float | str) else str(v) for k, v in asdict(self.config).items()}
        run_id = self.state.run_id
        known = {
            "tensorboard": {"purge_step": self.state.step + 1},
            "wandb": {"id": run_id, "resume": "allow"},
            "trackio": {"name": run_id, "resume": "allow"},
        }
        self.accelerator.init_trackers("ddpm_cars", config=settings, init_kwargs=known)

    def close(self) -> None:
        """Let go of threads, trackers, the other processes and the folder."""
        self.source.close()
        # The wrapper around the network holds on to the connections between processes, which must not outlive them.
        self.model = self.state.unet
        self.accelerator.free_memory()
        self.accelerator.end_training()
        self.lock.release()

    def say(self, text: str) -> None:
        """Print lines once, without disturbing a progress bar."""
        if self.accelerator.is_main_process:
            tqdm.write(text, file=sys.stdout)

    def warn(self, text: str) -> None:
        """Print a warning once, in one line, without disturbing a progress bar."""
        if self.accelerator.is_main_process:
            tqdm.write(f"warning: {text}", file=sys.stderr)

    def together(self, work: Callable[[], Any], here: bool) -> None:
        """Do work on some processes while the others wait; what it raises there, all of them raise."""
        error = None
        if here:
            try:
                work()
            except (UserError, RunError, OSError) as raised:
                error = raised
        errors = [e for e in gather_object([error]) if e is not None]
        if errors:
            raise errors[0]

    def on_main(self, work: Callable[[], Any]) -> None:
        """Do work on the main process while the others wait; what it raises, all of them raise."""
        self.together(work, self.accelerator.is_main_process)
