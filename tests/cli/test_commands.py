"""Settings, and the command lines that give them."""

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml
from accelerate.utils import LoggerType
from PIL import Image

from ddpm_cars.cli import commands as cli
from ddpm_cars.cli.parser import parse
from ddpm_cars.cli.stock_flags import STOCK_FLAGS, with_cures
from ddpm_cars.config.commands import CalibrateConfig, EvaluateConfig, SampleConfig, ShowConfig, ToyCarsConfig
from ddpm_cars.config.training import TrainCommandConfig, TrainingConfig
from ddpm_cars.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ["--train_data_dir", "pictures"]
CONFIGS = {
    TrainingConfig: PICTURES,
    ShowConfig: PICTURES,
    SampleConfig: ["--pretrained_model_name_or_path", "model"],
    CalibrateConfig: [*PICTURES, "--pretrained_model_name_or_path", "model"],
    ToyCarsConfig: [],
}


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
    ("changes", "words"),
    [
        ({"train_data_dir": None}, "exactly one of train_data_dir"),
        ({"dataset_name": "cars"}, "exactly one of train_data_dir"),
        ({"resolution": 7}, "resolution is 7; it must be 8 or more"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"beta_start": 0.0}, r"beta_start is 0\.0"),
        ({"beta_start": 0.03}, "beta_start <= beta_end"),
        ({"beta_end": 1.0}, r"beta_end is 1\.0"),
        ({"beta_end": float("nan")}, "beta_end is nan"),
        ({"scale_betas_for_timesteps": True, "num_train_timesteps": 15}, "a beta of 1.333; .* must be above 20"),
        ({"rescale_betas_zero_snr": True}, "epsilon .* give prediction_type v_prediction or sample"),
        ({"train_batch_size": 0}, "train_batch_size is 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"max_train_steps": 0}, "max_train_steps is 0"),
        ({"checkpointing_steps": 0}, "checkpointing_steps is 0"),
        ({"checkpoints_total_limit": 0}, "checkpoints_total_limit is 0"),
        ({"save_images_steps": -1}, "save_images_steps is -1"),
        ({"logging_steps": 0}, "logging_steps is 0"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 1001}, "cannot exceed num_train_timesteps, 1000"),
        ({"num_inference_steps": 11, "num_train_timesteps": 10}, "cannot exceed num_train_timesteps, 10"),
        ({"lr_warmup_steps": -1}, "lr_warmup_steps is -1"),
        ({"learning_rate": -1e-4}, "learning_rate is -0.0001"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"adam_weight_decay": -0.1}, "adam_weight_decay is -0.1"),
        ({"adam_epsilon": -1e-8}, "adam_epsilon is -1e-08"),
        ({"seed": -1}, "seed is -1"),
        ({"adam_beta1": 1.0}, r"adam_beta1 is 1\.0; it must be in \[0, 1\)"),
        ({"adam_beta2": -0.1}, r"adam_beta2 is -0\.1"),
        ({"ema_half_life_steps": (5, 0)}, r"ema_half_life_steps is \(5, 0\)"),
        ({"ema_inv_gamma": 0.0}, r"ema_inv_gamma is 0\.0; it must be above 0"),
        ({"ema_power": -0.75}, r"ema_power is -0\.75"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm is 0\.0"),
        ({"dropout": 1.0}, r"dropout is 1\.0; it must be in \[0, 1\)"),
        ({"class_dropout_prob": 1.0}, r"class_dropout_prob is 1\.0; it must be in \[0, 1\)"),
        ({"max_bad_images_fraction": 1.0}, r"max_bad_images_fraction is 1\.0; it must be in \[0, 1\)"),
        ({"snr_gamma": 0.0}, r"snr_gamma is 0\.0; it must be above 0"),
        ({"vlb_weight": 0.0}, r"vlb_weight is 0\.0; it must be above 0"),
        ({"max_skipped_steps": -1}, "max_skipped_steps is -1"),
        ({"validation_steps": 0}, "validation_steps is 0"),
        ({"num_validation_images": 0}, "num_validation_images is 0"),
        ({"shuffle_window_images": 0}, "shuffle_window_images is 0"),
    ],
    ids=lambda value: (
        "-".join(f"{name}={setting}" for name, setting in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_settings_of_a_run_that_cannot_work_are_named(changes: dict, words: str):
    with pytest.raises(UserError, match=words):
        TrainingConfig(**{"train_data_dir": "pictures", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"streaming": True, "train_data_dir": "pictures"}, "streaming reads shards: give dataset_name"),
        ({"streaming": True, "dataset_name": "cars", "split": "train"}, "give max_train_steps"),
        ({"streaming": True, "dataset_name": "cars", "max_train_steps": 7}, "the name of one split"),
        ({"train_data_dir": "pictures", "dataset_config_name": "large"}, "dataset_config_name is large; it goes with"),
        ({"train_data_dir": "pictures", "image_column": "photo"}, "image_column is photo; it goes with dataset_name"),
        ({"train_data_dir": "pictures", "label_column": "kind"}, "label_column is kind; it goes with dataset_name"),
    ],
)
def test_settings_of_pictures_that_do_not_go_together_are_named(changes: dict, words: str):
    with pytest.raises(UserError, match=words):
        TrainingConfig(**changes)


