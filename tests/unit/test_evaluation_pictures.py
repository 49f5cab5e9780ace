"""Pictures of an evaluation, read back from their files."""

from pathlib import Path

import numpy as np
from PIL import Image

from ddpm_cars.evaluation_pictures import are_in, save_pictures


def colours_of(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}


def test_of_a_picture_and_its_mirror_image_the_nearer_one_is_shown(tmp_path: Path):
    # Each training picture has a colour of its own on the left and another on the right.
    training = np.zeros((5, 8, 8, 3), np.uint8)
    for i in range(5):
        training[i, :, :4] = (200, 10 * i, 0)
        training[i, :, 4:] = (0, 10 * i, 200)
    images = np.full((2, 8, 8, 3), 77, np.uint8)
    # Picture 4, its mirror image, then 1, 0 and 2; the other drawn picture is farther from all.
    indices = np.array([[4, 9, 1, 0, 5, 2], [3, 8, 3, 8, 3, 8]])
    distances = np.arange(12.0).reshape(2, 6)
    strip = Image.new("RGB", (8, 8))
    save_pictures(images, training, {"features": (distances[:1], indices[:1])}, strip, tmp_path)
    shown = colours_of(tmp_path / "neighbours_features.png")
    assert {i for i in range(5) if (200, 10 * i, 0) in shown} == {4, 1, 0}
    assert not are_in(tmp_path)
    save_pictures(
        images, training, {"features": (distances, indices), "pixels": (distances, indices)}, strip, tmp_path
    )
    assert are_in(tmp_path)
    assert (200, 30, 0) in colours_of(tmp_path / "neighbours_pixels.png")


def test_a_mirrored_picture_is_shown_mirrored(tmp_path: Path):
    training = np.zeros((6, 8, 8, 3), np.uint8)
    training[3, :, :4] = (200, 0, 0)
    images = np.full((1, 8, 8, 3), 77, np.uint8)
    places = []
    for index in (3, 3 + 6):
        others = [0, 1, 2, 4, 5]
        neighbours = {"pixels": (np.arange(6.0)[None], np.array([[index, *others]]))}
        save_pictures(images, training, neighbours, Image.new("RGB", (8, 8)), tmp_path)
        with Image.open(tmp_path / "neighbours_pixels.png") as picture:
            red = (np.array(picture.convert("RGB")) == (200, 0, 0)).all(-1)
        places.append(np.nonzero(red)[1].min())
    assert places[1] > places[0]
