"""Plots of what an evaluation has measured: the data of their curves, and the files."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image

from ddpm_cars.figures.curves import make_figure, save_figure
from ddpm_cars.reports import plots as evaluation_plots
from ddpm_cars.reports.wording import bound_label
from tests.support.report_helpers import full_metrics


def make_bound(variance_type: str, chain: str, timesteps: list[int], size: float = 1.0) -> dict[str, Any]:
    bpd = [size / (t + 1) for t in timesteps]
    terms = {"timesteps": timesteps, "bpd": bpd}
    return {"variance_type": variance_type, "chain": chain, "num_inference_steps": len(timesteps), "terms": terms}


LIKELIHOOD = [
    make_bound("fixed_small", "all", list(range(999, -1, -1))),
    make_bound("fixed_small", "leading", [900, 600, 300, 0], 3.0),
    make_bound("analytic", "all", list(range(999, -1, -1)), 0.9),
    make_bound("analytic", "least cost", [999, 40, 6, 1], 2.0),
]
EPS_MSE = {
    "timesteps": [0, 1, 10, 99],
    "eps_mse": [0.9, 0.5, 0.1, 0.02],
    "eps_mse_std_error": [0.03, 0.02, 0.01, 0.004],
}
SPECTRUM = {
    "radius": [0.0, 0.3, 0.6, 0.9],
    "real": [1000.0, 100.0, 10.0, 1.0],
    "generated": {
        "fixed_small, 100 steps": [1000.0, 110.0, 11.0, 2.0],
        "fixed_small, 10 steps": [900.0, 50.0, 3.0, 0.2],
        "DDIMScheduler, 10 steps": [800.0, 100.0, 10.0, 0.0],
    },
}
FLOOR = {"num_images": 2000, "metrics": {"frechet_distance": 3.2, "frechet_distance_std_error": 0.1}}


def make_sample(label: str, steps: int, distance: float, error: float) -> dict[str, Any]:
    figures = {"frechet_distance": distance, "frechet_distance_std_error": error}
    return {"label": label, "num_inference_steps": steps, "metrics": figures}


SAMPLES = [
    make_sample("fixed_small", 100, 20.0, 0.5),
    make_sample("fixed_small", 10, 90.0, 2.0),
    make_sample("DDIMScheduler", 10, 40.0, 1.0),
    make_sample("DDIMScheduler", 50, 25.0, 0.75),
    make_sample("fixed_small", 50, 30.0, 0.25),
]


@pytest.fixture
def axes() -> Axes:
    figure = Figure()
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def curves(axes: Axes) -> list[tuple[list[float], list[float]]]:
    """Return x and y of every line."""
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def labels(axes: Axes) -> dict[str, str]:
    """Return the colour of every name that stands in a plot."""
    return {text.get_text(): to_hex(text.get_color()) for text in axes.texts}


def test_a_bound_is_a_curve_that_ends_in_a_mark_for_the_decoder(axes: Axes):
    evaluation_plots.draw_terms(axes, LIKELIHOOD)
    assert len(axes.lines) == 2 * len(LIKELIHOOD)
    for bound, curve, decoder in zip(LIKELIHOOD, curves(axes)[::2], curves(axes)[1::2], strict=True):
        assert curve == (bound["terms"]["timesteps"], bound["terms"]["bpd"])
        assert decoder == ([bound["terms"]["timesteps"][-1]], [bound["terms"]["bpd"][-1]])
    assert axes.get_yscale() == "log"
    assert "decoder" in labels(axes)


def test_variances_have_colours_and_short_chains_marks(axes: Axes):
    evaluation_plots.draw_terms(axes, LIKELIHOOD)
    small, small_short, analytic, analytic_short = axes.lines[::2]
    assert small.get_color() == small_short.get_color() != analytic.get_color() == analytic_short.get_color()
    assert small.get_marker() == analytic.get_marker() == "None"
    assert len({small_short.get_marker(), analytic_short.get_marker(), "None"}) == 3


def test_sums_run_from_the_decoder_to_the_whole_bound(axes: Axes):
    evaluation_plots.draw_sums(axes, LIKELIHOOD)
    for bound, line, (x, y) in zip(LIKELIHOOD, axes.lines, curves(axes), strict=True):
        timesteps, bpd = bound["terms"]["timesteps"], bound["terms"]["bpd"]
        assert x == sorted(timesteps)
        assert y == pytest.approx([sum(b for t, b in zip(timesteps, bpd, strict=True) if t <= limit) for limit in x])
        name = f"{bound_label(bound)}: {sum(bpd):.2f}"
        assert labels(axes)[name] == line.get_color()


@pytest.mark.parametrize(("factor", "scale"), [(1.0, "linear"), (2.5, "linear"), (30.0, "log")])
def test_a_bound_that_is_far_off_does_not_press_the_others_together(axes: Axes, factor: float, scale: str):
    bounds = [make_bound("fixed_small", "leading", [30, 20, 0], bpd) for bpd in (1.0, factor)]
    evaluation_plots.draw_sums(axes, bounds)
    assert axes.get_yscale() == scale


def test_the_loss_has_a_band_of_two_standard_errors(axes: Axes):
    evaluation_plots.draw_eps_mse(axes, EPS_MSE)
    assert (EPS_MSE["timesteps"], EPS_MSE["eps_mse"]) in curves(axes)
    assert ([0, 1], [1, 1]) in curves(axes)
    (band,) = axes.collections
    corners = {(float(x), round(float(y), 9)) for x, y in band.get_paths()[0].vertices}
    for t, mean, error in zip(*EPS_MSE.values(), strict=True):
        assert {(t, round(mean - 2 * error, 9)), (t, round(mean + 2 * error, 9))} <= corners
    assert set(labels(axes)) == {"predicting 0", "model"}


def test_spectra_are_drawn_beside_the_real_one(axes: Axes):
    evaluation_plots.draw_power(axes, SPECTRUM)
    powers = [*SPECTRUM["generated"].values(), SPECTRUM["real"]]
    assert curves(axes) == [(SPECTRUM["radius"], power) for power in powers]
    widths = [line.get_linewidth() for line in axes.lines]
    assert widths[-1] > max(widths[:-1])


def test_spectra_are_drawn_over_the_real_one_and_named(axes: Axes):
    evaluation_plots.draw_power_ratio(axes, SPECTRUM)
    real, *generated = axes.lines
    assert set(real.get_ydata()) == {1}
    expected = [[1, 1.1, 1.1, 2], [0.9, 0.5, 0.3, 0.2], [0.8, 1, 1, 1 / 256]]
    for line, (name, power), ratio in zip(generated, SPECTRUM["generated"].items(), expected, strict=True):
        assert len(power) == len(line.get_ydata())
        assert line.get_ydata() == pytest.approx(ratio)
        assert labels(axes)[name] == line.get_color()
    few_steps, other = generated[1:]
    assert few_steps.get_color() == generated[0].get_color() != other.get_color()
    assert few_steps.get_linestyle() != generated[0].get_linestyle() == other.get_linestyle()
    low, high = axes.get_ylim()
    assert low < 1 / 256
    assert high >= 2


def test_spectra_that_hardly_differ_are_not_magnified(axes: Axes):
    spectrum = {**SPECTRUM, "generated": {"fixed_small, 10 steps": [1001.0, 99.0, 10.0, 1.0]}}
    evaluation_plots.draw_power_ratio(axes, spectrum)
    assert axes.get_ylim() == (0.5, 2)


@pytest.mark.parametrize(("value", "expected"), [(4, "4"), (1, "1"), (0.5, "1/2"), (0.0625, "1/16")])
def test_ratios_are_written_as_fractions(axes: Axes, value: float, expected: str):
    evaluation_plots.draw_power_ratio(axes, SPECTRUM)
    assert axes.yaxis.get_major_formatter()(value, 0) == expected


def test_samplers_are_lines_over_the_steps(axes: Axes):
    evaluation_plots.draw_quality(axes, SAMPLES, FLOOR, "FD-EfficientNet")
    drawn = curves(axes)
    assert drawn[0] == ([0, 1], [3.2, 3.2])
    assert ([10, 50, 100], [90.0, 30.0, 20.0]) in drawn
    assert ([10, 50], [40.0, 25.0]) in drawn
    bars = [segment.tolist() for bar in axes.collections for segment in bar.get_segments()]
    for sample in SAMPLES:
        x, y = sample["num_inference_steps"], sample["metrics"]["frechet_distance"]
        error = 2 * sample["metrics"]["frechet_distance_std_error"]
        assert [[x, y - error], [x, y + error]] in bars
    assert set(labels(axes)) == {"fixed_small", "DDIMScheduler", "real images: 3.2"}
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10", "50", "100"]
    assert axes.get_ylabel() == "FD-EfficientNet"


def test_many_samplers_are_told_apart(axes: Axes):
    samples = [make_sample(f"sampler {i}", 10, 20.0 + i, 0.5) for i in range(20)]
    evaluation_plots.draw_quality(axes, samples, FLOOR, "FD")
    looks = {(bars[0].get_color(), bars[0].get_linestyle(), bars[0].get_marker()) for bars in axes.containers}
    assert len(looks) > 7


@pytest.mark.parametrize("num_bounds", [1, 2, 9, 27])
def test_names_of_curves_do_not_overlap(num_bounds: int):
    figure, (_, axes) = make_figure(2, num_labels=num_bounds)
    bounds = [make_bound("fixed_small", "leading", [30, 20, 0], 1 + 1e-4 * i) for i in range(num_bounds)]
    evaluation_plots.draw_sums(axes, bounds)
    figure.canvas.draw()
    assert len(axes.texts) == num_bounds
    middles = sorted(text.xyann[1] for text in axes.texts)
    assert 0 <= middles[0] <= middles[-1] <= 1
    line_height = axes.texts[0].get_fontsize() * figure.dpi / 72
    panel_height = axes.get_window_extent().height
    assert all((b - a) * panel_height > line_height for a, b in pairwise(middles))
    # The names are within the image.
    assert all(text.get_tightbbox().x1 <= figure.bbox.x1 + 1 for text in axes.texts)


METRICS = {
    "likelihood": LIKELIHOOD,
    "eps_mse": EPS_MSE,
    "spectrum": SPECTRUM,
    "samples": SAMPLES,
    "floor": FLOOR,
    "num_images": 2000,
    "extractor": {"distance_name": "FD-EfficientNet"},
}
NAMES = {"bits_by_timestep", "eps_mse", "spectrum", "quality"}


@pytest.mark.parametrize("name", sorted(NAMES))
def test_plots_are_png_files(tmp_path: Path, name: str):
    drawn = evaluation_plots.draw_plots(METRICS)
    assert drawn.keys() == NAMES == set(evaluation_plots.PLOTS)
    path = tmp_path / "new folder" / "plot.png"
    save_figure(drawn[name], path)
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.width >= 1200
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
    assert (pixels == (0x27, 0x54, 0x8A)).all(axis=1).sum() > 50
    assert [file.name for file in path.parent.iterdir()] == ["plot.png"]


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"likelihood": None}, {"bits_by_timestep"}),
        ({"eps_mse": None}, {"eps_mse"}),
        ({"spectrum": {**SPECTRUM, "generated": {}}}, {"spectrum"}),
        ({"samples": SAMPLES[:1]}, {"quality"}),
        ({"samples": [{**sample, "metrics": {}} for sample in SAMPLES]}, {"quality"}),
        ({"likelihood": [make_bound("a", "all", [1, 0])]}, set()),
    ],
)
def test_what_was_not_measured_has_no_plot(changes: dict[str, Any], missing: set[str]):
    assert evaluation_plots.draw_plots({**METRICS, **changes}).keys() == NAMES - missing


def test_a_sampler_whose_distance_is_missing_leaves_a_gap():
    samples = [{**SAMPLES[0], "metrics": {}}, *SAMPLES[1:]]
    figure = evaluation_plots.draw_plots({**METRICS, "samples": samples, "floor": {"metrics": {}}})["quality"]
    (axes,) = figure.axes
    assert ([10, 50], [90.0, 30.0]) in curves(axes)
    assert set(labels(axes)) == {"fixed_small", "DDIMScheduler"}


def test_spectra_are_shown_of_the_model_as_saved_and_of_all_samplers_at_the_fewest_steps():
    metrics = full_metrics()
    names = [f"{each['label']}, {each['num_inference_steps']} steps" for each in metrics["samples"]]
    metrics["spectrum"]["generated"] = {name: [float(i), 1.0] for i, name in enumerate(names)}
    shown = evaluation_plots.shown_spectra(metrics)
    assert shown is not None
    assert shown["real"] == metrics["spectrum"]["real"]
    expected = {"fixed_small, 100 steps": [0.0, 1.0], "DDIMScheduler, 10 steps": [1.0, 1.0]}
    assert shown["generated"] == {**expected, "fixed_small, 10 steps": [2.0, 1.0]}
