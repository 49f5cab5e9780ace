"""What a run does besides plain steps: logs, held-out loss, several averages, skipped steps, less memory."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file

from ddpm_cars import DDPMCarsPipeline, DDPMCarsScheduler, calibrate, fit_init_noise
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.pictures import load_pictures, to_samples
from ddpm_cars.errors import UserError
from ddpm_cars.runs.checkpoints import load_checkpoint
from ddpm_cars.training.trainer import Trainer, train
from tests.support.trainer_helpers import by_hand, forget_accelerate

MakeConfig = Callable[..., TrainingConfig]


def flat_weights(trainer: Trainer) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.state.unet.parameters()])


def weights_after(config: TrainingConfig, steps: int) -> tuple[torch.Tensor, list[float]]:
    trainer = by_hand(config)
    losses = [trainer.train_step().item() for _ in range(steps)]
    return flat_weights(trainer), losses


def test_a_record_has_the_means_of_its_steps_and_of_each_quarter_of_the_timesteps(make_config: MakeConfig):
    trainer = by_hand(make_config(train_batch_size=8))
    losses, by_quarter = [], {1: [], 2: [], 3: [], 4: []}
    for step in range(3):
        x_0, eps, t, _ = trainer.train_step.draw_batch(step, 0)
        with torch.no_grad():
            x_t = trainer.prepared.noise_scheduler.add_noise(x_0, eps, t)
            mse = (trainer.state.model(x_t, t).sample - eps).square().mean((1, 2, 3))
        for value, timestep in zip(mse.tolist(), t.tolist(), strict=True):
            by_quarter[timestep // 5 + 1].append(value)
        losses.append(trainer.train_step().item())
    record = trainer.log(seconds=2.0, num_steps=3)
    assert record["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    for quarter, values in by_quarter.items():
        assert record[f"loss_q{quarter}"] == pytest.approx(np.mean(values), rel=1e-5)
    assert record["images_per_second"] == 12.0
    assert record["gradient_norm"] > 0
    assert float(trainer.state.log.sums.abs().sum()) == 0


@pytest.mark.parametrize("settings", [{}, {"class_dropout_prob": 0.5, "dropout": 0.2, "snr_gamma": 5.0}])
def test_a_stop_between_two_records_loses_nothing_of_the_next_one(make_config: MakeConfig, settings: dict):
    config = make_config(logging_steps=6, **settings)
    whole = by_hand(config)
    for _ in range(6):
        whole.train_step()
    expected = whole.log(1.0, 6)
    first = by_hand(config)
    for _ in range(4):
        first.train_step()
    assert first.save_checkpoint()
    second = by_hand(config)
    second.checkpoints.resume()
    for _ in range(2):
        second.train_step()
    assert second.log(1.0, 6) == expected


@pytest.mark.parametrize(
    ("changes", "rtol"),
    [
        ({"gradient_checkpointing": True}, 1e-5),
        ({"gradient_checkpointing": True, "dropout": 0.3}, 1e-5),
        ({"train_batch_size": 4, "gradient_accumulation_steps": 2, "dropout": 0.3}, 1e-4),
        ({"train_batch_size": 2, "gradient_accumulation_steps": 4, "timestep_sampling": "stratified"}, 1e-4),
    ],
)
def test_ways_to_save_memory_train_the_same(make_config: MakeConfig, changes: dict, rtol: float):
    # A large epsilon keeps Adam from enlarging rounding errors.
    plain = make_config(train_batch_size=8, adam_epsilon=1e-2)
    kept = {k: v for k, v in changes.items() if k in ("dropout", "timestep_sampling")}
    expected, losses = weights_after(replace(plain, **kept), 3)
    actual, other_losses = weights_after(replace(plain, **changes), 3)
    np.testing.assert_allclose(other_losses, losses, rtol=rtol)
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=1e-6)
    without, _ = weights_after(plain, 3)
    assert bool(kept) == (not torch.allclose(without, expected, atol=1e-4))


# Where the seeded dropout cuts a traced network in two, PyTorch asks for the gradient of what goes from part to part.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("settings", [{}, {"dropout": 0.3}])
def test_a_compiled_network_trains_the_same_and_is_compiled_once(
    make_config: MakeConfig, settings: dict, monkeypatch: pytest.MonkeyPatch
):
    compile_for_real, asked, compiled = torch.compile, [], []

    def trace(model: torch.nn.Module, backend: str, **options: Any) -> Any:
        """Trace as the compiler does, and run what was traced as it is, which takes seconds less."""

        def backend_of_graphs(graph: torch.fx.GraphModule, _: list) -> Any:
            compiled.append(graph)
            return graph.forward

        asked.append((backend, options["dynamic"]))
        return compile_for_real(model, **{**options, "backend": backend_of_graphs})

    config = make_config(validation_split="test", adam_epsilon=1e-2, **settings)
    expected, losses = weights_after(config, 3)
    monkeypatch.setattr(torch, "compile", trace)
    torch.compiler.reset()
    trainer = by_hand(replace(config, compile=True))
    other_losses = [trainer.train_step().item()]
    num_graphs = len(compiled)
    other_losses += [trainer.train_step().item() for _ in range(2)]
    assert asked == [("inductor", False)]
    assert len(compiled) == num_graphs > 0
    np.testing.assert_allclose(other_losses, losses, rtol=1e-5)
    actual = flat_weights(trainer)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    # What is measured, kept and published is the network itself.
    trainer.validate()
    assert trainer.save_checkpoint()
    plain = by_hand(config)
    plain.checkpoints.resume()
    assert torch.equal(flat_weights(plain), actual)


def test_dropout_weights_and_averages_of_a_resumed_run_are_the_same_bits(make_config: MakeConfig):
    config = make_config(dropout=0.3, ema_half_life_steps=(2, 9), ema_power=5.0, gradient_accumulation_steps=2)
    whole = by_hand(config)
    for _ in range(5):
        whole.train_step()
    first = by_hand(config)
    for _ in range(2):
        first.train_step()
    first.save_checkpoint()
    second = by_hand(config)
    second.checkpoints.resume()
    for _ in range(3):
        second.train_step()
    expected, actual = whole.state.tensors(), second.state.tensors()
    assert expected.keys() == actual.keys() == {"unet", "optimizer", "average-2", "average-9"}
    for group, named in expected.items():
        for name, tensor in named.items():
            assert torch.equal(actual[group][name], tensor), (group, name)
    assert not torch.equal(expected["average-2"]["conv_in.weight"], expected["average-9"]["conv_in.weight"])


def spoil_gradients(trainer: Trainer, steps: set[int]) -> None:
    """Make one gradient infinite at these steps, as an overflow would."""
    parameter = next(trainer.state.unet.parameters())
    parameter.register_hook(lambda g: g * (float("inf") if trainer.state.step + 1 in steps else 1.0))


def test_a_gradient_that_is_not_finite_is_named_with_its_step_and_the_last_good_checkpoint(make_config: MakeConfig):
    trainer = by_hand(make_config(max_grad_norm=None))
    spoil_gradients(trainer, {2})
    trainer.train_step()
    trainer.save_checkpoint()
    for _ in range(3):
        trainer.train_step()
    words = r"diverged at step 2: loss \d\.\d+, gradient norm inf; the last good checkpoint is .*step-00000001"
    with pytest.raises(FloatingPointError, match=words):
        trainer.log(1.0, 3)


def test_steps_that_are_not_finite_are_left_out_up_to_the_limit(
    make_config: MakeConfig, capsys: pytest.CaptureFixture
):
    config = make_config(max_skipped_steps=2, ema_half_life_steps=(3,))
    trainer = by_hand(config)
    spoil_gradients(trainer, {2, 4, 6})
    trainer.train_step()
    before = trainer.state.tensors()
    before = {group: {k: v.clone() for k, v in named.items()} for group, named in before.items()}
    trainer.train_step()
    after = trainer.state.tensors()
    for group, named in before.items():
        assert all(torch.equal(after[group][name], tensor) for name, tensor in named.items()), group
    assert trainer.state.step == 2
    assert "warning: step 2 is left out: loss" in capsys.readouterr().err
    trainer.train_step()
    trainer.train_step()
    record = trainer.log(1.0, 4)
    assert record["skipped_steps"] == 2
    assert np.isfinite(record["loss"])
    # The count is part of the run: a resumed one has no new allowance.
    assert trainer.save_checkpoint()
    again = by_hand(config)
    again.checkpoints.resume()
    spoil_gradients(again, {6})
    again.train_step()
    with pytest.raises(FloatingPointError, match=r"diverged at step 6: loss .*, gradient norm (inf|nan)"):
        again.train_step()


def test_a_run_that_left_steps_out_resumes_to_the_same_bits(make_config: MakeConfig):
    config = make_config(max_skipped_steps=3, ema_power=2.0)
    whole = by_hand(config)
    spoil_gradients(whole, {1, 3})
    for _ in range(6):
        whole.train_step()
    first = by_hand(config)
    spoil_gradients(first, {1, 3})
    for _ in range(4):
        first.train_step()
    first.save_checkpoint()
    second = by_hand(config)
    second.checkpoints.resume()
    for _ in range(2):
        second.train_step()
    for group, named in whole.state.tensors().items():
        for name, tensor in named.items():
            assert torch.equal(second.state.tensors()[group][name], tensor), (group, name)


def test_nothing_is_left_out_without_being_allowed_to(make_config: MakeConfig):
    allowed, plain = by_hand(make_config(max_skipped_steps=1)), by_hand(make_config())
    for _ in range(3):
        assert allowed.train_step() == plain.train_step()
    for name, weight in plain.state.unet.state_dict().items():
        assert torch.equal(allowed.state.unet.state_dict()[name], weight)


def test_the_best_average_on_held_out_pictures_is_published(make_config: MakeConfig):
    config = make_config(
        validation_split="test", validation_steps=2, ema_half_life_steps=(1, 500), max_train_steps=40, ema_power=5.0
    )
    folder = train(config)
    measured = json.loads((folder / "validation.json").read_text())
    assert [record["step"] for record in measured] == list(range(2, 41, 2))
    last = measured[-1]["eps_mse"]
    assert set(last) == {"raw", "1", "500"}
    chosen = min(("1", "500"), key=last.__getitem__)
    assert last["1"] != last["500"]
    published = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    average = load_checkpoint(folder / "checkpoints" / "step-00000040")[0][f"average-{chosen}"]
    assert all(torch.equal(published[name], average[name]) for name in average)
    # The lowest value of the whole run is kept as a pipeline of its own.
    state = json.loads((folder / "checkpoints" / "step-00000040" / "state.json").read_text())
    values = [(record["eps_mse"][name], record["step"], name) for record in measured for name in ("1", "500")]
    lowest = min(values)
    assert (state["best"]["eps_mse"], state["best"]["step"], state["best"]["average"]) == lowest
    best = DDPMCarsPipeline.from_pretrained(folder / "best")
    trainer = by_hand(replace(config, output_dir=config.output_dir + "-again"))
    assert trainer.prepared.held_out is not None
    again = trainer.prepared.held_out.eps_mse(best.unet, torch.device("cpu"), 4)
    assert again == pytest.approx(lowest[0], rel=1e-5)


def test_measuring_changes_nothing_about_the_training(make_config: MakeConfig):
    settings = {"dropout": 0.2, "validation_split": "test", "save_images_steps": None}
    often = train(make_config(output_dir=make_config().output_dir + "1", validation_steps=1, **settings))
    forget_accelerate()
    never = train(make_config(output_dir=make_config().output_dir + "2", validation_steps=None, **settings))
    both = [run / "checkpoints" / "step-00000006" for run in (often, never)]
    names = [sorted(file.relative_to(path) for file in path.rglob("*.safetensors")) for path in both]
    assert names[0] == names[1]
    assert len(names[0]) == 3
    for name in names[0]:
        assert (both[0] / name).read_bytes() == (both[1] / name).read_bytes()
    assert len(json.loads((often / "validation.json").read_text())) == 6
    [at_the_end] = json.loads((never / "validation.json").read_text())
    assert at_the_end == json.loads((often / "validation.json").read_text())[-1]


def test_the_held_out_split_is_kept_out_of_training(make_config: MakeConfig):
    assert len(by_hand(make_config()).prepared.images.images) == 16
    trainer = by_hand(make_config(validation_split="test", num_validation_images=3))
    assert len(trainer.prepared.images.images) == 12
    assert len(trainer.prepared.held_out) == 3


def test_held_out_pictures_among_the_training_pictures_are_warned_of(
    make_config: MakeConfig, capsys: pytest.CaptureFixture
):
    by_hand(make_config(validation_split="test", split="train"))
    assert "validation_split" not in capsys.readouterr().err
    by_hand(make_config(validation_split="test", split="train+test"))
    words = "warning: 4 images of validation_split are among the training images as well"
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_learned_variances_train_and_sample(make_config: MakeConfig, prediction_type: str):
    config = make_config(variance_type="learned_range", prediction_type=prediction_type, snr_gamma=5.0)
    folder = train(config)
    pipe = DDPMCarsPipeline.from_pretrained(folder)
    assert pipe.unet.config.out_channels == 6
    assert pipe.scheduler.config.variance_type == "learned_range"
    images = pipe(2, torch.Generator().manual_seed(0), 4, output_type="np").images
    assert images.shape == (2, 8, 8, 3)
    assert np.isfinite(images).all()


def test_a_network_whose_channels_do_not_fit_the_variance_is_refused(make_config: MakeConfig, tmp_path: Path):
    config = make_config()
    arguments = json.loads(Path(config.model_config).read_text())
    other = tmp_path / "six.json"
    other.write_text(json.dumps({**arguments, "out_channels": 6}))
    with pytest.raises(UserError, match=r"six.json has 6 out_channels .* must be 3, or variance_type learned_range$"):
        Trainer(replace(config, model_config=str(other)))


def test_a_plan_says_grey_and_a_file_that_sets_nothing_is_warned_of(
    make_config: MakeConfig, tmp_path: Path, capsys: pytest.CaptureFixture
):
    config, path = make_config(dry_run=True), tmp_path / "unet.json"
    path.write_text(json.dumps({**json.loads(Path(config.model_config).read_text()), "in_channels": 1}))
    path.write_text(path.read_text().replace('"out_channels": 3', '"out_channels": 1'))
    train(replace(config, model_config=str(path)))
    assert "flipped at random, made grey\n" in capsys.readouterr().out
    path.write_text("{}")
    with pytest.raises(UserError, match="nowhere"):
        Trainer(replace(config, model_config=str(path), train_data_dir=str(tmp_path / "nowhere")))
    assert f"model_config {path} sets nothing, so the network has the defaults of diffusers: 274 million" in (
        capsys.readouterr().err
    )


def test_a_dry_run_says_what_would_happen_and_leaves_no_model(make_config: MakeConfig, capsys: pytest.CaptureFixture):
    config = make_config(validation_split="test", dry_run=True, train_batch_size=2, gradient_accumulation_steps=3)
    folder = train(config)
    plan = capsys.readouterr().out
    unet = by_hand(replace(config, output_dir=config.output_dir + "-2")).state.unet
    assert "images       12 at 8x8\n" in plan
    assert "held out     4 images of test" in plan
    assert "prepared     squash, flipped at random" in plan
    assert (
        f"network      {sum(p.numel() for p in unet.parameters()):,} parameters ({config.model_config}), on cpu"
        in plan
    )
    assert "a step       6 images: 2 at a time, 3 times" in plan
    assert "steps        0 done, 6 in all, 3.0 passes over the images" in plan
    assert "begins       anew" in plan
    assert re.search(r"^time         about \d+ seconds? for 6 steps at [\d.]+ s a step", plan, re.MULTILINE)
    assert not folder.exists()


def test_a_dry_run_on_a_run_says_where_it_would_go_on_and_changes_nothing(
    make_config: MakeConfig, capsys: pytest.CaptureFixture
):
    folder = train(make_config(max_train_steps=3))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    forget_accelerate()
    train(make_config(dry_run=True))
    plan = capsys.readouterr().out
    assert "steps        3 done, 6 in all" in plan
    assert f"begins       from {folder / 'checkpoints' / 'step-00000003'}" in plan
    forget_accelerate()
    train(make_config(dry_run=True, overwrite_output_dir=True))
    assert "begins       anew" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_else_lies_in_the_output_folder_stays(make_config: MakeConfig):
    folder = train(make_config(max_train_steps=1))
    (folder / "unet" / "notes.txt").write_text("mine")
    (folder / "README.md").write_text("mine")
    (folder / "unet" / "diffusion_pytorch_model-00001-of-00002.safetensors").write_text("an older, sharded save")
    forget_accelerate()
    train(make_config(max_train_steps=2))
    assert (folder / "unet" / "notes.txt").read_text() == "mine"
    assert (folder / "README.md").read_text() == "mine"
    assert [p.name for p in (folder / "unet").glob("*.safetensors")] == ["diffusion_pytorch_model.safetensors"]
    assert not [p for p in folder.iterdir() if p.name.startswith(".pipeline")]
    DDPMCarsPipeline.from_pretrained(folder)


def written(folder: Path) -> dict[Path, tuple[int, int]]:
    """Tell the files of a run that it shows to others from others of the same names."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "checkpoints")
    shown = {path: path.stat() for path in paths if path.name not in ("config.yaml", "pictures.json")}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in shown.items()}


