"""All that a run depends on, as frozen dataclasses. The docstring of a field is its `--help` text."""

import math
import os
import types
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from PIL import ImageColor

Preset = Literal["tiny", "32", "64", "peer64"]
Resize = Literal["squash", "crop", "pad"]
FixedVariance = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"]
Variance = Literal[FixedVariance, "learned", "learned_range", "analytic", "spectral"]


class ConfigError(ValueError):
    """A mistake that the person at the command line can mend; the message says how."""


_MISFIT = object()


def fit_types(config: Any) -> None:
    """Make every field of a config what its type says: a path a text, a list or a lone value a tuple.

    Raises:
        ConfigError: For the first field that cannot be, with what it can be.
    """
    kinds = get_type_hints(type(config))
    for name in (field.name for field in fields(config)):
        value, kind = getattr(config, name), kinds[name]
        fitting = _fit(value, kind)
        if fitting is _MISFIT:
            raise ConfigError(f"{name} is {value!r}; it must be {_in_words(kind)}")
        # The config is frozen for everybody else.
        object.__setattr__(config, name, fitting)


def _fit(value: Any, kind: Any) -> Any:
    """Return a value as the type of a field, or _MISFIT."""
    if get_origin(kind) in (Union, types.UnionType):
        fitting = (_fit(value, member) for member in get_args(kind))
        return next((v for v in fitting if v is not _MISFIT), _MISFIT)
    if get_origin(kind) is tuple:
        values = value if isinstance(value, list | tuple | range) else (value,)
        parts = tuple(_fit(v, get_args(kind)[0]) for v in values)
        return _MISFIT if _MISFIT in parts else parts
    if get_origin(kind) is Literal:
        return value if isinstance(value, str) and value in get_args(kind) else _MISFIT
    if kind is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if kind in (int, float):
        # To Python a bool is a number.
        is_number = isinstance(value, Integral if kind is int else Real) and not isinstance(value, bool)
        return kind(value) if is_number else _MISFIT
    return value if isinstance(value, kind) else _MISFIT


def _in_words(kind: Any) -> str:
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(_in_words(member) for member in get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list, of which each is {_in_words(get_args(kind)[0])}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(repr, get_args(kind)))}"
    return {bool: "True or False", int: "a whole number", float: "a number", str: "a text"}.get(kind, "None")


def at_least(config: Any, minimum: float, *names: str) -> None:
    """Raise a ConfigError for the first of the named fields that is a number below `minimum` or not finite."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not minimum <= value < math.inf:
            raise ConfigError(f"{name} is {value}; it must be {minimum} or more, and finite")


def above_zero(config: Any, *names: str) -> None:
    """Raise a ConfigError for the first of the named fields that is a number and not a finite one above 0."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name} is {value}; it must be above 0, and finite")


def in_unit_interval(config: Any, *names: str) -> None:
    """Raise a ConfigError for the first of the named fields that is not in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name} is {getattr(config, name)}; it must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class PicturesConfig:
    """Which pictures, and how they become squares."""

    train_data_dir: str | None = None
    """Folder of pictures, subfolders included; train/ and test/ inside it are its splits."""
    dataset_name: str | None = None
    """Dataset on the Hub, or a local dataset folder, instead of train_data_dir."""
    dataset_config_name: str | None = None
    """Configuration of dataset_name, where it has several."""
    image_column: str = "image"
    """Column of the dataset that holds the pictures."""
    split: str | None = None
    """Split to use, in the notation of `datasets` ("train", "train+test", "train[:90%]"); null joins every split."""
    cache_dir: str | None = None
    """Where decoded pictures are kept between runs; null is the cache of `datasets`."""
    resize: Resize = "squash"
    """How: squash ignores the aspect ratio, crop keeps the centre, pad adds borders."""
    background: str = "white"
    """Colour behind transparent pictures and of borders, by name or as #rrggbb."""
    max_bad_images_fraction: float = 0.01
    """Pictures that cannot be decoded are left out and reported; if they are more than this share, nothing runs."""

    def __post_init__(self) -> None:
        fit_types(self)
        in_unit_interval(self, "max_bad_images_fraction")
        try:
            ImageColor.getrgb(self.background)
        except ValueError as error:
            raise ConfigError(f"background is {self.background}; give a colour such as black or #8090a0") from error
        if (self.train_data_dir is None) == (self.dataset_name is None):
            raise ConfigError("give the pictures with exactly one of train_data_dir (a folder) and dataset_name")
        if self.train_data_dir is not None:
            for name, nothing in (("dataset_config_name", None), ("image_column", "image"), ("label_column", "label")):
                value = getattr(self, name, nothing)
                if value != nothing:
                    raise ConfigError(f"{name} is {value}; it goes with dataset_name, not with train_data_dir")


