"""What the SQLite store asks of its tables: each function is the inside of one transaction.

All begin with the connection and the owner, and the owner is in every query that takes an id from
a caller: another owner's row isn't there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace

from chatkit_trio._foreign_text import repaired_text
from chatkit_trio.errors import ConflictError, NotFoundError
from chatkit_trio.store import RequestRecord, Settlement, UnstorableItem
from chatkit_trio.types import SDKHiddenContextItem, ThreadItem

from ._journal_texts import MOST_ABANDONED, JournalRow
from ._records import (
    cut_page,
    decode_item,
    encode_item,
    encode_thread,
    one_more,
)

_MAX_ROWID = 2**63 - 1

# One range of an index in its own order, from the cursor on: neither a sort nor rows to skip, so
# the millionth item costs what the first one does.
ITEM_PAGES = {
    "asc": "SELECT id, data FROM items WHERE thread = ? AND seq > ? ORDER BY seq LIMIT ?",
    "desc": "SELECT id, data FROM items WHERE thread = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
}
THREAD_PAGES = {
    "asc": "SELECT id, data FROM threads WHERE owner = ? AND seq > ? ORDER BY seq LIMIT ?",
    "desc": "SELECT id, data FROM threads WHERE owner = ? AND seq < ? ORDER BY seq DESC LIMIT ?",
}
_BEFORE_ALL = {"asc": 0, "desc": _MAX_ROWID}

# SQLite gives the number of a deleted last row to the next one. But a place that is remembered has
# to stay before all that comes later.
_NEW_ITEM = """
    INSERT INTO items (seq, thread, id, data) VALUES (
        max(
            coalesce((SELECT max(seq) FROM items), 0),
            coalesce((SELECT max(seq) FROM gone_items), 0)
        ) + 1,
        ?, ?, ?
    )
"""
_SAVE_ITEM = f"{_NEW_ITEM} ON CONFLICT (thread, id) DO UPDATE SET data = excluded.data"
_ADD_ITEM_UNLESS_THERE = f"{_NEW_ITEM} ON CONFLICT (thread, id) DO NOTHING"

_KEEP_PLACE_OF_ITEM = """
    INSERT OR REPLACE INTO gone_items (thread, id, seq)
    SELECT thread, id, seq FROM items WHERE thread = ? AND id = ?
"""
_KEEP_PLACES_OF_ITEMS_AFTER = """
    INSERT OR REPLACE INTO gone_items (thread, id, seq)
    SELECT thread, id, seq FROM items WHERE thread = ? AND seq > ?
"""
_KEEP_PLACE_OF_THREAD = """
    INSERT OR REPLACE INTO gone_threads (owner, id, seq)
    SELECT owner, id, seq FROM threads WHERE id = ? AND owner = ?
"""
_FORGET_ITEMS = """
    DELETE FROM gone_items WHERE gone_at < CAST(strftime('%s', 'now') AS INTEGER) - 30 * 86400
"""
"""The place of what was deleted is remembered for thirty days."""
_FORGET_THREADS = """
    DELETE FROM gone_threads WHERE gone_at < CAST(strftime('%s', 'now') AS INTEGER) - 30 * 86400
"""

_FORGET_SETTLED = """
    DELETE FROM settled WHERE settled_at < CAST(strftime('%s', 'now') AS INTEGER) - 3600
