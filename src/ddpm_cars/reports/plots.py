"""Images of what an evaluation has measured: bounds, losses, spectra, quality, and nearest neighbours."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ddpm_cars.figures.grids import make_grid
from ddpm_cars.figures.style import (
    _COLOURS,
    _FAINT,
    _INK,
    _MARKERS,
    _figure,
    _finish,
    _label_ends,
    _line_style,
    _plain_numbers,
)
from ddpm_cars.reports.wording import bound_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FLOOR_DASHES = (0, (4, 3))

# Of a spectrum: an eight-bit image cannot show less.
_LEAST_POWER = 1e-6

_MOST_RATIO = 256

_MIN_TILE = 96


def plot_bits_by_timestep(likelihood: Sequence[Mapping[str, Any]], path: str | Path) -> Path:
    """Draw the terms of every variational bound over t, and what they add up to, as a PNG.

    Args:
        likelihood: Records with "variance_type", "chain", "num_inference_steps" and "terms", which has "timesteps"
            from noise to image and as many "bpd"; the last is that of the decoder.
        path: Where to write.
    """
    figure, (terms, sums) = _figure(2, num_labels=len(likelihood))
    draw_terms(terms, likelihood)
    draw_sums(sums, likelihood)
    return _finish(figure, path)


def draw_terms(axes: "Axes", likelihood: Sequence[Mapping[str, Any]]) -> None:
    """Draw one curve a bound, its size at every timestep; arguments as in `plot_bits_by_timestep`."""
    for bound, style in zip(likelihood, _bound_styles(likelihood), strict=True):
        timesteps, bpd = bound["terms"]["timesteps"], bound["terms"]["bpd"]
        axes.plot(timesteps, bpd, **style)
        edge = {"markeredgecolor": style["color"], "markeredgewidth": 1.4, "markerfacecolor": "white"}
        axes.plot(timesteps[-1:], bpd[-1:], marker="D", markersize=6, linestyle="none", zorder=3, **edge)
    where = (likelihood[0]["terms"]["timesteps"][-1], likelihood[0]["terms"]["bpd"][-1])
    axes.annotate("decoder", where, (9, 0), textcoords="offset points", fontsize="small", color=_FAINT, va="center")
    axes.set(title="the term of a step", xlabel="timestep t", ylabel="bits per dimension", yscale="log")
    _plain_numbers(axes)
    _timestep_axis(axes)


def draw_sums(axes: "Axes", likelihood: Sequence[Mapping[str, Any]]) -> None:
    """Draw what the terms up to every timestep add up to; arguments as in `plot_bits_by_timestep`."""
    ends = []
    for bound, style in zip(likelihood, _bound_styles(likelihood), strict=True):
        timesteps = bound["terms"]["timesteps"][::-1]
        sums = np.cumsum(bound["terms"]["bpd"][::-1])
        axes.plot(timesteps, sums, **style)
        ends.append((timesteps[-1], float(sums[-1]), f"{bound_label(bound)}: {sums[-1]:.2f}", style["color"]))
    axes.set(title="the terms of all steps up to t, added up", xlabel="timestep t", ylabel="bits per dimension")
    totals = [total for _, total, *_ in ends]
    if max(totals) > 3 * min(totals):
        # One that is far off would press the others together.
        axes.set_yscale("log")
        _plain_numbers(axes)
    else:
        axes.set_ylim(bottom=0)
    _timestep_axis(axes)
    _label_ends(axes, ends)


def plot_eps_mse(eps_mse: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the loss by timestep as a PNG.

    Args:
        eps_mse: "timesteps", ascending, and as many "eps_mse" and "eps_mse_std_error".
        path: Where to write.
    """
    figure, (axes,) = _figure(1)
    draw_eps_mse(axes, eps_mse)
    return _finish(figure, path)


