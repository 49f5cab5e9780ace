"""All that a run depends on, as frozen dataclasses. The docstring of a field is its `--help` text."""

from dataclasses import dataclass
from typing import Literal

from ddpm_cars.config.fields import above_zero, at_least, fit_types, in_unit_interval
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.errors import UserError

Preset = Literal["tiny", "32", "64", "peer64"]

FixedVariance = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"]

Variance = Literal[FixedVariance, "learned", "learned_range", "analytic", "spectral"]


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
            raise UserError(
                f"beta_start is {self.beta_start} and beta_end is {self.beta_end}; "
                "they must satisfy 0 < beta_start <= beta_end < 1"
            )
        scaled = self.scale_betas_for_timesteps and self.beta_schedule in ("linear", "scaled_linear", "sigmoid")
        if scaled and self.beta_end * 1000 >= self.num_train_timesteps:
            raise UserError(
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
    """Images of a shard that are shuffled together, with streaming."""
    random_flip: bool = True
    """Mirror every image with probability 1/2."""
    class_conditional: bool = False
    """Learn the classes: the names of the folders that hold the images, or label_column."""
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
    """What the network predicts: the noise, the clean image, or v."""
    variance_type: Literal[FixedVariance, "learned_range"] = "fixed_small"
    """Variance of the reverse step when the saved pipeline samples; learned_range is learned with the hybrid loss."""
    vlb_weight: float = 0.001
    """Weight of the variational bound beside the simple loss, with learned_range."""
    snr_gamma: float | None = None
    """Weights the loss by min(SNR, snr_gamma), 5 is usual; null weights all timesteps alike."""
    timestep_sampling: Literal["uniform", "stratified"] = "uniform"
    """How a batch draws its timesteps: independently, or one from each of as many equal parts as it has images."""

    train_batch_size: int = 64
    """Images per process and gradient computation."""
    gradient_accumulation_steps: int = 1
    """Gradient computations per optimiser step."""
    auto_find_batch_size: bool = False
    """Where memory is short, halve train_batch_size and double gradient_accumulation_steps until a step fits."""
    num_epochs: int = 100
    """Passes over the images, where max_train_steps is null."""
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
    """Decides the initial weights, the order of the images, flips, timesteps and noise."""

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
    """Images in a sample grid."""
    num_inference_steps: int | None = None
    """Denoising steps of the sample grids; null is all num_train_timesteps."""
    validation_steps: int | None = 1000
    """Steps between measurements on validation_split; null measures at the end only."""
    num_validation_images: int = 512
    """Images of validation_split that are measured on, with the same noise every time."""
    logging_steps: int = 50
    """Steps over which a logged loss is averaged."""
    logger: Literal["tensorboard", "trackio", "wandb"] | None = None
    """Tracker that the log goes to besides loss.json; null is off."""
    dry_run: bool = False
    """Check everything, print the plan and stop."""
    model_license: str | None = None
    """Licence of the model, as the Hub spells it (apache-2.0, cc-by-nc-4.0), for its card; null says nothing."""
    data_license: str | None = None
    """Licence of the images, in words for the model card; null says nothing."""

    def __post_init__(self) -> None:
        ImageConfig.__post_init__(self)
        NoiseConfig.__post_init__(self)
        if self.rescale_betas_zero_snr and self.prediction_type == "epsilon":
            raise UserError(
                "rescale_betas_zero_snr leaves nothing of the image at the last timestep, where prediction_type "
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
            raise UserError(f"ema_half_life_steps is {self.ema_half_life_steps}; give one or more, each 1 or more")
        if self.num_inference_steps is not None and self.num_inference_steps > self.num_train_timesteps:
            raise UserError(
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
            raise UserError(
                "streaming reads shards: give dataset_name, a dataset on the Hub or a local folder of Parquet or "
                "WebDataset files, instead of train_data_dir"
            )
        if self.max_train_steps is None:
            raise UserError("streaming does not know how long an epoch is: give max_train_steps")
        if self.split is None:
            raise UserError("streaming needs the name of one split, such as split: train")


@dataclass(frozen=True, kw_only=True)
class TrainCommandConfig(TrainingConfig):
    """One training run, and what becomes of its model."""

    push_to_hub: bool = False
    """Publish the model on the Hub when it is trained; the token is the one of `hf auth login` or HF_TOKEN."""
    hub_model_id: str | None = None
    """Where, as NAME or OWNER/NAME; null is the name of output_dir, below your own name."""
    hub_private_repo: bool = False
    """Make the repository private where it is new."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        for name, nothing in (("hub_model_id", None), ("hub_private_repo", False)):
            value = getattr(self, name)
            if value != nothing and not self.push_to_hub:
                raise UserError(f"{name} is {value}; it goes with push_to_hub")
