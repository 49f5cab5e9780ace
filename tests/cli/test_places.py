"""Files and folders that are not there are told at once."""

from pathlib import Path
from typing import Any

import pytest

import ddpm_cars
from ddpm_cars.cli import main
from ddpm_cars.cli.places import check_places
from ddpm_cars.config.commands import CalibrateConfig, DemoConfig, EvaluateConfig, PushConfig, SampleConfig, ShowConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError

MODEL = str(ddpm_cars.pretrained())


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a folder and a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    (tmp_path / "empty" / "inner").mkdir(parents=True)
    (tmp_path / "photos.zip").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "cars").symlink_to(MODEL)
    (tmp_path / "unfinished" / "checkpoints").mkdir(parents=True)
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "dangling").symlink_to("away")
    return tmp_path


@pytest.mark.parametrize(
    ("config_class", "settings", "words"),
    [
        (TrainingConfig, {"train_data_dir": "nowhere"}, "train_data_dir nowhere is not a folder"),
        (TrainingConfig, {"train_data_dir": "photo"}, "train_data_dir photo is not a folder; did you mean photos?"),
        (
            TrainingConfig,
            {"train_data_dir": "photos.zip"},
            "train_data_dir photos.zip is a file, not a folder; unpack it if it is an archive; did you mean photos?",
        ),
        (TrainingConfig, {"dataset_name": "./phots"}, "dataset_name ./phots is not a folder; did you mean photos?"),
        (
            TrainingConfig,
            {"train_data_dir": "photos/1.jpg"},
            "train_data_dir photos/1.jpg is a file, not a folder; did you mean its folder, photos?",
        ),
        (
            TrainingConfig,
            {"train_data_dir": "photos", "model_config": "google/ddpm-cifar10-32"},
            "model_config google/ddpm-cifar10-32 is not a file or folder; hf download google/ddpm-cifar10-32 ",
        ),
        (ShowConfig, {"train_data_dir": "empty"}, "empty holds no images"),
        (
            TrainingConfig,
            {"train_data_dir": "photos", "model_config": "unet.json"},
            "model_config unet.json is not a file or folder",
        ),
        (
            TrainingConfig,
            {"train_data_dir": "photos", "output_dir": "photos.zip"},
            "output_dir photos.zip is a file; choose another output_dir",
        ),
        (
            TrainingConfig,
            {"train_data_dir": "photos", "output_dir": "photos/model"},
            "output_dir photos/model is inside train_data_dir photos",
        ),
        (SampleConfig, {"pretrained_model_name_or_path": "photos"}, "photos holds no saved pipeline"),
        (
            SampleConfig,
            {"pretrained_model_name_or_path": "runs"},
            "runs holds no saved pipeline itself; did you mean runs/cars?",
        ),
        (
            SampleConfig,
            {"pretrained_model_name_or_path": "runs/car"},
            None,
        ),
        (
            DemoConfig,
            {"pretrained_model_name_or_path": "./runs/car"},
            "./runs/car is not a folder with a saved pipeline; did you mean runs/cars?",
        ),
        (
            CalibrateConfig,
            {"pretrained_model_name_or_path": "me/cars"},
            "me/cars is not a folder with a saved pipeline",
        ),
        (EvaluateConfig, {"compare": (MODEL, "photos")}, "photos holds no saved pipeline"),
        (
            EvaluateConfig,
            {"pretrained_model_name_or_path": MODEL, "train_data_dir": "photos"},
            "photos has 1 images; an evaluation needs 80 or more, half of them to compare with and half in place of ",
        ),
        (
            EvaluateConfig,
            {"compare": ["runs/cars", "nowhere"]},
            "nowhere is not a folder with a saved pipeline; on the Hub it would be OWNER/nowhere",
        ),
        (PushConfig, {"folder": "nowhere", "repo_id": "cars"}, "nowhere is not a folder with a saved pipeline"),
        (TrainingConfig, {"train_data_dir": "photos"}, None),
        (TrainingConfig, {"dataset_name": "me/photos"}, None),
        (SampleConfig, {"pretrained_model_name_or_path": MODEL}, None),
        (
            SampleConfig,
            {"pretrained_model_name_or_path": "unfinished"},
            "unfinished is a run that has not finished",
        ),
        (
            SampleConfig,
            {"pretrained_model_name_or_path": "unfinish"},
            "unfinish is not a folder with a saved",
        ),
        (EvaluateConfig, {"compare": (MODEL, "unfinished")}, "unfinished is a run that has not finished"),
        (SampleConfig, {"pretrained_model_name_or_path": "somebody/cars"}, None),
        (
            SampleConfig,
            {"pretrained_model_name_or_path": "cars"},
            "cars is not a folder with a saved pipeline; on the",
        ),
        (DemoConfig, {}, None),
        (PushConfig, {"folder": MODEL, "repo_id": "cars"}, None),
    ],
)
def test_what_cannot_be_there_is_told(config_class: Any, settings: dict[str, Any], words: str | None):
    config = config_class(**settings)
    if words is None:
        check_places(config)
    else:
        with pytest.raises(UserError) as error:
            check_places(config)
        assert str(error.value).startswith(words)


TOO_LONG = "a" * 300


@pytest.mark.parametrize(
    ("config_class", "name"),
    [
        (TrainingConfig, "train_data_dir"),
        (TrainingConfig, "output_dir"),
        (TrainingConfig, "model_config"),
        (ShowConfig, "dataset_name"),
        (SampleConfig, "pretrained_model_name_or_path"),
        (PushConfig, "folder"),
    ],
)
def test_names_that_no_file_can_have_are_told(config_class: Any, name: str):
    needed: dict[str, Any] = {"train_data_dir": "photos"} if config_class is TrainingConfig else {}
    needed |= {"repo_id": "me/cars"} if config_class is PushConfig else {}
    with pytest.raises(UserError, match=rf"^{name} {TOO_LONG} cannot be a file or folder: File name too long$"):
        check_places(config_class(**needed | {name: TOO_LONG}))
    with pytest.raises(UserError, match=rf"^{name} circle cannot be a file or folder: Too many levels"):
        check_places(config_class(**needed | {name: "circle"}))


def test_a_link_that_leads_nowhere_is_no_output_folder():
    with pytest.raises(UserError, match=r"^output_dir dangling is a link that leads nowhere; choose another"):
        check_places(TrainingConfig(train_data_dir="photos", output_dir="dangling"))


@pytest.mark.parametrize(
    "argv", [[TOO_LONG], ["train", "--config", TOO_LONG], ["evaluate", "--compare", TOO_LONG, "x"]]
)
def test_names_that_are_too_long_are_told_wherever_they_stand(argv: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(argv)
    assert TOO_LONG in capsys.readouterr().err


def test_an_output_folder_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch):
    # The superuser may write everywhere.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    config = TrainingConfig(train_data_dir="photos", output_dir="mine/model")
    with pytest.raises(UserError, match=r"output_dir mine/model cannot be written to \(Permission denied\)"):
        check_places(config)
