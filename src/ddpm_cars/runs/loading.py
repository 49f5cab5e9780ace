"""Loading a model by its name: a folder, a checkpoint of a run, or an id on the Hub."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from diffusers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ddpm_cars.errors import UserError
from ddpm_cars.pipeline_ddpm_cars import DDPMCarsPipeline
from ddpm_cars.runs.checkpoints import RAW, ema_name, find_damage, newest_complete, weights_of
from ddpm_cars.runs.old_checkpoints import load_old_pipeline, sampled_weights
from ddpm_cars.runs.run_folder import EvaluationFolder, RunFolder, is_checkpoint, is_named_as_checkpoint
from ddpm_cars.runtime.console import note, warn
from ddpm_cars.runtime.processes import on_main, together

T = TypeVar("T")

EMA = "ema"
"""What users call the average that a checkpoint samples with."""
_NUM_TRIES = 5  # Checkpoints of a run that may be deleted in turn while they are read.
_WEIGHTS_FILE = re.compile(r"diffusion_pytorch_model(?:\.(.+?))??(?:-\d{5}-of-\d{5})?\.safetensors")


class DeletedError(UserError):
    """A checkpoint that its run has deleted, as it does with all but the newest ones."""


def with_model(name: str, use: Callable[[str], T]) -> T:
    """Return what a function makes of the folder of a command's model, as `find_model` finds it: a collective call.

    Where a folder stands for its newest checkpoint and the run deletes that one meanwhile, the next is taken.
    """
    for left in reversed(range(_NUM_TRIES)):
        # A run that trains may have another checkpoint when the other processes look.
        found: str = on_main(lambda: find_model(name))
        made: list[T] = []
        try:
            with _deleted_in_words(Path(found)):
                together(lambda: made.append(use(found)))  # noqa: B023 (it is called at once)
            return made[0]
        except DeletedError:
            if found == name or not left:
                raise
    raise AssertionError


@contextmanager
def _deleted_in_words(folder: Path) -> Iterator[None]:
    """Raise DeletedError for whatever fails because a checkpoint is deleted while its parts are read in turn."""
    was_there = folder.is_dir()
    try:
        yield
    except Exception as error:
        if not is_named_as_checkpoint(folder) or not folder.parent.is_dir() or folder.is_dir():
            raise
        how = "was deleted while it was read" if was_there else "is not there"
        raise DeletedError(
            f"{folder} {how}; a run that trains keeps its newest checkpoints only (checkpoints_total_limit), so take "
            f"another one, or {folder.parent} for the newest"
        ) from error


def find_model(name: str) -> str:
    """Return the folder that a command's model is in: for a run that has not finished, its newest checkpoint.

    Args:
        name: A folder, or an id on the Hub. A folder of checkpoints stands for the newest of them that is complete.

    Raises:
        UserError: If it is a folder of checkpoints and none of them is complete.
    """
    run = RunFolder(name)
    newest = run.newest_step() if run.path.is_dir() and not is_checkpoint(run.path) else None
    if newest is None:
        return name
    if run.model_index.is_file():
        _say_older(run, newest)
        return name
    for _ in range(_NUM_TRIES):
        found, damaged = newest_complete(newest.parent, as_model=True)
        # One that is deleted meanwhile is not damaged, and there is a newer one.
        there = {path: damage for path, damage in damaged.items() if path.is_dir()}
        if found is not None or there == damaged:
            break
    damaged = there
    for path, damage in damaged.items():
        warn(f"{path} is damaged and left out: {damage}")
    if found is None:
        raise UserError(f"none of the checkpoints in {newest.parent} is complete; take another model")
    is_run = newest.parent != run.path
    note(f"{name} {'has not finished, so' if is_run else 'holds checkpoints, and'} the newest one is used, {found}")
    return str(found)


def _say_older(run: RunFolder, newest: Path) -> None:
    """Say if a run has gone on since it published its model."""
    published = (run.read_facts() or {}).get("steps")
    if published is not None and int(newest.name.rpartition("-")[2]) > published:
        note(f"{run.path} holds the model of step {published:,}; the run has gone on since, to {newest}")


def load_pipeline(
    name: str, weights: str | None = None, variant: str | None = None, revision: str | None = None
) -> DDPMCarsPipeline:
    """Load a saved pipeline. Only weights in safetensors are read, and never a pickle.

    Args:
        name: Its folder, which may be a checkpoint, or its id on the Hub, as `find_model` returns it.
        weights: Which weights of a checkpoint: "ema", "raw" or "ema_N". None means those to sample with. A model that
            a run has published has one of these.
        variant: The variant of the weights' files, such as "fp16", where `weights` is None. None means those without
            one.
        revision: The branch, tag or commit on the Hub. None means the main branch.

    Raises:
        DeletedError: If it is a checkpoint that is deleted while it is read.
        UserError: If there is none that loads, or it has no such weights, variant or revision.
    """
    folder = Path(name)
    with _deleted_in_words(folder):
        return _load(folder, weights, variant, revision)


def _load(folder: Path, weights: str | None, variant: str | None, revision: str | None) -> DDPMCarsPipeline:
    name, files = str(folder), RunFolder(folder)
    if not folder.is_dir():
        if weights is not None:
            raise UserError(f"weights is {weights}, which chooses among those of a checkpoint; {name} is no folder")
        return _load_from_hub(name, variant, revision)
    if (problem := files.why_no_pipeline()) is not None:
        raise UserError(problem)
    if revision is not None:
        raise UserError(f"revision is {revision}, which chooses a state of a model on the Hub; {name} is a folder")
    if is_checkpoint(folder):
        if (damage := find_damage(folder, as_model=True)) is not None:
            raise UserError(f"{folder} is damaged: {damage}; take another checkpoint")
        chosen = weights_name(folder, weights, variant)
        if not files.model_index.is_file():
            return load_old_pipeline(folder, chosen)
        variant = _variant_of_file(weights_of(folder)[chosen].name)
    elif weights is not None:
        _check_published(files, weights)
    there = {_variant_of_file(path.name) for path in files.unet.glob("*.safetensors")}
    if variant not in there and any(files.unet.glob("diffusion_pytorch_model*")):
        raise UserError(_without(str(folder), variant, there))
    try:
        return _from_pretrained(str(folder), variant, None)
    except (OSError, ValueError) as error:
        raise UserError(f"no pipeline can be loaded from {folder}: {error}") from error


def weights_name(checkpoint: Path, weights: str | None, variant: str | None = None) -> str:
    """Return which weights of a checkpoint are meant, "raw" or "ema_N", by one name or the other, or by none.

    Raises UserError if it does not have them.
    """
    setting, weights = ("weights", weights) if weights is not None else ("variant", variant)
    there = weights_of(checkpoint)
    plain = [name for name, file in there.items() if file.name == SAFETENSORS_WEIGHTS_NAME]
    sampled = plain[0] if plain else sampled_weights(checkpoint)
    return _chosen(weights, sampled, there, str(checkpoint), setting)


def _chosen(weights: str | None, sampled: str, there: Iterable[str], name: str, setting: str = "weights") -> str:
    """Return which of the weights that are there are meant. Raises UserError if none are."""
    if weights is None or (weights == EMA and sampled != RAW):
        return sampled
    if weights in there:
        return weights
    also = "" if sampled == RAW else f"{EMA} (which is {sampled}), "
    meant = [name for name in (EMA, *there) if weights.casefold() in (name, name.rpartition("_")[2])]
    hint = f"did you mean {meant[0]}? " if meant else ""
    raise UserError(f"{setting} is {weights}; {hint}{name} has {also}{', '.join(there)}")


def _choice(path: Path, weights: str | None, variant: str | None) -> str:
    """Return "-WEIGHTS", for names, where a choice of weights leads to others than those without a choice."""
    if not is_checkpoint(path):
        return "" if variant is None else f"-{variant}"
    chosen = weights_name(path, weights, variant)
    return "" if chosen == weights_name(path, None) else f"-{chosen}"


def label_of(name: str, weights: str | None = None, variant: str | None = None) -> str:
    """Return what a model is called, without the folders above: "cars", "cars/step-00001000-raw"."""
    path = Path(name)
    choice = _choice(path, weights, variant)
    if not path.is_dir():
        return f"{name}{choice}"
    run = RunFolder(path).run()
    return f"{'' if run is None else f'{run.path.resolve().name}/'}{path.resolve().name}{choice}"


def evaluation_of(name: str, weights: str | None = None, variant: str | None = None) -> EvaluationFolder:
    """Return where an evaluation of a model writes, unless it is told otherwise.

    That of a checkpoint is beside that of its run, because a checkpoint holds only what was written at once, and is
    deleted when there are newer ones.
    """
    files, label = RunFolder(name), label_of(name, weights, variant)
    if not files.path.is_dir():
        return EvaluationFolder(Path("evaluation") / label.replace("/", "--"))
    if (run := files.run()) is not None:
        return EvaluationFolder(run.evaluation.sibling(label.rpartition("/")[2]))
    choice = _choice(files.path, weights, variant)
    return EvaluationFolder(files.evaluation.sibling(choice[1:])) if choice else files.evaluation


def _check_published(files: RunFolder, weights: str) -> None:
    """Raise UserError if a model that is no checkpoint has other weights, or does not say which it has."""
    if (facts := files.read_facts()) is None:
        raise UserError(
            f"weights is {weights}, which chooses among those of a checkpoint; {files.path} has one set of weights "
            f"and no {files.facts.name} that says which"
        )
    newest, has = files.newest_step(), ema_name(facts["average_half_life_steps"])
    where = "" if newest is None else f" ({newest.parent} can have others)"
    _chosen(weights, has, [has], f"{files.path}{where}")


def _variant_of_file(name: str) -> str | None:
    """Return the variant in the name of a file of weights; None for a file without one."""
    found = _WEIGHTS_FILE.fullmatch(name)
    return found[1] if found else None


def _without(name: str, variant: str | None, there: set[str | None]) -> str:
    """Say that a model has no weights in a variant, and what it has."""
    if not there:
        return (
            f"{name} has no weights in safetensors, and files of another kind can run code of strangers; save the "
            "pipeline again with safe_serialization"
        )
    named = sorted(known for known in there if known is not None)
    has = f"the variants {', '.join(named)}" if len(named) > 1 else f"the variant {named[0]}" if named else ""
    plain = "weights without a variant" if None in there else ""
    if variant is None:
        return f"{name} has no weights without a variant; give --variant with one of {', '.join(named)}"
    return f"{name} has no variant {variant}; it has {' and '.join(filter(None, (plain, has)))}"


def _from_pretrained(name: str, variant: str | None, revision: str | None) -> DDPMCarsPipeline:
    logger = logging.getLogger("diffusers.pipelines.pipeline_utils")
    logger.addFilter(_is_news)
    try:
        with _no_bar():
            pipeline: DDPMCarsPipeline = DDPMCarsPipeline.from_pretrained(
                name, variant=variant, revision=revision, use_safetensors=True
            )
            return pipeline
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # That the Hub is away matters only if the cache has no model either, and then the error says so.
    return not record.getMessage().startswith("Couldn't connect to the Hub")


@contextmanager
def _no_bar() -> Iterator[None]:
    """Hide diffusers' bar of the two parts of a pipeline, which are there at once."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            enable_progress_bar()


