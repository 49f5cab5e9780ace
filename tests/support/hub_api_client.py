"""The real client of a Hub in a process of its own, and requests that no good client sends."""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.hub_server import LocalHub
from tests.support.patience import PATIENCE_SECONDS

# Reads calls of the API from its input, one a line; small downloads have to come in pieces to be resumed.
CLIENT = """
import json, sys, types
import huggingface_hub, huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 1000
api = huggingface_hub.HfApi()

def plain(value):
    return vars(value) if hasattr(value, "__dict__") else str(value)

for line in sys.stdin:
    name, keywords = json.loads(line)
    if "operations" in keywords:
        keywords["operations"] = [getattr(huggingface_hub, kind)(**fields) for kind, fields in keywords["operations"]]
    try:
        result = getattr(api, name)(**keywords)
        answer = {"result": list(result) if isinstance(result, types.GeneratorType) else result}
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        answer = {"kind": type(error).__name__, "message": str(error), "status": status}
    print(json.dumps(answer, default=plain), flush=True)
"""
CARD = "---\nlicense: apache-2.0\npipeline_tag: unconditional-image-generation\n---\n# Cars\n"


@dataclass(eq=False)
class Failure(Exception):
    kind: str
    message: str
    status: int | None

    def __str__(self) -> str:
        return self.message


@dataclass
class Client:
    """The real client; an exception there is a Failure here."""

    process: subprocess.Popen

    def __call__(self, name: str, **keywords: Any) -> Any:
        self.process.stdin.write(json.dumps([name, keywords], default=str) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "kind" in answer:
            raise Failure(**answer)
        return answer["result"]


@contextmanager
def start_client(hub: LocalHub, home: Path) -> Iterator[Client]:
    """Start the client of a Hub; it ends when its input does."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", CLIENT]
    with subprocess.Popen(command, env=hub.environment(home), stdin=pipe, stdout=pipe, text=True) as process:
        yield Client(process)


def write_model(folder: Path) -> Path:
    """Write a small model: text, a folder, and weights that are a large file by their name."""
    (folder / "unet").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "unet" / "config.json").write_text('{"sample_size": 8}')
    (folder / "unet" / "weights.safetensors").write_bytes(os.urandom(50_000))
    return folder


def read_files(folder: Path | str) -> dict[str, bytes]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != ".gitattributes"}


def ask(hub: LocalHub, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Send one request as anybody could, with JSON or bytes."""
    connection = http.client.HTTPConnection(hub.url.removeprefix("http://"), timeout=PATIENCE_SECONDS)
    try:
        connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body), headers)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()
