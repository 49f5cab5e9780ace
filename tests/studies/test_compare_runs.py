"""The distance of two runs: relative norms of what their newest common checkpoint holds, and their losses."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from studies import compare_runs


def write_run(folder: Path, steps: list[int], moved: float, losses: dict[int, float]) -> Path:
    """A run whose weights are (3, 4) and 12, moved by a number; Adam's count of steps is far larger."""
    for step in steps:
        checkpoint = folder / "checkpoints" / f"step-{step:08d}"
        checkpoint.mkdir(parents=True)
        tensors = {
            "a": torch.tensor([3.0, 4.0 + moved]),
            "b": torch.tensor([12.0]),
            "p.step": torch.tensor(1e6 * step),
        }
        save_file(tensors, checkpoint / "unet.safetensors")
    (folder / "loss.json").write_text(json.dumps([{"step": s, "loss": value} for s, value in losses.items()]))
    return folder


def test_the_newest_common_step_is_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    run = write_run(tmp_path / "run", [10, 20], 0.0, {5: 1.0, 10: 0.5, 20: 0.25})
    other = write_run(tmp_path / "other", [10, 20, 30], 1.3, {5: 1.0, 10: 0.55, 20: 0.25, 30: 0.2})
    monkeypatch.setattr("sys.argv", ["compare_runs", str(run), str(other)])
    compare_runs.main()
    # 1.3 over the norm of (3, 4, 12), which is 13; the losses differ most at step 10, by a tenth of the first.
    assert capsys.readouterr().out.splitlines() == [
        "| step-00000020 | relative difference |",
        "|---|---|",
        "| unet | 1.0e-01 |",
        "| losses | 1.0e-01 |",
    ]
    assert compare_runs.tensor_distance(*(r / "checkpoints/step-00000020/unet.safetensors" for r in (run, other))) == (
        pytest.approx(0.1, rel=1e-6)
    )
    assert compare_runs.loss_distance(run, other, 20) == pytest.approx(0.1)
    assert compare_runs.loss_distance(run, other, 5) == 0
    assert math.isnan(compare_runs.loss_distance(run, other, 4))


def test_runs_without_a_common_step_are_refused(tmp_path: Path):
    run, other = (write_run(tmp_path / str(step), [step], 0.0, {}) for step in (1, 2))
    with pytest.raises(SystemExit, match="no step is in both"):
        compare_runs.newest_common_step(run, other)


def test_files_of_other_tensors_are_refused(tmp_path: Path):
    for name in "ab":
        save_file({name: torch.zeros(1)}, tmp_path / name)
    with pytest.raises(SystemExit, match="hold different tensors"):
        compare_runs.tensor_distance(tmp_path / "a", tmp_path / "b")
