"""The names of the schedulers that sample from these models, and what people call them."""

import difflib
import re
from collections.abc import Sequence

from ddpm_cars.errors import UserError

SCHEDULERS = (
    "DDPMCarsScheduler",
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
"""The schedulers that sample from these models: that of this package, and those classes of diffusers that fit."""
_SCHEDULERS = {name.removesuffix("Scheduler").lower(): name for name in SCHEDULERS} | {
    "ddpm": "DDPMCarsScheduler",
    "ancestral": "DDPMCarsScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "dpm++": "DPMSolverMultistepScheduler",
    "dpm++2m": "DPMSolverMultistepScheduler",
    "dpm++sde": "DPMSolverSDEScheduler",
    "dpmpp": "DPMSolverMultistepScheduler",
    "dpmpp2m": "DPMSolverMultistepScheduler",
    "dpmsolver": "DPMSolverMultistepScheduler",
    "dpmsolver++": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "eulera": "EulerAncestralDiscreteScheduler",
    "eulerancestral": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "lms": "LMSDiscreteScheduler",
    "plms": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "deis": "DEISMultistepScheduler",
}
"""What people call schedulers, in small letters."""


def check_scheduler(wrong: str, name: str, others: Sequence[str] = ()) -> None:
    """Raise UserError, which begins with `wrong`, if a name is none of SCHEDULERS or `others`."""
    if name in (*SCHEDULERS, *others):
        return
    known = _SCHEDULERS | {other: other for other in others}
    plain = re.sub(r"[^a-z0-9+]|sch[a-z]*$", "", name.lower())
    similar = difflib.get_close_matches(name, others, n=1) or difflib.get_close_matches(plain, known, n=1, cutoff=0.7)
    kind = "is no scheduler for these models"
    if plain not in known and name not in others and _is_of_other_models(plain):
        kind, similar = "is a scheduler of diffusers for other models", []
    if similar:
        raise UserError(f"{wrong} {name}, which is no scheduler for these models; did you mean {known[similar[0]]}?")
    raise UserError(f"{wrong} {name}, which {kind}; choose one of {', '.join((*others, *SCHEDULERS))}")


def _is_of_other_models(plain: str) -> bool:
    """Return whether a plain name is how a class of diffusers begins (flowmatcheuler), and none of SCHEDULERS."""
    # It takes a while to import, and few need it.
    import diffusers

    names = [name.lower() for name in dir(diffusers) if name.endswith("Scheduler") and name not in SCHEDULERS]
    is_ours = any(name.startswith(plain) for name in _SCHEDULERS)
    return len(plain) > 2 and not is_ours and any(name.startswith(plain) for name in names)
