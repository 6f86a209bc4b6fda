"""The journal and the coordination of a memory store that is a node of a `MemoryCluster`.

Every method waits once, at its start, and does the rest in one step.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

import trio

from chatkit_trio.errors import ConflictError, NotFoundError
from chatkit_trio.limits import OwnerUsage, Rate
from chatkit_trio.store import (
    Coordination,
    Journal,
    JournalEntry,
    News,
    Opening,
    Settlement,
    TContext,
    TurnRecord,
    UnstorableItem,
)
from chatkit_trio.types import ThreadItem

from ._memory_cluster import MemoryCluster, TurnRow
from ._records import decode_item, encode_item, owner_of

logger = logging.getLogger(__name__)


class MemoryCoordination(Coordination[TContext]):
    """A node of a cluster, from its opening to its closing; see `Coordination`."""

    spans_processes = False

    def __init__(self, cluster: MemoryCluster, owner: Callable[[TContext], str]) -> None:
        super().__init__()
        self._usage = NodeUsage(cluster.usage)
        self.node = ""
        self.lease_timeout = cluster.lease_timeout
        self._cluster = cluster
        self._owner = owner

    @property
    def usage(self) -> NodeUsage:
        return self._usage

    def open(self) -> None:
        """Join the cluster under a new id."""
        self.node = self._cluster.join(self.tell)

    def close(self) -> None:
        """Leave the cluster."""
        self._cluster.leave(self.node)
        self._usage.free_all()
        self.node = ""

    async def begin(self, opening: Opening, context: TContext) -> TurnRecord | None:
        await trio.lowlevel.checkpoint()
        row = self._cluster.begin(opening, owner_of(self._owner, context), self.open_node())
        return None if row is None else row.record

    async def line_up(self, turn_id: str, thread_id: str, context: TContext) -> None:
        await trio.lowlevel.checkpoint()
        owner = owner_of(self._owner, context)
        self._cluster.line_up(turn_id, thread_id, owner, self.open_node())

    async def withdraw(self, turn_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self._cluster.withdraw(turn_id, self.open_node())

    async def abandon(self, turn_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self._cluster.abandon(turn_id, self.open_node())

    async def record(self, thread_id: str) -> TurnRecord | None:
        await trio.lowlevel.checkpoint()
        row = self._cluster.live_on(thread_id)
        return None if row is None else row.record

    async def checkpointed(self, turn_id: str) -> JournalEntry | None:
        await trio.lowlevel.checkpoint()
        row = self._cluster.turns.get(turn_id)
        return None if row is None else _entry(row)

    async def post(self, node: str, message: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._cluster.post(node, message, self.open_node())

    async def news(self) -> News:
        await trio.lowlevel.checkpoint()
        node = self.open_node()
        messages = self._cluster.open_box(node)
        turns = self._cluster.turns.values()
        live = [turn.turn_id for turn in turns if turn.node == node and not turn.is_abandoned]
        return News(messages, frozenset(live))

    async def nodes(self) -> list[str]:
        await trio.lowlevel.checkpoint()
        return self._cluster.living_nodes(self.open_node())

    def open_node(self) -> str:
        """Return the id of this node. Raises `RuntimeError` if the store isn't open."""
        if not self.node:
            raise RuntimeError(
                "this node of a MemoryCluster isn't open: use its store inside 'async with store:'"
                " (ChatKitServer does that for its own store)"
            )
        return self.node


class NodeUsage(OwnerUsage):
    """What owners use, as the cluster counts it; a node that leaves gives back its slots."""

    def __init__(self, of_all: OwnerUsage) -> None:
        self._of_all = of_all
        self._slots: dict[str, tuple[str, str]] = {}

    async def spend(
        self, owner: str, kind: str, amount: float, rate: Rate, *, only_look: bool = False
    ) -> float:
        return await self._of_all.spend(owner, kind, amount, rate, only_look=only_look)

    async def take_slot(
        self, owner: str, kind: str, slot_id: str, most: int, replaces: str | None
    ) -> bool:
        return await self._of_all.take_slot(owner, kind, slot_id, most, replaces)

    def keep_slot(self, owner: str, kind: str, slot_id: str) -> None:
        self._slots[slot_id] = owner, kind
        self._of_all.keep_slot(owner, kind, slot_id)

    def free_slot(self, owner: str, kind: str, slot_id: str) -> None:
        self._slots.pop(slot_id, None)
        self._of_all.free_slot(owner, kind, slot_id)

    def free_all(self) -> None:
        for slot_id, (owner, kind) in list(self._slots.items()):
            self.free_slot(owner, kind, slot_id)


class MemoryJournal(Journal[TContext]):
    """The live turns of all nodes of a cluster; see `Journal`."""

    def __init__(
        self,
        cluster: MemoryCluster,
        coordination: MemoryCoordination[TContext],
        owner: Callable[[TContext], str],
    ) -> None:
        self._cluster = cluster
        self._coordination = coordination
        self._owner = owner

    async def begin(self, turn_id: str, thread_id: str, context: TContext) -> None:
        """Record that a turn is live on this node. Raises `ConflictError` for a known turn."""
        await trio.lowlevel.checkpoint()
        node, owner = self._coordination.open_node(), owner_of(self._owner, context)
        if turn_id in self._cluster.turns:
            raise ConflictError(f"the journal already has a turn {turn_id}")
        self._cluster.turns[turn_id] = TurnRow(turn_id, thread_id, owner, node)

    async def checkpoint(self, entries: Sequence[JournalEntry]) -> None:
        """Replace what is recorded of these turns.

        An item that can't be stored is left out and logged.
        """
        await trio.lowlevel.checkpoint()
        node = self._coordination.open_node()
        for entry in entries:
            row = self._cluster.turns.get(entry.turn_id)
            if row is not None and row.node == node:
                row.items = tuple(_texts(entry.items))
                row.changed_items = tuple(_texts(entry.changed_items))
                row.reason = entry.reason

    async def abandoned(self, thread_id: str | None = None) -> list[JournalEntry]:
        await trio.lowlevel.checkpoint()
        self._cluster.abandon_turns_of_the_dead(self._coordination.open_node(), thread_id)
        return [
            _entry(row)
            for row in self._cluster.turns.values()
            if row.is_abandoned and thread_id in (None, row.thread_id)
        ]

    async def settle_abandoned(self, settlement: Settlement) -> bool:
        return await self.settle_in_part(settlement, ())

    async def settle_in_part(
        self, settlement: Settlement, left_out: Sequence[UnstorableItem]
    ) -> bool:
        await trio.lowlevel.checkpoint()
        row = self._cluster.turns.get(settlement.turn_id or "")
        if row is None or not row.is_abandoned:
            return False
        with suppress(NotFoundError):  # the thread is gone, and so is the record now
            self._cluster.settle(settlement, row.owner)
            self._cluster.set_aside(left_out)
        return True


def _texts(items: Iterable[ThreadItem]) -> Iterable[str]:
    for item in items:
        try:
            yield encode_item(item)
        except ValueError:
            logger.exception(
                "item %s of thread %s can't be journaled; it is left out", item.id, item.thread_id
            )


def _entry(row: TurnRow) -> JournalEntry:
    return JournalEntry(
        row.turn_id,
        row.thread_id,
        tuple(map(decode_item, row.items)),
        tuple(map(decode_item, row.changed_items)),
        row.reason,
    )
