"""What a run leaves for people: the pipeline, sample grids, curves and reports."""

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import gather_object
from diffusers import UNet2DModel
from PIL import Image

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import RunError
from ddpm_cars.figures.grids import make_grid, save_png
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline, DenoisingState, NonFiniteError, as_images
from ddpm_cars.runs import saved_pipeline
from ddpm_cars.runs.checkpoints import RAW, SavedModel, ema_name, last_safe
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runs.settings import dataset_id
from ddpm_cars.runtime import files
from ddpm_cars.runtime.console import note, warn
from ddpm_cars.runtime.folders import delete_empty
from ddpm_cars.runtime.hardware import versions
from ddpm_cars.runtime.processes import on_main
from ddpm_cars.sampling.generate import cure_for_commands, frame_of, make_strip
from ddpm_cars.sampling.request import SamplingRequest
from ddpm_cars.training.log import track_image
from ddpm_cars.training.run import Run
from ddpm_cars.training.state import TrainState

Weights = Mapping[str, torch.Tensor]
_FACTS_FORMAT = 1


def clear_results(folder: RunFolder) -> None:
    """Delete what an earlier run wrote, to start again; what else lies in its folders stays."""
    # The facts say whose the published model is: from now on not this run's.
    for path in (folder.facts, folder.validation):
        path.unlink(missing_ok=True)
    for path in folder.progress.glob("step-" + "[0-9]" * 8 + ".png"):
        path.unlink()
    delete_empty([folder.progress])
    saved_pipeline.delete_pipeline(folder.best)


def _try_write(run: Run, what: str, write: Callable[[], Any]) -> None:
    """Write on the main process something that a run can do without: a disk that fails is warned of."""
    if run.accelerator.is_main_process:
        try:
            write()
        except OSError as error:
            warn(f"{what} cannot be written ({error}); training goes on")


def save_settings(run: Run) -> None:
    """Write the settings; a run from its own settings continues it."""
    path = run.folder.settings
    _try_write(run, path.name, lambda: files.write_text(path, _settings_text(run)))


def _settings_text(run: Run) -> str:
    return yaml.safe_dump({**asdict(run.config), "overwrite_output_dir": False}, sort_keys=False)


def save_image_report(run: Run) -> None:
    """Write what became of every image, and say where if some are left out or are copies."""
    path = run.folder.image_report
    if run.images is not None:
        report = run.images.report
        _try_write(run, path.name, lambda: files.write_text(path, json.dumps(report, indent=1)))
        reported = ("bad_images", "duplicates", "not_listed", "profile_faults", "frames_left_out")
        if any(report[key] for key in reported) and path.exists():
            note(f"images and frames that are left out, and copies, are listed in {path}")


def report_bad_images(run: Run, state: TrainState) -> None:
    """Report the images that were found on the way not to decode. Every process has to call this."""
    new, path = state.find_bad_images(), run.folder.image_report
    if new:
        text = json.dumps({"bad_images": state.bad_images}, indent=1)
        _try_write(run, "the report of bad images", lambda: files.write_text(path, text))
        warn(f"{len(new)} images cannot be decoded and are left out, {new[0]['path']} for one; see {path}")


def save_best(run: Run, state: TrainState, average: str) -> None:
    """Write the pipeline with the lowest loss on held-out images so far. Every process has to call this."""
    weights = state.weights(average)
    _try_write(run, "the best model so far", lambda: _save_pipeline(run, state, weights, run.folder.best))


def save_progress(run: Run, state: TrainState, stopped: Callable[[], Any]) -> None:
    """Write a sample grid and the log. Every process has to call this."""
    weights = state.weights(state.chosen_average())
    path = run.folder.progress / f"step-{state.step:08d}.png"

    def give_up(_: DenoisingState) -> None:
        # Who has sent a signal to stop does not wait for images.
        if stopped():
            raise _Stopped

    def draw() -> None:
        try:
            grid = _draw(_make_pipeline(run, state, weights), run.config, give_up)
        except _Stopped:
            return
        except NonFiniteError as error:
            warn(f"step {state.step:,} has no sample grid: {error.what}; training goes on")
            return
        track_image(run.accelerator, "samples", save_png(grid, path), state.step)

    _try_write(run, "a sample grid", draw)
    _try_write(run, "the log", lambda: state.log.save(run.folder))


def publish(run: Run, state: TrainState) -> None:
    """Write the trained pipeline, its grid, the log and training.json. Every process has to call this.

    Raises RunError if they cannot be written, or if what the model draws is not finite: then all but the images of it
    is written.
    """
    average, folder = state.chosen_average(), run.folder
    weights = state.weights(average)

    def write() -> None:
        try:
            pipeline = _save_pipeline(run, state, weights, folder.path)
            problem = _save_images(run, state, pipeline)
            state.log.save(folder)
            files.write_text(folder.facts, json.dumps(_training_facts(run, state, average), indent=1))
        except OSError as error:
            raise RunError(
                f"the trained model cannot be written to {folder.path} ({error}); {last_safe(folder.checkpoints)}. "
                "Make room or mend the folder, and repeat the same command"
            ) from error
        if problem is not None:
            raise RunError(
                f"the model is trained and saved in {folder.path}, but it draws no images: {problem.what}; "
                f"{cure_for_commands(problem, 'no')}"
            )

    on_main(write)