def calibrated(folder: Path, config: TrainingConfig) -> dict:
    """Measure a trained model as scripts/calibrate.py does; return what that leaves in the scheduler's config."""
    pipe, images = DDPMCarsPipeline.from_pretrained(folder), to_samples(np.array(load_pictures(config).images))
    pipe.scheduler.register_to_config(variance_type="analytic")
    calibrate(pipe.unet, images, pipe.scheduler, num_timesteps=4, num_bands=2, progress_bar=False)
    fit_init_noise(images, pipe.scheduler)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(pipe.scheduler.to_json_string())
    return scheduler_of(folder)


def scheduler_of(folder: Path) -> dict:
    return dict(DDPMCarsScheduler.from_pretrained(folder, subfolder="scheduler").config)


@pytest.mark.parametrize("validation", [{}, {"validation_split": "test", "validation_steps": None}])
def test_a_complete_run_is_left_as_it_is(make_config: MakeConfig, capsys: pytest.CaptureFixture, validation: dict):
    config = make_config(ema_half_life_steps=(1, 500), **validation)
    folder = train(config)
    for part in (folder, *([folder / "best"] if validation else [])):
        calibrated(part, config)
    before = written(folder)
    assert folder / "training.json" in before
    capsys.readouterr()
    for steps in (6, 4):
        forget_accelerate()
        assert train(replace(config, max_train_steps=steps)) == folder
        assert "complete at step 6" in capsys.readouterr().out.splitlines()
        assert written(folder) == before


