"""Checkpoints as models: each of their weights, of this version and of an earlier one."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline, UNet2DModel
from safetensors.torch import load_file

from ddpm_cars.config.commands import CalibrateConfig, PushConfig, SampleConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.publishing.files import collect
from ddpm_cars.runs.checkpoints import delete_old_checkpoints, find_damage, load_checkpoint
from ddpm_cars.runs.loading import evaluation_of, find_model, label_of, load_pipeline, with_model
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runs.saved_pipeline import open_model_folder
from ddpm_cars.sampling.calibrate import calibrate_folder
from ddpm_cars.sampling.sample import sample
from ddpm_cars.training.trainer import train
from tests.support.trainer_helpers import by_hand

OLD = Path(__file__).parents[1] / "golden" / "run_of_format_1"


@pytest.fixture
def run(make_config: Callable[..., TrainingConfig]) -> Path:
    """A run that was interrupted after two steps, with two averages."""
    trainer = by_hand(make_config(ema_half_life_steps=(2, 9), ema_power=5.0))
    for _ in range(2):
        trainer.train_step()
        assert trainer.save_checkpoint()
    trainer.close()
    return Path(trainer.config.output_dir)


@pytest.fixture
def checkpoint(run: Path) -> Path:
    """Its newest checkpoint."""
    return run / "checkpoints" / "step-00000002"


@pytest.fixture
def old_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of version 1 of the format, with the working folder that its settings name files in."""
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    return Path("run")


def assert_same(unet: UNet2DModel, expected: dict[str, torch.Tensor]) -> None:
    found = unet.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


GROUPS = {None: "average-2", "ema": "average-2", "ema_2": "average-2", "ema_9": "average-9", "raw": "unet"}


@pytest.mark.parametrize(("weights", "group"), GROUPS.items())
def test_a_checkpoint_loads_with_each_of_its_weights(checkpoint: Path, weights: str | None, group: str):
    tensors, _ = load_checkpoint(checkpoint)
    assert not torch.equal(tensors["unet"]["conv_in.weight"], tensors["average-2"]["conv_in.weight"])
    assert not torch.equal(tensors["average-9"]["conv_in.weight"], tensors["average-2"]["conv_in.weight"])
    assert_same(load_pipeline(str(checkpoint), weights).unet, tensors[group])


def test_stock_diffusers_loads_a_checkpoint_and_its_variants(checkpoint: Path):
    tensors, _ = load_checkpoint(checkpoint)
    for variant, group in {None: "average-2", "ema_9": "average-9", "raw": "unet"}.items():
        assert_same(DDPMPipeline.from_pretrained(checkpoint, variant=variant).unet, tensors[group])
    # No weights are there twice.
    variants = [f"unet/diffusion_pytorch_model{variant}.safetensors" for variant in ("", ".ema_9", ".raw")]
    found = {file.relative_to(checkpoint).as_posix() for file in checkpoint.rglob("*.safetensors")}
    assert found == {"optimizer.safetensors", *variants}


def test_the_last_checkpoint_is_the_model_that_a_run_publishes(make_config: Callable[..., TrainingConfig]):
    run = RunFolder(train(make_config(checkpointing_steps=6)))
    checkpoint = RunFolder(run.checkpoints / "step-00000006")
    names = ("model_index.json", "config.yaml", "training.json", "unet/config.json", "scheduler/scheduler_config.json")
    for name in names:
        assert (checkpoint.path / name).read_text() == (run.path / name).read_text()
    published = load_file(run.unet / "diffusion_pytorch_model.safetensors")
    assert_same(load_pipeline(str(checkpoint.path)).unet, published)


def test_without_an_average_the_weights_themselves_are_the_model(make_config: Callable[..., TrainingConfig]):
    checkpoint = train(make_config(use_ema=False, max_train_steps=1)) / "checkpoints" / "step-00000001"
    tensors, _ = load_checkpoint(checkpoint)
    for weights in (None, "raw"):
        assert_same(load_pipeline(str(checkpoint), weights).unet, tensors["unet"])
    with pytest.raises(UserError, match=r"weights is ema; .*step-00000001 has raw$"):
        load_pipeline(str(checkpoint), "ema")


