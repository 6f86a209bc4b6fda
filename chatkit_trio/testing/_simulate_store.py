"""The store of a simulated run: one ledger for all, and for each server the door to it.

A `Door` is what a server process has of the store: slow and faulty as the run says, and shut for
good when the process crashes, so that whatever its tasks still do reaches nobody. The `Ledger`
lies behind it, next to the real store, and remembers what was really written and by which turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import inf
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

import trio

from chatkit_trio.errors import NotFoundError, StoreError
from chatkit_trio.server import current_turn
from chatkit_trio.store import (
    Coordination,
    Hint,
    Journal,
    JournalEntry,
    Opening,
    Settlement,
    Store,
    TurnRecord,
    UnstorableItem,
)
from chatkit_trio.types import ThreadItem

from ._store_doubles import READS, CoordinationWrapper, StoreWrapper

__all__ = ["Door", "Faults", "Ledger", "Raised", "StoreFault", "Write"]

_T = TypeVar("_T")

_LONG = 1e6


class StoreFault(StoreError):
    """What the simulated store raises; each one has to be raised to a client or logged."""


def _writing_turn() -> str | None:
    """Return the id of the turn that the calling task belongs to, None outside of turns."""
    try:
        return current_turn().id
    except RuntimeError:
        return None


@dataclass(frozen=True, slots=True)
class Write:
    """A write that has happened."""

    number: int
    what: str
    thread_id: str
    turn_id: str | None
    item_ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Raised:
    """A fault that the store has raised, or a write that hung."""

    number: int
    what: str
    turn_id: str | None
    door: Door
    error: StoreFault | None


class Ledger(StoreWrapper[Any]):
    """Remembers what was written, next to the store so that it's true."""

    def __init__(
        self, store: Store[Any], next_number: Callable[[], int], other: Ledger | None = None
    ) -> None:
        super().__init__(store)
        self._next_number = next_number
        self.writes: list[Write] = []
        self.added: dict[str, Write] = {}
        """The first write of each item."""
        self.items: dict[str, ThreadItem] = {}
        """What was last written of each item."""
        self.gone: dict[str, Write] = {}
        """Items that were deleted on purpose."""
        self.deleted_threads: dict[str, int] = {}
        self.open_entries: dict[str, str] = {}
        """Turns whose entry in the journal is open, with their threads."""
        self.openings: dict[str, int] = {}
        """When each turn's first writes were made in one step with its record."""
        self.one_at_a_time = trio.Lock()
        """Held where another write in between would make untrue what is taken down."""
        if store.journal is not None:
            self.journal = _LedgerJournal(store.journal, self)
        if store.coordination is not None:
            self.coordination = _LedgerCoordination(store.coordination, self)
        if other is not None:
            # Another node of the same data.
            self.writes, self.added, self.items = other.writes, other.added, other.items
            self.gone, self.deleted_threads = other.gone, other.deleted_threads
            self.open_entries, self.openings = other.open_entries, other.openings
            self.one_at_a_time = other.one_at_a_time

    def note_opening(self, opening: Opening, doomed: Sequence[str]) -> None:
        """Take down a turn's first writes, and which items they have deleted."""
        self.open_entries[opening.turn_id] = opening.thread_id
        self.openings[opening.turn_id] = self._next_number()
        self.forget("delete_items_after", opening.thread_id, doomed)
        for item in (*opening.new_items, *opening.changed_items):
            self.note("begin", opening.thread_id, [item], opening.turn_id)

    async def items_behind(self, opening: Opening, context: Any) -> list[str]:
        """Return which items a turn's first writes will delete."""
        if opening.delete_after is None:
            return list(opening.deleted_item_ids)
        with suppress(NotFoundError):
            page = await self.wrapped.load_thread_items(
                opening.thread_id, opening.delete_after, 10_000, "asc", context
            )
            return [item.id for item in page.data]
        return []

    def note(
        self,
        what: str,
        thread_id: str,
        items: Sequence[ThreadItem] = (),
        turn_id: str | None = None,
    ) -> None:
        """Take down a write."""
        ids = tuple(item.id for item in items)
        turn_id = turn_id or _writing_turn()
        write = Write(self._next_number(), what, thread_id, turn_id, ids)
        self.writes.append(write)
        for item in items:
            self.added.setdefault(item.id, write)
            self.items[item.id] = item

    def note_settlement(self, settlement: Settlement) -> None:
        """Take down all that a settlement has changed."""
        if self.coordination is not None and settlement.turn_id not in (None, *self.open_entries):
            return  # a repeated settlement, of which nothing is written any more
        new = [item for item in settlement.new_items if item.id not in self.added]
        items = [*new, *settlement.changed_items]
        self.note("settle", settlement.thread_id, items, settlement.turn_id)
        if settlement.turn_id is not None:
            self.open_entries.pop(settlement.turn_id, None)

    def forget(self, what: str, thread_id: str, item_ids: Sequence[str]) -> None:
        """Take down a deletion."""
        write = Write(self._next_number(), what, thread_id, _writing_turn(), tuple(item_ids))
        self.writes.append(write)
        for item_id in item_ids:
            self.gone.setdefault(item_id, write)

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await super().add_thread_item(thread_id, item, context)
        self.note("add_thread_item", thread_id, [item])

    async def save_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await super().save_item(thread_id, item, context)
        self.note("save_item", thread_id, [item])

    async def update_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await super().update_item(thread_id, item, context)
        self.note("update_item", thread_id, [item])

    async def delete_thread_item(self, thread_id: str, item_id: str, context: Any) -> None:
        await super().delete_thread_item(thread_id, item_id, context)
        self.forget("delete_thread_item", thread_id, [item_id])

    async def delete_items_after(self, thread_id: str, item_id: str, context: Any) -> None:
        page = await self.wrapped.load_thread_items(thread_id, None, 10_000, "asc", context)
        ids = [item.id for item in page.data]
        await super().delete_items_after(thread_id, item_id, context)
        newer = ids[ids.index(item_id) + 1 :] if item_id in ids else []
        self.forget("delete_items_after", thread_id, newer)

    async def delete_thread(self, thread_id: str, context: Any) -> None:
        await super().delete_thread(thread_id, context)
        self.forget("delete_thread", thread_id, ())
        self.deleted_threads.setdefault(thread_id, self._next_number())
        for turn_id in [key for key, value in self.open_entries.items() if value == thread_id]:
            del self.open_entries[turn_id]

    async def settle(self, settlement: Settlement, context: Any) -> None:
        async with self.one_at_a_time:
            await super().settle(settlement, context)
            self.note_settlement(settlement)


