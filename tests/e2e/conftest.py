from collections.abc import Iterator

import pytest

from tests.support.hub_server import LocalHub


@pytest.fixture(scope="module")
def hub() -> Iterator[LocalHub]:
    """A Hub for the tests of one file."""
    with LocalHub() as hub:
        yield hub
