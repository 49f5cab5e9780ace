"""Publishing a model, or a demo of it, on the Hub: one commit with everything that others need, and nothing else."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from ddpm_cars.config.commands import PushConfig
from ddpm_cars.errors import PublishError, UserError
from ddpm_cars.publishing.card import CARD, is_untouched
from ddpm_cars.publishing.files import collect, content_of
from ddpm_cars.runs.saved_pipeline import ModelFolder, open_model_folder

# A push waits so long between tries. The client repeats some requests by itself, but not the commit.
_WAITS_SECONDS = (1, 4)
# Files of an earlier push that begin so are deleted: they would be loaded in place of what is published now.
_OWN_FOLDERS = ("unet/diffusion_pytorch_model", "model/", "ddpm_cars/")


@dataclass(frozen=True)
class Published:
    """What a push has done."""

    url: str  # The address of the repository.
    is_new: bool  # Whether this push has made a commit; it makes none if nothing has changed.
    is_private: bool  # Whether only its owner sees the repository.
    kept_card: bool  # Whether the card on the Hub was kept because somebody has edited it.
    metrics_path: Path | None  # The evaluation that is published.
    stale_metrics: Path | None  # One that was left out, as it is unfinished, or of other weights or calibration.


def check_access(repo_id: str, private: bool = False) -> str | None:
    """Return why the Hub does not answer before a long run, which may be over when the run is; None if it answers.

    Args:
        repo_id: The model's repository, NAME or OWNER/NAME.
        private: Whether it has to be private, if it is there already.

    Raises:
        UserError: If there is no token, the Hub refuses it, or the repository is public and must not be.
    """
    api = HfApi()
    try:
        with _explained("the run", repo_id):
            user = api.whoami()["name"]
            if private:
                with suppress(RepositoryNotFoundError):
                    _check_private(api, repo_id if "/" in repo_id else f"{user}/{repo_id}", "model")
    except PublishError as error:
        cause = error.__cause__
        if cause is None or isinstance(cause, LocalTokenNotFoundError) or _status(cause) in (401, 403):
            raise UserError(f"push_to_hub: {error}") from error
        return str(error)
    return None


def push(config: PushConfig) -> Published:
    """Publish a folder on the Hub in one commit, or in none if nothing has changed.

    A failure that may pass, such as an error of the server, is tried three times.

    Args:
        config: What to publish and where.

    Raises:
        UserError: If the folder holds no model, or the name cannot be that of a repository.
        PublishError: If the Hub cannot be reached or refuses, or would show to all what is to be private. At most a
            repository without the commit is left there.
    """
    folder = open_model_folder(config.folder, config.weights, config.variant)
    for seconds in _WAITS_SECONDS:
        try:
            return _push_once(config, folder)
        except PublishError as error:
            if not _may_pass(error.__cause__):
                raise
            wait_seconds = max(seconds, _retry_after_seconds(error.__cause__))
        time.sleep(wait_seconds)
    return _push_once(config, folder)


def _may_pass(error: BaseException | None) -> bool:
    status = _status(error)
    return status == 429 or status >= 500 or (status == 0 and isinstance(error, HTTPError | ValueError))


def _retry_after_seconds(error: BaseException | None) -> float:
    text = "" if not _status(error) else error.response.headers.get("Retry-After", "")  # type: ignore[union-attr]
    # Its other form, a date, gets the usual wait. No wait is longer than a minute.
    return min(60.0, float(text)) if text.isdecimal() else 0.0


def _check_private(api: HfApi, repo_id: str, kind: str) -> None:
    """Raise PublishError if others see a repository, or the Hub does not say whether they do."""
    if (private := api.repo_info(repo_id, repo_type=kind).private) is True:
        return
    page = f"{api.endpoint}/{'spaces/' if kind == 'space' else ''}{repo_id}/settings"
    found = "is public" if private is False else "may be public, as the Hub does not say whether it is private"
    raise PublishError(
        f"{repo_id} {found}, and private makes only a new repository so; nothing was uploaded: make it private at "
        f"{page}, publish to another name, or leave private out"
    )


def _push_once(config: PushConfig, folder: ModelFolder) -> Published:
    api, kind = HfApi(), "space" if config.space else "model"
    with _explained(config.folder, config.repo_id):
        owner = "" if "/" in config.repo_id else f"{api.whoami()['name']}/"
        repo_id = owner + config.repo_id
        files = collect(config, folder, repo_id)
        # With None, the settings of the owner decide whether a new repository is private.
        url = api.create_repo(
            repo_id,
            repo_type=kind,
            private=config.private or None,
            space_sdk="gradio" if config.space else None,
            exist_ok=True,
        )
        if config.private:
            # It may have been there before, or its owner may have other plans for new ones.
            _check_private(api, repo_id, kind)
        if config.revision is not None:
            api.create_branch(repo_id, branch=config.revision, repo_type=kind, exist_ok=True)
        there = api.repo_info(repo_id, repo_type=kind, revision=config.revision)
        head = there.sha
        present = set(api.list_repo_files(repo_id, repo_type=kind, revision=head))
        kept_card = CARD in present and not config.overwrite_card and _was_edited(api, repo_id, kind, config.revision)
        if kept_card:
            del files[CARD]
        else:
            _validate(content_of(files[CARD]).decode(), kind)
        old = sorted(name for name in present if name.startswith(_OWN_FOLDERS) and name not in files)
        commit = api.create_commit(
            repo_id,
            [*(CommitOperationAdd(*file) for file in files.items()), *map(CommitOperationDelete, old)],
            commit_message=config.commit_message or f"Publish {'the demo' if config.space else 'the model'}",
            repo_type=kind,
            revision=config.revision,
            parent_commit=head,
        )
    return Published(
        str(url), commit.oid != head, bool(there.private), kept_card, folder.metrics_path, folder.stale_metrics
    )


def _validate(card: str, kind: str) -> None:
    """Ask the Hub whether it accepts the metadata of a card, before anything is uploaded."""
    try:
        ModelCard(card, ignore_metadata_errors=True).validate(repo_type=kind)
    except (HfHubHTTPError, json.JSONDecodeError):
        raise
    except ValueError as error:
        raise UserError(f"the Hub refuses the metadata of the card: {' '.join(str(error).split())}") from error


def _was_edited(api: HfApi, repo_id: str, kind: str, revision: str | None) -> bool:
    with TemporaryDirectory() as temporary:
        path = api.hf_hub_download(repo_id, CARD, repo_type=kind, revision=revision, local_dir=temporary)
        return not is_untouched(Path(path).read_text(encoding="utf-8"))


def _status(error: BaseException | None) -> int:
    response = getattr(error, "response", None)
    return 0 if response is None else response.status_code


@contextmanager
def _explained(folder: str, repo_id: str) -> Iterator[None]:
    """Turn errors of the Hub's client into errors of one line; other errors pass."""
    try:
        yield
    except Exception as error:
        # The client wraps errors that occur while it uploads.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error
        explained = _in_words(cause, repo_id, f"; {folder} is unharmed, and the same command tries again")
        if explained is None:
            raise
        raise explained from cause


