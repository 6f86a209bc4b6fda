"""What the memory stores of one cluster have in common, and what may be done to it in one step.

Nothing here waits, so no task ever sees half a change: `memory` and `_memory_coordination` wait
once at the start of a method, and do the rest here. Texts are kept, never the caller's objects.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from chatkit_trio._engine.owner_limits import LocalUsage
from chatkit_trio.errors import ConflictError, NotFoundError, TurnFencedError
from chatkit_trio.store import (
    Opening,
    RequestRecord,
    Settlement,
    TurnRecord,
    UnstorableItem,
)
from chatkit_trio.types import ThreadItem

from ._records import (
    check_opening,
    check_premises,
    check_settlement,
    encode_attachment,
    encode_item,
    encode_thread,
)

_SETTLEMENTS_KEPT = 1000
"""How many settled turns are remembered, so that a repeated settlement is known for one."""

_PLACES_KEPT = 10_000
"""How many places of deleted threads, and of a thread's deleted items, are remembered."""

V = TypeVar("V")


class Ordered(MutableMapping[str, V]):
    """A dictionary that knows, also of its last deleted keys, where in the order they stand.

    A key that is set again after its deletion stands at the end.
    """

    def __init__(self) -> None:
        self._values: dict[str, V] = {}
        self._places: dict[str, int] = {}
        self._deleted: dict[str, int] = {}
        self._count = 0

    def __getitem__(self, key: str) -> V:
        return self._values[key]

    def __setitem__(self, key: str, value: V) -> None:
        if key not in self._values:
            self._count += 1
            self._places[key] = self._count
            self._deleted.pop(key, None)
        self._values[key] = value

    def __delitem__(self, key: str) -> None:
        del self._values[key]
        self._deleted[key] = self._places.pop(key)
        if len(self._deleted) > _PLACES_KEPT:
            del self._deleted[next(iter(self._deleted))]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def copy(self) -> Ordered[V]:
        """Return another one with the same keys, values and places."""
        other = Ordered[V]()
        other._values, other._places = self._values.copy(), self._places.copy()
        other._deleted, other._count = self._deleted.copy(), self._count
        return other

    def place(self, key: str) -> int | None:
        """Return where a key stands or stood; None if that isn't known."""
        return self._places.get(key, self._deleted.get(key))

    def behind(self, place: int | None, order: str) -> Iterator[str]:
        """Return the keys behind a place, all if it is None, in the order asked for."""
        if order == "asc":
            return (key for key, its in self._places.items() if place is None or its > place)
        places = reversed(self._places.items())
        return (key for key, its in places if place is None or its < place)


@dataclass(slots=True)
class Row:
    owner: str
    text: str


@dataclass(slots=True)
class ThreadRow(Row):
    items: Ordered[str] = field(default_factory=Ordered)


@dataclass(slots=True)
class TurnRow:
    """A turn that is live, or waits in the line."""

    turn_id: str
    thread_id: str
    owner: str
    node: str
    items: tuple[str, ...] = ()
    changed_items: tuple[str, ...] = ()
    reason: str | None = None
    is_abandoned: bool = False

    @property
    def record(self) -> TurnRecord:
        return TurnRecord(self.turn_id, self.thread_id, self.node)

    def is_of(self, owner: str, node: str) -> bool:
        return (self.owner, self.node) == (owner, node)


@dataclass(slots=True)
class _Node:
    tell: Callable[[str], None]
    asked_at: float
    unbroken_since: float
    """Since when it has asked for its news without a break as long as a lease."""
    box: list[bytes] = field(default_factory=list)


