"""Runs that read shards while they train: stopped, on two processes, and on data that is bad or another's."""

import json
import re
import shutil
import signal
from typing import Any

import pytest
import torch

from tests.support.streaming_helpers import NUM_IMAGES, SHARDS, png, write_shard, write_shards
from tests.support.training_helpers import LAUNCHER, Runs, assert_close, assert_same_bits

TEST_IMAGES = [30, 31, 32]
STREAMED = {
    "train_data_dir": None,
    "dataset_name": "parquet",
    "streaming": "true",
    "split": "train",
    "shuffle_window_images": 4,
}
MEASURED = {**STREAMED, "validation_split": "test", "validation_steps": 5}
HALF = {"train_batch_size": 4}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_unet_config: dict) -> Runs:
    """Three shards of 7, 5 and 10 images and, as Parquet files, a fourth one of another split."""
    runs = Runs(tmp_path_factory.mktemp("streaming"), tiny_unet_config)
    write_shards(runs.folder / "tars", "webdataset")
    write_shards(runs.folder / "parquet", "parquet")
    write_shard(runs.folder / "parquet", "parquet", 0, [png(n) for n in TEST_IMAGES], TEST_IMAGES, split="test")
    shutil.copytree(runs.folder / "parquet", runs.folder / "spoiled")
    spoiled = [b"no image" if n == 14 else png(n) for n in SHARDS[2]]
    write_shard(runs.folder / "spoiled", "parquet", 2, spoiled, SHARDS[2])
    return runs


@pytest.fixture(scope="module")
def one(runs: Runs) -> str:
    runs.train("one", **MEASURED)
    return "one"


@pytest.fixture(scope="module")
def halfway(runs: Runs) -> str:
    """Two processes, in the middle of windows of the second epoch, where a record of the log ends as well."""
    runs.train_apart("halfway", *LAUNCHER, **{**MEASURED, **HALF, "max_train_steps": 5})
    places = lanes(runs, "halfway")
    assert len(places) == len(SHARDS)
    assert {place["step"] for place in places} == {5}
    assert any(place["offset"] for place in places)
    assert all(place["turn"] >= 1 for place in places)
    return "halfway"


def lanes(runs: Runs, output_dir: str) -> list[dict[str, int]]:
    newest = max((runs.folder / output_dir / "checkpoints").glob("step-*"))
    return list(json.loads((newest / "state.json").read_text())["source"]["lanes"].values())


def held_out(runs: Runs, output_dir: str) -> list[dict[str, Any]]:
    return json.loads((runs.folder / output_dir / "validation.json").read_text())


def copy_run(runs: Runs, output_dir: str, copy: str) -> str:
    shutil.copytree(runs.folder / output_dir, runs.folder / copy, ignore=shutil.ignore_patterns(".lock"))
    return copy


def test_two_processes_train_like_one_and_resume_to_the_same_bits(runs: Runs, one: str, halfway: str):
    runs.train_apart("two", *LAUNCHER, **MEASURED, **HALF)
    assert_close(runs, one, "two")
    for a, b in zip(held_out(runs, one), held_out(runs, "two"), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    runs.train_apart(copy_run(runs, halfway, "resumed"), *LAUNCHER, **MEASURED, **HALF)
    assert_same_bits(runs, "two", "resumed")
    assert lanes(runs, "two") == lanes(runs, "resumed") == lanes(runs, one)
    assert held_out(runs, "two") == held_out(runs, "resumed")


def test_the_number_of_processes_may_change_in_the_middle(runs: Runs, one: str, halfway: str):
    run = runs.train(copy_run(runs, halfway, "changed"), **MEASURED)
    assert "continuing from changed/checkpoints/step-00000005" in run.stdout
    assert_close(runs, one, "changed")


def test_a_streamed_split_is_measured(runs: Runs, one: str):
    measured = held_out(runs, one)
    assert [measurement["step"] for measurement in measured] == [5, 10, 12]
    losses = [value for measurement in measured for value in measurement["eps_mse"].values()]
    assert len(set(losses)) == len(losses)
    assert all(0 < loss < 3 for loss in losses)


def test_a_notice_to_stop_leaves_nothing_behind_and_nothing_out(runs: Runs):
    settings = {**STREAMED, "dataset_name": "tars", "max_train_steps": 4000, "checkpointing_steps": 50}
    process = runs.start("stopped", **settings)
    runs.wait_for_checkpoint("stopped", process)
    process.send_signal(signal.SIGTERM)
    stopped = runs.finish(process)
    assert stopped.returncode == 143
    assert "the same command continues" in runs.last_line(stopped)
    step = lanes(runs, "stopped")[0]["step"]
    assert step * 8 > 2 * NUM_IMAGES
    settings["max_train_steps"] = step + 20
    runs.train("stopped", **settings)
    runs.train("alone", **settings)
    assert_same_bits(runs, "alone", "stopped")
    assert lanes(runs, "alone") == lanes(runs, "stopped")


def test_a_dry_run_says_what_streaming_costs(runs: Runs):
    run = runs.train("planned", **MEASURED, dry_run="true")
    lines = dict(re.split(r"  +", line, maxsplit=1) for line in run.stdout.splitlines())
    assert lines["images"] == "streamed from 3 shards of parquet in 3 lanes"
    read, decode = re.fullmatch(
        r"([\d,]+) bytes to read, ([\d.]+) ms of one core to decode", lines["per image"]
    ).groups()
    assert int(read) == pytest.approx(sum(len(png(n)) for n in range(NUM_IMAGES)) / NUM_IMAGES, abs=0.51)
    assert 0 < float(decode) < 1000
    assert lines["held out"] == "3 images of test"
    assert not (runs.folder / "planned" / "checkpoints").exists()


def test_bad_pictures_are_reported_and_too_many_end_the_run(runs: Runs):
    spoiled = {**STREAMED, "dataset_name": "spoiled"}
    run = runs.train("spoiled-run", **spoiled)
    [warning] = [line for line in run.stderr.replace("\r", "\n").splitlines() if line.startswith("warning")]
    assert "train-02.parquet, row 2" in warning
    report = json.loads((runs.folder / "spoiled-run" / "pictures.json").read_text())
    [bad] = report["bad_images"]
    assert bad["path"] == "train-02.parquet, row 2"
    assert "not an image" in bad["reason"]
    refused = runs.train("strict", code=2, **spoiled, max_bad_images_fraction=0)
    line = runs.last_line(refused)
    assert re.search(r"error: 1 of the first \d+ images cannot be used, more than max_bad_images_fraction", line)
    assert "train-02.parquet, row 2 (not an image" in line


def test_other_shards_of_the_same_names_are_refused(runs: Runs, one: str):
    refused = runs.train(one, code=2, **{**MEASURED, "dataset_name": "spoiled"})
    assert re.search(
        r"belongs to a run on \w+, while these are spoiled, which .* choose another --output_dir",
        runs.last_line(refused),
    )
