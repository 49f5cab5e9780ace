"""metrics.json: everything that has been measured of a model, kept measurement by measurement."""

import json
import logging
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddpm_cars.errors import UserError
from ddpm_cars.runtime.files import read_file, write_text
from ddpm_cars.runtime.hardware import versions
from ddpm_cars.runtime.processes import Processes

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1


class MetricsFile:
    """The metrics of one model; those on the disk are kept if they were measured of the same with the same.

    Args:
        path: Of metrics.json.
        head: JSON values that say what is measured, of what and with what.
        team: The processes, the first of which reads and writes.

    Raises:
        UserError: If the file cannot be read.

    Attributes:
        values: The metrics, JSON values.
    """

    def __init__(self, path: Path, head: dict[str, Any], team: Processes):
        self.path = path
        self.team = team
        head = json.loads(json.dumps({"format": FORMAT_VERSION, **head, "versions": versions()}))
        known = team.agreed(lambda: read_file(path)) or {}
        if not isinstance(known, dict):
            raise UserError(f"{path} holds no JSON object; mend or remove it")
        changed = [name for name in head if known.get(name) != head[name]]
        if known and changed and team.is_main:
            logger.warning(f"{path} was measured with another {', '.join(changed)}, and is begun anew")
        begun = {"samples": [], "spectrum": {"generated": {}}, "cost": {"seconds": {}, "peak_memory_mib": 0}}
        self.values: dict[str, Any] = known if head.items() <= known.items() else {**head, **begun}

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def __setitem__(self, name: str, value: Any) -> None:
        self.values[name] = value

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def sampler(self, label: str, num_inference_steps: int) -> dict[str, Any] | None:
        """Return the entry of a sampler, or None."""
        entries = self["samples"]
        wanted = (label, num_inference_steps)
        return next((e for e in entries if (e["label"], e["num_inference_steps"]) == wanted), None)

    def put_sampler(self, entry: dict[str, Any], power: list[float]) -> None:
        """Add or replace the entry of a sampler, with the spectrum of what it has drawn."""
        label, steps = entry["label"], entry["num_inference_steps"]
        known = self.sampler(label, steps)
        self["samples"] = [e for e in self["samples"] if e is not known] + [entry]
        self["spectrum"]["generated"][f"{label}, {steps} steps"] = power

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of the same name."""
        started = time.perf_counter()
        yield
        seconds = self["cost"]["seconds"]
        seconds[what] = round(seconds.get(what, 0) + time.perf_counter() - started, 1)

    def save(self) -> None:
        """Write the file, with the peak of the memory so far."""
        # Kibibytes, but bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_mib = peak // 2**20 if sys.platform == "darwin" else peak // 2**10
        self["cost"]["peak_memory_mib"] = max(peak_mib, self["cost"]["peak_memory_mib"])
        if self.team.is_main:
            write_text(self.path, json.dumps(self.values, indent=1))
