"""Owners and their limits: what a request costs, who pays, and the counting in memory.

`Owners` knows the limits and turns a refusal into a `LimitError`; `LocalUsage` counts. A rate is
kept as one number an owner, the time at which all of it is available again. So an owner who has
used nothing for that long can be forgotten: there is nothing to remember.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil, inf
from secrets import token_hex

import trio

from chatkit_trio.errors import LimitError
from chatkit_trio.limits import OwnerLimits, OwnerUsage, Rate

MAX_OWNERS = 100_000
"""How many owners are remembered a limit; beyond that the one who used it longest ago isn't."""

SLOT_LIFETIME = 15.0
"""Seconds from taking a slot until it must be kept: some network round trips."""

_SLOT_RETRY = 5.0
"""Seconds after which to try again when all slots are taken. Nobody knows when one is freed."""

_MINUTE, _HOUR = 60.0, 3600.0

_SECONDS = {
    "requests_per_minute": _MINUTE,
    "text_bytes_per_minute": _MINUTE,
    "upload_bytes_per_hour": _HOUR,
    "uploads_per_hour": _HOUR,
}

_WORDS = {
    "live_turns": "{limit} answers under way at once",
    "requests_per_minute": "{limit} requests a minute",
    "text_bytes_per_minute": "{limit} bytes of text a minute",
    "upload_bytes_per_hour": "{limit} uploaded bytes an hour",
    "uploads_per_hour": "{limit} new files an hour",
    "live_uploads": "{limit} files uploaded at the same time",
}


@dataclass(frozen=True, slots=True)
class Spending:
    """An amount that is to be spent of a rate."""

    owner: str
    kind: str
    seconds: float
    """In how many seconds the amount comes back."""
    room: float
    """How many seconds at most may be missing to all of the rate before it is spent."""

    @classmethod
    def of(cls, owner: str, kind: str, amount: float, rate: Rate) -> Spending:
        seconds_each = rate.seconds / rate.amount
        # Sums of fractions are off by a little; a microsecond is no wait.
        room = (rate.amount - min(amount, rate.amount)) * seconds_each + 1e-6
        return cls(owner, kind, amount * seconds_each, room)


class LocalUsage(OwnerUsage):
    """Counts in this process, on Trio's clock. No method waits."""

    def __init__(self) -> None:
        # When all of a rate is available again, by kind and owner; who used it last comes last.
        self._full_at: dict[str, OrderedDict[str, float]] = {}
        self._slots: dict[tuple[str, str], dict[str, _TakenSlot]] = {}

    async def spend(  # noqa: ASYNC124 (a shared usage waits)
        self, owner: str, kind: str, amount: float, rate: Rate, *, only_look: bool = False
    ) -> float:
        now = trio.current_time()
        owners = self._full_at.setdefault(kind, OrderedDict())
        full_at = max(now, owners.get(owner, now))
        spending = Spending.of(owner, kind, amount, rate)
        missing = full_at - now - spending.room
        if missing > 0:
            return missing
        if not only_look and amount > 0:
            owners[owner] = full_at + spending.seconds
            owners.move_to_end(owner)
            _forget(owners, now)
        return 0.0

    async def take_slot(  # noqa: ASYNC124
        self, owner: str, kind: str, slot_id: str, most: int, replaces: str | None
    ) -> bool:
        now = trio.current_time()
        taken = {
            each: slot
            for each, slot in self._slots.get((kind, owner), {}).items()
            if now < slot.until
        }
        counted = taken.keys() - {slot.replaces for slot in taken.values()} - {replaces}
        is_free = len(counted) < most
        if is_free:
            taken[slot_id] = _TakenSlot(now + SLOT_LIFETIME, replaces)
        if taken:
            self._slots[kind, owner] = taken
        else:
            self._slots.pop((kind, owner), None)
        return is_free

    def keep_slot(self, owner: str, kind: str, slot_id: str) -> None:
        slots = self._slots.setdefault((kind, owner), {})
        slots.setdefault(slot_id, _TakenSlot(inf, None)).until = inf

    def free_slot(self, owner: str, kind: str, slot_id: str) -> None:
        slots = self._slots.get((kind, owner), {})
        slots.pop(slot_id, None)
        if not slots:
            self._slots.pop((kind, owner), None)


@dataclass(slots=True)
class _TakenSlot:
    until: float
    replaces: str | None


