"""Schedulers by their names."""

from typing import Any, get_args

import diffusers

from ddpm_cars.config.commands import check_scheduler
from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.scheduling_ddpm_cars import CALIBRATED_VARIANCES, DDPMCarsScheduler, VarianceType


def make_scheduler(name: str, config: Any, variance_type: str | None = None) -> Any:
    """Build a scheduler by class name from the config of another.

    Args:
        name: `DDPMCarsScheduler` or a scheduler class of diffusers, such as `DDIMScheduler`.
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
    if name == "DDPMCarsScheduler":
        return DDPMCarsScheduler.from_config(config, **options)
    return getattr(diffusers, name).from_config(config, **options)


def sampler_from_config(name: str, config: Any) -> Any:
    """Build a scheduler from a variance of `DDPMCarsScheduler`, such as "fixed_small", or as `make_scheduler` does."""
    if name in get_args(VarianceType):
        return make_scheduler("DDPMCarsScheduler", config, variance_type=name)
    return make_scheduler(name, config)


def with_scheduler(pipeline: DDPMCarsPipeline, scheduler: Any) -> DDPMCarsPipeline:
    """Return a pipeline around the same network with another scheduler, whose state the first one does not share."""
    own = DDPMCarsPipeline(pipeline.unet, scheduler, pipeline.config.get("id2label"))
    # The constructor takes some schedulers for stand-ins of others.
    own.scheduler = scheduler
    return own
