"""The DDPM of Ho et al. 2020 as a diffusers scheduler; equation numbers refer to https://arxiv.org/abs/2006.11239.

The file stands alone: it needs torch, numpy and diffusers only, so that it can travel inside a model repository.

Paper symbols: `alpha_bar_t` is the product of `1 - beta` up to t, `s` the timestep that follows t in the sampling
chain (t - 1 when all T are used), `x_0` the clean and `x_t` the noised image, `eps` the noise between them.
"""

import inspect
import itertools
import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import diffusers
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.schedulers.scheduling_ddpm import DDPMSchedulerOutput
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor

logger = logging.get_logger(__name__)
_CPU = torch.device("cpu")

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]
TimestepSpacing = Literal["linspace", "leading", "trailing"]
VarianceType = Literal[
    "fixed_small",
    "fixed_small_log",
    "fixed_large",
    "fixed_large_log",
    "learned",
    "learned_range",
    "analytic",
    "spectral",
]
LEARNED_VARIANCES = ("learned", "learned_range")
CALIBRATED_VARIANCES = ("analytic", "spectral")
# These end at the same alpha_bar at any T.
_SCHEDULES_OF_ANY_T = ("squaredcos_cap_v2", "laplace")
# What the training noise is made of, and what the model predicts. Other classes have other defaults for it.
_OF_THE_MODEL = (
    *("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type"),
    "rescale_betas_zero_snr",
)
# What stock's constructor lacks.
_OWN_DEFAULTS = {"scale_betas_for_timesteps": False, "max_last_noise_grey_levels": 1.0}
# Options of other schedulers that change the noise levels themselves, and the one value that leaves them alone.
_NOT_IMPLEMENTED = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
    "use_lu_lambdas": False,
    "snr_shift_scale": 1.0,
    "timestep_type": "discrete",
}
# Saved configs are those of diffusers' DDPMScheduler, so that they load anywhere; this entry, which it passes over and
# hands on, holds what it lacks, under the path of the class that has it.
_SAVED_ENTRY = "_ddpm_cars"
_SAVED_CLASS = "ddpm_cars.scheduling_ddpm_cars.DDPMCarsScheduler"
_STAND_IN_VARIANCE = "fixed_small"
# Where alpha_bar_T exceeds this, N(0, I) is visibly not where the forward process ends.
_MAX_TERMINAL_ALPHA_BAR = 0.01


class _Step(NamedTuple):
    """What the reverse step t -> s needs: floats for one timestep, float64 arrays or tensors for many."""

    sqrt_alpha_bar: Any
    one_over_sqrt_alpha_bar: Any
    sqrt_one_minus_alpha_bar: Any
    x_0_weight: Any
    x_t_weight: Any
    beta_variance: Any
    beta_tilde_variance: Any
    noise_std: Any  # of the variances that are not learned; 0 where t has no successor
    successor: Any  # s, or -1


def _betas_from_alpha_bar(num_train_timesteps: int, alpha_bar: Any) -> np.ndarray:
    """beta_i = min(1 - alpha_bar((i + 1) / T) / alpha_bar(i / T), 0.999), Nichol & Dhariwal 2021, section 3.2."""
    u = [i / num_train_timesteps for i in range(num_train_timesteps + 1)]
    return np.array([min(1 - alpha_bar(b) / alpha_bar(a), 0.999) for a, b in itertools.pairwise(u)])


def _cosine_alpha_bar(u: float) -> float:
    return math.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2


def _laplace_alpha_bar(u: float) -> float:
    log_snr = -0.5 * math.copysign(1, 0.5 - u) * math.log(1 - 2 * abs(0.5 - u) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-log_snr)))


def _make_betas(beta_schedule: str, beta_start: float, beta_end: float, num_train_timesteps: int) -> np.ndarray:
    if beta_schedule == "linear":
        return np.linspace(beta_start, beta_end, num_train_timesteps)
    if beta_schedule == "scaled_linear":
        return np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps) ** 2
    if beta_schedule == "squaredcos_cap_v2":
        return _betas_from_alpha_bar(num_train_timesteps, _cosine_alpha_bar)
    if beta_schedule == "laplace":
        return _betas_from_alpha_bar(num_train_timesteps, _laplace_alpha_bar)
    if beta_schedule == "sigmoid":
        return beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-6, 6, num_train_timesteps)))
    raise NotImplementedError(f"beta_schedule is {beta_schedule!r}; choose one of {get_args(BetaSchedule)}")


def _scaled_betas(beta_schedule: str, beta_start: float, beta_end: float, num_train_timesteps: int) -> np.ndarray:
    betas = _make_betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
    if beta_schedule in _SCHEDULES_OF_ANY_T:
        return betas
    betas = betas * (1000 / num_train_timesteps)
    if betas.max() >= 1:
        raise ValueError(
            f"scale_betas_for_timesteps with {num_train_timesteps} timesteps makes a beta of {betas.max():.4g}, which "
            f"must be below 1: set num_train_timesteps above {1000 * beta_end:.4g}, or choose another beta_schedule."
        )
    return betas


def _rescale_zero_terminal_snr(betas: np.ndarray) -> np.ndarray:
    """Shift and scale sqrt(alpha_bar) so that it ends at 0 (Lin et al. 2023, arXiv:2305.08891, algorithm 1)."""
    root = np.sqrt(np.cumprod(1 - betas))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    alpha_bar = root**2
    return 1 - np.concatenate([alpha_bar[:1], alpha_bar[1:] / alpha_bar[:-1]])


def dct_matrix(size: int) -> np.ndarray:
    """Return the orthonormal DCT-II of `size` points: row k is the cosine of k half periods."""
    k, n = np.mgrid[:size, :size]
    matrix = np.sqrt(2 / size) * np.cos(np.pi * (n + 0.5) * k / size)
    matrix[0] /= np.sqrt(2)
    return matrix


def band_index(height: int, width: int, band_edges: Any) -> np.ndarray:
    """Number the radial band of every 2-D DCT mode (i, j) by its frequency, sqrt((i/H)^2 + (j/W)^2) / sqrt(2) < 1."""
    i, j = np.mgrid[:height, :width]
    # The edges pass through modes: without the allowance, rounding would decide on which side of one they fall.
    radius = np.hypot(i / height, j / width) / np.sqrt(2) * (1 + 1e-9)
    return np.searchsorted(np.asarray(band_edges)[1:-1], radius, side="right")


