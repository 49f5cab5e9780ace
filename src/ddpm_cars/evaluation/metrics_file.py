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
from ddpm_cars.evaluation.features import Extractor
from ddpm_cars.evaluation.places import known_metrics
from ddpm_cars.evaluation.real_images import RealImages
from ddpm_cars.metrics.records import METRICS
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.reports.wording import sampler_label
from ddpm_cars.runs.loading import label_of
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runs.saved_pipeline import identity
from ddpm_cars.runtime.files import write_text
from ddpm_cars.runtime.hardware import versions
from ddpm_cars.runtime.processes import on_main

FORMAT_VERSION = 1


def describe(
    name: str, pipeline: DDPMCarsPipeline, config: EvaluateConfig, real: RealImages, extractor: Extractor
) -> dict[str, Any]:
    """Return what metrics.json says of the model, the images and the way of measuring."""
    unet, saved, held_out, others = pipeline.unet, pipeline.scheduler.config, {}, ""
    facts, T = RunFolder(name).read_facts(), pipeline.scheduler.config.num_train_timesteps
    num_steps, num_likelihood = min(config.num_inference_steps or T, T), {}
    too_few = [metric for metric in METRICS if metric.min_images > real.num_floor_images]
    if real.held_out is not None:
        others = f", without {config.validation_split}"
        if config.num_likelihood_images is not None:
            num_likelihood["num_likelihood_images"] = min(config.num_likelihood_images, len(real.held_out.images))
        held_out = {
            "held_out_split": config.validation_split,
            "num_held_out_images": len(real.held_out.images),
            "held_out_sha256": real.held_out.sha256[:16],
        }
    return {
        "model": {
            # As others may read it: without the folders above.
            "name": label_of(name, config.weights, config.variant),
            **identity(pipeline),
            "resolution": unet.config.sample_size,
            "num_channels": unet.config.in_channels,
            "num_parameters": sum(p.numel() for p in unet.parameters()),
            "num_train_timesteps": saved.num_train_timesteps,
            "prediction_type": saved.prediction_type,
            "scheduler": type(pipeline.scheduler).__name__,
            "variance_type": saved.get("variance_type"),
            **({} if facts is None else {"num_training_steps": facts["steps"]}),
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
        "not_measured": {m.key: f"it takes {m.min_images} images or more" for m in too_few},
        "num_inference_steps": num_steps,
        **num_likelihood,
        "mixed_precision": config.mixed_precision,
        "extractor": {
            name: getattr(extractor, name)
            for name in ("name", "distance_name", "num_features", "resize", "fingerprint")
        },
    }


class MetricsFile:
    """The metrics of one model, with `head`, what `describe` returns.

    Those on the disk are kept: `find_place` has found the folder where they fit, if there is one. Raises UserError if
    the file cannot be read.
    """

    def __init__(self, path: Path, head: dict[str, Any]):
        self.path = path
        head = json.loads(json.dumps({"format": FORMAT_VERSION, **head}))
        begun = {"samples": [], "spectrum": {"generated": {}}, "cost": {"seconds": {}, "peak_memory_mib": 0}}
        known = on_main(lambda: known_metrics(path))
        self.values: dict[str, Any] = {**head, "versions": versions(), **begun, **known}
        # The folder may have another name by now.
        self.values["model"] = {**self.values["model"], **head["model"]}

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
        for name, version in versions().items():
            known = self.values["versions"].get(name, version)
            # An evaluation that was begun with an earlier version lists both.
            self.values["versions"][name] = known if version in known.split(", ") else f"{known}, {version}"

    def save(self) -> None:
        """Write the file, with the peak of the memory so far."""
        # Kibibytes, but bytes on macOS.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak_mib = peak // 2**20 if sys.platform == "darwin" else peak // 2**10
        self.values["cost"]["peak_memory_mib"] = max(peak_mib, self.values["cost"]["peak_memory_mib"])
        on_main(lambda: write_text(self.path, json.dumps(self.values, indent=1)))
