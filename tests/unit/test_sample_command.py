"""Pictures in a folder: which are missing, what they depend on, and what the command refuses and deletes."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import PartialState
from diffusers import UNet2DModel
from PIL import Image

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, cli
from ddpm_cars.command_configs import SampleConfig
from ddpm_cars.config import ConfigError
from ddpm_cars.features import weights_sha256
from ddpm_cars.guard import FolderLock
from ddpm_cars.sample_command import Sampling, open_folder, picture_path, sample, unfinished_batches

STEPS = 3
SETTINGS = {"model": "m", "weights_sha256": "aa", "seed": 3, "class_labels": [0, 1]}


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
    )


def pixels(config: SampleConfig) -> np.ndarray:
    """Read the pictures 0, 1, ... of a folder, which has as many as it was asked for."""
    folder = Path(config.output_dir)
    assert sorted(folder.glob("[0-9]*.png")) == [picture_path(folder, i) for i in range(config.num_images)]
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("[0-9]*.png"))]).astype(int)


def written(config: SampleConfig) -> dict[str, tuple[int, int]]:
    """Tell the pictures of a folder from others of the same names."""
    stats = {path.name: path.stat() for path in Path(config.output_dir).glob("[0-9]*.png")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


@pytest.mark.parametrize("num_images", [1, 5, 6, 7, 50])
@pytest.mark.parametrize("batch_size", [1, 3, 6, 64])
def test_batches_are_alike_and_hold_every_missing_picture_once(num_images: int, batch_size: int):
    every = unfinished_batches(set(), num_images, batch_size)
    assert {len(batch) for batch in every} == {min(num_images, batch_size)}
    # The surplus is less than a batch.
    assert [i for batch in every for i in batch][:num_images] == list(range(num_images))
    assert every[-1].start < num_images
    for seed in range(20):
        rng = np.random.default_rng(seed)
        # What lies beyond the wanted ones changes nothing.
        found = {i for i in range(num_images) if rng.random() < seed / 20} | {num_images + 1, 10**5}
        missing = set(range(num_images)) - found
        assert unfinished_batches(found, num_images, batch_size) == [b for b in every if missing & set(b)]


def test_nothing_is_missing_from_a_complete_folder():
    assert unfinished_batches(set(range(7)), 7, 3) == []
    assert unfinished_batches(set(range(7)), 8, 3) == [range(6, 9)]


def test_names_sort_like_numbers_as_far_as_five_digits_go():
    names = [picture_path(Path("d"), i).name for i in (0, 9, 10, 50000, 99999)]
    assert names == sorted(names) == ["00000.png", "00009.png", "00010.png", "50000.png", "99999.png"]
    assert picture_path(Path("d"), 123456).name == "123456.png"


def test_a_folder_says_what_it_has(tmp_path: Path):
    assert open_folder(tmp_path, SETTINGS) == set()
    assert json.loads((tmp_path / "sampling.json").read_text()) == SETTINGS
    for name in ("00000.png", "00007.png", "123456.png", "000008.png", "9.png", "00010.jpg", "grid.png", "a00011.png"):
        (tmp_path / name).touch()
    (tmp_path / ".00012.png.tmp").touch()
    assert open_folder(tmp_path, SETTINGS) == {0, 7, 123456}
    # Half a picture of a process that was killed is gone.
    assert not (tmp_path / ".00012.png.tmp").exists()
    assert (tmp_path / "000008.png").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 4}, r"seed 3 \(now 4\); go back to that, choose another output_dir, or pass --overwrite_output_dir"),
        ({"seed": 4, "class_labels": None}, r"with seed 3 \(now 4\), class_labels \[0, 1\] \(now None\); go back"),
        ({"model": "n", "weights_sha256": "bb"}, r"model m \(now n\), weights_sha256 aa \(now bb\)"),
        ({"scheduler": "DDIMScheduler"}, r"scheduler None \(now DDIMScheduler\)"),
    ],
)
def test_pictures_of_other_settings_are_refused(tmp_path: Path, change: dict, words: str):
    open_folder(tmp_path, SETTINGS)
    before = (tmp_path / "sampling.json").read_bytes()
    with pytest.raises(ConfigError, match=words):
        open_folder(tmp_path, {**SETTINGS, **change})
    assert (tmp_path / "sampling.json").read_bytes() == before


def test_weights_that_have_moved_are_the_same_model(tmp_path: Path):
    open_folder(tmp_path, SETTINGS)
    assert open_folder(tmp_path, {**SETTINGS, "model": "elsewhere/m"}) == set()
    assert json.loads((tmp_path / "sampling.json").read_text()) == SETTINGS


def test_pictures_of_unknown_settings_are_refused(tmp_path: Path):
    (tmp_path / "00004.png").touch()
    with pytest.raises(ConfigError, match=r"has pictures such as 00004.png, but no sampling.json; choose another"):
        open_folder(tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["00004.png"]
    for text in ("{", "[1]", "7"):
        (tmp_path / "sampling.json").write_text(text)
        with pytest.raises(ConfigError, match=r"sampling.json cannot be read .*--overwrite_output_dir"):
            open_folder(tmp_path, SETTINGS)


def test_overwriting_deletes_what_the_command_has_written_only(tmp_path: Path):
    open_folder(tmp_path, SETTINGS)
    own = ("00000.png", "123456.png", "grid.png", "denoising.png", ".00003.png.tmp")
    others = ("photo.png", "0.png", "000001.png", "00001.png.txt", "notes.txt", "00002.jpg")
    for name in (*own, *others):
        (tmp_path / name).touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "00000.png").touch()
    assert open_folder(tmp_path, {**SETTINGS, "seed": 8}, overwrite=True) == set()
    assert {path.name for path in tmp_path.iterdir()} == {*others, "more", "sampling.json"}
    assert (tmp_path / "more" / "00000.png").exists()
    assert json.loads((tmp_path / "sampling.json").read_text())["seed"] == 8


def test_a_picture_is_that_of_its_seed_and_class_whatever_the_batches(config: SampleConfig, model: Path):
    assert sample(config) == [f"pictures: 8 in {config.output_dir}", f"grid: {config.output_dir}/grid.png"]
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


def test_missing_pictures_are_drawn_to_the_same_bits_and_the_others_left_alone(config: SampleConfig):
    sample(config)
    drawn, before = pixels(config), written(config)
    gone = [0, 4, 5, 7]
    for i in gone:
        picture_path(Path(config.output_dir), i).unlink()
    assert sample(config)[0] == f"pictures: 8 in {config.output_dir}"
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
    np.testing.assert_array_equal(pixels(config), pixels(whole))
    # Fewer take nothing away.
    assert sample(replace(config, num_images=2))[0] == f"pictures: 8 in {config.output_dir}"
    assert before.items() <= written(config).items()


def test_the_network_sees_one_shape_only(config: SampleConfig):
    sampling = Sampling(config, PartialState(cpu=True), FolderLock(Path(config.output_dir)))
    shapes = []
    sampling.pipeline.unet.register_forward_pre_hook(lambda unet, inputs: shapes.append(tuple(inputs[0].shape)))
    sampling.draw()
    assert shapes == [(3, 3, 8, 8)] * 3 * STEPS
    assert len(pixels(config)) == 8
    sampling.lock.release()


def test_a_folder_in_use_is_refused(config: SampleConfig, tmp_path: Path):
    (tmp_path / "drawn").mkdir()
    lock = FolderLock(tmp_path / "drawn")
    lock.acquire()
    with pytest.raises(ConfigError, match="is in use by another run"):
        sample(config)
    lock.release()
    sample(config)


OTHERS = {
    "seed": ({"seed": 6}, "seed 5 (now 6)"),
    "steps": ({"num_inference_steps": None}, "num_inference_steps 3 (now 20)"),
    "classes": ({"class_labels": ("cars",)}, "class_labels [0, 1] (now [0])"),
    "guidance": ({"guidance_scale": 2.0}, "guidance_scale 1.0 (now 2.0)"),
    "variance": ({"variance_type": "fixed_large"}, "variance_type fixed_small (now fixed_large)"),
    "scheduler": ({"scheduler": "DDIMScheduler"}, "scheduler DDPMCarsScheduler (now DDIMScheduler)"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_changes_a_picture_is_refused_in_one_line(config: SampleConfig, name: str):
    change, words = OTHERS[name]
    sample(replace(config, num_images=1))
    before = written(config)
    with pytest.raises(ConfigError) as refused:
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
    # Another version of diffusers alone makes no other pictures.
    with monkeypatch.context() as patch:
        patch.setattr("diffusers.configuration_utils.__version__", "99.0")
        sample(moved)
    path.write_text(json.dumps({**saved, "clip_sample_range": 0.5}))
    with pytest.raises(ConfigError, match=r"with scheduler_config_sha256 \w{16} \(now \w{16}\); go back"):
        sample(moved)


def test_other_weights_are_another_model(
    config: SampleConfig, model: Path, make_unet: Callable[..., UNet2DModel], tmp_path: Path
):
    sample(replace(config, num_images=1))
    shutil.copytree(model, tmp_path / "model")
    moved = replace(config, pretrained_model_name_or_path=str(tmp_path / "model"), num_images=2)
    assert sample(moved)[0].startswith("pictures: 2 ")
    make_unet(seed=1, num_class_embeds=3).save_pretrained(tmp_path / "model" / "unet")
    with pytest.raises(ConfigError, match=r"model .* \(now .*\), weights_sha256 \w{16} \(now \w{16}\); go back"):
        sample(moved)


def test_steps_that_are_not_given_are_those_of_the_training(config: SampleConfig):
    sample(replace(config, num_images=1, num_inference_steps=None))
    assert sample(replace(config, num_images=2, num_inference_steps=20))[0].startswith("pictures: 2 ")


def test_the_grid_shows_the_first_64_from_the_disk(config: SampleConfig):
    sample(replace(config, num_images=70, batch_size=70, num_inference_steps=1))
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
    assert line.endswith(f": interrupted; the same command{without} goes on with the pictures that are missing")
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
    flags += ["--num_images", "2", "--num_inference_steps", "1"]
    cli.sample(flags)
    with pytest.raises(SystemExit) as stop:
        cli.sample([*flags, "--seed", "1"])
    assert stop.value.code == 2
    assert "seed 0 (now 1)" in capsys.readouterr().err.strip().splitlines()[-1]
    cli.sample([*flags, "--seed", "1", "--overwrite_output_dir", "--strip"])
    assert capsys.readouterr().out.splitlines() == [
        f"pictures: 2 in {tmp_path}/drawn",
        f"grid: {tmp_path}/drawn/grid.png",
        f"denoising: {tmp_path}/drawn/denoising.png",
    ]
    names = ["00000.png", "00001.png", "denoising.png", "grid.png", "sampling.json"]
    assert sorted(name for name in os.listdir(tmp_path / "drawn") if name != ".lock") == names
