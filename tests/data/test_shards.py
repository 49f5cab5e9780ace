"""What shards hold: their columns and classes, rows from any one on, damage, and what identifies them."""

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from ddpm_cars.data.shards import Shards, _class_names, open_shards
from ddpm_cars.errors import UserError
from tests.support.streaming_helpers import (
    KINDS,
    NUM_IMAGES,
    SHARDS,
    add_file,
    declare_classes,
    make_config,
    png,
    write_shard,
    write_shards,
)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    return write_shards(tmp_path / "data", kind)


def open_folder(folder: Path, **changes: object) -> Shards:
    return open_shards(make_config(folder, **changes), changes.get("split", "train"))


def test_all_rows_are_there_in_the_order_of_names(folder: Path, kind: str):
    shards = open_folder(folder)
    assert shards.names == tuple(f"train-{i:02d}.{'tar' if kind == 'webdataset' else kind}" for i in range(3))
    rows = list(shards.every_row())
    assert [row.image for row in rows] == [png(n) for n in range(NUM_IMAGES)]
    assert [row.label for row in rows] == list(range(NUM_IMAGES))
    assert [(row.shard, row.number) for row in rows] == [(s, i) for s in range(3) for i in range(len(SHARDS[s]))]
    assert {row.label for row in open_folder(folder, class_conditional=False).every_row()} == {None}


def test_a_folder_may_have_any_name(folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    (folder.parent / "other").mkdir()
    (folder.parent / "other" / "a.png").write_bytes(png(0))
    shards = open_shards(make_config(folder.rename(kind), dataset_name=kind), "train")
    assert [row.image for row in shards.every_row()] == [png(n) for n in range(NUM_IMAGES)]
    assert shards.names[0].startswith("train-00")


def test_a_shard_is_read_from_every_row_on(folder: Path):
    shards = open_folder(folder)
    rows = list(shards.rows(2))
    for i, row in enumerate(rows):
        assert list(shards.rows(2, row.number, row.seek)) == rows[i:]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def break_a_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.index(b"0003.json")] ^= 1
    path.write_bytes(content)


def lose_the_rest(path: Path) -> None:
    """Leave what an interrupted download leaves of a file that was given its size beforehand."""
    content = path.read_bytes()
    begin = content.index(b"0003.png")
    path.write_bytes(content[:begin] + bytes(2 << 20))


UNREADABLE = "cannot be read: .*; replace or remove it"


def forget_the_column(path: Path) -> None:
    pq.write_table(pq.read_table(path).drop_columns("image"), path)


def lose_a_page(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4] + bytes(500) + content[504:])


@pytest.mark.parametrize(
    ("kind", "damage", "words"),
    [(kind, damage, UNREADABLE) for kind in KINDS for damage in (cut, Path.unlink)]
    + [("webdataset", damage, UNREADABLE) for damage in (break_a_header, lose_the_rest)]
    + [("parquet", lose_a_page, UNREADABLE)]
    + [("parquet", forget_the_column, r"has no column 'image'; it has \['label'\]")],
)
def test_a_damaged_shard_is_named(folder: Path, damage: Callable[[Path], None], words: str):
    shards = open_folder(folder, class_conditional=False)
    damage(folder / shards.names[2])
    assert len(list(shards.rows(1))) == len(SHARDS[1])
    with pytest.raises(UserError, match=rf"train-02\.\w+ {words}") as error:
        list(shards.rows(2))
    assert "\n" not in str(error.value)


def test_the_fingerprint_is_that_of_the_data(folder: Path, tmp_path: Path):
    first = open_folder(folder).fingerprint
    assert first == open_folder(folder, seed=1, resolution=16, class_conditional=False).fingerprint
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert open_folder(moved).fingerprint == first
    path = moved / open_folder(moved).names[2]
    renamed = path.rename(path.with_stem("train-03"))
    assert open_folder(moved).fingerprint != first
    renamed.rename(path)
    assert open_folder(moved).fingerprint == first
    if path.suffix == ".tar":
        with path.open("ab") as file:
            file.write(bytes(512))
        assert open_folder(moved).fingerprint != first
    path.unlink()
    assert open_folder(moved).fingerprint != first


def test_declared_classes_have_their_names(tmp_path: Path, kind: str):
    folder, names = tmp_path / "named", ["van", "pickup", "coupe"]
    path = write_shard(folder, kind, 0, [png(0), png(1)], [1, 0])
    if kind == "parquet":
        declare_classes(path, names)
    else:
        classes = "".join(f"          '{i}': {name}\n" for i, name in enumerate(names))
        (folder / "README.md").write_text(
            "---\ndataset_info:\n  features:\n  - name: png\n    dtype: image\n  - name: json\n    dtype: string\n"
            f"  - name: cls\n    dtype:\n      class_label:\n        names:\n{classes}---\n"
        )
    shards = open_folder(folder)
    assert shards.class_names == tuple(names)
    assert [(row.image, row.label) for row in shards.every_row()] == [(png(0), 1), (png(1), 0)]


