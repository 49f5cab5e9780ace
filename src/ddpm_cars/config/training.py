"""Settings of a training run."""

import os
from dataclasses import dataclass
from typing import ClassVar, Literal

from ddpm_cars.config.betas import check_betas, read_betas
from ddpm_cars.config.fields import AUTO, NUM_SEEDS, Settings, setting
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.config.values import check_repo_id
from ddpm_cars.errors import UserError, check_halvings

Preset = Literal["tiny", "32", "64", "peer64"]
PRESET_HALVINGS = {"tiny": 2, "32": 3, "64": 3, "peer64": 5}
"""How often the network of a preset halves the resolution."""
FixedVariance = Literal["fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"]
Variance = Literal[FixedVariance, "learned", "learned_range", "analytic", "spectral"]


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(Settings):
    """The forward process, which adds noise to images."""

    group: ClassVar[str] = "noise"

    num_train_timesteps: int = setting(1000, may_change=False, label="Timesteps T", stock="ddpm_num_steps", minimum=1)
    """Number of timesteps T, each with its own noise level."""
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"] = setting(
        "linear", may_change=False, label="Betas", stock="ddpm_beta_schedule"
    )
    """How the variance beta of a noise step runs from beta_start to beta_end."""
    beta_start: float = setting(0.0001, may_change=False)
    """Variance of the first noise step."""
    beta_end: float = setting(0.02, may_change=False)
    """Variance of the last noise step."""
    trained_betas: tuple[float, ...] | str | None = setting(None, may_change=False)
    """File of T betas instead of a schedule, the variances of the noise steps: .npy, or text with one number per line,
    or a list in JSON; or the numbers themselves. num_train_timesteps is then their number. A model and a run keep the
    numbers, not the file."""
    scale_betas_for_timesteps: bool = setting(False, may_change=False)
    """Multiply the betas by 1000 / num_train_timesteps, so that any number of timesteps ends in pure noise."""
    rescale_betas_zero_snr: bool = setting(False, may_change=False)
    """Make the last noise level exactly pure noise. This does not go with epsilon prediction."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.trained_betas is not None:
            self._take_trained_betas(self.trained_betas)
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

    def _take_trained_betas(self, given: tuple[float, ...] | str) -> None:
        source = f"trained_betas {given}" if isinstance(given, str) else "trained_betas"
        betas = read_betas(given) if isinstance(given, str) else given
        check_betas(source, betas)
        for name in ("beta_schedule", "beta_start", "beta_end", "scale_betas_for_timesteps"):
            if getattr(self, name) != getattr(NoiseConfig, name):
                raise UserError(f"{source} and {name} {getattr(self, name)} are two noise schedules; leave one out")
        if self.num_train_timesteps not in (len(betas), NoiseConfig.num_train_timesteps):
            raise UserError(
                f"{source} has {len(betas)} betas and num_train_timesteps is {self.num_train_timesteps}; leave "
                "num_train_timesteps out"
            )
        # The file may change or go away, and the numbers may not.
        object.__setattr__(self, "trained_betas", betas)
        object.__setattr__(self, "num_train_timesteps", len(betas))


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ImageConfig, NoiseConfig):
    """Train a model on images.

    What is left to the machine (`AUTO`) is chosen by `ddpm_cars.training.choices` when a run begins. A run that
    continues keeps what was chosen.
    """

    takes_recipes: ClassVar[bool] = True

    resolution: int = setting(AUTO, may_change=False, minimum=8, group="most used")
    """Height and width in pixels of every image after resizing. auto is 32 on a CPU, else 64."""
    validation_split: str | None = setting(None, may_change=False, from_run=True, group="most used")
    """Split that is kept out of training and that the model is measured on. If split is unset, training uses all the
    other splits."""
    streaming: bool = setting(False, may_change=False, group="images")
    """Read the shards (Parquet or WebDataset) of dataset_name during training, for data larger than a machine."""
    shuffle_window_images: int = setting(512, may_change=False, minimum=1, group="images")
    """Number of images of a shard that are shuffled together, with streaming."""
    random_flip: bool = setting(True, may_change=False, label="Random flip", group="images")
    """Mirror every image with probability 1/2."""
    class_conditional: bool = setting(False, may_change=False, group="most used")
    """Learn the classes of the images: the names of the folders that hold them, or label_column."""
    label_column: str = setting("label", may_change=False, from_run=True, group="images")
    """Column of the dataset that holds the classes."""
    class_dropout_prob: float = setting(0.1, may_change=False, minimum=0, below=1, group="network")
    """Probability that a class is hidden in training, which sampling needs for guidance. 0 means no guidance."""

    # A run compares its network by weights and its images by content, so names and places of these may change.
    preset: Preset = setting(AUTO, may_change=True, group="most used")
    """Network: tiny (for CPUs), 32, 64, or peer64, the network of diffusers' train_unconditional.py. auto is tiny on a
    CPU, else 32 for images up to 32x32 and 64 for larger ones."""
    model_config: str | None = setting(
        None, may_change=True, path=True, stock="model_config_name_or_path", group="network"
    )
    """JSON file with the arguments of a UNet2DModel, or the folder of a saved network or pipeline, whose weights are
    not read, instead of a preset."""
    dropout: float = setting(0.0, may_change=False, label="Dropout", minimum=0, below=1, group="network")
    """Probability that a value inside the network is dropped in training. 0 leaves it to model_config."""
    gradient_checkpointing: bool = setting(False, may_change=True, group="machine")
    """Compute activations again in the backward pass instead of keeping them. It saves memory and makes a step a
    third slower."""

    prediction_type: Literal["epsilon", "sample", "v_prediction"] = setting(
        "epsilon", may_change=False, label="Prediction", group="loss"
    )
    """What the network predicts: epsilon (the noise), sample (the clean image) or v_prediction (v)."""
    variance_type: Literal[FixedVariance, "learned_range"] = setting("fixed_small", may_change=False, group="loss")
    """Variance of the reverse step when the saved pipeline samples. learned_range is learned with the hybrid loss."""
    vlb_weight: float = setting(0.001, may_change=False, above=0, group="loss")
    """Weight of the variational bound added to the simple loss, with learned_range."""
    snr_gamma: float | None = setting(None, may_change=False, label="SNR weight at most", above=0, group="loss")
    """Weight the loss by min(SNR, snr_gamma); 5 is usual. If unset, all timesteps have the same weight."""
    noise_offset: float | None = setting(None, may_change=False, label="Noise offset", above=0, group="loss")
    """Add this times a random number for each image and colour channel to the noise in training, so that the model
    learns very dark and very bright images; 0.1 is usual. If unset, none."""
    timestep_sampling: Literal["uniform", "stratified"] = setting("uniform", may_change=False, group="loss")
    """How a batch draws its timesteps: uniform draws each independently, stratified draws one from each of as many
    equal parts as the batch has images."""

    # A run compares the product of these with the number of processes.
    train_batch_size: int = setting(AUTO, may_change=True, minimum=1, group="most used")
    """Images per process and gradient computation. auto is 8 on a CPU (16 in bf16) and for tiny, else 64, halved until
    there are as many images and a step fits into memory."""
    gradient_accumulation_steps: int = setting(1, may_change=True, minimum=1, group="optimiser")
    """Gradient computations per optimiser step."""
    auto_find_batch_size: bool = setting(False, may_change=True, group="machine")
    """If memory is short, halve train_batch_size and double gradient_accumulation_steps until a step fits."""
    num_epochs: int | None = setting(None, may_change=True, minimum=1, group="most used")
    """Passes over the images, if max_train_steps is unset."""
    max_train_steps: int | None = setting(None, may_change=True, minimum=1, group="most used")
    """Number of optimiser steps. It overrides num_epochs. If both are unset, those of 100 passes, within 2,000 and
    8,000 on a CPU and within 10,000 and 100,000 elsewhere."""
    optimizer: Literal["adam", "adamw"] = setting("adamw", may_change=False, label="Optimiser", group="optimiser")
    """Optimiser."""
    learning_rate: float = setting(AUTO, changes_training=True, label="Learning rate", minimum=0, group="most used")
    """Learning rate after the warmup. auto is 0.002 for the preset tiny, else 0.0001."""
    lr_scheduler: Literal["constant", "constant_with_warmup", "linear", "cosine"] = setting(
        AUTO, changes_training=True, label="Schedule", group="optimiser"
    )
    """How the learning rate changes over the steps. auto is cosine."""
    lr_warmup_steps: int = setting(AUTO, changes_training=True, label="Warmup steps", minimum=0, group="optimiser")
    """Steps over which the learning rate rises from 0. The schedule constant has no warmup. auto is a twentieth of the
    run, at most 500."""
    adam_beta1: float = setting(0.9, may_change=False, minimum=0, below=1, group="optimiser")
    """Decay of the optimiser's average of gradients."""
    adam_beta2: float = setting(0.999, may_change=False, minimum=0, below=1, group="optimiser")
    """Decay of the optimiser's average of squared gradients."""
    adam_weight_decay: float = setting(0.0, may_change=False, label="Weight decay", minimum=0, group="optimiser")
    """Weight decay."""
    adam_epsilon: float = setting(1e-8, may_change=False, minimum=0, group="optimiser")
    """Term that the optimiser adds to its divisor."""
    max_grad_norm: float | None = setting(
        AUTO, changes_training=True, label="Gradient norm at most", above=0, group="optimiser"
    )
    """Largest norm of the gradients, which are scaled down to it. If unset, they are not. auto is 1."""
    max_skipped_steps: int = setting(0, may_change=True, minimum=0, group="optimiser")
    """Number of steps with a loss or gradient that is not finite that may be skipped before the run stops."""
    mixed_precision: Literal["no", "fp16", "bf16"] = setting(
        AUTO, may_change=True, label="Precision", group="most used"
    )
    """Precision of the network's arithmetic; no is float32. auto is what accelerate was configured with, else bf16 on
    a device that is fast in it, else no."""
    compile: bool = setting(False, may_change=True, group="machine")
    """Compile the network. It takes minutes and pays off on a GPU; results are the same up to rounding."""
    use_ema: bool = setting(True, may_change=False, group="moving averages")
    """Keep a moving average of the weights, and sample with it."""
    ema_half_life_steps: tuple[int, ...] = setting(AUTO, may_change=False, minimum=1, group="moving averages")
    """Steps after which a weight counts half in the moving average. During the warmup (ema_power) they are fewer. Of
    several averages, the best on validation_split is published. auto is a twentieth of the run, at most 7,000."""
    ema_inv_gamma: float = setting(1.0, may_change=False, above=0, group="moving averages")
    """Warmup of the moving average: its decay at a step is 1 - (1 + step / ema_inv_gamma) ** -ema_power, until that
    reaches the decay of the half-life."""
    ema_power: float = setting(0.75, may_change=False, above=0, group="moving averages")
    """Exponent of the warmup of the moving average: a larger one makes the warmup shorter."""
    seed: int = setting(0, may_change=False, label="Seed", minimum=0, below=NUM_SEEDS, group="most used")
    """Decides the initial weights, the order of the images, flips, timesteps and noise."""

    output_dir: str = setting("ddpm-cars-model", may_change=True, private=True, group="most used")
    """Folder for everything that is written. The same command continues the run that it finds there."""
    overwrite_output_dir: bool = setting(False, may_change=True, private=True, group="what is written")
    """Delete the checkpoints, sample grids and best model in output_dir and start again."""
    checkpointing_steps: int | None = setting(AUTO, may_change=True, minimum=1, group="what is written")
    """Steps between checkpoints. If unset, there are none. auto is a fifth of the run, at most 500."""
    checkpoints_total_limit: int | None = setting(2, may_change=True, minimum=1, group="what is written")
    """Number of checkpoints that are kept. If unset, all of them."""
    save_images_steps: int | None = setting(AUTO, may_change=True, minimum=1, group="what is written")
    """Steps between grids of sampled images. If unset, there is only the one at the end. auto is a fifth of the run,
    from 100 to 2,000."""
    eval_batch_size: int = setting(16, may_change=True, minimum=1, group="what is written")
    """Number of images in such a grid."""
    num_inference_steps: int | None = setting(
        AUTO, may_change=True, stock="ddpm_num_inference_steps", minimum=1, group="what is written"
    )
    """Denoising steps for such a grid. If unset, all num_train_timesteps. auto is a fortieth of the run, from 20 to
    250."""
    validation_steps: int | None = setting(AUTO, may_change=True, minimum=1, group="what is written")
    """Steps between measurements on validation_split. If unset, it is measured at the end only. auto is a tenth of the
    run, at most 1,000."""
    num_validation_images: int = setting(512, may_change=False, minimum=1, group="what is written")
    """Images of validation_split that are measured, with the same noise every time."""
    logging_steps: int = setting(AUTO, may_change=True, minimum=1, group="what is written")
    """Steps over which a logged loss is averaged. auto is a fortieth of the run, at most 50."""
    logger: Literal["tensorboard", "trackio", "wandb"] | None = setting(
        None, may_change=True, private=True, group="what is written"
    )
    """Tracker that receives the log in addition to loss.json. If unset, none."""
    dry_run: bool = setting(False, may_change=True, private=True, group="most used")
    """Check everything, time a few steps, print the plan and stop."""
    model_license: str | None = setting(None, may_change=True, group="publishing")
    """Licence of the model for its card, as the Hub spells it (apache-2.0, cc-by-nc-4.0). If unset, the card names
    none."""
    data_license: str | None = setting(None, may_change=True, group="publishing")
    """Licence of the images for the model's card, in words. If unset, the card names none."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_config is None and self.resolution != AUTO:
            # The networks say so too, but they take seconds to import.
            num_halvings = PRESET_HALVINGS.get(self.preset, min(PRESET_HALVINGS.values()))
            check_halvings(self.resolution, num_halvings, f"preset {self.preset}")
        ends_in_noise = self.trained_betas is not None and self.trained_betas[-1] == 1
        if (self.rescale_betas_zero_snr or ends_in_noise) and self.prediction_type == "epsilon":
            name = "rescale_betas_zero_snr" if self.rescale_betas_zero_snr else "a last beta of 1"
            raise UserError(
                f"{name} leaves nothing of the image at the last timestep, where epsilon prediction "
                "cannot recover it; give prediction_type v_prediction or sample"
            )
        if self.noise_offset is not None and self.variance_type == "learned_range":
            raise UserError(
                f"noise_offset is {self.noise_offset} and variance_type is learned_range, whose bound holds for noise "
                "without an offset; leave noise_offset out, or take variance_type fixed_small"
            )
        if self.num_inference_steps not in (None, AUTO) and self.num_inference_steps > self.num_train_timesteps:
            raise UserError(
                f"num_inference_steps is {self.num_inference_steps}; "
                f"it cannot exceed num_train_timesteps, {self.num_train_timesteps}"
            )
        if self.streaming and self.dataset_name is None:
            raise UserError(
                "streaming reads shards: give dataset_name, a dataset on the Hub or a local folder of Parquet or "
                "WebDataset files, instead of train_data_dir"
            )
        if self.streaming and self.max_train_steps is None and self.num_epochs is not None:
            raise UserError(
                f"num_epochs is {self.num_epochs}, and streaming does not know how long an epoch is; give "
                "max_train_steps instead"
            )
        if self.streaming and self.split is None:
            raise UserError("streaming needs the name of one split, such as split: train")

    def warnings(self) -> list[str]:
        """Return a line for every combination of settings that works, but is probably a mistake."""
        warnings, half_lives = [], self.ema_half_life_steps
        if self.use_ema and half_lives != AUTO and len(half_lives) > 1 and self.validation_split is None:
            warnings.append(
                f"ema_half_life_steps has {len(half_lives)} values and validation_split is unset, so nothing tells "
                f"which average is best; the first, {half_lives[0]}, is published"
            )
        if self.num_epochs is not None and self.max_train_steps is not None:
            warnings.append(
                f"num_epochs is {self.num_epochs} and max_train_steps is {self.max_train_steps}; max_train_steps "
                "decides, so leave one of them out"
            )
        if self.validation_split is None and self.validation_steps not in (None, AUTO):
            warnings.append(
                f"validation_steps is {self.validation_steps} and validation_split is unset, so nothing is measured; "
                "give validation_split"
            )
        return warnings


@dataclass(frozen=True, kw_only=True)
class TrainCommandConfig(TrainingConfig):
    """Train a model on a folder of images or a dataset, and publish it if asked."""

    push_to_hub: bool = setting(False, may_change=True, private=True, group="publishing")
    """Publish the model on the Hub after training, with the token of `hf auth login` or HF_TOKEN."""
    hub_model_id: str | None = setting(None, may_change=True, private=True, group="publishing")
    """Repository to publish to, NAME or OWNER/NAME. If unset, your account and the name of output_dir."""
    hub_private_repo: bool = setting(False, may_change=True, private=True, group="publishing")
    """Make a new repository private, and publish to one that is there only if it is private."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, unset in (("hub_model_id", None), ("hub_private_repo", False)):
            value = getattr(self, name)
            if value != unset and not self.push_to_hub:
                raise UserError(f"{name} is {value}; it goes with push_to_hub")
        if self.push_to_hub:
            name = "output_dir" if self.hub_model_id is None else "hub_model_id"
            check_repo_id(name, self.hub_model_id or os.path.basename(os.path.realpath(self.output_dir)))
