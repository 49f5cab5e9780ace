"""Samples as images, and images in grids."""

import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_cars.figures.grids import make_grid, neighbours_grid, save_png, to_pil

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def tile(grid: Image.Image, row: int, column: int, size: int = 96) -> np.ndarray:
    """Cut one image out of a grid, by its gaps of 2."""
    top, left = 2 + row * (size + 2), 2 + column * (size + 2)
    return np.asarray(grid)[top : top + size, left : left + size]


def test_samples_become_pixels_rounded_and_clipped():
    samples = torch.tensor([-9.0, -1.0, -0.6, 0.0, 0.6, 1.0, 9.0, -0.998]).reshape(1, 1, 2, 4)
    (image,) = to_pil(samples)
    assert image.mode == "L"
    assert image.size == (4, 2)
    # 127.5 is a tie, which torch rounds to the even 128.
    assert np.asarray(image).flatten().tolist() == [0, 0, 51, 128, 204, 255, 255, 0]


def test_samples_become_colours():
    samples = torch.tensor([1.0, -1.0, 0.2]).reshape(1, 3, 1, 1).expand(2, 3, 5, 7)
    images = to_pil(samples.bfloat16())
    assert [image.size for image in images] == [(7, 5), (7, 5)]
    assert images[0].getpixel((6, 4)) == (255, 0, 153)


def test_a_grid_is_about_square_with_a_hairline_between():
    colours = [RED, GREEN, BLUE, RED, GREEN]
    grid = make_grid([Image.new("RGB", (96, 96), colour) for colour in colours])
    assert grid.size == (3 * 98 + 2, 2 * 98 + 2)
    for i, colour in enumerate(colours):
        assert (tile(grid, *divmod(i, 3)) == colour).all()
    assert (tile(grid, 1, 2) == 255).all()
    array = np.asarray(grid).copy()
    for row, column in np.ndindex(2, 3):
        array[2 + row * 98 : 98 + row * 98, 2 + column * 98 : 98 + column * 98] = 255
    assert (array == 255).all()


@pytest.mark.parametrize(("width", "factor"), [(8, 8), (32, 2), (33, 2), (63, 2), (64, 1), (100, 1)])
def test_small_images_are_enlarged_by_a_whole_factor(width: int, factor: int):
    image = Image.effect_noise((width, width + 4), 100)
    grid = np.asarray(make_grid([image], num_columns=1, min_size=64))
    assert grid.shape == ((width + 4) * factor + 4, width * factor + 4, 3)
    enlarged = np.kron(np.asarray(image), np.ones((factor, factor), np.uint8))
    for channel in range(3):
        np.testing.assert_array_equal(grid[2:-2, 2:-2, channel], enlarged)


def test_labels_stand_above_their_columns():
    images = [Image.new("L", (96, 96), 255)] * 2
    grid = np.asarray(make_grid(images, 2, labels=["left", ""]))
    assert grid.shape == (96 + 4 + 16, 2 * 98 + 2, 3)
    assert grid[:16, :99].min() < 200
    assert grid[:16, 100:].min() == 255
    assert grid[16:].min() == 255


def test_a_png_is_written_with_the_folders_above_it(tmp_path: Path):
    path = save_png(Image.new("RGB", (3, 2), GREEN), tmp_path / "a" / "b" / "green.png")
    with Image.open(path) as image:
        assert (image.format, image.size, image.getpixel((0, 0))) == ("PNG", (3, 2), GREEN)
    assert [file.name for file in path.parent.iterdir()] == ["green.png"]


def test_a_png_that_cannot_be_written_is_named(tmp_path: Path):
    path = tmp_path / "a.png"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python leaves the signal out of it.
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(OSError, match="File too large") as failed:
            save_png(Image.new("RGB", (3, 2)), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert failed.value.filename == str(path)
    assert list(tmp_path.iterdir()) == []
    # Of an error that has a name already, it stays.
    (tmp_path / "b").touch()
    with pytest.raises(FileExistsError) as failed:
        save_png(Image.new("RGB", (3, 2)), tmp_path / "b" / "a.png")
    assert failed.value.filename == str(tmp_path / "b")


def plain(value: int, size: int = 96, mode: str = "RGB") -> Image.Image:
    return Image.new(mode, (size, size), value if mode == "L" else (value, value, value))


@pytest.mark.parametrize(("num_rows", "columns"), [(1, 1), (3, 1), (4, 2), (7, 2)])
@pytest.mark.parametrize(("size", "mode"), [(96, "RGB"), (8, "L")])
def test_neighbours_stand_right_of_their_grid(num_rows: int, columns: int, size: int, mode: str):
    generated = [plain(10 + i, size, mode) for i in range(num_rows)]
    neighbours = [[plain(100 + 10 * i + k, size, mode) for k in range(2)] for i in range(num_rows)]
    grid = np.asarray(neighbours_grid(generated, neighbours, [["", ""]] * num_rows))
    height = -(-num_rows // columns)
    assert grid.shape[:2] == (16 + height * (96 + 16 + 2) + 2, columns * (3 * 98 + 4 + 8) + (columns - 1) * 28)
    for i in range(num_rows):
        column, row = divmod(i, height)
        top, left = 18 + row * 114, column * (3 * 98 + 4 + 8 + 28)
        for start, value in ((2, 10 + i), (100 + 8 + 2, 100 + 10 * i), (100 + 8 + 100, 101 + 10 * i)):
            tile = grid[top : top + 96, left + start : left + start + 96]
            assert (tile == value).all()


def test_small_neighbours_keep_their_pixels():
    noise = Image.effect_noise((8, 8), 100)
    grid = np.asarray(neighbours_grid([noise], [[noise]], [[""]]))
    expected = np.kron(np.asarray(noise), np.ones((12, 12)))
    for left in (2, 110):
        assert (grid[18 : 18 + 96, left : left + 96] == expected[..., None]).all()


def test_neighbours_have_captions_and_the_generated_one_has_none():
    generated, neighbours = [plain(0)], [[plain(50), plain(60), plain(70), plain(80)]]
    bare = np.asarray(neighbours_grid(generated, neighbours, [[""] * 4])).astype(int)
    captioned = np.asarray(neighbours_grid(generated, neighbours, [["1.5", "2.5", "", "4"]])).astype(int)
    changed = (bare != captioned).any(axis=2)
    assert not changed[: 18 + 96].any()
    columns = [changed[18 + 96 :, start : start + 96].any() for start in (2, 110, 208, 306, 404)]
    assert columns == [False, True, True, False, True]