def draw_eps_mse(axes: "Axes", eps_mse: Mapping[str, Any]) -> None:
    """Draw the loss by timestep with a band of two standard errors; arguments as in `plot_eps_mse`."""
    timesteps, mean, error = (np.array(eps_mse[key]) for key in ("timesteps", "eps_mse", "eps_mse_std_error"))
    axes.fill_between(timesteps, mean - 2 * error, mean + 2 * error, color=_COLOURS[0], alpha=0.22, linewidth=0)
    axes.plot(timesteps, mean, color=_COLOURS[0], linewidth=1.6)
    axes.axhline(1, color=_FAINT, linewidth=1, linestyle=_FLOOR_DASHES)
    axes.set(xlabel="timestep t", ylabel="mean squared error of the noise", yscale="log")
    _plain_numbers(axes)
    _timestep_axis(axes)
    _label_ends(axes, [(timesteps[-1], 1, "guessing 0", _FAINT), (timesteps[-1], mean[-1], "model", _COLOURS[0])])


def plot_spectrum(spectrum: Mapping[str, Any], path: str | Path) -> Path:
    """Draw the power of real and generated images by spatial frequency, and its ratio, as a PNG.

    Args:
        spectrum: "radius", 0 to 1, as many values of "real" and, by name, of "generated".
        path: Where to write.
    """
    figure, (power, ratio) = _figure(2, num_labels=len(spectrum["generated"]) + 1)
    draw_power(power, spectrum)
    draw_power_ratio(ratio, spectrum)
    return _finish(figure, path)


def draw_power(axes: "Axes", spectrum: Mapping[str, Any]) -> None:
    """Draw one curve a sampler, and the real one in ink; arguments as in `plot_spectrum`."""
    styles = _sampler_styles(spectrum["generated"])
    for name, power in spectrum["generated"].items():
        axes.plot(spectrum["radius"], power, **styles[name])
    axes.plot(spectrum["radius"], spectrum["real"], color=_INK, linewidth=2.2, zorder=1.9)
    axes.set(title="power", xlabel="spatial frequency, 1 is the finest", ylabel="variance, grey levels squared")
    axes.set(yscale="log", xlim=(0, None))
    _plain_numbers(axes)


def draw_power_ratio(axes: "Axes", spectrum: Mapping[str, Any]) -> None:
    """Draw the power of generated images over that of real ones; arguments as in `plot_spectrum`."""
    radius, real = spectrum["radius"], np.maximum(spectrum["real"], _LEAST_POWER)
    axes.axhline(1, color=_INK, linewidth=2.2, zorder=1.9)
    ends = [(radius[-1], 1.0, "real images", _INK)]
    for name, style in _sampler_styles(spectrum["generated"]).items():
        # What is further off than the axis reaches is drawn at its edge.
        ratio = np.clip(np.maximum(spectrum["generated"][name], _LEAST_POWER) / real, 1 / _MOST_RATIO, _MOST_RATIO)
        axes.plot(radius, ratio, **style)
        ends.append((radius[-1], float(ratio[-1]), name, style["color"]))
    axes.set(title="power over that of real images", xlabel="spatial frequency, 1 is the finest", xlim=(0, None))
    axes.set_yscale("log", base=2)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, 0.5), max(high, 2))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}" if value >= 1 else f"1/{1 / value:g}")
    _label_ends(axes, ends)


def plot_quality(
    samples: Sequence[Mapping[str, Any]], floor: Mapping[str, Any], distance_name: str, path: str | Path
) -> Path:
    """Draw the Fréchet distance over the number of steps as a PNG.

    Args:
        samples: Records with "label", "num_inference_steps" and "metrics"; those of one label make a line.
        floor: A record with the "metrics" of real images in place of generated ones.
        distance_name: What the distance is called.
        path: Where to write.
    """
    figure, (axes,) = _figure(1)
    draw_quality(axes, samples, floor, distance_name)
    return _finish(figure, path)


