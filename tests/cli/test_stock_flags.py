"""Flags of diffusers' train_unconditional.py, which people bring along."""

from dataclasses import fields

from ddpm_cars.cli.stock_flags import STOCK_FLAGS, with_cures
from ddpm_cars.config.training import TrainCommandConfig


def test_every_flag_of_stock_is_a_flag_or_has_a_cure_that_can_be_given():
    ours = {field.name for field in fields(TrainCommandConfig)}
    assert not STOCK_FLAGS.keys() & ours
    for name, cure in STOCK_FLAGS.items():
        assert with_cures(f"unrecognized arguments: --{name}", ours).endswith(f"; --{name}: {cure}")
