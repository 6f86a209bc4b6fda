"""The tables of the PostgreSQL store, version by version, and the step from each to the next.

The table `migrations` says which version a schema has. Steps are only ever added, for a released
one never changes; and a step must leave the tables usable for the release before it, whose servers
run on while the new ones start.
"""

from __future__ import annotations

import hashlib
from typing import LiteralString

from psycopg import sql

from chatkit_trio.errors import StoreError

from ._postgresql_calls import Connection

OLDEST_SERVER = 14
"""The first major version of PostgreSQL that has all that is used here."""

_FIRST: tuple[LiteralString, ...] = (
    # All that is compared or sorted has COLLATE "C": an index stays right whatever becomes of the
    # operating system's collations. seq is the order of insertion, for paging.
    """
    CREATE TABLE threads (
        seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        id text COLLATE "C" NOT NULL UNIQUE,
        owner text COLLATE "C" NOT NULL,
        data text NOT NULL
    )
    """,
    "CREATE INDEX threads_of_owner ON threads (owner, seq)",
    """
    CREATE TABLE items (
        thread bigint NOT NULL REFERENCES threads (seq) ON DELETE CASCADE,
        seq bigint GENERATED ALWAYS AS IDENTITY,
        id text COLLATE "C" NOT NULL,
        data text NOT NULL,
        PRIMARY KEY (thread, seq),
        UNIQUE (thread, id)
    )
    """,
    """
    CREATE TABLE attachments (
        id text COLLATE "C" PRIMARY KEY,
        owner text COLLATE "C" NOT NULL,
        data text NOT NULL
    )
    """,
    """
    CREATE TABLE nodes (
        id text COLLATE "C" PRIMARY KEY,
        lock bigint NOT NULL,
        lease interval NOT NULL,
        seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        returned_at timestamptz,
        pinged_at timestamptz
    ) WITH (fillfactor = 50)
    """,
    # thread_id and node are no references: a turn may begin before its thread is saved, and its
    # record stays when its node is gone.
    """
    CREATE TABLE turns (
        seq bigint GENERATED ALWAYS AS IDENTITY,
        id text COLLATE "C" PRIMARY KEY,
        thread_id text COLLATE "C" NOT NULL,
        owner text COLLATE "C" NOT NULL,
        node text COLLATE "C" NOT NULL,
        admitted boolean NOT NULL,
        abandoned boolean NOT NULL DEFAULT false,
        items text NOT NULL DEFAULT '[]',
        changed_items text NOT NULL DEFAULT '[]',
        reason text
    ) WITH (fillfactor = 50)
    """,
    "CREATE UNIQUE INDEX one_turn_of_thread ON turns (thread_id) WHERE admitted",
    "CREATE INDEX turns_of_thread ON turns (thread_id)",
    "CREATE INDEX turns_of_node ON turns (node)",
    """
    CREATE TABLE places (
        seq bigint GENERATED ALWAYS AS IDENTITY,
        turn_id text COLLATE "C" PRIMARY KEY,
        thread_id text COLLATE "C" NOT NULL,
        owner text COLLATE "C" NOT NULL,
        node text COLLATE "C" NOT NULL
    )
    """,
    "CREATE INDEX places_of_thread ON places (thread_id, seq)",
    """
    CREATE TABLE settled (
        turn_id text COLLATE "C" PRIMARY KEY,
        digest text NOT NULL,
        settled_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX settled_by_age ON settled (settled_at)",
    """
    CREATE TABLE messages (
        node text COLLATE "C" NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
        seq bigint GENERATED ALWAYS AS IDENTITY,
        message bytea NOT NULL,
        PRIMARY KEY (node, seq)
    )
    """,
    """
    CREATE TABLE requests (
        owner text COLLATE "C" NOT NULL,
        key text COLLATE "C" NOT NULL,
        digest text NOT NULL,
        thread_id text NOT NULL,
        item_id text NOT NULL,
        turn_id text NOT NULL,
        answer bytea,
        begun boolean NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        PRIMARY KEY (owner, key)
    )
    """,
    "CREATE INDEX requests_by_age ON requests (recorded_at)",
    """
    CREATE TABLE unstorable (
        owner text COLLATE "C" NOT NULL,
        thread_id text COLLATE "C" NOT NULL,
        turn_id text COLLATE "C" NOT NULL,
        item_id text COLLATE "C" NOT NULL,
        text text NOT NULL,
        error text NOT NULL,
        PRIMARY KEY (owner, thread_id, turn_id, item_id)
    )
    """,
)

_RATES_AND_SLOTS: tuple[LiteralString, ...] = (
    # Not logged: no commit waits for the disk, and what a crash forgets is allowed once more.
    """
    CREATE UNLOGGED TABLE rates (
        owner text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        full_at timestamptz NOT NULL,
        PRIMARY KEY (owner, kind)
    ) WITH (fillfactor = 50)
    """,
    # until is NULL for a slot that is kept until it is freed.
    """
    CREATE UNLOGGED TABLE slots (
        id text COLLATE "C" PRIMARY KEY,
        owner text COLLATE "C" NOT NULL,
        kind text COLLATE "C" NOT NULL,
        node text COLLATE "C" NOT NULL,
        replaces text,
        until timestamptz
    )
    """,
    "CREATE INDEX slots_of_owner ON slots (owner, kind)",
    "CREATE INDEX slots_of_node ON slots (node)",
)

# Where what was deleted stood, for a page that goes on behind it. The servers of the release before
# leave no places.
_PLACES_OF_WHAT_IS_GONE: tuple[LiteralString, ...] = (
    """
    CREATE TABLE gone_items (
        thread bigint NOT NULL REFERENCES threads (seq) ON DELETE CASCADE,
        id text COLLATE "C" NOT NULL,
        seq bigint NOT NULL,
        gone_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (thread, id)
    )
    """,
    "CREATE INDEX gone_items_by_age ON gone_items (gone_at)",
    """
    CREATE TABLE gone_threads (
        owner text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL,
        seq bigint NOT NULL,
        gone_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (owner, id)
    )
    """,
    "CREATE INDEX gone_threads_by_age ON gone_threads (gone_at)",
)

# What threads are sorted by, and the index for searches with what it hasn't got yet. Triggers keep
# them, because the servers of the release before write on. They read the time and the type of an
# item out of its text: the first fields of these names are its own, for what looks like them in a
# string has a backslash before its quotes. Parsing the text would fail for some that can be stored,
# and would cost more. The names of tables have their schema, for others may write in any session.
_MADE: LiteralString = """"created_at":"([^"]*)Z"(?:,"type":"([a-z_]*)")?"""

