"""`ddpm-cars show`: the images as training would see them."""

from dataclasses import fields
from pathlib import Path

from ddpm_cars.config.commands import ShowConfig
from ddpm_cars.config.training import NoiseConfig


def show_images(config: ShowConfig) -> list[str]:
    """Write a grid of images and a strip of their noising, and return a line about each.

    Raises:
        UserError: If the images cannot be loaded.
    """
    # Libraries are imported late, so that --help and mistakes answer at once.
    from ddpm_cars.data.pictures import load_pictures, to_samples
    from ddpm_cars.diffusion.seeds import permutation
    from ddpm_cars.figures.grids import make_grid, save_png, to_pil
    from ddpm_cars.sampling.strips import forward_noising_strip
    from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

    images = load_pictures(config).images
    chosen = permutation(len(images), config.seed)[: config.num_images]
    samples = to_samples(images[chosen])
    scheduler = DDPMCarsScheduler(**{field.name: getattr(config, field.name) for field in fields(NoiseConfig)})
    folder = Path(config.output_dir)
    grid = save_png(make_grid(to_pil(samples)), folder / "dataset.png")
    strip = save_png(forward_noising_strip(samples[:4], scheduler, seed=config.seed), folder / "noising.png")
    return [f"{len(images)} images: {grid}", f"noising: {strip}"]
