"""`ddpm-cars sample`: images from all processes that Accelerate has started, each drawn and written once.

The folder says what has been drawn: the same command goes on with the images that are missing.
"""

import logging
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_choice_from_env, parse_flag_from_env
from PIL import Image
from tqdm import tqdm

from ddpm_cars.config.commands import SampleConfig
from ddpm_cars.errors import UserError
from ddpm_cars.figures.grids import make_grid, save_png
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.fingerprint import identity
from ddpm_cars.runs.load import load_pipeline
from ddpm_cars.runtime.files import read_file
from ddpm_cars.runtime.folders import FolderLock, prepare_folder, refuse_inside
from ddpm_cars.runtime.hardware import cpu_warnings
from ddpm_cars.runtime.processes import together
from ddpm_cars.sampling.classes import as_class_ids, check_learned_variance
from ddpm_cars.sampling.generate import generate, move_for_inference
from ddpm_cars.sampling.picture_folder import (
    _GRID,
    _PICTURE,
    _STRIP,
    _names_in,
    open_folder,
    picture_path,
    unfinished_batches,
)
from ddpm_cars.sampling.samplers import make_scheduler
from ddpm_cars.sampling.strips import denoising_strip

logger = logging.getLogger(__name__)

_NUM_GRID_IMAGES = 64

_DTYPES = {"no": None, "fp16": torch.float16, "bf16": torch.bfloat16}


