"""What the PostgreSQL store asks of turns: how they begin, wait, are written down, and end.

Two rules keep transactions from waiting for each other in a ring. Who needs the row of a thread and
the record of its turn locks the thread first. And what is written is decided by a look at rows that
are locked, so that it can't fail any more; if somebody comes between all the same, a unique index
refuses the write, and the transaction begins anew with a look.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString

from chatkit_trio.errors import ConflictError
from chatkit_trio.store import Opening, Settlement, TurnRecord, UnstorableItem

from . import _postgresql_queries as queries
from ._journal_texts import MOST_ABANDONED, JournalRow
from ._postgresql_database import Transaction
from ._postgresql_errors import fenced
from ._postgresql_node import IS_DEAD, Node
from ._postgresql_queries import no_attachment, no_item, no_thread, tell_of_thread
from ._postgresql_statements import Statement
from ._records import check_premises, encode_attachment, encode_item, encode_thread

_LOCK_THREAD: LiteralString = """
    SELECT owner FROM threads WHERE id = %(thread)s FOR NO KEY UPDATE
"""
_LOCK_AND_LOAD_THREAD: LiteralString = """
    SELECT owner, data FROM threads WHERE id = %(thread)s FOR NO KEY UPDATE
"""
_TURNS: LiteralString = """
    SELECT id, owner, node, abandoned FROM turns
    WHERE thread_id = %(thread)s OR id = %(turn)s ORDER BY seq
"""
_PLACE: LiteralString = "SELECT owner FROM places WHERE turn_id = %(turn)s"
_FIRST_IN_LINE: LiteralString = f"""
    SELECT place.turn_id, place.node FROM places AS place
    LEFT JOIN nodes AS node ON node.id = place.node
    WHERE place.thread_id = %(thread)s AND (place.node = %(node)s OR NOT {IS_DEAD})
    ORDER BY place.seq LIMIT 1
"""
_KNOWN_ITEMS: LiteralString = """
    SELECT items.id, items.seq, items.data FROM items JOIN threads ON threads.seq = items.thread
    WHERE threads.id = %(thread)s AND items.id = ANY(%(ids)s::text[])
"""
_LAST_ITEM: LiteralString = """
    SELECT items.id FROM items JOIN threads ON threads.seq = items.thread
    WHERE threads.id = %(thread)s ORDER BY items.seq DESC LIMIT 1
"""
_OWNERS_OF_ATTACHMENTS: LiteralString = """
    SELECT id, owner FROM attachments WHERE id = ANY(%(ids)s::text[])
"""

_TAKE_PLACE: LiteralString = """
    INSERT INTO places (turn_id, thread_id, owner, node)
    VALUES (%(turn)s, %(thread)s, %(owner)s, %(node)s)
"""
_LINE_UP: LiteralString = """
    INSERT INTO places (turn_id, thread_id, owner, node)
    SELECT %(turn)s, %(thread)s, %(owner)s, %(node)s
    WHERE NOT EXISTS (SELECT FROM turns WHERE id = %(turn)s)
    ON CONFLICT (turn_id) DO NOTHING
"""
_OWNERS_OF_TURN: LiteralString = """
    SELECT owner FROM turns WHERE id = %(turn)s
    UNION ALL SELECT owner FROM places WHERE turn_id = %(turn)s
"""
_LEAVE_PLACE: LiteralString = "DELETE FROM places WHERE turn_id = %(turn)s"
_WITHDRAW: LiteralString = """
    DELETE FROM places WHERE turn_id = %(turn)s AND node = %(node)s RETURNING thread_id
"""
_NEW_THREAD: LiteralString = """
    INSERT INTO threads (owner, id, data) VALUES (%(owner)s, %(thread)s, %(data)s)
"""
_NEW_ATTACHMENT: LiteralString = """
    INSERT INTO attachments (owner, id, data) VALUES (%(owner)s, %(id)s, %(data)s)