class _Config(FrozenDict):
    """A config that keeps settings which only this class has, where they differ from the default, in a private entry.

    Other classes pass over private entries without a word, and hand them on.
    """

    def __missing__(self, name: str) -> Any:
        default = _OWN_DEFAULTS[name]
        return (self.get(_SAVED_ENTRY) or {}).get(name, default)

    def __getattr__(self, name: str) -> Any:
        if name in _OWN_DEFAULTS:
            return self[name]
        raise AttributeError(f"the config has no {name!r}")


class DDPMCarsScheduler(SchedulerMixin, ConfigMixin):
    """Forward noising and ancestral sampling of a denoising diffusion probabilistic model.

    Forward (eq. 4): x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps. Reverse (eq. 6, 7, 15): x_s is drawn
    from N(mean(x_0_hat, x_t), sigma_t^2), and the last step, the one without a successor, adds no noise.

    Every table is float64. Tensors narrower than float32 are mixed in float32 and returned in their own dtype.
    The first arguments, their order and their defaults are those of `diffusers.DDPMScheduler`, so either loads the
    other's config. Settings that sampling can survive but that are probably a mistake are logged as warnings, since a
    scheduler may be handed the config of any pipeline.

    Args:
        num_train_timesteps: T, the number of noise levels, 1 or more.
        beta_start: The variance of the first noise step, in (0, 1).
        beta_end: The variance of the last noise step, in (0, 1).
        beta_schedule: How beta runs from `beta_start` to `beta_end`. "squaredcos_cap_v2" and "laplace" ignore both.
        trained_betas: T betas that replace the schedule.
        variance_type: sigma_t^2. "fixed_small" is (1 - alpha_bar_s) / (1 - alpha_bar_t) beta_t, exact when the data
            is one point; "fixed_large" is beta_t, exact when it is N(0, I); the `_log` forms name the same values.
            "learned" and "learned_range" read it from a second half of the model's output channels. "analytic" adds
            to fixed_small what x_0 still varies by given x_t (Bao et al. 2022, arXiv:2201.06503, theorem 1), and
            "spectral" does so for every band of spatial frequencies; both need `set_calibration`.
        clip_sample: Whether x_0_hat is clipped to [-clip_sample_range, clip_sample_range].
        prediction_type: What the model predicts: eps, x_0 or v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0.
        thresholding: Whether x_0_hat is thresholded per image instead (Saharia et al. 2022, arXiv:2205.11487).
        dynamic_thresholding_ratio: The quantile of |x_0_hat| that thresholding takes as the range, in [0, 1].
        clip_sample_range: The largest magnitude that clipping lets through, above 0.
        sample_max_value: The largest range that thresholding uses, 1 or more.
        timestep_spacing: Which timesteps a shorter chain visits (table 2 of arXiv:2305.08891).
        steps_offset: Added to the timesteps of "leading", 0 or more.
        rescale_betas_zero_snr: Whether alpha_bar_T is moved to exactly 0.
        scale_betas_for_timesteps: Whether the betas of "linear", "scaled_linear" and "sigmoid" are multiplied by
            1000 / T, so that any T ends as near to pure noise as 1000 does. The result is kept in the config as
            `trained_betas`, from which other schedulers get the same noise levels.
        max_last_noise_grey_levels: Bound on the mean magnitude of the last noise that "analytic" and "spectral" add,
            in steps of 1/255 of the range [-1, 1], above 0, as Bao et al. clip sigma_2; None for data that are not
            images.

    Raises:
        NotImplementedError: If `beta_schedule` is unknown.
        ValueError: If `num_train_timesteps` is below 1, `prediction_type` or `timestep_spacing` is unknown, scaled
            betas leave (0, 1), or other betas are given beside them.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: BetaSchedule = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        variance_type: VarianceType = "fixed_small",
        clip_sample: bool = True,
        prediction_type: PredictionType = "epsilon",
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        clip_sample_range: float = 1.0,
        sample_max_value: float = 1.0,
        timestep_spacing: TimestepSpacing = "leading",
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        scale_betas_for_timesteps: bool = False,
        max_last_noise_grey_levels: float | None = 1.0,
    ):
        if num_train_timesteps < 1:
            raise ValueError(f"num_train_timesteps is {num_train_timesteps}; it must be 1 or more.")
        for name, choices in (("prediction_type", PredictionType), ("timestep_spacing", TimestepSpacing)):
            if self.config[name] not in get_args(choices):
                raise ValueError(f"{name} is {self.config[name]!r}; choose one of {get_args(choices)}.")
        # beta_end above 1 makes square roots of negative numbers; stock carries the NaN along, and so does this.
        with np.errstate(all="ignore"):
            if scale_betas_for_timesteps:
                betas = _scaled_betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
                if trained_betas is not None and not np.array_equal(trained_betas, betas):
                    raise ValueError(
                        "trained_betas and scale_betas_for_timesteps=True are two noise schedules; to use the "
                        f"{len(trained_betas)} betas given, pass scale_betas_for_timesteps=False."
                    )
                # Before rescaling, which the classes that read the config do themselves.
                self.register_to_config(trained_betas=betas.tolist())
            elif trained_betas is not None:
                betas = np.array(trained_betas, dtype=np.float64)
            else:
                betas = _make_betas(beta_schedule, beta_start, beta_end, num_train_timesteps)
            if rescale_betas_zero_snr:
                betas = _rescale_zero_terminal_snr(betas)
            self._use_alpha_bar(np.cumprod(1 - betas))
        # Read by pipelines and training scripts, which expect float32; nothing here computes with them.
        self.betas = torch.from_numpy(betas).float()
        self.alphas = torch.from_numpy(1 - betas).float()
        self.one = torch.tensor(1.0)

        self.init_noise_sigma = 1.0
        self.variance_type = variance_type
        self.custom_timesteps = False
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self._warn_of_mistakes(betas)

    @property
    def _internal_dict(self) -> _Config:
        """The config, which diffusers writes here, and so do pipelines that correct old configs."""
        try:
            return self.__dict__["_internal_dict"]
        except KeyError:
            raise AttributeError("the config is not there yet") from None

    @_internal_dict.setter
    def _internal_dict(self, config: Mapping[str, Any]) -> None:
        settings = dict(config)
        kept = settings.pop(_SAVED_ENTRY, None) or {}
        own = {k: settings.pop(k, kept.get(k, default)) for k, default in _OWN_DEFAULTS.items()}
        own = {k: v for k, v in own.items() if v != _OWN_DEFAULTS[k]}
        if own:
            settings[_SAVED_ENTRY] = {"class": _SAVED_CLASS, **own}
        # What is listed here is not handed on; diffusers also lists values that were given by position.
        defaults = {k: p.default for k, p in inspect.signature(type(self).__init__).parameters.items()}
        listed = set(settings.pop("_use_default_values", ())).difference(_OF_THE_MODEL)
        unsaid = [k for k in listed if _is_default(settings.get(k), defaults[k])]
        if unsaid:
            settings["_use_default_values"] = sorted(unsaid)
        self.__dict__["_internal_dict"] = _Config(settings)

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """alpha_bar_t, float32 (T,); other values in it or for it, as some trainers give, replace the noise levels."""
        return self._alphas_cumprod

    @alphas_cumprod.setter
    def alphas_cumprod(self, alphas_cumprod: torch.Tensor) -> None:
        """Replace the noise levels, if these are others, and forget what was computed with them."""
        values = alphas_cumprod.detach().cpu()
        # A copy on another device, or in fewer digits, is no other schedule.
        if not torch.equal(values, torch.from_numpy(self._alpha_bar).to(values.dtype)):
            self._use_alpha_bar(values.double().numpy())
        self._alphas_cumprod, self._alphas_cumprod_version = alphas_cumprod, _version(alphas_cumprod)

    @property
    def alphas_cumprod_float64(self) -> np.ndarray:
        """alpha_bar_t in full precision, as everything here computes with it: float64 (T,) in [0, 1], read-only."""
        self._see_edited_alphas_cumprod()
        view = self._alpha_bar.view()
        view.flags.writeable = False
        return view

    def _see_edited_alphas_cumprod(self) -> None:
        if _is_edited(self._alphas_cumprod, self._alphas_cumprod_version):
            self.alphas_cumprod = self._alphas_cumprod

    def _use_alpha_bar(self, alpha_bar: np.ndarray) -> None:
        self._alpha_bar = alpha_bar
        self._alphas_cumprod = torch.from_numpy(alpha_bar).float()
        self._alphas_cumprod_version = _version(self._alphas_cumprod)
        self._tables_for: tuple[Any, ...] | None = None
        self._timesteps_version: int | None = None
        self._constants: dict[tuple[str, torch.device, torch.dtype | None], torch.Tensor] = {}
        with np.errstate(all="ignore"):
            self._keep("marginal", np.sqrt(np.stack([alpha_bar, 1 - alpha_bar])))

    def _warn_of_mistakes(self, betas: np.ndarray) -> None:
        config, T, alpha_bar_T = self.config, len(betas), float(self._alpha_bar[-1])
        if config.num_train_timesteps != T:
            logger.warning(
                f"trained_betas has {T} values and num_train_timesteps is {config.num_train_timesteps}: set it to {T}."
            )
        if config.variance_type not in get_args(VarianceType):
            known = get_args(VarianceType)
            logger.warning(f"variance_type is {config.variance_type!r}, not one of {known}: using 'fixed_small'.")
        # Zero terminal SNR makes the last beta 1. NaN is not in order either.
        if not (betas.min() > 0 and betas[:-1].max(initial=0) < 1 and betas[-1] <= 1):
            logger.warning(
                f"The betas run from {betas.min():.4g} to {betas.max():.4g}, but must be inside (0, 1): sampling will "
                "give NaN. Check beta_start, beta_end and trained_betas."
            )
        elif alpha_bar_T > _MAX_TERMINAL_ALPHA_BAR and config.get("_init_noise") is None:
            scales = config.trained_betas is None and config.beta_schedule not in _SCHEDULES_OF_ANY_T
            cure = "rescale_betas_zero_snr=True and v_prediction"
            if scales:
                fits = betas.max() * 1000 < T
                cure = "scale_betas_for_timesteps=True" if fits else "beta_schedule='squaredcos_cap_v2'"
            logger.warning(
                f"With these {T} timesteps alpha_bar_T is {alpha_bar_T:.3g}, a signal-to-noise ratio of "
                f"{alpha_bar_T / (1 - alpha_bar_T):.3g}: noising does not end in N(0, I), where sampling starts, so "
                f"samples turn grey. Train with {cure}; for a model that is already trained, "
                "ddpm_cars.fit_init_noise measures the noise to start from."
            )
        elif alpha_bar_T == 0 and config.prediction_type == "epsilon":
            logger.warning(
                "At zero terminal SNR (rescale_betas_zero_snr) x_T holds nothing of x_0, so a model that predicts "
                "epsilon cannot take the first step: use prediction_type 'v_prediction' or 'sample'."
            )

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """Build a scheduler from the config of this or another class, as diffusers does; keywords win.

        Raises:
            NotImplementedError: If the config names noise levels that this class does not have, such as
                `use_karras_sigmas` or those of flow matching. Stock would build a plain DDPM in their place.
        """
        if isinstance(config, Mapping):
            config = {**_restored_settings(config), **{k: kwargs.pop(k) for k in _NOT_IMPLEMENTED if k in kwargs}}
            for name, implemented in _NOT_IMPLEMENTED.items():
                if config.get(name) not in (None, implemented):
                    raise NotImplementedError(
                        f"The config has {name}={config[name]!r}, which {cls.__name__} does not implement; pass "
                        f"{name}={implemented!r} to sample without it."
                    )
            cls._check_has_betas(config)
            # What the other class has by default is what its model was trained with.
            unsaid = set(config.pop("_use_default_values", ())).difference(_OF_THE_MODEL)
            config["_use_default_values"] = sorted(unsaid)
            if config.get("variance_type", "") is None:
                # Other classes have none.
                config.pop("variance_type")
            if _are_scaled_betas(config.get("trained_betas"), config):
                # They follow from the other settings, which may be about to change.
                config.pop("trained_betas")
            elif config.get("trained_betas") is not None:
                # Another class has taken them for what they are, whatever else has changed.
                config.pop("scale_betas_for_timesteps", None)
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

        Stock, which passes over the entry without a warning, samples with "fixed_small" in place of "analytic" and
        "spectral"; everything else is equal. `from_config` of this class reads the entry.
        """
        config = json.loads(super().to_json_string())
        own = config.pop(_SAVED_ENTRY, {})
        if config["variance_type"] in CALIBRATED_VARIANCES:
            own["variance_type"], config["variance_type"] = config["variance_type"], _STAND_IN_VARIANCE
        config |= {"_class_name": "DDPMScheduler", _SAVED_ENTRY: {**own, "class": _SAVED_CLASS}}
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    def __repr__(self) -> str:
        # A calibration is thousands of numbers.
        settings = {k: "..." if k in ("_calibration", "_init_noise") else v for k, v in self.config.items()}
        return f"{type(self).__name__} {json.dumps(settings, indent=2, sort_keys=True, default=str)}"

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    def scale_model_input(self, sample: torch.Tensor, timestep: int | torch.Tensor | None = None) -> torch.Tensor:
        """Return `sample` as it is: the variance of x_t needs no scaling.

        Args:
            sample: x_t, any shape and dtype.
            timestep: Not used; it is here because other schedulers need it.
        """
        return sample

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: list[int] | None = None,
    ) -> None:
        """Choose the strictly descending timesteps that sampling visits.

        Args:
            num_inference_steps: How many, in [1, T], spaced as `timestep_spacing` says.
            device: Where `self.timesteps` goes; None leaves it on the CPU.
            timesteps: The timesteps themselves, strictly descending integers in [0, T - 1].

        Raises:
            ValueError: If not exactly one of the two is given, a value is out of its range, or the order is wrong.
        """
        T = self.config.num_train_timesteps
        if timesteps is not None and num_inference_steps is None:
            chosen = np.array(timesteps).astype(np.int64)
            if not np.array_equal(chosen, timesteps):
                raise ValueError(f"`timesteps` must be whole numbers, got {list(timesteps)}.")
            if chosen.size == 0 or np.any(np.diff(chosen) >= 0):
                raise ValueError(f"`timesteps` must be in descending order without repeats, got {list(timesteps)}.")
            if chosen[0] >= T or chosen[-1] < 0:
                raise ValueError(f"`timesteps` must start before `num_train_timesteps`: {T} and end at 0 or later.")
        elif num_inference_steps is not None and timesteps is None:
            if not 1 <= num_inference_steps <= T or int(num_inference_steps) != num_inference_steps:
                raise ValueError(
                    f"`num_inference_steps` is {num_inference_steps}; it must be a whole number from 1 to {T}, the "
                    "number of timesteps that the model was trained with (`num_train_timesteps`)."
                )
            chosen = self._spaced_timesteps(int(num_inference_steps))
        else:
            raise ValueError("Pass exactly one of `num_inference_steps` and `timesteps` to set_timesteps.")
        self.custom_timesteps = timesteps is not None
        self.num_inference_steps = len(chosen)
        self.timesteps = torch.from_numpy(chosen).to(device)
        self._refresh_tables(chosen)
        for name in {name for name, *_ in list(self._constants)}:
            self._constant(name, self.timesteps.device)

    def _spaced_timesteps(self, n: int) -> np.ndarray:
        T, spacing = self.config.num_train_timesteps, self.config.timestep_spacing
        if spacing == "linspace":
            return np.linspace(0, T - 1, n).round()[::-1].astype(np.int64)
        if spacing == "leading":
            ratio = T // n
            # An offset that would leave [0, T - 1] is cut to what fits.
            offset = min(self.config.steps_offset, T - 1 - (n - 1) * ratio)
            return np.arange(n - 1, -1, -1) * ratio + offset
        # "trailing". Rounding errors may make one more, which would be -1.
        return np.round(np.arange(T, 0, -T / n)[:n]).astype(np.int64) - 1

    def set_calibration(self, calibration: dict[str, Any] | None) -> None:
        """Install what "analytic" and "spectral" need to know of the model; `ddpm_cars.calibrate` measures it.

        Gamma_t of arXiv:2201.06503 is 1 - eps_mse at t. It is kept in the config, and so survives saving, loading and
        the config of every other scheduler.

        Args:
            calibration: JSON values, or None to forget: "num_train_timesteps" (T); "timesteps", K ascending integers
                in [0, T - 1]; "alphas_cumprod", alpha_bar there; "eps_mse", K times E (eps - eps_hat)^2 per
                dimension, in [0, 1]; "data_variance", that of x_0, which may be missing up to 1. For "spectral" also
                "sample_size" [H, W]; "band_edges", B + 1 ascending radial frequencies from 0 to 1; "colour_axes", C
                orthonormal rows of C; "band_variance", the variance of the data (C, B); "band_eps_mse" (K, C, B).

        Raises:
            ValueError: If it was measured with another T or another noise schedule.
        """
        if calibration is not None:
            self._check_calibration(calibration)
        self.register_to_config(_calibration=calibration)
        self._tables_for = None

    def _check_calibration(self, calibration: Mapping[str, Any]) -> None:
        T, measured_T = self.config.num_train_timesteps, calibration["num_train_timesteps"]
        if measured_T != T:
            raise ValueError(f"The calibration was measured with {measured_T} timesteps, not {T}: calibrate again.")
        t, measured = np.asarray(calibration["timesteps"]), np.asarray(calibration["alphas_cumprod"])
        for name in ("alphas_cumprod", "eps_mse", "band_eps_mse"):
            if len(calibration.get(name, t)) != len(t):
                raise ValueError(
                    f"The calibration has {len(t)} timesteps but {len(calibration[name])} values of {name}: both must "
                    "be as many."
                )
        wrong = t[~np.isclose(self._alpha_bar[t], measured, rtol=1e-4, atol=1e-12)]
        if wrong.size:
            raise ValueError(
                f"The calibration was measured with another noise schedule (alphas_cumprod differs at timestep "
                f"{wrong[0]}): calibrate again."
            )

    def original_sample_variance(self) -> np.ndarray:
        """Return Var(x_0 | x_t) per dimension at every timestep, as the calibration measured it.

        It is what "analytic" samples with, and the mean squared error that is expected of x_0_hat.

        Returns:
            float64 (T,), 0 or more: at most 1, or the variance of the data where that is larger.

        Raises:
            ValueError: If the scheduler has no calibration, or one of other noise levels.
        """
        calibration = self.config.get("_calibration")
        if calibration is None:
            raise ValueError(
                "The scheduler has no calibration, which says how far x_0_hat is from x_0: measure it with "
                "ddpm_cars.calibrate(unet, images, scheduler)."
            )
        self._see_edited_alphas_cumprod()
        self._check_calibration(calibration)
        return self._bounded_x_0_variance(np.arange(len(self._alpha_bar)), calibration)

    @property
    def noise_std(self) -> np.ndarray:
        """sigma_t of every step of the chain, float64 (n,) in the order of `timesteps`, 0 for the last one.

        A learned variance is not known beforehand; it counts as "fixed_small". "spectral" counts as "analytic", of
        which its bands are corrections.

        Raises:
            ValueError: If the variance needs a calibration that is missing or does not fit.
        """
        self._refresh_tables()
        return np.array([step.noise_std for step in self._steps.values()])

    def _calibration(self) -> Mapping[str, Any]:
        calibration = self.config.get("_calibration")
        variance_type = self.config.variance_type
        if calibration is None:
            raise ValueError(
                f"variance_type {variance_type!r} depends on the model: measure it with "
                "ddpm_cars.calibrate(unet, images, scheduler), or sample with 'fixed_small'."
            )
        if variance_type == "spectral" and "band_eps_mse" not in calibration:
            raise ValueError("The calibration has no bands, which 'spectral' needs: calibrate again with num_bands.")
        self._check_calibration(calibration)
        return calibration

    def _x_0_variance(self, t: np.ndarray, known: np.ndarray, eps_mse: Any) -> np.ndarray:
        """Return Var(x_0 | x_t) = (1 - alpha_bar) / alpha_bar eps_mse at every t from eps_mse, (K, ...), at `known`.

        It follows from x_0 = (x_t - sqrt(1 - alpha_bar) eps) / sqrt(alpha_bar) (eq. 4). Between known timesteps the
        variance of Gaussian data with the same eps_mse is interpolated, which is exact for such data.
        """
        has_signal = self._alpha_bar[known] > 0
        known, alpha_bar = known[has_signal], self._alpha_bar[known[has_signal]]
        mse = np.clip(np.asarray(eps_mse, dtype=np.float64)[has_signal], 1e-12, 1 - 1e-12)
        columns = mse.reshape(len(known), -1).T
        data_variance = [np.log(m / (1 - m)) - np.log(alpha_bar / (1 - alpha_bar)) for m in columns]
        data_variance = np.exp([np.interp(t, known, log_v) for log_v in data_variance]).T
        alpha_bar_t = self._alpha_bar[t][:, None]
        variance = data_variance * (1 - alpha_bar_t) / (alpha_bar_t * data_variance + 1 - alpha_bar_t)
        return variance.reshape(len(t), *mse.shape[1:])

    def _bounded_x_0_variance(self, t: np.ndarray, calibration: Mapping[str, Any]) -> np.ndarray:
        variance = self._x_0_variance(t, np.asarray(calibration["timesteps"]), calibration["eps_mse"])
        # A posterior never varies by more than the data, and images in [-1, 1] by no more than 1.
        return np.clip(variance, 0, max(1.0, calibration.get("data_variance", 1.0)))

    def _calibrated_std(self, t: np.ndarray, steps: _Step, x_0_variance: np.ndarray) -> np.ndarray:
        """Return sigma of every step (arXiv:2201.06503, theorem 1) for one or many x_0 variances per step."""
        columns = (steps.beta_tilde_variance, steps.x_0_weight, steps.successor)
        beta_tilde, x_0_weight, s = (column.reshape(-1, *[1] * (x_0_variance.ndim - 1)) for column in columns)
        std = np.sqrt(beta_tilde + x_0_weight**2 * x_0_variance)
        if self.config.max_last_noise_grey_levels is not None and len(t) > 1:
            # E|z| is sqrt(2 / pi), and a grey level is 2 / 255.
            bound = self.config.max_last_noise_grey_levels * 2 / 255 * math.sqrt(math.pi / 2)
            std[-2] = np.minimum(std[-2], bound)
        return np.where(s >= 0, std, 0.0)

    def _refresh_tables(self, chosen: np.ndarray | None = None) -> None:
        """Compute the coefficients of every chosen step, once for each value of `self.timesteps`."""
        config = self.config
        self._see_edited_alphas_cumprod()
        # A config may be changed in place, and `timesteps` too, or assigned.
        key = (self.timesteps, config.variance_type, config.get("_calibration"), config.max_last_noise_grey_levels)
        same = self._tables_for is not None and all(a is b for a, b in zip(key, self._tables_for, strict=True))
        if same and not _is_edited(self.timesteps, self._timesteps_version):
            return
        # Timesteps that somebody assigned have to be read; this waits for their device, once.
        t = self.timesteps.cpu().numpy() if chosen is None else chosen
        s = np.append(t[1:], -1)
        with np.errstate(all="ignore"):
            alpha_bar_t = self._alpha_bar[t]
            alpha_bar_s = np.where(s >= 0, self._alpha_bar[s], 1.0)
            alpha = alpha_bar_t / alpha_bar_s
            beta = 1 - alpha
            # Its logarithm is taken, hence the bound away from 0.
            beta_tilde = np.maximum((1 - alpha_bar_s) / (1 - alpha_bar_t) * beta, 1e-20)
            fixed_variance = beta if str(config.variance_type).startswith("fixed_large") else beta_tilde
            steps = _Step(
                sqrt_alpha_bar=np.sqrt(alpha_bar_t),
                one_over_sqrt_alpha_bar=1 / np.sqrt(alpha_bar_t),
                sqrt_one_minus_alpha_bar=np.sqrt(1 - alpha_bar_t),
                x_0_weight=np.sqrt(alpha_bar_s) * beta / (1 - alpha_bar_t),
                x_t_weight=np.sqrt(alpha) * (1 - alpha_bar_s) / (1 - alpha_bar_t),
                beta_variance=beta,
                beta_tilde_variance=beta_tilde,
                noise_std=np.where(s >= 0, np.sqrt(fixed_variance), 0.0),
                successor=s,
            )
        if config.variance_type in CALIBRATED_VARIANCES:
            steps = self._with_calibrated_noise(t, steps)
        rows = zip(*(column.tolist() for column in steps), strict=True)
        self._steps = {i: _Step(*row) for i, row in zip(t.tolist(), rows, strict=True)}
        # The same for timesteps that live on a device.
        self._keep("steps", self._scattered(t, np.stack(steps).T))
        self._tables_for, self._timesteps_version = key, _version(self.timesteps)

    def _with_calibrated_noise(self, t: np.ndarray, steps: _Step) -> _Step:
        calibration = self._calibration()
        known = np.asarray(calibration["timesteps"])
        x_0_variance = self._bounded_x_0_variance(t, calibration)
        steps = steps._replace(noise_std=self._calibrated_std(t, steps, x_0_variance))
        if self.config.variance_type == "spectral":
            x_0_variance = self._x_0_variance(t, known, calibration["band_eps_mse"])
            # A posterior never varies by more than the data.
            x_0_variance = np.minimum(x_0_variance, np.asarray(calibration["band_variance"]))
            band_std = self._calibrated_std(t, steps, x_0_variance)
            # Kept as what the bands add to the white noise, so that equal bands are "analytic" to the bit.
            offset = band_std - steps.noise_std[:, None, None]
            self._keep("band_offset_std", self._scattered(t, offset))
            height, width = calibration["sample_size"]
            self._keep("band_index", band_index(height, width, calibration["band_edges"]).ravel())
            self._keep("dct_rows", dct_matrix(height))
            self._keep("dct_columns", dct_matrix(width))
            self._keep("colour_axes", np.array(calibration["colour_axes"], dtype=np.float64))
        return steps

    def _scattered(self, t: np.ndarray, rows: np.ndarray) -> np.ndarray:
        # NaN marks timesteps that were not chosen: a lookup on a device cannot raise without waiting for it.
        table = np.full((self.config.num_train_timesteps, *rows.shape[1:]), np.nan)
        table[t] = rows
        return table

    def _keep(self, name: str, table: np.ndarray) -> None:
        # In one assignment: other threads read.
        others = {k: v for k, v in list(self._constants.items()) if k[0] != name}
        self._constants = {**others, (name, _CPU, None): torch.from_numpy(table)}

    def _constant(self, name: str, device: torch.device, dtype: torch.dtype | None = None) -> torch.Tensor:
        """Return a table on `device`, where it stays, in its own dtype or another."""
        constants, key = self._constants, (name, device, dtype)
        if key not in constants:
            table = constants[name, _CPU, None]
            # Apple's devices have no float64.
            narrow = device.type == "mps" and table.dtype == torch.float64
            constants[key] = table.to(device, dtype or (torch.float32 if narrow else table.dtype))
        return constants[key]

    def _as_number(self, timestep: Any) -> Any:
        """Return a timestep that all samples share as a number, if that needs no waiting for its device."""
        if not isinstance(timestep, torch.Tensor):
            return timestep
        # Reading it would wait for its device, or break a compiled graph.
        if timestep.device.type != "cpu" or torch.compiler.is_compiling():
            return timestep
        if timestep.ndim == 0:
            return timestep.item()
        for number in timestep.flatten().tolist():
            self._check_chosen(number)
        return timestep

    def _check_chosen(self, number: float) -> None:
        if number not in self._steps:
            chosen = self.timesteps.tolist()
            raise ValueError(
                f"timestep {number} is not one of the {len(chosen)} that sampling visits ({chosen[0]} ... "
                f"{chosen[-1]}); choose them with set_timesteps."
            )

    def _step_at(self, timestep: Any, ndim: int, device: torch.device | None = None) -> _Step:
        """Look up the coefficients of the step that starts at `timestep`, shaped to multiply `ndim`-d samples."""
        self._refresh_tables()
        timestep = self._as_number(timestep)
        if not isinstance(timestep, torch.Tensor):
            self._check_chosen(timestep)
            return self._steps[timestep]
        timestep = timestep.to(device or timestep.device)
        # Indexing with brackets would read a 0-d timestep as a number.
        rows = self._constant("steps", timestep.device).index_select(0, timestep.long().flatten())
        return _Step(*rows.T.reshape(-1, *timestep.shape, *[1] * (ndim - 1 if timestep.ndim else 0)))

    def previous_timestep(self, timestep: int | torch.Tensor) -> torch.Tensor:
        """Return the timestep that follows `timestep` in the sampling chain, -1 after the last one.

        Args:
            timestep: One of `self.timesteps`: an int, or an integer tensor of shape () or (batch,).

        Returns:
            An int64 tensor of the shape and on the device of `timestep`.

        Raises:
            ValueError: If a timestep on the CPU is not one of `self.timesteps`.
        """
        successor = self._step_at(timestep, ndim=1).successor
        return torch.as_tensor(successor).long()

    def _get_variance(
        self,
        t: int | torch.Tensor,
        predicted_variance: torch.Tensor | None = None,
        variance_type: str | None = None,
    ) -> torch.Tensor | None:
        """Return what stock's method of this name returns; sampling here does not use it.

        Its kind depends on the type: a standard deviation for "fixed_small_log", a log variance for
        "learned_range", else a variance. "fixed_large_log" gives the variance too, where stock's is not usable.
        """
        step = self._step_at(t, ndim=1)
        variance_type = variance_type or self.config.variance_type
        if variance_type == "learned":
            return predicted_variance
        if variance_type == "learned_range":
            return _interpolated_log_variance(step, predicted_variance)
        value = step.beta_variance if variance_type.startswith("fixed_large") else step.beta_tilde_variance
        if variance_type == "fixed_small_log":
            value = value**0.5
        return torch.as_tensor(value, dtype=torch.float32)

    def _threshold_sample(self, sample: torch.Tensor) -> torch.Tensor:
        """Clip each image to its own quantile range [-q, q] and divide by q >= 1 (arXiv:2205.11487, section 2.3)."""
        magnitudes = sample.to(torch.promote_types(sample.dtype, torch.float32)).abs().flatten(1)
        q = torch.quantile(magnitudes, self.config.dynamic_thresholding_ratio, dim=1)
        q = q.clamp(1, self.config.sample_max_value).view(-1, *[1] * (sample.ndim - 1)).to(sample.dtype)
        return sample.clamp(-q, q) / q

    def predict_original_sample(
        self, model_output: torch.Tensor, timesteps: int | torch.Tensor, sample: torch.Tensor, clip: bool = True
    ) -> torch.Tensor:
        """Return x_0_hat, what the output of a model says of the clean image.

        From eps_hat, x_0_hat = (x_t - sqrt(1 - alpha_bar_t) eps_hat) / sqrt(alpha_bar_t) (eq. 15); from v,
        x_0_hat = sqrt(alpha_bar_t) x_t - sqrt(1 - alpha_bar_t) v (Salimans & Ho 2022, appendix D).

        Args:
            model_output: What the model predicts from x_t, as `prediction_type` says, the shape of `sample`, without
                a learned variance, floating point.
            timesteps: t, any in [0, T - 1]: a number, or an integer tensor of shape () or (batch,).
            sample: x_t, shape (batch, ...), floating point.
            clip: Whether x_0_hat is clipped or thresholded where the config says so.

        Returns:
            x_0_hat in the wider dtype of the two inputs.

        Raises:
            ValueError: If `timesteps` are no integers.
        """
        dtype = torch.promote_types(sample.dtype, model_output.dtype)
        x_t = sample.to(torch.promote_types(dtype, torch.float32))
        a: Any
        b: Any
        if isinstance(timesteps, torch.Tensor):
            a, b = self.signal_and_noise_scales(timesteps, x_t)
            one_over_a = a.reciprocal()
        else:
            alpha_bar = float(self.alphas_cumprod_float64[timesteps])
            a, b = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
            one_over_a = 1 / a if a else math.inf
        return self._predict_x_0(model_output.to(x_t.dtype), x_t, a, one_over_a, b, clip).to(dtype)

    def _predict_x_0(
        self, model_output: torch.Tensor, x_t: torch.Tensor, a: Any, one_over_a: Any, b: Any, clip: bool = True
    ) -> torch.Tensor:
        config = self.config
        if config.prediction_type == "epsilon":  # eq. 15
            x_0_hat = _plus(x_t, -b, model_output).mul_(one_over_a)
        elif config.prediction_type == "v_prediction":
            x_0_hat = _plus(a * x_t, -b, model_output)
        else:
            x_0_hat = model_output
        if not clip:
            return x_0_hat
        if config.thresholding:
            return self._threshold_sample(x_0_hat)
        if config.clip_sample:
            # The model's own output is not ours to change.
            clamp = torch.clamp if x_0_hat is model_output else torch.clamp_
            return clamp(x_0_hat, -config.clip_sample_range, config.clip_sample_range)
        return x_0_hat

    def _scale_noise(self, noise: torch.Tensor, step: _Step, timestep: Any, predicted_variance: Any) -> torch.Tensor:
        """Return sigma_t z in the memory of z where that is possible."""
        if predicted_variance is not None:
            if self.config.variance_type == "learned":
                std = predicted_variance**0.5
            else:
                std = torch.exp(0.5 * _interpolated_log_variance(step, predicted_variance))
            # What is not finite in the last step, which -1 marks, is not used either.
            if isinstance(step.successor, torch.Tensor):
                std = std.masked_fill(step.successor < 0, 0)
            elif step.successor < 0:
                std = torch.zeros_like(std)
            return std * noise
        if self.config.variance_type == "spectral":
            return self._band_noise(timestep, noise) + step.noise_std * noise
        return noise.mul_(step.noise_std)

    def _band_noise(self, timestep: Any, noise: torch.Tensor) -> torch.Tensor:
        """Return IDCT(offset_std DCT(noise)) over space and colour axes: what the bands add to the white noise."""
        device, dtype = noise.device, noise.dtype
        calibrated = (len(self.config._calibration["colour_axes"]), *self.config._calibration["sample_size"])
        if noise.ndim < 4 or (noise.shape[1], *noise.shape[-2:]) != calibrated:
            raise ValueError(
                f"The sample has shape {tuple(noise.shape)}, but 'spectral' was calibrated for (channels, height, "
                f"width) = {calibrated}: calibrate again at this size, or sample with 'analytic'."
            )
        table, timestep = self._constant("band_offset_std", device), self._as_number(timestep)
        if isinstance(timestep, torch.Tensor):
            band_std = table.index_select(0, timestep.to(device).long().flatten())
        else:
            band_std = table[int(timestep)][None]
        std = band_std.index_select(-1, self._constant("band_index", device)).to(dtype)
        std = std.view(*std.shape[:2], *[1] * (noise.ndim - 4), *noise.shape[-2:])
        rows, columns, axes = (self._constant(k, device, dtype) for k in ("dct_rows", "dct_columns", "colour_axes"))
        modes = std * (rows @ _mix_channels(axes, noise) @ columns.T)
        return _mix_channels(axes.T, rows.T @ modes @ columns)

    def step(
        self,
        model_output: torch.Tensor,
        timestep: int | torch.Tensor,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> DDPMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Draw x_s from x_t: mean of eq. 7 at x_0_hat (eq. 15), plus sigma_t times fresh noise (eq. 6).

        Args:
            model_output: What the model predicts from x_t, the shape of `sample`, floating point. With a learned
                variance it has twice the channels; the second half is the variance, or its place in [-1, 1]
                between log beta_tilde_t and log beta_t ("learned_range").
            timestep: t, one of `self.timesteps`: a number, or an integer tensor of shape () or (batch,).
            sample: x_t, shape (batch, channels, ...), floating point.
            generator: Where the noise comes from, or one generator per sample.
            return_dict: Whether a `DDPMSchedulerOutput` is returned, else a tuple of its two values.

        Returns:
            `prev_sample` (x_s) and `pred_original_sample` (x_0_hat), in the wider dtype of the two inputs.

        Raises:
            ValueError: If `timestep` is on the CPU and not one of `self.timesteps`, if `prediction_type` is unknown,
                or if the channels of `model_output` do not fit the variance type.
        """
        variance_type, predicted_variance = self.config.variance_type, None
        num_channels = sample.shape[1] * (2 if variance_type in LEARNED_VARIANCES else 1)
        if model_output.shape[1] != num_channels:
            raise ValueError(
                f"variance_type {variance_type!r} with a sample of {sample.shape[1]} channels needs a model output of "
                f"{num_channels} channels, but it has {model_output.shape[1]}."
            )
        if variance_type in LEARNED_VARIANCES:
            model_output, predicted_variance = model_output.split(sample.shape[1], dim=1)
        step = self._step_at(timestep, sample.ndim, sample.device)

        dtype = torch.promote_types(sample.dtype, model_output.dtype)
        mixing_dtype = torch.promote_types(dtype, torch.float32)
        varies = isinstance(step.noise_std, torch.Tensor)
        if varies:
            step = _Step(*(column.to(mixing_dtype) for column in step))
        x_t = sample.to(mixing_dtype)
        scales = step.sqrt_alpha_bar, step.one_over_sqrt_alpha_bar, step.sqrt_one_minus_alpha_bar
        x_0_hat = self._predict_x_0(model_output.to(mixing_dtype), x_t, *scales)
        # Noise is drawn wherever stock draws it, so that equal seeds give equal images.
        if varies or int(timestep) > 0:
            noise = _white_noise(model_output, generator)
            if predicted_variance is not None:
                predicted_variance = predicted_variance.to(mixing_dtype)
            # A fresh tensor costs more than the arithmetic: the sum grows in the memory of the noise.
            x_s = self._scale_noise(noise.to(mixing_dtype), step, timestep, predicted_variance)
            x_s = _add(x_s, step.x_0_weight, x_0_hat)
        else:
            x_s = step.x_0_weight * x_0_hat
        x_s = _add(x_s, step.x_t_weight, x_t)

        x_s, x_0_hat = x_s.to(dtype), x_0_hat.to(dtype)
        if not return_dict:
            return x_s, x_0_hat
        return DDPMSchedulerOutput(prev_sample=x_s, pred_original_sample=x_0_hat)

    def signal_and_noise_scales(
        self, timesteps: torch.Tensor, sample: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return sqrt(alpha_bar_t) and sqrt(1 - alpha_bar_t), the scales of x_0 and of eps in x_t (eq. 4).

        Args:
            timesteps: t, integers in [0, T - 1], shape (batch,), or () for all alike.
            sample: What they are to multiply, shape (batch, ...), floating point.

        Returns:
            Two tensors of shape (batch, 1, ...) or (1, 1, ...) on the device of `sample`, in its dtype, or in float32
            where that is wider.

        Raises:
            ValueError: If `timesteps` are no integers.
        """
        if timesteps.is_floating_point():
            raise ValueError(f"timesteps are {timesteps.dtype}; noise levels are numbered by integers: use .long().")
        self._see_edited_alphas_cumprod()
        table = self._constant("marginal", sample.device, torch.promote_types(sample.dtype, torch.float32))
        t = timesteps.to(sample.device).long().flatten()
        a, b = table.index_select(1, t).view(2, -1, *[1] * (sample.ndim - 1)).unbind()
        return a, b

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Draw x_t from q(x_t | x_0): sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps (eq. 4).

        Args:
            original_samples: x_0, shape (batch, ...), floating point.
            noise: eps, the same shape.
            timesteps: t, integers in [0, T - 1], shape (batch,), or () for all alike.

        Returns:
            x_t in the dtype of `original_samples`.

        Raises:
            ValueError: If `timesteps` are no integers.
        """
        a, b = self.signal_and_noise_scales(timesteps, original_samples)
        return (a * original_samples).addcmul_(b, noise.to(a.dtype)).to(original_samples.dtype)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Compute v = sqrt(alpha_bar_t) eps - sqrt(1 - alpha_bar_t) x_0 (Salimans & Ho 2022, appendix D).

        Args:
            sample: x_0, shape (batch, ...), floating point.
            noise: eps, the same shape.
            timesteps: t, integers in [0, T - 1], shape (batch,), or () for all alike.

        Returns:
            v in the dtype of `sample`.

        Raises:
            ValueError: If `timesteps` are no integers.
        """
        a, b = self.signal_and_noise_scales(timesteps, sample)
        return (a * noise).addcmul_(b, sample.to(a.dtype), value=-1).to(sample.dtype)


def _version(tensor: torch.Tensor) -> int | None:
    """Return a number that changes whenever a tensor is written to; None where torch does not count."""
    return None if tensor.is_inference() else tensor._version


def _is_edited(tensor: torch.Tensor, version: int | None) -> bool:
    # A compiled program is of the values that it has seen.
    return not torch.compiler.is_compiling() and _version(tensor) != version


def _white_noise(like: torch.Tensor, generator: Any) -> torch.Tensor:
    """Draw z ~ N(0, I) of the shape, dtype and device of a tensor, as diffusers does, without waiting for a GPU."""
    first = generator[0] if isinstance(generator, list) and generator else generator
    if like.is_cuda and isinstance(first, torch.Generator) and first.device.type == "cpu":
        # From pinned memory the copy goes on by itself.
        noise = randn_tensor(like.shape, generator, torch.device("cpu"), like.dtype).pin_memory()
        return noise.to(like.device, non_blocking=True)
    return randn_tensor(like.shape, generator, like.device, like.dtype)


def _plus(x: torch.Tensor, weight: Any, y: torch.Tensor) -> torch.Tensor:
    """Return x + weight y, in one pass where the weight is a number."""
    return x + weight * y if isinstance(weight, torch.Tensor) else torch.add(x, y, alpha=weight)


def _add(x: torch.Tensor, weight: Any, y: torch.Tensor) -> torch.Tensor:
    """Return x + weight y in the memory of x."""
    return x.addcmul_(weight, y) if isinstance(weight, torch.Tensor) else x.add_(y, alpha=weight)


def _mix_channels(matrix: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return (matrix @ x.flatten(2)).view(x.shape)


def _restored_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with the settings that `to_json_string` has put aside back in their places."""
    settings = dict(config)
    own = {k: v for k, v in (settings.pop(_SAVED_ENTRY, None) or {}).items() if k != "class"}
    # Whoever has chosen another variance since, for stock, meant it.
    if settings.get("variance_type") != _STAND_IN_VARIANCE:
        own.pop("variance_type", None)
    return {**settings, **own}


def _are_scaled_betas(betas: Any, config: Mapping[str, Any]) -> bool:
    names = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps")
    if betas is None or not config.get("scale_betas_for_timesteps") or not set(names) <= config.keys():
        return False
    return np.array_equal(betas, _scaled_betas(*(config[name] for name in names)))


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (not isinstance(value, (np.ndarray, list)) and value == default)


def _interpolated_log_variance(step: _Step, predicted_variance: Any) -> Any:
    """Return log sigma^2 = f log beta + (1 - f) log beta_tilde, f = (v + 1) / 2 (arXiv:2102.09672, eq. 15)."""
    log_beta, log_beta_tilde = (
        torch.log(x) if torch.is_tensor(x) else math.log(x) for x in (step.beta_variance, step.beta_tilde_variance)
    )
    f = (predicted_variance + 1) / 2
    return f * log_beta + (1 - f) * log_beta_tilde
