"""Loading a saved pipeline from a folder or the Hub, with errors of one line."""

from pathlib import Path

from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.run_folder import RunFolder


def load_pipeline(name: str) -> DDPMCarsPipeline:
    """Load a saved pipeline.

    Args:
        name: Its folder, or its id on the Hub.

    Raises:
        UserError: If there is none that loads.
    """
    folder, files = Path(name), RunFolder(name)
    if folder.is_dir() and not files.model_index.is_file():
        if files.checkpoints.is_dir():
            raise UserError(
                f"{name} is a run that has not finished (no {files.model_index.name}); the same training command "
                "continues it, and with --max_train_steps at the step of its checkpoint ends it there"
            )
        raise UserError(f"{name} holds no saved pipeline: there is no {files.model_index.name}")
    try:
        return DDPMCarsPipeline.from_pretrained(name)
    except (OSError, ValueError) as error:
        if folder.is_dir():
            raise UserError(f"no pipeline can be loaded from {name}: {error}") from error
        reason = _why_not_from_hub(error)
        raise UserError(f"there is no folder {name}, and no such model can be had from the Hub ({reason})") from error


def _why_not_from_hub(error: Exception) -> str:
    """Return in a few words what diffusers says in several sentences about its own arguments."""
    cause = error.__cause__
    if isinstance(error, ValueError):
        return "its ids are NAME or OWNER/NAME"
    if isinstance(cause, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and it is not in the cache"
    if isinstance(cause, RepositoryNotFoundError | GatedRepoError):
        return "it does not exist there, or is private to others"
    return f"{type(cause or error).__name__}, and it is not in the cache"
