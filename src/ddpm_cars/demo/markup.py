"""The words, the markup and the style of the demo page."""

import html

from ddpm_cars.demo.drawing import Noised, seeds_of
from ddpm_cars.demo.requests import resolution_of
from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.sampling.request import SamplingRequest

CSS = """
.gradio-container {width: 100%; max-width: 1180px !important; margin: 0 auto !important;}
.headline h1 {font-size: 1.7rem; font-weight: 650; margin: 0.6rem 0 0.2rem; overflow-wrap: anywhere;}
.headline p, .note {color: var(--body-text-color-subdued); margin: 0;}
.headline p {margin-left: -0.6em; clip-path: inset(0 0 0 0.6em);}
.headline span {display: inline-block; white-space: nowrap;}
.headline span::before {content: "·"; display: inline-block; width: 0.6em;}
.pixels img {image-rendering: pixelated; object-fit: contain;}
.caption {font-weight: 600; margin: 0.2rem 0 -0.4rem; padding: 0 !important; text-align: center;}
.three .caption {white-space: nowrap;}
.three .icon-button-wrapper {display: none;}
.progress {display: flex; flex-direction: column; gap: 0.45rem; min-height: 2.2rem;}
.progress .track {height: 6px; border-radius: 3px; background: var(--border-color-primary); overflow: hidden;}
.progress .track div {height: 100%; border-radius: 3px; background: var(--color-accent);}
.plots {display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 310px), 1fr)); gap: 1.5rem 1rem;}
.plots figure {margin: 0;}
.plots figcaption {font-weight: 600; margin-bottom: 0.4rem;}
.plots svg {width: 100%; height: auto; display: block;}
.level {font-size: 1.05rem; margin: 0; text-align: center;}
@media (max-width: 700px) {.level {min-height: 5em;} .progress {min-height: 3.4rem;}}
footer .divider {display: none;}
"""

_LEVELS = (
    (100.0, "the noise can hardly be seen"),
    (4.0, "the image is well above the noise"),
    (0.25, "image and noise are about equally strong"),
    (0.01, "the noise covers most of the image"),
    (0.0, "next to nothing of the image is left"),
)


def headline(pipeline: DDPMCarsPipeline, name: str) -> str:
    """Return the heading of the page: the name of a model, its resolution, T and the number of its parameters."""
    size, count = resolution_of(pipeline), sum(p.numel() for p in pipeline.unet.parameters())
    parameters = f"{count / 1e6:.1f} million" if count >= 1e6 else f"{count:,}"
    T = pipeline.scheduler.config.num_train_timesteps
    facts = f"<span>{size}x{size} pixels</span> <span>T = {T}</span> <span>{parameters} parameters</span>"
    return f"<h1>{html.escape(name)}</h1><p>{facts}</p>"


def sentence(error: UserError) -> str:
    """Return what a visitor is told of an error."""
    text = str(error)
    return f"{text[:1].upper()}{text[1:]}."


def progress(done: float, text: str) -> str:
    """Return a bar and a line of text; `done` runs from 0 to 1."""
    percent = f"{100 * done:.0f}"
    return (
        f'<div class="progress"><div class="track" role="progressbar" aria-label="Progress of the drawing" '
        f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}"><div style="width: {percent}%"></div></div>'
        f'<span class="note" role="status">{html.escape(text)}</span></div>'
    )


def progress_of(request: SamplingRequest, step: int, seconds: float) -> str:
    """Return the progress of a drawing after some seconds."""
    steps, seeds = request.num_inference_steps, seeds_of(request)
    if step == 0:
        text = f"Noise of {seeds}"
    elif step < steps:
        text = f"Step {step} of {steps}, {seconds / step * (steps - step):.0f} s left"
    else:
        text = f"{seeds.capitalize()}, {steps} step{'s' if steps > 1 else ''} in {seconds:.1f} s"
    return progress(step / steps, text)


def progress_when_stopped(step: int, steps: int) -> str:
    """Return the progress of a drawing that a visitor has stopped; `steps` is 0 if it had not begun."""
    if not steps:
        return progress(0, "Stopped before it began.")
    return progress(step / steps, f"Stopped at step {step} of {steps}.")


def level(t: int, seen: Noised) -> str:
    """Return a line that says how much of an image is left at t."""
    words = next(words for snr, words in _LEVELS if seen.snr >= snr)
    return (
        f"<p class='level'><b>t = {t}</b>: ᾱ = {seen.alpha_bar:.3g}, signal-to-noise ratio {seen.snr:.3g}. "
        f"{words.capitalize()}.</p>"
    )