@pytest.mark.parametrize(
    "name",
    [
        *("model_index.json", "unet/diffusion_pytorch_model.safetensors", "unet/config.json"),
        *("scheduler/scheduler_config.json", "samples.png", "loss.png", "loss.json", "training.json"),
    ],
)
def test_results_that_are_missing_or_damaged_are_written_again(
    make_config: MakeConfig, capsys: pytest.CaptureFixture, name: str
):
    folder = train(make_config())
    whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for damage in (lambda path: path.unlink(), lambda path: path.write_bytes(b"")):
        damage(folder / name)
        capsys.readouterr()
        forget_accelerate()
        train(make_config())
        assert "complete" not in capsys.readouterr().out
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == whole


def test_weights_that_are_not_those_of_the_run_are_written_again(make_config: MakeConfig):
    folder = train(make_config())
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-4] + bytes(4))
    assert path.read_bytes() != whole
    forget_accelerate()
    train(make_config())
    assert path.read_bytes() == whole


def test_a_calibration_stays_where_other_results_are_written_again(
    make_config: MakeConfig, capsys: pytest.CaptureFixture
):
    config = make_config()
    folder = train(config)
    before = calibrated(folder, config)
    (folder / "samples.png").unlink()
    forget_accelerate()
    train(config)
    assert (folder / "samples.png").exists()
    assert scheduler_of(folder) == before
    assert "the calibration of" not in capsys.readouterr().err


