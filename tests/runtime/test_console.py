"""Lines and warnings that come once, and progress on a terminal and in a log file."""

import errno
import io
import logging
import re
import sys
from pathlib import Path

import pytest
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.runtime.console import progress, progress_style, say, warn, words_end_no_work
from tests.support.fresh_process import run_alone


def test_the_main_process_speaks_and_the_others_do_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    say("a line")
    warn("a danger")
    monkeypatch.setenv("RANK", "1")
    say("again")
    warn("again")
    assert capsys.readouterr() == ("a line\n", "warning: a danger\n")


class Broken(io.StringIO):
    """A stream to a full disk."""

    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def flush(self) -> None:
        self.write("")


def test_words_that_cannot_be_said_end_no_work(monkeypatch: pytest.MonkeyPatch):
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed, None):
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(sys, "stderr", stream)
        say("a line")
        warn("a danger")
        lines = progress_style()["file"]
        for text in ("\rtraining: 3", "\n"):
            lines.write(text)
        lines.flush()
        if stream is not None:
            with words_end_no_work():
                print("a line", flush=True)
                logging.lastResort.handle(logging.LogRecord("x", 40, "x", 1, "a danger", None, None))  # type: ignore[union-attr]
                assert sys.stderr.closed == stream.closed
            assert sys.stdout is stream


def test_a_command_repeats_no_warning_of_a_logger(tmp_path: Path):
    """In a process of its own: the handlers of a test runner take the place of the one that is meant here."""
    run_alone(
        """
import io, logging
from contextlib import redirect_stderr
from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.runtime.console import each_warning_once

def lines(times):
    with redirect_stderr(io.StringIO()) as stream:
        for _ in range(times):
            DDPMCarsScheduler(variance_type="unknown")
            logging.getLogger("ddpm_cars.evaluation.evaluate").warning("measured anew")
    return stream.getvalue().splitlines()

with each_warning_once():
    said = lines(3)
    assert len(said) == 2
    assert all(line.startswith("warning: ") for line in said)
    assert len(lines(1)) == 0
assert len(lines(3)) == 6
""",
        tmp_path,
    )


def count(num: int, *, is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return what a progress bar shows of a count."""
    stream = io.StringIO()
    stream.isatty = lambda: is_terminal  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", stream)
    with progress(total=num, desc="training", unit="step") as bar:
        for i in range(num):
            bar.set_postfix_str(f"loss {i}")
            bar.update()
    return stream.getvalue()


def test_a_terminal_gets_a_bar_and_a_log_file_lines(monkeypatch: pytest.MonkeyPatch):
    bar = count(1200, is_terminal=True, monkeypatch=monkeypatch)
    assert re.search(r"\rtraining: +100%\|.*\| 1200/1200 .*loss 1199", bar)
    lines = count(1200, is_terminal=False, monkeypatch=monkeypatch)
    assert lines == "training: step 1,200 of 1,200, 00:00 left, loss 1199\n"


def test_lines_come_in_time(monkeypatch: pytest.MonkeyPatch):
    clock = iter(range(1000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(clock)))
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    # An inner bar, as tqdm draws it on the line below, leaves nothing at its end.
    lines = progress_style()["file"]
    for step in range(80):
        for text in ("\n", f"\rdenoising: {step}", "\x1b[A"):
            lines.write(text)
    for text in ("\n", "\r            ", "\x1b[A", "\r"):
        lines.write(text)
    said = [int(line.removeprefix("denoising: ")) for line in stream.getvalue().splitlines()]
    # Each look at the clock is a second.
    assert said == [4, 34, 64]


def test_the_bar_of_a_pipeline_is_lines_too(monkeypatch: pytest.MonkeyPatch, unet: UNet2DModel):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    pipeline = DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=20))
    pipeline.set_progress_bar_config(**progress_style(), desc="denoising")
    pipeline(num_inference_steps=3)
    assert stream.getvalue() == "denoising: step 3 of 3, 00:00 left\n"
