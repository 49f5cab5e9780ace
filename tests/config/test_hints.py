"""Words of other programs, which people bring along, are answered with a setting that the command has."""

import re
from dataclasses import fields
from typing import Any

import pytest

from ddpm_cars.config.commands import CalibrateConfig, DemoConfig, EvaluateConfig, PushConfig, SampleConfig, ShowConfig
from ddpm_cars.config.hints import cure
from ddpm_cars.config.training import TrainCommandConfig

STOCK = """
dataset_name dataset_config_name model_config_name_or_path train_data_dir output_dir overwrite_output_dir cache_dir
resolution center_crop random_flip train_batch_size eval_batch_size dataloader_num_workers num_epochs
save_images_epochs save_model_epochs gradient_accumulation_steps learning_rate lr_scheduler lr_warmup_steps adam_beta1
adam_beta2 adam_weight_decay adam_epsilon use_ema ema_inv_gamma ema_power ema_max_decay push_to_hub hub_token
hub_model_id hub_private_repo logger logging_dir local_rank mixed_precision prediction_type ddpm_num_steps
ddpm_num_inference_steps ddpm_beta_schedule checkpointing_steps checkpoints_total_limit resume_from_checkpoint
enable_xformers_memory_efficient_attention preserve_input_precision
""".split()
"""The flags of diffusers' train_unconditional.py."""


@pytest.mark.parametrize("name", STOCK)
def test_every_flag_of_stock_is_a_flag_or_has_a_cure(name: str):
    is_ours = name in {field.name for field in fields(TrainCommandConfig)}
    assert is_ours or (cure(name, TrainCommandConfig) or "").startswith(("give --", "leave it out", "set HF_TOKEN"))


@pytest.mark.parametrize(
    ("config_class", "name", "expected"),
    [
        (TrainCommandConfig, "lr", "give --learning_rate"),
        (TrainCommandConfig, "steps", "give --max_train_steps"),
        (TrainCommandConfig, "train_num_steps", "give --max_train_steps"),
        (TrainCommandConfig, "epochs", "give --num_epochs"),
        (TrainCommandConfig, "image_size", "give --resolution"),
        (TrainCommandConfig, "size", "give --resolution"),
        (TrainCommandConfig, "model", "give --preset, or a JSON file with --model_config"),
        (TrainCommandConfig, "data", "give --train_data_dir"),
        (TrainCommandConfig, "batch_size", "give --train_batch_size"),
        (TrainCommandConfig, "output", "give --output_dir"),
        (TrainCommandConfig, "diffusion_steps", "give --num_train_timesteps"),
        (TrainCommandConfig, "learning-rate", "give --learning_rate"),
        (TrainCommandConfig, "no-random-flip", "give --random_flip false"),
        (TrainCommandConfig, "no_use_ema", "give --use_ema false"),
        (TrainCommandConfig, "no_ema", "give --use_ema false"),
        (TrainCommandConfig, "no_flip", "give --random_flip false"),
        (TrainCommandConfig, "learning_rte", "did you mean --learning_rate?"),
        (SampleConfig, "model", "give --pretrained_model_name_or_path"),
        (SampleConfig, "n", "give --num_images"),
        (SampleConfig, "steps", "give --num_inference_steps"),
        (SampleConfig, "labels", "give --class_labels"),
        (EvaluateConfig, "batch", "give --batch_size"),
        (CalibrateConfig, "data", "give --train_data_dir"),
        (DemoConfig, "port", "give --server_port"),
        (ShowConfig, "size", "give --resolution"),
        (PushConfig, "center_crop", None),
    ],
)
def test_a_word_of_others_is_answered_with_ours(config_class: Any, name: str, expected: str | None):
    assert cure(name, config_class) == expected


def test_a_setting_that_has_no_flag_is_not_told():
    assert cure("repo_di", PushConfig) == "did you mean --repo_id?"
    assert cure("repo_di", PushConfig, by_position=["folder", "repo_id"]) is None


@pytest.mark.parametrize("config_class", [TrainCommandConfig, SampleConfig, EvaluateConfig, PushConfig, DemoConfig])
def test_a_cure_names_only_flags_that_the_command_has(config_class: type):
    ours = {field.name for field in fields(config_class)}
    for name in {
        *STOCK,
        "lr",
        "steps",
        "model",
        "data",
        "output",
        "device",
        "resume",
        "sampler",
        "ema",
        "fp16",
    } - ours:
        assert set(re.findall(r"--(\w+)", cure(name, config_class) or "")) <= {*ours, "config"}
