"""Runs whose steps a test takes itself."""

from accelerate.state import AcceleratorState, GradientState, PartialState

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.training.trainer import Trainer


def forget_accelerate() -> None:
    """Let the next run choose its own precision and accumulation; accelerate keeps them per process."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


def by_hand(config: TrainingConfig) -> Trainer:
    """Make a run whose steps a test takes itself, beside other runs on the same folder."""
    forget_accelerate()
    trainer = Trainer(config)
    trainer.prepared.lock.release()
    return trainer
