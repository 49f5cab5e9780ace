"""The folder of a run: its files, its pipeline and what they say."""

from ddpm_cars.runs.load import load_pipeline

__all__ = ["load_pipeline"]
