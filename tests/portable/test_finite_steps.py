"""Sampling that leaves the finite numbers: which step is named, whatever hides it, and what may not be noticed."""

import math
import pickle
from collections.abc import Callable

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.pipeline_ddpm_cars import NonFiniteError
from ddpm_cars.portable.finite_steps import FiniteSteps
from tests.support.overflow import beyond_float16

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
IN_FLOAT16 = r"float16 ends at 65504; call pipe\.to\(torch\.bfloat16\) or pipe\.to\(torch\.float32\)\.$"


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def short(**config) -> DDPMCarsScheduler:
    return DDPMCarsScheduler(**{"num_train_timesteps": 10, "beta_end": 0.5, **config})


class Sick(UNet2DModel):
    """Gives a value that is not finite for some images at one timestep."""

    value, timestep, rows, channel = math.inf, 4, slice(1, 2), 0

    def forward(self, sample, timestep, *args, **kwargs):
        output = super().forward(sample, timestep, *args, **kwargs)
        if int(torch.as_tensor(timestep).flatten()[0]) == self.timestep:
            output.sample[self.rows, self.channel] = self.value
        return output


def sick(unet: UNet2DModel, **how) -> UNet2DModel:
    unet.__class__ = type("Sick", (Sick,), how)
    return unet


@pytest.mark.parametrize("make", [short, lambda: DDPMScheduler(10), lambda: DDIMScheduler(10)])
def test_float16_too_small_for_the_activations_is_an_error_and_no_black_image(
    make_unet: Callable[..., UNet2DModel], make: Callable
):
    pipe = DDPMCarsPipeline(beyond_float16(make_unet()), make())
    pipe(2, seeded(), 5)
    pipe.unet.to(torch.bfloat16)
    pipe(2, seeded(), 5)
    pipe.unet.to(torch.float16)
    where = r"^The model output is not finite in step 1 of 5 \(timestep \d\), for 2 of 2 images: "
    for output_type in ("pil", "np", "pt", "raw"):
        with pytest.raises(NonFiniteError, match=where + IN_FLOAT16) as caught:
            pipe(2, seeded(), 5, output_type)
    assert isinstance(caught.value, FloatingPointError)
    assert caught.value.is_of_network
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.is_of_network) == (str(caught.value), True)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("clip_sample", [True, False])
def test_one_bad_image_of_a_batch_is_found_in_its_step(
    make_unet: Callable[..., UNet2DModel], value: float, clip_sample: bool
):
    pipe = DDPMCarsPipeline(sick(make_unet(), value=value), short(clip_sample=clip_sample))
    where = r"^The model output is not finite in step 6 of 10 \(timestep 4\), for 1 of 3 images: weights that have"
    with pytest.raises(NonFiniteError, match=where):
        pipe(3, seeded())
    states = pipe.denoise(3, seeded())
    assert all(next(states).sample.isfinite().all() for _ in range(6))
    # A CPU is never waited for, so nothing is shown after the bad step.
    with pytest.raises(NonFiniteError, match=where):
        next(states)
    # Without the timestep, all is well.
    pipe(3, seeded(), num_inference_steps=2)
    # Nothing of it is left to the next call.
    pipe.unet.__class__ = UNet2DModel
    pipe(3, seeded())


def test_the_variance_counts_where_it_is_used(make_unet: Callable[..., UNet2DModel]):
    unet = sick(make_unet(out_channels=6), channel=4, value=math.nan)
    with pytest.raises(NonFiniteError, match=r"step 6 of 10 \(timestep 4\)"):
        DDPMCarsPipeline(unet, short(variance_type="learned_range"))(2, seeded())
    assert DDPMCarsPipeline(unet, short())(2, seeded(), output_type="raw").images.isfinite().all()


def test_guidance_beyond_float32_is_found(make_unet: Callable[..., UNet2DModel]):
    pipe = DDPMCarsPipeline(make_unet(num_class_embeds=3), short(), {0: "car", 1: "van"})
    pipe(1, seeded(), class_labels=0, guidance_scale=10.0)
    with pytest.raises(NonFiniteError, match=r"in step 1 of 10.* a very large guidance_scale or latents"):
        pipe(1, seeded(), class_labels=0, guidance_scale=1e300)


