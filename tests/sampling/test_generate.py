"""Images of images, and images from a pipeline."""

from collections.abc import Callable
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.cli import commands as cli
from ddpm_cars.errors import UserError
from ddpm_cars.sampling.generate import denoising_strip, forward_noising_strip, generate, move_for_inference
from ddpm_cars.sampling.request import SamplingRequest
from ddpm_cars.sampling.samplers import make_scheduler, sampler_from_config

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
STEPS = 5


@pytest.fixture
def pipeline(unet: UNet2DModel) -> DDPMCarsPipeline:
    return DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=20))


@pytest.fixture(scope="module")
def guided(make_unet: Callable[..., UNet2DModel]) -> DDPMCarsPipeline:
    """Two classes, and a third that is none."""
    unet = make_unet(num_class_embeds=3)
    return DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=20), {0: "red cars", 1: "vans, buses"})


def asked(num_images: int, **options) -> SamplingRequest:
    return SamplingRequest(num_images=num_images, **{"num_inference_steps": STEPS, **options})


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def tile(grid: Image.Image, row: int, column: int, size: int = 96, header: int = 0) -> np.ndarray:
    """Cut one image out of a grid, by its gaps of 2."""
    top, left = 2 + header + row * (size + 2), 2 + column * (size + 2)
    return np.asarray(grid)[top : top + size, left : left + size]


def test_noising_runs_from_the_picture_to_noise():
    scheduler = DDPMCarsScheduler(num_train_timesteps=1000)
    samples = torch.ones(2, 3, 96, 96)
    samples[1] = -1
    strip = forward_noising_strip(samples, scheduler, num_frames=4, seed=1)
    assert strip.size == (4 * 98 + 2, 2 * 98 + 2 + 16)
    frames = [[tile(strip, row, column, header=16).astype(float) for column in range(4)] for row in range(2)]
    # At t = 0 only sqrt(beta_start) = 0.01 of noise is there; at T - 1 the image is gone.
    assert np.abs(frames[0][0] - 255).max() < 10
    assert np.abs(frames[1][0] - 0).max() < 10
    assert abs(frames[0][3].mean() - frames[1][3].mean()) < 5
    distances = [np.abs(frames[0][column] - 255).mean() for column in range(4)]
    assert distances == sorted(distances)
    same = forward_noising_strip(samples, scheduler, num_frames=4, seed=1)
    other = forward_noising_strip(samples, scheduler, num_frames=4, seed=2)
    assert same.tobytes() == strip.tobytes() != other.tobytes()


def test_a_column_of_the_noising_is_equation_4():
    betas = np.linspace(1e-4, 0.02, 1000, dtype=np.float64)
    samples = torch.full((1, 1, 96, 96), 0.5)
    strip = forward_noising_strip(samples, DDPMCarsScheduler(), num_frames=3, seed=4)
    noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(4)).double().numpy()[0, 0]
    # The middle of 0 .. 999 is 499.5, which is rounded to the even 500.
    alpha_bar = np.prod(1 - betas[:501])
    x_t = np.sqrt(alpha_bar) * 0.5 + np.sqrt(1 - alpha_bar) * noise
    expected = (np.clip(x_t, -1, 1) + 1) * 127.5
    assert np.abs(tile(strip, 0, 1, header=16)[..., 0] - expected).max() <= 0.51


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 64])
def test_a_picture_does_not_depend_on_the_batch_size(pipeline: DDPMCarsPipeline, batch_size: int):
    images = pixels(list(generate(pipeline, asked(5, batch_size=batch_size, seed=3))))
    assert images.shape == (5, 8, 8, 3)
    assert len({image.tobytes() for image in images}) == 5
    for i, image in enumerate(images):
        generator = torch.Generator().manual_seed(3 + i)
        (alone,) = pipeline(1, generator, STEPS).images
        # Convolutions of other batch sizes may round differently.
        assert np.abs(np.asarray(alone).astype(int) - image).max() <= 1


def test_pictures_overlap_where_seeds_do(pipeline: DDPMCarsPipeline):
    first = pixels(list(generate(pipeline, asked(3, seed=0))))
    second = pixels(list(generate(pipeline, asked(3, seed=1))))
    assert np.abs(first[1:].astype(int) - second[:2]).max() <= 1
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("scheduler_class", [DDPMCarsScheduler, diffusers.DDIMScheduler])
def test_the_denoising_ends_in_the_pictures(unet: UNet2DModel, scheduler_class: type):
    pipeline = DDPMCarsPipeline(unet, scheduler_class(num_train_timesteps=20))
    strip = denoising_strip(pipeline, asked(2, seed=3), num_frames=3)
    assert strip.size == (3 * 98 + 2, 2 * 98 + 2 + 16)
    images = pixels(list(generate(pipeline, asked(2, seed=3))))
    for row in range(2):
        last = tile(strip, row, 2, header=16)[::12, ::12]
        assert np.abs(last.astype(int) - images[row]).max() <= 1
        assert not np.array_equal(tile(strip, row, 0, header=16)[::12, ::12], last)


