"""The storage contract: what the engine asks of a store, and what it may rely on.

A store implements the twelve abstract methods of `Store`; that is enough. The operations below
them (`settle`, `delete_items_after`, `journal`, `ping`, `async with`) have correct defaults built
from the twelve, and a store with transactions overrides them to make each one atomic.

Rules for every method:

- It runs on trio and may be called from any task. Blocking work goes to a worker thread that is
  never abandoned: when a cancelled write returns, it has happened; when it raises
  `trio.Cancelled`, it hasn't.
- A load or write of an id that isn't there, or belongs to another owner or thread, raises
  `NotFoundError`; a delete of one does nothing.
- Items and threads are ordered by insertion, never by `created_at` alone. `after` is the id of the
  last item or thread of the page before; `order` is `"asc"` or `"desc"`.
- The engine hands over objects it doesn't change afterwards, and owns what a load returns.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Literal, Self

from typing_extensions import TypeVar

from .errors import NotFoundError
from .types import Attachment, AttachmentCreateParams, Page, ThreadItem, ThreadMetadata

__all__ = [
    "AttachmentStore",
    "Journal",
    "JournalEntry",
    "NotFoundError",
    "Settlement",
    "Store",
    "StoreItemType",
    "default_generate_id",
]

TContext = TypeVar("TContext", default=Any)

StoreItemType = Literal[
    "thread", "message", "tool_call", "task", "workflow", "attachment", "sdk_hidden_context"
]

_ID_PREFIXES: dict[StoreItemType, str] = {
    "thread": "thr",
    "message": "msg",
    "tool_call": "tc",
    "task": "tsk",
    "workflow": "wf",
    "attachment": "atc",
    "sdk_hidden_context": "shcx",
}

_DELETE_PAGE_SIZE = 100


def default_generate_id(item_type: StoreItemType) -> str:
    """Return a new id with the prefix of its kind and 128 random bits, so it can't be guessed."""
    return f"{_ID_PREFIXES[item_type]}_{secrets.token_hex(16)}"


@dataclass(frozen=True, slots=True)
class Settlement:
    """What a turn leaves behind when it ends: stored in one step, exactly once.

    `new_items` are added in order unless an item with that id is there already (an earlier write
    whose outcome was unknown); `changed_items` replace the stored ones of the same id; `thread` is
    saved if given; the journal's entry of `turn_id` is closed.
    """

    thread_id: str
    turn_id: str | None = None
    new_items: tuple[ThreadItem, ...] = ()
    changed_items: tuple[ThreadItem, ...] = ()
    thread: ThreadMetadata | None = None


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """The unfinished items of one turn, as of its last checkpoint."""

    turn_id: str
    thread_id: str
    items: tuple[ThreadItem, ...] = ()


class Journal(ABC, Generic[TContext]):
    """A write-ahead record of turns that haven't ended, so that a crash loses no partial answer.

    The engine begins an entry before a turn's first event, checkpoints all live turns at once
    every so often, and closes the entry through `Store.settle`.
    """

    @abstractmethod
    async def begin(self, turn_id: str, thread_id: str, context: TContext) -> None:
        """Record that a turn on this thread is live, owned by this process."""

    @abstractmethod
    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        """Replace the recorded items of these turns in one transaction.

        An entry whose turn isn't open (closed meanwhile) is ignored, so a checkpoint that is
        overtaken by the turn's end can't bring it back to life.
        """

    @abstractmethod
    async def abandoned(self) -> list[JournalEntry]:
        """Claim and return the open entries whose process is gone."""

    @abstractmethod
    async def settle_abandoned(self, settlement: Settlement) -> None:
        """Do as `Store.settle`, on behalf of the owner recorded with the entry, atomically.

        A thread that is gone closes the entry and stores nothing.
        """


