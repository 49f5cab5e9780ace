"""Schedulers by their names, and whether they can draw from a model."""

from collections.abc import Iterable
from typing import Any, get_args

import diffusers
import numpy as np

from ddpm_cars.config.schedulers import check_scheduler
from ddpm_cars.config.values import either
from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runtime.console import count
from ddpm_cars.sampling.trial import fault_of
from ddpm_cars.scheduling_ddpm_cars import CALIBRATED_VARIANCES, DDPMCarsScheduler, VarianceType, betas_of

WELL_KNOWN = ("DDPMCarsScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
"""The schedulers that are named to people first."""
_LEAST_ALPHA_BAR = 2.0**-24
"""What diffusers' schedulers take for an alpha_bar of 0, which many of them would divide by."""


def make_scheduler(name: str, config: Any, variance_type: str | None = None) -> Any:
    """Build a scheduler by class name from the config of another, with the same noise levels.

    Args:
        name: `DDPMCarsScheduler` or a scheduler class of diffusers, such as `DDIMScheduler`. A class that does not
            know the noise schedule, or passes over a part of it, is given the betas as `trained_betas`.
        config: The config to take over.
        variance_type: The variance of the steps; None leaves it as it is in the config.

    Raises:
        UserError: If there is no such class, it does not work with these models, or `variance_type` depends on a
            calibration that the config does not hold.
    """
    if variance_type in CALIBRATED_VARIANCES:
        measured = "band_eps_mse" if variance_type == "spectral" else "eps_mse"
        if measured not in (config.get("_calibration") or {}):
            raise UserError(
                f"variance_type is {variance_type}, which has to be measured of the model first: give its folder to "
                f"ddpm-cars calibrate --variance_type {variance_type}, or choose fixed_small"
            )
    options = {} if variance_type is None else {"variance_type": variance_type}
    check_scheduler("scheduler is", name)
    try:
        if name == "DDPMCarsScheduler":
            return DDPMCarsScheduler.from_config(config, **options)
        return _of_diffusers(getattr(diffusers, name), config, options)
    except Exception as error:
        # Schedulers of diffusers raise whatever their arithmetic runs into.
        reason = " ".join(str(error).split()).removesuffix(".")
        if not isinstance(error, (NotImplementedError, ImportError, ValueError)):
            reason = f"{type(error).__name__}, {reason}"
        raise UserError(f"{name} cannot be made for this model: {reason}; choose another scheduler") from error


def _of_diffusers(scheduler_class: Any, config: Any, options: dict[str, Any]) -> Any:
    try:
        alpha_bar = DDPMCarsScheduler.from_config(config).alphas_cumprod_float64
    except (NotImplementedError, ValueError):
        # The noise levels are those of another class, which may know them.
        return scheduler_class.from_config(config, **options)
    try:
        scheduler = scheduler_class.from_config(config, **options)
        if np.allclose(scheduler.alphas_cumprod.double(), alpha_bar, rtol=1e-3, atol=1e-5):
            return scheduler
    except NotImplementedError:
        # It does not know this beta_schedule.
        pass
    if alpha_bar[-1] == 0:
        alpha_bar = np.append(alpha_bar[:-1], np.append(alpha_bar[:-1] / 2, _LEAST_ALPHA_BAR).min())
    # In the config itself, where a class leaves what it does not take as it is.
    handed = {"trained_betas": betas_of(alpha_bar).tolist(), "rescale_betas_zero_snr": False}
    unsaid = sorted(set(config.get("_use_default_values", ())) - handed.keys())
    return scheduler_class.from_config({**config, **handed, "_use_default_values": unsaid}, **options)


def sampler_from_config(name: str, config: Any) -> Any:
    """Build a scheduler from a variance of `DDPMCarsScheduler`, such as "fixed_small", or as `make_scheduler` does."""
    if name in get_args(VarianceType):
        return make_scheduler("DDPMCarsScheduler", config, variance_type=name)
    return make_scheduler(name, config)


def check_sampler(scheduler: Any, num_inference_steps: int) -> None:
    """Raise UserError if a scheduler cannot draw from its model in a number of steps, with those that can.

    The steps are tried out on a few numbers, with a perfect network for Gaussian data: see `ddpm_cars.sampling.trial`.

    Args:
        scheduler: The scheduler, whose config says what the model was trained with. It is not changed.
        num_inference_steps: The number of denoising steps, 1 or more.
    """
    fault, name = fault_of(scheduler, num_inference_steps), type(scheduler).__name__
    if fault is None:
        return
    T = scheduler.config.num_train_timesteps
    numbers = (n for n in (20, 50, 100, T // 2) if 1 <= n <= T and n != num_inference_steps)
    number = next((n for n in numbers if fault_of(scheduler, n) is None), None)
    cure = "choose " if number is None else f"choose another number of steps, such as {number}, or the scheduler "
    others = able_schedulers(WELL_KNOWN, scheduler.config, num_inference_steps)
    cure += either([other for other in others if other != name] or ["another scheduler"])
    raise UserError(f"{name} cannot draw from this model in {count(num_inference_steps, 'step')} ({fault}); {cure}")


def able_schedulers(names: Iterable[str], config: Any, num_inference_steps: int) -> list[str]:
    """Return which schedulers can draw in a number of steps from the model that a scheduler's config is of."""
    able = []
    for name in names:
        try:
            scheduler = make_scheduler(name, config)
        except UserError:
            continue
        if fault_of(scheduler, num_inference_steps) is None:
            able.append(name)
    return able


def with_scheduler(pipeline: DDPMCarsPipeline, scheduler: Any) -> DDPMCarsPipeline:
    """Return a pipeline around the same network with another scheduler, whose state the first one does not share."""
    own = DDPMCarsPipeline(pipeline.unet, scheduler, pipeline.config.get("id2label"))
    # The constructor takes some schedulers for stand-ins of others.
    own.scheduler = scheduler
    return own
