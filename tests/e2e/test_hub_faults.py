"""The local Hub when things go wrong: on purpose, with many clients at once, and with those that hang up."""

import hashlib
import json
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_api_client import Client, Failure, ask, read_files, start_client, write_model
from tests.support.hub_server import LocalHub

FAULTS = [
    ({"status": 500}, "Internal Error"),
    ({"status": 401}, "Invalid credentials in Authorization header"),
    ({"status": 403, "message": "Private repository storage limit reached"}, "storage limit reached"),
    ({"status": 429}, "429 Too Many Requests"),
    ({"status": 503}, "503 Service Unavailable"),
    ({"cut": "upload"}, "reset by peer"),
    ({"cut": "reset"}, "reset by peer"),
    ({"cut": "download"}, "peer closed connection without sending complete message body"),
]


@pytest.fixture(scope="module")
def client(hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with start_client(hub, tmp_path_factory.mktemp("home")) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=lambda value: str(value)[:25])
def test_a_commit_fails_in_every_way_and_the_same_call_succeeds(
    hub: LocalHub, client: Client, folder: Path, fault: dict, message: str
):
    repo_id = "driver/" + "-".join(str(value)[:7].strip() for value in fault.values())
    client("create_repo", repo_id=repo_id)
    repo = hub.state.repo(repo_id)
    hub.fail(**fault, on=("POST", f"{repo_id}/commit/"))
    with pytest.raises(Failure, match=message) as refused:
        client("upload_folder", repo_id=repo_id, folder_path=folder)
    assert refused.value.status == fault.get("status")
    assert hub.faults.unmet == 0
    # What came before the answer was lost is done.
    assert len(repo.commits) == (2 if fault.get("cut") in ("download", "reset") else 1)
    client("upload_folder", repo_id=repo_id, folder_path=folder)
    assert repo.files == read_files(folder)
    assert len(repo.commits) == 2
    [*_, last] = [request for request in hub.state.requests if f"{repo_id}/commit/" in request.path]
    assert last.has_token


@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 429}, {"cut": "upload"}], ids=str)
def test_an_upload_of_weights_is_repeated_by_the_client(
    hub: LocalHub, client: Client, folder: Path, fault: dict, tmp_path: Path
):
    repo_id = f"driver/put-{next(iter(fault.values()))}"
    client("create_repo", repo_id=repo_id)
    oid = hashlib.sha256((folder / "unet" / "weights.safetensors").read_bytes()).hexdigest()
    hub.fail(**fault, on=("PUT", "/lfs-storage/"))
    client("upload_folder", repo_id=repo_id, folder_path=folder)
    assert [r.status for r in hub.state.requests if r.path == f"/lfs-storage/{oid}"] == [fault.get("status"), 200]
    assert hub.state.repo(repo_id).files == read_files(folder)


def test_a_download_that_is_cut_is_resumed(hub: LocalHub, client: Client, folder: Path, tmp_path: Path):
    client("create_repo", repo_id="driver/resumed")
    client("upload_folder", repo_id="driver/resumed", folder_path=folder)
    hub.fail(cut="download", on=("GET", r"driver/resumed/resolve/.*/weights\.safetensors"))
    down = client("snapshot_download", repo_id="driver/resumed", cache_dir=tmp_path / "cache")
    assert read_files(down) == read_files(folder)
    gets = [r.status for r in hub.state.requests if r.method == "GET" and "resumed/resolve" in r.path]
    assert sorted(gets) == [200, 200, 200, 200, 206]


@pytest.mark.parametrize(("cut", "kind"), [("download", "RemoteProtocolError"), ("reset", "ReadError")])
def test_an_answer_without_a_body_is_cut_before_it_begins(
    hub: LocalHub, client: Client, tmp_path: Path, cut: str, kind: str
):
    client("create_repo", repo_id="driver/headless", exist_ok=True)
    hub.fail(cut=cut, on=("HEAD", "driver/headless/resolve"))
    with pytest.raises(Failure) as refused:
        client("hf_hub_download", repo_id="driver/headless", filename=".gitattributes", cache_dir=tmp_path)
    assert refused.value.kind == kind


def test_a_fault_meets_as_many_requests_as_it_was_armed_for(hub: LocalHub):
    hub.fail(status=500, times=2, on=("GET", "whoami"))
    hub.fail(status=429, on=("GET", "whoami"))
    hub.fail(status=503, on=("GET", "whoami"))
    authorization = {"Authorization": f"Bearer {hub.token}"}
    assert ask(hub, "HEAD", "/api/whoami-v2", **authorization)[0] == 404
    answers = [ask(hub, "GET", "/api/whoami-v2", **authorization) for _ in range(5)]
    assert [status for status, *_ in answers] == [500, 500, 429, 503, 200]
    assert answers[2][1]["Retry-After"] == "1"
    types = [headers["Content-Type"] for _, headers, _ in answers]
    assert types == ["application/json"] * 3 + ["text/html", "application/json"]
    with pytest.raises(ValueError, match="either a status or a cut"):
        hub.fail(on=("GET", "whoami"))


def test_many_authors_at_once_lose_nothing(hub: LocalHub, client: Client):
    client("create_repo", repo_id="driver/busy")

    def commit(number: int) -> None:
        lines = [{"key": "header", "value": {"summary": str(number), "description": ""}}]
        lines.append({"key": "file", "value": {"path": f"{number}.txt", "content": "aGk="}})
        body = "\n".join(json.dumps(line) for line in lines).encode()
        ask(hub, "POST", "/api/models/driver/busy/commit/main", body, Authorization=f"Bearer {hub.token}")

    threads = [threading.Thread(target=commit, args=(number,)) for number in range(16)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    repo = hub.state.repo("driver/busy")
    assert repo.files == {f"{number}.txt": b"hi" for number in range(16)}
    assert len(repo.branches["main"].history) == 17


def test_a_client_that_hangs_up_is_no_event(capfd: pytest.CaptureFixture):
    before = set(threading.enumerate())
    with LocalHub() as hub:
        address = ("127.0.0.1", int(hub.url.rsplit(":", 1)[1]))
        half = b"PUT /lfs-storage/%s HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf" % (b"0" * 64)
        chunked = b"PUT /lfs-storage/%s HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf" % (b"0" * 64)
        for request in (b"", b"GET /api/who HT", half, chunked, chunked + b"\r\n"):
            for linger in (struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)):
                with socket.create_connection(address) as connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    connection.sendall(request)
        # One that stays, in the middle of a request, while the Hub closes.
        with socket.create_connection(address) as idle:
            idle.sendall(half)
            assert ask(hub, "GET", "/api/whoami-v2")[0] == 401
            hub.close()
            assert idle.recv(1) == b""
        # Nothing of what was sent by halves was taken for a request.
        assert [request.path for request in hub.state.requests] == ["/api/whoami-v2"]
    assert set(threading.enumerate()) <= before
    assert capfd.readouterr() == ("", "")


def test_a_mistake_of_the_hub_itself_is_not_hidden():
    hub = LocalHub()
    try:
        status = ask(hub, "POST", "/api/validate-yaml", {})[0]
    finally:
        with pytest.raises(KeyError, match="content"):
            hub.close()
    assert status == 500
