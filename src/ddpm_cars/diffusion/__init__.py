"""The mathematics of diffusion that does not travel with saved models."""

from ddpm_cars.diffusion.bound import least_cost_timesteps, variational_bounds
from ddpm_cars.diffusion.calibration import calibrate, fit_init_noise
from ddpm_cars.diffusion.losses import diffusion_losses

__all__ = ["calibrate", "diffusion_losses", "fit_init_noise", "least_cost_timesteps", "variational_bounds"]