"""
_CHANGE_ATTACHMENT: LiteralString = """
    UPDATE attachments SET data = %(data)s WHERE id = %(id)s AND owner = %(owner)s
"""
_ADMIT: LiteralString = """
    INSERT INTO turns (id, thread_id, owner, node, admitted)
    VALUES (%(turn)s, %(thread)s, %(owner)s, %(node)s, true)
"""
_JOURNAL: LiteralString = """
    INSERT INTO turns (id, thread_id, owner, node, admitted)
    VALUES (%(turn)s, %(thread)s, %(owner)s, %(node)s, false)
    ON CONFLICT (id) DO NOTHING
"""
_CHECKPOINT: LiteralString = """
    UPDATE turns
    SET items = new.items, changed_items = new.changed_items, reason = new.reason
    FROM unnest(
        %(turns)s::text[], %(items)s::text[], %(changed_items)s::text[], %(reasons)s::text[]
    ) AS new (id, items, changed_items, reason)
    WHERE turns.id = new.id AND turns.node = %(node)s AND NOT turns.abandoned
"""

_MAY_BE_ABANDONED: LiteralString = f"""
    (turns.abandoned OR (turns.node <> %(node)s AND {IS_DEAD}))
"""
_ON_THREAD: LiteralString = "AND turns.thread_id = %(thread)s"
_SOME: LiteralString = "ORDER BY random() LIMIT %(most)s::bigint"
_ABANDONED: LiteralString = f"""
    SELECT turns.abandoned, turns.id, turns.thread_id, turns.items, turns.changed_items,
        turns.reason
    FROM turns LEFT JOIN nodes AS node ON node.id = turns.node
    WHERE {_MAY_BE_ABANDONED}
"""
_MARK_ABANDONED: LiteralString = f"""
    UPDATE turns SET abandoned = true WHERE id IN (
        SELECT turns.id FROM turns LEFT JOIN nodes AS node ON node.id = turns.node
        WHERE {_MAY_BE_ABANDONED} AND NOT turns.abandoned
        ORDER BY turns.id FOR UPDATE OF turns
    )
"""
_MARKED: LiteralString = """
    SELECT id, thread_id, items, changed_items, reason FROM turns WHERE abandoned
"""
_ABANDON: LiteralString = """
    UPDATE turns SET abandoned = true WHERE id = %(turn)s AND node = %(node)s
"""

RECORD: LiteralString = """
    SELECT id, thread_id, node FROM turns WHERE thread_id = %(thread)s
    ORDER BY admitted DESC, seq LIMIT 1
"""
CHECKPOINTED: LiteralString = """
    SELECT id, thread_id, items, changed_items, reason FROM turns WHERE id = %(turn)s
"""

_LOCK_RECORD: LiteralString = """
    SELECT owner, node, abandoned FROM turns WHERE id = %(turn)s FOR UPDATE
"""
_END: LiteralString = "DELETE FROM turns WHERE id = %(turn)s"
_SETTLED: LiteralString = "SELECT digest FROM settled WHERE turn_id = %(turn)s"
_REMEMBER: LiteralString = """
    INSERT INTO settled (turn_id, digest) VALUES (%(turn)s, %(digest)s)
    ON CONFLICT (turn_id) DO UPDATE SET digest = excluded.digest, settled_at = now()
"""

# The lock waits for a node that is leaving just now, and then there is no row. (That of the foreign
# key would come behind the look, and fail.)
_POST: LiteralString = f"""
    INSERT INTO messages (node, message)
    SELECT node.id, %(message)s FROM nodes AS node WHERE node.id = %(to)s AND NOT {IS_DEAD}
    FOR KEY SHARE OF node
