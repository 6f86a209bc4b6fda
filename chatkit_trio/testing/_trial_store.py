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

from ._store_doubles import READS, SlowStore, StoreWrapper

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

    def __init__(self, number: int) -> None:
        self.number = number
        self.trouble: str | None = None


class UnsteadyStore(SlowStore[Any]):
    """Slow, and in trouble with one write of the turn in question when it's told to be.

    Reads are faster than writes, so that one which doesn't wait for its turn comes too early.
    """

    def __init__(
        self,
        store: Store[Any],
        seconds: float,
        subject: Callable[[], Turn[Any] | None],
        fault: Exception,
        notice: Callable[[], None],
    ) -> None:
        super().__init__(store, seconds)
        self.raised: list[Exception] = []
        """What it has raised on purpose."""
        self.hang_seconds = 0.0
        """How long a write in trouble hangs."""
        self.hang_at = 0
        """The number of the turn's write that hangs whatever happens; 0 for none."""
        self.happens = False
        """Whether a write that fails on purpose is carried out before."""
        self._subject = subject
        self._fault = fault
        self._notice = notice
        self._writes = 0
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
        if name in READS:
            await trio.sleep(self.seconds / 10)
            return await call()
        subject = self._subject()
        if subject is None or turn_of_task() is not subject:
            return await self._passed_on(name, call)
        self._writes += 1
        write = _Write(self._writes)
        if self._writes == self.hang_at:
            write.trouble = "hanging_write"
        elif self._next_trouble is not None:
            write.trouble, self._next_trouble = self._next_trouble, None
        self._under_way.append(write)
        try:
            await trio.sleep(self.seconds)
        finally:
            self._under_way.remove(write)
        return await self._carried_out(write, call)

    async def _passed_on(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        await trio.sleep(self.seconds)
        return await self._noticing(call)

    async def _carried_out(self, write: _Write, call: Callable[[], Awaitable[_T]]) -> _T:
        match write.trouble:
            case "hanging_write":
                await trio.sleep(self.hang_seconds)
            case "failing_write":
                if self.happens:
                    await call()
                error = StoreError("the explorer made the write at the cut fail")
                self.raised.append(error)
                raise error
            case _:
                pass
        return await self._noticing(call)

    async def _noticing(self, call: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await call()
        except Exception as error:
            if error is self._fault:
                self.raised.append(error)
                self._notice()
            raise
