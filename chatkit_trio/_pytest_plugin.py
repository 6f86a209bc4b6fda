"""The pytest plugin: fixtures for tests of servers built with chatkit_trio.

Pytest loads it in every environment that has the package installed, so it imports nothing slow
until a test asks for a fixture, and needs pytest-trio only where a client is wanted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from chatkit_trio.server import ChatKitServer
    from chatkit_trio.stores import MemoryStore
    from chatkit_trio.testing import ChatClient, JumpClock

try:
    from pytest_trio import trio_fixture  # type: ignore[import-untyped]
except ModuleNotFoundError:

    def trio_fixture(function: Callable[..., Any]) -> Any:
        """Make a fixture of that name which says what to install."""

        def missing() -> None:
            pytest.fail(
                f"{function.__name__} needs pytest-trio: pip install 'chatkit-trio[testing]'"
            )

        return pytest.fixture(name=function.__name__)(missing)


@pytest.fixture
def jump_clock() -> JumpClock:
    """Run the test on virtual time; it stands still while worker threads run, so SQLite works."""
    from chatkit_trio.testing import JumpClock

    return JumpClock()


@pytest.fixture
def chatkit_store() -> MemoryStore[Any]:
    """Return a new store in memory."""
    from chatkit_trio.stores import MemoryStore

    return MemoryStore()


@pytest.fixture
def chatkit_server() -> ChatKitServer[Any]:
    """Return the server of `chatkit_client`: define a fixture of this name that returns yours."""
    pytest.fail(
        "chatkit_client needs a server: define a fixture chatkit_server that returns yours, not"
        " yet running"
    )


@trio_fixture  # type: ignore[untyped-decorator]
async def chatkit_client(chatkit_server: ChatKitServer[Any]) -> AsyncIterator[ChatClient]:
    """Run `chatkit_server` and return a client of it, without HTTP."""
    from chatkit_trio.testing import ChatClient

    async with chatkit_server as server, ChatClient.of_server(server) as client:
        yield client  # noqa: ASYNC119  (pytest-trio ends it, in the task that began it)
