"""Images of a model in a folder: what they depend on, how they are drawn, and what the command refuses."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import UNet2DModel
from PIL import Image

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler
from ddpm_cars.cli import commands as cli
from ddpm_cars.config.commands import SampleConfig
from ddpm_cars.diffusion.seeds import seeded_generators
from ddpm_cars.errors import UserError
from ddpm_cars.runs.saved_pipeline import weights_sha256
from ddpm_cars.runtime.folders import FolderLock
from ddpm_cars.sampling.sample import picture_path, precision_of, sample

STEPS = 3
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(make_unet: Callable[..., UNet2DModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, and a third that is none."""
    folder = tmp_path_factory.mktemp("model") / "model"
    unet, scheduler = make_unet(num_class_embeds=3), DDPMCarsScheduler(num_train_timesteps=20)
    DDPMCarsPipeline(unet, scheduler, {0: "cars", 1: "vans"}).save_pretrained(folder)
    return folder


@pytest.fixture
def config(model: Path, tmp_path: Path) -> SampleConfig:
    return SampleConfig(
        pretrained_model_name_or_path=str(model),
        output_dir=str(tmp_path / "drawn"),
        num_images=8,
        batch_size=3,
        seed=5,
        num_inference_steps=STEPS,
        class_labels=("cars", "vans"),
        mixed_precision="no",
    )


@pytest.fixture
def network_calls() -> Iterator[list[int]]:
    """Note the batch size whenever a network is called, compiled or not."""
    sizes: list[int] = []

    def note(module: torch.nn.Module, inputs: tuple) -> None:
        sizes.extend([len(inputs[0])] if isinstance(module, UNet2DModel) else [])

    hook = torch.nn.modules.module.register_module_forward_pre_hook(note)
    yield sizes
    hook.remove()


