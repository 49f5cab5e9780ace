"""TODO src/ddpm_cars/figures/curves.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_cars.runtime.files import atomic_path


def plot_loss(
    history: Sequence[Mapping[str, Any]], path: str | Path, validation: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Draw the loss over the optimiser steps as a PNG.

    Args:
        history: Records with "step" and "loss", and perhaps "loss_q1" to "loss_q4", of the quarters of the timesteps.
        path: Where to write.
        validation: Records with "step" and "eps_mse", which has a value for each average of the weights.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    # A record in which every step was left out has no loss.
    steps = [record["step"] for record in history if "loss" in record]
    losses = [record["loss"] for record in history if "loss" in record]
    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    window = max(1, len(losses) // 20)
    for i, colour in enumerate(("#f3b562", "#d9c58b", "#b5c9a8", "#8fb8b3"), start=1):
        quarter = [(record["step"], record[f"loss_q{i}"]) for record in history if f"loss_q{i}" in record]
        if quarter:
            axes.plot(*zip(*quarter, strict=True), color=colour, linewidth=0.8, label=f"t in quarter {i} of T")
    axes.plot(steps, losses, color="#27548a" if window == 1 else "#b9c4d6", linewidth=1.5, label="loss")
    if window > 1:
        smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
        axes.plot(steps[window - 1 :], smooth, color="#27548a", linewidth=1.8, label=f"mean of {window} points")
    if validation:
        lowest = [(record["step"], min(record["eps_mse"].values())) for record in validation]
        axes.plot(*zip(*lowest, strict=True), color="#a3243b", marker="o", markersize=3, label="held out")
    if len(axes.lines) > 1:
        axes.legend(frameon=False, fontsize="small")
    axes.set(xlabel="optimiser step", ylabel="mean squared error", yscale="log")
    # Over several decades there is room for the numbers 1, 2 and 5 only.
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    for axis_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        axis_formatter("{x:.3g}")
    axes.grid(which="both", color="#eeeeee", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path
