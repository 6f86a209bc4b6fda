"""What owners use, counted in a PostgreSQL database by its clock.

The tables are not logged: what a crash of the server forgets is allowed once more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import LiteralString

from chatkit_trio._engine.owner_limits import SLOT_LIFETIME, Spending

from ._postgresql_database import Database, Transaction
from ._postgresql_node import IS_DEAD
from ._postgresql_statements import Statement
from ._usage import SlotChanges, StoredUsage, WantedSlot

_PAY: LiteralString = """
    INSERT INTO rates (owner, kind, full_at)
    VALUES (%(owner)s, %(kind)s, clock_timestamp() + make_interval(secs => %(seconds)s))
    ON CONFLICT (owner, kind) DO UPDATE
    SET full_at = greatest(rates.full_at, clock_timestamp()) + make_interval(secs => %(seconds)s)
    WHERE rates.full_at <= clock_timestamp() + make_interval(secs => %(room)s)
"""
_MISSING: LiteralString = """
    SELECT extract(epoch FROM full_at - clock_timestamp())::float8 - %(room)s
    FROM rates WHERE owner = %(owner)s AND kind = %(kind)s
"""

# Of one owner one after the other: each has to see what those before have taken.
_ONE_AFTER_THE_OTHER: LiteralString = """
    SELECT pg_advisory_xact_lock(hashtextextended(%(kind)s || ' ' || %(owner)s, 0))
"""
_TAKE: LiteralString = f"""
    WITH taken AS (
        SELECT slot.id, slot.replaces FROM slots AS slot JOIN nodes AS node ON node.id = slot.node
        WHERE slot.owner = %(owner)s AND slot.kind = %(kind)s
            AND (slot.until IS NULL OR slot.until > clock_timestamp())
            AND (slot.node = %(node)s OR NOT {IS_DEAD})
    )
    INSERT INTO slots (id, owner, kind, node, replaces, until)
    SELECT %(slot)s, %(owner)s, %(kind)s, %(node)s, %(replaces)s::text,
        clock_timestamp() + make_interval(secs => %(lifetime)s)
    WHERE %(most)s > (
        SELECT count(*) FROM taken
        WHERE id IS DISTINCT FROM %(replaces)s::text
            AND NOT EXISTS (SELECT FROM taken AS other WHERE other.replaces = taken.id)
    )
    ON CONFLICT (id) DO NOTHING
"""
_KEEP: LiteralString = """
    INSERT INTO slots (id, owner, kind, node)
    SELECT id, owner, kind, %(node)s
    FROM unnest(%(ids)s::text[], %(owners)s::text[], %(kinds)s::text[]) AS kept (id, owner, kind)
    ON CONFLICT (id) DO UPDATE SET until = NULL
"""
_FREE: LiteralString = "DELETE FROM slots WHERE id = ANY(%(ids)s::text[])"


def slot_changes(changes: SlotChanges, node: str) -> list[Statement]:
    """Return what writes changes of a node's slots."""
    kept = [
        (slot_id, *change.kept_for)
        for slot_id, change in changes.items()
        if change.kept_for is not None
    ]
    free = [slot_id for slot_id, change in changes.items() if change.kept_for is None]
    statements: list[Statement] = []
    if kept:
        ids, owners, kinds = map(list, zip(*kept, strict=True))
        parameters = {"node": node, "ids": ids, "owners": owners, "kinds": kinds}
        statements.append(Statement(_KEEP, parameters))
    if free:
        statements.append(Statement(_FREE, {"ids": free}))
    return statements


class PostgreSQLUsage(StoredUsage):
    """The use of owners, as all nodes of a database count it."""

    def __init__(self, database: Database, tell: Callable[[], None]) -> None:
        super().__init__(tell)
        self._database = database

    async def look(self, spending: Spending) -> float:
        missing = Statement(_MISSING, _parameters(spending))
        (cursor,) = await self._database.read(missing, owner=spending.owner)
        return _seconds(cursor.fetchall())

    async def pay(self, spending: Spending) -> float:
        parameters = _parameters(spending)

        def transaction(tx: Transaction) -> float:
            # The answer to the second is what the first has left, and of use only if it has failed.
            paid, missing = tx.finish(Statement(_PAY, parameters), Statement(_MISSING, parameters))
            return 0.0 if paid.rowcount else max(1e-3, _seconds(missing.fetchall()))

        return await self._database.write(transaction, owner=spending.owner)

    async def take(self, slot: WantedSlot, changes: SlotChanges) -> bool:
        node = self._database.node
        parameters = {
            **node.as_judge,
            "owner": slot.owner,
            "kind": slot.kind,
            "slot": slot.id,
            "replaces": slot.replaces,
            "most": slot.most,
            "lifetime": SLOT_LIFETIME,
        }

        def transaction(tx: Transaction) -> bool:
            *_, taken = tx.finish(
                *slot_changes(changes, node.id),
                Statement(_ONE_AFTER_THE_OTHER, parameters),
                Statement(_TAKE, parameters),
            )
            return taken.rowcount == 1

        return await self._database.write(transaction, owner=slot.owner)


def _parameters(spending: Spending) -> dict[str, object]:
    return {
        "owner": spending.owner,
        "kind": spending.kind,
        "seconds": spending.seconds,
        "room": spending.room,
    }


def _seconds(rows: Sequence[tuple[float]]) -> float:
    return rows[0][0] if rows else 0.0
