"""The noise schedule of a model as numbers, and as drawings for the demo page."""

from typing import Any

import numpy as np

from ddpm_cars.demo.requests import OWN_SCHEDULER, variance_choices, whole_number
from ddpm_cars.figures.curves import COLOURS, INK, figure_to_svg, make_figure
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.sampling.samplers import make_scheduler
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler, posterior

# These colours can be seen on light and on dark pages.
_BLUE, _RED, _AMBER = COLOURS[3:6]
# More marks than these run into a line.
_MAX_MARKS = 100


def schedule_curves(pipeline: DDPMCarsPipeline, num_inference_steps: Any) -> dict[str, np.ndarray]:
    """Return the noise schedule of a model, and the variances that a chain of some of its timesteps adds, in float64.

    "alpha_bar" and "snr" have T values. "timesteps" are those that are visited, descending; "beta", "beta_tilde" and,
    for a calibrated model, "analytic" belong to all of these but the last, whose step adds no noise. Raises UserError
    if the number of steps is no integer in [1, T].
    """
    steps = whole_number(num_inference_steps, "the number of steps", 1, pipeline.scheduler.config.num_train_timesteps)
    is_calibrated = "analytic" in variance_choices(pipeline)
    variance_type = "analytic" if is_calibrated else "fixed_small"
    scheduler: DDPMCarsScheduler = make_scheduler(OWN_SCHEDULER, pipeline.scheduler.config, variance_type)
    scheduler.set_timesteps(steps)
    alpha_bar, timesteps = scheduler.alphas_cumprod_float64, scheduler.timesteps.numpy()
    _, _, beta, beta_tilde = posterior(alpha_bar[timesteps[:-1]], alpha_bar[timesteps[1:]])
    curves = {
        "alpha_bar": alpha_bar,
        "snr": alpha_bar / np.maximum(1 - alpha_bar, 1e-12),
        "timesteps": timesteps.astype(np.float64),
        "beta": beta,
        "beta_tilde": beta_tilde,
    }
    if is_calibrated:
        curves["analytic"] = scheduler.noise_std[:-1] ** 2
    return curves


def schedule_drawings(curves: dict[str, np.ndarray]) -> list[tuple[str, str]]:
    """Return a caption and an `<svg>` element each for alpha_bar, the signal-to-noise ratio and the variances."""
    t, visited = np.arange(len(curves["alpha_bar"])), curves["timesteps"].astype(int)
    drawings = []
    for name, caption, scale in (
        ("alpha_bar", "What is left of the image: ᾱ over t", "linear"),
        ("snr", "Signal-to-noise ratio ᾱ / (1 - ᾱ) over t", "log"),
    ):
        # Schedules that end in pure noise have a 0, which has no logarithm.
        values = np.where(curves[name] > 0, curves[name], np.nan) if scale == "log" else curves[name]
        figure, axes = _axes(len(t), scale)
        axes.plot(t, values, color=_BLUE, linewidth=1.8)
        if len(visited) <= _MAX_MARKS:
            axes.plot(visited, values[visited], "o", color=_RED, markersize=3.5)
        drawings.append((caption, figure_to_svg(figure)))
    figure, axes = _axes(len(t), "log")
    for name, label, colour in (
        ("beta", "β, fixed_large", _RED),
        ("beta_tilde", "β̃, fixed_small", _BLUE),
        ("analytic", "analytic", _AMBER),
    ):
        if len(visited) > 1 and name in curves:
            marker = "o" if len(visited) <= _MAX_MARKS else None
            axes.plot(visited[:-1], curves[name], color=colour, label=label, marker=marker, markersize=3)
    if axes.lines:
        axes.legend(frameon=False, labelcolor=INK, loc="lower right")
    else:
        axes.text(0.5, 0.5, "a single step adds no noise", color=INK, ha="center", transform=axes.transAxes)
    drawings.append(("Variance that a step adds", figure_to_svg(figure)))
    return drawings


def _axes(num_timesteps: int, scale: str) -> tuple[Any, Any]:
    figure, (axes,) = make_figure(size=(4.6, 3.4))
    axes.set(xlabel="t", yscale=scale, xlim=(-0.02 * num_timesteps, 1.02 * num_timesteps))
    return figure, axes


def plots(pipeline: DDPMCarsPipeline, num_inference_steps: object) -> str:
    """Return the plots of the noise schedule as HTML. `schedule_curves` checks `num_inference_steps`."""
    drawings = schedule_drawings(schedule_curves(pipeline, num_inference_steps))
    figures = (f"<figure><figcaption>{caption}</figcaption>{svg}</figure>" for caption, svg in drawings)
    return f"<div class='plots'>{''.join(figures)}</div>"
