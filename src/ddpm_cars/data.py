"""From a folder of pictures to uint8 arrays, decoded once, and to batches that depend on (seed, step) alone."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets.exceptions import DatasetNotFoundError
from PIL import Image, ImageOps
from tqdm import tqdm

from ddpm_cars.config import ConfigError, ImageConfig

# Part of the cache's key: raise it whenever the pixels that decoding gives change.
_DECODER_VERSION = 1
_BACKGROUND = (255, 255, 255)


def load_image_dataset(config: ImageConfig) -> datasets.Dataset:
    """Open the pictures of `config` without decoding them.

    Args:
        config: Names the folder or data set, and the split; without a split all of them are joined.

    Returns:
        A data set with the one column "image", each row a dict of `path` and `bytes`.

    Raises:
        ConfigError: If the folder, data set, split or column does not exist, or holds no picture.
    """
    source = config.train_data_dir or config.dataset_name
    if config.train_data_dir is not None and not Path(config.train_data_dir).is_dir():
        raise ConfigError(f"train_data_dir {config.train_data_dir} is not a folder")
    try:
        if config.train_data_dir is not None:
            found = datasets.load_dataset(
                "imagefolder",
                data_dir=config.train_data_dir,
                split=config.split,
                cache_dir=config.cache_dir,
                drop_labels=True,
            )
        else:
            found = datasets.load_dataset(
                config.dataset_name, config.dataset_config_name, split=config.split, cache_dir=config.cache_dir
            )
    except (DatasetNotFoundError, datasets.data_files.EmptyDatasetError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"no pictures can be read from {source}: {reason}") from error
    parts = list(found.values()) if isinstance(found, dict) else [found]
    for part in parts:
        if config.image_column not in part.column_names:
            raise ConfigError(f"{source} has no column {config.image_column!r}; it has {part.column_names}")
    parts = [part.select_columns(config.image_column).rename_columns({config.image_column: "image"}) for part in parts]
    joined = datasets.concatenate_datasets(parts)
    if len(joined) == 0:
        raise ConfigError(f"{source} holds no pictures")
    return joined.cast_column("image", datasets.Image(decode=False))


def decode_image(source: str | os.PathLike | bytes, mode: str = "RGB") -> Image.Image:
    """Decode one picture as a viewer would show it.

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled rather than cut off, and of an
    animation the first frame is taken.

    Args:
        source: Path, or the bytes of the file.
        mode: "RGB" or "L".

    Returns:
        The picture in `mode`.

    Raises:
        OSError: If it cannot be decoded.
    """
    with Image.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
        image.load()
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        # 32-bit grey comes from 16-bit files; larger values do not occur in pictures.
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*_BACKGROUND, 255)), image)
    return image.convert(mode)


def resize_image(image: Image.Image, resolution: int, resize: str) -> Image.Image:
    """Bring a picture to `resolution` x `resolution` pixels with an antialiasing filter.

    Args:
        image: Any size.
        resolution: Height and width of the result.
        resize: "squash", "crop" or "pad"; see `ImageConfig.resize`.
    """
    size = (resolution, resolution)
    if resize == "crop":
        return ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    if resize == "pad":
        white = 255 if image.mode == "L" else _BACKGROUND
        return ImageOps.pad(image, size, Image.Resampling.BICUBIC, color=white)
    return image.resize(size, Image.Resampling.BICUBIC)


def load_images(config: ImageConfig, num_channels: int = 3) -> np.ndarray:
    """Decode every picture of `config`, once: a later call with the same files and settings reads the result.

    Args:
        config: Names the pictures, the resolution and how to reach it.
        num_channels: 3 for colour, 1 for grey.

    Returns:
        A read-only memory map, uint8 (num_images, resolution, resolution, num_channels).

    Raises:
        ConfigError: If there are no pictures, or some cannot be decoded.
    """
    dataset = load_image_dataset(config)
    if num_channels not in (1, 3):
        raise ConfigError(f"the network takes {num_channels} channels; pictures can be given to one with 1 or 3")
    settings = [_DECODER_VERSION, dataset._fingerprint, len(dataset), config.resolution, config.resize, num_channels]
    key = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:32]
    path = Path(config.cache_dir or datasets.config.HF_DATASETS_CACHE) / "ddpm_cars" / f"{key}.npy"
    if not path.exists():
        _decode_all(dataset, path, config, "RGB" if num_channels == 3 else "L")
    return np.load(path, mmap_mode="r")


def _decode_all(dataset: datasets.Dataset, path: Path, config: ImageConfig, mode: str) -> None:
    """Write the decoded pictures to `path`, which appears only when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    shape = (len(dataset), config.resolution, config.resolution, len(mode))

    def decode(i: int) -> np.ndarray | str:
        row = dataset[i]["image"]
        try:
            image = decode_image(row["bytes"] or row["path"], mode)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return f"{row['path'] or f'row {i}'} ({error})"
        return np.asarray(resize_image(image, config.resolution, config.resize)).reshape(shape[1:])

    bad = []
    try:
        out = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
        # Pillow decodes and resizes outside the interpreter's lock, so threads use every core.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(decode, range(len(dataset)))
            for i, pixels in enumerate(tqdm(decoded, "decoding", len(dataset), unit="image")):
                if isinstance(pixels, str):
                    bad.append(pixels)
                else:
                    out[i] = pixels
        if bad:
            raise ConfigError(
                f"{len(bad)} of {len(dataset)} pictures cannot be decoded, remove or mend them: {'; '.join(bad[:5])}"
            )
        out.flush()
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def to_samples(images: np.ndarray) -> torch.Tensor:
    """Turn pictures into what the network sees.

    Args:
        images: uint8 (batch, height, width, channels).

    Returns:
        float32 (batch, channels, height, width) in [-1, 1], laid out channels-last.
    """
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def step_seed(seed: int, step: int, *path: int) -> int:
    """Derive an independent seed for one use of randomness at one step.

    Args:
        seed: The seed of the run, 0 or more.
        step: The optimiser step, 0 or more.
        path: Further integers that tell uses apart.

    Returns:
        An integer in [0, 2**63).
    """
    # Without its length a path would be the same as one with zeros behind it.
    entropy = [len(path), seed, step, *path]
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> np.uint64(1))


class BatchOrder:
    """Which pictures each optimiser step sees: every one once an epoch, shuffled anew each time.

    The order is one endless sequence of shuffled epochs, of which step k takes positions k B to (k + 1) B - 1 for a
    global batch of B. It depends on the seed and the position only, so a resumed run needs no replay.
    """

    def __init__(self, num_images: int, global_batch_size: int, seed: int):
        self.num_images = num_images
        self.global_batch_size = global_batch_size
        self.seed = seed
        self._epochs: dict[int, np.ndarray] = {}

    def __call__(self, step: int) -> np.ndarray:
        """Return the int64 indices (global_batch_size,) of the pictures of `step`."""
        position = step * self.global_batch_size + np.arange(self.global_batch_size)
        epochs, offsets = np.divmod(position, self.num_images)
        # Consecutive steps mostly share an epoch; older ones are forgotten.
        needed = range(int(epochs[0]), int(epochs[-1]) + 1)
        self._epochs = {e: self._epochs[e] if e in self._epochs else self._shuffle(e) for e in needed}
        return np.stack([self._epochs[epoch][offset] for epoch, offset in zip(epochs, offsets, strict=True)])

    def _shuffle(self, epoch: int) -> np.ndarray:
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([self.seed, epoch])))
        return rng.permutation(self.num_images)
