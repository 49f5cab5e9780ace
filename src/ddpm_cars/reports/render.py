"""Text from the templates beside this module. A page has its style sheet and its images inside."""

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from ddpm_cars.metrics.records import BITS_PER_DIMENSION, METRICS
from ddpm_cars.reports import wording


def _count(number: Any) -> str:
    return f"{number:,}" if isinstance(number, int) else ""


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


# A value that metrics.json lacks is left blank, as jinja2 does unless it is told otherwise.
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=lambda name: name is not None and ".html" in name,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters.update(
    count=_count, data_url=_data_url, duration=wording.duration_text, plain=wording.plain_markdown
)
_ENVIRONMENT.globals.update(METRICS=METRICS, BITS_PER_DIMENSION=BITS_PER_DIMENSION, wording=wording)


def render(template: str, **values: Any) -> str:
    """Fill in a template.

    Args:
        template: Its file name. In pages, text is escaped; in Markdown it has to go through the filter `plain`.
        values: What the template shows; images are paths of PNG files.

    Raises:
        OSError: If an image cannot be read.
    """
    return _ENVIRONMENT.get_template(template).render(values)
