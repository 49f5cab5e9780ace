"""Images of an evaluation, read back from their files."""

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from ddpm_cars.reports.write import _shown_spectra, are_in, save_comparison, save_pictures, save_report
from tests.support.report_helpers import full_metrics, minimal_metrics


def colours_of(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(1 << 24)}


def test_of_a_picture_and_its_mirror_image_the_nearer_one_is_shown(tmp_path: Path):
    # Each training image has a colour of its own on the left and another on the right.
    training = np.zeros((5, 8, 8, 3), np.uint8)
    for i in range(5):
        training[i, :, :4] = (200, 10 * i, 0)
        training[i, :, 4:] = (0, 10 * i, 200)
    images = np.full((2, 8, 8, 3), 77, np.uint8)
    # Image 4, its mirror image, then 1, 0 and 2; the other drawn image is farther from all.
    indices = np.array([[4, 9, 1, 0, 5, 2], [3, 8, 3, 8, 3, 8]])
    distances = np.arange(12.0).reshape(2, 6)
    strip = Image.new("RGB", (8, 8))
    save_pictures(images, training, {"features": (distances[:1], indices[:1])}, strip, tmp_path)
    shown = colours_of(tmp_path / "neighbours_features.png")
    assert {i for i in range(5) if (200, 10 * i, 0) in shown} == {4, 1, 0}
    assert not are_in(tmp_path)
    save_pictures(
        images, training, {"features": (distances, indices), "pixels": (distances, indices)}, strip, tmp_path
    )
    assert are_in(tmp_path)
    assert (200, 30, 0) in colours_of(tmp_path / "neighbours_pixels.png")


def test_a_mirrored_picture_is_shown_mirrored(tmp_path: Path):
    training = np.zeros((6, 8, 8, 3), np.uint8)
    training[3, :, :4] = (200, 0, 0)
    images = np.full((1, 8, 8, 3), 77, np.uint8)
    places = []
    for index in (3, 3 + 6):
        others = [0, 1, 2, 4, 5]
        neighbours = {"pixels": (np.arange(6.0)[None], np.array([[index, *others]]))}
        save_pictures(images, training, neighbours, Image.new("RGB", (8, 8)), tmp_path)
        with Image.open(tmp_path / "neighbours_pixels.png") as picture:
            red = (np.array(picture.convert("RGB")) == (200, 0, 0)).all(-1)
        places.append(np.nonzero(red)[1].min())
    assert places[1] > places[0]


@pytest.mark.parametrize("changes", [{}, {"chain": "leading"}, {"num_inference_steps": 50}, {"num_images": 3}])
def test_bits_are_compared_picture_by_picture_where_they_can_be(tmp_path: Path, changes: dict):
    first, second = full_metrics(), full_metrics()
    second["model"]["name"] = "runs/longer"
    first["likelihood"][0]["image_bpd"] = [4.0, 3.0, 5.0, 4.5, 4.0]
    second["likelihood"][0]["image_bpd"] = [4.1, 3.3, 5.1, 4.3, 4.0]
    second["likelihood"][0] |= changes
    save_comparison([first, second], [tmp_path / "a", tmp_path / "b"], tmp_path)
    summary = json.loads((tmp_path / "comparison.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["runs/cars", "runs/longer"]
    assert summary["floor"] == first["floor"]
    assert summary["samples"] == [first["samples"][0], second["samples"][0]]
    expected = {} if changes else {"bpd": 0.06, "bpd_std_error": scipy.stats.sem([0.1, 0.3, 0.1, -0.2, 0.0])}
    assert summary.get("bpd_difference", {}) == pytest.approx(expected, rel=1e-4)
    for each in (first, second):
        whole = each.pop("likelihood")
        save_comparison([first, second], [tmp_path / "a", tmp_path / "b"], tmp_path)
        assert "bpd_difference" not in json.loads((tmp_path / "comparison.json").read_text())
        each["likelihood"] = whole


def test_spectra_are_shown_of_the_model_as_saved_and_of_all_samplers_at_the_fewest_steps():
    metrics = full_metrics()
    names = [f"{each['label']}, {each['num_inference_steps']} steps" for each in metrics["samples"]]
    metrics["spectrum"]["generated"] = {name: [float(i), 1.0] for i, name in enumerate(names)}
    shown = _shown_spectra(metrics)
    assert shown["real"] == metrics["spectrum"]["real"]
    expected = {"fixed_small, 100 steps": [0.0, 1.0], "DDIMScheduler, 10 steps": [1.0, 1.0]}
    assert shown["generated"] == {**expected, "fixed_small, 10 steps": [2.0, 1.0]}


def test_plots_of_an_earlier_evaluation_do_not_stay(tmp_path: Path):
    metrics = minimal_metrics()
    generated = {"fixed_small, 100 steps": [8.0, 1.0]}
    metrics["spectrum"] = {"radius": [0.1, 0.4], "real": [9.0, 1.0], "generated": generated}
    for name in ("bits_by_timestep", "eps_mse", "quality", "loss", "spectrum"):
        (tmp_path / f"{name}.png").write_bytes(b"old")
    save_report(metrics, tmp_path / "no run", tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.md", "report.html", "spectrum.png"]
    assert (tmp_path / "spectrum.png").read_bytes() != b"old"
