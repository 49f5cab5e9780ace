"""What an evaluation has found, to read: one HTML page that needs nothing beside it, and a table for the terminal."""

from collections.abc import Mapping
from html import escape
from pathlib import Path

from ddpm_cars.reports.html import (
    NEIGHBOURS,
    Pictures,
    card,
    html_pictures,
    html_table,
    paragraph,
    section,
    write_page,
)
from ddpm_cars.reports.quantities import (
    ARROWS,
    BPD,
    QUANTITIES,
    Metrics,
    bound_label,
    comparability,
    duration_text,
    name_of,
    number_text,
    percent_text,
    sampler_label,
    sort_key,
    value_text,
)


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
        OSError: If an image cannot be read or the file cannot be written.
    """
    paths = {name: (picture,) for name, picture in pictures.items()}
    name = metrics["model"]["name"]
    parts = [
        f"<header><h1>{escape(name)}</h1>{paragraph(description(metrics))}</header>",
        _headline(metrics),
        section("Pictures", html_pictures(paths, "samples", "denoising")),
        _quality(metrics, paths),
        _likelihood(metrics, paths),
        _losses(metrics, paths),
        section("Spectrum", html_pictures(paths, "spectrum")),
        _memorisation(metrics, paths),
        section("How it was measured", facts(metrics)),
    ]
    return write_page(path, f"Evaluation of {name}", parts)


# Sections


def _headline(metrics: Metrics) -> str:
    sample, floor, extractor = metrics["samples"][0], metrics["floor"], metrics["extractor"]
    cards = [
        card(
            name_of(q, metrics),
            value_text(q, sample["metrics"]),
            f"real images: {value_text(q, floor['metrics'])}",
            q,
        )
        for q in QUANTITIES
    ]
    if bounds := metrics.get("likelihood"):
        cards.insert(2, card(BPD.name, value_text(BPD, bounds[0]), bound_label(bounds[0]), BPD))
    return section(
        "Figures",
        paragraph(
            f"{sample['num_images']:,} images, drawn with {sampler_label(sample)}, against "
            f"{metrics['data']['num_reference_images']:,} real ones. Below every figure stands its floor, what "
            f"{floor['num_images']:,} other real images get in place of the drawn ones: no model can be expected to "
            "do better. ± is one standard error, and for the kernel distance the standard deviation over subsets."
        ),
        f'<div class="cards{" nine" * (len(cards) == 9)}">{"".join(cards)}</div>',
        paragraph(
            f"{extractor['distance_name']} is a Fréchet distance between features of {extractor['name']}, and depends "
            "on how many images there are. It can be compared with figures from the same extractor, images and "
            f"numbers of images only: {comparability(metrics)}.",
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
            *(value_text(q, sample["metrics"]) for q in QUANTITIES),
            number_text(sample["images_per_second"]),
        ]
        for sample in ordered
    ]
    lowest = {q: min(sort_key(q, sample["metrics"][q.key]) for sample in samples) for q in QUANTITIES}
    best = {
        (row, column)
        for row, sample in enumerate(ordered)
        for column, q in enumerate(QUANTITIES, start=2)
        if len(samples) > 1 and sort_key(q, sample["metrics"][q.key]) == lowest[q]
    }
    first = {row for row, sample in enumerate(ordered) if row and sample["label"] != ordered[row - 1]["label"]}
    figures = [f"{name_of(q, metrics)} {ARROWS[q.best]}" for q in QUANTITIES]
    headings = ["Sampler", "Steps", *(heading.replace(" ", "\n", 1) for heading in (*figures, "Images per second"))]
    floor = ["Real images", "", *(value_text(q, metrics["floor"]["metrics"]) for q in QUANTITIES), ""]
    text = "The last row is the floor."
    if best:
        text += " Every sampler starts from the same seeds. What is best in a column stands out, be it by chance."
    table = html_table(headings, rows, best, first, floor)
    return section("Quality by number of steps", paragraph(text), table, html_pictures(paths, "quality"))


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
            value_text(BPD, bound),
            *_bpd_parts(bound),
        ]
        for bound in bounds
    ]
    split = f"{data['held_out_split']}, which training has not seen" if "held_out_split" in data else data["split"]
    text = (
        f"How many bits a pixel value of {bounds[0]['num_images']:,} images takes at most, if the model is used to "
        f"compress them. Lower is better; uncompressed it is 8. The images are of the split {split}. Prior, "
        "denoising and decoder add up to it. Of one variance, fewer steps take more as a rule."
    )
    table = html_table(["Variance", "Timesteps", "Steps", "Bits ↓", "Prior", "Denoising", "Decoder"], rows, best)
    return section("Bits per dimension", paragraph(text), table, html_pictures(paths, "bits_by_timestep"))


def _losses(metrics: Metrics, paths: Pictures) -> str:
    text = ""
    if "eps_mse" in metrics:
        loss = metrics["eps_mse"]
        ends = [
            f"{number_text(loss['eps_mse'][i], loss['eps_mse_std_error'][i])} at t = {loss['timesteps'][i]}"
            for i in (0, -1)
        ]
        text = (
            f"Mean squared error of the predicted noise, over {loss['num_images']:,} images: {' and '.join(ends)}. "
            "Lower is better; how low it can get at a t depends on the data."
        )
    return section("Loss", paragraph(text), html_pictures(paths, "loss", "eps_mse"))


def _memorisation(metrics: Metrics, paths: Pictures) -> str:
    text = table = ""
    if copies := _copies(metrics):
        text = (
            f"How many images are nearer to one of {metrics['memorisation']['num_training_images']:,} training "
            "images than unseen images are as a rule. As many drawn as unseen ones is good; many more means that "
            "the model copies."
        )
        rows = [
            [space, number_text(found["threshold"]), percent_text(found["share"]), percent_text(found["expected"])]
            for space, found in copies.items()
        ]
        table = html_table(["Distance by", "Nearer than", "Drawn images", "Unseen images"], rows)
    return section("Memorisation", paragraph(text), table, html_pictures(paths, *NEIGHBOURS))


def _copies(metrics: Metrics) -> dict[str, Metrics]:
    found = metrics.get("memorisation", {})
    return {space: found[space] for space in ("features", "pixels") if space in found}


def _bpd_parts(bound: Metrics) -> list[str]:
    return [f"{bound[key]:.4f}" for key in ("prior_bpd", "kl_bpd", "decoder_bpd")]


def facts(metrics: Metrics) -> str:
    """Return an HTML list of what a model was measured with: data, extractor, versions, and how long it took."""
    model, data, extractor, cost = metrics["model"], metrics["data"], metrics["extractor"], metrics.get("cost")
    held_out = {}
    if "held_out_split" in data:
        held_out["Held out"] = f"{data['held_out_split']}: {data['num_held_out_images']:,} images"
    found = {
        "Model": f"{model['name']}, weights {model['weights_sha256']}",
        "Scheduler": f"{_saved_sampler(model)}; {model['num_train_timesteps']} timesteps, {model['prediction_type']}",
        "Seed": f"{metrics['seed']}",
        "Pictures": f"{metrics['num_images']:,} drawn, {data['num_reference_images']:,} real ones to compare with",
        "Data": f"{data['source']}, {data['split']}: {data['num_images']:,} images, {data['pictures_sha256']}",
        **held_out,
        "Made square by": data["resize"],
        "Extractor": f"{extractor['name']}, {extractor['num_features']:,} features, {extractor['fingerprint']}",
        "Its input": extractor["resize"],
        "Versions": ", ".join(f"{name} {version}" for name, version in metrics["versions"].items()),
    }
    if "mixed_precision" in metrics:
        found["Mixed precision"] = metrics["mixed_precision"]
    if cost:
        found["Time"] = ", ".join(f"{name} {duration_text(seconds)}" for name, seconds in cost["seconds"].items())
        found["Peak memory"] = f"{cost['peak_memory_mib']:,} MiB"
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(fact)}</dd>' for name, fact in found.items())}</dl>"


def description(metrics: Metrics) -> str:
    """Describe the model in a line of plain text."""
    model = metrics["model"]
    return (
        f"{model['num_parameters']:,} parameters, {model['resolution']} x {model['resolution']} pixels, "
        f"{model['num_channels']} channels, {_saved_sampler(model)}, {model['num_train_timesteps']} timesteps"
    )


def _saved_sampler(model: Metrics) -> str:
    return model["scheduler"] + (f" ({model['variance_type']})" if model["variance_type"] else "")
