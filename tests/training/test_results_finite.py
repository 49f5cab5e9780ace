"""What a run leaves of a model whose images are not finite."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ddpm_cars import DDPMCarsPipeline
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import RunError
from ddpm_cars.training import results
from ddpm_cars.training.trainer import Trainer, train
from tests.support.overflow import beyond_float32
from tests.support.trainer_helpers import by_hand


@pytest.fixture
def spoiled(make_config: Callable[..., TrainingConfig]) -> Trainer:
    """Return a run at its end, which has published a model and has other weights since."""
    config = make_config(use_ema=False, checkpointing_steps=6)
    train(config)
    trainer = by_hand(config)
    trainer.checkpoints.resume()
    beyond_float32(trainer.state.unet)
    trainer.watch.check(trainer.state)
    return trainer


def test_all_but_the_images_of_the_last_weights_is_saved_before_the_run_ends_with_an_error(spoiled: Trainer):
    run, state, folder = spoiled.prepared, spoiled.state, spoiled.prepared.folder
    assert folder.samples.exists()
    for path in (folder.facts, folder.loss):
        path.unlink()
    with pytest.raises(RunError) as caught:
        results.publish(run, state)
    message = str(caught.value)
    assert message.startswith(f"the model is trained and saved in {folder.path}, but it draws no images: The model ou")
    assert "in step 1 of 2 (timestep 10), for the image; weights that have diverged are the usual cause" in message
    saved = DDPMCarsPipeline.from_pretrained(folder.path).unet.state_dict()
    assert all(torch.equal(saved[name], tensor) for name, tensor in state.unet.state_dict().items())
    assert json.loads(folder.facts.read_text())["steps"] == 6
    assert folder.loss.exists()
    # The images of the weights before it would be taken for its own, and the run for a complete one.
    assert not folder.samples.exists()
    assert not folder.denoising.exists()
    assert not results.is_published(run, state)


def test_a_grid_on_the_way_is_left_out_with_a_warning(spoiled: Trainer, capsys: pytest.CaptureFixture[str]):
    results.save_progress(spoiled.prepared, spoiled.state, lambda: None)
    assert list(Path(spoiled.prepared.folder.progress).glob("*.png")) == []
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("warning: step 6 has no sample grid: The model output is not finite in step 1 of 2")
    assert line.endswith("training goes on")


def test_a_held_out_loss_that_is_not_finite_is_never_the_best(
    make_config: Callable[..., TrainingConfig], capsys: pytest.CaptureFixture[str]
):
    trainer = by_hand(make_config(validation_split="test", ema_half_life_steps=(10, 20)))
    good = {name: tensor.clone() for name, tensor in trainer.state.unet.state_dict().items()}
    # The averages still are finite.
    beyond_float32(trainer.state.unet)
    trainer.validate()
    assert trainer.state.chosen_average() != "raw"
    assert trainer.state.log.best is not None
    for tensors in trainer.state.averages.tensors.values():
        for average, parameter in zip(tensors, trainer.state.unet.parameters(), strict=True):
            average.copy_(parameter)
    best = trainer.state.log.best
    trainer.validate()
    assert trainer.state.log.best == best
    assert "the loss on held-out images is nan; training goes on" in capsys.readouterr().err
    trainer.state.unet.load_state_dict(good)
