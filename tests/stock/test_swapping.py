"""Any pipeline of diffusers that runs with stock DDPMScheduler gives the same output with DDPMCarsScheduler instead.

Stock multiplies float32 tables, which is where the tolerances come from.
"""

import functools
import inspect
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionImg2ImgPipeline, StableDiffusionPipeline

from ddpm_cars import DDPMCarsScheduler
from tests.support.stock_image_pipelines import IMAGE_PIPELINES
from tests.support.stock_pipelines import (
    NO_SAFETY_CHECKER,
    STABLE_DIFFUSION_PIPELINES,
    StockPipeline,
    stable_diffusion,
    stable_diffusion_img2img,
)
from tests.support.stock_video_and_audio_pipelines import VIDEO_AND_AUDIO_PIPELINES, stable_audio

# Stock computes from float32 tables.
STEP_TOLERANCE = {"rtol": 3e-3, "atol": 3e-3}
SEED = 5

# The autoencoder of Stable Audio builds its layers with a function of torch that is on its way out.
OLD_WEIGHT_NORM = pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")

ALL_PIPELINES = [
    pytest.param(build, id=build.__name__, marks=[OLD_WEIGHT_NORM] if build is stable_audio else [])
    for build in (*STABLE_DIFFUSION_PIPELINES, *IMAGE_PIPELINES, *VIDEO_AND_AUDIO_PIPELINES)
]
COMPATIBLES = [
    pytest.param(scheduler, id=scheduler.__name__)
    for scheduler in sorted(DDPMCarsScheduler().compatibles, key=lambda scheduler: scheduler.__name__)
]
CONFIGS = {
    "300-timesteps": {
        "num_train_timesteps": 300,
        "beta_start": 0.0003,
        "beta_end": 0.06,
        "beta_schedule": "scaled_linear",
        "variance_type": "fixed_large",
        "clip_sample": False,
        "steps_offset": 1,
    },
    "cosine-v-trailing": {
        "beta_schedule": "squaredcos_cap_v2",
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
        "variance_type": "learned_range",
    },
    "trained-betas": {
        "num_train_timesteps": 15,
        "trained_betas": np.linspace(0.3, 0.9, 15).tolist(),
        "prediction_type": "sample",
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.9,
        "sample_max_value": 2.5,
        "clip_sample_range": 0.5,
    },
}
SHAPES = [pytest.param((2, 9, 3), id="3-D"), pytest.param((2, 3, 4, 5, 6), id="5-D")]


class StockRun(NamedTuple):
    stock: StockPipeline
    configs: dict[str, dict]  # of its schedulers
    output: np.ndarray


def sample(stock: StockPipeline) -> np.ndarray:
    """Run three steps, from the same seed each time."""
    # Some pipelines draw from the global generator, whatever they are given.
    torch.manual_seed(SEED)
    common = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(SEED)}
    accepted = inspect.signature(type(stock.pipeline).__call__).parameters
    output = stock.pipeline(**{name: common[name] for name in common.keys() & accepted.keys()}, **stock.call)
    # The planner returns its action alone, the others a dataclass with what they sample as its first field.
    return np.asarray(output if isinstance(output, np.ndarray) else output[0])


@functools.cache
def stock_run(build: Callable[[], StockPipeline]) -> StockRun:
    torch.manual_seed(0)
    stock = build()
    schedulers = [getattr(stock.pipeline, name) for name in stock.schedulers]
    assert [type(scheduler) for scheduler in schedulers] == [DDPMScheduler] * len(schedulers)
    configs = {name: scheduler.config for name, scheduler in zip(stock.schedulers, schedulers, strict=True)}
    return StockRun(stock, configs, sample(stock))


def sample_with_ours(run: StockRun, **changes: dict) -> np.ndarray:
    """Swap every scheduler and sample again; `changes` says what the config of the one of that name differs in."""
    for name, config in run.configs.items():
        setattr(run.stock.pipeline, name, DDPMCarsScheduler.from_config(config, **changes.get(name, {})))
    return sample(run.stock)


