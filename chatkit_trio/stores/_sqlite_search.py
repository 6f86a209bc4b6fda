"""The full-text index of the SQLite store, and what is asked of it; as `_sqlite_queries`.

The table `search` has a row for each message and each title: the words of it, each with a key of
the owner before it, so that a search goes through the words of one owner only. It is written some
time after the items, for many rows at once cost a fraction of what each costs alone: those that are
newer than `indexed.upto`, and what triggers have noted in `unindexed`, whatever version of this
package has changed it. Who searches has what is left of the owner indexed first. As the index may
lag behind, what it finds is looked at again.
"""

from __future__ import annotations

import logging
import sqlite3
import time

from pydantic import ValidationError

from chatkit_trio._activity import ActivityPlace
from chatkit_trio._reading_stores import Hit, Part
from chatkit_trio._search import Found, Query, index_words, searchable_text

from ._records import decode_item, decode_thread, owner_key
from ._sqlite_writes import transaction_of

logger = logging.getLogger(__name__)

_ITEM_BITS = 32
"""The number of a row is that of the thread and, in so many bits, that of the item; 0 is the title.
So the rows of a thread lie together, the newest last."""
_ITEM_MASK = (1 << _ITEM_BITS) - 1

_CHANGES = 256
"""After so many changed rows of whatever table it is looked whether there is something to index.
A message is two of them, and what is indexed at one go is more than comes meanwhile."""
_MOST_ROWS = 256
_SECONDS = 0.02
"""So much is indexed at one go at most, for other writes wait meanwhile."""

_MOST_LOOKS = 2_000
"""A page ends when so many texts have been looked at."""

THREADS_BY_ACTIVITY = """
    SELECT active, id, data FROM threads
    WHERE owner = :owner AND (active, id) < (:active, :id)
    ORDER BY active DESC, id DESC LIMIT :limit
"""

# CROSS JOIN: the matches first, which are few, and then the thread of each.
_THREADS_THAT_MATCH = f"""
    SELECT threads.active, threads.id, found.newest
    FROM (
        SELECT rowid >> {_ITEM_BITS} AS thread, max(rowid) AS newest
        FROM search WHERE search MATCH :terms GROUP BY 1
    ) AS found
    CROSS JOIN threads ON threads.seq = found.thread
    WHERE threads.owner = :owner AND (threads.active, threads.id) < (:active, :id)
    ORDER BY threads.active DESC, threads.id DESC
"""
_ROWS_OF_THREAD = """
    SELECT rowid FROM search WHERE search MATCH ? AND rowid BETWEEN ? AND ?
    ORDER BY rowid DESC LIMIT ?
"""


_UNINDEXED = """
    SELECT 1 FROM unindexed UNION ALL
    SELECT 1 FROM items WHERE seq > (SELECT upto FROM indexed)
    LIMIT 1
"""
_UNINDEXED_OF_OWNER = """
    SELECT 1 FROM unindexed WHERE owner = :owner UNION ALL
    SELECT 1 FROM items CROSS JOIN threads ON threads.seq = items.thread
    WHERE items.seq > (SELECT upto FROM indexed) AND threads.owner = :owner
    LIMIT 1
"""


def is_possible(db: sqlite3.Connection) -> bool:
    """Say whether this SQLite was built with FTS5."""
    query = "SELECT 1 FROM pragma_module_list WHERE name = 'fts5'"
    return db.execute(query).fetchone() is not None


def make_index(db: sqlite3.Connection) -> None:
    """Make the index unless it is there, inside a transaction; all that is stored is noted for it.

    No step of the schema, for a file may be opened first where SQLite has no FTS5.
    """
    if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'search'").fetchone():
        return
    # No positions and no sizes: a row is a set of words. These are folded and split already.
    db.execute(
        """
        CREATE VIRTUAL TABLE search
        USING fts5(words, tokenize = 'ascii', detail = 'none', columnsize = 0)
        """
    )
    db.execute("UPDATE indexed SET upto = coalesce((SELECT max(seq) FROM items), 0)")
    db.execute(
        f"""
        INSERT OR IGNORE INTO unindexed (owner, id)
        SELECT owner, seq << {_ITEM_BITS} FROM threads UNION ALL
        SELECT threads.owner, threads.seq << {_ITEM_BITS} | items.seq
        FROM items JOIN threads ON threads.seq = items.thread
        """
    )


class Upkeep:
    """Has the index written now and then, by the thread that has just committed something."""

    def __init__(self) -> None:
        self._seen = 0
        self._is_well = True

    def __call__(self, db: sqlite3.Connection) -> None:
        """Index some rows, in a transaction of their own, if much has been written since."""
        if db.total_changes - self._seen < _CHANGES:
            return
        try:
            if db.execute(_UNINDEXED).fetchone():
                with transaction_of(db, "IMMEDIATE"):
                    index_some(db)
            self._is_well = True
        except Exception:
            # What was written is written. The rows stay noted.
            if self._is_well:
                logger.exception("the index for searches can't be written; it is tried again")
            self._is_well = False
        self._seen = db.total_changes


def index_some(db: sqlite3.Connection, owner: str | None = None) -> None:
    """Index some of what isn't yet, inside a transaction: first what the owner waits for.

    Without an owner the new items come first. Else they would pile up where much is noted, in a
    file of an older version, and everybody's search would have to index them all.
    """
    until = time.monotonic() + _SECONDS
    if owner is None:
        _index_new(db, until)
        _index_noted(db, until, owner)
    else:
        _index_noted(db, until, owner)
        _index_new(db, until)


