"""Files that describe a network: where they are found, and what in them is refused or passed over."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from diffusers import UNet2DModel

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.errors import UserError
from ddpm_cars.networks.model_config import read_model_config
from ddpm_cars.networks.unet import create_unet


def write(path: Path, content: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.fixture
def saved(make_unet: Callable[..., UNet2DModel], tmp_path: Path) -> Path:
    """A saved pipeline whose network has six output channels and four labels."""
    unet = make_unet(out_channels=6, num_class_embeds=4)
    DDPMCarsPipeline(unet, DDPMCarsScheduler(20)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("place", ["", "unet", "unet/config.json"])
def test_a_saved_pipeline_its_network_and_its_file_describe_the_same(saved: Path, place: str):
    file, arguments = read_model_config(str(saved / place))
    assert file == str(saved / "unet" / "config.json")
    assert arguments["out_channels"] == 6
    unet = create_unet("tiny", 8, str(saved / place), learn_variance=True, num_class_embeds=4)
    expected = UNet2DModel.from_config(json.loads((saved / "unet" / "config.json").read_text()))
    assert {k: v.shape for k, v in unet.state_dict().items()} == {k: v.shape for k, v in expected.state_dict().items()}


def test_what_diffusers_notes_about_itself_is_passed_over(tmp_path: Path, tiny_unet_config: dict):
    notes = {
        "_class_name": "UNet2DModel",
        "_diffusers_version": "0.1.0",
        "_name_or_path": "somewhere",
        "_use_default_values": ["act_fn", "dropout"],
        # A default of that time, which is not a choice of anybody.
        "act_fn": "mish",
    }
    described = {**tiny_unet_config, **notes}
    unet = create_unet("tiny", 8, write(tmp_path / "unet.json", described))
    expected = UNet2DModel.from_config({**described, "sample_size": 8})
    without_version = {k: v for k, v in expected.config.items() if not k.startswith("_")}
    assert {k: v for k, v in unet.config.items() if not k.startswith("_")} == without_version
    assert unet.config.act_fn == "silu"


def test_a_file_may_begin_with_a_mark_of_its_encoding(tmp_path: Path, tiny_unet_config: dict):
    path = tmp_path / "unet.json"
    path.write_text(json.dumps(tiny_unet_config), encoding="utf-8-sig")
    assert read_model_config(str(path)) == (str(path), tiny_unet_config)


def test_a_folder_without_a_config_says_where_one_is_looked_for(tmp_path: Path):
    with pytest.raises(UserError, match=r"is a folder without config\.json or unet/config\.json$"):
        read_model_config(str(tmp_path))
    for step in ("step-00000009", "step-00000010"):
        (tmp_path / "checkpoints" / step / "unet").mkdir(parents=True)
        (tmp_path / "checkpoints" / step / "unet" / "config.json").touch()
    for name in (tmp_path, tmp_path / "checkpoints"):
        with pytest.raises(UserError, match=r"did you mean .*/checkpoints/step-00000010\?$"):
            read_model_config(str(name))


def test_the_config_of_something_else_is_refused_by_its_name(saved: Path):
    with pytest.raises(UserError, match=r"model_index\.json describes a DDPMPipeline .*; give unet/config\.json"):
        read_model_config(str(saved / "model_index.json"))
    with pytest.raises(UserError, match=r"describes a DDPMScheduler and no UNet2DModel; only that can be trained"):
        read_model_config(str(saved / "scheduler" / "scheduler_config.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[" * 100_000, "cannot be read as JSON"),
        (b"\xff\xfe".decode("latin-1"), "cannot be read as JSON"),
        ("", "cannot be read as JSON"),
        ('{"norm_eps": 1,\n}', "cannot be read as JSON: line 2 closes after a comma, which must go"),
        ({"add_attention": "no"}, 'has the add_attention "no"; it must be true or false'),
        ("null", "holds a NoneType; it must hold an object"),
        ({"layer_per_block": 3}, "it has layer_per_block; did you mean layers_per_block?"),
        ({"x": 3}, "it has x; take it out of the file"),
        ({"norm_eps": float("nan")}, "has the norm_eps nan; it must be a finite number"),
        ('{"norm_eps": 1e999}', "has the norm_eps inf; it must be a finite number"),
        ({"time_embedding_type": "sine"}, 'has the time_embedding_type "sine"; it must be one of "positional", '),
        ({"class_embed_type": "identity"}, 'has the class_embed_type "identity"; it must be one of null, "timestep"'),
        ({"class_embed_type": "projection"}, 'has the class_embed_type "projection"; it must be one of'),
        ({"mid_block_type": "UNetMidBlock"}, 'has the mid_block_type "UNetMidBlock"; it must be one of'),
        ({"downsample_type": ["conv"]}, 'has the downsample_type ["conv"]; it must be one of "conv", "resnet"'),
    ],
)
def test_files_that_describe_no_network_are_told_in_one_line(tmp_path: Path, content: object, words: str):
    path = write(tmp_path / "unet.json", content)
    with pytest.raises(UserError) as error:
        read_model_config(path)
    assert words in str(error.value)
    assert str(error.value).startswith(f"model_config {path} ")
    assert "\n" not in str(error.value)


SIX = {"out_channels": 6}


@pytest.mark.parametrize(
    ("described", "asked", "words"),
    [
        (SIX, {}, "6 out_channels and 3 in_channels; .* must be 3, or variance_type learned_range"),
        ({"out_channels": 3}, {"learn_variance": True}, "with variance_type learned_range, out_channels must be 6"),
        ({"out_channels": 4}, {}, "out_channels must be 3$"),
        ({"in_channels": True}, {}, "has the in_channels true; it must be a whole number"),
        ({"in_channels": "3"}, {}, 'has the in_channels "3"; it must be a whole number'),
        ({"sample_size": "8"}, {}, 'has a sample_size of "8" and resolution is 8'),
        ({"in_channels": 1, "out_channels": 3}, {}, "out_channels must be 1$"),
        ({"num_class_embeds": 5}, {"num_class_embeds": 4}, "num_class_embeds 5, and the classes .* make 4; take"),
        (
            {"time_embedding_type": "learned", "num_train_timesteps": 10},
            {"num_train_timesteps": 20},
            "learned embedding of 10 timesteps and the run has num_train_timesteps 20; .* give num_train_timesteps 10",
        ),
    ],
)
def test_a_file_that_contradicts_the_run_is_refused_with_both(
    tmp_path: Path, tiny_unet_config: dict, described: dict[str, Any], asked: dict[str, Any], words: str
):
    path = write(tmp_path / "unet.json", {**tiny_unet_config, **described})
    with pytest.raises(UserError, match=words) as error:
        create_unet("tiny", 8, path, **asked)
    assert path in str(error.value)


@pytest.mark.parametrize(
    ("described", "asked", "made"),
    [
        (SIX, {"learn_variance": True}, {"out_channels": 6}),
        ({"in_channels": 1}, {}, {"out_channels": 1}),
        ({"in_channels": 1}, {"learn_variance": True}, {"out_channels": 2}),
        ({"num_class_embeds": 4}, {"num_class_embeds": 4}, {"num_class_embeds": 4}),
        ({"num_class_embeds": None}, {"num_class_embeds": 4}, {"num_class_embeds": 4}),
        ({"time_embedding_type": "learned"}, {"num_train_timesteps": 20}, {"num_train_timesteps": 20}),
        (
            {"time_embedding_type": "learned", "num_train_timesteps": 30},
            {"num_train_timesteps": 20},
            {"num_train_timesteps": 30},
        ),
    ],
)
def test_a_file_that_agrees_with_the_run_or_leaves_it_open_is_taken(
    tmp_path: Path, tiny_unet_config: dict, described: dict[str, Any], asked: dict[str, Any], made: dict[str, Any]
):
    unet = create_unet("tiny", 8, write(tmp_path / "unet.json", {**tiny_unet_config, **described}), **asked)
    assert {name: unet.config[name] for name in made} == made
