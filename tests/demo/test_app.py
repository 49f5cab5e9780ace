"""What stands behind the demo page: checks of requests, drawing step by step, noising, plots; and its construction."""

import json
import os
import re
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from PIL import Image

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, calibrate
from ddpm_cars.cli import commands as cli
from ddpm_cars.demo.drawing import Noised, animation, draw, enlarged, first_view, noised, squared
from ddpm_cars.demo.markup import headline, level, progress_of, progress_when_stopped
from ddpm_cars.demo.requests import (
    EVERY_CLASS,
    MAX_SEED,
    NO_CLASS,
    SCHEDULERS,
    Choice,
    Number,
    check_request,
    draw_options,
    noise_options,
    schedule_steps,
    variance_choices,
)
from ddpm_cars.demo.schedule import schedule_curves, schedule_drawings
from ddpm_cars.demo.serving import place_model
from ddpm_cars.errors import UserError
from ddpm_cars.sampling.samplers import make_scheduler
from tests.support.overflow import beyond_float16
from tests.support.patience import PATIENCE_SECONDS

T = 20
ALPHA_BAR = np.cumprod(1 - np.linspace(0.0001, 0.02, T))
NUMBER = Number("the number", "Number", "A number.", 1, 20, 5)
ASKED: dict[str, Any] = {"steps": 5, "num_images": 2, "variance": "fixed_small"}

# Of diffusers' own schedulers.
ignore_numpy_warnings = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning:diffusers")
# gradio leaves event loops open, which would be warned of in every test after it.
PAGES = """
import json, sys
from ddpm_cars import DDPMCarsPipeline
from ddpm_cars.demo import build_app, serve_folder

def controls(folder):
    app = build_app(DDPMCarsPipeline.from_pretrained(folder), "name", 1 if "stock" in folder else 16, folder)
    labelled = {block.label: block for block in app.blocks.values() if getattr(block, "label", None)}
    choices = lambda block: [value for _, value in block.choices] if hasattr(block, "choices") else None
    return {label: [block.visible, choices(block)] for label, block in labelled.items()}

print(json.dumps([controls(folder) for folder in sys.argv[1:]]), flush=True)
serve_folder(sys.argv[2])
"""


def make_pipeline(unet: UNet2DModel, labels: dict[int, str] | None = None, **config: Any) -> DDPMCarsPipeline:
    return DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=T, **config), labels)


@pytest.fixture
def pipeline(unet: UNet2DModel) -> DDPMCarsPipeline:
    return make_pipeline(unet)


@pytest.fixture(scope="module")
def guided(make_unet: Callable[..., UNet2DModel]) -> DDPMCarsPipeline:
    """Two classes, and a third that is none."""
    return make_pipeline(make_unet(num_class_embeds=3), {0: "red cars", 1: "vans"})


@pytest.fixture
def watched(make_unet: Callable[..., UNet2DModel]) -> Iterator[tuple[DDPMCarsPipeline, list]]:
    """A pipeline, and the inputs and outputs of its network so far."""
    unet, calls = make_unet(seed=3), []
    unet.register_forward_hook(lambda module, inputs, output: calls.append((inputs, output.sample)))
    return make_pipeline(unet), calls


def check(pipeline: DDPMCarsPipeline, max_images: int = 16, **changes: Any):
    return check_request(pipeline, draw_options(pipeline, max_images), {**ASKED, **changes})


def choices_of(pipeline: DDPMCarsPipeline, name: str) -> tuple[tuple[str, Any], ...]:
    option = draw_options(pipeline, 16)[name]
    assert isinstance(option, Choice)
    return option.choices


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def as_pixels(x: np.ndarray) -> np.ndarray:
    return (np.clip(x, -1, 1) + 1) * 127.5


