"""The journal of the PostgreSQL store: the table of the turns that haven't ended.

A turn belongs to the node that began it. Whoever finds that node dead marks the turn as abandoned,
and from then on the node can't write in its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from chatkit_trio.store import Journal, JournalEntry, Settlement, TContext, UnstorableItem

from . import _postgresql_turns as turns
from ._journal_texts import JournalRow, JournalTexts
from ._postgresql_database import Database, Transaction
from ._postgresql_errors import UnstorableTextError
from ._records import check_settlement, owner_of


class PostgreSQLJournal(Journal[TContext]):
    """The live turns of all nodes; see `Journal`."""

    def __init__(
        self,
        database: Database,
        owner: Callable[[TContext], str],
        tell: Callable[[str], None],
    ) -> None:
        self._database = database
        self._owner = owner
        self._tell = tell
        self.texts = JournalTexts()

    async def begin(self, turn_id: str, thread_id: str, context: TContext) -> None:
        """Record that a turn is live on this node. Raises `ConflictError` for a known turn."""
        owner, node = owner_of(self._owner, context), self._database.node
        await self._database.write(
            lambda tx: turns.journal(tx, owner, turn_id, thread_id, node), owner=owner
        )

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        """Replace what is recorded of these turns, in one statement.

        An item that can't be stored is left out and logged, once, so that the other items and
        turns are written all the same.
        """
        node, entries = self._database.node.id, tuple(entries)
        if not entries:
            return

        def write(tx: Transaction) -> None:
            turns.checkpoint(
                tx,
                node,
                [
                    (
                        entry.turn_id,
                        self.texts.encoded(entry.items),
                        self.texts.encoded(entry.changed_items),
                        entry.reason,
                    )
                    for entry in entries
                ],
            )

        await self._database.write(write)

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        """Mark and return the turns of dead nodes, of one thread if it is given.

        They are returned to everybody who asks until they are settled: who reads the thread must
        not have to wait for another process. If there is nothing to mark, this is one read.
        """
        node = self._database.node
        try:
            found = (await self._database.read(turns.abandoned(node, thread_id)))[0].fetchall()
        except UnstorableTextError:  # there is no such thread
            return []
        rows: list[JournalRow] = [row[1:] for row in found]
        if not all(is_marked for is_marked, *_ in found):
            rows = await self._database.write(lambda tx: turns.mark_abandoned(tx, node, thread_id))
        return self.texts.entries(rows)

    async def settle_abandoned(self, settlement: Settlement) -> bool:
        """Settle an abandoned turn, for its owner, in one transaction; only the first counts."""
        return await self.settle_in_part(settlement, ())

    async def settle_in_part(
        self, settlement: Settlement, left_out: Sequence[UnstorableItem]
    ) -> bool:
        """Settle an abandoned turn and fill the table `unstorable`, in one transaction."""
        check_settlement(settlement)
        settle = partial(turns.settle_abandoned, settlement=settlement, left_out=left_out)
        is_settled = await self._database.write(settle)
        self._tell(settlement.thread_id)
        return is_settled
