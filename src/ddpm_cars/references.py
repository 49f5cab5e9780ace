"""The real pictures that a model is measured against, and their features, which are computed once."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
import torch

from ddpm_cars.checkpoints import read_file
from ddpm_cars.command_configs import MIN_EVALUATION_IMAGES, EvaluateConfig, PicturesOfRunConfig
from ddpm_cars.config import ConfigError, PicturesConfig
from ddpm_cars.data import Pictures, load_pictures
from ddpm_cars.features import Extractor

Config = TypeVar("Config", bound=PicturesOfRunConfig)

# Where pixels are compared, larger pictures are brought to this size: what is copied shows there too.
_COMPARED_SIZE = 32
_NUM_ROWS_AT_A_TIME = 1024
# Distances between as many drawn pictures and real ones are told well enough from their error.
_MAX_UNASKED_IMAGES = 2000


def with_pictures_of_run(config: Config, name: str) -> Config:
    """Take from the config.yaml in the folder of a trained model what `config` does not say of the pictures.

    Args:
        config: What the command line says. Where it names pictures, only how they become squares is taken, and
            which of them were held out if they are those of the run.
        name: Folder of the model.

    Raises:
        ConfigError: If no pictures are named and there is no such file, or the settings do not fit together.
    """
    path = Path(name) / "config.yaml"
    defaults: dict[str, Any] = {field.name: field.default for field in fields(PicturesConfig)}
    names = {setting for setting in ("resize", "background") if getattr(config, setting) is None}
    taken = {setting: defaults[setting] for setting in names}
    run = read_file(path) or {}
    if config.train_data_dir is None and config.dataset_name is None:
        if not run:
            raise ConfigError(
                f"{name} has no config.yaml that says what it was trained on; give train_data_dir or dataset_name, "
                "and validation_split"
            )
        names = {*defaults, "label_column", "validation_split"}
        # What the command line says, it means; only where null is the default can it be told that it does.
        names -= {f.name for f in fields(config) if f.default is None and getattr(config, f.name) is not None}
    elif config.split is None and config.validation_split is None and _are_of_run(config, run):
        names.add("validation_split")
    return replace(config, **taken | {setting: value for setting, value in run.items() if setting in names})


def _are_of_run(config: PicturesOfRunConfig, run: Mapping[str, Any]) -> bool:
    """Return whether settings name the pictures of a run, however the place is written."""

    def place(name: Any) -> Any:
        return Path(name).resolve() if name is not None and Path(name).exists() else name

    names = ("train_data_dir", "dataset_name", "dataset_config_name")
    return all(place(run.get(name)) == place(getattr(config, name)) for name in names)


def _splits(text: str | None) -> set[str] | None:
    """Return the splits in text such as "train[:9]+test", of which slices count as all; None is all of them."""
    return None if text is None else {part.partition("[")[0].strip() for part in text.split("+")}


def check_held_out(config: EvaluateConfig, name: str) -> None:
    """See that a model has not seen the split that is to tell what it makes of unseen pictures.

    Args:
        config: Its pictures are named.
        name: Folder of the model; without a config.yaml in it nothing is known, and nothing raised.

    Raises:
        ConfigError: If the run behind the model was trained on `validation_split` of the same pictures.
    """
    path, split = Path(name) / "config.yaml", config.validation_split
    run = read_file(path)
    if split is None or run is None:
        return
    trained, asked = _splits(run.get("split")), _splits(split)
    has_seen = (trained is None or trained & asked) and run.get("validation_split") != split  # type: ignore[operator]
    if has_seen and _are_of_run(config, run):
        raise ConfigError(
            f"validation_split is {split}, which {name} was trained on, at least in part, as its config.yaml says; "
            "evaluate without validation_split, or train with it"
        )


@dataclass(frozen=True, eq=False)
class RealPictures:
    """What a model was trained on, and perhaps what it was not.

    Attributes:
        training: Every training picture.
        held_out: Every picture that was kept out, or None.
        order: int64 (N,), the training pictures in the order of a seed.
        num_floor_images: How many of the first of `order` take the place of drawn ones; the others are the reference.
    """

    training: Pictures
    held_out: Pictures | None
    order: np.ndarray
    num_floor_images: int

    @property
    def labels(self) -> np.ndarray | None:
        """Return the classes of as many real pictures as are drawn: drawn ones have these, in this order."""
        return None if self.training.labels is None else self.training.labels[self.order[: self.num_floor_images]]


def load_real_pictures(
    config: EvaluateConfig, resolution: int, num_channels: int, class_names: tuple[str, ...]
) -> RealPictures:
    """Decode the pictures that `config` names, as `load_pictures` does.

    Args:
        config: Names them, and says how many are drawn or leaves that open.
        resolution: Height and width of what the model draws.
        num_channels: Of it, 1 or 3.
        class_names: Its classes; empty without.

    Raises:
        ConfigError: As `load_pictures`, and if there are too few pictures or other classes.
    """
    image_config = config.at_resolution(resolution)
    label_column = config.label_column if class_names else None
    training = load_pictures(
        image_config, num_channels, label_column=label_column, excluded_split=config.validation_split
    )
    source, n = training.report["source"], len(training.images)
    if n < 2 * MIN_EVALUATION_IMAGES:
        raise ConfigError(
            f"{source} has {n} pictures; an evaluation needs {2 * MIN_EVALUATION_IMAGES} or more, half of them to "
            "compare with and half in place of drawn ones"
        )
    num_images = config.num_images or min(n // 2, _MAX_UNASKED_IMAGES)
    if n < 2 * num_images:
        raise ConfigError(
            f"num_images is {num_images}, which takes {2 * num_images} real pictures, half of them to "
            f"compare with and half in place of drawn ones; {source} has {n}: lower num_images to {n // 2} or less"
        )
    check_classes(training, class_names)
    held_out = None
    if config.validation_split is not None:
        held_out_config = replace(image_config, split=config.validation_split)
        held_out = load_pictures(held_out_config, num_channels, label_column=label_column)
        if len(held_out.images) < 2:
            split = config.validation_split
            raise ConfigError(f"validation_split {split} of {source} has 1 picture; it takes 2 or more")
    order = np.random.default_rng(config.seed).permutation(n)
    return RealPictures(training, held_out, order, num_images)


def check_classes(pictures: Pictures, class_names: tuple[str, ...]) -> None:
    """See that pictures have the classes of a model.

    Args:
        pictures: Loaded with labels.
        class_names: Those of the model; empty if it has none.

    Raises:
        ConfigError: If they differ.
    """
    if class_names and pictures.class_names != class_names:
        source = pictures.report["source"]
        raise ConfigError(
            f"{source} has the classes {', '.join(pictures.class_names)}, and the model has {', '.join(class_names)}"
        )


def features_path(extractor: Extractor, pictures_sha256: str, cache_dir: str | None) -> Path:
    """Return where the features of some pictures are kept, by the contents of the pictures and of the extractor.

    Args:
        extractor: Whose features they are.
        pictures_sha256: Identity of the pictures.
        cache_dir: Where they are kept; None is the cache of `datasets`.
    """
    key = hashlib.sha256(f"{extractor.name} {extractor.fingerprint} {pictures_sha256}".encode()).hexdigest()[:32]
    return Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "ddpm_cars" / f"features-{key}.safetensors"


def compared_pixels(images: np.ndarray) -> torch.Tensor:
    """Return pictures, uint8 (N, H, W, C), as float32 vectors to measure distances between, in grey levels per value.

    Pictures larger than 32 x 32 are averaged down to that. A distance is the root of the mean squared difference.
    """
    size = min(images.shape[1], _COMPARED_SIZE), min(images.shape[2], _COMPARED_SIZE)
    parts = []
    for start in range(0, len(images), _NUM_ROWS_AT_A_TIME):
        # A copy, because kept pictures cannot be written to, which torch warns of.
        x = torch.from_numpy(images[start : start + _NUM_ROWS_AT_A_TIME].copy()).permute(0, 3, 1, 2).float()
        parts.append(torch.nn.functional.adaptive_avg_pool2d(x, size).flatten(1))
    vectors = torch.cat(parts)
    return vectors / vectors.shape[1] ** 0.5


def mirrored(images: np.ndarray) -> np.ndarray:
    """Return pictures, uint8 (N, H, W, C), with left and right exchanged."""
    return images[:, :, ::-1]