def test_an_extended_run_keeps_the_init_noise_and_warns_of_the_calibration(
    make_config: MakeConfig, capsys: pytest.CaptureFixture
):
    config = make_config(validation_split="test", validation_steps=2, learning_rate=1e-3)
    folder = train(config)
    before = calibrated(folder, config)
    assert before["variance_type"] == "analytic"
    forget_accelerate()
    train(replace(config, max_train_steps=8))
    after = scheduler_of(folder)
    assert after["_init_noise"] == before["_init_noise"]
    assert after.get("_calibration") is None
    assert after["variance_type"] == "fixed_small"
    line = (
        f"warning: the calibration of {folder} (variance_type analytic) does not fit the new weights and is left out"
    )
    assert capsys.readouterr().err.count(line) == 1
    DDPMCarsPipeline.from_pretrained(folder)(1, torch.Generator().manual_seed(0), 2)
    # Another run on the same folder may have other images.
    forget_accelerate()
    train(replace(config, seed=1, overwrite_output_dir=True))
    assert scheduler_of(folder).get("_init_noise") is None


def test_extending_a_cosine_run_and_running_past_the_end_are_warned_of(
    make_config: MakeConfig, capsys: pytest.CaptureFixture
):
    train(make_config(max_train_steps=3, lr_scheduler="cosine"))
    forget_accelerate()
    train(make_config(max_train_steps=4, lr_scheduler="cosine"))
    # At its end a cosine is 0, and with one step left of four it is (1 - sqrt(1/2)) / 2.
    said = "from step 3 on: max_train_steps 3 -> 4; the learning rate was 0.0025 and is now 0.001464"
    assert f"warning: {said}" in capsys.readouterr().err
    forget_accelerate()
    train(make_config(max_train_steps=2, lr_scheduler="cosine"))
    assert "the run is at step 4 already, beyond 2" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    make_config: MakeConfig, capsys: pytest.CaptureFixture
):
    config = make_config(checkpointing_steps=2, checkpoints_total_limit=None)
    folder = train(config)
    expected = load_checkpoint(folder / "checkpoints" / "step-00000006")[0]["unet"]
    newest = folder / "checkpoints" / "step-00000006" / "optimizer.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    forget_accelerate()
    train(config)
    out, err = capsys.readouterr()
    assert f"warning: {newest.parent} is damaged and left out: optimizer.safetensors is not what was written" in err
    assert f"continuing from {folder / 'checkpoints' / 'step-00000004'}" in out
    again = load_checkpoint(folder / "checkpoints" / "step-00000006")[0]["unet"]
    assert all(torch.equal(again[name], tensor) for name, tensor in expected.items())
    for path in (folder / "checkpoints").iterdir():
        (path / "state.json").write_text("{}")
    forget_accelerate()
    with pytest.raises(UserError, match=r"none of the checkpoints in .* is complete; .*overwrite_output_dir"):
        train(config)