class AttachmentStore(ABC, Generic[TContext]):
    """Where the bytes of attachments are kept; their metadata is in the `Store`."""

    @abstractmethod
    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        """Delete the bytes of an attachment; one that isn't there is not an error."""

    async def create_attachment(
        self, input: AttachmentCreateParams, context: TContext
    ) -> Attachment:
        """Return a new attachment with an `upload_descriptor` that says where the bytes go.

        The engine saves the returned attachment. Needed for two-phase uploads only.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no create_attachment(); override it to offer two-phase"
            " uploads (attachments.create)"
        )

    def generate_attachment_id(self, mime_type: str, context: TContext) -> str:
        """Return a new attachment id."""
        return default_generate_id("attachment")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None


class Store(ABC, Generic[TContext]):
    """Threads, their items and the metadata of attachments, scoped by the caller's context."""

    journal: Journal[TContext] | None = None
    """The store's crash journal, or None if it has none."""

    def generate_thread_id(self, context: TContext) -> str:
        """Return a new thread id."""
        return default_generate_id("thread")

    def generate_item_id(
        self, item_type: StoreItemType, thread: ThreadMetadata, context: TContext
    ) -> str:
        """Return a new id for an item of this kind."""
        return default_generate_id(item_type)

    @abstractmethod
    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        """Return a thread's metadata. Raises `NotFoundError`."""

    @abstractmethod
    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        """Insert a thread or replace its metadata; its place in the order stays.

        Raises `NotFoundError` if the id belongs to another owner.
        """

    @abstractmethod
    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        """Return up to `limit` items of a thread behind `after`, in insertion order.

        `Page.has_more` says whether items remain, and `Page.after` is then the cursor of the next
        page. Raises `NotFoundError` for an unknown thread or cursor.
        """

    @abstractmethod
    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        """Insert an attachment's metadata or replace it."""

    @abstractmethod
    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        """Return an attachment's metadata. Raises `NotFoundError`."""

    @abstractmethod
    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        """Delete an attachment's metadata; one that isn't there is not an error."""

    @abstractmethod
    async def load_threads(
        self, limit: int, after: str | None, order: str, context: TContext
    ) -> Page[ThreadMetadata]:
        """Return up to `limit` of the owner's threads behind `after`, in insertion order."""

    @abstractmethod
    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Append an item to a thread.

        Raises `NotFoundError` for an unknown thread, `ConflictError` for an id the thread has.
        """

    @abstractmethod
    async def save_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Replace an item in its place, or append it if it isn't there."""

    @abstractmethod
    async def load_item(self, thread_id: str, item_id: str, context: TContext) -> ThreadItem:
        """Return one item of this thread. Raises `NotFoundError`."""

    @abstractmethod
    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        """Delete a thread and its items; one that isn't there is not an error."""

    @abstractmethod
    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        """Delete one item; one that isn't there is not an error."""

    async def settle(self, settlement: Settlement, context: TContext) -> None:
        """Store all that a turn leaves behind; see `Settlement`.

        Doing it twice is the same as doing it once. Raises `NotFoundError` if the thread is gone.
        This default takes one write an item; a store with transactions overrides it with one.
        """
        thread_id = settlement.thread_id
        await self.load_thread(thread_id, context)  # one that was deleted isn't brought back
        for item in settlement.new_items:
            if not await self.has_item(thread_id, item.id, context):
                await self.add_thread_item(thread_id, item, context)
        for item in settlement.changed_items:
            await self.save_item(thread_id, item, context)
        if settlement.thread is not None:
            await self.save_thread(settlement.thread, context)

    async def delete_items_after(self, thread_id: str, item_id: str, context: TContext) -> None:
        """Delete every item of the thread that was inserted after `item_id`.

        Raises `NotFoundError`, before anything is deleted, if that item isn't in the thread. This
        default deletes the newest first, so that a crash half way leaves no hole; a store with
        transactions overrides it.
        """
        newer: list[str] = []
        after: str | None = None
        while item_id not in newer:
            page = await self.load_thread_items(
                thread_id, after, _DELETE_PAGE_SIZE, "desc", context
            )
            newer += [item.id for item in page.data]
            after = page.after
            if not page.has_more:
                break
        if item_id not in newer:
            raise NotFoundError(f"thread {thread_id} has no item {item_id}")
        for newer_id in newer[: newer.index(item_id)]:
            await self.delete_thread_item(thread_id, newer_id, context)

    async def ping(self) -> None:
        """Raise if the store can't be reached. The default knows nothing and returns."""

    async def __aenter__(self) -> Self:
        """Open the store; `ChatKitServer` does it. Entering more than once is allowed."""
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the store when the last who entered it leaves."""
        return

    async def has_item(self, thread_id: str, item_id: str, context: TContext) -> bool:
        with suppress(NotFoundError):
            await self.load_item(thread_id, item_id, context)
            return True
        return False
