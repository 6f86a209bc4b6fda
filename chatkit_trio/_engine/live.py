"""The turns that are live in this process, by thread: who may begin, who has to wait.

At most one turn is live on a thread. A new one is admitted under the thread's admission lock, so
that what it checked still holds when it makes its first writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Generic

import trio
from typing_extensions import TypeVar

from chatkit_trio.errors import BusyError

from .items import CancelReason

if TYPE_CHECKING:
    from .turn import Opening, Turn

TContext = TypeVar("TContext", default=Any)


class LiveTurns(Generic[TContext]):
    """A registry of live turns."""

    def __init__(self) -> None:
        self._all: set[Turn[TContext]] = set()
        self._by_thread: dict[str, Turn[TContext]] = {}
        self._admission: dict[str, trio.Lock] = {}

    def __iter__(self) -> Iterator[Turn[TContext]]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def add(self, turn: Turn[TContext]) -> None:
        """Count a turn that has been started; it needn't be admitted yet."""
        self._all.add(turn)

    def remove(self, turn: Turn[TContext]) -> None:
        """Let go of a settled turn and its thread. Removing twice is allowed."""
        self._all.discard(turn)
        if turn.thread_id is not None and self._by_thread.get(turn.thread_id) is turn:
            del self._by_thread[turn.thread_id]

    def on_thread(self, thread_id: str) -> Turn[TContext] | None:
        """Return the live turn of a thread, if it has begun."""
        turn = self._by_thread.get(thread_id)
        return turn if turn is not None and turn.has_begun else None

    async def wait_settled(self, thread_id: str) -> None:
        """Wait while a turn of this thread is being settled: readers come after it."""
        turn = self._by_thread.get(thread_id)
        if turn is not None and turn.is_ending:
            await turn.settled.wait()

    def refuse_if_busy(self, thread_id: str) -> None:
        """Raise `BusyError` if the thread has a live turn."""
        if thread_id in self._by_thread:
            raise BusyError(
                f"thread {thread_id} is being answered; wait for the end of that answer or stop it"
            )

    async def admit(
        self,
        turn: Turn[TContext],
        opening: Opening[TContext],
        begin: Callable[[], Awaitable[None]],
    ) -> None:
        """Begin a turn when its thread is free, as its policy says; register it by its thread."""
        thread_id = opening.thread_id
        if thread_id is None:
            await begin()
            self._by_thread[turn.thread.id] = turn
            return
        async with self.alone(thread_id):
            await opening.check()
            if thread_id in self._by_thread:
                await self._make_way(turn, thread_id)
                await opening.check()
            self._by_thread[thread_id] = turn
            await begin()

    @asynccontextmanager
    async def alone(self, thread_id: str) -> AsyncIterator[None]:
        """Hold off the beginning of turns on a thread. First come, first served."""
        lock = self._admission.setdefault(thread_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            statistics = lock.statistics()
            if not statistics.locked and not statistics.tasks_waiting:
                self._admission.pop(thread_id, None)

    def cancel_all(self, thread_id: str, reason: CancelReason) -> None:
        """Cancel the live turn of a thread and those that wait to begin on it."""
        for turn in self:
            if turn.thread_id == thread_id:
                turn.cancel(reason)

    async def end(self, thread_id: str, reason: CancelReason) -> bool:
        """Cancel the live turn of a thread and wait until it's settled; say if there was one."""
        turn = self._by_thread.get(thread_id)
        if turn is None:
            return False
        turn.cancel(reason)
        await turn.settled.wait()
        return True

    async def _make_way(self, turn: Turn[TContext], thread_id: str) -> None:
        live = self._by_thread[thread_id]
        if turn.policy.on_busy == "reject":
            self.refuse_if_busy(thread_id)
        # One whose client may not cancel it isn't cut short by a new message either.
        if turn.policy.on_busy == "supersede" and live.allow_cancel:
            live.cancel(CancelReason.SUPERSEDED)
        await live.settled.wait()
