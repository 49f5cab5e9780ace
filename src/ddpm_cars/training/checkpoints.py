"""When the state of a run is saved, and how it is read again: what is written is in `runs/checkpoints.py`."""

import shutil
from collections.abc import Callable
from pathlib import Path

from ddpm_cars.errors import UserError
from ddpm_cars.runs.checkpoints import (
    SavedModel,
    delete_leftovers,
    delete_old_checkpoints,
    last_safe,
    load_checkpoint,
    newest_complete,
    save_checkpoint,
)
from ddpm_cars.runs.run_folder import list_checkpoints
from ddpm_cars.runtime.console import say, warn
from ddpm_cars.runtime.folders import delete_empty
from ddpm_cars.runtime.processes import on_main
from ddpm_cars.training.state import TrainState


class Checkpointer:
    """Writes the state of a run where a disk may fail, and reads it where a crash may have struck."""

    def __init__(self, folder: Path, state: TrainState, total_limit: int | None, model: Callable[[], SavedModel]):
        self.folder = folder
        self.state = state
        self.model = model  # says what makes a checkpoint of the present state a saved pipeline
        self.total_limit = total_limit  # None keeps all
        self.saved_step: int | None = None  # of the checkpoint that was written or read last

    def clear(self, start_again: bool) -> None:
        """Delete what a crash left half written and, to start again, all checkpoints."""
        delete_leftovers(self.folder)
        if start_again:
            for path in list_checkpoints(self.folder):
                shutil.rmtree(path)
            # What else lies in the folder is not ours to delete.
            delete_empty([self.folder])

    def resume(self) -> Path | None:
        """Continue from the newest complete checkpoint and return its path, None if there is none.

        Every process has to call this. Raises UserError if it belongs to another run, or none of them is complete.
        """
        found, damaged = newest_complete(self.folder)
        for path, damage in damaged.items():
            warn(f"{path} is damaged and left out: {damage}")
        if found is None and damaged:
            raise UserError(
                f"none of the checkpoints in {self.folder} is complete; put a complete one there, or pass "
                "--overwrite_output_dir to start again"
            )
        if found is None:
            return None
        self.state.load(found, *load_checkpoint(found))
        self.saved_step = self.state.step
        say(f"continuing from {found}")
        return found

    def save(self) -> bool:
        """Write a checkpoint, then delete those beyond the limit; return whether the disk took it.

        A disk that fails does not end a run: it is warned of, and older checkpoints are untouched. Every process has
        to call this; the main one writes, and all learn whether it could.
        """
        step, tensors, values = self.state.step, self.state.tensors(), self.state.values()

        def write() -> None:
            save_checkpoint(self.folder, step, tensors, values, self.model())
            if self.total_limit is not None:
                delete_old_checkpoints(self.folder, self.total_limit)

        try:
            on_main(write)
        except OSError as error:
            warn(
                f"the checkpoint of step {step:,} cannot be written ({error}); {last_safe(self.folder)}; "
                "training goes on"
            )
            return False
        self.saved_step = step
        return True
