"""One step of training, from images to weights: algorithm 1 of Ho et al. 2020 (arXiv:2006.11239), with Accelerate.

Data order, flips, timesteps, noise and dropout are functions of (seed, step, position in the batch), and the learning
rate is a function of the step. What a run has to remember is therefore small: see `TrainState`.
"""

from collections.abc import Iterable, Iterator
from inspect import signature

import torch

from ddpm_cars.diffusion.losses import diffusion_losses
from ddpm_cars.training.batches import Batch, BatchMaker
from ddpm_cars.training.captured_step import CapturedStep
from ddpm_cars.training.divergence import FiniteWatch
from ddpm_cars.training.log import quarter_sums
from ddpm_cars.training.optimizer import set_learning_rate
from ddpm_cars.training.run import Run
from ddpm_cars.training.state import TrainState, full_tensor


class TrainStep:
    """Takes the steps of a run.

    Args:
        run: What does not change.
        state: What a step changes.
        watch: Looks for losses and gradients that are not finite.

    Attributes:
        draw_batch: Makes the batches of a step.
        captured: Replays `update` as a graph, or None.
    """

    def __init__(self, run: Run, state: TrainState, watch: FiniteWatch):
        self.run = run
        self.state = state
        self.watch = watch
        self.draw_batch = BatchMaker(
            run.config, state.source, run.rows, run.global_batch_size, run.num_classes, run.device, run.memory_format
        )
        # What the loss takes besides tensors are settings of the same names.
        names = signature(diffusion_losses).parameters
        self.loss_settings = {name: getattr(run.config, name) for name in names if hasattr(run.config, name)}
        self.captured: CapturedStep | None = None
        if state.captured:
            self.captured = CapturedStep(lambda batches: self.update(batches)[0], state.optimizer)

    def __call__(self) -> torch.Tensor:
        """Take one optimiser step and return this process's mean loss, a tensor that nobody has waited for.

        Raises:
            FloatingPointError: If more steps than `max_skipped_steps` are not finite.
            RunError: If the step cannot be captured.
        """
        state = self.state
        set_learning_rate(state.optimizer, self.run.learning_rate(state.step))
        state.averages.set_rates(state.num_updates + 1)
        if self.captured is not None:
            seen, taken = self.captured(list(self._batches())), True
        else:
            seen, taken = self.update(self._batches())
        state.step += 1
        if taken:
            self.watch.remember(state.step, seen)
        return seen[0]

    def _batches(self) -> Iterator[Batch]:
        state = self.state
        for micro_step in range(self.run.accumulation):
            if state.dropout_seeds.num_layers:
                state.dropout_seeds.values = self.draw_batch.row_seeds(state.step, micro_step)
            yield self.draw_batch(state.step, micro_step)

    def update(self, batches: Iterable[Batch]) -> tuple[torch.Tensor, bool]:
        """Update weights, averages and the record in the making; a captured step does not wait for the device.

        Returns:
            Loss and gradient norm, float64 (2,), and whether the step was taken and not left out.
        """
        state, scaler = self.state, self.run.accelerator.scaler
        parts = torch.stack([self._add_gradient(batch) for batch in batches])
        loss, norm = parts[:, 0].mean(), self._clip_gradient()
        seen = torch.stack([loss, norm])
        skip = self.run.config.max_skipped_steps > 0 and self.watch.must_skip(seen, state)
        # The scaler leaves such a step out by itself, and has to know of it.
        if not skip or scaler is not None:
            state.optimizer.step()
        state.optimizer.zero_grad()
        if not skip:
            state.averages.step()
            state.log.add(loss, norm, parts[:, 1:].sum(0))
        return seen, not skip

    def _add_gradient(self, batch: Batch) -> torch.Tensor:
        """Add the gradient of one batch; return its mean loss, then what `quarter_sums` gives, float64 (9,)."""
        run, (x_0, eps, t, class_labels) = self.run, batch
        x_t = run.noise_scheduler.add_noise(x_0, eps, t)
        with run.accelerator.accumulate(self.state.model):
            output = self.state.model(x_t, t, class_labels=class_labels).sample
            losses, mse = diffusion_losses(run.noise_scheduler, output, x_0, x_t, eps, t, **self.loss_settings)
            loss = losses.mean()
            run.accelerator.backward(loss)
        return torch.cat([loss.detach().double()[None], quarter_sums(mse, t, run.config.num_train_timesteps)])

    def _clip_gradient(self) -> torch.Tensor:
        """Return the norm of the gradient, float64 on the device, and scale it down to `max_grad_norm`."""
        accelerator, limit = self.run.accelerator, self.run.config.max_grad_norm
        parameters = [p for p in self.state.model.parameters() if p.grad is not None]
        if limit is not None:
            norm = accelerator.clip_grad_norm_(parameters, limit)
        else:
            accelerator.unscale_gradients()
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters])
        return full_tensor(norm).detach().double()

    def close(self) -> None:
        """Let go of the memory that a captured step holds."""
        self.captured = None
