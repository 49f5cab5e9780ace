import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, PNDMScheduler, UNet2DModel
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from PIL import Image

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler

KARRAS = [e.name for e in KarrasDiffusionSchedulers]
# Several of diffusers' schedulers call numpy functions on tensors.
ignore_numpy_warnings = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def short(**config) -> DDPMCarsScheduler:
    return DDPMCarsScheduler(**{"num_train_timesteps": 10, "beta_end": 0.5, **config})


def draw_by_hand(
    unet: UNet2DModel, scheduler, noise: torch.Tensor, generator: torch.Generator, n: int
) -> torch.Tensor:
    """Sample in a plain loop that keeps only the first half of a learned variance's channels."""
    scheduler.set_timesteps(n)
    x_t = noise * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            model_output = unet(scheduler.scale_model_input(x_t, t), t).sample[:, : noise.shape[1]]
            x_t = scheduler.step(model_output, t, x_t).prev_sample
    return x_t.clamp(-1, 1)


@pytest.fixture
def pipe(unet: UNet2DModel) -> DDPMCarsPipeline:
    return DDPMCarsPipeline(unet, short())


@pytest.fixture(scope="session")
def class_pipe(make_unet: Callable[..., UNet2DModel]) -> DDPMCarsPipeline:
    return DDPMCarsPipeline(make_unet(num_class_embeds=3), short())


@pytest.mark.parametrize("n", [5, 20, 50])
def test_images_equal_those_of_the_stock_pipeline(unet: UNet2DModel, n: int):
    stock = DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=50))
    expected = stock(batch_size=3, generator=seeded(), num_inference_steps=n, output_type="np").images
    same_scheduler = DDPMCarsPipeline(unet, DDPMScheduler(num_train_timesteps=50))
    got = same_scheduler(batch_size=3, generator=seeded(), num_inference_steps=n, output_type="np").images
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)
    ours = DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=50))
    got = ours(batch_size=3, generator=seeded(), num_inference_steps=n, output_type="np").images
    # Stock's float32 tables are off by up to 1e-3 of a small beta.
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def test_the_global_generator_is_used_as_in_the_stock_pipeline(unet: UNet2DModel):
    images = []
    for pipeline in (DDPMPipeline, DDPMCarsPipeline):
        torch.manual_seed(3)
        images.append(pipeline(unet, DDPMScheduler())(num_inference_steps=5, output_type="np").images)
    np.testing.assert_allclose(images[0], images[1], rtol=0, atol=1e-6)


def test_a_bare_call_visits_all_300_training_timesteps(unet: UNet2DModel):
    calls = []
    hook = unet.register_forward_pre_hook(lambda _, arguments: calls.append(int(arguments[1])))
    pipe = DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=300))
    try:
        images = pipe().images
    finally:
        hook.remove()
    assert calls == list(range(299, -1, -1))
    assert len(images) == 1
    assert isinstance(images[0], Image.Image)
    assert images[0].size == (8, 8)


