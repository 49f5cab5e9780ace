"""The noise schedule of a model as numbers, and as drawings for the demo page."""

from typing import Any

import numpy as np

from ddpm_cars.demo.requests import OWN_SCHEDULER, schedule_steps, variance_choices
from ddpm_cars.figures.curves import COLOURS, INK, figure_to_svg, make_figure
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.sampling.samplers import make_scheduler
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler, posterior

# These colours can be seen on light and on dark pages.
_BLUE, _RED = COLOURS[3:5]
# More marks than these run into a band, and are drawn as one.
_MAX_MARKS = 100
# Where curves lie on each other, the wider ones show on both sides of the narrower ones.
_VARIANCES: dict[str, tuple[str, dict[str, Any]]] = {
    "beta": ("β (fixed_large)", {"color": _RED, "linewidth": 6, "markersize": 8, "alpha": 0.6}),
    "beta_tilde": ("β̃ (fixed_small)", {"color": _BLUE, "linewidth": 3, "markersize": 5}),
    "analytic": ("analytic", {"color": INK, "linewidth": 0.9, "markersize": 2, "linestyle": (0, (4, 3))}),
}


def schedule_curves(pipeline: DDPMCarsPipeline, num_inference_steps: Any) -> dict[str, np.ndarray]:
    """Return the noise schedule of a model, and the variances that a chain of some of its timesteps adds, in float64.

    "alpha_bar" and "snr" have T values. "timesteps" are those that are visited, descending; "beta", "beta_tilde" and,
    for a calibrated model, "analytic" belong to all of these but the last, whose step adds no noise. Raises UserError
    if the number of steps is no integer in [1, T].
    """
    steps = schedule_steps(pipeline).check(num_inference_steps)
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
    has_marks = len(visited) <= _MAX_MARKS
    marks: dict[str, Any] = {"linewidth": 6, "alpha": 0.4, "zorder": 1}
    if has_marks:
        marks = {"marker": "o", "markersize": 3.5, "linestyle": "none", "zorder": 3}
    drawings = []
    for name, caption, scale in (
        ("alpha_bar", "What is left of the image: ᾱ over t", "linear"),
        ("snr", "Signal-to-noise ratio ᾱ / (1 - ᾱ) over t", "log"),
    ):
        # Schedules that end in pure noise have a 0, which has no logarithm.
        values = np.where(curves[name] > 0, curves[name], np.nan) if scale == "log" else curves[name]
        figure, axes = _axes(len(t), scale)
        axes.plot(t, values, color=_BLUE, linewidth=1.8, label=f"all {len(t)} timesteps")
        axes.plot(visited, values[visited], color=_RED, label=f"visited by a drawing ({len(visited)})", **marks)
        # Both curves fall.
        axes.legend(frameon=False, labelcolor=INK, loc="upper right")
        drawings.append((caption, figure_to_svg(figure)))
    figure, axes = _axes(len(t), "log")
    for name, (label, style) in _VARIANCES.items():
        if len(visited) > 1 and name in curves:
            axes.plot(visited[:-1], curves[name], label=label, marker="o" if has_marks else None, **style)
    if axes.lines:
        title = "a dot is a step" if has_marks else None
        legend = axes.legend(frameon=False, labelcolor=INK, loc="lower right", title=title)
        legend.get_title().set_color(INK)
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
    figures = (
        f'<figure role="img" aria-label="{caption}"><figcaption>{caption}</figcaption>{svg}</figure>'
        for caption, svg in drawings
    )
    return f"<div class='plots'>{''.join(figures)}</div>"
