"""A Hugging Face Hub of this process alone: what its client needs to publish and to download, kept in memory."""

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs

import yaml

from tests.support.hub_connection import API, PAGES, Answer, HubConnection, route
from tests.support.hub_faults import Faults, Refusal, find_metadata_errors, read_front_matter
from tests.support.hub_state import (
    ATTRIBUTES,
    TOKEN,
    USER,
    Blob,
    HubState,
    Repo,
    apply_operation,
    describe_path,
    is_large,
)


class HubHandler(HubConnection):
    """The routes of the Hub."""

    server: "HubServer"

    @property
    def state(self) -> HubState:
        return self.server.state

    @property
    def faults(self) -> Faults:
        return self.server.faults

    @route("GET", "/api/whoami-v2", "token")
    def tell_user(self) -> Answer:
        auth = {"type": "access_token", "accessToken": {"displayName": "tests", "role": "write"}}
        return Answer({"type": "user", "id": "1", "name": USER, "fullname": USER, "orgs": [], "auth": auth})

    @route("POST", "/api/validate-yaml", "open")
    def validate_metadata(self) -> Answer:
        content = self.payload["content"]
        errors = [{"message": message} for message in find_metadata_errors(content)]
        is_empty = not errors and not read_front_matter(content)
        warnings = [{"message": "empty or missing yaml metadata in repo card"}] if is_empty else []
        return Answer({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    @route("POST", "/api/repos/create", "token")
    def create_repo(self) -> Answer:
        kind, repo_id = self.named_repo()
        wanted = self.payload
        if not repo_id.startswith(f"{USER}/"):
            raise Refusal(403, f"You don't have the rights to create {repo_id}")
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        repo = Repo(kind, repo_id, private, wanted.get("sdk"))
        answer: dict[str, Any] = {"url": f"{self.server.url}/{repo.url_path}", "name": repo_id}
        if (kind, repo_id) in self.state.repos:
            return Answer(answer | {"error": f"You already created this {kind} repo"}, 409)
        repo.add("main", "initial commit", "", {".gitattributes": Blob(ATTRIBUTES, False)})
        self.state.repos[kind, repo_id] = repo
        return Answer(answer)

    @route("DELETE", "/api/repos/delete", "token")
    def delete_repo(self) -> Answer:
        repo = self.find_repo(*self.named_repo())
        del self.state.repos[repo.kind, repo.repo_id]
        return Answer({})

    def named_repo(self) -> tuple[str, str]:
        wanted = self.payload
        return wanted.get("type") or "model", f"{wanted.get('organization') or USER}/{wanted['name']}"

    @route("GET", f"{API}(?:/revision/(?P<revision>[^/]+))?", "read")
    def describe_repo(self, repo: Repo, revision: str = "main") -> Answer:
        commit = repo.at(revision)
        siblings: list[dict[str, Any]] = [{"rfilename": path} for path in sorted(commit.blobs)]
        if "blobs" in self.query:
            for sibling in siblings:
                blob = commit.blobs[sibling["rfilename"]]
                sibling |= {"size": len(blob.data), "blobId": blob.git_oid, **blob.lfs_info("sha256")}
        described = {"id": repo.repo_id, "author": USER, "sha": commit.oid, "private": repo.private, "sdk": repo.sdk}
        described |= {"siblings": siblings, "lastModified": commit.date, "createdAt": repo.commits[0].date}
        described |= {"gated": False, "disabled": False, "downloads": 0, "likes": 0, "tags": []}
        with contextlib.suppress(KeyError, yaml.YAMLError, UnicodeDecodeError):
            described["cardData"] = read_front_matter(commit.blobs["README.md"].data.decode())
        return Answer(described)

    @route("GET", f"{API}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "read")
    def list_tree(self, repo: Repo, revision: str, folder: str = "") -> Answer:
        blobs = repo.at(revision).blobs
        prefix = f"{folder.strip('/')}/" if folder else ""
        inside = [path for path in sorted(blobs) if path.startswith(prefix)]
        if not inside:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        recursive = self.query.get("recursive") == ["true"]
        parents = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {".", folder.strip("/")}
        shown = [path for path in (*inside, *parents) if path.startswith(prefix)]
        shown = [path for path in sorted(shown) if recursive or "/" not in path[len(prefix) :]]
        return Answer([describe_path(path, blobs) for path in shown])

    @route("POST", f"{API}/paths-info/(?P<revision>[^/]+)", "read")
    def describe_paths(self, repo: Repo, revision: str) -> Answer:
        blobs = repo.at(revision).blobs
        paths = [path.strip("/") for path in parse_qs(self.body.decode())["paths"]]
        known = [path for path in paths if any(name == path or name.startswith(f"{path}/") for name in blobs)]
        return Answer([describe_path(path, blobs) for path in known])

    @route("GET", f"{API}/refs", "read")
    def list_refs(self, repo: Repo) -> Answer:
        refs = [(name, f"refs/heads/{name}", commit.oid) for name, commit in repo.branches.items()]
        branches = [dict(zip(("name", "ref", "targetCommit"), ref, strict=True)) for ref in refs]
        return Answer({"branches": branches, "tags": [], "converts": [], "pullRequests": []})

    @route("POST", f"{API}/branch/(?P<branch>[^/]+)", "write")
    def create_branch(self, repo: Repo, branch: str) -> Answer:
        if branch in repo.branches:
            raise Refusal(409, f"Reference {branch} already exists")
        repo.branches[branch] = repo.at(self.payload.get("startingPoint") or "main")
        return Answer({})

    @route("GET", f"{API}/commits/(?P<revision>[^/]+)", "read")
    def list_commits(self, repo: Repo, revision: str) -> Answer:
        keys = ("id", "title", "message", "date", "authors")
        rows = [(c.oid, c.summary, c.description, c.date, [{"user": USER}]) for c in repo.at(revision).history]
        return Answer([dict(zip(keys, row, strict=True)) for row in rows])

    @route("POST", f"{API}/preupload/(?P<revision>[^/]+)", "write")
    def plan_upload(self, repo: Repo, revision: str) -> Answer:
        self.refuse_pull_request()
        blobs = repo.at(revision).blobs
        files = []
        for file in self.payload["files"]:
            large = is_large(file["path"], base64.b64decode(file["sample"]), file["size"])
            here = blobs.get(file["path"])
            plan = {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            files.append(plan | {"oid": here.etag if here else None})
        return Answer({"files": files})

    @route("POST", f"{API}/commit/(?P<branch>[^/]+)", "write")
    def commit(self, repo: Repo, branch: str) -> Answer:
        self.refuse_pull_request()
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        if branch not in repo.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        newest = repo.branches[branch]
        if not newest.oid.startswith(header["value"].get("parentCommit", "")):
            raise Refusal(412, "A commit has happened since. Please refresh and try again.")
        blobs = dict(newest.blobs)
        for operation in operations:
            apply_operation(operation["key"], operation["value"], blobs, self.state.objects)
        commit = repo.add(branch, header["value"]["summary"], header["value"]["description"], blobs)
        url = f"{self.server.url}/{repo.url_path}/commit/{commit.oid}"
        return Answer({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def refuse_pull_request(self) -> None:
        if "create_pr" in self.query:
            raise Refusal(400, "Pull requests are not supported by this Hub")

    @route("POST", rf"{PAGES}\.git/info/lfs/objects/batch", "write")
    def plan_large_files(self, repo: Repo) -> Answer:
        objects = []
        for wanted in self.payload["objects"]:
            href = f"{self.server.url}/lfs-storage/{wanted['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            is_here = wanted["oid"] in self.state.objects
            objects.append(wanted if is_here else {**wanted, "actions": actions})
        return Answer({"transfer": "basic", "objects": objects})

    # Storage has no users: who may write is asked where the address is given out.
    @route("PUT", "/lfs-storage/(?P<oid>[0-9a-f]{64})", "open")
    def store_large_file(self, oid: str) -> Answer:
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "The content does not have the sha256 that was announced")
        self.state.objects[oid] = self.body
        return Answer({})

    @route("POST", "/lfs-storage/(?P<oid>[0-9a-f]{64})/verify", "token")
    def verify_large_file(self, oid: str) -> Answer:
        if len(self.state.objects.get(oid, b"")) != self.payload["size"]:
            raise Refusal(404, "The large file is not here")
        return Answer({})

    @route("GET HEAD", f"{PAGES}/(?P<view>resolve|raw)/(?P<revision>[^/]+)/(?P<path>.+)", "read")
    def read_file(self, repo: Repo, view: str, revision: str, path: str) -> Answer:
        commit = repo.at(revision)
        if path not in commit.blobs:
            raise Refusal(404, "Entry not found", "EntryNotFound")
        blob = commit.blobs[path]
        data = blob.in_git if view == "raw" else blob.data
        headers = {"ETag": f'"{blob.etag}"', "X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        headers |= {"Content-Type": "application/octet-stream"}
        if blob.is_lfs:
            headers |= {"X-Linked-Etag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return Answer(data, headers=headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        if first > last:
            return Answer(b"", 416, {"Content-Range": f"bytes */{len(data)}"})
        return Answer(data[first : last + 1], 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(data)}"})


class HubServer(ThreadingHTTPServer):
    """Keeps its connections, which a client would hold open for ever."""

    daemon_threads = False
    # Clients that come at once, which would wait a second where the queue is full.
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.state = HubState()
        self.faults = Faults()
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        # A client may hang up when it likes.
        if isinstance(error, Exception) and not isinstance(error, ConnectionError):
            self.state.errors.append(error)


class LocalHub:
    """A Hub on a free port of this machine, from its construction until it is closed.

    Attributes:
        url: Its address, for HF_ENDPOINT.
        user: Who owns all repositories.
        token: The one token that may write, and read what is private.
        state: What it holds.
    """

    user = USER
    token = TOKEN

    def __init__(self) -> None:
        self._server = HubServer()
        self.url = self._server.url
        self.state = self._server.state
        self.faults = self._server.faults
        self.fail = self.faults.arm
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def environment(self, home: Path) -> dict[str, str]:
        """Return the environment of a process whose Hub this is, with its caches in a folder of its own."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and "proxy" not in k.lower()}
        changes = {"HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return environment | changes | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def close(self) -> None:
        """End all connections and wait for their threads; raises what has gone wrong inside the Hub."""
        self._server.shutdown()
        for connection in list(self._server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._thread.join()
        if self.state.errors:
            raise self.state.errors[0]

    def __enter__(self) -> "LocalHub":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
