"""The full-text index of the PostgreSQL store, and what is asked of it and of `activity`.

`search_words` has a row for each message and each title: a tsvector of its words as `_search` makes
them, which is what the configuration 'simple' would do if it knew accents and languages without
spaces. Each word has a key of the owner before it, so that a search goes through the words of one
owner only. Triggers note in `unindexed` what was written, by servers of whatever release; the index
is written some time later, for many rows at once. Who searches has what is left of the owner
indexed first. What the index finds is looked at again.

Who indexes locks the threads as every writer does, so what it reads of them stays as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from pydantic import ValidationError

from chatkit_trio._activity import ActivityPlace
from chatkit_trio._search import Query, index_words, searchable_text

from ._postgresql_database import Transaction
from ._postgresql_statements import Cursor, Statement
from ._records import decode_item, decode_thread, owner_key

_MOST_ROWS = 200
"""So many rows are indexed at one go at most, for other writes wait meanwhile."""
_MOST_TEXT = 500_000
"""So many bytes as well, but one row at least. Of a script without spaces this takes up to a second
and makes 170,000 words; the server ends a transaction of which it hears nothing for seconds."""
_MOST_BYTES = 900_000
"""So long may the words of a text be together; a tsvector has a limit of its own at 1 MB."""
OLDER = 50
"""So many older rows of a thread are looked at together."""

THREADS_BY_ACTIVITY: LiteralString = """
    SELECT activity.active, activity.id, threads.data
    FROM activity JOIN threads ON threads.seq = activity.thread
    WHERE activity.owner = %(owner)s
    AND (activity.active, activity.id) < (%(active)s, %(id)s)
    ORDER BY activity.active DESC, activity.id DESC LIMIT %(limit)s::bigint
"""

_IS_BEHIND: LiteralString = """
    SELECT EXISTS (SELECT FROM unindexed WHERE owner = %(owner)s)
"""
_THREADS_THAT_MATCH: LiteralString = """
    SELECT activity.active, activity.id, found.thread, threads.data,
        items.seq, items.id, items.data
    FROM (
        SELECT thread, max(item) AS newest FROM search_words
        WHERE words @@ %(terms)s::tsquery GROUP BY thread
    ) AS found
    JOIN activity ON activity.thread = found.thread
    JOIN threads ON threads.seq = found.thread
    LEFT JOIN items ON items.thread = found.thread AND items.seq = found.newest
    WHERE activity.owner = %(owner)s
    AND (activity.active, activity.id) < (%(active)s, %(id)s)
    ORDER BY activity.active DESC, activity.id DESC LIMIT %(limit)s::bigint
"""
_OLDER_ITEMS: LiteralString = """
    SELECT items.seq, items.id, items.data
    FROM search_words
    JOIN threads ON threads.seq = search_words.thread AND threads.owner = %(owner)s
    JOIN items ON items.thread = search_words.thread AND items.seq = search_words.item
    WHERE search_words.thread = %(thread)s AND search_words.item < %(newest)s
    AND search_words.words @@ %(terms)s::tsquery
    ORDER BY search_words.item DESC LIMIT %(limit)s::bigint
"""

_LOCK_THREADS: LiteralString = """
    SELECT seq FROM threads WHERE seq IN (
        SELECT thread FROM unindexed WHERE owner = %(owner)s
        ORDER BY owner, thread, item LIMIT %(most)s::bigint
    )
    ORDER BY seq FOR NO KEY UPDATE
"""
_LOCK_IDLE_THREADS: LiteralString = """
    SELECT seq FROM threads WHERE seq IN (
        SELECT thread FROM unindexed ORDER BY owner, thread, item LIMIT %(most)s::bigint
    )
    ORDER BY seq FOR NO KEY UPDATE SKIP LOCKED
"""
# LATERAL: one range of the index for each thread, whatever the server believes about the table,
# which is empty at one moment and long at the next.
_NOTED: LiteralString = """
    SELECT owner, thread, item, item_text, thread_text
    FROM (
        SELECT *, sum(size) OVER (ROWS UNBOUNDED PRECEDING) AS so_far
        FROM (
            SELECT threads.owner, noted.thread, noted.item, items.data AS item_text, title.*,
                coalesce(octet_length(items.data), octet_length(title.thread_text), 0) AS size
            FROM threads
            CROSS JOIN LATERAL (
                SELECT thread, item FROM unindexed
                WHERE unindexed.owner = threads.owner AND unindexed.thread = threads.seq
                ORDER BY owner, thread, item LIMIT %(most)s::bigint
            ) AS noted
            CROSS JOIN LATERAL (
                SELECT CASE WHEN noted.item = 0 THEN threads.data END AS thread_text
            ) AS title
            LEFT JOIN items ON items.thread = noted.thread AND items.seq = noted.item
            WHERE threads.seq = ANY(%(threads)s::bigint[])
            LIMIT %(most)s::bigint
        ) AS noted
    ) AS summed
    WHERE so_far <= %(most_text)s::bigint OR so_far = size