class _LedgerJournal(Journal[Any]):
    def __init__(self, journal: Journal[Any], ledger: Ledger) -> None:
        self._journal = journal
        self._ledger = ledger

    async def begin(self, turn_id: str, thread_id: str, context: Any) -> None:
        await self._journal.begin(turn_id, thread_id, context)
        self._ledger.open_entries[turn_id] = thread_id

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        await self._journal.checkpoint(entries)

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        return await self._journal.abandoned(thread_id)

    async def settle_abandoned(self, settlement: Settlement) -> bool | None:
        return await self.settle_in_part(settlement, ())

    async def settle_in_part(
        self, settlement: Settlement, left_out: Sequence[UnstorableItem]
    ) -> bool | None:
        async with self._ledger.one_at_a_time:
            is_settled = await self._journal.settle_in_part(settlement, left_out)
            if settlement.turn_id in self._ledger.open_entries:
                self._ledger.note_settlement(settlement)
            return is_settled


class _LedgerCoordination(CoordinationWrapper[Any]):
    def __init__(self, coordination: Coordination[Any], ledger: Ledger) -> None:
        super().__init__(coordination, ledger)
        self._ledger = ledger

    async def begin(self, opening: Opening, context: Any) -> TurnRecord | None:
        async with self._ledger.one_at_a_time:
            doomed = await self._ledger.items_behind(opening, context)
            is_new = opening.turn_id not in self._ledger.open_entries
            blocking = await super().begin(opening, context)
            if blocking is None and is_new:
                self._ledger.note_opening(opening, doomed)
            return blocking


class _DoorCoordination(CoordinationWrapper[Any]):
    """Lets only some hints arrive."""

    def __init__(self, coordination: Coordination[Any], door: Door, arrive: float) -> None:
        super().__init__(coordination, door)
        self._arrive = arrive
        self._rng = Random(f"hints {arrive}")  # noqa: S311  (to be repeated)

    @contextmanager
    def hint(self, about: str) -> Iterator[Hint]:
        with super().hint(about) as heard:
            yield heard if self._rng.random() < self._arrive else Hint()


