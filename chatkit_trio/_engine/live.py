"""The turns that are live in this process, by thread: who may begin, who has to wait.

At most one turn is live on a thread. A new one is admitted under the thread's admission lock, so
that what it checked still holds when it makes its first writes.

Order of what is waited for: the admission lock of a thread, then `settled` of the turn that holds
the thread, then the store. Nobody who holds a later one waits for an earlier one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from chatkit_trio.errors import BusyError
from chatkit_trio.types import ThreadMetadata

from .answering import Answer
from .keeping import CancelReason
from .turn import Turn


class LiveTurns:
    """A registry of live turns.

    `recover` settles what a dead process has left on a thread.
    """

    def __init__(self, recover: Callable[[str], Awaitable[None]]) -> None:
        self._recover = recover
        self._all: dict[Turn[Any], None] = {}  # in order of arrival
        self._by_thread: dict[str, Turn[Any]] = {}
        self._admission: dict[str, trio.Lock] = {}
        self._beginning: dict[str, Turn[Any]] = {}  # the turns that hold an admission lock

    def __iter__(self) -> Iterator[Turn[Any]]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return sum(not turn.settled.is_set() for turn in self._all)

    def add(self, turn: Turn[Any]) -> None:
        """Count a turn that will be run; it needn't be admitted yet."""
        self._all[turn] = None

    async def run(self, turn: Turn[Any]) -> None:
        """Run a turn, beginning it when its thread is free, as its policy says."""
        try:
            await turn.run(self._admitted(turn))
        finally:
            self._all.pop(turn, None)
            if self._by_thread.get(turn.thread_id) is turn:
                del self._by_thread[turn.thread_id]

    def answers(self) -> list[Answer]:
        """Return what there is of the turns that have begun."""
        return [turn.answer for turn in self if turn.answer is not None]

    def holder(self, thread_id: str) -> Turn[Any] | None:
        """Return the turn that holds a thread, from its first writes until it is settled."""
        turn = self._by_thread.get(thread_id)
        return None if turn is None or turn.settled.is_set() else turn

    def on_thread(self, thread_id: str) -> Turn[Any] | None:
        """Return the live turn of a thread, if its first writes have been made."""
        turn = self.holder(thread_id)
        return turn if turn is not None and turn.has_begun else None

    async def rename(self, thread_id: str, title: str) -> ThreadMetadata | None:
        """Have the live turn of a thread save a title; None if no turn has done it.

        Raises what the store raises.
        """
        turn = self.holder(thread_id)
        if turn is None or turn.answer is None or not await turn.answer.rename(title):
            return None
        return turn.thread

    async def ready_to_read(self, thread_id: str) -> None:
        """Wait while the thread lacks an answer that has ended, here or in a dead process.

        Raises `StoreError` if the answer can't be stored for long.
        """
        turn = self.holder(thread_id)
        if turn is not None and turn.is_ending:
            await turn.wait_settled()
        await self._recover(thread_id)

    def refuse_if_busy(self, thread_id: str) -> None:
        """Raise `BusyError` if the thread has a live turn that isn't about to be settled."""
        turn = self.holder(thread_id)
        if turn is not None and not turn.is_ending:
            raise BusyError(
                f"thread {thread_id} is being answered; wait for the end of that answer or stop it"
            )

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
        """Cancel the live turn of a thread and wait until it is settled; say if there was one.

        Raises `StoreError` if it can't be stored for long.
        """
        turn = self.holder(thread_id)
        if turn is None:
            return False
        turn.cancel(reason)
        await turn.wait_settled()
        return True

    @asynccontextmanager
    async def _admitted(self, turn: Turn[Any]) -> AsyncIterator[None]:
        thread_id = turn.thread_id
        if (beginning := self._beginning.get(thread_id)) is not None:
            beginning.ending.hurry()
        async with self.alone(thread_id):
            self._beginning[thread_id] = turn
            try:
                if self._admission[thread_id].statistics().tasks_waiting:
                    turn.ending.hurry()
                await turn.ending.read(partial(self._recover, thread_id))
                await turn.ending.read(turn.request.check)
                if (holder := self.holder(thread_id)) is not None:
                    await self._make_way(turn, holder)
                    await turn.ending.read(turn.request.check)
                self._by_thread[thread_id] = turn
                yield
            finally:
                del self._beginning[thread_id]

    async def _make_way(self, turn: Turn[Any], holder: Turn[Any]) -> None:
        if turn.policy.on_busy == "reject":
            self.refuse_if_busy(turn.thread_id)
        # A turn whose client may not cancel it isn't cut short by a new message either.
        elif turn.policy.on_busy == "supersede" and holder.allow_cancel:
            holder.cancel(CancelReason.SUPERSEDED)
        if not holder.is_ending:
            await holder.log.closed.wait()
        await holder.wait_settled()
