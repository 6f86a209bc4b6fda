"""What owners use, counted by all nodes together: the part that both SQL stores have.

A slot is given back, or kept, without waiting. So these changes are collected, and written with the
next slot that is taken or when the node asks for its news, whichever comes first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

from chatkit_trio._engine.owner_limits import Spending
from chatkit_trio.limits import OwnerUsage, Rate


@dataclass(frozen=True, slots=True, eq=False)
class SlotChange:
    """A slot is kept for this owner and kind, or is free. Two changes are never the same one."""

    kept_for: tuple[str, str] | None


SlotChanges: TypeAlias = Mapping[str, SlotChange]
"""By the slot's id."""


@dataclass(frozen=True, slots=True)
class WantedSlot:
    """A slot that is to be taken, if fewer than `most` are."""

    owner: str
    kind: str
    id: str
    most: int
    replaces: str | None


class StoredUsage(OwnerUsage):
    """Counts in a store. `tell` is called when a slot was given back and others should see it."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self._tell = tell
        self._changes: dict[str, SlotChange] = {}
        self._kept: set[str] = set()

    @abstractmethod
    async def look(self, spending: Spending) -> float:
        """Return how many seconds are missing until it can be spent; 0 or less if it can be now."""

    @abstractmethod
    async def pay(self, spending: Spending) -> float:
        """Spend it if it can be spent now; else return how many seconds are missing."""

    @abstractmethod
    async def take(self, slot: WantedSlot, changes: SlotChanges) -> bool:
        """Write the changes, then take the slot if it is to be had; say whether it was."""

    async def spend(
        self, owner: str, kind: str, amount: float, rate: Rate, *, only_look: bool = False
    ) -> float:
        spending = Spending.of(owner, kind, amount, rate)
        missing = await (self.look if only_look or amount <= 0 else self.pay)(spending)
        return max(0.0, missing)

    async def take_slot(
        self, owner: str, kind: str, slot_id: str, most: int, replaces: str | None
    ) -> bool:
        with self.writing() as changes:
            return await self.take(WantedSlot(owner, kind, slot_id, most, replaces), changes)

    def keep_slot(self, owner: str, kind: str, slot_id: str) -> None:
        self._kept.add(slot_id)
        self._changes[slot_id] = SlotChange((owner, kind))

    def free_slot(self, owner: str, kind: str, slot_id: str) -> None:
        self._kept.discard(slot_id)
        self._free(slot_id)

    @contextmanager
    def writing(self) -> Iterator[SlotChanges]:
        """Give what hasn't been written yet, to a block that writes it.

        What has changed again meanwhile is written again, and so is all if the block raises.
        """
        changes = dict(self._changes)
        try:
            yield changes
            for slot_id, change in changes.items():
                if self._changes.get(slot_id) is change:
                    del self._changes[slot_id]
        finally:
            for slot_id, change in changes.items():
                if change.kept_for is not None and slot_id not in self._kept:
                    # Another write may have deleted it before this one has kept it.
                    self._free(slot_id)

    def _free(self, slot_id: str) -> None:
        self._changes[slot_id] = SlotChange(None)
        self._tell()