_ACTIVITY_AND_SEARCH: tuple[LiteralString, ...] = (
    """
    CREATE TABLE activity (
        thread bigint PRIMARY KEY REFERENCES threads (seq) ON DELETE CASCADE,
        owner text COLLATE "C" NOT NULL,
        id text COLLATE "C" NOT NULL,
        active text COLLATE "C" NOT NULL
    )
    """,
    # item is 0 for the title, here and below.
    """
    CREATE TABLE unindexed (
        owner text COLLATE "C" NOT NULL,
        thread bigint NOT NULL,
        item bigint NOT NULL,
        PRIMARY KEY (owner, thread, item)
    )
    """,
    """
    CREATE TABLE search_words (
        thread bigint NOT NULL,
        item bigint NOT NULL,
        words tsvector NOT NULL,
        PRIMARY KEY (thread, item)
    )
    """,
    "CREATE INDEX search_words_by_word ON search_words USING gin (words)",
    f"""
    CREATE FUNCTION thread_written() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO {{schema}}.activity (thread, owner, id, active) VALUES (
                NEW.seq, NEW.owner, NEW.id, coalesce((regexp_match(NEW.data, '{_MADE}'))[1], '')
            );
        ELSIF NEW.data = OLD.data THEN
            RETURN NULL;
        END IF;
        INSERT INTO {{schema}}.unindexed (owner, thread, item) VALUES (NEW.owner, NEW.seq, 0)
        ON CONFLICT DO NOTHING;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE FUNCTION thread_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM {schema}.unindexed WHERE owner = OLD.owner AND thread = OLD.seq;
        DELETE FROM {schema}.search_words WHERE thread = OLD.seq;
        RETURN NULL;
    END
    $$
    """,
    f"""
    CREATE FUNCTION item_written() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        made text[] := regexp_match(NEW.data, '{_MADE}');
        its_owner text;
    BEGIN
        IF TG_OP = 'INSERT' AND made[2] NOT IN ('hidden_context_item', 'sdk_hidden_context') THEN
            UPDATE {{schema}}.activity SET active = made[1] WHERE thread = NEW.thread
            RETURNING owner INTO its_owner;
        ELSE
            SELECT owner INTO its_owner FROM {{schema}}.activity WHERE thread = NEW.thread;
        END IF;
        IF made[2] IN ('user_message', 'assistant_message') THEN
            INSERT INTO {{schema}}.unindexed (owner, thread, item)
            VALUES (its_owner, NEW.thread, NEW.seq) ON CONFLICT DO NOTHING;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE FUNCTION items_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        DELETE FROM {schema}.search_words AS words USING gone
        WHERE words.thread = gone.thread AND words.item = gone.seq;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER thread_written AFTER INSERT OR UPDATE OF data ON threads
    FOR EACH ROW EXECUTE FUNCTION thread_written()
    """,
    """
    CREATE TRIGGER thread_deleted AFTER DELETE ON threads
    FOR EACH ROW EXECUTE FUNCTION thread_deleted()
    """,
    """
    CREATE TRIGGER item_written AFTER INSERT OR UPDATE OF data ON items
    FOR EACH ROW EXECUTE FUNCTION item_written()
    """,
    """
    CREATE TRIGGER items_deleted AFTER DELETE ON items
    REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION items_deleted()
    """,
    f"""
    INSERT INTO activity (thread, owner, id, active)
    SELECT threads.seq, threads.owner, threads.id, coalesce(
        (
            SELECT item.made[1]
            FROM (
                SELECT items.seq, regexp_match(items.data, '{_MADE}') AS made
                FROM items WHERE items.thread = threads.seq
            ) AS item
            WHERE item.made[2] NOT IN ('hidden_context_item', 'sdk_hidden_context')
            ORDER BY item.seq DESC LIMIT 1
        ),
        (regexp_match(threads.data, '{_MADE}'))[1],
        ''
    )
    FROM threads
    """,
    "CREATE INDEX threads_by_activity ON activity (owner, active, id)",
    """
    INSERT INTO unindexed (owner, thread, item)
    SELECT owner, seq, 0 FROM threads UNION ALL
    SELECT threads.owner, threads.seq, items.seq
    FROM items JOIN threads ON threads.seq = items.thread
    """,
)

