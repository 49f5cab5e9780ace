"""Mistakes with the commands: one line that says what to do instead."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.utils import LoggerType
from PIL import Image

from ddpm_cars.cli import commands as cli
from tests.support.patience import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ["--train_data_dir", "pictures"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(2):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def one_line_error(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command line that must fail with exit code 2 and a single line on stderr, and return the line."""

    def fail(command: Callable, argv: list[str]) -> str:
        with pytest.raises(SystemExit) as stop:
            command(argv)
        assert stop.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        # The bars of reading images may come before it.
        lines = printed.err.replace("\r", "\n").splitlines()
        (line,) = (line for line in lines if line.strip() and "%|" not in line and "examples" not in line)
        assert ": error: " in line
        return line

    return fail


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ([*PICTURES, "--learning_rte", "1"], "there is no --learning_rte; did you mean --learning_rate?"),
        ([*PICTURES, "--learning-rate=1"], "there is no --learning-rate; give --learning_rate"),
        ([*PICTURES, "--ddpm_num_steps", "300"], "there is no --ddpm_num_steps; give --num_train_timesteps"),
        (
            [*PICTURES, "--center_crop", "--seeed", "1"],
            "there is no --center_crop; give --resize crop; there is no --seeed; did you mean --seed?",
        ),
        ([*PICTURES, "--resume_from_checkpoint=latest"], "the same command continues"),
        ([*PICTURES, "--learn", "1"], "--learn"),
        ([*PICTURES, "stray"], "stray"),
        ([*PICTURES, "--learning_rate", "fast"], "learning_rate"),
        ([*PICTURES, "--train_batch_size", "2.5"], "train_batch_size"),
        ([*PICTURES, "--preset", "huge"], "preset"),
        ([*PICTURES, "--use_ema", "perhaps"], "use_ema"),
        ([*PICTURES, "--seed"], "seed"),
        ([*PICTURES, "--resolution", "4"], "resolution is 4"),
        ([*PICTURES, "--config=nowhere.yaml", "--config"], "--config has no value; give --config FILE"),
        ([*PICTURES, "--config", "nowhere.yaml"], "--config nowhere.yaml is neither a file nor a recipe"),
        ([], "train_data_dir"),
        (["--train_data_dir", "/no/such folder"], "/no/such folder is not a folder"),
    ],
    ids=lambda value: " ".join(value[2:] or value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_one_line(
    argv: list[str], word: str, one_line_error: Callable[..., str], tmp_path: Path
):
    output_dir = tmp_path / "out"
    tail = [] if argv[-1:] in (["--seed"], ["--config"]) else ["--preset=tiny", f"--output_dir={output_dir}"]
    if "--preset" in argv:
        tail = tail[1:]
    assert word in one_line_error(cli.train, [*argv, *tail] if tail else argv)
    assert not (output_dir / "model_index.json").exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("learning_rte: 1\n", "run.yaml, line 1: there is no setting learning_rte; did you mean learning_rate?"),
        ("save_images_epochs: 1\n", "give save_images_steps, counted in steps"),
        ("learning_rate: fast\n", "learning_rate"),
        ("preset: huge\n", "preset"),
        ("seed: -3\n", "seed is -3"),
        ("seed: [1\n", "run.yaml, line 2 is not YAML: expected"),
    ],
    ids=["key", "stock's key", "value", "choice", "range", "syntax"],
)
def test_a_mistake_in_a_file_is_one_line(text: str, word: str, tmp_path: Path, one_line_error: Callable[..., str]):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert word in one_line_error(cli.train, [*PICTURES, "--config", str(path)])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--resolution", "9"], "resolution is 9"),
        (["--resolution", "8", "--split", "validation"], "validation"),
        (["--resolution", "8", "--image_column", "photo"], "photo"),
        (["--resolution", "8", "--model_config", "nowhere.json"], "nowhere.json"),
    ],
    ids=["resolution", "split", "column", "model"],
)
def test_what_does_not_fit_together_is_one_line_and_trains_nothing(
    flags: list[str], words: str, pictures: Path, tmp_path: Path, one_line_error: Callable[..., str]
):
    argv = ["--train_data_dir", str(pictures), "--cache_dir", str(tmp_path / "cache"), "--preset", "tiny"]
    line = one_line_error(cli.train, [*argv, "--output_dir", str(tmp_path / "out"), *flags])
    assert words in line
    assert not (tmp_path / "out" / "model_index.json").exists()


@pytest.mark.parametrize(
    ("command", "argv", "words"),
    [
        (cli.sample, [], "pretrained_model_name_or_path"),
        (cli.sample, ["--pretrained_model_name_or_path", "/no/such/model"], "/no/such/model"),
        (cli.sample, ["--pretrained_model_name_or_path", "m", "--num_images", "0"], "num_images is 0"),
        (cli.show, ["--train_data_dir", "/no/such/folder"], "/no/such/folder"),
        (cli.show, [], "give the images with exactly one of --train_data_dir (a folder) and --dataset_name"),
        (cli.evaluate, [], "give exactly one of --pretrained_model_name_or_path (a model) and --compare (two models)"),
        (cli.draw_toy_cars, ["--num_train_images", "-1"], "num_train_images is -1"),
        (cli.draw_toy_cars, ["--colour", "red"], "--colour"),
    ],
)
def test_mistakes_with_the_other_commands_are_one_line(
    command: Callable, argv: list[str], words: str, one_line_error: Callable[..., str]
):
    assert words in one_line_error(command, argv)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["model", "me/model", "--repo_id", "me/model"], "there is no --repo_id"),
        (["model", "me/model", "--center_crop"], "there is no --center_crop"),
    ],
    ids=["by position only", "of another command"],
)
def test_a_cure_is_never_one_that_the_command_does_not_know(
    argv: list[str], words: str, one_line_error: Callable[..., str]
):
    assert one_line_error(cli.push_to_hub, argv).endswith(words)


@pytest.mark.parametrize("dry_run", ["true", "false"])
def test_a_tracker_that_is_not_installed_stops_a_run_before_it_begins(
    dry_run: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_line_error: Callable[..., str],
    fresh_accelerate: None,
):
    monkeypatch.setattr("accelerate.tracking._available_trackers", [LoggerType.TENSORBOARD])
    argv = ["--train_data_dir", str(pictures), "--output_dir", str(tmp_path / "out"), "--dry_run", dry_run]
    line = one_line_error(cli.train, [*argv, "--logger", "wandb"])
    assert line.endswith("error: logger wandb needs wandb: pip install wandb")
    assert not (tmp_path / "out").exists()


def test_a_wrong_flag_ends_the_script_without_a_traceback():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *PICTURES, "--learning_rte", "1"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={name: value for name, value in os.environ.items() if name != "RANK"},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "learning_rte" in done.stderr.splitlines()[-1]
