"""Sampling step by step: what the network predicts, and the states that the steps lead to."""

import inspect
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ddpm_cars.portable.variances import LEARNED_VARIANCES


class DenoisingState(NamedTuple):
    """A batch of images between two steps of sampling.

    Attributes:
        timestep: t, the timestep that the next step starts from, shape (); None after the last step.
        sample: x_t, float32 (batch, channels, height, width), not clipped to [-1, 1].
        pred_original_sample: x_0_hat, the estimate of x_0 in the step that led to x_t, shaped like `sample`; None
            before the first step, and where the scheduler does not report it.
    """

    timestep: torch.Tensor | None
    sample: torch.Tensor
    pred_original_sample: torch.Tensor | None


def samples_with_learned_variance(scheduler: Any) -> bool:
    """Return whether a scheduler reads the variance of its steps from a second half of the model output."""
    # Configs keep the keys of other classes, so "variance_type" alone does not tell.
    get_variance = getattr(scheduler, "_get_variance", None)
    if get_variance is None or "predicted_variance" not in inspect.signature(get_variance).parameters:
        return False
    return scheduler.config.variance_type in LEARNED_VARIANCES


@dataclass(frozen=True)
class GuidedNetwork:
    """A network with classifier-free guidance, as a function of x_t and t.

    Attributes:
        network: Takes the model input, t of shape () on its device, and the classes; returns the model output.
        dtype: The floating point dtype of the network.
        scheduler: The scheduler that the model outputs are for.
        labels: The classes, shape (batch,), on the device of the samples; None for a network without classes.
        guidance_scale: Any finite number; 1 is the prediction for the class alone, at half the work.
        null_class: The class that stands for no class, None for a network that has learned none.
    """

    network: Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]
    dtype: torch.dtype
    scheduler: Any
    labels: torch.Tensor | None
    guidance_scale: float
    null_class: int | None

    def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """Compute eps_none + guidance_scale (eps_class - eps_none) (Ho & Salimans 2022, eq. 6), or alike x_0 or v.

        Args:
            x_t: Shape (batch, channels, height, width), float32 or wider.
            t: The timestep, shape ().

        Returns:
            The model output in the dtype of x_t. If the scheduler samples with a learned variance, the second half of
            its channels is the variance for the class.
        """
        model_input = self.scheduler.scale_model_input(x_t, t).to(self.dtype)
        if t.device != x_t.device:
            # The number is written there: a copy would wait for the device at every step.
            t = torch.full((), t.item(), dtype=t.dtype, device=x_t.device)
        n, labels, null_class = x_t.shape[1], self.labels, self.null_class
        if self.guidance_scale == 1 or labels is None or null_class is None:
            model_output = self.network(model_input, t, labels).to(x_t.dtype)
        else:
            both = torch.cat([labels, torch.full_like(labels, null_class)])
            outputs = self.network(torch.cat([model_input] * 2), t, both).to(x_t.dtype)
            of_class, of_none = outputs.chunk(2)
            # A learned variance, the second half, is no direction to go further in.
            of_class, variance, of_none = of_class[:, :n], of_class[:, n:], of_none[:, :n]
            model_output = torch.cat([of_none + self.guidance_scale * (of_class - of_none), variance], dim=1)
        if model_output.shape[1] == 2 * n and not samples_with_learned_variance(self.scheduler):
            # The second half is a variance that this scheduler has no use for.
            return model_output[:, :n]
        return model_output


def denoising_states(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: Any,
    x_T: torch.Tensor,
    generator: torch.Generator | list[torch.Generator] | None,
    bar: Any,
) -> Generator[DenoisingState, torch.Tensor | None, None]:
    """Run the steps of a scheduler (Ho et al. 2020, algorithm 2), each when the state that it leads to is asked for.

    Args:
        predict: Takes x_t and t, and returns the model output.
        scheduler: Set to the timesteps of sampling.
        x_T: Where sampling starts, float32 (batch, channels, height, width).
        generator: The source of the noise that the steps add.
        bar: A progress bar, updated after every step.

    Yields:
        The start, then the state after every step. A tensor that is sent takes the place of the sample that was
        yielded last.
    """
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    step_kwargs = {"generator": generator} if takes_generator else {}
    x_t, x_0_hat = x_T, None
    for t in scheduler.timesteps:
        sent = yield DenoisingState(t, x_t, x_0_hat)
        x_t = x_t if sent is None else sent
        step = scheduler.step(predict(x_t, t), t, x_t, **step_kwargs)
        x_t, x_0_hat = step.prev_sample, getattr(step, "pred_original_sample", None)
        bar.update()
    yield DenoisingState(None, x_t, x_0_hat)
