"""Signals that wait for the end of a step."""

import os
import signal
import threading

import pytest

from ddpm_cars.runtime.processes import StopNotice


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_remembered_and_the_next_one_acts(signum: signal.Signals):
    came = []
    previous = signal.signal(signum, lambda *_: came.append("usual"))
    try:
        with StopNotice() as notice:
            assert notice.signum is None
            os.kill(os.getpid(), signum)
            assert (notice.signum, came) == (signum, [])
            os.kill(os.getpid(), signum)
            assert came == ["usual"]
        os.kill(os.getpid(), signum)
        assert came == ["usual", "usual"]
    finally:
        signal.signal(signum, previous)


def test_outside_the_main_thread_signals_stay_with_the_caller():
    handlers = []

    def enter() -> None:
        with StopNotice():
            handlers.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert handlers == [before]
