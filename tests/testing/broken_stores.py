"""Stores with one fault each, for `test_store_conformance.py`: the kit must find every one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import StoreConformance
from chatkit_trio.types import Page, ThreadItem, ThreadMetadata


class Kit(StoreConformance):
    __test__ = False
    store: type[MemoryStore[str]]

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        async with self.store(owner=str) as store:
            yield store

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"


class AbandonsWrites(MemoryStore[str]):
    """A cancelled caller leaves, and the write happens behind its back."""

    async def add_thread_item(self, *args: Any, **kwargs: Any) -> None:
        await super().add_thread_item(*args, **kwargs)
        await trio.lowlevel.checkpoint()


class TestAbandonsWrites(Kit):
    __test__ = True
    store = AbandonsWrites


class ReadsThenWrites(MemoryStore[str]):
    """Waits between looking whether the item is there and adding it."""

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: str) -> None:
        there = await self.has_item(thread_id, item.id, context)
        if there:
            await super().add_thread_item(thread_id, item, context)
        await self.save_item(thread_id, item, context)


class TestReadsThenWrites(Kit):
    __test__ = True
    store = ReadsThenWrites


class SettlesInSteps(MemoryStore[str]):
    """Claims to be atomic, and isn't."""

    settle = Store.settle


class TestSettlesInSteps(Kit):
    __test__ = True
    store = SettlesInSteps


class OrdersByTime(MemoryStore[str]):
    """Sorts by created_at, as the original's samples do."""

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: str
    ) -> Page[ThreadItem]:
        page = await super().load_thread_items(thread_id, None, 1000, "asc", context)
        items = sorted(page.data, key=lambda item: item.created_at, reverse=order == "desc")
        start = [item.id for item in items].index(after) + 1 if after else 0
        has_more = len(items) > start + limit
        data = items[start : start + limit]
        return Page(data=data, has_more=has_more, after=data[-1].id if has_more else None)


class TestOrdersByTime(Kit):
    __test__ = True
    store = OrdersByTime


class ForgetsTheOwner(MemoryStore[str]):
    """Deletes whatever id it is given."""

    async def delete_thread(self, thread_id: str, context: str) -> None:
        await trio.lowlevel.checkpoint()
        self._threads.pop(thread_id, None)


class TestForgetsTheOwner(Kit):
    __test__ = True
    store = ForgetsTheOwner


class KeepsTheCallersObject(MemoryStore[str]):
    """Hands out the object that was saved, and takes a `Thread` for metadata."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._objects: dict[str, ThreadMetadata] = {}

    async def save_thread(self, thread: ThreadMetadata, context: str) -> None:
        await super().save_thread(thread, context)
        self._objects[thread.id] = thread

    async def load_thread(self, thread_id: str, context: str) -> ThreadMetadata:
        await super().load_thread(thread_id, context)
        return self._objects[thread_id]


class TestKeepsTheCallersObject(Kit):
    __test__ = True
    store = KeepsTheCallersObject


class SettlesTwice(MemoryStore[str]):
    """Adds the new items again under other ids when settled again."""

    async def settle(self, settlement: Settlement, context: str) -> None:
        await super().settle(settlement, context)
        for item in settlement.new_items:
            again = item.model_copy(update={"id": self.generate_thread_id(context)})
            await self.add_thread_item(settlement.thread_id, again, context)


class TestSettlesTwice(Kit):
    __test__ = True
    store = SettlesTwice


class MovesSavedItems(MemoryStore[str]):
    """Saving an item takes it to the end of the thread."""

    async def save_item(self, thread_id: str, item: ThreadItem, context: str) -> None:
        await trio.lowlevel.checkpoint()
        items = self._thread(thread_id, context).items
        items.pop(item.id, None)
        items[item.id] = item.model_dump_json()


class TestMovesSavedItems(Kit):
    __test__ = True
    store = MovesSavedItems
