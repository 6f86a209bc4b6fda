"""A store in this process's memory, for tests, demos and a first try.

Every method waits once, at its start, and does all its work after that without waiting: a caller
that was cancelled did nothing, and no other task ever sees half a change. Only what has been taken
out is decoded in pieces, if it is big.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

import trio

from chatkit_trio._engine.pace import BigWork
from chatkit_trio._reading_stores import read_by_activity, read_to_find
from chatkit_trio._search import Query
from chatkit_trio.errors import ConflictError, NotFoundError
from chatkit_trio.store import (
    ActiveThread,
    RequestRecord,
    SearchHit,
    Settlement,
    Store,
    TContext,
    UnstorableItem,
    as_active_thread,
    as_search_hit,
    behind_fence,
)
from chatkit_trio.types import Attachment, Page, ThreadItem, ThreadMetadata

from ._memory_cluster import MemoryCluster, Row, ThreadRow, delete_after
from ._memory_coordination import MemoryCoordination, MemoryJournal
from ._records import (
    check_limit,
    check_new,
    check_page,
    check_thread,
    cut_page,
    decode_attachment,
    decode_one_item,
    decode_page,
    decode_page_item,
    decode_page_thread,
    decode_thread,
    encode_attachment,
    encode_item,
    encode_thread,
    one_owner,
    owner_of,
    warn_of_taken_turn,
)

__all__ = ["MemoryCluster", "MemoryStore"]

logger = logging.getLogger(__name__)


class MemoryStore(Store[TContext]):
    """Keep threads, items and attachments until the process ends.

    `owner` names, for a request's context, whose data it may see: another owner's threads and
    attachments are not found. Without it everyone shares everything. What goes in and what comes
    out is copied, so a caller may change its objects freely.

        store = MemoryStore[MyContext](owner=lambda context: context.user_id)

    Each method is one checkpoint followed by the whole of its work, and for a big page more of them
    while it is decoded: if it raises `trio.Cancelled`, nothing has changed. `clock` returns
    seconds, and tells how old a request's record is.

    Stores with the same `cluster` have the same data, a journal and coordination: each is a node
    while it is open. Without a cluster the store has neither.
    """

    def __init__(
        self,
        *,
        owner: Callable[[TContext], str] = one_owner,
        clock: Callable[[], float] = trio.current_time,
        cluster: MemoryCluster | None = None,
    ) -> None:
        self._cluster = MemoryCluster() if cluster is None else cluster
        self.set_aside_items = self._cluster.set_aside_items
        """What `set_aside` was given, the oldest first."""
        self._owner = owner
        self._clock = clock
        self._big_work = BigWork()
        self._threads = self._cluster.threads
        self._attachments = self._cluster.attachments
        self._requests = self._cluster.requests
        self._node: MemoryCoordination[TContext] | None = None
        self._times_entered = 0
        if cluster is not None:
            self.coordination = self._node = MemoryCoordination(cluster, owner)
            self.journal = MemoryJournal(cluster, self._node, owner)

    async def __aenter__(self) -> Self:
        """Join the cluster, if there is one, as a node with a new id; entering is counted."""
        if self._node is not None and self._times_entered == 0:
            self._node.open()
        self._times_entered += 1
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the cluster when the last who entered leaves; live turns are abandoned then."""
        self._times_entered -= 1
        if self._node is not None and self._times_entered == 0:
            self._node.close()

    def get_owner(self, context: TContext) -> str:
        """Return what the store's `owner` function says."""
        return owner_of(self._owner, context)

    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        await trio.lowlevel.checkpoint()
        return decode_thread(self._thread(thread_id, context).text)

    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        await self._begin_write()
        text = encode_thread(thread)
        if thread.id in self._threads:
            self._thread(thread.id, context).text = text
        else:
            self._threads[thread.id] = ThreadRow(owner_of(self._owner, context), text)

    async def update_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        """Replace the metadata of a thread that exists, in one step. Raises `NotFoundError`.

        In a subclass with a `save_thread` of its own, that is called after a look, in two steps.
        """
        if type(self).save_thread is not MemoryStore.save_thread:
            await super().update_thread(thread, context)
            return
        await self._begin_write()
        self._thread(thread.id, context).text = encode_thread(thread)

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: TContext
    ) -> Page[ThreadMetadata]:
        check_page(limit, order)
        await trio.lowlevel.checkpoint()
        owner, threads = owner_of(self._owner, context), self._threads
        ids = threads.behind(self._place(after, owner), order)
        rows = ((key, threads[key].text) for key in ids if threads[key].owner == owner)
        return await decode_page(*cut_page(rows, limit), decode_page_thread, self._big_work)

    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        await self._begin_write()
        if self._owns(self._threads.get(thread_id), context):
            self._cluster.end_thread(thread_id)

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        check_page(limit, order)
        await trio.lowlevel.checkpoint()
        items = self._thread(thread_id, context).items
        place = None if after is None else items.place(after)
        if after is not None and place is None:
            raise _no_cursor(after)
        rows = ((key, items[key]) for key in items.behind(place, order))
        return await decode_page(*cut_page(rows, limit), decode_page_item, self._big_work)

    async def load_item(self, thread_id: str, item_id: str, context: TContext) -> ThreadItem:
        await trio.lowlevel.checkpoint()
        items = self._thread(thread_id, context).items
        if item_id not in items:
            raise NotFoundError(f"thread {thread_id} has no item {item_id}")
        return await decode_one_item(items[item_id], self._big_work)

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Append an item to a thread.

        Raises `NotFoundError` for an unknown thread and `ConflictError` for an item id the thread
        has already.
        """
        await self._begin_write()
        check_new(item, thread_id)
        items = self._thread(thread_id, context).items
        if item.id in items:
            raise ConflictError(f"thread {thread_id} already has an item {item.id}")
        items[item.id] = encode_item(item)

    async def save_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        await self._begin_write()
        check_new(item, thread_id)
        self._thread(thread_id, context).items[item.id] = encode_item(item)

    async def update_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Replace an item that is in the thread, in one step. Raises `NotFoundError`.

        In a subclass with a `save_item` of its own, that is called after a look, in two steps.
        """
        if type(self).save_item is not MemoryStore.save_item:
            await super().update_item(thread_id, item, context)
            return
        await self._begin_write()
        check_thread(item, thread_id)
        items = self._thread(thread_id, context).items
        if item.id not in items:
            raise NotFoundError(f"thread {thread_id} has no item {item.id}")
        items[item.id] = encode_item(item)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        await self._begin_write()
        row = self._threads.get(thread_id)
        if row is not None and self._owns(row, context):
            row.items.pop(item_id, None)

    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        """Insert an attachment's metadata or replace it.

        Raises `NotFoundError` if the id belongs to another owner.
        """
        await self._begin_write()
        row = self._attachments.get(attachment.id)
        if row is not None and not self._owns(row, context):
            raise NotFoundError(f"there is no attachment {attachment.id}")
        self._attachments[attachment.id] = Row(
            owner_of(self._owner, context), encode_attachment(attachment)
        )

    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        await trio.lowlevel.checkpoint()
        row = self._attachments.get(attachment_id)
        if row is None or not self._owns(row, context):
            raise NotFoundError(f"there is no attachment {attachment_id}")
        return decode_attachment(row.text)

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        await self._begin_write()
        if self._owns(self._attachments.get(attachment_id), context):
            del self._attachments[attachment_id]

    async def settle(self, settlement: Settlement, context: TContext) -> bool:
        """Store all that a turn leaves behind, in one step.

        Raises `NotFoundError` for an unknown thread; nothing is stored then. In a cluster it raises
        `TurnFencedError` for a turn without a record on this node, unless the same settlement has
        ended it before, and returns False for one that another node has taken for crashed and
        hasn't settled yet.
        """
        await self._begin_write(settles=settlement.turn_id)
        owner = owner_of(self._owner, context)
        if self._node is None:
            self._cluster.settle(settlement, owner)
            return True
        is_own = self._cluster.settle_live(settlement, owner, self._node.open_node())
        if not is_own:
            warn_of_taken_turn(logger, settlement, "it is settled by this one")
        return is_own

    async def delete_items_after(self, thread_id: str, item_id: str, context: TContext) -> None:
        """Delete every item of the thread that was inserted after `item_id`, in one step.

        Raises `NotFoundError` if that item isn't in the thread.
        """
        await self._begin_write()
        delete_after(self._thread(thread_id, context).items, thread_id, item_id)

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: TContext
    ) -> Page[ActiveThread]:
        """Return threads by activity; all of the owner's are read for each page."""
        check_limit(limit)
        part = await read_by_activity(self, limit, after, context, math.inf)
        return part.page(as_active_thread)

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: TContext
    ) -> Page[SearchHit]:
        """Search all of the owner's threads, by reading them."""
        check_limit(limit)
        bounds = (math.inf, math.inf)
        part = await read_to_find(self, Query(query), limit, after, context, *bounds)
        return part.page(as_search_hit)

    async def set_aside(self, item: UnstorableItem, context: TContext) -> None:
        """Keep what the store has refused, in `set_aside_items`, until its thread is deleted."""
        await trio.lowlevel.checkpoint()  # behind the end of its turn too
        self._cluster.set_aside([item])

    async def begin_request(
        self, record: RequestRecord, window: float, context: TContext
    ) -> RequestRecord | None:
        """Record a request, or return the record that its owner has of that key."""
        await self._begin_write()
        now, key = self._clock(), (owner_of(self._owner, context), record.key)
        # The oldest stand first: they stay where they were recorded.
        while self._requests and now - next(iter(self._requests.values()))[0] >= window:
            del self._requests[next(iter(self._requests))]
        if key in self._requests:
            return self._requests[key][1]
        self._requests[key] = (now, record)
        return None

    async def find_request(
        self, key: str, window: float, context: TContext
    ) -> RequestRecord | None:
        """Return the record that the owner has of a key."""
        await trio.lowlevel.checkpoint()
        begun_at, record = self._requests.get(
            (owner_of(self._owner, context), key), (-math.inf, None)
        )
        return record if self._clock() - begun_at < window else None

    async def update_request(self, record: RequestRecord, context: TContext) -> None:
        """Replace the record of the same key and owner, if it is still there."""
        await self._begin_write()
        key = (owner_of(self._owner, context), record.key)
        if key in self._requests:
            self._requests[key] = (self._requests[key][0], record)

    async def _begin_write(self, *, settles: str | None = None) -> None:
        """Wait, and raise `TurnFencedError` if the task's turn isn't live on this node any more.

        The turn that is settled is asked for by itself.
        """
        await trio.lowlevel.checkpoint()

        async def check(turn_id: str | None) -> None:  # noqa: ASYNC124  (the write comes at once)
            if self._node is not None and turn_id not in (None, settles):
                self._cluster.check_live(turn_id, self._node.open_node())

        await behind_fence(check)

    def _place(self, thread_id: str | None, owner: str) -> int | None:
        """Return where an owner's thread stands, or stood when it was deleted."""
        if thread_id is None:
            return None
        row = self._threads.get(thread_id)
        if row is not None and row.owner == owner:
            return self._threads.place(thread_id)
        place = self._cluster.deleted_threads.get((owner, thread_id))
        if place is None:
            raise _no_cursor(thread_id)
        return place

    def _owns(self, row: Row | None, context: TContext) -> bool:
        return row is not None and row.owner == owner_of(self._owner, context)

    def _thread(self, thread_id: str, context: TContext) -> ThreadRow:
        row = self._threads.get(thread_id)
        if row is None or not self._owns(row, context):
            raise NotFoundError(f"there is no thread {thread_id}")
        return row


def _no_cursor(after: str) -> NotFoundError:
    return NotFoundError(f"there is nothing with the id {after} to go on from")
