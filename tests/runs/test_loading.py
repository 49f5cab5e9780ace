"""Folders and names that are no saved pipeline."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.errors import UserError
from ddpm_cars.runs.loading import load_pipeline


def test_a_name_that_is_neither_folder_nor_model_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("runs/nosuch", "nosuch", str(tmp_path / "a" / "b")):
        with pytest.raises(UserError, match=rf"^there is no folder {name}, and .* Hub \(.+\)$") as failed:
            load_pipeline(name)
        assert "stacktrace" not in str(failed.value)
        assert "local_files_only" not in str(failed.value)
        assert len(str(failed.value)) < 250


def test_a_folder_without_a_pipeline_is_told_from_an_unfinished_run(tmp_path: Path):
    with pytest.raises(UserError, match=r"holds no saved pipeline: there is no model_index.json$"):
        load_pipeline(str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(
        UserError,
        match=r"is a run that has not finished, and it has no checkpoint yet; the same training command continues it$",
    ):
        load_pipeline(str(tmp_path))


@pytest.fixture
def saved(tmp_path: Path, make_unet: Callable[..., UNet2DModel]) -> Path:
    """A saved pipeline with weights in half precision beside its own."""
    pipeline = DDPMCarsPipeline(make_unet(), DDPMCarsScheduler(num_train_timesteps=20, beta_schedule="sigmoid"))
    pipeline.save_pretrained(tmp_path / "model")
    copy.deepcopy(pipeline).to(torch.float16).save_pretrained(tmp_path / "model", variant="fp16")
    return tmp_path / "model"


def test_a_variant_is_loaded_or_told_with_those_that_are_there(saved: Path):
    whole, half = load_pipeline(str(saved)).unet, load_pipeline(str(saved), variant="fp16").unet
    for name, weight in whole.state_dict().items():
        # The network computes in float32 in any case; what it computes with was rounded.
        assert half.state_dict()[name].dtype == torch.float32
        assert torch.equal(half.state_dict()[name], weight.half().float())
    assert any(not torch.equal(half.state_dict()[name], weight) for name, weight in whole.state_dict().items())
    with pytest.raises(UserError, match=r"model has no variant bf16; it has weights without .* variant fp16$"):
        load_pipeline(str(saved), variant="bf16")
    (saved / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model has no weights without a variant; give --variant with one of fp16$"):
        load_pipeline(str(saved))


def test_a_folder_has_no_revisions(saved: Path):
    with pytest.raises(UserError, match=r"^revision is main, which chooses a state .* on the Hub; .* is a folder$"):
        load_pipeline(str(saved), revision="main")


def test_pickles_are_not_loaded(saved: Path):
    for file in (saved / "unet").glob("*.safetensors"):
        torch.save(load_file(file), file.with_suffix(".bin"))
        file.unlink()
    with pytest.raises(UserError, match=r"model has no weights in safetensors, and .*; save the pipeline again"):
        load_pipeline(str(saved))
