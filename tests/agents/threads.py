"""Threads and contexts to run models in, and a way to compare what comes of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
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


def plain(events: Iterable[Any]) -> list[dict[str, Any]]:
    """Return events as JSON, ids replaced by the order of their first appearance, no times."""
    names: dict[str, str] = {}
    return [_plain(event.model_dump(mode="json", exclude_none=True), names) for event in events]


def _plain(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, list):
        return [_plain(entry, names) for entry in value]
    if not isinstance(value, dict):
        return value
    kept = {key: entry for key, entry in value.items() if key != "created_at"}
    return {
        key: names.setdefault(entry, f"id{len(names)}")
        if key in {"id", "item_id"}
        else _plain(entry, names)
        for key, entry in kept.items()
    }
