"""A store in one SQLite file, for everything that runs on one machine.

Here are the queries; `_sqlite_database` runs them, `_sqlite_schema` has the tables. Every write is
one transaction, so a crash leaves all of it or nothing.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import trio
from typing_extensions import TypeVar

from chatkit_trio.errors import ConflictError, NotFoundError
from chatkit_trio.store import Settlement, Store
from chatkit_trio.types import Attachment, Page, ThreadItem, ThreadMetadata

from ._records import (
    check_page,
    check_settlement,
    check_thread,
    decode_attachment,
    decode_item,
    decode_thread,
    encode_attachment,
    encode_item,
    encode_thread,
    everyone,
    owner_of,
)
from ._sqlite_database import Database

__all__ = ["SQLiteStore"]

TContext = TypeVar("TContext", default=Any)

_CLOSE_TIMEOUT = 30.0  # seconds
_MAX_ROWID = 2**63 - 1

# One range of an index in its own order, from the cursor on: neither a sort nor rows to skip, so
# the millionth item costs what the first one does.
_ITEM_PAGES = {
    "asc": "SELECT id, data FROM items WHERE thread = ? AND seq > ? ORDER BY seq LIMIT ?",
    "desc": "SELECT id, data FROM items WHERE thread = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
}
_THREAD_PAGES = {
    "asc": "SELECT id, data FROM threads WHERE owner = ? AND seq > ? ORDER BY seq LIMIT ?",
    "desc": "SELECT id, data FROM threads WHERE owner = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
}
_BEFORE_ALL = {"asc": 0, "desc": _MAX_ROWID}

_SAVE_ITEM = """
    INSERT INTO items (thread, id, data) VALUES (?, ?, ?)
    ON CONFLICT (thread, id) DO UPDATE SET data = excluded.data
"""
_ADD_ITEM_UNLESS_THERE = """
    INSERT INTO items (thread, id, data) VALUES (?, ?, ?) ON CONFLICT (thread, id) DO NOTHING