"""
_INDEX: LiteralString = """
    INSERT INTO search_words (thread, item, words)
    SELECT thread, item, array_to_tsvector(string_to_array(words, ' '))
    FROM unnest(%(threads)s::bigint[], %(items)s::bigint[], %(words)s::text[])
        AS new (thread, item, words)
    WHERE words <> ''
    ON CONFLICT (thread, item) DO UPDATE SET words = excluded.words
"""
_DROP: LiteralString = """
    DELETE FROM search_words
    USING unnest(%(threads)s::bigint[], %(items)s::bigint[], %(words)s::text[])
        AS new (thread, item, words)
    WHERE search_words.thread = new.thread AND search_words.item = new.item AND new.words = ''
"""
_FORGET: LiteralString = """
    DELETE FROM unindexed
    USING unnest(%(owners)s::text[], %(threads)s::bigint[], %(items)s::bigint[])
        AS done (owner, thread, item)
    WHERE unindexed.owner = done.owner AND unindexed.thread = done.thread
    AND unindexed.item = done.item
"""


def load_by_activity(owner: str, limit: int, behind: ActivityPlace) -> tuple[Statement, ...]:
    parameters = {**_behind(owner, behind), "limit": limit}
    return (Statement(THREADS_BY_ACTIVITY, parameters),)


def active_threads(cursors: Sequence[Cursor]) -> list[tuple[ActivityPlace, str]]:
    """Return (place, text) of threads."""
    return [(ActivityPlace(active, id_), text) for active, id_, text in cursors[0]]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A thread that the index has named."""

    place: ActivityPlace
    thread: int
    thread_text: str
    items: list[tuple[int, str, str]]
    """The number, id and text of the newest item that the index means; none if it's the title."""


def search(owner: str, query: Query, limit: int, behind: ActivityPlace) -> tuple[Statement, ...]:
    """Ask whether something of the owner has to be indexed, and for the threads that match."""
    parameters = {**_behind(owner, behind), "terms": _terms(owner, query), "limit": limit}
    return Statement(_IS_BEHIND, parameters), Statement(_THREADS_THAT_MATCH, parameters)


def candidates(cursors: Sequence[Cursor]) -> list[Candidate] | None:
    """Return the threads, or None if the index has to be brought up to date before."""
    is_behind, rows = cursors
    if is_behind.fetchone() == (True,):
        return None
    return [
        Candidate(
            ActivityPlace(active, id_), thread, text, [] if item[1] is None else [tuple(item)]
        )
        for active, id_, thread, text, *item in rows
    ]


def older_items(owner: str, query: Query, thread: int, newest: int) -> tuple[Statement, ...]:
    """Ask for (number, id, text) of older items of a thread that the index means."""
    parameters = {
        "owner": owner,
        "terms": _terms(owner, query),
        "thread": thread,
        "newest": newest,
        "limit": OLDER,
    }
    return (Statement(_OLDER_ITEMS, parameters),)


def index_some(tx: Transaction, owner: str | None = None) -> bool:
    """Index some of what was noted of an owner; of threads nobody writes to, if none is given.

    Return whether there is more of the owner.
    """
    lock = _LOCK_IDLE_THREADS if owner is None else _LOCK_THREADS
    most = {"owner": owner, "most": _MOST_ROWS, "most_text": _MOST_TEXT}
    threads = [seq for (seq,) in tx.look(Statement(lock, most))[0]]
    noted = tx.look(Statement(_NOTED, {"threads": threads, **most}))[0].fetchall()
    rows = {
        "owners": [its_owner for its_owner, *_ in noted],
        "threads": [thread for _, thread, *_ in noted],
        "items": [item for _, _, item, *_ in noted],
        "words": [_words(its_owner, *texts) for its_owner, _, _, *texts in noted],
    }
    *_, is_behind = tx.finish(
        Statement(_DROP, rows),
        Statement(_INDEX, rows),
        Statement(_FORGET, rows),
        Statement(_IS_BEHIND, most),
    )
    return is_behind.fetchone() == (True,)


def _words(owner: str, item_text: str | None, thread_text: str | None) -> str:
    key, size = owner_key(owner), 0
    words: list[str] = []
    for word in sorted(index_words(text_of(item_text, thread_text))):
        size += len(key) + len(word.encode()) + 1
        if size > _MOST_BYTES:
            break
        words.append(key + word)
    return " ".join(words)


def text_of(item_text: str | None, thread_text: str | None) -> str:
    """Return what is searched of an item, or of a thread if there is no item."""
    try:
        if item_text is not None:
            return searchable_text(decode_item(item_text))
        return "" if thread_text is None else decode_thread(thread_text).title or ""
    except ValidationError:  # of a newer release: it can't be loaded either
        return ""


def _behind(owner: str, behind: ActivityPlace) -> dict[str, object]:
    return {"owner": owner, "active": behind.active, "id": behind.thread_id}


def _terms(owner: str, query: Query) -> str:
    """Return a tsquery; a word has no character that means something in one."""
    key = owner_key(owner)
    return " & ".join(f"'{key}{term.word}'{':*' * term.is_prefix}" for term in query.terms())
