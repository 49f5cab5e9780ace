"""Images that are not finite: ddpm-cars sample draws none of them, and its cure cures."""

from collections.abc import Callable
from pathlib import Path

import pytest
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.cli import commands as cli
from tests.support.overflow import beyond_float16, beyond_float32


def sample(unet: UNet2DModel, folder: Path, *flags: str) -> None:
    DDPMCarsPipeline(unet, DDPMCarsScheduler(num_train_timesteps=20)).save_pretrained(folder / "model")
    where = ("--pretrained_model_name_or_path", str(folder / "model"), "--output_dir", str(folder / "drawn"))
    cli.sample([*where, "--num_images", "3", "--batch_size", "2", "--num_inference_steps", "4", *flags])


def test_float16_too_small_for_the_network_draws_nothing_and_the_cure_goes_on_in_the_folder(
    make_unet: Callable[..., UNet2DModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    unet = beyond_float16(make_unet())
    with pytest.raises(SystemExit) as ended:
        sample(unet, tmp_path, "--mixed_precision", "fp16", "--strip")
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "The model output is not finite in step 1 of 4 (timestep 15), for 2 of 2 images" in line
    assert line.endswith("float16 ends at 65504; give --mixed_precision no or bf16")
    assert not (tmp_path / "drawn").exists()
    sample(unet.float(), tmp_path, "--mixed_precision", "no", "--strip")
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 5


def test_a_network_that_float32_does_not_hold_is_told_of_its_weights(
    make_unet: Callable[..., UNet2DModel], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with pytest.raises(SystemExit):
        sample(beyond_float32(make_unet()), tmp_path, "--mixed_precision", "no")
    assert "so take those of an earlier checkpoint" in capsys.readouterr().err
