"""The command line: `main` is `ddpm-cars`, and the other functions are its commands."""

from ddpm_cars.cli.commands import calibrate, demo, draw_toy_cars, evaluate, push_to_hub, sample, show, train
from ddpm_cars.cli.program import main

__all__ = ["calibrate", "demo", "draw_toy_cars", "evaluate", "main", "push_to_hub", "sample", "show", "train"]
