"""The tables of the SQLite store, version by version, and the step from each to the next.

A file says in `PRAGMA user_version` which version it has. Steps are only ever added: a released
one never changes, or files in the field would differ from what the code believes.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from chatkit_trio.errors import StoreError

APPLICATION_ID = 0x43_6B_54_72  # "CkTr", shown by file(1) and told apart from other programs' files


def _create_threads_items_and_attachments(connection: sqlite3.Connection) -> None:
    # seq is the rowid: insertion order for paging, and the last column of every index.
    connection.execute(
        """
        CREATE TABLE threads (
            seq INTEGER PRIMARY KEY,
            id TEXT NOT NULL UNIQUE,
            owner TEXT NOT NULL,
            data TEXT NOT NULL
        )
        """
    )
    connection.execute("CREATE INDEX threads_of_owner ON threads (owner)")
    connection.execute(
        """
        CREATE TABLE items (
            seq INTEGER PRIMARY KEY,
            thread INTEGER NOT NULL REFERENCES threads (seq) ON DELETE CASCADE,
            id TEXT NOT NULL,
            data TEXT NOT NULL,
            UNIQUE (thread, id)
        )
        """
    )
    connection.execute("CREATE INDEX items_of_thread ON items (thread)")
    connection.execute(
        """
        CREATE TABLE attachments (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            data TEXT NOT NULL
        )
        """
    )


def _create_turns(connection: sqlite3.Connection) -> None:
    # thread_id is no reference: a turn may begin before its thread is saved.
    connection.execute(
        """
        CREATE TABLE turns (
            id TEXT PRIMARY KEY,
            thread_id TEXT NOT NULL,
            owner TEXT NOT NULL,
            instance TEXT NOT NULL,
            abandoned INTEGER NOT NULL DEFAULT 0,
            items TEXT NOT NULL DEFAULT '[]'
        )
        """
    )
    connection.execute("CREATE INDEX turns_of_thread ON turns (thread_id)")


def _create_requests_and_unstorable(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE turns ADD COLUMN changed_items TEXT NOT NULL DEFAULT '[]'")
    connection.execute("ALTER TABLE turns ADD COLUMN reason TEXT")
    connection.execute(
        """
        CREATE TABLE requests (
            owner TEXT NOT NULL,
            key TEXT NOT NULL,
            digest TEXT NOT NULL,
            thread_id TEXT NOT NULL,
            item_id TEXT NOT NULL,
            turn_id TEXT NOT NULL,
            answer BLOB,
            begun INTEGER NOT NULL,
            recorded_at REAL NOT NULL,
            PRIMARY KEY (owner, key)
        )
        """
    )
    connection.execute("CREATE INDEX requests_by_age ON requests (recorded_at)")
    connection.execute(
        """
        CREATE TABLE unstorable (
            seq INTEGER PRIMARY KEY,
            owner TEXT NOT NULL,
            thread_id TEXT NOT NULL,
            item_id TEXT NOT NULL,
            turn_id TEXT NOT NULL,
            text TEXT NOT NULL,
            error TEXT NOT NULL,
            UNIQUE (owner, thread_id, turn_id, item_id)
        )
        """
    )


def _create_line_and_messages(connection: sqlite3.Connection) -> None:
    # holds is the thread of a turn that was let in by Coordination.begin: one at a time. Older
    # entries hold nothing, for there may be several of one thread.
    connection.execute("ALTER TABLE turns ADD COLUMN holds TEXT")
    connection.execute("CREATE UNIQUE INDEX turns_that_hold ON turns (holds)")
    connection.execute(
        """
        CREATE TABLE line (
            seq INTEGER PRIMARY KEY,
            turn_id TEXT NOT NULL UNIQUE,
            thread_id TEXT NOT NULL,
            owner TEXT NOT NULL,
            instance TEXT NOT NULL
        )
        """
    )
    connection.execute("CREATE INDEX line_of_thread ON line (thread_id)")
    # AUTOINCREMENT: a number that comes again would look like no change.
    connection.execute(
        """
        CREATE TABLE messages (
            seq INTEGER PRIMARY KEY AUTOINCREMENT,
            instance TEXT NOT NULL,
            data BLOB NOT NULL
        )
        """
    )
    connection.execute("CREATE INDEX messages_of_instance ON messages (instance)")


def _create_rates_slots_and_settled(connection: sqlite3.Connection) -> None:
    connection.execute(
        """
        CREATE TABLE rates (
            owner TEXT NOT NULL,
            kind TEXT NOT NULL,
            full_at REAL NOT NULL,
            written_at REAL NOT NULL,
            PRIMARY KEY (owner, kind)
        ) WITHOUT ROWID
        """
    )
    # until is NULL for a slot that is kept until it is freed.
    connection.execute(
        """
        CREATE TABLE slots (
            id TEXT PRIMARY KEY,
            owner TEXT NOT NULL,
            kind TEXT NOT NULL,
            instance TEXT NOT NULL,
            replaces TEXT,
            until REAL,
            taken_at REAL NOT NULL
        )
        """
    )
    connection.execute("CREATE INDEX slots_of_owner ON slots (owner, kind)")
    connection.execute(
        """
        CREATE TABLE settled (
            turn_id TEXT PRIMARY KEY,
            settled_at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER))
        ) WITHOUT ROWID
        """
    )
    connection.execute("CREATE INDEX settled_by_age ON settled (settled_at)")


def _create_places_of_what_is_gone(connection: sqlite3.Connection) -> None:
    # A page may go on behind what was deleted since the page before.
    connection.execute(
        """
        CREATE TABLE gone_items (
            thread INTEGER NOT NULL REFERENCES threads (seq) ON DELETE CASCADE,
            id TEXT NOT NULL,
            seq INTEGER NOT NULL,
            gone_at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER)),
            PRIMARY KEY (thread, id)
        ) WITHOUT ROWID
        """
    )
    connection.execute(
        """
        CREATE TABLE gone_threads (
            owner TEXT NOT NULL,
            id TEXT NOT NULL,
            seq INTEGER NOT NULL,
            gone_at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER)),
            PRIMARY KEY (owner, id)
        ) WITHOUT ROWID
        """
    )
    for table in ("gone_items", "gone_threads"):
        connection.execute(f"CREATE INDEX {table}_by_seq ON {table} (seq)")
        connection.execute(f"CREATE INDEX {table}_by_age ON {table} (gone_at)")


def _made(text: str) -> str:
    """Return SQL for when a thread or an item was made, and for what comes next in its text.

    The time is the first field of that name: it stands before all that an object holds, and what
    looks like it in a string has a backslash before its quotes. An item's type comes next.
    """
    start = '"created_at":"'
    return f"substr({text}, instr({text}, '{start}') + {len(start)}, 64)"


def _made_at(text: str) -> str:
    """Return SQL for the time, without the zone, which is always UTC."""
    made = _made(text)
    return f"rtrim(substr({made}, 1, instr({made}, '\"') - 1), 'Z')"


def _add_activity_and_notes_for_the_index(connection: sqlite3.Connection) -> None:
    hidden = """ LIKE '%","type":"%hidden_context%'"""
    connection.execute("ALTER TABLE threads ADD COLUMN active TEXT NOT NULL DEFAULT ''")
    connection.execute(
        f"""
        UPDATE threads SET active = coalesce(
            (
                SELECT {_made_at("items.data")} FROM items
                WHERE items.thread = threads.seq AND NOT {_made("items.data")} {hidden}
                ORDER BY items.seq DESC LIMIT 1
            ),
            {_made_at("threads.data")}
        )
        """
    )
    connection.execute("CREATE INDEX threads_by_activity ON threads (owner, active, id)")
    # What the index for searches hasn't got as it is now: all items that are newer than upto, and
    # what is in unindexed, a thread's number and an item's in its lower 32 bits, 0 for the title.
    connection.execute("CREATE TABLE indexed (upto INTEGER NOT NULL)")
    connection.execute("INSERT INTO indexed (upto) VALUES (0)")
    connection.execute(
        """
        CREATE TABLE unindexed (
            owner TEXT NOT NULL,
            id INTEGER NOT NULL,
            PRIMARY KEY (owner, id)
        ) WITHOUT ROWID
        """
    )
    # Triggers, because the processes of the version before write on into a file that is open. The
    # number of a deleted item may be given to a new one.
    note_item = """
        INSERT INTO unindexed (owner, id)
        SELECT owner, new.thread << 32 | new.seq FROM threads
        WHERE seq = new.thread AND new.seq <= (SELECT upto FROM indexed)
        ON CONFLICT (owner, id) DO NOTHING;
    """
    note_title = """
        INSERT INTO unindexed (owner, id) VALUES (new.owner, new.seq << 32)
        ON CONFLICT (owner, id) DO NOTHING;
    """
    connection.execute(
        f"""
        CREATE TRIGGER item_added AFTER INSERT ON items BEGIN
            UPDATE threads SET active = {_made_at("new.data")}
            WHERE seq = new.thread AND NOT {_made("new.data")} {hidden};
            {note_item}
        END
        """
    )
    connection.execute(
        f"CREATE TRIGGER item_changed AFTER UPDATE OF data ON items BEGIN {note_item} END"
    )
    # The owner of an item is gone by then if its thread is, and nobody needs it.
    connection.execute(
        """
        CREATE TRIGGER item_deleted AFTER DELETE ON items
        WHEN old.seq <= (SELECT upto FROM indexed) BEGIN
            INSERT INTO unindexed (owner, id) VALUES ('', old.thread << 32 | old.seq)
            ON CONFLICT (owner, id) DO NOTHING;
        END
        """
    )
    connection.execute(
        f"""
        CREATE TRIGGER thread_added AFTER INSERT ON threads BEGIN
            UPDATE threads SET active = {_made_at("new.data")} WHERE seq = new.seq;
            {note_title}
        END
        """
    )
    connection.execute(
        f"""
        CREATE TRIGGER thread_changed AFTER UPDATE OF data ON threads
        WHEN old.data IS NOT new.data BEGIN {note_title} END
        """
    )
    connection.execute(
        """
        CREATE TRIGGER thread_deleted AFTER DELETE ON threads BEGIN
            INSERT INTO unindexed (owner, id) VALUES ('', old.seq << 32)
            ON CONFLICT (owner, id) DO NOTHING;
        END
        """
    )


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (
    _create_threads_items_and_attachments,
    _create_turns,
    _create_requests_and_unstorable,
    _create_line_and_messages,
    _create_rates_slots_and_settled,
    _create_places_of_what_is_gone,
    _add_activity_and_notes_for_the_index,
)
"""Step n takes a file of version n to version n + 1."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the current version, inside the caller's transaction.

    Raises `StoreError` for a file of a newer version or of another program.
    """
    version = check(connection)
    for step in MIGRATIONS[version:]:
        step(connection)
    if version < len(MIGRATIONS):
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")


def check(connection: sqlite3.Connection) -> int:
    """Return the version of the file, inside the caller's transaction. Changes nothing.

    Raises `StoreError` for a file of a newer version or of another program.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreError("it is an SQLite file of another program; give the store its own file")
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    check_version(version)
    return version


def check_version(version: int) -> None:
    """Raise `StoreError` for a version that only a newer chatkit_trio knows."""
    if version > len(MIGRATIONS):
        raise StoreError(
            f"its schema has version {version}, and this chatkit_trio knows versions up to"
            f" {len(MIGRATIONS)}: a newer chatkit_trio wrote it, so upgrade this one"
        )
