"""What the commands besides training depend on, as frozen dataclasses. A field's docstring is its `--help` text."""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

from ddpm_cars.config.fields import at_least, fit_types
from ddpm_cars.config.pictures import ImageConfig, PicturesOfRunConfig
from ddpm_cars.config.training import NoiseConfig, Variance
from ddpm_cars.errors import UserError

MIN_EVALUATION_IMAGES = 40
"""The error of a Fréchet distance is told from 20 groups of images, which have to be two or more."""


@dataclass(frozen=True)
class PushConfig:
    """Publish a model on the Hub, or the demo with it as a Space; the token is that of `hf auth login` or HF_TOKEN."""

    folder: str
    """Folder with a model, as training leaves it."""
    repo_id: str
    """Where, as NAME or OWNER/NAME."""
    _: KW_ONLY
    space: bool = False
    """Publish the demo, a page that draws with the model, instead of the model."""
    private: bool = False
    """Make the repository private where it is new."""
    revision: str | None = None
    """Branch, made where there is none; null is the main one."""
    commit_message: str | None = None
    """Of the commit; null says what is published."""
    overwrite_card: bool = False
    """Replace the card on the Hub even if somebody has edited it."""
    model_license: str | None = None
    """Licence of the model, as the Hub spells it (apache-2.0, cc-by-nc-4.0); null is that of the training run."""
    data_license: str | None = None
    """Licence of the training images, in words for the card; null is that of the training run."""
    dry_run: bool = False
    """List what would be published, and stop; nothing is asked of the Hub."""

    def __post_init__(self) -> None:
        fit_types(self)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Images from a saved pipeline."""

    pretrained_model_name_or_path: str
    """Folder of a saved pipeline, or its id on the Hub."""
    output_dir: str = "samples"
    """Where the images are written; the same command goes on with those that are missing."""
    overwrite_output_dir: bool = False
    """Delete the images that this command has written in output_dir, and start again."""
    num_images: int = 16
    """How many; a larger number later adds to those that are there."""
    batch_size: int = 16
    """How many at a time and process, at most; the images do not depend on it, up to rounding."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = None
    """Precision in which the network runs, but not the sampler; null is what accelerate was configured with."""
    compile: bool = False
    """Compile the network, which takes a minute or so and pays for thousands of images; the same up to rounding."""
    seed: int = 0
    """Image i is drawn from the seed `seed + i`."""
    num_inference_steps: int | None = None
    """Denoising steps; null is every timestep of the training."""
    scheduler: str | None = None
    """Scheduler class of diffusers, or DDPMCarsScheduler, made from the saved one's config; null is the saved one."""
    variance_type: Variance | None = None
    """Variance of the steps of DDPMCarsScheduler; null is that of the saved one."""
    class_labels: tuple[str | int, ...] | None = None
    """Classes that the images take in turn, by name or number; null is none, for models that can do without."""
    guidance_scale: float = 1.0
    """How far to go beyond what an image without a class looks like, towards its class; 1 is the class alone."""
    strip: bool = False
    """Also write denoising.png: how the first images come out of the noise."""

    def __post_init__(self) -> None:
        fit_types(self)
        at_least(self, 1, "num_images", "batch_size", "num_inference_steps")
        at_least(self, 0, "seed", "guidance_scale")
        if self.class_labels == ():
            raise UserError("class_labels is empty; give one class or more, or null for none")
        if self.variance_type is not None and self.scheduler not in (None, "DDPMCarsScheduler"):
            raise UserError(
                f"variance_type is {self.variance_type} and scheduler is {self.scheduler}; "
                "only DDPMCarsScheduler has a choice of variances"
            )


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(PicturesOfRunConfig):
    """Measure a saved model on its training images, for the variances and the init noise that depend on it.

    Without train_data_dir and dataset_name the images are those that the model was trained on, as the config.yaml in
    its folder says.
    """

    pretrained_model_name_or_path: str
    """Folder of a saved pipeline; its scheduler_config.json is replaced."""
    variance_type: Variance | None = None
    """Variance that the model samples with from now on; null leaves it as it is."""
    num_timesteps: int | None = 50
    """Timesteps that are measured, spread evenly over log SNR; null measures all."""
    num_images: int = 64
    """Images per timestep."""
    batch_size: int = 64
    """Images at a time."""
    num_bands: int | None = 16
    """Bands of spatial frequency for variance_type spectral; null measures for analytic only."""
    fit_init_noise: bool = False
    """Also measure the noise to start from, for schedules that do not end in pure noise, as the tutorial's."""
    label_column: str = "label"
    """Column of the dataset that holds the classes, for models with classes."""
    seed: int = 0
    """Decides the images and the noise."""

    def __post_init__(self) -> None:
        PicturesOfRunConfig.__post_init__(self)
        at_least(self, 2, "num_timesteps", "num_bands")
        at_least(self, 1, "num_images", "batch_size")
        at_least(self, 0, "seed")
        if self.variance_type == "spectral" and self.num_bands is None:
            raise UserError("variance_type spectral needs num_bands; it is null")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(PicturesOfRunConfig):
    """How good a saved model is: metrics.json, plots and report.html. What metrics.json holds is not measured again.

    Without train_data_dir and dataset_name the images are those that the model was trained on, and its
    validation_split, as the config.yaml in its folder says.
    """

    pretrained_model_name_or_path: str | None = None
    """Folder of a saved pipeline, or its id on the Hub."""
    compare: tuple[str, ...] | None = None
    """Two models to measure with the same seeds and compare, instead of one."""
    output_dir: str | None = None
    """Where the results go; null is evaluation/ in the folder of the model, and for compare comparison/."""
    label_column: str = "label"
    """Column of the dataset that holds the classes, for models with classes."""
    num_images: int | None = None
    """Images that are drawn for every figure, and real ones in their place for the floor; null is half of the real
    ones, and 2000 at most."""
    batch_size: int = 64
    """How many at a time and process; the results do not depend on it, up to rounding."""
    seed: int = 0
    """Image i is drawn from the seed `seed + i`, whatever the sampler."""
    num_inference_steps: int | None = 100
    """Denoising steps of the model as it was saved; null, and more than that, is every timestep of the training."""
    steps: tuple[int, ...] | None = None
    """Also measure every one of schedulers with so many denoising steps each; null is not to."""
    schedulers: tuple[str, ...] = (
        "fixed_small",
        "fixed_large",
        "analytic",
        "spectral",
        "DDIMScheduler",
        "DPMSolverMultistepScheduler",
        "UniPCMultistepScheduler",
    )
    """For steps: variances of DDPMCarsScheduler, and scheduler classes of diffusers."""
    num_likelihood_images: int | None = 500
    """Images of validation_split whose bits per dimension are measured; null is not to."""
    likelihood_steps: tuple[int, ...] | None = None
    """Also bound the likelihood with chains of so many timesteps, evenly spaced and least-cost; null is all only."""
    extractor: str = "efficientnet-lite0"
    """Features to compare images by: efficientnet-lite0, inception (FID), dinov2, or package.module:Class."""
    extractor_weights: str | None = None
    """File with its weights, for dinov2 a folder; null is those of its package, which downloads those of the two."""
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Precision in which the network runs; noise and statistics are not touched by it."""

    def __post_init__(self) -> None:
        PicturesOfRunConfig.__post_init__(self)
        if (self.pretrained_model_name_or_path is None) == (self.compare is None):
            raise UserError("give exactly one of pretrained_model_name_or_path (a model) and compare (two models)")
        if self.compare is not None and len(self.compare) != 2:
            raise UserError(f"compare has {len(self.compare)} models; it takes two")
        at_least(self, 1, "batch_size", "num_inference_steps")
        at_least(self, 2, "num_likelihood_images")
        at_least(self, MIN_EVALUATION_IMAGES, "num_images")
        at_least(self, 0, "seed")
        for name, minimum in (("steps", 1), ("likelihood_steps", 2)):
            values = getattr(self, name)
            if values is not None and (not values or min(values) < minimum):
                raise UserError(f"{name} is {list(values)}; give one number or more, each {minimum} or above")
        if not self.schedulers:
            raise UserError("schedulers is empty; give one or more")


@dataclass(frozen=True, kw_only=True)
class ShowConfig(ImageConfig, NoiseConfig):
    """A look at the images before training."""

    output_dir: str = "preview"
    """Where dataset.png and noising.png are written."""
    num_images: int = 36
    """Images in the preview."""
    seed: int = 0
    """Decides which images, and the noise."""

    def __post_init__(self) -> None:
        ImageConfig.__post_init__(self)
        NoiseConfig.__post_init__(self)
        at_least(self, 1, "num_images")
        at_least(self, 0, "seed")


@dataclass(frozen=True, kw_only=True)
class ToyCarsConfig:
    """The data set that the package draws itself."""

    output_dir: str = "toy-cars"
    """Where train/ and test/ are written."""
    num_train_images: int = 2000
    """Images in train/."""
    num_test_images: int = 200
    """Images in test/."""
    resolution: int = 64
    """Height and width in pixels."""
    seed: int = 0
    """Decides every image."""

    def __post_init__(self) -> None:
        fit_types(self)
        at_least(self, 0, "num_train_images", "num_test_images", "seed")
        at_least(self, 8, "resolution")


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """A page in the browser: drawing with a live preview, noising an image of one's own, and the noise schedule."""

    pretrained_model_name_or_path: str | None = None
    """Folder of a saved pipeline, or its id on the Hub; null is the model inside the package."""
    server_name: str = "127.0.0.1"
    """Address to serve at; 0.0.0.0 lets other machines in."""
    server_port: int | None = None
    """Port; null is the first free one from 7860."""
    share: bool = False
    """Also serve the page at a public address of gradio, which needs a network."""
    max_images: int = 16
    """The most images of one drawing."""

    def __post_init__(self) -> None:
        fit_types(self)
        at_least(self, 1, "server_port", "max_images")
        if self.server_port is not None and self.server_port > 65535:
            raise UserError(f"server_port is {self.server_port}; it must be 65535 or less")