"""
"""A repeated request begins its turn again within minutes, or never."""


def load_thread(db: sqlite3.Connection, owner: str, thread_id: str) -> str:
    query = "SELECT data FROM threads WHERE id = ? AND owner = ?"
    row: tuple[str] | None = db.execute(query, (thread_id, owner)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no thread {thread_id}")
    return row[0]


def save_thread(db: sqlite3.Connection, owner: str, thread_id: str, text: str) -> None:
    query = """
        INSERT INTO threads (seq, owner, id, data) VALUES (
            max(
                coalesce((SELECT max(seq) FROM threads), 0),
                coalesce((SELECT max(seq) FROM gone_threads), 0)
            ) + 1,
            ?, ?, ?
        )
        ON CONFLICT (id) DO UPDATE SET data = excluded.data WHERE threads.owner = excluded.owner
    """
    if db.execute(query, (owner, thread_id, text)).rowcount == 0:
        raise NotFoundError(f"there is no thread {thread_id}")


def update_thread(db: sqlite3.Connection, owner: str, thread_id: str, text: str) -> None:
    query = "UPDATE threads SET data = ? WHERE id = ? AND owner = ?"
    if db.execute(query, (text, thread_id, owner)).rowcount == 0:
        raise NotFoundError(f"there is no thread {thread_id}")


def delete_thread(db: sqlite3.Connection, owner: str, thread_id: str) -> None:
    db.execute("DELETE FROM unstorable WHERE thread_id = ? AND owner = ?", (thread_id, owner))
    db.execute("DELETE FROM turns WHERE thread_id = ? AND owner = ?", (thread_id, owner))
    db.execute("DELETE FROM line WHERE thread_id = ? AND owner = ?", (thread_id, owner))
    db.execute(_KEEP_PLACE_OF_THREAD, (thread_id, owner))
    db.execute("DELETE FROM threads WHERE id = ? AND owner = ?", (thread_id, owner))
    db.execute(_FORGET_THREADS)


def load_threads(
    db: sqlite3.Connection, owner: str, limit: int, after: str | None, order: str
) -> tuple[list[tuple[str, str]], bool]:
    """Return (id, text) of a page of threads, and whether there are more."""
    start = _BEFORE_ALL[order] if after is None else _thread_place(db, owner, after)
    return _page(db, THREAD_PAGES[order], (owner, start), limit)


def load_items(
    db: sqlite3.Connection, owner: str, thread_id: str, after: str | None, limit: int, order: str
) -> tuple[list[tuple[str, str]], bool]:
    """Return (id, text) of a page of items, and whether there are more."""
    thread = _thread_seq(db, owner, thread_id)
    start = _BEFORE_ALL[order] if after is None else _item_place(db, thread, thread_id, after)
    return _page(db, ITEM_PAGES[order], (thread, start), limit)


def load_item(db: sqlite3.Connection, owner: str, thread_id: str, item_id: str) -> str:
    seq = _item_seq(db, _thread_seq(db, owner, thread_id), thread_id, item_id)
    text: str = db.execute("SELECT data FROM items WHERE seq = ?", (seq,)).fetchone()[0]
    return text


def add_item(db: sqlite3.Connection, owner: str, thread_id: str, item_id: str, text: str) -> None:
    thread = _thread_seq(db, owner, thread_id)
    if db.execute(_ADD_ITEM_UNLESS_THERE, (thread, item_id, text)).rowcount == 0:
        raise ConflictError(f"thread {thread_id} already has an item {item_id}")


def save_item(db: sqlite3.Connection, owner: str, thread_id: str, item_id: str, text: str) -> None:
    db.execute(_SAVE_ITEM, (_thread_seq(db, owner, thread_id), item_id, text))


def update_item(
    db: sqlite3.Connection, owner: str, thread_id: str, item_id: str, text: str
) -> None:
    seq = _item_seq(db, _thread_seq(db, owner, thread_id), thread_id, item_id)
    db.execute("UPDATE items SET data = ? WHERE seq = ?", (text, seq))


def delete_item(db: sqlite3.Connection, owner: str, thread_id: str, item_id: str) -> None:
    with suppress(NotFoundError):
        item = (_thread_seq(db, owner, thread_id), item_id)
        db.execute(_KEEP_PLACE_OF_ITEM, item)
        db.execute("DELETE FROM items WHERE thread = ? AND id = ?", item)
        db.execute(_FORGET_ITEMS)


def delete_items_after(db: sqlite3.Connection, owner: str, thread_id: str, item_id: str) -> None:
    thread = _thread_seq(db, owner, thread_id)
    seq = _item_seq(db, thread, thread_id, item_id)
    db.execute(_KEEP_PLACES_OF_ITEMS_AFTER, (thread, seq))
    db.execute("DELETE FROM items WHERE thread = ? AND seq > ?", (thread, seq))
    db.execute(_FORGET_ITEMS)


def load_attachment(db: sqlite3.Connection, owner: str, attachment_id: str) -> str:
    query = "SELECT data FROM attachments WHERE id = ? AND owner = ?"
    row: tuple[str] | None = db.execute(query, (attachment_id, owner)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no attachment {attachment_id}")
    return row[0]


def save_attachment(db: sqlite3.Connection, owner: str, attachment_id: str, text: str) -> None:
    query = """
        INSERT INTO attachments (owner, id, data) VALUES (?, ?, ?)
        ON CONFLICT (id) DO UPDATE SET data = excluded.data
        WHERE attachments.owner = excluded.owner
    """
    if db.execute(query, (owner, attachment_id, text)).rowcount == 0:
        raise NotFoundError(f"there is no attachment {attachment_id}")


def delete_attachment(db: sqlite3.Connection, owner: str, attachment_id: str) -> None:
    db.execute("DELETE FROM attachments WHERE id = ? AND owner = ?", (attachment_id, owner))


def settle(db: sqlite3.Connection, owner: str, settlement: Settlement) -> bool:
    """Store what a turn leaves behind and close its entry; say whether its thread is there.

    A thread that is gone isn't an error here, for an error would undo the closing of the entry.
    """
    db.execute("DELETE FROM turns WHERE id = ? AND owner = ?", (settlement.turn_id, owner))
    if settlement.turn_id is not None:
        db.execute(_FORGET_SETTLED)
        db.execute("INSERT OR IGNORE INTO settled (turn_id) VALUES (?)", (settlement.turn_id,))
    try:
        thread = _thread_seq(db, owner, settlement.thread_id)
    except NotFoundError:
        return False
    for query, items in (
        (_ADD_ITEM_UNLESS_THERE, settlement.new_items),
        (_SAVE_ITEM, settlement.changed_items),
    ):
        db.executemany(query, [(thread, item.id, encode_item(item)) for item in items])
    if settlement.thread is not None:
        update_thread(db, owner, settlement.thread_id, encode_thread(settlement.thread))
    return True


def settle_live(
    db: sqlite3.Connection, owner: str, settlement: Settlement, instance: str
) -> tuple[bool, bool]:
    """Settle a turn of this instance.

    Return whether its thread is there, and whether another process has taken the turn for crashed.
    """
    query = "SELECT instance, abandoned FROM turns WHERE id = ? AND owner = ?"
    entry = db.execute(query, (settlement.turn_id, owner)).fetchone()
    is_taken = entry is not None and entry != (instance, 0)
    if entry is not None or settlement.turn_id is None:
        return settle(db, owner, settlement), is_taken
    note = _seq_of_note(db, owner, settlement.thread_id, settlement.turn_id)
    late = _late(db, owner, settlement, settlement.turn_id, has_note=note is not None)
    if late == settlement:
        return settle(db, owner, settlement), False
    return _settle_in_front_of(note, db, owner, late), True


def _settle_in_front_of(
    note: int | None, db: sqlite3.Connection, owner: str, settlement: Settlement
) -> bool:
    """Settle; the note in this place, and all that stands behind it, stays behind what is new."""
    behind: list[tuple[int, int, str, str]] = []
    if note is not None:
        query = """
            SELECT seq, thread, id, data FROM items
            WHERE thread = (SELECT thread FROM items WHERE seq = ?1) AND seq >= ?1 ORDER BY seq
        """
        behind = db.execute(query, (note,)).fetchall()
        db.executemany("DELETE FROM items WHERE seq = ?", [(seq,) for seq, *_ in behind])
    is_found = settle(db, owner, settlement)
    db.executemany(_ADD_ITEM_UNLESS_THERE, [row for _, *row in behind])
    return is_found


def _late(
    db: sqlite3.Connection, owner: str, settlement: Settlement, turn_id: str, *, has_note: bool
) -> Settlement:
    """Return what there is to settle of a turn whose entry is closed already.

    Equal to the settlement if the thread shows no other settlement of that turn: a settlement that
    is only repeated stays as it is.
    """
    stored = _stored_texts(db, owner, settlement)
    new_items: list[ThreadItem] = []
    changed_items: list[ThreadItem] = []
    for item in settlement.new_items:
        text = stored.get(item.id)
        if text is not None:
            (new_items if text == encode_item(item) else changed_items).append(item)
        elif not (_is_note_of(item, turn_id) and has_note):
            new_items.append(item)
    changed = (*changed_items, *settlement.changed_items)
    return replace(settlement, new_items=tuple(new_items), changed_items=changed)


def _stored_texts(db: sqlite3.Connection, owner: str, settlement: Settlement) -> dict[str, str]:
    """Return what the thread has under the ids of the settlement's new items."""
    query = """
        SELECT data FROM items
        WHERE id = ? AND thread = (SELECT seq FROM threads WHERE id = ? AND owner = ?)
    """
    stored: dict[str, str] = {}
    for item in settlement.new_items:
        row = db.execute(query, (item.id, settlement.thread_id, owner)).fetchone()
        if row is not None:
            stored[item.id] = row[0]
    return stored


