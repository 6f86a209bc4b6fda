"""The file of an SQLite store, read without a store; a server may be using it meanwhile.

The file isn't changed. (Asking which processes live removes the lock files of dead ones.)
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import click

from chatkit_trio.errors import StoreError
from chatkit_trio.stores._instance_lock import live_instances
from chatkit_trio.stores._sqlite_file import taken_file
from chatkit_trio.stores._sqlite_schema import APPLICATION_ID


class DatabaseFile:
    """An open file, for reading."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    @property
    def is_ours(self) -> bool:
        """Whether an SQLite store made this file."""
        return self._number("PRAGMA application_id") == APPLICATION_ID

    @property
    def schema_version(self) -> int:
        """The version of the file's tables."""
        return self._number("PRAGMA user_version")

    @property
    def tables(self) -> set[str]:
        """The names of the file's tables; a file of an older version has fewer."""
        return {name for (name,) in self.rows("SELECT name FROM sqlite_master", ())}

    def rows(self, query: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query. All queries of one file see the same moment."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")
        # Without `yield from`, which would close the cursor too, maybe after the connection.
        for row in self._connection.execute(query, values):  # noqa: UP028
            yield row

    def abandoned_turns(self) -> int:
        """Return how many answers were left unfinished by processes that have ended."""
        try:
            live = live_instances(self._path)
        except OSError as error:
            problem = f"{self._path.parent} can't be listed: {error.strerror}"
            raise click.ClickException(problem) from error
        rows = self._connection.execute("SELECT instance, abandoned FROM turns")
        return sum(1 for instance, abandoned in rows if abandoned or instance not in live)

    def unstorable_items(self) -> int:
        """Return how many items the store has refused and set aside."""
        return self._number("SELECT count(*) FROM unstorable")

    def _number(self, query: str) -> int:
        number: int = self._connection.execute(query).fetchone()[0]
        return number


@contextmanager
def database_file(path: Path) -> Iterator[DatabaseFile]:
    """Open a file for reading. Raises `click.ClickException` if it isn't a store's.

    Even for reading, SQLite must not see a file of another program: it would leave a log beside it.
    """
    try:
        with ExitStack() as stack:
            _take(path, stack)
            uri = f"{path.resolve().as_uri()}?mode=ro"
            connection = stack.enter_context(closing(sqlite3.connect(uri, uri=True)))
            yield DatabaseFile(path, connection)
    except (StoreError, sqlite3.Error) as error:
        raise click.ClickException(f"{path} can't be read: {error}") from error


def _take(path: Path, stack: ExitStack) -> None:
    try:
        stack.enter_context(taken_file(path))
    except OSError as error:
        raise click.ClickException(f"{path} can't be read: {error.strerror}") from error


def belongs_to(path: Path, database: Path) -> bool:
    """Whether this is the database, or a file that SQLite or a store keeps beside it."""
    found, real = (Path(os.path.realpath(each)) for each in (path, database))
    if found == real or (found.exists() and real.exists() and found.samefile(real)):
        return True
    ending = found.name.removeprefix(real.name)
    return found.parent == real.parent and _BESIDE.fullmatch(ending) is not None


_BESIDE = re.compile("-(wal|shm|journal|instance-.*)")


def check_name(database: str) -> None:
    """Raise `click.UsageError` for what names no file, though SQLite would take it.

    A URL is none either; those of PostgreSQL don't come here.
    """
    scheme, is_url, _ = database.partition("://")
    if is_url:
        raise click.UsageError(
            "a URL has to be one of PostgreSQL, such as postgresql://user@host:5432/database, and"
            f" this one begins with {scheme}://"
        )
    if database in ("", ":memory:"):
        raise click.UsageError(f"this needs a file to keep threads in, and {database!r} is none")
