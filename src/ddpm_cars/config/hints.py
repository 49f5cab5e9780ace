"""What to give instead of a setting that does not exist: one that other programs call so, or a misspelt one."""

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import Field, fields
from functools import cache
from typing import Any

_RESUME = "leave it out; the same command continues what it finds in --output_dir"
_DEVICE = "leave it out; a GPU is used if there is one, and several with accelerate launch"
_NETWORK = "give --preset, or a JSON file with --model_config"
_CURES = {
    # diffusers' train_unconditional.py, which also names some settings as their fields say (`stock`).
    "center_crop": "give --resize crop",
    "dataloader_num_workers num_workers workers": "leave it out; images are decoded before the first step, or by "
    "threads with --streaming",
    "ema_max_decay ema_decay ema_rate": "give --ema_half_life_steps; 6931 is a decay of 0.9999",
    "enable_xformers_memory_efficient_attention": "leave it out; PyTorch's own fast attention is always on",
    "hub_token token": "set HF_TOKEN, or log in with hf auth login",
    "local_rank": "leave it out; accelerate launch sets it",
    "logging_dir": "leave it out; --logger tensorboard writes to logs/ in --output_dir",
    "preserve_input_precision": "leave it out; images have 8 bits per channel here",
    "resume_from_checkpoint resume resume_checkpoint load milestone": _RESUME,
    "save_images_epochs": "give --save_images_steps, counted in steps",
    "save_model_epochs": "give --checkpointing_steps, counted in steps; the same command with --max_train_steps at a "
    "checkpoint makes a model of it",
    # Words of other trainers and samplers. Of several cures, the first that the command has the flags for is told.
    "lr": "give --learning_rate",
    "steps max_steps num_steps n_steps train_steps num_train_steps train_num_steps lr_anneal_steps iterations iters": (
        "give --max_train_steps",
        "give --num_inference_steps",
    ),
    "epochs epoch n_epochs num_train_epochs max_epochs train_epochs": "give --num_epochs",
    "image_size img_size imagesize size res width height": "give --resolution",
    "batch bs batch_size microbatch": ("give --train_batch_size", "give --batch_size"),
    "data data_dir data_path data_root dataroot folder images image_dir images_dir image_folder input input_dir "
    "train_dir train_data path": "give --train_data_dir",
    "dataset": "give a folder with --train_data_dir, or a dataset of the Hub with --dataset_name",
    "model model_path model_dir model_id model_name model_name_or_path pretrained pretrained_model checkpoint ckpt "
    "ckpt_path weights pipeline folder": ("give --pretrained_model_name_or_path", _NETWORK),
    "network arch unet dim dim_mults num_channels channel_mult num_res_blocks num_heads": _NETWORK,
    "o output out out_dir outdir output_path output_folder save_dir save_path results_folder results log_dir logdir": (
        "give --output_dir"
    ),
    "n num number count num_samples n_samples samples num_imgs n_images": "give --num_images",
    "device devices gpu gpus num_gpus cuda": _DEVICE,
    "cpu use_cpu no_cuda": "leave it out; ACCELERATE_USE_CPU=true before the command keeps off the GPU",
    "fp16 use_fp16 half amp": "give --mixed_precision fp16",
    "bf16": "give --mixed_precision bf16",
    "precision dtype": "give --mixed_precision",
    "ema": "give --use_ema",
    "save_interval save_every save_steps save_and_sample_every checkpoint_every": (
        "give --checkpointing_steps for checkpoints, --save_images_steps for images"
    ),
    "log_interval log_every": "give --logging_steps",
    "sample_interval sample_every": "give --save_images_steps",
    "eval_steps eval_interval eval_every": "give --validation_steps",
    "diffusion_steps timesteps num_timesteps n_timesteps": (
        "give --num_train_timesteps",
        "give --num_inference_steps",
    ),
    "sampling_timesteps sampling_steps sample_steps timestep_respacing ddim_steps": "give --num_inference_steps",
    "noise_schedule schedule": "give --beta_schedule",
    "betas beta_file betas_file": "give --trained_betas",
    "offset_noise offset_noise_strength": "give --noise_offset",
    "objective parameterization": "give --prediction_type",
    "learn_sigma": "give --variance_type learned_range",
    "schedule_sampler": "give --timestep_sampling",
    "class_cond conditional": "give --class_conditional",
    "class classes label labels class_label": ("give --class_labels", "give --class_conditional"),
    "cfg cfg_scale guidance cond_scale": "give --guidance_scale",
    "prompt": "leave it out; the model draws without words",
    "sampler": "give --scheduler",
    "use_ddim ddim": "give --scheduler DDIMScheduler",
    "weight_decay wd": "give --adam_weight_decay",
    "warmup warmup_steps num_warmup_steps": "give --lr_warmup_steps",
    "clip grad_clip gradient_clip max_norm": "give --max_grad_norm",
    "grad_accum accumulate gradient_accumulate_every": "give --gradient_accumulation_steps",
    "flip hflip horizontal_flip augment_horizontal_flip": "give --random_flip",
    "random_seed manual_seed": "give --seed",
    "wandb use_wandb report_to track": "give --logger",
    "recipe yaml cfg_file config_file": "give --config",
    "port": "give --server_port",
    "host ip": "give --server_name",
    "license licence": "give --model_license",
    "message": "give --commit_message",
    "branch": "give --revision",
}


@cache
def _cures() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for names, cures in _CURES.items():
        for name in names.split():
            found.setdefault(name, []).extend((cures,) if isinstance(cures, str) else cures)
    return found


def cure(name: str, config_class: type[Any], by_position: Collection[str] = ()) -> str | None:
    """Return what to give instead of a setting that a config does not have, with flags; None if nobody knows.

    Args:
        name: What the user has written, without dashes before it.
        config_class: The config.
        by_position: Settings that have no flag.
    """
    settings: Mapping[str, Field] = {f.name: f for f in fields(config_class) if f.name not in by_position}
    plain = name.lower().replace("-", "_")
    if plain in settings:
        return f"give --{plain}"
    cures = [f"give --{f.name}" for f in settings.values() if f.metadata.get("stock") == plain]
    for text in (*cures, *_cures().get(plain, ())):
        # A cure helps only if the command has the flags in it.
        if set(re.findall(r"--(\w+)", text)) <= {*settings, "config"}:
            return text
    if (off := re.match(r"(?:no|disable|without)_(\w+)", plain)) is not None:
        known = cure(off[1], config_class, by_position) or ""
        for other in (off[1], f"use_{off[1]}", known.removeprefix("give --")):
            if other in settings and settings[other].type in (bool, "bool"):
                return f"give --{other} false"
    similar = difflib.get_close_matches(plain, settings, n=3, cutoff=0.75)
    return f"did you mean {' or '.join(f'--{other}' for other in similar)}?" if similar else None
