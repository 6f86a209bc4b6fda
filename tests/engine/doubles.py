"""Stores in trouble, as a test plans it, and a journal that shows what was written to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, TypeAlias, TypeVar

import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.store import Journal, JournalEntry, Settlement, Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import StoreWrapper

_T = TypeVar("_T")

HANGING = 100_000.0
"""Longer than any test waits, and yet an end: a broken engine makes a test fail, not hang."""

THREAD_WRITES = ("save_thread", "update_thread")
"""The operations that write the metadata of a thread."""

Trouble: TypeAlias = Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]


class TroubledStore(StoreWrapper[Any]):
    """A store around another, in trouble with the operations that `trouble` names."""

    def __init__(self, store: Store[Any] | None = None) -> None:
        super().__init__(MemoryStore[Any]() if store is None else store)
        self.trouble: dict[str, Trouble] = {}

    def give(self, trouble: Trouble, *operations: str) -> None:
        """Put this trouble on these operations, from now on."""
        self.trouble.update(dict.fromkeys(operations, trouble))

    def heal(self) -> None:
        """Have every operation that begins from now on work."""
        self.trouble.clear()

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name not in self.trouble:
            return await call()
        result: _T = await self.trouble[name](call)
        return result


def takes(seconds: float) -> Trouble:
    """Wait so long, then carry the operation out."""

    async def trouble(call: Callable[[], Awaitable[Any]]) -> Any:
        await trio.sleep(seconds)
        return await call()

    return trouble


def tells_late(seconds: float) -> Trouble:
    """Carry the operation out at once, and tell its outcome so much later."""

    async def trouble(call: Callable[[], Awaitable[Any]]) -> Any:
        answer = await call()
        await trio.sleep(seconds)
        return answer

    return trouble


hangs = takes(HANGING)


def fails(error: Exception | None = None, *, after: float = 0.0) -> Trouble:
    """Wait so long, then raise; the operation isn't carried out."""

    async def trouble(call: Callable[[], Awaitable[Any]]) -> Any:
        await trio.sleep(after)
        raise StoreError("the disk is full") if error is None else error

    return trouble


def once(trouble: Trouble) -> Trouble:
    """Have only the first operation run into the trouble."""
    numbers = count()

    async def first_only(call: Callable[[], Awaitable[Any]]) -> Any:
        return await (trouble(call) if next(numbers) == 0 else call())

    return first_only


async def raise_beside_the_cancellation(error: Exception) -> None:
    """Hang; cancelled, raise an exception group of the cancellation and this error."""

    async def task() -> None:
        try:
            await trio.sleep(HANGING)
        finally:
            raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        await trio.sleep(HANGING)


def hangs_and_fails(error: Exception) -> Trouble:
    """Hang; cancelled, raise this error beside the cancellation."""

    async def trouble(call: Callable[[], Awaitable[Any]]) -> Any:
        await raise_beside_the_cancellation(error)

    return trouble


class JournaledStore(MemoryStore[Any]):
    """A store in memory with a journal; a turn's entry is in `journal.entries` while it is open."""

    journal: RecordingJournal

    def __init__(self) -> None:
        super().__init__()
        self.journal = RecordingJournal()

    async def settle(self, settlement: Settlement, context: Any) -> None:
        await super().settle(settlement, context)
        self.journal.entries.pop(settlement.turn_id or "", None)


class OneThreadStore(JournaledStore):
    """A journaled store whose one thread is called thr_1, so that others know it from the start."""

    def generate_thread_id(self, context: Any) -> str:
        return "thr_1"


class RecordingJournal(Journal[Any]):
    def __init__(self) -> None:
        self.entries: dict[str, JournalEntry] = {}

    async def begin(self, turn_id: str, thread_id: str, context: Any) -> None:
        await trio.lowlevel.checkpoint()
        self.entries[turn_id] = JournalEntry(turn_id, thread_id)

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        await trio.lowlevel.checkpoint()
        self.entries.update({e.turn_id: e for e in entries if e.turn_id in self.entries})

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        await trio.lowlevel.checkpoint()
        return []

    async def settle_abandoned(self, settlement: Settlement) -> None:
        await trio.lowlevel.checkpoint()
