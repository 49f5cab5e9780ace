"""All that a run depends on, as frozen dataclasses. The docstring of a field is its `--help` text."""

from dataclasses import dataclass
from typing import Any, Literal

Preset = Literal["tiny", "32", "64", "peer64"]
Resize = Literal["squash", "crop", "pad"]
FixedVariance = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"]
Variance = Literal[FixedVariance, "learned", "learned_range", "analytic", "spectral"]


class ConfigError(ValueError):
    """A mistake that the person at the command line can mend; the message says how."""


def _at_least(config: Any, minimum: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= minimum:
            raise ConfigError(f"{name} is {value}; it must be {minimum} or more")


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
    """How: squash ignores the aspect ratio, crop keeps the centre, pad adds white borders."""

    def __post_init__(self) -> None:
        if (self.train_data_dir is None) == (self.dataset_name is None):
            raise ConfigError("give the pictures with exactly one of train_data_dir (a folder) and dataset_name")


@dataclass(frozen=True, kw_only=True)
class ImageConfig(PicturesConfig):
    """Pictures of one size."""

    resolution: int = 64
    """Height and width in pixels that every picture is brought to."""

    def __post_init__(self) -> None:
        PicturesConfig.__post_init__(self)
        _at_least(self, 8, "resolution")


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
        _at_least(self, 1, "num_train_timesteps")
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

    random_flip: bool = True
    """Mirror every picture with probability 1/2."""

    preset: Preset = "64"
    """Network: tiny (for CPUs), 32, 64, or peer64, the one of diffusers' train_unconditional.py."""
    model_config: str | None = None
    """JSON file with the arguments of a UNet2DModel, instead of a preset."""

    prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """What the network predicts: the noise, the clean picture, or v."""
    variance_type: FixedVariance = "fixed_small"
    """Variance of the reverse step when the saved pipeline samples."""

    train_batch_size: int = 64
    """Pictures per process and gradient computation."""
    gradient_accumulation_steps: int = 1
    """Gradient computations per optimiser step."""
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
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision of the network's arithmetic; null is what accelerate was configured with."""
    use_ema: bool = True
    """Keep a moving average of the weights, and sample with it."""
    ema_max_decay: float = 0.9999
    """Largest decay of the average."""
    ema_inv_gamma: float = 1.0
    """The decay at a step is 1 - (1 + step / ema_inv_gamma) ** -ema_power."""
    ema_power: float = 0.75
    """See ema_inv_gamma."""
    seed: int = 0
    """Decides the initial weights, the order of the pictures, flips, timesteps and noise."""

    output_dir: str = "ddpm-cars-model"
    """Where everything is written; the same command continues the run that it finds there."""
    overwrite_output_dir: bool = False
    """Delete the checkpoints and sample grids in output_dir and start again."""
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
    logging_steps: int = 50
    """Steps over which a logged loss is averaged."""
    logger: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Tracker that the log goes to besides loss.json; null is off."""

    def __post_init__(self) -> None:
        ImageConfig.__post_init__(self)
        NoiseConfig.__post_init__(self)
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise ConfigError(
                "rescale_betas_zero_snr leaves nothing of the picture at the last timestep, where prediction_type "
                "epsilon then says nothing of it; use v_prediction or sample"
            )
        _at_least(self, 1, "train_batch_size", "gradient_accumulation_steps", "num_epochs", "max_train_steps")
        _at_least(self, 1, "checkpointing_steps", "checkpoints_total_limit", "save_images_steps", "logging_steps")
        _at_least(self, 1, "eval_batch_size", "num_inference_steps")
        _at_least(self, 0, "lr_warmup_steps", "learning_rate", "adam_weight_decay", "adam_epsilon", "seed")
        for name in ("adam_beta1", "adam_beta2", "ema_max_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        for name in ("ema_inv_gamma", "ema_power", "max_grad_norm"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.num_inference_steps is not None and self.num_inference_steps > self.num_train_timesteps:
            raise ConfigError(
                f"num_inference_steps is {self.num_inference_steps}; "
                f"it cannot exceed num_train_timesteps, {self.num_train_timesteps}"
            )


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Pictures from a saved pipeline."""

    pretrained_model_name_or_path: str
    """Folder of a saved pipeline, or its id on the Hub."""
    output_dir: str = "samples"
    """Where the pictures are written."""
    num_images: int = 16
    """How many."""
    batch_size: int = 16
    """How many at a time; the pictures do not depend on it."""
    seed: int = 0
    """Picture i is drawn from the seed `seed + i`."""
    num_inference_steps: int | None = None
    """Denoising steps; null is every timestep of the training."""
    scheduler: str | None = None
    """Scheduler class of diffusers, or DDPMCarsScheduler, made from the saved one's config; null is the saved one."""
    variance_type: Variance | None = None
    """Variance of the steps of DDPMCarsScheduler; null is that of the saved one."""
    strip: bool = False
    """Also write denoising.png: how the first pictures come out of the noise."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "num_images", "batch_size", "num_inference_steps")
        _at_least(self, 0, "seed")
        if self.variance_type is not None and self.scheduler not in (None, "DDPMCarsScheduler"):
            raise ConfigError(
                f"variance_type is {self.variance_type} and scheduler is {self.scheduler}; "
                "only DDPMCarsScheduler has a choice of variances"
            )


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(PicturesConfig):
    """Measure a saved model on its training pictures, for the variances and the init noise that depend on it."""

    pretrained_model_name_or_path: str
    """Folder of a saved pipeline; its scheduler_config.json is replaced."""
    variance_type: Variance | None = None
    """Variance that the model samples with from now on; null leaves it as it is."""
    num_timesteps: int | None = 50
    """Timesteps that are measured, spread evenly over log SNR; null measures all."""
    num_images: int = 64
    """Pictures per timestep."""
    batch_size: int = 64
    """Pictures at a time."""
    num_bands: int | None = 16
    """Bands of spatial frequency for variance_type spectral; null measures for analytic only."""
    fit_init_noise: bool = False
    """Also measure the noise to start from, for schedules that do not end in pure noise, as the tutorial's."""
    seed: int = 0
    """Decides the pictures and the noise."""

    def __post_init__(self) -> None:
        PicturesConfig.__post_init__(self)
        _at_least(self, 2, "num_timesteps", "num_bands")
        _at_least(self, 1, "num_images", "batch_size")
        _at_least(self, 0, "seed")
        if self.variance_type == "spectral" and self.num_bands is None:
            raise ConfigError("variance_type spectral needs num_bands; it is null")


@dataclass(frozen=True, kw_only=True)
class ShowConfig(ImageConfig, NoiseConfig):
    """A look at the pictures before training."""

    output_dir: str = "preview"
    """Where dataset.png and noising.png are written."""
    num_images: int = 36
    """Pictures in the preview."""
    seed: int = 0
    """Decides which pictures, and the noise."""

    def __post_init__(self) -> None:
        ImageConfig.__post_init__(self)
        NoiseConfig.__post_init__(self)
        _at_least(self, 1, "num_images")
        _at_least(self, 0, "seed")


@dataclass(frozen=True, kw_only=True)
class ToyCarsConfig:
    """The data set that the package draws itself."""

    output_dir: str = "toy-cars"
    """Where train/ and test/ are written."""
    num_train_images: int = 2000
    """Pictures in train/."""
    num_test_images: int = 200
    """Pictures in test/."""
    resolution: int = 64
    """Height and width in pixels."""
    seed: int = 0
    """Decides every picture."""

    def __post_init__(self) -> None:
        _at_least(self, 0, "num_train_images", "num_test_images", "seed")
        _at_least(self, 8, "resolution")
