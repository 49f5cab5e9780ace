"""`ddpm-cars calibrate`: measures a saved model on its training images and writes the result into its folder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import PartialState
from diffusers import DDPMScheduler

from ddpm_cars.config.commands import CalibrateConfig
from ddpm_cars.data.pictures import load_pictures, to_samples
from ddpm_cars.diffusion.calibration import calibrate, fit_init_noise
from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.loading import label_of, load_pipeline, with_model
from ddpm_cars.runs.run_folder import RunFolder, is_checkpoint
from ddpm_cars.runs.saved_pipeline import save_pipeline, training_facts
from ddpm_cars.runs.settings import check_classes, with_pictures_of_run
from ddpm_cars.runtime.files import write_text
from ddpm_cars.runtime.threads import ComputingThreads
from ddpm_cars.sampling.generate import non_finite_in_words
from ddpm_cars.sampling.request import check_image_size, class_names_of
from ddpm_cars.sampling.samplers import make_scheduler
from ddpm_cars.scheduling_ddpm_cars import CALIBRATED_VARIANCES, DDPMCarsScheduler


def calibrate_folder(config: CalibrateConfig) -> str:
    """Measure a saved model, replace its scheduler_config.json, which keeps its class, and return lines for the user.

    A checkpoint stays as it is, because training continues from it; the measured model is written beside checkpoints/.

    Raises UserError if model, images and settings do not fit together or a model output is not finite, and OSError if
    the file cannot be written.
    """
    CalibrateConfig.check_given(config, "calibrate_folder")
    folder, pipeline, beside = with_model(config.pretrained_model_name_or_path, lambda found: _open(config, found))
    pipeline = pipeline.to(PartialState().device)
    saved = pipeline.scheduler
    has_variances = isinstance(saved, DDPMCarsScheduler | DDPMScheduler)
    if config.variance_type is not None and not has_variances:
        raise UserError(
            f"variance_type is {config.variance_type}, and {folder} samples with {type(saved).__name__}, which has no "
            "choice of variances: leave it out here, and draw with ddpm-cars sample --scheduler DDPMCarsScheduler "
            f"--variance_type {config.variance_type}"
        )
    samples, labels = _training_samples(with_pictures_of_run(config, str(folder)), pipeline)
    scheduler = make_scheduler("DDPMCarsScheduler", saved.config)
    options = {k: getattr(config, k) for k in ("num_timesteps", "num_images", "batch_size", "num_bands", "seed")}
    with ComputingThreads(pipeline.device.type), non_finite_in_words("no"):
        calibrate(pipeline.unet, samples, scheduler, **options, class_labels=labels)
    scheduler = make_scheduler("DDPMCarsScheduler", scheduler.config, config.variance_type)
    if config.fit_init_noise:
        fit_init_noise(samples, scheduler)
    if not has_variances:
        # Which sampler a model has is not for a measurement to change.
        measured = ("_calibration", "_init_noise")
        saved.register_to_config(**{name: value for name, value in scheduler.config.items() if name in measured})
        scheduler = saved
    path = RunFolder(folder).scheduler / scheduler.config_name
    if beside is not None:
        pipeline.scheduler = scheduler
        path = beside.save(pipeline)
    else:
        write_text(path, scheduler.to_json_string())
    sampler = scheduler.config.variance_type if has_variances else type(saved).__name__
    line = f"calibrated on {len(samples)} images, samples with {sampler}: {path}"
    if sampler in CALIBRATED_VARIANCES:
        return line
    other = "" if has_variances else "--scheduler DDPMCarsScheduler "
    return f"{line}\nit samples as before; ddpm-cars sample {other}--variance_type analytic uses what was measured"


@dataclass(frozen=True)
class _Beside:
    """Where the measured model of a checkpoint goes, with what its run says, which may delete the checkpoint."""

    files: RunFolder
    settings: dict[str, Any]
    facts: dict[str, Any] | None

    def save(self, pipeline: DDPMCarsPipeline) -> Path:
        """Write the measured model into a folder of its own, and return that."""
        save_pipeline(pipeline.to("cpu"), self.files.path)
        write_text(self.files.settings, yaml.safe_dump(self.settings, sort_keys=False))
        write_text(self.files.facts, json.dumps(self.facts, indent=1))
        return self.files.path


def _open(config: CalibrateConfig, found: str) -> tuple[Path, DDPMCarsPipeline, _Beside | None]:
    """Load a model from a folder; if that is a checkpoint, also return where the measured model goes."""
    files = RunFolder(found)
    if not files.path.is_dir():
        raise UserError(f"pretrained_model_name_or_path {found} is not a folder with a saved pipeline")
    pipeline = load_pipeline(found, **config.loading())
    if not is_checkpoint(files.path):
        return files.path, pipeline, None
    name, run = label_of(found, **config.loading()).rpartition("/")[2], files.run()
    beside = RunFolder((files.path.resolve().parent if run is None else run.path) / f"{name}-calibrated")
    facts = training_facts(files, pipeline, config.weights, config.variant)
    return files.path, pipeline, _Beside(beside, files.read_settings(), facts)


def _training_samples(config: CalibrateConfig, pipeline: DDPMCarsPipeline) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the images that the settings name as the model knows them, and their classes if it has any."""
    size = pipeline.unet.config.sample_size
    if not isinstance(size, int):
        name = config.pretrained_model_name_or_path
        raise UserError(f"{name} draws images of {size}; only squares can be made of the training images")
    check_image_size(pipeline)
    class_names = class_names_of(pipeline)
    label_column = config.label_column if class_names else None
    num_channels, excluded = pipeline.unet.config.in_channels, config.validation_split
    shown = config.at_resolution(size)
    pictures = load_pictures(shown, num_channels, label_column=label_column, excluded_split=excluded)
    check_classes(pictures, class_names)
    labels = None if pictures.labels is None else torch.from_numpy(pictures.labels)
    return to_samples(np.array(pictures.images)), labels
