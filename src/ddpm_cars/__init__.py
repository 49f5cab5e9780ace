"""Denoising diffusion probabilistic models (Ho et al. 2020) as a diffusers plugin."""

from pathlib import Path

from ddpm_cars.diffusion.calibration import calibrate, fit_init_noise

# Both are imported here because diffusers loads a saved pipeline's classes only from modules that are imported.
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

__version__ = "0.1.0"
__all__ = ["DDPMCarsPipeline", "DDPMCarsScheduler", "calibrate", "fit_init_noise", "pretrained"]


def pretrained() -> Path:
    """Return the folder of the small model that comes with the package, trained on cars that the package draws."""
    return Path(__file__).parent / "pretrained"