def test_a_sampler_that_loses_the_image_is_named_and_not_the_network(unet: UNet2DModel):
    # Asked for T steps, it sets every timestep of the second half to 0.
    pipe = DDPMCarsPipeline(unet, DPMSolverMultistepScheduler(num_train_timesteps=20))
    with pytest.raises(
        NonFiniteError, match=r"^DPMSolverMultistepScheduler loses the image in step \d+ of 20 "
    ) as caught:
        pipe(1, seeded(), 20)
    assert not caught.value.is_of_network
    assert str(caught.value).endswith(": choose another scheduler or number of steps.")


@pytest.mark.parametrize("i", [0, 4, 9])
def test_a_callback_that_gives_back_what_is_not_finite_is_named(unet: UNet2DModel, i: int):
    def spoil(pipe, index: int, t, tensors: dict) -> dict:
        return {"latents": tensors["latents"] * (math.nan if index == i else 1)}

    message = rf"^DDPMCarsScheduler or the callback loses 2 of 2 images in step {i + 1} of 10 \(timestep {9 - i}\)"
    with pytest.raises(NonFiniteError, match=message):
        DDPMCarsPipeline(unet, short())(2, seeded(), callback_on_step_end=spoil)


def test_a_callback_that_ends_sampling_hides_nothing(make_unet: Callable[..., UNet2DModel]):
    def end(pipe, index: int, t, tensors: dict) -> None:
        pipe._interrupt = index == 5

    with pytest.raises(NonFiniteError, match="step 6 of 10"):
        DDPMCarsPipeline(sick(make_unet()), short())(2, seeded(), callback_on_step_end=end)


def test_noise_of_wrong_moments_is_found_before_the_first_step(unet: UNet2DModel):
    statistics = {
        "mean": [[[math.nan]]] * 3,
        "covariance": torch.eye(3).tolist(),
        "rows": [[1.0] + [0.0] * 7],
        "columns": [[1.0] + [0.0] * 7],
        "rest_variance": 1.0,
    }
    scheduler = short()
    scheduler.register_to_config(_init_noise=statistics)
    with pytest.raises(NonFiniteError, match=r"^The noise that sampling starts from is not finite: .*init noise"):
        DDPMCarsPipeline(unet, scheduler)(1, seeded())


def test_a_compiled_network_is_watched_too(make_unet: Callable[..., UNet2DModel], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda unet, **_: unet)
    pipe = DDPMCarsPipeline(beyond_float16(make_unet()).to(torch.float16), short())
    pipe.enable_fast_sampling(2)
    with pytest.raises(NonFiniteError, match=r"in step 1 of 5.*for 3 of 3 images"):
        pipe(3, seeded(), 5)


class Far(torch.Tensor):
    """A tensor on a device that is waited for, which counts how often it is."""

    num_waits = 0

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.num_waits += function.__name__ == "cpu"
        return super().__torch_function__(function, types, args, kwargs or {})

    @property
    def device(self):
        return torch.device("cuda")


def test_a_gpu_is_waited_for_every_32_steps_and_at_the_end():
    Far.num_waits, steps = 0, FiniteSteps(torch.arange(100), torch.float32, "it")
    x = torch.zeros(2, 3, 4, 4).as_subclass(Far)
    steps.remember(x)
    waited = []
    for i in range(70):
        steps.remember(x)
        steps.remember(x)
        before = Far.num_waits
        steps.look(is_last=i == 69)
        waited += [i + 1] if Far.num_waits > before else []
    assert waited == [32, 64, 70]
    steps.remember(x / 0)
    steps.remember(x)
    with pytest.raises(NonFiniteError, match=r"in step 71 of 100 \(timestep 70\)"):
        steps.look(is_last=True)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_any_single_value_is_enough(layout: torch.memory_format, value: float):
    for position in range(0, 2 * 64, 7):
        steps, x = FiniteSteps(torch.arange(1), torch.float32, "it"), torch.full((2, 2, 8, 8), 3e38)
        x[1].view(-1)[position] = value
        steps.remember(torch.zeros(2, 2, 8, 8))
        steps.remember(x.to(memory_format=layout))
        steps.remember(torch.zeros(2, 2, 8, 8))
        with pytest.raises(NonFiniteError, match="for 1 of 2 images"):
            steps.look(is_last=True)
