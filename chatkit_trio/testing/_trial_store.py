"""The store of one trial: slow, in trouble when the trial says so, and a witness of all writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextvars import ContextVar
from typing import Any, TypeVar

import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.server import Turn, current_turn
from chatkit_trio.store import Settlement, Store
from chatkit_trio.types import ThreadItem

from ._store_doubles import READS, StoreWrapper

__all__ = ["UnsteadyStore", "Witness", "in_hook", "turn_of_task"]

_T = TypeVar("_T")

in_hook: ContextVar[bool] = ContextVar("in_hook", default=False)
"""Whether the task is in `handle_stream_cancelled`."""


def turn_of_task() -> Turn[Any] | None:
    """Return the turn that the calling task belongs to, None if it belongs to none."""
    try:
        return current_turn()
    except RuntimeError:
        return None


class Witness(StoreWrapper[Any]):
    """Takes note of every item that is written: how often, by whom, and whether it was too late."""

    def __init__(self, store: Store[Any], subject: Callable[[], Turn[Any] | None]) -> None:
        super().__init__(store)
        self.additions: Counter[str] = Counter()
        """How often each item was appended."""
        self.from_hook: set[str] = set()
        """The items that were written by `handle_stream_cancelled`."""
        self.late: list[str] = []
        """The items that were written after the turn in question had been settled, not by the
        turn that came next."""
        self._subject = subject

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await super().add_thread_item(thread_id, item, context)
        self.additions[item.id] += 1
        self._note([item])

    async def save_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await super().save_item(thread_id, item, context)
        self._note([item])

    async def settle(self, settlement: Settlement, context: Any) -> None:
        await super().settle(settlement, context)
        self._note([*settlement.new_items, *settlement.changed_items])

    def _note(self, items: Iterable[ThreadItem]) -> None:
        ids = [item.id for item in items]
        if in_hook.get():
            self.from_hook.update(ids)
        subject = self._subject()
        is_over = subject is not None and subject.settled.is_set()
        if is_over and turn_of_task() in (None, subject):
            self.late += ids


class _Write:
    """A write that is under way."""

    def __init__(self, number: int, *, is_of_turn: bool) -> None:
        self.number = number
        self.is_of_turn = is_of_turn
        self.trouble: str | None = None


_FAST = READS | {"journal.abandoned"}


class UnsteadyStore(StoreWrapper[Any]):
    """Slow, and in trouble with one write when it's told to be.

    Counted are the writes of the turn in question and of the journal. Reads are faster than writes,
    so that one which doesn't wait for its turn comes too early.
    """

    def __init__(
        self,
        store: Store[Any],
        seconds: float,
        subject: Callable[[], Turn[Any] | None],
        notice: Callable[[], None],
    ) -> None:
        super().__init__(store)
        self.writes = 0
        """How many writes have been counted."""
        self.raised: list[Exception] = []
        """What it has raised on purpose."""
        self.hang_seconds = 0.0
        """How long a write in trouble hangs."""
        self.hang_at = 0
        """The number of the write that hangs whatever happens; 0 for none."""
        self.fail_at = 0
        """The number of the write that fails whatever happens; 0 for none."""
        self.happens = False
        """Whether a write that fails is carried out before."""
        self._seconds = seconds
        self._subject = subject
        self._notice = notice
        self._under_way: list[_Write] = []
        self._next_trouble: str | None = None

    @property
    def write_under_way(self) -> int | None:
        """The number of the turn's write that is under way, counted from 1."""
        return self._under_way[0].number if self._under_way else None

    def trouble(self, trouble: str) -> None:
        """Let the turn's write that is under way hang or fail, or else its next one."""
        if self._under_way:
            self._under_way[0].trouble = trouble
        else:
            self._next_trouble = trouble

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        subject = self._subject()
        is_of_turn = subject is not None and turn_of_task() is subject
        if name in _FAST:
            await trio.sleep(self._seconds / 10)
        elif subject is None or not (is_of_turn or name.startswith("journal.")):
            await trio.sleep(self._seconds)
        else:
            return await self._in_trouble(self._counted(is_of_turn), call)
        return await call()

    def _counted(self, is_of_turn: bool) -> _Write:
        self.writes += 1
        write = _Write(self.writes, is_of_turn=is_of_turn)
        if self.writes == self.hang_at:
            write.trouble = "hanging_write"
        elif self.writes == self.fail_at:
            write.trouble = "failing_write"
        elif is_of_turn and self._next_trouble is not None:
            write.trouble, self._next_trouble = self._next_trouble, None
        return write

    async def _in_trouble(self, write: _Write, call: Callable[[], Awaitable[_T]]) -> _T:
        if write.is_of_turn:
            self._under_way.append(write)
        try:
            await trio.sleep(self._seconds)
        finally:
            if write.is_of_turn:
                self._under_way.remove(write)
        if write.trouble == "hanging_write":
            await trio.sleep(self.hang_seconds)
        elif write.trouble == "failing_write":
            if self.happens:
                await call()
            error = StoreError("the explorer made this write fail")
            self.raised.append(error)
            if write.number == self.fail_at:
                self._notice()
            raise error
        return await call()
