"""Compare the variances of the reverse step on one trained model: Fréchet distance, contrast and spectrum by steps.

    python -m studies.variance_study --pretrained_model_name_or_path DIR --train_data_dir DIR --output runs/study.json

Every sampler draws from the same seeds. What the output file already holds is kept: the same command continues.
"""

import argparse
import itertools
import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from tqdm import tqdm

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, calibrate
from ddpm_cars.config.pictures import ImageConfig
from ddpm_cars.data.pictures import load_pictures, to_samples
from ddpm_cars.evaluation.features import load_extractor
from ddpm_cars.metrics.distances import Moments, frechet_distance
from ddpm_cars.metrics.spectrum import contrast, spectrum_error_octaves
from ddpm_cars.runtime.files import write_text
from ddpm_cars.scheduling_ddpm_cars import dct_matrix

# Decided before the first figure; DDIM is there to tell whether the model is good enough for the question.
SAMPLERS = ("fixed_small", "analytic", "spectral", "ddim")


def read_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; None is that of the process."""
    parser = argparse.ArgumentParser(
        "python -m studies.variance_study",
        description="Compare the variances of the reverse step on one trained model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--pretrained_model_name_or_path", required=True, help="folder of the model")
    parser.add_argument("--train_data_dir", required=True, help="folder of the images that it was trained on")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; what it holds is not measured again")
    parser.add_argument("--num_inference_steps", type=int, nargs="+", default=[10, 20, 50, 100], help="steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="a figure each")
    parser.add_argument("--num_images", type=int, default=2000, help="images per figure")
    parser.add_argument("--batch_size", type=int, default=250, help="images at a time")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS, help="rows of the table")
    parser.add_argument("--bf16", action="store_true", help="run the UNet in bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile the UNet")
    return parser.parse_args(argv)


def spectrum(images: np.ndarray) -> np.ndarray:
    """Return the variance of every DCT mode of the lightness, in squared grey levels.

    Mode by mode, unlike `ddpm_cars.metrics.spectrum.radial_spectrum`, which takes the mean of the modes of a band.

    Args:
        images: uint8 (N, H, H, C), N 2 or more; lightness is the mean of the channels.

    Returns:
        float64 (H, H).
    """
    dct = dct_matrix(images.shape[1])
    return (dct @ images.mean(-1) @ dct.T).var(0, ddof=1)


class Study:
    """One model and the images it was trained on.

    Args:
        arguments: The command line.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.pipeline = DDPMCarsPipeline.from_pretrained(arguments.pretrained_model_name_or_path)
        self.pipeline.set_progress_bar_config(disable=True)
        unet = self.pipeline.unet
        settings = ImageConfig(train_data_dir=arguments.train_data_dir, resolution=unet.config.sample_size)
        self.images = load_pictures(settings, unet.config.in_channels).images
        self.real_contrast, self.real_spectrum = contrast(self.images), spectrum(self.images)
        if arguments.compile:
            unet.compile()
        if self.pipeline.scheduler.config.get("_calibration") is None:
            samples = to_samples(np.array(self.images))
            with torch.no_grad(), self.precision():
                calibrate(unet, samples, self.pipeline.scheduler, num_images=arguments.batch_size)
        self.config = self.pipeline.scheduler.config
        self.extractor = load_extractor("efficientnet-lite0")

    def precision(self) -> AbstractContextManager:
        """Return the context that the UNet runs in."""
        return torch.autocast("cpu", torch.bfloat16) if self.arguments.bf16 else nullcontext()

    def draw(self, sampler: str, num_inference_steps: int, seed: int) -> np.ndarray:
        """Draw images, uint8 (N, H, W, C), from the same noise for every sampler."""
        if sampler == "ddim":
            self.pipeline.scheduler = DDIMScheduler.from_config(self.config)
        else:
            self.pipeline.scheduler = DDPMCarsScheduler.from_config(self.config, variance_type=sampler)
        n, batch_size = self.arguments.num_images, self.arguments.batch_size
        images: list[Any] = []
        for start in range(0, n, batch_size):
            generator = torch.Generator().manual_seed(seed * n + start)
            with self.precision():
                size = min(batch_size, n - start)
                images += self.pipeline(size, generator, num_inference_steps, return_dict=False)[0]
        return np.stack([np.atleast_3d(image) for image in images])

    def reference(self) -> tuple[Moments, float]:
        """Return the moments of the reference images, and the distance of as many real ones as are drawn."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0)).numpy()
        features = self.extractor(self.images[order])
        n = self.arguments.num_images
        reference = Moments.of(features[n:])
        return reference, frechet_distance(Moments.of(features[:n]), reference)

    def measure(self, sampler: str, num_inference_steps: int, seed: int, reference: Moments) -> dict[str, Any]:
        """Return the figures of one sampler at one number of steps from one seed."""
        images = self.draw(sampler, num_inference_steps, seed)
        return {
            "sampler": sampler,
            "num_inference_steps": num_inference_steps,
            "seed": seed,
            "fd_efficientnet": frechet_distance(Moments.of(self.extractor(images)), reference),
            "std_ratio": contrast(images) / self.real_contrast,
            "spectrum_error_octaves": spectrum_error_octaves(spectrum(images), self.real_spectrum),
        }


def table(results: dict[str, Any]) -> str:
    """Write mean and standard deviation over the seeds as Markdown, a row per sampler."""
    steps = sorted({row["num_inference_steps"] for row in results["rows"]})
    lines = ["| sampler | " + " | ".join(f"{n} steps" for n in steps) + " |", "|---" * (len(steps) + 1) + "|"]
    for sampler in SAMPLERS:
        cells = []
        for n in steps:
            rows = [r for r in results["rows"] if (r["sampler"], r["num_inference_steps"]) == (sampler, n)]
            if not rows:
                cells.append("")
                continue
            fds = [row["fd_efficientnet"] for row in rows]
            std, error = (statistics.mean(row[k] for row in rows) for k in ("std_ratio", "spectrum_error_octaves"))
            spread = f" ± {statistics.stdev(fds):.1f}" if len(fds) > 1 else ""
            cells.append(f"{statistics.mean(fds):.1f}{spread} / {std:.3f} / {error:.2f}")
        lines.append(f"| {sampler} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, and print the table."""
    arguments = read_arguments()
    study = Study(arguments)
    features = study.extractor.fingerprint
    results: dict[str, Any] = {"extractor": features, "rows": []}
    if arguments.output.exists():
        results = json.loads(arguments.output.read_text())
    if results.get("extractor") != features:
        sys.exit(f"{arguments.output} holds distances between other features; give another --output")
    done = {(row["sampler"], row["num_inference_steps"], row["seed"]) for row in results["rows"]}
    reference, results["floor"] = study.reference()
    results["num_images"], results["num_reference_images"] = arguments.num_images, reference.count
    wanted = list(itertools.product(arguments.seeds, arguments.num_inference_steps, arguments.samplers))
    for seed, steps, sampler in tqdm(wanted, desc="measuring", unit="figure"):
        if (sampler, steps, seed) not in done:
            results["rows"].append(study.measure(sampler, steps, seed, reference))
            write_text(arguments.output, json.dumps(results, indent=1))
    print("FD-EfficientNet / std of pixels, share of the real one / mean error of the spectrum in octaves")
    print(f"floor, {arguments.num_images} real images: {results['floor']:.1f}\n\n{table(results)}")


if __name__ == "__main__":
    main()
