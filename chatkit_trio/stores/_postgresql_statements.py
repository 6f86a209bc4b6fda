"""SQL with its parameters, and how several statements travel together."""

from __future__ import annotations

import select
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.pq import TransactionStatus

from ._postgresql_calls import Connection

Cursor = psycopg.Cursor[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement; its parameters are written `%(name)s`."""

    sql: LiteralString
    parameters: Mapping[str, object] = field(default_factory=dict)

    def send(self, connection: Connection) -> Cursor:
        return connection.execute(self.sql, self.parameters or None)


def in_one_trip(connection: Connection, statements: Sequence[Statement]) -> list[Cursor]:
    """Send all statements, then wait for all answers; the first that fails ends the rest."""
    if len(statements) == 1:
        return [statements[0].send(connection)]
    with pipeline(connection):
        return [statement.send(connection) for statement in statements]


@contextmanager
def pipeline(connection: Connection) -> Iterator[psycopg.Pipeline]:
    """Send without waiting; the connection is closed if a statement fails.

    psycopg takes a statement for prepared that it has sent behind one that failed, and the server
    has skipped it.
    """
    try:
        with connection.pipeline() as inner:
            yield inner
    except psycopg.Error:
        connection.close()
        raise


@contextmanager
def undone(connection: Connection) -> Iterator[None]:
    """Undo at the end what hasn't been committed by then."""
    try:
        yield
    finally:
        status = connection.info.transaction_status
        if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            with suppress(psycopg.Error):  # what is lost on the way is undone by the server
                connection.execute("ROLLBACK")


def is_alive(connection: Connection) -> bool:
    """Say whether the connection is as it was left, without a round trip.

    A server that has gone away has closed it, so there is something to read.
    """
    with suppress(psycopg.Error):
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if poll.poll(0):
            connection.execute("")
        return True
    return False
