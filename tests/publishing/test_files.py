"""What a push would upload, without a Hub."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import yaml
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline
from ddpm_cars.cli import commands as cli
from ddpm_cars.config.commands import PushConfig
from ddpm_cars.errors import UserError
from ddpm_cars.publishing.files import collect, describe, model_files
from ddpm_cars.publishing.hub import check_access, push
from ddpm_cars.runs.saved_pipeline import open_model_folder
from tests.support.publish_helpers import SECRET, write_run

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def run(unet: UNet2DModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "cars", unet)


def collected(folder: Path, **options: Any) -> dict[str, bytes]:
    files = collect(PushConfig(str(folder), "me/cars", **options), open_model_folder(folder), "me/cars")
    return {name: data if isinstance(data, bytes) else data.read_bytes() for name, data in files.items()}


def put(files: dict[str, bytes], folder: Path) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def test_what_others_need_is_published_and_nothing_else(run: Path):
    assert set(collected(run)) == {
        *("README.md", "model_index.json", "pipeline.py", "config.yaml", "training.json", "metrics.json"),
        *("unet/config.json", "unet/diffusion_pytorch_model.safetensors", "scheduler/scheduler_config.json"),
        *("samples.png", "loss.png", "loss.json"),
    }


@pytest.mark.parametrize("space", [False, True])
def test_no_path_and_no_secret_leaves_the_machine(run: Path, space: bool):
    # A pipeline that was loaded from a folder notes the path in its configs.
    loaded = DDPMCarsPipeline.from_pretrained(run)
    loaded.save_pretrained(run)
    assert str(run).encode() in (run / "unet" / "config.json").read_bytes()
    for name, data in collected(run, space=space).items():
        for private in (str(run), "/home/somebody", SECRET):
            assert private.encode() not in data, name


def test_settings_are_those_that_others_can_use(run: Path):
    settings = yaml.safe_load(collected(run)["config.yaml"])
    assert settings["train_data_dir"] == "photographs"
    assert settings["learning_rate"] == 0.0001
    assert not {"output_dir", "cache_dir", "push_to_hub"} & settings.keys()


def test_what_is_published_loads(run: Path, unet: UNet2DModel, tmp_path: Path):
    loaded = DDPMCarsPipeline.from_pretrained(put(collected(run), tmp_path))
    for name, tensor in unet.state_dict().items():
        assert torch.equal(loaded.unet.state_dict()[name], tensor)


def test_a_folder_of_the_first_format_is_published_in_the_one_that_loads_anywhere(tmp_path: Path):
    files = model_files(open_model_folder(GOLDEN / "own_classes"))
    index = json.loads(bytes(files["model_index.json"]))  # type: ignore[arg-type]
    assert index["_class_name"] == "DDPMPipeline"
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    scheduler = json.loads(bytes(files["scheduler/scheduler_config.json"]))  # type: ignore[arg-type]
    assert scheduler["_ddpm_cars"]["variance_type"] == "analytic"
    assert "_calibration" in scheduler


def test_figures_of_a_dataset_of_the_hub_have_a_file_of_their_own(run: Path, tmp_path: Path):
    folder = shutil.copytree(run, tmp_path / "hub")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings |= {"train_data_dir": None, "dataset_name": "somebody/cars"}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    entries = yaml.safe_load(collected(folder)[".eval_results/somebody--cars.yaml"])
    assert {"dataset": {"id": "somebody/cars", "task_id": "frechet_distance"}, "value": 20.13}.items() <= {
        key: value for key, value in entries[0].items() if key != "notes"
    }.items()
    assert "2,000 images" in entries[0]["notes"]


def test_weights_in_pickles_are_refused(run: Path, tmp_path: Path):
    folder = shutil.copytree(run, tmp_path / "pickled")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    found = open_model_folder(folder)
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UserError, match="safetensors"):
        model_files(found)


def test_licences_of_the_run_are_used_and_the_command_line_wins(unet: UNet2DModel, tmp_path: Path):
    folder = write_run(tmp_path / "run", unet, model_license="mit", data_license="drawn by us")
    text = collected(folder)["README.md"].decode()
    assert "license: mit" in text
    assert "drawn by us" in text
    assert "license: apache-2.0" in collected(folder, model_license="apache-2.0")["README.md"].decode()


def test_a_dry_run_lists_the_files_and_asks_nobody(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "argv", ["push_to_hub.py"])
    cli.push_to_hub([str(run), "me/cars", "--dry_run"])
    printed = capsys.readouterr().out
    assert "unet/diffusion_pytorch_model.safetensors" in printed
    files = collected(run)
    assert f"{sum(map(len, files.values())):,}  bytes in {len(files)} files" in printed
    assert describe({"a": b"12", "b/c": b"3"}).splitlines()[-1].split() == ["3", "bytes", "in", "2", "files"]
    assert "to me/cars, a public model if it is new, without a licence; --model_license names one\n" in printed
    cli.push_to_hub([str(run), "me/cars", "--dry_run", "--space", "--private", "--model_license", "mit"])
    assert "to me/cars, a private Space if it is new, under the licence mit\n" in capsys.readouterr().out


def test_without_a_network_the_message_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    # The tests run with HF_HUB_OFFLINE.
    monkeypatch.setattr(sys, "argv", ["push_to_hub.py"])
    monkeypatch.setenv("HF_TOKEN", SECRET)
    with pytest.raises(SystemExit) as end:
        cli.push_to_hub([str(run), "me/cars"])
    printed = capsys.readouterr()
    assert end.value.code == 1
    line = printed.err.strip().splitlines()[-1]
    assert line.startswith("push_to_hub.py: error: the Hub is switched off by HF_HUB_OFFLINE")
    assert str(run) in line
    assert SECRET not in printed.out + printed.err


def test_a_name_that_is_none_is_refused(run: Path):
    with pytest.raises(UserError, match="cannot be the name of a repository"):
        push(PushConfig(str(run), "me/cars/red"))


def test_before_training_a_token_is_needed_and_the_hub_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    assert "switched off" in str(check_access("me/cars"))
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere/token")
    monkeypatch.setattr(huggingface_hub.constants, "HF_STORED_TOKENS_PATH", "/nowhere/tokens")
    with pytest.raises(UserError, match="hf auth login"):
        check_access("me/cars")
