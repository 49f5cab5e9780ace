"""How good a model is: likelihoods, distances, neighbours, spectra."""

from ddpm_cars.evaluation.evaluate import evaluate
from ddpm_cars.evaluation.features import load_extractor

__all__ = ["evaluate", "load_extractor"]
