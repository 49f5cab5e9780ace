"""Checkpoints and results of a run: written where a disk may fail, read where a crash may have struck."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import gather_object

from ddpm_cars.errors import RunError, UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs import saved_pipeline
from ddpm_cars.runtime import files
from ddpm_cars.training import checkpoints, log, results
from ddpm_cars.training.averages import RAW
from ddpm_cars.training.facts import training_facts
from ddpm_cars.training.prepare import Setup


class Keeper:
    """Writes what a run must not lose, and finds it again.

    Args:
        run: The run, whose state it writes and fills.
    """

    def __init__(self, run: Setup):
        self.run = run
        self.folder = run.output_dir / "checkpoints"
        self.saved_step: int | None = None

    def resume(self) -> Path | None:
        """Continue from the newest complete checkpoint and return its path, None if there is none.

        Raises:
            UserError: If it belongs to another run, or none of the checkpoints is complete.
        """
        run, config = self.run, self.run.config
        found, damaged = checkpoints.newest_complete(self.folder)
        for path, damage in damaged.items():
            run.warn(f"{path} is damaged and left out: {damage}")
        if found is None and damaged:
            raise UserError(
                f"none of the checkpoints in {self.folder} is complete; put a complete one there, or pass "
                "--overwrite_output_dir to start again"
            )
        if found is None:
            return None
        saved = run.state.load(found, config)
        if run.accelerator.scaler is not None and saved["scaler"] is not None:
            run.accelerator.scaler.load_state_dict(saved["scaler"])
        run.source.load_state_dict(saved["source"])
        self._share_sums(torch.tensor(saved["sums"], dtype=torch.float64))
        self.saved_step = run.state.step
        run.say(f"continuing from {found}")
        if saved["total_steps"] != run.total_steps and config.lr_scheduler in ("linear", "cosine"):
            run.warn(
                f"the run was to end at step {saved['total_steps']} and now ends at {run.total_steps}: the "
                f"learning rate of its {config.lr_scheduler} schedule jumps"
            )
        if run.state.step > run.total_steps:
            run.warn(f"the run is at step {run.state.step} already, beyond {run.total_steps}")
        return found

    def _share_sums(self, sums: torch.Tensor) -> None:
        """Give every process its part of the record in the making, (num_processes, NUM_SUMS)."""
        accelerator, mine = self.run.accelerator, self.run.state.sums
        if len(sums) == accelerator.num_processes:
            mine.copy_(sums[accelerator.process_index])
        elif accelerator.is_main_process:
            total = sums.sum(0)
            # Losses and norms are summed per process, the quarters per image.
            total[:4] *= accelerator.num_processes / len(sums)
            mine.copy_(total)

    def begin(self) -> None:
        """Delete what a crash left half written, and with `overwrite_output_dir` what an earlier run wrote."""
        checkpoints.delete_leftovers(self.folder)
        if self.run.config.overwrite_output_dir:
            folder = self.run.output_dir
            # training.json says whose the published model is: from now on not this run's.
            for name in ("training.json", "validation.json"):
                (folder / name).unlink(missing_ok=True)
            # What else lives in the folders is not ours to delete.
            for path in checkpoints.list_checkpoints(self.folder):
                shutil.rmtree(path)
            saved_pipeline.delete_if_empty(self.folder)
            results.delete_grids(folder)
            saved_pipeline.delete_pipeline(folder / "best")

    def preview(self) -> Path | None:
        """Read the checkpoint that a run would continue from, return its path, and change nothing on the disk."""
        return None if self.run.config.overwrite_output_dir else self.resume()

    def save_checkpoint(self) -> None:
        """Write a checkpoint, then delete those beyond `checkpoints_total_limit`.

        Every process has to call this; the main one writes.

        Raises:
            OSError: If it cannot be written; older ones are untouched.
        """
        run = self.run
        self.collect_bad_images()
        tensors = run.state.tensors()
        source: dict[str, Any] = {}
        for part in gather_object([run.source.state_dict(run.state.step)]):
            for name, value in part.items():
                source.setdefault(name, {}).update(value)
        scaler = run.accelerator.scaler
        state = {
            "config": asdict(run.config),
            **run.state.numbers(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "source": source,
            "sums": run.accelerator.gather(run.state.sums[None]).tolist(),
        }
        if run.accelerator.is_main_process:
            checkpoints.save_checkpoint(self.folder, run.state.step, tensors, state)
            if run.config.checkpoints_total_limit is not None:
                checkpoints.delete_old_checkpoints(self.folder, run.config.checkpoints_total_limit)
        self.saved_step = run.state.step

    def collect_bad_images(self) -> None:
        """Put what all processes could not decode since the last time into the state, pictures.json and a warning."""
        run = self.run
        known = {image["path"] for image in run.state.bad_images}
        found = {image["path"]: image for part in gather_object([run.source.bad_images]) for image in part}
        new = [found[path] for path in sorted(found) if path not in known]
        if not new:
            return
        run.state.bad_images += new
        path = run.output_dir / "pictures.json"
        text = json.dumps({"bad_images": run.state.bad_images}, indent=1)
        self.try_write("the report of bad images", lambda: files.write_text(path, text))
        run.warn(f"{len(new)} images cannot be decoded and are left out, {new[0]['path']} for one; see {path}")

    def try_checkpoint(self) -> bool:
        """Write a checkpoint and say whether that worked: a disk that fails does not end a run, it warns."""
        try:
            self.save_checkpoint()
        except OSError as error:
            self.run.warn(
                f"the checkpoint of step {self.run.state.step} cannot be written ({error}); "
                f"{self.last_safe()}; training goes on"
            )
            return False
        return True

    def try_write(self, what: str, write: Callable[[], Any]) -> None:
        """Write on the main process something that a run can do without."""
        if self.run.accelerator.is_main_process:
            try:
                write()
            except OSError as error:
                self.run.warn(f"{what} cannot be written ({error}); training goes on")

    def last_safe(self) -> str:
        """Say which checkpoint there is to go back to."""
        good, _ = checkpoints.newest_complete(self.folder)
        return "there is no checkpoint yet" if good is None else f"the last complete checkpoint is {good}"

    def save_settings(self) -> None:
        """Write config.yaml; repeating a run from its own settings continues it."""
        settings = {**asdict(self.run.config), "overwrite_output_dir": False}
        text = yaml.safe_dump(settings, sort_keys=False)
        self.try_write("config.yaml", lambda: files.write_text(self.run.output_dir / "config.yaml", text))

    def save_best(self, weights: dict[str, torch.Tensor]) -> None:
        """Write the pipeline with the lowest loss on held-out images so far."""
        run = self.run
        self.try_write("the best model so far", lambda: self._publish(weights, run.output_dir / "best"))

    def save_progress(self, weights: dict[str, torch.Tensor], stopped: Callable[[], Any]) -> None:
        """Write a sample grid and the log."""
        run = self.run
        path = results.grid_path(run.output_dir, run.state.step)
        self.try_write("a sample grid", lambda: results.save_grid(run.pipeline(weights), run.config, path, stopped))
        self.try_write("the log", lambda: log.save_log(run.output_dir, run.state))

    def is_complete(self) -> bool:
        """Return whether the results of the step that the run is at are on the disk, whole.

        Every process has to call this.
        """
        run, state = self.run, self.run.state
        published = saved_pipeline.load_published(run.output_dir) if self._results_are_there() else None
        found = False
        # Whichever average was the best; where they are spread over processes, all of them have to ask.
        for average in list(state.averages) or [RAW]:
            weights = state.weights(average)
            found = found or (published is not None and saved_pipeline.same_weights(published, weights))
        return any(gather_object([found]))

    def _results_are_there(self) -> bool:
        run = self.run
        if not run.accelerator.is_main_process:
            return False
        names = ["samples.png", "loss.png", "loss.json", *(["validation.json"] if run.held_out is not None else [])]
        try:
            known = json.loads((run.output_dir / "training.json").read_text(encoding="utf-8"))
            same = (known["steps"], known["data"]["classes"]) == (run.state.step, list(run.class_names))
            return same and all((run.output_dir / name).stat().st_size > 0 for name in names)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def _publish(self, weights: dict[str, torch.Tensor], folder: Path) -> DDPMCarsPipeline:
        """Write a pipeline with the weights, with what was measured of one before as far as it fits; return it."""
        run = self.run
        pipeline, before = run.pipeline(weights), saved_pipeline.load_published(folder)
        if before is not None and saved_pipeline.same_weights(before, weights):
            pipeline.scheduler = before.scheduler
        elif (run.output_dir / "training.json").exists():
            measured = saved_pipeline.scheduler_config(folder)
            # It depends on the images alone, which are the same.
            if measured.get("_init_noise") is not None:
                pipeline.scheduler.register_to_config(_init_noise=measured["_init_noise"])
            if measured.get("_calibration") is not None:
                run.warn(
                    f"the calibration of {folder} (variance_type {measured['variance_type']}) does not fit the new "
                    "weights and is left out; measure it again with ddpm-cars calibrate"
                )
        saved_pipeline.save_pipeline(pipeline, folder)
        return pipeline

    def save_results(self, weights: dict[str, torch.Tensor], average: str) -> None:
        """Write the pipeline, its grid, the log and training.json.

        Args:
            weights: The network's.
            average: Which of the averages they are.

        Raises:
            RunError: If they cannot be written.
        """
        run, folder = self.run, self.run.output_dir
        try:
            pipeline = self._publish(weights, folder)
            results.save_grid(pipeline, run.config, folder / "samples.png")
            log.save_log(folder, run.state)
            files.write_text(folder / "training.json", json.dumps(training_facts(run, average), indent=1))
        except OSError as error:
            raise RunError(
                f"the trained model cannot be written to {folder} ({error}); {self.last_safe()}. Make room or mend "
                "the folder, and repeat the same command"
            ) from error
