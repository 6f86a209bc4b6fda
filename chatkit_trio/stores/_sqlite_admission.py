"""What the coordination of the SQLite store asks of its tables; as `_sqlite_queries`.

A row of `turns` is a turn that is live on the instance it names, or abandoned; one of `line` waits
for its thread; one of `messages` waits to be heard.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from chatkit_trio.errors import ConflictError, NotFoundError, TurnFencedError
from chatkit_trio.store import Opening, TurnRecord

from . import _sqlite_queries as queries
from ._journal_texts import JournalRow
from ._records import check_premises, encode_attachment, encode_item, encode_thread


def check_live(db: sqlite3.Connection, turn_id: str, instance: str) -> None:
    """Raise `TurnFencedError` unless the turn is live on this instance."""
    query = "SELECT 1 FROM turns WHERE id = ? AND instance = ? AND abandoned = 0"
    if db.execute(query, (turn_id, instance)).fetchone() is None:
        raise _fenced(turn_id)


def begin(
    db: sqlite3.Connection,
    owner: str,
    opening: Opening,
    instance: str,
    is_live: Callable[[str], bool],
) -> TurnRecord | None:
    """Make a turn's first writes and record it, or say which turn is to be waited for."""
    turn_id, thread_id = opening.turn_id, opening.thread_id
    if _has_begun(db, owner, turn_id, instance):
        return None
    if db.execute("SELECT 1 FROM settled WHERE turn_id = ?", (turn_id,)).fetchone():
        raise _fenced(turn_id)
    thread = _thread(db, owner, opening)
    first = record(db, thread_id) or _first_in_line(db, thread_id, instance, is_live)
    if first is not None and first.turn_id != turn_id:
        _take_place(db, owner, turn_id, thread_id, instance)
        return first
    check_premises(opening, thread, *_items(db, opening))
    _carry_out(db, owner, opening)
    _delete_place(db, turn_id)
    query = "INSERT INTO turns (id, thread_id, owner, instance, holds) VALUES (?, ?, ?, ?, ?)"
    db.execute(query, (turn_id, thread_id, owner, instance, thread_id))
    return None


def line_up(
    db: sqlite3.Connection, owner: str, turn_id: str, thread_id: str, instance: str
) -> None:
    """Take a place in line, unless the turn is recorded."""
    if not _has_begun(db, owner, turn_id, instance):
        _take_place(db, owner, turn_id, thread_id, instance)


def _take_place(
    db: sqlite3.Connection, owner: str, turn_id: str, thread_id: str, instance: str
) -> None:
    query = """
        INSERT INTO line (turn_id, thread_id, owner, instance) VALUES (?, ?, ?, ?)
        ON CONFLICT (turn_id) DO NOTHING
    """
    db.execute(query, (turn_id, thread_id, owner, instance))


def _has_begun(db: sqlite3.Connection, owner: str, turn_id: str, instance: str) -> bool:
    query = """
        SELECT owner, instance, abandoned FROM turns WHERE id = ?
        UNION ALL SELECT owner, NULL, 0 FROM line WHERE turn_id = ?
    """
    row = db.execute(query, (turn_id, turn_id)).fetchone()
    if row is None:
        return False
    if row[0] != owner:
        raise ConflictError(f"there is a turn {turn_id} already")
    if row[1] is not None and row[1:] != (instance, 0):
        raise _fenced(turn_id)
    return row[1] is not None


def _thread(db: sqlite3.Connection, owner: str, opening: Opening) -> str | None:
    """Return the thread of an opening, None if it is new. Raises `NotFoundError`."""
    query = "SELECT owner, data FROM threads WHERE id = ?"
    row: tuple[str, str] | None = db.execute(query, (opening.thread_id,)).fetchone()
    is_there = row is not None or opening.new_thread is not None
    if not is_there or (row is not None and row[0] != owner):
        raise NotFoundError(f"there is no thread {opening.thread_id}")
    return None if row is None else row[1]


def _items(db: sqlite3.Connection, opening: Opening) -> tuple[str | None, dict[str, str]]:
    """Return the id of a thread's last item, and its items that have to be unchanged."""
    last = None
    if opening.last_item_id is not None:
        query = """
            SELECT id FROM items WHERE thread = (SELECT seq FROM threads WHERE id = ?)
            ORDER BY seq DESC LIMIT 1
        """
        row = db.execute(query, (opening.thread_id,)).fetchone()
        last = None if row is None else row[0]
    query = """
        SELECT data FROM items WHERE thread = (SELECT seq FROM threads WHERE id = ?) AND id = ?
    """
    found = {
        item.id: db.execute(query, (opening.thread_id, item.id)).fetchone()
        for item in opening.unchanged_items
    }
    return last, {item_id: row[0] for item_id, row in found.items() if row is not None}


