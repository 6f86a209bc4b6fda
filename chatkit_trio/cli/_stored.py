"""What a database holds, of all owners: read as it is, beside the servers that use it.

Unlike a store, this shows everybody's threads, because the operator asks and not a user; and an
item is never shortened. Both databases have the same tables, so both get the same queries. What is
written goes through a store.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, LiteralString, TypeAlias

import click

from chatkit_trio.errors import StoreError
from chatkit_trio.store import Store
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.stores._records import decode_item, decode_thread
from chatkit_trio.types import ThreadItem, ThreadMetadata

from ._database_file import check_name, database_file
from ._plain import invalid

_BESIDE_THREADS = ("turns", "unstorable")

_Rows: TypeAlias = Callable[[LiteralString, tuple[Any, ...]], Iterable[tuple[Any, ...]]]
_HOUR = 3600.0  # seconds; whoever reads an export may be slow
_ALL = 2**62  # more than there are

_THREADS = """
    SELECT id, owner, data, (SELECT count(*) FROM items WHERE items.thread = threads.seq)
    FROM threads
"""


@dataclass(frozen=True, slots=True)
class StoredThread:
    """A thread, without its items."""

    id: str
    owner: str
    metadata: ThreadMetadata
    item_count: int

    @classmethod
    def of(cls, thread_id: str, owner: str, text: str, item_count: int) -> StoredThread:
        """Return what a row says. Raises `click.ClickException` if that can't be understood."""
        try:
            return cls(thread_id, owner, decode_thread(text), item_count)
        except ValueError as error:
            raise click.ClickException(
                f"thread {thread_id} can't be read: {invalid(error)}"
            ) from error

    @property
    def title(self) -> str | None:
        return self.metadata.title

    @property
    def created_at(self) -> str:
        """The time as JSON has it, such as `2026-05-04T12:00:00Z`."""
        told: str = self.metadata.model_dump(mode="json")["created_at"]
        return told


class StoredThreads:
    """The threads of one database, as of one moment."""

    def __init__(self, name: str, rows: _Rows, tables: Collection[str] = _BESIDE_THREADS) -> None:
        self.name = name
        self._rows = rows
        self._tables = tables

    def newest(self, limit: int = _ALL) -> Iterator[StoredThread]:
        """Yield the newest threads, the newest first."""
        rows = self._rows(_THREADS + "ORDER BY seq DESC LIMIT ?", (min(limit, _ALL),))
        return (StoredThread.of(*row) for row in rows)

    def oldest_first(self) -> Iterator[StoredThread]:
        """Yield all threads in the order in which they were made."""
        return (StoredThread.of(*row) for row in self._rows(_THREADS + "ORDER BY seq", ()))

    def thread(self, thread_id: str) -> StoredThread:
        """Return a thread. Raises `click.ClickException` if there is none."""
        with suppress(UnicodeEncodeError):  # such a name is no text that a database could hold
            for row in self._rows(_THREADS + "WHERE id = ?", (thread_id,)):
                return StoredThread.of(*row)
        raise click.ClickException(f"{self.name} has no thread {thread_id}")

    def items(self, thread_id: str) -> Iterator[ThreadItem]:
        """Yield all items of a thread, hidden ones too, the oldest first."""
        query: LiteralString = (
            "SELECT items.id, items.data FROM items JOIN threads ON threads.seq = items.thread"
            " WHERE threads.id = ? ORDER BY items.seq"
        )
        for item_id, text in self._rows(query, (thread_id,)):
            try:
                yield decode_item(text)
            except ValueError as error:
                raise click.ClickException(
                    f"item {item_id} of thread {thread_id} can't be read: {invalid(error)}"
                ) from error

    def attachments(self) -> Iterator[tuple[str, str, str]]:
        """Yield id, owner and JSON of all attachments."""
        query: LiteralString = "SELECT id, owner, data FROM attachments ORDER BY id"
        return ((row[0], row[1], row[2]) for row in self._rows(query, ()))

    def unsettled(self) -> list[str]:
        """Return the thread of each answer that isn't all in its thread yet.

        A server is producing it, or the process that did has died.
        """
        return self._threads_in("turns", "SELECT thread_id FROM turns")

    def refused(self) -> list[str]:
        """Return the thread of each item that the store has refused and set aside."""
        return self._threads_in("unstorable", "SELECT thread_id FROM unstorable")

    def _threads_in(self, table: str, query: LiteralString) -> list[str]:
        if table not in self._tables:
            return []
        return [thread_id for (thread_id,) in self._rows(query, ())]


def is_url(database: str) -> bool:
    """Whether a database is one of PostgreSQL, and not a file of SQLite."""
    return database.startswith(("postgresql://", "postgres://"))


@contextmanager
def stored_threads(database: str, schema: str) -> Iterator[StoredThreads]:
    """Open a database for reading; it isn't changed. Raises `click.ClickException`."""
    opened = _postgresql(database, schema) if is_url(database) else _sqlite(database)
    with opened as threads:
        yield threads


def store_of(database: str, schema: str) -> Store[str]:
    """Return the store of a database; contexts are owners. Raises `click.ClickException`."""
    if not is_url(database):
        check_name(database)
        return SQLiteStore(database, owner=lambda owner: owner)
    require_psycopg()
    from chatkit_trio.stores import PostgreSQLStore

    try:
        return PostgreSQLStore(database, owner=lambda owner: owner, schema=schema)
    except ValueError as error:
        raise click.UsageError(str(error)) from error


@contextmanager
def _sqlite(database: str) -> Iterator[StoredThreads]:
    check_name(database)
    path = Path(database)
    if not path.exists():
        raise click.ClickException(f"there is no file {path}")
    with database_file(path) as file:
        if not file.is_ours:
            raise click.ClickException(f"{path} isn't the file of a SQLiteStore")
        yield StoredThreads(str(path), file.rows, file.tables)


@contextmanager
def _postgresql(url: str, schema: str) -> Iterator[StoredThreads]:
    require_psycopg()
    import psycopg

    from chatkit_trio.stores._postgresql_errors import as_store_errors
    from chatkit_trio.stores._postgresql_settings import Settings, connect

    try:
        settings = Settings(
            url,
            schema,
            connect_timeout=10,
            statement_timeout=_HOUR,
            lock_timeout=_HOUR,
            lease_timeout=3 * _HOUR,
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    try:
        with as_store_errors(settings.name), connect(settings) as connection:
            connection.autocommit = False
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            numbers = count()

            def rows(query: LiteralString, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
                # With a name the rows stay on the server until they are asked for.
                with connection.cursor(name=f"rows{next(numbers)}") as cursor:
                    yield from cursor.execute(query.replace("?", "%s"), values)

            yield StoredThreads(settings.name, rows)
    except StoreError as error:
        raise click.ClickException(str(error)) from error


def require_psycopg() -> None:
    """Raise `click.ClickException` unless the driver of PostgreSQL is installed."""
    try:
        import psycopg  # noqa: F401
    except ImportError as error:
        raise click.ClickException(
            f"psycopg is needed ({error}): pip install 'chatkit-trio[postgres]'"
        ) from error
