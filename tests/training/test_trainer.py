"""The training step against plain torch, and what a run accepts."""

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.optimization import get_scheduler
from safetensors.torch import load_file

from ddpm_cars import DDPMCarsPipeline
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.diffusion.denoiser import training_target
from ddpm_cars.errors import UserError
from ddpm_cars.runs.checkpoints import load_checkpoint
from ddpm_cars.training.prepare import make_noise_scheduler, prepare
from ddpm_cars.training.trainer import Trainer, train
from tests.support.trainer_helpers import by_hand, forget_accelerate


def test_targets_recover_each_other(make_config: Callable[..., TrainingConfig]):
    x_0, eps = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0, 7, 19])
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 20))[t.numpy()]
    a, b = (torch.from_numpy(np.sqrt(c)).view(3, 1, 1, 1) for c in (alpha_bar, 1 - alpha_bar))
    schedulers = {
        k: make_noise_scheduler(make_config(prediction_type=k)) for k in ("epsilon", "sample", "v_prediction")
    }
    targets = {kind: training_target(scheduler, x_0, eps, t) for kind, scheduler in schedulers.items()}
    x_t = a * x_0 + b * eps
    torch.testing.assert_close(targets["epsilon"], (x_t - a * x_0) / b)
    torch.testing.assert_close(targets["sample"], (x_t - b * eps) / a)
    torch.testing.assert_close(a * x_t - b * targets["v_prediction"], x_0)


def reference_weights(
    trainer: Trainer, initial: dict[str, torch.Tensor], steps: int
) -> tuple[dict, dict, list[float]]:
    """Train as Ho et al. 2020, algorithm 1, in plain torch; return weights, their moving average, gradient norms."""
    config = trainer.config
    unet = UNet2DModel.from_config(trainer.state.unet.config)
    unet.load_state_dict(initial)
    optimizer = torch.optim.AdamW(
        unet.parameters(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.adam_weight_decay,
    )
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, config.num_train_timesteps))
    average = {name: p.detach().clone() for name, p in unet.named_parameters()}
    norms = []
    for step in range(steps):
        x_0, eps, t, _ = trainer.train_step.draw_batch(step, 0)
        a, b = (torch.from_numpy(np.sqrt(c[t.numpy()])).view(-1, 1, 1, 1) for c in (alpha_bar, 1 - alpha_bar))
        x_t = (a * x_0.double() + b * eps.double()).float()
        v = (a * eps.double() - b * x_0.double()).float()
        target = {"epsilon": eps, "sample": x_0, "v_prediction": v}[config.prediction_type]
        loss = torch.nn.functional.mse_loss(unet(x_t, t).sample, target)
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(unet.parameters(), config.max_grad_norm).item())
        optimizer.step()
        warmup = 1 - (1 + step / config.ema_inv_gamma) ** -config.ema_power
        decay = min(0.5 ** (1 / config.ema_half_life_steps[0]), warmup)
        for name, p in unet.named_parameters():
            average[name] = decay * average[name] + (1 - decay) * p.detach()
    return unet.state_dict(), average, norms