"""


class SQLiteStore(Store[TContext]):
    """Keep threads, items and attachments in one SQLite file, shared by any number of processes.

    `path` is the file, which is made if it isn't there; its directory must be on a local disk.
    `owner` names, for a request's context, whose data it may see: another owner's threads and
    attachments are not found. `synchronous` says what a power cut may cost: "NORMAL" the last
    commits, "FULL" nothing (see docs/reference/sqlite.md; killing the process costs nothing with
    either). `readers` is how many loads run at once, and `busy_timeout` how many seconds a write
    waits for another process's.

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
        owner: Callable[[TContext], str] = everyone,
        synchronous: Literal["NORMAL", "FULL"] = "NORMAL",
        readers: int = 4,
        busy_timeout: float = 5.0,
    ) -> None:
        if os.fspath(path) in ("", ":memory:"):
            raise ValueError("SQLiteStore needs a file; for a store in memory use MemoryStore()")
        if synchronous not in ("NORMAL", "FULL"):
            raise ValueError(f"synchronous must be 'NORMAL' or 'FULL', not {synchronous!r}")
        self._owner = owner
        self._database = Database(
            Path(path), synchronous=synchronous, readers=readers, busy_timeout=busy_timeout
        )
        self._entering = trio.Lock()
        self._times_entered = 0

    async def __aenter__(self) -> Self:
        """Open the file, bringing its tables up to date. Raises `StoreError`."""
        async with self._entering:
            if self._times_entered == 0:
                await self._database.open()
            self._times_entered += 1
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
        with trio.move_on_after(_CLOSE_TIMEOUT, shield=True):
            async with self._entering:
                self._times_entered -= 1
                if self._times_entered == 0:
                    await self._database.close()

    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        owner = owner_of(self._owner, context)
        text = await self._database.read(lambda db: _thread_row(db, thread_id, owner)[1])
        return decode_thread(text)

    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        owner = owner_of(self._owner, context)
        text = encode_thread(thread)
        await self._database.write(lambda db: _save_thread(db, thread.id, owner, text))

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: TContext
    ) -> Page[ThreadMetadata]:
        owner = owner_of(self._owner, context)
        check_page(limit, order)
        rows = await self._database.read(lambda db: _thread_page(db, owner, after, limit, order))
        return _page(rows, limit, decode_thread)

    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        owner = owner_of(self._owner, context)
        await self._database.write(lambda db: _delete_thread(db, thread_id, owner))

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        owner = owner_of(self._owner, context)
        check_page(limit, order)
        rows = await self._database.read(
            lambda db: _item_page(db, thread_id, owner, after, limit, order)
        )
        return _page(rows, limit, decode_item)

    async def load_item(self, thread_id: str, item_id: str, context: TContext) -> ThreadItem:
        owner = owner_of(self._owner, context)
        text = await self._database.read(lambda db: _item_text(db, thread_id, item_id, owner))
        return decode_item(text)

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        """Append an item to a thread.

        Raises `NotFoundError` for an unknown thread and `ConflictError` for an item id the thread
        has already.
        """
        owner = owner_of(self._owner, context)
        check_thread(item, thread_id)
        text = encode_item(item)
        await self._database.write(lambda db: _add_item(db, thread_id, owner, item.id, text))

    async def save_item(self, thread_id: str, item: ThreadItem, context: TContext) -> None:
        owner = owner_of(self._owner, context)
        check_thread(item, thread_id)
        text = encode_item(item)
        await self._database.write(lambda db: _save_item(db, thread_id, owner, item.id, text))

    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        owner = owner_of(self._owner, context)
        await self._database.write(lambda db: _delete_item(db, thread_id, item_id, owner))

    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        """Insert an attachment's metadata or replace it.

        Raises `NotFoundError` if the id belongs to another owner.
        """
        owner = owner_of(self._owner, context)
        text = encode_attachment(attachment)
        await self._database.write(lambda db: _save_attachment(db, attachment.id, owner, text))

    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        owner = owner_of(self._owner, context)
        text = await self._database.read(lambda db: _attachment_text(db, attachment_id, owner))
        return decode_attachment(text)

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        owner = owner_of(self._owner, context)
        await self._database.write(lambda db: _delete_attachment(db, attachment_id, owner))

    async def settle(self, settlement: Settlement, context: TContext) -> None:
        """Store all that a turn leaves behind, in one transaction.

        Raises `NotFoundError` for an unknown thread; nothing is stored then.
        """
        owner = owner_of(self._owner, context)
        check_settlement(settlement)
        await self._database.write(lambda db: _settle(db, settlement, owner))

    async def delete_items_after(self, thread_id: str, item_id: str, context: TContext) -> None:
        """Delete every item of the thread that was inserted after `item_id`, in one transaction.

        Raises `NotFoundError` if that item isn't in the thread.
        """
        owner = owner_of(self._owner, context)
        await self._database.write(lambda db: _delete_items_after(db, thread_id, item_id, owner))

    async def ping(self) -> None:
        """Raise `StoreError` if the file can't be read any more."""
        await self._database.read(lambda db: db.execute("SELECT 1 FROM threads LIMIT 1").fetchone())


def _page(rows: list[tuple[str, str]], limit: int, decode: Callable[[str], Any]) -> Page[Any]:
    """Build a page of rows, of which one more than the limit was asked for."""
    has_more = len(rows) > limit
    return Page(
        data=[decode(text) for _, text in rows[:limit]],
        has_more=has_more,
        after=rows[limit - 1][0] if has_more else None,
    )


