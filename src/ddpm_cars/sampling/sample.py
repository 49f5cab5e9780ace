"""`ddpm-cars sample`: images from all processes that Accelerate has started, each drawn and written once.

The folder says what has been drawn: the same command continues with the images that are missing.
"""

import json
import logging
import os
import re
from contextlib import ExitStack
from dataclasses import MISSING, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from PIL import Image

from ddpm_cars.config.commands import SampleConfig
from ddpm_cars.config.fields import AUTO
from ddpm_cars.errors import UserError
from ddpm_cars.figures.grids import make_grid, save_png
from ddpm_cars.pipeline_ddpm_cars import NonFiniteError
from ddpm_cars.runs.loading import load_pipeline, with_model
from ddpm_cars.runs.run_folder import DENOISING, RunFolder
from ddpm_cars.runs.saved_pipeline import identity
from ddpm_cars.runtime.console import note, progress, progress_style
from ddpm_cars.runtime.files import write_text
from ddpm_cars.runtime.folders import FolderLock, refuse_inside
from ddpm_cars.runtime.hardware import cpu_warnings, default_precision, describe_computing
from ddpm_cars.runtime.processes import connect, on_main, together
from ddpm_cars.runtime.threads import ComputingThreads
from ddpm_cars.sampling.generate import DTYPES, denoising_strip, generate, move_for_inference, non_finite_in_words
from ddpm_cars.sampling.request import SamplingRequest

logger = logging.getLogger(__name__)

_NUM_GRID_IMAGES = 64
_SETTINGS = "sampling.json"
GRID_NAME = "grid.png"
# The settings of folders of earlier versions, which do not name them.
_UNSAID = {f.name: f.default for f in fields(SamplingRequest) if f.default is not MISSING} | {"mixed_precision": "no"}
_PICTURE = re.compile(r"(\d{5}|[1-9]\d{5,})\.png")
# A process that was killed leaves this of an image that it was writing.
_LEFTOVER = re.compile(rf"\.{_PICTURE.pattern}\.tmp")
_CURE = "choose another output_dir, or pass --overwrite_output_dir to start again"


def precision_of(config: SampleConfig, device: torch.device) -> str:
    """Return the network's precision, "no" (as loaded), "fp16" or "bf16". Raises UserError if it is another one.

    Where the settings leave it open, it is that of the images which are there already, so that the same command goes
    on with them on any device.
    """
    precision: str | None = config.mixed_precision
    if precision in (None, AUTO):
        known = {} if config.overwrite_output_dir else _known_settings(Path(config.output_dir) / _SETTINGS)
        precision = known.get("mixed_precision") or default_precision(device)
    if precision not in DTYPES:
        raise UserError(
            f"mixed_precision is {precision}, which accelerate was configured with; pass --mixed_precision with one "
            f"of {', '.join(DTYPES)}"
        )
    return precision