MIGRATIONS: tuple[tuple[LiteralString, ...], ...] = (
    _FIRST,
    _RATES_AND_SLOTS,
    _PLACES_OF_WHAT_IS_GONE,
    _ACTIVITY_AND_SEARCH,
)
"""Step n takes a schema of version n to version n + 1; version 0 has no tables."""


def newest_version() -> int:
    """Return the version that this release works with."""
    return len(MIGRATIONS)


def prepare(connection: Connection, schema: str, *, may_migrate: bool) -> bool:
    """Make the tables if there are none; bring older ones up to date if that is allowed.

    Return whether they are ready now; if another process is at it, it has to be asked again. Raises
    `StoreError` for a schema of another version or of another program.
    """
    version = check(connection, schema)
    if 0 < version < len(MIGRATIONS) and not may_migrate:
        raise StoreError(
            f"the schema {schema} has version {version}, and this chatkit_trio needs version"
            f" {len(MIGRATIONS)}: run `chatkit-trio migrate`, or open the store with migrate=True"
        )
    if version == len(MIGRATIONS):
        return True
    return _migrate(connection, schema, "SELECT pg_try_advisory_xact_lock(%s)") is not None


def check(connection: Connection, schema: str) -> int:
    """Return the version of a schema; 0 if it has no tables. Changes nothing.

    Raises `StoreError` for a server or a database that can't be used, and for a schema of a newer
    version or of another program.
    """
    server = connection.info.server_version // 10_000
    if server < OLDEST_SERVER:
        raise StoreError(f"it is PostgreSQL {server}; version {OLDEST_SERVER} or newer is needed")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise StoreError(
            f"its encoding is {encoding}, which can't hold every text: make a database with"
            " createdb --encoding=UTF8 --template=template0"
        )
    version = _version(connection, schema)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"the schema {schema} has version {version}, and this chatkit_trio knows versions up to"
            f" {len(MIGRATIONS)}: a newer chatkit_trio has migrated it, so upgrade this one"
        )
    return version


def migrate(connection: Connection, schema: str) -> int:
    """Bring a schema to the current version, in one transaction; return the version it had.

    Of many who do it at the same time, each waits for the one before. Raises `StoreError` as
    `check`.
    """
    version = _migrate(connection, schema, "SELECT pg_advisory_xact_lock(%s)")
    assert version is not None
    return version


def _migrate(connection: Connection, schema: str, lock: LiteralString) -> int | None:
    """Do as `migrate`; return None if the lock isn't given."""
    with connection.transaction():
        # Steps may take their time, and so may the one whom this one waits for.
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute("SET LOCAL lock_timeout = 0")
        if connection.execute(lock, (_lock_of(schema),)).fetchone() == (False,):
            return None
        version = check(connection, schema)
        if version == len(MIGRATIONS):
            return version
        name = sql.Identifier(schema)
        exists = connection.execute("SELECT to_regnamespace(%s)", (schema,)).fetchone() != (None,)
        if not exists:
            # Not IF NOT EXISTS, which needs the right to make one even if there is one.
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(name))
        connection.execute(sql.SQL("SET LOCAL search_path TO {}").format(name))
        if version == 0:
            connection.execute(
                "CREATE TABLE migrations"
                " (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
            )
        for number, step in enumerate(MIGRATIONS[version:], version + 1):
            for statement in step:
                connection.execute(sql.SQL(statement).format(schema=name))
            connection.execute("INSERT INTO migrations (version) VALUES (%s)", (number,))
        return version


def _version(connection: Connection, schema: str) -> int:
    # A schema that isn't ours may have a table `migrations` of another shape, or of other numbers.
    ours = {"migrations", "threads", "items"}
    query = (
        "SELECT relname FROM pg_class WHERE relnamespace = to_regnamespace(%s) AND relkind = 'r'"
    )
    tables = {name for (name,) in connection.execute(query, (schema,))}
    if not tables:
        return 0
    if not ours <= tables:
        raise StoreError(
            f"the schema {schema} has tables of another program: choose another with schema="
        )
    table = sql.Identifier(schema, "migrations")
    newest = sql.SQL("SELECT coalesce(max(version), 0) FROM {}").format(table)
    row = connection.execute(newest).fetchone()
    assert row is not None
    version: int = row[0]
    return version


def _lock_of(schema: str) -> int:
    digest = hashlib.sha256(f"chatkit_trio migrations of {schema}".encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)
