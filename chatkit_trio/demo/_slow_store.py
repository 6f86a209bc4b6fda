"""A store on a bad day: SQLite whose writes take their time, to see what a stop then costs."""

from __future__ import annotations

import os
from typing import Any

import trio

from chatkit_trio.store import Settlement
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.types import ThreadItem, ThreadMetadata


class SlowSQLiteStore(SQLiteStore[Any]):
    """An `SQLiteStore` that waits `delay` seconds before each write of a thread or its items."""

    def __init__(self, path: str | os.PathLike[str], *, delay: float) -> None:
        super().__init__(path)
        self._delay = delay

    async def save_thread(self, thread: ThreadMetadata, context: Any) -> None:
        await trio.sleep(self._delay)
        await super().save_thread(thread, context)

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await trio.sleep(self._delay)
        await super().add_thread_item(thread_id, item, context)

    async def save_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await trio.sleep(self._delay)
        await super().save_item(thread_id, item, context)

    async def settle(self, settlement: Settlement, context: Any) -> None:
        await trio.sleep(self._delay)
        await super().settle(settlement, context)

    async def delete_thread(self, thread_id: str, context: Any) -> None:
        await trio.sleep(self._delay)
        await super().delete_thread(thread_id, context)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: Any) -> None:
        await trio.sleep(self._delay)
        await super().delete_thread_item(thread_id, item_id, context)

    async def delete_items_after(self, thread_id: str, item_id: str, context: Any) -> None:
        await trio.sleep(self._delay)
        await super().delete_items_after(thread_id, item_id, context)
