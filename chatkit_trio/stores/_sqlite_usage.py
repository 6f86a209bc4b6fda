"""What owners use, counted in the SQLite file by the clock of the machine.

Beside each time stands when it was written: if the clock was set back since, so is the time. Who
finds that writes it, or the time would stand still until the clock has caught up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from chatkit_trio._engine.owner_limits import SLOT_LIFETIME, Spending

from ._instance_lock import is_live
from ._sqlite_database import Database
from ._usage import SlotChanges, StoredUsage, WantedSlot


class SQLiteUsage(StoredUsage):
    """The use of owners, as all processes that share a file count it."""

    def __init__(
        self, database: Database, clock: Callable[[], float], tell: Callable[[], None]
    ) -> None:
        super().__init__(tell)
        self._database = database
        self._clock = clock

    async def look(self, spending: Spending) -> float:
        query = partial(_full_in, spending=spending, clock=self._clock)
        full_in, was_set_back = await self._database.read(query, owner=spending.owner)
        if was_set_back:
            return await self.pay(replace(spending, seconds=0.0))
        return full_in - spending.room

    async def pay(self, spending: Spending) -> float:
        transaction = partial(_pay, spending=spending, clock=self._clock)
        return await self._database.write(transaction, owner=spending.owner)

    async def take(self, slot: WantedSlot, changes: SlotChanges) -> bool:
        instance, path = self._database.instance, self._database.path

        def transaction(db: sqlite3.Connection) -> bool:
            self._database.keep_lock()
            write_changes(db, changes, instance)
            return _take(db, slot, instance, self._clock(), partial(is_live, path))

        return await self._database.write(transaction, owner=slot.owner)


def _full_in(
    db: sqlite3.Connection, spending: Spending, clock: Callable[[], float]
) -> tuple[float, bool]:
    """Return in how many seconds all of the rate is available again, and whether the clock was set
    back since that was written."""
    query = "SELECT full_at, written_at FROM rates WHERE owner = ? AND kind = ?"
    row = db.execute(query, (spending.owner, spending.kind)).fetchone()
    now = clock()  # after the read: nothing that it finds was written later
    return (0.0, False) if row is None else (max(0.0, row[0] - max(now, row[1])), now < row[1])


def _pay(db: sqlite3.Connection, spending: Spending, clock: Callable[[], float]) -> float:
    full_in, was_set_back = _full_in(db, spending, clock)
    missing = full_in - spending.room
    if missing <= 0:
        full_in += spending.seconds
    elif not was_set_back:
        return missing
    query = "INSERT OR REPLACE INTO rates (owner, kind, full_at, written_at) VALUES (?, ?, ?, ?)"
    now = clock()
    db.execute(query, (spending.owner, spending.kind, now + full_in, now))
    return max(0.0, missing)


def _take(
    db: sqlite3.Connection,
    slot: WantedSlot,
    instance: str,
    now: float,
    is_live: Callable[[str], bool],
) -> bool:
    query = "SELECT id, instance, replaces, until, taken_at FROM slots WHERE owner = ? AND kind = ?"
    rows = db.execute(query, (slot.owner, slot.kind)).fetchall()
    living = {name for name in {row[1] for row in rows} if name == instance or is_live(name)}
    taken, gone = {}, []
    for slot_id, name, replaces, until, taken_at in rows:
        # A clock that was set back must not keep the slot of a request that has got lost.
        if name in living and (until is None or taken_at <= now < until):
            taken[slot_id] = replaces
        else:
            gone.append((slot_id,))
    db.executemany("DELETE FROM slots WHERE id = ?", gone)
    if len(taken.keys() - {*taken.values(), slot.replaces}) >= slot.most:
        return False
    query = """
        INSERT INTO slots (id, owner, kind, instance, replaces, until, taken_at)
        VALUES (?, ?, ?, ?, ?, ?, ?)
    """
    row = (slot.id, slot.owner, slot.kind, instance, slot.replaces, now + SLOT_LIFETIME, now)
    db.execute(query, row)
    return True


def write_changes(db: sqlite3.Connection, changes: SlotChanges, instance: str) -> None:
    """Write changes of an instance's slots."""
    for slot_id, change in changes.items():
        if change.kept_for is None:
            db.execute("DELETE FROM slots WHERE id = ?", (slot_id,))
            continue
        query = """
            INSERT INTO slots (id, owner, kind, instance, taken_at) VALUES (?, ?, ?, ?, 0)
            ON CONFLICT (id) DO UPDATE SET until = NULL
        """
        db.execute(query, (slot_id, *change.kept_for, instance))


def forget(db: sqlite3.Connection, now: float, is_live: Callable[[str], bool]) -> None:
    """Delete the rates of which all is available again, and the slots of dead instances."""
    db.execute("DELETE FROM rates WHERE full_at <= ?", (now,))
    for (instance,) in db.execute("SELECT DISTINCT instance FROM slots").fetchall():
        if not is_live(instance):
            db.execute("DELETE FROM slots WHERE instance = ?", (instance,))
