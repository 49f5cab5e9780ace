"""What the local Hub holds: repositories with all their commits, large files, and the requests that came."""

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from tests.support.hub_faults import Refusal

USER = "driver"
TOKEN = "hf_localHubOfTheTests"
LFS_SUFFIXES = (".bin", ".ckpt", ".npz", ".onnx", ".parquet", ".pt", ".pth", ".safetensors")
LFS_ABOVE_BYTES = 10_000_000
ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize {}\n"


@dataclass(frozen=True)
class Blob:
    """The content of a file, and how git holds it: itself, or a pointer to large-file storage."""

    data: bytes
    is_lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @cached_property
    def in_git(self) -> bytes:
        return POINTER.format(self.sha256, len(self.data)).encode() if self.is_lfs else self.data

    @cached_property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.in_git) + self.in_git).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid

    def lfs_info(self, name_of_hash: str) -> dict:
        info = {name_of_hash: self.sha256, "size": len(self.data), "pointerSize": len(self.in_git)}
        return {"lfs": info} if self.is_lfs else {}


@dataclass(frozen=True)
class Commit:
    """All files at one time, and what its author said."""

    oid: str
    summary: str
    description: str
    parent: "Commit | None"
    blobs: dict[str, Blob]
    date: str = field(default_factory=lambda: f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%fZ}")

    @property
    def files(self) -> dict[str, bytes]:
        """What authors have put there."""
        return {path: blob.data for path, blob in self.blobs.items() if path != ".gitattributes"}

    @property
    def history(self) -> list["Commit"]:
        """This commit and those before it, newest first."""
        return [self, *(self.parent.history if self.parent else [])]


@dataclass
class Repo:
    """A repository with its branches; `commits` are those of all branches in the order they came."""

    kind: str
    repo_id: str
    private: bool
    sdk: str | None
    branches: dict[str, Commit] = field(default_factory=dict)
    commits: list[Commit] = field(default_factory=list)

    @property
    def files(self) -> dict[str, bytes]:
        return self.branches["main"].files

    @property
    def url_path(self) -> str:
        return self.repo_id if self.kind == "model" else f"{self.kind}s/{self.repo_id}"

    def at(self, revision: str) -> Commit:
        commit = self.branches.get(revision) or {commit.oid: commit for commit in self.commits}.get(revision)
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    def add(self, branch: str, summary: str, description: str, blobs: dict[str, Blob]) -> Commit:
        content = [self.repo_id, len(self.commits), summary, {path: blob.etag for path, blob in blobs.items()}]
        oid = hashlib.sha1(json.dumps(content, sort_keys=True).encode()).hexdigest()
        commit = Commit(oid, summary, description, self.branches.get(branch), blobs)
        self.branches[branch] = commit
        self.commits.append(commit)
        return commit


@dataclass(frozen=True)
class Request:
    """A request that has come; its status is None where the upload was cut."""

    method: str
    path: str
    status: int | None
    has_token: bool


@dataclass
class HubState:
    """All that the Hub knows; hold the lock to read while requests may come."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def repo(self, repo_id: str, kind: str = "model") -> Repo:
        return self.repos[kind, repo_id]

    def count(self, method: str, path: str) -> int:
        """Count the requests whose path has this regular expression in it."""
        with self.lock:
            return sum(r.method == method and bool(re.search(path, r.path)) for r in self.requests)


def is_large(path: str, sample: bytes, num_bytes: int) -> bool:
    """Whether a file goes to large-file storage: by its name, or because it is binary or long."""
    return path.endswith(LFS_SUFFIXES) or b"\0" in sample or num_bytes > LFS_ABOVE_BYTES


def describe_path(path: str, blobs: dict[str, Blob]) -> dict[str, Any]:
    """Return what the Hub says of a file, or of a folder."""
    if path not in blobs:
        return {"type": "directory", "path": path, "size": 0, "oid": hashlib.sha1(path.encode()).hexdigest()}
    blob = blobs[path]
    return {"type": "file", "path": path, "size": len(blob.data), "oid": blob.git_oid, **blob.lfs_info("oid")}


def apply_operation(key: str, value: dict[str, Any], blobs: dict[str, Blob], objects: dict[str, bytes]) -> None:
    """Carry out one line of a commit on the files before it.

    Raises:
        Refusal: For a line of no known kind, a large file that has not come, or a deletion of what is not there.
    """
    path = value["path"]
    if key == "file":
        blobs[path] = Blob(base64.b64decode(value["content"]), False)
    elif key == "lfsFile":
        if value["oid"] not in objects:
            raise Refusal(400, f"LFS object {value['oid']} of {path} does not exist")
        blobs[path] = Blob(objects[value["oid"]], True)
    elif key in ("deletedFile", "deletedFolder"):
        is_folder = key == "deletedFolder"
        gone = [name for name in blobs if (name.startswith(f"{path.rstrip('/')}/") if is_folder else name == path)]
        if not gone:
            raise Refusal(404, f"A {'folder' if is_folder else 'file'} with this name doesn't exist", "EntryNotFound")
        for name in gone:
            del blobs[name]
    else:
        raise Refusal(400, f"Operation {key} is not supported")
