"""Images of images, and of numbers: grids, strips and curves, written without a display."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ddpm_cars.runtime.files import atomic_path

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
    """Turn images, uint8 (batch, height, width, 1 or 3), into PIL images."""
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
