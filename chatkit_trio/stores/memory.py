"""A store in this process's memory, for tests, demos and a first try.

Every method waits once, at its start, and does all its work after that without waiting: a caller
that was cancelled did nothing, and no other task ever sees half a change. Only what has been taken
out is decoded in pieces, if it is big.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import trio

from chatkit_trio._engine.pace import BigWork
from chatkit_trio.errors import ConflictError, NotFoundError
from chatkit_trio.store import RequestRecord, Settlement, Store, TContext, UnstorableItem
from chatkit_trio.types import Attachment, Page, ThreadItem, ThreadMetadata

from ._records import (
    check_page,
    check_settlement,
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
)

__all__ = ["MemoryStore"]


@dataclass(slots=True)
class _Row:
    owner: str
    text: str


@dataclass(slots=True)
class _ThreadRow(_Row):
    items: dict[str, str] = field(default_factory=dict)


class MemoryStore(Store[TContext]):
    """Keep threads, items and attachments until the process ends.

    `owner` names, for a request's context, whose data it may see: another owner's threads and
    attachments are not found. Without it everyone shares everything. What goes in and what comes
    out is copied, so a caller may change its objects freely.

        store = MemoryStore[MyContext](owner=lambda context: context.user_id)

    Each method is one checkpoint followed by the whole of its work, and for a big page more of them
    while it is decoded: if it raises `trio.Cancelled`, nothing has changed. `clock` returns
    seconds, and tells how old a request's record is.
    """

    def __init__(
        self,
        *,
        owner: Callable[[TContext], str] = one_owner,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.set_aside_items: list[UnstorableItem] = []
        """What `set_aside` was given, the oldest first."""
        self._owner = owner
        self._clock = clock
        self._big_work = BigWork()
        self._threads: dict[str, _ThreadRow] = {}
        self._attachments: dict[str, _Row] = {}
        self._requests: dict[tuple[str, str], tuple[float, RequestRecord]] = {}

    def get_owner(self, context: TContext) -> str:
        """Return what the store's `owner` function says."""
        return owner_of(self._owner, context)

    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        await trio.lowlevel.checkpoint()
        return decode_thread(self._thread(thread_id, context).text)

    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        await trio.lowlevel.checkpoint()
        text = encode_thread(thread)
        if thread.id in self._threads:
            self._thread(thread.id, context).text = text
        else:
            self._threads[thread.id] = _ThreadRow(owner_of(self._owner, context), text)

    async def update_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        """Replace the metadata of a thread that exists, in one step. Raises `NotFoundError`.

        In a subclass with a `save_thread` of its own, that is called after a look, in two steps.
        """
        if type(self).save_thread is not MemoryStore.save_thread:
            await super().update_thread(thread, context)
            return
        await trio.lowlevel.checkpoint()
        self._thread(thread.id, context).text = encode_thread(thread)

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: TContext
    ) -> Page[ThreadMetadata]:
        check_page(limit, order)
        await trio.lowlevel.checkpoint()
        owner, threads = owner_of(self._owner, context), self._threads
        if after is not None and not self._owns(threads.get(after), context):
            raise _no_cursor(after)
        ids = _behind(threads, after, order)
        rows = ((key, threads[key].text) for key in ids if threads[key].owner == owner)
        return await decode_page(*cut_page(rows, limit), decode_page_thread, self._big_work)

    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        await trio.lowlevel.checkpoint()
        if self._owns(self._threads.get(thread_id), context):
            del self._threads[thread_id]
            self.set_aside_items[:] = [
                item for item in self.set_aside_items if item.thread_id != thread_id
            ]

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        check_page(limit, order)
        await trio.lowlevel.checkpoint()
        items = self._thread(thread_id, context).items
        rows = ((key, items[key]) for key in _behind(items, after, order))
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
        await trio.lowlevel.checkpoint()
        check_thread(item, thread_id)
        items = self._thread(thread_id, context).items
        if item.id in items:
            raise ConflictError(f"thread {thread_id} already has an item {item.id}")
        items[item.id] = encode_item(item)

    async def save_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        await trio.lowlevel.checkpoint()
        check_thread(item, thread_id)
        self._thread(thread_id, context).items[item.id] = encode_item(item)

    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        await trio.lowlevel.checkpoint()
        row = self._threads.get(thread_id)
        if row is not None and self._owns(row, context):
            row.items.pop(item_id, None)

    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        """Insert an attachment's metadata or replace it.

        Raises `NotFoundError` if the id belongs to another owner.
        """
        await trio.lowlevel.checkpoint()
        row = self._attachments.get(attachment.id)
        if row is not None and not self._owns(row, context):
            raise NotFoundError(f"there is no attachment {attachment.id}")
        self._attachments[attachment.id] = _Row(
            owner_of(self._owner, context), encode_attachment(attachment)
        )

    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        await trio.lowlevel.checkpoint()
        row = self._attachments.get(attachment_id)
        if row is None or not self._owns(row, context):
            raise NotFoundError(f"there is no attachment {attachment_id}")
        return decode_attachment(row.text)

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        await trio.lowlevel.checkpoint()
        if self._owns(self._attachments.get(attachment_id), context):
            del self._attachments[attachment_id]

    async def settle(self, settlement: Settlement, context: TContext) -> None:
        """Store all that a turn leaves behind, in one step.

        Raises `NotFoundError` for an unknown thread; nothing is stored then.
        """
        await trio.lowlevel.checkpoint()
        items = self._thread(settlement.thread_id, context).items
        check_settlement(settlement)
        # All is encoded before anything is stored: what can't be encoded leaves no half.
        new = {item.id: encode_item(item) for item in settlement.new_items}
        changed = {item.id: encode_item(item) for item in settlement.changed_items}
        thread = encode_thread(settlement.thread) if settlement.thread is not None else None
        items.update({key: text for key, text in new.items() if key not in items} | changed)
        if thread is not None:
            self._threads[settlement.thread_id].text = thread

    async def delete_items_after(self, thread_id: str, item_id: str, context: TContext) -> None:
        """Delete every item of the thread that was inserted after `item_id`, in one step.

        Raises `NotFoundError` if that item isn't in the thread.
        """
        await trio.lowlevel.checkpoint()
        items = self._thread(thread_id, context).items
        if item_id not in items:
            raise NotFoundError(f"thread {thread_id} has no item {item_id}")
        ids = list(items)
        for newer_id in ids[ids.index(item_id) + 1 :]:
            del items[newer_id]

    async def set_aside(self, item: UnstorableItem, context: TContext) -> None:
        """Keep what the store has refused, in `set_aside_items`, until its thread is deleted."""
        await trio.lowlevel.checkpoint()
        if item not in self.set_aside_items:
            self.set_aside_items.append(item)

    async def begin_request(
        self, record: RequestRecord, window: float, context: TContext
    ) -> RequestRecord | None:
        """Record a request, or return the record that its owner has of that key."""
        await trio.lowlevel.checkpoint()
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
        await trio.lowlevel.checkpoint()
        key = (owner_of(self._owner, context), record.key)
        if key in self._requests:
            self._requests[key] = (self._requests[key][0], record)

    def _owns(self, row: _Row | None, context: TContext) -> bool:
        return row is not None and row.owner == owner_of(self._owner, context)

    def _thread(self, thread_id: str, context: TContext) -> _ThreadRow:
        row = self._threads.get(thread_id)
        if row is None or not self._owns(row, context):
            raise NotFoundError(f"there is no thread {thread_id}")
        return row


def _behind(rows: dict[str, Any], after: str | None, order: str) -> Iterator[str]:
    """Return the ids behind one, in the order asked for."""
    ids = iter(rows) if order == "asc" else reversed(rows)
    if after is not None and after not in rows:
        raise _no_cursor(after)
    if after is not None:
        for row_id in ids:
            if row_id == after:
                break
    return ids


def _no_cursor(after: str) -> NotFoundError:
    return NotFoundError(f"there is nothing with the id {after} to go on from")