@dataclass(slots=True)
class Faults:
    """What is wrong with the store at the moment; all servers of a run share it."""

    seconds: float
    """How long a write takes; a read takes a tenth of it."""
    raised: list[Raised] = field(default_factory=list)
    """Every fault that was raised, and every write that hung."""
    were_any: bool = False
    """Whether anything was ever wrong."""
    _kind: str = ""
    _until: float = 0.0
    _away_until: float = -inf
    _next_write: list[str] = field(default_factory=list)
    _healed: trio.Event = field(default_factory=trio.Event)

    def begin(self, kind: str, seconds: float) -> None:
        """Begin a fault: for so many seconds, or of the next write if that is 0."""
        self.were_any = True
        if seconds == 0:
            self._next_write.append(kind)
        else:
            self._away_until = self.last_away
            self._kind, self._until = kind, trio.current_time() + seconds
            if kind != "slow":
                self._away_until = self._until

    def heal(self) -> None:
        """End all faults."""
        self._until, self._away_until = 0.0, self.last_away
        self._next_write.clear()
        self._healed.set()

    @property
    def last_away(self) -> float:
        """When writes last failed or hung: now if they do, `-inf` if they never did."""
        return min(self._away_until, trio.current_time())

    def next(self, name: str) -> str:
        """Return what is wrong with the operation that begins now."""
        is_write = name not in READS
        if self._next_write and is_write:
            return self._next_write.pop(0)
        if trio.current_time() < self._until and (is_write or self._kind == "away"):
            return self._kind
        return ""

    async def wait(self) -> None:
        """Wait until the fault that lasts now is over."""
        with trio.move_on_at(self._until):
            await self._healed.wait()


class Door(StoreWrapper[Any]):
    """The store as one server process has it."""

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        next_number: Callable[[], int],
        hints: float = 1.0,
    ) -> None:
        super().__init__(ledger)
        if ledger.coordination is not None:
            self.coordination = _DoorCoordination(ledger.coordination, self, hints)
        self._faults = faults
        self._next_number = next_number
        self._held: tuple[str, float] = ("", -inf)
        self._times_entered = 0
        self.is_shut = False
        """Whether the process has crashed."""
        self.has_hung = False
        """Whether an operation of the journal has failed, hung or been slow."""

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        """Carry out the operation as slowly and wrongly as the run says."""
        self._check()
        await self._be_held(name)
        faults = self._faults
        seconds = faults.seconds if name not in READS else faults.seconds / 10
        if seconds:
            await trio.sleep(seconds)
        kind = faults.next(name)
        if kind == "slow":
            self.has_hung = self.has_hung or name.startswith("journal.")
            await trio.sleep(0.4)
        elif kind == "hang":
            self._note(name, None)
            await faults.wait()
        elif kind in ("fail", "away"):
            await trio.lowlevel.checkpoint()
            raise self._fault(name)
        self._check()
        answer = await call()
        if kind == "fail after":
            raise self._fault(name)
        if kind == "slow":
            with trio.move_on_after(0.2, shield=True):
                await trio.sleep(0.2)
        return answer

    def hold(self, kind: str, seconds: float) -> None:
        """Hold this process up: "pause" it, or "cut" it off from the store, for so many seconds.

        What a paused process is about to do, it does afterwards.
        """
        self._held = kind, trio.current_time() + seconds

    async def _be_held(self, name: str) -> None:
        kind, until = self._held
        if trio.current_time() >= until:
            return
        with trio.CancelScope(shield=kind == "pause"):
            await trio.sleep_until(until)
        self._check()
        if kind == "cut":
            raise self._fault(name)

    def _fault(self, name: str) -> StoreFault:
        error = StoreFault(f"the simulated store failed at {name}")
        self._note(name, error)
        return error

    def _note(self, name: str, error: StoreFault | None) -> None:
        self.has_hung = self.has_hung or name.startswith("journal.")
        raised = Raised(self._next_number(), name, _writing_turn(), self, error)
        self._faults.raised.append(raised)

    def _check(self) -> None:
        if self.is_shut:
            # What makes the engine give up soonest: nobody is to hear of this process again.
            raise NotFoundError("this process has crashed")

    async def crash(self) -> None:
        """Shut the door, and let go of the real store as a dead process does."""
        self.is_shut = True
        times, self._times_entered = self._times_entered, 0
        for _ in range(times):
            await self.wrapped.__aexit__(None, None, None)

    async def __aenter__(self) -> Self:
        await self.wrapped.__aenter__()
        self._times_entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._times_entered:
            self._times_entered -= 1
            await self.wrapped.__aexit__(None, None, None)  # noqa: ASYNC102  (passed on)
