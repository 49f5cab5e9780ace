"""Runs that learn classes, from folders and from shards, and what draws them afterwards."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.toy_cars.painting import draw_car
from tests.support.streaming_helpers import SHARDS, SIZE, declare_classes, png, write_shard
from tests.support.training_helpers import SCRIPTS, Runs, assert_same_bits

CLASSES = ["Käfer 🚗", "pickup truck"]
LEARNING = {"class_conditional": "true", "class_dropout_prob": 0.2, "validation_split": "test", "validation_steps": 5}
FOLDERS = {**LEARNING, "train_data_dir": "folders"}
SHARDED = {
    **LEARNING,
    "train_data_dir": None,
    "dataset_name": "shards",
    "streaming": "true",
    "split": "train",
    "shuffle_window_images": 4,
}
FRESH_PROCESS = """
import sys
import numpy as np
import torch
from ddpm_cars import DDPMCarsPipeline
pipe = DDPMCarsPipeline.from_pretrained(sys.argv[1])
pipe.set_progress_bar_config(disable=True)
draw = lambda **options: pipe(2, torch.Generator().manual_seed(3), output_type="np", **options).images
names = sys.argv[3:]
images = [draw(class_labels=name, guidance_scale=2.0) for name in names] + [draw(class_labels=names[0]), draw()]
np.save(sys.argv[2], np.stack(images))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_unet_config: dict) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("classes"), tiny_unet_config)
    for split, numbers in (("train", range(24)), ("test", range(24, 30))):
        for number in numbers:
            path = runs.folder / "folders" / split / CLASSES[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            draw_car(number, SIZE).save(path)
    for split, shards in (("train", SHARDS), ("test", [[30, 31, 32]])):
        for shard, numbers in enumerate(shards):
            images, labels = [png(n) for n in numbers], [n % 2 for n in numbers]
            declare_classes(write_shard(runs.folder / "shards", "parquet", shard, images, labels, split), CLASSES)
    return runs


@pytest.fixture(scope="module")
def model(runs: Runs) -> Path:
    runs.train("model", **FOLDERS)
    return runs.folder / "model"


def test_a_model_with_classes_is_evaluated_with_them(runs: Runs):
    for number in range(80):
        path = runs.folder / "many" / "train" / CLASSES[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_car(number, SIZE).save(path)
    shutil.copytree(runs.folder / "folders" / "test", runs.folder / "many" / "test")
    runs.train("measured", **{**FOLDERS, "train_data_dir": "many"}, max_train_steps=2)
    settings = "--extractor torch.nn:Flatten --num_images 40 --num_inference_steps 2 --num_likelihood_images 4"
    runs.run(SCRIPTS / "evaluate.py", "--pretrained_model_name_or_path", "measured", *settings.split())
    metrics = json.loads((runs.folder / "measured" / "evaluation" / "metrics.json").read_text())
    assert [bound["variance_type"] for bound in metrics["likelihood"]] == ["fixed_small", "fixed_large", "analytic"]
    assert [len(bound["image_bpd"]) for bound in metrics["likelihood"]] == [4] * 3
    assert [sample["num_images"] for sample in metrics["samples"]] == [40]


def assert_knows_classes(folder: Path) -> None:
    pipe = DDPMCarsPipeline.from_pretrained(folder)
    assert pipe.labels == {name: i for i, name in enumerate(CLASSES)}
    # One more, for a hidden class.
    assert pipe.unet.config.num_class_embeds == 3
    assert json.loads((folder / "model_index.json").read_text())["id2label"] == dict(zip("01", CLASSES, strict=True))


def assert_measured_with_classes(folder: Path) -> None:
    measured = json.loads((folder / "validation.json").read_text())
    assert [measurement["step"] for measurement in measured] == [5, 10, 12]
    assert all(0 < loss < 3 for measurement in measured for loss in measurement["eps_mse"].values())


def test_the_names_of_folders_become_classes_and_are_drawn_in_a_fresh_process(runs: Runs, model: Path):
    assert_knows_classes(model)
    assert_measured_with_classes(model)
    runs.run_code(FRESH_PROCESS, "model", "fresh.npy", *CLASSES)
    pipe = DDPMCarsPipeline.from_pretrained(model)

    def draw(**options: object) -> np.ndarray:
        return pipe(2, torch.Generator().manual_seed(3), output_type="np", **options).images

    guided = [draw(class_labels=[i, i], guidance_scale=2.0) for i in range(2)]
    here = np.stack([*guided, draw(class_labels=[0, 0]), draw()])
    np.testing.assert_allclose(np.load(runs.folder / "fresh.npy"), here, atol=1e-5)
    # Each of them differs from each other one.
    assert len(np.unique(here.reshape(4, -1).round(4), axis=0)) == 4


def test_all_that_belongs_to_a_class_is_trained(model: Path):
    weights = load_file(model / "checkpoints" / "step-00000012" / "optimizer.safetensors")
    [name] = [n for n, t in weights.items() if t.shape == (3, 16) and n.endswith("exp_avg_sq")]
    assert bool((weights[name].sum(1) > 0).all())


def test_sampling_from_the_command_line_takes_names_and_numbers(runs: Runs, model: Path):
    options = ["--pretrained_model_name_or_path", "model", *"--num_inference_steps 4 --guidance_scale 2".split()]
    options += ["--mixed_precision", "no"]
    drawing = [*options, *"--num_images 3 --seed 5 --output_dir drawn --class_labels".split()]
    run = runs.run(SCRIPTS / "sample.py", *drawing, CLASSES[0], 1)
    assert run.stdout.splitlines() == ["images: 3 in drawn", "grid: drawn/grid.png"]
    pictures = {path.name for path in (runs.folder / "drawn").glob("*.png")}
    assert pictures == {"00000.png", "00001.png", "00002.png", "grid.png"}
    pipe = DDPMCarsPipeline.from_pretrained(model)
    for i, name in enumerate([CLASSES[0], CLASSES[1], CLASSES[0]]):
        alone = pipe(1, torch.Generator().manual_seed(5 + i), 4, class_labels=name, guidance_scale=2.0).images[0]
        with Image.open(runs.folder / "drawn" / f"{i:05d}.png") as image:
            # The size of the batch may change how a sum is rounded.
            assert np.abs(np.asarray(image, dtype=int) - np.asarray(alone, dtype=int)).max() <= 1
    refused = runs.run(SCRIPTS / "sample.py", *options, "--class_labels", "hearse", code=2)
    line = runs.last_line(refused)
    assert line.startswith("sample.py: error: ['hearse'] is not among the names of classes; choose from")
    assert all(name in line for name in CLASSES)


def test_without_class_dropout_there_is_no_hidden_class(runs: Runs):
    runs.train("certain", **{**FOLDERS, "class_dropout_prob": 0, "validation_split": None, "max_train_steps": 1})
    pipe = DDPMCarsPipeline.from_pretrained(runs.folder / "certain")
    assert pipe.unet.config.num_class_embeds == 2
    assert pipe(1, class_labels=CLASSES[1], num_inference_steps=1).images[0].size == (SIZE, SIZE)
    with pytest.raises(ValueError, match="has not learned to draw without a class"):
        pipe(1, class_labels=CLASSES[1], guidance_scale=2.0)


def test_streamed_classes_resume_to_the_same_bits(runs: Runs):
    runs.train("whole", **SHARDED)
    runs.train("parts", **{**SHARDED, "max_train_steps": 5})
    runs.train("parts", **SHARDED)
    assert_same_bits(runs, "whole", "parts")
    for name in ("whole", "parts"):
        assert_knows_classes(runs.folder / name)
        assert_measured_with_classes(runs.folder / name)