def _forget(owners: OrderedDict[str, float], now: float) -> None:
    """Drop owners who have all of the rate again, beginning with who used it longest ago."""
    while owners:
        owner, full_at = next(iter(owners.items()))
        if full_at > now and len(owners) <= MAX_OWNERS:
            return
        del owners[owner]


@dataclass(slots=True, eq=False)
class Slot:
    """A slot that a request has taken, until a turn or an upload of it has ended."""

    usage: OwnerUsage
    owner: str
    kind: str
    id: str = field(default_factory=lambda: token_hex(8))
    is_kept: bool = False

    def keep(self) -> None:
        """Keep it until `free`: what it is for has begun."""
        self.is_kept = True
        self.usage.keep_slot(self.owner, self.kind, self.id)

    def free(self) -> None:
        """Give it back. Twice is allowed."""
        self.usage.free_slot(self.owner, self.kind, self.id)

    def free_unless_kept(self) -> None:
        """Give it back if what it is for has never begun."""
        if not self.is_kept:
            self.free()


class Owners:
    """The limits of a server, and the use that is counted against them."""

    def __init__(self, limits: OwnerLimits | None, usage: OwnerUsage | None = None) -> None:
        self.limits = limits if limits is not None else OwnerLimits()
        self.usage: OwnerUsage = LocalUsage() if usage is None else usage

    @property
    def are_limited(self) -> bool:
        """Whether there is any limit, so that it matters who the owner of a request is."""
        return self.limits != OwnerLimits()

    async def spend(self, owner: str, kind: str, amount: float, *, only_look: bool = False) -> None:
        """Use up an amount of a rate. Raises `LimitError`, and has then used up nothing."""
        limit: int | None = getattr(self.limits, kind)
        if limit is None:
            return
        rate = Rate(limit, _SECONDS[kind])
        wait = await self.usage.spend(owner, kind, amount, rate, only_look=only_look)
        if wait > 0:
            raise _refusal(kind, limit, wait)

    async def take_slot(self, owner: str, kind: str, replaces: str | None = None) -> Slot | None:
        """Return a slot, None if they aren't limited. Raises `LimitError` if all are taken.

        `replaces` is the id of one that isn't counted beside it.
        """
        limit: int | None = getattr(self.limits, kind)
        if limit is None:
            return None
        slot = Slot(self.usage, owner, kind)
        if await self.usage.take_slot(owner, kind, slot.id, limit, replaces):
            return slot
        raise _refusal(kind, limit, _SLOT_RETRY)

    def toll(self, owner: str, costs: Mapping[str, float]) -> Toll:
        """Return what a request costs an owner, by kind of rate."""
        return Toll(self, owner, costs)


class Toll:
    """What one request costs its owner, besides that it is a request.

    It is asked for before anything is stored, and paid when the request is carried out: a repeat
    of one that was carried out already is never paid for.
    """

    def __init__(self, owners: Owners, owner: str, costs: Mapping[str, float]) -> None:
        self.refusal: LimitError | None = None
        """Why the owner can't pay, once it has been asked."""
        self.slot: Slot | None = None
        """The slot of the request's turn."""
        self._owners = owners
        self._owner = owner
        self._costs = costs

    async def ask(self) -> None:
        """Look whether it could be paid now; `refusal` tells."""
        try:
            await self._look()
        except LimitError as refusal:
            self.refusal = refusal

    async def ask_for_turn(self, replaces: str | None) -> None:
        """Look whether it could be paid now, and take a slot for a turn if so."""
        try:
            await self._look()
            self.slot = await self._owners.take_slot(self._owner, "live_turns", replaces)
        except LimitError as refusal:
            self.refusal = refusal

    def require(self) -> None:
        """Raise the refusal, if there is one."""
        if self.refusal is not None:
            raise self.refusal

    async def pay(self) -> None:
        """Pay. Raises `LimitError`."""
        self.require()
        await self._look()
        for kind, amount in self._costs.items():
            await self._owners.spend(self._owner, kind, amount)

    def free_slot(self) -> None:
        """Give the slot back, if there is one."""
        if self.slot is not None:
            self.slot.free()

    async def _look(self) -> None:
        for kind, amount in self._costs.items():
            await self._owners.spend(self._owner, kind, amount, only_look=True)


def _refusal(kind: str, limit: int, wait: float) -> LimitError:
    words = _WORDS[kind].format(limit=limit)
    message = f"only {words} are allowed; try again in {ceil(wait)} s"
    return LimitError(message, limit=kind, retry_after=wait)
