"""What is measured of generated images: one record per metric, and the formulas behind it."""

from ddpm_cars.metrics.records import METRICS, Metric

__all__ = ["METRICS", "Metric"]