@pytest.mark.parametrize(("value", "number"), [(1, 1), (7.0, 7), (20, 20)])
def test_whole_numbers_are_taken(value: object, number: int):
    checked = NUMBER.check(value)
    assert (checked, type(checked)) == (number, int)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"),
        (21, "21"),
        (1.5, "1.5"),
        (10**400, "100000"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (True, "True"),
        (None, "empty"),
        ("5", "'5'"),
        ([5], "[5]"),
        ({"value": 5}, "{'value': 5}"),
        ("x" * 10_000, "'xxx"),
    ],
)
def test_everything_else_is_told_what_would_be_right(value: object, shown: str):
    with pytest.raises(UserError) as caught:
        NUMBER.check(value)
    message = str(caught.value)
    assert message.startswith(f"the number is {shown}")
    assert message.endswith("; choose a whole number from 1 to 20")
    assert len(message) < 120


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": T + 1}, "number of steps is 21; choose a whole number from 1 to 20"),
        ({"num_images": 17}, "number of images is 17; choose a whole number from 1 to 16"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": MAX_SEED + 1}, f"seed is {MAX_SEED + 1}; choose a whole number from 0 to {MAX_SEED}"),
        ({"scheduler": "KarrasVe"}, "scheduler is 'KarrasVe'; choose one of DDPMCarsScheduler, DDIMScheduler"),
        ({"scheduler": ["DDIMScheduler"]}, "scheduler is"),
        ({"variance": "analytic"}, "variance is 'analytic'; choose one of fixed_small, fixed_large"),
        ({"label": 0}, "class is 0; this model has none to choose from"),
        ({"guidance": float("nan")}, "guidance is nan; choose a number from 0 to 20"),
        ({"guidance": "2"}, "guidance is '2'"),
        ({"guidance": 2}, "guidance is 2, but towards no class"),
    ],
)
def test_requests_that_the_model_cannot_draw(pipeline: DDPMCarsPipeline, changes: dict[str, Any], message: str):
    with pytest.raises(UserError) as caught:
        check(pipeline, **changes)
    assert message in str(caught.value)


def test_a_request_says_what_the_model_can_do(pipeline: DDPMCarsPipeline):
    request = check(pipeline, steps=float(T), seed=MAX_SEED, num_images=16)
    assert (request.num_inference_steps, request.seed, request.num_images) == (T, MAX_SEED, 16)
    assert request.variance_type == "fixed_small"
    # What another scheduler has no use for is not looked at.
    assert check(pipeline, scheduler="DDIMScheduler", variance="analytic").variance_type is None


@pytest.mark.parametrize(
    ("choice", "labels"), [(NO_CLASS, None), (EVERY_CLASS, (0, 1)), (1, (1,)), (2, ()), (True, ()), ("vans", ())]
)
def test_classes(guided: DDPMCarsPipeline, choice: object, labels: tuple[int, ...] | None):
    assert choices_of(guided, "label") == (("any", -1), ("each in turn", -2), ("red cars", 0), ("vans", 1))
    if labels == ():
        with pytest.raises(UserError, match=r"choose one of -1 \(any\), -2 \(each in turn\), 0 \(red cars\)"):
            check(guided, label=choice)
    else:
        assert check(guided, label=choice).class_labels == labels
    if labels:
        assert check(guided, label=choice, guidance=3).guidance_scale == 3


def test_a_model_that_needs_a_class_offers_no_way_around(make_unet: Callable[..., UNet2DModel]):
    pipeline = make_pipeline(make_unet(num_class_embeds=2), {0: "red cars", 1: "vans"})
    assert choices_of(pipeline, "label") == (("each in turn", -2), ("red cars", 0), ("vans", 1))
    with pytest.raises(UserError, match="has not learned to draw without a class"):
        check(pipeline, label=0, guidance=2)


