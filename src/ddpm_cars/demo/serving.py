"""Serving the demo page: its address, its look, and its end."""

import errno
import socket
import time
from pathlib import Path
from typing import Any

import gradio as gr

from ddpm_cars.demo.app import build_app
from ddpm_cars.demo.markup import CSS
from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runtime.console import note, say
from ddpm_cars.runtime.hardware import default_precision, describe_computing
from ddpm_cars.runtime.threads import ComputingThreads
from ddpm_cars.sampling.generate import move_for_inference

_MAX_UPLOAD = "20mb"
# Addresses that let other machines in, in the words of IPv4 and IPv6.
_EVERY_ADDRESS = ("0.0.0.0", "::", "[::]")


def check_address(server_name: str, server_port: int | None) -> None:
    """Check that a page can be served at an address.

    Args:
        server_name: A name or an IP address of this machine.
        server_port: The port, None for any.

    Raises:
        UserError: If this machine does not have the address, or the port is in use or reserved.
    """
    try:
        found = socket.getaddrinfo(server_name.strip("[]"), server_port, type=socket.SOCK_STREAM)
        family, kind, *_, address = found[0]
        with socket.socket(family, kind) as probe:
            # A port is free although connections of an earlier page are still closing.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            problem = f"server_port is {server_port}, which another program uses; give another, or leave it out"
        elif number == errno.EACCES:
            problem = f"server_port is {server_port}, which is reserved for the system; give 1024 or more"
        else:
            problem = (
                f"server_name is {server_name!r}, which is no address of this machine; give 127.0.0.1, or 0.0.0.0 "
                "to let other machines in"
            )
        raise UserError(problem) from error


def launch(app: gr.Blocks, **settings: Any) -> None:
    """Serve a page until the process ends, and say where.

    Args:
        app: What `build_app` returns.
        settings: As `gr.Blocks.launch` takes them, such as `server_name` and `server_port`. The environment
            variables of gradio replace those that are left out.

    Raises:
        OSError: If the port is in use.
        KeyboardInterrupt: If somebody has pressed Ctrl-C; the page is closed.
    """
    app.launch(
        theme=_theme(), css=CSS, footer_links=["api"], max_file_size=_MAX_UPLOAD, ssr_mode=False, quiet=True,
        prevent_thread_lock=True, **settings,
    )  # fmt: skip
    where = str(app.local_url).rstrip("/")
    if app.server_name in _EVERY_ADDRESS:
        where += f", for other machines at {app.protocol}://{socket.gethostname()}:{app.server_port}"
    say(f"The page is at {where}\nCtrl-C ends it.")
    try:
        while app.is_running:
            time.sleep(0.1)
    finally:
        app.close(verbose=False)


def place_model(pipeline: DDPMCarsPipeline, mixed_precision: str | None = None) -> None:
    """Place a model where this process draws quickest, with as many threads as cores are free, and say where.

    Args:
        pipeline: The model.
        mixed_precision: The precision of its network, "no", "fp16" or "bf16"; None is `default_precision`.
    """
    from accelerate import PartialState

    device = PartialState().device
    precision = mixed_precision or default_precision(device)
    note(describe_computing(device, precision))
    # For as long as the process lives.
    ComputingThreads(device.type)
    move_for_inference(pipeline, device, precision)


def serve_folder(folder: str | Path) -> None:
    """Serve the page of a model folder as the environment variables of gradio say, which is what a Space needs.

    Args:
        folder: A saved pipeline.

    Raises:
        UserError: If the page cannot show images of this model.
        OSError: If there is no model in the folder, or the port is in use.
    """
    pipeline = DDPMCarsPipeline.from_pretrained(folder)
    place_model(pipeline)
    launch(build_app(pipeline, Path(folder).resolve().name, folder=folder))


def _theme() -> gr.themes.Base:
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
    mono = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
    # The greys and the blue of the theme are too pale for small letters and for white ones (WCAG 2.2, 1.4.3).
    small, small_dark, primary = "*neutral_600", "*neutral_300", "*primary_600"
    return gr.themes.Soft(primary_hue="blue", neutral_hue="slate", font=fonts, font_mono=mono).set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued=small,
        body_text_color_subdued_dark=small_dark,
        block_info_text_color=small,
        block_info_text_color_dark=small_dark,
        block_title_background_fill="none",
        block_title_background_fill_dark="none",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        button_primary_background_fill=primary,
        button_primary_background_fill_hover="*primary_700",
    )