def test_output_types_show_the_same_images(pipe: DDPMCarsPipeline):
    images = {
        name: pipe(batch_size=2, generator=seeded(), output_type=name).images for name in ("raw", "pt", "np", "pil")
    }
    assert images["raw"].dtype == images["pt"].dtype == torch.float32
    assert images["raw"].shape == images["pt"].shape == (2, 3, 8, 8)
    assert images["np"].dtype == np.float32
    assert images["np"].shape == (2, 8, 8, 3)
    assert images["raw"].min() < 0
    assert images["raw"].abs().max() <= 1
    torch.testing.assert_close(images["pt"], images["raw"] / 2 + 0.5)
    np.testing.assert_array_equal(images["np"], images["pt"].permute(0, 2, 3, 1).numpy())
    for image, array in zip(images["pil"], images["np"], strict=True):
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), (array * 255).round().astype("uint8"))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_give_float32_images(make_unet: Callable[..., UNet2DModel], dtype: torch.dtype):
    exact = DDPMCarsPipeline(make_unet(), short())
    pipe = DDPMCarsPipeline(make_unet().to(dtype), short())
    reference = exact(batch_size=2, generator=seeded(), output_type="raw").images
    raw = pipe(batch_size=2, generator=seeded(), output_type="raw").images
    assert raw.dtype == torch.float32
    assert raw.shape == (2, 3, 8, 8)
    assert raw.abs().max() <= 1
    # The noise is the same; a 16-bit one would differ everywhere.
    assert (raw - reference).abs().mean() < 0.02
    pt = pipe(generator=seeded(), output_type="pt").images
    assert pt.dtype == torch.float32
    assert 0 <= pt.min() < pt.max() <= 1
    array = pipe(generator=seeded(), output_type="np").images
    assert array.dtype == np.float32
    assert array.shape == (1, 8, 8, 3)
    (image,) = pipe(generator=seeded()).images
    assert image.size == (8, 8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_are_given_float32_steps(make_unet: Callable[..., UNet2DModel], dtype: torch.dtype):
    dtypes = []

    def record(pipe, i: int, t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        dtypes.extend(tensor.dtype for tensor in tensors.values())

    pipe = DDPMCarsPipeline(make_unet().to(dtype), short())
    names = ("latents", "pred_original_sample")
    pipe(callback_on_step_end=record, callback_on_step_end_tensor_inputs=names)
    assert dtypes == [torch.float32] * 20


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_networks_are_mixed_with_float32_noise(
    make_unet: Callable[..., UNet2DModel], dtype: torch.dtype
):
    unet = make_unet().to(dtype)
    got = DDPMCarsPipeline(unet, short(clip_sample=False))(batch_size=2, generator=seeded(), output_type="raw").images

    generator = seeded()
    scheduler = DDPMScheduler(num_train_timesteps=10, beta_end=0.5, clip_sample=False)
    scheduler.set_timesteps(10)
    x_t = torch.randn(2, 3, 8, 8, generator=generator)
    with torch.no_grad():
        for t in scheduler.timesteps:
            eps_hat = unet(x_t.to(dtype), t).sample.float()
            x_t = scheduler.step(eps_hat, t, x_t, generator=generator).prev_sample
    # The two float32 roundings may fall to either side of a 16-bit one, which is 4e-3 of a value near 1.
    assert (got - x_t.clamp(-1, 1)).abs().mean() < 2e-4


@pytest.mark.parametrize("size", [(8, 16), [16, 8]])
@pytest.mark.parametrize("channels", [1, 3])
def test_non_square_and_one_channel_images(make_unet: Callable[..., UNet2DModel], size, channels: int):
    unet = make_unet(sample_size=size, in_channels=channels, out_channels=channels)
    pipe = DDPMCarsPipeline(unet, short())
    height, width = size
    array = pipe(batch_size=2, generator=seeded(), output_type="np").images
    assert array.shape == (2, height, width, channels)
    assert pipe(output_type="raw").images.shape == (1, channels, height, width)
    image = pipe(batch_size=2, generator=seeded()).images[1]
    assert image.size == (width, height)
    assert image.mode == ("L" if channels == 1 else "RGB")
    np.testing.assert_array_equal(
        np.asarray(image).reshape(height, width, channels), (array[1] * 255).round().astype("uint8")
    )


def test_without_a_sample_size_the_size_is_unknown(make_unet: Callable[..., UNet2DModel]):
    with pytest.raises(ValueError, match="sample_size"):
        DDPMCarsPipeline(make_unet(sample_size=None), short())()


@pytest.mark.parametrize("scheduler", [DDPMCarsScheduler, DDPMScheduler, DDIMScheduler])
def test_with_one_generator_each_images_do_not_depend_on_their_batch(unet: UNet2DModel, scheduler: type):
    pipe = DDPMCarsPipeline(unet, scheduler(num_train_timesteps=20))
    together = pipe(batch_size=4, generator=[seeded(i) for i in range(4)], output_type="np").images
    for i in range(4):
        alone = pipe(generator=[seeded(i)], output_type="np").images
        np.testing.assert_allclose(together[i : i + 1], alone, rtol=0, atol=1e-5)
        np.testing.assert_allclose(pipe(generator=seeded(i), output_type="np").images, alone, rtol=0, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.05


@ignore_numpy_warnings
@pytest.mark.filterwarnings("ignore:Should have:UserWarning:torchsde")
@pytest.mark.parametrize("name", KARRAS)
def test_every_karras_scheduler_can_be_assigned(unet: UNet2DModel, name: str):
    pipe = DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=100))
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config)
    raw = pipe(batch_size=2, generator=seeded(), num_inference_steps=6, output_type="raw").images
    assert raw.shape == (2, 3, 8, 8)
    assert raw.isfinite().all()
    assert raw.std() > 0.05


