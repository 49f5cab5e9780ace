"""A page in the browser: drawing with a live preview, noising an image of one's own, and the noise schedule."""

import functools
import html
import inspect
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from ddpm_cars.data.value_range import ValueRange
from ddpm_cars.demo.drawing import animation, draw, enlarged, first_view, noised, squared
from ddpm_cars.demo.markup import headline, level, progress, progress_of, progress_when_stopped, sentence
from ddpm_cars.demo.requests import (
    GUESS,
    OWN_SCHEDULER,
    WATCHABLE,
    Choice,
    Option,
    check_request,
    draw_options,
    noise_options,
    resolution_of,
    schedule_steps,
)
from ddpm_cars.demo.schedule import plots
from ddpm_cars.errors import UserError
from ddpm_cars.figures.grids import save_png
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.toy_cars.painting import draw_car

_DAY_SECONDS = 86400
# Two visitors draw at a time and the others wait. Looks at a single image do not wait for drawings.
_CONCURRENT_DRAWINGS = 2
# Those that the page chooses from by itself.
_NUM_SEEDS = 1_000_000
# Events that are no part of the interface for programs, and that never wait.
_AT_ONCE: dict[str, Any] = {"api_visibility": "private", "queue": False, "show_progress": "hidden"}


def build_app(
    pipeline: DDPMCarsPipeline, name: str, max_images: int = 16, folder: str | Path | None = None
) -> gr.Blocks:
    """Build the page of a model; `launch` shows it.

    Args:
        pipeline: The model, on the device that it runs on.
        name: The name of the model.
        max_images: The largest number of images in one drawing, 1 or more.
        folder: The folder of the model. The page shows the images that its training has left there until a visitor
            draws others.

    Raises:
        UserError: If the page cannot show images of this model.
    """
    resolution_of(pipeline)
    options = draw_options(pipeline, max_images)
    with gr.Blocks(title=name, analytics_enabled=False, delete_cache=(_DAY_SECONDS, _DAY_SECONDS)) as app:
        gr.HTML(headline(pipeline, name), elem_classes="headline")
        with gr.Tabs():
            with gr.Tab("Draw"):
                _draw_tab(pipeline, options, None if folder is None else RunFolder(folder).samples)
            with gr.Tab("Noise"):
                _noise_tab(pipeline, _value_range_of(folder))
            with gr.Tab("Schedule"):
                _schedule_tab(pipeline)
    return app


def _message(error: UserError) -> gr.Error:
    return gr.Error(html.escape(sentence(error), quote=False), title="Not possible", print_exception=False)


@contextmanager
def _in_words() -> Iterator[None]:
    """Show a mistake of the visitor as a message on the page."""
    try:
        yield
    except UserError as error:
        raise _message(error) from None


def _with_parameters(function: Callable[..., Any], names: Iterable[str]) -> Callable[..., Any]:
    """Name the parameters of a function, which programs send values by."""
    named: Any = functools.partial(function)
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named.__signature__ = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    return named


def _component(option: Option) -> Any:
    """Return the component for an option. It passes on what was sent, because the checks of options name the cure."""
    component: Any
    words: dict[str, Any] = {"value": option.default, "label": option.label, "info": option.info}
    if isinstance(option, Choice):
        component = gr.Dropdown(list(option.choices), visible=option.is_offered, **words)
    elif option.minimum < option.maximum <= _NUM_SEEDS:
        component = gr.Slider(option.minimum, option.maximum, step=option.step, visible=option.is_offered, **words)
    else:
        # Nobody needs to see a number that has a single value.
        component = gr.Number(visible=option.minimum < option.maximum, **words)
    component.preprocess = lambda payload: payload
    return component


def _seed_with_die(option: Option) -> Any:
    with gr.Group():
        seed = _component(option)
        die = gr.Button("⚄ New seed", size="md")
    die.click(lambda: random.randrange(_NUM_SEEDS), None, seed, **_AT_ONCE)
    return seed


