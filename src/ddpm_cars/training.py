"""The training loop: L_simple of Ho et al. 2020 (eq. 14, algorithm 1) with Accelerate.

Data order, flips, timesteps, noise and dropout are functions of (seed, step, position in the batch), and the learning
rate is a function of the step. What a run has to remember is therefore small: `TrainState`.
"""

import copy
import json
import math
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from diffusers import UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from ddpm_cars import checkpoints
from ddpm_cars.config import ConfigError, TrainingConfig
from ddpm_cars.data import BatchOrder, load_images, step_seed, to_samples
from ddpm_cars.model import create_unet
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.plots import make_grid, plot_loss, save_png
from ddpm_cars.sampling import generate
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler
from ddpm_cars.train_state import TrainState


def num_steps(config: TrainingConfig, num_images: int, num_processes: int = 1) -> int:
    """Return how many optimiser steps a run takes: `max_train_steps`, or those that `num_epochs` fill completely."""
    if config.max_train_steps is not None:
        return config.max_train_steps
    steps_per_epoch = num_images // (config.train_batch_size * config.gradient_accumulation_steps * num_processes)
    return config.num_epochs * steps_per_epoch


def make_noise_scheduler(config: TrainingConfig) -> DDPMCarsScheduler:
    """Build the scheduler that training noises with and the saved pipeline samples with."""
    return DDPMCarsScheduler(
        num_train_timesteps=config.num_train_timesteps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule=config.beta_schedule,
        scale_betas_for_timesteps=config.scale_betas_for_timesteps,
        rescale_betas_zero_snr=config.rescale_betas_zero_snr,
        prediction_type=config.prediction_type,
        variance_type=config.variance_type,
    )


def training_target(
    scheduler: DDPMCarsScheduler, x_0: torch.Tensor, eps: torch.Tensor, t: torch.Tensor
) -> torch.Tensor:
    """Return what the network should predict: eps, x_0 or v, as the scheduler's `prediction_type` says."""
    if scheduler.config.prediction_type == "epsilon":
        return eps
    if scheduler.config.prediction_type == "sample":
        return x_0
    return scheduler.get_velocity(x_0, eps, t)


def _make_optimizer(config: TrainingConfig, unet: UNet2DModel, device: torch.device) -> torch.optim.Optimizer:
    optimizer_class = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return optimizer_class(
        unet.parameters(),
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        weight_decay=config.adam_weight_decay,
        eps=config.adam_epsilon,
        fused=device.type in ("cpu", "cuda"),
    )