def draw_quality(
    axes: "Axes", samples: Sequence[Mapping[str, Any]], floor: Mapping[str, Any], distance_name: str
) -> None:
    """Draw one line a label with bars of two standard errors; arguments as in `plot_quality`."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for sample in sorted(samples, key=lambda sample: sample["num_inference_steps"]):
        lines.setdefault(sample["label"], []).append(sample)
    steps = sorted({sample["num_inference_steps"] for sample in samples})
    lowest = floor["metrics"]["frechet_distance"]
    axes.axhline(lowest, color=_FAINT, linewidth=1.2, linestyle=_FLOOR_DASHES)
    ends = [(steps[-1], lowest, f"real images: {lowest:.3g}", _FAINT)]
    for i, (label, points) in enumerate(lines.items()):
        x = [point["num_inference_steps"] for point in points]
        y = [point["metrics"]["frechet_distance"] for point in points]
        error = [2 * point["metrics"]["frechet_distance_std_error"] for point in points]
        style = _line_style(i, i // len(_COLOURS)) | {"marker": _MARKERS[i % len(_MARKERS)], "markersize": 5}
        axes.errorbar(x, y, yerr=error, elinewidth=1, capsize=2.5, **style)
        ends.append((x[-1], y[-1], label, style["color"]))
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps, [str(n) for n in steps])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="denoising steps", ylabel=distance_name, yscale="log")
    _plain_numbers(axes)
    _label_ends(axes, ends)


def neighbours_picture(
    generated: Sequence[Image.Image],
    neighbours: Sequence[Sequence[Image.Image]],
    captions: Sequence[Sequence[str]] | None = None,
) -> Image.Image:
    """Lay out generated images, each with the training images that are nearest to it on its right.

    Args:
        generated: One or more, all of one size.
        neighbours: For each the nearest, nearest first, as many for all and of the same size.
        captions: For each of those what is written below, such as its distance.

    Returns:
        An RGB image; more than three generated images are in two columns.
    """
    num_neighbours = len(neighbours[0])
    ordinals = ["nearest", "2nd", "3rd", *(f"{i}th" for i in range(4, num_neighbours + 1))][:num_neighbours]
    rows = []
    for i, picture in enumerate(generated):
        below = captions[i] if captions else [""] * num_neighbours
        rows.append([_tile(picture, ""), *map(_tile, neighbours[i], below)])
    num_columns = 2 if len(rows) > 3 else 1
    height = -(-len(rows) // num_columns)
    columns = [rows[start : start + height] for start in range(0, len(rows), height)]
    parts = []
    for column in columns:
        parts.append(make_grid([row[0] for row in column], 1, labels=["generated"]))
        tiles = [tile for row in column for tile in row[1:]]
        parts.append(make_grid(tiles, num_neighbours, labels=ordinals))
    gaps = [8, 28] * len(columns)
    gaps[-1] = 0
    whole = Image.new("RGB", (sum(part.width for part in parts) + sum(gaps), parts[0].height), "white")
    left = 0
    for part, gap in zip(parts, gaps, strict=True):
        whole.paste(part, (left, 0))
        left += part.width + gap
    return whole


def _tile(picture: Image.Image, caption: str) -> Image.Image:
    """Enlarge an image as `make_grid` would, and leave room below for a line of text."""
    factor = max(1, -(-_MIN_TILE // picture.width))
    width, height = picture.width * factor, picture.height * factor
    tile = Image.new("RGB", (width, height + 16), "white")
    tile.paste(picture.convert("RGB").resize((width, height), Image.Resampling.NEAREST))
    ImageDraw.Draw(tile).text(
        (width / 2, height + 7), caption, fill=_FAINT, font=ImageFont.load_default(11), anchor="mm"
    )
    return tile


def _bound_styles(likelihood: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Give every variance a colour, and a mark to every short chain, whose steps lie apart."""
    variances = list(dict.fromkeys(bound["variance_type"] for bound in likelihood))
    chains = list(dict.fromkeys((bound["chain"], bound["num_inference_steps"]) for bound in likelihood))
    styles = []
    for bound in likelihood:
        style = _line_style(variances.index(bound["variance_type"]))
        if bound["chain"] != "all":
            mark = _MARKERS[chains.index((bound["chain"], bound["num_inference_steps"])) % len(_MARKERS)]
            style |= {"marker": mark, "markersize": 2.6, "linewidth": 0.7}
        styles.append(style)
    return styles


def _sampler_styles(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Give every sampler a colour, and dashes to its numbers of steps."""
    numbers: dict[str, list[str]] = {}
    for name in names:
        numbers.setdefault(name.rpartition(", ")[0], []).append(name)
    return {
        name: _line_style(colour, dash)
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
