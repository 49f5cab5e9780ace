"""Settings that say which files and weights of a saved model a command loads."""

from dataclasses import dataclass, fields

from ddpm_cars.config.fields import Settings, setting
from ddpm_cars.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """Which weights of a saved model a command takes."""

    weights: str | None = setting(None, group="model")
    """Weights of a checkpoint: ema (the average that it samples with), raw (no average), or ema_N, such as ema_1000,
    for the average with a half-life of N steps. If unset, ema, or raw where there is no average."""
    variant: str | None = setting(None, group="model")
    """Variant of the files with the weights, such as fp16. If unset, the files without one."""

    def loading(self) -> dict[str, str | None]:
        """Return the arguments with which the model is loaded, besides its name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.metadata.get("group") == "model"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and self.variant is not None:
            raise UserError(
                f"weights is {self.weights} and variant is {self.variant}; both choose the weights, so give one"
            )


@dataclass(frozen=True, kw_only=True)
class HubModelConfig(ModelConfig):
    """Which weights of a saved model a command takes, which may be on the Hub."""

    revision: str | None = setting(None, group="model")
    """Branch, tag or commit of a model on the Hub. If unset, the main branch."""


def refuse_choice_of_weights(config: HubModelConfig, why: str) -> None:
    """Raise UserError if a command is told which weights to take of no model in particular."""
    for name, value in config.loading().items():
        if value is not None:
            raise UserError(f"{name} is {value}, and {why}")
