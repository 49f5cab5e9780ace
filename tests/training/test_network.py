"""The network of a run is tried before the run writes anything, and what cannot be trained is told in one line."""

import json
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.toy_cars import write_toy_cars
from ddpm_cars.training.trainer import train
from tests.support.trainer_helpers import by_hand, forget_accelerate

MakeConfig = Callable[..., TrainingConfig]


def with_network(config: TrainingConfig, **arguments: Any) -> TrainingConfig:
    """Return the settings with other arguments in their file of the network."""
    path = Path(str(config.model_config))
    path.write_text(json.dumps({**json.loads(path.read_text()), **arguments}))
    return config


@pytest.fixture(scope="session")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Toy cars in two folders: classes a and b."""
    folder = tmp_path_factory.mktemp("classes")
    for name in ("a", "b"):
        write_toy_cars(folder / name, 4, 0, 8)
        (folder / "cars").mkdir(exist_ok=True)
        (folder / name / "train").rename(folder / "cars" / name)
    return str(folder / "cars")


REFUSED = {
    "heads": ({"attention_head_dim": 64}, "attention_head_dim 64: it must be at most the channels"),
    "K blocks": ({"down_block_types": ["KDownBlock2D"] * 2, "up_block_types": ["KUpBlock2D"] * 2}, '"KDownBlock2D"'),
    "labels": ({"num_class_embeds": 3}, "has the num_class_embeds 3, and the run learns no classes; give --class_"),
    "label type": (
        {"class_embed_type": "timestep"},
        "has the class_embed_type timestep, and the run learns no classes",
    ),
    "short embedding": (
        {"time_embedding_type": "learned", "num_train_timesteps": 19},
        "of 19 timesteps and the run has",
    ),
    "fourier": (
        {"time_embedding_type": "fourier"},
        "at timestep 0 is not finite, because time_embedding_type fourier",
    ),
    "division": ({"mid_block_scale_factor": 0}, "is not finite, first after its layer mid_block"),
    "frequencies": ({"freq_shift": 2}, "is not finite, first after its layer time_proj"),
    "all dropped": ({"dropout": 1.0}, "is not finite, first after its layer down_blocks.0.resnets.0.dropout"),
    "four channels": (
        {"in_channels": 4},
        "has in_channels 4: the network takes 4 channels; images can be given to one",
    ),
}


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("fault", REFUSED)
def test_a_network_that_cannot_be_trained_is_told_before_anything_is_written(
    make_config: MakeConfig, fault: str, dry_run: bool
):
    arguments, words = REFUSED[fault]
    config = with_network(make_config(dry_run=dry_run), **arguments)
    with pytest.raises(UserError) as error:
        train(config)
    assert str(error.value).startswith(f"model_config {config.model_config} ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path(config.output_dir).exists()


def test_a_network_for_other_classes_is_refused_and_one_for_these_is_trained(
    make_config: MakeConfig, two_classes: str
):
    config = make_config(train_data_dir=two_classes, class_conditional=True, max_train_steps=1)
    with pytest.raises(UserError, match=r"num_class_embeds 4, and the classes .* make 3; take num_class_embeds out"):
        train(with_network(config, num_class_embeds=4))
    assert not Path(config.output_dir).exists()
    forget_accelerate()
    # One label more stands for a hidden class.
    folder = train(with_network(config, num_class_embeds=3))
    assert json.loads((folder / "unet" / "config.json").read_text())["num_class_embeds"] == 3


def test_labels_that_are_embedded_as_timesteps_are_trained(make_config: MakeConfig, two_classes: str):
    config = make_config(train_data_dir=two_classes, class_conditional=True, max_train_steps=1)
    folder = train(with_network(config, class_embed_type="timestep"))
    assert json.loads((folder / "unet" / "config.json").read_text())["class_embed_type"] == "timestep"


def test_a_learned_embedding_gets_the_timesteps_of_the_run(make_config: MakeConfig):
    config = with_network(make_config(max_train_steps=2), time_embedding_type="learned")
    embedding = json.loads((train(config) / "unet" / "config.json").read_text())
    assert embedding["num_train_timesteps"] == config.num_train_timesteps


def test_the_network_that_was_tried_does_not_change_the_run(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch):
    tried = by_hand(make_config()).state.unet.state_dict()
    monkeypatch.setattr("ddpm_cars.training.prepare.try_network", lambda run: 0)
    untried = by_hand(make_config(output_dir=make_config().output_dir + "-2")).state.unet.state_dict()
    assert all(torch.equal(tensor, untried[name]) for name, tensor in tried.items())


def test_a_network_that_memory_does_not_hold_is_told(make_config: MakeConfig):
    config = with_network(make_config(), block_out_channels=[2048, 4096])
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 400_000_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"^not even one image fits into memory on cpu .*; take a smaller network"):
            train(config)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert not Path(config.output_dir).exists()


def test_activations_of_checkpointed_blocks_are_fewer(make_config: MakeConfig):
    kept = by_hand(make_config()).prepared.activation_bytes_per_image
    checkpointed = make_config(output_dir=make_config().output_dir + "-2", gradient_checkpointing=True)
    # The first convolution alone keeps its input and hands on 4 channels of 8x8 numbers.
    assert kept > by_hand(checkpointed).prepared.activation_bytes_per_image > 4 * 8 * 8 * 4
