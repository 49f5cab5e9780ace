"""What is different where a checkpoint belongs to another run, in words."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.training.same_run import check_same_run

FACTS: dict[str, Any] = {"pictures": "a", "num_images": 1300, "network": "b", "global batch size": 8}
CONFIG = TrainingConfig(train_data_dir="photos", preset="32")
CURE = "; choose another --output_dir, or pass --overwrite_output_dir to start again"


def check(before: dict[str, Any], config: TrainingConfig, facts: dict[str, Any]) -> None:
    """Compare a run with a checkpoint, which went through JSON as a file does."""
    check_same_run(Path("step-1"), {"config": json.loads(json.dumps(asdict(CONFIG))), "facts": before}, config, facts)


@pytest.mark.parametrize(
    ("settings", "facts", "words"),
    [
        (
            {"train_data_dir": "p5"},
            {"pictures": "x", "num_images": 5},
            "on photos (1,300 images), while these are p5 (5 images)",
        ),
        ({}, {"pictures": "x", "num_images": 1301}, "that began when photos had other images (1,300 then, 1,301 now)"),
        ({}, {"pictures": "x"}, "that began when photos had other images"),
        ({"resolution": 16}, {"pictures": "x"}, "with resolution auto (now 16)"),
        ({"preset": "tiny"}, {"network": "x"}, "with another network (preset 32, now preset tiny)"),
        ({"model_config": "n.json"}, {"network": "x"}, "with another network (preset 32, now n.json)"),
        ({"seed": 1}, {"global batch size": 4}, "with seed 0 (now 1), and with 8 images a step (now 4)"),
    ],
)
def test_what_has_changed_is_said_in_words(settings: dict[str, Any], facts: dict[str, Any], words: str):
    with pytest.raises(UserError) as refusal:
        check(FACTS, replace(CONFIG, **settings), {**FACTS, **facts})
    assert str(refusal.value) == f"step-1 belongs to a run {words}{CURE}"


def test_a_checkpoint_that_does_not_know_the_number_of_its_images_is_taken():
    before = {name: value for name, value in FACTS.items() if name != "num_images"}
    check(before, CONFIG, FACTS)
    with pytest.raises(UserError, match=r"on photos, while these are p5 \(1,300 images\);"):
        check(before, replace(CONFIG, train_data_dir="p5"), {**FACTS, "pictures": "x"})


def test_the_same_images_under_another_name_are_the_same_run():
    check(FACTS, replace(CONFIG, train_data_dir="elsewhere"), FACTS)
