"""Writes that wait for one connection: those that wait at the same time are committed together.

A commit costs many times what most writes do. So whoever comes first leads: it takes what waits
with it, runs all of it in one transaction in a worker thread, and tells each caller what became of
its own write. Then one of those that have come meanwhile leads. No task of ours stands by.

Each write is a savepoint of its own, so that one that fails is undone alone. Where SQLite gives up
the whole transaction (disk full, for one), each of its writes is tried again by itself.
"""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from copy import copy
from typing import Any, Generic, TypeVar

import outcome
import trio

from chatkit_trio.errors import StoreError

T = TypeVar("T")

_MOST = 64
"""How many writes are committed together at most."""

_SECONDS = 0.02
"""After so many seconds a transaction takes no other write: some are long, and others wait."""

Transaction = Callable[[sqlite3.Connection], T]


class _Write(Generic[T]):
    """One write, and what became of it."""

    def __init__(self, owner: str, transaction: Transaction[T]) -> None:
        self.owner = owner
        self._transaction = transaction
        # Another caller may lead, and its thread has its context variables.
        self._context = copy_context()
        self.called = trio.Event()
        """Set when it has an outcome, or is to lead."""
        self.outcome: outcome.Outcome[T] | None = None
        self.is_withdrawn = False
        self._ticket = [True]

    def claim(self) -> bool:
        """Say whether the caller is the first to claim it: to run it, or to withdraw it.

        From two threads: a list is popped by one of them.
        """
        with suppress(IndexError):
            return self._ticket.pop()
        return False

    def run(self, db: sqlite3.Connection) -> T:
        return self._context.run(self._transaction, db)


