"""The toy cars: what a seed draws at every size, and how the data set is written."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ddpm_cars.toy_cars import dataset, designs
from ddpm_cars.toy_cars import painting as toy_cars
from ddpm_cars.toy_cars.dataset import write_toy_cars
from ddpm_cars.toy_cars.painting import draw_car


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


def digest(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_draws_the_same_bytes_in_another_process():
    # A bare module stands in for the package, whose import would load torch, which has no part in this.
    code = (
        "import hashlib, sys, types; package = types.ModuleType('ddpm_cars'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['ddpm_cars'] = package; from ddpm_cars.toy_cars.painting import draw_car; "
        "print(hashlib.sha256(b''.join(draw_car(seed, 48).tobytes() for seed in range(8))).hexdigest()); "
        "print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(Path(toy_cars.__file__).parents[1])]
    other = subprocess.run(command, capture_output=True, text=True, check=True)
    np.random.seed(5)  # noqa: NPY002 - the global generator must have no influence
    here = hashlib.sha256(b"".join(draw_car(seed, 48).tobytes() for seed in range(8))).hexdigest()
    assert other.stdout.split() == [here, "False"]


def test_drawing_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    draw_car(3, 16)
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("seed", range(12))
def test_every_size_shows_the_same_car(seed):
    small = pixels(draw_car(seed, 32))
    same = pixels(draw_car(seed, 128).reduce(4))
    other = pixels(draw_car(seed + 1, 128).reduce(4))
    assert np.abs(small - same).mean() < 3
    assert np.abs(small - other).mean() > 8


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**70), height=st.integers(8, 70), width=st.integers(8, 70))
def test_any_size_is_drawn(seed, height, width):
    image = draw_car(seed, height, width)
    assert image.mode == "RGB"
    assert image.size == (width, height)
    assert pixels(image).std() > 5


def test_a_picture_is_square_unless_a_width_is_given():
    assert draw_car(0).size == (64, 64)
    assert draw_car(0, 24).size == (24, 24)
    assert draw_car(0, 24, 40).size == (40, 24)
    assert draw_car(0, 24, 24).tobytes() == draw_car(0, 24).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "height is 3; draw_car needs at least 8"),
        ((0, 16, 7), "width is 7; draw_car needs at least 8"),
        ((-1, 16), "seed is -1; draw_car needs a seed of at least 0"),
    ],
)
def test_bad_arguments_of_draw_car_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw_car(*arguments)


def test_seeds_draw_different_pictures_of_every_body_type():
    pictures = np.stack([pixels(draw_car(seed, 16)) for seed in range(150)])
    assert len({picture.tobytes() for picture in pictures}) == 150
    # Each pixel of the middle, where the car is, changes much from image to image.
    assert pictures[:, 6:10, 4:12].std(axis=0).mean() > 35
    scenes = [designs.make_scene(seed) for seed in range(400)]
    assert {scene.profile for scene in scenes} == set(designs.PROFILES.values())
    assert {scene.backdrop for scene in scenes} == set(designs.BACKDROPS)
    assert {scene.paint for scene in scenes} == set(designs.PAINTS)


def place_in_picture(scene: designs.Scene, side: int, x: float, y: float) -> tuple[int, int]:
    """Column and row of a point of the car, in percent of its length, in a square image."""
    left, ground = scene.offset
    return (
        round(side * (0.5 + left + scene.length * (x / 100 - 0.5))),
        round(side * (0.5 - ground - scene.length * y / 100)),
    )


@pytest.mark.parametrize("seed", range(40))
def test_the_car_stands_in_the_picture_on_dark_tyres(seed):
    side = 128
    scene = designs.make_scene(seed)
    picture = pixels(draw_car(seed, side))
    radius = scene.profile.wheel_radius
    for wheel in designs.WHEELS:
        column, row = place_in_picture(scene, side, wheel, 0.15 * radius)
        assert picture[row - 1 : row + 1, column].max() < 90, "no tyre"
    # The flank, between the wheels, has the hue of the paint: it is a shade of it.
    column, row = place_in_picture(scene, side, 46, 13.5)
    colors = [scene.paint, designs.mix(scene.paint, designs.NIGHT, 0.6)]
    low, high = np.min(colors, axis=0) - 12, np.max(colors, axis=0) + 12
    assert np.all((low <= picture[row, column]) & (picture[row, column] <= high)), "no flank"
    # Bumpers and roof keep clear of the border.
    assert place_in_picture(scene, side, 0, 0)[0] >= 1
    assert place_in_picture(scene, side, 100, 0)[0] <= side - 2
    assert place_in_picture(scene, side, 50, 52 * scene.stretch)[1] >= 2


@pytest.mark.parametrize("name", sorted(set(designs.PROFILES) - {"roadster"}))
def test_the_windows_lie_inside_the_body(name):
    canvas = toy_cars._Canvas(Image.new("RGB", (400, 400)), 4, (0, 399))
    profile = designs.PROFILES[name]
    body, glass = (
        np.asarray(canvas.mask(designs.rounded(designs.read_points(table)))) > 0
        for table in (profile.body, profile.glass)
    )
    assert glass.sum() > 0.07 * body.sum()
    # A frame of two percent of the length stays all around, so that glass never meets the air.
    for shift, axis in ((6, 0), (-6, 0), (6, 1), (-6, 1)):
        assert not (np.roll(glass, shift, axis) & ~body).any()


def test_the_set_is_two_folders_of_pictures(tmp_path):
    folder = write_toy_cars(tmp_path / "cars", num_train_images=6, num_test_images=3, resolution=16, seed=2)
    assert folder == tmp_path / "cars"
    names = [f"train/{index:05d}.png" for index in range(6)] + [f"test/{index:05d}.png" for index in range(3)]
    assert sorted(digest(folder)) == sorted([*names, "toy_cars.json"])
    pictures = [Image.open(folder / name) for name in names]
    assert {(picture.format, picture.mode, picture.size) for picture in pictures} == {("PNG", "RGB", (16, 16))}
    assert len({picture.tobytes() for picture in pictures}) == 9
    assert json.loads((folder / "toy_cars.json").read_text()) == {
        "renderer_version": toy_cars.RENDERER_VERSION,
        "num_train_images": 6,
        "num_test_images": 3,
        "resolution": 16,
        "seed": 2,
    }


def test_train_test_and_other_seeds_share_no_picture(tmp_path):
    sets = [write_toy_cars(tmp_path / str(seed), 20, 20, resolution=16, seed=seed) for seed in range(2)]
    pictures = [value for one in sets for name, value in digest(one).items() if name.endswith(".png")]
    assert len(set(pictures)) == 80


def test_a_finished_set_is_not_written_again(tmp_path, monkeypatch):
    folder = write_toy_cars(tmp_path, 3, 2, resolution=16)
    times = {name: (folder / name).stat().st_mtime_ns for name in digest(folder)}
    monkeypatch.setattr(dataset, "draw_car", lambda *_: pytest.fail("drawn again"))
    assert write_toy_cars(str(tmp_path), 3, 2, resolution=16) == folder
    assert times == {name: (folder / name).stat().st_mtime_ns for name in digest(folder)}


@pytest.mark.parametrize("lost", ["toy_cars.json", "train/00001.png"])
def test_an_interrupted_set_is_completed(tmp_path, lost):
    whole = digest(write_toy_cars(tmp_path, 3, 2, resolution=16))
    (tmp_path / lost).unlink()
    (tmp_path / "test" / "00001.png").unlink()
    (tmp_path / "train" / ".00002.png.123.tmp").write_bytes(b"half a pict")
    write_toy_cars(tmp_path, 3, 2, resolution=16)
    (tmp_path / "train" / ".00002.png.123.tmp").unlink()
    assert digest(tmp_path) == whole


def test_pictures_of_another_resolution_without_a_marker_are_drawn_again(tmp_path):
    write_toy_cars(tmp_path / "once", 3, 2, resolution=32)
    (tmp_path / "once" / "toy_cars.json").unlink()
    write_toy_cars(tmp_path / "once", 3, 2, resolution=16)
    assert digest(tmp_path / "once") == digest(write_toy_cars(tmp_path / "fresh", 3, 2, resolution=16))


def test_an_interrupted_larger_set_is_refused(tmp_path):
    write_toy_cars(tmp_path, 5, 2, resolution=16)
    (tmp_path / "toy_cars.json").unlink()
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match=r"holds train/00003\.png, which is not one of these toy cars; delete"):
        write_toy_cars(tmp_path, 3, 2, resolution=16)
    assert digest(tmp_path) == before


def test_a_file_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    def fail(source: Path, target: Path) -> None:
        assert source.parent == target.parent
        assert source.read_bytes() == b"new"
        raise KeyboardInterrupt

    (tmp_path / "a.png").write_bytes(b"old")
    monkeypatch.setattr(dataset.os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        dataset._replace_file(tmp_path / "a.png", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.png", b"old")]


def test_an_interruption_leaves_no_marker(tmp_path, monkeypatch):
    def stop_at_the_third(seed: int, height: int) -> Image.Image:
        if (tmp_path / "train" / "00001.png").exists():
            raise KeyboardInterrupt
        return draw_car(seed, height)

    with monkeypatch.context() as patch:
        patch.setattr(dataset, "draw_car", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            write_toy_cars(tmp_path, 4, 2, resolution=16)
    assert sorted(digest(tmp_path)) == ["train/00000.png", "train/00001.png"]
    write_toy_cars(tmp_path, 4, 2, resolution=16)
    assert len(digest(tmp_path)) == 7


@pytest.mark.parametrize("changed", [{"num_train_images": 4}, {"num_test_images": 1}, {"resolution": 8}, {"seed": 1}])
def test_a_set_of_other_arguments_is_refused(tmp_path, changed):
    before = digest(write_toy_cars(tmp_path, 3, 2, resolution=16))
    arguments = {"num_train_images": 3, "num_test_images": 2, "resolution": 16, **changed}
    (name, new), old = *changed.items(), {"num_train_images": 3, "num_test_images": 2, "resolution": 16, "seed": 0}
    words = rf"holds other toy cars \({name} {old[name]}, not {new}\); delete the folder or choose another"
    with pytest.raises(FileExistsError, match=words):
        write_toy_cars(tmp_path, **arguments)
    assert digest(tmp_path) == before


@pytest.mark.parametrize("foreign", ["holiday.jpg", "train/00000.png", "train/cat.png", "deep/er/notes.txt"])
@pytest.mark.parametrize("finished", [False, True])
def test_a_folder_with_anything_else_is_refused(tmp_path, foreign, finished):
    if finished:
        write_toy_cars(tmp_path, 2, 1, resolution=16)
    path = tmp_path / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"somebody's own")
    before = digest(tmp_path)
    with pytest.raises(FileExistsError, match=f"{tmp_path.name} holds {foreign}, which is not one of these toy cars"):
        write_toy_cars(tmp_path, 2, 1, resolution=16)
    assert digest(tmp_path) == before


def test_an_unreadable_marker_and_a_file_in_the_way_are_refused(tmp_path):
    (tmp_path / "toy_cars.json").write_text("{")
    with pytest.raises(FileExistsError, match="unreadable"):
        write_toy_cars(tmp_path, 1, 1, resolution=16)
    with pytest.raises(FileExistsError, match="is a file; choose a folder"):
        write_toy_cars(tmp_path / "toy_cars.json", 1, 1, resolution=16)


@pytest.mark.parametrize(
    "bad", [{"num_train_images": -1}, {"num_test_images": 100_001}, {"resolution": 7}, {"seed": -2}]
)
def test_bad_arguments_of_the_set_are_named(tmp_path, bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"{name} is {value}; write_toy_cars needs"):
        write_toy_cars(tmp_path / "cars", **bad)
    assert not (tmp_path / "cars").exists()
