"""The journal of the SQLite store: a table of the turns that haven't ended.

A turn belongs to the instance that began it, an open store with a lock that dies with its process.
Whoever finds the lock free takes the turn over, in a transaction, so that only one does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from chatkit_trio.store import Journal, JournalEntry, Settlement

from . import _sqlite_queries as queries
from ._instance_lock import live_instances
from ._records import check_settlement, owner_of
from ._sqlite_database import Database

TContext = TypeVar("TContext")


class SQLiteJournal(Journal[TContext]):
    """The live turns of all processes that share the file; see `Journal`."""

    def __init__(self, database: Database, owner: Callable[[TContext], str]) -> None:
        self._database = database
        self._owner = owner

    async def begin(self, turn_id: str, thread_id: str, context: TContext) -> None:
        """Record that a turn is live in this store. Raises `ConflictError` for a known turn."""
        owner, instance = owner_of(self._owner, context), self._database.instance
        await self._database.write(
            lambda db: queries.begin_turn(db, owner, turn_id, thread_id, instance)
        )

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        """Replace the recorded items of these turns, in one transaction."""
        instance, entries = self._database.instance, tuple(entries)
        await self._database.write(lambda db: queries.checkpoint_turns(db, instance, entries))

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        """Claim and return the turns whose process is gone, of one thread if it is given.

        What was claimed here before and isn't settled yet is returned again, so that a recovery
        that failed can be tried again without a restart.
        """
        instance, path = self._database.instance, self._database.path
        # Inside the transaction, so that no two processes look at the locks at the same time.
        return await self._database.write(
            lambda db: queries.claim_turns(db, instance, live_instances(path), thread_id)
        )

    async def settle_abandoned(self, settlement: Settlement) -> None:
        """Settle a turn claimed by this store, for its owner, in one transaction."""
        check_settlement(settlement)
        instance = self._database.instance
        await self._database.write(lambda db: queries.settle_claimed(db, instance, settlement))
