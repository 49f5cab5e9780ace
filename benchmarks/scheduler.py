"""Time the arithmetic of a scheduler's step, and compute how far sampling with a perfect model ends from the data.

The distance is exact: for Gaussian data with the spectrum of small photographs, and the steps of the real classes.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DDPMScheduler
from tqdm import tqdm

from benchmarks.measure import SEED, Rows, alternate, ratio, seconds_of, spread
from ddpm_cars import DDPMCarsScheduler
from ddpm_cars.diffusion.calibration import band_edges
from ddpm_cars.pipeline_ddpm_cars import match_init_noise
from ddpm_cars.scheduling_ddpm_cars import band_index, dct_matrix

NUM_REPEATS = 15
SHAPES = [(1, 3, 64, 64), (16, 3, 64, 64)]
STEPS = (10, 20, 50)
SIZE = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options: the suite has none of its own."""


def time_steps(device: str, num_repeats: int) -> Iterator[dict[str, Any]]:
    """Yield a row per operation and shape: microseconds of stock and ours, and of the noise that both must draw."""
    for shape in SHAPES:
        x, output = (torch.randn(shape, device=device) for _ in range(2))
        timesteps = torch.randint(1000, shape[:1], device=device)
        generator = torch.Generator(device).manual_seed(SEED)
        spectrum = gaussian_calibration(natural_spectrum(shape[-1]))
        schedulers: dict[str, Any] = {"stock": DDPMScheduler(), "ours": DDPMCarsScheduler()}
        for name in ("analytic", "spectral"):
            schedulers[name] = DDPMCarsScheduler(variance_type=name)
            schedulers[name].set_calibration(spectrum)
        for scheduler in schedulers.values():
            scheduler.set_timesteps(50)
        # As in the loop of a pipeline, the timesteps are on the CPU, and every step but the last draws noise.
        ts = schedulers["ours"].timesteps[:-1:5]
        run = partial(_steps, ts=ts, output=output, x=x, generator=generator)
        functions: dict[str, Callable[[], Any]] = {name: partial(run, s) for name, s in schedulers.items()}
        functions["noise alone"] = partial(_noise, len(ts), x, generator)
        times = _microseconds(functions, x, len(ts), num_repeats)
        stock, ours = ([a - b for a, b in zip(times[n], times["noise alone"], strict=True)] for n in ("stock", "ours"))
        row = {"operation": "step", "shape": str(shape), **_columns(times)}
        yield {**row, "without the noise": ratio(stock, ours)}
        functions = {n: partial(_add_noise, schedulers[n], len(ts), x, output, timesteps) for n in ("stock", "ours")}
        times = _microseconds(functions, x, len(ts), num_repeats)
        yield {"operation": "add_noise", "shape": str(shape), **_columns(times)}


def _steps(scheduler: Any, ts: Any, output: torch.Tensor, x: torch.Tensor, generator: torch.Generator) -> None:
    for t in ts:
        scheduler.step(output, t, x, generator=generator)


def _noise(num: int, x: torch.Tensor, generator: torch.Generator) -> None:
    for _ in range(num):
        torch.randn(x.shape, generator=generator, device=x.device)


def _add_noise(scheduler: Any, num: int, x: torch.Tensor, eps: torch.Tensor, timesteps: torch.Tensor) -> None:
    for _ in range(num):
        scheduler.add_noise(x, eps, timesteps)


