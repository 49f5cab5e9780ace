"""What a call may be given: the noise it starts from, generators, image sizes and names of classes."""

import re
from collections.abc import Callable

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, EulerDiscreteScheduler, UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, fit_init_noise
from ddpm_cars.pipeline_ddpm_cars import classes_of_names

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def short(**config) -> DDPMCarsScheduler:
    return DDPMCarsScheduler(**{"num_train_timesteps": 10, "beta_end": 0.5, **config})


@pytest.fixture
def pipe(unet: UNet2DModel) -> DDPMCarsPipeline:
    return DDPMCarsPipeline(unet, short())


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDIMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
@pytest.mark.parametrize("size", [8, 12])
def test_latents_are_what_a_plain_loop_of_diffusers_starts_from(unet: UNet2DModel, name: str, size: int):
    latents = torch.randn(2, 3, size, size, generator=seeded(1))
    kept = latents.clone()
    make = getattr(diffusers, name)
    got = DDPMCarsPipeline(unet, make(num_train_timesteps=50))(2, seeded(3), 6, "raw", latents=latents).images

    plain, generator = make(num_train_timesteps=50), seeded(3)
    plain.set_timesteps(6)
    options = {"generator": generator} if name == "DDPMScheduler" else {}
    x_t = latents * plain.init_noise_sigma
    with torch.no_grad():
        for t in plain.timesteps:
            x_t = plain.step(unet(plain.scale_model_input(x_t, t), t).sample, t, x_t, **options).prev_sample
    assert torch.equal(got, x_t.clamp(-1, 1))
    assert torch.equal(latents, kept)


def test_latents_replace_the_noise_of_the_generator(pipe: DDPMCarsPipeline):
    generators = [seeded(i) for i in range(2)]
    noise = torch.stack([torch.randn(3, 8, 8, generator=generator) for generator in generators])
    expected = pipe(2, [seeded(i) for i in range(2)], output_type="raw").images
    assert torch.equal(pipe(2, generators, output_type="raw", latents=noise.double()).images, expected)
    first = next(pipe.denoise(2, latents=noise))
    assert torch.equal(first.sample, noise)
    first.sample.zero_()
    assert noise.any()


def test_latents_are_taken_as_they_are_where_the_moments_of_the_data_are_known(unet: UNet2DModel):
    scheduler = short(beta_end=0.1)
    fit_init_noise(torch.rand(20, 3, 8, 8, generator=seeded()) * 2 - 1, scheduler)
    latents = torch.randn(1, 3, 8, 8, generator=seeded(1))
    states = DDPMCarsPipeline(unet, scheduler).denoise(1, latents=latents)
    assert torch.equal(next(states).sample, latents)
    euler = EulerDiscreteScheduler.from_config(scheduler.config)
    first = next(DDPMCarsPipeline(unet, euler).denoise(1, num_inference_steps=5, latents=latents)).sample
    euler.set_timesteps(5)
    assert torch.equal(first, latents * euler.init_noise_sigma)


def test_latents_say_the_size_where_the_network_does_not(make_unet: Callable[..., UNet2DModel]):
    pipe = DDPMCarsPipeline(make_unet(sample_size=None), short())
    with pytest.raises(ValueError, match="sample_size"):
        pipe()
    assert pipe(latents=torch.zeros(1, 3, 6, 10)).images[0].size == (10, 6)


