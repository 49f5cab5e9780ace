"""Networks by name, and from a file."""

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from diffusers import UNet2DModel

from ddpm_cars.config.training import PRESET_HALVINGS, Preset
from ddpm_cars.errors import UserError
from ddpm_cars.networks.unet import PRESETS, create_unet

SMALL = {
    "block_out_channels": [4, 8],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
}


def write(path: Path, content: object) -> str:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


def attention_sizes(unet: UNet2DModel, resolution: int) -> list[int]:
    """Return the heights of the images that the self-attention of the way down sees."""
    levels = enumerate(unet.down_blocks)
    return [resolution >> level for level, block in levels if getattr(block, "attentions", None)]


@pytest.mark.parametrize(
    ("preset", "resolution", "attention"),
    [("tiny", 16, []), ("32", 32, [16]), ("64", 64, [16, 8]), ("peer64", 64, [4])],
)
def test_presets_are_built_with_attention_where_it_belongs(preset: str, resolution: int, attention: list[int]):
    with torch.device("meta"):
        unet = create_unet(preset, resolution)
    assert unet.config.sample_size == resolution
    assert (unet.config.in_channels, unet.config.out_channels) == (3, 3)
    assert unet.dtype == torch.float32
    assert attention_sizes(unet, resolution) == attention
    with torch.device("meta"):
        assert unet(torch.zeros(2, 3, resolution, resolution), 5).sample.shape == (2, 3, resolution, resolution)


def test_every_preset_can_be_asked_for():
    assert set(get_args(Preset)) == set(PRESETS)
    halvings = {name: len(arguments["block_out_channels"]) - 1 for name, arguments in PRESETS.items()}
    assert halvings == PRESET_HALVINGS


def test_the_peer_preset_is_the_network_of_the_diffusers_example():
    with torch.device("meta"):
        unet = create_unet("peer64", 64)
    assert sum(parameter.numel() for parameter in unet.parameters()) == 113_673_219
    assert tuple(unet.config.block_out_channels) == (128, 128, 256, 256, 512, 512)
    assert unet.config.down_block_types[4] == "AttnDownBlock2D"
    assert unet.config.up_block_types[1] == "AttnUpBlock2D"
    assert sum("Attn" in name for name in (*unet.config.down_block_types, *unet.config.up_block_types)) == 2


def test_the_32_preset_has_the_size_of_ho_et_al():
    with torch.device("meta"):
        unet = create_unet("32", 32)
    # Ho et al. 2020, appendix B: 35.7 million for CIFAR10.
    assert sum(parameter.numel() for parameter in unet.parameters()) == pytest.approx(35.7e6, rel=0.01)


def test_the_tiny_preset_runs_and_its_weights_follow_the_seed():
    def build(seed: int) -> UNet2DModel:
        torch.manual_seed(seed)
        return create_unet("tiny", 8)

    first, again, other = build(0), build(0), build(1)
    assert torch.equal(first.conv_in.weight, again.conv_in.weight)
    assert not torch.equal(first.conv_in.weight, other.conv_in.weight)
    with torch.no_grad():
        out = first(torch.randn(1, 3, 8, 8), 3).sample
    assert out.shape == (1, 3, 8, 8)
    assert out.isfinite().all()


def test_a_file_describes_the_network(tmp_path: Path):
    arguments = {**SMALL, "in_channels": 1, "out_channels": 1, "_class_name": "UNet2DModel"}
    unet = create_unet("64", 10, write(tmp_path / "unet.json", arguments))
    assert tuple(unet.config.block_out_channels) == (4, 8)
    assert unet.config.in_channels == 1
    assert unet.config.sample_size == 10


def test_the_config_file_of_a_saved_network_will_do(tmp_path: Path):
    unet = create_unet("tiny", 8, write(tmp_path / "unet.json", SMALL))
    unet.save_pretrained(tmp_path / "saved")
    again = create_unet("tiny", 8, str(tmp_path / "saved" / "config.json"))
    shapes = {name: tensor.shape for name, tensor in unet.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{not json", "cannot be read as JSON"),
        ([1, 2], "holds a list; it must hold an object"),
        ({"layers": 3}, "does not describe a UNet2DModel"),
        ({**SMALL, "up_block_types": ["UpBlock2D"]}, "does not describe a UNet2DModel"),
        ({**SMALL, "down_block_types": ["DownBlock2D", "NoBlock"]}, "does not describe a UNet2DModel"),
    ],
    ids=["not-json", "list", "unknown-argument", "uneven-blocks", "unknown-block"],
)
def test_a_file_that_describes_no_network_is_named(tmp_path: Path, content: object, words: str):
    path = write(tmp_path / "unet.json", content)
    with pytest.raises(UserError, match=words) as error:
        create_unet("tiny", 8, path)
    assert "unet.json" in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"nowhere\.json cannot be read"):
        create_unet("tiny", 8, str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    ("preset", "resolution", "factor", "nearest"),
    [("tiny", 30, 4, 32), ("tiny", 9, 4, 8), ("64", 60, 8, 64), ("peer64", 65, 32, 64), ("peer64", 8, 32, 32)],
)
def test_a_resolution_that_cannot_be_halved_is_refused(preset: str, resolution: int, factor: int, nearest: int):
    expected = rf"resolution is {resolution}; .* multiple of {factor} \(the nearest is {nearest}\)"
    with torch.device("meta"), pytest.raises(UserError, match=expected):
        create_unet(preset, resolution)


@pytest.mark.parametrize("size", [16, [8, 16]])
def test_a_file_of_another_size_is_refused_with_both_numbers(size: object, tmp_path: Path):
    path = write(tmp_path / "unet.json", {**SMALL, "sample_size": size})
    with pytest.raises(UserError, match=r"has a sample_size of .*16.* and resolution is 8; give them the same"):
        create_unet("tiny", 8, path)


@pytest.mark.parametrize("size", [8, [8, 8], None])
def test_a_file_of_the_same_size_or_none_is_taken(size: object, tmp_path: Path):
    path = write(tmp_path / "unet.json", {**SMALL, "sample_size": size})
    assert create_unet("tiny", 8, path).config.sample_size == 8
