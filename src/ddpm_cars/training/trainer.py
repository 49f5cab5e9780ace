"""The loop of a training run: steps, and what happens between them."""

import math
import signal
import time
from datetime import datetime
from pathlib import Path

import torch

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import RunError, RunStopped
from ddpm_cars.runs.checkpoints import RAW, last_safe
from ddpm_cars.runtime.console import progress, say, shows_bars, warn
from ddpm_cars.runtime.processes import StopNotice, on_main
from ddpm_cars.runtime.threads import ComputingThreads
from ddpm_cars.training import plan, results
from ddpm_cars.training.checkpoints import Checkpointer
from ddpm_cars.training.choices import length_warnings
from ddpm_cars.training.divergence import FiniteWatch
from ddpm_cars.training.log import start_tracker
from ddpm_cars.training.prepare import prepare
from ddpm_cars.training.state import TrainState
from ddpm_cars.training.step import TrainStep

# Agreeing to stop costs a collective call, too slow for every step.
_STEPS_BETWEEN_AGREEMENTS = 10


class Trainer:
    """One training run, from its settings to a published pipeline.

    Args:
        config: The run's settings.

    Attributes:
        config: The settings, with all choices made that the user left to the machine.
        prepared: What does not change while it trains.
        state: What changes.
        checkpoints: Where the state is saved.
        train_step: Takes one step when called.

    Raises:
        UserError: As `prepare` does.
    """

    def __init__(self, config: TrainingConfig):
        self.prepared = run = prepare(config)
        self.threads = ComputingThreads(run.device.type)
        self.config = config = run.config
        try:
            self.state = TrainState(run)
            self.watch = FiniteWatch(run.accelerator, run.folder.checkpoints, config.max_skipped_steps)
            self.train_step = TrainStep(run, self.state, self.watch)
        except BaseException:
            self.threads.close()
            run.lock.release()
            raise
        self.checkpoints = Checkpointer(
            run.folder.checkpoints,
            self.state,
            config.checkpoints_total_limit,
            results.saved_model(run, self.state),
        )
        self.notice = StopNotice()

    def run(self) -> Path:
        """Train to the end, from wherever the output folder stands; return and raise what `train` does."""
        try:
            if self.config.dry_run:
                self._plan()
            else:
                self._run()
        finally:
            self.close()
        return self.prepared.folder.path

    def _plan(self) -> None:
        """Say what would happen, and how long it would take by a few steps, of which nothing is kept."""
        run, state = self.prepared, self.state
        found = None if self.config.overwrite_output_dir else self.checkpoints.resume()
        if self._is_complete():
            return
        self._introduce(found)
        step = state.step
        if step >= run.total_steps:
            return
        stopwatch = plan.Stopwatch(run, state)
        state.model.train()
        # Every step is taken together, so all have to know whether there is another.
        while (seconds := on_main(stopwatch.look)) is None:
            self.train_step()
        say(plan.time_line(run, step, seconds))

    def _run(self) -> None:
        run, state = self.prepared, self.state
        on_main(self.clear)
        found = self.checkpoints.resume()
        results.save_settings(run)
        results.save_image_report(run)
        if self._is_complete():
            return
        self._keep_threads()
        self._introduce(found)
        start_tracker(run.accelerator, self.config, state.run_id, state.step)
        with self.notice:
            self._train()
            measured = state.log.validation[-1]["step"] if state.log.validation else None
            if run.held_out is not None and measured != state.step:
                self.validate()
        self.watch.check(state)
        results.report_bad_images(run, state)
        results.publish(run, state)

    def _is_complete(self) -> bool:
        """Return whether nothing is left to do, and say so. Every process has to call this."""
        run, state = self.prepared, self.state
        complete = state.step >= run.total_steps and results.is_published(run, state)
        if complete:
            say(f"complete at step {state.step:,}")
        return complete

    def _introduce(self, found: Path | None) -> None:
        """Say what the run will do, and warn of what does not fit its length."""
        run = self.prepared
        num_images = None if run.images is None else len(run.images.images)
        for warning in length_warnings(self.config, run.chosen, num_images, run.global_batch_size):
            warn(warning)
        say("\n".join(plan.describe(run, self.state, found)))

    def _keep_threads(self) -> None:
        # Another processor rounds otherwise anyway.
        state, device = self.state, self.prepared.hardware["device"]
        if state.max_threads is not None and all(part["device"] == device for part in state.hardware[-1:]):
            self.threads.keep(state.max_threads)
        state.max_threads = self.threads.max_threads

    def clear(self) -> None:
        """Delete what a crash left half written, and with `overwrite_output_dir` what an earlier run wrote."""
        if self.config.overwrite_output_dir:
            results.clear_results(self.prepared.folder)
        self.checkpoints.clear(start_again=self.config.overwrite_output_dir)

    def _train(self) -> None:
        run, state = self.prepared, self.state
        hidden = not run.accelerator.is_main_process or state.step >= run.total_steps
        stopwatch = plan.Stopwatch(run, state)
        # The mean over all steps: over the last ones alone, the time that is left would jump.
        with progress(
            desc="training", unit="step", total=run.total_steps, initial=state.step, smoothing=0, disable=hidden
        ) as bar:
            state.model.train()
            since, steps_since = time.perf_counter(), 0
            while state.step < run.total_steps:
                began = time.perf_counter()
                self.train_step()
                self.threads.after_step(time.perf_counter() - began)
                steps_since += 1
                last = state.step == run.total_steps
                if (seconds := stopwatch.look()) is not None and not last:
                    say(plan.time_line(run, state.step, seconds, datetime.now()))
                bar.n = state.step
                # A log file has the time to expect above the progress.
                if stopwatch.is_done or last or shows_bars():
                    bar.update(0)
                if last or state.step % self.config.logging_steps == 0:
                    record = self.log(time.perf_counter() - since, steps_since)
                    loss, speed = record.get("loss", math.nan), record["images_per_second"]
                    bar.set_postfix_str(f"loss {loss:.4f}, {speed:.0f} images/s", refresh=False)
                    since, steps_since = time.perf_counter(), 0
                started = time.perf_counter()
                self._between_steps(last)
                # Saving, measuring and sampling are not training time.
                passed = time.perf_counter() - started
                since += passed
                stopwatch.leave_out(passed)
                if not hidden:
                    bar.start_t += passed
                    bar.last_print_t += passed

    def _between_steps(self, last: bool) -> None:
        config, step = self.config, self.state.step

        def due(every: int | None) -> bool:
            return every is not None and (last or step % every == 0)

        if self.prepared.held_out is not None and due(config.validation_steps):
            self.validate()
        saved = self.save_checkpoint() if due(config.checkpointing_steps) else self.checkpoints.saved_step == step
        signum = None if last else self._agreed_to_stop()
        if signum:
            raise self.stopped(signum, saved or self.save_checkpoint())
        if not last and due(config.save_images_steps):
            results.save_progress(self.prepared, self.state, lambda: self.notice.signum)

    def log(self, seconds: float, num_steps: int) -> dict[str, float]:
        """Record means over the steps since the last record. Every process has to call this.

        Args:
            seconds: How long this process took for the last of these steps.
            num_steps: For how many of them.

        Raises:
            FloatingPointError: If the run has diverged.
        """
        run, state = self.prepared, self.state
        self.watch.check(state)
        threads = {"num_threads": self.threads.num_threads} if run.device.type == "cpu" else {}
        state.count_time({**run.hardware, **threads}, seconds / num_steps)
        extra: dict[str, float] = {"learning_rate": run.learning_rate(state.step - 1)}
        if state.skipped_steps:
            extra["skipped_steps"] = state.skipped_steps
        extra["images_per_second"] = round(num_steps * run.global_batch_size / seconds, 2)
        return state.log.close_record(run.accelerator, state.step, extra)

    def validate(self) -> None:
        """Measure the weights and every average on the held-out images, and keep the best average so far."""
        run, state, held_out = self.prepared, self.state, self.prepared.held_out
        assert held_out is not None
        accelerator = run.accelerator

        def measure() -> float:
            state.forget_gathered_weights()
            # Not the compiled network: another program for this alone would take longer than it saves.
            network, processes = state.unet, (accelerator.process_index, accelerator.num_processes)
            return held_out.eps_mse(
                network, run.device, run.batch_size, *processes, lambda total: accelerator.reduce(total, "sum")
            )

        state.unet.eval()
        eps_mse = {RAW: measure()}
        for name in state.averages.tensors:
            with state.averages.in_place_of_weights(name):
                eps_mse[name] = measure()
        state.forget_gathered_weights()
        state.unet.train()
        log = state.log
        log.validation.append({"step": state.step, "eps_mse": eps_mse})
        accelerator.log({f"validation_eps_mse/{k}": v for k, v in eps_mse.items()}, step=state.step)
        chosen = state.chosen_average()
        if not math.isfinite(eps_mse[chosen]):
            warn(f"step {state.step:,}: the loss on held-out images is {eps_mse[chosen]}; training goes on")
        elif log.best is None or eps_mse[chosen] < log.best["eps_mse"]:
            log.best = {"step": state.step, "average": chosen, "eps_mse": eps_mse[chosen]}
            results.save_best(run, state, chosen)

    def save_checkpoint(self) -> bool:
        """Write a checkpoint of a run that has not diverged, and return whether the disk took it.

        Every process has to call this.

        Raises:
            FloatingPointError: If it has diverged: its checkpoint would push the last good ones out.
        """
        self.watch.check(self.state)
        results.report_bad_images(self.prepared, self.state)
        return self.checkpoints.save()

    def _agreed_to_stop(self) -> int | None:
        """Return the signal that has come to any process, the same on all of them."""
        if self.prepared.accelerator.num_processes == 1:
            return self.notice.signum
        if self.state.step % _STEPS_BETWEEN_AGREEMENTS:
            return None
        mine = torch.tensor([self.notice.signum or 0], device=self.prepared.device)
        return int(self.prepared.accelerator.gather(mine).max()) or None

    def stopped(self, signum: int, saved: bool) -> RunStopped | RunError:
        """Return the error that ends a run after a signal; `saved` is whether this step's checkpoint is written."""
        name, step, folder = signal.Signals(signum).name, self.state.step, self.checkpoints.folder
        how = "interrupted" if signum == signal.SIGINT else f"stopped by {name}"
        if not saved:
            return RunError(f"{how} at step {step:,}, which could not be saved; {last_safe(folder)}")
        return RunStopped(
            f"{how} at step {step:,} of {self.prepared.total_steps:,} and saved in {folder}; "
            f"the same command continues, and ddpm-cars sample --pretrained_model_name_or_path "
            f"{self.prepared.folder.path} draws with the model as it is",
            signum,
        )

    def close(self) -> None:
        """Let go of threads, the tracker, the other processes, the folder, and the memory of a captured step."""
        self.train_step.captured = None
        self.state.source.close()
        # The wrapper around the network holds on to the connections between processes, which must not outlive them.
        self.state.model = self.state.unet
        self.prepared.accelerator.free_memory()
        self.prepared.accelerator.end_training()
        self.threads.close()
        self.prepared.lock.release()


def train(config: TrainingConfig) -> Path:
    """Train a model and save it as a `DDPMCarsPipeline`; the same call continues an interrupted run.

    Args:
        config: The run's settings.

    Returns:
        The output folder: the pipeline, samples.png, loss.png, loss.json, training.json, config.yaml, checkpoints/
        and samples/.

    Raises:
        UserError: If the settings cannot work, before any training.
        FloatingPointError: If a loss or gradient is not finite.
        RunError: If the results cannot be written.
        RunStopped: If SIGTERM or SIGINT came; the run is saved.
    """
    TrainingConfig.check_given(config, "train")
    return Trainer(config).run()