def _microseconds(
    functions: dict[str, Callable[[], Any]], x: torch.Tensor, num: int, num_repeats: int
) -> dict[str, list[float]]:
    """Time functions that each do something `num` times."""
    num_calls = max(1, 8 // len(x))

    def measure(function: Callable[[], Any]) -> float:
        return seconds_of(lambda: [function() for _ in range(num_calls)], x.device) * 1e6 / (num_calls * num)

    measures = {name: partial(measure, function) for name, function in functions.items()}
    return alternate(measures, num_repeats, f"timing on {x.device.type}")


def _columns(times: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: spread(values, 1)["median"] for name, values in times.items()}
    return {**medians, "stock / ours": ratio(times["stock"], times["ours"])}


def natural_spectrum(size: int) -> np.ndarray:
    """Return the variance of every DCT mode on three colour axes, (3, size, size), like that of small photographs.

    It falls with the square of the frequency, as that of natural images; 90, 7 and 3 percent of it lie on the
    lightness and two colour axes; pixels have a standard deviation of 1/2 in [-1, 1].
    """
    frequency = np.hypot(*np.mgrid[:size, :size])
    shape = 1 / np.maximum(frequency, 0.5) ** 2
    return 0.25 * 3 * np.array([0.9, 0.07, 0.03])[:, None, None] * shape / shape.mean()


def gaussian_calibration(spectrum: np.ndarray, num_bands: int = 32) -> dict[str, Any]:
    """Return the calibration of the ideal denoiser of Gaussian data, without sampling error."""
    alpha_bar, size = DDPMCarsScheduler().alphas_cumprod_float64, spectrum.shape[-1]
    edges = band_edges(size, size, num_bands)
    index = band_index(size, size, edges).ravel()

    def per_band(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(index, row.ravel()) for row in values]) / np.bincount(index)

    t = np.arange(len(alpha_bar))
    mse = [a * spectrum / (a * spectrum + 1 - a) for a in alpha_bar]
    return {
        "num_train_timesteps": len(alpha_bar),
        "timesteps": t.tolist(),
        "alphas_cumprod": alpha_bar.tolist(),
        "eps_mse": [float(m.mean()) for m in mse],
        "sample_size": [size, size],
        "band_edges": edges.tolist(),
        "colour_axes": np.eye(3).tolist(),
        "band_variance": per_band(spectrum).tolist(),
        "band_eps_mse": [per_band(m).tolist() for m in mse],
    }


class ExactSampling:
    """The distribution that a scheduler's chain ends in, from its real steps, with the ideal denoiser of N(0, v)."""

    def __init__(self, spectrum: np.ndarray):
        self.v = torch.from_numpy(spectrum)
        self.dct = torch.from_numpy(dct_matrix(spectrum.shape[-1]))

    def modes(self, x: torch.Tensor) -> torch.Tensor:
        """Return the DCT modes of one image."""
        return (self.dct @ x @ self.dct.T)[0]

    def image(self, modes: torch.Tensor) -> torch.Tensor:
        """Return the image of DCT modes."""
        return (self.dct.T @ modes @ self.dct)[None]

    def eps_hat(self, x_t: torch.Tensor, alpha_bar: float) -> torch.Tensor:
        """Return E[eps | x_t]."""
        gain = (1 - alpha_bar) ** 0.5 / (alpha_bar * self.v + 1 - alpha_bar)
        return self.image(gain * self.modes(x_t))

    def std(self, scheduler: Any, num_inference_steps: int) -> torch.Tensor:
        """Return the standard deviation of every mode of the samples."""
        scheduler.set_timesteps(num_inference_steps)
        x = self.image(torch.ones_like(self.v))
        start = x
        if scheduler.config.get("_init_noise") is not None:
            alpha_bar = float(scheduler.alphas_cumprod[int(scheduler.timesteps[0])])
            start = match_init_noise(x, scheduler.config["_init_noise"], alpha_bar)
        variance = self.modes(start) ** 2
        ancestral = type(scheduler) in (DDPMScheduler, DDPMCarsScheduler)
        for t in scheduler.timesteps:
            output = self.eps_hat(x, float(scheduler.alphas_cumprod[int(t)]))
            if not ancestral:
                # The chain is linear and without noise, so a start of 1 in every mode ends in the gain of the chain.
                x = scheduler.step(output, t, x).prev_sample
                continue
            z = torch.randn(x.shape, generator=torch.Generator().manual_seed(SEED), dtype=x.dtype)
            zeros = torch.zeros_like(x)
            noise, moved = (
                scheduler.step(o, t, y, generator=torch.Generator().manual_seed(SEED)).prev_sample
                for o, y in ((zeros, zeros), (output, x))
            )
            variance = self.modes(moved - noise) ** 2 * variance + (self.modes(noise) / self.modes(z)) ** 2
        return variance.sqrt() if ancestral else self.modes(x).abs()

    def wasserstein_per_dim(self, scheduler: Any, num_inference_steps: int) -> float:
        """Return the 2-Wasserstein distance to the data, divided by the root of the number of dimensions."""
        return float((self.std(scheduler, num_inference_steps) - self.v.sqrt()).square().mean().sqrt())


