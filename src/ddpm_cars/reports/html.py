"""What the pages about models are made of: the style sheet, numbers and names, and the blocks of a page."""

import base64
from collections.abc import Container, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from ddpm_cars.reports.quantities import ARROWS, Quantity
from ddpm_cars.runtime.files import write_text

# PNG files by name: one of each, or two for two models.
Pictures = Mapping[str, Sequence[Path]]

_CAPTIONS = {
    "samples": "Drawn images, as they come from the first seeds.",
    "denoising": "The way from noise to image.",
    "quality": "Distance by number of steps, with bars of two standard errors. Dashed, what real images get.",
    "bits_by_timestep": "Left, what a step adds to the bound, down to the decoder, which writes the pixel values. "
    "Right, the same added up from the image to the noise, with the sum at the end of the curve.",
    "loss": "The loss during training.",
    "eps_mse": "The loss by timestep, with a band of two standard errors. Dashed, what guessing no noise costs.",
    "spectrum": "Left, the variance of the lightness by spatial frequency; black, real images. Right, the same over "
    "that of real images: below 1 the drawn ones are too smooth, above 1 too rough.",
    "neighbours": "Drawn images with the nearest training images, and the distances.",
    "neighbours_features": "The drawn images with the nearest training images by features, and the distances.",
    "neighbours_pixels": "The drawn images with the nearest training images by pixels, and the distances.",
}

NEIGHBOURS = ("neighbours", "neighbours_features", "neighbours_pixels")

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

_DIRECTIONS = {"lower": "Lower is better.", "higher": "Higher is better.", "at 1": "1 is right."}


# Blocks of a page


def write_page(path: str | Path, title: str, parts: Iterable[str]) -> Path:
    """Write an HTML page.

    Args:
        path: Where to write.
        title: Plain text for the tab of the browser.
        parts: HTML of the body, from top to bottom; empty ones are left out.

    Returns:
        `path`.

    Raises:
        OSError: If the file cannot be written.
    """
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>"
    )
    body = "\n".join(part for part in parts if part)
    path = Path(path)
    write_text(path, f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n')
    return path


def section(title: str, *parts: str) -> str:
    """Return a heading in plain text and the HTML below it, or nothing if there is nothing below it."""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>" if body else ""


def paragraph(text: str, kind: str = "") -> str:
    """Return plain text as a paragraph, or nothing for no text; `kind` is a class of the style sheet."""
    return f'<p class="{kind}">{escape(text)}</p>' if text else ""


def card(name: str, value: str, below: str, quantity: Quantity) -> str:
    """Return the box of one figure.

    Args:
        name: What the figure is called.
        value: Its text, as of `value_text`.
        below: What to compare it with.
        quantity: Says what the figure means, and where it is best.
    """
    number, _, error = value.partition(" ")
    return (
        f'<div class="card"><h3>{escape(name)} {ARROWS[quantity.best]}</h3>'
        f'<p class="value"><b>{escape(number)}</b> {escape(error)}</p><p class="floor">{escape(below)}</p>'
        f"<p>{escape(quantity.meaning)} {_DIRECTIONS[quantity.best]}</p></div>"
    )


def html_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    best: Container[tuple[int, int]] = (),
    ruled: Container[int] = (),
    foot: Sequence[str] = (),
) -> str:
    """Lay out cells of plain text, the first of a row as its heading.

    Args:
        headings: Of the columns.
        rows: As many cells each.
        best: Row and column, both from 0, of the cells that stand out.
        ruled: Rows, from 0, with a rule above.
        foot: A row below all others, or none.

    Raises:
        ValueError: If a row has another number of cells than there are headings.
    """
    head = "".join(f'<th scope="col">{escape(heading)}</th>' for heading in headings)
    body = ""
    for i, (first, *cells) in enumerate(rows):
        kinds = [' class="best"' if (i, j) in best else "" for j in range(1, len(headings))]
        row = "".join(f"<td{kind}>{escape(cell)}</td>" for kind, cell in zip(kinds, cells, strict=True))
        body += f'<tr{" class=ruled" * (i in ruled)}><th scope="row">{escape(first)}</th>{row}</tr>\n'
    last = f"<tfoot><tr>{''.join(f'<td>{escape(cell)}</td>' for cell in foot)}</tr></tfoot>" if foot else ""
    table = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n{last}</table>"
    return f'<div class="scroll">{table}</div>'


def html_pictures(paths: Pictures, *names: str) -> str:
    """Return those of the images that there are, each with its caption; two files of a name are A and B.

    Args:
        paths: One PNG file or two by name.
        names: Which to show, in this order; keys of `_CAPTIONS`.

    Raises:
        OSError: If a file cannot be read.
    """
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