def _seq_of_note(db: sqlite3.Connection, owner: str, thread_id: str, turn_id: str) -> int | None:
    """Return the place of the note of how this turn ended; None if the thread has none."""
    query = """
        SELECT seq, data FROM items
        WHERE thread = (SELECT seq FROM threads WHERE id = ? AND owner = ?) AND instr(data, ?)
        ORDER BY seq DESC
    """
    needle = json.dumps(turn_id, ensure_ascii=False)
    rows = db.execute(query, (thread_id, owner, needle))
    notes = (seq for seq, text in rows if _is_note_of(decode_item(text), turn_id))
    return next(notes, None)


def _is_note_of(item: ThreadItem, turn_id: str) -> bool:
    return (
        isinstance(item, SDKHiddenContextItem)
        and item.ending is not None
        and item.ending.turn_id == turn_id
    )


def set_aside(db: sqlite3.Connection, owner: str, item: UnstorableItem) -> None:
    query = """
        INSERT OR REPLACE INTO unstorable (owner, thread_id, item_id, turn_id, text, error)
        VALUES (?, ?, ?, ?, ?, ?)
    """
    texts = (item.thread_id, item.item_id, item.turn_id, item.text, item.error)
    db.execute(query, (owner, *map(repaired_text, texts)))


def begin_request(
    db: sqlite3.Connection, owner: str, record: RequestRecord, window: float, now: float
) -> RequestRecord | None:
    """Record a request, or return the record that is there."""
    db.execute("DELETE FROM requests WHERE recorded_at <= ?", (now - window,))
    known = find_request(db, owner, record.key, now - window)
    if known is not None:
        return known
    query = """
        INSERT INTO requests
        (digest, thread_id, item_id, turn_id, answer, begun, owner, key, recorded_at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    """
    db.execute(query, (*_request_fields(record), owner, record.key, now))
    return None


