"""What the local Hub refuses: against its rules, for a card's metadata, and on purpose."""

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import yaml

Cut = Literal["upload", "download", "reset"]
FRONT_MATTER = re.compile(r"\A---\r?\n(.*?)\r?\n---\s*$", re.DOTALL | re.MULTILINE)
MESSAGES = {
    401: "Invalid credentials in Authorization header",
    403: "You don't have the rights to do this",
    429: "Too many requests",
    500: "Internal Error - We're working hard to fix this as soon as possible!",
}


class Refusal(Exception):
    """An answer other than success.

    Args:
        status: The HTTP status.
        message: What the client shows to its user, one line of ASCII.
        code: How the client tells one kind of 401 and 404 from another.
    """

    def __init__(self, status: int, message: str, code: str | None = None):
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code


@dataclass
class Fault:
    """Something that goes wrong with the next requests of a kind."""

    method: str
    path: re.Pattern[str]
    status: int | None
    cut: Cut | None
    message: str
    times: int


class Faults:
    """Faults in the order they were armed; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Fault] = []

    def arm(
        self,
        status: int | None = None,
        *,
        on: tuple[str, str],
        cut: Cut | None = None,
        times: int = 1,
        message: str | None = None,
    ) -> None:
        """Let the next requests fail.

        Args:
            status: Answer with this status and change nothing. 429 comes with `Retry-After: 1`; 502 to 504 come with
                a page of HTML, as from the gateways before the Hub, and all others with JSON.
            on: Method, and a regular expression that is searched for in the path.
            cut: Instead of a status: `upload` resets the connection when half of the body has come, and nothing is
                done; `download` does what was asked and ends the connection after half of the answer; `reset` does
                the same with a reset of the connection.
            times: How many requests fail.
            message: What the answer says, instead of what is usual for the status.

        Raises:
            ValueError: If not exactly one of status and cut is given.
        """
        if (status is None) == (cut is None):
            raise ValueError("a fault has either a status or a cut")
        method, path = on
        message = message or MESSAGES.get(status or 0, "Something went wrong")
        with self._lock:
            self._armed.append(Fault(method, re.compile(path), status, cut, message, times))

    def take(self, method: str, path: str) -> Fault | None:
        """Return the fault that this request meets, and count it."""
        with self._lock:
            for fault in self._armed:
                if fault.method == method and fault.path.search(path):
                    fault.times -= 1
                    if not fault.times:
                        self._armed.remove(fault)
                    return fault
        return None

    @property
    def unmet(self) -> int:
        """Number of failures that no request has come for yet."""
        with self._lock:
            return sum(fault.times for fault in self._armed)


def read_front_matter(content: str) -> Any:
    """Return a card's metadata, None without any; raises yaml.YAMLError."""
    match = FRONT_MATTER.match(content)
    return yaml.safe_load(match[1]) if match else None


def find_metadata_errors(content: str) -> list[str]:
    """Return what is wrong with the metadata of a card; no metadata is not an error."""
    try:
        metadata = read_front_matter(content)
    except yaml.YAMLError as error:
        return [str(error)]
    if metadata is None:
        return []
    if not isinstance(metadata, dict):
        return ["metadata must be an object"]
    strings = [key for key in ("license", "pipeline_tag") if key in metadata]
    errors = [f'"{key}" must be a string' for key in strings if not isinstance(metadata[key], str)]
    return errors + (list(_find_index_errors(metadata["model-index"])) if "model-index" in metadata else [])


def _find_index_errors(index: Any) -> Iterator[str]:
    if not isinstance(index, list):
        yield '"model-index" must be an array'
        return
    for i, model in enumerate(index):
        name = f"model-index[{i}]"
        yield from _find_missing_text(model, name, "name")
        results = _look_up(model, "results")
        if not isinstance(results, list):
            yield f'"{name}.results" must be an array'
            continue
        for j, result in enumerate(results):
            yield from _find_result_errors(result, f"{name}.results[{j}]")


def _find_result_errors(result: Any, name: str) -> Iterator[str]:
    yield from _find_missing_text(result, name, "task.type", "dataset.type", "dataset.name")
    metrics = _look_up(result, "metrics")
    if not isinstance(metrics, list):
        yield f'"{name}.metrics" must be an array'
        return
    for k, metric in enumerate(metrics):
        yield from _find_missing_text(metric, f"{name}.metrics[{k}]", "type")
        if _look_up(metric, "value") is None:
            yield f'"{name}.metrics[{k}].value" is required'


def _find_missing_text(value: Any, name: str, *paths: str) -> Iterator[str]:
    for path in paths:
        text = _look_up(value, path)
        if not isinstance(text, str):
            yield f'"{name}.{path}" ' + ("is required" if text is None else "must be a string")


def _look_up(value: Any, path: str) -> Any:
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value
