"""Denoising diffusion probabilistic models (Ho et al. 2020) as a diffusers plugin."""

import sys
from importlib import import_module, util
from importlib.machinery import ModuleSpec
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_cars.diffusion.calibration import calibrate, fit_init_noise
    from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
    from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler

__version__ = "0.1.0"
__all__ = ["DDPMCarsPipeline", "DDPMCarsScheduler", "calibrate", "fit_init_noise", "pretrained"]

_LOCK = RLock()
_TO_RUN: dict[str, ModuleSpec] = {}
_HOMES = {
    "DDPMCarsPipeline": "pipeline_ddpm_cars",
    "DDPMCarsScheduler": "scheduling_ddpm_cars",
    "calibrate": "diffusion.calibration",
    "fit_init_noise": "diffusion.calibration",
}


def pretrained() -> Path:
    """Return the folder of the small model that comes with the package, trained on cars that the package draws."""
    return Path(__file__).parent / "pretrained"


def __getattr__(name: str) -> Any:
    # Torch and diffusers take seconds to import, for which `ddpm-cars --help` and mistakes in a command do not wait.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


class _OnDemand(ModuleType):
    """A module that runs when something that it defines is used first."""

    def __getattr__(self, name: str) -> Any:
        # Torch asks all modules for names such as __file__ while it is imported itself.
        if not name.startswith("__"):
            with _LOCK:
                if spec := _TO_RUN.pop(self.__name__, None):
                    try:
                        spec.loader.exec_module(self)  # type: ignore[union-attr]
                    except BaseException:
                        _TO_RUN[self.__name__] = spec
                        raise
            if name in vars(self):
                return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")


def _register(name: str) -> ModuleType:
    spec = util.find_spec(f"{__name__}.{name}")
    assert spec is not None
    _TO_RUN[spec.name] = spec
    module = sys.modules[spec.name] = util.module_from_spec(spec)
    module.__class__ = _OnDemand
    return module


# Diffusers looks the classes of a saved pipeline up in modules that are imported already.
scheduling_ddpm_cars = _register("scheduling_ddpm_cars")
pipeline_ddpm_cars = _register("pipeline_ddpm_cars")
