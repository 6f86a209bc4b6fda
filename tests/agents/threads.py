"""Threads and contexts to run models in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from chatkit_trio.agents import AgentContext
from chatkit_trio.stores.memory import MemoryStore
from chatkit_trio.types import ThreadItem, ThreadMetadata

MOMENT = datetime(2026, 1, 2, tzinfo=UTC)


async def new_context(*items: ThreadItem) -> AgentContext[None]:
    """Return the context of a turn on a new thread that holds these items."""
    store: MemoryStore[None] = MemoryStore()
    thread = ThreadMetadata(id="thr_1", created_at=MOMENT)
    await store.save_thread(thread, None)
    for item in items:
        await store.add_thread_item(thread.id, item, None)
    return AgentContext(thread=thread, store=store, request_context=None)


async def collected(events: AsyncIterator[Any]) -> list[Any]:
    return [event async for event in events]
