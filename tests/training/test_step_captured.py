"""Steps that can be captured in a graph, against steps as they are; with a GPU they are captured."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from accelerate.utils import is_compiled_module

from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.data.pictures import load_pictures
from ddpm_cars.errors import RunError
from ddpm_cars.pipeline_ddpm_cars import CapturedFunction
from ddpm_cars.training.averages import Averages
from ddpm_cars.training.batches import BatchOrder, MemorySource, has_room
from ddpm_cars.training.step import CapturedStep
from ddpm_cars.training.trainer import Trainer
from tests.support.trainer_helpers import by_hand, forget_accelerate

MakeConfig = Callable[..., TrainingConfig]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="graphs are captured on NVIDIA GPUs only")


def make_capturable(trainer: Trainer) -> None:
    """Let a run without a GPU take its steps as those that are captured, without the capturing."""
    state = trainer.state
    for group in state.optimizer.param_groups:
        group["lr"] = torch.tensor(group["lr"], device=trainer.prepared.device)
    state.averages = Averages(trainer.config, state.unet, captured=True)
    trainer.train_step.captured = CapturedStep(
        trainer.train_step.update, state.optimizer, capture=lambda function: function
    )


def everything(trainer: Trainer) -> torch.Tensor:
    """Return weights, averages, moments and the record in the making of a run as one vector."""
    groups = [values for _, group in sorted(trainer.state.tensors().items()) for _, values in sorted(group.items())]
    return torch.cat([x.double().cpu().flatten() for x in [*groups, trainer.state.log.sums]])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2, "gradient_checkpointing": True},
        {"ema_half_life_steps": (2, 5), "max_grad_norm": None, "lr_scheduler": "cosine", "lr_warmup_steps": 3},
        {"variance_type": "learned_range", "snr_gamma": 5.0, "optimizer": "adam"},
    ],
    ids=["plain", "accumulated", "averages", "learned variance"],
)
def test_a_step_that_can_be_captured_is_the_step(make_config: MakeConfig, settings: dict):
    # A large epsilon keeps Adam from enlarging rounding errors.
    config = make_config(adam_epsilon=1e-2, **settings)
    plain, other = by_hand(config), by_hand(config)
    make_capturable(other)
    losses = [(plain.train_step().item(), other.train_step().item()) for _ in range(5)]
    for expected, actual in losses:
        assert actual == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(everything(other), everything(plain), rtol=1e-5, atol=1e-7)
    # What a checkpoint keeps of averages, and what the log says.
    assert other.state.num_updates == plain.state.num_updates == 5
    assert other.log(1.0, 5) == pytest.approx(plain.log(1.0, 5), rel=1e-5)


def test_a_run_goes_on_captured_from_a_plain_checkpoint(make_config: MakeConfig):
    config = make_config(adam_epsilon=1e-2)
    whole = by_hand(config)
    for _ in range(2):
        whole.train_step()
    assert whole.save_checkpoint()
    other = by_hand(config)
    make_capturable(other)
    other.checkpoints.resume()
    for _ in range(3):
        whole.train_step()
        other.train_step()
    torch.testing.assert_close(everything(other), everything(whole), rtol=1e-5, atol=1e-7)


def test_a_run_that_goes_on_lies_in_memory_as_before(make_config: MakeConfig):
    config = make_config()

    def channels_last() -> Trainer:
        trainer = by_hand(config)
        trainer.state.unet.to(memory_format=torch.channels_last)
        trainer.state.averages = Averages(config, trainer.state.unet)
        return trainer

    whole, other = channels_last(), channels_last()
    whole.train_step()
    assert whole.save_checkpoint()
    other.checkpoints.resume()
    for p in other.state.unet.parameters():
        for name in ("exp_avg", "exp_avg_sq"):
            assert other.state.optimizer.state[p][name].stride() == p.stride()
    assert torch.equal(everything(other), everything(whole))


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_every_run_decides_for_itself_whether_it_is_compiled(make_config: MakeConfig):
    forget_accelerate()
    for wanted in (False, True, False):
        trainer = Trainer(make_config(compile=wanted))
        assert is_compiled_module(trainer.state.model) == wanted
        trainer.close()


def test_what_a_gpu_cannot_do_ends_with_one_line_and_the_cure(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
):
    trainer = by_hand(make_config())
    make_capturable(trainer)

    def backward(loss: torch.Tensor) -> None:
        raise RuntimeError("operation not permitted\nwhen stream is capturing")

    monkeypatch.setattr(trainer.prepared.accelerator, "backward", backward)
    expected = (
        r"compiled step .*RuntimeError: operation not permitted when stream is capturing\); .* without --compile"
    )
    with pytest.raises(RunError, match=expected):
        trainer.train_step()


def test_pictures_kept_on_a_device_are_those_of_the_memory_map(make_config: MakeConfig):
    pictures = load_pictures(make_config())
    order, rows = BatchOrder(len(pictures.images), 8, seed=3), [range(4), range(4, 8)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kept, read = MemorySource(pictures, order, rows, device), MemorySource(pictures, order, rows)
    for step, micro_step in ((0, 0), (0, 1), (1, 1), (7, 0)):
        assert torch.equal(kept.batch(step, micro_step)[0].cpu(), read.batch(step, micro_step)[0])
    assert not has_room(torch.device("cpu"), 1)


class GraphOfNothing:
    """Stands for a graph of CUDA where there is none: a replay runs the function again, into the same memory."""

    captured: CapturedFunction

    def replay(self) -> None:
        self.captured._result.copy_(self.captured.function(*self.captured._arguments))


def test_results_outlive_the_memory_that_a_graph_writes_them_to(monkeypatch: pytest.MonkeyPatch):
    class Stream:
        def wait_stream(self, other: object) -> None:
            """Wait for nothing: there is one stream."""

    replaced = {"device": nullcontext, "stream": nullcontext, "Stream": Stream, "current_stream": Stream}
    replaced |= {"CUDAGraph": GraphOfNothing, "graph": lambda graph, capture_error_mode: nullcontext()}
    for name, stand_in in replaced.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    calls: list[float] = []

    def double(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(float(x[0]))
        return 2 * x + y

    captured = CapturedFunction(double)
    monkeypatch.setattr(GraphOfNothing, "captured", captured, raising=False)
    given = [torch.full((3,), float(i)) for i in range(6)]
    results = [captured(x, torch.ones(3)) for x in given]
    assert torch.stack(results)[:, 0].tolist() == [2.0 * i + 1 for i in range(6)]
    assert [float(x[0]) for x in given] == [0, 1, 2, 3, 4, 5]
    # Three as they are, the fourth captured and replayed, then replays alone.
    assert calls == [0, 1, 2, 3, 3, 4, 5]
    with pytest.raises(ValueError, match="zip"):
        captured(given[0])


@needs_gpu
def test_a_captured_function_follows_its_arguments_and_what_it_works_on():
    weight = torch.ones(3, device="cuda")
    results, double = [], CapturedFunction(lambda x: 2 * x * weight)
    for i in range(6):
        results.append(double(torch.full((3,), float(i), device="cuda")))
        weight.add_(1)
    assert torch.stack(results)[:, 0].tolist() == [2.0 * i * (i + 1) for i in range(6)]


@needs_gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("settings", [{}, {"gradient_accumulation_steps": 2, "gradient_checkpointing": True}])
def test_a_captured_run_is_the_run(make_config: MakeConfig, settings: dict):
    config = make_config(adam_epsilon=1e-2, validation_split="test", **settings)
    plain, captured = by_hand(config), by_hand(replace(config, compile=True))
    assert captured.train_step.captured is not None
    for _ in range(8):
        assert captured.train_step().item() == pytest.approx(plain.train_step().item(), rel=1e-3)
    torch.testing.assert_close(everything(captured), everything(plain), rtol=1e-2, atol=1e-4)
    captured.validate()
    captured.train_step()
    assert captured.save_checkpoint()
    again = by_hand(config)
    again.checkpoints.resume()
    assert torch.equal(everything(again), everything(captured))
