"""TODO src/ddpm_cars/figures/style.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_cars.runtime.files import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = "#2b2b2b"

_FAINT = "#6b6b6b"

# Told apart with every kind of colour vision, and dark enough to write with.
_COLOURS = ("#27548a", "#7d1538", "#118866", "#3a98e8", "#cc66aa", "#99921a", "#775500")

_MARKERS = "osD^vPX"

_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (5, 2, 1, 2)), (0, (1.5, 1.5)))


def _figure(num_panels: int, num_labels: int = 0) -> tuple["Figure", list["Axes"]]:
    """Return panels side by side, high enough for so many names of curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    size = (9.6 if num_panels == 2 else 7.2, max(3.6, 0.8 + 0.19 * num_labels))
    figure = Figure(figsize=size, dpi=180, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(1, num_panels, squeeze=False)[0])
    for axes in panels:
        axes.grid(color="#ececec", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#9a9a9a")
        axes.tick_params(which="both", color="#9a9a9a", labelcolor=_INK, labelsize="small")
    return figure, panels


def _finish(figure: "Figure", path: str | Path) -> Path:
    for axes in figure.axes:
        axes.set_title(axes.get_title(), loc="left", fontsize="medium", color=_INK)
        axes.set_title("")
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set(color=_INK, fontsize="small")
    path = Path(path)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
    return path


def _line_style(colour: int, dash: int = 0) -> dict[str, Any]:
    return {
        "color": _COLOURS[colour % len(_COLOURS)],
        "linestyle": _DASHES[dash % len(_DASHES)],
        "linewidth": 1.6,
    }


def _plain_numbers(axes: "Axes") -> None:
    """Write 20 and 50 on a logarithmic axis, not powers of ten, and 2 and 5 only where there is room for them."""
    from matplotlib.ticker import LogLocator

    low, high = axes.get_ylim()
    axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5) if high < 500 * low else ()))
    for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
        set_formatter("{x:g}")


def _label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Write the names of curves right of the axes, each with a hairline to the (x, y) where its curve ends."""
    gap = min(0.065, 1 / len(ends))
    heights = [float(axes.transLimits.transform(axes.transScale.transform((x, y)))[1]) for x, y, _, _ in ends]
    for (x, y, text, colour), height in zip(ends, _spread(heights, gap), strict=True):
        hairline = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2}
        axes.annotate(
            text, (x, y), (1.03, height), textcoords="axes fraction", color=colour, fontsize="small", va="center",
            arrowprops={**hairline, "relpos": (0, 0.5)},
        )  # fmt: skip


def _spread(heights: Sequence[float], gap: float) -> list[float]:
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
