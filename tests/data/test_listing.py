"""Which images a folder holds, in which splits and classes its folders put them."""

from pathlib import Path

import datasets
import pytest
from PIL import Image

from ddpm_cars.data.listing import class_of, list_folder


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
            Image.new("L", (4, 4)).save(path, "png")
        else:
            path.write_text("text")
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("b.png", "a.JPG", "c/d.jpeg", "c/d/e.PNG", "B.png"),
        ("ü é.png", "a b/c d.png", "e#f.png", "g[1].png", "h[0]/i.png", "j%20.png", "k&l.jpg", "車.png", "m.n.png"),
        ("train/b.png", "train/a/c.png", "test/a.png", "val/d.png"),
        ("data/train/cat/a.png", "data/train/dog/b.png", "data/test/cat/c.png"),
        ("train_images/a.png", "my test/b.png", "dev.set/c.png"),
        ("training/a.png", "evaluation/b.png", "beside.png", "other/c.png"),
        ("testing/a.png",),
        ("Train/a.png", "contest/b.png", "latest train/c.png", "retrain/d.png"),
        ("a.png", ".hidden.png", ".folder/b.png", "notes.txt", "README.md"),
    ],
)
def test_a_folder_is_split_and_ordered_as_datasets_does_it(tmp_path: Path, names: tuple[str, ...]):
    folder = make_files(tmp_path / "pictures", *names)
    stock = datasets.load_dataset(
        "imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"), drop_labels=True
    ).cast_column("image", datasets.Image(decode=False))
    expected = {
        split: [str(Path(row["path"]).relative_to(folder)) for row in stock[split]["image"]] for split in stock
    }
    listing = list_folder(folder)
    assert listing.splits == expected
    assert list(listing.splits) == list(expected)
    shown = [name for split in expected.values() for name in split]
    assert sorted(shown + listing.beside) == sorted(
        n for n in names if n[0] != "." and n[-3:] in "PNG png JPG jpg peg"
    )


def test_every_picture_is_in_one_split_and_names_of_files_make_none(tmp_path: Path):
    listing = list_folder(make_files(tmp_path, "train/test/a.png", "train/b.png", "train_test/c.png", "x.png"))
    assert listing.splits == {"train": ["train/b.png", "train/test/a.png", "train_test/c.png"]}
    assert listing.beside == ["x.png"]
    listing = list_folder(make_files(tmp_path / "other", "car test 1.png", "train.png", "car.png", "val/../dev.png"))
    assert listing.splits == {"train": ["car test 1.png", "car.png", "dev.png", "train.png"]}


def test_names_that_stop_datasets_are_pictures_like_others(tmp_path: Path):
    names = ["a::b.png", "c?.png", "d*.png", "metadata.csv", "x.eval", "line\nbreak.png"]
    folder = make_files(tmp_path / "cars [2020]*", *names)
    assert list_folder(folder).splits == {"train": ["a::b.png", "c?.png", "d*.png", "line\nbreak.png"]}


def test_what_is_no_picture_is_counted_and_what_cannot_be_read_is_named(tmp_path: Path):
    names = ["a.png", "b.txt", "c/d.TXT", "e", "f.heic", "g.svg", "h.eps", "i.mpg", "j.jpg.gz", "k.zip"]
    (tmp_path / "broken.png").symlink_to(tmp_path / "nothing")
    listing = list_folder(make_files(tmp_path, *names))
    assert listing.splits == {"train": ["a.png"]}
    assert listing.not_listed == ["broken.png", "f.heic", "g.svg", "h.eps", "i.mpg"]
    assert listing.ignored_suffixes == {"": 1, ".gz": 1, ".txt": 2, ".zip": 1}


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    elsewhere = make_files(tmp_path / "elsewhere", "a.png", "cat/b.png")
    folder = make_files(tmp_path / "pictures", "test/c.png")
    (folder / "train").symlink_to(elsewhere)
    (folder / "test" / "d.png").symlink_to(elsewhere / "a.png")
    (elsewhere / "cat" / "up").symlink_to(elsewhere)
    (folder / "test" / "here").symlink_to(folder)
    assert list_folder(folder).splits == {
        "train": ["train/a.png", "train/cat/b.png"],
        "test": ["test/c.png", "test/d.png"],
    }


def test_the_class_is_the_folder_around_a_picture():
    expected = {
        "a.png": None,
        "train/a.png": None,
        "cat/a.png": "cat",
        "train/cat/a.png": "cat",
        "data/train/a.png": None,
        "data/a.png": "data",
        "train/dev board/a.png": "dev board",
        "train/animals/cat/a.png": "cat",
    }
    assert {name: class_of(name) for name in expected} == expected
