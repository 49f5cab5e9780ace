"""Images that cannot be decoded: what is said of them, and that nothing else is lost."""

import hashlib
import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from ddpm_cars.data.decoding import decode_image
from ddpm_cars.data.findings import ImageError
from ddpm_cars.data.pictures import Pictures
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.threads import num_cores
from tests.data.test_value_range import tiff
from tests.support.picture_helpers import BLUE, GREEN, GREY, RED, cache_times, colours, load_small, save


def png_without_pixels(width: int, height: int) -> bytes:
    """Return a PNG that says how large it is and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "jpeg")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.png", b"", "the file is empty"),
        ("text.jpg", b"<html>404 Not Found</html>", "not an image in a format that Pillow reads"),
        ("signature.png", b"\x89PNG\r\n\x1a\n", "not an image|truncated|broken|header"),
        ("zero.png", png_without_pixels(0, 5), "zero size"),
        ("nothing.png", png_without_pixels(5, 5), "truncated|broken|not enough"),
        ("bomb.png", png_without_pixels(10000, 20000), r"^10000 x 20000 pixels, more than PIL.Image.MAX_IMAGE_PIXELS"),
        ("warned.png", png_without_pixels(10000, 9000), r"^10000 x 9000 pixels, more than PIL.Image.MAX_IMAGE_PIXELS"),
        ("gif.gif", b"GIF89a" + bytes(20), "zero size|truncated"),
        ("webp.webp", b"RIFF\x24\0\0\0WEBPVP8 " + bytes(24), "."),
        ("doubles.tif", tiff(np.ones((2, 2))), "its numbers have 64 bits, .*; save it as 32-bit floats"),
        ("tiff.tif", b"II*\0\x08\0\0\0\xff\xff" + bytes(30), "."),
    ],
    ids="empty text signature zero nothing bomb warned gif webp doubles tiff".split(),
)
def test_the_reason_is_given(tmp_path: Path, name: str, content: bytes, reason: str):
    (tmp_path / name).write_bytes(content)
    for source in (tmp_path / name, content):
        with pytest.raises(ImageError, match=reason) as error:
            decode_image(source)
        assert "BytesIO" not in str(error.value)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp", "tiff", "bmp"])
def test_a_picture_that_ends_early_is_refused(tmp_path: Path, kind: str, share: float):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "whole", kind)
    whole = (tmp_path / "whole").read_bytes()
    decode_image(whole)
    with pytest.raises(ImageError, match=r"\w"):
        decode_image(whole[: int(share * len(whole))])


def test_a_file_that_cannot_be_read_is_an_error_of_the_system(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        decode_image(tmp_path / "nothing.png")


@pytest.mark.parametrize("size", [(10000, 20000), (10000, 9000)])
def test_a_bomb_is_not_decoded(size: tuple[int, int]):
    tracemalloc.start()
    # A warning would be an error of another kind.
    with pytest.raises(ImageError, match="more than"):
        decode_image(png_without_pixels(*size))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()
    # Pillow's own guard is what it was.
    assert Image.MAX_IMAGE_PIXELS == 89478485


def test_the_limit_is_that_of_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("L", (11, 10)).save(tmp_path / "a.png")
    for limit, allowed in ((109, False), (110, True), (20, False), (None, True)):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        if allowed:
            assert decode_image(tmp_path / "a.png").size == (11, 10)
        else:
            with pytest.raises(ImageError, match=rf"11 x 10 pixels, more than .* {limit}"):
                decode_image(tmp_path / "a.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten files, three of which are no images."""
    folder = tmp_path / "pictures"
    for i, colour in enumerate((RED, GREEN, BLUE, GREY, (1, 2, 3), (200, 100, 0), (0, 100, 200))):
        save(folder / f"{i}.png", colour)
    (folder / "00 empty.png").touch()
    (folder / "2 text.jpg").write_text("<html>")
    (folder / "9 short.jpg").write_bytes(jpeg(tmp_path / "whole")[:1000])
    return folder


@pytest.fixture
def load(folder: Path, tmp_path: Path) -> Callable[..., Pictures]:
    return partial(load_small, tmp_path, report_path=tmp_path / "out" / "pictures.json")


BAD = ["00 empty.png", "2 text.jpg", "9 short.jpg"]


def report_in(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "out" / "pictures.json").read_text(encoding="utf-8"))


