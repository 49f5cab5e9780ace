"""When a checkpoint is written, and who learns of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from ddpm_cars.training.checkpoints import Checkpointer


def test_a_process_that_does_not_write_learns_that_the_disk_of_the_main_one_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # What accelerate says on the second of two processes.
    on_main: list[tuple[None, OSError | None]] = [(None, None)]
    monkeypatch.setattr("ddpm_cars.runtime.processes.PartialState", lambda: SimpleNamespace(is_main_process=False))
    monkeypatch.setattr("ddpm_cars.runtime.processes.gather_object", lambda mine: on_main + mine)
    state = SimpleNamespace(step=3, tensors=dict, values=dict)
    checkpoints = Checkpointer(tmp_path, state, None, lambda: None)
    on_main[0] = (None, OSError("No space left on device"))
    assert not checkpoints.save()
    assert checkpoints.saved_step is None
    on_main[0] = (None, None)
    assert checkpoints.save()
    assert checkpoints.saved_step == 3
    assert list(tmp_path.iterdir()) == []
