"""A data set of small cars that the package draws itself."""

from ddpm_cars.toy_cars.dataset import write_toy_cars
from ddpm_cars.toy_cars.painting import draw_car

__all__ = ["draw_car", "write_toy_cars"]
