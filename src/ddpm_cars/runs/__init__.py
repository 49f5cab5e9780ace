"""The folder of a run: its files, its pipeline and what they say."""

from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runs.saved_pipeline import load_pipeline

__all__ = ["RunFolder", "load_pipeline"]