class MemoryCluster:
    """The data that several `MemoryStore` objects share, each of them a node of its own.

        cluster = MemoryCluster()
        one, other = MemoryStore(cluster=cluster), MemoryStore(cluster=cluster)

    It makes a cluster of servers in one process, for tests. A node is dead when its store was
    closed, or hasn't asked for its news for `lease_timeout` seconds of `clock`.
    """

    def __init__(
        self, *, lease_timeout: float = 15.0, clock: Callable[[], float] = trio.current_time
    ) -> None:
        self.lease_timeout = lease_timeout
        self._clock = clock
        self.threads = Ordered[ThreadRow]()
        self.deleted_threads: dict[tuple[str, str], int] = {}
        """The places of deleted threads, by owner and id."""
        self.attachments: dict[str, Row] = {}
        self.requests: dict[tuple[str, str], tuple[float, RequestRecord]] = {}
        self.set_aside_items: list[UnstorableItem] = []
        self.usage = LocalUsage()
        self.turns: dict[str, TurnRow] = {}
        self._line: dict[str, TurnRow] = {}
        """The turns that wait, by id, in the order of their arrival."""
        self._nodes: dict[str, _Node] = {}
        self._settled: dict[str, str] = {}
        """Digests of the last settlements, by turn."""

    # --- Nodes

    def join(self, tell: Callable[[str], None]) -> str:
        """Let a node in, and return its id."""
        name = f"node_{secrets.token_hex(8)}"
        self._nodes[name] = _Node(tell, self._clock(), -math.inf)
        return name

    def leave(self, name: str) -> None:
        """Let a node go: its turns are abandoned, its places in line and its box are gone."""
        self._nodes.pop(name, None)
        places = [place for place in self._line.values() if place.node == name]
        for place in places:
            del self._line[place.turn_id]
        held = [turn.thread_id for turn in self.turns.values() if turn.node == name]
        self._tell(*held, *(place.thread_id for place in places))

    def is_heard(self, name: str) -> bool:
        """Say whether a node has asked for its news within its lease."""
        node = self._nodes.get(name)
        return node is not None and self._clock() - node.asked_at < self.lease_timeout

    def is_dead(self, name: str, judge: str) -> bool:
        """Say whether a node counts as dead for another one.

        A node that hasn't been heard of itself for a while gives the others time to be heard of:
        it may have been the store that was away, and not they.
        """
        if name == judge or self.is_heard(name):
            return False
        if name not in self._nodes:
            return True
        unbroken = self._clock() - self._nodes[judge].unbroken_since
        return self.is_heard(judge) and unbroken >= self.lease_timeout

    def living_nodes(self, judge: str) -> list[str]:
        """Return the nodes that aren't dead for this one."""
        return [name for name in self._nodes if not self.is_dead(name, judge)]

    def post(self, name: str, message: bytes, sender: str) -> None:
        """Put a message into the box of a node that isn't dead."""
        if not self.is_dead(name, sender):
            self._nodes[name].box.append(message)
            self._nodes[name].tell(name)

    def open_box(self, name: str) -> tuple[bytes, ...]:
        """Renew a node's lease and empty its box."""
        node = self._nodes[name]
        if not self.is_heard(name):
            node.unbroken_since = self._clock()
        node.asked_at = self._clock()
        messages = tuple(node.box)
        node.box.clear()
        return messages

    def _tell(self, *thread_ids: str) -> None:
        for node in self._nodes.values():
            for thread_id in thread_ids:
                node.tell(thread_id)

    # --- Turns

    def begin(self, opening: Opening, owner: str, node: str) -> TurnRow | None:
        """Carry out a turn's first writes and record it, or say which turn is to be waited for."""
        turn_id, thread_id = opening.turn_id, opening.thread_id
        if self._has_begun(turn_id, owner, node):
            return None
        if turn_id in self._settled:
            raise _fenced(turn_id)
        row = self.threads.get(thread_id)
        if row is None and opening.new_thread is None:
            raise _no_thread(thread_id)
        if row is not None and row.owner != owner:
            raise _no_thread(thread_id)
        place = TurnRow(turn_id, thread_id, owner, node)
        first = self.live_on(thread_id) or next(self._waiting_for(thread_id, node), place)
        if first.turn_id != turn_id:
            self._line.setdefault(turn_id, place)
            return first
        items = row.items if row is not None else {}
        last = next(row.items.behind(None, "desc"), None) if row is not None else None
        check_premises(opening, None if row is None else row.text, last, items)
        self._carry_out(opening, owner)
        self._line.pop(turn_id, None)
        self.turns[turn_id] = place
        self._tell(thread_id)
        return None

    def _has_begun(self, turn_id: str, owner: str, node: str) -> bool:
        turn = self.turns.get(turn_id)
        known = turn or self._line.get(turn_id)
        if known is not None and known.owner != owner:
            raise _known(turn_id)
        if turn is not None and (turn.node != node or turn.is_abandoned):
            raise _fenced(turn_id)
        return turn is not None

    def live_on(self, thread_id: str) -> TurnRow | None:
        """Return the turn that is live on a thread, also one that is abandoned but not settled."""
        turns = self.turns.values()
        return next((turn for turn in turns if turn.thread_id == thread_id), None)

    def _waiting_for(self, thread_id: str, asking_node: str) -> Iterator[TurnRow]:
        for place in list(self._line.values()):
            if self.is_dead(place.node, asking_node):
                del self._line[place.turn_id]
            elif place.thread_id == thread_id:
                yield place

    def line_up(self, turn_id: str, thread_id: str, owner: str, node: str) -> None:
        known = self.turns.get(turn_id) or self._line.get(turn_id)
        if known is None:
            self._line[turn_id] = TurnRow(turn_id, thread_id, owner, node)
        elif known.owner != owner:
            raise _known(turn_id)

    def withdraw(self, turn_id: str, node: str) -> None:
        place = self._line.get(turn_id)
        if place is not None and place.node == node:
            del self._line[turn_id]
            self._tell(place.thread_id)

    def abandon(self, turn_id: str, node: str) -> None:
        """Treat a turn of this node as one of a dead node from now on."""
        turn = self.turns.get(turn_id)
        if turn is not None and turn.node == node:
            turn.is_abandoned = True
            self._tell(turn.thread_id)

    def check_live(self, turn_id: str, node: str) -> None:
        """Raise `TurnFencedError` unless the turn is live on this node."""
        turn = self.turns.get(turn_id)
        if turn is None or turn.node != node or turn.is_abandoned:
            raise _fenced(turn_id)

    def abandon_turns_of_the_dead(self, asking_node: str, thread_id: str | None) -> None:
        """Mark the turns of dead nodes, of one thread if it is given; never those of the asker."""
        for turn in self.turns.values():
            if thread_id in (None, turn.thread_id) and self.is_dead(turn.node, asking_node):
                turn.is_abandoned = True

    def _end_turn(self, turn_id: str) -> None:
        turn = self.turns.pop(turn_id, None)
        if turn is not None:
            self._tell(turn.thread_id)

    def end_thread(self, thread_id: str) -> None:
        """Delete a thread with its turns and its line."""
        row, place = self.threads.pop(thread_id), self.threads.place(thread_id)
        assert place is not None
        self.deleted_threads[row.owner, thread_id] = place
        if len(self.deleted_threads) > _PLACES_KEPT:
            del self.deleted_threads[next(iter(self.deleted_threads))]
        self.set_aside_items[:] = [
            item for item in self.set_aside_items if item.thread_id != thread_id
        ]
        for turns in (self.turns, self._line):
            for turn in list(turns.values()):
                if turn.thread_id == thread_id:
                    del turns[turn.turn_id]
        self._tell(thread_id)

    # --- What a turn writes first and last

    def _carry_out(self, opening: Opening, owner: str) -> None:
        """Make a turn's first writes: all is tried on copies before anything is stored."""
        check_opening(opening)
        row = self.threads.get(opening.thread_id)
        text = encode_thread(opening.new_thread) if opening.new_thread is not None else None
        items = row.items.copy() if row is not None else Ordered[str]()
        attachments = {one.id: Row(owner, encode_attachment(one)) for one in opening.attachments}
        for attachment_id in attachments:
            there = self.attachments.get(attachment_id)
            if there is not None and there.owner != owner:
                raise NotFoundError(f"there is no attachment {attachment_id}")
        if opening.delete_after is not None:
            delete_after(items, opening.thread_id, opening.delete_after)
        for item_id in opening.deleted_item_ids:
            items.pop(item_id, None)
        for item in opening.new_items:
            if item.id in items:
                raise ConflictError(f"thread {opening.thread_id} already has an item {item.id}")
            items[item.id] = encode_item(item)
        items.update(_encoded(opening.changed_items))
        self.attachments |= attachments
        if row is None:
            assert text is not None
            self.threads[opening.thread_id] = ThreadRow(owner, text, items)
        else:
            row.items = items

    def settle_live(self, settlement: Settlement, owner: str, node: str) -> bool:
        """Settle a turn of this node, also one that another has marked and hasn't settled yet.

        Returns whether it wasn't marked. Raises `TurnFencedError` for a turn without a record here,
        unless this very settlement has ended it; `NotFoundError` if the thread is gone.
        """
        turn_id = settlement.turn_id
        turn = self.turns.get(turn_id) if turn_id is not None else None
        if turn_id is None or (turn is not None and turn.is_of(owner, node)):
            self.settle(settlement, owner)
        elif self._owned(settlement.thread_id, owner) is None:
            raise _no_thread(settlement.thread_id)
        elif self._settled.get(turn_id) != _Encoded.of(settlement).digest:
            raise _fenced(turn_id)
        return turn is None or not turn.is_abandoned

    def settle(self, settlement: Settlement, owner: str) -> None:
        """Store all that a turn leaves behind and end its record.

        Raises `NotFoundError` if the thread is gone; the record ends even so.
        """
        check_settlement(settlement)
        # All is encoded before anything is stored: what can't be encoded leaves no half.
        encoded = _Encoded.of(settlement)
        if settlement.turn_id is not None:
            self._end_turn(settlement.turn_id)
        row = self._owned(settlement.thread_id, owner)
        if row is None:
            raise _no_thread(settlement.thread_id)
        row.items.update({key: text for key, text in encoded.new.items() if key not in row.items})
        row.items.update(encoded.changed)
        if encoded.thread is not None:
            row.text = encoded.thread
        if settlement.turn_id is not None:
            self._remember(settlement.turn_id, encoded.digest)

    def set_aside(self, items: Iterable[UnstorableItem]) -> None:
        """Keep what couldn't be stored, each once."""
        for item in items:
            if item not in self.set_aside_items:
                self.set_aside_items.append(item)

    def _owned(self, thread_id: str, owner: str) -> ThreadRow | None:
        row = self.threads.get(thread_id)
        return row if row is not None and row.owner == owner else None

    def _remember(self, turn_id: str, digest: str) -> None:
        self._settled[turn_id] = digest
        while len(self._settled) > _SETTLEMENTS_KEPT:
            del self._settled[next(iter(self._settled))]