def test_variances_that_a_model_can_be_drawn_with(make_unet: Callable[..., UNet2DModel], unet: UNet2DModel):
    assert variance_choices(make_pipeline(unet)) == ["fixed_small", "fixed_large"]
    assert variance_choices(make_pipeline(unet, variance_type="fixed_large_log")) == ["fixed_large", "fixed_small"]
    pipeline = make_pipeline(unet)
    images = torch.rand(8, 3, 8, 8) * 2 - 1
    calibrate(unet, images, pipeline.scheduler, num_timesteps=3, num_bands=None, progress_bar=False)
    assert variance_choices(pipeline) == ["fixed_small", "fixed_large", "analytic"]
    calibrate(unet, images, pipeline.scheduler, num_timesteps=3, num_bands=2, progress_bar=False)
    assert variance_choices(pipeline) == ["fixed_small", "fixed_large", "analytic", "spectral"]
    wide = make_unet(out_channels=6)
    assert variance_choices(make_pipeline(wide, variance_type="learned"))[0] == "learned"
    assert variance_choices(make_pipeline(wide)) == ["fixed_small", "fixed_large", "learned_range"]
    for pipe in (pipeline, make_pipeline(wide, variance_type="learned_range")):
        for name in variance_choices(pipe):
            *_, last = draw(pipe, check(pipe, variance=name, steps=3))
            assert pixels(last.images).std() > 20


def test_the_saved_scheduler_comes_first(pipeline: DDPMCarsPipeline):
    assert choices_of(pipeline, "scheduler") == tuple((label, name) for name, label in SCHEDULERS.items())
    pipeline.scheduler = make_scheduler("EulerDiscreteScheduler", pipeline.scheduler.config)
    names = [name for _, name in choices_of(pipeline, "scheduler")]
    assert names == ["EulerDiscreteScheduler", *SCHEDULERS]
    pipeline.scheduler = make_scheduler("DDIMScheduler", pipeline.scheduler.config)
    first, *others = choices_of(pipeline, "scheduler")
    assert first == ("DDIM", "DDIMScheduler")
    assert len(others) == len(SCHEDULERS) - 1


def test_a_model_is_described_in_words(pipeline: DDPMCarsPipeline, make_unet: Callable[..., UNet2DModel]):
    count = sum(p.numel() for p in pipeline.unet.parameters())
    facts = f"<span>8x8 pixels</span> <span>T = 20</span> <span>{count:,} parameters</span>"
    assert headline(pipeline, "<cars>") == f"<h1>&lt;cars&gt;</h1><p>{facts}</p>"
    large = make_pipeline(make_unet(block_out_channels=(64, 128)))
    count = sum(p.numel() for p in large.unet.parameters())
    assert f"<span>{round(count / 1e6, 1)} million parameters</span>" in headline(large, "large")
    with pytest.raises(UserError, match="draws 4 channels of size 8"):
        headline(make_pipeline(make_unet(in_channels=4, out_channels=4)), "cars")
    with pytest.raises(UserError, match="3 channels of size"):
        headline(make_pipeline(make_unet(sample_size=(8, 16))), "cars")


@ignore_numpy_warnings
@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_seed_gives_the_picture_of_the_command_line(pipeline: DDPMCarsPipeline, tmp_path: Path, name: str):
    pipeline.save_pretrained(tmp_path / "model")
    flags = ("--num_images", "3", "--seed", "11", "--num_inference_steps", "6", "--scheduler", name)
    folders = ("--pretrained_model_name_or_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out"))
    cli.sample([*folders, *flags])
    # Other schedulers take a setting that was not given for one to replace, but a saved config gives them all.
    saved = DDPMCarsPipeline.from_pretrained(tmp_path / "model")
    *_, last = draw(saved, check(saved, seed=11, num_images=3, steps=6, scheduler=name))
    for i, image in enumerate(last.images):
        with Image.open(tmp_path / "out" / f"{i:05d}.png") as expected:
            np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))


