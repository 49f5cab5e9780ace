"""The bits per dimension of held-out images, for every variance that a model can sample with."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from ddpm_cars.data.pictures import Pictures, to_samples
from ddpm_cars.diffusion.bound import Bound, Likelihood, least_cost_timesteps, variational_bounds
from ddpm_cars.diffusion.seeds import permutation
from ddpm_cars.runtime.files import rounded
from ddpm_cars.runtime.processes import gathered
from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

Key = tuple[str, str, int]
"""variance_type, chain, number of timesteps."""
_LEAST_COST = "least cost"


def bounds_to_measure(config: Any, likelihood_steps: Sequence[int]) -> list[Key]:
    """Return which bounds are measured, for every variance that a model with this scheduler config can sample with.

    Besides the chain of all timesteps, a chain of each length in `likelihood_steps` is measured evenly spaced, as the
    config says, and least-cost.
    """
    kinds = ["fixed_small", "fixed_large", "analytic"]
    if config.get("variance_type") == "learned_range":
        kinds.insert(0, "learned_range")
    chains = [("all", config.num_train_timesteps)]
    for steps in likelihood_steps:
        chains += [(config.timestep_spacing, steps), (_LEAST_COST, steps)]
    return [(kind, chain, steps) for kind in kinds for chain, steps in chains]


def key_of(bound: Mapping[str, Any]) -> Key:
    """Return which bound an entry of metrics.json is."""
    return bound["variance_type"], bound["chain"], bound["num_inference_steps"]


def _scheduler_of(key: Key, config: Any) -> DDPMCarsScheduler:
    """Return a scheduler that is set to the chain of timesteps of a bound; `config` has a calibration."""
    kind, chain, steps = key
    scheduler = DDPMCarsScheduler.from_config(config, variance_type=kind)
    if chain == _LEAST_COST:
        # The best variance prices the steps of every variance, so that all of them have the same chain.
        priced = DDPMCarsScheduler.from_config(config, variance_type="analytic")
        scheduler.set_timesteps(timesteps=least_cost_timesteps(priced, steps))
    else:
        scheduler.set_timesteps(steps)
    return scheduler


def measure_bounds(
    unet: torch.nn.Module,
    held_out: Pictures,
    config: Any,
    keys: Sequence[Key],
    num_images: int,
    batch_size: int,
    seed: int,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the entries "likelihood" and "eps_mse" of metrics.json, from one pass of the network.

    The processes share the images, `num_images` that the seed chooses, because folders are often sorted. The seed also
    chooses the noise. `config` is that of a scheduler with a calibration.
    """
    chosen = permutation(len(held_out.images), seed)[:num_images]
    named = {", ".join(map(str, key)): _scheduler_of(key, config) for key in keys}

    def measure(rows: range) -> Likelihood:
        mine = chosen[rows.start : rows.stop]
        return variational_bounds(
            unet,
            to_samples(np.stack([held_out.images[i] for i in mine])),
            named,
            class_labels=None if held_out.labels is None else torch.from_numpy(held_out.labels[mine]),
            indices=list(rows),
            batch_size=batch_size,
            seed=seed,
            progress_bar=PartialState().is_main_process,
        )

    parts = gathered(num_images, measure)
    bounds = [_bound_record(k, [part.bounds[name] for part in parts]) for name, k in zip(named, keys, strict=True)]
    eps_mse = np.concatenate([part.eps_mse for part in parts])
    return bounds, {
        "num_images": num_images,
        "timesteps": parts[0].timesteps.tolist(),
        "eps_mse": rounded(eps_mse.mean(0)),
        "eps_mse_std_error": rounded(eps_mse.std(0, ddof=1) / num_images**0.5),
    }


def _bound_record(key: Key, parts: Sequence[Bound]) -> dict[str, Any]:
    prior_bpd, terms_bpd = (np.concatenate([getattr(p, name) for p in parts]) for name in ("prior_bpd", "terms_bpd"))
    whole = Bound(parts[0].timesteps, prior_bpd, terms_bpd)
    return {
        **dict(zip(("variance_type", "chain", "num_inference_steps"), key, strict=True)),
        "num_images": len(prior_bpd),
        **{name: rounded(getattr(whole, name)) for name in ("bpd", "bpd_std_error")},
        **{name: rounded(getattr(whole, name).mean()) for name in ("prior_bpd", "kl_bpd", "decoder_bpd")},
        "image_bpd": rounded(whole.total_bpd),
        "terms": {"timesteps": whole.timesteps.tolist(), "bpd": rounded(terms_bpd.mean(0))},
    }
