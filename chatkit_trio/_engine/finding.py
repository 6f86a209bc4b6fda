"""Answers to those who look for a thread: threads by activity, and hits of a search.

Not requests of the protocol. A thread is in them as in `threads.list`, and one without a title has
a name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel

from chatkit_trio.store import ActiveThread, SearchHit
from chatkit_trio.types import Page, Thread, ThreadMetadata

from .hooks import ServerHooks
from .pages import PagedAnswer
from .requests import name_of, page_size
from .wire import thread_answer, to_json

T = TypeVar("T")


class _ListedThread(Thread):
    """A thread as in `threads.list`, and what a list shows besides."""

    name: str | None = None
    """The first words of the user, if the thread has no title."""
    last_activity_at: datetime | None = None


class _FoundThread(BaseModel):
    thread: _ListedThread
    item_id: str | None
    excerpt: str
    matches: list[tuple[int, int]]
    """In UTF-16 code units, as JavaScript counts."""


async def threads_by_activity(
    server: ServerHooks[Any], limit: int | None, after: str | None, context: Any
) -> bytes:
    """Return a page of the owner's threads, the latest active first, as JSON."""

    async def load(most: int) -> Page[ActiveThread]:
        return await server.store.load_threads_by_activity(most, after, context)

    async def listed(each: ActiveThread) -> _ListedThread:
        thread = await _listed(server, each.thread, context)
        thread.last_activity_at = each.last_activity_at
        return thread

    return await _answer(server, load, listed, page_size(limit, server.limits))


async def search(
    server: ServerHooks[Any], query: str, limit: int | None, after: str | None, context: Any
) -> bytes:
    """Return a page of the owner's threads that match, as JSON.

    Raises `InvalidRequestError` for a query that is too long.
    """

    async def load(most: int) -> Page[SearchHit]:
        return await server.store.search_threads(query, most, after, context)

    async def shown(hit: SearchHit) -> _FoundThread:
        return _FoundThread(
            thread=await _listed(server, hit.thread, context),
            item_id=hit.item_id,
            excerpt=hit.excerpt,
            matches=[
                (_utf16_units(hit.excerpt[:begin]), _utf16_units(hit.excerpt[:end]))
                for begin, end in hit.matches
            ],
        )

    return await _answer(server, load, shown, page_size(limit, server.limits))


async def _answer(
    server: ServerHooks[Any],
    load: Callable[[int], Awaitable[Page[T]]],
    shown: Callable[[T], Awaitable[BaseModel]],
    limit: int,
) -> bytes:
    page = await load(limit)
    answers = [await shown(each) for each in page.data]
    encoded: list[bytes] = []
    size = 0
    async with server.big_work.begin() as pace:
        for each in answers:
            encoded.append(to_json(each))
            size += len(encoded[-1])
            await pace.before(len(encoded[-1]))
    fits = len(encoded)
    while fits > 1 and size > server.limits.page_bytes:
        fits -= 1
        size -= len(encoded[fits])
    if fits < len(encoded):
        # Only the store knows the cursor of a page that ends there.
        return await _answer(server, load, shown, fits)
    return PagedAnswer(page.model_copy(update={"data": []}), encoded).to_json()


async def _listed(server: ServerHooks[Any], thread: ThreadMetadata, context: Any) -> _ListedThread:
    fields = dict(thread_answer(thread))
    if not thread.title:
        fields["name"] = await name_of(server, thread.id, context) or None
    return _ListedThread(**fields)


def _utf16_units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2