def test_steps_equal_algorithm_1_in_plain_torch(make_config: Callable[..., TrainingConfig]):
    trainer = by_hand(make_config())
    initial = {name: tensor.clone() for name, tensor in trainer.state.unet.state_dict().items()}
    weights, average, _ = reference_weights(trainer, initial, 3)
    for _ in range(3):
        trainer.train_step()
    names = [name for name, _ in trainer.state.unet.named_parameters()]
    trained = dict(trainer.state.unet.named_parameters())
    averaged = dict(zip(names, next(iter(trainer.state.averages.tensors.values())), strict=True))
    for actual, expected in ((trained, weights), (averaged, average)):
        # Adam's first steps divide gradients by their own size, which blows up the rounding of the smallest ones.
        error, change = (
            torch.cat([(actual[name] - other[name]).flatten() for name in names]).norm()
            for other in (expected, initial)
        )
        assert change > 0.1
        assert error < 1e-3 * change


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_every_setting_of_the_step_counts_as_in_plain_torch(
    make_config: Callable[..., TrainingConfig], prediction_type: str
):
    # A large epsilon keeps Adam from enlarging rounding errors, so single weights can be compared.
    trainer = by_hand(
        make_config(
            prediction_type=prediction_type,
            max_grad_norm=0.3,
            adam_beta1=0.8,
            adam_beta2=0.95,
            adam_epsilon=1e-2,
            adam_weight_decay=0.5,
            ema_half_life_steps=(1,),
            ema_inv_gamma=2.0,
            ema_power=0.6,
        )
    )
    initial = {name: tensor.clone() for name, tensor in trainer.state.unet.state_dict().items()}
    weights, average, norms = reference_weights(trainer, initial, 4)
    assert min(norms) > 0.3
    for _ in range(4):
        trainer.train_step()
    shadows = next(iter(trainer.state.averages.tensors.values()))
    for (name, weight), shadow in zip(trainer.state.unet.named_parameters(), shadows, strict=True):
        torch.testing.assert_close(weight.detach(), weights[name], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(shadow, average[name], atol=1e-6, rtol=1e-5)
    assert max((weights[name] - average[name]).abs().max() for name in average) > 1e-4


def test_accumulated_steps_see_the_same_batch(make_config: Callable[..., TrainingConfig]):
    whole = by_hand(make_config(train_batch_size=8)).train_step.draw_batch(5, 0)
    forget_accelerate()
    halves = by_hand(make_config(train_batch_size=4, gradient_accumulation_steps=2))
    parts = [halves.train_step.draw_batch(5, micro_step) for micro_step in range(2)]
    for together, *apart in zip(whole[:3], *(part[:3] for part in parts), strict=True):
        assert torch.equal(together, torch.cat(apart))


def test_accumulation_trains_like_the_large_batch(make_config: Callable[..., TrainingConfig]):
    weights = []
    for changes in ({"train_batch_size": 8}, {"train_batch_size": 4, "gradient_accumulation_steps": 2}):
        trainer = by_hand(make_config(**changes))
        losses = [trainer.train_step() for _ in range(2)]
        weights.append({**trainer.state.unet.state_dict(), "loss": torch.stack(losses)})
        forget_accelerate()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=3e-4, rtol=1e-3)


def test_batches_depend_on_the_seed_and_the_step_alone(make_config: Callable[..., TrainingConfig]):
    first = by_hand(make_config())
    expected = first.train_step.draw_batch(2, 0)
    torch.randn(5)
    again = by_hand(make_config()).train_step.draw_batch(2, 0)
    assert all(torch.equal(a, b) for a, b in zip(expected[:3], again[:3], strict=True))
    other = by_hand(make_config(seed=1)).train_step.draw_batch(2, 0)
    assert not torch.equal(expected[1], other[1])
    assert not torch.equal(expected[1], first.train_step.draw_batch(3, 0)[1])


def test_about_half_of_the_pictures_are_mirrored(make_config: Callable[..., TrainingConfig]):
    trainer = by_hand(make_config(train_batch_size=16))
    plain = by_hand(make_config(train_batch_size=16, random_flip=False))
    mirrored = 0
    for step in range(8):
        for x, y in zip(
            trainer.train_step.draw_batch(step, 0)[0], plain.train_step.draw_batch(step, 0)[0], strict=True
        ):
            assert torch.equal(x, y) or torch.equal(x, y.flip(-1))
            mirrored += not torch.equal(x, y)
    assert 40 < mirrored < 88


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "linear", "cosine"])
def test_learning_rates_are_those_of_diffusers(make_config: Callable[..., TrainingConfig], name: str):
    trainer = by_hand(make_config(lr_scheduler=name, lr_warmup_steps=2, max_train_steps=6))
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-2)
    scheduler = get_scheduler(name, dummy, num_warmup_steps=2, num_training_steps=6)
    for _ in range(6):
        trainer.train_step()
        assert trainer.state.optimizer.param_groups[0]["lr"] == pytest.approx(dummy.param_groups[0]["lr"], rel=1e-12)
        dummy.step()
        scheduler.step()


def test_a_stopped_run_goes_on_to_the_same_bits(make_config: Callable[..., TrainingConfig]):
    settings = {"lr_scheduler": "cosine", "lr_warmup_steps": 2, "max_train_steps": 6, "gradient_accumulation_steps": 2}
    whole = by_hand(make_config(**settings))
    losses = [whole.train_step() for _ in range(6)]
    first = by_hand(make_config(**settings))
    for _ in range(3):
        first.train_step()
    first.save_checkpoint()
    second = by_hand(make_config(**settings))
    second.checkpoints.resume()
    assert second.state.step == 3
    assert [second.train_step() for _ in range(3)] == losses[3:]
    assert second.state.optimizer.param_groups[0]["lr"] == whole.state.optimizer.param_groups[0]["lr"]
    for name, weight in whole.state.unet.state_dict().items():
        assert torch.equal(second.state.unet.state_dict()[name], weight), name
    averages = zip(*(run.state.averages.tensors["7000"] for run in (whole, second)), strict=True)
    assert all(torch.equal(a, b) for a, b in averages)