"""
_TELL_NODE: LiteralString = "SELECT pg_notify(%(to)s, '')"


# --- Admission


def begin(tx: Transaction, owner: str, opening: Opening, node: Node) -> TurnRecord | None:
    """Carry out a turn's first writes and record it, or take a place in the line.

    Two round trips: a look at locked rows, and the writes that follow from it.
    """
    thread_id, turn_id = opening.thread_id, opening.turn_id
    mine = {"thread": thread_id, "turn": turn_id, "owner": owner, **node.as_judge}
    item_ids = [item.id for item in (*opening.new_items, *opening.unchanged_items)]
    if opening.delete_after is not None:
        item_ids.append(opening.delete_after)
    thread, turns, settled, place, line, items, attachments, *last = (
        cursor.fetchall()
        for cursor in tx.look(
            Statement(_LOCK_AND_LOAD_THREAD, mine),
            Statement(_TURNS, mine),
            Statement(_SETTLED, mine),
            Statement(_PLACE, mine),
            Statement(_FIRST_IN_LINE, mine),
            Statement(_KNOWN_ITEMS, {"thread": thread_id, "ids": item_ids}),
            Statement(_OWNERS_OF_ATTACHMENTS, {"ids": [one.id for one in opening.attachments]}),
            *([Statement(_LAST_ITEM, mine)] if opening.last_item_id is not None else []),
        )
    )
    if any(known != (owner,) for known in place):
        raise _known(turn_id)
    if _has_begun(turns, turn_id, owner, node.id):
        return None
    if settled:
        raise fenced(turn_id)
    others = [(id_, other, where) for id_, other, where, _ in turns if id_ != turn_id]
    is_theirs = any(known != owner for known, _ in thread) or any(o != owner for _, o, _ in others)
    if is_theirs or (not thread and opening.new_thread is None):
        raise no_thread(thread_id)
    first = [(id_, where) for id_, _, where in others] or [one for one in line if one[0] != turn_id]
    if first:
        if not place:
            tx.finish(Statement(_TAKE_PLACE, mine))
        return TurnRecord(first[0][0], thread_id, first[0][1])
    check_premises(
        opening,
        thread[0][1] if thread else None,
        last[0][0][0] if last and last[0] else None,
        {item_id: text for item_id, _, text in items},
    )
    tx.finish(
        *_first_writes(owner, opening, known={item_id: seq for item_id, seq, _ in items}),
        *_saved_attachments(owner, opening, dict(attachments)),
        Statement(_ADMIT, mine),
        node.is_awake(),
        *([Statement(_LEAVE_PLACE, mine)] if place else []),
    )
    return None


def _has_begun(
    turns: Sequence[tuple[str, str, str, bool]], turn_id: str, owner: str, node: str
) -> bool:
    for known, its_owner, its_node, is_abandoned in turns:
        if known == turn_id:
            if its_owner != owner:
                raise _known(turn_id)
            if its_node != node or is_abandoned:
                raise fenced(turn_id)
            return True
    return False


def _known(turn_id: str) -> ConflictError:
    return ConflictError(f"there is a turn {turn_id} already")


def _first_writes(owner: str, opening: Opening, known: dict[str, int]) -> list[Statement]:
    """Return the writes to the thread and its items; `known` says where items are already.

    Raises `NotFoundError` and `ConflictError`.
    """
    thread_id, writes = opening.thread_id, list[Statement]()
    mine = {"owner": owner, "thread": thread_id}
    if opening.new_thread is not None:
        data = encode_thread(opening.new_thread)
        writes.append(Statement(_NEW_THREAD, {**mine, "data": data}))
    if opening.delete_after is not None:
        if opening.delete_after not in known:
            raise no_item(thread_id, opening.delete_after)
        last = known[opening.delete_after]
        known = {item_id: seq for item_id, seq in known.items() if seq <= last}
        writes.append(Statement(queries.DELETE_AFTER, {**mine, "item": opening.delete_after}))
    if opening.deleted_item_ids:
        ids = list(opening.deleted_item_ids)
        writes.append(Statement(queries.DELETE_ITEMS, {**mine, "ids": ids}))
    seen = known.keys() - opening.deleted_item_ids
    for item in opening.new_items:
        if item.id in seen:
            raise ConflictError(f"thread {thread_id} already has an item {item.id}")
        seen = seen | {item.id}
    writes += queries.items_statement(queries.ADD_ITEMS, thread_id, opening.new_items)
    writes += queries.items_statement(queries.SAVE_ITEMS, thread_id, opening.changed_items)
    return writes


def _saved_attachments(owner: str, opening: Opening, owners: dict[str, str]) -> list[Statement]:
    writes: list[Statement] = []
    for attachment in opening.attachments:
        if owners.get(attachment.id, owner) != owner:
            raise no_attachment(attachment.id)
        sql = _CHANGE_ATTACHMENT if attachment.id in owners else _NEW_ATTACHMENT
        owners[attachment.id] = owner
        data = encode_attachment(attachment)
        writes.append(Statement(sql, {"owner": owner, "id": attachment.id, "data": data}))
    return writes


def line_up(tx: Transaction, owner: str, turn_id: str, thread_id: str, node: str) -> None:
    """Take a place in line, unless the turn is recorded."""
    mine = {"thread": thread_id, "turn": turn_id, "owner": owner, "node": node}
    _, owners = tx.finish(Statement(_LINE_UP, mine), Statement(_OWNERS_OF_TURN, mine))
    if any(known != (owner,) for known in owners):
        raise _known(turn_id)


def withdraw(tx: Transaction, turn_id: str, node: str) -> str | None:
    """Give a place up; return the thread on which it was."""
    row = tx.look(Statement(_WITHDRAW, {"turn": turn_id, "node": node}))[0].fetchone()
    if row is None:
        return None
    thread_id: str = row[0]
    tx.finish(*tell_of_thread(thread_id))
    return thread_id


# --- The journal


def journal(tx: Transaction, owner: str, turn_id: str, thread_id: str, node: Node) -> None:
    mine = {"turn": turn_id, "thread": thread_id, "owner": owner, "node": node.id}
    if tx.finish(Statement(_JOURNAL, mine), node.is_awake())[0].rowcount == 0:
        raise ConflictError(f"the journal already has a turn {turn_id}")


def checkpoint(
    tx: Transaction, node: str, rows: Sequence[tuple[str, str, str, str | None]]
) -> None:
    """Replace (items, changed items, reason) of turns that are live here, by their ids."""
    turns, items, changed_items, reasons = zip(*rows, strict=True)
    parameters = {
        "node": node,
        "turns": list(turns),
        "items": list(items),
        "changed_items": list(changed_items),
        "reasons": list(reasons),
    }
    tx.finish(Statement(_CHECKPOINT, parameters))


def abandon(tx: Transaction, turn_id: str, node: str) -> None:
    """Mark a turn of this node."""
    tx.finish(Statement(_ABANDON, {"turn": turn_id, "node": node}))


def abandoned(node: Node, thread_id: str | None) -> Statement:
    """Ask for the turns that are marked as abandoned or have to be, with a column that says so."""
    parameters = {**node.as_judge, "thread": thread_id, "most": MOST_ABANDONED}
    return Statement(f"{_ABANDONED} {_some_or_of_thread(thread_id)}", parameters)


def mark_abandoned(tx: Transaction, node: Node, thread_id: str | None) -> list[JournalRow]:
    """Mark the turns of dead nodes; return some that are marked, or all of a thread."""
    parameters = {**node.as_judge, "thread": thread_id, "most": MOST_ABANDONED}
    _, marked = tx.finish(
        Statement(_MARK_ABANDONED, parameters),
        Statement(f"{_MARKED} {_some_or_of_thread(thread_id)}", parameters),
    )
    return marked.fetchall()


def _some_or_of_thread(thread_id: str | None) -> LiteralString:
    return _SOME if thread_id is None else f"{_ON_THREAD} ORDER BY turns.seq"


# --- The end of a turn


def settle(tx: Transaction, owner: str, settlement: Settlement, node: str) -> bool:
    """Store what a turn leaves behind and end its record, which has to be this node's.

    A record that another node has marked, and nobody has settled yet, is settled all the same: this
    node has more of the answer. Returns whether it wasn't marked. Raises `NotFoundError` if the
    thread is gone; the record ends even so.
    """
    settled = _Encoded(settlement)
    turn = {"turn": settlement.turn_id}
    mine = {"thread": settlement.thread_id, **turn}
    thread, records, earlier = (
        cursor.fetchall()
        for cursor in tx.look(
            Statement(_LOCK_THREAD, mine),
            Statement(_LOCK_RECORD, turn),
            Statement(_SETTLED, turn),
        )
    )
    is_there = thread == [(owner,)]
    is_mine = [(its_owner, its_node) for its_owner, its_node, _ in records] == [(owner, node)]
    if settlement.turn_id is not None and not is_mine:
        if not is_there:
            raise no_thread(settlement.thread_id)
        if earlier == [(settled.digest,)]:
            return True  # this very settlement has been stored before
        raise fenced(settlement.turn_id)
    tx.finish(*settled.statements(owner, is_there=is_there))
    if not is_there:
        raise no_thread(settlement.thread_id)
    return not any(is_marked for _, _, is_marked in records)


def settle_abandoned(
    tx: Transaction, settlement: Settlement, left_out: Sequence[UnstorableItem]
) -> bool:
    """Settle an abandoned turn for its owner, and say so; one that is settled stays as it is.

    What is left out is set aside, unless its thread is gone.
    """
    settled = _Encoded(settlement)
    turn = {"turn": settlement.turn_id}
    thread, records = (
        cursor.fetchall()
        for cursor in tx.look(
            Statement(_LOCK_THREAD, {"thread": settlement.thread_id}),
            Statement(_LOCK_RECORD, turn),
        )
    )
    for owner, _, is_abandoned in records:
        if is_abandoned:
            is_there = thread == [(owner,)]
            aside = [queries.set_aside_statement(owner, item) for item in left_out if is_there]
            tx.finish(*settled.statements(owner, is_there=is_there), *aside)
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Encoded:
    """A settlement as statements."""

    settlement: Settlement

    @property
    def digest(self) -> str:
        """What tells this settlement from every other of the turn."""
        settlement = self.settlement
        texts = [
            [encode_item(item) for item in settlement.new_items],
            [encode_item(item) for item in settlement.changed_items],
            None if settlement.thread is None else encode_thread(settlement.thread),
        ]
        return hashlib.sha256(json.dumps(texts).encode()).hexdigest()

    def statements(self, owner: str, *, is_there: bool) -> list[Statement]:
        """Return what stores it, if the thread is there, and ends the record."""
        settlement, writes = self.settlement, list[Statement]()
        thread_id = settlement.thread_id
        if is_there:
            writes += queries.items_statement(
                queries.ADD_ITEMS_UNLESS_THERE, thread_id, settlement.new_items
            )
            writes += queries.items_statement(
                queries.SAVE_ITEMS, thread_id, settlement.changed_items
            )
            if settlement.thread is not None:
                data = encode_thread(settlement.thread)
                parameters = {"owner": owner, "thread": thread_id, "data": data}
                writes.append(Statement(queries.UPDATE_THREAD, parameters))
        if settlement.turn_id is not None:
            turn = {"turn": settlement.turn_id}
            writes.append(Statement(_END, turn))
            writes.append(Statement(_REMEMBER, {**turn, "digest": self.digest}))
            writes += tell_of_thread(thread_id)
        return writes


# --- Messages


def post(tx: Transaction, node: Node, to: str, message: bytes) -> None:
    parameters = {**node.as_judge, "to": to, "message": message}
    tx.finish(Statement(_POST, parameters), Statement(_TELL_NODE, parameters))
