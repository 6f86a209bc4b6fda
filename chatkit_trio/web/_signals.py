"""Signals that end a process, delivered to the trio thread; and settling before they do.

`serve` handles them itself. Under another server (`hypercorn`) SIGTERM and SIGHUP may have no
handler, and then end a process on the spot: a worker of Hypercorn that gets one from systemd, a
terminal, or Hypercorn itself, which ends its workers as soon as one of them has ended. Such a
signal is held back here until what is live is settled, and then ends the process as it would have.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from types import FrameType
from typing import Any

import trio

from chatkit_trio.server import ChatKitServer

logger = logging.getLogger(__name__)

_LAST_BYTES = 0.3  # seconds that streams get for their last events


def ending_signals() -> list[signal.Signals]:
    """Return the signals at which a server ends; not SIGHUP where it is ignored (nohup)."""
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN:
        return [signal.SIGTERM, signal.SIGINT]
    return [signal.SIGTERM, signal.SIGINT, hangup]


@contextmanager
def handling(
    numbers: Collection[signal.Signals],
    deliver: Callable[[int], None],
    *,
    at_once: Callable[[], None] = lambda: None,
    are_ignored_then: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Have `deliver` called in the trio thread for each of these signals in this block.

    `at_once` is called in the signal handler itself. For the main thread.
    """
    token = trio.lowlevel.current_trio_token()

    def handle(number: int, frame: FrameType | None) -> None:
        at_once()
        token.run_sync_soon(deliver, number, idempotent=True)

    handlers = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_IGN if are_ignored_then() else handler)


async def settling_first(
    servers: Sequence[ChatKitServer[Any]], run: Callable[[], Awaitable[None]]
) -> None:
    """Run an app; a signal that would end the process on the spot settles these servers first."""
    unhandled = _unhandled()
    if not unhandled:
        await run()
        return
    settling = _Settling(servers)
    async with trio.open_nursery() as nursery:
        with handling(unhandled, settling.begin, at_once=settling.bound):
            nursery.start_soon(settling.run)
            await run()
            nursery.cancel_scope.cancel()


def _unhandled() -> list[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return []
    numbers = [each for each in ending_signals() if each != signal.SIGINT]
    return [each for each in numbers if signal.getsignal(each) is signal.SIG_DFL]


class _Settling:
    """What happens between such a signal and the end of the process."""

    def __init__(self, servers: Sequence[ChatKitServer[Any]]) -> None:
        self._servers = servers
        self._number = 0
        self._begun = trio.Event()

    def bound(self) -> None:
        """Have the system end the process if user code doesn't let the trio thread get to it."""
        if signal.getsignal(signal.SIGALRM) is signal.SIG_DFL and not self._begun.is_set():
            longest = max((server.settling_timeout for server in self._servers), default=0.0)
            signal.alarm(ceil(longest + _LAST_BYTES) + 1)

    def begin(self, number: int) -> None:
        """Begin to settle."""
        self._number = number
        self._begun.set()

    async def run(self) -> None:
        """Wait for the beginning, settle, and let the signal do what it does."""
        await self._begun.wait()
        live = sum(len(server.live_turns) for server in self._servers)
        name = signal.Signals(self._number).name
        logger.warning(
            "%s has come: %d live answers are settled before the process ends", name, live
        )
        async with trio.open_nursery() as nursery:
            for server in self._servers:
                nursery.start_soon(server.drain, 0)
        if live:
            await trio.sleep(_LAST_BYTES)
        signal.signal(self._number, signal.SIG_DFL)
        signal.raise_signal(self._number)
