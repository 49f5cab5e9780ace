"""What a run says of itself: training.json."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.runtime.hardware import device_name
from ddpm_cars.training.trainer import Trainer, train
from tests.support.trainer_helpers import forget_accelerate

CPU = torch.device("cpu")


def facts_of(config: TrainingConfig) -> dict[str, Any]:
    return json.loads((Path(config.output_dir) / "training.json").read_text())


def test_a_run_says_what_it_was(make_config: Callable[..., TrainingConfig]):
    forget_accelerate()
    config = make_config(max_train_steps=40, use_ema=True, ema_half_life_steps=(7000,), logging_steps=3)
    train(config)
    facts = facts_of(config)
    assert facts["steps"] == 40
    assert facts["global_batch_size"] == config.train_batch_size
    # Not 7000 yet: so many steps back the weights have half of the say.
    shares, rest = [], 1.0
    for step in range(39, 0, -1):
        decay = 1 - (1 + step) ** -0.75
        shares.append(rest * (1 - decay))
        rest *= decay
    assert facts["average_half_life_steps"] == pytest.approx(np.searchsorted(np.cumsum(shares), 0.5), abs=2)
    assert facts["data"]["num_images"] > 0
    assert facts["data"]["source"] == Path(str(config.train_data_dir)).name
    assert facts["validation"] is None
    (part,) = facts["hardware"]
    assert part["steps"] == 40
    assert part["seconds"] > 0
    assert part["device"] == device_name(CPU)
    assert facts["versions"]["torch"] == torch.__version__


def test_parts_of_a_run_on_other_hardware_are_told_apart(make_config: Callable[..., TrainingConfig]):
    forget_accelerate()
    config = make_config(max_train_steps=4, checkpointing_steps=4, logging_steps=3, use_ema=False)
    train(config)
    forget_accelerate()
    longer = Trainer(replace(config, max_train_steps=10))
    longer.prepared = replace(longer.prepared, hardware={**longer.prepared.hardware, "device": "another"})
    longer.run()
    facts = facts_of(config)
    assert [(part["device"], part["steps"]) for part in facts["hardware"]] == [(device_name(CPU), 4), ("another", 6)]


def test_steps_that_were_not_counted_before_a_stop_are_counted_after_it(make_config: Callable[..., TrainingConfig]):
    forget_accelerate()
    trainer = Trainer(make_config(max_train_steps=9))
    trainer.state.step = 3
    trainer.state.count_time({"device": "a"}, 2.0)
    trainer.state.step = 8
    trainer.state.count_time({"device": "a"}, 1.0)
    assert trainer.state.hardware == [{"device": "a", "steps": 8, "seconds": 11.0}]
    trainer.close()
