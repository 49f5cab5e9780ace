"""The config of the scheduler as diffusers' `DDPMScheduler` would save it, so that it loads anywhere."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import logging

from ddpm_cars.portable.noise_schedules import are_scaled_betas
from ddpm_cars.portable.variances import CALIBRATED_VARIANCES

logger = logging.get_logger(__name__)

# What the training noise is made of, and what the model predicts. Other classes have other defaults for it.
SETTINGS_OF_THE_MODEL = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"),
    "rescale_betas_zero_snr",
)
# What the constructor of diffusers' class lacks.
OWN_DEFAULTS = {"scale_betas_for_timesteps": False, "max_last_noise_grey_levels": 1.0}
# Options of other schedulers that change the noise levels themselves, and the one value that leaves them alone.
NOT_IMPLEMENTED = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
    "use_lu_lambdas": False,
    "snr_shift_scale": 1.0,
    "timestep_type": "discrete",
}
# An entry that other classes pass over and hand on. It holds what they lack, and the path of the class that has it.
SAVED_ENTRY = "_ddpm_cars"
SAVED_CLASS = "ddpm_cars.scheduling_ddpm_cars.DDPMCarsScheduler"
STAND_IN_VARIANCE = "fixed_small"


class ConfigWithOwnEntry(FrozenDict):
    """A config with a private entry for the settings that only this class has, where they are not the default."""

    def __missing__(self, name: str) -> Any:
        return (self.get(SAVED_ENTRY) or {}).get(name, OWN_DEFAULTS[name])

    def __getattr__(self, name: str) -> Any:
        if name in OWN_DEFAULTS:
            return self[name]
        raise AttributeError(f"the config has no {name!r}")


class StockConfigMixin(SchedulerMixin, ConfigMixin):
    """A scheduler whose config is that of diffusers' `DDPMScheduler` and an entry for what that class lacks."""

    @property
    def _internal_dict(self) -> ConfigWithOwnEntry:
        """The config, which diffusers writes here, and so do pipelines that correct old configs."""
        try:
            return self.__dict__["_internal_dict"]
        except KeyError:
            raise AttributeError("the config is not there yet") from None

    @_internal_dict.setter
    def _internal_dict(self, config: Mapping[str, Any]) -> None:
        settings = {name: _as_json(value) for name, value in config.items()}
        kept = settings.pop(SAVED_ENTRY, None) or {}
        own = {k: settings.pop(k, kept.get(k, default)) for k, default in OWN_DEFAULTS.items()}
        own = {k: v for k, v in own.items() if v != OWN_DEFAULTS[k]}
        if own:
            settings[SAVED_ENTRY] = {"class": SAVED_CLASS, **own}
        # What is listed here is not handed on; diffusers also lists values that were given by position.
        defaults = {k: p.default for k, p in inspect.signature(type(self).__init__).parameters.items()}
        listed = set(settings.pop("_use_default_values", ())).difference(SETTINGS_OF_THE_MODEL)
        unsaid = [k for k in listed if _is_default(settings.get(k), defaults[k])]
        if unsaid:
            settings["_use_default_values"] = sorted(unsaid)
        self.__dict__["_internal_dict"] = ConfigWithOwnEntry(settings)

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a scheduler from the config of this or another class, as diffusers does; keywords win.

        Raises:
            NotImplementedError: If the config names noise levels that this class does not have, such as
                `use_karras_sigmas` or those of flow matching. Diffusers' class would ignore them.
        """
        if isinstance(config, Mapping):
            config = {name: _as_json(value) for name, value in config.items()}
            kwargs = {name: _as_json(value) for name, value in kwargs.items()}
            config = {**_restored_settings(config), **{k: kwargs.pop(k) for k in NOT_IMPLEMENTED if k in kwargs}}
            for name, implemented in NOT_IMPLEMENTED.items():
                if config.get(name) not in (None, implemented):
                    raise NotImplementedError(
                        f"The config has {name}={config[name]!r}, which {cls.__name__} does not implement; pass "
                        f"{name}={implemented!r} to sample without it."
                    )
            cls._check_has_betas(config)
            # What the other class has by default is what its model was trained with.
            unsaid = set(config.pop("_use_default_values", ())).difference(SETTINGS_OF_THE_MODEL)
            config["_use_default_values"] = sorted(unsaid)
            if config.get("variance_type", "") is None:
                # Other classes have none.
                config.pop("variance_type")
            if are_scaled_betas(config.get("trained_betas"), config):
                # They follow from the other settings, which may be about to change.
                config.pop("trained_betas")
            elif config.get("trained_betas") is not None:
                # Another class has taken them for what they are, whatever else has changed.
                config.pop("scale_betas_for_timesteps", None)
                _leave_out_betas_beyond_T(config)
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @classmethod
    def extract_init_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> tuple[dict, dict, dict]:
        """Sort a config as diffusers does, but tell the constructor of a start that was measured."""
        arguments, unused, hidden = super().extract_init_dict(config_dict, **kwargs)
        if "_init_noise" in hidden:
            arguments["_init_noise"] = hidden["_init_noise"]
        return arguments, unused, hidden

    @classmethod
    def _check_has_betas(cls, config: Mapping[str, Any]) -> None:
        if "beta_schedule" in config:
            return
        keys = [cls._get_init_keys(c) for c in (cls, *cls._get_compatibles())]
        known = set().union(*(names for names in keys if "beta_schedule" in names))
        foreign = sorted(name for name in config if not name.startswith("_") and name not in known)
        # In memory a config does not say whose it is.
        class_name = str(config.get("_class_name", ""))
        named = getattr(diffusers, class_name, None)
        if foreign or (named is not None and "beta_schedule" not in cls._get_init_keys(named)):
            raise NotImplementedError(
                f"The config has no beta_schedule but {foreign or sorted(config)}: its noise levels are not made of "
                f"betas, so {cls.__name__} cannot stand in for {class_name or 'its scheduler'}."
            )

    def to_json_string(self) -> str:
        """Return the config as saved: that of diffusers' DDPMScheduler, with an entry for what only this class has.

        Diffusers' class passes over the entry without a warning and samples with "fixed_small" in place of "analytic"
        and "spectral"; everything else is equal. `from_config` of this class reads the entry.
        """
        config = json.loads(super().to_json_string())
        own = config.pop(SAVED_ENTRY, {})
        if config["variance_type"] in CALIBRATED_VARIANCES:
            own["variance_type"], config["variance_type"] = config["variance_type"], STAND_IN_VARIANCE
        config |= {"_class_name": "DDPMScheduler", SAVED_ENTRY: {**own, "class": SAVED_CLASS}}
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def __repr__(self) -> str:
        # A calibration is thousands of numbers.
        settings = {k: "..." if k in ("_calibration", "_init_noise") else v for k, v in self.config.items()}
        return f"{type(self).__name__} {json.dumps(settings, indent=2, sort_keys=True, default=str)}"


def _restored_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the settings that `to_json_string` has put aside back in their places."""
    settings = dict(config)
    own = {k: v for k, v in (settings.pop(SAVED_ENTRY, None) or {}).items() if k != "class"}
    # Whoever has chosen another variance since, for diffusers' class, meant it.
    if settings.get("variance_type") != STAND_IN_VARIANCE:
        own.pop("variance_type", None)
    return {**settings, **own}


def _leave_out_betas_beyond_T(config: dict[str, Any]) -> None:
    """Bring `trained_betas` of a saved model down to its timesteps, as every class that samples from it reads them."""
    betas, T = config["trained_betas"], config.get("num_train_timesteps")
    # Rescaling would make other betas of the first ones alone.
    rescaled = config.get("rescale_betas_zero_snr")
    if isinstance(betas, list) and isinstance(T, int) and len(betas) > T >= 1 and not rescaled:
        logger.warning(
            f"The config has {len(betas)} trained_betas and {T} num_train_timesteps: the first {T} are used."
        )
        config["trained_betas"] = betas[:T]


def _as_json(value: Any) -> Any:
    """Return a value as JSON can hold it: lists and numbers instead of arrays and tensors."""
    if isinstance(value, dict):
        return {name: _as_json(part) for name, part in value.items()}
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return value.tolist()
    return [_as_json(part) for part in value] if isinstance(value, list | tuple) else value


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (not isinstance(value, list) and value == default)
