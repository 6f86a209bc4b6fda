"""One PostgreSQL database: its connections, and how a transaction runs on one of them.

A transaction is one function that runs in one worker thread. It sends its statements in pipelines,
so what needs no decision in between costs one round trip, the commit included. Nothing here knows
what is stored but the fence: the row of the turn in whose name is written.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, LiteralString, Self, TypeVar

import psycopg
import trio
from psycopg import errors, sql
from psycopg_pool import ConnectionPool, PoolTimeout

from chatkit_trio.errors import StoreError

from ._postgresql_calls import Call, Connection, Workers
from ._postgresql_errors import (
    CannotConnectError,
    as_connection_errors,
    as_store_errors,
    fenced,
)
from ._postgresql_node import Node
from ._postgresql_schema import prepare
from ._postgresql_settings import Settings, begin_session, connect
from ._postgresql_statements import Cursor, Statement, in_one_trip, is_alive, pipeline, undone

T = TypeVar("T")

logger = logging.getLogger(__name__)

_WRITES_BEFORE_UPKEEP = 128
"""After so many writes the thread that has done the last one does what can be done later."""

_TRIES = 5
"""How often a transaction is begun anew that another has undone."""

_LOOK_INTERVAL = 0.25
"""Seconds after which who waits for a connection looks whether its caller has left, and who waits
for the tables whether they are there."""

_GLANCE = 0.001
"""Seconds that a connection is waited for by who has no time left for it."""

_GRACE = 5.0
"""Seconds that the server has, after its own time limits, before a connection is cut."""

_CLOSING_TIMEOUT = 10.0
"""Seconds that closing may take: the pool waits half of them for its threads, and then there has
to be time to leave, however short the lease is."""

_BEGIN = Statement("BEGIN")
_BEGIN_READING = Statement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
_COMMIT = Statement("COMMIT")

_UNDONE_BY_OTHERS = (
    errors.DeadlockDetected,
    errors.SerializationFailure,
    # Somebody has inserted the row between our look and our write: look again.
    errors.UniqueViolation,
)

# The division fails if the turn has no record here, and with it all that comes behind it in the
# pipeline, the commit included. The lock makes a take-over wait for that commit.
_FENCE: LiteralString = """
    SELECT 1 / count(*) FROM (
        SELECT FROM turns WHERE id = %(turn)s AND node = %(node)s AND NOT abandoned FOR SHARE
    ) AS record
"""


class Transaction:
    """The inside of one transaction: any number of looks, then one `finish`."""

    def __init__(self, connection: Connection, fence: Statement | None) -> None:
        self._connection = connection
        self._fence = fence
        self._stack = ExitStack()
        self._pipeline: psycopg.Pipeline | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Undo what isn't committed."""
        self._stack.__exit__(exc_type, exc_value, traceback)

    def look(self, *statements: Statement) -> list[Cursor]:
        """Carry out statements in one round trip, and keep the transaction open."""
        # One pipeline for the whole transaction: the end of psycopg's sends a message behind its
        # last one, after which the server doesn't count idle_in_transaction_session_timeout.
        begun = self._begun()
        cursors = [statement.send(self._connection) for statement in statements]
        begun.sync()
        return cursors

    def finish(self, *statements: Statement, ending: Sequence[Statement] = ()) -> list[Cursor]:
        """Carry out statements and commit, in one round trip; undone unless the fence holds.

        What may end the record that the fence asks for is `ending`: it comes behind the fence.
        """
        if len(statements) == 1 and not ending and self._pipeline is None and self._fence is None:
            return [statements[0].send(self._connection)]
        self._begun()
        cursors = [statement.send(self._connection) for statement in statements]
        if self._fence is not None:
            self._fence.send(self._connection)
        cursors += [statement.send(self._connection) for statement in ending]
        _COMMIT.send(self._connection)
        self._stack.close()
        return cursors

    def _begun(self) -> psycopg.Pipeline:
        if self._pipeline is None:
            self._stack.enter_context(undone(self._connection))
            self._pipeline = self._stack.enter_context(pipeline(self._connection))
            _BEGIN.send(self._connection)
        return self._pipeline


