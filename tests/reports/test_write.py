"""Images of an evaluation, read back from their files."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from PIL import Image

from ddpm_cars.metrics.records import METRICS, Metric
from ddpm_cars.reports.text import summary
from ddpm_cars.reports.write import has_images, save_comparison, save_images, save_report
from ddpm_cars.runs.run_folder import EvaluationFolder, RunFolder
from tests.support.report_helpers import Page, full_metrics, minimal_metrics


@pytest.fixture
def folder(tmp_path: Path) -> EvaluationFolder:
    return EvaluationFolder(tmp_path)


def colours_of(path: Path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(1 << 24)}


def test_of_an_image_and_its_mirror_image_the_nearer_one_is_shown(tmp_path: Path, folder: EvaluationFolder):
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
    save_images(images, training, {"features": (distances[:1], indices[:1])}, strip, folder)
    shown = colours_of(tmp_path / "neighbours_features.png")
    assert {i for i in range(5) if (200, 10 * i, 0) in shown} == {4, 1, 0}
    assert not has_images(folder)
    save_images(
        images,
        training,
        {"features": (distances, indices), "pixels": (distances, indices)},
        strip,
        folder,
    )
    assert has_images(folder)
    assert (200, 30, 0) in colours_of(tmp_path / "neighbours_pixels.png")


def test_a_mirrored_image_is_shown_mirrored(tmp_path: Path, folder: EvaluationFolder):
    training = np.zeros((6, 8, 8, 3), np.uint8)
    training[3, :, :4] = (200, 0, 0)
    images = np.full((1, 8, 8, 3), 77, np.uint8)
    places = []
    for index in (3, 3 + 6):
        others = [0, 1, 2, 4, 5]
        neighbours = {"pixels": (np.arange(6.0)[None], np.array([[index, *others]]))}
        save_images(images, training, neighbours, Image.new("RGB", (8, 8)), folder)
        with Image.open(tmp_path / "neighbours_pixels.png") as image:
            red = (np.array(image.convert("RGB")) == (200, 0, 0)).all(-1)
        places.append(np.nonzero(red)[1].min())
    assert places[1] > places[0]


@pytest.mark.parametrize("changes", [{}, {"chain": "leading"}, {"num_inference_steps": 50}, {"num_images": 3}])
def test_bits_are_compared_image_by_image_where_they_can_be(tmp_path: Path, folder: EvaluationFolder, changes: dict):
    first, second = full_metrics(), full_metrics()
    second["model"]["name"] = "runs/longer"
    first["likelihood"][0]["image_bpd"] = [4.0, 3.0, 5.0, 4.5, 4.0]
    second["likelihood"][0]["image_bpd"] = [4.1, 3.3, 5.1, 4.3, 4.0]
    second["likelihood"][0] |= changes
    save_comparison([first, second], [EvaluationFolder(tmp_path / name) for name in "ab"], folder)
    summary = json.loads((tmp_path / "comparison.json").read_text())
    assert [model["name"] for model in summary["models"]] == ["runs/cars", "runs/longer"]
    assert summary["floor"] == first["floor"]
    assert summary["samples"] == [first["samples"][0], second["samples"][0]]
    expected = {} if changes else {"bpd": 0.06, "bpd_std_error": scipy.stats.sem([0.1, 0.3, 0.1, -0.2, 0.0])}
    assert summary.get("bpd_difference", {}) == pytest.approx(expected, rel=1e-4)
    for each in (first, second):
        whole = each.pop("likelihood")
        save_comparison([first, second], [EvaluationFolder(tmp_path / name) for name in "ab"], folder)
        assert "bpd_difference" not in json.loads((tmp_path / "comparison.json").read_text())
        each["likelihood"] = whole


def test_plots_of_an_earlier_evaluation_do_not_stay(tmp_path: Path, folder: EvaluationFolder):
    metrics = minimal_metrics()
    generated = {"fixed_small, 100 steps": [8.0, 1.0]}
    metrics["spectrum"] = {"radius": [0.1, 0.4], "real": [9.0, 1.0], "generated": generated}
    for name in ("bits_by_timestep", "eps_mse", "quality", "loss", "spectrum"):
        (tmp_path / f"{name}.png").write_bytes(b"old")
    save_report(metrics, RunFolder(tmp_path / "no run"), folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.md", "report.html", "spectrum.png"]
    assert (tmp_path / "spectrum.png").read_bytes() != b"old"


@pytest.mark.parametrize("missing", [*([metric] for metric in METRICS), METRICS], ids=lambda ms: ms[-1].key)
def test_figures_that_an_older_file_lacks_are_left_blank(folder: EvaluationFolder, missing: Sequence[Metric]):
    old, new = full_metrics(), full_metrics()
    for name in ("likelihood", "eps_mse", "spectrum", "memorisation", "cost"):
        old.pop(name)
    for record in (*old["samples"], old["floor"]):
        for metric in missing:
            del record["metrics"][metric.key]
            record["metrics"].pop(metric.error_key, None)
    is_blank = [metric in missing for metric in METRICS]
    save_report(old, RunFolder(folder.path / "no run"), folder)
    page = Page(folder.report)
    for row in page.rows("Quality by number of steps")[1:]:
        assert [cell == "" for cell in row[2 : 2 + len(METRICS)]] == is_blank
    assert len(page.all("h3")) == is_blank.count(False)
    assert (folder.path / "quality.png").exists() == (METRICS[0] not in missing)
    floors = (line for line in folder.card.read_text().splitlines() if line.startswith("| real images"))
    cells = [cell for floor in floors for cell in floor.split("|")[3:-1]]
    assert [cell.strip() == "" for cell in cells] == is_blank
    # The last row of both tables for the terminal has two cells without a figure, and its name has two words.
    floors = (line for line in summary(old).splitlines() if line.startswith("real images"))
    assert sum(len(re.split("  +", floor)) - 1 for floor in floors) == is_blank.count(False)
    save_comparison([old, new], [folder, folder], folder)
    for blank, row in zip(is_blank, Page(folder.report).rows("Figures")[1:], strict=True):
        assert [cell == "" for cell in (row[1], row[3], row[5])] == [blank] * 3
        assert row[2]
        assert not (blank and row[4])
