"""Settings that are given in Python, where no command line has looked at them."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ddpm_cars.config import commands as command_configs
from ddpm_cars.config.commands import EvaluateConfig, PushConfig, SampleConfig
from ddpm_cars.config.training import TrainCommandConfig, TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.training.prepare import prepare

NEEDED: dict[str, Any] = {"train_data_dir": "pictures", "pretrained_model_name_or_path": "m"}
NEEDED |= {"folder": "f", "repo_id": "r"}
CONFIGS = [c for c in vars(command_configs).values() if is_dataclass(c)]


def make(config_class: Any, **changes: Any) -> Any:
    names = {field.name for field in fields(config_class)}
    return config_class(**{**{k: v for k, v in NEEDED.items() if k in names}, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"resize": "stretch"}, "resize is stretch; it must be squash, crop or pad"),
        ({"preset": "huge"}, "preset is huge; it must be tiny, 32, 64, peer64 or auto"),
        ({"preset": 64}, "preset is 64; it must be tiny, 32, 64, peer64 or auto"),
        ({"optimizer": "sgd"}, "optimizer is sgd; it must be adam or adamw"),
        ({"optimizer": None}, "optimizer is None; it must be adam or adamw"),
        ({"optimizer": ["adam"]}, r"optimizer is ['adam']; it must be adam or adamw"),
        (
            {"logger": "tensorbord"},
            "logger is tensorbord; it must be tensorboard, trackio, wandb or None",
        ),
        ({"random_flip": "no"}, "random_flip is 'no'; it must be True or False"),
        ({"random_flip": 1}, "random_flip is 1; it must be True or False"),
        ({"resolution": "16"}, "resolution is '16'; it must be a whole number or auto"),
        ({"resolution": 16.0}, "resolution is 16.0; it must be a whole number or auto"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"max_train_steps": "7"}, "max_train_steps is '7'; it must be a whole number or None"),
        ({"learning_rate": "1e-4"}, "learning_rate is '1e-4'; it must be a number or auto"),
        ({"learning_rate": True}, "learning_rate is True; it must be a number or auto"),
        ({"output_dir": 3}, "output_dir is 3; it must be a string"),
        (
            {"ema_half_life_steps": "7"},
            "ema_half_life_steps is '7'; it must be a list in which every item is a whole number or auto",
        ),
        (
            {"ema_half_life_steps": [7, 1.5]},
            "ema_half_life_steps is [7, 1.5]; it must be a list in which every item is a whole number or auto",
        ),
    ],
    ids=lambda value: f"{next(iter(value.items()))}" if isinstance(value, dict) else "",
)
def test_what_a_setting_cannot_be_is_named_with_what_it_can(changes: dict, words: str):
    with pytest.raises(UserError) as error:
        make(TrainingConfig, **changes)
    assert str(error.value) == words


@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda c: c.__name__)
def test_every_field_of_every_config_is_looked_at(config_class: Any):
    assert len(CONFIGS) >= 10
    assert make(config_class) == make(config_class)
    for field in fields(config_class):
        with pytest.raises(UserError, match=f"^{field.name} is <object .*; it must be "):
            make(config_class, **{field.name: object()})


def test_numbers_of_other_kinds_become_pythons_own():
    config = make(TrainingConfig, learning_rate=1, seed=np.int64(3), adam_beta1=np.float32(0.5), max_grad_norm=None)
    kinds = [type(getattr(config, name)) for name in ("learning_rate", "seed", "adam_beta1")]
    assert kinds == [float, int, float]
    assert (config.learning_rate, config.seed, config.adam_beta1, config.max_grad_norm) == (1, 3, 0.5, None)


def test_paths_become_texts_that_a_file_of_settings_can_hold():
    config = make(TrainingConfig, train_data_dir=Path("a/b"), output_dir=Path("c"))
    assert (config.train_data_dir, config.output_dir) == ("a/b", "c")
    assert yaml.safe_dump(config.train_data_dir) == "a/b\n...\n"
    assert PushConfig(Path("f"), "r").folder == "f"  # type: ignore[arg-type]
    assert EvaluateConfig(compare=[Path("a"), "b"]).compare == ("a", "b")  # type: ignore[arg-type,list-item]


@pytest.mark.parametrize(("given", "kept"), [(100, (100,)), ([100, 7], (100, 7)), (range(1, 3), (1, 2))])
def test_lists_and_lone_values_become_tuples(given: Any, kept: tuple):
    assert make(TrainingConfig, ema_half_life_steps=given).ema_half_life_steps == kept
    assert hash(make(TrainCommandConfig, ema_half_life_steps=given))


def test_classes_may_be_names_and_numbers():
    labels = [make(SampleConfig, class_labels=given).class_labels for given in ("red", 2, ["red", 2], None)]
    assert labels == [("red",), (2,), ("red", 2), None]


@pytest.mark.parametrize(
    ("changes", "warned"),
    [
        ({"ema_half_life_steps": (5, 9)}, True),
        ({"ema_half_life_steps": (5, 9), "validation_split": "test"}, False),
        ({"ema_half_life_steps": (5, 9), "use_ema": False}, False),
        ({"ema_half_life_steps": (5,)}, False),
    ],
    ids=["several", "held out", "no average", "one"],
)
def test_averages_that_nothing_can_choose_from_are_warned_of(
    changes: dict, warned: bool, make_config: Callable[..., TrainingConfig], capsys: pytest.CaptureFixture[str]
):
    prepare(make_config(**changes)).lock.release()
    words = "warning: ema_half_life_steps has 2 values and validation_split is unset, so nothing tells which average"
    assert (words in capsys.readouterr().err) == warned


@pytest.mark.parametrize(
    "name",
    [
        *(
            "cars",
            "me/cars",
            "me/my cars",
            "me/ü",
            "a/b/c",
            "me/",
            "/me",
            "me/a--b",
            "me/a..b",
            "me/cars.git",
            "-a",
            "a.",
        ),
        *("me/_a", "", "n" * 96, "n" * 97, "me/" + "n" * 96, "me/" + "n" * 97),
    ],
)
def test_a_repository_has_a_name_that_the_hub_takes(name: str):
    try:
        # Letters with accents pass its client, and the Hub refuses them.
        validate_repo_id(name.replace("ü", "!"))
        is_valid = True
    except HFValidationError:
        is_valid = False
    for config_class, settings in (
        (PushConfig, {"folder": "run", "repo_id": name}),
        (TrainCommandConfig, {"train_data_dir": "cars", "push_to_hub": True, "hub_model_id": name or "!"}),
    ):
        with nullcontext() if is_valid else pytest.raises(UserError, match=r"cannot be the name of a repository"):
            config_class(**settings)
