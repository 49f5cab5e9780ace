"""Classes in metadata.csv, metadata.jsonl and metadata.parquet: which image has which, and what is wrong with them."""

import json
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest

from ddpm_cars.data.pictures import Pictures
from ddpm_cars.errors import UserError
from tests.support.picture_helpers import save

Load = Callable[..., Pictures]


def make_images(folder: Path, *names: str) -> Path:
    for i, name in enumerate(names):
        save(folder / name, (20 * i, 0, 0))
    return folder


def write_rows(folder: Path, kind: str, rows: list[dict], features: datasets.Features | None = None) -> None:
    data = datasets.Dataset.from_list(rows, features=features)
    path = folder / f"metadata.{kind}"
    {"csv": data.to_csv, "jsonl": data.to_json, "parquet": data.to_parquet}[kind](path)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("values", [["van", "car, red", "van"], [10, 9, 10]], ids=["words", "integers"])
def test_classes_are_those_that_datasets_reads(tmp_path: Path, load: Load, kind: str, values: list):
    folder = make_images(tmp_path / "flat", "b.png", "a.png", "part 1/c ü.png")
    rows = [{"file_name": n, "label": v} for n, v in zip(("b.png", "a.png", "part 1/c ü.png"), values, strict=True)]
    write_rows(folder, kind, rows)
    pictures = load(train_data_dir=str(folder), label_column="label")
    # `datasets` does not close a CSV file.
    same = make_images(tmp_path / "same", "b.png", "a.png", "part 1/c ü.png")
    write_rows(same, "jsonl", rows)
    stock = datasets.load_dataset("imagefolder", data_dir=str(same), split="train", cache_dir=str(tmp_path / "stock"))
    stock = stock.cast_column("image", datasets.Image(decode=False))
    expected = {Path(row["image"]["path"]).name: str(row["label"]) for row in stock}
    names = [Path(name).name for name in ("a.png", "b.png", "part 1/c ü.png")]
    assert [pictures.class_names[label] for label in pictures.labels] == [expected[name] for name in names]
    assert pictures.class_names == tuple(str(value) for value in sorted(set(values)))
    assert any("the classes are the column 'label'" in note for note in pictures.report["notes"])


def test_names_of_a_class_label_and_words_that_look_like_nothing_are_classes(tmp_path: Path, load: Load):
    folder = make_images(tmp_path / "named", "a.png", "b.png")
    kinds = datasets.Features(
        {"file_name": datasets.Value("string"), "label": datasets.ClassLabel(names=["van", "car"])}
    )
    write_rows(folder, "parquet", [{"file_name": "a.png", "label": 0}, {"file_name": "b.png", "label": 1}], kinds)
    assert load(train_data_dir=str(folder), label_column="label").class_names == ("car", "van")
    folder = make_images(tmp_path / "words", "a.png", "b.png")
    (folder / "metadata.csv").write_text("\ufefffile_name,label\na.png,NA\nb.png,None\n", encoding="utf-8")
    assert load(train_data_dir=str(folder), label_column="label").class_names == ("NA", "None")


def test_every_split_may_have_its_own_file_and_every_class_one_number(tmp_path: Path, load: Load):
    folder = make_images(tmp_path / "splits", "train/a.png", "train/b.png", "test/c.png", "test/d.png")
    (folder / "train" / "metadata.csv").write_text("file_name,label\na.png,van\nb.png,car\n")
    (folder / "test" / "metadata.csv").write_text("file_name,label\nc.png,bus\nd.png,van\n")
    source = {"train_data_dir": str(folder), "label_column": "label"}
    assert load(**source).class_names == ("bus", "car", "van")
    assert load(**source, split="train").labels.tolist() == [2, 1]
    assert load(**source, split="test").labels.tolist() == [0, 2]


