"""The plan of a run: what was chosen, how long it will take, and what a run that continues keeps of it."""

import json
import re
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from ddpm_cars.config.fields import AUTO
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.training import plan, results
from ddpm_cars.training.trainer import train
from tests.support.trainer_helpers import by_hand, forget_accelerate

MakeConfig = Callable[..., TrainingConfig]


@pytest.fixture
def make_bare(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> MakeConfig:
    """Return a function that makes settings of which everything is left to the machine that can be, but the size."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    bare = {f.name: AUTO for f in fields(TrainingConfig) if f.default == AUTO and f.name != "resolution"}
    return lambda **changes: make_config(**{**bare, "lr_scheduler": "cosine", "max_train_steps": None, **changes})


def settings_of(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_a_run_records_what_was_chosen_and_the_same_command_keeps_it(
    make_bare: MakeConfig, capsys: pytest.CaptureFixture
):
    # Another machine has chosen otherwise.
    elsewhere = {"train_batch_size": 6, "learning_rate": 3e-3, "lr_warmup_steps": 1, "ema_half_life_steps": 5}
    folder = train(make_bare(**elsewhere, mixed_precision="no", max_train_steps=4))
    first = settings_of(folder)
    assert AUTO not in first.values()
    assert (first["max_train_steps"], first["num_epochs"], first["logging_steps"]) == (4, None, 1)
    capsys.readouterr()
    forget_accelerate()
    train(make_bare())
    assert "complete at step 4" in capsys.readouterr().out
    assert settings_of(folder) == first
    forget_accelerate()
    train(make_bare(max_train_steps=6))
    out = capsys.readouterr().out
    assert "chosen       as before: train_batch_size 6, learning_rate 0.003, lr_warmup_steps 1, " in out
    assert settings_of(folder) == {**first, "max_train_steps": 6}
    # What a run records can be given as it is.
    forget_accelerate()
    again = TrainingConfig.from_yaml(folder / "config.yaml", output_dir=f"{folder}-2")
    second = settings_of(train(again))
    assert second == {**first, "max_train_steps": 6, "output_dir": f"{folder}-2"}
    forget_accelerate()
    fresh = settings_of(train(make_bare(max_train_steps=3, overwrite_output_dir=True)))
    assert (fresh["learning_rate"], fresh["max_train_steps"]) == (1e-4, 3)


def test_any_number_of_images_trains(
    make_bare: MakeConfig, twelve_and_four_cars: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    (tmp_path / "one").mkdir()
    picture = next(twelve_and_four_cars.rglob("*.png"))
    (tmp_path / "one" / "a.png").write_bytes(picture.read_bytes())
    config = make_bare(train_data_dir=str(tmp_path / "one"), num_epochs=3, train_batch_size=4)
    folder = train(config)
    assert json.loads((folder / "training.json").read_text())["steps"] == 1
    assert "a step takes 4 images and there are only 1" in capsys.readouterr().err
    assert by_hand(replace(config, train_batch_size=AUTO, output_dir=str(tmp_path / "b"))).prepared.batch_size == 1


def test_a_change_of_precision_is_said_and_recorded(make_config: MakeConfig, capsys: pytest.CaptureFixture):
    first = by_hand(make_config())
    first.train_step()
    first.log(1.0, 1)
    assert first.save_checkpoint()
    second = by_hand(make_config(mixed_precision="bf16"))
    second.checkpoints.resume()
    assert "mixed_precision was no and is bf16 now: the run goes on, but not to the same" in capsys.readouterr().err
    second.train_step()
    second.log(1.0, 1)
    parts = second.state.hardware
    assert [(part["mixed_precision"], part["steps"]) for part in parts] == [("no", 1), ("bf16", 1)]
    assert parts[0]["num_threads"] == torch.get_num_threads()


def test_a_run_says_when_it_will_be_done(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    # Enough seconds for a fair mean would be hundreds of steps of this network.
    monkeypatch.setattr(plan, "_MIN_SECONDS", 0.0)
    train(make_config(max_train_steps=10, checkpointing_steps=None, save_images_steps=None))
    out = capsys.readouterr().out
    [line] = re.findall(r"^time .*$", out, re.MULTILINE)
    found = re.fullmatch(r"time +about (\d+) (second|minute)s? for (\d+) steps? at [\d.]+ s a step(.*)", line)
    assert found is not None
    assert "; done at about " in found[4]
    # The first step is not timed, and three after it are enough.
    assert int(found[3]) == 6


def test_grids_do_not_count_as_steps(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    paused, clocks = [0.0], (time.perf_counter, time.time)
    monkeypatch.setattr("time.perf_counter", lambda: clocks[0]() + paused[0])
    monkeypatch.setattr("tqdm.std.time", lambda: clocks[1]() + paused[0])
    monkeypatch.setattr(results, "save_progress", lambda *_: paused.__setitem__(0, paused[0] + 4 * 3600))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train(make_config(max_train_steps=5, checkpointing_steps=None, save_images_steps=1))
    out, err = capsys.readouterr()
    # Elapsed and left, without hours.
    assert re.search(r" 5/5 \[\d\d:\d\d<00:00", err)
    # The run is over before a step's seconds are known.
    assert not re.search("^time ", out, re.MULTILINE)


def test_a_plan_says_what_was_chosen_and_what_memory_is_short_of(make_bare: MakeConfig):
    trainer = by_hand(make_bare(validation_split="test"))
    text = "\n".join(plan.describe(trainer.prepared, trainer.state, None))
    assert re.search(
        r"^chosen +for this CPU: mixed_precision (no|bf16), train_batch_size 8, learning_rate", text, re.M
    )
    assert re.search(r"^ {13}for 12 images: max_train_steps 2000, lr_warmup_steps 100, ", text, re.M)
    assert "validation_steps 200" in " ".join(text.split())
    assert "are free" not in text
    assert max(map(len, text.splitlines())) < 260
    large = replace(trainer.prepared, batch_size=10**9)
    assert re.search(r"MiB; only [\d,]+ MiB are free: try", "\n".join(plan.describe(large, trainer.state, None)))


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (89, "89 seconds"),
        (95, "2 minutes"),
        (60 * 60, "60 minutes"),
        (5_400, "1.5 hours"),
        (24 * 3600, "24.0 hours"),
        (36 * 3600, "1.5 days"),
    ],
)
def test_times_are_said_in_the_unit_that_fits(seconds: float, words: str):
    assert plan.duration(seconds) == words


def test_the_time_to_expect_is_that_of_all_that_is_left(make_config: MakeConfig):
    settings = {
        "max_train_steps": 10_000,
        "save_images_steps": 1_000,
        "eval_batch_size": 12,
        "num_inference_steps": 10,
    }
    run = by_hand(make_config(**settings, resolution=8, train_batch_size=4)).prepared
    # Ten grids of 12 images in 10 steps are 1,200 forward passes, each a twelfth of a step of four images.
    line = plan.time_line(run, 4_000, 3.0, datetime(2030, 1, 1, 22, 0))
    rest, grids = 6_000 * 3.0, 6 * 12 * 10 * 3.0 / 3 / 4
    assert f"about {rest / 3600:.1f} hours for 6,000 steps at 3 s a step, and {grids / 60:.0f} minutes for" in line
    assert "done at about 03:03 on Wednesday, 02 January" in line
    assert line.endswith("; --max_train_steps 5000 takes less")
    assert "takes less" not in plan.time_line(run, 4_000, 0.1)


def test_the_first_step_and_other_work_do_not_count(monkeypatch: pytest.MonkeyPatch):
    clock, state = iter([100.0, 102.0, 108.0, 109.0, 109.0]), SimpleNamespace(step=5)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    stopwatch = plan.Stopwatch(SimpleNamespace(device=torch.device("cpu")), state)  # type: ignore[arg-type]
    known = []
    for step in (5, 6, 7, 8, 9, 10):
        state.step = step
        if step == 8:
            stopwatch.leave_out(5.0)
        known.append(stopwatch.look())
    assert known == [None, None, None, None, pytest.approx((109.0 - 100.0 - 5.0) / 3), None]