def test_numbers_are_their_own_names(folder: Path):
    assert open_folder(folder).class_names == tuple(str(number) for number in range(NUM_IMAGES))
    assert open_folder(folder, class_conditional=False).class_names == ()


def test_nobody_loads_whole_archives_from_afar_to_count_classes():
    path = "hf://datasets/someone/cars@main/train-00.tar"
    shards = Shards("webdataset", (path,), ("train-00.tar",), "", "jpg", "cls")
    with pytest.raises(UserError, match=r"declare them as a class_label .*README\.md"):
        _class_names(shards, None)


def test_what_does_not_fit_together_is_named(folder: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose" / "train").mkdir(parents=True)
    (tmp_path / "loose" / "train" / "a.png").write_bytes(png(0))
    write_shard(tmp_path / "negative", "parquet", 0, [png(0)] * 2, [-1, 3])
    write_shard(tmp_path / "words", "parquet", 0, [png(0)], ["van"])
    for place, changes, words in (
        (tmp_path / "nowhere", {}, "no shards can be read from .*nowhere"),
        (tmp_path / "empty", {}, "no shards can be read from .*empty"),
        (tmp_path / "loose", {}, "imagefolder.* drop --streaming"),
        (folder, {"split": "test"}, r"no split 'test'.*\['train'\]"),
        (folder, {"dataset_config_name": "large"}, "large"),
        (folder, {"image_column": "photo"}, "no column 'photo'.*give image_column"),
        (folder, {"label_column": "make"}, "no column 'make'.*give label_column"),
        (tmp_path / "negative", {}, "holds numbers from -1 to 3; classes are numbered from 0"),
        (tmp_path / "words", {}, r"holds Value\('string'\); classes are a ClassLabel or integers"),
        (tmp_path / "words", {"image_column": "label"}, "column 'label' .* not images"),
    ):
        with pytest.raises(UserError, match=words) as error:
            open_folder(place, **changes)
        assert "\n" not in str(error.value)


def test_shards_whose_names_leave_them_out_stop_or_are_said(folder: Path, kind: str, capsys: pytest.CaptureFixture):
    first = folder / open_folder(folder).names[0]
    (folder / "extra").mkdir()
    shutil.copy(first, folder / "extra" / f"more{first.suffix}")
    words = (
        rf"`datasets` reads 3 of 4 files, .* train \(3\), such as .*train-00{first.suffix}; not read: 1 "
        rf"{first.suffix}, .*give --split_folders true to leave these files out, or put"
    )
    with pytest.raises(UserError, match=words):
        open_folder(folder)
    assert len(list(open_folder(folder, split_folders=True).every_row())) == NUM_IMAGES
    assert "`datasets` reads 3 of 4 files; not read: 1" in capsys.readouterr().err


def test_what_save_to_disk_has_written_is_no_shard(tmp_path: Path):
    datasets.Dataset.from_dict({"image": [1]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match=r"saved was written by save_to_disk; .*drop --streaming"):
        open_folder(tmp_path / "saved")


def test_archives_with_several_pictures_to_a_sample_need_a_choice(tmp_path: Path):
    folder = tmp_path / "pairs"
    folder.mkdir()
    with tarfile.open(folder / "a.tar", "w") as tar:
        add_file(tar, "0.jpg", b"no image")
        add_file(tar, "0.depth.png", png(7))
    with pytest.raises(UserError, match=r"no column 'image'; it has \['jpg', 'depth.png'\]"):
        open_folder(folder, class_conditional=False)
    chosen = open_folder(folder, class_conditional=False, image_column="depth.png")
    assert [row.image for row in chosen.every_row()] == [png(7)]


def test_the_only_column_of_pictures_needs_no_name(tmp_path: Path):
    path = write_shard(tmp_path / "named", "parquet", 0, [png(7)], [0])
    features = datasets.Features({"img": datasets.Image(), "label": datasets.Value("int64")})
    pq.write_table(pq.read_table(path).rename_columns(["img", "label"]).cast(features.arrow_schema), path)
    assert [row.image for row in open_folder(path.parent, class_conditional=False).every_row()] == [png(7)]
    with pytest.raises(UserError, match="no column 'painting'"):
        open_folder(path.parent, class_conditional=False, image_column="painting")
