"""How the local Hub talks: from a request to the route that answers it, and what goes wrong on the way."""

import json
import re
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote

from tests.support.hub_faults import MESSAGES, Fault, Faults, Refusal
from tests.support.hub_state import TOKEN, HubState, Repo, Request


@dataclass
class Answer:
    """What goes back to the client."""

    content: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        # Metadata may hold dates.
        return self.content if isinstance(self.content, bytes) else json.dumps(self.content, default=str).encode()


ROUTES: list[tuple[tuple[str, ...], re.Pattern[str], str, Callable[..., Answer]]] = []
API = r"/api/(?P<kind>model|dataset|space)s/(?P<repo_id>[^/]+/[^/]+)"
PAGES = r"/(?:(?P<kind>dataset|space)s/)?(?P<repo_id>[^/]+/[^/]+?)"
GATEWAY_PAGE = b"<html><head><title>Bad gateway</title></head></html>"


def route(methods: str, path: str, access: str) -> Callable[[Callable], Callable]:
    """Enter a method of the handler into the table; access is one of open, token, read and write."""

    def enter(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.append((tuple(methods.split()), re.compile(path), access, function))
        return function

    return enter


def refuse(refusal: Refusal) -> Answer:
    """Say why not, in the header and in the body as the Hub does."""
    if refusal.status in (502, 503, 504):
        return Answer(GATEWAY_PAGE, refusal.status, {"Content-Type": "text/html"})
    headers = {"X-Error-Message": refusal.message} | ({"X-Error-Code": refusal.code} if refusal.code else {})
    headers |= {"Retry-After": "1"} if refusal.status == 429 else {}
    return Answer({"error": refusal.message}, refusal.status, headers)


class HubConnection(BaseHTTPRequestHandler):
    """One connection; a route answers under the lock of the state, and what it returns is sent without."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: HubState
    faults: Faults

    def handle_request(self) -> None:
        self.path_only, _, query = self.path.partition("?")
        self.query = parse_qs(query)
        fault = self.faults.take(self.command, self.path_only)
        if fault and fault.cut == "upload":
            return self.cut_upload()
        self.body = self.read_body()
        try:
            if fault and fault.status:
                raise Refusal(fault.status, fault.message)
            with self.state.lock:
                answer = self.find_answer()
        except Refusal as refusal:
            answer = refuse(refusal)
        except Exception as error:
            self.state.errors.append(error)
            answer = refuse(Refusal(500, "the local Hub is broken"))
        return self.send(answer, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def log_message(self, *_: object) -> None:
        """Say nothing; the state has the requests."""

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.read_exactly(int(self.headers.get("Content-Length") or 0))
        body = b""
        while line := self.rfile.readline():
            size = int(line, 16)
            body += self.read_exactly(size)
            self.read_exactly(len("\r\n"))
            if not size:
                return body
        raise ConnectionAbortedError("the client has hung up")

    def read_exactly(self, size: int) -> bytes:
        data = self.rfile.read(size)
        if len(data) < size:
            raise ConnectionAbortedError("the client has hung up")
        return data

    def cut_upload(self) -> None:
        if "Transfer-Encoding" in self.headers:
            self.rfile.read1(1024)
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0) // 2)
        self.log(None)
        self.hang_up(reset=True)

    def hang_up(self, reset: bool) -> None:
        self.close_connection = True
        if reset:
            # No time to linger: the kernel drops what is unsent and says RST.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def log(self, status: int | None) -> None:
        with self.state.lock:
            has_token = "Authorization" in self.headers
            self.state.requests.append(Request(self.command, self.path_only, status, has_token))

    def send(self, answer: Answer, fault: Fault | None) -> None:
        # Before the answer, so that a client which has it finds its request in the log.
        self.log(answer.status)
        if fault and fault.cut and self.command == "HEAD":
            # There is no half of an empty body.
            return self.hang_up(reset=fault.cut == "reset")
        body = answer.body
        self.send_response(answer.status)
        for name, value in ({"Content-Type": "application/json"} | answer.headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if fault and fault.cut else body)
        if fault and fault.cut:
            self.hang_up(reset=fault.cut == "reset")
        return None

    def find_answer(self) -> Answer:
        for methods, pattern, access, function in ROUTES:
            if self.command in methods and (match := pattern.fullmatch(self.path_only)):
                values = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                self.authorize(access, values)
                return function(self, **values)
        raise Refusal(404, f"There is nothing at {self.command} {self.path_only}")

    def authorize(self, access: str, values: dict[str, Any]) -> None:
        """Refuse whom the access is not for, and put the repository in the place of its name."""
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            raise Refusal(401, MESSAGES[401])
        has_repo = "repo_id" in values
        if has_repo:
            values["repo"] = self.find_repo(values.pop("kind", "model"), values.pop("repo_id"))
        if access in ("token", "write") and token is None:
            # Over https the client takes every 401 of a repository for a missing one; over http it needs to be told.
            raise Refusal(401, "Invalid username or password.", "RepoNotFound" if has_repo else None)

    def find_repo(self, kind: str, repo_id: str) -> Repo:
        repo = self.state.repos.get((kind, repo_id))
        has_token = "Authorization" in self.headers
        if repo is None or (repo.private and not has_token):
            raise Refusal(404 if has_token else 401, "Repository not found", "RepoNotFound")
        return repo

    @property
    def payload(self) -> dict[str, Any]:
        return json.loads(self.body)
