"""Hashes by which a model and its sampler are recognised."""

import hashlib
import json

import torch
from torch import nn

from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline


def weights_sha256(network: nn.Module, prefix: str = "") -> str:
    """Return the SHA-256 of a prefix and of the names and bytes of all weights and buffers, in hexadecimal digits."""
    digest = hashlib.sha256(prefix.encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def identity(pipeline: DDPMCarsPipeline) -> dict[str, str]:
    """Return hashes of what images depend on: the weights, and the class and all settings of the scheduler.

    Args:
        pipeline: A pipeline with a scheduler of any class.
    """
    settings = json.loads(pipeline.scheduler.to_json_string())
    settings.pop("_diffusers_version")
    hashed = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    return {"weights_sha256": weights_sha256(pipeline.unet)[:16], "scheduler_config_sha256": hashed[:16]}
