"""Work of one worker thread on one connection, and how its wait is ended from outside.

A write runs to its end whatever is cancelled, a read is given up when its caller is. Neither waits
for ever: a connection that gives no answer is cut, and the thread goes on with an error.
"""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, TypeVar

import outcome
import psycopg
import trio

from ._fair_limiter import FairLimiter

T = TypeVar("T")

Connection = psycopg.Connection[tuple[Any, ...]]

_CANCEL_TIMEOUT = 2.0
"""Seconds that the server has to react to a cancelled read, before the connection is cut."""


class GivenUp(Exception):
    """The caller doesn't want the answer any more."""


class Call:
    """The connection that a worker thread is using, for those who must end its wait."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        """When somebody wanted the answer, which may be long before it is this call's turn."""
        self._lock = threading.Lock()
        """Held while somebody ends the wait, so that it can't be the wait of the connection's next
        user that ends."""
        self._connection: Connection | None = None
        self._is_given_up = False

    @property
    def is_given_up(self) -> bool:
        return self._is_given_up

    def check(self) -> None:
        """Raise `GivenUp` if the caller has left."""
        if self._is_given_up:
            raise GivenUp

    @contextmanager
    def using(self, connection: Connection) -> Iterator[None]:
        """Tell which connection the thread waits for. Raises `GivenUp`."""
        with self._lock:
            self.check()
            self._connection = connection
        try:
            yield
        finally:
            with self._lock:
                self._connection = None

    def cancel(self) -> None:
        """Ask the server to cancel what it is doing. Blocks for `_CANCEL_TIMEOUT` at most."""
        with self._lock:
            self._is_given_up = True
            if self._connection is not None:
                with suppress(psycopg.Error):
                    self._connection.cancel_safe(timeout=_CANCEL_TIMEOUT)

    def cut(self) -> None:
        """Shut the connection down, so that the thread gets an error at once. Blocks shortly."""
        with self._lock:
            self._is_given_up = True
            if self._connection is None:
                return
            with (
                suppress(psycopg.Error, OSError),
                socket.socket(fileno=os.dup(self._connection.fileno())) as copy,
            ):
                copy.shutdown(socket.SHUT_RDWR)  # not closed: that is libpq's to do


class Workers:
    """Runs calls in worker threads, so many at once; each ends within `timeout` seconds.

    Owners take turns, and what is nobody's is as that of one more owner.
    """

    def __init__(self, count: int, *, timeout: float) -> None:
        # An owner can take all turns, but not the places in front of them.
        self._turns = FairLimiter(count, each=count)
        # Who has a turn needs no second one for the thread; nor does who ends another's wait.
        self._threads = trio.CapacityLimiter(math.inf)
        self._timeout = timeout

    async def write(self, work: Callable[[Call], T], owner: str | None = None) -> T:
        """Run the work to its end; a cancellation while it waits for its turn means it never began.

        After `timeout` seconds the connection is cut, and the work fails.
        """
        call = Call()
        async with self._turns.place(owner), self._turns.limiter:
            return await self._run(call, work, is_write=True)

    async def read(self, work: Callable[[Call], T], owner: str | None = None) -> T:
        """Run the work; if the caller is cancelled, so is the query, and this returns soon."""
        call = Call()
        async with self._turns.place(owner), self._turns.limiter:
            return await self._run(call, work, is_write=False)

    @asynccontextmanager
    async def paused(self) -> AsyncIterator[None]:
        """Wait until no call runs, and let no other begin meanwhile."""
        limiter = self._turns.limiter
        tokens = [object() for _ in range(int(limiter.total_tokens))]
        taken: list[object] = []
        try:
            for token in tokens:
                await limiter.acquire_on_behalf_of(token)
                taken.append(token)
            yield
        finally:
            for token in taken:
                limiter.release_on_behalf_of(token)

    async def _run(self, call: Call, work: Callable[[Call], T], *, is_write: bool) -> T:
        done, token = trio.Event(), trio.lowlevel.current_trio_token()
        results: list[outcome.Outcome[T]] = []

        def run() -> None:
            results.append(outcome.capture(work, call))
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(done.set)

        # The last moment at which a cancellation means that nothing has begun.
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            with trio.move_on_after(self._timeout, shield=is_write):
                await trio.to_thread.run_sync(run, limiter=self._threads, abandon_on_cancel=True)
        finally:
            # Not abandoned: what doesn't end by itself is ended, and waited for.
            if not results:
                await self._end(call, done, is_write=is_write)  # noqa: ASYNC102  (it shields itself)
        return results[0].unwrap()

    async def _end(self, call: Call, done: trio.Event, *, is_write: bool) -> None:
        with trio.CancelScope(shield=True):  # the deadline is the server's, or the cut
            if not is_write:
                await trio.to_thread.run_sync(call.cancel, limiter=self._threads)
                with trio.move_on_after(_CANCEL_TIMEOUT):
                    await done.wait()
            if not done.is_set():
                await trio.to_thread.run_sync(call.cut, limiter=self._threads)
            await done.wait()
