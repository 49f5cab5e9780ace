"""What an evaluation shows: images, plots and the page around them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ddpm_cars.figures.curves import plot_loss
from ddpm_cars.figures.grids import arrays_to_pil, make_grid, save_png
from ddpm_cars.reports import markdown as report_card
from ddpm_cars.reports import page as report
from ddpm_cars.reports import plots as evaluation_plots
from ddpm_cars.reports import two_models as report_comparison
from ddpm_cars.runtime.files import read_file, rounded, write_text

_NUM_GRID_IMAGES = 64

_NUM_ROWS = 8

_NUM_NEIGHBOURS = 3

_PLOTS = ("bits_by_timestep", "eps_mse", "spectrum", "quality", "loss")

_DRAWN = ("samples", "denoising", "neighbours_features", "neighbours_pixels")


def are_in(output_dir: Path) -> bool:
    """Say whether `save_pictures` has been here."""
    return all((output_dir / f"{name}.png").exists() for name in _DRAWN)


def save_pictures(
    images: np.ndarray,
    training_images: np.ndarray,
    neighbours: Mapping[str, tuple[np.ndarray, np.ndarray]],
    strip: Any,
    output_dir: Path,
) -> None:
    """Write samples.png, denoising.png and the nearest training images by each space.

    Args:
        images: What was drawn, uint8 (N, H, W, C), 1 or more.
        training_images: uint8 (M, H, W, C).
        neighbours: By space ("features", "pixels"), distances and indices (N, k) of the nearest training images,
            ascending; indices of M or more are those of mirrored ones, and of both the nearer one is shown. k is 6 or
            more for 3 different images.
        strip: The image of the denoising.
        output_dir: Where to write.
    """
    save_png(make_grid(arrays_to_pil(images[:_NUM_GRID_IMAGES])), output_dir / "samples.png")
    for space, (distances, indices) in neighbours.items():
        # The drawn images that are most like a training image: if there are copies, they are among them.
        chosen = np.argsort(distances[:, 0], kind="stable")[:_NUM_ROWS]
        rows, captions = [], []
        for i in chosen:
            shown = _first_of_each(indices[i] % len(training_images))
            rows.append(arrays_to_pil(np.stack([_training_image(training_images, j) for j in indices[i][shown]])))
            captions.append([f"{distance:.3g}" for distance in distances[i][shown]])
        picture = evaluation_plots.neighbours_picture(arrays_to_pil(images[chosen]), rows, captions)
        save_png(picture, output_dir / f"neighbours_{space}.png")
    save_png(strip, output_dir / "denoising.png")


def _first_of_each(numbers: np.ndarray) -> np.ndarray:
    """Return where the first few different numbers stand, in the order in which they come."""
    return np.sort(np.unique(numbers, return_index=True)[1])[:_NUM_NEIGHBOURS]


def _training_image(images: np.ndarray, index: int) -> np.ndarray:
    image = images[index % len(images)]
    return image[:, ::-1] if index >= len(images) else image


def save_report(metrics: Mapping[str, Any], model_folder: Path, output_dir: Path) -> None:
    """Draw the plots of some metrics, and write report.html around them and the images that lie there, and card.md.

    Args:
        metrics: Those of metrics.json.
        model_folder: Folder of the run, whose losses are shown; it need not exist.
        output_dir: Where to write.
    """
    paths = {name: output_dir / f"{name}.png" for name in (*_DRAWN, *_PLOTS)}
    # Those of an earlier evaluation say something else.
    for name in _PLOTS:
        paths[name].unlink(missing_ok=True)
    if "likelihood" in metrics:
        evaluation_plots.plot_bits_by_timestep(metrics["likelihood"], paths["bits_by_timestep"])
        evaluation_plots.plot_eps_mse(metrics["eps_mse"], paths["eps_mse"])
    evaluation_plots.plot_spectrum(_shown_spectra(metrics), paths["spectrum"])
    if len({sample["num_inference_steps"] for sample in metrics["samples"]}) > 1:
        name = metrics["extractor"]["distance_name"]
        evaluation_plots.plot_quality(metrics["samples"], metrics["floor"], name, paths["quality"])
    if (model_folder / "loss.json").exists():
        validation = read_file(model_folder / "validation.json") or ()
        plot_loss(read_file(model_folder / "loss.json"), paths["loss"], validation)
    pictures = {name: path for name, path in paths.items() if path.exists()}
    report.write_report(metrics, pictures, output_dir / "report.html")
    write_text(output_dir / "card.md", report_card.card_section(metrics))


def _shown_spectra(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the spectra of the model as it was saved, and of all samplers at the fewest steps, where they differ."""
    samples = metrics["samples"]
    fewest = min(sample["num_inference_steps"] for sample in samples)
    shown = [samples[0], *(s for s in samples[1:] if s["num_inference_steps"] == fewest)]
    names = [f"{sample['label']}, {sample['num_inference_steps']} steps" for sample in shown]
    spectrum = metrics["spectrum"]
    return {**spectrum, "generated": {name: spectrum["generated"][name] for name in names}}


def save_comparison(metrics: Sequence[Mapping[str, Any]], folders: Sequence[Path], output_dir: Path) -> None:
    """Write comparison.json and report.html about two models that were measured alike.

    Args:
        metrics: Those of the first and the second model.
        folders: Where their images are.
        output_dir: Where to write.
    """
    first, second = metrics
    difference = _bpd_difference(first, second)
    summary = {
        "models": [each["model"] for each in metrics],
        "floor": first["floor"],
        "samples": [each["samples"][0] for each in metrics],
    }
    if difference is not None:
        summary["bpd_difference"] = dict(zip(("bpd", "bpd_std_error"), map(rounded, difference), strict=True))
    write_text(output_dir / "comparison.json", json.dumps(summary, indent=1))
    names = (*_DRAWN, "spectrum", "bits_by_timestep")
    pictures = {name: (folders[0] / f"{name}.png", folders[1] / f"{name}.png") for name in names}
    pictures = {name: pair for name, pair in pictures.items() if all(path.exists() for path in pair)}
    report_comparison.write_comparison(first, second, pictures, output_dir / "report.html", bpd_difference=difference)


def _bpd_difference(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[float, float] | None:
    """Return how many bits per dimension more the second model takes, and the standard error over the images.

    Both are measured on the same images with the same noise, so that most of what makes images differ cancels.
    """
    if "likelihood" not in first or "likelihood" not in second:
        return None
    bounds = [each["likelihood"][0] for each in (first, second)]
    if any(bounds[0][name] != bounds[1][name] for name in ("chain", "num_inference_steps", "num_images")):
        return None
    a, b = (np.array(bound["image_bpd"]) for bound in bounds)
    difference = b - a
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)