@pytest.mark.parametrize(("steps", "frames", "columns"), [(2, 10, 2), (1, 10, 1), (20, 4, 4)])
def test_the_denoising_has_no_more_columns_than_steps(
    pipeline: DDPMCarsPipeline, steps: int, frames: int, columns: int
):
    strip = denoising_strip(pipeline, asked(1, num_inference_steps=steps), num_frames=frames)
    assert strip.width == columns * 98 + 2


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_schedulers_of_diffusers_take_over_the_config(pipeline: DDPMCarsPipeline, name: str):
    trained = DDPMCarsScheduler(num_train_timesteps=50, beta_end=0.03, prediction_type="v_prediction")
    scheduler = make_scheduler(name, trained.config)
    assert type(scheduler) is getattr(diffusers, name)
    assert scheduler.config.num_train_timesteps == 50
    assert scheduler.config.beta_end == 0.03
    assert scheduler.config.prediction_type == "v_prediction"
    pipeline.scheduler = scheduler
    assert pixels(list(generate(pipeline, asked(1)))).shape == (1, 8, 8, 3)


def test_our_scheduler_comes_back_from_another(pipeline: DDPMCarsPipeline):
    other = make_scheduler("DDIMScheduler", DDPMCarsScheduler(num_train_timesteps=50, beta_end=0.03).config)
    scheduler = make_scheduler("DDPMCarsScheduler", other.config)
    assert type(scheduler) is DDPMCarsScheduler
    assert (scheduler.config.num_train_timesteps, scheduler.config.beta_end) == (50, 0.03)


@pytest.mark.parametrize("name", ["", "ddim", "UNet2DModel", "NoScheduler", "VQDiffusionScheduler", "__name__"])
def test_other_schedulers_are_refused_with_the_choices(name: str):
    with pytest.raises(UserError, match=rf"scheduler is {name}, which is (no|a) scheduler .* models; .*DDIMScheduler"):
        make_scheduler(name, DDPMCarsScheduler().config)


@pytest.mark.parametrize("name", ["analytic", "spectral"])
def test_a_variance_that_has_to_be_measured_first_names_the_command(name: str):
    with pytest.raises(UserError, match=rf"variance_type is {name}.*ddpm-cars calibrate --variance_type {name}"):
        sampler_from_config(name, DDPMCarsScheduler().config)