@ignore_numpy_warnings
@pytest.mark.filterwarnings("ignore:Should have:UserWarning:torchsde")
def test_seeds_decide_the_noise_of_a_scheduler_whose_steps_take_no_generator(unet: UNet2DModel):
    pipe = DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=100))
    pipe.scheduler = diffusers.DPMSolverSDEScheduler.from_config(pipe.scheduler.config)

    def draw(*seeds: int) -> torch.Tensor:
        generators = [seeded(seed) for seed in seeds]
        return pipe(len(seeds), generators, 6, output_type="raw").images

    together = draw(3, 4)
    for i, seed in enumerate((3, 4)):
        torch.testing.assert_close(draw(seed)[0], together[i], rtol=0, atol=1e-5)
    noise = [pipe(2, seeded(5), 6, output_type="raw").images for _ in range(2)]
    assert torch.equal(*noise)
    # A scheduler is left with the seed of the last call, which is not that of the next.
    assert (draw(6) - draw(7)).abs().max() > 0.05


@ignore_numpy_warnings
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_deterministic_samplers_give_what_a_plain_loop_gives(unet: UNet2DModel, name: str):
    scheduler = getattr(diffusers, name)(num_train_timesteps=100)
    expected = draw_by_hand(unet, scheduler, torch.randn(2, 3, 8, 8, generator=seeded()), generator=seeded(), n=6)
    scheduler = getattr(diffusers, name)(num_train_timesteps=100)
    got = DDPMCarsPipeline(unet, scheduler)(
        batch_size=2, generator=seeded(), num_inference_steps=6, output_type="raw"
    ).images
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("variance_type", ["learned_range", "fixed_small"])
def test_a_network_with_a_learned_variance(make_unet: Callable[..., UNet2DModel], channels: int, variance_type: str):
    unet = make_unet(in_channels=channels, out_channels=2 * channels)
    images = [
        DDPMCarsPipeline(unet, scheduler(num_train_timesteps=20, variance_type=variance_type))(
            batch_size=2, generator=seeded(), output_type="np"
        ).images
        for scheduler in (DDPMCarsScheduler, DDPMScheduler)
    ]
    assert images[0].shape == (2, 8, 8, channels)
    np.testing.assert_allclose(images[0], images[1], rtol=0, atol=1e-3)


def test_the_learned_variance_is_used(make_unet: Callable[..., UNet2DModel]):
    unet = make_unet(out_channels=6)
    images = [
        DDPMCarsPipeline(unet, short(variance_type=name))(generator=seeded(), output_type="np").images
        for name in ("learned_range", "fixed_small")
    ]
    assert np.abs(images[0] - images[1]).max() > 1e-3


