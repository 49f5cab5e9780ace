"""Where images come from: splits and classes of folders and of datasets."""

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from ddpm_cars.data.pictures import Pictures
from ddpm_cars.errors import UserError
from tests.support.picture_helpers import BLUE, GREEN, GREY, RED, colours, save


def test_a_split_can_be_kept_out(load: Callable[..., Pictures]):
    assert colours(load(excluded_split="test")) == [BLUE, RED]
    assert colours(load(excluded_split="train")) == [GREY]
    # The split that is asked for is what counts.
    assert colours(load(split="test", excluded_split="test")) == [GREY]


def test_what_cannot_be_found_is_named(load: Callable[..., Pictures], folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("text")
    for changes, words in (
        ({"train_data_dir": str(tmp_path / "nowhere")}, "nowhere is not a folder"),
        ({"train_data_dir": str(tmp_path / "empty")}, "empty holds no images"),
        ({"train_data_dir": str(tmp_path / "texts")}, r"texts holds no images; other files: 1 \.txt"),
        ({"train_data_dir": None, "dataset_name": str(tmp_path / "empty")}, "no images can be read from .*empty"),
        ({"train_data_dir": None, "dataset_name": str(tmp_path / "no")}, "no images can be read from .*no"),
        ({"split": "validation"}, "split is 'validation'.*pictures.*train.*test"),
        ({"split": "train["}, r"split is 'train\['"),
        ({"split": "train[:0%]"}, "holds no images"),
        ({"excluded_split": "validation"}, "validation_split is 'validation'; the splits of .* are train, test"),
        ({"excluded_split": "train[:10%]"}, r"validation_split is 'train\[:10%\]'.*give split"),
        ({"excluded_split": "train", "train_data_dir": str(folder / "train")}, "the only split"),
        ({"num_channels": 4}, "4 channels"),
    ):
        with pytest.raises(UserError, match=words):
            load(**changes)


def test_classes_are_the_folders_that_hold_the_pictures(load: Callable[..., Pictures], tmp_path: Path):
    folder = tmp_path / "classes"
    for name in ("train/van/a.png", "train/car/b.png", "train/van/c.png", "test/van/d.png", "test/bus/e.png"):
        save(folder / name, RED)
    pictures = load(train_data_dir=str(folder), label_column="any name")
    assert pictures.class_names == ("bus", "car", "van")
    assert pictures.labels.dtype == np.int64
    assert pictures.labels.tolist() == [1, 2, 2, 0, 2]
    # A class has the same number in every split.
    test = load(train_data_dir=str(folder), label_column="any name", split="test")
    assert (test.class_names, test.labels.tolist()) == (("bus", "car", "van"), [0, 2])
    stock = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "stock"))
    assert tuple(stock["train"].features["label"].names) == pictures.class_names
    assert [*stock["train"]["label"], *stock["test"]["label"]] == pictures.labels.tolist()


def test_a_folder_without_classes_says_so(load: Callable[..., Pictures], tmp_path: Path):
    for names in (("a.png", "b.png"), ("train/a.png", "test/b.png"), ("cat/a.png", "dog/b.png", "c.png")):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            save(folder / name, RED)
        with pytest.raises(UserError, match=r"\.png is in none; make one folder per class"):
            load(train_data_dir=str(folder), label_column="label")
    save(tmp_path / "one" / "cars" / "a.png", RED)
    with pytest.raises(UserError, match="are in one, cars"):
        load(train_data_dir=str(tmp_path / "one"), label_column="label")


def as_parquet(folder: Path, split: str, features: dict, **columns: list) -> str:
    folder.mkdir(exist_ok=True)
    data = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    data.to_parquet(folder / f"{split}.parquet")
    return str(folder)


def one_colour(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (9, 9), colour)


def test_a_local_dataset_with_embedded_pictures(
    tmp_path: Path, load: Callable[..., Pictures], cached: Callable[[], dict[str, int]]
):
    features = {"photo": datasets.Image(), "number": datasets.Value("int64")}
    train = {"photo": [one_colour(RED), one_colour(BLUE)], "number": [0, 1]}
    as_parquet(tmp_path / "parquet", "train", features, **train)
    name = as_parquet(tmp_path / "parquet", "test", features, photo=[one_colour(GREEN)], number=[2])
    source = {"train_data_dir": None, "dataset_name": name, "image_column": "photo"}
    assert colours(load(**source)) == [RED, BLUE, GREEN]
    once = cached()
    assert colours(load(**source)) == [RED, BLUE, GREEN]
    assert cached() == once
    assert colours(load(**source, split="train[1:]")) == [BLUE]
    assert colours(load(**source, excluded_split="train")) == [GREEN]
    for changes, words in (
        ({"image_column": "painting"}, "no column 'painting'; it has photo, number"),
        ({"image_column": "number"}, "image_column 'number' of .* holds .*int64.*, not images"),
        ({"label_column": "label"}, "no column 'label'; it has photo, number"),
        ({"excluded_split": "validation"}, "the splits of .* are train, test"),
    ):
        with pytest.raises(UserError, match=words):
            load(**{**source, **changes})
    as_parquet(tmp_path / "parquet", "test", features, photo=[one_colour((1, 2, 3))], number=[2])
    assert colours(load(**source))[2] == (1, 2, 3)


