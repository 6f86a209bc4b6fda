"""Loading a thread for a request: the owner's, and the one that was asked for."""

from __future__ import annotations

from typing import Any

from chatkit_trio.store import Store
from chatkit_trio.types import ThreadMetadata


async def load_thread(store: Store[Any], thread_id: str, context: Any) -> ThreadMetadata:
    """Return a thread's metadata. Raises what the store raises.

    Raises `ValueError` if the store returns another thread: turns, locks and items are found by the
    id, so nothing would fit together.
    """
    thread = await store.load_thread(thread_id, context=context)
    if thread.id != thread_id:
        raise ValueError(
            f"{type(store).__name__}.load_thread({thread_id!r}) has returned the thread"
            f" {thread.id!r}: a store has to return a thread under the id that it was saved with"
        )
    return thread
