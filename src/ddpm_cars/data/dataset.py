"""The images of dataset_name: a dataset of the Hub or a folder, as `datasets` reads it, and classes in a column."""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import fsspec
import numpy as np

from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.dataset_files import is_saved_to_disk, read_errors, unread_files
from ddpm_cars.data.findings import ImageError
from ddpm_cars.data.listing import readable_suffixes, suffix_of
from ddpm_cars.data.source import Source, as_labels, class_notes, spans, without_split
from ddpm_cars.errors import UserError
from ddpm_cars.runtime.console import count

# Returns a split in the notation of `datasets`, or a dict of all of them.
ReadSplit = Callable[[str | None], Any]


def find_in_dataset(config: ImageConfig, label_column: str | None, excluded_split: str | None) -> Source:
    """Find the images of `config.dataset_name`, perhaps none, in the order of the splits and of the rows in them.

    Args:
        config: The settings of the images.
        label_column: The column of the classes; None is no classes.
        excluded_split: Split that is not joined where `config.split` is None.

    Raises:
        UserError: If the dataset, split or column does not exist or cannot be read, there are no classes, or
            `datasets` leaves out files of a folder because of the names of others.
    """
    place = str(config.dataset_name)
    read_split, notes = _open_dataset(config)
    if config.split is None:
        found = read_split(None)
        parts = {name: found[name] for name in without_split(list(found), excluded_split, place)}
    else:
        parts = {config.split: read_split(config.split)}
    features = next(iter(parts.values())).features
    with_images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    image_column = find_image_column(config, features, with_images)
    if label_column == TrainingConfig.label_column and label_column not in features and "cls" in features:
        # This is the name of the column in archives of WebDataset.
        label_column = "cls"
    for column in (image_column, label_column):
        if column is not None and column not in features:
            raise UserError(f"{place} has no column {column!r}; it has {', '.join(features)}")
    images = datasets.concatenate_datasets([part.select_columns(image_column) for part in parts.values()])
    try:
        rows = images.cast_column(image_column, datasets.Image(decode=False))
    except (NotImplementedError, TypeError, ValueError) as error:
        kind = features[image_column]
        raise UserError(f"image_column {image_column!r} of {place} holds {kind}, not images") from error
    ends = np.cumsum([len(part) for part in parts.values()])

    def path(i: int) -> str:
        row = rows[i][image_column]
        if row is not None and row["path"] is not None:
            return row["path"]
        part = int(np.searchsorted(ends, i, side="right"))
        return f"row {i - (ends[part - 1] if part else 0)} of {list(parts)[part]}"

    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    if label_column is not None:
        labels, class_names = _column_classes(place, label_column, parts, read_split, path)
        notes = [*notes, *class_notes(labels, class_names)]
    read = partial(_read_image, rows, image_column)
    # The documentation of `datasets` gives this name for what changes with the data ("The cache").
    return Source(place, len(rows), read, path, rows._fingerprint, labels, class_names, [], {}, notes)


def _read_image(rows: datasets.Dataset, column: str, i: int) -> bytes:
    """Return the bytes of the image in a row. Raises ImageError if there is none."""
    image = rows[i][column]
    if image is None or (image["bytes"] is None and image["path"] is None):
        raise ImageError("the row has no image")
    if image["bytes"] is not None:
        return image["bytes"]
    if "://" not in image["path"]:
        return Path(image["path"]).read_bytes()
    # The image is in an archive, or on another machine.
    with fsspec.open(image["path"], "rb") as file:
        return file.read()


def find_image_column(config: ImageConfig, columns: Collection[str], with_images: Sequence[str]) -> str:
    """Return the column of images: the one in the settings, or the only one if the default name is missing."""
    by_itself = config.image_column == ImageConfig.image_column and config.image_column not in columns
    return with_images[0] if by_itself and len(with_images) == 1 else config.image_column