def request_of(config: SampleConfig, num_train_timesteps: int, num_processes: int) -> SamplingRequest:
    """Return what the settings of the command ask for, unchecked; where it can be, no process is left idle."""
    asked: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(SamplingRequest)}
    asked["batch_size"] = min(config.batch_size, -(-config.num_images // num_processes))
    asked["num_inference_steps"] = config.num_inference_steps or num_train_timesteps
    if config.class_labels is not None:
        # A number that was read from a file may be the name of a class, as one from the command line may.
        asked["class_labels"] = [str(label) for label in config.class_labels]
    return SamplingRequest(**asked)


def picture_path(folder: Path, i: int) -> Path:
    """Return the path of image i: 00000.png, ... , 99999.png, 100000.png, ..."""
    return folder / f"{i:05d}.png"


def unfinished_batches(found: set[int], num_images: int, batch_size: int, whole: bool = False) -> list[range]:
    """Return the batches of which an image is not among the found ones.

    The batches do not depend on what is there, so an image is drawn with the same others before and after a break.
    With `whole`, the last one is filled up with images that nobody wants, for a network compiled for one shape.
    """
    every = [range(start, start + batch_size) for start in range(0, num_images, batch_size)]
    wanted = [range(batch.start, min(batch.stop, num_images)) for batch in every]
    pairs = zip(every, wanted, strict=True)
    return [batch if whole else part for batch, part in pairs if not found.issuperset(part)]


def open_folder(folder: Path, settings: dict[str, Any], overwrite: bool = False) -> set[int]:
    """Make a folder ready for more images, and return the numbers of those in it; an empty file does not count.

    With `overwrite`, images that lie there with a sampling.json are deleted, whatever their settings (JSON values).
    Raises UserError if the images there have other settings, or no sampling.json and may be anybody's.
    """
    path = folder / _SETTINGS
    names = _names_in(folder)
    pictures = {name for name in names if _PICTURE.fullmatch(name)}
    if overwrite and path.exists():
        # The settings come last: until then they are true of the images that are left.
        for name in (*pictures, GRID_NAME, DENOISING, _SETTINGS):
            (folder / name).unlink(missing_ok=True)
        pictures = set()
    elif path.exists():
        _check_same(path, settings)
    elif pictures:
        # Photographs of others may have such names.
        raise UserError(
            f"output_dir {folder} has images such as {min(pictures)}, but no {_SETTINGS}; choose another output_dir"
        )
    for name in names:
        if _LEFTOVER.fullmatch(name):
            (folder / name).unlink()
    if not path.exists():
        write_text(path, json.dumps(settings, indent=1) + "\n")
    return {int(name.removesuffix(".png")) for name in pictures if (folder / name).stat().st_size > 0}


def count_images(folder: Path) -> int:
    """Return the number of images in a folder."""
    return sum(_PICTURE.fullmatch(name) is not None for name in _names_in(folder))


def _names_in(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _known_settings(path: Path) -> dict[str, Any]:
    """Return the settings of the images in a folder, none if there is no such file."""
    try:
        return _UNSAID | dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); {_CURE}") from error


def _check_same(path: Path, settings: dict[str, Any]) -> None:
    known = _known_settings(path)
    changed = [name for name, value in settings.items() if known.get(name) != value]
    # A model that has only moved is the same.
    if changed and changed != ["model"]:
        said = {
            "weights_sha256": "weights of the model that have changed since",
            "scheduler_config_sha256": "a scheduler_config.json of the model that has changed since",
        }
        listed = ", ".join(said.get(name, f"{name} {known.get(name)} (now {settings[name]})") for name in changed)
        raise UserError(f"{path} belongs to images with {listed}; go back to that, {_CURE}")


class Sampling:
    """The images of one command, in as many processes as Accelerate has started; all make the same calls in one order.

    The main process takes the lock of the output folder, and whoever has made the lock releases it.
    Raises UserError if the model and the settings do not fit together, or the folder cannot be used.
    """

    def __init__(self, config: SampleConfig, state: PartialState, lock: FolderLock, mixed_precision: str):
        self.config = config
        self.mixed_precision = mixed_precision
        self.state = state
        self.lock = lock
        self.folder = Path(config.output_dir)
        together(self._load)
        self.found: set[int] = together(self._open)[0]
        # The folder names the weights as they are loaded, so they are moved and cast after it is open.
        move_for_inference(self.pipeline, state.device, mixed_precision)
        if config.compile:
            self.pipeline.enable_fast_sampling(max_batch_size=self.request.batch_size)

    def _load(self) -> None:
        config = self.config
        self.pipeline = load_pipeline(config.pretrained_model_name_or_path, **config.loading())
        run = RunFolder(config.pretrained_model_name_or_path).read_settings()
        refuse_inside(config.output_dir, run.get("train_data_dir"))
        request = request_of(config, self.pipeline.scheduler.config.num_train_timesteps, self.state.num_processes)
        self.pipeline.scheduler = request.sampler(self.pipeline.scheduler)
        self.request = request.checked(self.pipeline)
        # This bar counts the steps of one batch.
        settings = {"desc": "denoising", "leave": False, "position": 1, "disable": not self.state.is_main_process}
        self.pipeline.set_progress_bar_config(**progress_style(), **settings)

    def _open(self) -> set[int] | None:
        if not self.state.is_main_process:
            return None
        self.lock.acquire()
        scheduler, request = self.pipeline.scheduler, self.request
        asked = {
            f.name: getattr(request, f.name) for f in fields(request) if f.name not in ("num_images", "batch_size")
        }
        settings = {  # All that the images depend on but their number.
            "model": ", ".join([self.config.pretrained_model_name_or_path, *_said(self.config.loading())]),
            **identity(self.pipeline),
            **asked,
            "scheduler": type(scheduler).__name__,
            "variance_type": scheduler.config.get("variance_type"),
            "class_labels": None if request.class_labels is None else list(request.class_labels),
            "mixed_precision": self.mixed_precision,
        }
        return open_folder(self.folder, settings, self.config.overwrite_output_dir)

    def draw(self) -> None:
        """Draw and write the images that are missing."""
        num_images, processes = self.config.num_images, self.state.num_processes
        batches = unfinished_batches(self.found, num_images, self.request.batch_size, whole=self.config.compile)
        num_there = sum(i < num_images for i in self.found)
        hidden = not (self.state.is_main_process and batches)
        with progress(total=num_images, initial=num_there, desc="sampling", unit="image", disable=hidden) as bar:
            # Processes draw in step, because one that is far ahead at the end may wait for longer than the time limit.
            for start in range(0, len(batches), processes):
                mine = batches[start : start + processes][self.state.process_index :][:1]
                try:
                    bar.update(sum(together(partial(self._draw, mine))))
                except NonFiniteError:
                    self._forget_settings_without_images()
                    raise

    def _forget_settings_without_images(self) -> None:
        """Let the same folder be used with what cures a network that has drawn nothing."""
        if self.state.is_main_process and not count_images(self.folder):
            (self.folder / _SETTINGS).unlink(missing_ok=True)

    def _draw(self, batches: list[range]) -> int:
        num_written = 0
        for batch in batches:
            for i, image in zip(batch, generate(self.pipeline, self.request, batch), strict=True):
                if i < self.config.num_images and i not in self.found:
                    save_png(image, picture_path(self.folder, i))
                    num_written += 1
        return num_written

    def show(self) -> list[str]:
        """Write the grid of the first images and the strip, if asked for, and return lines that say where all is."""
        first = range(min(_NUM_GRID_IMAGES, self.config.num_images))
        grid = make_grid([_read(picture_path(self.folder, i)) for i in first])
        where = save_png(grid, self.folder / GRID_NAME)
        lines = [f"images: {count_images(self.folder)} in {self.folder}", f"grid: {where}"]
        if self.config.strip:
            # The strip has a batch size of its own, for which the network would be compiled again.
            self.pipeline.disable_fast_sampling()
            strip = denoising_strip(self.pipeline, self.request)
            lines.append(f"denoising: {save_png(strip, self.folder / DENOISING)}")
        return lines


def _said(values: dict[str, str | None]) -> list[str]:
    return [f"{name} {value}" for name, value in values.items() if value is not None]


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.copy()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            # The disk is at fault, not the image.
            raise
        # On damaged files Pillow's readers raise whatever their parsing runs into.
        raise UserError(f"{path} is not a whole image; delete it and run the same command again") from error


def sample(config: SampleConfig) -> list[str]:
    """Draw the images that are missing from a folder.

    They depend neither on batches nor on processes, up to rounding, which depends on how many are drawn at a time.

    Args:
        config: What to draw.

    Returns:
        Lines that say what is where; none on processes but the main one.

    Raises:
        UserError: If the model and the settings do not fit together, or the folder cannot be used, or an image of
            the grid is damaged, or what is sampled is not finite.
        OSError: If an image cannot be written.
    """
    SampleConfig.check_given(config, "sample")
    state, lock = connect(), FolderLock(Path(config.output_dir))
    with ExitStack() as stack:
        stack.callback(lock.release)
        stack.callback(state.destroy_process_group)
        precision = on_main(lambda: precision_of(config, state.device))
        for warning in cpu_warnings(state.device, state.num_processes, precision):
            logger.warning(warning)

        def open_model(found: str) -> Sampling:
            return Sampling(replace(config, pretrained_model_name_or_path=found), state, lock, precision)

        sampling = with_model(config.pretrained_model_name_or_path, open_model)
        note(describe_computing(state.device, precision))
        stack.enter_context(ComputingThreads(state.device.type))
        stack.enter_context(non_finite_in_words(precision))
        sampling.draw()
        # The rest is work of one process, and the others need not wait for it.
        state.destroy_process_group()
        return sampling.show() if state.is_main_process else []
