"""A page in the browser: drawing with a live preview, noising an image of one's own, and the noise schedule."""

import functools
import html
import random
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ddpm_cars.demo.drawing import animation, draw, enlarged, noised, squared
from ddpm_cars.demo.markup import CSS, GUESS, NOISY, VARIANCE_LABELS, headline, level, progress, progress_of
from ddpm_cars.demo.requests import (
    MAX_GUIDANCE,
    OWN_SCHEDULER,
    check_request,
    class_choices,
    resolution_of,
    scheduler_choices,
    variance_choices,
)
from ddpm_cars.demo.schedule import plots
from ddpm_cars.errors import UserError
from ddpm_cars.figures.grids import save_png
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.toy_cars.painting import draw_car

_MAX_UPLOAD = "20mb"
_DAY_SECONDS = 86400
# Two visitors draw at a time and the others wait. Looks at a single image do not wait for drawings.
_CONCURRENT_DRAWINGS = 2
# Those that the page chooses from by itself.
_NUM_SEEDS = 1_000_000
# The other schedulers do not report x_0_hat.
_WATCHABLE = (OWN_SCHEDULER, "DDIMScheduler")


def build_app(pipeline: DDPMCarsPipeline, name: str, max_images: int = 16) -> gr.Blocks:
    """Build the page of a model; `launch` shows it.

    Args:
        pipeline: The model, on the device that it runs on.
        name: The name of the model.
        max_images: The largest number of images in one drawing, 1 or more.

    Raises:
        UserError: If the page cannot show images of this model.
    """
    resolution_of(pipeline)
    class_choices(pipeline)
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(_DAY_SECONDS, _DAY_SECONDS)) as app:
        gr.HTML(headline(pipeline, name), elem_classes="headline")
        with gr.Tabs():
            with gr.Tab("Draw"):
                _draw_tab(pipeline, max_images)
            with gr.Tab("Noise"):
                _noise_tab(pipeline)
            with gr.Tab("Schedule"):
                _schedule_tab(pipeline)
    return app


def launch(app: gr.Blocks, **settings: Any) -> None:
    """Serve a page until the process ends.

    Args:
        app: What `build_app` returns.
        settings: As `gr.Blocks.launch` takes them, such as `server_name` and `server_port`. The environment
            variables of gradio replace those that are left out.
    """
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    theme = gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
    )
    app.launch(theme=theme, css=CSS, footer_links=["api"], max_file_size=_MAX_UPLOAD, ssr_mode=False, **settings)


def serve_folder(folder: str | Path) -> None:
    """Serve the page of a model folder as the environment variables of gradio say, which is what a Space needs.

    Args:
        folder: A saved pipeline.

    Raises:
        UserError: If the page cannot show images of this model.
        OSError: If there is no model in the folder.
    """
    from accelerate import PartialState

    pipeline = DDPMCarsPipeline.from_pretrained(folder).to(PartialState().device)
    launch(build_app(pipeline, Path(folder).resolve().name))


@contextmanager
def _in_words() -> Iterator[None]:
    """Show a mistake of the visitor as a message on the page."""
    try:
        yield
    except UserError as error:
        text = html.escape(str(error), quote=False)
        raise gr.Error(f"{text[:1].upper()}{text[1:]}.", title="Not possible", print_exception=False) from None


def _unchecked(component: Any) -> Any:
    """Let a component pass on what was sent, because the errors of the functions behind it name the cure."""
    component.preprocess = lambda payload: payload
    return component


def _seed_with_die(label: str) -> Any:
    with gr.Row():
        seed = _unchecked(gr.Number(0, label=label, scale=3, min_width=120))
        die = gr.Button("⚄ New seed", scale=1, min_width=125, size="md", elem_classes="die")
    die.click(lambda: random.randrange(_NUM_SEEDS), None, seed, api_visibility="private", queue=False)
    return seed


def _class_dropdown(pipeline: DDPMCarsPipeline) -> Any:
    choices, value = class_choices(pipeline), _first_class(pipeline)
    return _unchecked(gr.Dropdown(choices, value=value, label="Class", visible=bool(choices)))


