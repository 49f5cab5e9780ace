"""Train as diffusers' example of unconditional generation does, and as denoising-diffusion-pytorch does."""

import io
from collections.abc import Callable
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.networks.unet import create_unet


def stock_image(image: Image.Image, resolution: int) -> torch.Tensor:
    """Apply the example's transforms: shorter side to `resolution`, centre, perhaps mirrored, scaled to [-1, 1].

    Returns:
        float32 (3, resolution, resolution).
    """
    image = image.convert("RGB")
    short = min(image.size)
    width, height = (resolution * side // short for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    image = image.crop((left, top, left + resolution, top + resolution))
    if torch.rand(1) < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sample = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return sample.sub_(0.5).div_(0.5)


class StockTraining:
    """The loop of diffusers' example, with the settings of one of our runs.

    Args:
        config: The run; its images are those of the split train of `train_data_dir`.
    """

    def __init__(self, config: TrainingConfig):
        self.config = config
        self.accelerator = Accelerator(mixed_precision=config.mixed_precision)
        self.dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(str(config.mixed_precision), torch.float32)
        datasets.disable_progress_bars()
        images = datasets.load_dataset(
            "imagefolder", data_dir=str(config.train_data_dir), split="train", cache_dir=config.cache_dir
        )
        images.set_transform(
            lambda rows: {"input": [stock_image(image, config.resolution) for image in rows["image"]]}
        )
        self.num_images = len(images)
        torch.manual_seed(config.seed)
        unet = create_unet(config.preset, config.resolution, config.model_config)
        self.noise_scheduler = DDPMScheduler(config.num_train_timesteps, beta_schedule=config.beta_schedule)
        optimizer = torch.optim.AdamW(
            unet.parameters(),
            lr=config.learning_rate,
            betas=(config.adam_beta1, config.adam_beta2),
            weight_decay=config.adam_weight_decay,
            eps=config.adam_epsilon,
        )
        lr_scheduler = get_scheduler(
            config.lr_scheduler,
            optimizer,
            num_warmup_steps=config.lr_warmup_steps,
            num_training_steps=config.max_train_steps,
        )
        loader = DataLoader(images, batch_size=config.train_batch_size, shuffle=True, num_workers=0)
        self.model, self.optimizer, self.loader, self.lr_scheduler = self.accelerator.prepare(
            unet, optimizer, loader, lr_scheduler
        )
        self.average: EMAModel | None = None
        if config.use_ema:
            decay = 0.5 ** (1 / config.ema_half_life_steps[0])
            self.average = EMAModel(
                self.model.parameters(),
                decay=decay,
                use_ema_warmup=True,
                inv_gamma=config.ema_inv_gamma,
                power=config.ema_power,
            )
            self.average.to(self.accelerator.device)
        self.model.train()
        self._first: torch.Tensor | None = None

    def count(self) -> int:
        """Return how many images there are."""
        return self.num_images

    def steps(self, num_steps: int) -> None:
        """Take steps on one and the same batch."""
        if self._first is None:
            self._first = next(iter(self.loader))["input"]
        for _ in range(num_steps):
            self.step(self._first)

    def fetch_images(self) -> None:
        """Fetch every image once without using it."""
        for _ in self.loader:
            pass

    def step(self, x_0: torch.Tensor) -> float:
        """Take one optimiser step on images (batch, 3, H, W) and return its loss, which waits for the device."""
        x_0 = x_0.to(self.dtype)
        eps = torch.randn(x_0.shape, dtype=x_0.dtype, device=x_0.device)
        t = torch.randint(self.config.num_train_timesteps, (len(x_0),), device=x_0.device)
        x_t = self.noise_scheduler.add_noise(x_0, eps, t)
        with self.accelerator.accumulate(self.model):
            loss = F.mse_loss(self.model(x_t, t).sample.float(), eps.float())
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
        if self.average is not None:
            self.average.step(self.model.parameters())
        return loss.detach().item()

    def epoch(self) -> None:
        """Train on every image once, from the files."""
        # The text of the bar goes nowhere: making it is part of the loop, the terminal is not.
        with tqdm(total=len(self.loader), file=io.StringIO()) as bar:
            for batch in self.loader:
                loss = self.step(batch["input"])
                bar.update()
                bar.set_postfix(loss=loss, lr=self.lr_scheduler.get_last_lr()[0], step=bar.n)


def peer_step(config: TrainingConfig, num_parameters: int, device: torch.device) -> tuple[Callable[[], Any], int]:
    """Return a step of denoising-diffusion-pytorch on a fixed batch, and how many parameters its network has.

    That package trains its own Unet only. Here it has as many levels as ours and the width that comes nearest to
    `num_parameters`. The step is that of its Trainer: Adam, gradients clipped to 1, an average every ten steps.

    Raises:
        ImportError: If the package, or something that it needs, is not installed.
    """
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    levels = len(create_unet(config.preset, config.resolution).config.block_out_channels)
    multiples = tuple(min(2**i, 8) for i in range(levels))

    def count(network: torch.nn.Module) -> int:
        return sum(p.numel() for p in network.parameters())

    def build(width: int) -> torch.nn.Module:
        return Unet(dim=width, dim_mults=multiples)

    with torch.device("meta"):
        width = min(range(8, 257, 8), key=lambda w: abs(count(build(w)) - num_parameters))
    diffusion = GaussianDiffusion(build(width), image_size=config.resolution).to(device)
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=config.learning_rate, betas=(0.9, 0.99))
    average = EMA(diffusion, beta=0.995, update_every=10).to(device)
    accelerator = Accelerator(mixed_precision=config.mixed_precision)
    model, optimizer = accelerator.prepare(diffusion, optimizer)
    x_0 = torch.rand(config.train_batch_size, 3, config.resolution, config.resolution, device=device)

    def step() -> None:
        with accelerator.autocast():
            loss = model(x_0)
        loss.item()
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.update()

    return step, count(diffusion.model)
