"""Settings and servers for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.postgresql_server import Server, running_server

# A busy machine makes an example slow, not wrong; a hang is faulthandler's affair.
settings.register_profile("chatkit_trio", deadline=None)
settings.load_profile("chatkit_trio")


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL server of the tests' own; skips where none is installed."""
    with running_server() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: Server) -> str:
    """The URL of a database without data; sessions that are left from before are ended."""
    return postgresql_server.emptied_database()
