"""From a folder, a dataset or shards to pixels."""

from ddpm_cars.data.pictures import Pictures, load_pictures, to_samples

__all__ = ["Pictures", "load_pictures", "to_samples"]
