"""What is different where a checkpoint belongs to another run, in words."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ddpm_cars.config.fields import AUTO
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.runs.checkpoints import load_checkpoint
from ddpm_cars.runs.run_folder import list_checkpoints
from ddpm_cars.training.same_run import check_same_run, say_other_decoder
from ddpm_cars.training.trainer import train
from tests.support.trainer_helpers import forget_accelerate

FACTS: dict[str, Any] = {"pictures": "a", "num_images": 1300, "network": "b", "global batch size": 8, "decoder": 3}
CONFIG = TrainingConfig(train_data_dir="photos", preset="32", beta_schedule="sigmoid")
WHY = ", which cannot change while it goes on, because "
CURE = "; go back to that, choose another --output_dir, or pass --overwrite_output_dir to start again"
SETTINGS = "its steps so far were taken with the settings that it began with"
IMAGES = "it can be repeated exactly only on its own images"
NETWORK = "its weights fit no other network"
BATCH = "the order of its images follows from their number in a step"


def check(before: dict[str, Any], config: TrainingConfig, facts: dict[str, Any]) -> None:
    """Compare a run with a checkpoint, which went through JSON as a file does."""
    check_same_run(Path("step-1"), {"config": json.loads(json.dumps(asdict(CONFIG))), "facts": before}, config, facts)


@pytest.mark.parametrize(
    ("settings", "facts", "words", "why"),
    [
        (
            {"train_data_dir": "p5"},
            {"pictures": "x", "num_images": 5},
            "on photos (1,300 images), while these are p5 (5 images)",
            IMAGES,
        ),
        (
            {},
            {"pictures": "x", "num_images": 1301},
            "that began when photos had other images (1,300 then, 1,301 now)",
            IMAGES,
        ),
        ({}, {"pictures": "x"}, "that began when photos had other images", IMAGES),
        ({"resolution": 16}, {"pictures": "x"}, "with resolution auto (now 16)", SETTINGS),
        ({"preset": "tiny"}, {"network": "x"}, "with another network (preset 32, now preset tiny)", NETWORK),
        (
            {"beta_schedule": "linear", "noise_offset": 0.1},
            {},
            "with noise_offset None (now 0.1), beta_schedule sigmoid (now linear, the default)",
            SETTINGS,
        ),
        ({"model_config": "n.json"}, {"network": "x"}, "with another network (preset 32, now n.json)", NETWORK),
        (
            {"seed": 1},
            {"global batch size": 4},
            "with seed 0 (now 1), and with 8 images a step (now 4)",
            f"{SETTINGS}, and {BATCH}",
        ),
    ],
)
def test_what_has_changed_is_said_in_words(settings: dict[str, Any], facts: dict[str, Any], words: str, why: str):
    with pytest.raises(UserError) as refusal:
        check(FACTS, replace(CONFIG, **settings), {**FACTS, **facts})
    assert str(refusal.value) == f"step-1 belongs to a run {words}{WHY}{why}{CURE}"


def test_a_checkpoint_that_does_not_know_the_number_of_its_images_is_taken():
    before = {name: value for name, value in FACTS.items() if name != "num_images"}
    check(before, CONFIG, FACTS)
    with pytest.raises(UserError, match=r"on photos, while these are p5 \(1,300 images\), which cannot"):
        check(before, replace(CONFIG, train_data_dir="p5"), {**FACTS, "pictures": "x"})


def test_an_earlier_version_is_named_where_it_may_be_what_has_changed(capsys: pytest.CaptureFixture):
    before = {name: value for name, value in FACTS.items() if name != "decoder"}
    check(before, CONFIG, FACTS)
    with pytest.raises(UserError, match=r"had other images, or with an earlier version, which took no .* profiles"):
        check(before, CONFIG, {**FACTS, "pictures": "x"})
    with pytest.raises(UserError, match=r"had other images \(1,300 then, 2 now\), which cannot"):
        check(before, CONFIG, {**FACTS, "pictures": "x", "num_images": 2})
    say_other_decoder(before, FACTS, 7)
    say_other_decoder(FACTS, {**FACTS, "shards": "a"}, 7)
    assert capsys.readouterr().err == ""
    say_other_decoder(before, {**FACTS, "shards": "a"}, 7)
    assert "from step 7 on, any image that has one is converted to sRGB" in capsys.readouterr().err


def test_the_same_images_under_another_name_are_the_same_run():
    check(FACTS, replace(CONFIG, train_data_dir="elsewhere"), FACTS)


def states_after(config: TrainingConfig, *parts: dict[str, Any]) -> list[tuple[dict, dict]]:
    """Train in parts, each with its changes of the settings, and return what the last checkpoints of all hold."""
    found = []
    for changes in parts:
        config = replace(config, **changes)
        folder = train(config)
        found.append(load_checkpoint(list_checkpoints(folder / "checkpoints")[-1]))
        forget_accelerate()
    return found


CHANGED = {
    "learning_rate": 0.005,
    "lr_scheduler": "constant_with_warmup",
    "lr_warmup_steps": 5,
    "max_grad_norm": 0.01,
    "max_train_steps": 4,
}


def test_a_run_goes_on_with_another_learning_rate_and_records_it(
    make_config: Callable[..., TrainingConfig], capsys: pytest.CaptureFixture
):
    config = make_config(lr_scheduler="linear", lr_warmup_steps=0, max_train_steps=2, logging_steps=1)
    (_, before), (weights, state) = states_after(config, {}, CHANGED)
    expected = [
        {"step": 2, "name": "learning_rate", "before": 0.01, "after": 0.005},
        {"step": 2, "name": "lr_scheduler", "before": "linear", "after": "constant_with_warmup"},
        {"step": 2, "name": "lr_warmup_steps", "before": 0, "after": 5},
        {"step": 2, "name": "max_grad_norm", "before": 1.0, "after": 0.01},
    ]
    assert (before["changes"], state["changes"]) == ([], expected)
    folder = Path(config.output_dir)
    assert json.loads((folder / "training.json").read_text())["changes"] == expected
    # Half of 0.01 at the second of two steps; two and three fifths of 0.005.
    assert [record["learning_rate"] for record in state["history"]] == pytest.approx([0.01, 0.005, 0.002, 0.003])
    said = (
        "from step 2 on: learning_rate 0.01 -> 0.005, lr_scheduler linear -> constant_with_warmup, lr_warmup_steps "
        "0 -> 5, max_grad_norm 1.0 -> 0.01; the learning rate was 0.005 and is now 0.002"
    )
    assert capsys.readouterr().err.count(f"warning: {said}\n") == 1
    # What is not said stays as it was, and what has been changed once is no change any more.
    unsaid = dict.fromkeys(("learning_rate", "lr_scheduler", "lr_warmup_steps", "max_grad_norm"), AUTO)
    bare = replace(config, max_train_steps=5, **unsaid)
    [(_, longer)] = states_after(bare, {})
    assert longer["changes"] == expected
    assert longer["history"][-1]["learning_rate"] == pytest.approx(0.004)
    assert "from step" not in capsys.readouterr().err
    # The same parts make the same weights to the bit.
    _, (again, _) = states_after(replace(config, output_dir=f"{config.output_dir}-again"), {}, CHANGED)
    for group, tensors in weights.items():
        assert all(torch.equal(again[group][name], tensor) for name, tensor in tensors.items())


def test_a_setting_that_no_step_is_left_for_is_refused(make_config: Callable[..., TrainingConfig]):
    config = make_config(max_train_steps=1)
    states_after(config, {})
    settings = Path(config.output_dir, "config.yaml").read_text()
    with pytest.raises(
        UserError, match=r"is at step 1 of 1, so no step is left that learning_rate 0\.01 -> 0\.5 could"
    ):
        train(replace(config, learning_rate=0.5))
    assert Path(config.output_dir, "config.yaml").read_text() == settings
