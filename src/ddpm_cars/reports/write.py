"""The files that show an evaluation: images, plots, the page around them, and a section for the model card."""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from ddpm_cars.figures.curves import plot_loss, save_figure
from ddpm_cars.figures.grids import arrays_to_pil, make_grid, neighbours_grid, save_png
from ddpm_cars.reports.page import card_section, write_comparison, write_report
from ddpm_cars.reports.plots import PLOTS, draw_plots
from ddpm_cars.reports.wording import Metrics
from ddpm_cars.runs.run_folder import EvaluationFolder, RunFolder
from ddpm_cars.runtime.files import read_file, rounded, write_text

_NUM_GRID_IMAGES = 64
_NUM_ROWS = 8
_NUM_NEIGHBOURS = 3
# Names of PNG files: those that show generated images, and those that are drawn from figures.
_IMAGES = ("samples", "denoising", "neighbours_features", "neighbours_pixels")
_PLOTS = (*PLOTS, "loss")
IMAGE_NAMES = (*_IMAGES, *_PLOTS)
"""The names of all PNG files that an evaluation may write."""


def has_images(folder: EvaluationFolder) -> bool:
    """Return whether `save_images` has written its files there."""
    return all(folder.image(name).exists() for name in _IMAGES)


def save_images(
    images: np.ndarray,
    training_images: np.ndarray,
    neighbours: Mapping[str, tuple[np.ndarray, np.ndarray]],
    strip: Image.Image,
    folder: EvaluationFolder,
) -> None:
    """Write samples.png, denoising.png and the nearest training images by each space.

    Images are uint8, N generated and M training images (H, W, C). `neighbours` are, by space ("features", "pixels"),
    distances and indices (N, k) of the nearest training images, ascending; indices of M or more are those of mirrored
    ones, and of both the nearer one is shown. k is 6 or more for 3 different images.
    """
    num_training = len(training_images)
    save_png(make_grid(arrays_to_pil(images[:_NUM_GRID_IMAGES])), folder.image("samples"))
    for space, (distances, indices) in neighbours.items():
        # The generated images that are most like a training image: if there are copies, they are among them.
        chosen = np.argsort(distances[:, 0], kind="stable")[:_NUM_ROWS]
        rows, captions = [], []
        for i in chosen:
            _, first_places = np.unique(indices[i] % num_training, return_index=True)
            shown = np.sort(first_places)[:_NUM_NEIGHBOURS]
            tiles = [
                training_images[j] if j < num_training else training_images[j - num_training][:, ::-1]
                for j in indices[i][shown]
            ]
            rows.append(arrays_to_pil(np.stack(tiles)))
            captions.append([f"{distance:.3g}" for distance in distances[i][shown]])
        grid = neighbours_grid(arrays_to_pil(images[chosen]), rows, captions)
        save_png(grid, folder.image(f"neighbours_{space}"))
    save_png(strip, folder.image("denoising"))


def save_report(metrics: Metrics, run: RunFolder, folder: EvaluationFolder) -> None:
    """Draw the plots of some metrics; write the page around them and the images that lie there, and the card section.

    The losses of `run` are shown, whose folder need not exist.
    """
    paths = {name: folder.image(name) for name in IMAGE_NAMES}
    # Plots of an earlier evaluation show something else.
    for name in _PLOTS:
        paths[name].unlink(missing_ok=True)
    for name, figure in draw_plots(metrics).items():
        save_figure(figure, paths[name])
    if run.loss.exists():
        plot_loss(read_file(run.loss), paths["loss"], read_file(run.validation) or ())
    write_report(metrics, {name: path for name, path in paths.items() if path.exists()}, folder.report)
    write_text(folder.card, card_section(metrics))


def save_comparison(
    metrics: Sequence[Metrics], folders: Sequence[EvaluationFolder], output_folder: EvaluationFolder
) -> None:
    """Write figures and page about two models that were measured alike, from the folders of their images."""
    first, second = metrics
    difference = _bpd_difference(first, second)
    summary = {
        "models": [each["model"] for each in metrics],
        "floor": first["floor"],
        "samples": [each["samples"][0] for each in metrics],
    }
    if difference is not None:
        summary["bpd_difference"] = dict(zip(("bpd", "bpd_std_error"), map(rounded, difference), strict=True))
    write_text(output_folder.comparison, json.dumps(summary, indent=1))
    names = (*_IMAGES, "spectrum", "bits_by_timestep")
    pairs = {name: (folders[0].image(name), folders[1].image(name)) for name in names}
    pairs = {name: pair for name, pair in pairs.items() if all(path.exists() for path in pair)}
    write_comparison(first, second, pairs, output_folder.report, bpd_difference=difference)


def _bpd_difference(first: Metrics, second: Metrics) -> tuple[float, float] | None:
    """Return how many bits per dimension more the second model takes, and the standard error over the images.

    Both are measured on the same images with the same noise, so that most of what makes images differ cancels.
    """
    if "likelihood" not in first or "likelihood" not in second:
        return None
    bounds = [each["likelihood"][0] for each in (first, second)]
    same = ("chain", "num_inference_steps", "num_images")
    if any(bounds[0][name] != bounds[1][name] for name in same) or any("image_bpd" not in bound for bound in bounds):
        return None
    a, b = (np.array(bound["image_bpd"]) for bound in bounds)
    difference = b - a
    return float(difference.mean()), float(difference.std(ddof=1) / len(difference) ** 0.5)
