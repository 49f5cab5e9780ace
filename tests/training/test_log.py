"""What trackers are given."""

import shutil
from collections.abc import Callable

import pytest

from ddpm_cars.config import TrainingConfig
from ddpm_cars.training import train
from tests.support.trainer_helpers import forget_accelerate


# tensorboard's generated protobuf modules warn about the protobuf they meet.
@pytest.mark.filterwarnings("ignore")
def test_a_tracker_has_grids_strips_and_figures_once_also_after_a_resume(make_config: Callable[..., TrainingConfig]):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = {"save_images_steps": 2, "validation_steps": 2, "checkpointing_steps": 2, "logging_steps": 1}
    config = make_config(**steps, logger="tensorboard", validation_split="test", checkpoints_total_limit=None)
    folder = train(config)
    # What came after the checkpoint comes again.
    shutil.rmtree(folder / "checkpoints" / "step-00000006")
    forget_accelerate()
    train(make_config(**steps, logger="tensorboard", validation_split="test", max_train_steps=8))
    events = EventAccumulator(str(folder / "logs" / "ddpm_cars"), size_guidance={"images": 0, "scalars": 0}).Reload()
    seen = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert seen == {"samples": [2, 4, 6, 8], "denoising": [8]}
    assert [event.step for event in events.Scalars("loss")] == list(range(1, 9))
    assert [event.step for event in events.Scalars("validation_eps_mse/raw")] == [2, 4, 6, 8]
    assert events.Images("samples")[-1].encoded_image_string
    assert (folder / "denoising.png").exists()
