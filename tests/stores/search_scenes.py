"""What the tests of both indexes share: what is written, and what is found of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from chatkit_trio.store import Store
from chatkit_trio.testing._store_samples import NOON, ending_note
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ThreadItem,
    ThreadMetadata,
)


def thread(thread_id: str, title: str | None = None) -> ThreadMetadata:
    return ThreadMetadata(id=thread_id, title=title, created_at=NOON)


def answer(item_id: str, text: str, minutes: int = 0, thread_id: str = "thr_1") -> ThreadItem:
    return AssistantMessageItem(
        id=item_id,
        thread_id=thread_id,
        created_at=NOON + timedelta(minutes=minutes),
        content=[AssistantMessageContent(text=text)],
    )


def old_threads() -> list[ThreadMetadata]:
    """Return what a store of the release before has: three threads, and `old_items` in them."""
    return [thread(f"thr_{number}", title) for number, title in enumerate((None, "boats", None), 1)]


def old_items() -> list[ThreadItem]:
    return [
        answer("m1", "a ferry", 3),
        ending_note("n1", "thr_1", "turn_1", "a ferry"),
        answer("m2", "a ferry", 5, "thr_2"),
    ]


async def found(store: Store[str], query: str, owner: str = "ann") -> list[Any]:
    page = await store.search_threads(query, 99, None, owner)
    return [(hit.thread.id, hit.item_id) for hit in page.data]


async def active(store: Store[str]) -> list[Any]:
    page = await store.load_threads_by_activity(99, None, "ann")
    return [(each.thread.id, (each.last_activity_at - NOON).seconds // 60) for each in page.data]
