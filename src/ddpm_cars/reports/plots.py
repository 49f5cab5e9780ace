"""Plots of what an evaluation has measured: bounds, losses, spectra, and quality by number of steps."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ddpm_cars.figures.curves import COLOURS, FAINT, INK, MARKERS, label_ends, line_style, make_figure, plain_numbers
from ddpm_cars.metrics.records import FRECHET_DISTANCE
from ddpm_cars.reports.wording import Metrics, bound_label, name_of, sampler_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_FLOOR_DASHES = (0, (4, 3))
# Of a spectrum: an eight-bit image cannot show less.
_LEAST_POWER = 1e-6
_MOST_RATIO = 256
PLOTS = ("bits_by_timestep", "eps_mse", "spectrum", "quality")
"""Names of the plots that `draw_plots` may draw."""


def draw_plots(metrics: Metrics) -> dict[str, "Figure"]:
    """Draw what was measured: figures by the names of PLOTS, without those of what the metrics lack."""
    drawn = {}
    if bounds := metrics.get("likelihood"):
        drawn["bits_by_timestep"], (terms, sums) = make_figure(2, num_labels=len(bounds))
        draw_terms(terms, bounds)
        draw_sums(sums, bounds)
    if eps_mse := metrics.get("eps_mse"):
        drawn["eps_mse"], (axes,) = make_figure()
        draw_eps_mse(axes, eps_mse)
    if spectrum := shown_spectra(metrics):
        drawn["spectrum"], (power, ratio) = make_figure(2, num_labels=len(spectrum["generated"]) + 1)
        draw_power(power, spectrum)
        draw_power_ratio(ratio, spectrum)
    samples = [sample for sample in metrics["samples"] if FRECHET_DISTANCE.key in sample["metrics"]]
    if len({sample["num_inference_steps"] for sample in samples}) > 1:
        drawn["quality"], (axes,) = make_figure()
        draw_quality(
            axes,
            samples,
            metrics["floor"],
            f"{name_of(FRECHET_DISTANCE, metrics)} of {metrics['num_images']:,} images",
        )
    return drawn


def shown_spectra(metrics: Metrics) -> dict[str, Any] | None:
    """Return metrics["spectrum"] of the model as it was saved and of all samplers at the fewest steps, or None."""
    samples = metrics["samples"]
    fewest = min(sample["num_inference_steps"] for sample in samples)
    shown = [samples[0], *(sample for sample in samples[1:] if sample["num_inference_steps"] == fewest)]
    spectrum = metrics.get("spectrum", {"generated": {}})
    found = {name: spectrum["generated"].get(name) for name in map(sampler_label, shown)}
    found = {name: power for name, power in found.items() if power}
    return {**spectrum, "generated": found} if found else None


def draw_terms(axes: "Axes", likelihood: Sequence[Metrics]) -> None:
    """Draw one curve for every record of metrics["likelihood"]: its terms by timestep, with a mark for the decoder."""
    for bound, style in zip(likelihood, _bound_styles(likelihood), strict=True):
        timesteps, bpd = bound["terms"]["timesteps"], bound["terms"]["bpd"]
        axes.plot(timesteps, bpd, **style)
        edge = {"markeredgecolor": style["color"], "markeredgewidth": 1.4, "markerfacecolor": "white"}
        axes.plot(timesteps[-1:], bpd[-1:], marker="D", markersize=6, linestyle="none", zorder=3, **edge)
    where = (likelihood[0]["terms"]["timesteps"][-1], likelihood[0]["terms"]["bpd"][-1])
    axes.annotate("decoder", where, (9, 0), textcoords="offset points", fontsize="small", color=FAINT, va="center")
    axes.set(title="bits of each step", xlabel="timestep t", ylabel="bits per dimension", yscale="log")
    plain_numbers(axes)
    _timestep_axis(axes)


def draw_sums(axes: "Axes", likelihood: Sequence[Metrics]) -> None:
    """Draw what the terms of every record of metrics["likelihood"] add up to from the decoder to each timestep."""
    ends = []
    for bound, style in zip(likelihood, _bound_styles(likelihood), strict=True):
        timesteps = bound["terms"]["timesteps"][::-1]
        sums = np.cumsum(bound["terms"]["bpd"][::-1])
        axes.plot(timesteps, sums, **style)
        ends.append((timesteps[-1], float(sums[-1]), f"{bound_label(bound)}: {sums[-1]:.2f}", style["color"]))
    axes.set(title="bits of all steps up to t, added up", xlabel="timestep t", ylabel="bits per dimension")
    totals = [total for _, total, *_ in ends]
    if max(totals) > 3 * min(totals):
        # One that is far off would press the others together.
        axes.set_yscale("log")
        plain_numbers(axes)
    else:
        axes.set_ylim(bottom=0)
    _timestep_axis(axes)
    label_ends(axes, ends)


def draw_eps_mse(axes: "Axes", eps_mse: Metrics) -> None:
    """Draw metrics["eps_mse"], the loss by timestep, with a band of two standard errors."""
    timesteps, mean, error = (np.array(eps_mse[key]) for key in ("timesteps", "eps_mse", "eps_mse_std_error"))
    axes.fill_between(timesteps, mean - 2 * error, mean + 2 * error, color=COLOURS[0], alpha=0.22, linewidth=0)
    axes.plot(timesteps, mean, color=COLOURS[0], linewidth=1.6)
    axes.axhline(1, color=FAINT, linewidth=1, linestyle=_FLOOR_DASHES)
    axes.set(xlabel="timestep t", ylabel="mean squared error of the noise", yscale="log")
    plain_numbers(axes)
    _timestep_axis(axes)
    label_ends(axes, [(timesteps[-1], 1, "predicting 0", FAINT), (timesteps[-1], mean[-1], "model", COLOURS[0])])


def draw_power(axes: "Axes", spectrum: Metrics) -> None:
    """Draw the power in metrics["spectrum"] by frequency: one curve for every sampler, and real images in ink."""
    styles = _sampler_styles(spectrum["generated"])
    for name, power in spectrum["generated"].items():
        axes.plot(spectrum["radius"], power, **styles[name])
    axes.plot(spectrum["radius"], spectrum["real"], color=INK, linewidth=2.2, zorder=1.9)
    axes.set(title="power", xlabel="spatial frequency, 1 is the finest", ylabel="variance, grey levels squared")
    axes.set(yscale="log", xlim=(0, None))
    plain_numbers(axes)


def draw_power_ratio(axes: "Axes", spectrum: Metrics) -> None:
    """Draw the power of generated images divided by that of real ones, of metrics["spectrum"]."""
    radius, real = spectrum["radius"], np.maximum(spectrum["real"], _LEAST_POWER)
    axes.axhline(1, color=INK, linewidth=2.2, zorder=1.9)
    ends = [(radius[-1], 1.0, "real images", INK)]
    for name, style in _sampler_styles(spectrum["generated"]).items():
        # Values beyond the axis are drawn at its edge.
        ratio = np.clip(np.maximum(spectrum["generated"][name], _LEAST_POWER) / real, 1 / _MOST_RATIO, _MOST_RATIO)
        axes.plot(radius, ratio, **style)
        ends.append((radius[-1], float(ratio[-1]), name, style["color"]))
    axes.set(title="power over that of real images", xlabel="spatial frequency, 1 is the finest", xlim=(0, None))
    axes.set_yscale("log", base=2)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), max(high, 2))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}")
    label_ends(axes, ends)


def draw_quality(axes: "Axes", samples: Sequence[Metrics], floor: Metrics, distance_name: str) -> None:
    """Draw the Fréchet distance in metrics["samples"] and metrics["floor"] by steps: a line for every label."""
    lines: dict[str, list[Metrics]] = {}
    for sample in sorted(samples, key=lambda sample: sample["num_inference_steps"]):
        lines.setdefault(sample["label"], []).append(sample)
    steps = sorted({sample["num_inference_steps"] for sample in samples})
    ends = []
    if (lowest := floor["metrics"].get(FRECHET_DISTANCE.key)) is not None:
        axes.axhline(lowest, color=FAINT, linewidth=1.2, linestyle=_FLOOR_DASHES)
        ends.append((steps[-1], lowest, f"real images: {lowest:.3g}", FAINT))
    for i, (label, points) in enumerate(lines.items()):
        x = [point["num_inference_steps"] for point in points]
        y = [point["metrics"][FRECHET_DISTANCE.key] for point in points]
        error = [2 * point["metrics"].get(FRECHET_DISTANCE.error_key, 0) for point in points]
        style = line_style(i, i // len(COLOURS)) | {"marker": MARKERS[i % len(MARKERS)], "markersize": 5}
        axes.errorbar(x, y, yerr=error, elinewidth=1, capsize=2.5, **style)
        ends.append((x[-1], y[-1], label, style["color"]))
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(n) for n in steps])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="denoising steps", ylabel=distance_name, yscale="log")
    plain_numbers(axes)
    label_ends(axes, ends)


def _bound_styles(likelihood: Sequence[Metrics]) -> list[dict[str, Any]]:
    """Give every variance a colour, and a mark to every short chain, whose steps lie apart."""
    variances = list(dict.fromkeys(bound["variance_type"] for bound in likelihood))
    chains = list(dict.fromkeys((bound["chain"], bound["num_inference_steps"]) for bound in likelihood))
    styles = []
    for bound in likelihood:
        style = line_style(variances.index(bound["variance_type"]))
        if bound["chain"] != "all":
            mark = MARKERS[chains.index((bound["chain"], bound["num_inference_steps"])) % len(MARKERS)]
            style |= {"marker": mark, "markersize": 2.6, "linewidth": 0.7}
        styles.append(style)
    return styles


def _sampler_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Give every sampler a colour, and dashes to its numbers of steps."""
    numbers: dict[str, list[str]] = {}
    for name in names:
        numbers.setdefault(name.rpartition(", ")[0], []).append(name)
    return {
        name: line_style(colour, dash)
        for colour, same_sampler in enumerate(numbers.values())
        for dash, name in enumerate(same_sampler)
    }


def _timestep_axis(axes: "Axes") -> None:
    """Spread timesteps by decades, with 0 at the left."""
    axes.set_xscale("symlog", linthresh=1, linscale=0.4)
    end = 1.1 * max(1, axes.dataLim.x1)
    ticks = [0, *(10**k for k in range(6) if 10**k <= end)]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlim(-0.15, end)
