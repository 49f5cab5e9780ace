"""Which images a run was trained on, and which others fit its model."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from ddpm_cars.config.commands import CalibrateConfig, EvaluateConfig
from ddpm_cars.errors import UserError
from ddpm_cars.runs.settings import check_held_out, with_pictures_of_run


def test_a_run_says_which_pictures_it_was_trained_on(tmp_path: Path):
    settings = {
        "dataset_name": "someone/photographs",
        "split": None,
        "validation_split": "test",
        "resize": "crop",
        "label_column": "kind",
        "cache_dir": "there",
        "seed": 5,
        "mixed_precision": "bf16",
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    asked = EvaluateConfig(pretrained_model_name_or_path=str(tmp_path))
    got = with_pictures_of_run(asked, str(tmp_path))
    names = ("dataset_name", "split", "validation_split", "resize", "label_column", "cache_dir")
    assert {name: getattr(got, name) for name in names} == {name: settings[name] for name in names}
    # Only the images are taken from there.
    assert (got.seed, got.mixed_precision) == (asked.seed, asked.mixed_precision)
    named = replace(asked, validation_split="validation", cache_dir="here", split="train[:9]")
    other = with_pictures_of_run(named, str(tmp_path))
    assert (other.validation_split, other.cache_dir, other.split) == ("validation", "here", "train[:9]")


@pytest.mark.parametrize(
    ("run", "seen"),
    [
        ({"train_data_dir": "cars", "split": None, "validation_split": None}, True),
        ({"train_data_dir": "cars", "split": "test", "validation_split": None}, True),
        ({"train_data_dir": "cars", "split": None, "validation_split": "dev"}, True),
        ({"train_data_dir": "cars", "split": "train+test", "validation_split": None}, True),
        ({"train_data_dir": "cars", "split": "train[:9] + test[50%:]", "validation_split": None}, True),
        ({"train_data_dir": "cars", "split": "train+dev", "validation_split": None}, False),
        ({"train_data_dir": "cars", "split": None, "validation_split": "test"}, False),
        ({"train_data_dir": "cars", "split": "train", "validation_split": None}, False),
        ({"train_data_dir": "vans", "split": None, "validation_split": None}, False),
        (None, False),
    ],
)
def test_a_split_that_the_model_was_trained_on_is_not_held_out(
    tmp_path: Path, run: dict | None, seen: bool, monkeypatch: pytest.MonkeyPatch
):
    if run is not None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(run))
    config = EvaluateConfig(pretrained_model_name_or_path="x", train_data_dir="cars", validation_split="test")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cars").mkdir()
    for place in ("cars", "cars/", "./cars", str(tmp_path / "cars")):
        config = replace(config, train_data_dir=place)
        with pytest.raises(UserError, match=r"test, which .* was trained on") if seen else nullcontext():
            check_held_out(config, str(tmp_path))
    check_held_out(replace(config, validation_split=None), str(tmp_path))


def test_pictures_that_are_named_count_more_than_those_of_the_run(tmp_path: Path):
    named = {"train_data_dir": "cars", "validation_split": "test", "resize": "squash", "background": "white"}
    config = EvaluateConfig(pretrained_model_name_or_path="model", **named)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"dataset_name": "someone/photographs", "split": "dev"}))
    assert with_pictures_of_run(config, str(tmp_path)) == config


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"train_data_dir": "cars", "validation_split": "test", "resize": "crop", "background": "#102030"}),
        ({"train_data_dir": "vans"}, {"train_data_dir": "vans", "validation_split": None, "resize": "crop"}),
        ({"train_data_dir": "vans"}, {"value_range": (-1024, 3071)}),
        ({}, {"value_range": (-1024, 3071)}),
        ({"value_range": (0, 255)}, {"train_data_dir": "cars", "value_range": (0, 255)}),
        # The same images, written otherwise, have the same split held out.
        ({"train_data_dir": "./cars/"}, {"train_data_dir": "./cars/", "validation_split": "test"}),
        ({"train_data_dir": "cars", "split": "train"}, {"validation_split": None, "split": "train"}),
        ({"train_data_dir": "vans", "resize": "squash"}, {"resize": "squash", "background": "#102030"}),
        ({"resize": "pad", "background": "black"}, {"resize": "pad", "background": "black", "train_data_dir": "cars"}),
    ],
)
@pytest.mark.parametrize("command", [CalibrateConfig, EvaluateConfig])
def test_pictures_are_prepared_as_the_run_did_but_for_what_is_given(
    command: type, given: dict, expected: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cars").mkdir()
    run = {"train_data_dir": "cars", "validation_split": "test", "resize": "crop", "background": "#102030", "seed": 5}
    run["value_range"] = [-1024, 3071]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run))
    asked = command(pretrained_model_name_or_path=str(tmp_path), **given)
    got = with_pictures_of_run(asked, str(tmp_path))
    assert {name: getattr(got, name) for name in expected} == expected
    assert got.seed == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"train_data_dir": "./cars"}, "kind"),
        ({"train_data_dir": "vans"}, "label"),
        ({"label_column": "make"}, "make"),
    ],
)
def test_the_column_of_the_classes_is_that_of_the_run_for_its_images(
    given: dict, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cars").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"train_data_dir": "cars", "label_column": "kind"}))
    asked = EvaluateConfig(pretrained_model_name_or_path=str(tmp_path), **given)
    assert with_pictures_of_run(asked, str(tmp_path)).label_column == expected


@pytest.mark.parametrize(
    ("run", "given", "expected"),
    [
        ({"split_folders": False}, {}, False),
        ({"split_folders": False}, {"train_data_dir": "./cars"}, False),
        ({"split_folders": False}, {"train_data_dir": "vans"}, None),
        ({"split_folders": False}, {"split_folders": True}, True),
        ({"split_folders": None}, {}, None),
        # Runs of earlier versions left out what is beside splits.
        ({}, {}, True),
        ({}, {"train_data_dir": "vans"}, None),
    ],
)
@pytest.mark.parametrize("command", [CalibrateConfig, EvaluateConfig])
def test_folders_that_were_splits_for_the_run_are_splits(
    command: type, run: dict, given: dict, expected: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cars").mkdir()
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"train_data_dir": "cars", **run}))
    asked = command(pretrained_model_name_or_path=str(tmp_path), **given)
    assert with_pictures_of_run(asked, str(tmp_path)).split_folders is expected


def test_pictures_of_a_model_without_a_run_are_squashed_on_white(tmp_path: Path):
    asked = CalibrateConfig(pretrained_model_name_or_path="x", train_data_dir="vans")
    got = with_pictures_of_run(asked, str(tmp_path))
    assert (got.resize, got.background, got.value_range) == ("squash", "white", None)
    with pytest.raises(UserError, match="background is whitish"):
        with_pictures_of_run(replace(asked, background="whitish"), str(tmp_path))


def test_without_a_word_on_pictures_there_is_one_line_that_asks_for_them(tmp_path: Path):
    with pytest.raises(UserError, match=r"no config.yaml .* give train_data_dir or dataset_name"):
        with_pictures_of_run(EvaluateConfig(pretrained_model_name_or_path="x/y"), str(tmp_path))