def _draw_tab(pipeline: DDPMCarsPipeline, max_images: int) -> None:
    T, variances = pipeline.scheduler.config.num_train_timesteps, variance_choices(pipeline)
    schedulers = scheduler_choices(pipeline)
    saved = next(iter(schedulers))
    with gr.Row():
        with gr.Column(scale=2, min_width=300):
            steps = _unchecked(gr.Slider(1, T, min(100, T), step=1, label="Steps"))
            num_images = _unchecked(gr.Slider(1, max_images, min(4, max_images), step=1, label="Pictures"))
            seed = _seed_with_die("Seed of the first image")
            label = _class_dropdown(pipeline)
            can_guide = pipeline.null_class is not None
            guidance = _unchecked(gr.Slider(0, MAX_GUIDANCE, 1, step=0.1, label="Guidance", visible=can_guide))
            scheduler = _unchecked(gr.Dropdown([(v, k) for k, v in schedulers.items()], value=saved, label="Sampler"))
            variance = _unchecked(
                gr.Dropdown(
                    [(VARIANCE_LABELS[choice], choice) for choice in variances],
                    value=variances[0],
                    label="Variance of the noise that a step adds",
                    visible=saved == OWN_SCHEDULER,
                )
            )
            watched = _unchecked(gr.Radio([NOISY, GUESS], value=NOISY, label="Watch", visible=saved in _WATCHABLE))
            with gr.Row():
                start = gr.Button("Draw", variant="primary", scale=2, min_width=120)
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90)
        with gr.Column(scale=3, min_width=300):
            status = gr.HTML(progress(0, "Ready to draw."))
            grid = _picture("Pictures", height="min(500px, 86vw)")
            download = gr.DownloadButton("Download as PNG", interactive=False)
            with gr.Column(visible=False) as way:
                gr.HTML("The way out of the noise", elem_classes="caption")
                film = _picture("The way out of the noise", height="min(360px, 86vw)")
    controls = [steps, seed, num_images, scheduler, variance, label, guidance, watched]
    drawing = start.click(
        functools.partial(_draw, pipeline, max_images),
        controls,
        [status, grid, way, film, download, stop],
        show_progress="hidden",
        api_name="draw",
        concurrency_limit=_CONCURRENT_DRAWINGS,
    )
    quiet: dict[str, Any] = {"api_visibility": "private", "queue": False}
    # The message follows the end of the drawing, or the next frame would replace it.
    ended = stop.click(None, cancels=[drawing], **quiet)
    ended.then(lambda: (progress(0, "Stopped."), gr.update(interactive=False)), None, [status, stop], **quiet)
    scheduler.change(_fitting_controls, scheduler, [variance, watched], **quiet)


def _fitting_controls(scheduler: Any) -> tuple[Any, Any]:
    return gr.update(visible=scheduler == OWN_SCHEDULER), gr.update(visible=scheduler in _WATCHABLE)


def _draw(
    pipeline: DDPMCarsPipeline,
    max_images: int,
    steps: Any,
    seed: Any,
    num_images: Any,
    scheduler: Any,
    variance: Any,
    label: Any,
    guidance: Any,
    watched: Any,
) -> Iterator[tuple[Any, ...]]:
    """Yield values for the status, the grid, the column of the film, the film, the download and the stop button."""
    with _in_words():
        request = check_request(pipeline, max_images, steps, seed, num_images, scheduler, variance, label, guidance)
        frames: list[Image.Image] = []
        start = time.monotonic()
        for frame in draw(pipeline, request):
            frames.append(enlarged(frame.images))
            status = progress_of(request, frame.step, time.monotonic() - start)
            if frame.step < request.num_inference_steps:
                shown = enlarged(frame.guesses) if watched == GUESS and frame.guesses else frames[-1]
                empty = gr.update(value=None, interactive=False)
                first = (gr.update(visible=False), None, empty, gr.update(interactive=True))
                yield status, shown, *(first if frame.step == 0 else (gr.skip(),) * 4)
        # Gradio copies the files when it is given their paths.
        with tempfile.TemporaryDirectory(prefix="ddpm_cars_demo_") as folder:
            name = f"seed_{request.seed}_pictures_{request.num_images}_steps_{request.num_inference_steps}"
            png, webp = save_png(frames[-1], Path(folder) / f"{name}.png"), Path(folder) / f"{name}.webp"
            webp.write_bytes(animation(frames))
            done = gr.update(value=str(png), interactive=True)
            yield status, frames[-1], gr.update(visible=True), str(webp), done, gr.update(interactive=False)