def _draw_tab(pipeline: DDPMCarsPipeline, options: Mapping[str, Option], samples: Path | None) -> None:
    controls: dict[str, Any] = {}
    image: Image.Image | None = None
    try:
        image, words = first_view(pipeline, check_request(pipeline, options, {}), samples)
    except UserError as error:
        words = sentence(error)
    with gr.Row():
        with gr.Column(scale=3, min_width=300):
            with gr.Row():
                start = gr.Button("Draw", variant="primary", scale=2, min_width=120)
                stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90)
            status = gr.HTML(progress(0, words))
            grid = _image("Images", image, height="min(430px, 86vw)")
            download = gr.DownloadButton("Download as PNG", interactive=False)
        with gr.Column(scale=2, min_width=300):
            for name in ("num_images", "steps"):
                controls[name] = _component(options[name])
            controls["seed"] = _seed_with_die(options["seed"])
            controls["label"] = _component(options["label"])
            with gr.Accordion("Advanced", open=False):
                for name in ("scheduler", "variance", "guidance", "watched"):
                    controls[name] = _component(options[name])
            with gr.Column(visible=False) as way:
                gr.HTML("The way out of the noise", elem_classes="caption")
                film = _image("The way out of the noise", height="min(360px, 86vw)")
    reached = gr.State((0, 0))
    # The buttons answer at once, although a drawing may wait for its turn.
    begun = start.click(
        lambda: (
            progress(0, "Waiting for its turn."),
            (0, 0),
            gr.update(interactive=False),
            gr.update(interactive=True),
        ),
        None,
        [status, reached, start, stop],
        **_AT_ONCE,
    )
    drawing = begun.then(
        _with_parameters(functools.partial(_draw, pipeline, options), options),
        [controls[name] for name in options],
        [status, grid, way, film, download, reached],
        show_progress="hidden",
        api_name="draw",
        concurrency_limit=_CONCURRENT_DRAWINGS,
    )
    idle = (gr.update(interactive=True), gr.update(interactive=False))
    for finished in (drawing.then, drawing.failure):
        finished(lambda: idle, None, [start, stop], **_AT_ONCE)
    # The message follows the end of the drawing, or the next frame would replace it.
    ended = stop.click(None, cancels=[drawing], **_AT_ONCE)
    ended.then(lambda at: (progress_when_stopped(*at), *idle), reached, [status, start, stop], **_AT_ONCE)
    scheduler, fitting = controls["scheduler"], [controls["variance"], controls["watched"]]
    for control, is_fitting in zip(fitting, _fits(options["scheduler"].default), strict=True):
        control.visible = is_fitting
    scheduler.change(
        lambda name: [gr.update(visible=is_fitting) for is_fitting in _fits(name)], scheduler, fitting, **_AT_ONCE
    )


def _fits(scheduler: Any) -> tuple[bool, bool]:
    """Return whether a sampler has a choice of a variance, and a guess to watch."""
    return scheduler == OWN_SCHEDULER, scheduler in WATCHABLE


def _draw(pipeline: DDPMCarsPipeline, options: Mapping[str, Option], *sent: Any) -> Iterator[tuple[Any, ...]]:
    """Yield values for the status, the grid, the column of the film, the film, the download and what is reached."""
    values, done = dict(zip(options, sent, strict=True)), 0.0
    empty = (gr.update(visible=False), None, gr.update(value=None, interactive=False))
    try:
        request = check_request(pipeline, options, values)
        steps, frames = request.num_inference_steps, list[Image.Image]()
        watched, start = options["watched"].check(values["watched"]), time.monotonic()
        for frame in draw(pipeline, request):
            frames.append(enlarged(frame.images))
            done, status = frame.step / steps, progress_of(request, frame.step, time.monotonic() - start)
            if frame.step < steps:
                shown = enlarged(frame.guesses) if watched == GUESS and frame.guesses else frames[-1]
                yield status, shown, *(empty if frame.step == 0 else (gr.skip(),) * 3), (frame.step, steps)
    except UserError as error:
        yield progress(done, sentence(error)), *(gr.skip(),) * 5
        raise _message(error) from None
    # Gradio copies the files when it is given their paths.
    with tempfile.TemporaryDirectory(prefix="ddpm_cars_demo_") as folder:
        name = f"seed_{request.seed}_images_{request.num_images}_steps_{steps}"
        png, webp = save_png(frames[-1], Path(folder) / f"{name}.png"), Path(folder) / f"{name}.webp"
        webp.write_bytes(animation(frames))
        saved = gr.update(value=str(png), interactive=True)
        yield status, frames[-1], gr.update(visible=True), str(webp), saved, (steps, steps)


