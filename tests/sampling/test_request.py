"""The record of what is to be drawn: which image gets what, and what a model cannot draw."""

from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.errors import UserError
from ddpm_cars.sampling.request import SamplingRequest
from ddpm_cars.sampling.samplers import with_scheduler


@pytest.fixture(scope="module")
def pipeline(make_unet: Callable[..., UNet2DModel]) -> DDPMCarsPipeline:
    """Two classes, the second of which has the number of the first as its name, and a third that is none."""
    unet = make_unet(num_class_embeds=3)
    return DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=20), {0: "cars", 1: "0"})


def asked(**options) -> SamplingRequest:
    return SamplingRequest(**{"num_images": 5, "num_inference_steps": 3, **options})


def test_every_image_has_its_seed_and_its_class_whatever_the_batch():
    arguments = asked(seed=7, class_labels=("a", "b"), guidance_scale=2.0).arguments(range(3, 6))
    generators = arguments.pop("generator")
    assert [generator.initial_seed() for generator in generators] == [10, 11, 12]
    assert arguments == {
        "batch_size": 3,
        "num_inference_steps": 3,
        "class_labels": ["b", "a", "b"],
        "guidance_scale": 2.0,
    }
    assert asked().arguments(range(1))["class_labels"] is None


def test_classes_become_numbers(pipeline: DDPMCarsPipeline):
    # Digits that are a name are the name, and a number is a number.
    assert asked(class_labels=("cars", "1", "0", 0)).checked(pipeline).class_labels == (0, 1, 1, 0)
    assert asked().checked(pipeline) == asked()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_labels": ("bikes",)}, "'bikes'.* is not among the names of classes"),
        ({"class_labels": (2,)}, r"class_labels \[2\] must be from 0 to 1"),
        ({"guidance_scale": 2.0}, "guidance_scale is 2.0 but there is no class"),
        ({"num_inference_steps": 21}, "num_inference_steps is 21; this model was trained with 20"),
    ],
)
def test_what_a_model_cannot_draw_is_refused(pipeline: DDPMCarsPipeline, options: dict, message: str):
    with pytest.raises(UserError, match=message):
        asked(**options).checked(pipeline)


def test_a_short_name_in_digits_of_two_classes_is_no_number(make_unet: Callable[..., UNet2DModel]):
    scheduler = DDPMCarsScheduler(num_train_timesteps=20)
    pipeline = DDPMCarsPipeline(make_unet(num_class_embeds=2), scheduler, {0: "cars, 1", 1: "vans, 1"})
    with pytest.raises(UserError, match=r"'1' may mean the classes 0 \('cars, 1'\) and 1 \('vans, 1'\)"):
        asked(class_labels=("1",)).checked(pipeline)
    assert asked(class_labels=("0", 1)).checked(pipeline).class_labels == (0, 1)


def test_an_image_size_that_the_network_cannot_take_is_refused(make_unet: Callable[..., UNet2DModel]):
    pipeline = DDPMCarsPipeline(make_unet(sample_size=9), DDPMCarsScheduler(num_train_timesteps=20))
    with pytest.raises(UserError, match=r"^sample_size is 9 x 9, .* must be multiples of 2"):
        asked().checked(pipeline)


def test_a_network_without_a_learned_variance_is_refused(unet: UNet2DModel):
    pipeline = DDPMCarsPipeline(unet, DDPMCarsScheduler(variance_type="learned_range"))
    with pytest.raises(UserError, match=r"a network of 6 output channels has learned; this one has 3"):
        asked().checked(pipeline)


def test_the_scheduler_is_the_saved_one_unless_another_is_asked_for():
    saved = DDIMScheduler(num_train_timesteps=50)
    assert asked().sampler(saved) is saved
    own = asked(variance_type="fixed_large").sampler(saved)
    assert type(own) is DDPMCarsScheduler
    assert (own.config.variance_type, own.config.num_train_timesteps) == ("fixed_large", 50)
    assert type(asked(scheduler="DDPMScheduler").sampler(saved)) is DDPMScheduler


def test_a_pipeline_with_another_scheduler_shares_the_network_alone(pipeline: DDPMCarsPipeline):
    scheduler = DDPMScheduler.from_config(DDPMCarsScheduler(20, scale_betas_for_timesteps=True, beta_end=0.01).config)
    # The constructor would take it for the stand-in of a scheduler of this package.
    assert "_ddpm_cars" in scheduler.config
    own = with_scheduler(pipeline, scheduler)
    assert own.scheduler is scheduler
    assert type(pipeline.scheduler) is DDPMCarsScheduler
    assert own.unet is pipeline.unet
    assert own.labels == pipeline.labels
    call = {"class_labels": "cars", "num_inference_steps": 3, "output_type": "pt"}
    assert torch.isfinite(own(1, torch.Generator().manual_seed(0), **call).images).all()
