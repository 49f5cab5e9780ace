"""How good a model is: the likelihood of unseen images, the distance of generated ones from real ones, and copies.

Every measurement goes to metrics.json as soon as it is made, and the same command goes on where it was interrupted.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.data.pictures import Pictures, to_samples
from ddpm_cars.diffusion.calibration import calibrate
from ddpm_cars.errors import UserError
from ddpm_cars.evaluation.features import load_extractor
from ddpm_cars.evaluation.likelihood import bounds_to_measure, key_of, measure_bounds
from ddpm_cars.evaluation.metrics_file import MetricsFile, describe
from ddpm_cars.evaluation.places import comparison_folder, find_place, is_standard, with_precision
from ddpm_cars.evaluation.real_images import compared_pixels, features_path, load_real_images, mirrored
from ddpm_cars.metrics.neighbours import look_for_copies
from ddpm_cars.metrics.records import Comparison, Reference, measure
from ddpm_cars.reports.text import summary
from ddpm_cars.reports.write import has_images, save_comparison, save_images, save_report
from ddpm_cars.runs.loading import evaluation_of, find_model, load_pipeline
from ddpm_cars.runs.run_folder import EvaluationFolder, RunFolder
from ddpm_cars.runs.settings import check_held_out, with_pictures_of_run
from ddpm_cars.runtime.console import count, note, progress, warn
from ddpm_cars.runtime.files import atomic_path, rounded
from ddpm_cars.runtime.folders import FolderLock, prepare_folder
from ddpm_cars.runtime.hardware import cpu_warnings, describe_computing
from ddpm_cars.runtime.processes import connect, gathered, on_main
from ddpm_cars.runtime.threads import ComputingThreads
from ddpm_cars.sampling.generate import denoising_strip, generate, move_for_inference, non_finite_in_words
from ddpm_cars.sampling.request import SamplingRequest, check_image_size, class_names_of
from ddpm_cars.sampling.samplers import check_sampler, sampler_from_config
from ddpm_cars.scheduling_ddpm_cars import CALIBRATED_VARIANCES, DDPMCarsScheduler

_NUM_CALIBRATION_IMAGES = 2048


class Evaluation:
    """One model and the images that it is measured with, in as many processes as Accelerate has started.

    `name` is the model's folder, or its id on the Hub. The training images are those of the model in the folder `run`
    if `config` names none. Raises UserError if model, images, extractor and settings do not fit together.

    Attributes:
        folder: Where the evaluation is written, in a block of `opened`.
        metrics: What is known of it, in such a block.
    """

    folder: EvaluationFolder
    metrics: MetricsFile

    def __init__(self, accelerator: Accelerator, config: EvaluateConfig, name: str, run: str):
        self.name = name
        self.is_main = accelerator.is_main_process
        self.pipeline = load_pipeline(name, **config.loading())
        # After the model: a mistyped folder has no config.yaml either.
        self.config = config = with_pictures_of_run(config, run)
        self.saved_config = self.pipeline.scheduler.config
        self._check_settings()
        unet = self.pipeline.unet
        class_names = class_names_of(self.pipeline)
        with accelerator.local_main_process_first():
            self.real = load_real_images(config, unet.config.sample_size, unet.config.in_channels, class_names)
        check_held_out(config, name)
        self.extractor = load_extractor(config.extractor, config.extractor_weights, accelerator.device)
        self.described = describe(name, self.pipeline, config, self.real, self.extractor)
        move_for_inference(self.pipeline, accelerator.device)
        self.pipeline.unet = accelerator.prepare_model(unet.eval(), evaluation_mode=True)
        self.pipeline.set_progress_bar_config(disable=True)

    def _check_settings(self) -> None:
        config, T = self.config, self.saved_config.num_train_timesteps
        size = self.pipeline.unet.config.sample_size
        if not isinstance(size, int):
            raise UserError(f"{self.name} generates images of size {size}; evaluation needs square ones")
        check_image_size(self.pipeline)
        for name, values in (("steps", config.steps or ()), ("likelihood_steps", config.likelihood_steps or ())):
            if any(value > T for value in values):
                raise UserError(f"{name} is {max(values)}; {self.name} was trained with {T} timesteps")
        self.num_inference_steps = min(config.num_inference_steps or T, T)
        check_sampler(self.pipeline.scheduler, self.num_inference_steps)
        asked = [(name, steps) for steps in config.steps or () for name in config.schedulers]
        self.samplers = [pair for pair in asked if self._is_able(*pair)]

    def _is_able(self, name: str, steps: int) -> bool:
        """Return whether a sampler can draw from the model. Raises UserError if one asked for by name cannot."""
        # Schedulers that need a calibration are built when there is one.
        kind = "fixed_small" if name in CALIBRATED_VARIANCES else name
        try:
            check_sampler(sampler_from_config(kind, self.saved_config), steps)
        except UserError as error:
            if self.config.schedulers != EvaluateConfig.schedulers:
                raise
            warn(f"{name} with {count(steps, 'step')} is left out: {error}")
            return False
        return True

    @contextmanager
    def opened(self, base: EvaluationFolder, *, is_fixed: bool, is_standard: bool) -> Iterator[None]:
        """Keep the folder that `find_place` chooses for the block, with a metrics.json that shows it is taken.

        Raises UserError if it cannot be written to, or another evaluation is writing to it. A collective call.
        """
        with ExitStack() as stack:

            def take() -> EvaluationFolder:
                place = find_place(base.path, self.described, is_fixed=is_fixed, is_standard=is_standard)
                lock = FolderLock(place.path)
                lock.acquire()
                stack.callback(lock.release)
                return place

            self.folder = on_main(take)
            self.metrics = MetricsFile(self.folder.metrics, self.described)
            self.metrics.save()
            yield

    def run(self) -> dict[str, Any]:
        """Measure what metrics.json does not hold yet, write the report, and return what metrics.json holds.

        Raises UserError if a scheduler does not work with this model. A collective call in a block of `opened`.
        """
        config = self.config
        held_out = self.real.held_out
        if config.num_likelihood_images is not None and held_out is not None:
            self._measure_likelihood(held_out, min(config.num_likelihood_images, len(held_out.images)))
        self._measure_floor()
        self._measure_model(self.num_inference_steps)
        for name, steps in self.samplers:
            if self.metrics.sampler(name, steps) is None:
                scheduler_config = self.calibrated_config if name in CALIBRATED_VARIANCES else self.saved_config
                self._measure_sampler(name, sampler_from_config(name, scheduler_config), steps)
        on_main(lambda: save_report(self.metrics.values, RunFolder(self.name), self.folder))
        return self.metrics.values

    @cached_property
    def calibrated_config(self) -> Any:
        """The config of the saved scheduler, with a calibration on training images if it has none."""
        if self.saved_config.get("_calibration") is not None:
            return self.saved_config
        scheduler = DDPMCarsScheduler.from_config(self.saved_config)
        rows = np.sort(self.real.order[:_NUM_CALIBRATION_IMAGES])
        with self.metrics.timed("calibration"):
            training = self.real.training
            labels = None if training.labels is None else torch.from_numpy(training.labels[rows])
            samples = to_samples(training.images[rows])
            calibrate(self.pipeline.unet, samples, scheduler, progress_bar=self.is_main, class_labels=labels)
        return scheduler.config

    def _measure_likelihood(self, held_out: Pictures, num_images: int) -> None:
        unet, config = self.pipeline.unet, self.config
        known = {key_of(bound): bound for bound in self.metrics.values.get("likelihood", [])}
        missing = [k for k in bounds_to_measure(self.saved_config, config.likelihood_steps or ()) if k not in known]
        if not missing:
            return
        calibrated = self.calibrated_config
        with self.metrics.timed("likelihood"):
            bounds, self.metrics.values["eps_mse"] = measure_bounds(
                unet, held_out, calibrated, missing, num_images, config.batch_size, config.seed
            )
        known |= {key_of(bound): bound for bound in bounds}
        kinds = list(dict.fromkeys(kind for kind, _, _ in known))
        ordered = sorted(known.values(), key=lambda bound: kinds.index(bound["variance_type"]))
        self.metrics.values["likelihood"] = ordered
        self.metrics.save()

    def _features(self, images: np.ndarray, sha256: str) -> torch.Tensor:
        """Return the features of real images from the cache, or compute and keep them."""
        path = features_path(self.extractor, sha256, self.config.cache_dir)
        if on_main(path.exists):
            return load_file(path)["features"]
        with self.metrics.timed("features of real images"):
            features = self._shared_features(images)
        if self.is_main:
            with atomic_path(path) as temporary:
                save_file({"features": features}, temporary)
        return features

    def _shared_features(self, images: np.ndarray) -> torch.Tensor:
        extract, show = self.extractor, self.is_main
        parts = gathered(len(images), lambda rows: extract(images[rows.start : rows.stop], progress_bar=show))
        return torch.cat(parts)

    def _measure_floor(self) -> None:
        """Prepare the reference, and measure real images in place of generated ones."""
        training, n = self.real.training, self.real.num_floor_images
        self.training_features = self._features(training.images, training.sha256)
        features = self.training_features[self.real.order]
        self.reference = Reference.of(features[n:], training.images)
        frequency, power = self.reference.frequency, self.reference.power
        self.metrics.values["spectrum"] |= {"radius": rounded(frequency), "real": rounded(power)}
        if "floor" not in self.metrics.values:
            figures, _ = self._compared(training.images[np.sort(self.real.order[:n])], features[:n])
            self.metrics.values["floor"] = {"num_images": n, "metrics": figures}
            self.metrics.save()

    def _compared(self, images: np.ndarray, features: torch.Tensor) -> tuple[dict[str, float], list[float]]:
        """Return the metrics of images beside the reference, and their spectrum."""

        def compute() -> tuple[dict[str, float], list[float]]:
            comparison = Comparison(self.reference, images, features, self.config.seed)
            return {key: rounded(value) for key, value in measure(comparison).items()}, rounded(comparison.power)

        return on_main(compute)

    def _request(self, num_inference_steps: int) -> SamplingRequest:
        labels = self.real.labels
        return SamplingRequest(
            num_images=self.real.num_floor_images,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            num_inference_steps=num_inference_steps,
            class_labels=None if labels is None else labels.tolist(),
        )

    def _generate(self, label: str, num_inference_steps: int) -> tuple[np.ndarray, float]:
        """Return generated images, uint8 (N, H, W, C), and how many seconds they took."""
        request = self._request(num_inference_steps)

        def share(rows: range) -> np.ndarray:
            text, hidden = f"sampling, {label}, {num_inference_steps} steps", not self.is_main
            images: list[np.ndarray] = []
            with progress(desc=text, unit="image", total=len(rows), leave=False, disable=hidden) as bar:
                # The images of a batch come at once, so the time that is left is known after whole batches only.
                for start in range(0, len(rows), request.batch_size):
                    batch = rows[start : start + request.batch_size]
                    images += [np.atleast_3d(np.asarray(image)) for image in generate(self.pipeline, request, batch)]
                    bar.update(len(batch))
            return np.stack(images)

        started, what = time.perf_counter(), f"{label} with {num_inference_steps} steps"
        try:
            with self.metrics.timed("samples"), non_finite_in_words(self.config.mixed_precision, f"{what}: "):
                images = np.concatenate(gathered(self.real.num_floor_images, share))
        except ValueError as error:
            raise error if isinstance(error, UserError) else UserError(f"{what}: {error}") from error
        return images, time.perf_counter() - started

    def _measure_sampler(
        self, label: str, scheduler: Any, num_inference_steps: int
    ) -> tuple[np.ndarray, torch.Tensor]:
        """Measure images that a scheduler generates, and return them and their features."""
        saved, self.pipeline.scheduler = self.pipeline.scheduler, scheduler
        images, seconds = self._generate(label, num_inference_steps)
        self.pipeline.scheduler = saved
        with self.metrics.timed("features of generated images"):
            features = self._shared_features(images)
        with self.metrics.timed("distances"):
            figures, power = self._compared(images, features)
        entry = {
            "label": label,
            "scheduler": type(scheduler).__name__,
            "variance_type": scheduler.config.get("variance_type"),
            "num_inference_steps": num_inference_steps,
            "num_images": len(images),
            "metrics": figures,
            "images_per_second": rounded(len(images) / seconds),
        }
        self.metrics.put_sampler(entry, power)
        self.metrics.save()
        return images, features

    def _measure_model(self, num_inference_steps: int) -> None:
        """Measure the model as it was saved, look for copies, and write the images of the report."""
        scheduler = self.pipeline.scheduler
        ours = isinstance(scheduler, DDPMCarsScheduler)
        label = scheduler.config.variance_type if ours else type(scheduler).__name__
        entry = self.metrics.sampler(label, num_inference_steps)
        asked = {"label": label, "num_inference_steps": num_inference_steps}
        complete = on_main(lambda: has_images(self.folder))
        if entry is None or self.metrics.values.get("memorisation", {}).get("sampler") != asked or not complete:
            images, features = self._measure_sampler(label, scheduler, num_inference_steps)
            entry = self.metrics.sampler(label, num_inference_steps)
            with self.metrics.timed("copies"):
                found, neighbours = self._look_for_copies(images, features)
            self.metrics.values["memorisation"] = {"sampler": asked, **found}

            def save() -> None:
                strip = denoising_strip(self.pipeline, self._request(num_inference_steps))
                save_images(images, self.real.training.images, neighbours, strip, self.folder)

            on_main(save)
        others = [other for other in self.metrics.values["samples"] if other is not entry]
        self.metrics.values["samples"] = [entry, *others]
        self.metrics.save()

    def _look_for_copies(
        self, images: np.ndarray, features: torch.Tensor
    ) -> tuple[dict[str, Any], dict[str, tuple[np.ndarray, np.ndarray]]]:
        """Look for copies of training images, mirrored ones included.

        Returns the entry of metrics.json, and (distances, indices) by features and by pixels; indices from the number
        of training images on are those of mirrored ones.
        """
        training, held_out = self.real.training, self.real.held_out
        both_ways = self._features(mirrored(training.images), f"{training.sha256} mirrored")
        known = {"features": torch.cat([self.training_features, both_ways])}
        unseen = {} if held_out is None else {"features": self._features(held_out.images, held_out.sha256)}

        def compute() -> tuple[dict[str, Any], dict[str, tuple[np.ndarray, np.ndarray]]]:
            known["pixels"] = torch.cat([compared_pixels(x) for x in (training.images, mirrored(training.images))])
            if held_out is not None:
                unseen["pixels"] = compared_pixels(held_out.images)
            generated = {"features": features, "pixels": compared_pixels(images)}
            return look_for_copies(generated, known, unseen or None)

        found, neighbours = on_main(compute)
        return {"num_training_images": len(training.images), **found}, neighbours


def evaluate(config: EvaluateConfig) -> tuple[Path, str]:
    """Measure a model, or two with the same seeds and images, and write metrics.json, plots and report.html.

    Args:
        config: What to measure.

    Returns:
        The HTML page, and the figures in a table of text.

    Raises:
        UserError: If models, images, extractor and settings do not fit together.
    """
    EvaluateConfig.check_given(config, "evaluate")
    device = connect().device
    # A run that trains may have another checkpoint when the other processes look.
    asked = config.compare or (str(config.pretrained_model_name_or_path),)
    names = on_main(lambda: [find_model(name) for name in asked])
    if len({*names}) < len(names):
        raise UserError(f"compare names {names[0]} twice; give two models")
    given = config.output_dir if config.compare is None else None
    folders = [
        evaluation_of(name, config.weights, config.variant) if given is None else EvaluationFolder(Path(given))
        for name in names
    ]
    standard, config = is_standard(config), with_precision(config, folders, device)
    try:
        accelerator = Accelerator(mixed_precision=config.mixed_precision)
    except ValueError as error:
        raise UserError(f"mixed_precision is {config.mixed_precision}: {error}") from error
    for warning in cpu_warnings(device, accelerator.num_processes, config.mixed_precision):
        warn(warning)
    evaluations = [Evaluation(accelerator, config, name, run=names[0]) for name in names]
    models = [evaluation.described["model"] for evaluation in evaluations]
    sizes = [f"{model['resolution']} pixels with {model['num_channels']} channels" for model in models]
    if sizes[0] != sizes[-1]:
        said = " and ".join(f"{name} generates {size}" for name, size in zip(names, sizes, strict=True))
        raise UserError(f"{said}; compare takes two models of one size")
    compared = None
    if config.compare is not None:
        compared = on_main(lambda: comparison_folder(config.output_dir, [model["name"] for model in models]))
        on_main(lambda: prepare_folder(compared.path))
    with ExitStack() as stack:
        for evaluation, folder in zip(evaluations, folders, strict=True):
            stack.enter_context(
                evaluation.opened(folder, is_fixed=given is not None, is_standard=standard and compared is None)
            )
        note(describe_computing(device, accelerator.mixed_precision))
        stack.enter_context(ComputingThreads(device.type))
        stack.enter_context(non_finite_in_words(accelerator.mixed_precision))
        metrics = [evaluation.run() for evaluation in evaluations]
        measured = [evaluation.folder for evaluation in evaluations]
        if compared is not None:
            on_main(lambda: save_comparison(metrics, measured, compared))
    return (compared or measured[0]).report, "\n\n".join(map(summary, metrics))
