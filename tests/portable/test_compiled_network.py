"""Sampling with a compiled network: the same images, batches of one shape, and undone by one call."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, EulerDiscreteScheduler, UNet2DModel
from diffusers.utils import logging as of_diffusers

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from tests.support.fresh_process import run_alone

SETTINGS = {"num_train_timesteps": 20, "beta_start": 0.01, "beta_end": 0.5}
compile_for_real = torch.compile


@pytest.fixture
def not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the network as it is where it would be compiled, which takes long."""

    def compile_nothing(model: Any, *, dynamic: bool, options: dict | None) -> Any:
        assert options is None  # on a CPU
        assert not dynamic
        return model

    monkeypatch.setattr(torch, "compile", compile_nothing)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trace the network as torch.compile does, but run what was traced without a compiler."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()

    def trace(model: Any, *, dynamic: bool, options: dict | None) -> Any:
        return compile_for_real(model, backend="eager", dynamic=dynamic)

    monkeypatch.setattr(torch, "compile", trace)


@pytest.fixture
def pipe(make_unet: Callable[..., UNet2DModel]) -> DDPMCarsPipeline:
    return DDPMCarsPipeline(make_unet(seed=1), DDPMCarsScheduler(**SETTINGS))


def draw(pipe: DDPMCarsPipeline, batch_size: int = 2, **kwargs: Any) -> np.ndarray:
    kwargs = {"num_inference_steps": 4, "output_type": "np", **kwargs}
    return pipe(batch_size, torch.Generator().manual_seed(0), **kwargs).images


