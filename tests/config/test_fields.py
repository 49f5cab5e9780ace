"""What the settings say of themselves, and what is computed from it."""

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pytest

import ddpm_cars
from ddpm_cars.config.fields import setting, settings_with
from ddpm_cars.config.pictures import PicturesConfig
from ddpm_cars.config.training import TrainCommandConfig, TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.runs.settings import public_settings
from ddpm_cars.training import train


@dataclass(frozen=True, kw_only=True)
class LaterConfig(TrainingConfig):
    """The settings of a later version, which has two more."""

    loss_weight: float = setting(1.0, may_change=False)
    progress_bar: bool = setting(True, may_change=True)


@dataclass(frozen=True, kw_only=True)
class UndecidedConfig(TrainingConfig):
    loss_weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class SilentConfig(TrainingConfig):
    loss_weight: float = setting(1.0, minimum=0)


@pytest.mark.parametrize("config_class", [UndecidedConfig, SilentConfig])
def test_a_setting_that_does_not_say_whether_it_may_change_is_an_error(config_class: type):
    with pytest.raises(TypeError, match=rf"{config_class.__name__}\.loss_weight does not say may_change"):
        settings_with(config_class, "may_change")


def test_every_setting_of_training_has_decided():
    assert settings_with(TrainCommandConfig, "may_change").keys() < {f.name for f in fields(TrainCommandConfig)}


def test_what_says_which_images_a_run_used_is_taken_from_it():
    expected = {f.name for f in fields(PicturesConfig)} | {"label_column", "validation_split"}
    assert settings_with(TrainingConfig, "from_run").keys() == expected


def test_nothing_published_says_where_a_run_was():
    config = TrainCommandConfig(train_data_dir="/home/me/cars", cache_dir="/c", model_config="/m/unet.json", seed=3)
    public = public_settings({f.name: getattr(config, f.name) for f in fields(config)})
    assert not any("/" in str(value) for value in public.values())
    assert (public["train_data_dir"], public["model_config"], public["seed"]) == ("cars", "unet.json", 3)
    assert not {"output_dir", "cache_dir", "logger", "hub_model_id"} & public.keys()


def test_a_number_that_is_too_large_for_its_type_is_refused(make_config: Callable[..., TrainingConfig]):
    with pytest.raises(UserError, match=r"^learning_rate is 10{199}\.\.\.; it must be a number or auto$"):
        make_config(learning_rate=10**400)


def test_no_label_stands_twice_in_the_card():
    labels = settings_with(TrainCommandConfig, "label").values()
    assert len(labels) == len({*labels}) >= 15


def test_a_run_of_before_a_setting_existed_continues_and_only_as_it_was(make_config: Callable[..., TrainingConfig]):
    config = make_config(max_train_steps=2, checkpointing_steps=1, save_images_steps=None, lr_warmup_steps=0)
    folder = train(config)
    for state in folder.glob("checkpoints/step-*/state.json"):
        assert not {"loss_weight", "progress_bar"} & json.loads(state.read_text())["config"].keys()
    settings = {**asdict(config), "max_train_steps": 3}
    with pytest.raises(UserError, match=r"belongs to a run with loss_weight 1\.0 \(now 2\.0\)"):
        train(LaterConfig(**settings, loss_weight=2.0))
    train(LaterConfig(**settings, progress_bar=False))
    assert json.loads((folder / "training.json").read_text())["steps"] == 3


def test_python_says_what_to_give_in_place_of_a_setting_that_does_not_exist():
    with pytest.raises(TypeError, match=r"^TrainingConfig has no setting lr; give learning_rate$"):
        TrainingConfig(train_data_dir="cars", lr=1)
    config = TrainingConfig(train_data_dir="cars", seed=3)
    assert pickle.loads(pickle.dumps(config)) == copy.deepcopy(config) == replace(config) == config


@pytest.mark.parametrize(
    "function", [ddpm_cars.train, ddpm_cars.sample, ddpm_cars.evaluate, ddpm_cars.calibrate_folder]
)
def test_what_is_no_config_is_refused_with_one(function: Callable[[Any], Any]):
    with pytest.raises(TypeError, match=rf"^{function.__name__} takes a \w+Config, as in .*, and 'photos' is none$"):
        function("photos")