def _noise_tab(pipeline: DDPMCarsPipeline, value_range: ValueRange | None) -> None:
    options, size = noise_options(pipeline), resolution_of(pipeline)
    car = _toy_car(pipeline, 0)
    first = _looked(pipeline, car, *(option.default for option in options.values()))
    image = gr.State(car)
    with gr.Row(elem_classes="three"):
        x_0 = _panel("Image x<sub>0</sub>", enlarged([car]))
        x_t = _panel("Noisy x<sub>t</sub>", first[0])
        x_0_hat = _panel("Guess x̂<sub>0</sub>", first[1])
    words = gr.HTML(first[2])
    t = _component(options["t"])
    with gr.Row():
        with gr.Column(min_width=300):
            upload = gr.UploadButton("Use an image of yours", variant="primary", file_types=["image"])
            another = gr.Button("Another toy car")
            gr.HTML(
                f"The image is cut to a square of {size}x{size} pixels. The guess is what the network makes of the "
                "noisy image in one look; drawing takes many small steps instead.",
                elem_classes="note",
            )
        with gr.Column(min_width=300):
            controls = [t, _seed_with_die(options["seed"]), _component(options["label"])]
    look = _in_words()(functools.partial(_looked, pipeline))
    for control in controls:
        control.change(
            look,
            [image, *controls],
            [x_t, x_0_hat, words],
            show_progress="hidden",
            trigger_mode="always_last",
            api_name="noise" if control is t else None,
            api_visibility="public" if control is t else "private",
        )
    arguments: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    for event, function, source in (
        (upload.upload, functools.partial(_own_image, pipeline, value_range), upload),
        (another.click, lambda: _shown(_toy_car(pipeline, random.randrange(_NUM_SEEDS))), None),
    ):
        loaded = event(function, source, [image, x_0], **arguments)
        loaded.success(look, [image, *controls], [x_t, x_0_hat, words], **arguments)


def _value_range_of(folder: str | Path | None) -> ValueRange | None:
    """Return the values that were black and white in training, which those of a visitor's image are then as well."""
    value_range = None if folder is None else RunFolder(folder).read_settings().get("value_range")
    return None if value_range is None else (float(value_range[0]), float(value_range[1]))


def _panel(caption: str, value: Image.Image) -> gr.Image:
    # Three stand in a row on a phone, too, so that the slider below them stays in sight.
    with gr.Column(min_width=90):
        gr.HTML(caption, elem_classes="caption")
        return _image(re.sub("<.*?>", "", caption), value, buttons=[])


def _image(label: str, value: Image.Image | None = None, **options: Any) -> gr.Image:
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


def _toy_car(pipeline: DDPMCarsPipeline, seed: int) -> Image.Image:
    mode = "L" if pipeline.unet.config.in_channels == 1 else "RGB"
    return draw_car(seed, resolution_of(pipeline)).convert(mode)


@_in_words()
def _own_image(
    pipeline: DDPMCarsPipeline, value_range: ValueRange | None, path: Any
) -> tuple[Image.Image, Image.Image]:
    if not isinstance(path, str):
        raise UserError("there is no file; choose an image")
    return _shown(squared(path, pipeline, value_range))


def _shown(image: Image.Image) -> tuple[Image.Image, Image.Image]:
    return image, enlarged([image])


def _looked(pipeline: DDPMCarsPipeline, image: Image.Image, t: Any, seed: Any, label: Any) -> tuple[Any, Any, str]:
    seen = noised(pipeline, image, t, seed, label)
    return enlarged([seen.x_t]), enlarged([seen.x_0_hat]), level(int(t), seen)


def _schedule_tab(pipeline: DDPMCarsPipeline) -> None:
    option = schedule_steps(pipeline)
    steps = _component(option)
    drawings = gr.HTML(plots(pipeline, option.default))
    steps.change(
        _in_words()(functools.partial(plots, pipeline)),
        steps,
        drawings,
        show_progress="hidden",
        trigger_mode="always_last",
        api_name="schedule",
    )