@pytest.mark.parametrize(
    ("latents", "error", "message"),
    [
        (torch.zeros(2, 3, 8, 8), ValueError, r"must be \(1, 3, 8, 8\): \(batch_size, .*\), or give batch_size=2\.$"),
        (torch.zeros(1, 1, 8, 8), ValueError, r"\(1, 1, 8, 8\); it must be \(1, 3, 8, 8\).*width\)\.$"),
        (torch.zeros(3, 8, 8), ValueError, r"\(3, 8, 8\); it must be \(1, 3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 9), ValueError, "the size of latents is 8 x 9, .* must be multiples of 2"),
        (torch.zeros(1, 3, 0, 8), ValueError, "the size of latents is 0 x 8"),
        (torch.full((1, 3, 8, 8), torch.nan), ValueError, "latents holds values that are not finite"),
        (
            torch.zeros(1, 3, 8, 8, dtype=torch.long),
            TypeError,
            "latents is of type torch.int64; pass a floating-point",
        ),
        ([[0.0]], TypeError, "latents is of type list; pass a floating-point tensor"),
    ],
)
def test_latents_that_cannot_be_a_start_are_refused_at_once(
    pipe: DDPMCarsPipeline, latents, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        pipe.denoise(1, latents=latents)


@pytest.mark.parametrize("name", ["DDPMCarsScheduler", "DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("kind", [tuple, iter])
def test_generators_come_in_any_sequence(unet: UNet2DModel, name: str, kind: Callable):
    scheduler = short() if name == "DDPMCarsScheduler" else getattr(diffusers, name)(num_train_timesteps=10)
    pipe = DDPMCarsPipeline(unet, scheduler)
    images = [pipe(2, kind([seeded(0), seeded(1)]), 5, "raw").images for kind in (list, kind)]
    assert torch.equal(*images)


@pytest.mark.parametrize("generator", [0, "0", [1, 2], (seeded(), None), torch.zeros(2)])
def test_what_is_no_generator_is_said(pipe: DDPMCarsPipeline, generator):
    with pytest.raises(
        TypeError, match=r"^generator is or holds .*; pass a torch\.Generator, .* or one for each image"
    ):
        pipe.denoise(2, generator)


def test_a_generator_for_each_image(pipe: DDPMCarsPipeline):
    for generators in ((), (seeded(),), [seeded()] * 3):
        with pytest.raises(
            ValueError, match=f"^The length of generator is {len(generators)} and batch_size is 2; pass"
        ):
            pipe.denoise(2, generators)


FOUR_BLOCKS = {
    "block_out_channels": (8, 8, 8, 8),
    "down_block_types": ("DownBlock2D",) * 4,
    "up_block_types": ("UpBlock2D",) * 4,
}


@pytest.mark.parametrize(("factor", "config"), [(2, {}), (2, {"downsample_padding": 0}), (8, FOUR_BLOCKS)])
def test_exactly_the_sizes_that_fit_the_network_are_taken(
    make_unet: Callable[..., UNet2DModel], factor: int, config: dict
):
    unet = make_unet(**config)
    pipe = DDPMCarsPipeline(unet, short())
    for side in range(1, 3 * factor + 2):
        latents = torch.zeros(1, 3, side, factor)
        try:
            with torch.no_grad():
                fits = unet(latents, 0).sample.shape == latents.shape
        except RuntimeError:
            fits = False
        assert fits == (side % factor == 0)
        if fits:
            pipe(num_inference_steps=1, latents=latents)
        else:
            times, multiples = {2: 1, 8: 3}[factor], f"height and width must be multiples of {factor}"
            with pytest.raises(ValueError, match=f"it halves images {times} times, so {multiples}"):
                pipe.denoise(latents=latents)


@pytest.mark.parametrize("size", [9, (8, 9), [9, 8], 0])
def test_an_image_size_that_does_not_fit_is_said_before_the_first_step(make_unet: Callable[..., UNet2DModel], size):
    pipe = DDPMCarsPipeline(make_unet(sample_size=size), short())
    with pytest.raises(ValueError, match=r"^sample_size is .*, which this UNet cannot take: .* multiples of 2"):
        pipe.denoise()
    pipe.unet.register_to_config(sample_size=(4, 6))
    assert pipe().images[0].size == (6, 4)


def test_a_short_name_of_two_classes_is_no_name(make_unet: Callable[..., UNet2DModel]):
    names = {0: "car, red", 1: "bus, red", 2: "red van, van"}
    pipe = DDPMCarsPipeline(make_unet(num_class_embeds=4), DDPMScheduler(10), names)
    assert pipe.labels == {"car": 0, "bus": 1, "red van": 2, "van": 2, **{name: i for i, name in names.items()}}
    message = r"'red' may mean the classes 0 ('car, red') and 1 ('bus, red'): pass a whole name that differs"
    for ask in (lambda: pipe(class_labels="red"), lambda: pipe.get_label_ids(["van", "red"])):
        with pytest.raises(ValueError, match=re.escape(message)):
            ask()
    assert pipe.get_label_ids(["car, red", "bus, red", "van"]) == [0, 1, 2]
    with pytest.raises(ValueError, match=r"choose from \['bus', 'bus, red', 'car', 'car, red', 'red van'"):
        pipe(class_labels="blue")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        # A whole name wins, whichever comes first.
        (["red", "car, red"], {"red": [0], "car": [1], "car, red": [1]}),
        (["car, red", "red"], {"red": [1], "car": [0], "car, red": [0]}),
        (["car, red", "bus, red", "red"], {"car": [0], "bus": [1], "red": [2], "car, red": [0], "bus, red": [1]}),
        # Classes 134 and 517 of ImageNet are both called crane.
        (["crane", "crane"], {"crane": [0, 1]}),
        (["crane", "crane, bird"], {"crane": [0], "bird": [1], "crane, bird": [1]}),
        # Nothing between commas is no name, and a name twice in one class is one.
        (["car,", ", bus,, bus ", ","], {"car": [0], "bus": [1], "car,": [0], ", bus,, bus ": [1], ",": [2]}),
        (["car", "Car", "car "], {"car": [0], "Car": [1], "car ": [2]}),
        ([], {}),
    ],
)
def test_what_a_name_may_mean(names: list[str], expected: dict[str, list[int]]):
    assert classes_of_names(dict(enumerate(names))) == expected
    assert classes_of_names({str(i): name for i, name in reversed(list(enumerate(names)))}) == expected


def test_two_classes_of_one_whole_name_load_and_are_asked_for_by_number(make_unet: Callable[..., UNet2DModel]):
    pipe = DDPMCarsPipeline(make_unet(num_class_embeds=3), short(), {0: "crane", 1: "crane"})
    assert pipe.labels == {}
    assert pipe.null_class == 2
    pipe(class_labels=1)
    with pytest.raises(ValueError, match=r"may mean the classes 0 \('crane'\) and 1 \('crane'\): .* or the number"):
        pipe(class_labels="crane")


def test_numbers_are_whole(unet: UNet2DModel, make_unet: Callable[..., UNet2DModel]):
    pipe = DDPMCarsPipeline(unet, short())
    assert len(pipe(2.0, num_inference_steps=5.0).images) == 2
    for arguments in ({"batch_size": 1.5}, {"batch_size": [1]}, {"num_inference_steps": "5"}):
        ((name, value),) = arguments.items()
        with pytest.raises(TypeError, match=re.escape(f"{name} is {value!r}; it must be a whole number.")):
            pipe.denoise(**arguments)
    with pytest.raises(ValueError, match=r"class_labels \[True\] must be integers"):
        DDPMCarsPipeline(make_unet(num_class_embeds=3), short())(class_labels=True)


def test_a_step_takes_a_tuple_of_generators(unet: UNet2DModel):
    scheduler, x = short(), torch.zeros(2, 3, 8, 8)
    scheduler.set_timesteps(5)
    t = scheduler.timesteps[0]
    got = [scheduler.step(x, t, x, kind([seeded(0), seeded(1)])).prev_sample for kind in (list, tuple)]
    assert torch.equal(*got)
