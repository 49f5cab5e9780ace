"""Samples as images, and images in grids."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ddpm_cars.figures.curves import FAINT
from ddpm_cars.runtime.files import atomic_path

_LINE_HEIGHT = 16


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


def save_png(image: Image.Image, path: Path) -> Path:
    """Write a PNG atomically, with the folders above it, and return `path`; an OSError names it in `filename`."""
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
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """Lay images of one size out in rows, with a hairline of white between them; without `num_columns`, about square.

    Images narrower than `min_size` pixels are enlarged by a whole factor, so that they can be seen. Labels stand above
    the columns, captions below the images.
    """
    columns = num_columns or int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    factor = max(1, -(-min_size // images[0].width))
    width, height, gap = images[0].width * factor, images[0].height * factor, 2
    header, footer = (_LINE_HEIGHT if texts else 0 for texts in (labels, captions))
    size = columns * (width + gap) + gap, header + rows * (height + footer + gap) + gap
    grid = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(grid)

    def write(text: str, column: int, y: float) -> None:
        centre = gap + column * (width + gap) + width / 2
        draw.text((centre, y), text, fill=FAINT, font=ImageFont.load_default(11), anchor="mm")

    for column, label in enumerate(labels or ()):
        write(label, column, header / 2 + 1)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top = header + gap + row * (height + footer + gap)
        tile = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        grid.paste(tile, (gap + column * (width + gap), top))
        if captions:
            write(captions[i], column, top + height + 7)
    return grid


def neighbours_grid(
    generated: Sequence[Image.Image],
    neighbours: Sequence[Sequence[Image.Image]],
    captions: Sequence[Sequence[str]],
) -> Image.Image:
    """Lay out generated images, each with its nearest training images on its right, the nearest first.

    All have one size and as many neighbours. Captions are written below neighbours. More than three generated images
    are in two columns.
    """
    num_neighbours = len(neighbours[0])
    ordinals = ["nearest", "2nd", "3rd", *(f"{i}th" for i in range(4, num_neighbours + 1))][:num_neighbours]
    num_rows = -(-len(generated) // 2) if len(generated) > 3 else len(generated)
    parts, gaps = [], []
    for start in range(0, len(generated), num_rows):
        rows = slice(start, start + num_rows)
        parts.append(make_grid(generated[rows], 1, ["generated"], captions=[""] * len(generated[rows])))
        tiles = [tile for row in neighbours[rows] for tile in row]
        below = [caption for row in captions[rows] for caption in row]
        parts.append(make_grid(tiles, num_neighbours, ordinals, captions=below))
        gaps += [8, 28]
    lefts = np.cumsum([0, *(part.width + gap for part, gap in zip(parts, gaps, strict=True))])
    whole = Image.new("RGB", (int(lefts[-1]) - gaps[-1], parts[0].height), "white")
    for part, left in zip(parts, lefts[:-1], strict=True):
        whole.paste(part, (int(left), 0))
    return whole
