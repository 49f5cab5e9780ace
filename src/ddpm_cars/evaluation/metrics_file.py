"""metrics.json: everything that was measured of a model, kept measurement by measurement."""

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.errors import UserError
from ddpm_cars.evaluation.features import Extractor
from ddpm_cars.evaluation.real_images import RealImages
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.reports.wording import sampler_label
from ddpm_cars.runs.saved_pipeline import identity
from ddpm_cars.runtime.console import warn
from ddpm_cars.runtime.files import read_file, write_text
from ddpm_cars.runtime.hardware import versions
from ddpm_cars.runtime.processes import on_main

FORMAT_VERSION = 1


def describe(
    name: str, pipeline: DDPMCarsPipeline, config: EvaluateConfig, real: RealImages, extractor: Extractor
) -> dict[str, Any]:
    """Return what metrics.json says of the model, the images and the way of measuring."""
    unet, saved, held_out, others = pipeline.unet, pipeline.scheduler.config, {}, ""
    if real.held_out is not None:
        others = f", without {config.validation_split}"
        held_out = {
            "held_out_split": config.validation_split,
            "num_held_out_images": len(real.held_out.images),
            "held_out_sha256": real.held_out.sha256[:16],
        }
    return {
        "model": {
            # As others may read it: without the folders above.
            "name": Path(name).resolve().name if Path(name).is_dir() else name,
            **identity(pipeline),
            "resolution": unet.config.sample_size,
            "num_channels": unet.config.in_channels,
            "num_parameters": sum(p.numel() for p in unet.parameters()),
            "num_train_timesteps": saved.num_train_timesteps,
            "prediction_type": saved.prediction_type,
            "scheduler": type(pipeline.scheduler).__name__,
            "variance_type": saved.get("variance_type"),
        },
        "data": {
            "source": Path(real.training.report["source"]).name,
            "split": config.split or f"all{others}",
            "num_images": len(real.training.images),
            "num_reference_images": len(real.order) - real.num_floor_images,
            "pictures_sha256": real.training.sha256[:16],
            "resize": config.resize,
            **held_out,
        },
        "seed": config.seed,
        "num_images": real.num_floor_images,
        "mixed_precision": config.mixed_precision,
        "extractor": {
            name: getattr(extractor, name)
            for name in ("name", "distance_name", "num_features", "resize", "fingerprint")
        },
    }


def known_metrics(path: Path) -> dict[str, Any]:
    """Return what a metrics.json holds, nothing if there is none. Raises UserError if it cannot be read."""
    known = read_file(path) or {}
    if not isinstance(known, dict):
        raise UserError(f"{path} holds no JSON object; mend or remove it")
    return known


class MetricsFile:
    """The metrics of one model. Those on the disk are kept if `head`, what `describe` returns, is the same.

    Raises UserError if the file cannot be read.
    """

    def __init__(self, path: Path, head: dict[str, Any]):
        self.path = path
        head = json.loads(json.dumps({"format": FORMAT_VERSION, **head, "versions": versions()}))
        known = on_main(lambda: known_metrics(path))
        changed = [name for name in head if known.get(name) != head[name]]
        if known and changed:
            warn(f"{path} was measured with another {', '.join(changed)}, and is begun anew")
        begun = {"samples": [], "spectrum": {"generated": {}}, "cost": {"seconds": {}, "peak_memory_mib": 0}}
        self.values: dict[str, Any] = known if head.items() <= known.items() else {**head, **begun}

    def sampler(self, label: str, num_inference_steps: int) -> dict[str, Any] | None:
        """Return the entry of a sampler, or None."""
        entries = self.values["samples"]
        wanted = (label, num_inference_steps)
        return next((e for e in entries if (e["label"], e["num_inference_steps"]) == wanted), None)

    def put_sampler(self, entry: dict[str, Any], power: list[float]) -> None:
        """Add or replace the entry of a sampler, with the spectrum of its images."""
        known = self.sampler(entry["label"], entry["num_inference_steps"])
        self.values["samples"] = [e for e in self.values["samples"] if e is not known] + [entry]
        self.values["spectrum"]["generated"][sampler_label(entry)] = power

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Add the seconds that the block takes to those of the same name."""
        started = time.perf_counter()
        yield
        seconds = self.values["cost"]["seconds"]
        seconds[what] = round(seconds.get(what, 0) + time.perf_counter() - started, 1)

    def save(self) -> None:
        """Write the file, with the peak of the memory so far."""
        # Kibibytes, but bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_mib = peak // 2**20 if sys.platform == "darwin" else peak // 2**10
        self.values["cost"]["peak_memory_mib"] = max(peak_mib, self.values["cost"]["peak_memory_mib"])
        on_main(lambda: write_text(self.path, json.dumps(self.values, indent=1)))
