"""A store in one SQLite file, for everything that runs on one machine. POSIX only.

`_sqlite_queries` says what is asked of the tables, `_sqlite_database` runs it. Every write is one
transaction, so a crash leaves all of it or nothing.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Concatenate, Literal, ParamSpec, Self

from typing_extensions import TypeVar

from chatkit_trio._activity import ActivityPlace
from chatkit_trio._engine.pace import BigWork
from chatkit_trio._reading_stores import Part
from chatkit_trio._search import Query
from chatkit_trio._settings import check_choice, check_count, check_seconds
from chatkit_trio.errors import NotFoundError, StoreError
from chatkit_trio.store import (
    ActiveThread,
    RequestRecord,
    SearchHit,
    Settlement,
    Store,
    TContext,
    UnstorableItem,
    as_search_hit,
    behind_fence,
)
from chatkit_trio.types import Attachment, Page, ThreadItem, ThreadMetadata

from . import _sqlite_admission as admission
from . import _sqlite_queries as queries
from . import _sqlite_search as searching
from ._counted_entry import CountedEntry
from ._instance_lock import is_live
from ._records import (
    activity_page,
    check_limit,
    check_new,
    check_page,
    check_settlement,
    check_thread,
    decode_attachment,
    decode_one_item,
    decode_page,
    decode_page_item,
    decode_page_thread,
    decode_thread,
    encode_attachment,
    encode_item,
    encode_thread,
    one_more,
    one_owner,
    owner_of,
)
from ._sqlite_coordination import SQLiteCoordination
from ._sqlite_database import Database
from ._sqlite_journal import SQLiteJournal
from ._sqlite_usage import forget

__all__ = ["SQLiteStore"]

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 30.0  # seconds


class SQLiteStore(Store[TContext]):
    """Keep threads, items and attachments in one SQLite file, shared by any number of processes.

    `path` is the file, which is made if it isn't there; its directory must be on a local disk.
    `owner` names, for a request's context, whose data it may see: another owner's threads and
    attachments are not found. `synchronous` says what a power cut may cost: "NORMAL" the last
    commits, "FULL" nothing (see docs/reference/sqlite.md; killing the process costs nothing with
    either). `readers` is how many loads run at once, and `busy_timeout` how many seconds a write
    waits for another process's. `clock` returns seconds, the same in all processes, and tells how
    old a request's record is and what owners have used.

        async with SQLiteStore[MyContext]("chat.db", owner=lambda c: c.user_id) as store:
            ...

    Opening twice is counted; the file is closed when the last leaves. Every method is a checkpoint
    and runs in a worker thread. If a write raises `trio.Cancelled` it hasn't happened. What SQLite
    can't do (disk full, file damaged, locked or read-only) raises `StoreError`, undoes the write
    whole and leaves the store usable.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        owner: Callable[[TContext], str] = one_owner,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
        readers: int = 4,
        busy_timeout: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise ValueError("SQLiteStore needs a file; for a store in memory use MemoryStore()")
        check_choice("synchronous", synchronous, ("NORMAL", "FULL"))
        check_count("readers", readers)
        check_seconds("busy_timeout", busy_timeout, or_zero=True)
        self._owner = owner
        self._clock = clock
        self._big_work = BigWork()
        self._database = Database(
            Path(path), synchronous=synchronous, readers=readers, busy_timeout=busy_timeout
        )
        self.journal = self._journal = SQLiteJournal(self._database, owner)
        self.coordination = self._coordination = SQLiteCoordination(
            self._database, self._journal, owner, clock
        )
        self._entry = CountedEntry(self._open, self._database.close, close_timeout=_CLOSE_TIMEOUT)

    async def __aenter__(self) -> Self:
        """Open the file, bringing its tables up to date. Raises `StoreError`."""
        await self._entry.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file when the last who entered leaves; running transactions end first.

        Runs to its end even if cancelled, within 30 seconds.
        """
        await self._entry.leave()  # noqa: ASYNC102  (it shields itself)

    async def _open(self) -> None:
        await self._database.open()
        self._coordination.node = self._database.instance
        is_live_here = partial(is_live, self._database.path)
        await self._database.write(partial(forget, now=self._clock(), is_live=is_live_here))

    def get_owner(self, context: TContext) -> str:
        """Return what the store's `owner` function says."""
        return owner_of(self._owner, context)

    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        return decode_thread(await self._read(context, queries.load_thread, thread_id))

    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        await self._write(context, queries.save_thread, thread.id, encode_thread(thread))

    async def update_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        """Replace the metadata of a thread that exists, in one step. Raises `NotFoundError`.

        In a subclass with a `save_thread` of its own, that is called after a look, in two steps.
        """
        if type(self).save_thread is not SQLiteStore.save_thread:
            await super().update_thread(thread, context)
            return
        await self._write(context, queries.update_thread, thread.id, encode_thread(thread))

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: TContext
    ) -> Page[ThreadMetadata]:
        check_page(limit, order)
        rows = await self._read(context, queries.load_threads, limit, after, order)
        return await decode_page(*rows, decode_page_thread, self._big_work)

    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        with suppress(UnicodeEncodeError):  # there is no such thread
            await self._write(context, queries.delete_thread, thread_id)
        self._coordination.tell(thread_id)

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        """Return up to `limit` items; fewer if they have more than 8 MiB together.

        Of a message that is too large to be loaded, its beginning.
        """
        check_page(limit, order)
        rows = await self._read(context, queries.load_items, thread_id, after, limit, order)
        return await decode_page(*rows, decode_page_item, self._big_work)

    async def load_item(self, thread_id: str, item_id: str, context: TContext) -> ThreadItem:
        text = await self._read(context, queries.load_item, thread_id, item_id)
        return await decode_one_item(text, self._big_work)

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Append an item to a thread.

        Raises `NotFoundError` for an unknown thread and `ConflictError` for an item id the thread
        has already.
        """
        check_new(item, thread_id)
        await self._write(context, queries.add_item, thread_id, item.id, encode_item(item))

    async def save_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        check_new(item, thread_id)
        await self._write(context, queries.save_item, thread_id, item.id, encode_item(item))

    async def update_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Replace an item that is in the thread, in one step. Raises `NotFoundError`.

        In a subclass with a `save_item` of its own, that is called after a look, in two steps.
        """
        if type(self).save_item is not SQLiteStore.save_item:
            await super().update_item(thread_id, item, context)
            return
        check_thread(item, thread_id)
        await self._write(context, queries.update_item, thread_id, item.id, encode_item(item))

    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        with suppress(UnicodeEncodeError):  # there is no such item
            await self._write(context, queries.delete_item, thread_id, item_id)

    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        """Insert an attachment's metadata or replace it.

        Raises `NotFoundError` if the id belongs to another owner.
        """
        text = encode_attachment(attachment)
        await self._write(context, queries.save_attachment, attachment.id, text)

    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        return decode_attachment(await self._read(context, queries.load_attachment, attachment_id))

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        with suppress(UnicodeEncodeError):  # there is no such attachment
            await self._write(context, queries.delete_attachment, attachment_id)

    async def settle(self, settlement: Settlement, context: TContext) -> bool:
        """Store all that a turn leaves behind, in one transaction; see `Store.settle`.

        Raises `NotFoundError` for an unknown thread; the turn's entry in the journal is closed even
        so, and nothing else is stored. Raises `ValueError` for an item that couldn't be loaded
        again, or that says it is in another thread; the entry stays open then.
        """
        check_settlement(settlement)
        owner = owner_of(self._owner, context)
        is_found, is_taken = await self._write_fenced(
            lambda db: self._journal.settle(db, owner, settlement),
            owner,
            settles=settlement.turn_id,
        )
        self._coordination.tell(settlement.thread_id)
        if not is_found:
            raise NotFoundError(f"there is no thread {settlement.thread_id}")
        return not is_taken

    async def delete_items_after(self, thread_id: str, item_id: str, context: TContext) -> None:
        """Delete every item of the thread that was inserted after `item_id`, in one transaction.

        Raises `NotFoundError` if that item isn't in the thread.
        """
        await self._write(context, queries.delete_items_after, thread_id, item_id)

    async def load_threads_by_activity(
        self, limit: int, after: str | None, context: TContext
    ) -> Page[ActiveThread]:
        """Return threads by activity: one range of an index."""
        check_limit(limit)
        behind = ActivityPlace.behind(after)
        rows = await self._read(context, searching.load_by_activity, one_more(limit), behind)
        return activity_page(rows, limit)

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: TContext
    ) -> Page[SearchHit]:
        """Search the full-text index; see `Store.search_threads`.

        What the owner has written since it was last brought up to date is indexed first, in writes
        of some milliseconds. If SQLite was built without FTS5 this is the default.
        """
        check_limit(limit)
        if not self._database.can_search:
            return await super().search_threads(query, limit, after, context)
        asked, behind = Query(query), ActivityPlace.behind(after)
        if not asked.runs:
            return Page()
        part: Part | None = None
        while part is None:
            part = await self._read(context, searching.search, asked, limit, behind)
            if part is None:
                owner = owner_of(self._owner, context)
                await self._database.write(partial(searching.index_some, owner=owner), owner=owner)
        return part.page(as_search_hit)

    async def set_aside(self, item: UnstorableItem, context: TContext) -> None:
        """Keep what the store has refused in the table `unstorable`, until its thread is deleted.

        `chatkit-trio doctor` says how many there are. If the file can't be written either, the item
        goes to the log.
        """
        owner = owner_of(self._owner, context)
        try:
            # Not fenced: it is set aside behind the end of its turn.
            await self._database.write(lambda db: queries.set_aside(db, owner, item))
        except StoreError:
            logger.exception("the table of unstorable items can't be written")
            await super().set_aside(item, context)

    async def begin_request(
        self, record: RequestRecord, window: float, context: TContext
    ) -> RequestRecord | None:
        """Record a request, or return the record that its owner has of that key."""
        return await self._write(context, queries.begin_request, record, window, self._clock())

    async def find_request(
        self, key: str, window: float, context: TContext
    ) -> RequestRecord | None:
        """Return the record that the owner has of a key."""
        with suppress(NotFoundError):  # no key is like that
            return await self._read(context, queries.find_request, key, self._clock() - window)
        return None

    async def update_request(self, record: RequestRecord, context: TContext) -> None:
        """Replace the record of the same key and owner, if it is still there."""
        await self._write(context, queries.update_request, record)

    async def ping(self) -> None:
        """Raise `StoreError` unless a write succeeds now, into the file that was opened.

        So it raises when the disk is full or the file is locked for more than a second, and when
        the file was removed, moved or replaced. It writes one page that is there already.
        """
        await self._database.probe()

    async def _read(
        self,
        context: TContext,
        query: Callable[Concatenate[sqlite3.Connection, str, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        owner = owner_of(self._owner, context)
        try:
            return await self._database.read(
                lambda db: query(db, owner, *args, **kwargs), owner=owner
            )
        except UnicodeEncodeError as error:  # an id with half a surrogate pair in it
            raise NotFoundError(f"nothing has that id: {error}") from error

    async def _write(
        self,
        context: TContext,
        query: Callable[Concatenate[sqlite3.Connection, str, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        owner = owner_of(self._owner, context)
        return await self._write_fenced(lambda db: query(db, owner, *args, **kwargs), owner)

    async def _write_fenced(
        self,
        transaction: Callable[[sqlite3.Connection], T],
        owner: str,
        *,
        settles: str | None = None,
    ) -> T:
        """Write, unless the task's turn isn't live here any more; what it settles may be."""
        instance = self._database.instance

        async def write(turn_id: str | None) -> T:
            def with_a_look(db: sqlite3.Connection) -> T:
                if turn_id not in (None, settles):
                    admission.check_live(db, turn_id, instance)
                return transaction(db)

            return await self._database.write(with_a_look, owner=owner)

        return await behind_fence(write)
