"""The folder of a run: its files, its pipeline and what they say."""

from ddpm_cars.runs.run_folder import RunFolder

__all__ = ["RunFolder"]
