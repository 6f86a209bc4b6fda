"""What the PostgreSQL store asks of threads, items, attachments and requests.

A read is a function that returns statements, a write is the inside of one transaction. The owner is
in every statement that takes an id from a caller: another owner's row isn't there.

Whoever writes to a thread locks its row first. So items are numbered in the order in which they
become visible, and a page that goes on behind a cursor misses none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import LiteralString

from chatkit_trio._foreign_text import repaired_text
from chatkit_trio.errors import ConflictError, NotFoundError
from chatkit_trio.store import RequestRecord, UnstorableItem
from chatkit_trio.types import ThreadItem

from ._postgresql_database import Transaction
from ._postgresql_node import THREADS_CHANNEL
from ._postgresql_statements import Cursor, Statement
from ._records import PAGE_CHARS, encode_item, one_more

_THREAD: LiteralString = "SELECT data FROM threads WHERE id = %(thread)s AND owner = %(owner)s"

_PLACE_OF_ITEM: LiteralString = """
    SELECT threads.seq, (
        SELECT items.seq FROM items WHERE items.thread = threads.seq AND items.id = %(item)s
    )
    FROM threads WHERE threads.id = %(thread)s AND threads.owner = %(owner)s
"""

# Where the page goes on: behind a cursor, or behind the place where it stood before its deletion.
_PLACE_OF_CURSOR: LiteralString = """
    SELECT threads.seq, coalesce(
        (SELECT items.seq FROM items WHERE items.thread = threads.seq AND items.id = %(item)s),
        (
            SELECT gone_items.seq FROM gone_items
            WHERE gone_items.thread = threads.seq AND gone_items.id = %(item)s
        )
    )
    FROM threads WHERE threads.id = %(thread)s AND threads.owner = %(owner)s
"""
_SEQ_OF_CURSOR: LiteralString = (
    f"(SELECT place.item FROM ({_PLACE_OF_CURSOR}) AS place (thread, item))"
)
_SEQ_OF_THREAD: LiteralString = """
    coalesce(
        (SELECT seq FROM threads WHERE id = %(after)s AND owner = %(owner)s),
        (SELECT seq FROM gone_threads WHERE id = %(after)s AND owner = %(owner)s)
    )