@pytest.mark.parametrize("build", ALL_PIPELINES)
def test_a_stock_pipeline_gives_the_same_output_with_our_scheduler(build: Callable[[], StockPipeline]):
    run = stock_run(build)
    assert np.isfinite(run.output).all()
    assert run.output.std() > 1e-2
    scale = max(1, np.abs(run.output).max())
    np.testing.assert_allclose(sample_with_ours(run), run.output, rtol=0, atol=3e-4 * scale)


@pytest.mark.parametrize("build", ALL_PIPELINES)
def test_every_scheduler_of_a_pipeline_shapes_its_output(build: Callable[[], StockPipeline]):
    run = stock_run(build)
    for name in run.configs:
        got = sample_with_ours(run, **{name: {"beta_schedule": "sigmoid"}})
        assert not np.allclose(got, run.output, rtol=1e-2, atol=1e-2), name


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("other", COMPATIBLES)
def test_a_config_survives_the_way_through_any_compatible_scheduler(other: type, config: dict):
    ours = DDPMCarsScheduler(**config)
    back = DDPMCarsScheduler.from_config(other.from_config(ours.config).config)
    arguments = list(inspect.signature(DDPMCarsScheduler.__init__).parameters)[1:]
    assert set(config) < set(arguments)
    assert {name: back.config[name] for name in arguments} == {name: ours.config[name] for name in arguments}
    assert {name: back.config[name] for name in config} == config
    assert torch.equal(back.alphas_cumprod, ours.alphas_cumprod)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "config",
    [
        pytest.param({}, id="clipped"),
        pytest.param({"clip_sample": False, "prediction_type": "v_prediction"}, id="v_prediction"),
        pytest.param(
            {"thresholding": True, "sample_max_value": 3.0, "variance_type": "fixed_large"}, id="thresholded"
        ),
    ],
)
def test_samples_of_any_rank_take_the_same_steps(shape: tuple[int, ...], config: dict):
    stock = DDPMScheduler(**config)
    ours = DDPMCarsScheduler.from_config(stock.config)
    stock.set_timesteps(7)
    ours.set_timesteps(7)
    x_t = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for t in stock.timesteps:
        model_output = torch.randn(shape, generator=torch.Generator().manual_seed(int(t)))
        expected, got = (
            scheduler.step(model_output, t, x_t, generator=torch.Generator().manual_seed(SEED))
            for scheduler in (stock, ours)
        )
        assert got.prev_sample.shape == shape
        torch.testing.assert_close(got.prev_sample, expected.prev_sample, **STEP_TOLERANCE)
        torch.testing.assert_close(got.pred_original_sample, expected.pred_original_sample, **STEP_TOLERANCE)
        x_t = expected.prev_sample


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("method", ["add_noise", "get_velocity"])
def test_samples_of_any_rank_are_noised_alike(method: str, shape: tuple[int, ...]):
    stock = DDPMScheduler()
    ours = DDPMCarsScheduler.from_config(stock.config)
    x_0, eps = (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in range(2))
    # One timestep for each sample: taken for another axis, they would not even fit.
    t = torch.tensor([3, 870])
    got, expected = getattr(ours, method)(x_0, eps, t), getattr(stock, method)(x_0, eps, t)
    assert got.shape == shape
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=5e-5)


@pytest.mark.filterwarnings("ignore:The configuration file of this scheduler:FutureWarning")
def test_constructors_that_correct_an_old_config_take_our_scheduler():
    stock = stock_run(stable_diffusion).stock.pipeline
    components = {**stock.components, **NO_SAFETY_CHECKER}
    outputs = []
    for scheduler in (DDPMScheduler, DDPMCarsScheduler):
        components["scheduler"] = scheduler(beta_schedule="scaled_linear")
        first = StableDiffusionPipeline(**components)
        assert first.scheduler.config.clip_sample is False
        assert first.scheduler.config.steps_offset == 1
        # Another task with the same parts, and the first one after it.
        second = StableDiffusionImg2ImgPipeline(**first.components)
        runs = [StockPipeline(first, stock_run(stable_diffusion).stock.call)]
        runs.append(StockPipeline(second, {**stock_run(stable_diffusion_img2img).stock.call, "strength": 1.0}))
        outputs.append([sample(run) for run in (*runs, runs[0])])
    for got, expected in zip(*reversed(outputs), strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=3e-4)
