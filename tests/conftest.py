"""Settings and servers for all tests."""

from __future__ import annotations

import gc
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests.chromium import needs_chromium, running_chromium
from tests.postgresql_server import Server, running_server

# A busy machine makes an example slow, not wrong; a hang is faulthandler's affair.
settings.register_profile("chatkit_trio", deadline=None)
settings.load_profile("chatkit_trio")


@pytest.fixture(scope="session", autouse=True)
def _servers_hear_sighup() -> None:
    """Under nohup a server that a test starts would inherit that SIGHUP is ignored."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda number, frame: None)


def _handlers() -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signal.valid_signals()}


_SIGNALS = pytest.StashKey[dict[int, Any]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    item.stash[_SIGNALS] = _handlers()
    yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """Fail a test that has changed what a signal does: it would do so in the tests behind it."""
    yield
    before, after = item.stash[_SIGNALS], _handlers()
    changed = [signal.Signals(number).name for number in before if before[number] != after[number]]
    assert not changed, f"the test has left other handlers of {', '.join(changed)}"


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A PostgreSQL server of the tests' own; skips where none is installed."""
    with running_server() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: Server) -> str:
    """The URL of a database without data; sessions that are left from before are ended."""
    return postgresql_server.emptied_database()


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what has a browser, and skip it where there is none."""
    for item in items:
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
            item.add_marker(needs_chromium)


def pytest_collection_finish() -> None:
    """Have collections of garbage be few, and pass over all that is loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The browser of a test, unless its module starts it in another way."""
    with running_chromium() as browser:
        yield browser