"""
_PLACE_OF_THREAD: LiteralString = f"SELECT {_SEQ_OF_THREAD}"


def _cut(page: LiteralString, order: LiteralString) -> LiteralString:
    """Return a query for the rows of a page up to that at which `cut_page` ends it.

    The bytes come first, for the server knows them without reading a large text; one of them is a
    quarter of a character at least. The second row says that there are more behind a first one that
    is too long by itself.
    """
    return f"""
        SELECT id, data FROM (
            SELECT id, data, seq, n, sum(char_length(data)) OVER before AS chars
            FROM (
                SELECT id, data, seq, row_number() OVER before AS n,
                    sum(octet_length(data)) OVER before AS bytes
                FROM ({page}) AS page
                WINDOW before AS (
                    ORDER BY seq {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                )
            ) AS page
            WHERE n <= 2 OR bytes <= 4 * %(most_chars)s::bigint
            WINDOW before AS (
                ORDER BY seq {order} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            )
        ) AS page
        WHERE n <= 2 OR chars <= %(most_chars)s::bigint
        ORDER BY seq {order}
    """


# One range of an index in its own order, from the cursor on: neither a sort nor rows to skip, so
# the millionth item costs what the first one does. (A cursor of NULL would be a page of nothing.)
_ITEMS_FORWARD: LiteralString = f"""
    SELECT id, data, seq FROM items
    WHERE thread = (
        SELECT seq FROM threads WHERE id = %(thread)s AND owner = %(owner)s
    ) AND seq > CASE WHEN %(item)s::text IS NULL THEN 0 ELSE {_SEQ_OF_CURSOR} END
    ORDER BY seq LIMIT %(limit)s::bigint
"""
_ITEMS_BACKWARD: LiteralString = f"""
    SELECT id, data, seq FROM items
    WHERE thread = (
        SELECT seq FROM threads WHERE id = %(thread)s AND owner = %(owner)s
    ) AND seq < CASE WHEN %(item)s::text IS NULL THEN 9223372036854775807
        ELSE {_SEQ_OF_CURSOR} END
    ORDER BY seq DESC LIMIT %(limit)s::bigint
"""
_THREADS_FORWARD: LiteralString = f"""
    SELECT id, data, seq FROM threads
    WHERE owner = %(owner)s
    AND seq > CASE WHEN %(after)s::text IS NULL THEN 0 ELSE {_SEQ_OF_THREAD} END
    ORDER BY seq LIMIT %(limit)s::bigint
"""
_THREADS_BACKWARD: LiteralString = f"""
    SELECT id, data, seq FROM threads
    WHERE owner = %(owner)s
    AND seq < CASE WHEN %(after)s::text IS NULL THEN 9223372036854775807
        ELSE {_SEQ_OF_THREAD} END
    ORDER BY seq DESC LIMIT %(limit)s::bigint
"""
ITEM_PAGES: Mapping[str, LiteralString] = {
    "asc": _cut(_ITEMS_FORWARD, "ASC"),
    "desc": _cut(_ITEMS_BACKWARD, "DESC"),
}
THREAD_PAGES: Mapping[str, LiteralString] = {
    "asc": _cut(_THREADS_FORWARD, "ASC"),
    "desc": _cut(_THREADS_BACKWARD, "DESC"),
}

_LOCK_THREAD: LiteralString = """
    SELECT seq FROM threads WHERE id = %(thread)s AND owner = %(owner)s FOR NO KEY UPDATE
"""

_SAVE_THREAD: LiteralString = """
    INSERT INTO threads (owner, id, data) VALUES (%(owner)s, %(thread)s, %(data)s)
    ON CONFLICT (id) DO UPDATE SET data = excluded.data WHERE threads.owner = excluded.owner
"""
UPDATE_THREAD: LiteralString = """
    UPDATE threads SET data = %(data)s WHERE id = %(thread)s AND owner = %(owner)s
"""

# The counts say what there was to do: the thread, and the row that was written.
_ADD_ITEM: LiteralString = f"""
    WITH thread AS MATERIALIZED ({_LOCK_THREAD}), added AS (
        INSERT INTO items (thread, id, data) SELECT seq, %(item)s, %(data)s FROM thread
        ON CONFLICT (thread, id) DO NOTHING
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM thread), (SELECT count(*) FROM added)
"""
_SAVE_ITEM: LiteralString = f"""
    WITH thread AS MATERIALIZED ({_LOCK_THREAD})
    INSERT INTO items (thread, id, data) SELECT seq, %(item)s, %(data)s FROM thread
    ON CONFLICT (thread, id) DO UPDATE SET data = excluded.data
"""
_UPDATE_ITEM: LiteralString = f"""
    WITH thread AS MATERIALIZED ({_LOCK_THREAD})
    UPDATE items SET data = %(data)s FROM thread
    WHERE items.thread = thread.seq AND items.id = %(item)s
"""

_KEEP_PLACES: LiteralString = """
    INSERT INTO gone_items (thread, id, seq) SELECT thread, id, seq FROM gone
    ON CONFLICT (thread, id) DO UPDATE SET seq = excluded.seq, gone_at = excluded.gone_at
"""
_DELETE_ITEM: LiteralString = f"""
    WITH thread AS MATERIALIZED ({_LOCK_THREAD}), gone AS (
        DELETE FROM items USING thread WHERE items.thread = thread.seq AND items.id = %(item)s
        RETURNING items.thread, items.id, items.seq
    )
    {_KEEP_PLACES}
"""
_DELETE_THREAD: LiteralString = """
    WITH gone AS (
        DELETE FROM threads WHERE id = %(thread)s AND owner = %(owner)s RETURNING owner, id, seq
    )
    INSERT INTO gone_threads (owner, id, seq) SELECT owner, id, seq FROM gone
    ON CONFLICT (owner, id) DO UPDATE SET seq = excluded.seq, gone_at = excluded.gone_at
"""
# Those whom others are dropping or replacing just now are left to them.
_FORGET_ITEMS: LiteralString = """
    DELETE FROM gone_items WHERE ctid IN (
        SELECT ctid FROM gone_items WHERE gone_at < now() - interval '30 days'
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
"""
_FORGET_THREADS: LiteralString = """
    DELETE FROM gone_threads WHERE ctid IN (
        SELECT ctid FROM gone_threads WHERE gone_at < now() - interval '30 days'
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
"""

# In the order of the arrays, so that the items are numbered in it.
_NEW_ITEMS: LiteralString = """
    INSERT INTO items (thread, id, data)
    SELECT threads.seq, new.id, new.data
    FROM threads, unnest(%(ids)s::text[], %(texts)s::text[]) WITH ORDINALITY AS new (id, data, n)
    WHERE threads.id = %(thread)s
    ORDER BY new.n
"""
ADD_ITEMS: LiteralString = _NEW_ITEMS
ADD_ITEMS_UNLESS_THERE: LiteralString = f"{_NEW_ITEMS} ON CONFLICT (thread, id) DO NOTHING"
SAVE_ITEMS: LiteralString = (
    f"{_NEW_ITEMS} ON CONFLICT (thread, id) DO UPDATE SET data = excluded.data"
)

_SAVE_ATTACHMENT: LiteralString = """
    INSERT INTO attachments (owner, id, data) VALUES (%(owner)s, %(attachment)s, %(data)s)
    ON CONFLICT (id) DO UPDATE SET data = excluded.data WHERE attachments.owner = excluded.owner
"""

_SET_ASIDE: LiteralString = """
    INSERT INTO unstorable (owner, thread_id, item_id, turn_id, text, error)
    VALUES (%(owner)s, %(thread)s, %(item)s, %(turn)s, %(text)s, %(error)s)
    ON CONFLICT (owner, thread_id, turn_id, item_id)
    DO UPDATE SET text = excluded.text, error = excluded.error
"""

# Those whom others are dropping or replacing just now are left to them.
_DROP_OLD_REQUESTS: LiteralString = """
    DELETE FROM requests WHERE ctid IN (
        SELECT ctid FROM requests
        WHERE recorded_at <= clock_timestamp() - make_interval(secs => %(window)s)
        LIMIT 1000 FOR UPDATE SKIP LOCKED
    )
"""
_BEGIN_REQUEST: LiteralString = """
    INSERT INTO requests (owner, key, digest, thread_id, item_id, turn_id, answer, begun)
    VALUES (
        %(owner)s, %(key)s, %(digest)s, %(thread)s, %(item)s, %(turn)s, %(answer)s, %(begun)s
    )
    ON CONFLICT (owner, key) DO UPDATE SET
        digest = excluded.digest, thread_id = excluded.thread_id, item_id = excluded.item_id,
        turn_id = excluded.turn_id, answer = excluded.answer, begun = excluded.begun,
        recorded_at = clock_timestamp()
    WHERE requests.recorded_at <= clock_timestamp() - make_interval(secs => %(window)s)
"""
_REQUEST: LiteralString = """
    SELECT key, digest, thread_id, item_id, turn_id, answer, begun FROM requests
    WHERE owner = %(owner)s AND key = %(key)s
"""
_YOUNG_REQUEST: LiteralString = f"""
    {_REQUEST} AND recorded_at > clock_timestamp() - make_interval(secs => %(window)s)
"""
_UPDATE_REQUEST: LiteralString = """
    UPDATE requests
    SET digest = %(digest)s, thread_id = %(thread)s, item_id = %(item)s, turn_id = %(turn)s,
        answer = %(answer)s, begun = %(begun)s
    WHERE owner = %(owner)s AND key = %(key)s
"""

_TELL_OF_THREAD: LiteralString = f"SELECT pg_notify('{THREADS_CHANNEL}', %(thread)s)"
_LONGEST_KEY = 200  # characters
_LONGEST_HINT = 7999  # bytes; a longer one isn't given


def tell_of_thread(thread_id: str) -> list[Statement]:
    """Return what tells all nodes that a thread's record may have changed."""
    if len(thread_id.encode()) > _LONGEST_HINT:
        return []
    return [Statement(_TELL_OF_THREAD, {"thread": thread_id})]


# --- Threads


def load_thread(owner: str, thread_id: str) -> tuple[Statement, ...]:
    return (Statement(_THREAD, {"thread": thread_id, "owner": owner}),)


def thread_text(cursors: Sequence[Cursor], thread_id: str) -> str:
    row = cursors[0].fetchone()
    if row is None:
        raise no_thread(thread_id)
    text: str = row[0]
    return text


def save_thread(tx: Transaction, owner: str, thread_id: str, text: str) -> None:
    parameters = {"owner": owner, "thread": thread_id, "data": text}
    if tx.finish(Statement(_SAVE_THREAD, parameters))[0].rowcount == 0:
        raise no_thread(thread_id)


def update_thread(tx: Transaction, owner: str, thread_id: str, text: str) -> None:
    parameters = {"owner": owner, "thread": thread_id, "data": text}
    if tx.finish(Statement(UPDATE_THREAD, parameters))[0].rowcount == 0:
        raise no_thread(thread_id)


def delete_thread(tx: Transaction, owner: str, thread_id: str) -> None:
    """Delete a thread with all that is live on it, also the turn that asks for it."""
    mine = {"owner": owner, "thread": thread_id}
    tx.finish(
        Statement(
            "SELECT FROM threads WHERE id = %(thread)s AND owner = %(owner)s FOR UPDATE", mine
        ),
        ending=(
            Statement("DELETE FROM turns WHERE thread_id = %(thread)s AND owner = %(owner)s", mine),
            Statement(
                "DELETE FROM places WHERE thread_id = %(thread)s AND owner = %(owner)s", mine
            ),
            Statement(
                "DELETE FROM unstorable WHERE thread_id = %(thread)s AND owner = %(owner)s", mine
            ),
            Statement(_DELETE_THREAD, mine),
            Statement(_FORGET_THREADS),
            *tell_of_thread(thread_id),
        ),
    )


def load_threads(owner: str, limit: int, after: str | None, order: str) -> tuple[Statement, ...]:
    """Ask for the place of the cursor, and for a page and one more, which says that there are."""
    parameters = {
        "owner": owner,
        "after": after,
        "limit": one_more(limit),
        "most_chars": PAGE_CHARS,
    }
    return Statement(_PLACE_OF_THREAD, parameters), Statement(THREAD_PAGES[order], parameters)


def thread_rows(cursors: Sequence[Cursor], after: str | None) -> list[tuple[str, str]]:
    place, page = cursors
    if after is not None and place.fetchone() == (None,):
        raise no_thread(after)
    return page.fetchall()


# --- Items


def load_items(
    owner: str, thread_id: str, after: str | None, limit: int, order: str
) -> tuple[Statement, ...]:
    """Ask for thread and cursor, and for a page and one more, which says that there are."""
    parameters = {
        "owner": owner,
        "thread": thread_id,
        "item": after,
        "limit": one_more(limit),
        "most_chars": PAGE_CHARS,
    }
    return Statement(_PLACE_OF_CURSOR, parameters), Statement(ITEM_PAGES[order], parameters)


def item_rows(
    cursors: Sequence[Cursor], thread_id: str, after: str | None
) -> list[tuple[str, str]]:
    place, page = cursors
    row = place.fetchone()
    if row is None:
        raise no_thread(thread_id)
    if after is not None and row[1] is None:
        raise no_item(thread_id, after)
    return page.fetchall()


_ITEM: LiteralString = """
    SELECT items.data FROM threads
    LEFT JOIN items ON items.thread = threads.seq AND items.id = %(item)s
    WHERE threads.id = %(thread)s AND threads.owner = %(owner)s
"""


def load_item(owner: str, thread_id: str, item_id: str) -> tuple[Statement, ...]:
    return (Statement(_ITEM, {"owner": owner, "thread": thread_id, "item": item_id}),)


def item_text(cursors: Sequence[Cursor], thread_id: str, item_id: str) -> str:
    row = cursors[0].fetchone()
    if row is None:
        raise no_thread(thread_id)
    text: str | None = row[0]
    if text is None:
        raise no_item(thread_id, item_id)
    return text


def add_item(tx: Transaction, owner: str, thread_id: str, item_id: str, text: str) -> None:
    parameters = {"owner": owner, "thread": thread_id, "item": item_id, "data": text}
    row = tx.finish(Statement(_ADD_ITEM, parameters))[0].fetchone()
    assert row is not None
    threads, added = row
    if not threads:
        raise no_thread(thread_id)
    if not added:
        raise ConflictError(f"thread {thread_id} already has an item {item_id}")


def save_item(tx: Transaction, owner: str, thread_id: str, item_id: str, text: str) -> None:
    parameters = {"owner": owner, "thread": thread_id, "item": item_id, "data": text}
    if tx.finish(Statement(_SAVE_ITEM, parameters))[0].rowcount == 0:
        raise no_thread(thread_id)


def update_item(tx: Transaction, owner: str, thread_id: str, item_id: str, text: str) -> None:
    parameters = {"owner": owner, "thread": thread_id, "item": item_id, "data": text}
    if tx.finish(Statement(_UPDATE_ITEM, parameters))[0].rowcount == 0:
        raise no_item(thread_id, item_id)


def delete_item(tx: Transaction, owner: str, thread_id: str, item_id: str) -> None:
    parameters = {"owner": owner, "thread": thread_id, "item": item_id}
    tx.finish(Statement(_DELETE_ITEM, parameters), Statement(_FORGET_ITEMS))


def delete_items_after(tx: Transaction, owner: str, thread_id: str, item_id: str) -> None:
    parameters = {"owner": owner, "thread": thread_id, "item": item_id}
    # The lock is a statement of its own: what was added while it was waited for is seen behind it.
    _, place, _, _ = tx.finish(
        Statement(_LOCK_THREAD, parameters),
        Statement(_PLACE_OF_ITEM, parameters),
        Statement(DELETE_AFTER, parameters),
        Statement(_FORGET_ITEMS),
    )
    row = place.fetchone()
    if row is None:
        raise no_thread(thread_id)
    if row[1] is None:
        raise no_item(thread_id, item_id)


DELETE_AFTER: LiteralString = f"""
    WITH gone AS (
        DELETE FROM items USING threads
        WHERE threads.id = %(thread)s AND threads.owner = %(owner)s AND items.thread = threads.seq
        AND items.seq > (
            SELECT last.seq FROM items AS last
            WHERE last.thread = threads.seq AND last.id = %(item)s
        )
        RETURNING items.thread, items.id, items.seq
    )
    {_KEEP_PLACES}
"""
DELETE_ITEMS: LiteralString = f"""
    WITH gone AS (
        DELETE FROM items USING threads
        WHERE threads.id = %(thread)s AND threads.owner = %(owner)s AND items.thread = threads.seq
        AND items.id = ANY(%(ids)s::text[])
        RETURNING items.thread, items.id, items.seq
    )
    {_KEEP_PLACES}
"""


def items_statement(
    sql: LiteralString, thread_id: str, items: Sequence[ThreadItem]
) -> list[Statement]:
    """Return a statement that stores items; none if there are none. Of equal ids the last counts.

    The caller has looked whether the thread is the owner's.
    """
    texts = {item.id: encode_item(item) for item in items}
    if not texts:
        return []
    parameters = {"thread": thread_id, "ids": list(texts), "texts": list(texts.values())}
    return [Statement(sql, parameters)]


# --- Attachments


def load_attachment(owner: str, attachment_id: str) -> tuple[Statement, ...]:
    query: LiteralString = "SELECT data FROM attachments WHERE id = %(id)s AND owner = %(owner)s"
    return (Statement(query, {"id": attachment_id, "owner": owner}),)


def attachment_text(cursors: Sequence[Cursor], attachment_id: str) -> str:
    row = cursors[0].fetchone()
    if row is None:
        raise no_attachment(attachment_id)
    text: str = row[0]
    return text


def save_attachment(tx: Transaction, owner: str, attachment_id: str, text: str) -> None:
    parameters = {"owner": owner, "attachment": attachment_id, "data": text}
    if tx.finish(Statement(_SAVE_ATTACHMENT, parameters))[0].rowcount == 0:
        raise no_attachment(attachment_id)


def delete_attachment(tx: Transaction, owner: str, attachment_id: str) -> None:
    query: LiteralString = "DELETE FROM attachments WHERE id = %(id)s AND owner = %(owner)s"
    tx.finish(Statement(query, {"id": attachment_id, "owner": owner}))


# --- What was refused, and requests


def set_aside(tx: Transaction, owner: str, item: UnstorableItem) -> None:
    tx.finish(set_aside_statement(owner, item))


def set_aside_statement(owner: str, item: UnstorableItem) -> Statement:
    parameters = {
        "owner": owner,
        "thread": _without_nul(item.thread_id),
        "item": _short(_without_nul(item.item_id)),
        "turn": _without_nul(item.turn_id),
        "text": _without_nul(item.text),
        "error": _without_nul(item.error),
    }
    return Statement(_SET_ASIDE, parameters)


def begin_request(
    tx: Transaction, owner: str, record: RequestRecord, window: float
) -> RequestRecord | None:
    """Record a request, or return the record that is there."""
    parameters = {**_request_parameters(owner, record), "window": window}
    _, recorded, there = tx.finish(
        Statement(_DROP_OLD_REQUESTS, parameters),
        Statement(_BEGIN_REQUEST, parameters),
        Statement(_REQUEST, parameters),
    )
    if recorded.rowcount:
        return None
    return _record(there)


def find_request(owner: str, key: str, window: float) -> tuple[Statement, ...]:
    return (Statement(_YOUNG_REQUEST, {"owner": owner, "key": key, "window": window}),)


def found_request(cursors: Sequence[Cursor]) -> RequestRecord | None:
    return _record(cursors[0])


def _record(cursor: Cursor) -> RequestRecord | None:
    row = cursor.fetchone()
    return None if row is None else RequestRecord(*row)


def update_request(tx: Transaction, owner: str, record: RequestRecord) -> None:
    tx.finish(Statement(_UPDATE_REQUEST, _request_parameters(owner, record)))


def _request_parameters(owner: str, record: RequestRecord) -> dict[str, object]:
    return {
        "owner": owner,
        "key": record.key,
        "digest": record.digest,
        "thread": record.thread_id,
        "item": record.item_id,
        "turn": record.turn_id,
        "answer": record.answer,
        "begun": record.begun,
    }


def _without_nul(text: str) -> str:
    return repaired_text(text).replace("\x00", "\ufffd")


def _short(item_id: str) -> str:
    """Return an id that fits into an index: of a long one its beginning and a digest.

    The text of the item has the whole of it.
    """
    if len(item_id) <= _LONGEST_KEY:
        return item_id
    digest = hashlib.sha256(item_id.encode()).hexdigest()
    return f"{item_id[:_LONGEST_KEY]}… {digest}"


def no_thread(thread_id: str) -> NotFoundError:
    return NotFoundError(f"there is no thread {thread_id}")


def no_item(thread_id: str, item_id: str) -> NotFoundError:
    return NotFoundError(f"thread {thread_id} has no item {item_id}")


def no_attachment(attachment_id: str) -> NotFoundError:
    return NotFoundError(f"there is no attachment {attachment_id}")