def find_request(
    db: sqlite3.Connection, owner: str, key: str, since: float
) -> RequestRecord | None:
    """Return the record of a key that was made after `since`, if there is one."""
    query = """
        SELECT key, digest, thread_id, item_id, turn_id, answer, begun FROM requests
        WHERE owner = ? AND key = ? AND recorded_at > ?
    """
    row = db.execute(query, (owner, key, since)).fetchone()
    if row is None:
        return None
    key, digest, thread_id, item_id, turn_id, answer, begun = row
    return RequestRecord(key, digest, thread_id, item_id, turn_id, answer, bool(begun))


def update_request(db: sqlite3.Connection, owner: str, record: RequestRecord) -> None:
    query = """
        UPDATE requests
        SET digest = ?, thread_id = ?, item_id = ?, turn_id = ?, answer = ?, begun = ?
        WHERE owner = ? AND key = ?
    """
    db.execute(query, (*_request_fields(record), owner, record.key))


def _request_fields(record: RequestRecord) -> tuple[str, str, str, str, bytes | None, bool]:
    return (
        record.digest,
        record.thread_id,
        record.item_id,
        record.turn_id,
        record.answer,
        record.begun,
    )


def begin_journaled(
    db: sqlite3.Connection, owner: str, turn_id: str, thread_id: str, instance: str
) -> None:
    query = """
        INSERT INTO turns (id, thread_id, owner, instance) VALUES (?, ?, ?, ?)
        ON CONFLICT (id) DO NOTHING
    """
    if db.execute(query, (turn_id, thread_id, owner, instance)).rowcount == 0:
        raise ConflictError(f"the journal already has a turn {turn_id}")


def checkpoint_turns(
    db: sqlite3.Connection, instance: str, rows: Sequence[tuple[str, str, str | None, str]]
) -> None:
    """Replace (items, changed items, reason, turn id) of turns that are open here."""
    db.executemany(
        "UPDATE turns SET items = ?, changed_items = ?, reason = ? WHERE id = ? AND instance = ?",
        [(*row, instance) for row in rows],
    )


def instances(db: sqlite3.Connection, thread_id: str | None) -> set[str]:
    """Return the instances that have live turns, places in line or messages.

    With a thread, those with a live turn on it.
    """
    if thread_id is None:
        query = """
            SELECT instance FROM turns WHERE abandoned = 0
            UNION SELECT instance FROM line UNION SELECT instance FROM messages
        """
        rows = db.execute(query)
    else:
        query = "SELECT DISTINCT instance FROM turns WHERE abandoned = 0 AND thread_id = ?"
        rows = db.execute(query, (thread_id,))
    return {name for (name,) in rows}