def _first_in_line(
    db: sqlite3.Connection, thread_id: str, instance: str, is_live: Callable[[str], bool]
) -> TurnRecord | None:
    """Return the first place of an instance that lives, and delete those before it."""
    query = "SELECT turn_id, instance FROM line WHERE thread_id = ? ORDER BY seq"
    for turn_id, name in db.execute(query, (thread_id,)).fetchall():
        if name == instance or is_live(name):
            return TurnRecord(turn_id, thread_id, name)
        _delete_place(db, turn_id)
    return None


def _carry_out(db: sqlite3.Connection, owner: str, opening: Opening) -> None:
    thread_id = opening.thread_id
    if opening.new_thread is not None:
        queries.save_thread(db, owner, thread_id, encode_thread(opening.new_thread))
    for one in opening.attachments:
        queries.save_attachment(db, owner, one.id, encode_attachment(one))
    if opening.delete_after is not None:
        queries.delete_items_after(db, owner, thread_id, opening.delete_after)
    for item_id in opening.deleted_item_ids:
        queries.delete_item(db, owner, thread_id, item_id)
    for item in opening.new_items:
        queries.add_item(db, owner, thread_id, item.id, encode_item(item))
    for item in opening.changed_items:
        queries.save_item(db, owner, thread_id, item.id, encode_item(item))


def withdraw(db: sqlite3.Connection, turn_id: str, instance: str) -> str | None:
    """Delete a place that this instance has in line; return its thread if there was one."""
    query = "DELETE FROM line WHERE turn_id = ? AND instance = ? RETURNING thread_id"
    rows: list[tuple[str]] = db.execute(query, (turn_id, instance)).fetchall()
    return rows[0][0] if rows else None


def _delete_place(db: sqlite3.Connection, turn_id: str) -> None:
    db.execute("DELETE FROM line WHERE turn_id = ?", (turn_id,))


def abandon(db: sqlite3.Connection, turn_id: str, instance: str) -> None:
    query = "UPDATE turns SET abandoned = 1 WHERE id = ? AND instance = ?"
    db.execute(query, (turn_id, instance))


def record(db: sqlite3.Connection, thread_id: str) -> TurnRecord | None:
    query = "SELECT id, instance FROM turns WHERE thread_id = ? ORDER BY rowid LIMIT 1"
    row = db.execute(query, (thread_id,)).fetchone()
    return None if row is None else TurnRecord(row[0], thread_id, row[1])


def checkpointed(db: sqlite3.Connection, turn_id: str) -> JournalRow | None:
    query = "SELECT id, thread_id, items, changed_items, reason FROM turns WHERE id = ?"
    row: JournalRow | None = db.execute(query, (turn_id,)).fetchone()
    return row


def live_turns(db: sqlite3.Connection, instance: str) -> frozenset[str]:
    query = "SELECT id FROM turns WHERE instance = ? AND abandoned = 0"
    return frozenset(turn_id for (turn_id,) in db.execute(query, (instance,)))


def post(db: sqlite3.Connection, instance: str, message: bytes) -> None:
    db.execute("INSERT INTO messages (instance, data) VALUES (?, ?)", (instance, message))


def has_messages(db: sqlite3.Connection, instance: str) -> bool:
    query = "SELECT 1 FROM messages WHERE instance = ? LIMIT 1"
    return db.execute(query, (instance,)).fetchone() is not None


def take_messages(db: sqlite3.Connection, instance: str) -> tuple[bytes, ...]:
    """Return the messages of an instance in order, and delete them."""
    query = "SELECT data FROM messages WHERE instance = ? ORDER BY seq"
    messages = tuple(data for (data,) in db.execute(query, (instance,)))
    db.execute("DELETE FROM messages WHERE instance = ?", (instance,))
    return messages


def states(db: sqlite3.Connection, abouts: Iterable[str]) -> dict[str, tuple[object, ...]]:
    """Return what there is of each thread or instance that somebody may wait for."""
    # The columns that the indexes begin with; an id of the one kind is none of the other.
    query = """
        SELECT 'turn', id, abandoned FROM turns WHERE thread_id = :about
        UNION ALL SELECT 'place', min(seq), 0 FROM line WHERE thread_id = :about
        UNION ALL SELECT 'message', max(seq), 0 FROM messages WHERE instance = :about
    """
    return {about: tuple(db.execute(query, {"about": about}).fetchall()) for about in abouts}


def _fenced(turn_id: str) -> TurnFencedError:
    return TurnFencedError(
        f"turn {turn_id} isn't live in this process: another has settled it, or its thread is gone"
    )
