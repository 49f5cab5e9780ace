"""The curve of the training loss."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_cars.figures.style import COLOURS, FAINT, label_ends, make_figure, plain_numbers, save_figure


def plot_loss(
    history: Sequence[Mapping[str, Any]], path: str | Path, validation: Sequence[Mapping[str, Any]] = ()
) -> Path:
    """Draw the loss over the optimiser steps as a PNG file.

    Args:
        history: Records with "step" and "loss", and perhaps "loss_q1" to "loss_q4" for the quarters of the timesteps.
        path: Where to write.
        validation: Records with "step" and "eps_mse", which has a value for each average of the weights.

    Returns:
        `path`.
    """
    curves: list[tuple[list[tuple[int, float]], str, dict[str, Any]]] = []
    for i, colour in enumerate(COLOURS[2:6], start=1):
        # A record in which every step was left out has no loss.
        quarter = [(record["step"], record[f"loss_q{i}"]) for record in history if f"loss_q{i}" in record]
        curves.append((quarter, f"t in quarter {i} of T", {"color": colour, "linewidth": 0.8}))
    losses = [(record["step"], record["loss"]) for record in history if "loss" in record]
    window = max(1, len(losses) // 20)
    if window > 1:
        curves.append((losses, "", {"color": FAINT, "linewidth": 0.6, "alpha": 0.5}))
        steps, values = zip(*losses, strict=True)
        smooth = np.convolve(values, np.ones(window) / window, mode="valid").tolist()
        losses = list(zip(steps[window - 1 :], smooth, strict=True))
    name = "loss" if window == 1 else f"loss, mean of {window} points"
    curves.append((losses, name, {"color": COLOURS[0], "linewidth": 1.8}))
    lowest = [(record["step"], min(record["eps_mse"].values())) for record in validation]
    curves.append((lowest, "held out", {"color": COLOURS[1], "marker": "o", "markersize": 3}))
    figure, (axes,) = make_figure()
    axes.set(xlabel="optimiser step", ylabel="mean squared error", yscale="log")
    drawn = [curve for curve in curves if curve[0]]
    for points, _, options in drawn:
        axes.plot(*zip(*points, strict=True), **options)
    plain_numbers(axes)
    label_ends(axes, [(*points[-1], name, options["color"]) for points, name, options in drawn if name])
    return save_figure(figure, path)
