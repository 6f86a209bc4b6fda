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
    with connection.pipeline():
        return [statement.send(connection) for statement in statements]


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