@pytest.fixture
def compiled_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Leave networks as they are where they would be compiled, which takes long, and note the batch sizes there."""
    sizes: list[int] = []

    def compile_nothing(model: Any, **kwargs: Any) -> Callable[..., Any]:
        def call(x_t: torch.Tensor, *more: Any, **options: Any) -> Any:
            sizes.append(len(x_t))
            return model(x_t, *more, **options)

        return call

    monkeypatch.setattr(torch, "compile", compile_nothing)
    return sizes


def pixels(config: SampleConfig) -> np.ndarray:
    """Read the images 0, 1, ... of a folder, which has as many as it was asked for."""
    folder = Path(config.output_dir)
    assert sorted(folder.glob("[0-9]*.png")) == [picture_path(folder, i) for i in range(config.num_images)]
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("[0-9]*.png"))]).astype(int)


def written(config: SampleConfig) -> dict[str, tuple[int, int]]:
    """Tell the images of a folder from others of the same names."""
    stats = {path.name: path.stat() for path in Path(config.output_dir).glob("[0-9]*.png")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def test_a_picture_is_that_of_its_seed_and_class_whatever_the_batches(config: SampleConfig, model: Path):
    assert sample(config) == [f"images: 8 in {config.output_dir}", f"grid: {config.output_dir}/grid.png"]
    drawn = pixels(config)
    pipeline = DDPMCarsPipeline.from_pretrained(model)
    for i, image in enumerate(drawn):
        (alone,) = pipeline(1, torch.Generator().manual_seed(5 + i), STEPS, class_labels=i % 2).images
        assert np.abs(np.asarray(alone).astype(int) - image).max() <= 1
    assert len({image.tobytes() for image in drawn}) == 8
    whole = replace(config, output_dir=f"{config.output_dir}-whole", batch_size=8)
    sample(whole)
    assert np.abs(pixels(whole) - drawn).max() <= 1
    known = json.loads((Path(config.output_dir) / "sampling.json").read_text())
    assert known["weights_sha256"] == weights_sha256(pipeline.unet)[:16]
    assert (known["model"], known["num_inference_steps"], known["class_labels"]) == (str(model), STEPS, [0, 1])


@pytest.mark.usefixtures("compiled_calls")
@pytest.mark.parametrize("compiled", [True, False])
def test_missing_pictures_are_drawn_to_the_same_bits_and_the_others_left_alone(
    config: SampleConfig, network_calls: list[int], compiled: bool
):
    config = replace(config, compile=compiled)
    sample(config)
    drawn, before = pixels(config), written(config)
    gone = [0, 4, 5, 7]
    for i in gone:
        picture_path(Path(config.output_dir), i).unlink()
    network_calls.clear()
    assert sample(config)[0] == f"images: 8 in {config.output_dir}"
    assert network_calls == [n for n in ([3, 3, 3] if compiled else [3, 3, 2]) for _ in range(STEPS)]
    np.testing.assert_array_equal(pixels(config), drawn)
    after = written(config)
    assert {name for name in before if before[name] != after[name]} == {f"{i:05d}.png" for i in gone}
    sample(config)
    assert written(config) == after


def test_more_pictures_are_added_to_those_that_are_there(config: SampleConfig):
    sample(replace(config, num_images=4))
    before = written(config)
    sample(config)
    assert before.items() <= written(config).items()
    whole = replace(config, output_dir=f"{config.output_dir}-whole")
    sample(whole)
    assert np.abs(pixels(config) - pixels(whole)).max() <= 1
    # Fewer take nothing away.
    assert sample(replace(config, num_images=2))[0] == f"images: 8 in {config.output_dir}"
    assert before.items() <= written(config).items()


@pytest.mark.usefixtures("compiled_calls")
@pytest.mark.parametrize(("compiled", "sizes"), [(True, [3, 3, 3]), (False, [3, 3, 2])])
def test_a_compiled_network_sees_one_shape_only_and_another_no_picture_too_many(
    config: SampleConfig, network_calls: list[int], compiled: bool, sizes: list[int]
):
    sample(replace(config, compile=compiled))
    assert network_calls == [n for n in sizes for _ in range(STEPS)]
    assert len(pixels(config)) == 8


def test_the_strip_is_drawn_without_the_compiler(
    config: SampleConfig, network_calls: list[int], compiled_calls: list[int]
):
    sample(replace(config, compile=True, strip=True))
    assert compiled_calls == [3] * 3 * STEPS
    assert network_calls == [*compiled_calls, *[4] * STEPS]
    plain = replace(config, output_dir=f"{config.output_dir}-plain", strip=True)
    sample(plain)
    strips = [np.asarray(Image.open(Path(c.output_dir) / "denoising.png")).astype(int) for c in (config, plain)]
    assert np.abs(strips[0] - strips[1]).max() <= 1


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_network_runs_in_half_precision(config: SampleConfig, model: Path, precision: str, dtype: torch.dtype):
    config = replace(config, mixed_precision=precision, batch_size=8)
    sample(config)
    pipeline = DDPMCarsPipeline.from_pretrained(model)
    known = json.loads((Path(config.output_dir) / "sampling.json").read_text())
    # The weights are named as they are on the disk.
    assert known["weights_sha256"] == weights_sha256(pipeline.unet)[:16]
    assert known["mixed_precision"] == precision
    # Sums in another order show in half precision.
    pipeline.unet.to(memory_format=torch.channels_last)
    labels = [i % 2 for i in range(8)]
    full, half = (
        np.stack(pipeline.to(d)(8, seeded_generators(5, 0, 8), STEPS, class_labels=labels).images).astype(int)
        for d in (torch.float32, dtype)
    )
    np.testing.assert_array_equal(pixels(config), half)
    assert not np.array_equal(full, half)


def test_the_precision_is_what_accelerate_was_configured_with_or_the_device_is_fast_in(
    config: SampleConfig, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    free = replace(config, mixed_precision="auto")
    for features, precision in (({}, "no"), ({"avx512_bf16": True}, "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda features=features: features, raising=False)
        assert precision_of(free, CPU) == precision
        assert precision_of(replace(config, mixed_precision=None), CPU) == precision
        assert precision_of(config, CPU) == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    assert precision_of(free, CPU) == "fp16"
    assert precision_of(config, CPU) == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(UserError, match=r"mixed_precision is fp8, .*; pass --mixed_precision with one of no, fp16"):
        sample(free)
    assert not Path(config.output_dir).exists()


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_same_command_keeps_the_precision_of_the_images_on_another_device(
    config: SampleConfig, monkeypatch: pytest.MonkeyPatch, precision: str, capsys: pytest.CaptureFixture
):
    """A folder that was begun on a CPU with bf16 goes on like that on one without, and the other way round."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    free = replace(config, mixed_precision="auto")
    for num_images, has_bf16 in ((2, precision == "bf16"), (8, precision != "bf16")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has_bf16: {"avx512_bf16": has}, raising=False)
        sample(replace(free, num_images=num_images))
        assert f"with mixed_precision {precision}\n" in capsys.readouterr().err
    assert json.loads((Path(config.output_dir) / "sampling.json").read_text())["mixed_precision"] == precision
    sample(replace(free, num_images=1, overwrite_output_dir=True))
    other = "no" if precision == "bf16" else "bf16"
    assert json.loads((Path(config.output_dir) / "sampling.json").read_text())["mixed_precision"] == other


