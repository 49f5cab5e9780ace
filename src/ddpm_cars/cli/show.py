"""TODO src/ddpm_cars/cli/show.py."""

from dataclasses import fields
from pathlib import Path

from ddpm_cars.config.commands import ShowConfig
from ddpm_cars.config.training import NoiseConfig


def _show(config: ShowConfig) -> None:
    import numpy as np

    from ddpm_cars.data.pictures import load_pictures, to_samples
    from ddpm_cars.figures.grids import make_grid, save_png, to_pil
    from ddpm_cars.sampling.strips import forward_noising_strip
    from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

    images = load_pictures(config).images
    chosen = np.random.default_rng(config.seed).permutation(len(images))[: config.num_images]
    samples = to_samples(images[chosen])
    schedule = {field.name: getattr(config, field.name) for field in fields(NoiseConfig)}
    scheduler = DDPMCarsScheduler(**schedule)
    output_dir = Path(config.output_dir)
    print(f"{len(images)} images: {save_png(make_grid(to_pil(samples)), output_dir / 'dataset.png')}")
    strip = forward_noising_strip(samples[:4], scheduler, seed=config.seed)
    print(f"noising: {save_png(strip, output_dir / 'noising.png')}")