def test_a_network_that_float16_does_not_hold_is_told_with_the_cure_for_the_host(
    make_unet: Callable[..., UNet2DModel],
):
    pipeline = DDPMCarsPipeline(beyond_float16(make_unet()).to(torch.float16), DDPMCarsScheduler(T))
    cure = "float16 ends at 65504; give --mixed_precision no or bf16$"
    with pytest.raises(
        UserError, match=rf"^The model output is not finite in step 1 of 5 \(timestep 16\), .*: {cure}"
    ):
        list(draw(pipeline, check(pipeline, steps=5)))
    with pytest.raises(UserError, match=rf"^The model output is not finite at timestep 5, .*: {cure}"):
        noised(pipeline, Image.new("RGB", (8, 8)), 5, 0)


@ignore_numpy_warnings
@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 2, T - 1, T])
def test_every_number_of_steps_can_be_drawn_or_is_refused(pipeline: DDPMCarsPipeline, name: str, steps: int):
    of_high_order = name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
    if steps == (T if of_high_order else 1):
        # All timesteps are 0 then.
        with pytest.raises(UserError, match=rf"^{name} cannot draw from this model in {steps} step.*; choose another"):
            check(pipeline, steps=steps, scheduler=name)
        return
    frames = list(draw(pipeline, check(pipeline, steps=steps, scheduler=name)))
    assert [frame.step for frame in frames] == list(range(steps + 1))
    assert all(len(frame.images) == 2 for frame in frames)


def test_long_drawings_are_shown_now_and_then(unet: UNet2DModel):
    pipeline = DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=200))
    steps = [frame.step for frame in draw(pipeline, check(pipeline, steps=200))]
    assert len(steps) == 48
    assert (steps[0], steps[-1]) == (0, 200)
    assert set(np.diff(steps)) == {4, 5}


def test_classes_are_drawn_in_turn(guided: DDPMCarsPipeline):
    *_, last = draw(guided, check(guided, label=EVERY_CLASS, guidance=2, num_images=3))
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    names = ["red cars", "vans", "red cars"]
    expected = guided(3, generators, 5, class_labels=names, guidance_scale=2.0).images
    np.testing.assert_array_equal(pixels(last.images), pixels(expected))


def test_frames_are_what_the_network_sees_and_says(watched: tuple[DDPMCarsPipeline, list]):
    pipeline, calls = watched
    frames = list(draw(pipeline, check(pipeline, steps=4)))
    assert len(calls) == 4
    for frame, ((x_t, *_), _) in zip(frames, calls, strict=False):
        x_t = x_t.double().numpy() / max(1.0, float(x_t.std()))
        shown = pixels(frame.images).transpose(0, 3, 1, 2)
        assert np.abs(shown - as_pixels(x_t)).max() < 0.51
    assert frames[0].guesses is None
    for frame, ((x_t, t, *_), eps) in zip(frames[1:-1], calls, strict=False):
        # Eq. 15 of Ho et al. 2020.
        a = ALPHA_BAR[int(t)]
        x_0_hat = (x_t.double().numpy() - np.sqrt(1 - a) * eps.detach().double().numpy()) / np.sqrt(a)
        shown = pixels(frame.guesses or []).transpose(0, 3, 1, 2)
        assert np.abs(shown - as_pixels(x_0_hat)).max() < 0.52


def test_a_drawing_that_is_left_does_not_go_on(watched: tuple[DDPMCarsPipeline, list]):
    pipeline, calls = watched
    frames = draw(pipeline, check(pipeline, steps=T))
    next(frames), next(frames), next(frames)
    # Nobody has asked for the third step.
    assert len(calls) == 2
    frames.close()
    assert list(frames) == []
    assert len(calls) == 2


