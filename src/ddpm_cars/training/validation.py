"""How well a network knows the noise in images that it was not trained on."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ddpm_cars.data.pictures import to_samples
from ddpm_cars.diffusion.denoiser import Denoiser
from ddpm_cars.diffusion.seeds import noise_of_rows, permutation, step_seed
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler


class HeldOut:
    """The mean of |eps - eps_hat(x_t, t)|^2 per dimension (Ho et al. 2020, eq. 14) on fixed x_t.

    Images, timesteps and noise are the same at every call and do not depend on batches or processes, so that curves
    can be compared, also between networks that predict different things. Timesteps are spread evenly over 0 .. T - 1.
    The images are uint8 (num_images, H, W, C), their classes int64 (num_images,) or None.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray | None, scheduler: DDPMCarsScheduler, seed: int):
        n, T = len(images), scheduler.config.num_train_timesteps
        self.scheduler = scheduler
        self.labels = None if labels is None else torch.from_numpy(np.array(labels))
        x_0 = to_samples(np.array(images)).contiguous()
        part = torch.from_numpy(permutation(n, seed))
        self.t = ((part + 0.5) * (T / n)).long().clamp(max=T - 1)
        self.eps = noise_of_rows(x_0.shape[1:], (step_seed(seed, i) for i in range(n)))
        self.x_t = scheduler.add_noise(x_0, self.eps, self.t)

    def __len__(self) -> int:
        return len(self.t)

    def eps_mse(
        self,
        model: Callable[..., Any],
        device: torch.device,
        batch_size: int,
        process_index: int = 0,
        num_processes: int = 1,
        reduce: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
    ) -> float:
        """Return the mean squared error per dimension of a model in evaluation mode, as `Denoiser` takes it.

        Every process calls it for its share of the images; `reduce` sums a tensor over the processes.
        """
        denoiser = Denoiser(model, self.scheduler)
        total = torch.zeros((), dtype=torch.float64, device=device)
        for start in range(0, len(self), batch_size * num_processes):
            first = start + process_index * batch_size
            rows = slice(first, min(first + batch_size, len(self))) if first < len(self) else slice(0, 1)
            x_t, t, eps = (tensor[rows].to(device) for tensor in (self.x_t, self.t, self.eps))
            labels = None if self.labels is None else self.labels[rows].to(device)
            eps_hat = denoiser.eps_hat(x_t, t, labels)
            # A process without images left computes one all the same: sharded networks need everybody's part.
            if first < len(self):
                total += (eps_hat - eps).square().double().sum()
        return reduce(total).item() / self.eps.numel()
