"""The training loop: L_simple of Ho et al. 2020 (eq. 14, algorithm 1) with Accelerate.

Data order, flips, timesteps, noise and dropout are functions of (seed, step, position in the batch), and the learning
rate is a function of the step. What a run has to remember is therefore small: `TrainState`.
"""

import math
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from diffusers.optimization import get_scheduler
from torch.distributed.fsdp import FSDPModule
from tqdm import tqdm

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.diffusion.losses import diffusion_losses
from ddpm_cars.errors import RunError, RunStopped
from ddpm_cars.runtime.folders import refuse_inside
from ddpm_cars.runtime.signals import StopNotice
from ddpm_cars.training import checkpoints, plan
from ddpm_cars.training.averages import RAW
from ddpm_cars.training.batches import Batch
from ddpm_cars.training.captured_step import CapturedStep
from ddpm_cars.training.checkpointing import Keeper
from ddpm_cars.training.divergence import FiniteWatch
from ddpm_cars.training.prepare import Setup
from ddpm_cars.training.state import full_tensor

# Processes agree to stop by exchanging a number, which every step would be too often.
_STEPS_BETWEEN_AGREEMENTS = 10


class Trainer(Setup):
    """One run: `Setup` has what does not change while it trains, this the steps.

    Args:
        config: The run's settings.

    Raises:
        UserError: If the images, the network and the settings do not fit together, before any work is done.
    """

    def __init__(self, config: TrainingConfig):
        refuse_inside(config.output_dir, config.train_data_dir)
        super().__init__(config)
        self.keeper = Keeper(self)
        self.watch = FiniteWatch(self.accelerator)
        self.notice = StopNotice()
        lr_scheduler = get_scheduler(
            config.lr_scheduler,
            self.optimizer.optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=self.total_steps,
        )
        # A function of the step; the object around it has a state to lose, and steps once per process.
        self.lr_factor = lr_scheduler.lr_lambdas[0]
        self.learning_rate = config.learning_rate
        self.captured_step = (
            CapturedStep(lambda batches: self._step(batches)[0], self.state) if self.captured else None
        )

    def close(self) -> None:
        """Let go of everything that `Setup.close` does, and of the memory that a captured step holds."""
        self.captured_step = None
        super().close()

    def _forward_backward(self, batch: Batch) -> torch.Tensor:
        """Add the gradient of one micro step; return its mean loss, then sum and count of each quarter of T."""
        config, (x_0, eps, t, class_labels) = self.config, batch
        x_t = self.noise_scheduler.add_noise(x_0, eps, t)
        with self.accelerator.accumulate(self.model):
            output = self.model(x_t, t, class_labels=class_labels).sample
            losses, mse = diffusion_losses(
                self.noise_scheduler, output, x_0, x_t, eps, t, config.snr_gamma, config.vlb_weight
            )
            loss = losses.mean()
            self.accelerator.backward(loss)
        quarter = t * 4 // config.num_train_timesteps
        in_quarter = (quarter[:, None] == torch.arange(4, device=self.device)).double()
        sums = torch.cat([(in_quarter * mse[:, None].double()).sum(0), in_quarter.sum(0)])
        return torch.cat([loss.detach().double()[None], sums])

    def train_step(self) -> torch.Tensor:
        """Take one optimiser step and return this process's mean loss, a tensor that nobody has waited for."""
        state, taken = self.state, True
        self.learning_rate = self.config.learning_rate * self.lr_factor(state.step)
        if self.captured_step is not None:
            seen = self.captured_step(list(self._batches()), self.learning_rate)
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate
            seen, taken = self._step(self._batches())
            for average in state.averages.values() if taken else ():
                average.step(state.unet.parameters())
        state.step += 1
        if taken:
            self.watch.remember(state.step, seen)
        return seen[0]

    def _batches(self) -> Iterator[Batch]:
        for micro_step in range(self.accumulation):
            if self.dropout_seeds.num_layers:
                self.dropout_seeds.values = self.draw_batch.row_seeds(self.state.step, micro_step)
            yield self.draw_batch(self.state.step, micro_step)

    def _step(self, batches: Iterable[Batch]) -> tuple[torch.Tensor, bool]:
        """Take the optimiser's step; return loss and gradient norm, (2,), and whether it was not left out."""
        parts = torch.stack([self._forward_backward(batch) for batch in batches])
        loss, norm = parts[:, 0].mean(), self._gradient_norm()
        seen = torch.stack([loss, norm])
        skip = self.config.max_skipped_steps > 0 and self._must_skip(seen)
        # The scaler leaves such a step out by itself, and wants to know of it.
        if not skip or self.accelerator.scaler is not None:
            self.optimizer.step()
        self.optimizer.zero_grad()
        if not skip:
            has_norm = torch.isfinite(norm)  # not where the scaler has left a step out
            means = torch.stack([loss, torch.ones_like(loss), norm.masked_fill(~has_norm, 0.0), has_norm.double()])
            self.state.sums += torch.cat([means, parts[:, 1:].sum(0)])
        return seen, not skip

    def _gradient_norm(self) -> torch.Tensor:
        """Return the norm of the gradients, float64 on the device, and scale them down to `max_grad_norm`."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.config.max_grad_norm is not None:
            norm = self.accelerator.clip_grad_norm_(parameters, self.config.max_grad_norm)
        else:
            self.accelerator.unscale_gradients()
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        return full_tensor(norm).detach().double()

    def _must_skip(self, seen: torch.Tensor) -> bool:
        bad = self.watch.is_bad(seen)
        if bad is None:
            return False
        limit, step = self.config.max_skipped_steps, self.state.step + 1
        self.state.skipped_steps += 1
        what = "loss {:.4g}, gradient norm {:.4g}".format(*bad)
        if self.state.skipped_steps > limit:
            raise self._diverged(what, step)
        self.warn(f"step {step} is left out: {what} ({self.state.skipped_steps} of {limit})")
        return True

    def check_finite(self) -> None:
        """Look at what has happened since the last look.

        Raises:
            FloatingPointError: If a loss or gradient was not finite, with the step and the last good checkpoint.
        """
        bad = self.watch.first_bad()
        if bad is not None:
            raise self._diverged("loss {1:.4g}, gradient norm {2:.4g}".format(*bad), bad[0])
        # The loss of a step is that of the weights before it.
        norm = torch.nn.utils.get_total_norm([p.detach() for p in self.state.unet.parameters()])
        if not math.isfinite(full_tensor(norm)):
            raise self._diverged("a weight is not finite", self.state.step)

    def _diverged(self, what: str, step: int) -> FloatingPointError:
        good = checkpoints.list_checkpoints(self.keeper.folder)
        return FloatingPointError(
            f"diverged at step {step}: {what}; "
            + (f"the last good checkpoint is {good[-1]}. " if good else "there is no checkpoint yet. ")
            + "Lower learning_rate, use mixed_precision bf16 or no, or allow max_skipped_steps"
        )

    def save_checkpoint(self) -> bool:
        """Write a checkpoint of a run that has not diverged, and say whether the disk took it.

        Every process has to call this.

        Raises:
            FloatingPointError: If it has diverged: its checkpoint would push the last good ones out.
        """
        self.check_finite()
        return self.keeper.try_checkpoint()

    def log(self, seconds: float, num_steps: int) -> dict[str, float]:
        """Record means over the steps since the last record; `num_steps` of them took `seconds` in this process."""
        self.check_finite()
        state = self.state
        state.count_time(self.hardware, seconds / num_steps)
        loss, num_losses, norm, num_norms, *quarters = self.accelerator.reduce(state.sums, "sum").tolist()
        state.sums.zero_()
        record: dict[str, float] = {"step": state.step}
        # Where every step since was left out, there is nothing to average.
        if num_losses:
            record["loss"] = loss / num_losses
        record |= {f"loss_q{i + 1}": quarters[i] / quarters[4 + i] for i in range(4) if quarters[4 + i]}
        if num_norms:
            record["gradient_norm"] = norm / num_norms
        record["learning_rate"] = self.learning_rate
        if state.skipped_steps:
            record["skipped_steps"] = state.skipped_steps
        record["images_per_second"] = round(num_steps * self.global_batch_size / seconds, 2)
        state.history.append(record)
        self.accelerator.log({k: v for k, v in record.items() if k != "step"}, step=state.step)
        return record

    def validate(self) -> None:
        """Measure the weights and every average on the held-out images, and keep the best average so far."""
        assert self.held_out is not None
        accelerator, state, parameters = self.accelerator, self.state, list(self.state.unet.parameters())

        def measure() -> float:
            self._forget_gathered_weights()
            return self.held_out.eps_mse(  # type: ignore[union-attr]
                # Not the compiled one: another program for this alone would take longer than it saves.
                self.state.unet,
                self.device,
                self.batch_size,
                accelerator.process_index,
                accelerator.num_processes,
                lambda total: accelerator.reduce(total, "sum"),
            )

        self.state.unet.eval()
        eps_mse = {RAW: measure()}
        for name, average in state.averages.items():
            average.store(parameters)
            average.copy_to(parameters)
            eps_mse[name] = measure()
            average.restore(parameters)
        self._forget_gathered_weights()
        self.state.unet.train()
        state.validation.append({"step": state.step, "eps_mse": eps_mse})
        accelerator.log({f"validation_eps_mse/{k}": v for k, v in eps_mse.items()}, step=state.step)
        chosen = self.chosen_average()
        if state.best is None or eps_mse[chosen] < state.best["eps_mse"]:
            state.best = {"step": state.step, "average": chosen, "eps_mse": eps_mse[chosen]}
            self.keeper.save_best(state.weights(chosen))

    def _forget_gathered_weights(self) -> None:
        """Make a network that is spread over processes see that its weights have been replaced."""
        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def chosen_average(self) -> str:
        """Return the average to sample with: the best at the last measurement, else that of the first half-life."""
        names = list(self.state.averages) or [RAW]
        if not self.state.validation:
            return names[0]
        last = self.state.validation[-1]["eps_mse"]
        return min(names, key=lambda name: last[name])

    def run(self) -> Path:
        """Train to the end, from wherever the output folder stands.

        Returns:
            The output folder, which then holds a saved `DDPMCarsPipeline`.

        Raises:
            UserError: If the folder holds another run.
            FloatingPointError: If loss or gradient are not finite.
            RunError: If the results cannot be written.
            RunStopped: If SIGTERM or SIGINT came; the run is saved.
        """
        try:
            if self.config.dry_run:
                found = self.keeper.preview()
                self.say("\n".join(plan.describe(self, found)))
            else:
                self._run()
        finally:
            self.close()
        return self.output_dir

    def _run(self) -> None:
        self.on_main(self.keeper.begin)
        self.keeper.resume()
        self.keeper.save_settings()
        if self.state.step >= self.total_steps and self.keeper.is_complete():
            self.say(f"complete at step {self.state.step}")
            return
        self.start_trackers()
        with self.notice:
            self._train()
            measured = self.state.validation[-1]["step"] if self.state.validation else None
            if self.held_out is not None and measured != self.state.step:
                self.validate()
        self.check_finite()
        self.keeper.collect_bad_images()
        average = self.chosen_average()
        weights = self.state.weights(average)
        self.on_main(lambda: self.keeper.save_results(weights, average))

    def _train(self) -> None:
        done, hidden = self.state.step, not self.accelerator.is_main_process
        with tqdm(total=self.total_steps, initial=done, desc="training", unit="step", disable=hidden) as bar:
            self.model.train()
            since, steps_since = time.perf_counter(), 0
            while self.state.step < self.total_steps:
                self.train_step()
                steps_since += 1
                bar.update()
                last = self.state.step == self.total_steps
                if last or self.state.step % self.config.logging_steps == 0:
                    record = self.log(time.perf_counter() - since, steps_since)
                    loss, speed = record.get("loss", math.nan), record["images_per_second"]
                    bar.set_postfix(loss=f"{loss:.4f}", images_per_s=f"{speed:.0f}")
                    since, steps_since = time.perf_counter(), 0
                started = time.perf_counter()
                self._between_steps(last)
                # Saving, measuring and sampling are not training time.
                since += time.perf_counter() - started

    def _between_steps(self, last: bool) -> None:
        config, step = self.config, self.state.step

        def due(every: int | None) -> bool:
            return every is not None and (last or step % every == 0)

        if self.held_out is not None and due(config.validation_steps):
            self.validate()
        saved = self.save_checkpoint() if due(config.checkpointing_steps) else self.keeper.saved_step == step
        signum = None if last else self._agreed_to_stop()
        if signum:
            raise self._stopped(signum, saved or self.save_checkpoint())
        if not last and due(config.save_images_steps):
            self.keeper.save_progress(self.state.weights(self.chosen_average()), lambda: self.notice.signum)

    def _agreed_to_stop(self) -> int | None:
        """Return the signal that has come to any process, the same on all of them."""
        if self.accelerator.num_processes == 1:
            return self.notice.signum
        if self.state.step % _STEPS_BETWEEN_AGREEMENTS:
            return None
        mine = torch.tensor([self.notice.signum or 0], device=self.device)
        return int(self.accelerator.gather(mine).max()) or None

    def _stopped(self, signum: int, saved: bool) -> RunStopped | RunError:
        name = signal.Signals(signum).name
        if not saved:
            step = self.state.step
            return RunError(f"stopped by {name} at step {step}, which could not be saved; {self.keeper.last_safe()}")
        return RunStopped(
            f"stopped by {name} at step {self.state.step} of {self.total_steps} and saved in {self.keeper.folder}; "
            f"the same command continues, and with --max_train_steps {self.state.step} makes the model as it is",
            signum,
        )


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
    return Trainer(config).run()