@dataclass(frozen=True, kw_only=True)
class ImageConfig(PicturesConfig):
    """Pictures of one size."""

    resolution: int = 64
    """Height and width in pixels that every picture is brought to."""

    def __post_init__(self) -> None:
        PicturesConfig.__post_init__(self)
        at_least(self, 8, "resolution")


@dataclass(frozen=True, kw_only=True)
class NoiseConfig:
    """The forward process."""

    num_train_timesteps: int = 1000
    """Number of noise levels T."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"] = "linear"
    """How beta runs from beta_start to beta_end."""
    beta_start: float = 0.0001
    """Variance of the first noise step."""
    beta_end: float = 0.02
    """Variance of the last noise step."""
    scale_betas_for_timesteps: bool = False
    """Multiply the betas by 1000 / num_train_timesteps, so that noising ends in pure noise at any number of them."""
    rescale_betas_zero_snr: bool = False
    """Move the last noise level to exactly pure noise; not for epsilon prediction."""

    def __post_init__(self) -> None:
        fit_types(self)
        at_least(self, 1, "num_train_timesteps")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ConfigError(
                f"beta_start is {self.beta_start} and beta_end is {self.beta_end}; "
                "they must satisfy 0 < beta_start <= beta_end < 1"
            )
        scaled = self.scale_betas_for_timesteps and self.beta_schedule in ("linear", "scaled_linear", "sigmoid")
        if scaled and self.beta_end * 1000 >= self.num_train_timesteps:
            raise ConfigError(
                f"scale_betas_for_timesteps makes a beta of {self.beta_end * 1000 / self.num_train_timesteps:.4g}; "
                f"num_train_timesteps is {self.num_train_timesteps}, it must be above {self.beta_end * 1000:g}"
            )


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ImageConfig, NoiseConfig):
    """One training run."""

    validation_split: str | None = None
    """Split that is kept out of training and measured on; null is none. Without `split`, training joins the others."""
    streaming: bool = False
    """Read the shards (Parquet, WebDataset) of dataset_name while training, for data larger than a machine."""
    shuffle_window_images: int = 512
    """Pictures of a shard that are shuffled together, with streaming."""
    random_flip: bool = True
    """Mirror every picture with probability 1/2."""
    class_conditional: bool = False
    """Learn the classes: the names of the folders that hold the pictures, or label_column."""
    label_column: str = "label"
    """Column of the dataset that holds the classes."""
    class_dropout_prob: float = 0.1
    """How often a class is hidden while training, so that sampling can be guided; 0 for no guidance."""

    preset: Preset = "64"
    """Network: tiny (for CPUs), 32, 64, or peer64, the one of diffusers' train_unconditional.py."""
    model_config: str | None = None
    """JSON file with the arguments of a UNet2DModel, instead of a preset."""
    dropout: float = 0.0
    """Probability that a value inside the network is dropped while training; 0 leaves it to model_config."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third slower."""

    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, the clean picture, or v."""
    variance_type: Literal[FixedVariance, "learned_range"] = "fixed_small"
    """Variance of the reverse step when the saved pipeline samples; learned_range is learned with the hybrid loss."""
    vlb_weight: float = 0.001
    """Weight of the variational bound beside the simple loss, with learned_range."""
    snr_gamma: float | None = None
    """Weights the loss by min(SNR, snr_gamma), 5 is usual; null weights all timesteps alike."""
    timestep_sampling: Literal["uniform", "stratified"] = "uniform"
    """How a batch draws its timesteps: independently, or one from each of as many equal parts as it has pictures."""

    train_batch_size: int = 64
    """Pictures per process and gradient computation."""
    gradient_accumulation_steps: int = 1
    """Gradient computations per optimiser step."""
    auto_find_batch_size: bool = False
    """Where memory is short, halve train_batch_size and double gradient_accumulation_steps until a step fits."""
    num_epochs: int = 100
    """Passes over the pictures, where max_train_steps is null."""
    max_train_steps: int | None = None
    """Optimiser steps; overrides num_epochs."""
    optimizer: Literal["adam", "adamw"] = "adamw"
    """Optimiser."""
    learning_rate: float = 1e-4
    """Learning rate after the warmup."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = "cosine"
    """How the learning rate runs over the steps."""
    lr_warmup_steps: int = 500
    """Steps over which the learning rate rises from 0; plain constant has no warmup."""
    adam_beta1: float = 0.9
    """Decay of the first moment."""
    adam_beta2: float = 0.999
    """Decay of the second moment."""
    adam_weight_decay: float = 0.0
    """Weight decay."""
    adam_epsilon: float = 1e-8
    """Term that keeps the division by the second moment finite."""
    max_grad_norm: float | None = 1.0
    """Gradients are scaled down to this norm; null is off."""
    max_skipped_steps: int = 0
    """Steps with a loss or gradient that is not finite that may be left out before the run stops."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the network's arithmetic; null is what accelerate was configured with."""
    compile: bool = False
    """Compile the network, which takes minutes and pays on a GPU; the same up to rounding."""
    use_ema: bool = True
    """Keep a moving average of the weights, and sample with it."""
    ema_half_life_steps: tuple[int, ...] = (7000,)
    """Steps after which a weight counts half in the average, fewer during its warmup (ema_power). Of several, the best
    on validation_split is published."""
    ema_inv_gamma: float = 1.0
    """Until it reaches that of the half-life, the decay at a step is 1 - (1 + step / ema_inv_gamma) ** -ema_power."""
    ema_power: float = 0.75
    """See ema_inv_gamma."""
    seed: int = 0
    """Decides the initial weights, the order of the pictures, flips, timesteps and noise."""

    output_dir: str = "ddpm-cars-model"
    """Where everything is written; the same command continues the run that it finds there."""
    overwrite_output_dir: bool = False
    """Delete the checkpoints, sample grids and best model in output_dir and start again."""
    checkpointing_steps: int | None = 500
    """Steps between checkpoints; null is off."""
    checkpoints_total_limit: int | None = 2
    """How many checkpoints are kept; null keeps all."""
    save_images_steps: int | None = 2000
    """Steps between sample grids; null is off."""
    eval_batch_size: int = 16
    """Pictures in a sample grid."""
    num_inference_steps: int | None = None
    """Denoising steps of the sample grids; null is all num_train_timesteps."""
    validation_steps: int | None = 1000
    """Steps between measurements on validation_split; null measures at the end only."""
    num_validation_images: int = 512
    """Pictures of validation_split that are measured on, with the same noise every time."""
    logging_steps: int = 50
    """Steps over which a logged loss is averaged."""
    logger: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Tracker that the log goes to besides loss.json; null is off."""
    dry_run: bool = False
    """Check everything, print the plan and stop."""
    model_license: str | None = None
    """Licence of the model, as the Hub spells it (apache-2.0, cc-by-nc-4.0), for its card; null says nothing."""
    data_license: str | None = None
    """Licence of the pictures, in words for the model card; null says nothing."""

    def __post_init__(self) -> None:
        ImageConfig.__post_init__(self)
        NoiseConfig.__post_init__(self)
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ConfigError(
                "rescale_betas_zero_snr leaves nothing of the picture at the last timestep, where prediction_type "
                "epsilon then says nothing of it; use v_prediction or sample"
            )
        at_least(self, 1, "train_batch_size", "gradient_accumulation_steps", "num_epochs", "max_train_steps")
        at_least(self, 1, "shuffle_window_images", "validation_steps", "num_validation_images")
        at_least(self, 1, "checkpointing_steps", "checkpoints_total_limit", "save_images_steps", "logging_steps")
        at_least(self, 1, "eval_batch_size", "num_inference_steps")
        at_least(self, 0, "lr_warmup_steps", "learning_rate", "adam_weight_decay", "adam_epsilon", "seed")
        at_least(self, 0, "max_skipped_steps")
        in_unit_interval(self, "adam_beta1", "adam_beta2", "dropout", "class_dropout_prob")
        above_zero(self, "ema_inv_gamma", "ema_power", "max_grad_norm", "snr_gamma", "vlb_weight")
        if not self.ema_half_life_steps or min(self.ema_half_life_steps) < 1:
            raise ConfigError(f"ema_half_life_steps is {self.ema_half_life_steps}; give one or more, each 1 or more")
        if self.num_inference_steps is not None and self.num_inference_steps > self.num_train_timesteps:
            raise ConfigError(
                f"num_inference_steps is {self.num_inference_steps}; "
                f"it cannot exceed num_train_timesteps, {self.num_train_timesteps}"
            )
        if self.streaming:
            self._check_streaming()

    def warnings(self) -> list[str]:
        """Return what works, but hardly as it is meant."""
        half_lives = self.ema_half_life_steps
        if not self.use_ema or len(half_lives) == 1 or self.validation_split is not None:
            return []
        return [
            f"of the {len(half_lives)} ema_half_life_steps the first, {half_lives[0]}, is published, for without "
            "validation_split nothing tells which is best"
        ]

    def _check_streaming(self) -> None:
        if self.dataset_name is None:
            raise ConfigError(
                "streaming reads shards: give dataset_name, a dataset on the Hub or a local folder of Parquet or "
                "WebDataset files, instead of train_data_dir"
            )
        if self.max_train_steps is None:
            raise ConfigError("streaming does not know how long an epoch is: give max_train_steps")
        if self.split is None:
            raise ConfigError("streaming needs the name of one split, such as split: train")