class Database:
    """The connections to one database. All of its methods are for the trio thread."""

    def __init__(
        self,
        settings: Settings,
        *,
        min_connections: int,
        max_connections: int,
        may_migrate: bool,
        upkeep: Callable[[Transaction], object],
    ) -> None:
        self._upkeep = upkeep
        self._writes = itertools.count(1)
        self._upkeep_is_well = True
        self._settings = settings
        self._sizes = min_connections, max_connections
        self._may_migrate = may_migrate
        self._pool: ConnectionPool[Connection] | None = None
        self._last_attempt = _Attempt()
        self._node: Node | None = None
        # What a call may take: to get a connection, and then until the server ends it by itself.
        timeout = settings.connect_timeout + settings.statement_timeout + _GRACE
        # Half of the connections each, so that neither slow reads nor slow writes hold up the
        # others.
        readers = max_connections // 2
        self._reading = Workers(readers, timeout=timeout)
        self._writing = Workers(max_connections - readers, timeout=timeout)
        self._keeping = Workers(1, timeout=min(timeout, settings.lease_timeout / 2))
        self._connecting = Workers(1, timeout=timeout)
        self._migrating = Workers(1, timeout=math.inf)
        self._closing = Workers(1, timeout=_CLOSING_TIMEOUT)

    @property
    def node(self) -> Node:
        """This store as other processes see it. Raises `RuntimeError` unless it is open."""
        if self._node is None:
            raise self._not_open()
        return self._node

    async def open(self) -> None:
        """Connect, look at the schema and make it if there is none. Raises `StoreError`.

        While another process makes it, this can be cancelled; its own migration runs to its end.
        """
        while not await self._migrating.write(self._open):  # noqa: ASYNC110  (the server has to be asked)
            await trio.sleep(_LOOK_INTERVAL)

    async def close(self) -> None:
        """Wait for the running transactions, then leave."""
        async with self._reading.paused(), self._writing.paused(), self._keeping.paused():
            await self._closing.write(self._close)

    async def write(
        self,
        transaction: Callable[[Transaction], T],
        *,
        owner: str | None = None,
        turn_id: str | None = None,
    ) -> T:
        """Run a function in a transaction, which it must `finish`; else it is undone.

        A cancellation while it waits for its turn means it never began; once begun it runs to its
        end, and its outcome is what the caller gets. Owners take turns. Raises `TurnFencedError` if
        `turn_id` isn't live here.
        """
        return await self._writing.write(
            lambda call: self._write_and_keep(call, transaction, turn_id), owner
        )

    async def read(self, *statements: Statement, owner: str | None = None) -> list[Cursor]:
        """Carry out queries on one snapshot, in one round trip. Owners take turns."""
        return await self._reading.read(lambda call: self._read(call, statements), owner)

    async def keep(self, work: Callable[[Node, Call], T]) -> T:
        """Do something with this node's own connection."""
        node = self.node

        def run(call: Call) -> T:
            with as_store_errors(self._settings.name):
                return work(node, call)

        return await self._keeping.write(run)

    async def connect(self, *statements: sql.Composed) -> Connection:
        """Make a connection that isn't the pool's, and carry out statements on it.

        The caller closes it. Raises `StoreError`.
        """

        def run(call: Call) -> Connection:
            with as_store_errors(self._settings.name):
                connection = connect(self._settings)
                try:
                    with call.using(connection):
                        for statement in statements:
                            connection.execute(statement)
                except BaseException:
                    connection.close()
                    raise
                return connection

        # As a write, so that no connection is left behind when the caller is cancelled.
        return await self._connecting.write(run)

    def _open(self, call: Call) -> bool:
        """Open, unless the schema has to be waited for; say whether it is open."""
        with as_store_errors(self._settings.name):
            connection = connect(self._settings)
            try:
                with call.using(connection):
                    is_ready = prepare(
                        connection, self._settings.schema, may_migrate=self._may_migrate
                    )
                if not is_ready:
                    connection.close()
                    return False
                node = Node(self._settings, connection)
                node.renew(call)
            except BaseException:
                connection.close()
                raise
        smallest, largest = self._sizes
        self._pool = ConnectionPool(
            self._settings.conninfo,
            connection_class=_reporting(self._settings, self._last_attempt),
            kwargs={"autocommit": True},
            min_size=smallest,
            max_size=largest,
            # Soon given up, for who needs a connection asks again: so it is back a second after the
            # server is.
            reconnect_timeout=1.0,
            open=True,
        )
        self._node = node
        return True

    def _close(self, call: Call) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._node is not None:
            self._node.leave(call)
            self._node = None

    def _write_and_keep(
        self, call: Call, transaction: Callable[[Transaction], T], turn_id: str | None
    ) -> T:
        value = self._write(call, transaction, turn_id)
        if next(self._writes) % _WRITES_BEFORE_UPKEEP == 0:
            # What was written is written, whatever becomes of this.
            try:
                self._write(call, self._upkeep, None)
            except Exception:
                if self._upkeep_is_well:
                    logger.exception("the index for searches can't be written; it is tried again")
                self._upkeep_is_well = False
            else:
                self._upkeep_is_well = True
        return value

    def _write(self, call: Call, transaction: Callable[[Transaction], T], turn_id: str | None) -> T:
        fence = None
        if turn_id is not None:
            fence = Statement(_FENCE, {"turn": turn_id, "node": self.node.id})
        with as_store_errors(self._settings.name):
            for tries_left in reversed(range(_TRIES)):
                try:
                    with (
                        self._connection(call) as connection,
                        Transaction(connection, fence) as tx,
                    ):
                        return transaction(tx)
                except errors.DivisionByZero:
                    assert turn_id is not None
                    raise fenced(turn_id) from None
                except _UNDONE_BY_OTHERS:
                    if not tries_left:
                        raise
        raise AssertionError("unreachable")

    def _read(self, call: Call, statements: Sequence[Statement]) -> list[Cursor]:
        if len(statements) > 1:
            statements = (_BEGIN_READING, *statements, _COMMIT)
        with (
            as_store_errors(self._settings.name),
            self._connection(call) as connection,
            undone(connection),
        ):
            cursors = in_one_trip(connection, statements)
        return cursors[1:-1] if len(cursors) > 1 else cursors

    @contextmanager
    def _connection(self, call: Call) -> Iterator[Connection]:
        if self._pool is None:
            raise self._not_open()
        pool = self._pool
        connection = self._checked_out(pool, call)
        try:
            with call.using(connection):
                yield connection
        finally:
            pool.putconn(connection)

    def _checked_out(self, pool: ConnectionPool[Connection], call: Call) -> Connection:
        its_turn = time.monotonic()
        while True:
            call.check()
            is_late = self._is_late(call, its_turn)
            try:
                connection = pool.getconn(_GLANCE if is_late else _LOOK_INTERVAL)
            except PoolTimeout:
                if is_late:
                    raise _why_not(self._last_attempt.failure) from None
                continue
            if is_alive(connection):
                return connection
            connection.close()
            pool.putconn(connection)

    def _is_late(self, call: Call, its_turn: float) -> bool:
        """Say whether the call has no time left to get a connection.

        Its time counts from its turn. But while there is no way to the server, those before it wait
        for nothing else; so it counts from the beginning then, and all that wait are told at once.
        """
        failure = self._last_attempt.failure
        is_away = failure is not None and failure.at > call.began
        since = call.began if is_away else its_turn
        return time.monotonic() > since + self._settings.connect_timeout

    def _not_open(self) -> RuntimeError:
        return RuntimeError(
            f"the store {self._settings.name} isn't open: use it inside 'async with store:'"
            " (ChatKitServer does that for its own store)"
        )


@dataclass(frozen=True, slots=True)
class _Failure:
    """An attempt to connect, and when it failed, by the monotonic clock."""

    error: CannotConnectError
    at: float


@dataclass(slots=True)
class _Attempt:
    """How the last attempt to connect went; written by the pool's threads."""

    failure: _Failure | None = None


def _why_not(failure: _Failure | None) -> Exception:
    """Return why there is no connection."""
    if failure is not None:
        return CannotConnectError(*failure.error.args)
    return StoreError(
        "no connection was to be had in time: the server is slow to take one, or all are in use"
        " (then raise max_connections of the store)"
    )


def _reporting(settings: Settings, attempt: _Attempt) -> type[Connection]:
    """Make a class of connections that notes why one couldn't be made: the pool doesn't tell.

    So the session begins here too, and not in the pool's `configure`.
    """

    class ReportingConnection(psycopg.Connection[tuple[Any, ...]]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Self:
            try:
                with as_connection_errors():
                    connection = super().connect(*args, **kwargs)
                    begin_session(connection, settings)
            except CannotConnectError as error:
                attempt.failure = _Failure(error, time.monotonic())
                raise
            attempt.failure = None
            return connection

    return ReportingConnection