def _save_images(run: Run, state: TrainState, pipeline: DDPMCarsPipeline) -> NonFiniteError | None:
    """Write the grid and the strip of a model, or delete those of an earlier one and return why there are none."""
    folder, frames = run.folder, list[tuple[str, list[Image.Image]]]()
    try:
        grid = _draw(pipeline, run.config, lambda drawn: frames.append(frame_of(drawn)))
    except NonFiniteError as error:
        for path in (folder.samples, folder.denoising):
            path.unlink(missing_ok=True)
        return error
    strip = make_strip(frames[1:])
    for name, path, image in (("samples", folder.samples, grid), ("denoising", folder.denoising, strip)):
        track_image(run.accelerator, name, save_png(image, path), state.step)
    return None


def _training_facts(run: Run, state: TrainState, average: str) -> dict[str, Any]:
    """Return what training.json says of a run that publishes this average; seconds are those of steps alone."""
    config, images = run.config, run.images
    source = config.train_data_dir or config.dataset_name
    measured = state.log.validation[-1]["eps_mse"][average] if state.log.validation else None
    return {
        "format": _FACTS_FORMAT,
        "steps": state.step,
        "global_batch_size": run.global_batch_size,
        "num_parameters": sum(p.numel() for p in state.unet.parameters()),
        "average_half_life_steps": state.averages.half_life_steps(average, state.num_updates),
        "data": {
            "source": Path(str(source)).name,
            "dataset_id": dataset_id({"dataset_name": config.dataset_name}),
            "num_images": None if images is None else len(images.images),
            "classes": list(run.class_names),
        },
        "validation": None
        if measured is None or run.held_out is None
        else {"split": config.validation_split, "num_images": len(run.held_out), "eps_mse": measured},
        "changes": state.changes,
        "hardware": state.hardware,
        "versions": versions(),
    }


def is_published(run: Run, state: TrainState) -> bool:
    """Return whether the results of this very state are on the disk, whole. Every process has to call this."""
    published = saved_pipeline.load_published(run.folder.path) if _results_are_there(run, state) else None
    found = False
    # Whichever average was the best; where they are spread over processes, all of them have to ask.
    for average in list(state.averages.tensors) or [RAW]:
        weights = state.weights(average)
        found = found or (published is not None and saved_pipeline.same_weights(published, weights))
    return any(gather_object([found]))


def _results_are_there(run: Run, state: TrainState) -> bool:
    if not run.accelerator.is_main_process:
        return False
    folder = run.folder
    paths = [folder.samples, folder.loss_plot, folder.loss, *([folder.validation] if run.held_out is not None else [])]
    try:
        known = json.loads(folder.facts.read_text(encoding="utf-8"))
        same = (known["steps"], known["data"]["classes"]) == (state.step, list(run.class_names))
        return same and all(path.stat().st_size > 0 for path in paths)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def saved_model(run: Run, state: TrainState) -> Callable[[], SavedModel]:
    """Return what says how a checkpoint is a saved pipeline, with the settings and the present facts of the run."""
    # The network may be wrapped, and a large one takes a while to build, so that this is done once.
    with torch.device("meta"):
        unet = UNet2DModel.from_config(state.unet.config)
    pipeline = DDPMCarsPipeline(unet, run.noise_scheduler, id2label=dict(enumerate(run.class_names)) or None)
    lasting = {**saved_pipeline.pipeline_texts(pipeline), run.folder.settings.name: _settings_text(run)}

    def describe() -> SavedModel:
        average = state.chosen_average()
        facts = json.dumps(_training_facts(run, state, average), indent=1)
        return SavedModel(ema_name(average), {**lasting, run.folder.facts.name: facts})

    return describe


def _make_pipeline(run: Run, state: TrainState, weights: Weights) -> DDPMCarsPipeline:
    return saved_pipeline.make_pipeline(state.unet.config, weights, run.noise_scheduler, run.class_names, run.device)


def _save_pipeline(run: Run, state: TrainState, weights: Weights, folder: Path) -> DDPMCarsPipeline:
    """Write a pipeline with the weights, with what was measured of one before as far as it fits; return it."""
    pipeline, before = _make_pipeline(run, state, weights), saved_pipeline.load_published(folder)
    if before is not None and saved_pipeline.same_weights(before, weights):
        pipeline.scheduler = before.scheduler
    elif run.folder.facts.exists():
        measured = saved_pipeline.scheduler_config(folder)
        # It depends on the images alone, which are the same.
        if measured.get("_init_noise") is not None:
            pipeline.scheduler.register_to_config(_init_noise=measured["_init_noise"])
        if measured.get("_calibration") is not None:
            warn(
                f"the calibration of {folder} (variance_type {measured['variance_type']}) does not fit the new "
                "weights and is left out; measure it again with ddpm-cars calibrate"
            )
    saved_pipeline.save_pipeline(pipeline, folder)
    return pipeline


class _Stopped(Exception):
    """Somebody has sent a signal to stop, and does not wait for images."""


def _draw(pipeline: DDPMCarsPipeline, config: TrainingConfig, see: Callable[[DenoisingState], None]) -> Image.Image:
    """Sample a grid of images, from the same noise every time so that grids can be compared.

    `see` is called with every state on the way; what it raises ends the drawing.
    """
    labels = None if pipeline.config.get("id2label") is None else list(range(len(pipeline.config.id2label)))
    request = SamplingRequest(
        num_images=config.eval_batch_size,
        seed=config.seed,
        num_inference_steps=config.num_inference_steps or config.num_train_timesteps,
        class_labels=labels,
    )
    with closing(pipeline.denoise(**request.arguments(range(request.num_images)))) as states:
        for state in states:
            see(state)
            sample = state.sample
    return make_grid(as_images(sample))
