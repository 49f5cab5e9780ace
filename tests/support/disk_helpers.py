"""What is forced to the disk, and when it gets its name."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest


def note_disk_events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that from now on gets the name of whatever is synced, and "named NAME" for what is moved there."""
    events: list[str] = []
    fsync = os.fsync

    def note_fsync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_move(move: Callable[[Path, Path], None], old: Path, new: Path) -> None:
        events.append(f"named {Path(new).name}")
        move(old, new)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", partial(note_move, os.replace))
    monkeypatch.setattr(os, "rename", partial(note_move, os.rename))
    return events
