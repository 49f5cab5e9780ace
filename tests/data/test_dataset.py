"""Datasets of the Hub's formats on this machine: their splits, their columns and their classes."""

import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import datasets
import pytest
from PIL import Image

from ddpm_cars.data.pictures import Pictures
from ddpm_cars.errors import UserError
from tests.support.picture_helpers import BLUE, GREEN, RED, colours, save


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


def write_images(folder: Path, **numbers: int) -> Path:
    for n, (name, number) in enumerate(numbers.items()):
        for i in range(number):
            save(folder / name / f"{i}.png", (40 * n, 9 * i, 7))
    return folder


def test_a_folder_of_which_datasets_reads_a_part_stops_or_is_said(
    tmp_path: Path, load: Callable[..., Pictures], capsys: pytest.CaptureFixture
):
    folder = write_images(tmp_path / "vehicles", bus=10, car=10, train=6, truck=10)
    (folder / "labels.csv").write_text("a,b\n")
    (folder / "README.md").write_text("text")
    source = {"train_data_dir": None, "dataset_name": str(folder)}
    words = (
        r"vehicles: `datasets` reads 6 of 37 files, those in splits that it finds by names, train \(6\), such as "
        r".*train/0.png; not read: 1 .csv, 30 .png, such as .*bus/0.png; give --train_data_dir .*vehicles "
        r"--split_folders false .*--split_folders true to leave these files out \(without classes\), or put"
    )
    with pytest.raises(UserError, match=words):
        load(**source)
    # What says the classes is not to be left out.
    (folder / "metadata.csv").write_text("file_name,label\n")
    with pytest.raises(UserError, match=r"as one set; put everything into one more folder named train$"):
        load(**source)
    (folder / "metadata.csv").unlink()
    pictures = load(**source, split_folders=True)
    assert len(pictures.images) == 6
    [note] = pictures.report["notes"]
    assert "reads 6 of 37 files" in note
    assert note in capsys.readouterr().err
    with pytest.raises(UserError, match="is False, which goes with train_data_dir; with dataset_name only true"):
        load(**source, split_folders=False)
    # Whoever says in README.md what is read has chosen.
    declared = "---\nconfigs:\n- config_name: default\n  data_files: 'bus/*.png'\n---\n"
    (folder / "README.md").write_text(declared)
    chosen = load(**source)
    assert len(chosen.images) == 10
    assert "reads 10 of 37 files" in chosen.report["notes"][0]


def test_a_metadata_file_that_leaves_out_images_is_said(tmp_path: Path, load: Callable[..., Pictures]):
    folder = write_images(tmp_path / "described", a=3)
    (folder / "metadata.jsonl").write_text('{"file_name": "a/0.png"}\n{"file_name": "a/2.png"}\n')
    pictures = load(train_data_dir=None, dataset_name=str(folder))
    assert len(pictures.images) == 2
    assert pictures.report["notes"] == ["`datasets` has 2 rows for 3 images: a metadata file names no more"]


@pytest.mark.parametrize("as_dict", [False, True], ids=["Dataset", "DatasetDict"])
def test_what_save_to_disk_has_written_is_read(tmp_path: Path, load: Callable[..., Pictures], as_dict: bool):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["van", "car"])})
    rows = {"image": [one_colour(RED), one_colour(GREEN), one_colour(BLUE)], "label": [1, 0, 1]}
    saved = datasets.Dataset.from_dict(rows, features=features)
    folder = tmp_path / "saved"
    (datasets.DatasetDict(train=saved, test=saved.select([2])) if as_dict else saved).save_to_disk(folder)
    source = {"train_data_dir": None, "dataset_name": str(folder), "label_column": "label"}
    pictures = load(**source, excluded_split="test" if as_dict else None)
    assert colours(pictures) == [RED, GREEN, BLUE]
    assert (pictures.class_names, pictures.labels.tolist()) == (("van", "car"), [1, 0, 1])
    assert (
        colours(load(**source, split="train[1:]+test" if as_dict else "train[1:]"))
        == [GREEN, BLUE, BLUE][: 2 + as_dict]
    )
    for changes, words in (
        ({"split": "validation"}, "split is 'validation', of .*saved: Unknown split"),
        ({"excluded_split": "validation"}, "validation_split is 'validation'"),
        ({"dataset_config_name": "x"}, "dataset_config_name is x, and .*saved is a dataset that save_to_disk"),
        ({"image_column": "photo"}, "no column 'photo'; it has image, label"),
    ):
        with pytest.raises(UserError, match=words):
            load(**source, **changes)
    arrow = next(folder.rglob("*.arrow"))
    arrow.write_bytes(arrow.read_bytes()[:40])
    with pytest.raises(UserError, match=r"no images can be read from .*saved: "):
        load(**source)


def test_the_cause_that_datasets_hides_is_said_with_its_file(tmp_path: Path, load: Callable[..., Pictures]):
    good = Path(as_parquet(tmp_path / "good", "a", {"image": datasets.Image()}, image=[one_colour(RED)]), "a.parquet")
    page = bytearray(good.read_bytes())
    page[4:60] = b"\xff" * 56
    for name, damaged, words in (
        ("README.md", b"---\nconfigs: [\n---\n", "no images can be read from .*case: while parsing"),
        ("cut.parquet", good.read_bytes()[:200], r"case/cut\.parquet.*magic bytes"),
        ("page.parquet", bytes(page), r"case/page\.parquet: .*header"),
        ("text.tar", b"text" * 1000, r"case/text\.tar: invalid header"),
        ("text.zip", b"text" * 1000, r"case/text\.zip: File is not a zip file"),
        ("a.csv", b"x,y\n1,2\n", "has no column 'image'; it has x, y"),
    ):
        folder = tmp_path / name.replace(".", "-") / "case"
        folder.mkdir(parents=True)
        (folder / name).write_bytes(damaged)
        if name.endswith("parquet"):
            (folder / "a.parquet").write_bytes(good.read_bytes())
        with pytest.raises(UserError, match=words) as caught:
            load(train_data_dir=None, dataset_name=str(folder))
        assert "An error occurred while generating" not in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 1000
