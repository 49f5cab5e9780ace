"""Sampling as a generator: what it yields, and what it leaves alone when it is read in turn, closed or forgotten."""

from collections.abc import Callable

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, PNDMScheduler, UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.pipeline_ddpm_cars import DenoisingState, as_images

ignore_numpy_warnings = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
SAMPLERS = ["DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class CountingPipeline(DDPMCarsPipeline):
    """Counts how often diffusers is asked to free the memory of a model that is kept off the GPU."""

    num_freed = 0

    def maybe_free_model_hooks(self) -> None:
        self.num_freed += 1
        super().maybe_free_model_hooks()


@pytest.fixture
def pipe(unet: UNet2DModel) -> CountingPipeline:
    return CountingPipeline(unet, DDPMCarsScheduler(num_train_timesteps=10, beta_end=0.5))


@pytest.fixture
def num_passes(unet: UNet2DModel):
    calls: list[None] = []
    hook = unet.register_forward_pre_hook(lambda *_: calls.append(None))
    yield lambda: len(calls)
    hook.remove()


@ignore_numpy_warnings
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_state_is_that_of_a_plain_loop_of_diffusers(unet: UNet2DModel, name: str):
    scheduler = getattr(diffusers, name)(num_train_timesteps=50)
    states = list(DDPMCarsPipeline(unet, scheduler).denoise(2, seeded(3), 6))

    plain, generator = getattr(diffusers, name)(num_train_timesteps=50), seeded(3)
    plain.set_timesteps(6)
    # The others add no noise.
    options = {"generator": generator} if name == "DDPMScheduler" else {}
    x_t, x_0_hat = torch.randn(2, 3, 8, 8, generator=generator), None
    assert len(states) == 7
    for state, t in zip(states, [*plain.timesteps, None], strict=True):
        assert (state.timestep is None) == (t is None)
        torch.testing.assert_close(state.sample, x_t, rtol=0, atol=1e-5)
        if x_0_hat is None:
            assert state.pred_original_sample is None
        else:
            torch.testing.assert_close(state.pred_original_sample, x_0_hat, rtol=0, atol=1e-4)
        if t is not None:
            assert int(state.timestep) == int(t)
            with torch.no_grad():
                step = plain.step(unet(x_t, t).sample, t, x_t, **options)
            x_t, x_0_hat = step.prev_sample, getattr(step, "pred_original_sample", None)


@ignore_numpy_warnings
@pytest.mark.parametrize("name", ["DDPMCarsScheduler", *SAMPLERS, "HeunDiscreteScheduler"])
def test_the_end_is_what_a_call_gives_to_the_bit(unet: UNet2DModel, name: str):
    own = DDPMCarsScheduler(num_train_timesteps=50)
    scheduler = own if name == "DDPMCarsScheduler" else getattr(diffusers, name)(num_train_timesteps=50)
    pipe, generator, other = DDPMCarsPipeline(unet, scheduler), seeded(), seeded()
    *_, last = pipe.denoise(2, generator, 6)
    for output_type in ("raw", "pt", "np"):
        images = pipe(2, seeded(), 6, output_type=output_type).images
        assert torch.equal(torch.as_tensor(as_images(last.sample, output_type)), torch.as_tensor(images))
    pipe(2, other, 6)
    assert torch.equal(generator.get_state(), other.get_state())


def test_schedulers_that_do_not_report_x_0_hat(unet: UNet2DModel):
    states = list(DDPMCarsPipeline(unet, PNDMScheduler(num_train_timesteps=20)).denoise(num_inference_steps=5))
    assert len(states) > 5
    assert all(state.pred_original_sample is None for state in states)


def test_classes_and_guidance_are_those_of_a_call(make_unet: Callable[..., UNet2DModel]):
    pipe = DDPMCarsPipeline(make_unet(num_class_embeds=3), DDPMCarsScheduler(10, beta_end=0.5), {0: "car", 1: "van"})
    *_, last = pipe.denoise(2, seeded(), 5, ["van", 0], 3.0)
    images = pipe(2, seeded(), 5, "raw", class_labels=["van", 0], guidance_scale=3.0).images
    assert torch.equal(last.sample.clamp(-1, 1), images)


def test_nothing_is_computed_but_what_is_asked_for(pipe: CountingPipeline, num_passes: Callable[[], int]):
    torch.manual_seed(0)
    untouched = torch.get_rng_state()
    states = pipe.denoise(num_inference_steps=5)
    assert torch.equal(torch.get_rng_state(), untouched)
    next(states)
    assert num_passes() == 0
    next(states), next(states)
    assert num_passes() == 2
    states.close()
    assert list(states) == []
    assert num_passes() == 2


def test_the_memory_of_a_model_is_freed_however_a_drawing_ends(pipe: CountingPipeline):
    pipe()
    assert pipe.num_freed == 1
    list(pipe.denoise())
    assert pipe.num_freed == 2
    for end in ("close", "forget"):
        states = pipe.denoise()
        next(states), next(states)
        before = pipe.num_freed
        if end == "close":
            states.close()
        del states
        assert pipe.num_freed == before + 1
    with pytest.raises(ZeroDivisionError):
        pipe(callback_on_step_end=lambda *_: 1 / 0)
    assert pipe.num_freed == 5


def test_gradients_are_off_within_the_steps_and_as_they_were_between_them(pipe: CountingPipeline, unet: UNet2DModel):
    seen: list[bool] = []
    hook = unet.register_forward_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    states = pipe.denoise(num_inference_steps=4)
    try:
        for wanted in (True, False, True):
            with torch.set_grad_enabled(wanted):
                state = next(states)
                assert torch.is_grad_enabled() == wanted
            assert not state.sample.requires_grad
        states.close()
        assert torch.is_grad_enabled()
        with pytest.raises(RuntimeError, match="words"):
            pipe.denoise(num_inference_steps=4).throw(RuntimeError("words"))
        assert torch.is_grad_enabled()
    finally:
        hook.remove()
    assert seen == [False, False]


@ignore_numpy_warnings
@pytest.mark.parametrize("name", ["DDPMCarsScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_generators_of_one_pipeline_may_be_read_in_turn(unet: UNet2DModel, name: str):
    pipe = DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=50))
    if name != "DDPMCarsScheduler":
        pipe.scheduler = getattr(diffusers, name)(num_train_timesteps=50)
    alone = [list(pipe.denoise(2, seeded(seed), steps))[-1].sample for seed, steps in ((0, 7), (1, 12))]
    call = pipe(1, seeded(5), 9, "raw").images
    timesteps = pipe.scheduler.timesteps

    drawings = [pipe.denoise(2, seeded(seed), steps) for seed, steps in ((0, 7), (1, 12))]
    last: list[DenoisingState | None] = [None, None]
    for i in range(13):
        last = [next(states, state) for states, state in zip(drawings, last, strict=True)]
        if i == 3:
            assert pipe.scheduler.timesteps is timesteps
            assert torch.equal(pipe(1, seeded(5), 9, "raw").images, call)
    for state, expected in zip(last, alone, strict=True):
        assert state is not None
        assert torch.equal(state.sample, expected)


@pytest.mark.parametrize("replaced", [0, 2, 5])
def test_a_callback_that_replaces_the_sample_acts_as_a_plain_loop_that_does(unet: UNet2DModel, replaced: int):
    def replace(pipe: DDPMCarsPipeline, i: int, t: torch.Tensor, tensors: dict) -> dict | None:
        return {"latents": 0.5 * tensors["latents"] + 0.1} if i == replaced else None

    pipe = DDPMCarsPipeline(unet, DDPMScheduler(num_train_timesteps=50))
    got = pipe(2, seeded(3), 6, "raw", callback_on_step_end=replace).images

    plain, generator = DDPMScheduler(num_train_timesteps=50), seeded(3)
    plain.set_timesteps(6)
    x_t = torch.randn(2, 3, 8, 8, generator=generator)
    for i, t in enumerate(plain.timesteps):
        with torch.no_grad():
            x_t = plain.step(unet(x_t, t).sample, t, x_t, generator=generator).prev_sample
        x_t = 0.5 * x_t + 0.1 if i == replaced else x_t
    torch.testing.assert_close(got, x_t.clamp(-1, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 11}, "from 1 to 10"),
        ({"class_labels": 1}, "num_class_embeds"),
        ({"guidance_scale": 2.0}, "guidance_scale is 2.0"),
        (
            {"batch_size": 2, "generator": [torch.Generator()]},
            "generator is 1 and batch_size is 2; .* give batch_size=1",
        ),
    ],
)
def test_bad_arguments_raise_before_anything_is_read(pipe: CountingPipeline, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        pipe.denoise(**arguments)


def test_stock_and_own_schedulers_start_from_the_same_noise(unet: UNet2DModel):
    first = [
        next(DDPMCarsPipeline(unet, scheduler).denoise(2, seeded(), 5)).sample
        for scheduler in (DDPMCarsScheduler(), DDPMScheduler())
    ]
    assert torch.equal(*first)
    assert torch.equal(first[0], torch.randn(2, 3, 8, 8, generator=seeded()))
