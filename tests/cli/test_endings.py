"""Commands that are interrupted, or whose reader has gone, end in one line or none."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import ddpm_cars
from ddpm_cars.cli.commands import COMMANDS

COMMAND = [sys.executable, "-m", "ddpm_cars"]


@pytest.mark.parametrize("argv", [["--help"], ["train", "--help"], ["train", "--print_config"]])
def test_a_reader_that_has_gone_is_no_error(argv: list[str]):
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *argv], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no full disk to print to")
def test_a_full_disk_under_a_result_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "train", "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    said = "python -m ddpm_cars train: error: what is printed cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, said)


@pytest.mark.parametrize("streams", ["1>&-", "2>&-", "1>&- 2>&-", ">/dev/full 2>&1", "1>&- 2>/dev/full"])
def test_an_error_that_cannot_be_said_has_its_code_and_goes_nowhere_else(streams: str):
    if "full" in streams and not Path("/dev/full").exists():
        pytest.skip("there is no full disk to print to")
    done = subprocess.run(["sh", "-c", f'"$@" {streams}', "sh", *COMMAND, "tain"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert ("there is no command tain" in done.stderr) == (streams == "1>&-")


@pytest.mark.parametrize("streams", [">/dev/full 2>&1", ">&- 2>&-", "2>&1 | true"])
def test_words_that_cannot_be_said_cost_no_results(streams: str, tmp_path: Path):
    if "full" in streams and not Path("/dev/full").exists():
        pytest.skip("there is no full disk to print to")
    words = [*COMMAND, "toy-cars", "--output_dir", "cars", "--num_train_images", "1", "--num_test_images", "1"]
    script = f'{{ "$@"; echo $? > code; }} {streams}'
    subprocess.run(["sh", "-c", script, "sh", *words], cwd=tmp_path, check=True)
    assert (tmp_path / "code").read_text() == "0\n"
    assert len([*(tmp_path / "cars").rglob("*.png")]) == 2


SLOW = """
import signal, sys, types
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    # Torch is being imported when the user presses Ctrl-C; what it makes of an exception is not known.
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                pass

sys.meta_path.insert(0, Finder())
from ddpm_cars.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "argv",
    [
        ["train", "--train_data_dir", str(ddpm_cars.pretrained())],
        ["sample", "--pretrained_model_name_or_path", str(ddpm_cars.pretrained())],
        ["demo"],
        ["push", str(ddpm_cars.pretrained()), "cars"],
    ],
    ids=lambda argv: argv[0],
)
def test_an_interruption_while_libraries_are_imported_is_one_line(argv: list[str], tmp_path: Path):
    done = subprocess.run([sys.executable, "-c", SLOW, *argv], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, f"ddpm-cars {argv[0]}: interrupted\n")
    assert not [*tmp_path.iterdir()]


def test_an_interruption_before_that_is_one_line_too(tmp_path: Path):
    early = SLOW.replace('"torch"', '"yaml"').replace(
        "except KeyboardInterrupt:\n                pass", "finally:\n                pass"
    )
    early = early.replace("ddpm_cars.cli import", "ddpm_cars.__main__ import").replace("main(sys.argv[1:])", "main()")
    done = subprocess.run([sys.executable, "-c", early, "train"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (130, "ddpm-cars: interrupted\n")


def test_an_interruption_later_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ddpm_cars.toy_cars.dataset.write_toy_cars", interrupted)
    with pytest.raises(SystemExit) as stop:
        COMMANDS["toy-cars"]([], "ddpm-cars toy-cars")
    assert (stop.value.code, capsys.readouterr().err) == (130, "ddpm-cars toy-cars: interrupted\n")
