import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import train as suite
from ddpm_cars.config.training import TrainingConfig


@pytest.fixture
def benchmark_config(tmp_path: Path, fresh_accelerate: None) -> TrainingConfig:
    """The settings of the suite `train` on eight JPEGs at 8x8, with a learning rate that moves at once."""
    suite.write_jpegs(tmp_path / "cars", 8)
    parser = argparse.ArgumentParser()
    suite.add_arguments(parser)
    arguments = parser.parse_args("--resolution 8 --train_batch_size 2 --preset tiny --mixed_precision no".split())
    return replace(suite.make_config(arguments, tmp_path), lr_warmup_steps=2, max_train_steps=10)