def wasserstein_rows() -> Iterator[dict[str, Any]]:
    """Yield a row per sampler: the distance of its samples to the data at each number of steps."""
    spectrum = natural_spectrum(SIZE)
    sampling = ExactSampling(spectrum)
    samplers: dict[str, Any] = {}
    for variance_type in ("fixed_large", "fixed_small"):
        samplers[f"stock DDPM, {variance_type}"] = DDPMScheduler(variance_type=variance_type, clip_sample=False)
        samplers[f"ours, {variance_type}"] = DDPMCarsScheduler(variance_type=variance_type, clip_sample=False)
    for name, num_bands in (("analytic", 2), *((f"spectral, {b} bands", b) for b in (8, 16, 32))):
        samplers[f"ours, {name}"] = DDPMCarsScheduler(
            variance_type=name.split(",")[0],
            clip_sample=False,
            max_last_noise_grey_levels=None,
        )
        samplers[f"ours, {name}"].set_calibration(gaussian_calibration(spectrum, num_bands))
    for name in ("DDIM", "DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"):
        config = DDPMScheduler(clip_sample=False).config
        samplers[f"stock {name}"] = getattr(diffusers, f"{name}Scheduler").from_config(config)
    for name, scheduler in samplers.items():
        yield {"sampler": name, **{f"{n} steps": round(sampling.wasserstein_per_dim(scheduler, n), 4) for n in STEPS}}


def init_noise_rows() -> Iterator[dict[str, Any]]:
    """Yield a row per start of the 300-step schedule with unscaled betas: what is left of the contrast."""
    spectrum, m = natural_spectrum(SIZE), 4
    sampling = ExactSampling(spectrum)
    scheduler = DDPMCarsScheduler(num_train_timesteps=300, clip_sample=False)
    low = np.zeros(spectrum.shape, dtype=bool)
    low[:, :m, :m] = True
    matched = {
        "rows": dct_matrix(SIZE)[:m].tolist(),
        "columns": dct_matrix(SIZE)[:m].tolist(),
        "mean": np.zeros((3, m, m)).tolist(),
        "covariance": np.diag(spectrum[low]).tolist(),
        "rest_variance": float(spectrum[~low].mean()),
    }
    for name, statistics_of_start in (("N(0, I)", None), ("matched, 4 x 4 modes", matched)):
        scheduler.register_to_config(_init_noise=statistics_of_start)
        std = sampling.std(scheduler, 300)
        ratio = std[0, 0, 0] / sampling.v[0, 0, 0].sqrt(), (std.square().mean() / sampling.v.mean()).sqrt()
        names = ("std of the lightness / data", "std of pixels / data")
        yield {"start": name, **{k: round(float(r), 3) for k, r in zip(names, ratio, strict=True)}}


def run(arguments: argparse.Namespace) -> dict[str, Rows]:
    """Measure, and return the tables by their titles."""
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    times = [{"device": device, **row} for device in devices for row in time_steps(device, arguments.repeats)]
    return {
        "microseconds per call": times,
        "Wasserstein-2 distance per dimension": list(tqdm(wasserstein_rows(), desc="sampling exactly", total=12)),
        "300 timesteps, unscaled betas": list(init_noise_rows()),
    }