def test_dropout_of_the_network_file_counts_unless_another_is_given(make_config: MakeConfig, tmp_path: Path):
    config = make_config()
    dropping = tmp_path / "dropping.json"
    dropping.write_text(json.dumps({**json.loads(Path(config.model_config).read_text()), "dropout": 0.3}))
    of_the_file, _ = weights_after(replace(config, model_config=str(dropping)), 2)
    of_the_setting, _ = weights_after(replace(config, dropout=0.3), 2)
    assert torch.equal(of_the_file, of_the_setting)
    assert not torch.equal(of_the_file, weights_after(config, 2)[0])
    assert by_hand(replace(config, model_config=str(dropping), dropout=0.1)).state.unet.config.dropout == 0.1


def test_half_precision_without_a_scaler_is_refused(make_config: MakeConfig):
    with pytest.raises(UserError, match="mixed_precision is fp16, which cpu computes without scaling"):
        Trainer(make_config(mixed_precision="fp16"))


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give runs the gradient scaler that accelerate has on GPUs only; torch's works on CPUs too."""

    def make_accelerator(config: TrainingConfig) -> Accelerator:
        accelerator = Accelerator(
            mixed_precision="fp16", gradient_accumulation_steps=config.gradient_accumulation_steps
        )
        accelerator.native_amp = True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=3)
        return accelerator

    monkeypatch.setattr("ddpm_cars.training.prepare.make_accelerator", make_accelerator)