@ignore_numpy_warnings
def test_visitors_do_not_disturb_each_other(pipeline: DDPMCarsPipeline):
    requests = [
        check(pipeline, seed=seed, steps=steps, scheduler=name)
        for seed, steps, name in (
            (0, 20, "DDPMCarsScheduler"),
            (5, 7, "DDPMCarsScheduler"),
            (9, 9, "UniPCMultistepScheduler"),
        )
    ]
    alone = [pixels(list(draw(pipeline, request))[-1].images) for request in requests]
    state = pipeline.scheduler.timesteps
    # One step of each in turn.
    drawings = [draw(pipeline, request) for request in requests]
    last: list[Any] = [None] * len(requests)
    for _ in range(21):
        for i, drawing in enumerate(drawings):
            last[i] = next(drawing, last[i])
    for frame, expected in zip(last, alone, strict=True):
        np.testing.assert_array_equal(pixels(frame.images), expected)
    assert pipeline.scheduler.timesteps is state


@pytest.mark.parametrize("t", [0, 7, T - 1])
def test_noising_and_one_look(watched: tuple[DDPMCarsPipeline, list], t: int):
    pipeline, calls = watched
    picture = Image.effect_noise((8, 8), 90).convert("RGB")
    seen = noised(pipeline, picture, t, 4)
    eps = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(4)).double().numpy()
    x_0 = np.asarray(picture).transpose(2, 0, 1)[None] / 127.5 - 1
    x_t = np.sqrt(ALPHA_BAR[t]) * x_0 + np.sqrt(1 - ALPHA_BAR[t]) * eps
    assert np.abs(np.asarray(seen.x_t).transpose(2, 0, 1) - as_pixels(x_t)).max() < 0.51
    ((_, timestep, *_), output) = calls[0]
    assert int(timestep) == t
    x_0_hat = (x_t - np.sqrt(1 - ALPHA_BAR[t]) * output.double().numpy()) / np.sqrt(ALPHA_BAR[t])
    assert np.abs(np.asarray(seen.x_0_hat).transpose(2, 0, 1) - as_pixels(x_0_hat)).max() < 0.52
    assert seen.alpha_bar == pytest.approx(ALPHA_BAR[t], rel=1e-5)
    assert seen.snr == pytest.approx(ALPHA_BAR[t] / (1 - ALPHA_BAR[t]), rel=2e-3)


@pytest.mark.parametrize(("t", "seed", "word"), [(T, 0, "timestep"), (None, 0, "timestep"), (3, "a", "seed")])
def test_noise_that_there_is_not(pipeline: DDPMCarsPipeline, t: object, seed: object, word: str):
    with pytest.raises(UserError, match=f"the {word}"):
        noised(pipeline, Image.new("RGB", (8, 8)), t, seed)


def test_one_look_at_grey_pictures_wide_outputs_and_classes(
    make_unet: Callable[..., UNet2DModel], guided: DDPMCarsPipeline
):
    wide = make_pipeline(make_unet(in_channels=1, out_channels=2), variance_type="learned_range")
    seen = noised(wide, Image.new("L", (8, 8), 200), 3, 0)
    assert (seen.x_t.mode, seen.x_0_hat.mode) == ("L", "L")
    of_class = [noised(guided, Image.new("RGB", (8, 8)), 10, 0, choice).x_0_hat.tobytes() for choice in (-1, 0, 1)]
    assert len(set(of_class)) == 3
    # Of all classes in turn, one image is of the first.
    assert noised(guided, Image.new("RGB", (8, 8)), 10, 0, EVERY_CLASS).x_0_hat.tobytes() == of_class[1]


