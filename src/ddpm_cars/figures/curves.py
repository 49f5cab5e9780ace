"""Curves in the one style of all plots: panels, lines, numbers on axes, names at the ends of curves; and the loss."""

from collections.abc import Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_cars.runtime.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#2b2b2b"
FAINT = "#6b6b6b"
_RULE = "#9a9a9a"
# Told apart with every kind of colour vision, and dark enough to write with.
COLOURS = ("#27548a", "#7d1538", "#118866", "#3a98e8", "#cc66aa", "#99921a", "#775500")
MARKERS = "osD^vPX"
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (1.5, 1.5)))


def make_figure(
    num_panels: int = 1, num_labels: int = 0, size: tuple[float, float] | None = None
) -> tuple["Figure", list["Axes"]]:
    """Return a figure with one or two panels side by side, and room for names of curves, one below the other.

    `size` is width and height in inches; None goes by the two numbers.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = size or (9.6 if num_panels == 2 else 7.2, max(3.6, 0.8 + 0.19 * num_labels))
    figure = Figure(figsize=size, dpi=180, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, num_panels, squeeze=False)[0])
    for axes in panels:
        axes.grid(color=_RULE, alpha=0.2, linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(_RULE)
        axes.tick_params(which="both", color=_RULE, labelcolor=INK, labelsize="small")
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=INK, fontsize="small")
    return figure, panels


def save_figure(figure: "Figure", path: Path) -> None:
    """Write a figure as a PNG file, with the titles of its panels on the left."""
    for axes in figure.axes:
        axes.set_title(axes.get_title(), loc="left", fontsize="medium", color=INK)
        axes.set_title("")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")


def figure_to_svg(figure: "Figure") -> str:
    """Return a figure as an `<svg>` element, transparent, with the colour of the text around it in place of INK."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    # The head of a file is not allowed inside of a page.
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(INK, "currentColor")


def line_style(colour: int, dash: int = 0) -> dict[str, Any]:
    """Return the options of a line by the numbers of its colour and its dashes, which start anew at their ends."""
    return {"color": COLOURS[colour % len(COLOURS)], "linestyle": _DASHES[dash % len(_DASHES)], "linewidth": 1.6}


def plain_numbers(axes: "Axes") -> None:
    """Write 20 and 50 on a logarithmic y axis, not powers of ten, and 2 and 5 only where there is room for them."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_ylim()
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if high < 500 * low else ()))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter("{x:g}")


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the names of curves right of the axes, each with a hairline to the end of its curve.

    The axes have their scales and limits. `ends` are, for every curve, x and y of its end, its name, and its colour.
    """
    # The limits of axes are brought up to date when they are asked for.
    axes.get_xlim(), axes.get_ylim()
    heights = [float(axes.transLimits.transform(axes.transScale.transform((x, y)))[1]) for x, y, _, _ in ends]
    gap = min(0.065, 1 / max(1, len(ends)))
    for (x, y, text, colour), height in zip(ends, spread(heights, gap), strict=True):
        hairline = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            text, (x, y), (1.03, height), textcoords="axes fraction", color=colour, fontsize="small", va="center",
            arrowprops={**hairline, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights into 0 to 1, and as little as leaves `gap` between any two: neighbours spread about their mean."""
    order = np.argsort(heights, kind="stable")
    runs: list[list[float]] = []
    for rank, i in enumerate(order):
        runs.append([heights[i] - rank * gap])
        while len(runs) > 1 and np.mean(runs[-2]) > np.mean(runs[-1]):
            runs[-2:] = [runs[-2] + runs[-1]]
    means = np.array([np.mean(run) for run in runs for _ in run]).clip(0, max(0, 1 - gap * (len(heights) - 1)))
    moved = np.empty(len(heights))
    moved[order] = means + gap * np.arange(len(heights))
    return moved.tolist()


def plot_loss(history: Sequence[Mapping[str, Any]], path: Path, validation: Sequence[Mapping[str, Any]] = ()) -> None:
    """Draw the loss over the optimiser steps as a PNG file.

    Records of `history` have "step" and "loss", and perhaps "loss_q1" to "loss_q4" for the quarters of the timesteps;
    those of `validation` have "step" and "eps_mse", which has a value for each average of the weights.
    """
    curves: list[tuple[list[tuple[int, float]], str, dict[str, Any]]] = []
    noise = ("least noise", "less noise", "more noise", "most noise")
    for i, (colour, amount) in enumerate(zip(COLOURS[2:6], noise, strict=True), start=1):
        # A record in which every step was left out has no loss.
        quarter = [(record["step"], record[f"loss_q{i}"]) for record in history if f"loss_q{i}" in record]
        curves.append((quarter, f"timesteps of {amount}", {"color": colour, "linewidth": 0.8}))
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
    save_figure(figure, path)
