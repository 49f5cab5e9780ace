"""Denoising diffusion probabilistic models (Ho et al. 2020) as a diffusers plugin."""

import sys
from importlib import import_module, util
from importlib.machinery import ModuleSpec
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ddpm_cars.config.commands import CalibrateConfig, EvaluateConfig, SampleConfig
    from ddpm_cars.config.training import TrainingConfig
    from ddpm_cars.diffusion.calibration import calibrate, fit_init_noise
    from ddpm_cars.evaluation.evaluate import evaluate
    from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
    from ddpm_cars.sampling.calibrate import calibrate_folder
    from ddpm_cars.sampling.sample import sample
    from ddpm_cars.scheduling_ddpm_cars import DDPMCarsScheduler
    from ddpm_cars.training.trainer import train

__version__ = "0.1.0"
__all__ = [
    "CalibrateConfig",
    "DDPMCarsPipeline",
    "DDPMCarsScheduler",
    "EvaluateConfig",
    "SampleConfig",
    "TrainingConfig",
    "calibrate",
    "calibrate_folder",
    "evaluate",
    "fit_init_noise",
    "pretrained",
    "sample",
    "train",
]

_LOCK = RLock()
_TO_RUN: dict[str, ModuleSpec] = {}
_HOMES = {
    "CalibrateConfig": "config.commands",
    "DDPMCarsPipeline": "pipeline_ddpm_cars",
    "DDPMCarsScheduler": "scheduling_ddpm_cars",
    "EvaluateConfig": "config.commands",
    "SampleConfig": "config.commands",
    "TrainingConfig": "config.training",
    "calibrate": "diffusion.calibration",
    "calibrate_folder": "sampling.calibrate",
    "evaluate": "evaluation.evaluate",
    "fit_init_noise": "diffusion.calibration",
    "sample": "sampling.sample",
    "train": "training.trainer",
}


def pretrained() -> Path:
    """Return the folder of the small model that comes with the package, trained on cars that the package draws."""
    return Path(__file__).parent / "pretrained"


def __getattr__(name: str) -> Any:
    # Torch and diffusers take seconds to import, for which `ddpm-cars --help` and mistakes in a command do not wait.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _OnDemand(ModuleType):
    """A module that runs when something that it defines is used first."""

    def __getattr__(self, name: str) -> Any:
        # Torch asks all modules for names such as __file__ while it is imported itself; `import *` asks for __all__.
        if name == "__all__" or not name.startswith("__"):
            self._run()
            if name in vars(self):
                return vars(self)[name]
        raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")

    def __dir__(self) -> list[str]:
        self._run()
        return list(vars(self))

    def _run(self) -> None:
        with _LOCK:
            spec = _TO_RUN.pop(self.__name__, None)
            # A module that somebody has reloaded has run.
            if spec is None or "__all__" in vars(self):
                return
            try:
                spec.loader.exec_module(self)  # type: ignore[union-attr]
            except BaseException:
                vars(self).pop("__all__", None)
                _TO_RUN[self.__name__] = spec
                raise


def _register(name: str) -> ModuleType:
    name = f"{__name__}.{name}"
    # Where the package is being reloaded, its classes stay what they are.
    if (module := sys.modules.get(name)) is None:
        spec = util.find_spec(name)
        assert spec is not None
        module = sys.modules[name] = util.module_from_spec(spec)
        module.__class__ = _OnDemand
    if "__all__" not in vars(module) and module.__spec__ is not None:
        _TO_RUN[name] = module.__spec__
    return module


# Diffusers looks the classes of a saved pipeline up in modules that are imported already.
scheduling_ddpm_cars = _register("scheduling_ddpm_cars")
pipeline_ddpm_cars = _register("pipeline_ddpm_cars")
