"""Files of settings: what is wrong with one is told with its name and the line."""

from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase

import pytest

from ddpm_cars.config.commands import EvaluateConfig, SampleConfig
from ddpm_cars.config.training import TrainCommandConfig, TrainingConfig
from ddpm_cars.errors import UserError


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of toy.yaml in the working folder."""
    monkeypatch.chdir(tmp_path)
    return Path("toy.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: 1\n\nlr: 3\n", "toy.yaml, line 3: there is no setting lr; give learning_rate"),
        ("seed: 1\npreset: small\n", "toy.yaml, line 2: preset is small; it must be tiny, 32, 64, peer64 or auto"),
        ("# Hm.\nseed: -3\n", "toy.yaml, line 2: seed is -3; it must be 0 or more"),
        ("resolution: abc\n", "toy.yaml, line 1: resolution is abc; it must be a whole number"),
        ("resolution: 64.0\n", "toy.yaml, line 1: resolution is 64.0; it must be a whole number"),
        ("use_ema: maybe\n", "toy.yaml, line 1: use_ema is maybe; it must be true or false"),
        ("resolution: [64, 32]\n", "toy.yaml, line 1: resolution is [64, 32]; it must be a whole number"),
        ("output_dir: {a: b}\n", "toy.yaml, line 1: output_dir is {a: b}; it must be a string"),
        ("output_dir:\n", "toy.yaml, line 1: output_dir is empty; it must be a string"),
        ("ema_half_life_steps:\n- 7\n- x\n", "toy.yaml, line 1: ema_half_life_steps is - 7 - x; it must be a list"),
        ("seed: 1\nsplit: train\nseed: 2\n", "toy.yaml, line 3: seed is there twice, first in line 1; remove one"),
        ("seed: 1\nsplit: [a\n", "toy.yaml, line 3 is not YAML: expected ',' or ']', but got"),
        ("seed: 1\n\tsplit: 2\n", "toy.yaml, line 2 is not YAML: "),
        ("seed: 1\n--- \nseed: 2\n", "toy.yaml, line 2 is not YAML: "),
        ("- seed\n", "toy.yaml holds a list; write one setting a line, such as resolution: 64"),
        ("seed 3\n", "toy.yaml holds one value; write one setting a line, such as resolution: 64"),
        ("push_to_hub: true\n", "toy.yaml, line 1: push_to_hub is true; only TrainCommandConfig has this setting"),
        # Programs differ in what they read here, or what stands here could be anything.
        ("seed: 010\n", "toy.yaml, line 1: seed is 010, which other programs may read as octal; write it without a 0"),
        ("ema_half_life_steps: [9, 010]\n", "toy.yaml, line 1: ema_half_life_steps is [9, 010], which other programs"),
        ("learning_rate: 010\n", "toy.yaml, line 1: learning_rate is 010, which other programs may read as octal"),
        (f"seed: {2**64}\n", f"toy.yaml, line 1: seed is {2**64}; it must be less than {2**64 - 2**32}"),
        ("learning_rate: -1\n", "toy.yaml, line 1: learning_rate is -1; it must be 0 or more, and finite"),
        ("seed: 0x10\n", "toy.yaml, line 1: seed is 0x10; it must be a whole number"),
        ("learning_rate: 1:30.5\n", "toy.yaml, line 1: learning_rate is 1:30.5; it must be a number or auto"),
        ('"seed": 1\nseed: 2\n', "toy.yaml, line 2: seed is there twice, first in line 1; remove one"),
        ("<<: {seed: 3, seed: 4}\n", "toy.yaml, line 1: there is no setting <<"),
        ("? [a, b]\n: 3\n", "toy.yaml, line 1: there is no setting [a, b]"),
        ("seed: !!int 3\n", "toy.yaml, line 1: the tag tag:yaml.org,2002:int has no meaning here; remove it"),
        ("seed: 1\nsplit: ! x\n", "toy.yaml, line 2: the tag ! has no meaning here; remove it"),
        ("seed: &a [*a]\n", "toy.yaml, line 1: *a stands for no single value; write it out"),
        ("seed: " + "[" * 3000, "toy.yaml, line 1: no setting is a list within lists; remove the outer brackets"),
        ("seed: " + "1" * 5000, f"toy.yaml, line 1: seed is {'1' * 200}...; it must be a whole number"),
        ('output_dir: "a\\0b"', "toy.yaml, line 1: output_dir is 'a\\x00b', which is no text in UTF-8; rename it"),
    ],
)
def test_what_is_wrong_is_told_with_the_line(text: str, words: str, file: Path):
    file.write_text(text)
    with pytest.raises(UserError) as error:
        TrainingConfig.from_yaml(file, train_data_dir="cars")
    assert str(error.value).startswith(words)


def test_a_file_of_lists_of_lists_of_aliases_is_refused_at_once(file: Path):
    file.write_text("a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in pairwise(ascii_lowercase)))
    with pytest.raises(UserError, match=r"^toy\.yaml, line 2: \*a stands for no single value; write it out$"):
        TrainingConfig.from_yaml(file)


def test_a_file_that_is_no_text_is_told(file: Path):
    file.write_bytes("output_dir: é".encode("latin-1"))
    with pytest.raises(UserError, match=r"^toy\.yaml is not text in UTF-8; save it as such$"):
        TrainingConfig.from_yaml(file)
    file.write_bytes(b"seed: \x00")
    with pytest.raises(UserError, match=r"^toy\.yaml is not YAML: "):
        TrainingConfig.from_yaml(file)


def test_a_file_that_is_not_there_is_told():
    with pytest.raises(UserError, match=r"^nowhere\.yaml is neither a file nor a recipe; the recipes are cars64, "):
        TrainingConfig.from_yaml("nowhere.yaml")
    with pytest.raises(UserError, match=r"^toy is not a file; recipes are for training$"):
        SampleConfig.from_yaml("toy")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("preset: 64\nresolution: 16", {"preset": "64", "resolution": 16}),
        ("learning_rate: 1e-3", {"learning_rate": 1e-3}),
        ("learning_rate: '1e-3'", {"learning_rate": 1e-3}),
        ("output_dir: 2024-01-01\nsplit: 5", {"output_dir": "2024-01-01", "split": "5"}),
        ("mixed_precision: no\nuse_ema: no", {"mixed_precision": "no", "use_ema": False}),
        ("preset: Tiny\nlogger: TensorBoard", {"preset": "tiny", "logger": "tensorboard"}),
        ("split: ~\nmax_grad_norm: null\nlogger: None", {"split": None, "max_grad_norm": None, "logger": None}),
        ("split: 'null'", {"split": "null"}),
        ("ema_half_life_steps: 9", {"ema_half_life_steps": (9,)}),
        ("ema_half_life_steps: [9, 8]", {"ema_half_life_steps": (9, 8)}),
        ("ema_half_life_steps:\n- 9\n- 8", {"ema_half_life_steps": (9, 8)}),
        ("ema_half_life_steps: 9, 8", {"ema_half_life_steps": (9, 8)}),
        ("seed: &x 12\nresolution: *x", {"seed": 12, "resolution": 12}),
        ("seed: 0\nlearning_rate: 0.05\nsplit: 010", {"learning_rate": 0.05, "split": "010"}),
        ("", {}),
    ],
)
def test_values_are_read_as_what_their_settings_are(text: str, expected: dict, file: Path):
    file.write_text(text, encoding="utf-8")
    assert TrainingConfig.from_yaml(file, train_data_dir="cars") == TrainingConfig(train_data_dir="cars", **expected)


def test_a_byte_order_mark_is_not_part_of_a_name(file: Path):
    file.write_bytes("seed: 3".encode("utf-8-sig"))
    assert TrainingConfig.from_yaml(file, train_data_dir="cars").seed == 3


def test_a_home_is_found_where_no_shell_has(file: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/home/me")
    file.write_text("train_data_dir: ~/cars\nbackground: black")
    assert TrainingConfig.from_yaml(file).train_data_dir == "/home/me/cars"


def test_a_list_of_models_is_one_of_texts(file: Path):
    file.write_text("compare: [1, null.txt]")
    assert EvaluateConfig.from_yaml(file).compare == ("1", "null.txt")


def test_the_settings_of_a_run_of_the_command_line_are_settings_of_training(file: Path):
    file.write_text("train_data_dir: cars\npush_to_hub: false\nhub_model_id: null\nseed: 4")
    assert TrainingConfig.from_yaml(file, seed=5) == TrainingConfig(train_data_dir="cars", seed=5)
    assert TrainCommandConfig.from_yaml(file) == TrainCommandConfig(train_data_dir="cars", seed=4)


def test_a_recipe_is_known_by_its_name_and_brings_its_network():
    toy = TrainingConfig.from_yaml("toy", train_data_dir="cars", resolution=16)
    assert (toy.resolution, toy.preset, toy.output_dir) == (16, "tiny", "runs/toy")
    study = TrainingConfig.from_yaml("study16", train_data_dir="cars")
    assert study.model_config is not None
    assert Path(study.model_config).is_file()
