"""Lines and warnings that come once."""

from pathlib import Path

import pytest

from ddpm_cars.runtime.console import say, warn
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
    assert len(lines(3)) == 2
    assert len(lines(1)) == 0
assert len(lines(3)) == 6
""",
        tmp_path,
    )
