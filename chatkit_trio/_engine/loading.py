"""Loading for a request: the owner's threads and items, and those that were asked for.

A store that was written for openai-chatkit may say in another way that something isn't there.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, TypeVar

from chatkit_trio._foreign_text import text_of
from chatkit_trio.errors import NotFoundError, means_not_found
from chatkit_trio.store import Store
from chatkit_trio.types import ThreadItem, ThreadMetadata

T = TypeVar("T")


async def load_thread(store: Store[Any], thread_id: str, context: Any) -> ThreadMetadata:
    """Return a thread's metadata. Raises `NotFoundError`, and what else the store raises.

    Raises `ValueError` if the store returns another thread: turns, locks and items are found by the
    id, so nothing would fit together.
    """
    thread = await _loaded(f"thread {thread_id}", store.load_thread(thread_id, context=context))
    if thread.id != thread_id:
        raise ValueError(
            f"{type(store).__name__}.load_thread({thread_id!r}) has returned the thread"
            f" {thread.id!r}: a store has to return a thread under the id that it was saved with"
        )
    return thread


async def load_item(store: Store[Any], thread_id: str, item_id: str, context: Any) -> ThreadItem:
    """Return an item. Raises `NotFoundError`, and what else the store raises."""
    loading = store.load_item(thread_id, item_id, context=context)
    return await _loaded(f"item {item_id} in thread {thread_id}", loading)


async def found(operation: Awaitable[T]) -> T:
    """Return what the store returns. Raises `NotFoundError` also for what means the same."""
    try:
        return await operation
    except Exception as error:
        if means_not_found(error) and not isinstance(error, NotFoundError):
            raise NotFoundError(text_of(error)) from error
        raise


async def _loaded(what: str, loading: Awaitable[T | None]) -> T:
    loaded = await found(loading)
    if loaded is None:
        raise NotFoundError(f"there is no {what}")
    return loaded
