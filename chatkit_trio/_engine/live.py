"""The turns that are live on a thread: who may begin, who has to wait.

At most one turn is live on a thread. A new one is admitted under the thread's admission lock, so
that what it checked still holds when it makes its first writes. This registry knows the turns of
this process; where processes share the store, its `Node` knows about the others' turns.

Order of what is waited for: the admission lock of a thread, then `settled` of the turn that holds
the thread, then the lock of its first writes, then the store. Nobody who holds a later one waits
for an earlier one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.types import ThreadItem, ThreadMetadata

from .journal import JournaledTurn
from .keeping import CancelReason
from .node import Beside, Node, busy
from .opening import PreparedRequest
from .policy import TurnPolicy
from .remote import RemoteReader, RemoteTurn
from .turn import Turn, TurnState


@dataclass(eq=False, slots=True)
class _Beginning:
    """A turn that comes to the admission lock of a thread, or has it."""

    turn: Turn[Any]
    has_lined_up: trio.Event = field(default_factory=trio.Event)
    """Set when it has its place in the line of all nodes, or needs none any more."""


class LiveTurns:
    """A registry of live turns.

    `recover` settles what a dead process has left on a thread.
    """

    def __init__(self, recover: Callable[[str], Awaitable[None]], node: Node | None = None) -> None:
        self._recover = recover
        self._node = node
        self._all: dict[Turn[Any], None] = {}  # in order of arrival
        self._by_thread: dict[str, Turn[Any]] = {}
        self._arrival: dict[str, trio.Lock] = {}
        self._admission: dict[str, trio.Lock] = {}
        self._first_writes: dict[str, trio.Lock] = {}
        self._beginning: dict[str, _Beginning] = {}
        self._watched_elsewhere: set[RemoteReader] = set()
        self.is_leaving = False
        """Whether turns of other processes aren't watched any more: clients are to go to others."""

    def __iter__(self) -> Iterator[Turn[Any]]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return sum(not turn.settled.is_set() for turn in self._all)

    @property
    def unread_bytes(self) -> int:
        """How much waits for slow clients."""
        return sum(turn.log.unread_bytes for turn in self._all)

    @property
    def oldest_settling(self) -> float | None:
        """Seconds since the oldest answer that isn't stored was over; None if there is none."""
        waiting = [turn.settling_seconds for turn in self._all]
        return max((seconds for seconds in waiting if seconds is not None), default=None)

    def add(self, turn: Turn[Any]) -> None:
        """Count a turn that will be run; it needn't be admitted yet."""
        self._all[turn] = None

    async def run(self, turn: Turn[Any]) -> None:
        """Run a turn, beginning it when its thread is free, as its policy says."""
        try:
            begin = None if self._node is None else partial(self._begin, self._node)
            await turn.run(self._admitted(turn), begin)
        finally:
            self._all.pop(turn, None)
            if self._by_thread.get(turn.thread_id) is turn:
                del self._by_thread[turn.thread_id]

    def journaled(self) -> list[JournaledTurn]:
        """Return the turns that have begun, as the journal sees them."""
        return [turn.answer.journaled for turn in self if turn.answer is not None]

    def holder(self, thread_id: str) -> Turn[Any] | None:
        """Return the turn that holds a thread, from its first writes until it is settled.

        One that waits for another process's turn doesn't hold it, nor does one that was lost:
        whose the thread is then, says the store.
        """
        turn = self._by_thread.get(thread_id)
        if turn is None or turn.settled.is_set() or turn.state is TurnState.WAITING:
            return None
        return None if turn.is_lost and self._node is not None else turn

    def on_thread(self, thread_id: str) -> Turn[Any] | None:
        """Return the live turn of a thread, if its first writes have been made."""
        turn = self.holder(thread_id)
        return turn if turn is not None and turn.has_begun else None

    async def rename(self, thread_id: str, title: str) -> ThreadMetadata | None:
        """Have the live turn of a thread save a title; None if no turn has done it.

        Raises what the store raises.
        """
        turn = self.on_thread(thread_id)
        if turn is not None:
            is_done = turn.answer is not None and await turn.answer.rename(title)
            return turn.thread if is_done else None
        return None if self._node is None else await self._node.rename(thread_id, title)

    async def turn_id(self, thread_id: str) -> str | None:
        """Return the id of the turn that is live on a thread, in whatever process."""
        if (turn := self.on_thread(thread_id)) is not None:
            return turn.id
        return None if self._node is None else await self._node.turn_id(thread_id)

    async def replace(self, turn_id: str, item: ThreadItem) -> bool:
        """Have a live turn go on with an item as a request beside it has stored it.

        Returns False if the turn has ended instead: it may have stored an older state.
        """
        turn = self.on_thread(item.thread_id)
        if turn is not None and turn.id == turn_id:
            return turn.answer is not None and await turn.answer.replace(item)
        return self._node is not None and await self._node.replace(turn_id, item)

    async def ready_to_read(self, thread_id: str) -> Beside | None:
        """Wait while the thread lacks an answer that has ended, in whatever process, dead or alive.

        Returns what a live turn of another process has that the store lacks; None if none is live
        there. Raises `StoreError` if the answer can't be stored for long.
        """
        await self._catch_up(thread_id)
        turn = self.holder(thread_id)
        if turn is not None and turn.is_ending:
            await turn.wait_settled()
        await self._recover(thread_id)
        if self._node is None or self.on_thread(thread_id) is not None:
            return None
        return await self._node.look(thread_id)

    def beside(self, thread_id: str) -> Beside | None:
        """Return what this process's live turn of a thread has that the store lacks."""
        if (turn := self.on_thread(thread_id)) is None:
            return None
        new, changed = turn.items_so_far()
        settled = turn.settled

        async def is_over() -> bool:  # noqa: ASYNC124  (of another node's turn it waits)
            return settled.is_set()

        return Beside(new, changed, is_over)

    async def is_live(self, thread_id: str) -> bool:
        """Say whether a turn holds a thread, in whatever process."""
        if self.holder(thread_id) is not None:
            return True
        return self._node is not None and await self._node.turn_id(thread_id) is not None

    async def watchable(self, thread_id: str) -> str | None:
        """Return the id of the turn of a thread that can be watched; waits while it begins."""
        await self._catch_up(thread_id)
        turn = await self.begun(thread_id)
        if turn is not None:
            return None if turn.is_ending else turn.id
        return None if self._node is None else await self._node.turn_id(thread_id)

    async def watch_elsewhere(
        self,
        thread_id: str,
        turn_id: str | None,
        start: int | None,
        policy: TurnPolicy,
        *,
        front: bytes = b"",
        component_updates: bool,
    ) -> tuple[RemoteTurn, RemoteReader] | None:
        """Return a turn of another process and a reader from frame `start`, or None.

        Raises `FramesLost` if that frame isn't kept any more. `start` and `front` are as in
        `Node.watch`.
        """
        if self._node is None or self.on_thread(thread_id) is not None:
            return None
        reading = await self._node.watch(
            thread_id,
            turn_id,
            start,
            policy,
            self._watched_elsewhere,
            front=front,
            component_updates=component_updates,
        )
        if reading is not None and self.is_leaving:
            reading[1].break_off()
        return reading

    async def allows_cancel_elsewhere(self, thread_id: str) -> bool:
        """Say whether the client of another process's turn may end it; see `Node`."""
        return self._node is None or await self._node.allows_cancel(thread_id)

    def leave_elsewhere(self) -> None:
        """Send those who watch turns of other processes on to another one: this one leaves."""
        self.is_leaving = True
        for reader in tuple(self._watched_elsewhere):
            reader.break_off()

    async def wait_settled_elsewhere(self, thread_id: str, turn_id: str) -> None:
        """Wait while a turn is live in another process. Raises `StoreError` if it takes long."""
        if self._node is not None and self.holder(thread_id) is None:
            await self._node.wait_settled(thread_id, turn_id)

    async def refuse_if_busy(self, thread_id: str) -> None:
        """Raise `BusyError` if the thread has a live turn that isn't about to be settled."""
        turn = self.holder(thread_id)
        is_busy = turn is not None and not turn.is_ending
        if not is_busy and self._node is not None and self.on_thread(thread_id) is None:
            is_busy = await self._node.is_busy(thread_id)
        if is_busy:
            raise busy(thread_id)

    async def superseded_slot(self, thread_id: str) -> str | None:
        """Return the id of the slot of the turn that a new message would supersede; None if none.

        For a turn of this process, without waiting.
        """
        if (holder := self.holder(thread_id)) is not None:
            return holder.superseded_slot
        return None if self._node is None else await self._node.superseded_slot(thread_id)

    @asynccontextmanager
    async def alone(self, thread_id: str) -> AsyncIterator[None]:
        """Hold off the beginning of turns on a thread. First come, first served."""
        async with _one_at_a_time(self._admission, thread_id):
            yield

    @asynccontextmanager
    async def without_first_writes(self, thread_id: str) -> AsyncIterator[None]:
        """Hold off the first writes of turns on a thread, but not while they only wait for it."""
        async with _one_at_a_time(self._first_writes, thread_id):
            yield

    def cancel_all(self, thread_id: str, reason: CancelReason) -> None:
        """Cancel the live turn of a thread and those that wait to begin on it."""
        for turn in self:
            if turn.thread_id == thread_id:
                turn.cancel(reason)

    async def end(
        self, thread_id: str, reason: CancelReason, *, by_client: bool = False
    ) -> bool | None:
        """Cancel the live turn of a thread and wait until it is settled; say if there was one.

        Returns None, and cancels nothing, if `by_client` and its client may not end it. Raises
        `StoreError` if it can't be stored for long.
        """
        await self._catch_up(thread_id)
        # One that is only beginning may yet have to wait for another process's.
        wants_begun = by_client or self._node is not None
        turn = await self.begun(thread_id, in_haste=True) if wants_begun else self.holder(thread_id)
        if turn is None:
            if self._node is None:
                return False
            return await self._node.end(thread_id, reason, by_client=by_client)
        if by_client and not turn.allow_cancel:
            return None
        turn.cancel(reason)
        await turn.wait_settled()
        return True

    async def begun(self, thread_id: str, *, in_haste: bool = False) -> Turn[Any] | None:
        """Return this process's turn on a thread, once it is known whether clients may end it.

        `in_haste` bounds the first writes of a turn that is beginning. Raises `StoreError` if they
        take longer than a settling may.
        """
        while (turn := self.holder(thread_id)) is not None and not turn.options_known.is_set():
            if in_haste:
                turn.ending.hurry()
            with trio.move_on_after(turn.longest_settling):
                await turn.options_known.wait()
                continue
            raise StoreError(f"the beginning of the answer in thread {thread_id} isn't stored yet")
        return turn

    async def _catch_up(self, thread_id: str) -> None:
        """Let go of a turn that another process has settled while this one was paused.

        Raises `StoreError` if the store can't say whether that is so.
        """
        turn = self.holder(thread_id)
        if turn is not None and self._node is not None and not self._node.is_heard:
            await self._node.hear()

    async def _begin(self, node: Node, turn: Turn[Any]) -> PreparedRequest:
        def waits_behind(turn_id: str) -> bool:
            # This turn has the admission lock, so all others of its thread come later.
            return any(
                each.id == turn_id and each is not turn and not each.has_begun for each in self
            )

        has_lined_up = self._beginning[turn.thread_id].has_lined_up.set
        first_writes = partial(self.without_first_writes, turn.thread_id)
        return await node.begin(turn, first_writes, has_lined_up, waits_behind)

    @asynccontextmanager
    async def _admitted(self, turn: Turn[Any]) -> AsyncIterator[None]:
        thread_id = turn.thread_id
        if (beginning := self._beginning.get(thread_id)) is not None:
            beginning.turn.ending.hurry()
        beginning = _Beginning(turn)
        try:
            if self._node is not None:
                await self._line_up(self._node, beginning)
            if thread_id not in self._admission:
                # The lock is free, and nobody may line up before this turn has it.
                self._beginning[thread_id] = beginning
            async with self.alone(thread_id):
                self._beginning[thread_id] = beginning
                try:
                    if self._admission[thread_id].statistics().tasks_waiting:
                        turn.ending.hurry()
                    await turn.ending.read(partial(self._recover, thread_id))
                    if (holder := self.holder(thread_id)) is not None:
                        # A request that can't be carried out mustn't end another one's turn.
                        await turn.ending.read(turn.request.check)
                        await self._make_way(turn, holder)
                    self._by_thread[thread_id] = turn
                    if self._node is None:
                        async with self.without_first_writes(thread_id):
                            yield
                    else:
                        yield  # it may have to wait for another process's turn
                finally:
                    # With the lock: who gets it next must not wait for a place that is given up.
                    await self._leave_line(beginning)  # noqa: ASYNC102  (it shields itself)
        finally:
            await self._leave_line(beginning)  # noqa: ASYNC102

    async def _line_up(self, node: Node, beginning: _Beginning) -> None:
        """Take a place in the line of all nodes if the turn has to wait for another one here.

        One after the other: who has the earlier place comes to the admission lock first.
        """
        turn = beginning.turn
        if turn.policy.on_busy == "reject":
            return
        thread_id = turn.thread_id
        async with _one_at_a_time(self._arrival, thread_id):
            if (first := self._beginning.get(thread_id)) is not None:
                await first.has_lined_up.wait()
            if thread_id in self._admission or self.holder(thread_id) is not None:
                await node.line_up(turn)
                beginning.has_lined_up.set()

    async def _leave_line(self, beginning: _Beginning) -> None:
        """Let others go on, and give up the place of a turn that hasn't begun."""
        beginning.has_lined_up.set()
        thread_id = beginning.turn.thread_id
        if self._beginning.get(thread_id) is beginning:
            del self._beginning[thread_id]
        if self._node is not None:
            await self._node.leave_line(beginning.turn)

    async def _make_way(self, turn: Turn[Any], holder: Turn[Any]) -> None:
        if turn.policy.on_busy == "reject":
            await self.refuse_if_busy(turn.thread_id)
        # A turn whose client may not cancel it isn't cut short by a new message either.
        elif turn.policy.on_busy == "supersede" and holder.allow_cancel:
            holder.cancel(CancelReason.SUPERSEDED)
        if not holder.is_ending:
            await holder.log.closed.wait()
        await holder.wait_settled()


@asynccontextmanager
async def _one_at_a_time(locks: dict[str, trio.Lock], thread_id: str) -> AsyncIterator[None]:
    """Hold the lock of a thread; it is there only while somebody uses it."""
    lock = locks.setdefault(thread_id, trio.Lock())
    try:
        if lock.locked():
            await lock.acquire()
        else:
            lock.acquire_nowait()  # without a step of the scheduler
        try:
            yield
        finally:
            lock.release()
    finally:
        statistics = lock.statistics()
        is_free = not statistics.locked and not statistics.tasks_waiting
        # Who gives up waiting may find another lock there, made when this one was let go of.
        if is_free and locks.get(thread_id) is lock:
            del locks[thread_id]
