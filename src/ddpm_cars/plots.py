"""Pictures of pictures, and of numbers: grids, strips and curves, written without a display."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ddpm_cars.checkpoints import atomic_path
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

_PAPER = (255, 255, 255)
_INK = (90, 90, 90)


def to_pil(samples: torch.Tensor) -> list[Image.Image]:
    """Turn samples (batch, 1 or 3, height, width) in [-1, 1] into PIL images; values outside are clipped."""
    array = ((samples.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return arrays_to_pil(array)


def noisy_to_pil(x_t: torch.Tensor) -> list[Image.Image]:
    """Turn samples on their way out of the noise into PIL images, as `to_pil` does.

    Some schedulers carry x_t / sqrt(alpha_bar_t); brought back to unit range, noise looks like noise.
    """
    return to_pil(x_t / max(1.0, float(x_t.std())))


def arrays_to_pil(images: np.ndarray) -> list[Image.Image]:
    """Turn pictures, uint8 (batch, height, width, 1 or 3), into PIL images."""
    return [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images]


def save_png(image: Image.Image, path: str | Path) -> Path:
    """Write a PNG atomically, with the folders above it.

    Raises:
        OSError: If it cannot be written; its `filename` says where.
    """
    path = Path(path)
    try:
        with atomic_path(path) as temporary:
            image.save(temporary, format="PNG")
    except OSError as error:
        if error.filename is None:
            # A full disk is noticed when bytes are written, which know no name.
            error.filename = str(path)
        raise
    return path


def make_grid(
    images: Sequence[Image.Image],
    num_columns: int | None = None,
    labels: Sequence[str] | None = None,
    min_size: int = 96,
) -> Image.Image:
    """Lay images out in rows, with a hairline of white between them.

    Args:
        images: One or more, all of one size.
        num_columns: How many to a row; None makes the grid about square.
        labels: Text above each column.
        min_size: Smaller images are enlarged by a whole factor until they are this wide, so that they can be seen.

    Returns:
        An RGB image.
    """
    columns = num_columns or int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    factor = max(1, -(-min_size // images[0].width))
    width, height, gap = images[0].width * factor, images[0].height * factor, 2
    header = 16 if labels else 0
    grid = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap + header), _PAPER)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        tile = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        grid.paste(tile, (gap + column * (width + gap), gap + header + row * (height + gap)))
    draw = ImageDraw.Draw(grid)
    for column, label in enumerate(labels or ()):
        centre = gap + column * (width + gap) + width / 2
        draw.text((centre, header / 2 + 1), label, fill=_INK, font=ImageFont.load_default(11), anchor="mm")
    return grid


def forward_noising_strip(
    samples: torch.Tensor, scheduler: DDPMCarsScheduler, num_frames: int = 10, seed: int = 0
) -> Image.Image:
    """Show q(x_t | x_0) from t = 0 to T - 1 at evenly spaced t (Ho et al. 2020, eq. 4), one row per picture.

    Args:
        samples: x_0, float32 (batch, 1 or 3, height, width) in [-1, 1].
        scheduler: Gives the noise levels.
        num_frames: Columns, 2 or more.
        seed: Of the noise, which is the same in every column so that the strip shows one path.
    """
    T = scheduler.config.num_train_timesteps
    timesteps = np.linspace(0, T - 1, num_frames).round().astype(int).tolist()
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(seed))
    columns = [to_pil(scheduler.add_noise(samples, noise, torch.tensor(t))) for t in timesteps]
    tiles = [column[row] for row in range(len(samples)) for column in columns]
    return make_grid(tiles, num_frames, labels=[f"t = {t}" for t in timesteps])


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