@pytest.mark.parametrize(
    ("config_class", "changes", "words"),
    [
        (SampleConfig, {"num_images": 0}, "num_images is 0"),
        (SampleConfig, {"batch_size": 0}, "batch_size is 0"),
        (SampleConfig, {"num_inference_steps": 0}, "num_inference_steps is 0"),
        (SampleConfig, {"seed": -1}, "seed is -1"),
        (ShowConfig, {"num_images": 0}, "num_images is 0"),
        (ShowConfig, {"seed": -1}, "seed is -1"),
        (ShowConfig, {"resolution": 4}, "resolution is 4"),
        (ShowConfig, {"beta_start": 2.0}, "beta_start is 2"),
        (ShowConfig, {"train_data_dir": None}, "exactly one"),
        (ToyCarsConfig, {"num_train_images": -1}, "num_train_images is -1"),
        (ToyCarsConfig, {"num_test_images": -1}, "num_test_images is -1"),
        (ToyCarsConfig, {"seed": -1}, "seed is -1"),
        (ToyCarsConfig, {"resolution": 7}, "resolution is 7"),
    ],
)
def test_settings_of_the_other_commands_that_cannot_work_are_named(config_class: type, changes: dict, words: str):
    flags, values = CONFIGS[config_class][::2], CONFIGS[config_class][1::2]
    needed = {flag.removeprefix("--"): value for flag, value in zip(flags, values, strict=True)}
    with pytest.raises(UserError, match=words):
        config_class(**{**needed, **changes})


def test_the_ends_of_the_ranges_are_allowed():
    config = TrainingConfig(
        dataset_name="cars",
        resolution=8,
        num_train_timesteps=1,
        num_inference_steps=1,
        beta_start=0.02,
        adam_beta1=0.0,
        learning_rate=0.0,
        max_grad_norm=None,
        checkpointing_steps=None,
        checkpoints_total_limit=None,
        save_images_steps=None,
    )
    assert config.max_grad_norm is None
    assert ToyCarsConfig(num_train_images=0, num_test_images=0).resolution == 64


def test_flags_set_their_fields_and_the_rest_keep_their_defaults():
    argv = [*PICTURES, "--learning_rate", "3e-5", "--preset=tiny", "--max_train_steps", "7", "--max_grad_norm=null"]
    config, _ = parse(TrainingConfig, argv)
    expected = TrainingConfig(
        train_data_dir="pictures", learning_rate=3e-5, preset="tiny", max_train_steps=7, max_grad_norm=None
    )
    assert config == expected
    assert isinstance(config.learning_rate, float)


def test_flags_after_a_file_win_and_later_files_too(tmp_path: Path):
    first, second = tmp_path / "first.yaml", tmp_path / "second file.yaml"
    first.write_text("train_data_dir: here\nseed: 1\nlearning_rate: 1e-3\nuse_ema: false\nlogger: null\n")
    second.write_text("seed: 2\nresize: pad\n")
    config, _ = parse(TrainingConfig, ["--config", str(first), "--config", str(second), "--learning_rate", "0.5"])
    assert config == TrainingConfig(
        train_data_dir="here", seed=2, learning_rate=0.5, use_ema=False, resize="pad", logger=None
    )


