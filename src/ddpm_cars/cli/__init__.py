"""The command lines."""

from ddpm_cars.cli.commands import calibrate, demo, draw_toy_cars, evaluate, push_to_hub, sample, show, train

__all__ = ["calibrate", "demo", "draw_toy_cars", "evaluate", "push_to_hub", "sample", "show", "train"]