@ignore_numpy_warnings
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("from_config", [False, True], ids=["fresh", "from_config"])
@pytest.mark.parametrize("name", ["DDIMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_other_samplers_leave_out_the_learned_variance(
    make_unet: Callable[..., UNet2DModel], name: str, from_config: bool, channels: int
):
    unet = make_unet(in_channels=channels, out_channels=2 * channels)
    pipe = DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=100, variance_type="learned_range"))
    scheduler = getattr(diffusers, name)
    pipe.scheduler = (
        scheduler.from_config(pipe.scheduler.config) if from_config else scheduler(num_train_timesteps=100)
    )
    got = pipe(batch_size=2, generator=seeded(), num_inference_steps=6, output_type="raw").images
    assert got.shape == (2, channels, 8, 8)

    plain = scheduler.from_config(DDPMScheduler(num_train_timesteps=100).config)
    if not from_config:
        plain = scheduler(num_train_timesteps=100)
    noise = torch.randn(2, channels, 8, 8, generator=seeded())
    expected = draw_by_hand(unet, plain, noise, generator=seeded(), n=6)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_the_callback_sees_every_step(pipe: DDPMCarsPipeline):
    seen = []

    def callback(pipeline, i: int, t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        assert pipeline is pipe
        seen.append((i, int(t), tensors))

    names = ("latents", "pred_original_sample")
    raw = pipe(
        batch_size=2,
        generator=seeded(),
        num_inference_steps=5,
        output_type="raw",
        callback_on_step_end=callback,
        callback_on_step_end_tensor_inputs=names,
    ).images
    assert [step[:2] for step in seen] == [(0, 8), (1, 6), (2, 4), (3, 2), (4, 0)]
    for _, _, tensors in seen:
        assert list(tensors) == list(names)
        assert tensors["latents"].shape == tensors["pred_original_sample"].shape == (2, 3, 8, 8)
        assert tensors["pred_original_sample"].abs().max() <= 1
    last = seen[-1][2]
    torch.testing.assert_close(last["latents"].clamp(-1, 1), raw, rtol=0, atol=0)
    torch.testing.assert_close(last["pred_original_sample"], raw, rtol=0, atol=1e-6)
    assert torch.equal(pipe(batch_size=2, generator=seeded(), num_inference_steps=5, output_type="raw").images, raw)


def test_a_callback_may_end_sampling(pipe: DDPMCarsPipeline):
    seen = []

    def interrupt(pipe: DDPMCarsPipeline, i: int, t: torch.Tensor, tensors: dict[str, torch.Tensor]) -> None:
        seen.append(tensors["latents"])
        pipe._interrupt = i == 2

    raw = pipe(1, seeded(), 5, output_type="raw", callback_on_step_end=interrupt).images
    assert len(seen) == 3
    assert pipe.interrupt
    assert torch.equal(raw, seen[-1].clamp(-1, 1))
    # The next call is another one.
    seen.clear()
    pipe(1, seeded(), 5, callback_on_step_end=lambda *_: seen.append(None))
    assert len(seen) == 5


def test_images_that_pil_does_not_have_are_refused_before_the_first_step(make_unet: Callable[..., UNet2DModel]):
    pipe = DDPMCarsPipeline(make_unet(in_channels=5, out_channels=5), DDPMCarsScheduler(20))
    with pytest.raises(ValueError, match="PIL has no images of 5 channels"):
        pipe(num_inference_steps=2, callback_on_step_end=lambda *_: pytest.fail("a step was taken"))
    assert pipe(num_inference_steps=2.0, output_type="np").images.shape == (1, 8, 8, 5)


def test_the_callback_gets_only_the_sample_unless_it_asks(pipe: DDPMCarsPipeline):
    names = []
    pipe(callback_on_step_end=lambda pipe, i, t, tensors: names.append(list(tensors)))
    assert names == [["latents"]] * 10


def test_the_callback_gets_none_from_schedulers_without_a_clean_image(unet: UNet2DModel):
    seen = []
    pipe = DDPMCarsPipeline(unet, PNDMScheduler(num_train_timesteps=20))
    pipe(
        num_inference_steps=5,
        callback_on_step_end=lambda pipe, i, t, tensors: seen.append(tensors["pred_original_sample"]),
        callback_on_step_end_tensor_inputs=["pred_original_sample"],
    )
    assert seen
    assert all(tensor is None for tensor in seen)


def test_the_callback_can_replace_the_sample(unet: UNet2DModel):
    pipe = DDPMCarsPipeline(unet, DDIMScheduler(num_train_timesteps=20))
    replacement = torch.randn(1, 3, 8, 8, generator=seeded(7))

    def replace_at(step: int) -> Callable:
        return lambda pipe, i, t, tensors: {"latents": replacement} if i == step else {}

    last = pipe(num_inference_steps=5, output_type="raw", callback_on_step_end=replace_at(4)).images
    assert torch.equal(last, replacement.clamp(-1, 1))
    # What follows depends on the replacement alone, not on the seed.
    a, b = (
        pipe(
            generator=seeded(seed), num_inference_steps=5, output_type="raw", callback_on_step_end=replace_at(2)
        ).images
        for seed in (1, 2)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, pipe(generator=seeded(1), num_inference_steps=5, output_type="raw").images)


def test_callback_tensors_of_unknown_names_raise(pipe: DDPMCarsPipeline):
    with pytest.raises(ValueError, match=r"latents.*pred_original_sample"):
        pipe(callback_on_step_end=lambda *_: None, callback_on_step_end_tensor_inputs=["latents", "noise"])


def test_class_labels_may_be_an_int_a_list_or_a_tensor(class_pipe: DDPMCarsPipeline):
    images = [
        class_pipe(batch_size=2, generator=seeded(), output_type="np", class_labels=labels).images
        for labels in (2, [2], [2, 2], (2, 2), torch.tensor([2, 2]), torch.tensor(2))
    ]
    for image in images[1:]:
        np.testing.assert_array_equal(image, images[0])
    other = class_pipe(batch_size=2, generator=seeded(), output_type="np", class_labels=1).images
    assert np.abs(other - images[0]).max() > 1e-4


def test_each_image_gets_its_own_class(class_pipe: DDPMCarsPipeline):
    generators = [seeded(0) for _ in range(3)]
    together = class_pipe(batch_size=3, generator=generators, output_type="np", class_labels=[0, 1, 2]).images
    for label in range(3):
        alone = class_pipe(generator=seeded(0), output_type="np", class_labels=label).images
        np.testing.assert_allclose(together[label : label + 1], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "pass class_labels"),
        ([0, 1, 2], "class_labels is 3 and batch_size is 2; .* or give batch_size=3"),
        ([0.5, 1.0], r"class_labels \[0.5, 1.0\] must be integers"),
        ([], "class_labels is 0 and batch_size is 2"),
        (3, "must be from 0 to 2"),
        (-1, "must be from 0 to 2"),
        ([0, 7], "must be from 0 to 2"),
    ],
)
def test_bad_class_labels_raise(class_pipe: DDPMCarsPipeline, labels, message: str):
    with pytest.raises(ValueError, match=message):
        class_pipe(batch_size=2, class_labels=labels)