def _open_dataset(config: ImageConfig) -> tuple[ReadSplit, list[str]]:
    """Return how the splits of dataset_name are read, and sentences about what is not read."""
    place = str(config.dataset_name)
    local = Path(place).is_dir()
    # `datasets` has readers with names such as "parquet", and so may a folder.
    name = str(Path(place).absolute()) if local else place
    if local and is_saved_to_disk(name):
        return _open_saved(config, name), []
    with read_errors(place), _cache_errors(config.cache_dir):
        builder = datasets.load_dataset_builder(name, config.dataset_config_name, cache_dir=config.cache_dir)
    files = {str(split): [*names] for split, names in (builder.config.data_files or {}).items()}
    notes = unread_files(Path(place), files, stop=config.split_folders is None) if local else []
    with read_errors(place), _cache_errors(config.cache_dir):
        builder.download_and_prepare()

    def read_split(split: str | None) -> Any:
        with read_errors(place):
            return builder.as_dataset(split)

    return read_split, [*notes, *_images_without_rows(builder, files)]


@contextmanager
def _cache_errors(cache_dir: str | None) -> Iterator[None]:
    """Turn the error of a cache of `datasets` that cannot be written into a UserError with its cure."""
    cache = Path(cache_dir or datasets.config.HF_DATASETS_CACHE)
    try:
        yield
    except OSError as error:
        # It names a file in it, or a folder above it that cannot be made.
        named = Path(str(error.filename)) if error.filename is not None else None
        if named is None or not (named.is_relative_to(cache) or cache.is_relative_to(named)):
            raise
        raise UserError(
            f"{named} in the cache of `datasets` cannot be written ({error.strerror}); make room or mend that, or "
            "choose another cache_dir"
        ) from error


def _open_saved(config: ImageConfig, name: str) -> ReadSplit:
    """Return how the splits are read of what `save_to_disk` has written into a folder."""
    if config.dataset_config_name is not None:
        raise UserError(
            f"dataset_config_name is {config.dataset_config_name}, and {config.dataset_name} is a dataset that "
            "save_to_disk has written, which has no configurations"
        )
    with read_errors(str(config.dataset_name)):
        saved = datasets.load_from_disk(name)
    if isinstance(saved, datasets.DatasetDict):
        parts = {str(split): part for split, part in saved.items()}
    else:
        parts = {str(saved.split) if re.fullmatch(r"\w+", str(saved.split or "")) else "train": saved}

    def read_split(split: str | None) -> Any:
        if split is None:
            return parts
        sizes = {part: len(rows) for part, rows in parts.items()}
        asked = spans(split, sizes, str(config.dataset_name))
        return datasets.concatenate_datasets([parts[part].select(range(sizes[part])[span]) for part, span in asked])

    return read_split


def _images_without_rows(builder: datasets.DatasetBuilder, files: dict[str, list[str]]) -> list[str]:
    """Say how many images of a folder a metadata file leaves out."""
    if builder.name != "imagefolder" or builder.info.splits is None:
        return []
    num_images = sum(suffix_of(path) in readable_suffixes() for names in files.values() for path in names)
    num_rows = sum(split.num_examples for split in builder.info.splits.values())
    if num_rows >= num_images:
        return []
    return [f"`datasets` has {count(num_rows, 'row')} for {count(num_images, 'image')}: a metadata file names no more"]


def _column_classes(
    place: str, column: str, parts: dict[str, Any], read_split: ReadSplit, path: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the classes in a column, int64, and the names of those of all splits."""
    kind = next(iter(parts.values())).features[column]
    classes = [value for part in parts.values() for value in part.select_columns(column)[:][column]]
    if isinstance(kind, datasets.ClassLabel):
        values, names = list(range(kind.num_classes)), kind.names
    elif isinstance(kind, datasets.Value) and re.fullmatch(r"u?int\d+|(large_)?string", kind.dtype):
        # The classes of every split count, so that a class has the same number in each.
        values = sorted({v for part in read_split(None).values() for v in part.unique(column)} - {None})
        names = [str(value) for value in values]
    else:
        raise UserError(
            f"the column {column!r} of {place} holds {kind}; classes are a ClassLabel, integers or "
            "strings: name another label_column, or set class_conditional to false"
        )
    known = set(values)
    without = [i for i, value in enumerate(classes) if value not in known]
    if without:
        raise UserError(
            f"{len(without)} of {len(classes)} images of {place} have no class in the column "
            f"{column!r}, {path(without[0])} for one; choose a split that has, or set class_conditional to false"
        )
    return as_labels(classes, values), tuple(names)
