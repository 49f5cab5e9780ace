"""What an evaluation has found, to read: one HTML page that needs nothing beside it, and a table for the terminal."""

import base64
import itertools
import math
import textwrap
from collections.abc import Container, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from ddpm_cars.checkpoints import write_text
from ddpm_cars.evaluation_plots import bound_label, sampler_label

Metrics = Mapping[str, Any]
Pictures = Mapping[str, Sequence[Path]]

_WIDTH = 100
_CAPTIONS = {
    "samples": "Drawn pictures, as they come from the first seeds.",
    "denoising": "The way from noise to picture.",
    "quality": "Distance by number of steps, with bars of two standard errors. Dashed, what real pictures get.",
    "bits_by_timestep": "Left, what a step adds to the bound, down to the decoder, which writes the pixel values. "
    "Right, the same added up from the picture to the noise, with the sum at the end of the curve.",
    "loss": "The loss during training.",
    "eps_mse": "The loss by timestep, with a band of two standard errors. Dashed, what guessing no noise costs.",
    "spectrum": "Left, the variance of the lightness by spatial frequency; black, real pictures. Right, the same over "
    "that of real pictures: below 1 the drawn ones are too smooth, above 1 too rough.",
    "neighbours": "Drawn pictures with the nearest training pictures, and the distances.",
    "neighbours_features": "The drawn pictures with the nearest training pictures by features, and the distances.",
    "neighbours_pixels": "The drawn pictures with the nearest training pictures by pixels, and the distances.",
}
_NEIGHBOURS = ("neighbours", "neighbours_features", "neighbours_pixels")
_MINUS = "\N{MINUS SIGN}"
_KINDS = {
    **dict.fromkeys(("quality", "loss", "eps_mse"), "plot"),
    **dict.fromkeys(("bits_by_timestep", "spectrum"), "plot wide"),
    "samples": "side",
}
_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c2530; --faint: #5c6877; --line: #dfe4ea; --wash: #f4f6f9;
  --accent: #27548a; --best: #dfebf7; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #191919; --ink: #e3e7ec; --faint: #9aa5b1; --line: #363b41; --wash: #222528; --accent: #8fbdf0;
    --best: #1f3a58; }
  .plot img { filter: invert(0.9) hue-rotate(180deg); }
}
body { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { margin: 0 0 .3rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 3rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); font-size: 1.25rem; }
h1, dd, p { overflow-wrap: anywhere; }
p, figcaption { max-width: 46rem; margin: .6rem 0; }
header p { max-width: none; margin: 0; }
header p, figcaption, .note, dt { color: var(--faint); }
.note, figcaption { font-size: .875rem; }
.warning { padding: .6rem .9rem; border-left: 4px solid #c4511d; background: var(--wash); }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: .8rem; margin: 1.2rem 0; }
.nine { grid-template-columns: repeat(3, 1fr); }
.card { padding: .8rem 1rem; border-radius: .5rem; background: var(--wash); }
.card h3 { margin: 0; color: var(--faint); font-size: .85rem; font-weight: 600; }
.card p { margin: .15rem 0; font-size: .8rem; line-height: 1.4; }
.card .value { font-size: 1.05rem; color: var(--accent); }
.value b { font-size: 1.75rem; font-weight: 650; }
.card .floor { margin-bottom: .45rem; font-weight: 600; }
.scroll { overflow-x: auto; }
table { width: 100%; margin: 1rem 0; border-collapse: collapse; font-size: .82rem; }
table, .value, .floor { font-variant-numeric: tabular-nums; }
th, td { padding: .32rem .4rem; text-align: right; white-space: pre; }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
thead th { border-bottom: 2px solid var(--ink); vertical-align: bottom; }
tbody th, tfoot td { font-weight: 400; }
tbody .ruled > * { border-top: 1px solid var(--line); }
tfoot td { border-top: 2px solid var(--ink); font-style: italic; }
td.best { background: var(--best); border-radius: .25rem; font-weight: 700; }
figure { margin: 1.4rem 0; break-inside: avoid; }
figure img { display: block; max-width: 100%; height: auto; margin-bottom: .4rem; border-radius: .25rem; }
.plot img { width: 46rem; }
.wide img { width: 100%; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.4rem; font-size: .9rem; }
dd { margin: 0; }
@media (max-width: 40rem) {
  body { padding-top: 1.25rem; }
  .cards { grid-template-columns: 1fr 1fr; }
  .card { padding: .6rem .7rem; }
  .card:last-child:nth-child(odd) { grid-column: span 2; }
  .card .value { font-size: .85rem; }
  .value b { font-size: 1.3rem; }
  .plot img { max-width: none; width: 36rem; }
  .wide img { width: 48rem; }
  .row img { max-width: none; }
  dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; }
}
"""


class _Quantity(NamedTuple):
    """A figure of a record of metrics["samples"]: its key there, its names, where it is best, and what it means."""

    key: str
    name: str
    short_name: str
    best: str
    meaning: str


_QUANTITIES = tuple(
    _Quantity(*fields)
    for fields in (
        ("frechet_distance", "Fréchet distance", "FD", "lower", "Between Gaussians fitted to the features of both."),
        ("kernel_distance", "Kernel distance", "kernel", "lower", "Between the features of both, Gaussian or not."),
        ("precision", "Precision", "prec", "higher", "Share of drawn pictures that lie among real ones."),
        ("recall", "Recall", "rec", "higher", "Share of real pictures that lie among drawn ones."),
        ("density", "Density", "dens", "higher", "How many real pictures surround a drawn one."),
        ("coverage", "Coverage", "cov", "higher", "Share of real pictures with a drawn one close by."),
        ("contrast", "Contrast", "contr", "at 1", "Standard deviation of drawn pixels over that of real ones."),
        ("spectrum_error_octaves", "Spectrum error", "spec", "lower", "Of the power by frequency, in octaves."),
    )
)
_BPD = _Quantity("bpd", "Bits per dimension", "bpd", "lower", "What a pixel value takes at most; 8 uncompressed.")
_ARROWS = {"lower": "↓", "higher": "↑", "at 1": "→\u00a01"}
_DIRECTIONS = {"lower": "Lower is better.", "higher": "Higher is better.", "at 1": "1 is right."}


def write_report(metrics: Metrics, pictures: Mapping[str, Path], path: str | Path) -> Path:
    """Write the report on one model: an HTML file with everything in it, for any browser, wide or narrow.

    Args:
        metrics: What metrics.json holds; what it leaves out is not spoken of.
        pictures: PNG files by name, any of which may be absent: "samples", "denoising", "quality", "bits_by_timestep",
            "loss", "eps_mse", "spectrum", "neighbours", "neighbours_features", "neighbours_pixels".
        path: Where to write.

    Returns:
        `path`.

    Raises:
        OSError: If a picture cannot be read or the file cannot be written.
    """
    paths = {name: (picture,) for name, picture in pictures.items()}
    name = metrics["model"]["name"]
    parts = [
        f"<header><h1>{escape(name)}</h1>{_paragraph(_description(metrics))}</header>",
        _headline(metrics),
        _section("Pictures", _pictures(paths, "samples", "denoising")),
        _quality(metrics, paths),
        _likelihood(metrics, paths),
        _losses(metrics, paths),
        _section("Spectrum", _pictures(paths, "spectrum")),
        _memorisation(metrics, paths),
        _section("How it was measured", _facts(metrics)),
    ]
    return _write_page(path, f"Evaluation of {name}", parts)


def write_comparison(
    first: Metrics,
    second: Metrics,
    pictures: Mapping[str, tuple[Path, Path]],
    path: str | Path,
    bpd_difference: tuple[float, float] | None = None,
) -> Path:
    """Write a report that sets two models side by side, as `write_report` does for one.

    A model is called better where the difference is more than two standard errors.

    Args:
        first: Metrics of one model, which is called A.
        second: Those of the other, B.
        pictures: PNG files of A and of B, by the names of `write_report`.
        path: Where to write.
        bpd_difference: Mean of B's bits per dimension minus A's over the same pictures, by the first bound of each,
            and its standard error; None takes the errors of the two for independent.

    Returns:
        `path`.

    Raises:
        OSError: If a picture cannot be read or the file cannot be written.
    """
    title = f"{first['model']['name']} and {second['model']['name']}"
    models = (("A", first), ("B", second))
    lines = [
        _paragraph(f"{letter}: {metrics['model']['name']}, {_description(metrics)}") for letter, metrics in models
    ]
    parts = [
        f"<header><h1>{escape(title)}</h1>{''.join(lines)}</header>",
        _figures_compared(first, second, bpd_difference),
        _section("Pictures", _pictures(pictures, "samples", "denoising")),
        _others_compared(first, second),
        _section("Curves", _pictures(pictures, "quality", "bits_by_timestep", "loss", "eps_mse", "spectrum")),
        _section("Nearest training pictures", _pictures(pictures, *_NEIGHBOURS)),
        *(_section(f"How {letter} was measured", _facts(metrics)) for letter, metrics in models),
    ]
    return _write_page(path, title, parts)


def summary(metrics: Metrics) -> str:
    """Return the figures as plain text for a terminal, in lines of at most 100 characters.

    Args:
        metrics: What metrics.json holds.
    """
    distance_name, num_real = metrics["extractor"]["distance_name"], metrics["data"]["num_reference_images"]
    intro = (
        f"{metrics['model']['name']}: {metrics['num_images']:,} drawn pictures against {num_real:,} real ones. FD is "
        f"{distance_name}, which cannot be compared with published FID. Low is good for FD, kernel and spec, and for "
        "contr 1. The last row is real pictures in place of drawn ones."
    )
    headings = ["sampler", "steps", *(q.short_name for q in _QUANTITIES), "images/s"]
    rows = [
        [s["label"], str(s["num_inference_steps"]), *_short_values(s["metrics"]), _number(s["images_per_second"])]
        for s in metrics["samples"]
    ]
    floor = ["real pictures", "", *_short_values(metrics["floor"]["metrics"]), ""]
    parts = [textwrap.fill(intro, _WIDTH), _text_table([headings, *rows, floor])]
    if bounds := metrics.get("likelihood"):
        lines = [[bound_label(bound), _value(_BPD, bound), *_bpd_parts(bound)] for bound in bounds]
        parts.append(f"Bits per dimension at most, of {bounds[0]['num_images']:,} pictures; lower is better.")
        parts.append(_text_table([["variance and timesteps", "bits", "prior", "denoising", "decoder"], *lines]))
    copies = [
        f"Near copies of training pictures by {space}: {_percent(found['share'])}, of unseen pictures "
        f"{_percent(found['expected'])}."
        for space, found in _copies(metrics).items()
    ]
    return "\n\n".join([*parts, *(["\n".join(copies)] if copies else [])])


def _short_values(figures: Metrics) -> list[str]:
    """Return the figures of a row in the digits that there is room for."""
    distance, kernel, *others = _QUANTITIES
    return [_value(distance, figures), _number(figures[kernel.key]), *(f"{figures[q.key]:.2f}" for q in others)]


# Sections


def _headline(metrics: Metrics) -> str:
    sample, floor, extractor = metrics["samples"][0], metrics["floor"], metrics["extractor"]
    cards = [
        _card(_name(q, metrics), _value(q, sample["metrics"]), f"real pictures: {_value(q, floor['metrics'])}", q)
        for q in _QUANTITIES
    ]
    if bounds := metrics.get("likelihood"):
        cards.insert(2, _card(_BPD.name, _value(_BPD, bounds[0]), bound_label(bounds[0]), _BPD))
    return _section(
        "Figures",
        _paragraph(
            f"{sample['num_images']:,} pictures, drawn with {sampler_label(sample)}, against "
            f"{metrics['data']['num_reference_images']:,} real ones. Below every figure stands its floor, what "
            f"{floor['num_images']:,} other real pictures get in place of the drawn ones: no model can be expected to "
            "do better. ± is one standard error, and for the kernel distance the standard deviation over subsets."
        ),
        f'<div class="cards{" nine" * (len(cards) == 9)}">{"".join(cards)}</div>',
        _paragraph(
            f"{extractor['distance_name']} is a Fréchet distance between features of {extractor['name']}, and depends "
            "on how many pictures there are. It can be compared with figures from the same extractor, pictures and "
            "numbers of pictures only, and not with published FID.",
            "note",
        ),
    )


def _quality(metrics: Metrics, paths: Pictures) -> str:
    samples = metrics["samples"]
    labels = list(dict.fromkeys(sample["label"] for sample in samples))
    ordered = sorted(samples, key=lambda sample: (labels.index(sample["label"]), sample["num_inference_steps"]))
    rows = [
        [
            sample["label"] + (", as saved" if sample is samples[0] else ""),
            str(sample["num_inference_steps"]),
            *(_value(q, sample["metrics"]) for q in _QUANTITIES),
            _number(sample["images_per_second"]),
        ]
        for sample in ordered
    ]
    lowest = {q: min(_badness(q, sample["metrics"][q.key]) for sample in samples) for q in _QUANTITIES}
    best = {
        (row, column)
        for row, sample in enumerate(ordered)
        for column, q in enumerate(_QUANTITIES, start=2)
        if len(samples) > 1 and _badness(q, sample["metrics"][q.key]) == lowest[q]
    }
    first = {row for row, sample in enumerate(ordered) if row and sample["label"] != ordered[row - 1]["label"]}
    figures = [f"{_name(q, metrics)} {_ARROWS[q.best]}" for q in _QUANTITIES]
    headings = ["Sampler", "Steps", *(heading.replace(" ", "\n", 1) for heading in (*figures, "Images per second"))]
    floor = ["Real pictures", "", *(_value(q, metrics["floor"]["metrics"]) for q in _QUANTITIES), ""]
    text = "The last row is the floor."
    if best:
        text += " Every sampler starts from the same seeds. What is best in a column stands out, be it by chance."
    table = _table(headings, rows, best, first, floor)
    return _section("Quality by number of steps", _paragraph(text), table, _pictures(paths, "quality"))


def _likelihood(metrics: Metrics, paths: Pictures) -> str:
    if "likelihood" not in metrics:
        return ""
    bounds, data = metrics["likelihood"], metrics["data"]
    lowest = min(bound["bpd"] for bound in bounds)
    best = {(row, 3) for row, bound in enumerate(bounds) if bound["bpd"] == lowest and len(bounds) > 1}
    rows = [
        [
            bound["variance_type"],
            bound["chain"],
            str(bound["num_inference_steps"]),
            _value(_BPD, bound),
            *_bpd_parts(bound),
        ]
        for bound in bounds
    ]
    split = f"{data['held_out_split']}, which training has not seen" if "held_out_split" in data else data["split"]
    text = (
        f"How many bits a pixel value of {bounds[0]['num_images']:,} pictures takes at most, if the model is used to "
        f"compress them. Lower is better; uncompressed it is 8. The pictures are of the split {split}. Prior, "
        "denoising and decoder add up to it; a chain of fewer steps takes more."
    )
    table = _table(["Variance", "Timesteps", "Steps", "Bits ↓", "Prior", "Denoising", "Decoder"], rows, best)
    return _section("Bits per dimension", _paragraph(text), table, _pictures(paths, "bits_by_timestep"))


def _losses(metrics: Metrics, paths: Pictures) -> str:
    text = ""
    if "eps_mse" in metrics:
        loss = metrics["eps_mse"]
        ends = [
            f"{_number(loss['eps_mse'][i], loss['eps_mse_std_error'][i])} at t = {loss['timesteps'][i]}"
            for i in (0, -1)
        ]
        text = (
            f"Mean squared error of the predicted noise, over {loss['num_images']:,} pictures: {' and '.join(ends)}. "
            "Lower is better; how low it can get at a t depends on the data."
        )
    return _section("Loss", _paragraph(text), _pictures(paths, "loss", "eps_mse"))


def _memorisation(metrics: Metrics, paths: Pictures) -> str:
    text = table = ""
    if copies := _copies(metrics):
        text = (
            f"How many pictures are nearer to one of {metrics['memorisation']['num_training_images']:,} training "
            "pictures than unseen pictures are as a rule. As many drawn as unseen ones is good; many more means that "
            "the model copies."
        )
        rows = [
            [space, _number(found["threshold"]), _percent(found["share"]), _percent(found["expected"])]
            for space, found in copies.items()
        ]
        table = _table(["Distance by", "Nearer than", "Drawn pictures", "Unseen pictures"], rows)
    return _section("Memorisation", _paragraph(text), table, _pictures(paths, *_NEIGHBOURS))


def _copies(metrics: Metrics) -> dict[str, Metrics]:
    found = metrics.get("memorisation", {})
    return {space: found[space] for space in ("features", "pixels") if space in found}


def _facts(metrics: Metrics) -> str:
    model, data, extractor, cost = metrics["model"], metrics["data"], metrics["extractor"], metrics.get("cost")
    facts = {
        "Model": f"{model['name']}, weights {model['weights_sha256']}",
        "Scheduler": f"{_saved_sampler(model)}; {model['num_train_timesteps']} timesteps, {model['prediction_type']}",
        "Seed": f"{metrics['seed']}",
        "Pictures": f"{metrics['num_images']:,} drawn, {data['num_reference_images']:,} real ones to compare with",
        "Data": f"{data['source']}, {data['split']}: {data['num_images']:,} pictures, {data['pictures_sha256']}",
        "Made square by": data["resize"],
        "Extractor": f"{extractor['name']}, {extractor['num_features']:,} features, {extractor['fingerprint']}",
        "Its input": extractor["resize"],
        "Versions": ", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
    }
    if "held_out_split" in data:
        facts["Held out"] = f"{data['held_out_split']}: {data['num_held_out_images']:,} pictures"
    if "mixed_precision" in metrics:
        facts["Mixed precision"] = metrics["mixed_precision"]
    if cost:
        facts["Time"] = ", ".join(f"{name} {_duration(seconds)}" for name, seconds in cost["seconds"].items())
        facts["Peak memory"] = f"{cost['peak_memory_mib']:,} MiB"
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>' for name, fact in facts.items())}</dl>"


# Two models


def _unlike(first: Metrics, second: Metrics) -> list[str]:
    """Say what keeps the figures of two models from being compared."""
    kinds = {
        "number of drawn pictures": [metrics["num_images"] for metrics in (first, second)],
        "number of real pictures": [metrics["data"]["num_reference_images"] for metrics in (first, second)],
        "data": [metrics["data"]["pictures_sha256"] for metrics in (first, second)],
        "extractor": [metrics["extractor"]["fingerprint"] for metrics in (first, second)],
    }
    return [f"{kind} ({a} and {b})" for kind, (a, b) in kinds.items() if a != b]


def _figures_compared(first: Metrics, second: Metrics, bpd_difference: tuple[float, float] | None) -> str:
    unlike = _unlike(first, second)
    a, b = (metrics["samples"][0] for metrics in (first, second))
    rows = [
        [
            f"{_name(q, first)} {_ARROWS[q.best]}",
            *_compared(q, a["metrics"], b["metrics"], not unlike),
            _value(q, first["floor"]["metrics"]),
        ]
        for q in _QUANTITIES
    ]
    if "likelihood" in first and "likelihood" in second:
        bound_a, bound_b = first["likelihood"][0], second["likelihood"][0]
        rows.append([f"{_BPD.name} ↓", *_compared(_BPD, bound_a, bound_b, not unlike, bpd_difference), ""])
    text = (
        f"{a['num_images']:,} pictures of each, A drawn with {sampler_label(a)}, and B with {sampler_label(b)}. The "
        "last column is the floor, what real pictures get in their place. ± is one standard error, and for the kernel "
        "distance the standard deviation over subsets. A model is called better where the difference is more than two "
        f"of them, and nothing is said without. {_name(_QUANTITIES[0], first)} cannot be compared with published FID."
    )
    warning = f"Measured differently, so nothing here says which is better: {'; '.join(unlike)}." if unlike else ""
    table = _table(["Figure", "A", "B", f"B {_MINUS} A", "Verdict", "Real pictures"], rows)
    return _section("Figures", _paragraph(warning, "warning"), _paragraph(text), table)


def _others_compared(first: Metrics, second: Metrics) -> str:
    """Set samplers and bounds beside each other that were measured of both models, besides the first of each."""
    distance, comparable = _QUANTITIES[0], not _unlike(first, second)
    sections = ""
    for title, heading, key, label, quantity in (
        ("Quality by number of steps", f"{_name(distance, first)} ↓", "samples", sampler_label, distance),
        ("Bits per dimension", "Bound ↓", "likelihood", bound_label, _BPD),
    ):
        pairs = itertools.product(first.get(key, ()), second.get(key, ()))
        rows = [
            [label(a), *_compared(quantity, a.get("metrics", a), b.get("metrics", b), comparable)]
            for a, b in itertools.islice(pairs, 1, None)
            if label(a) == label(b)
        ]
        if rows:
            sections += _section(title, _table([heading, "A", "B", f"B {_MINUS} A", "Verdict"], rows))
    return sections


def _compared(
    quantity: _Quantity,
    a: Metrics,
    b: Metrics,
    comparable: bool,
    difference_and_error: tuple[float, float] | None = None,
) -> list[str]:
    """Return the cells A, B, B - A and verdict; without a paired difference the errors are taken for independent."""
    value_a, value_b = a[quantity.key], b[quantity.key]
    errors = [_error(quantity, figures) for figures in (a, b)]
    if difference_and_error is None:
        difference_and_error = value_b - value_a, math.hypot(*errors)
    difference, error = difference_and_error
    gain = _badness(quantity, value_a) - _badness(quantity, value_a + difference)
    if not comparable or not error:
        verdict = ""
    elif abs(gain) <= 2 * error:
        verdict = "no clear difference"
    else:
        verdict = "B is better" if gain > 0 else "A is better"
    sign = "+" if difference > 0 else ""
    return [_value(quantity, a), _value(quantity, b), sign + _number(difference, error), verdict]


# Numbers


def _number(value: float, error: float = 0) -> str:
    """Round to the digits that the error leaves, which has one or, from 1 on, two of its own; or to three."""
    if error:
        exponent = math.floor(math.log10(error))
        decimals = max(0, (1 if error < 2 * 10**exponent else 0) - exponent)
        text = f"{value:,.{decimals}f} ± {error:,.{decimals}f}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
    return text.replace("-", _MINUS)


def _error(quantity: _Quantity, figures: Metrics) -> float:
    """Return the error that was measured, or 0."""
    return figures.get(f"{quantity.key}_std_error", figures.get(f"{quantity.key}_std", 0))


def _value(quantity: _Quantity, figures: Metrics) -> str:
    error = _error(quantity, figures)
    return _number(figures[quantity.key], error) if error else f"{figures[quantity.key]:.3f}".replace("-", _MINUS)


def _bpd_parts(bound: Metrics) -> list[str]:
    return [f"{bound[key]:.4f}" for key in ("prior_bpd", "kl_bpd", "decoder_bpd")]


def _badness(quantity: _Quantity, value: float) -> float:
    return {"lower": value, "higher": -value, "at 1": abs(value - 1)}[quantity.best]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min {seconds} s"


# Names


def _name(quantity: _Quantity, metrics: Metrics) -> str:
    return metrics["extractor"]["distance_name"] if quantity.key == "frechet_distance" else quantity.name


def _description(metrics: Metrics) -> str:
    model = metrics["model"]
    return (
        f"{model['num_parameters']:,} parameters, {model['resolution']} x {model['resolution']} pixels, "
        f"{model['num_channels']} channels, {_saved_sampler(model)}, {model['num_train_timesteps']} timesteps"
    )


def _saved_sampler(model: Metrics) -> str:
    return model["scheduler"] + (f" ({model['variance_type']})" if model["variance_type"] else "")


# Pieces of a page


def _write_page(path: str | Path, title: str, parts: Iterable[str]) -> Path:
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>"
    )
    body = "\n".join(part for part in parts if part)
    path = Path(path)
    write_text(path, f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n')
    return path


def _section(title: str, *parts: str) -> str:
    """Return nothing if there is nothing below the heading."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def _paragraph(text: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def _card(name: str, value: str, below: str, quantity: _Quantity) -> str:
    number, _, error = value.partition(" ")
    return (
        f'<div class="card"><h3>{escape(name)} {_ARROWS[quantity.best]}</h3>'
        f'<p class="value"><b>{escape(number)}</b> {escape(error)}</p><p class="floor">{escape(below)}</p>'
        f"<p>{escape(quantity.meaning)} {_DIRECTIONS[quantity.best]}</p></div>"
    )


