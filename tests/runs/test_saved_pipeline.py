"""A pipeline in a folder: replaced file by file, read back, deleted without the files of others."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.errors import UserError
from ddpm_cars.runs.saved_pipeline import (
    delete_pipeline,
    load_pipeline,
    load_published,
    make_pipeline,
    same_weights,
    save_pipeline,
    scheduler_config,
)
from tests.support.disk_helpers import note_disk_events


@pytest.fixture
def pipeline(unet: UNet2DModel) -> DDPMCarsPipeline:
    scheduler = DDPMCarsScheduler(num_train_timesteps=20)
    return make_pipeline(unet.config, unet.state_dict(), scheduler, ("van", "car"), torch.device("cpu"))


def test_a_pipeline_is_a_copy(pipeline: DDPMCarsPipeline, unet: UNet2DModel):
    assert pipeline.labels == {"van": 0, "car": 1}
    assert same_weights(pipeline, unet.state_dict())
    assert not {p.data_ptr() for p in pipeline.unet.parameters()} & {p.data_ptr() for p in unet.parameters()}


def test_a_saved_pipeline_comes_back_whole_and_its_index_comes_last(
    pipeline: DDPMCarsPipeline, make_unet: Callable[..., UNet2DModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert load_published(tmp_path) is None
    assert scheduler_config(tmp_path) == {}
    (tmp_path / "unet").mkdir()
    for name in ("unet/diffusion_pytorch_model.bin", "unet/mine.txt", "mine.txt"):
        (tmp_path / name).write_text("older")
    events = note_disk_events(monkeypatch)
    save_pipeline(pipeline, tmp_path)
    moves = [event for event in events if event.startswith("named ")]
    assert moves[-1] == "named model_index.json"
    # Loading would prefer them.
    assert not (tmp_path / "unet" / "diffusion_pytorch_model.bin").exists()
    back = load_published(tmp_path)
    assert same_weights(back, pipeline.unet.state_dict())
    assert not same_weights(back, make_unet(1).state_dict())
    assert scheduler_config(tmp_path)["num_train_timesteps"] == 20
    (tmp_path / "unet" / "config.json").write_text("{")
    assert load_published(tmp_path) is None
    assert scheduler_config(tmp_path)["num_train_timesteps"] == 20


def test_only_what_was_saved_is_deleted(pipeline: DDPMCarsPipeline, tmp_path: Path):
    save_pipeline(pipeline, tmp_path / "alone")
    delete_pipeline(tmp_path / "alone")
    assert list(tmp_path.iterdir()) == []
    save_pipeline(pipeline, tmp_path / "shared")
    (tmp_path / "shared" / "unet" / "mine.txt").write_text("mine")
    delete_pipeline(tmp_path / "shared")
    assert [path.name for path in (tmp_path / "shared").rglob("*")] == ["unet", "mine.txt"]


def test_loading_shows_no_bar_and_leaves_diffusers_its_own(
    pipeline: DDPMCarsPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr("diffusers.utils.logging._tqdm_active", True)
    save_pipeline(pipeline, tmp_path)
    load_pipeline(str(tmp_path))
    assert "Loading pipeline" not in capsys.readouterr().err
    DDPMCarsPipeline.from_pretrained(tmp_path)
    assert "Loading pipeline" in capsys.readouterr().err


def test_a_model_that_nobody_has_is_told_once():
    """Diffusers warns of the Hub before it fails, in words of several lines."""
    heard: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = heard.append  # type: ignore[method-assign]
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    logger.addHandler(handler)
    try:
        with pytest.raises(UserError, match=r"^there is no folder nobody/cars, .* \(HF_HUB_OFFLINE is set, and "):
            load_pipeline("nobody/cars")
        assert heard == []
        with pytest.raises(OSError, match="nobody/cars"):
            DDPMCarsPipeline.from_pretrained("nobody/cars")
        assert len(heard) == 1
    finally:
        logger.removeHandler(handler)
