"""Networks of one's own as extractors: what they see, their weights, and mistakes."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ddpm_cars.errors import UserError
from ddpm_cars.evaluation.features import load_extractor

OWN = """
import torch
from torch import nn

class FID(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        assert x.dtype == torch.uint8
        return self.dropout(self.layer(x.double().mean((2, 3)).to(self.layer.weight.dtype)))

class Other(FID):
    pass

class Summed(nn.Module):
    def forward(self, x):
        return x.flatten(1).float().sum(0, keepdim=True)

class Convolution(nn.Conv2d):
    def __init__(self):
        super().__init__(3, 4, 3)

class Pair(nn.Module):
    def forward(self, x):
        return x.flatten(1), x

class Lacking(nn.Module):
    def __init__(self):
        self.length = self.nothing

network = FID()
"""


def make_images(n: int, size: int, num_channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, num_channels), dtype=np.uint8)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Name of a module in the working folder, which is not a place that Python imports from."""
    (tmp_path / "own_networks.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    yield "own_networks"
    sys.modules.pop("own_networks", None)


def test_a_class_called_fid_does_not_give_fid(own: str):
    assert load_extractor(f"{own}:FID").distance_name == "FD-FID"


def test_pixels_are_features_of_flatten():
    extractor = load_extractor("torch.nn:Flatten")
    images = make_images(3, 32)
    seen = extractor(images, progress_bar=False)
    assert (seen.dtype, extractor.num_features, extractor.resize) == (torch.float32, 3 * 32 * 32, "none")
    assert np.array_equal(seen, images.transpose(0, 3, 1, 2).reshape(3, -1))


@pytest.mark.parametrize("attribute", ["FID", "network"], ids=["class", "object"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_network_of_ones_own_with_its_weights(own: str, tmp_path: Path, attribute: str, dtype: torch.dtype):
    weights = {"layer.weight": torch.arange(12.0).view(4, 3), "layer.bias": torch.tensor([0.0, 1, 2, 3])}
    save_file({name: tensor.to(dtype) for name, tensor in weights.items()}, tmp_path / "own.safetensors")
    extractor = load_extractor(f"{own}:{attribute}", tmp_path / "own.safetensors")
    images = make_images(3, 8)
    seen = extractor(images, progress_bar=False)
    expected = images.mean((1, 2)) @ weights["layer.weight"].double().numpy().T + weights["layer.bias"].numpy()
    assert (extractor.name, extractor.num_features, seen.dtype) == (f"{own}:{attribute}", 4, torch.float32)
    # Were its dropout at work, half of them would be 0.
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in extractor.network.parameters())


def test_the_fingerprint_is_that_of_class_and_weights(own: str, tmp_path: Path):
    weights = {"layer.weight": torch.ones(4, 3), "layer.bias": torch.zeros(4)}
    save_file(weights, tmp_path / "ones.safetensors")
    save_file(weights | {"layer.bias": torch.ones(4)}, tmp_path / "biased.safetensors")
    prints = {
        (name, weights): load_extractor(f"{own}:{name}", tmp_path / f"{weights}.safetensors").fingerprint
        for name in ("FID", "Other", "network")
        for weights in ("ones", "biased")
    }
    assert len(set(prints.values())) == 4
    assert prints["FID", "ones"] == prints["network", "ones"] != prints["Other", "ones"]


def test_weights_that_do_not_fit_are_named(own: str, tmp_path: Path):
    layer = nn.Linear(3, 4).state_dict(prefix="layer.")
    save_file({"layer.weight": layer["layer.weight"]}, tmp_path / "lacking.safetensors")
    save_file(layer | {"extra": torch.zeros(1)}, tmp_path / "extra.safetensors")
    save_file(layer | {"layer.bias": torch.zeros(5)}, tmp_path / "large.safetensors")
    (tmp_path / "text.safetensors").write_text("not weights at all")
    (tmp_path / "folder").mkdir()
    for name, words in (
        ("lacking.safetensors", "layer.bias"),
        ("extra.safetensors", "extra"),
        ("large.safetensors", "size mismatch for layer.bias"),
        ("text.safetensors", "header"),
        ("folder", ""),
    ):
        with pytest.raises(UserError, match=f"{name} does not hold the weights of {own}:FID: .*{words}") as caught:
            load_extractor(f"{own}:FID", tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "inception", "dinov2", "torch.nn:Flatten"])
def test_weights_that_are_not_there_are_named(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=f"extractor_weights .*nowhere.pth does not exist; .* of {name}"):
        load_extractor(name, tmp_path / "nowhere.pth")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vgg16", "; choose efficientnet-lite0, inception, dinov2, or package.module:Class"),
        ("no_such_module:Net", "cannot be imported: No module named 'no_such_module'"),
        (":Net", "cannot be imported"),
        ("torch.nn:NoSuch", "cannot be imported: .*no attribute 'NoSuch'"),
        ("torch.nn:Linear", "cannot be imported: .*in_features"),
        ("own_networks:Lacking", "cannot be imported: .*no attribute 'nothing'"),
        ("math:pi", "is a float; it must be a torch.nn.Module"),
        ("pathlib:Path", "is a .*Path; it must be a torch.nn.Module"),
        ("torch.nn:Identity", r"turns two images into \(2, 3, 32, 32\); it must give \(2, features\)"),
        ("own_networks:Summed", r"turns two images into \(1, 3072\)"),
        ("own_networks:Convolution", r"cannot take uint8 images \(N, 3, H, W\)"),
        ("own_networks:Pair", r"cannot take uint8 images \(N, 3, H, W\): 'tuple'"),
    ],
)
def test_what_is_no_extractor_is_refused(own: str, name: str, words: str):
    with pytest.raises(UserError, match=f"extractor (is )?{name}.*{words}"):
        load_extractor(name)


@pytest.mark.parametrize("place", ["nowhere", "first", "last"])
def test_where_python_imports_from_stays(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str):
    here = str(tmp_path)
    paths = {"nowhere": sys.path, "first": [here, *sys.path], "last": [*sys.path, here]}[place]
    monkeypatch.setattr(sys, "path", list(paths))
    load_extractor(f"{own}:FID")
    for name in ("no_such_module:Net", f"{own}:Lacking", f"{own}:NoSuch"):
        with pytest.raises(UserError):
            load_extractor(name)
    assert sys.path == paths