def test_class_labels_for_a_network_without_classes_raise(pipe: DDPMCarsPipeline):
    with pytest.raises(ValueError, match="num_class_embeds"):
        pipe(class_labels=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"output_type": "jpeg"}, r"jpeg.*raw"),
        ({"batch_size": 2, "generator": [torch.Generator()]}, "generator is 1 and batch_size is 2"),
        (
            {"generator": [torch.Generator(), torch.Generator()]},
            "generator is 2 and batch_size is 1; .* or give batch_size=2",
        ),
        ({"num_inference_steps": 11}, "from 1 to 10"),
        ({"num_inference_steps": 0}, "1 or more"),
    ],
)
def test_bad_arguments_raise(pipe: DDPMCarsPipeline, arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        pipe(**arguments)


@ignore_numpy_warnings
@pytest.mark.parametrize("n", [0, -3])
@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_numbers_of_steps_below_1_raise_whatever_the_scheduler(unet: UNet2DModel, name: str, n: int):
    pipe = DDPMCarsPipeline(unet, getattr(diffusers, name)())
    with pytest.raises(ValueError, match="num_inference_steps"):
        pipe(num_inference_steps=n)


def test_the_result_may_be_a_tuple(pipe: DDPMCarsPipeline):
    result = pipe(generator=seeded(), output_type="np", return_dict=False)
    assert type(result) is tuple
    assert len(result) == 1
    np.testing.assert_array_equal(result[0], pipe(generator=seeded(), output_type="np").images)


def test_no_gradients_are_kept(pipe: DDPMCarsPipeline):
    assert not pipe(output_type="raw").images.requires_grad


@pytest.fixture(scope="module")
def saved(make_unet: Callable[..., UNet2DModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    scheduler = DDPMCarsScheduler(num_train_timesteps=15, variance_type="fixed_large", timestep_spacing="trailing")
    DDPMCarsPipeline(make_unet(seed=4), scheduler).save_pretrained(folder)
    return folder


def test_a_saved_pipeline_gives_identical_images_in_a_fresh_process(
    make_unet: Callable[..., UNet2DModel], saved: Path, tmp_path: Path
):
    script = f"""
import numpy, torch
import ddpm_cars
from ddpm_cars import DDPMCarsPipeline

torch.set_num_threads(1)
pipe = DDPMCarsPipeline.from_pretrained({str(saved)!r})
assert type(pipe) is DDPMCarsPipeline, type(pipe)
assert type(pipe.scheduler) is ddpm_cars.DDPMCarsScheduler, type(pipe.scheduler)
images = pipe(batch_size=2, generator=torch.Generator().manual_seed(0), output_type="np").images
numpy.save({str(tmp_path / "images.npy")!r}, images)
"""
    run = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    scheduler = DDPMCarsScheduler(num_train_timesteps=15, variance_type="fixed_large", timestep_spacing="trailing")
    pipe = DDPMCarsPipeline(make_unet(seed=4), scheduler)
    expected = pipe(batch_size=2, generator=seeded(), output_type="np").images
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), expected)


def test_only_safetensors_json_and_the_code_are_saved(saved: Path):
    files = sorted(str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file())
    assert files == [
        "model_index.json",
        "pipeline.py",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    index = json.loads((saved / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert index["unet"] == ["diffusers", "UNet2DModel"]


def test_a_folder_of_the_stock_pipeline_is_loaded(make_unet: Callable[..., UNet2DModel], tmp_path: Path):
    stock = DDPMPipeline(make_unet(seed=5), DDPMScheduler(num_train_timesteps=20))
    stock.save_pretrained(tmp_path)
    expected = stock(generator=seeded(), num_inference_steps=20, output_type="np").images

    loaded = DDPMCarsPipeline.from_pretrained(tmp_path)
    assert type(loaded) is DDPMCarsPipeline
    assert type(loaded.scheduler) is DDPMScheduler
    np.testing.assert_allclose(loaded(generator=seeded(), output_type="np").images, expected, rtol=0, atol=1e-6)

    ours = DDPMCarsScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    loaded = DDPMCarsPipeline.from_pretrained(tmp_path, scheduler=ours)
    assert loaded.scheduler is ours
    np.testing.assert_allclose(loaded(generator=seeded(), output_type="np").images, expected, rtol=0, atol=1e-3)


def test_our_scheduler_works_in_the_stock_pipeline(unet: UNet2DModel):
    pipe = DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=20))
    expected = pipe(generator=seeded(), num_inference_steps=20, output_type="np").images
    pipe.scheduler = DDPMCarsScheduler.from_config(pipe.scheduler.config)
    assert type(pipe.scheduler) is DDPMCarsScheduler
    got = pipe(generator=seeded(), num_inference_steps=20, output_type="np").images
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def test_our_scheduler_works_on_a_model_saved_with_ddim(make_unet: Callable[..., UNet2DModel], tmp_path: Path):
    config = {"num_train_timesteps": 20, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
    DDIMPipeline(make_unet(seed=6), DDIMScheduler(**config)).save_pretrained(tmp_path)
    ours = DDPMCarsScheduler.from_pretrained(tmp_path, subfolder="scheduler")
    assert {name: ours.config[name] for name in config} == config
    pipe = DDPMCarsPipeline.from_pretrained(tmp_path, scheduler=ours)
    got = pipe(generator=seeded(), output_type="np").images
    stock = DDPMPipeline(make_unet(seed=6), DDPMScheduler(**config))
    expected = stock(generator=seeded(), num_inference_steps=20, output_type="np").images
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def test_the_ddim_pipeline_takes_our_scheduler(unet: UNet2DModel):
    images = [
        DDIMPipeline(unet, scheduler(num_train_timesteps=20, beta_end=0.1))(
            generator=seeded(), num_inference_steps=10, output_type="np"
        ).images
        for scheduler in (DDPMCarsScheduler, DDPMScheduler)
    ]
    np.testing.assert_array_equal(images[0], images[1])


@pytest.mark.parametrize(("name", "other"), [("np", "numpy"), ("raw", "latent")])
def test_output_types_by_their_other_names(pipe: DDPMCarsPipeline, name: str, other: str):
    a, b = (pipe(1, seeded(0), 2, output_type=kind).images for kind in (name, other))
    assert (torch.as_tensor(a) == torch.as_tensor(b)).all()


def test_words_are_no_number_of_images(pipe: DDPMCarsPipeline):
    with pytest.raises(TypeError, match=r"^This model draws without words, and .* is 'a red car'\.$"):
        pipe("a red car")
