"""Settings are read from command lines and files."""

import contextlib
import io
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import yaml

from ddpm_cars.cli.parser import Parser
from ddpm_cars.config.commands import (
    CalibrateConfig,
    SampleConfig,
    ShowConfig,
    ToyCarsConfig,
)
from ddpm_cars.config.training import TrainingConfig

PICTURES = ["--train_data_dir", "pictures"]
CONFIGS = {
    TrainingConfig: PICTURES,
    ShowConfig: PICTURES,
    SampleConfig: ["--pretrained_model_name_or_path", "model"],
    CalibrateConfig: [*PICTURES, "--pretrained_model_name_or_path", "model"],
    ToyCarsConfig: [],
}


def test_flags_set_their_fields_and_the_rest_keep_their_defaults():
    argv = [*PICTURES, "--learning_rate", "3e-5", "--preset=tiny", "--max_train_steps", "7", "--max_grad_norm=null"]
    config = Parser(TrainingConfig).parse(argv)
    expected = TrainingConfig(
        train_data_dir="pictures", learning_rate=3e-5, preset="tiny", max_train_steps=7, max_grad_norm=None
    )
    assert config == expected
    assert isinstance(config.learning_rate, float)


def test_flags_win_over_files_wherever_they_stand_and_later_files_over_earlier_ones(tmp_path: Path):
    first, second = tmp_path / "first.yaml", tmp_path / "second file.yaml"
    first.write_text("train_data_dir: here\nseed: 1\nlearning_rate: 1e-3\nuse_ema: false\nlogger: null\n")
    second.write_text("seed: 2\nresize: pad\n")
    flags, files = ["--learning_rate", "0.5", "--logger", "wandb"], ["--config", str(first), "--config", str(second)]
    config = Parser(TrainingConfig).parse([*files, *flags])
    assert Parser(TrainingConfig).parse([*flags, *files]) == config
    assert config == TrainingConfig(
        train_data_dir="here", seed=2, learning_rate=0.5, use_ema=False, resize="pad", logger="wandb"
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
    config = Parser(TrainingConfig).parse([*PICTURES, *argv])
    assert (config.use_ema, config.random_flip) == (use_ema, random_flip)


def test_a_switch_alone_turns_on_what_is_off_by_default(tmp_path: Path):
    assert Parser(SampleConfig).parse(["--pretrained_model_name_or_path", "model", "--strip"]).strip is True
    (tmp_path / "c.yaml").write_text("use_ema: false\n")
    argv = [*PICTURES, "--config", str(tmp_path / "c.yaml")]
    assert Parser(TrainingConfig).parse(argv).use_ema is False
    assert Parser(TrainingConfig).parse([*argv, "--use_ema"]).use_ema is True


@pytest.mark.parametrize("config_class", CONFIGS)
def test_printed_settings_load_back(config_class: type, tmp_path: Path):
    text = "output_dir" if "output_dir" in {field.name for field in fields(config_class)} else "split"
    argv = [*CONFIGS[config_class], "--seed", "5", f"--{text}", "a b: ü"]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.raises(SystemExit) as stop:
        Parser(config_class).parse([*argv, "--print_config"])
    assert stop.value.code == 0
    path = tmp_path / "printed.yaml"
    path.write_text(printed.getvalue(), encoding="utf-8")
    config = Parser(config_class).parse(argv)
    assert Parser(config_class).parse(["--config", str(path)]) == config
    assert yaml.safe_load(printed.getvalue())[text] == "a b: ü"
    assert set(yaml.safe_load(printed.getvalue())) == set(asdict(config))


@pytest.mark.parametrize("text", ["no", "No", "false", "'no'"])
def test_no_is_a_precision_in_a_file_too(text: str, tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(f"mixed_precision: {text}\nuse_ema: no\n")
    config = Parser(TrainingConfig).parse([*PICTURES, "--config", str(path)])
    assert (config.mixed_precision, config.use_ema) == ("no", False)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--preset", "small"], "preset is small; it must be tiny, 32, 64, peer64 or auto"),
        (["--resolution", "abc"], "resolution is abc; it must be a whole number"),
        (["--mixed_precision", "bf15"], "mixed_precision is bf15; it must be no, fp16, bf16 or auto"),
        (["--max_train_steps", "1e3"], "max_train_steps is 1e3; it must be a whole number or null"),
        (["--ema_half_life_steps", "many"], "every item is a whole number"),
    ],
)
def test_what_a_setting_can_be_is_said_in_words(argv: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        Parser(TrainingConfig).parse([*PICTURES, *argv])
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_a_cure_names_flags_also_before_a_value_in_quotes(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        Parser(TrainingConfig, prog="train").error('it has no splits; give split "a" with validation_split "b"')
    assert capsys.readouterr().err.endswith('; give --split "a" with --validation_split "b"\n')