def _noise_tab(pipeline: DDPMCarsPipeline) -> None:
    T, size = pipeline.scheduler.config.num_train_timesteps, resolution_of(pipeline)
    car = _toy_car(pipeline, 0)
    first = _look(pipeline, car, T // 4, 0, _first_class(pipeline))
    picture = gr.State(car)
    with gr.Row(elem_classes="three"):
        x_0 = _panel("Image x<sub>0</sub>", enlarged([car]))
        x_t = _panel("Noisy x<sub>t</sub>", first[0])
        x_0_hat = _panel("Guess x̂<sub>0</sub>", first[1])
    words = gr.HTML(first[2])
    t = _unchecked(gr.Slider(0, T - 1, T // 4, step=1, label="Timestep t"))
    with gr.Row():
        with gr.Column(min_width=300):
            upload = gr.UploadButton("Use an image of yours", variant="primary", file_types=["image"])
            another = gr.Button("Another toy car")
        with gr.Column(min_width=300):
            seed = _seed_with_die("Seed of the noise")
            label = _class_dropdown(pipeline)
    gr.HTML(
        f"The image is cut to a square of {size}x{size} pixels. The guess is what the network makes of the noisy "
        "image in one look; drawing takes many small steps instead.",
        elem_classes="note",
    )
    look = functools.partial(_look, pipeline)
    for control in (t, seed, label):
        control.change(
            look,
            [picture, t, seed, label],
            [x_t, x_0_hat, words],
            show_progress="hidden",
            trigger_mode="always_last",
            api_name="noise" if control is t else None,
            api_visibility="public" if control is t else "private",
        )
    arguments: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    for event, function, source in (
        (upload.upload, functools.partial(_own_picture, pipeline), upload),
        (another.click, lambda: _shown(_toy_car(pipeline, random.randrange(_NUM_SEEDS))), None),
    ):
        loaded = event(function, source, [picture, x_0], **arguments)
        loaded.success(look, [picture, t, seed, label], [x_t, x_0_hat, words], **arguments)


def _panel(caption: str, value: Image.Image) -> gr.Image:
    # Three stand in a row on a phone, too, so that the slider below them stays in sight.
    with gr.Column(min_width=90):
        gr.HTML(caption, elem_classes="caption")
        return _picture(re.sub("<.*?>", "", caption), value, buttons=[])


def _picture(label: str, value: Image.Image | None = None, **options: Any) -> gr.Image:
    return gr.Image(
        value,
        label=label,
        show_label=False,
        alt_text=label,
        format="png",
        interactive=False,
        elem_classes="pixels",
        min_width=90,
        **{"buttons": ["fullscreen"], **options},
    )


def _first_class(pipeline: DDPMCarsPipeline) -> int | None:
    choices = class_choices(pipeline)
    return choices[0][1] if choices else None


def _toy_car(pipeline: DDPMCarsPipeline, seed: int) -> Image.Image:
    mode = "L" if pipeline.unet.config.in_channels == 1 else "RGB"
    return draw_car(seed, resolution_of(pipeline)).convert(mode)


@_in_words()
def _own_picture(pipeline: DDPMCarsPipeline, path: Any) -> tuple[Image.Image, Image.Image]:
    if not isinstance(path, str):
        raise UserError("there is no file; choose an image")
    return _shown(squared(path, pipeline))


def _shown(picture: Image.Image) -> tuple[Image.Image, Image.Image]:
    return picture, enlarged([picture])


@_in_words()
def _look(pipeline: DDPMCarsPipeline, picture: Image.Image, t: Any, seed: Any, label: Any) -> tuple[Any, Any, str]:
    seen = noised(pipeline, picture, t, seed, label)
    return enlarged([seen.x_t]), enlarged([seen.x_0_hat]), level(int(t), seen)


def _schedule_tab(pipeline: DDPMCarsPipeline) -> None:
    T = pipeline.scheduler.config.num_train_timesteps
    first = min(50, T)
    steps = _unchecked(gr.Slider(1, T, first, step=1, label="Steps"))
    drawings = gr.HTML(plots(pipeline, first))
    steps.change(
        _in_words()(functools.partial(plots, pipeline)),
        steps,
        drawings,
        show_progress="hidden",
        trigger_mode="always_last",
        api_name="schedule",
    )