def test_weights_that_are_not_there_are_told_with_those_that_are(run: Path, checkpoint: Path):
    with pytest.raises(
        UserError, match=r"^weights is ema_7; .*step-00000002 has ema \(which is ema_2\), ema_2, ema_9"
    ):
        load_pipeline(str(checkpoint), "ema_7")
    for name, meant in {"EMA": "ema", "Raw": "raw", "9": "ema_9"}.items():
        with pytest.raises(UserError, match=rf"^weights is {name}; did you mean {meant}\? .*step-00000002 has ema"):
            load_pipeline(str(checkpoint), name)
    with pytest.raises(UserError, match=r"^variant is fp16; .*step-00000002 has ema .*raw"):
        load_pipeline(str(checkpoint), variant="fp16")
    shutil.copytree(checkpoint, run, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
    with pytest.raises(
        UserError, match=r"weights is raw; .*run \(.*run/checkpoints can have others\) has ema \(which is ema_2\), "
    ):
        load_pipeline(str(run), "raw")
    for weights in ("ema", "ema_2"):
        assert_same(load_pipeline(str(run), weights).unet, load_checkpoint(checkpoint)[0]["average-2"])
    (run / "training.json").unlink()
    with pytest.raises(UserError, match=r"weights is ema, .*run has one set of weights and no training.json"):
        load_pipeline(str(run), "ema")


def test_a_run_and_its_checkpoints_stand_for_the_newest_one_that_is_complete(
    run: Path, checkpoint: Path, capsys: pytest.CaptureFixture
):
    assert find_model(str(run)) == find_model(f"{run}/checkpoints") == str(checkpoint)
    assert find_model(str(checkpoint)) == str(checkpoint)
    assert f"{run} has not finished, so the newest one is used, {checkpoint}" in capsys.readouterr().err
    # Training alone needs the optimiser.
    (checkpoint / "optimizer.safetensors").unlink()
    assert find_model(str(run)) == str(checkpoint)
    weights = checkpoint / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    older = checkpoint.with_name("step-00000001")
    assert find_model(str(run)) == str(older)
    assert f"{checkpoint} is damaged and left out: unet/diffusion_pytorch_model.safetensors" in capsys.readouterr().err
    with pytest.raises(UserError, match="is not what was written; take another checkpoint"):
        load_pipeline(str(checkpoint))
    (older / "state.json").write_text("{}")
    with pytest.raises(UserError, match=r"none of the checkpoints in .* is complete"):
        find_model(str(run))


def test_a_model_whose_run_has_gone_on_is_told(make_config: Callable[..., TrainingConfig], capsys):
    run = train(make_config(max_train_steps=1))
    assert find_model(str(run)) == str(run)
    assert capsys.readouterr().err.count("gone on") == 0
    trainer = by_hand(make_config(max_train_steps=2))
    trainer.checkpoints.resume()
    trainer.train_step()
    trainer.save_checkpoint()
    trainer.close()
    assert find_model(str(run)) == str(run)
    said = f"{run} holds the model of step 1; the run has gone on since, to {run}/checkpoints/step-00000002"
    assert said in capsys.readouterr().err
    # The run itself, which publishes its model anew, does not say so.
    train(make_config(max_train_steps=2))
    assert "gone on" not in capsys.readouterr().err


def test_names_and_places_of_evaluations(run: Path, checkpoint: Path, tmp_path: Path):
    name = str(checkpoint)
    assert label_of(name) == label_of(name, "ema_2") == "run/step-00000002"
    assert label_of(name, "raw") == label_of(name, variant="raw") == "run/step-00000002-raw"
    assert evaluation_of(name, "ema").path == run / "evaluation-step-00000002"
    assert evaluation_of(name, "raw").path == run / "evaluation-step-00000002-raw"
    copied = shutil.copytree(checkpoint, tmp_path / "mine")
    assert evaluation_of(str(copied)).path == copied / "evaluation"
    assert evaluation_of("me/cars", variant="fp16").path == Path("evaluation/me--cars-fp16")
    assert evaluation_of(str(run), variant="fp16").path == run / "evaluation-fp16"


def test_a_checkpoint_is_sampled_calibrated_and_collected(run: Path, checkpoint: Path, tmp_path: Path):
    drawn = tmp_path / "drawn"
    config = SampleConfig(
        pretrained_model_name_or_path=str(run),
        output_dir=str(drawn),
        num_images=2,
        num_inference_steps=2,
        weights="raw",
    )
    assert sample(config)[0] == f"images: 2 in {drawn}"
    known = json.loads((drawn / "sampling.json").read_text())
    assert known["model"] == f"{checkpoint}, weights raw"
    with pytest.raises(UserError, match="weights raw"):
        sample(replace(config, weights=None))
    few = {"num_timesteps": 2, "num_images": 2, "num_bands": 2}
    lines = calibrate_folder(CalibrateConfig(pretrained_model_name_or_path=str(run), weights="raw", **few))
    place = run / "step-00000002-raw-calibrated"
    assert str(place) in lines
    assert find_damage(checkpoint) is None
    calibrated = load_pipeline(str(place))
    assert calibrated.scheduler.config["_calibration"] is not None
    assert_same(calibrated.unet, load_checkpoint(checkpoint)[0]["unet"])
    folder = open_model_folder(run, "raw")
    files = collect(PushConfig(folder=str(run), repo_id="me/cars", weights="raw"), folder, "me/cars")
    assert [name for name in files if name.endswith(".safetensors")] == ["unet/diffusion_pytorch_model.safetensors"]
    card = bytes(files["README.md"]).decode()
    assert "2 of a run of 6" in card
    assert "the last" in card
    averaged = collect(PushConfig(str(run), "me/cars"), open_model_folder(run), "me/cars")
    assert "averaged, half-life" in bytes(averaged["README.md"]).decode()


@pytest.mark.parametrize(("weights", "group"), GROUPS.items())
def test_a_checkpoint_of_an_earlier_version_is_a_model(old_run: Path, weights: str | None, group: str):
    group = group.replace("9", "5")
    weights = weights and weights.replace("9", "5")
    pipeline = load_pipeline(find_model(str(old_run)), weights)
    assert_same(pipeline.unet, load_file(old_run / "checkpoints" / "step-00000002" / f"{group}.safetensors"))
    assert pipeline.scheduler.config.num_train_timesteps == 20
    # Nothing in such a run says what its classes are called.
    assert (pipeline.labels, pipeline.null_class) == ({"0": 0, "1": 1}, 2)
    assert torch.isfinite(
        torch.tensor(pipeline(1, num_inference_steps=2, output_type="np", class_labels="1").images)
    ).all()


def test_a_run_of_an_earlier_version_goes_on(old_run: Path, fresh_accelerate: None):
    before = load_pipeline(find_model(str(old_run)))
    config = TrainingConfig.from_yaml(RunFolder(old_run).settings.as_posix())
    run = RunFolder(train(config))
    tensors, state = load_checkpoint(run.checkpoints / "step-00000004")
    assert state["step"] == 4
    for name, expected in load_file("expected.safetensors").items():
        # Another processor rounds otherwise.
        torch.testing.assert_close(tensors["unet"][name], expected, rtol=1e-3, atol=1e-5)
    assert load_pipeline(str(run.path)).labels == {"blue": 0, "red": 1}
    # Now the run says what its classes are called.
    again = load_pipeline(str(run.checkpoints / "step-00000002"))
    assert again.labels == {"blue": 0, "red": 1}
    assert_same(again.unet, before.unet.state_dict())
    card = collect(
        PushConfig(str(old_run), "me/cars"), open_model_folder(run.checkpoints / "step-00000002"), "me/cars"
    )
    assert "2 of a run of 4" in bytes(card["README.md"]).decode()


def test_the_next_checkpoint_is_taken_when_the_run_deletes_the_one_that_is_read(run: Path, checkpoint: Path):
    seen, newer = [], checkpoint.with_name("step-00000003")

    def load(found: str) -> DDPMCarsPipeline:
        seen.append(found)
        if len(seen) == 1:
            shutil.copytree(checkpoint, newer)
            delete_old_checkpoints(newer.parent, 1)
        return load_pipeline(found)

    for name in (run, newer.parent, newer):
        pipeline = with_model(str(name), load)
        assert isinstance(pipeline, DDPMCarsPipeline)
    assert seen == [str(checkpoint), *[str(newer)] * 3]
    with pytest.raises(UserError, match=r"step-00000002 is not there; a run .*, or .*checkpoints for the newest"):
        load_pipeline(str(checkpoint))

    def delete(found: str) -> None:
        shutil.rmtree(found)
        load_pipeline(found)

    with pytest.raises(UserError, match="step-00000003 was deleted while it was read; a run"):
        with_model(str(newer), delete)