def test_which_column_decides(tmp_path: Path, load: Load, capsys: pytest.CaptureFixture):
    folder = make_images(tmp_path / "columns", "x/a.png", "x/b.png", "y/c.png", "y/d.png")
    source = {"train_data_dir": str(folder), "label_column": "label"}

    def write(columns: str, *rows: str) -> None:
        names = ("x/a.png", "x/b.png", "y/c.png", "y/d.png")
        lines = [f"{name},{row}" for name, row in zip(names, rows, strict=True)]
        (folder / "metadata.csv").write_text("\n".join([f"file_name,{columns}", *lines, ""]))

    # The folders are classes, and a column of another name is only named.
    write("kind", "r", "s", "r", "s")
    pictures = load(**source)
    assert (pictures.class_names, pictures.labels.tolist()) == (("x", "y"), [0, 0, 1, 1])
    assert "has these columns beside file_name: kind" in capsys.readouterr().err
    named = load(**{**source, "label_column": "kind"})
    assert (named.class_names, named.labels.tolist()) == (("r", "s"), [0, 1, 0, 1])
    assert named.sha256 != pictures.sha256
    with pytest.raises(UserError, match=r"label_column is 'make'; .*metadata.csv has these columns.*: kind"):
        load(**{**source, "label_column": "make"})
    # A column of the name that is asked for wins, and a change of it is seen.
    write("label,kind", "p,r", "q,s", "q,r", "q,s")
    assert load(**source).labels.tolist() == [0, 1, 1, 1]
    write("label,kind", "p,r", "p,s", "q,r", "q,s")
    changed = load(**source)
    assert changed.labels.tolist() == [0, 0, 1, 1]
    assert changed.sha256 == pictures.sha256  # The pixels and numbers of the folders' classes.
    # Where folders are no classes, the only column is, unless it is something like a caption.
    for path in folder.glob("*/*.png"):
        path.rename(folder / path.name)
    (folder / "metadata.csv").write_text("file_name,kind\na.png,r\nb.png,s\nc.png,r\nd.png,s\n")
    assert load(**source).labels.tolist() == [0, 1, 0, 1]
    (folder / "metadata.csv").write_text("file_name,text\na.png,one\nb.png,two\nc.png,three\nd.png,four\n")
    with pytest.raises(UserError, match=r"4 of 4 images are in none.*beside file_name: text: name one of them"):
        load(**source)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("csv", "file_name,label\na.png,x\n", r"1 of 2 images have no class in the column 'label' of .*csv, b.png"),
        ("csv", "file_name,label\na.png,x\nb.png,\n", "1 of 2 images have no class"),
        ("csv", "file_name,label\na.png,x\nb.png,x\n", "all images have the class x"),
        ("csv", "file_name,label\na,x\nb,y\n", "names no image that is there, but a; file_name is a path from"),
        ("csv", "file_name;label\na.png;x\n", "metadata.csv cannot be read: its columns are separated by ';'"),
        ("csv", "file,label\na.png,x\n", r"row 1, has no file_name.*it has file, label"),
        ("csv", "file_name,label\na.png,x,y\n", "metadata.csv cannot be read: line 2 has more values"),
        ("csv", "file_name,label\na.png,x\na.png,y\n", "row 2: a.png has another row as well"),
        ("csv", "file_name,label\na.png,caf\udce9\n", "metadata.csv cannot be read: .*utf-8.*mend it or remove it"),
        ("jsonl", '{"file_name": "a.png", "label": 1}\n{"file_name"\n', "metadata.jsonl cannot be read: line 2"),
        ("jsonl", '["a.png"]\n', r"row 1, has no file_name.*is \['a.png'\]"),
        ("jsonl", '{"file_name": "a.png", "label": 0.5}\n', "holds 0.5 for a.png; classes are integers or words"),
        ("parquet", "no table", "metadata.parquet cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(tmp_path: Path, load: Load, name: str, text: str, words: str):
    folder = make_images(tmp_path / "flat", "a.png", "b.png")
    (folder / f"metadata.{name}").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=words):
        load(train_data_dir=str(folder), label_column="label")
    # Without classes, nobody reads it.
    assert len(load(train_data_dir=str(folder)).images) == 2


def test_rows_without_an_image_are_counted_and_a_broken_file_beside_class_folders_is_said(tmp_path: Path, load: Load):
    folder = make_images(tmp_path / "flat", "a.png", "b.png")
    rows = [{"file_name": f"{name}.png", "label": i % 2} for i, name in enumerate("abxyz")]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    notes = load(train_data_dir=str(folder), label_column="label").report["notes"]
    assert any("3 of 5 rows of" in note and "such as x.png" in note for note in notes)
    folder = make_images(tmp_path / "classes", "x/a.png", "y/b.png")
    (folder / "metadata.csv").write_text("id,label\n1,2\n")
    pictures = load(train_data_dir=str(folder), label_column="label")
    np.testing.assert_array_equal(pictures.labels, [0, 1])
    assert any("the names of folders are the classes, as" in note for note in pictures.report["notes"])
