"""Compare band layouts for the variance "spectral" on one trained model.

    python -m studies.band_layouts --pretrained_model_name_or_path DIR --train_data_dir DIR

It prints the squared distance between the noise that every mode should get at each of ten steps and the noise of its
band, averaged over the modes and summed over the steps.
"""

import argparse
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.pictures import load_pictures, to_samples
from ddpm_cars.diffusion.calibration import Bands, band_edges
from ddpm_cars.diffusion.denoiser import x_0_error
from ddpm_cars.scheduling_ddpm_cars import band_index, posterior

NUM_IMAGES = 1024
STEPS = range(100, 1000, 100)


def ideal_std(x_0_variance: np.ndarray, t: int, s: int, alpha_bar: np.ndarray) -> np.ndarray:
    """Return sigma of the step t -> s for a variance of x_0 given x_t (arXiv:2201.06503, theorem 1)."""
    step = posterior(alpha_bar[t], alpha_bar[s])
    return np.sqrt(step.beta_tilde + step.x_0_weight**2 * x_0_variance)


def layouts(size: int) -> dict[str, np.ndarray]:
    """Return the band of every mode under each layout, (size, size)."""
    named = {"white": np.zeros((size, size), dtype=int)}
    for num_bands in (8, 16, 32):
        named[f"evenly spaced, {num_bands}"] = band_index(size, size, np.linspace(0, 1, num_bands + 1))
        named[f"square roots, {num_bands}"] = band_index(size, size, band_edges(size, size, num_bands))
    return {**named, "every mode by itself": np.arange(size * size).reshape(size, size)}


def band_means(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Replace every mode's value, (C, H, W), by the mean of its band."""
    counts = np.bincount(index.ravel())
    return np.stack([(np.bincount(index.ravel(), v.ravel()) / np.maximum(counts, 1))[index] for v in values])


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None is that of the process."""
    parser = argparse.ArgumentParser(
        "python -m studies.band_layouts", description="Compare band layouts for the variance spectral on a model."
    )
    parser.add_argument("--pretrained_model_name_or_path", required=True, help="folder of the model")
    parser.add_argument("--train_data_dir", required=True, help="folder of the images that it was trained on")
    return parser.parse_args(argv)


def main() -> None:
    """Measure the error of every mode, and print a row per layout."""
    arguments = read_arguments()
    unet = DDPMCarsPipeline.from_pretrained(arguments.pretrained_model_name_or_path).unet
    size = unet.config.sample_size
    config = ImageConfig(train_data_dir=arguments.train_data_dir, resolution=size)
    images = to_samples(np.array(load_pictures(config, unet.config.in_channels).images))
    bands = Bands(images, 2)
    scheduler, generator = DDPMCarsScheduler(), torch.Generator().manual_seed(0)
    alpha_bar = scheduler.alphas_cumprod_float64
    errors = {}
    for t in tqdm(STEPS, desc="measuring"):
        chosen = images[torch.randperm(len(images), generator=generator)[:NUM_IMAGES]]
        parts = [x_0_error(unet, scheduler, part, t, generator) for part in chosen.split(128)]
        errors[t] = bands.modes(torch.cat(parts)).square().mean(0).numpy()
    print("| layout | one colour axis | three colour axes |\n|---|---|---|")
    for name, index in layouts(size).items():
        row = []
        for joined in (True, False):
            distance = 0.0
            for t, error in errors.items():
                s = max(t - STEPS.step, 0)
                seen = np.broadcast_to(error.mean(0), error.shape) if joined else error
                if name == "white":
                    seen = np.broadcast_to(error.mean(), error.shape)
                wanted, got = (ideal_std(v, t, s, alpha_bar) for v in (error, band_means(seen, index)))
                distance += float(np.square(wanted - got).mean())
            row.append(f"{1e4 * distance:.1f}")
        print(f"| {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    main()