@pytest.mark.parametrize(
    ("argv", "use_ema", "random_flip"),
    [
        ([], True, True),
        (["--use_ema"], True, True),
        (["--use_ema", "false"], False, True),
        (["--use_ema=false"], False, True),
        (["--use_ema", "false", "--use_ema"], True, True),
        (["--random_flip", "false", "--use_ema", "--seed", "3"], True, False),
        (["--use_ema", "false", "--random_flip", "--seed=3"], False, True),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_switches_work_alone_and_with_a_value(argv: list[str], use_ema: bool, random_flip: bool):
    config, _ = parse(TrainingConfig, [*PICTURES, *argv])
    assert (config.use_ema, config.random_flip) == (use_ema, random_flip)


def test_a_switch_alone_turns_on_what_is_off_by_default(tmp_path: Path):
    assert parse(SampleConfig, ["--pretrained_model_name_or_path", "model", "--strip"])[0].strip is True
    (tmp_path / "c.yaml").write_text("use_ema: false\n")
    argv = [*PICTURES, "--config", str(tmp_path / "c.yaml")]
    assert parse(TrainingConfig, argv)[0].use_ema is False
    assert parse(TrainingConfig, [*argv, "--use_ema"])[0].use_ema is True


@pytest.mark.parametrize(
    ("config_class", "hints"),
    [
        (
            SampleConfig,
            "A switch may stand alone; it means true. A list takes several words, one after the other. "
            "null means that a setting is unset.",
        ),
        (
            EvaluateConfig,
            "A list takes several words, one after the other. null means that a setting is unset.",
        ),
        (ToyCarsConfig, ""),
    ],
)
def test_help_ends_with_how_to_write_what_is_there(config_class: type, hints: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        parse(config_class, ["--help"])
    last = " ".join(capsys.readouterr().out.strip().split("\n\n")[-1].split())
    assert last == hints if hints else "--seed" in last


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_field_has_a_sentence_of_help(config_class: type, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stop:
        parse(config_class, ["--help"])
    assert stop.value.code == 0
    printed = " ".join(capsys.readouterr().out.split()).partition("options:")[2]
    starts = {}
    for field in fields(config_class):
        assert f" --{field.name} " in printed, field.name
        starts[field.name] = printed.index(f" --{field.name} ")
    ends = sorted([*starts.values(), len(printed)])
    for name, start in starts.items():
        entry = printed[start : ends[ends.index(start) + 1]]
        _, _, sentence = entry.removeprefix(f" --{name} ").partition(" ")
        sentence = sentence.partition("(type:")[0].partition("(required")[0].strip()
        assert sentence.endswith("."), (name, entry)
        assert len(sentence.split()) >= 1, (name, entry)
        assert sentence[0].isupper(), (name, entry)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_printed_settings_load_back(config_class: type, tmp_path: Path):
    text = "output_dir" if "output_dir" in {field.name for field in fields(config_class)} else "split"
    argv = [*CONFIGS[config_class], "--seed", "5", f"--{text}", "a b: ü"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        parse(config_class, [*argv, "--print_config"])
    assert stop.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(printed.getvalue(), encoding="utf-8")
    config, _ = parse(config_class, argv)
    assert parse(config_class, ["--config", str(path)])[0] == config
    assert yaml.safe_load(printed.getvalue())[text] == "a b: ü"
    assert set(yaml.safe_load(printed.getvalue())) == set(asdict(config))


@pytest.mark.parametrize(
    "path", sorted((ROOT / "src" / "ddpm_cars" / "recipes").glob("*.yaml")), ids=lambda path: path.name
)
def test_the_settings_that_come_with_the_scripts_can_be_read(path: Path):
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    sources = [] if {"train_data_dir", "dataset_name"} & set(given) else PICTURES
    config, _ = parse(TrainingConfig, [*sources, "--config", str(path)])
    for name, value in given.items():
        assert getattr(config, name) == (tuple(value) if isinstance(value, list) else pytest.approx(value))


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        ([*PICTURES, "--learning_rte", "1"], "--learning_rte: did you mean --learning_rate?"),
        ([*PICTURES, "--learning-rate=1"], "--learning-rate: did you mean --learning_rate?"),
        ([*PICTURES, "--ddpm_num_steps", "300"], "--ddpm_num_steps: give --num_train_timesteps"),
        (
            [*PICTURES, "--center_crop", "--seeed", "1"],
            "--center_crop: give --resize crop; --seeed: did you mean --seed?",
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
        ([*PICTURES, "--config", "nowhere.yaml"], "nowhere.yaml"),
        ([], "train_data_dir"),
        (["--train_data_dir", "/no/such folder"], "/no/such folder is not a folder"),
    ],
    ids=lambda value: " ".join(value[2:] or value) if isinstance(value, list) else "",
)
def test_a_mistake_on_the_command_line_is_one_line(
    argv: list[str], word: str, one_line_error: Callable[..., str], tmp_path: Path
):
    output_dir = tmp_path / "out"
    tail = [] if argv[-1:] == ["--seed"] else ["--preset=tiny", f"--output_dir={output_dir}"]
    if "--preset" in argv:
        tail = tail[1:]
    assert word in one_line_error(cli.train, [*argv, *tail] if tail else argv)
    assert not (output_dir / "model_index.json").exists()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("learning_rte: 1\n", "did you mean --learning_rate?"),
        ("save_images_epochs: 1\n", "give --save_images_steps, counted in steps"),
        ("learning_rate: fast\n", "learning_rate"),
        ("preset: huge\n", "preset"),
        ("seed: -3\n", "seed is -3"),
        ("seed: [1\n", "config"),
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
        (["--resolution", "8", "--train_batch_size", "64"], "train_batch_size"),
    ],
    ids=["resolution", "split", "column", "model", "batch"],
)
def test_what_does_not_fit_together_is_one_line_and_trains_nothing(
    flags: list[str], words: str, pictures: Path, tmp_path: Path, one_line_error: Callable[..., str]
):
    argv = ["--train_data_dir", str(pictures), "--cache_dir", str(tmp_path / "cache"), "--preset", "tiny"]
    if words == "train_batch_size":
        argv += ["--num_epochs", "1"]
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
        (cli.draw_toy_cars, ["--num_train_images", "-1"], "num_train_images is -1"),
        (cli.draw_toy_cars, ["--colour", "red"], "--colour"),
    ],
)
def test_mistakes_with_the_other_commands_are_one_line(
    command: Callable, argv: list[str], words: str, one_line_error: Callable[..., str]
):
    assert words in one_line_error(command, argv)


