"""Many images from a saved pipeline, with any sampler."""

from ddpm_cars.sampling.generate import generate
from ddpm_cars.sampling.request import SamplingRequest
from ddpm_cars.sampling.sample import sample
from ddpm_cars.sampling.samplers import make_scheduler

__all__ = ["SamplingRequest", "generate", "make_scheduler", "sample"]
