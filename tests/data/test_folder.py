"""The images of a folder: their splits and classes, and folders that can be read in two ways."""

import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import datasets
import numpy as np
import pytest

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.folder import find_in_folder
from ddpm_cars.data.pictures import Pictures
from ddpm_cars.errors import UserError
from tests.support.picture_helpers import BLUE, GREY, RED, colours, save


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
    pictures = load(train_data_dir=str(folder), label_column="label")
    assert pictures.class_names == ("bus", "car", "van")
    assert pictures.labels.dtype == np.int64
    assert pictures.labels.tolist() == [1, 2, 2, 0, 2]
    # A class has the same number in every split.
    test = load(train_data_dir=str(folder), label_column="label", split="test")
    assert (test.class_names, test.labels.tolist()) == (("bus", "car", "van"), [0, 2])
    stock = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "stock"))
    assert tuple(stock["train"].features["label"].names) == pictures.class_names
    assert [*stock["train"]["label"], *stock["test"]["label"]] == pictures.labels.tolist()


def test_a_folder_without_classes_says_so(load: Callable[..., Pictures], tmp_path: Path):
    for names in (("a.png", "b.png"), ("train/a.png", "test/b.png"), ("cat/a.png", "dog/b.png", "c.png")):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in names:
            save(folder / name, RED)
        with pytest.raises(UserError, match=r"are in none, such as .*\.png; make one folder per class, write "):
            load(train_data_dir=str(folder), label_column="label")
    (folder / "labels.csv").write_text("name,class\n")
    named = r"if .*labels.csv says the classes, call it metadata.csv and give it the columns file_name, .* and label$"
    with pytest.raises(UserError, match=named):
        load(train_data_dir=str(folder), label_column="label")
    save(tmp_path / "one" / "cars" / "a.png", RED)
    with pytest.raises(UserError, match="are in one, cars"):
        load(train_data_dir=str(tmp_path / "one"), label_column="label")


def test_a_folder_without_splits_is_answered_with_how_to_make_some(tmp_path: Path):
    folder = tmp_path / "pictures"
    for i in range(10):
        save(folder / f"{i}.png", RED)
    config = {"train_data_dir": str(folder), "resolution": 8}
    with pytest.raises(UserError, match=r"no splits but train; make folders train/ and test/ in it, or give split"):
        find_in_folder(ImageConfig(**config), None, "test")
    parts = [
        find_in_folder(ImageConfig(**config, split=split), None, None).size for split in ("train[:90%]", "train[90%:]")
    ]
    assert parts == [9, 1]


def write_classes(folder: Path, **numbers: int) -> Path:
    """Write so many images, all different, into each of some folders."""
    for n, (name, number) in enumerate(numbers.items()):
        for i in range(number):
            save(folder / name.replace("_", "/") / f"{i}.png", (40 * n, 9 * i, 7))
    return folder


def test_class_folders_with_the_name_of_a_split_can_be_read_in_two_ways(load: Callable[..., Pictures], tmp_path: Path):
    folder = write_classes(tmp_path / "vehicles", bus=10, car=10, train=6, truck=10)
    source = {"train_data_dir": str(folder)}
    cures = {
        None: ": give --split_folders true",
        "label": ", and the others have no classes, which class_conditional needs",
    }
    for label_column, cure in cures.items():
        words = (
            r"vehicles can be read in two ways.*splits, with 6 images: train \(6\); then 30 images beside them, such "
            rf"as bus/0.png, are left out{cure}. Or all 36 images .*--split_folders false, or put"
        )
        with pytest.raises(UserError, match=words):
            load(**source, label_column=label_column)
    assert len(load(**source, split_folders=True).images) == 6
    everything = load(**source, split_folders=False, label_column="label")
    assert everything.class_names == ("bus", "car", "train", "truck")
    assert np.bincount(everything.labels).tolist() == [10, 10, 6, 10]
    # The other cure in the message.
    (tmp_path / "outer").mkdir()
    folder.rename(tmp_path / "outer" / "train")
    deeper = load(train_data_dir=str(tmp_path / "outer"), label_column="label")
    assert (deeper.class_names, deeper.sha256) == (everything.class_names, everything.sha256)


@pytest.mark.parametrize(
    "names",
    [
        ("train/a.png", "loose.png"),
        ("train/a.png", "test/b.png", "latest/c.png"),
        ("cars/train/a.png", "buses/b.png"),
        ("train/a.png", "Test/b.png"),
        ("2019-train-trip/a.png", "holidays/b.png"),
    ],
)
def test_images_beside_splits_stop_unless_somebody_says_what_they_are(
    load: Callable[..., Pictures], tmp_path: Path, names: tuple[str, ...]
):
    for name in names:
        save(tmp_path / "mixed" / name, RED)
    source = {"train_data_dir": str(tmp_path / "mixed")}
    with pytest.raises(UserError, match=r"1 image beside them.*--split_folders true.*--split_folders false"):
        load(**source)
    left_out = load(**source, split_folders=True)
    assert (len(left_out.images), len(left_out.report["not_listed"])) == (len(names) - 1, 1)
    assert len(load(**source, split_folders=False).images) == len(names)