def test_every_flag_of_stock_is_a_flag_or_has_a_cure_that_can_be_given():
    ours = {field.name for field in fields(TrainCommandConfig)}
    assert not STOCK_FLAGS.keys() & ours
    for name, cure in STOCK_FLAGS.items():
        assert with_cures(f"unrecognized arguments: --{name}", ours).endswith(f"; --{name}: {cure}")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["model", "me/model", "--repo_id", "me/model"], "unrecognized arguments: --repo_id me/model"),
        (["model", "me/model", "--center_crop"], "unrecognized arguments: --center_crop"),
    ],
    ids=["by position only", "of another command"],
)
def test_a_cure_is_never_one_that_the_command_does_not_know(
    argv: list[str], words: str, one_line_error: Callable[..., str]
):
    assert one_line_error(cli.push_to_hub, argv).endswith(words)


@pytest.mark.parametrize("text", ["no", "No", "false", "'no'"])
def test_no_is_a_precision_in_a_file_too(text: str, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(f"mixed_precision: {text}\nuse_ema: no\n")
    config, _ = parse(TrainingConfig, [*PICTURES, "--config", str(path)])
    assert (config.mixed_precision, config.use_ema) == ("no", False)


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
    assert line.endswith('error: logger wandb is not installed: pip install "ddpm-cars[track]"')
    assert not (tmp_path / "out").exists()


def test_of_several_processes_one_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as stop:
        cli.train([*PICTURES, "--colour", "red"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == ""


def test_a_wrong_flag_ends_the_script_without_a_traceback():
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *PICTURES, "--learning_rte", "1"],
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name != "RANK"},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "learning_rte" in done.stderr.splitlines()[-1]
