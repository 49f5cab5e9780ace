"""Where the demo page is served: what is said of addresses that cannot be had, and what the command prints."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ddpm_cars.cli import commands as cli
from ddpm_cars.demo.serving import check_address
from ddpm_cars.errors import UserError
from tests.support.patience import PATIENCE_SECONDS

# A foreign address would be a look into a network that was not asked for.
DEMO = """
import socket
connect = socket.socket.connect
def local_only(self, address):
    assert self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"), address
    return connect(self, address)
socket.socket.connect = local_only
from ddpm_cars.cli.program import main
main()
"""


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_busy_port_and_a_foreign_address_are_told_apart(busy_port: int):
    check_address("127.0.0.1", None)
    check_address("localhost", None)
    check_address("0.0.0.0", None)
    with pytest.raises(UserError, match=f"server_port is {busy_port}, which another program uses; give another"):
        check_address("127.0.0.1", busy_port)
    for name in ("no.such.name.invalid", "203.0.113.7", "a" * 300):
        with pytest.raises(UserError, match=f"server_name is '{name}', which is no address of this machine"):
            check_address(name, None)


def test_the_command_says_where_the_page_is_and_ctrl_c_ends_it_in_a_line(tmp_path: Path):
    log = tmp_path / "log"
    settings = {"OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(tmp_path / "files")}
    command = [sys.executable, "-c", DEMO, "demo", "--server_name", "0.0.0.0"]
    with log.open("w") as file:
        process = subprocess.Popen(command, env={**os.environ, **settings}, stdout=file, stderr=file)
    try:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            if "Ctrl-C" in log.read_text() or process.poll() is not None:
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
    text = log.read_text()
    assert process.returncode == 130, text
    said = [line for line in text.splitlines() if line and "Loading pipeline" not in line]
    computing, local, stop, last = said
    assert computing.startswith("computing on "), text
    assert local.startswith("The page is at http://localhost:")
    assert f"for other machines at http://{socket.gethostname()}:" in local
    assert stop == "Ctrl-C ends it."
    assert last.endswith("demo: interrupted")


def test_a_port_in_use_is_said_before_a_model_is_loaded(busy_port: int, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as caught:
        cli.demo(["--server_port", str(busy_port), "--pretrained_model_name_or_path", "no/folder"])
    assert caught.value.code == 2
    line = f"error: server_port is {busy_port}, which another program uses; give another, or leave it out"
    assert line in capsys.readouterr().err
