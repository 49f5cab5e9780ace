"""The curve of the training loss."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_cars.figures.curves import plot_loss


def blue_pixels(path: Path) -> int:
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width >= 1200
        return int((np.asarray(image.convert("RGB")).reshape(-1, 3) == (0x27, 0x54, 0x8A)).all(axis=1).sum())


@pytest.mark.parametrize("num_points", [0, 1, 3, 100])
def test_the_loss_is_drawn(tmp_path: Path, num_points: int):
    history = [{"step": step + 1, "loss": 1 / (step + 1), "other": "text"} for step in range(num_points)]
    path = tmp_path / "new folder" / "loss.png"
    plot_loss([{"step": 0, "other": "no step counted"}, *history], path)
    assert (blue_pixels(path) > 100) == (num_points > 1)
    assert [file.name for file in path.parent.iterdir()] == ["loss.png"]


def test_quarters_and_held_out_losses_are_drawn_beside_it(tmp_path: Path):
    history = [
        {"step": step, "loss": 1 / step, **{f"loss_q{i}": i / step for i in range(1, 5)}} for step in range(1, 9)
    ]
    validation = [{"step": step, "eps_mse": {"0.9": 0.5, "0.99": 1 / step}} for step in (4, 8)]
    colours = []
    for held_out in ((), validation):
        path = tmp_path / "loss.png"
        plot_loss(history, path, held_out)
        with Image.open(path) as image:
            found = {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}
        assert {(0x11, 0x88, 0x66), (0x3A, 0x98, 0xE8), (0xCC, 0x66, 0xAA), (0x99, 0x92, 0x1A)} <= found
        colours.append(found)
    assert [(0x7D, 0x15, 0x38) in found for found in colours] == [False, True]
