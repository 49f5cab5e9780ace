"""A page in the browser that draws with a model."""

from ddpm_cars.demo.app import build_app
from ddpm_cars.demo.serving import launch, serve_folder

__all__ = ["build_app", "launch", "serve_folder"]
