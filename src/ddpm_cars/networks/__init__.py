"""Networks by name, and the layers that training replaces in them."""

from ddpm_cars.networks.unet import PRESETS, create_unet

__all__ = ["PRESETS", "create_unet"]