@pytest.mark.parametrize("command", ["evaluate", "sample"])
def test_a_mistyped_model_is_the_first_thing_to_be_told(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        getattr(cli, command)(["--pretrained_model_name_or_path", "runs/nosuch"])
    assert "error: there is no folder runs/nosuch, and" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("variance_type", ["learned", "learned_range"])
def test_a_variance_that_the_network_does_not_learn_is_one_line(
    variance_type: str, pipeline: DDPMCarsPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pipeline.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit, match="2"):
        sample(tmp_path / "model", "--variance_type", variance_type)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"error: variance_type is {variance_type}, which a network of 6 output channels" in line
    assert "this one has 3: choose fixed_small" in line
    assert not (tmp_path / "samples").exists()
    # Other schedulers keep the word in their config without minding it.
    drawn = sample(tmp_path / "model", "--scheduler", "DDIMScheduler")
    assert len(drawn) == 3


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_classes_are_taken_in_turn_whatever_the_batch_size(guided: DDPMCarsPipeline, batch_size: int):
    labels = [1, "red cars", 1]
    arguments = {"seed": 3, "guidance_scale": 2.0}
    images = pixels(list(generate(guided, asked(5, batch_size=batch_size, class_labels=labels, **arguments))))
    assert images.shape == (5, 8, 8, 3)
    for i, label in enumerate([1, 0, 1, 1, 0]):
        (alone,) = guided(1, seeded(3 + i), STEPS, class_labels=label, guidance_scale=2.0).images
        assert np.abs(np.asarray(alone).astype(int) - images[i]).max() <= 1
    other = pixels(list(generate(guided, asked(1, class_labels=[0], **arguments))))
    assert np.abs(other[0].astype(int) - images[0]).max() > 1


def test_the_denoising_of_classes_ends_in_their_pictures(guided: DDPMCarsPipeline):
    request = asked(5, seed=3, class_labels=["vans", 0], guidance_scale=3.0)
    strip = denoising_strip(guided, request, num_rows=3, num_frames=2)
    images = pixels(list(generate(guided, request)))
    for row in range(3):
        last = tile(strip, row, 1, header=16)[::12, ::12]
        assert np.abs(last.astype(int) - images[row]).max() <= 1


@pytest.fixture
def model(guided: DDPMCarsPipeline, tmp_path: Path) -> Path:
    guided.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def sample(model: Path, *more: str) -> list[np.ndarray]:
    output_dir = model.parent / "samples"
    common = ("--pretrained_model_name_or_path", str(model), "--output_dir", str(output_dir))
    cli.sample(
        [*common, "--num_images", "3", "--batch_size", "2", "--seed", "5", "--num_inference_steps", str(STEPS), *more]
    )
    return [np.asarray(Image.open(path)).astype(int) for path in sorted(output_dir.glob("0*.png"))]


@pytest.mark.parametrize(
    ("classes", "labels"), [(["0", "1"], [0, 1, 0]), (["vans", "red cars"], [1, 0, 1]), (["1"], [1, 1, 1])]
)
def test_the_command_line_takes_classes_in_turn(
    guided: DDPMCarsPipeline, model: Path, classes: list[str], labels: list[int]
):
    drawn = sample(model, "--class_labels", *classes, "--guidance_scale", "3", "--strip")
    for i, label in enumerate(labels):
        (expected,) = guided(1, seeded(5 + i), STEPS, class_labels=label, guidance_scale=3.0).images
        assert np.abs(drawn[i] - np.asarray(expected).astype(int)).max() <= 1
    assert (model.parent / "samples" / "denoising.png").exists()


def test_the_command_line_can_do_without_a_class(guided: DDPMCarsPipeline, model: Path):
    for i, image in enumerate(sample(model)):
        (expected,) = guided(1, seeded(5 + i), STEPS).images
        assert np.abs(image - np.asarray(expected).astype(int)).max() <= 1


def test_a_number_that_is_a_name_is_the_name(guided: DDPMCarsPipeline, tmp_path: Path):
    renamed = DDPMCarsPipeline(guided.unet, guided.scheduler, {0: "1", 1: "2"})
    renamed.save_pretrained(tmp_path / "model")
    (expected,) = renamed(1, seeded(5), STEPS, class_labels=0).images
    drawn = sample(tmp_path / "model", "--class_labels", "1")
    assert np.abs(drawn[0] - np.asarray(expected).astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--class_labels", "0", "2"], "class_labels [0, 2] must be from 0 to 1"),
        (["--class_labels", "bikes"], "['bikes'] is not among the names of classes"),
        (["--class_labels", "-1"], "['-1'] is not among"),
        (["--class_labels", "[]"], "class_labels is empty"),
        (["--guidance_scale", "2"], "guidance_scale is 2.0 but there is no class"),
        (["--guidance_scale", "-2"], "guidance_scale is -2;"),
    ],
    ids=" ".join,
)
def test_mistakes_about_classes_are_one_line(
    model: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit) as stop:
        sample(model, *more)
    assert stop.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.strip() and "%|" not in line)
    assert words in line
    assert not (model.parent / "samples").exists()


def test_a_model_without_classes_says_so_in_one_line(
    pipeline: DDPMCarsPipeline, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    pipeline.save_pretrained(tmp_path / "model")
    for more, words in (
        (["--class_labels", "0"], "class_labels were given, but this UNet takes none"),
        (["--guidance_scale", "2"], "guidance_scale is 2.0, but this UNet has not learned to draw without a class"),
    ):
        with pytest.raises(SystemExit):
            sample(tmp_path / "model", *more)
        assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_pipeline_that_is_placed_to_draw_draws_the_same(make_unet: Callable[..., UNet2DModel]):
    pipe = DDPMCarsPipeline(make_unet(), DDPMCarsScheduler(num_train_timesteps=20))
    expected = pipe(2, torch.Generator().manual_seed(0), 3, output_type="np").images
    move_for_inference(pipe, torch.device("cpu"))
    convolutions = [p for p in pipe.unet.parameters() if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in convolutions)
    images = pipe(2, torch.Generator().manual_seed(0), 3, output_type="np").images
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5)
