"""A store in a PostgreSQL database, for any number of processes on any number of machines.

`_postgresql_queries` and `_postgresql_turns` say what is asked of the tables,
`_postgresql_database` runs it. Every write is one transaction, so a crash leaves all of it or
nothing. Needs the extra `postgres`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Concatenate, ParamSpec, Self

from typing_extensions import TypeVar

try:
    import psycopg  # noqa: F401
    import psycopg_pool  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"PostgreSQLStore needs psycopg ({error}): pip install 'chatkit-trio[postgres]'",
        name=error.name,
    ) from error

from chatkit_trio._activity import ActivityPlace
from chatkit_trio._engine.pace import BigWork
from chatkit_trio._reading_stores import Hit, Part
from chatkit_trio._search import Query
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

from . import _postgresql_queries as queries
from . import _postgresql_search as searching
from . import _postgresql_turns as turns
from ._counted_entry import CountedEntry
from ._postgresql_coordination import PostgreSQLCoordination
from ._postgresql_database import Database, Transaction
from ._postgresql_errors import UnstorableTextError
from ._postgresql_settings import Settings
from ._postgresql_statements import Cursor, Statement
from ._records import (
    activity_page,
    check_limit,
    check_new,
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
    one_more,
    one_owner,
    owner_of,
    warn_of_taken_turn,
)

__all__ = ["PostgreSQLStore"]

T = TypeVar("T")
P = ParamSpec("P")

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 30.0  # seconds

_MOST_LOOKS = 2_000
"""A page of hits ends when so many texts have been looked at."""


class PostgreSQLStore(Store[TContext]):
    """Keep threads, items and attachments in a PostgreSQL database that many processes share.

    `url` is libpq's: `postgresql://user@host:5432/database?sslmode=verify-full`, or its `key=value`
    form; what it leaves out comes from the usual environment (`PGHOST`, `PGPASSWORD`, ...). It has
    to reach the server itself or a pooler of sessions (PgBouncer with `pool_mode = session`).
    `owner` names, for a request's context, whose data it may see: another owner's threads and
    attachments are not found. The tables are in `schema`, which is made in a database that hasn't
    got it; an older one is migrated at opening if `migrate` is true, and refused otherwise (see
    `chatkit-trio migrate`).

        async with PostgreSQLStore[MyContext](url, owner=lambda c: c.user_id) as store:
            ...

    The store has between `min_connections` and `max_connections` connections, half of them for
    reads and half for writes, and two more to be seen alive and to hear of others. All limits are
    in seconds: `connect_timeout` to get a connection, `statement_timeout` for one statement,
    `lock_timeout` for one that waits for another process. `lease_timeout` is after how long this
    node counts as dead if it doesn't ask for its news.

    Opening twice is counted; the connections are closed when the last leaves. Every method is a
    checkpoint and runs in a worker thread. If a write raises `trio.Cancelled` it hasn't happened; a
    read that is cancelled is cancelled on the server too. What the server can't do raises
    `StoreError`, and the write is undone whole; if the connection was lost, whether it has happened
    isn't known. The next call connects again.
    """

    def __init__(
        self,
        url: str = "",
        *,
        owner: Callable[[TContext], str] = one_owner,
        schema: str = "chatkit_trio",
        migrate: bool = False,
        min_connections: int = 1,
        max_connections: int = 10,
        connect_timeout: float = 5.0,
        statement_timeout: float = 10.0,
        lock_timeout: float = 5.0,
        lease_timeout: float = 15.0,
    ) -> None:
        if not 0 <= min_connections <= max_connections or max_connections < 2:
            raise ValueError(
                "max_connections must be at least 2, and min_connections not more; not"
                f" {max_connections} and {min_connections}"
            )
        settings = Settings(
            url,
            schema,
            connect_timeout=connect_timeout,
            statement_timeout=statement_timeout,
            lock_timeout=lock_timeout,
            lease_timeout=lease_timeout,
        )
        self._owner = owner
        self._big_work = BigWork()
        self._database = Database(
            settings,
            min_connections=min_connections,
            max_connections=max_connections,
            may_migrate=migrate,
            upkeep=searching.index_some,
        )
        self._node = PostgreSQLCoordination(self._database, owner, lease_timeout=lease_timeout)
        self.coordination, self.journal = self._node, self._node.journal
        self._entry = CountedEntry(self._open, self._database.close, close_timeout=_CLOSE_TIMEOUT)

    async def __aenter__(self) -> Self:
        """Connect, make the tables if there are none, and join the nodes. Raises `StoreError`."""
        await self._entry.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the nodes and close the connections when the last who entered leaves.

        Running transactions end first. Runs to its end even if cancelled, within 30 seconds.
        """
        await self._entry.leave()  # noqa: ASYNC102  (it shields itself)

    def get_owner(self, context: TContext) -> str:
        """Return what the store's `owner` function says."""
        return owner_of(self._owner, context)

    async def load_thread(self, thread_id: str, context: TContext) -> ThreadMetadata:
        cursors = await self._read(context, queries.load_thread, thread_id)
        return decode_thread(queries.thread_text(cursors, thread_id))

    async def save_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        await self._write(context, queries.save_thread, thread.id, encode_thread(thread))

    async def update_thread(self, thread: ThreadMetadata, context: TContext) -> None:
        """Replace the metadata of a thread that exists, in one step. Raises `NotFoundError`.

        In a subclass with a `save_thread` of its own, that is called after a look, in two steps.
        """
        if type(self).save_thread is not PostgreSQLStore.save_thread:
            await super().update_thread(thread, context)
            return
        await self._write(context, queries.update_thread, thread.id, encode_thread(thread))

    async def load_threads(
        self, limit: int, after: str | None, order: str, context: TContext
    ) -> Page[ThreadMetadata]:
        check_page(limit, order)
        cursors = await self._read(context, queries.load_threads, limit, after, order)
        page = cut_page(queries.thread_rows(cursors, after), limit)
        return await decode_page(*page, decode_page_thread, self._big_work)

    async def delete_thread(self, thread_id: str, context: TContext) -> None:
        """Delete a thread with its items; a turn that is live on it can't write any more."""
        with suppress(UnstorableTextError):  # there is no such thread
            await self._write(context, queries.delete_thread, thread_id)
        self._node.tell(thread_id)

    async def load_thread_items(
        self, thread_id: str, after: str | None, limit: int, order: str, context: TContext
    ) -> Page[ThreadItem]:
        """Return up to `limit` items; fewer if they have more than 8 MiB together.

        Of a message that is too large to be loaded, its beginning.
        """
        check_page(limit, order)
        cursors = await self._read(context, queries.load_items, thread_id, after, limit, order)
        page = cut_page(queries.item_rows(cursors, thread_id, after), limit)
        return await decode_page(*page, decode_page_item, self._big_work)

    async def load_item(self, thread_id: str, item_id: str, context: TContext) -> ThreadItem:
        cursors = await self._read(context, queries.load_item, thread_id, item_id)
        text = queries.item_text(cursors, thread_id, item_id)
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
        if type(self).save_item is not PostgreSQLStore.save_item:
            await super().update_item(thread_id, item, context)
            return
        check_thread(item, thread_id)
        await self._write(context, queries.update_item, thread_id, item.id, encode_item(item))

    async def delete_thread_item(self, thread_id: str, item_id: str, context: TContext) -> None:
        with suppress(UnstorableTextError):  # there is no such item
            await self._write(context, queries.delete_item, thread_id, item_id)

    async def save_attachment(self, attachment: Attachment, context: TContext) -> None:
        """Insert an attachment's metadata or replace it.

        Raises `NotFoundError` if the id belongs to another owner.
        """
        text = encode_attachment(attachment)
        await self._write(context, queries.save_attachment, attachment.id, text)

    async def load_attachment(self, attachment_id: str, context: TContext) -> Attachment:
        cursors = await self._read(context, queries.load_attachment, attachment_id)
        return decode_attachment(queries.attachment_text(cursors, attachment_id))

    async def delete_attachment(self, attachment_id: str, context: TContext) -> None:
        with suppress(UnstorableTextError):  # there is no such attachment
            await self._write(context, queries.delete_attachment, attachment_id)

    async def settle(self, settlement: Settlement, context: TContext) -> bool:
        """Store all that a turn leaves behind and end its record, in one transaction.

        Returns whether the turn was this node's own until now; False if another has taken it for
        crashed, and hasn't settled it yet. Raises `NotFoundError` for an unknown thread; the turn's
        record ends even so, and nothing else is stored. Raises `TurnFencedError` for a turn without
        a record on this node, unless this very settlement has ended it within the last hour. Raises
        `ValueError` for an item that couldn't be loaded again, or that says it is in another
        thread; the record stays then.
        """
        check_settlement(settlement)
        owner, node = owner_of(self._owner, context), self._database.node.id
        # The turn that is settled is asked for by the settling itself.
        is_own = await self._write_fenced(
            lambda tx: turns.settle(tx, owner, settlement, node), owner, settles=settlement.turn_id
        )
        self._node.tell(settlement.thread_id)
        if not is_own:
            warn_of_taken_turn(logger, settlement, "it is settled by this one")
        return is_own

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
        cursors = await self._read(context, searching.load_by_activity, one_more(limit), behind)
        return activity_page(searching.active_threads(cursors), limit)

    async def search_threads(
        self, query: str, limit: int, after: str | None, context: TContext
    ) -> Page[SearchHit]:
        """Search the full-text index; see `Store.search_threads`.

        What the owner has written since it was last brought up to date is indexed first, in short
        writes.
        """
        check_limit(limit)
        asked, last = Query(query), ActivityPlace.behind(after)
        if not asked.runs:
            return Page()
        hits: list[Hit] = []
        looks_left, rest = _MOST_LOOKS, None
        while True:
            missing = one_more(limit - len(hits))
            cursors = await self._read(context, searching.search, asked, missing, last)
            found = searching.candidates(cursors)
            if found is None:
                # As nobody's write: a turn that has ended may read.
                owner = owner_of(self._owner, context)
                index_some = partial(searching.index_some, owner=owner)
                while await self._database.write(index_some, owner=owner):
                    pass
                continue
            for candidate in found:
                if len(hits) == limit or looks_left <= 0:
                    rest = last
                    break
                hit, looks = await self._look(asked, candidate, context)
                looks_left -= looks
                hits += [] if hit is None else [hit]
                last = candidate.place
            if rest is not None or len(found) < missing:
                return Part(hits, rest).page(as_search_hit)

    async def _look(
        self, query: Query, candidate: searching.Candidate, context: TContext
    ) -> tuple[Hit | None, int]:
        """Return where a thread matches, and how many texts were looked at."""
        thread, looks = decode_thread(candidate.thread_text), 0
        items = candidate.items
        while items and looks < _MOST_LOOKS:
            for _, item_id, text in items:
                looks += 1
                found = query.find(searching.text_of(text, None))
                if found is not None:
                    return Hit(thread, item_id, found), looks
            older_than = items[-1][0]
            cursors = await self._read(
                context, searching.older_items, query, candidate.thread, older_than
            )
            items = cursors[0].fetchall()
        found = query.find(thread.title or "")
        return None if found is None else Hit(thread, None, found), looks + 1

    async def set_aside(self, item: UnstorableItem, context: TContext) -> None:
        """Keep what the store has refused in the table `unstorable`, until its thread is deleted.

        It isn't fenced, because it comes behind the end of the turn. If the database can't be
        written either, the item goes to the log.
        """
        owner = owner_of(self._owner, context)
        try:
            await self._database.write(lambda tx: queries.set_aside(tx, owner, item), owner=owner)
        except StoreError:
            logger.exception("the table of unstorable items can't be written")
            await super().set_aside(item, context)

    async def begin_request(
        self, record: RequestRecord, window: float, context: TContext
    ) -> RequestRecord | None:
        """Record a request, or return the record that its owner has of that key.

        Raises `NotFoundError` if it is about a thread or an item that can't be there.
        """
        try:
            return await self._write(context, queries.begin_request, record, window)
        except UnstorableTextError as error:
            raise _nothing_of_that_id(error) from error

    async def find_request(
        self, key: str, window: float, context: TContext
    ) -> RequestRecord | None:
        """Return the record that the owner has of a key."""
        with suppress(NotFoundError):  # no key is like that
            return queries.found_request(
                await self._read(context, queries.find_request, key, window)
            )
        return None

    async def update_request(self, record: RequestRecord, context: TContext) -> None:
        """Replace the record of the same key and owner, if it is still there."""
        await self._write(context, queries.update_request, record)

    async def ping(self) -> None:
        """Write a row; raise `StoreError` if that can't be done."""
        mine = Statement(
            "UPDATE nodes SET pinged_at = clock_timestamp() WHERE id = %(node)s",
            {"node": self._database.node.id},
        )
        await self._database.write(lambda tx: tx.finish(mine))

    async def _open(self) -> None:
        await self._database.open()
        self._node.node = self._database.node.id

    async def _read(
        self,
        context: TContext,
        query: Callable[Concatenate[str, P], tuple[Statement, ...]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[Cursor]:
        owner = owner_of(self._owner, context)
        try:
            return await self._database.read(*query(owner, *args, **kwargs), owner=owner)
        except UnstorableTextError as error:
            raise _nothing_of_that_id(error) from error

    async def _write(
        self,
        context: TContext,
        query: Callable[Concatenate[Transaction, str, P], T],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        owner = owner_of(self._owner, context)
        return await self._write_fenced(lambda tx: query(tx, owner, *args, **kwargs), owner)

    async def _write_fenced(
        self, transaction: Callable[[Transaction], T], owner: str, *, settles: str | None = None
    ) -> T:
        """Write, unless the task's turn isn't live here any more; what it settles may be."""

        async def write(turn_id: str | None) -> T:
            fenced = None if turn_id == settles else turn_id
            return await self._database.write(transaction, owner=owner, turn_id=fenced)

        return await behind_fence(write)


def _nothing_of_that_id(error: UnstorableTextError) -> NotFoundError:
    return NotFoundError(f"nothing has that id: {error}")
