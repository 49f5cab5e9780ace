"""Settings of the commands other than training."""

import os
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Literal

from ddpm_cars.config.fields import AUTO, NUM_SEEDS, Settings, setting
from ddpm_cars.config.pictures import ImageConfig, PicturesOfRunConfig
from ddpm_cars.config.saved_models import HubModelConfig, ModelConfig, refuse_choice_of_weights
from ddpm_cars.config.schedulers import check_scheduler
from ddpm_cars.config.training import NoiseConfig, Variance
from ddpm_cars.config.values import check_repo_id, kinds_of
from ddpm_cars.errors import UserError

MIN_EVALUATION_IMAGES = 40
"""The error of a Fréchet distance is estimated from 20 groups of images, each of two or more."""


@dataclass(frozen=True)
class PushConfig(ModelConfig):
    """Publish a model on the Hub, or its demo as a Space.

    The token is the one of `hf auth login` or HF_TOKEN.
    """

    folder: str
    """Folder of a model, as training leaves it, or a checkpoint of a run."""
    repo_id: str
    """Repository to publish to, NAME or OWNER/NAME."""
    _: KW_ONLY
    space: bool = False
    """Publish the demo, a page that samples from the model, instead of the model."""
    private: bool = False
    """Make a new repository private, and publish to one that is there only if it is private."""
    revision: str | None = None
    """Branch to publish on, created if there is none of that name. If unset, the main branch."""
    commit_message: str | None = None
    """Message of the commit. If unset, it says what is published."""
    overwrite_card: bool = False
    """Replace the card on the Hub even if somebody has edited it there."""
    model_license: str | None = None
    """Licence of the model, as the Hub spells it (apache-2.0, cc-by-nc-4.0). If unset, the one given in training."""
    data_license: str | None = None
    """Licence of the training images, in words for the card. If unset, the one given in training."""
    dry_run: bool = False
    """List what would be published and stop, without contacting the Hub."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_repo_id("repo_id", self.repo_id)


@dataclass(frozen=True, kw_only=True)
class SampleConfig(HubModelConfig):
    """Sample images from a saved pipeline."""

    group: ClassVar[str] = "most used"

    pretrained_model_name_or_path: str
    """Folder of a saved pipeline or of a checkpoint, or the id of a pipeline on the Hub. For a run that has not
    finished, its newest checkpoint is taken."""
    output_dir: str = "samples"
    """Folder for the images. The same command continues with the images that are missing in it."""
    overwrite_output_dir: bool = False
    """Delete the images that this command has written to output_dir and start again."""
    num_images: int = setting(16, minimum=1)
    """Number of images. The same command with a larger number adds to the images that are there."""
    batch_size: int = setting(16, minimum=1, group="machine")
    """Images that a process draws at a time, at most. The images are the same up to rounding."""
    mixed_precision: Literal["no", "fp16", "bf16"] | None = setting(AUTO, group="machine")
    """Precision of the network, but not of the sampler; no is float32. auto is that of the images in output_dir, else
    what accelerate was configured with, else bf16 on a device that is fast in it, else no."""
    compile: bool = setting(False, group="machine")
    """Compile the network. It takes about a minute and pays off for thousands of images, which are the same up to
    rounding."""
    seed: int = setting(0, minimum=0, below=NUM_SEEDS)
    """Image i is drawn with the seed `seed + i`."""
    num_inference_steps: int | None = setting(None, minimum=1, group="sampler")
    """Denoising steps. If unset, every timestep of the training."""
    scheduler: str | None = setting(None, group="sampler")
    """Scheduler to sample with, built from the config of the saved one: the name of a class of diffusers, such as
    DDIMScheduler, DPMSolverMultistepScheduler or EulerDiscreteScheduler, or DDPMCarsScheduler. If unset, the saved
    one."""
    variance_type: Variance | None = setting(None, group="sampler")
    """Variance of the steps of DDPMCarsScheduler. If unset, that of the saved scheduler."""
    class_labels: tuple[str | int, ...] | None = None
    """Classes that the images take in turn, by name or number. If unset, the images have no class, for which the model
    must have been trained."""
    guidance_scale: float = setting(1.0, minimum=0, group="sampler")
    """How strongly an image is pushed from what images without a class look like towards its class. 1 adds nothing."""
    strip: bool = False
    """Also write denoising.png, which shows how the first images emerge from noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheduler is not None:
            check_scheduler("scheduler is", self.scheduler)
        if self.variance_type is not None and self.scheduler not in (None, "DDPMCarsScheduler"):
            raise UserError(
                f"variance_type is {self.variance_type} and scheduler is {self.scheduler}; "
                "only DDPMCarsScheduler has a choice of variances"
            )


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig(ModelConfig, PicturesOfRunConfig):
    """Measure a saved model on its training images, for better variances and starting noise.

    If neither train_data_dir nor dataset_name is given, the images are those that the model was trained on, according
    to the config.yaml in its folder.
    """

    group: ClassVar[str] = "most used"

    pretrained_model_name_or_path: str
    """Folder of a saved pipeline, whose scheduler_config.json is replaced, or of a checkpoint, which stays as it is:
    the calibrated model is written beside checkpoints/."""
    variance_type: Variance | None = None
    """Variance that the model samples with from now on. If unset, it stays as it is."""
    num_timesteps: int | None = setting(50, minimum=2)
    """Number of timesteps that are measured, spread evenly over log SNR. If unset, all of them."""
    num_images: int = setting(64, minimum=1)
    """Images that are measured per timestep."""
    batch_size: int = setting(64, minimum=1, group="machine")
    """Images that the network sees at a time."""
    num_bands: int | None = setting(16, minimum=2)
    """Bands of spatial frequency for variance_type spectral. If unset, only analytic is measured."""
    fit_init_noise: bool = False
    """Also measure the noise that sampling starts from, for schedules that do not end in pure noise, such as that of
    the recipe tutorial."""
    label_column: str = setting("label", group="images")
    """Column of the dataset that holds the classes, for models with classes."""
    seed: int = setting(0, minimum=0, below=NUM_SEEDS)
    """Decides which images are measured, and the noise."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance_type == "spectral" and self.num_bands is None:
            raise UserError("variance_type spectral needs num_bands, which is unset; give 2 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(HubModelConfig, PicturesOfRunConfig):
    """Measure how good a saved model is, and write metrics.json, plots and report.html.

    What metrics.json holds already is not measured again, and an evaluation with other settings goes to a folder
    beside it. If neither train_data_dir nor dataset_name is given, the images are those that the model was trained on,
    and its validation_split, according to the config.yaml in its folder.
    """

    group: ClassVar[str] = "measurements"

    pretrained_model_name_or_path: str | None = setting(None, group="most used")
    """Folder of a saved pipeline or of a checkpoint, or the id of a pipeline on the Hub. For a run that has not
    finished, its newest checkpoint is taken."""
    compare: tuple[str, ...] | None = setting(None, group="most used")
    """Two models to measure with the same seeds and compare, instead of one model."""
    output_dir: str | None = setting(None, group="most used")
    """Folder for the results. If unset, evaluation/ in the folder of the model, or beside it for a checkpoint, and for
    other settings than those of the evaluation there; with compare, comparison/."""
    label_column: str = setting("label", group="images")
    """Column of the dataset that holds the classes, for models with classes."""
    num_images: int | None = setting(None, minimum=1, group="most used")
    """Images that are sampled for every measurement, 40 or more, and real images that take their place to find the
    floor: an evaluation needs 80 real images or more, twice this number. If unset, half of the real images, but
    2000 at most."""
    batch_size: int = setting(64, minimum=1, group="machine")
    """Images that a process handles at a time. The results are the same up to rounding."""
    seed: int = setting(0, minimum=0, below=NUM_SEEDS, group="most used")
    """Image i is drawn with the seed `seed + i`, by every sampler."""
    num_inference_steps: int | None = setting(100, minimum=1, group="sampler")
    """Denoising steps of the model as it was saved, at most every timestep of the training. If unset, all of them."""
    steps: tuple[int, ...] | None = setting(None, minimum=1, group="sampler")
    """Also measure each of schedulers with each of these numbers of denoising steps. If unset, none."""
    schedulers: tuple[str, ...] = setting(
        (
            "fixed_small",
            "fixed_large",
            "analytic",
            "spectral",
            "DDIMScheduler",
            "DPMSolverMultistepScheduler",
            "UniPCMultistepScheduler",
        ),
        group="sampler",
    )
    """Schedulers for steps: variances of DDPMCarsScheduler, and scheduler classes of diffusers."""
    num_likelihood_images: int | None = setting(500, minimum=2)
    """Images of validation_split whose bits per dimension are measured. If unset, none."""
    likelihood_steps: tuple[int, ...] | None = setting(None, minimum=2)
    """Also bound the likelihood with chains of each of these numbers of timesteps, once evenly spaced and once of
    least cost. If unset, only with all timesteps."""
    extractor: str = "efficientnet-lite0"
    """Network whose features images are compared by: efficientnet-lite0, inception (FID), dinov2, or
    package.module:Class."""
    extractor_weights: str | None = None
    """File with the weights of the extractor, or a folder for dinov2. If unset, the weights that its package brings,
    or downloads for inception and dinov2."""
    mixed_precision: Literal["no", "bf16", "fp16"] = setting(AUTO, group="machine")
    """Precision of the network, but not of noise and statistics; no is float32. auto is that of the figures in
    output_dir, else what accelerate was configured with, else bf16 on a device that is fast in it, else no."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.pretrained_model_name_or_path is None) == (self.compare is None):
            raise UserError("give exactly one of pretrained_model_name_or_path (a model) and compare (two models)")
        if self.compare is not None:
            refuse_choice_of_weights(self, "compare takes two models as they are; give a folder for each")
        if self.num_images is not None and self.num_images < MIN_EVALUATION_IMAGES:
            raise UserError(
                f"num_images is {self.num_images}; it must be {MIN_EVALUATION_IMAGES} or more, and takes "
                f"twice as many real images, {2 * MIN_EVALUATION_IMAGES} or more"
            )
        if self.compare is not None and len(self.compare) != 2:
            raise UserError(f"compare is {' '.join(self.compare)}; it takes two models")
        if self.compare is not None and len({os.path.realpath(name) for name in self.compare}) < 2:
            raise UserError(f"compare names {self.compare[0]} twice; give two models")
        for name in self.schedulers:
            check_scheduler("schedulers has", name, kinds_of(Variance))

    def check_number_of_images(self, place: str, number: int) -> None:
        """Raise UserError if there are too few real images in a place for the generated ones."""
        least = 2 * MIN_EVALUATION_IMAGES
        halves = "half of them to compare with and half in place of generated ones"
        if number < least:
            without = "" if self.validation_split is None else f" beside those of the split {self.validation_split}"
            raise UserError(
                f"{place} has {number} images{without}; an evaluation needs {least} or more, {halves}: add images, or "
                "name a larger folder of such images with train_data_dir, or look at what ddpm-cars sample draws"
            )
        if self.num_images is not None and number < 2 * self.num_images:
            raise UserError(
                f"num_images is {self.num_images}, which takes {2 * self.num_images} real images, {halves}; "
                f"{place} has {number}: lower num_images to {number // 2} or less"
            )


