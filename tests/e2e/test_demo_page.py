"""The demo page in a real browser, on a tiny model that was never trained."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Route, expect, sync_playwright

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.demo.drawing import enlarged
from ddpm_cars.figures.grids import noisy_to_pil
from ddpm_cars.sampling.generate import generate
from ddpm_cars.sampling.request import SamplingRequest
from ddpm_cars.toy_cars.painting import draw_car
from tests.support.patience import PATIENCE_SECONDS
from tests.support.training_helpers import SCRIPTS

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
T = 1000
PAGE_MILLISECONDS = 180_000
expect.set_options(timeout=PAGE_MILLISECONDS)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on PATH")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_unet: Callable[..., UNet2DModel]) -> Path:
    folder = tmp_path_factory.mktemp("page") / "tiny cars & <vans>"
    DDPMCarsPipeline(make_unet(), DDPMCarsScheduler(num_train_timesteps=T)).save_pretrained(folder)
    return folder


@dataclass
class Server:
    """scripts/demo.py in a process of its own."""

    url: str
    log: Path
    pid: int = 0

    def seconds_of_work(self) -> float:
        """Return the processor time of the server."""
        times = Path(f"/proc/{self.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    server = Server(f"http://127.0.0.1:{port}", folder.parent / "log")
    flags = ("--pretrained_model_name_or_path", str(folder), "--server_port", port, "--max_images", "6")
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "GRADIO_TEMP_DIR": str(folder.parent / "files")}
    with server.log.open("w") as log:
        command = [sys.executable, str(SCRIPTS / "demo.py"), *flags]
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=log, stderr=log)
    server.pid = process.pid
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            assert process.poll() is None, server.log.read_text()
            if f"The page is at {server.url}" in server.log.read_text():
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"The page has not started: {server.log.read_text()}")
        yield server
        # Mistakes of visitors are no errors of the server.
        assert "Traceback" not in server.log.read_text(), server.log.read_text()
    finally:
        process.terminate()
        process.wait(timeout=PATIENCE_SECONDS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, server: Server) -> Iterator[Callable[..., Page]]:
    """Open the page; in the end, everything it asked for has to be local, and nothing may have gone wrong in it."""
    pages, foreign, errors = [], [], []

    def listen(request: Any) -> None:
        if not request.url.startswith((server.url, "data:", "blob:" + server.url)):
            foreign.append(request.url)

    def open_page(width: int = 1280, height: int = 900) -> Page:
        page = browser.new_page(viewport={"width": width, "height": height})
        page.set_default_timeout(PAGE_MILLISECONDS)
        page.on("request", listen)
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
        draw_button(page).wait_for()
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert not foreign
    assert not errors


@pytest.fixture
def page(open_page: Callable[..., Page]) -> Page:
    return open_page()


def draw_button(page: Page) -> Locator:
    return page.get_by_role("button", name="Draw", exact=True)


def fill(page: Page, name: str, value: int) -> None:
    box = page.get_by_role("tabpanel").locator("visible=true").get_by_role("spinbutton", name=name)
    box.fill(str(value))
    box.press("Tab")


def shown(page: Page, name: str) -> np.ndarray:
    """Return the pixels of an image of the page, as the server sent them."""
    source = page.get_by_role("img", name=name, exact=True).get_attribute("src")
    with Image.open(BytesIO(page.request.get(source).body())) as image:
        return np.asarray(image.convert("RGB"))


def draw(page: Page, steps: int, num_images: int, seed: int) -> np.ndarray:
    """Draw and return the grid."""
    fill(page, "Steps", steps)
    fill(page, "Images", num_images)
    fill(page, "Seed of the first image", seed)
    draw_button(page).click()
    last = seed + num_images - 1
    page.get_by_text(f"{f'Seeds {seed} to {last}' if num_images > 1 else f'Seed {seed}'}, {steps} steps in").wait_for()
    return shown(page, "Images")


def drawn(folder: Path, steps: int, num_images: int, seed: int) -> np.ndarray:
    """Return the grid of what `ddpm-cars sample` draws."""
    pipeline = DDPMCarsPipeline.from_pretrained(folder)
    request = SamplingRequest(num_images=num_images, seed=seed, num_inference_steps=steps)
    return np.asarray(enlarged(list(generate(pipeline, request))))


def test_the_page_draws_what_the_command_line_draws_and_hands_it_out(page: Page, folder: Path, tmp_path: Path):
    expect(page).to_have_title(folder.name)
    expect(page.get_by_role("heading", level=1)).to_have_text(folder.name)
    expect(page.locator(".headline").first).to_contain_text("8x8 pixels")
    grid = draw(page, 5, 3, seed=7)
    assert grid.std() > 20
    np.testing.assert_array_equal(grid, drawn(folder, 5, 3, 7))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as PNG").click()
    with Image.open(download.value.path()) as image:
        assert image.format == "PNG"
        np.testing.assert_array_equal(np.asarray(image), grid)
    film = page.get_by_role("img", name="The way out of the noise").get_attribute("src")
    with Image.open(BytesIO(page.request.get(film).body())) as image:
        assert (image.format, image.n_frames, image.info["loop"]) == ("WEBP", 6, 0)
        image.seek(5)
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), grid)
    other = draw(page, 5, 3, seed=8)
    np.testing.assert_array_equal(other, drawn(folder, 5, 3, 8))
    assert (other != grid).any()


def test_the_die_rolls_a_seed(page: Page):
    seed = page.get_by_role("spinbutton", name="Seed of the first image")
    expect(seed).to_have_value("0")
    page.get_by_role("button", name="New seed").locator("visible=true").click()
    expect(seed).not_to_have_value("0")


def test_a_visitor_sees_images_and_draw_first_and_the_rest_below(open_page: Callable[..., Page], folder: Path):
    page = open_page(390, 844)
    # The model has no samples.png, so that its noise is shown.
    expect(page.get_by_text("This is the noise that Draw begins with (seeds 0 to 3).")).to_be_visible()
    pipeline = DDPMCarsPipeline.from_pretrained(folder)
    state = next(pipeline.denoise(4, [torch.Generator().manual_seed(i) for i in range(4)], 100))
    np.testing.assert_array_equal(shown(page, "Images"), np.asarray(enlarged(noisy_to_pil(state.sample))))
    order = [
        draw_button(page),
        page.get_by_role("progressbar"),
        page.get_by_role("img", name="Images", exact=True),
        *(page.get_by_role("slider", name=name) for name in ("Images", "Steps")),
        page.get_by_role("spinbutton", name="Seed of the first image"),
        page.get_by_role("button", name="Advanced"),
    ]
    boxes = [control.bounding_box() for control in order]
    tops = [box["y"] for box in boxes if box]
    assert len(tops) == len(order)
    assert tops == sorted(tops)
    # Draw, the bar and all of the images can be seen without scrolling.
    assert boxes[2] is not None
    assert boxes[2]["y"] + boxes[2]["height"] < 844
    for name in ("Sampler", "Variance of the noise that a step adds", "Watch"):
        expect(page.get_by_label(name, exact=True)).to_be_hidden()
    page.get_by_role("button", name="Advanced").click()
    for name in ("Sampler", "Variance of the noise that a step adds", "Watch"):
        expect(page.get_by_label(name, exact=True)).to_be_visible()


def test_other_samplers_have_no_choice_of_a_variance(page: Page, folder: Path):
    page.get_by_role("button", name="Advanced").click()
    sampler, variance = page.get_by_label("Sampler"), page.get_by_label("Variance of the noise")
    expect(variance).to_be_visible()
    sampler.click()
    page.get_by_role("option", name="DPM-Solver++").click()
    expect(variance).to_be_hidden()
    grid = draw(page, 4, 1, seed=0)
    assert grid.std() > 20
    assert (grid != drawn(folder, 4, 1, 0)).any()


def begin(page: Page) -> None:
    """Begin a long drawing, and wait until it has gone some way."""
    fill(page, "Steps", T)
    fill(page, "Images", 6)
    draw_button(page).click()
    page.get_by_text(f"of {T}, ").wait_for()


def test_a_drawing_can_be_watched_and_stopped(page: Page, folder: Path):
    begin(page)
    early = shown(page, "Images")
    expect(draw_button(page)).to_be_disabled()
    page.get_by_role("button", name="Stop").click()
    said = page.get_by_text("Stopped at step")
    said.wait_for()
    stopped, words = shown(page, "Images"), said.inner_text()
    assert (early.std(), stopped.std()) > (20, 20)
    # The bar stays where it was, and says what the words say.
    step = int(words.removeprefix("Stopped at step ").removesuffix(f" of {T}."))
    assert 0 < step < T
    bar = page.get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", f"{100 * step / T:.0f}")
    time.sleep(0.5)
    expect(said).to_have_text(words)
    np.testing.assert_array_equal(shown(page, "Images"), stopped)
    np.testing.assert_array_equal(draw(page, 3, 1, seed=1), drawn(folder, 3, 1, 1))
    expect(bar).to_have_attribute("aria-valuenow", "100")


def test_visitors_stop_their_own_drawings_and_a_closed_page_stops_its_own(
    open_page: Callable[..., Page], browser: Browser, server: Server
):
    first, second = open_page(), browser.new_page()
    second.goto(server.url)
    for page in (first, second):
        draw_button(page).wait_for()
        begin(page)
    first.get_by_role("button", name="Stop").click()
    first.get_by_text("Stopped at step").wait_for()
    # The other one goes on.
    words = second.get_by_text(f"of {T}, ").inner_text()
    expect(second.get_by_text(f"of {T}, ")).not_to_have_text(words)
    second.close()
    time.sleep(1)
    before = server.seconds_of_work()
    time.sleep(1)
    assert server.seconds_of_work() - before < 0.3


def test_what_cannot_be_drawn_is_said_in_words(page: Page, folder: Path):
    wrong: list[tuple[int, object, str]] = [
        (0, T + 1, f"The number of steps is {T + 1}; choose a whole number from 1 to {T}."),
        (1, -1, "The seed is -1; choose a whole number from 0 to"),
        (1, float("nan"), "The seed is nan; choose a whole number from 0 to"),
        (2, 10_000, "The number of images is 10000; choose a whole number from 1 to 6."),
        (3, "<b>Karras</b>", "The scheduler is '<b>Karras</b>'; choose one of DDPMCarsScheduler, DDIMScheduler"),
    ]
    requests = iter(wrong)

    # The controls do not let a visitor go that far, so the request is changed on its way.
    def change(route: Route) -> None:
        body, (place, value, _) = json.loads(route.request.post_data or ""), next(requests)
        body["data"][place] = value
        route.continue_(post_data=json.dumps(body))

    page.route("**/queue/join*", change)
    for _, _, message in wrong:
        draw_button(page).click()
        expect(page.locator(".toast-body").filter(has_text=message)).to_be_visible()
        expect(page.locator(".progress")).to_contain_text(message)
        expect(draw_button(page)).to_be_enabled()
    page.unroute("**/queue/join*")
    np.testing.assert_array_equal(draw(page, 2, 1, seed=3), drawn(folder, 2, 1, 3))


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def test_the_slider_moves_along_one_path_into_the_noise(page: Page):
    open_tab(page, "Noise")
    expect(page.locator(".level")).to_contain_text("t = 250: ᾱ = 0.52")
    picture, before, guess = (shown(page, name) for name in ("Image x0", "Noisy xt", "Guess x̂0"))
    slider = page.get_by_role("tabpanel").locator("visible=true").get_by_role("slider")
    slider.press("ArrowRight")
    expect(page.locator(".level")).to_contain_text("t = 251:")
    after = shown(page, "Noisy xt")
    assert (after != before).any()
    # The noise is the same, so that one step changes little.
    assert np.abs(after.astype(int) - before).mean() < 2
    assert (shown(page, "Guess x̂0") != guess).any()
    slider.press("End")
    expect(page.locator(".level")).to_contain_text("Next to nothing of the image is left.")
    np.testing.assert_array_equal(shown(page, "Image x0"), picture)
    noisy = page.get_by_role("img", name="Noisy xt", exact=True)
    source = noisy.get_attribute("src")
    fill(page, "Seed of the noise", 1)
    expect(noisy).not_to_have_attribute("src", source or "")
    assert np.abs(shown(page, "Noisy xt").astype(int) - after).mean() > 20


def test_a_visitor_brings_a_picture_and_a_file_that_is_none(page: Page, tmp_path: Path):
    open_tab(page, "Noise")
    car = shown(page, "Image x0")
    np.testing.assert_array_equal(car, np.asarray(enlarged([draw_car(0, 8)])))
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    upload = page.get_by_test_id("file-upload").or_(page.locator("input[type=file]")).first
    upload.set_input_files(broken)
    expect(page.locator(".toast-body").first).to_contain_text("choose a JPEG, PNG or WebP")
    np.testing.assert_array_equal(shown(page, "Image x0"), car)
    mine = tmp_path / "mine.png"
    Image.new("RGB", (40, 30), (200, 30, 60)).save(mine)
    source = page.get_by_role("img", name="Image x0", exact=True).get_attribute("src")
    upload.set_input_files(mine)
    expect(page.get_by_role("img", name="Image x0", exact=True)).not_to_have_attribute("src", source or "")
    assert (shown(page, "Image x0")[2:-2, 2:-2] == (200, 30, 60)).all()


def test_the_schedule_follows_the_number_of_steps(page: Page):
    open_tab(page, "Schedule")
    plots = page.locator(".plots svg")
    expect(plots).to_have_count(3)
    before = [plot.inner_html() for plot in plots.all()]
    fill(page, "Steps", 7)
    page.wait_for_function("old => document.querySelector('.plots svg').innerHTML !== old", arg=before[0])
    after = [plot.inner_html() for plot in plots.all()]
    assert all(a != b for a, b in zip(after, before, strict=True))


def test_nothing_is_wider_than_a_phone(open_page: Callable[..., Page]):
    page = open_page(390, 844)
    draw(page, 2, 5, seed=0)
    for tab in ("Draw", "Noise", "Schedule"):
        open_tab(page, tab)
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        # Nor is anything cut off.
        assert (
            page.evaluate(
                "Math.max(...[...document.querySelectorAll('.headline span, button, svg, img')]"
                ".filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect().right))"
            )
            <= 390
        )