@pytest.mark.parametrize("changes", [{}, {"max_skipped_steps": 1}, {"max_grad_norm": None}])
@pytest.mark.usefixtures("scaled")
def test_steps_that_overflow_in_half_precision_are_left_out_and_the_scale_is_part_of_a_checkpoint(
    make_config: MakeConfig, changes: dict
):
    config = make_config(mixed_precision="fp16", logging_steps=30, **changes)
    whole = by_hand(config)
    start = whole.state.unet.conv_in.weight.detach().clone()
    scales, moved = [], []
    for _ in range(30):
        whole.train_step()
        scales.append(whole.prepared.accelerator.scaler.get_scale())
        moved.append(not torch.equal(whole.state.unet.conv_in.weight, start))
    # Too large a scale is halved at every overflow and changes no weight, then grows now and then.
    overflows = moved.index(True)
    assert overflows > 3
    assert scales[:overflows] == [2.0 ** (39 - i) for i in range(overflows)]
    assert max(scales[overflows:]) > scales[overflows - 1]
    assert np.isfinite(whole.log(1.0, 30)["loss"])
    assert whole.state.skipped_steps == 0
    first = by_hand(config)
    for _ in range(overflows + 4):
        first.train_step()
    assert first.save_checkpoint()
    second = by_hand(config)
    second.checkpoints.resume()
    assert second.prepared.accelerator.scaler.state_dict() == first.prepared.accelerator.scaler.state_dict()
    for _ in range(30 - overflows - 4):
        second.train_step()
    assert second.prepared.accelerator.scaler.get_scale() == scales[-1]
    for name, weight in whole.state.unet.state_dict().items():
        assert torch.equal(second.state.unet.state_dict()[name], weight), name


def test_bfloat16_trains_in_float32_weights(make_config: MakeConfig):
    _, plain = weights_after(make_config(), 3)
    weights, losses = weights_after(make_config(mixed_precision="bf16"), 3)
    assert weights.dtype == torch.float32
    assert losses != plain
    np.testing.assert_allclose(losses, plain, rtol=0.02)


def test_a_slow_cpu_is_warned_of(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    by_hand(make_config(mixed_precision="bf16"))
    assert "warning: this CPU has no arithmetic for bf16" in capsys.readouterr().err
