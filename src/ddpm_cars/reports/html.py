"""HTML pages from the templates beside this module: each is one file with its style sheet and images inside."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from ddpm_cars.metrics.records import BITS_PER_DIMENSION, METRICS
from ddpm_cars.reports import wording
from ddpm_cars.runtime.files import write_text


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _count(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else ""


# A value that metrics.json lacks is left blank, as jinja2 does unless it is told otherwise.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters.update(count=_count, data_url=_data_url, duration=wording.duration_text)
_ENVIRONMENT.globals |= {
    "METRICS": METRICS,
    "BITS_PER_DIMENSION": BITS_PER_DIMENSION,
    "ARROWS": wording.ARROWS,
    "DIRECTIONS": wording.DIRECTIONS,
    **{
        function.__name__: function
        for function in (
            *(wording.bound_label, wording.sampler_label, wording.comparability),
            *(wording.name_of, wording.number_text, wording.value_text),
        )
    },
}


def write_page(path: str | Path, template: str, **values: Any) -> Path:
    """Write an HTML page.

    Args:
        path: Where to write.
        template: File name of the template.
        values: What the template shows. Text is escaped; images are paths of PNG files, which become part of the page.

    Returns:
        `path`.

    Raises:
        OSError: If an image cannot be read or the file cannot be written.
    """
    path = Path(path)
    write_text(path, _ENVIRONMENT.get_template(template).render(values))
    return path