class WriteLine:
    """The writes that wait for a connection, which only one thread uses at a time.

    `connection` returns it, in that thread, and `in_words` makes of an error what callers are told.
    `limiter` has one token: who has it may use the connection. `upkeep` is called with the
    connection, in that thread, when writes were committed. Owners take turns; the writes of one
    owner run in order.
    """

    def __init__(
        self,
        connection: Callable[[], sqlite3.Connection],
        in_words: Callable[[BaseException], BaseException],
        limiter: trio.CapacityLimiter,
        upkeep: Callable[[sqlite3.Connection], None],
    ) -> None:
        self._upkeep = upkeep
        self._connection = connection
        self._in_words = in_words
        self._limiter = limiter
        self._thread = trio.CapacityLimiter(1)
        self._waiting: dict[str, deque[_Write[Any]]] = {}  # the next owner first
        self._is_led = False

    async def write(self, transaction: Transaction[T], owner: str) -> T:
        """Run a function in a transaction, commit it, return its result; undo it if it raises.

        A cancelled call has written nothing; once its write has begun, it returns the outcome.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        write = _Write(owner, transaction)
        self._waiting.setdefault(owner, deque()).append(write)
        if self._is_led:
            await self._wait(write)
        if write.outcome is None:
            await self._lead(write)
        assert write.outcome is not None
        return write.outcome.unwrap()

    async def _wait(self, write: _Write[Any]) -> None:
        """Wait until a write has its outcome, or is to lead."""
        try:
            await write.called.wait()
        except trio.Cancelled:  # noqa: ASYNC103 (it has happened, so its outcome counts)
            if write.claim():
                self._withdraw(write)
                if write.called.is_set():
                    self._pass_on()
                raise
            with trio.CancelScope(shield=True):  # it runs now, for as long as a transaction takes
                await write.called.wait()

    async def _lead(self, write: _Write[Any]) -> None:
        self._is_led = True
        try:
            while write.outcome is None:
                await self._limiter.acquire_on_behalf_of(write)
                try:
                    await self._run_some()
                finally:
                    self._limiter.release_on_behalf_of(write)
        except trio.Cancelled:
            # While it waited for the connection: nobody else leads, so nobody runs it.
            self._withdraw(write)
            raise
        finally:
            self._pass_on()

    async def _run_some(self) -> None:
        writes = self._take()
        try:
            with trio.CancelScope(shield=True):  # a thread that writes isn't abandoned
                await trio.to_thread.run_sync(self._run, writes, limiter=self._thread)
        except Exception as error:
            # No thread could be started, for one. Nobody else would tell those that were taken.
            self._fail(writes, error)
        for write in writes:
            if write.outcome is not None:
                write.called.set()
        self._put_back(writes)

    def _fail(self, writes: Sequence[_Write[Any]], error: Exception) -> None:
        """Have the writes fail that nobody will run any more, each with an error of its own."""
        for write in writes:
            if write.outcome is None and not write.is_withdrawn:
                write.claim()  # its caller can't withdraw it any more
                problem = StoreError(f"{error}; nothing of this write was stored")
                write.outcome = outcome.Error(self._in_words(problem))

    def _put_back(self, taken: Sequence[_Write[Any]]) -> None:
        """Put those that weren't run in front of all others, in their order.

        Behind those who have come meanwhile they might wait for ever. Owners who have just had
        their turn are the last ones.
        """
        unrun = [each for each in taken if each.outcome is None and not each.is_withdrawn]
        if not unrun:
            return
        behind, self._waiting = self._waiting, {}
        for write in unrun:
            self._waiting.setdefault(write.owner, deque()).append(write)
        for owner, later in behind.items():
            self._waiting.setdefault(owner, deque()).extend(later)
        for owner in dict.fromkeys(each.owner for each in taken if each.outcome is not None):
            if owner in self._waiting:
                self._waiting[owner] = self._waiting.pop(owner)

    def _take(self) -> list[_Write[Any]]:
        """Take writes out of the line, one of each owner after the other."""
        taken: list[_Write[Any]] = []
        while self._waiting and len(taken) < _MOST:
            owner, writes = next(iter(self._waiting.items()))
            del self._waiting[owner]
            taken.append(writes.popleft())
            if writes:
                self._waiting[owner] = writes  # behind the others
        return taken

    def _withdraw(self, write: _Write[Any]) -> None:
        """Take a write out that its caller has given up; one that was taken is passed over."""
        write.is_withdrawn = True
        writes = self._waiting.get(write.owner)
        if writes is not None and write in writes:
            writes.remove(write)
            if not writes:
                del self._waiting[write.owner]

    def _pass_on(self) -> None:
        """Have the next one lead, if any waits."""
        self._is_led = bool(self._waiting)
        if self._waiting:
            next(iter(self._waiting.values()))[0].called.set()

    # --- In the worker thread ------------------------------------------------------------------

    def _run(self, writes: Sequence[_Write[Any]]) -> None:
        """Run as many of these writes as the time allows; those without an outcome weren't run."""
        ran: list[_Write[Any]] = []
        try:
            db = self._connection()
            self._run_together(db, writes, ran)
        except BaseException as error:  # noqa: ASYNC103 (no task, a worker thread)
            # Nothing of them is stored.
            if len(ran) > 1:
                for write in ran:
                    self._run_alone(write)
                return  # noqa: ASYNC104
            for write in ran or [each for each in writes if each.claim()]:
                # Each caller raises an error of its own.
                write.outcome = outcome.Error(self._in_words(copy(error)))
        else:
            self._upkeep(db)

    def _run_together(
        self, db: sqlite3.Connection, writes: Sequence[_Write[Any]], ran: list[_Write[Any]]
    ) -> None:
        with transaction_of(db, "IMMEDIATE"):
            until = time.monotonic() + _SECONDS
            for write in writes:
                if ran and time.monotonic() > until:
                    return
                if not write.claim():
                    continue
                ran.append(write)
                db.execute("SAVEPOINT one")
                try:
                    write.outcome = outcome.Value(write.run(db))
                except BaseException as error:  # noqa: ASYNC103
                    if not db.in_transaction:
                        raise  # SQLite has undone all of them
                    db.execute("ROLLBACK TO one")
                    write.outcome = outcome.Error(self._in_words(error))
                db.execute("RELEASE one")

    def _run_alone(self, write: _Write[Any]) -> None:
        try:
            db = self._connection()
            with transaction_of(db, "IMMEDIATE"):
                value = write.run(db)
            write.outcome = outcome.Value(value)
        except BaseException as error:  # noqa: ASYNC103
            write.outcome = outcome.Error(self._in_words(error))


@contextmanager
def transaction_of(connection: sqlite3.Connection, kind: str) -> Iterator[None]:
    """Commit what the block does, or undo it if it raises."""
    # A reader begins too: all of its queries then see the same snapshot.
    connection.execute(f"BEGIN {kind}")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some errors (disk full, for one) SQLite has undone the transaction by itself.
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise
