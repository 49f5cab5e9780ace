"""Images, outputs of networks and the coefficients of the equations in float64, for the tests of losses."""

from types import SimpleNamespace

import numpy as np
import torch

from ddpm_cars import DDPMCarsScheduler

KINDS = ["epsilon", "sample", "v_prediction"]
T = 1000
TIMESTEPS = torch.tensor([0, 1, 7, 400, 998, 999])
SHAPE = (len(TIMESTEPS), 3, 4, 4)
BETAS = np.linspace(1e-4, 0.02, T)


def scheduler_of(kind: str = "epsilon", variance_type: str = "learned_range", **config) -> DDPMCarsScheduler:
    return DDPMCarsScheduler(prediction_type=kind, variance_type=variance_type, clip_sample=False, **config)


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape or SHAPE, generator=torch.Generator().manual_seed(seed))


def pixels(seed: int, *shape: int) -> torch.Tensor:
    levels = torch.randint(256, shape or SHAPE, generator=torch.Generator().manual_seed(seed))
    levels.view(-1)[:4] = torch.tensor([0, 255, 1, 254])
    return levels / 127.5 - 1


def column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values)[:, None, None, None]


def coefficients(betas: np.ndarray = BETAS, t: torch.Tensor = TIMESTEPS) -> SimpleNamespace:
    """Everything that the equations need at t, in float64."""
    alpha_bar = np.cumprod(1 - betas)
    before = np.concatenate([[1.0], alpha_bar[:-1]])
    beta_tilde = betas * (1 - before) / (1 - alpha_bar)
    log_beta_tilde = np.log(np.concatenate([beta_tilde[1:2], beta_tilde[1:]]))
    i = t.numpy()
    return SimpleNamespace(
        a=column(np.sqrt(alpha_bar[i])),
        b=column(np.sqrt(1 - alpha_bar[i])),
        snr=alpha_bar[i] / (1 - alpha_bar[i]),
        log_beta=column(np.log(betas[i])),
        log_beta_tilde=column(log_beta_tilde[i]),
        x_0_weight=column(np.sqrt(before[i]) * betas[i] / (1 - alpha_bar[i])),
        x_t_weight=column(np.sqrt(1 - betas[i]) * (1 - before[i]) / (1 - alpha_bar[i])),
    )


def as_prediction(kind: str, x_0: np.ndarray, eps: np.ndarray, c: SimpleNamespace) -> np.ndarray:
    return {"epsilon": eps, "sample": x_0, "v_prediction": c.a * eps - c.b * x_0}[kind]
