"""Networks that cannot be trained are told by their file, with the argument that is to blame."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_cars.errors import UserError
from ddpm_cars.networks.trial import step_without_values
from ddpm_cars.networks.unet import PRESETS, create_unet

PLAIN: dict[str, Any] = {
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 4,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
K_BLOCKS = {"down_block_types": ["KDownBlock2D"] * 2, "up_block_types": ["KUpBlock2D"] * 2}


def refused(path: Path, arguments: dict[str, Any]) -> str:
    """Return the one line that refuses a file with these arguments besides `PLAIN`."""
    path.write_text(json.dumps({**PLAIN, **arguments}))
    with torch.device("meta"), pytest.raises(UserError) as error:
        create_unet("tiny", 8, str(path))
    line = str(error.value)
    assert line.startswith(f"model_config {path} ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("arguments", "blamed"),
    [
        ({"attention_head_dim": 64}, "its attention_head_dim 64: it must be at most the channels of every block"),
        ({"attention_head_dim": 0}, "its attention_head_dim 0: "),
        ({"attention_head_dim": "8"}, 'its attention_head_dim "8": it must be a number'),
        ({"norm_num_groups": 3}, "its norm_num_groups 3: it must divide the channels of every block"),
        ({"norm_num_groups": None}, "its norm_num_groups null: "),
        ({"attn_norm_num_groups": 3}, "its attn_norm_num_groups 3: it must divide the channels of the last block"),
        (K_BLOCKS, 'its down_block_types ["KDownBlock2D", "KDownBlock2D"] and up_block_types ["KUp'),
        (
            {"down_block_types": ["DownBlock2D", "KDownBlock2D"]},
            'its down_block_types ["DownBlock2D", "KDownBlock2D"]',
        ),
        ({"down_block_types": ["DownBlock2D", "DownEncoderBlock2D"]}, "its down_block_types "),
        ({"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}, "its down_block_types "),
        ({"up_block_types": ["UpBlock2D"]}, 'its up_block_types ["UpBlock2D"] '),
        (
            {"block_out_channels": [4, 8, 8]},
            'its down_block_types ["DownBlock2D", "AttnDownBlock2D"] and up_block_types',
        ),
        ({"block_out_channels": [-4, 8]}, "its block_out_channels [-4, 8]: they must be multiples of norm_num_groups"),
        ({"layers_per_block": 0}, "its layers_per_block 0 "),
        ({"layers_per_block": 1.5}, "its layers_per_block 1.5 "),
        ({"norm_eps": "a"}, 'its norm_eps "a": it must be a number ('),
        ({"act_fn": "sine"}, 'its act_fn "sine" '),
        ({"dropout": 2}, "its dropout 2 "),
        ({"downsample_padding": 3}, "its downsample_padding 3 "),
        ({"num_class_embeds": -1}, "its num_class_embeds -1 "),
        ({"block_out_channels": 8}, "its block_out_channels 8: "),
        ({"down_block_types": ["KDownBlock2D"] * 12}, '"KDownBlock2D", ... (Must provide the same number'),
    ],
)
def test_the_argument_that_is_to_blame_is_named(tmp_path: Path, arguments: dict[str, Any], blamed: str):
    assert blamed in refused(tmp_path / "unet.json", arguments)


def test_two_faults_at_once_are_told_by_what_diffusers_says(tmp_path: Path):
    line = refused(tmp_path / "unet.json", {"norm_num_groups": 3, "layers_per_block": 1.5})
    assert line.endswith("can be trained: 'float' object cannot be interpreted as an integer")


@pytest.mark.parametrize("arguments", [*PRESETS.values(), PLAIN, {**PLAIN, "num_class_embeds": 3}])
def test_a_step_without_values_passes_what_can_be_trained(arguments: dict[str, Any]):
    with torch.device("meta"):
        unet = UNet2DModel(**arguments, sample_size=32)
    step_without_values(unet)
    assert all(p.grad is not None and p.grad.shape == p.shape for p in unet.parameters() if p.requires_grad)


def test_a_network_that_makes_images_of_another_size_is_none(make_unet: Any):
    unet = make_unet().to("meta")
    unet.conv_out = torch.nn.Conv2d(unet.conv_out.in_channels, 3, 1, device="meta")
    step_without_values(unet)
    unet.conv_out = torch.nn.Conv2d(unet.conv_out.in_channels, 3, 3, device="meta")
    with pytest.raises(ValueError, match=r"makes \(2, 3, 6, 6\) of \(2, 3, 8, 8\)"):
        step_without_values(unet)
