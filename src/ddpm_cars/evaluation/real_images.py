"""The real images that a model is measured against, and their features, which are computed once."""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.data.cache import cache_folder
from ddpm_cars.data.pictures import Pictures, load_pictures
from ddpm_cars.diffusion.seeds import permutation
from ddpm_cars.errors import UserError
from ddpm_cars.evaluation.features import Extractor
from ddpm_cars.runs.settings import check_classes

# Larger images are reduced to this size before their pixels are compared: copies can still be recognised.
_COMPARED_SIZE = 32
_NUM_ROWS_AT_A_TIME = 1024
# With as many images of both kinds, the error of a distance is small enough.
_MAX_UNASKED_IMAGES = 2000


@dataclass(frozen=True, eq=False)
class RealImages:
    """What a model was trained on, and perhaps what it was not."""

    training: Pictures
    held_out: Pictures | None
    order: np.ndarray  # int64 (N,), the training images in the order of a seed
    num_floor_images: int  # the first ones of `order`, in place of generated ones; the others are the reference

    @property
    def labels(self) -> np.ndarray | None:
        """The classes of as many real images as are generated; the generated ones have the same, in this order."""
        return None if self.training.labels is None else self.training.labels[self.order[: self.num_floor_images]]


def load_real_images(
    config: EvaluateConfig, resolution: int, num_channels: int, class_names: tuple[str, ...]
) -> RealImages:
    """Decode the images that `config` names to the size, channels and classes of a model.

    Raises UserError as `load_pictures` does, and if there are too few images or other classes.
    """
    image_config = config.at_resolution(resolution)
    label_column = config.label_column if class_names else None
    training = load_pictures(
        image_config,
        num_channels,
        label_column=label_column,
        excluded_split=config.validation_split,
        check_number=config.check_number_of_images,
    )
    source, n = training.report["source"], len(training.images)
    num_images = config.num_images or min(n // 2, _MAX_UNASKED_IMAGES)
    check_classes(training, class_names)
    held_out = None
    if config.validation_split is not None:
        held_out_config = replace(image_config, split=config.validation_split)
        held_out = load_pictures(held_out_config, num_channels, label_column=label_column)
        if len(held_out.images) < 2:
            split = config.validation_split
            raise UserError(f"validation_split {split} of {source} has 1 image; it takes 2 or more")
    return RealImages(training, held_out, permutation(n, config.seed), num_images)


def features_path(extractor: Extractor, pictures_sha256: str, cache_dir: str | None) -> Path:
    """Return where the features of some images are kept, by the contents of the images and of the extractor."""
    key = hashlib.sha256(f"{extractor.name} {extractor.fingerprint} {pictures_sha256}".encode()).hexdigest()[:32]
    return cache_folder(cache_dir) / f"features-{key}.safetensors"


def compared_pixels(images: np.ndarray) -> torch.Tensor:
    """Return images, uint8 (N, H, W, C), as float32 vectors to measure distances between, in grey levels per value.

    Images larger than 32 x 32 are averaged down to that. A distance is the root of the mean squared difference.
    """
    size = min(images.shape[1], _COMPARED_SIZE), min(images.shape[2], _COMPARED_SIZE)
    parts = []
    for start in range(0, len(images), _NUM_ROWS_AT_A_TIME):
        # A copy, because cached images are read-only, which torch warns about.
        x = torch.from_numpy(images[start : start + _NUM_ROWS_AT_A_TIME].copy()).permute(0, 3, 1, 2).float()
        parts.append(torch.nn.functional.adaptive_avg_pool2d(x, size).flatten(1))
    vectors = torch.cat(parts)
    return vectors / vectors.shape[1] ** 0.5


def mirrored(images: np.ndarray) -> np.ndarray:
    """Return images, uint8 (N, H, W, C), with left and right exchanged."""
    return images[:, :, ::-1]