def test_a_visitors_picture_becomes_a_square(pipeline: DDPMCarsPipeline, tmp_path: Path):
    # Red at both ends, which a square has no room for.
    wide = Image.new("RGB", (80, 40), (255, 0, 0))
    wide.paste((0, 128, 255), (6, 0, 74, 40))
    wide.save(tmp_path / "wide.png")
    square = squared(str(tmp_path / "wide.png"), pipeline)
    assert (square.size, square.mode) == ((8, 8), "RGB")
    assert (np.asarray(square) == (0, 128, 255)).all()
    for content in (b"", b"no image", (tmp_path / "wide.png").read_bytes()[:60]):
        with pytest.raises(UserError, match=r"this file gives no image \(.*\); choose a JPEG, PNG or WebP"):
            squared(content, pipeline)
    Image.fromarray(np.full((8, 8), 300, np.int32) - 512).save(tmp_path / "ct.tif")
    with pytest.raises(UserError, match=r"\(its values run from -212 to -212\); choose a JPEG"):
        squared(str(tmp_path / "ct.tif"), pipeline)
    # With the range that a model was trained on, its files are images.
    assert (np.asarray(squared(str(tmp_path / "ct.tif"), pipeline, (-512, 88))) == 128).all()
    with pytest.raises(UserError) as caught:
        squared(str(tmp_path / "missing.png"), pipeline)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(("count", "size"), [(1, 512 + 4), (2, 2 * (256 + 2) + 2), (16, 4 * (128 + 2) + 2)])
def test_grids_are_about_as_wide(count: int, size: int):
    picture = Image.effect_noise((32, 32), 90)
    grid = np.asarray(enlarged([picture] * count))
    assert grid.shape[1] == size
    factor = {1: 16, 2: 8, 16: 4}[count]
    tile = np.kron(np.asarray(picture), np.ones((factor, factor), np.uint8))
    np.testing.assert_array_equal(grid[2 : 2 + 32 * factor, 2 : 2 + 32 * factor, 1], tile)


def test_the_animation_ends_on_the_picture_and_holds_it():
    frames = [Image.effect_noise((20, 10), 90).convert("RGB") for _ in range(5)]
    with Image.open(BytesIO(animation(frames))) as film:
        assert (film.format, film.n_frames, film.info["loop"]) == ("WEBP", 5, 0)
        ends = []
        for i, frame in enumerate(frames):
            film.seek(i)
            film.load()
            ends.append(film.info["timestamp"] + film.info["duration"])
            np.testing.assert_array_equal(np.asarray(film.convert("RGB")), np.asarray(frame))
    assert np.diff(ends).tolist() == [80, 80, 80, 2500]


