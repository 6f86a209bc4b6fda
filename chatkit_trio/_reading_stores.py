"""What can be had of any store by reading it: a search, and the threads by activity.

Slow, and within bounds, for a store that has no index. A store with one overrides the operations
that are made of this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from ._activity import ActivityPlace
from ._search import Found, Query, searchable_text
from .errors import NotFoundError
from .types import Page, ThreadItem, ThreadMetadata, is_hidden

T = TypeVar("T")

MOST_THREADS = 1_000
MOST_ITEMS = 10_000

_PAGE_SIZE = 100
_FEW = 5
"""A thread ends with an answer, or with one and the hidden note of how it ended."""


class Readable(Protocol):
    """The two operations that are asked for; see `Store`."""

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: Any
    ) -> Page[ThreadMetadata]: ...

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: Any
    ) -> Page[ThreadItem]: ...


@dataclass(frozen=True, slots=True)
class Hit:
    """A thread that matches, and where."""

    thread: ThreadMetadata
    item_id: str | None
    found: Found


@dataclass(frozen=True, slots=True)
class Part:
    """Some entries of a list, and the place behind which there is more, if there is."""

    entries: list[Any]
    rest: ActivityPlace | None

    def page(self, entry: Callable[[Any], T]) -> Page[T]:
        """Return a page of what is made of each entry."""
        after = None if self.rest is None else self.rest.cursor
        return Page(data=[entry(each) for each in self.entries], has_more=bool(after), after=after)


async def read_by_activity(
    store: Readable, limit: int, after: str | None, context: Any, most_threads: float = MOST_THREADS
) -> Part:
    """Return (place, thread) of the owner's threads behind a place, the latest active first."""
    threads = await _by_activity(store, ActivityPlace.behind(after), context, most_threads)
    rest = threads[limit - 1][0] if len(threads) > limit else None
    return Part(threads[:limit], rest)


async def read_to_find(
    store: Readable,
    query: Query,
    limit: int,
    after: str | None,
    context: Any,
    most_threads: float = MOST_THREADS,
    most_items: float = MOST_ITEMS,
) -> Part:
    """Return a `Hit` for each thread that matches, behind a place; fewer at the end of the bounds.

    Of each thread the newest items are read first, and the title counts if no item matches.
    """
    place = ActivityPlace.behind(after)
    if not query.runs:
        return Part([], None)
    hits: list[Hit] = []
    left = most_items
    for number, (its, thread) in enumerate(
        threads := await _by_activity(store, place, context, most_threads)
    ):
        try:
            hit, read = await _find_in(store, thread, query, left, context)
        except NotFoundError:
            continue  # deleted meanwhile
        hits += [hit] if hit is not None else []
        left -= read
        if (len(hits) == limit or left <= 0) and number + 1 < len(threads):
            return Part(hits, its)
    return Part(hits, None)


async def _by_activity(
    store: Readable, behind: ActivityPlace, context: Any, most: float
) -> list[tuple[ActivityPlace, ThreadMetadata]]:
    threads: list[ThreadMetadata] = []
    after: str | None = None
    while (left := most - len(threads)) > 0:
        size = _PAGE_SIZE if left > _PAGE_SIZE else int(left)
        page = await store.load_threads(size, after, "desc", context)
        threads += page.data
        after = page.after
        if not page.has_more:
            break
    found: list[tuple[ActivityPlace, ThreadMetadata]] = []
    for thread in threads:
        try:
            moment = await _last_activity(store, thread, context)
        except NotFoundError:
            continue  # deleted meanwhile
        place = ActivityPlace.of(moment, thread.id)
        if place < behind:
            found.append((place, thread))
    return sorted(found, key=lambda each: each[0], reverse=True)


async def _last_activity(store: Readable, thread: ThreadMetadata, context: Any) -> datetime:
    """Return when the newest visible item was made; of a thread without one, when it was itself."""
    after: str | None = None
    while True:
        page = await store.load_thread_items(thread.id, after, _FEW, "desc", context)
        for item in page.data:
            if not is_hidden(item):
                return item.created_at
        if not page.has_more:
            return thread.created_at
        after = page.after


async def _find_in(
    store: Readable, thread: ThreadMetadata, query: Query, most: float, context: Any
) -> tuple[Hit | None, int]:
    """Return where a thread matches, and how many of its items were read: so many at most."""
    read, after = 0, None
    while read < most:
        size = _PAGE_SIZE if most - read > _PAGE_SIZE else int(most - read)
        page = await store.load_thread_items(thread.id, after, size, "desc", context)
        for number, item in enumerate(page.data, read + 1):
            found = query.find(searchable_text(item))
            if found is not None:
                return Hit(thread, item.id, found), number
        read += len(page.data)
        after = page.after
        if not page.has_more:
            break
    found = query.find(thread.title or "")
    return None if found is None else Hit(thread, None, found), read
