"""One step of training, from images to weights: algorithm 1 of Ho et al. 2020 (arXiv:2006.11239), with Accelerate.

Data order, flips, timesteps, noise and dropout are functions of (seed, step, position in the batch), and the learning
rate is a function of the step. What a run has to remember is therefore small: see `TrainState`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from inspect import signature

import torch

from ddpm_cars.diffusion.losses import diffusion_losses
from ddpm_cars.errors import RunError
from ddpm_cars.pipeline_ddpm_cars import CapturedFunction
from ddpm_cars.training.batches import Batch, BatchMaker
from ddpm_cars.training.divergence import FiniteWatch
from ddpm_cars.training.log import quarter_sums
from ddpm_cars.training.optimizer import announce_capture, set_learning_rate
from ddpm_cars.training.run import Run
from ddpm_cars.training.state import TrainState, full_tensor


class CapturedStep:
    """Updates the weights by replaying a captured graph, which one GPU repeats without waiting for Python.

    What is captured is `update`, in which the optimiser takes its step. It must not wait for the device, and whatever
    changes from step to step besides the batches it must read from there.
    """

    def __init__(
        self,
        update: Callable[[Sequence[Batch]], torch.Tensor],
        optimizer: torch.optim.Optimizer,
        capture: Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]] = CapturedFunction,
    ):
        self.update = update
        self.optimizer = optimizer
        self._num_batches = 0
        self._captured = capture(self._run)

    def __call__(self, batches: Sequence[Batch]) -> torch.Tensor:
        """Return what `update` returns, a tensor that nobody has waited for; RunError says if the GPU cannot do it."""
        self._num_batches = len(batches)
        try:
            return self._captured(*(tensor for batch in batches for tensor in batch if tensor is not None))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:300]
            raise RunError(
                f"a compiled step cannot be taken here ({type(error).__name__}: {reason}); the same command without "
                "--compile goes on from the last checkpoint"
            ) from error

    def _run(self, *tensors: torch.Tensor) -> torch.Tensor:
        n = len(tensors) // self._num_batches
        parts = [tensors[i : i + n] for i in range(0, len(tensors), n)]
        announce_capture(self.optimizer)
        return self.update([Batch(part[0], part[1], part[2], part[3] if n == 4 else None) for part in parts])


class TrainStep:
    """Takes the steps of a run."""

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
        self.captured = CapturedStep(self.update, state.optimizer) if state.captured else None

    def __call__(self) -> torch.Tensor:
        """Take one optimiser step and return this process's mean loss, a tensor that nobody has waited for.

        Raises FloatingPointError if more steps than `max_skipped_steps` are not finite, RunError if the step cannot be
        captured.
        """
        state = self.state
        set_learning_rate(state.optimizer, self.run.learning_rate(state.step))
        state.averages.set_rates(state.num_updates + 1)
        seen = self.update(self._batches()) if self.captured is None else self.captured(list(self._batches()))
        state.step += 1
        # Where steps may be left out, each was looked at while it was taken.
        if self.run.config.max_skipped_steps == 0:
            self.watch.remember(state.step, seen)
        return seen[0]

    def _batches(self) -> Iterator[Batch]:
        state = self.state
        for micro_step in range(self.run.accumulation):
            if state.dropout_seeds.num_layers:
                state.dropout_seeds.values = self.draw_batch.row_seeds(state.step, micro_step)
            yield self.draw_batch(state.step, micro_step)

    def update(self, batches: Iterable[Batch]) -> torch.Tensor:
        """Update weights, averages and the record in the making; return loss and gradient norm, float64 (2,).

        A captured step does not wait for the device.
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
        return seen

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