def test_folders_that_name_no_precision_go_on_without_one(config: SampleConfig):
    sample(replace(config, num_images=1))
    path = Path(config.output_dir) / "sampling.json"
    known = json.loads(path.read_text())
    assert known.pop("mixed_precision") == "no"
    path.write_text(json.dumps(known))
    sample(replace(config, num_images=2))
    with pytest.raises(UserError, match=r"mixed_precision no \(now bf16\); go back"):
        sample(replace(config, num_images=2, mixed_precision="bf16"))


def test_an_empty_picture_is_drawn_again(config: SampleConfig):
    sample(config)
    drawn = pixels(config)
    picture_path(Path(config.output_dir), 4).write_bytes(b"")
    sample(config)
    assert np.abs(pixels(config) - drawn).max() <= 1


def test_a_damaged_picture_is_named_with_the_cure(config: SampleConfig):
    sample(config)
    drawn, path = pixels(config), picture_path(Path(config.output_dir), 4)
    whole = path.read_bytes()
    for damaged in (b"no image", whole[:-30], whole[:60] + bytes(40) + whole[100:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"/00004.png is not a whole image; delete it and run the same command"):
            sample(config)
    path.unlink()
    sample(config)
    assert np.abs(pixels(config) - drawn).max() <= 1


def test_an_output_folder_that_is_a_file_is_refused(config: SampleConfig):
    Path(config.output_dir).write_bytes(b"mine")
    with pytest.raises(UserError, match=r"drawn is a file; choose another output_dir"):
        sample(config)
    assert Path(config.output_dir).read_bytes() == b"mine"


def test_a_folder_in_use_is_refused(config: SampleConfig, tmp_path: Path):
    (tmp_path / "drawn").mkdir()
    lock = FolderLock(tmp_path / "drawn")
    lock.acquire()
    with pytest.raises(UserError, match="is in use by another run"):
        sample(config)
    lock.release()
    sample(config)


def test_pictures_do_not_come_to_lie_among_those_that_the_model_learned_from(
    config: SampleConfig, model: Path, tmp_path: Path
):
    trained = shutil.copytree(model, tmp_path / "trained")
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    (trained / "config.yaml").write_text(yaml.safe_dump({"train_data_dir": str(photographs)}))
    of_run = replace(config, pretrained_model_name_or_path=str(trained), num_images=1)
    for folder in (photographs, photographs / "drawn"):
        with pytest.raises(UserError, match=rf"output_dir {folder} is inside train_data_dir {photographs}"):
            sample(replace(of_run, output_dir=str(folder)))
    assert not list(photographs.iterdir())
    sample(of_run)


OTHERS = {
    "seed": ({"seed": 6}, "seed 5 (now 6)"),
    "steps": ({"num_inference_steps": None}, "num_inference_steps 3 (now 20)"),
    "classes": ({"class_labels": ("cars",)}, "class_labels [0, 1] (now [0])"),
    "guidance": ({"guidance_scale": 2.0}, "guidance_scale 1.0 (now 2.0)"),
    "precision": ({"mixed_precision": "bf16"}, "mixed_precision no (now bf16)"),
    "variance": ({"variance_type": "fixed_large"}, "variance_type fixed_small (now fixed_large)"),
    "scheduler": ({"scheduler": "DDIMScheduler"}, "scheduler DDPMCarsScheduler (now DDIMScheduler)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_changes_a_picture_is_refused_in_one_line(config: SampleConfig, name: str):
    change, words = OTHERS[name]
    sample(replace(config, num_images=1))
    before = written(config)
    with pytest.raises(UserError) as refused:
        sample(replace(config, **change))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert written(config) == before
    sample(replace(config, num_images=1, overwrite_output_dir=True, **change))
    assert written(config).keys() == before.keys()
    assert written(config) != before


def test_the_scheduler_is_known_by_all_of_its_settings(
    config: SampleConfig, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(model, tmp_path / "model")
    moved = replace(config, pretrained_model_name_or_path=str(tmp_path / "model"), num_images=1)
    sample(moved)
    path = tmp_path / "model" / "scheduler" / "scheduler_config.json"
    saved = json.loads(path.read_text())
    # Another version of diffusers alone makes no other images.
    with monkeypatch.context() as patch:
        patch.setattr("diffusers.configuration_utils.__version__", "99.0")
        sample(moved)
    path.write_text(json.dumps({**saved, "clip_sample_range": 0.5}))
    with pytest.raises(UserError, match=r"with a scheduler_config\.json of the model that has changed since; go back"):
        sample(moved)


def test_other_weights_are_another_model(
    config: SampleConfig, model: Path, make_unet: Callable[..., UNet2DModel], tmp_path: Path
):
    sample(replace(config, num_images=1))
    shutil.copytree(model, tmp_path / "model")
    moved = replace(config, pretrained_model_name_or_path=str(tmp_path / "model"), num_images=2)
    assert sample(moved)[0].startswith("images: 2 ")
    make_unet(seed=1, num_class_embeds=3).save_pretrained(tmp_path / "model" / "unet")
    with pytest.raises(UserError, match=r"model .* \(now .*\), weights of the model that have changed since; go back"):
        sample(moved)


def test_steps_that_are_not_given_are_those_of_the_training(config: SampleConfig):
    sample(replace(config, num_images=1, num_inference_steps=None))
    assert sample(replace(config, num_images=2, num_inference_steps=20))[0].startswith("images: 2 ")


def test_the_grid_shows_the_first_64_from_the_disk(config: SampleConfig):
    sample(replace(config, num_images=70, batch_size=70, num_inference_steps=2))
    folder = Path(config.output_dir)
    with Image.open(folder / "grid.png") as grid:
        assert grid.size == (8 * 98 + 2, 8 * 98 + 2)
        corner = np.asarray(grid)[2 + 7 * 98 : 98 + 7 * 98, 2 + 7 * 98 : 98 + 7 * 98][::12, ::12]
    np.testing.assert_array_equal(corner, np.asarray(Image.open(picture_path(folder, 63))))


@pytest.mark.parametrize("more", [(), ("--overwrite_output_dir",)])
def test_an_interrupted_command_says_how_to_go_on(
    config: SampleConfig, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    # A process in the background of a shell inherits that it is to ignore the signal.
    before_test = signal.signal(signal.SIGINT, signal.default_int_handler)
    calls = []

    def interrupt(module: torch.nn.Module, inputs: tuple) -> None:
        calls.extend([1] if isinstance(module, UNet2DModel) else [])
        if len(calls) == STEPS + 2:
            signal.raise_signal(signal.SIGINT)

    given = ("pretrained_model_name_or_path", "output_dir", "num_images", "batch_size", "seed", "num_inference_steps")
    flags = [text for name in given for text in (f"--{name}", str(getattr(config, name)))]
    flags += ["--class_labels", "cars", "vans"]
    hook = torch.nn.modules.module.register_module_forward_pre_hook(interrupt)
    try:
        with pytest.raises(SystemExit) as stop:
            cli.sample([*flags, *more])
    finally:
        hook.remove()
        signal.signal(signal.SIGINT, before_test)
    assert stop.value.code == 130
    without = " without --overwrite_output_dir" if more else ""
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.endswith(f": interrupted; the same command{without} continues with the images that are missing")
    before = written(config)
    # The first batch of 3; the other 5 are still to come.
    assert sorted(before) == ["00000.png", "00001.png", "00002.png"]
    cli.sample(flags)
    assert before.items() <= written(config).items()
    whole = replace(config, output_dir=f"{config.output_dir}-whole")
    sample(whole)
    np.testing.assert_array_equal(pixels(config), pixels(whole))


def test_the_command_line_overwrites(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    flags = ["--pretrained_model_name_or_path", str(model), "--output_dir", str(tmp_path / "drawn")]
    flags += ["--num_images", "2", "--num_inference_steps", "2"]
    cli.sample(flags)
    with pytest.raises(SystemExit) as stop:
        cli.sample([*flags, "--seed", "1"])
    assert stop.value.code == 2
    assert "seed 0 (now 1)" in capsys.readouterr().err.strip().splitlines()[-1]
    cli.sample([*flags, "--seed", "1", "--overwrite_output_dir", "--strip"])
    assert capsys.readouterr().out.splitlines() == [
        f"images: 2 in {tmp_path}/drawn",
        f"grid: {tmp_path}/drawn/grid.png",
        f"denoising: {tmp_path}/drawn/denoising.png",
    ]
    names = ["00000.png", "00001.png", "denoising.png", "grid.png", "sampling.json"]
    assert sorted(name for name in os.listdir(tmp_path / "drawn") if name != ".lock") == names