def _thread_row(db: sqlite3.Connection, thread_id: str, owner: str) -> tuple[int, str]:
    """Return a thread's seq and text: the one place where another owner's thread isn't there."""
    query = "SELECT seq, data FROM threads WHERE id = ? AND owner = ?"
    row: tuple[int, str] | None = db.execute(query, (thread_id, owner)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no thread {thread_id}")
    return row


def _thread_seq(db: sqlite3.Connection, thread_id: str, owner: str) -> int:
    return _thread_row(db, thread_id, owner)[0]


def _item_seq(db: sqlite3.Connection, thread_id: str, thread: int, item_id: str) -> int:
    query = "SELECT seq FROM items WHERE thread = ? AND id = ?"
    row: tuple[int] | None = db.execute(query, (thread, item_id)).fetchone()
    if row is None:
        raise NotFoundError(f"thread {thread_id} has no item {item_id}")
    return row[0]


def _save_thread(db: sqlite3.Connection, thread_id: str, owner: str, text: str) -> None:
    query = """
        INSERT INTO threads (id, owner, data) VALUES (?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET data = excluded.data
        WHERE threads.owner = excluded.owner
    """
    if db.execute(query, (thread_id, owner, text)).rowcount == 0:
        raise NotFoundError(f"there is no thread {thread_id}")


def _thread_page(
    db: sqlite3.Connection, owner: str, after: str | None, limit: int, order: str
) -> list[tuple[str, str]]:
    start = _BEFORE_ALL[order] if after is None else _thread_seq(db, after, owner)
    return db.execute(_THREAD_PAGES[order], (owner, start, _one_more(limit))).fetchall()


def _item_page(
    db: sqlite3.Connection,
    thread_id: str,
    owner: str,
    after: str | None,
    limit: int,
    order: str,
) -> list[tuple[str, str]]:
    thread = _thread_seq(db, thread_id, owner)
    start = _BEFORE_ALL[order] if after is None else _item_seq(db, thread_id, thread, after)
    return db.execute(_ITEM_PAGES[order], (thread, start, _one_more(limit))).fetchall()


def _one_more(limit: int) -> int:
    # The row behind the page says whether there is another; sys.maxsize is a usual "all of them".
    return min(limit, _MAX_ROWID - 1) + 1


def _delete_thread(db: sqlite3.Connection, thread_id: str, owner: str) -> None:
    db.execute("DELETE FROM threads WHERE id = ? AND owner = ?", (thread_id, owner))


def _item_text(db: sqlite3.Connection, thread_id: str, item_id: str, owner: str) -> str:
    seq = _item_seq(db, thread_id, _thread_seq(db, thread_id, owner), item_id)
    text: str = db.execute("SELECT data FROM items WHERE seq = ?", (seq,)).fetchone()[0]
    return text


def _add_item(db: sqlite3.Connection, thread_id: str, owner: str, item_id: str, text: str) -> None:
    thread = _thread_seq(db, thread_id, owner)
    if db.execute(_ADD_ITEM_UNLESS_THERE, (thread, item_id, text)).rowcount == 0:
        raise ConflictError(f"thread {thread_id} already has an item {item_id}")


def _save_item(db: sqlite3.Connection, thread_id: str, owner: str, item_id: str, text: str) -> None:
    db.execute(_SAVE_ITEM, (_thread_seq(db, thread_id, owner), item_id, text))


def _delete_item(db: sqlite3.Connection, thread_id: str, item_id: str, owner: str) -> None:
    query = """
        DELETE FROM items WHERE id = ?
        AND thread = (SELECT seq FROM threads WHERE id = ? AND owner = ?)
    """
    db.execute(query, (item_id, thread_id, owner))


def _save_attachment(db: sqlite3.Connection, attachment_id: str, owner: str, text: str) -> None:
    query = """
        INSERT INTO attachments (id, owner, data) VALUES (?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET data = excluded.data
        WHERE attachments.owner = excluded.owner
    """
    if db.execute(query, (attachment_id, owner, text)).rowcount == 0:
        raise NotFoundError(f"there is no attachment {attachment_id}")


def _attachment_text(db: sqlite3.Connection, attachment_id: str, owner: str) -> str:
    query = "SELECT data FROM attachments WHERE id = ? AND owner = ?"
    row: tuple[str] | None = db.execute(query, (attachment_id, owner)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no attachment {attachment_id}")
    return row[0]


def _delete_attachment(db: sqlite3.Connection, attachment_id: str, owner: str) -> None:
    db.execute("DELETE FROM attachments WHERE id = ? AND owner = ?", (attachment_id, owner))


def _settle(db: sqlite3.Connection, settlement: Settlement, owner: str) -> None:
    thread = _thread_seq(db, settlement.thread_id, owner)
    for query, items in (
        (_ADD_ITEM_UNLESS_THERE, settlement.new_items),
        (_SAVE_ITEM, settlement.changed_items),
    ):
        db.executemany(query, [(thread, item.id, encode_item(item)) for item in items])
    if settlement.thread is not None:
        _save_thread(db, settlement.thread_id, owner, encode_thread(settlement.thread))


def _delete_items_after(db: sqlite3.Connection, thread_id: str, item_id: str, owner: str) -> None:
    thread = _thread_seq(db, thread_id, owner)
    seq = _item_seq(db, thread_id, thread, item_id)
    db.execute("DELETE FROM items WHERE thread = ? AND seq > ?", (thread, seq))
