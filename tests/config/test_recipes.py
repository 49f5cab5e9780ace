"""Recipes that come with the package, by name."""

import os
from pathlib import Path

import pytest
import yaml

import ddpm_cars
from ddpm_cars.cli import main
from ddpm_cars.cli.parser import Parser
from ddpm_cars.config.recipes import recipe_names
from ddpm_cars.config.training import TrainCommandConfig

FOLDER = Path(ddpm_cars.__file__).parent / "recipes"
PICTURES = ["--train_data_dir", "pictures"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder: recipes are found from anywhere."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def read(*argv: str) -> TrainCommandConfig:
    return Parser(TrainCommandConfig).parse([*PICTURES, *argv])


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_is_read_by_its_name(name: str):
    given = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    config = read("--config", name)
    assert config == read(f"--config={name}") == read("--config", str(FOLDER / f"{name}.yaml"))
    for setting, value in given.items():
        if setting == "model_config":
            value = str(FOLDER / value)
        assert getattr(config, setting) == (tuple(value) if isinstance(value, list) else pytest.approx(value))


def test_there_are_the_recipes_that_the_help_names(capsys: pytest.CaptureFixture[str]):
    assert recipe_names() == ["cars64", "pretrained", "study16", "toy", "tutorial"]
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    assert "the name of a recipe: cars64, pretrained, study16, toy, tutorial." in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_file_wins_over_a_recipe_and_a_folder_does_not(elsewhere: Path):
    (elsewhere / "toy").mkdir()
    (elsewhere / "cars64").write_text("seed: 8\n")
    assert (read("--config", "toy").resolution, read("--config", "toy").seed) == (32, 0)
    assert (read("--config", "cars64").compile, read("--config", "cars64").seed) == (False, 8)


def test_flags_win_over_recipes_and_later_recipes_over_earlier_ones():
    config = read("--config", "toy", "--resolution", "8", "--config", "study16", "--seed", "4")
    assert (config.resolution, config.seed, config.timestep_sampling) == (8, 4, "stratified")
    assert read("--config", "toy", "--config", "study16").resolution == 16


def test_a_network_of_ones_own_wins_over_the_one_beside_the_recipe(elsewhere: Path):
    (elsewhere / "study16_unet.json").write_text("{}")
    assert read("--config", "study16").model_config == "study16_unet.json"
    assert read("--model_config", "nowhere.json").model_config == "nowhere.json"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "carz64",
            "--config carz64 is neither a file nor a recipe (did you mean cars64?); "
            "the recipes are cars64, pretrained, study16, toy, tutorial",
        ),
        ("a/b.yaml", "--config a/b.yaml is neither a file nor a recipe; the recipes are cars64, pretrained, "),
        (
            "scripts/configs/cars64.yaml",
            "--config scripts/configs/cars64.yaml is not a file; give cars64, the recipe of that name",
        ),
    ],
)
def test_what_is_neither_a_file_nor_a_recipe_is_one_line(name: str, words: str, capsys: pytest.CaptureFixture[str]):
    for argv in (["--config", name], [f"--config={name}"]):
        with pytest.raises(SystemExit, match="2"):
            read(*argv)
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_recipes_are_for_training(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="2"):
        main(["toy-cars", "--config", "toy"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "ddpm-cars toy-cars: error: --config toy is not a file; recipes are for training"


def test_settings_come_through_a_pipe_too(elsewhere: Path):
    reader, writer = os.pipe()
    os.write(writer, b"resolution: 24")
    os.close(writer)
    try:
        assert read("--config", f"/dev/fd/{reader}").resolution == 24
    finally:
        os.close(reader)