def _in_words(error: BaseException, repo_id: str, again: str) -> Exception | None:
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, HFValidationError):
        return UserError(f"repo_id {repo_id} cannot be the name of a repository: {said}")
    if isinstance(error, LocalTokenNotFoundError):
        return PublishError("there is no token for the Hub; run `hf auth login`, or set HF_TOKEN")
    if isinstance(error, OfflineModeIsEnabled):
        return PublishError(f"the Hub is switched off by HF_HUB_OFFLINE; unset it{again}")
    if isinstance(error, HfHubHTTPError):
        return PublishError(_refusal(error, repo_id) + again)
    # A gateway may answer in place of the Hub, with a page instead of JSON.
    if isinstance(error, HTTPError | ConnectionError | TimeoutError | json.JSONDecodeError):
        return PublishError(f"the Hub cannot be reached ({said}){again}")
    return None


def _refusal(error: HfHubHTTPError, repo_id: str) -> str:
    status, said = _status(error), " ".join((error.server_message or "").split())
    cures: Mapping[int, Any] = {
        401: "the token is not accepted; run `hf auth login`, or set HF_TOKEN to one that may write",
        403: f"the token may not write to {repo_id}; take one that may, or another repo_id",
        404: f"there is no {repo_id} that the token may see",
        412: "somebody has changed the repository at the same time",
        429: "there were too many requests; wait a while",
    }
    reason = cures.get(status, "an error of its own" if status >= 500 else "see what it says")
    return f"the Hub answers {status}: {reason}{f' ({said})' if said else ''}"
