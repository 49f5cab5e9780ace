"""Files and folders that settings name: what is missing is told before libraries are imported, which takes seconds.

Whoever reads them checks them as well.
"""

import difflib
import errno
import os
from itertools import islice
from pathlib import Path
from typing import Any

from ddpm_cars.config.commands import MIN_EVALUATION_IMAGES, CalibrateConfig, EvaluateConfig, PushConfig
from ddpm_cars.config.training import TrainingConfig
from ddpm_cars.errors import UserError
from ddpm_cars.runs.run_folder import RunFolder
from ddpm_cars.runtime.folders import refuse_file, refuse_inside, refuse_read_only

_MODELS = ("pretrained_model_name_or_path", "folder")
_ARCHIVES = {".7z", ".bz2", ".gz", ".rar", ".tar", ".tgz", ".xz", ".zip", ".zst"}


def check_places(config: Any) -> None:
    """Raise UserError if a config names a file or folder that cannot be what the setting says."""
    named = ("train_data_dir", "dataset_name", "model_config", "output_dir", *_MODELS)
    places = [(f"{name} {getattr(config, name)}", getattr(config, name)) for name in named if hasattr(config, name)]
    compared = getattr(config, "compare", None) or ()
    for said, place in (*places, *zip(compared, compared, strict=True)):
        if place is not None:
            _refuse_impossible(said, place)
    images, output_dir = getattr(config, "train_data_dir", None), getattr(config, "output_dir", None)
    if images is not None and not Path(images).is_dir():
        if Path(images).suffix.lower() in _ARCHIVES or not Path(images).is_file():
            is_file = "a file, not a folder; unpack it if it is an archive"
            kind = is_file if Path(images).is_file() else "not a folder"
            raise UserError(f"train_data_dir {images} is {kind}{_similar(images)}")
        raise UserError(
            f"train_data_dir {images} is a file, not a folder; did you mean its folder, {Path(images).parent}?"
        )
    if images is not None:
        # All files are an upper bound; only the first so many are counted.
        files = (path for path in Path(images).rglob("*") if path.is_file())
        if isinstance(config, EvaluateConfig):
            enough = 2 * (config.num_images or MIN_EVALUATION_IMAGES)
            config.check_number_of_images(images, sum(1 for _ in islice(files, enough)))
        elif next(files, None) is None:
            raise UserError(f"{images} holds no images")
    dataset = getattr(config, "dataset_name", None)
    if dataset is not None and _is_path(dataset) and not Path(dataset).exists():
        raise UserError(f"dataset_name {dataset} is not a folder{_similar(dataset)}")
    network = getattr(config, "model_config", None)
    if network is not None and not Path(network).exists():
        may_be_id = network.count("/") == 1 and not _is_path(network)
        cure = f"; hf download {network} prints the folder of a model on the Hub" if may_be_id else ""
        raise UserError(f"model_config {network} is not a file or folder{_similar(network) or cure}")
    if output_dir is not None:
        refuse_file(Path(output_dir))
        if isinstance(config, TrainingConfig):
            refuse_read_only(Path(output_dir))
        refuse_inside(output_dir, images)
    for model in (*(getattr(config, name, None) for name in _MODELS), *compared):
        if model is not None:
            _check_model(model, may_be_on_hub=not isinstance(config, CalibrateConfig | PushConfig))


def _refuse_impossible(named: str, path: str) -> None:
    """Raise UserError if no file can have a name, or links under it lead in a circle."""
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            raise UserError(f"{named} cannot be a file or folder: {error.strerror}") from error


def _check_model(name: str, may_be_on_hub: bool) -> None:
    folder = Path(name)
    if not folder.is_dir():
        # Every model on the Hub that this package samples from belongs to somebody.
        if not may_be_on_hub or folder.exists() or _is_path(name) or "/" not in name:
            on_hub = f"; on the Hub it would be OWNER/{name}" if may_be_on_hub and "/" not in name else ""
            raise UserError(f"{name} is not a folder with a saved pipeline{_similar(name) or on_hub}")
    elif (problem := RunFolder(name).why_no_pipeline()) is not None:
        inside = sorted(path.parent for path in folder.glob("*/*_index.json"))
        if inside:
            raise UserError(f"{name} holds no saved pipeline itself; did you mean {inside[0]}?")
        raise UserError(problem)


def _is_path(name: str) -> bool:
    """Return whether a name cannot be an id on the Hub, NAME or OWNER/NAME."""
    return name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name


def _similar(name: str) -> str:
    """Return a question after a path beside it that is spelled alike, if there is one."""
    path = Path(name)
    try:
        names = [other.name for other in path.parent.iterdir() if other.name != path.name]
    except OSError:
        return ""
    found = difflib.get_close_matches(path.name, names, n=1, cutoff=0.75)
    return f"; did you mean {path.parent / found[0]}?" if found else ""