def test_the_loss_falls(make_config: Callable[..., TrainingConfig]):
    trainer = by_hand(make_config(train_batch_size=16, num_train_timesteps=1000))
    losses = [trainer.train_step().item() for _ in range(150)]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:5])


def test_a_loss_that_is_not_finite_stops_the_run(make_config: Callable[..., TrainingConfig]):
    with pytest.raises(FloatingPointError, match=r"at step [1-9]"):
        train(make_config(learning_rate=1e30, max_grad_norm=None, max_train_steps=20))


def test_a_folder_with_another_run_is_refused(make_config: Callable[..., TrainingConfig]):
    folder = train(make_config(max_train_steps=1))
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"adam_beta1 0\.9 \(now 0\.8\).*overwrite_output_dir"):
        train(make_config(adam_beta1=0.8))
    train(make_config(max_train_steps=2, logging_steps=2, eval_batch_size=2))
    assert len(json.loads((folder / "loss.json").read_text())) == 2
    train(make_config(max_train_steps=1, learning_rate=2e-2, overwrite_output_dir=True))
    assert [record["learning_rate"] for record in json.loads((folder / "loss.json").read_text())] == [2e-2]
    assert (folder / "notes.txt").read_text() == "mine"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_starting_again_deletes_what_a_run_has_written_and_nothing_else(make_config: Callable[..., TrainingConfig]):
    config = make_config(save_images_steps=2, validation_split="test", validation_steps=2, checkpointing_steps=2)
    folder = train(config)
    places = [folder / name for name in ("samples", "best", "best/unet", "best/scheduler", "checkpoints")]
    names = ("mine.jpg", "00000.png", "step-1.png", "step-00000002.jpg", "config.txt")
    mine = [place / name for place in places for name in names]
    for path in mine:
        path.write_text("mine")
    again = replace(config, overwrite_output_dir=True)
    by_hand(again).clear()
    assert {path for place in places for path in place.rglob("*") if path.is_file()} == set(mine)
    assert {path.read_text() for path in mine} == {"mine"}
    assert not (folder / "training.json").exists()
    for path in mine:
        path.unlink()
    forget_accelerate()
    train(again)
    by_hand(again).clear()
    assert not [place for place in places if place.exists()]
    assert (folder / "model_index.json").exists()


@pytest.mark.parametrize("inside", [".", "runs/mine", "train"])
def test_an_output_folder_among_the_training_pictures_is_refused(
    make_config: Callable[..., TrainingConfig], twelve_and_four_cars: Path, inside: str
):
    before = files_of(twelve_and_four_cars)
    output_dir = twelve_and_four_cars / inside
    with pytest.raises(UserError) as refused:
        train(make_config(output_dir=str(output_dir)))
    assert f"output_dir {output_dir} is inside train_data_dir {twelve_and_four_cars}, " in str(refused.value)
    assert files_of(twelve_and_four_cars) == before
    assert not (twelve_and_four_cars / "runs").exists()


def test_an_output_folder_beside_the_training_pictures_is_not_refused(
    make_config: Callable[..., TrainingConfig], twelve_and_four_cars: Path, tmp_path: Path
):
    shutil.copytree(twelve_and_four_cars, tmp_path / "cars")
    config = make_config(train_data_dir=str(tmp_path / "cars"), output_dir=str(tmp_path / "cars-run"), dry_run=True)
    train(config)
    (tmp_path / "link").symlink_to(tmp_path / "cars")
    with pytest.raises(UserError, match="is inside train_data_dir"):
        train(replace(config, output_dir=str(tmp_path / "link" / "run")))


