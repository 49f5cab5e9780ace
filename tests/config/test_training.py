"""Settings of the training run and of the commands that cannot work."""

import pytest

from ddpm_cars.config.commands import SampleConfig, ShowConfig, ToyCarsConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError

NEEDED = {
    ShowConfig: {"train_data_dir": "pictures"},
    SampleConfig: {"pretrained_model_name_or_path": "model"},
    ToyCarsConfig: {},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_data_dir": None}, "exactly one of train_data_dir"),
        ({"dataset_name": "cars"}, "exactly one of train_data_dir"),
        ({"resolution": 7}, "resolution is 7; it must be 8 or more"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"beta_start": 0.0}, r"beta_start is 0\.0"),
        ({"beta_start": 0.03}, "beta_start <= beta_end"),
        ({"beta_end": 1.0}, r"beta_end is 1\.0"),
        ({"beta_end": float("nan")}, "beta_end is nan"),
        ({"scale_betas_for_timesteps": True, "num_train_timesteps": 15}, "a beta of 1.333; .* must be above 20"),
        ({"rescale_betas_zero_snr": True}, "epsilon .* give prediction_type v_prediction or sample"),
        ({"train_batch_size": 0}, "train_batch_size is 0"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps is 0"),
        ({"num_epochs": 0}, "num_epochs is 0"),
        ({"max_train_steps": 0}, "max_train_steps is 0"),
        ({"checkpointing_steps": 0}, "checkpointing_steps is 0"),
        ({"checkpoints_total_limit": 0}, "checkpoints_total_limit is 0"),
        ({"save_images_steps": -1}, "save_images_steps is -1"),
        ({"logging_steps": 0}, "logging_steps is 0"),
        ({"eval_batch_size": 0}, "eval_batch_size is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"num_inference_steps": 1001}, "cannot exceed num_train_timesteps, 1000"),
        ({"num_inference_steps": 11, "num_train_timesteps": 10}, "cannot exceed num_train_timesteps, 10"),
        ({"lr_warmup_steps": -1}, "lr_warmup_steps is -1"),
        ({"learning_rate": -1e-4}, "learning_rate is -0.0001"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"adam_weight_decay": -0.1}, "adam_weight_decay is -0.1"),
        ({"adam_epsilon": -1e-8}, "adam_epsilon is -1e-08"),
        ({"seed": -1}, "seed is -1"),
        ({"adam_beta1": 1.0}, r"adam_beta1 is 1\.0; it must be in \[0, 1\)"),
        ({"adam_beta2": -0.1}, r"adam_beta2 is -0\.1"),
        ({"ema_half_life_steps": (5, 0)}, r"ema_half_life_steps is \(5, 0\); every item must be 1 or more"),
        ({"ema_half_life_steps": ()}, "ema_half_life_steps is empty"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; it must be 0 or more, and finite"),
        ({"snr_gamma": float("inf")}, "snr_gamma is inf; it must be above 0, and finite"),
        ({"ema_inv_gamma": 0.0}, r"ema_inv_gamma is 0\.0; it must be above 0"),
        ({"ema_power": -0.75}, r"ema_power is -0\.75"),
        ({"max_grad_norm": 0.0}, r"max_grad_norm is 0\.0"),
        ({"dropout": 1.0}, r"dropout is 1\.0; it must be in \[0, 1\)"),
        ({"class_dropout_prob": 1.0}, r"class_dropout_prob is 1\.0; it must be in \[0, 1\)"),
        ({"max_bad_images_fraction": 1.0}, r"max_bad_images_fraction is 1\.0; it must be in \[0, 1\)"),
        ({"snr_gamma": 0.0}, r"snr_gamma is 0\.0; it must be above 0"),
        ({"vlb_weight": 0.0}, r"vlb_weight is 0\.0; it must be above 0"),
        ({"max_skipped_steps": -1}, "max_skipped_steps is -1"),
        (
            {"resolution": 50},
            r"resolution is 50; preset auto halves it 2 times, .* multiple of 4 \(the nearest is 48\)",
        ),
        ({"resolution": 36, "preset": "32"}, "preset 32 halves it 3 times, so it must be a multiple of 8"),
        ({"validation_steps": 0}, "validation_steps is 0"),
        ({"num_validation_images": 0}, "num_validation_images is 0"),
        ({"shuffle_window_images": 0}, "shuffle_window_images is 0"),
    ],
    ids=lambda value: (
        "-".join(f"{name}={setting}" for name, setting in value.items()) if isinstance(value, dict) else ""
    ),
)
def test_settings_of_a_run_that_cannot_work_are_named(changes: dict, words: str):
    with pytest.raises(UserError, match=words):
        TrainingConfig(**{"train_data_dir": "pictures", **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"streaming": True, "train_data_dir": "pictures"}, "streaming reads shards: give dataset_name"),
        ({"streaming": True, "dataset_name": "cars", "num_epochs": 3}, "num_epochs is 3, .* give max_train_steps"),
        ({"streaming": True, "dataset_name": "cars", "max_train_steps": 7}, "the name of one split"),
        ({"train_data_dir": "pictures", "dataset_config_name": "large"}, "dataset_config_name is large; it goes with"),
        ({"train_data_dir": "pictures", "image_column": "photo"}, "image_column is photo; it goes with dataset_name"),
        ({"dataset_name": "cars", "split_folders": False}, "split_folders is False, which goes with train_data_dir"),
    ],
)
def test_settings_of_pictures_that_do_not_go_together_are_named(changes: dict, words: str):
    with pytest.raises(UserError, match=words):
        TrainingConfig(**changes)


@pytest.mark.parametrize(
    ("config_class", "changes", "words"),
    [
        (SampleConfig, {"num_images": 0}, "num_images is 0"),
        (SampleConfig, {"batch_size": 0}, "batch_size is 0"),
        (SampleConfig, {"num_inference_steps": 0}, "num_inference_steps is 0"),
        (SampleConfig, {"seed": -1}, "seed is -1"),
        (ShowConfig, {"num_images": 0}, "num_images is 0"),
        (ShowConfig, {"seed": -1}, "seed is -1"),
        (ShowConfig, {"resolution": 4}, "resolution is 4"),
        (ShowConfig, {"beta_start": 2.0}, "beta_start is 2"),
        (ShowConfig, {"train_data_dir": None}, "exactly one"),
        (ToyCarsConfig, {"num_train_images": -1}, "num_train_images is -1"),
        (ToyCarsConfig, {"num_test_images": -1}, "num_test_images is -1"),
        (ToyCarsConfig, {"seed": -1}, "seed is -1"),
        (ToyCarsConfig, {"resolution": 7}, "resolution is 7"),
    ],
)
def test_settings_of_the_other_commands_that_cannot_work_are_named(config_class: type, changes: dict, words: str):
    with pytest.raises(UserError, match=words):
        config_class(**{**NEEDED[config_class], **changes})


def test_the_ends_of_the_ranges_are_allowed():
    config = TrainingConfig(
        dataset_name="cars",
        resolution=8,
        num_train_timesteps=1,
        num_inference_steps=1,
        beta_start=0.02,
        adam_beta1=0.0,
        learning_rate=0.0,
        max_grad_norm=None,
        checkpointing_steps=None,
        checkpoints_total_limit=None,
        save_images_steps=None,
    )
    assert config.max_grad_norm is None
    assert ToyCarsConfig(num_train_images=0, num_test_images=0).resolution == 64
