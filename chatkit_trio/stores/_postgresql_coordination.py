"""How the nodes that share a PostgreSQL database come to terms; see `Coordination`.

Turns and places are rows, messages go through a box of each node. Notifications (LISTEN) are hints:
nothing waits for one without looking again by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import closing, suppress

import psycopg
import trio
from psycopg import sql

from chatkit_trio.errors import StoreError
from chatkit_trio.store import Coordination, JournalEntry, News, Opening, TContext, TurnRecord

from . import _postgresql_turns as turns
from ._postgresql_calls import Connection
from ._postgresql_database import Database
from ._postgresql_errors import UnstorableTextError
from ._postgresql_journal import PostgreSQLJournal
from ._postgresql_node import LIVING_NODES, THREADS_CHANNEL
from ._postgresql_statements import Statement
from ._postgresql_usage import PostgreSQLUsage, slot_changes
from ._records import check_opening, owner_of

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two tries to listen again."""


class PostgreSQLCoordination(Coordination[TContext]):
    """One node among those that share the database, from its opening to its closing."""

    def __init__(
        self, database: Database, owner: Callable[[TContext], str], *, lease_timeout: float
    ) -> None:
        super().__init__()
        self.node = ""
        self.lease_timeout = lease_timeout
        self._database = database
        self._owner = owner
        self._journal = PostgreSQLJournal(database, owner, self.tell)
        self._usage = PostgreSQLUsage(database, lambda: self.tell(self.node))

    @property
    def journal(self) -> PostgreSQLJournal[TContext]:
        return self._journal

    @property
    def usage(self) -> PostgreSQLUsage:
        return self._usage

    async def begin(self, opening: Opening, context: TContext) -> TurnRecord | None:
        """Carry out a turn's first writes and record it as live here, in two round trips.

        Raises `TurnFencedError` if the turn is recorded, but not as live on this node.
        """
        check_opening(opening)
        owner, node = owner_of(self._owner, context), self._database.node
        return await self._database.write(
            lambda tx: turns.begin(tx, owner, opening, node), owner=owner
        )

    async def line_up(self, turn_id: str, thread_id: str, context: TContext) -> None:
        owner, node = owner_of(self._owner, context), self._database.node.id
        await self._database.write(
            lambda tx: turns.line_up(tx, owner, turn_id, thread_id, node), owner=owner
        )

    async def withdraw(self, turn_id: str) -> None:
        node = self._database.node.id
        thread_id = await self._database.write(lambda tx: turns.withdraw(tx, turn_id, node))
        if thread_id is not None:
            self.tell(thread_id)

    async def abandon(self, turn_id: str) -> None:
        node = self._database.node.id
        await self._database.write(lambda tx: turns.abandon(tx, turn_id, node))

    async def record(self, thread_id: str) -> TurnRecord | None:
        with suppress(UnstorableTextError):  # there is no such thread
            cursors = await self._database.read(Statement(turns.RECORD, {"thread": thread_id}))
            row = cursors[0].fetchone()
            return None if row is None else TurnRecord(*row)
        return None

    async def checkpointed(self, turn_id: str) -> JournalEntry | None:
        cursors = await self._database.read(Statement(turns.CHECKPOINTED, {"turn": turn_id}))
        row = cursors[0].fetchone()
        return None if row is None else self._journal.texts.entry(row)

    async def post(self, node: str, message: bytes) -> None:
        mine = self._database.node
        await self._database.write(lambda tx: turns.post(tx, mine, node, message))
        self.tell(node)

    async def news(self) -> News:
        with self._usage.writing() as changes:
            others = slot_changes(changes, self._database.node.id)
            messages, live = await self._database.keep(lambda node, call: node.renew(call, *others))
            return News(messages, live)

    async def nodes(self) -> list[str]:
        cursors = await self._database.read(Statement(LIVING_NODES, self._database.node.as_judge))
        return [node for (node,) in cursors[0]]

    async def listen(self) -> None:
        """Pass the hints of other nodes on, until cancelled; connects again if it has to.

        Raises nothing else: while the server can't be reached, there are no hints.
        """
        channels = (THREADS_CHANNEL, self._database.node.id)
        statements = [sql.SQL("LISTEN {}").format(sql.Identifier(name)) for name in channels]
        pause = _FIRST_PAUSE
        while True:
            try:
                with closing(await self._database.connect(*statements)) as connection:
                    pause = _FIRST_PAUSE
                    self._tell_all()  # whatever has been told meanwhile
                    while True:
                        await trio.lowlevel.wait_readable(connection.fileno())
                        self._pass_on(connection)
            except (StoreError, psycopg.Error, OSError) as error:
                logger.info(
                    "can't hear of changes by other processes (%s); trying again in %s s",
                    " ".join(str(error).split()),
                    pause,
                )
            await trio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _pass_on(self, connection: Connection) -> None:
        """Read what has come, without waiting for more."""
        for notification in connection.notifies(timeout=0):
            if notification.channel == THREADS_CHANNEL:
                self.tell(notification.payload)
            else:
                self.tell(notification.channel)

    def _tell_all(self) -> None:
        for about in list(self._hints):
            self.tell(about)
