"""`--help` and `--print_config`: what a reader sees of the settings."""

import re
from dataclasses import fields

import pytest

from ddpm_cars.cli.commands import COMMANDS, Command
from ddpm_cars.cli.help import format_help
from ddpm_cars.cli.parser import Parser
from ddpm_cars.config.commands import EvaluateConfig, PushConfig, SampleConfig, ToyCarsConfig
from ddpm_cars.config.fields import GROUPS, grouped
from ddpm_cars.config.training import TrainCommandConfig


def shown(command: Command) -> str:
    by_position = Parser(command.config_class, command.positional).by_position
    return format_help(command.config_class, "ddpm-cars", by_position)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_stands_there_once_with_a_sentence(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "1000")
    text = shown(COMMANDS[name])
    for field in fields(COMMANDS[name].config_class):
        pattern = rf"^  (?:--{field.name} \S.*?|[A-Z]+)\n? {{2,}}([A-Z\d].*[.])$"
        assert len(re.findall(rf"^  --{field.name} ", text, re.MULTILINE)) <= 1
        assert re.search(pattern, text, re.MULTILINE), field.name


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("columns", ["30", "80", "200"])
def test_types_are_in_plain_words_at_any_width(name: str, columns: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", columns)
    assert not re.search(r"Union|Literal|Optional|NoneType|<class|None\b|True|False", shown(COMMANDS[name]))


def test_the_usage_is_one_line_and_the_most_used_settings_come_first():
    lines = format_help(TrainCommandConfig, "ddpm-cars train").splitlines()
    assert lines[0] == "usage: ddpm-cars train --train_data_dir FOLDER [--SETTING VALUE ...]"
    titles = [line.removesuffix(":") for line in lines if re.fullmatch(r"[a-z ]+:", line)]
    assert titles[0] == "most used"
    assert titles == [*sorted(titles[:-1], key=GROUPS.index), "files of settings"]
    assert {field.name for field in grouped(TrainCommandConfig)["most used"]} > {
        "train_data_dir",
        "output_dir",
        "resolution",
        "preset",
        "max_train_steps",
    }


def test_every_setting_of_training_is_in_a_group_of_its_kind():
    assert GROUPS[1] not in grouped(TrainCommandConfig)


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
            "A switch may stand alone; it means true. A list takes several words, one after the other. "
            "null means that a setting is unset.",
        ),
        (ToyCarsConfig, None),
    ],
)
def test_help_ends_with_how_to_write_what_is_there(config_class: type, hints: str | None):
    last = " ".join(format_help(config_class, "ddpm-cars").split("\n\n")[-1].split())
    assert last == hints if hints else last.endswith("--help Show this text.")


def test_what_is_given_by_position_is_so_in_the_usage():
    text = format_help(PushConfig, "ddpm-cars push", ["folder", "repo_id"])
    assert text.startswith("usage: ddpm-cars push FOLDER REPOSITORY [--SETTING VALUE ...]\n")