def test_the_only_pictures_there_are_need_no_name(tmp_path: Path, load: Callable[..., Pictures]):
    features = {"png": datasets.Image(), "cls": datasets.Value("int64")}
    name = as_parquet(tmp_path / "one", "train", features, png=[one_colour(RED), one_colour(BLUE)], cls=[1, 0])
    source = {"train_data_dir": None, "dataset_name": name}
    assert colours(load(**source)) == [RED, BLUE]
    # Nor do the classes of an archive.
    assert load(**source, label_column="label").labels.tolist() == [1, 0]
    two = {"png": datasets.Image(), "jpg": datasets.Image()}
    name = as_parquet(tmp_path / "two", "train", two, png=[one_colour(RED)], jpg=[one_colour(BLUE)])
    with pytest.raises(UserError, match="no column 'image'; it has png, jpg"):
        load(train_data_dir=None, dataset_name=name)


@pytest.mark.parametrize(
    ("kind", "train", "test", "names", "labels"),
    [
        (datasets.ClassLabel(names=["van", "car"]), [1, 0], [1], ("van", "car"), [1, 0, 1]),
        (datasets.Value("string"), ["van", "bus"], ["car"], ("bus", "car", "van"), [2, 0, 1]),
        (datasets.Value("int32"), [10, 9], [2], ("2", "9", "10"), [2, 1, 0]),
    ],
    ids=["ClassLabel", "string", "int32"],
)
def test_classes_are_a_column_of_a_dataset(
    tmp_path: Path,
    load: Callable[..., Pictures],
    kind: object,
    train: list,
    test: list,
    names: tuple[str, ...],
    labels: list[int],
):
    features = {"image": datasets.Image(), "kind": kind}
    as_parquet(tmp_path / "parquet", "train", features, image=[one_colour(RED), one_colour(BLUE)], kind=train)
    name = as_parquet(tmp_path / "parquet", "test", features, image=[one_colour(GREEN)], kind=test)
    source = {"train_data_dir": None, "dataset_name": name, "label_column": "kind"}
    pictures = load(**source)
    assert (pictures.class_names, pictures.labels.tolist()) == (names, labels)
    alone = load(**source, split="test")
    assert (alone.class_names, alone.labels.tolist()) == (names, labels[2:])


@pytest.mark.parametrize(
    ("kind", "values", "words"),
    [
        (
            datasets.ClassLabel(names=["van", "car"]),
            [1, -1],
            "1 of 2 .* no class in the column 'kind', row 1 of train",
        ),
        (datasets.Value("string"), [None, "car"], "1 of 2 .* no class in the column 'kind', row 0 of train"),
        (datasets.Value("float32"), [1.0, 2.0], "'kind' of .* holds .*float32.*ClassLabel, integers or strings"),
    ],
    ids=["unknown", "none", "float32"],
)
def test_columns_that_are_no_classes_say_so(
    tmp_path: Path, load: Callable[..., Pictures], kind: object, values: list, words: str
):
    features = {"image": datasets.Image(), "kind": kind}
    images = [one_colour(RED), one_colour(BLUE)]
    name = as_parquet(tmp_path / "parquet", "train", features, image=images, kind=values)
    with pytest.raises(UserError, match=words):
        load(train_data_dir=None, dataset_name=name, label_column="kind")


def test_a_dataset_of_archives(tmp_path: Path, load: Callable[..., Pictures]):
    (tmp_path / "zipped").mkdir()
    with zipfile.ZipFile(tmp_path / "zipped" / "pictures.zip", "w") as archive:
        for name, colour in (("a/red.png", RED), ("a/sky blue.png", BLUE)):
            one_colour(colour).save(buffer := BytesIO(), "png")
            archive.writestr(name, buffer.getvalue())
    assert colours(load(train_data_dir=None, dataset_name=str(tmp_path / "zipped"))) == [RED, BLUE]