def batch_size_for(config: SampleConfig, num_processes: int) -> int:
    """Return how many images are drawn at a time: no more than leave some for each of the processes, 1 or more."""
    return min(config.batch_size, -(-config.num_images // num_processes))


def precision_of(config: SampleConfig) -> str:
    """Return the precision that the network is to run in: "no" (as it is loaded), "fp16" or "bf16".

    Raises:
        UserError: If accelerate was configured with one that it cannot be drawn in.
    """
    precision = config.mixed_precision or parse_choice_from_env("ACCELERATE_MIXED_PRECISION", "no")
    if precision not in _DTYPES:
        raise UserError(
            f"mixed_precision is {precision}, which accelerate was configured with; pass --mixed_precision with one "
            f"of {', '.join(_DTYPES)}"
        )
    return precision


def settings_of(pipeline: DDPMCarsPipeline, config: SampleConfig, class_labels: list[int] | None) -> dict[str, Any]:
    """Return all that the images depend on but their number, as JSON values.

    Args:
        pipeline: The model in the precision that it is loaded in, with the scheduler to draw with.
        config: The settings of the command.
        class_labels: The classes of the command, as numbers.
    """
    scheduler = pipeline.scheduler
    return {
        "model": config.pretrained_model_name_or_path,
        **identity(pipeline),
        "scheduler": type(scheduler).__name__,
        "variance_type": scheduler.config.get("variance_type"),
        "seed": config.seed,
        "num_inference_steps": config.num_inference_steps or scheduler.config.num_train_timesteps,
        "class_labels": class_labels,
        "guidance_scale": config.guidance_scale,
        "mixed_precision": precision_of(config),
    }


class Sampling:
    """The images of one command, in as many processes as Accelerate has started.

    Args:
        config: What to draw.
        state: Knows the processes, each of which makes the same calls in the same order.
        lock: Of the output folder; the main process takes it, and who has made it gives it back.

    Raises:
        UserError: If the model and the settings do not fit together, or the folder cannot be used.
    """

    def __init__(self, config: SampleConfig, state: PartialState, lock: FolderLock):
        self.config = config
        self.state = state
        self.lock = lock
        self.folder = Path(config.output_dir)
        self.batch_size = batch_size_for(config, state.num_processes)
        together(self._load)
        self.found: set[int] = together(self._open)[0]
        # After the folder, whose settings name the weights as they are loaded.
        self._place()

    def _load(self) -> None:
        config = self.config
        self.pipeline = load_pipeline(config.pretrained_model_name_or_path)
        run = read_file(Path(config.pretrained_model_name_or_path) / "config.yaml") or {}
        refuse_inside(config.output_dir, run.get("train_data_dir"))
        if config.scheduler is not None or config.variance_type is not None:
            name = config.scheduler or "DDPMCarsScheduler"
            self.pipeline.scheduler = make_scheduler(name, self.pipeline.scheduler.config, config.variance_type)
        check_learned_variance(self.pipeline)
        T = self.pipeline.scheduler.config.num_train_timesteps
        if config.num_inference_steps is not None and config.num_inference_steps > T:
            raise UserError(f"num_inference_steps is {config.num_inference_steps}; this model was trained with {T}")
        try:
            self.pipeline.scheduler.set_timesteps(config.num_inference_steps or T)
        except ValueError as error:
            raise UserError(f"{config.pretrained_model_name_or_path}: {error}") from error
        self.drawing: dict[str, Any] = {
            "seed": config.seed,
            "num_inference_steps": config.num_inference_steps,
            "class_labels": as_class_ids(self.pipeline, config.class_labels, config.guidance_scale),
            "guidance_scale": config.guidance_scale,
        }
        # Its own bar counts the steps of one batch; None shows it on terminals only.
        shown = {"disable": None if self.state.is_main_process else True}
        self.pipeline.set_progress_bar_config(desc="denoising", leave=False, position=1, **shown)

    def _open(self) -> set[int] | None:
        if not self.state.is_main_process:
            return None
        prepare_folder(self.folder)
        self.lock.acquire()
        settings = settings_of(self.pipeline, self.config, self.drawing["class_labels"])
        return open_folder(self.folder, settings, self.config.overwrite_output_dir)

    def _place(self) -> None:
        move_for_inference(self.pipeline, self.state.device)
        dtype = _DTYPES[precision_of(self.config)]
        if dtype is not None:
            # The method of the network itself warns of modules that want to stay in float32, though there are none.
            torch.nn.Module.to(self.pipeline.unet, dtype)
        if self.config.compile:
            self.pipeline.enable_fast_sampling(max_batch_size=self.batch_size)

    def draw(self) -> None:
        """Draw and write the images that are missing."""
        num_images, processes = self.config.num_images, self.state.num_processes
        batches = unfinished_batches(self.found, num_images, self.batch_size, whole=self.config.compile)
        num_there = sum(i < num_images for i in self.found)
        hidden = not (self.state.is_main_process and batches)
        with tqdm(total=num_images, initial=num_there, desc="pictures", disable=hidden) as bar:
            # In step: a process that is far ahead would wait at the end for longer than processes wait for each other.
            for start in range(0, len(batches), processes):
                mine = batches[start : start + processes][self.state.process_index :][:1]
                bar.update(sum(together(partial(self._draw, mine))))

    def _draw(self, batches: list[range]) -> int:
        num_written = 0
        for batch in batches:
            size = len(batch)
            images = generate(self.pipeline, size, size, first_image=batch.start, **self.drawing)
            for i, image in zip(batch, images, strict=True):
                if i < self.config.num_images and i not in self.found:
                    save_png(image, picture_path(self.folder, i))
                    num_written += 1
        return num_written

    def show(self) -> list[str]:
        """Write the grid of the first images and, if it is asked for, the strip; say where everything is."""
        num_pictures = sum(_PICTURE.fullmatch(name) is not None for name in _names_in(self.folder))
        first = range(min(_NUM_GRID_IMAGES, self.config.num_images))
        grid = make_grid([_read(picture_path(self.folder, i)) for i in first])
        lines = [f"images: {num_pictures} in {self.folder}", f"grid: {save_png(grid, self.folder / _GRID)}"]
        if self.config.strip:
            # It has a batch size of its own, which would be compiled for these few images alone.
            self.pipeline.disable_fast_sampling()
            strip = denoising_strip(self.pipeline, min(4, self.config.num_images), **self.drawing)
            lines.append(f"denoising: {save_png(strip, self.folder / _STRIP)}")
        return lines


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.copy()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            # Of the disk, not of the image.
            raise
        # On damaged files Pillow's readers raise whatever their parsing runs into.
        raise UserError(f"{path} is not a whole image; delete it and run the same command again") from error


def sample(config: SampleConfig) -> list[str]:
    """Draw the images that are missing from a folder, which depend neither on batches nor on processes.

    That is up to rounding, which depends on how many are drawn at a time.

    Args:
        config: What to draw.

    Returns:
        Lines that say what is where; none on processes but the main one.

    Raises:
        UserError: If the model and the settings do not fit together, or the folder cannot be used, or an image of
            the grid is damaged.
        OSError: If an image cannot be written.
    """
    precision = precision_of(config)
    # Processes without an accelerator would each take themselves for the only one.
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    state, lock = PartialState(cpu=on_cpu), FolderLock(Path(config.output_dir))
    for warning in cpu_warnings(state.device, state.num_processes, precision):
        logger.warning(warning)
    with ExitStack() as stack:
        stack.callback(lock.release)
        stack.callback(state.destroy_process_group)
        sampling = Sampling(config, state, lock)
        sampling.draw()
        # What is left is the work of one process, for which the others need not wait.
        state.destroy_process_group()
        return sampling.show() if state.is_main_process else []