@dataclass(frozen=True, kw_only=True)
class ShowConfig(ImageConfig, NoiseConfig):
    """Show the images as training would see them, and how noise drowns them."""

    group: ClassVar[str] = "most used"

    output_dir: str = "preview"
    """Folder for dataset.png and noising.png."""
    num_images: int = setting(36, minimum=1)
    """Number of images in dataset.png."""
    seed: int = setting(0, minimum=0, below=NUM_SEEDS)
    """Decides which images are shown, and the noise."""


@dataclass(frozen=True, kw_only=True)
class ToyCarsConfig(Settings):
    """Draw a data set of toy cars, to try everything on."""

    output_dir: str = "toy-cars"
    """Folder for train/ and test/."""
    num_train_images: int = setting(2000, minimum=0)
    """Number of images in train/."""
    num_test_images: int = setting(200, minimum=0)
    """Number of images in test/."""
    resolution: int = setting(64, minimum=8)
    """Height and width in pixels."""
    seed: int = setting(0, minimum=0, below=NUM_SEEDS)
    """Decides what every image looks like."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig(HubModelConfig):
    """Serve a page in the browser that samples from a model with a live preview.

    It also adds noise to an image of yours and plots the noise schedule.
    """

    pretrained_model_name_or_path: str | None = None
    """Folder of a saved pipeline or of a checkpoint, or the id of a pipeline on the Hub. If unset, the model inside
    the package."""
    server_name: str = "127.0.0.1"
    """Address to serve the page at. 0.0.0.0 lets other machines in."""
    server_port: int | None = setting(None, minimum=1)
    """Port to serve the page at. If unset, the first free one from 7860 on."""
    share: bool = False
    """Also serve the page at a public address of gradio, which needs a network."""
    max_images: int = setting(16, minimum=1)
    """Largest number of images that a visitor can sample at once."""
    mixed_precision: Literal["no", "fp16", "bf16"] = AUTO  # type: ignore[assignment]
    """Precision of the network, but not of the sampler; no is float32. auto is what accelerate was configured with,
    else bf16 on a device that is fast in it, else no."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pretrained_model_name_or_path is None:
            refuse_choice_of_weights(self, "the model inside the package has one set of weights")
        if self.server_port is not None and self.server_port > 65535:
            raise UserError(f"server_port is {self.server_port}; it must be 65535 or less")
