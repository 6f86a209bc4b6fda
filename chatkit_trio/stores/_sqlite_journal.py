"""The journal of the SQLite store: a table of the turns that haven't ended.

A turn belongs to the instance that began it, an open store with a lock that dies with its process.
Whoever finds the lock free takes the turn over, in a transaction, so that only one does.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence

from chatkit_trio.store import Journal, JournalEntry, Settlement, TContext, UnstorableItem

from . import _sqlite_queries as queries
from ._instance_lock import live_instances, remove_dead_locks
from ._journal_texts import JournalRow, JournalTexts
from ._records import check_settlement, owner_of, warn_of_taken_turn
from ._sqlite_database import Database

logger = logging.getLogger(__name__)

_SERVERS_OWN = "\0"
"""In the queue for the file, the journal waits beside the owners."""


class SQLiteJournal(Journal[TContext]):
    """The live turns of all processes that share the file; see `Journal`."""

    def __init__(self, database: Database, owner: Callable[[TContext], str]) -> None:
        self._database = database
        self._owner = owner
        self.texts = JournalTexts()

    async def begin(self, turn_id: str, thread_id: str, context: TContext) -> None:
        """Record that a turn is live in this store. Raises `ConflictError` for a known turn."""
        owner, instance = owner_of(self._owner, context), self._database.instance

        def transaction(db: sqlite3.Connection) -> None:
            self._database.keep_lock()
            queries.begin_journaled(db, owner, turn_id, thread_id, instance)

        await self._database.write(transaction, owner=owner)

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        """Replace what is recorded of these turns, in one transaction.

        An item that can't be stored is left out and logged, once, so that the other items and
        turns are written all the same.
        """
        instance, entries = self._database.instance, tuple(entries)

        def transaction(db: sqlite3.Connection) -> None:
            self._database.keep_lock()
            rows = [
                (
                    self.texts.encoded(entry.items),
                    self.texts.encoded(entry.changed_items),
                    entry.reason,
                    entry.turn_id,
                )
                for entry in entries
            ]
            queries.checkpoint_turns(db, instance, rows)

        await self._database.write(transaction, owner=_SERVERS_OWN)

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        """Mark and return the turns whose process is gone, of one thread if it is given.

        They are returned to everybody who asks until they are settled: who reads the thread must
        not have to wait for another process. If there is nothing to mark, this is one read.
        """
        instance, path = self._database.instance, self._database.path

        def look(db: sqlite3.Connection) -> tuple[bool, list[JournalRow]]:
            others = {name for name in queries.instances(db, thread_id) if name != instance}
            some_are_gone = bool(others) and not others <= live_instances(path)
            return some_are_gone, queries.claimed_turns(db, thread_id)

        def claim(db: sqlite3.Connection) -> list[JournalRow]:
            remove_dead_locks(path)
            queries.claim_turns(db, live_instances(path) | {instance}, thread_id)
            return queries.claimed_turns(db, thread_id)

        try:
            some_are_gone, rows = await self._database.read(look, owner=_SERVERS_OWN)
        except UnicodeEncodeError:  # there is no such thread
            return []
        if some_are_gone:
            rows = await self._database.write(claim, owner=_SERVERS_OWN)
        return self.texts.entries(rows)

    async def settle_abandoned(self, settlement: Settlement) -> bool:
        """Settle an abandoned turn, for its owner, in one transaction; only the first counts."""
        return await self.settle_in_part(settlement, ())

    async def settle_in_part(
        self, settlement: Settlement, left_out: Sequence[UnstorableItem]
    ) -> bool:
        """Settle an abandoned turn and fill the table `unstorable`, in one transaction."""
        check_settlement(settlement)
        return await self._database.write(
            lambda db: queries.settle_claimed(db, settlement, left_out), owner=_SERVERS_OWN
        )

    def settle(
        self, db: sqlite3.Connection, owner: str, settlement: Settlement
    ) -> tuple[bool, bool]:
        """Settle a turn of this store, inside a transaction.

        Return whether its thread is there, and whether another process has taken the turn for
        crashed.
        """
        self._database.keep_lock()
        found, is_taken = queries.settle_live(db, owner, settlement, self._database.instance)
        if is_taken:
            warn_of_taken_turn(logger, settlement, "what it has stored is completed")
        return found, is_taken
