"""A model card, and the files of a model or of a Space on the Hub."""

from ddpm_cars.publishing.card import make_card
from ddpm_cars.publishing.hub import push

__all__ = ["make_card", "push"]