class Trainer:
    """One run: what does not change while it trains, and the steps.

    Args:
        config: The run's settings.

    Raises:
        ConfigError: If the pictures, the network and the settings do not fit together, before any work is done.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.output_dir = Path(config.output_dir)
        self.accelerator = Accelerator(
            gradient_accumulation_steps=config.gradient_accumulation_steps,
            mixed_precision=config.mixed_precision,
            log_with=config.logger,
            project_config=ProjectConfiguration(config.output_dir, logging_dir=str(self.output_dir / "logs")),
        )
        self.device = self.accelerator.device
        # Channels-last is what tensor cores read; CPU convolutions in bfloat16 are slower with it.
        self.memory_format = torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        torch.manual_seed(config.seed)
        unet = create_unet(config.preset, config.resolution, config.model_config)
        with self.accelerator.local_main_process_first():
            self.images = load_images(config, unet.config.in_channels)
        self.micro_batch_size = config.train_batch_size * self.accelerator.num_processes
        self.order = BatchOrder(
            len(self.images), self.micro_batch_size * config.gradient_accumulation_steps, config.seed
        )
        self.total_steps = num_steps(config, len(self.images), self.accelerator.num_processes)
        if self.total_steps < 1:
            raise ConfigError(
                f"{len(self.images)} pictures do not fill one batch of {self.order.global_batch_size}; "
                "lower train_batch_size or give max_train_steps"
            )
        self.noise_scheduler = make_noise_scheduler(config)
        self.model, self.optimizer = self.accelerator.prepare(
            unet.to(memory_format=self.memory_format), _make_optimizer(config, unet, self.device)
        )
        ema = None
        if config.use_ema:
            ema = EMAModel(
                unet.parameters(),
                decay=config.ema_max_decay,
                use_ema_warmup=True,
                inv_gamma=config.ema_inv_gamma,
                power=config.ema_power,
                foreach=True,
            )
            ema.to(self.device)
        self.state = TrainState(unet, self.optimizer.optimizer, ema)
        lr_scheduler = get_scheduler(
            config.lr_scheduler,
            self.optimizer.optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=self.total_steps,
        )
        # A function of the step; the object around it has a state to lose, and steps once per process.
        self.lr_factor = lr_scheduler.lr_lambdas[0]

    @property
    def checkpoint_dir(self) -> Path:
        """Where the checkpoints of the run live."""
        return self.output_dir / "checkpoints"

    def resume(self) -> None:
        """Continue from the newest checkpoint in the output folder, if there is one."""
        if self.config.overwrite_output_dir and self.accelerator.is_main_process:
            # What else lives in the folder is not ours to delete.
            for name in ("checkpoints", "samples"):
                shutil.rmtree(self.output_dir / name, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        found = checkpoints.list_checkpoints(self.checkpoint_dir)
        if found:
            self.state.load(found[-1], self.config, len(self.images), self.accelerator.scaler)
            self.accelerator.print(f"continuing from {found[-1]}")

    def draw_batch(self, step: int, micro_step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return this process's part (x_0, eps, t) of a batch, a function of the seed and of where it stands.

        Every process draws the randomness of the whole batch and keeps its own rows, so that the split over
        processes and over accumulation changes nothing.
        """
        config = self.config
        start = micro_step * self.micro_batch_size + self.accelerator.process_index * config.train_batch_size
        rows = slice(start, start + config.train_batch_size)
        batch_size = self.order.global_batch_size
        x_0 = to_samples(self.images[self.order(step)[rows]])
        x_0 = x_0.to(self.device, non_blocking=True).contiguous(memory_format=self.memory_format)
        generator = torch.Generator(self.device).manual_seed(step_seed(config.seed, step))
        t = torch.randint(config.num_train_timesteps, (batch_size,), generator=generator, device=self.device)[rows]
        if config.random_flip:
            flip = torch.rand(batch_size, generator=generator, device=self.device)[rows] < 0.5
            x_0 = torch.where(flip[:, None, None, None], x_0.flip(-1), x_0)
        eps = torch.randn((batch_size, *x_0.shape[1:]), generator=generator, device=self.device)[rows]
        return x_0, eps, t

    def train_step(self) -> torch.Tensor:
        """Take one optimiser step and return this process's mean loss, a tensor that nobody has waited for."""
        step, config = self.state.step, self.config
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * self.lr_factor(step)
        losses = []
        for micro_step in range(config.gradient_accumulation_steps):
            x_0, eps, t = self.draw_batch(step, micro_step)
            # Dropout, where the network has any, draws from the global generator.
            torch.manual_seed(step_seed(config.seed, step, micro_step, self.accelerator.process_index))
            x_t = self.noise_scheduler.add_noise(x_0, eps, t)
            target = training_target(self.noise_scheduler, x_0, eps, t)
            with self.accelerator.accumulate(self.model):
                prediction = self.model(x_t, t).sample
                loss = (prediction.float() - target).square().mean()
                self.accelerator.backward(loss)
                if self.accelerator.sync_gradients and config.max_grad_norm is not None:
                    self.accelerator.clip_grad_norm_(self.model.parameters(), config.max_grad_norm)
                self.optimizer.step()
                self.optimizer.zero_grad()
            losses.append(loss.detach())
        if self.state.ema is not None:
            self.state.ema.step(self.state.unet.parameters())
        self.state.step += 1
        return torch.stack(losses).mean()

    def log(self, losses: list[torch.Tensor], seconds: float) -> dict[str, float]:
        """Record the mean loss of the steps since the last record."""
        loss = self.accelerator.reduce(torch.stack(losses).mean(), "mean").item()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        record = {
            "step": self.state.step,
            "loss": loss,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": round(len(losses) * self.order.global_batch_size / seconds, 2),
        }
        self.state.history.append(record)
        self.accelerator.log({k: v for k, v in record.items() if k != "step"}, step=self.state.step)
        return record

    def _diverged(self, what: str) -> FloatingPointError:
        return FloatingPointError(
            f"{what} at step {self.state.step}; the last checkpoint is in {self.checkpoint_dir}. "
            "Lower learning_rate, or use mixed_precision bf16 or no"
        )

    def _check_weights(self) -> None:
        """Refuse to save a diverged run: a checkpoint of it would push the last good ones out."""
        if not all(bool(torch.isfinite(p).all()) for p in self.state.unet.parameters()):
            raise self._diverged("a weight is not finite")

    def pipeline(self) -> DDPMCarsPipeline:
        """Return a pipeline around a copy of the averaged weights, or of the weights where there is no average."""
        unet = UNet2DModel.from_config(self.state.unet.config)
        unet.load_state_dict(self.state.unet.state_dict())
        if self.state.ema is not None:
            self.state.ema.copy_to(unet.parameters())
        # Sampling sets the timesteps of its scheduler, so it gets one of its own.
        pipeline = DDPMCarsPipeline(unet.eval().to(self.device), copy.deepcopy(self.noise_scheduler))
        pipeline.set_progress_bar_config(desc="sampling", leave=False)
        return pipeline

    def save_grid(self, pipeline: DDPMCarsPipeline, path: Path) -> None:
        """Sample a grid of pictures, the same noise every time so that grids can be compared."""
        config = self.config
        images = generate(
            pipeline, config.eval_batch_size, seed=config.seed, num_inference_steps=config.num_inference_steps
        )
        save_png(make_grid(list(images)), path)

    def save_checkpoint(self) -> None:
        """Write a checkpoint, then delete those beyond `checkpoints_total_limit`."""
        self._check_weights()
        self.state.save(self.checkpoint_dir, self.config, len(self.images), self.accelerator.scaler)
        if self.config.checkpoints_total_limit is not None:
            checkpoints.delete_old_checkpoints(self.checkpoint_dir, self.config.checkpoints_total_limit)

    def save_results(self) -> None:
        """Write the pipeline, of which model_index.json comes last, then the grid and the loss curve."""
        self._check_weights()
        pipeline = self.pipeline()
        with checkpoints.atomic_path(self.output_dir / ".pipeline") as temporary:
            pipeline.save_pretrained(temporary)
        saved = self.output_dir / ".pipeline"
        (self.output_dir / "model_index.json").unlink(missing_ok=True)
        for part in sorted(saved.iterdir(), key=lambda p: p.name == "model_index.json"):
            shutil.rmtree(self.output_dir / part.name, ignore_errors=True)
            part.rename(self.output_dir / part.name)
        saved.rmdir()
        self.save_grid(pipeline, self.output_dir / "samples.png")
        self.save_log()

    def save_log(self) -> None:
        """Write loss.json and loss.png."""
        checkpoints.write_text(self.output_dir / "loss.json", json.dumps(self.state.history, indent=1))
        if self.state.history:
            plot_loss(self.state.history, self.output_dir / "loss.png")

    def run(self) -> Path:
        """Train to the end, from wherever the output folder stands.

        Returns:
            The output folder, which then holds a saved `DDPMCarsPipeline`.
        """
        self.resume()
        main = self.accelerator.is_main_process
        if main:
            # Repeating a run from its own settings continues it.
            settings = yaml.safe_dump({**asdict(self.config), "overwrite_output_dir": False}, sort_keys=False)
            checkpoints.write_text(self.output_dir / "config.yaml", settings)
        if self.config.logger is not None:
            flat = {k: v for k, v in asdict(self.config).items() if v is not None}
            self.accelerator.init_trackers("ddpm_cars", config=flat)
        self._train()
        if main:
            self.save_results()
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        return self.output_dir

    def _train(self) -> None:
        config, state, main = self.config, self.state, self.accelerator.is_main_process
        self.model.train()
        bar = tqdm(total=self.total_steps, initial=state.step, desc="training", unit="step", disable=not main)
        losses, since = [], time.perf_counter()
        while state.step < self.total_steps:
            losses.append(self.train_step())
            bar.update()
            last = state.step == self.total_steps
            if last or state.step % config.logging_steps == 0:
                record = self.log(losses, time.perf_counter() - since)
                bar.set_postfix(loss=f"{record['loss']:.4f}", images_per_s=f"{record['images_per_second']:.0f}")
                losses, since = [], time.perf_counter()
            started = time.perf_counter()
            if main and config.checkpointing_steps and (last or state.step % config.checkpointing_steps == 0):
                self.save_checkpoint()
            if main and config.save_images_steps and not last and state.step % config.save_images_steps == 0:
                self.save_grid(self.pipeline(), self.output_dir / "samples" / f"step-{state.step:08d}.png")
                self.save_log()
            # Saving and sampling are not training time.
            since += time.perf_counter() - started
        bar.close()


def train(config: TrainingConfig) -> Path:
    """Train a model and save it as a `DDPMCarsPipeline`; the same call continues an interrupted run.

    Args:
        config: The run's settings.

    Returns:
        The output folder: the pipeline, samples.png, loss.png, loss.json, config.yaml, checkpoints/ and samples/.

    Raises:
        ConfigError: If the settings cannot work, before any training.
        FloatingPointError: If the loss is no longer finite.
    """
    return Trainer(config).run()
