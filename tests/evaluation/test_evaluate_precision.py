"""The precision of an evaluation that leaves it to the machine."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ddpm_cars.config.commands import EvaluateConfig
from ddpm_cars.evaluation.places import with_precision
from ddpm_cars.runs.run_folder import EvaluationFolder
from tests.support.trainer_helpers import forget_accelerate

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cpu_with_bf16(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    forget_accelerate()
    yield
    forget_accelerate()


def folders(tmp_path: Path, *known: dict | None) -> list[EvaluationFolder]:
    """Make a folder for every metrics.json, which may be missing."""
    made = []
    for number, values in enumerate(known):
        folder = EvaluationFolder(tmp_path / str(number))
        folder.path.mkdir()
        if values is not None:
            folder.metrics.write_text(json.dumps(values))
        made.append(folder)
    return made


@pytest.mark.parametrize(
    ("known", "precision"),
    [
        ([None], "bf16"),
        ([{"mixed_precision": "no"}], "no"),
        ([{"mixed_precision": "fp16"}], "fp16"),
        # Two models are measured alike.
        ([None, None], "bf16"),
        ([None, {"mixed_precision": "no"}], "no"),
        ([{"mixed_precision": "bf16"}, {"mixed_precision": "no"}], "bf16"),
    ],
)
def test_figures_that_are_there_keep_their_precision_and_others_get_that_of_the_device(
    tmp_path: Path, known: list[dict | None], precision: str
):
    there = folders(tmp_path, *known)
    assert with_precision(EvaluateConfig(pretrained_model_name_or_path="m"), there, CPU).mixed_precision == precision
    given = EvaluateConfig(pretrained_model_name_or_path="m", mixed_precision="no")
    assert with_precision(given, there, CPU) == given


def test_the_launcher_decides_before_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    config = EvaluateConfig(pretrained_model_name_or_path="m")
    assert with_precision(config, folders(tmp_path, None), CPU).mixed_precision == "fp16"