def _index_noted(db: sqlite3.Connection, until: float, owner: str | None) -> None:
    mine = "" if owner is None else "WHERE owner = :owner"
    query = f"SELECT owner, id FROM unindexed {mine} LIMIT :most"
    for note in db.execute(query, {"owner": owner, "most": _MOST_ROWS}).fetchall():
        if time.monotonic() > until:
            return
        _index(db, note[1])
        db.execute("DELETE FROM unindexed WHERE owner = ? AND id = ?", note)


def _index_new(db: sqlite3.Connection, until: float) -> None:
    query = f"""
        SELECT seq, thread << {_ITEM_BITS} | seq FROM items
        WHERE seq > (SELECT upto FROM indexed) ORDER BY seq LIMIT ?
    """
    upto: int | None = None
    for seq, row in db.execute(query, (_MOST_ROWS,)).fetchall():
        if time.monotonic() > until:
            break
        _index(db, row)
        upto = seq
    if upto is not None:
        db.execute("UPDATE indexed SET upto = ?", (upto,))


def _index(db: sqlite3.Connection, row: int) -> None:
    words = _words_of(db, row)
    if words:
        db.execute("INSERT OR REPLACE INTO search (rowid, words) VALUES (?, ?)", (row, words))
    else:
        db.execute("DELETE FROM search WHERE rowid = ?", (row,))


def load_by_activity(
    db: sqlite3.Connection, owner: str, limit: int, behind: ActivityPlace
) -> list[tuple[ActivityPlace, str]]:
    """Return (place, text) of threads behind a place."""
    mine = {"owner": owner, "active": behind.active, "id": behind.thread_id, "limit": limit}
    rows = db.execute(THREADS_BY_ACTIVITY, mine)
    return [(ActivityPlace(active, thread_id), text) for active, thread_id, text in rows]


def search(
    db: sqlite3.Connection, owner: str, query: Query, limit: int, behind: ActivityPlace
) -> Part | None:
    """Return a `Hit` for each thread that matches; None if something has to be indexed before."""
    if db.execute(_UNINDEXED_OF_OWNER, {"owner": owner}).fetchone():
        return None
    look = _Look(db, query, _terms(owner, query))
    mine = {
        "terms": look.terms,
        "owner": owner,
        "active": behind.active,
        "id": behind.thread_id,
    }
    hits: list[Hit] = []
    last = behind
    for active, thread_id, newest in db.execute(_THREADS_THAT_MATCH, mine):
        if len(hits) == limit or look.rows_left <= 0:
            return Part(hits, last)
        last = ActivityPlace(active, thread_id)
        hit = look.at_thread(newest)
        hits += [] if hit is None else [hit]
    return Part(hits, None)


class _Look:
    """A look at the texts that the index has named, for it may be behind, or say too much."""

    def __init__(self, db: sqlite3.Connection, query: Query, terms: str) -> None:
        self._db = db
        self._query = query
        self.terms = terms
        self.rows_left = _MOST_LOOKS

    def at_thread(self, newest: int) -> Hit | None:
        """Return where a thread matches; the newest of its rows comes first."""
        thread = newest >> _ITEM_BITS
        match = self._at_row(newest)
        if match is None:
            rows = (self.terms, thread << _ITEM_BITS, newest - 1, max(0, self.rows_left))
            older = self._db.execute(_ROWS_OF_THREAD, rows)
            match = next((found for (row,) in older if (found := self._at_row(row))), None)
        if match is None:
            return None
        query = "SELECT data FROM threads WHERE seq = ?"
        text: str = self._db.execute(query, (thread,)).fetchone()[0]
        return Hit(decode_thread(text), *match)

    def _at_row(self, row: int) -> tuple[str | None, Found] | None:
        self.rows_left -= 1
        item_id, text = _text_of(self._db, row)
        found = self._query.find(text)
        return None if found is None else (item_id, found)


def _words_of(db: sqlite3.Connection, row: int) -> str:
    """Return what the index has in a row, nothing if there is nothing to be found."""
    query = "SELECT owner FROM threads WHERE seq = ?"
    thread: tuple[str] | None = db.execute(query, (row >> _ITEM_BITS,)).fetchone()
    if thread is None:
        return ""
    key = owner_key(thread[0])
    return " ".join(key + word for word in index_words(_text_of(db, row)[1]))


def _text_of(db: sqlite3.Connection, row: int) -> tuple[str | None, str]:
    """Return the id of an item, None for a title, and what is searched of it."""
    thread, item = row >> _ITEM_BITS, row & _ITEM_MASK
    try:
        if item == 0:
            query = "SELECT data FROM threads WHERE seq = ?"
            title: tuple[str] | None = db.execute(query, (thread,)).fetchone()
            return None, "" if title is None else decode_thread(title[0]).title or ""
        query = "SELECT id, data FROM items WHERE seq = ? AND thread = ?"
        found: tuple[str, str] | None = db.execute(query, (item, thread)).fetchone()
        return ("", "") if found is None else (found[0], searchable_text(decode_item(found[1])))
    except ValidationError:  # of a newer version: it can't be loaded either
        return None, ""


def _terms(owner: str, query: Query) -> str:
    """Return what FTS5 is asked; a word has no character that means something to it."""
    key = owner_key(owner)
    return " ".join(f'"{key}{term.word}"{"*" * term.is_prefix}' for term in query.terms())