def _table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    best: Container[tuple[int, int]] = (),
    ruled: Container[int] = (),
    foot: Sequence[str] = (),
) -> str:
    """Lay out cells; `best` are the (row, column) that stand out, and a rule is above the rows in `ruled`."""
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = ""
    for i, (first, *cells) in enumerate(rows):
        kinds = [' class="best"' if (i, j) in best else "" for j in range(1, len(headings))]
        row = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True))
        body += f'<tr{" class=ruled" * (i in ruled)}><th scope="row">{escape(first)}</th>{row}</tr>\n'
    last = f"<tfoot><tr>{''.join(f'<td>{escape(cell)}</td>' for cell in foot)}</tr></tfoot>" if foot else ""
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n{last}</table>"
    return f'<div class="scroll">{table}</div>'


def _pictures(paths: Pictures, *names: str) -> str:
    """Return those of the pictures that there are, each with its caption; two files of a name are A and B."""
    figures = ""
    for name in names:
        alt, files = escape(_CAPTIONS[name]), paths.get(name, ())
        images = "".join(
            f'<div class="scroll">{letter}<img alt="{alt}" src="data:image/png;base64,{_base64(file)}"></div>'
            for letter, file in zip(("<b>A</b>", "<b>B</b>") if len(files) > 1 else ("",), files, strict=False)
        )
        if files:
            kind = _KINDS.get(name, "row")
            figures += f'<figure><div class="{kind}">{images}</div><figcaption>{alt}</figcaption></figure>\n'
    return figures


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _text_table(rows: Sequence[Sequence[str]]) -> str:
    """Align columns, all but the first to the right, and cut the first so that a line has no more than _WIDTH."""
    _, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
    room = min(max(len(row[0]) for row in rows), _WIDTH - sum(widths) - 2 * len(widths))
    lines = []
    for first, *cells in rows:
        start = first if len(first) <= room else f"{first[: room - 1]}…"
        lines.append("  ".join([start.ljust(room), *map(str.rjust, cells, widths)]).rstrip())
    return "\n".join(lines)