def _load_from_hub(name: str, variant: str | None, revision: str | None) -> DDPMCarsPipeline:
    try:
        return _from_pretrained(name, variant, revision)
    except (OSError, ValueError) as error:
        at = "" if revision is None else f", revision {revision},"
        if (there := _variants_on_hub(name, revision)) is not None and variant not in there:
            raise UserError(_without(f"{name}{at}", variant, there)) from error
        reason = _why_not_from_hub(error, revision)
        raise UserError(f"there is no folder {name}, and no such model can be had from the Hub ({reason})") from error


def _variants_on_hub(name: str, revision: str | None) -> set[str | None] | None:
    """Return the variants of the weights of a model on the Hub, None if it does not say."""
    try:
        names = HfApi().list_repo_files(name, revision=revision)
    except Exception:
        # Why it cannot be reached is known from the attempt to load it.
        return None
    there = (path.removeprefix("unet/") for path in names if path.startswith("unet/"))
    return {_variant_of_file(path) for path in there if path.endswith(".safetensors")}


def _why_not_from_hub(error: Exception, revision: str | None) -> str:
    """Return in a few words what diffusers says in several sentences about its own arguments."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and cause not in causes:
        causes.append(cause)  # type: ignore[arg-type]

    def is_due_to(*kinds: type[Exception]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    if revision is not None and is_due_to(RevisionNotFoundError):
        return f"it has no revision {revision}"
    if is_due_to(OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set, and it is not in the cache"
    if is_due_to(RepositoryNotFoundError, GatedRepoError):
        return "it does not exist there, or is private to others"
    if isinstance(error, ValueError):
        return "its ids are NAME or OWNER/NAME"
    return f"{type(error.__cause__ or error).__name__}, and it is not in the cache"