def layouts(unet: UNet2DModel) -> set[bool]:
    convolutions = [p for p in unet.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    return {p.is_contiguous(memory_format=torch.channels_last) for p in convolutions}


def watch_shapes(pipe: DDPMCarsPipeline) -> list[tuple[int, int]]:
    """Note the batch size of the network's input and of the timesteps whenever it is called."""
    seen = []
    assert pipe.fast_network is not None
    compiled = pipe.fast_network.compiled

    def call(x_t: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> Any:
        seen.append((len(x_t), len(t)))
        return compiled(x_t, t, **kwargs)

    pipe.fast_network.compiled = call
    return seen


def test_the_pictures_stay_the_same_and_one_call_undoes_it(pipe: DDPMCarsPipeline, traced: None):
    expected = draw(pipe)
    pipe.enable_fast_sampling()
    assert layouts(pipe.unet) == {True}
    seen = watch_shapes(pipe)
    np.testing.assert_allclose(draw(pipe), expected, rtol=0, atol=1e-4)
    assert seen == [(2, 2)] * 4
    pipe.disable_fast_sampling()
    assert layouts(pipe.unet) == {False}
    np.testing.assert_array_equal(draw(pipe), expected)
    assert len(seen) == 4
    pipe.disable_fast_sampling()


@pytest.mark.parametrize(
    ("batch_size", "max_batch_size", "shapes"),
    [
        *[(1, 3, [1]), (2, 3, [2]), (3, 3, [3]), (4, 3, [3, 3]), (7, 3, [3, 3, 3])],
        # Filled up to a power of two: a program for every size would be too many.
        *[(3, 8, [4]), (5, 8, [8]), (8, 8, [8])],
    ],
)
def test_large_batches_are_run_in_parts_of_one_shape(
    pipe: DDPMCarsPipeline, not_compiled: None, batch_size: int, max_batch_size: int, shapes: list[int]
):
    expected = draw(pipe, batch_size)
    pipe.enable_fast_sampling(max_batch_size=max_batch_size)
    seen = watch_shapes(pipe)
    np.testing.assert_allclose(draw(pipe, batch_size), expected, rtol=0, atol=1e-4)
    assert seen == [(n, n) for n in shapes] * 4


def test_classes_and_guidance_go_through_the_parts(make_unet: Callable[..., UNet2DModel], not_compiled: None):
    unet = make_unet(seed=2, num_class_embeds=3)
    pipe = DDPMCarsPipeline(unet, DDPMCarsScheduler(**SETTINGS), id2label={0: "red", 1: "blue"})
    wanted = {"class_labels": ["red", "blue", "red"], "guidance_scale": 3.0}
    expected = draw(pipe, 3, **wanted)
    pipe.enable_fast_sampling(max_batch_size=4)
    np.testing.assert_allclose(draw(pipe, 3, **wanted), expected, rtol=0, atol=1e-4)


def test_another_network_is_compiled_anew(
    pipe: DDPMCarsPipeline, make_unet: Callable[..., UNet2DModel], not_compiled: None
):
    pipe.enable_fast_sampling(max_batch_size=5)
    draw(pipe)
    pipe.unet = make_unet(seed=9)
    expected = draw(DDPMCarsPipeline(make_unet(seed=9), pipe.scheduler))
    np.testing.assert_allclose(draw(pipe), expected, rtol=0, atol=1e-4)
    assert pipe.fast_network is not None
    assert pipe.fast_network.unet is pipe.unet
    assert pipe.fast_network.max_batch_size == 5


def test_where_nothing_compiles_a_warning_says_so_once(
    pipe: DDPMCarsPipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    expected = draw(pipe)

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(torch, "compile", lambda *args, **kwargs: fail)
    said: list[str] = []
    monkeypatch.setattr(of_diffusers.get_logger("ddpm_cars.portable.compiled_network"), "warning", said.append)
    pipe.enable_fast_sampling()
    for _ in range(2):
        np.testing.assert_allclose(draw(pipe), expected, rtol=0, atol=1e-4)
    assert said == ["The network cannot be compiled here and runs as it is: RuntimeError: no compiler at all"]


def test_every_batch_size_runs_compiled(pipe: DDPMCarsPipeline, traced: None):
    """The compiler takes eight shapes of a network, and then runs it as it is."""
    pipe.enable_fast_sampling()
    for batch_size in range(1, 18):
        draw(pipe, batch_size, num_inference_steps=1)
    frames = torch._dynamo.utils.counters["frames"]
    assert frames["total"] == frames["ok"] == 5
    assert pipe.fast_network is not None
    assert pipe.fast_network.compiled is not None


def test_a_batch_too_large_does_not_end_compiling(
    pipe: DDPMCarsPipeline, not_compiled: None, monkeypatch: pytest.MonkeyPatch
):
    expected = draw(pipe)
    pipe.enable_fast_sampling()
    assert pipe.fast_network is not None
    compiled = pipe.fast_network.compiled

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    pipe.fast_network.compiled = fail
    with pytest.raises(torch.OutOfMemoryError):
        draw(pipe)
    assert pipe.fast_network.compiled is fail
    pipe.fast_network.compiled = compiled
    np.testing.assert_allclose(draw(pipe), expected, rtol=0, atol=1e-4)


# Euler's scheduler calls np.array on tensors.
@pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
def test_programs_differ_by_the_kind_of_timestep(pipe: DDPMCarsPipeline, not_compiled: None):
    """What is captured keeps its inputs: fractions would be cut to integers."""
    pipe.enable_fast_sampling()
    draw(pipe)
    pipe.scheduler = EulerDiscreteScheduler(**SETTINGS, timestep_spacing="linspace")
    draw(pipe, num_inference_steps=3)
    assert pipe.fast_network is not None
    kinds = [dtypes for _, dtypes in (zip(*key, strict=True) for key in pipe.fast_network._programs)]
    assert kinds == [(torch.float32, torch.int64), (torch.float32, torch.float32)]


def test_mistakes_of_the_network_itself_are_raised(pipe: DDPMCarsPipeline, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch, "compile", lambda model, **kwargs: model)
    pipe.enable_fast_sampling()
    monkeypatch.setattr(pipe.unet, "forward", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw(pipe)


def test_a_batch_size_below_one_is_refused(pipe: DDPMCarsPipeline):
    with pytest.raises(ValueError, match="max_batch_size is 0"):
        pipe.enable_fast_sampling(max_batch_size=0)
    assert pipe.fast_network is None


def test_it_is_saved_as_it_was(pipe: DDPMCarsPipeline, not_compiled: None, tmp_path: Any):
    pipe.save_pretrained(tmp_path / "plain")
    pipe.enable_fast_sampling()
    draw(pipe)
    pipe.save_pretrained(tmp_path / "fast")
    for name in ("model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"):
        assert (tmp_path / "fast" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_the_real_compiler_where_there_is_one(make_unet: Callable[..., UNet2DModel], tmp_path: Any):
    one_level = {
        "down_block_types": ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",),
        "block_out_channels": (8,),
        "add_attention": False,
    }
    pipe = DDPMCarsPipeline(make_unet(seed=1, **one_level), DDPMCarsScheduler(**SETTINGS))
    pipe.save_pretrained(tmp_path)
    np.save(tmp_path / "images.npy", draw(pipe))
    script = (
        "import sys, numpy as np, torch\n"
        "from ddpm_cars import DDPMCarsPipeline\n"
        "pipe = DDPMCarsPipeline.from_pretrained(sys.argv[1])\n"
        "pipe.enable_fast_sampling()\n"
        "images = pipe(2, torch.Generator().manual_seed(0), num_inference_steps=4, output_type='np').images\n"
        "np.testing.assert_allclose(images, np.load(sys.argv[1] + '/images.npy'), rtol=0, atol=1e-4)\n"
    )
    run_alone(script, tmp_path)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on NVIDIA GPUs only")
@pytest.mark.filterwarnings("ignore")
def test_a_captured_network_draws_the_same_and_follows_its_weights(make_unet: Callable[..., UNet2DModel]):
    unet = make_unet(seed=1).to("cuda")
    plain, fast = (DDPMCarsPipeline(copy.deepcopy(unet), DDPMCarsScheduler(**SETTINGS)) for _ in range(2))
    fast.enable_fast_sampling(max_batch_size=3)
    for pipe in (plain, fast):
        # It keeps what the network has said at earlier steps.
        pipe.scheduler = DPMSolverMultistepScheduler(**SETTINGS)

    def check(atol: float) -> None:
        for batch_size in (3, 7):
            actual = draw(fast, batch_size, num_inference_steps=8)
            np.testing.assert_allclose(actual, draw(plain, batch_size, num_inference_steps=8), rtol=0, atol=atol)

    # Convolutions in float32 compute in TF32 here. Weights that do not follow would differ by far more.
    check(1e-2)
    # Timesteps between the integers of the program that is there.
    for pipe in (plain, fast):
        pipe.scheduler = EulerDiscreteScheduler(**SETTINGS, timestep_spacing="linspace")
    check(1e-2)
    for pipe in (plain, fast):
        pipe.unet.load_state_dict(make_unet(seed=2).state_dict())
    check(1e-2)
    # Other memory than what was captured.
    for pipe in (plain, fast):
        pipe.to(torch.bfloat16)
    check(5e-2)
    assert fast.fast_network is not None
    assert fast.fast_network.compiled is not None