FREE = {
    "split_folders": False,
    "model_license": "mit",
    "data_license": "drawn by us",
    "train_data_dir": "elsewhere",
    "cache_dir": None,
    "max_bad_images_fraction": 0.5,
    "num_epochs": 3,
    "max_train_steps": 9,
    "output_dir": "renamed",
    "overwrite_output_dir": True,
    "checkpointing_steps": None,
    "checkpoints_total_limit": 5,
    "save_images_steps": None,
    "eval_batch_size": 3,
    "num_inference_steps": 7,
    "validation_steps": 3,
    "logging_steps": 4,
    "logger": "tensorboard",
    "dry_run": True,
    "max_skipped_steps": 3,
    "gradient_checkpointing": True,
    "compile": True,
    # The two next decide the global batch, and the next two the network, which are compared themselves.
    "train_batch_size": 5,
    "gradient_accumulation_steps": 2,
    "preset": "32",
    "model_config": None,
    "auto_find_batch_size": True,
    "mixed_precision": "bf16",
    # It is recorded from which step on these have changed.
    "learning_rate": 0.5,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 1,
    "max_grad_norm": None,
}
FIXED = {
    "split": "test",
    "value_range": (0.0, 128.0),
    "validation_split": "test",
    "shuffle_window_images": 3,
    "class_conditional": True,
    "class_dropout_prob": 0.5,
    "background": "black",
    "resolution": 16,
    "resize": "pad",
    "num_train_timesteps": 21,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 0.001,
    "beta_end": 0.03,
    "random_flip": False,
    "dropout": 0.1,
    "prediction_type": "sample",
    "variance_type": "fixed_large",
    "vlb_weight": 0.1,
    "snr_gamma": 5.0,
    "timestep_sampling": "stratified",
    "optimizer": "adam",
    "adam_beta1": 0.1,
    "adam_beta2": 0.2,
    "adam_weight_decay": 0.3,
    "adam_epsilon": 0.4,
    "use_ema": False,
    "ema_half_life_steps": (6, 7),
    "ema_inv_gamma": 3.0,
    "ema_power": 0.8,
    "num_validation_images": 3,
    "noise_offset": 0.1,
    "seed": 4,
}


# Settings that need others to be possible at all.
FIXED_TOGETHER = {
    "scale_betas_for_timesteps": {"beta_end": 0.01},
    "rescale_betas_zero_snr": {"prediction_type": "sample"},
}


def load(trainer: Trainer, path: Path, config: TrainingConfig) -> None:
    """Continue from a checkpoint as a run with other settings."""
    trainer.state.config = config
    trainer.state.load(path, *load_checkpoint(path))


def saved_after_one_step(config: TrainingConfig) -> tuple[Trainer, Path]:
    trainer = by_hand(config)
    trainer.train_step()
    assert trainer.save_checkpoint()
    [path] = trainer.checkpoints.folder.iterdir()
    trainer.state.step = 0
    return trainer, path


def test_a_checkpoint_from_before_a_setting_existed_continues(make_config: Callable[..., TrainingConfig]):
    trainer, path = saved_after_one_step(make_config())
    config = trainer.config
    state = json.loads((path / "state.json").read_text())
    del state["config"]["scale_betas_for_timesteps"]
    (path / "state.json").write_text(json.dumps(state))
    load(trainer, path, config)
    assert trainer.state.step == 1
    with pytest.raises(UserError, match=r"scale_betas_for_timesteps False \(now True\)"):
        load(trainer, path, replace(config, scale_betas_for_timesteps=True, beta_end=0.01))


def test_every_setting_may_change_between_parts_or_is_refused_by_name(make_config: Callable[..., TrainingConfig]):
    # Images come from a folder here, which has no columns and nothing to stream.
    others = {"dataset_name", "dataset_config_name", "image_column", "label_column", "streaming"}
    # Those have a test of their own below.
    others.add("trained_betas")
    assert {*FREE, *FIXED, *FIXED_TOGETHER, *others} == {field.name for field in fields(TrainingConfig)}
    trainer, path = saved_after_one_step(make_config())
    config = trainer.config
    for name, value in FREE.items():
        assert getattr(config, name) != value
        trainer.state.step = 0
        load(trainer, path, replace(config, **{name: value}))
        assert trainer.state.step == 1
    for name, value in FIXED.items():
        before = getattr(config, name)
        assert before != value
        with pytest.raises(UserError) as refusal:
            load(trainer, path, replace(config, **{name: value}))
        before, value = (list(v) if isinstance(v, tuple) else v for v in (before, value))
        assert f"a run with {name} {before} (now {value}), which cannot change while it goes on, because its" in str(
            refusal.value
        )
    for name, others in FIXED_TOGETHER.items():
        with pytest.raises(UserError, match=rf"{name} False \(now True\)"):
            load(trainer, path, replace(config, **{name: True}, **others))