def test_where_all_images_are_in_splits_the_setting_changes_no_cache(
    load: Callable[..., Pictures], cached: Callable[[], dict[str, int]]
):
    load()
    once = cached()
    load(split_folders=True)
    assert cached() == once


def test_folders_that_make_one_split_together_are_said(
    load: Callable[..., Pictures], tmp_path: Path, capsys: pytest.CaptureFixture
):
    for name in ("train/a.png", "train.bak/b.png", "test_2/c.png", "validation-old/d.png"):
        save(tmp_path / "old" / name, RED)
    pictures = load(train_data_dir=str(tmp_path / "old"))
    assert len(pictures.images) == 4
    assert pictures.report["notes"] == ["the split train is made of several folders: train (1), train.bak (1)"]
    assert pictures.report["notes"][0] in capsys.readouterr().err


def test_capital_letters_make_no_split_and_that_is_said(load: Callable[..., Pictures], tmp_path: Path):
    folder = write_classes(tmp_path / "capital", Train=3, Test=2)
    source = {"train_data_dir": str(folder)}
    for changes in ({"excluded_split": "test"}, {"split": "test"}):
        with pytest.raises(UserError, match=r"the folders Test, Train are no splits.*small letters.*such as test"):
            load(**source, **changes)
    with pytest.raises(UserError, match=r"Test, Train look like splits.*--split_folders false if they are classes"):
        load(**source, label_column="label")
    assert load(**source, label_column="label", split_folders=False).class_names == ("Test", "Train")
    assert any("are no splits" in note for note in load(**source).report["notes"])
    assert len(load(**source).images) == 5


def test_splits_inside_class_folders_are_answered_with_how_to_turn_them(load: Callable[..., Pictures], tmp_path: Path):
    folder = write_classes(tmp_path / "nested", cars_train=3, cars_test=1, buses_train=2)
    assert len(load(train_data_dir=str(folder), split="train").images) == 5
    with pytest.raises(UserError, match=r"6 of 6 images are in none.*put the splits outside, train/buses and not"):
        load(train_data_dir=str(folder), label_column="label")


def test_classes_that_nobody_can_learn_or_tell_apart_are_said(load: Callable[..., Pictures], tmp_path: Path):
    folder = write_classes(tmp_path / "odd", train_car=2, train_Car=1, train_van=1, test_bus=1)
    (folder / "train" / "bike").mkdir()
    (folder / "train" / ".thumbs").mkdir()
    save(folder / "train" / ".thumbs" / "a.png", RED)
    pictures = load(train_data_dir=str(folder), label_column="label", excluded_split="test")
    assert pictures.class_names == ("Car", "bus", "car", "van")
    notes = "\n".join(pictures.report["notes"])
    assert "1 folder without images that are read make no class, such as train/bike" in notes
    assert "differ only in case, spaces or encoding stay apart: 'Car' and 'car'" in notes
    assert "1 of 4 classes have no image among those that are read, and nothing is learned of them: bus" in notes
    assert "1 hidden image, or hidden folders of images, are left out, such as train/.thumbs" in notes


def test_a_folder_of_a_dataset_is_named_as_one(load: Callable[..., Pictures], tmp_path: Path):
    datasets.Dataset.from_dict({"x": [1]}).to_parquet(tmp_path / "tables" / "a.parquet")
    with pytest.raises(UserError, match=r"holds no images; other files: 1 .parquet; .*as dataset_name"):
        load(train_data_dir=str(tmp_path / "tables"))


@pytest.mark.parametrize(
    ("names", "words"),
    [
        # What an archive of a Mac and a notebook leave is hidden.
        (("train/a.png", "test/b.png", "__MACOSX/train/._a.png", ".ipynb_checkpoints/c.png"), None),
        # A place is no split, but its name reads like one.
        (("val thorens/a.png", "grenoble/b.png"), r"val thorens \(1\)"),
        (("train/a.png", "train/images/b.png"), None),
        (("eval.2/a.png", "c/deep/er/b.png"), r"eval.2 \(1\); then 1 image beside them, such as c/deep/er/b.png"),
        (("contest/a.png", "retrain/b.png", "validated/c.png"), None),
        (("train/a.png", "masks/b.svg"), None),
    ],
)
def test_names_from_the_field_are_read_in_one_way_or_refused(
    load: Callable[..., Pictures], tmp_path: Path, names: tuple[str, ...], words: str | None
):
    for name in names:
        if name.endswith("svg"):
            (tmp_path / "field" / name).parent.mkdir()
            (tmp_path / "field" / name).write_text("<svg/>")
        else:
            save(tmp_path / "field" / name, RED)
    with pytest.raises(UserError, match=words) if words else nullcontext():
        shown = sum(name.endswith("png") and not re.search(r"(^|/)\.", name) for name in names)
        assert len(load(train_data_dir=str(tmp_path / "field")).images) == shown