def delete_after(items: Ordered[str], thread_id: str, item_id: str) -> None:
    """Delete the items behind this one. Raises `NotFoundError` if it isn't there."""
    if item_id not in items:
        raise NotFoundError(f"thread {thread_id} has no item {item_id}")
    ids = list(items)
    for newer_id in ids[ids.index(item_id) + 1 :]:
        del items[newer_id]


@dataclass(frozen=True, slots=True)
class _Encoded:
    """What a settlement stores, as text."""

    new: dict[str, str]
    changed: dict[str, str]
    thread: str | None

    @classmethod
    def of(cls, settlement: Settlement) -> _Encoded:
        return cls(
            _encoded(settlement.new_items),
            _encoded(settlement.changed_items),
            encode_thread(settlement.thread) if settlement.thread is not None else None,
        )

    @property
    def digest(self) -> str:
        parts = json.dumps([self.new, self.changed, self.thread])
        return hashlib.sha256(parts.encode()).hexdigest()


def _encoded(items: Iterable[ThreadItem]) -> dict[str, str]:
    return {item.id: encode_item(item) for item in items}


def _no_thread(thread_id: str) -> NotFoundError:
    return NotFoundError(f"there is no thread {thread_id}")


def _known(turn_id: str) -> ConflictError:
    return ConflictError(f"there is a turn {turn_id} already")


def _fenced(turn_id: str) -> TurnFencedError:
    return TurnFencedError(
        f"turn {turn_id} isn't live on this node: another has settled it, or its thread is gone"
    )