def test_a_grid_of_noise_alone_is_refused_before_a_run(make_config: Callable[..., TrainingConfig]):
    with pytest.raises(UserError, match=r"^DDPMCarsScheduler cannot draw from this model in 1 step .*, such as 20"):
        prepare(make_config(num_inference_steps=1))
    prepare(make_config()).lock.release()


def test_a_run_knows_its_betas_by_their_values(make_config: Callable[..., TrainingConfig], tmp_path: Path):
    file, betas = tmp_path / "betas.txt", np.linspace(0.01, 0.4, 20).tolist()
    file.write_text("\n".join(map(str, betas)))
    trainer, path = saved_after_one_step(make_config(trained_betas=str(file), num_train_timesteps=1000))
    config = trainer.config
    assert config.trained_betas == tuple(betas)
    assert make_noise_scheduler(config).config.trained_betas == betas
    # Another file with the same numbers is the same run, and the file itself is not needed.
    file.unlink()
    load(trainer, path, replace(config, trained_betas=betas))
    assert trainer.state.step == 1
    file.write_text(json.dumps([*betas[:-1], 0.5]))
    with pytest.raises(UserError, match=r"a run with trained_betas 20 other numbers \(now 20 other numbers\), which"):
        load(trainer, path, replace(config, trained_betas=str(file)))
    with pytest.raises(UserError, match=r"trained_betas 20 other numbers \(now None, the default\), which"):
        load(trainer, path, replace(config, trained_betas=None))


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ("pictures", "that began when .* had other images"),
        ("network", "with another network"),
        ("global batch size", r"with \d+ images a step \(now other\)"),
    ],
)
def test_other_pictures_another_network_or_another_batch_are_refused(
    make_config: Callable[..., TrainingConfig], fact: str, words: str
):
    trainer, path = saved_after_one_step(make_config())
    config = trainer.config
    trainer.state.facts[fact] = "other"
    with pytest.raises(UserError, match=rf"with seed 0 \(now 1\), and {words}, which cannot change"):
        load(trainer, path, replace(config, seed=1))


def test_weights_that_are_not_finite_are_never_saved(make_config: Callable[..., TrainingConfig]):
    config = make_config(
        learning_rate=1e30, max_grad_norm=None, max_train_steps=40, logging_steps=40, checkpointing_steps=5
    )
    with pytest.raises(FloatingPointError, match=r"diverged at step \d"):
        train(config)
    saved = list(Path(config.output_dir).rglob("diffusion_pytorch_model*.safetensors"))
    for file in saved:
        assert all(bool(tensor.isfinite().all()) for tensor in load_file(file).values())


def test_a_model_that_diverged_at_the_last_step_is_not_published(make_config: Callable[..., TrainingConfig]):
    # The loss of a step is that of the weights before it, so it is finite here.
    config = make_config(learning_rate=1e39, max_train_steps=1, checkpointing_steps=None, use_ema=False)
    with pytest.raises(FloatingPointError, match="diverged at step 1: a weight is not finite"):
        train(config)
    assert not (Path(config.output_dir) / "model_index.json").exists()


def test_a_stopped_run_becomes_a_model_when_told_to_end_at_its_checkpoint(
    make_config: Callable[..., TrainingConfig], capsys: pytest.CaptureFixture
):
    config = make_config(lr_scheduler="cosine", use_ema=False)
    trainer = by_hand(config)
    for _ in range(2):
        trainer.train_step()
    assert trainer.save_checkpoint()
    assert f"ddpm-cars sample --pretrained_model_name_or_path {config.output_dir} draws" in str(
        trainer.stopped(signal.SIGTERM, True)
    )
    assert str(trainer.stopped(signal.SIGINT, True)).startswith("interrupted at step 2 of ")
    forget_accelerate()
    folder = train(replace(config, max_train_steps=2))
    found = DDPMCarsPipeline.from_pretrained(folder).unet.state_dict()
    for name, value in trainer.state.unet.state_dict().items():
        assert torch.equal(found[name], value)
    # No step is left to which the learning rate could jump, and none to wait for.
    err = capsys.readouterr().err
    assert "jumps" not in err
    assert "training:" not in err