def claim_turns(db: sqlite3.Connection, alive: set[str], thread_id: str | None) -> None:
    """Mark the turns of instances that are gone, of one thread if it is given.

    Their places in line and their messages are deleted.
    """
    query = """
        UPDATE turns SET abandoned = 1 WHERE instance = ? AND thread_id = coalesce(?, thread_id)
    """
    gone = instances(db, thread_id) - alive
    db.executemany(query, [(name, thread_id) for name in gone])
    db.executemany("DELETE FROM line WHERE instance = ?", [(name,) for name in gone])
    db.executemany("DELETE FROM messages WHERE instance = ?", [(name,) for name in gone])


def claimed_turns(db: sqlite3.Connection, thread_id: str | None) -> list[JournalRow]:
    """Return turns that are marked as abandoned and not settled yet: some, or all of a thread."""
    query = "SELECT id, thread_id, items, changed_items, reason FROM turns WHERE abandoned = 1"
    if thread_id is None:
        # The texts of those that are passed over aren't read.
        some = "SELECT rowid FROM turns WHERE abandoned = 1 ORDER BY random() LIMIT ?"
        return db.execute(f"{query} AND rowid IN ({some})", (MOST_ABANDONED,)).fetchall()
    return db.execute(f"{query} AND thread_id = ? ORDER BY rowid", (thread_id,)).fetchall()


def settle_claimed(
    db: sqlite3.Connection, settlement: Settlement, left_out: Sequence[UnstorableItem]
) -> bool:
    """Settle an abandoned turn for its owner, and say so; one that is settled stays as it is.

    What is left out is set aside, unless its thread is gone.
    """
    query = "SELECT owner FROM turns WHERE id = ? AND abandoned = 1"
    row: tuple[str] | None = db.execute(query, (settlement.turn_id,)).fetchone()
    if row is None:
        return False
    if settle(db, row[0], settlement):
        for item in left_out:
            set_aside(db, row[0], item)
    return True


def _thread_seq(db: sqlite3.Connection, owner: str, thread_id: str) -> int:
    query = "SELECT seq FROM threads WHERE id = ? AND owner = ?"
    row: tuple[int] | None = db.execute(query, (thread_id, owner)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no thread {thread_id}")
    return row[0]


def _thread_place(db: sqlite3.Connection, owner: str, thread_id: str) -> int:
    """Return where a thread stands, or stood before it was deleted."""
    query = """
        SELECT coalesce(
            (SELECT seq FROM threads WHERE id = :id AND owner = :owner),
            (SELECT seq FROM gone_threads WHERE id = :id AND owner = :owner)
        )
    """
    place: int | None = db.execute(query, {"id": thread_id, "owner": owner}).fetchone()[0]
    if place is None:
        raise NotFoundError(f"there is no thread {thread_id} to go on from")
    return place


def _item_place(db: sqlite3.Connection, thread: int, thread_id: str, item_id: str) -> int:
    """Return where an item stands, or stood before it was deleted."""
    query = """
        SELECT coalesce(
            (SELECT seq FROM items WHERE thread = :thread AND id = :id),
            (SELECT seq FROM gone_items WHERE thread = :thread AND id = :id)
        )
    """
    place: int | None = db.execute(query, {"thread": thread, "id": item_id}).fetchone()[0]
    if place is None:
        raise NotFoundError(f"thread {thread_id} has no item {item_id} to go on from")
    return place


def _item_seq(db: sqlite3.Connection, thread: int, thread_id: str, item_id: str) -> int:
    query = "SELECT seq FROM items WHERE thread = ? AND id = ?"
    row: tuple[int] | None = db.execute(query, (thread, item_id)).fetchone()
    if row is None:
        raise NotFoundError(f"thread {thread_id} has no item {item_id}")
    return row[0]


def _page(
    db: sqlite3.Connection, query: str, range_: tuple[str | int, int], limit: int
) -> tuple[list[tuple[str, str]], bool]:
    # Row by row: of a page of big items no more than fits is read.
    with closing(db.execute(query, (*range_, one_more(limit)))) as rows:
        return cut_page(rows, limit)