def test_few_bad_pictures_are_left_out_and_reported(
    load: Callable[..., Pictures], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    pictures = load(max_bad_images_fraction=0.3)
    assert colours(pictures) == [RED, GREEN, BLUE, GREY, (1, 2, 3), (200, 100, 0), (0, 100, 200)]
    assert pictures.digests.shape == (7,)
    report = report_in(tmp_path)
    assert report == pictures.report
    assert (report["num_images"], report["num_listed"], report["source"]) == (7, 10, str(folder))
    assert [bad["path"] for bad in report["bad_images"]] == [str(folder / name) for name in BAD]
    reasons = [bad["reason"] for bad in report["bad_images"]]
    assert reasons[0] == "the file is empty"
    assert "not an image" in reasons[1]
    assert "truncated" in reasons[2]
    assert (report["duplicates"], report["not_listed"], report["ignored_suffixes"]) == ([], [], {})
    for _ in range(2):
        (warning,) = [line for line in capsys.readouterr().err.splitlines() if "left out" in line]
        assert warning.endswith(f"all are listed in {tmp_path / 'out' / 'pictures.json'}")
        assert "3 of 10 images cannot be decoded" in warning
        # The next line comes from the cache.
        written = cache_times(tmp_path)
        (tmp_path / "out" / "pictures.json").unlink()
        np.testing.assert_array_equal(load(max_bad_images_fraction=0.3).images, pictures.images)
        assert report_in(tmp_path) == report
        assert cache_times(tmp_path) == written


def test_labels_stay_with_their_pictures(load: Callable[..., Pictures], tmp_path: Path):
    classes = tmp_path / "classes"
    for name, colour in (("van/b.png", RED), ("car/b.png", BLUE), ("van/c.png", RED), ("car/d.png", BLUE)):
        save(classes / name, colour)
    for name in ("car/a.png", "car/c.png", "van/a.png"):
        (classes / name).touch()
    pictures = load(train_data_dir=str(classes), label_column="label", max_bad_images_fraction=0.5)
    assert colours(pictures) == [BLUE, BLUE, RED, RED]
    assert pictures.labels.tolist() == [0, 0, 1, 1]
    pixels_and_labels = np.asarray(pictures.images).tobytes() + np.array([0, 0, 1, 1], dtype="<i8").tobytes()
    assert pictures.sha256 == hashlib.sha256(pixels_and_labels).hexdigest()


def test_the_limit_itself_is_allowed_and_many_pictures_stay_in_order(load: Callable[..., Pictures], tmp_path: Path):
    # More than all threads work on at a time; 0.29 of a hundred is less than 29 to a computer.
    folder = tmp_path / "hundreds"
    folder.mkdir()
    hundreds = 1 + 16 * num_cores() // 100
    for i in range(100 * hundreds):
        if i % 100 < 29:
            (folder / f"{i:05d}.png").touch()
        else:
            Image.new("RGB", (1, 1), (i // 256, i % 256, 9)).save(folder / f"{i:05d}.png")
    pictures = load(train_data_dir=str(folder), max_bad_images_fraction=0.29)
    expected = [(i // 256, i % 256, 9) for i in range(100 * hundreds) if i % 100 >= 29]
    assert colours(pictures) == expected


@pytest.mark.parametrize("limit", [0, 0.01, 0.29])
def test_too_many_bad_pictures_stop_everything(load: Callable[..., Pictures], tmp_path: Path, limit: float):
    with pytest.raises(UserError) as error:
        load(max_bad_images_fraction=limit)
    message = str(error.value)
    for part in ("3 of 10", "30.00%", f"{limit:.2%}", *BAD, "the file is empty", str(tmp_path / "out"), "remove or"):
        assert part in message
    assert [bad["path"].rsplit("/")[-1] for bad in report_in(tmp_path)["bad_images"]] == BAD
    # Whoever raises the limit, or mends them, does not wait again for the others.
    assert len(load(max_bad_images_fraction=0.3).images) == 7
    assert list((tmp_path / "cache" / "ddpm_cars").glob("*.tmp")) == []


def test_a_lower_limit_holds_for_what_is_cached_as_well(load: Callable[..., Pictures]):
    load(max_bad_images_fraction=0.3)
    with pytest.raises(UserError, match="3 of 10"):
        load(max_bad_images_fraction=0.2)


def test_an_error_names_a_file_for_each_reason(load: Callable[..., Pictures], folder: Path):
    for i in range(20):
        (folder / f"empty{i:02d}.png").touch()
    with pytest.raises(UserError, match="23 of 30") as error:
        load(max_bad_images_fraction=0.5)
    # Equal reasons are said once.
    assert "00 empty.png and 20 more (the file is empty); " in str(error.value)
    assert str(error.value).count("(the file is empty)") == 1


def test_all_bad_is_too_many(load: Callable[..., Pictures], tmp_path: Path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").touch()
    with pytest.raises(UserError, match=r"1 of 1 .* cannot be decoded, mend them: "):
        load(train_data_dir=str(tmp_path / "bad"), max_bad_images_fraction=0.99)


def test_copies_are_kept_and_reported(load: Callable[..., Pictures], folder: Path):
    for name, original in (("copy.png", "0.png"), ("sub/copy.png", "0.png"), ("x.png", "1.png")):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes((folder / original).read_bytes())
    pictures = load(max_bad_images_fraction=0.3)
    assert len(pictures.images) == 10
    expected = [["0.png", "copy.png", "sub/copy.png"], ["1.png", "x.png"]]
    assert pictures.report["duplicates"] == [[str(folder / name) for name in group] for group in expected]
    assert len(set(pictures.digests.tolist())) == 7


def test_files_that_are_no_part_of_the_data_are_reported(
    load: Callable[..., Pictures], tmp_path: Path, capsys: pytest.CaptureFixture
):
    folder = tmp_path / "split"
    for name in ("train/a.png", "beside.png", "other/b.png"):
        save(folder / name, RED)
    for name in ("c.HEIC", "notes.txt", "train/notes.TXT", "LICENSE", ".hidden.png"):
        (folder / name).write_text("text")
    report = load(train_data_dir=str(folder), split_folders=True).report
    assert report["not_listed"] == [str(folder / name) for name in ("beside.png", "c.HEIC", "other/b.png")]
    assert report["ignored_suffixes"] == {"": 1, ".txt": 2}
    assert report["num_listed"] == 1
    words = (
        f"2 images in no split, or links to nothing, such as {folder / 'beside.png'}; 1 file of kinds that are not "
    )
    assert f"left out of {folder}: {words}read (1 .heic): convert them to JPEG or PNG" in capsys.readouterr().err


def test_nothing_is_said_where_nothing_is_left_out_nor_by_other_processes(
    load: Callable[..., Pictures], folder: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RANK", "1")
    load(max_bad_images_fraction=0.3)
    assert "left out" not in capsys.readouterr().err
    monkeypatch.delenv("RANK")
    for name in BAD:
        (folder / name).unlink()
    load()
    assert "left out" not in capsys.readouterr().err


def test_files_of_every_kind_of_name_are_read(load: Callable[..., Pictures], tmp_path: Path):
    folder = tmp_path / "odd [names]*"
    names = ["#a.png", "a b.PNG", "b[1].png", "c::d.png", "e%20.png", "f/g/ü é.png", "zug/車.JPG", "z.jpeg"]
    for name in names:
        save(folder / name, GREY)
    (folder / "link").symlink_to(tmp_path / "pictures" / "0.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    save(tmp_path / "elsewhere" / "h.png", GREY)
    (folder / "y.png").symlink_to(tmp_path / "elsewhere" / "h.png")
    pictures = load(train_data_dir=str(folder))
    assert colours(pictures) == [GREY] * 10
    assert (pictures.report["num_listed"], pictures.report["not_listed"]) == (10, [])


def test_warnings_of_pillow_do_not_stop_the_pass(load: Callable[..., Pictures], tmp_path: Path):
    folder = tmp_path / "warned"
    save(folder / "a.png", RED)
    # A directory of one entry that says its value is far behind the end.
    tiff = b"II*\0\x08\0\0\0\x01\0\x0f\x01\x02\0\xff\xff\0\0\xff\xff\xff\x7f\0\0\0\0"
    Image.new("RGB", (16, 8), GREY).save(folder / "b.jpg", exif=b"Exif\0\0" + tiff)
    # In other words from one version of Pillow to the next.
    with pytest.warns(UserWarning, match="data|Truncated File Read"):
        Image.open(folder / "b.jpg").close()
    (folder / "c.png").write_bytes(png_without_pixels(10000, 9000))
    pictures = load(train_data_dir=str(folder), max_bad_images_fraction=0.4)
    assert colours(pictures) == [RED, GREY]
    assert pictures.report["bad_images"][0]["reason"].startswith("10000 x 9000 pixels")


def test_rows_of_a_dataset_are_named(load: Callable[..., Pictures], tmp_path: Path):
    good = (tmp_path / "pictures" / "0.png").read_bytes()
    rows = {"train": [good, b"no", None], "test": [b"", good, good]}
    (tmp_path / "parquet").mkdir()
    features = datasets.Features({"image": datasets.Image(decode=False)})
    for split, files in rows.items():
        images = [None if file is None else {"bytes": file, "path": None} for file in files]
        images[0]["path"] = f"{split}.png"
        data = datasets.Dataset.from_dict({"image": images}, features=features)
        data.to_parquet(tmp_path / "parquet" / f"{split}.parquet")
    report = load(train_data_dir=None, dataset_name=str(tmp_path / "parquet"), max_bad_images_fraction=0.5).report
    assert [bad["path"] for bad in report["bad_images"]] == ["row 1 of train", "row 2 of train", "test.png"]
    assert report["bad_images"][1]["reason"] == "the row has no image"
    assert report["duplicates"] == [["train.png", "row 1 of test", "row 2 of test"]]