@pytest.mark.parametrize("steps", [T, 5])
def test_the_curves_of_a_schedule(unet: UNet2DModel, steps: int):
    pipeline = make_pipeline(unet, max_last_noise_grey_levels=None)
    # Of white noise, what is left to know of x_0 makes beta the right variance (Ho et al. 2020, section 3.2).
    pipeline.scheduler.set_calibration(
        {
            "num_train_timesteps": T,
            "timesteps": list(range(T)),
            "alphas_cumprod": ALPHA_BAR.tolist(),
            "eps_mse": ALPHA_BAR.tolist(),
        }
    )
    curves = schedule_curves(pipeline, steps)
    np.testing.assert_allclose(curves["alpha_bar"], ALPHA_BAR, rtol=1e-6)
    np.testing.assert_allclose(curves["snr"], ALPHA_BAR / (1 - ALPHA_BAR), rtol=2e-3)
    t = np.arange(0, T, T // steps)[::-1]
    np.testing.assert_array_equal(curves["timesteps"], t)
    now, then = ALPHA_BAR[t[:-1]], ALPHA_BAR[t[1:]]
    beta = 1 - now / then
    np.testing.assert_allclose(curves["beta"], beta, rtol=1e-9)
    np.testing.assert_allclose(curves["beta_tilde"], beta * (1 - then) / (1 - now), rtol=1e-9)
    np.testing.assert_allclose(curves["analytic"], beta, rtol=1e-6)


def test_a_model_without_a_calibration_has_no_analytic_curve(pipeline: DDPMCarsPipeline):
    assert "analytic" not in schedule_curves(pipeline, 5)
    with pytest.raises(UserError, match="the number of steps is 21"):
        schedule_curves(pipeline, T + 1)


@pytest.mark.parametrize(("steps", "zero_snr"), [(1, False), (T, True), (T, False)])
def test_a_schedule_is_drawn_for_a_page_without_a_network(unet: UNet2DModel, steps: int, zero_snr: bool):
    config = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"} if zero_snr else {}
    curves = schedule_curves(make_pipeline(unet, **config), steps)
    drawings = schedule_drawings(curves)
    assert len(drawings) == 3
    for _, svg in drawings:
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg")
        assert "currentColor" in svg
        links = [value for element in root.iter() for name, value in element.attrib.items() if name.endswith("href")]
        assert all(link.startswith("#") for link in links)
    # Two curves have a mark for every visited timestep; a logarithm has no place for an SNR of 0.
    marks = [svg.count("fill: #cc66aa") for _, svg in drawings[:2]]
    assert marks[0] >= steps
    assert marks[1] == marks[0] - zero_snr
    # A single step adds no noise.
    assert ("#3a98e8" in drawings[2][1]) == (steps > 1)


def test_curves_that_lie_on_each_other_are_seen_and_dots_are_explained(unet: UNet2DModel):
    curves = schedule_curves(make_pipeline(unet), 5)
    curves["analytic"] = curves["beta_tilde"]
    drawings = [svg for _, svg in schedule_drawings(curves)]
    # Matplotlib draws letters as curves, and says in comments what they spell.
    assert all("<!-- visited by a drawing (5) -->" in svg for svg in drawings[:2])
    assert all(
        f"<!-- {name} -->" in drawings[2]
        for name in ("β (fixed_large)", "β̃ (fixed_small)", "analytic", "a dot is a step")
    )
    axes = [e for e in ElementTree.fromstring(drawings[2]).iter() if re.match(r"line2d_\d+$", e.get("id", ""))]
    styles = ["".join(e.get("style", "") for e in line if e.get("d", "").count("L") == 3) for line in axes]
    widths = [float(found[1]) for style in styles if (found := re.search(r"stroke-width: ([\d.]+)", style))]
    assert len(widths) == 3
    assert widths[0] > 1.5 * widths[1] > 3 * widths[2]


@pytest.mark.parametrize("name", ["samples.png", "broken.png", "missing.png"])
def test_an_image_is_there_before_the_first_drawing(pipeline: DDPMCarsPipeline, tmp_path: Path, name: str):
    grid = Image.effect_noise((40, 30), 90).convert("RGB")
    grid.save(tmp_path / "samples.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    image, words = first_view(pipeline, check(pipeline), tmp_path / name)
    if name == "samples.png":
        assert words == "This model has drawn these before (samples.png)."
        np.testing.assert_array_equal(np.asarray(image), np.asarray(grid))
    else:
        assert words == "This is the noise that Draw begins with (seeds 0 to 1)."
        noise = next(draw(pipeline, check(pipeline))).images
        np.testing.assert_array_equal(np.asarray(image), np.asarray(enlarged(noise)))


def test_every_setting_has_a_sentence_and_a_default_that_can_be_drawn(guided: DDPMCarsPipeline):
    options = [*draw_options(guided, 1).values(), *noise_options(guided).values(), schedule_steps(guided)]
    assert len(options) == 12
    for option in options:
        assert re.match(r"[A-Z0-9].{10,}\.$", option.info), option
        assert option.check(option.default) == option.default
    assert check_request(guided, draw_options(guided, 1), {}).num_images == 1


@pytest.mark.parametrize(
    ("snr", "words"), [(1e4, "hardly"), (5, "well above"), (1, "equally"), (0.1, "covers"), (0.0, "Next to nothing")]
)
def test_noise_levels_have_words(snr: float, words: str):
    image = Image.new("L", (1, 1))
    text = level(3, Noised(image, image, snr / (1 + snr), snr))
    assert words in text
    assert "t = 3" in text


def test_a_lack_of_memory_is_told_in_words(pipeline: DDPMCarsPipeline):
    def too_large(*_: Any) -> None:
        raise torch.OutOfMemoryError

    # Other tests draw with the same network.
    hook = pipeline.unet.register_forward_pre_hook(too_large)
    try:
        with pytest.raises(UserError, match="2 images at once do not fit into memory; choose fewer images"):
            list(draw(pipeline, check(pipeline)))
    finally:
        hook.remove()


def test_progress_is_told_in_words(pipeline: DDPMCarsPipeline):
    request = check(pipeline, seed=4, num_images=3, steps=20)
    assert "Noise of seeds 4 to 6" in progress_of(request, 0, 0.0)
    half = progress_of(request, 5, 2.0)
    assert "Step 5 of 20, 6 s left" in half
    assert "width: 25%" in half
    assert "Seeds 4 to 6, 20 steps in 8.0 s" in progress_of(request, 20, 8.0)
    single = check(pipeline, seed=4, num_images=1, steps=1, scheduler="UniPCMultistepScheduler")
    assert "Seed 4, 1 step in 1.0 s" in progress_of(single, 1, 1.0)
    stopped = progress_when_stopped(37, 100)
    assert "Stopped at step 37 of 100." in stopped
    assert "width: 37%" in stopped
    assert "Stopped before it began." in progress_when_stopped(0, 0)


def test_the_page_shows_what_the_model_can_and_is_served_as_the_environment_says(
    pipeline: DDPMCarsPipeline, guided: DDPMCarsPipeline, tmp_path: Path
):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    folders = [tmp_path / "plain cars", tmp_path / "guided cars"]
    for pipe, folder in zip((pipeline, guided), folders, strict=True):
        pipe.save_pretrained(folder)
    # A model of diffusers, which leaves next to nothing to set.
    folders.append(tmp_path / "stock cars")
    DDPMPipeline(pipeline.unet, DDPMScheduler(num_train_timesteps=1)).save_pretrained(folders[-1])
    settings = {"GRADIO_SERVER_PORT": port, "GRADIO_TEMP_DIR": str(tmp_path / "files"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", PAGES, *map(str, folders)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, env={**os.environ, **settings}, stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (tmp_path / "log").read_text()
        plain, with_classes, stock = json.loads(line)
        hidden = ("Images", "Steps", "Timestep t", "Variance of the noise that a step adds", "Class")
        assert not any(stock[label][0] for label in hidden)
        # The others take no number of steps that a single timestep allows.
        assert stock["Sampler"] == [True, ["DDPMScheduler", "DDPMCarsScheduler", "DDIMScheduler"]]
        assert plain["Variance of the noise that a step adds"] == [True, ["fixed_small", "fixed_large"]]
        assert [plain["Class"], plain["Guidance"]] == [[False, []], [False, None]]
        assert [with_classes["Class"], with_classes["Guidance"]] == [[True, [-1, -2, 0, 1]], [True, None]]
        assert f"http://127.0.0.1:{port}" in process.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=PATIENCE_SECONDS) as response:
            assert "guided cars" in response.read().decode()
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_images", "0"], "max_images is 0; it must be 1 or more"),
        (["--server_port", "99999"], "server_port is 99999; it must be 65535 or less"),
    ],
)
def test_mistakes_at_the_command_line(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        cli.demo(flags)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_page_draws_in_the_precision_that_the_device_is_fast_in(
    make_unet: Callable[..., UNet2DModel], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    plain, quick = make_pipeline(make_unet(seed=3)), make_pipeline(make_unet(seed=3))
    place_model(plain, "no")
    place_model(quick)
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["no", "bf16"]
    assert (plain.unet.dtype, quick.unet.dtype) == (torch.float32, torch.bfloat16)
    drawn = [pixels([*draw(pipe, check(pipe))][-1].images).astype(int) for pipe in (plain, quick)]
    assert 0 < np.abs(drawn[0] - drawn[1]).max() <= 8
    noised(quick, Image.new("RGB", (8, 8)), 5, 0)
