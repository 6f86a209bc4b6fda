"""Keeping the crash journal: one checkpoint for all live turns, and the settling of dead ones."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import Any, TypeAlias

import trio

from chatkit_trio._foreign_text import text_of
from chatkit_trio.errors import StoreError
from chatkit_trio.observe import TurnRecovered
from chatkit_trio.store import (
    Journal,
    JournalEntry,
    Settlement,
    Store,
    UnstorableItem,
    default_generate_id,
)
from chatkit_trio.types import ThreadItem, is_hidden

from .groups import ends_process
from .keeping import CancelReason, kept_items, stored_reason
from .leftovers import Leftovers
from .settling import note_of_ending
from .storing import as_text

logger = logging.getLogger(__name__)

RECOVERY_INTERVAL = 10.0
"""How often, in seconds, turns of other processes that have died are looked for, unless the store
has coordination."""

Tell: TypeAlias = Callable[[TurnRecovered], None]

PATIENCE = 10.0
"""For so many seconds an abandoned turn that can't be settled whole is left as it is: another
process may be able to read it, or the store may take it."""

_MOST_FAILURES = 3
"""So often it has to fail besides, while the store is well."""

_MOST_PARTS = 64
"""In so many ways at most it is tried to settle it in part, before all of it is left out."""

_MOST_TROUBLES = 100_000
"""So many are remembered: some may have been settled by others meanwhile."""

_SETTLED_AT_ONCE = 4

_SETTLED_BEFORE_A_LOOK = 16
"""After so many turns at most the store is asked again which are left: other nodes settle them
too."""


class JournaledTurn:
    """A turn that has begun, and what the journal has of it."""

    def __init__(self, left: Leftovers) -> None:
        self._left = left
        self._version = 0
        self._item_ids: set[str] = set()

    @property
    def turn_id(self) -> str:
        """The turn's id."""
        return self._left.turn_id

    def may_hold(self, item_id: str) -> bool:
        """Say whether the journal may have a state of this item."""
        return item_id in self._item_ids

    def entry(self) -> JournalEntry | None:
        """Return what to write down; None if it hasn't changed since the last time."""
        if not self._left.in_journal or self._version == self._left.version:
            return None
        entry = self._left.journal_entry()
        self._version = self._left.version
        self._item_ids |= _ids(entry)
        return entry

    def is_written(self, entry: JournalEntry) -> None:
        """Take note that the journal has this entry, and nothing older."""
        self._item_ids = _ids(entry)

    def may_not_be_written(self) -> None:
        """Take note that nobody knows whether the journal has the last entry."""
        self._version = -1


def _ids(entry: JournalEntry) -> set[str]:
    return {item.id for item in (*entry.items, *entry.changed_items)}


class JournalWriter:
    """The one writer of a process's journal: no checkpoint can overtake a later one."""

    def __init__(self, journal: Journal[Any]) -> None:
        self._journal = journal
        self._lock = trio.Lock()
        self._complete_at: float | None = None

    @property
    def lag(self) -> float:
        """How long ago, in seconds, the journal had all that live turns had produced.

        0 if it isn't kept.
        """
        return 0.0 if self._complete_at is None else trio.current_time() - self._complete_at

    async def keep(self, live: Callable[[], Iterable[JournaledTurn]], interval: float) -> None:
        """Write down what live turns have produced, every `interval` seconds, until cancelled.

        One transaction for all turns, so its price doesn't grow with the number of events.
        """
        self._complete_at = trio.current_time()
        try:
            while True:
                await trio.sleep(interval)
                began_at = trio.current_time()
                if await self.write_down(live):
                    self._complete_at = began_at
        finally:
            self._complete_at = None

    async def write_down(self, turns: Callable[[], Iterable[JournaledTurn]]) -> bool:
        """Write down, in one transaction, what has changed in these turns.

        If that fails, log it and return False.
        """
        try:
            async with self._lock:
                await self._checkpoint(_entries(turns()))
        except Exception:
            logger.exception("the journal couldn't be written; it is tried again")
            return False
        except BaseExceptionGroup as group:
            # Cancelled, and something has failed beside that.
            cancelled, failure = group.split(trio.Cancelled)
            if cancelled is None or failure is None or ends_process(failure):
                raise
            logger.error("the journal couldn't be written", exc_info=failure)
            raise cancelled from None
        return True

    async def catch_up(self, turn: JournaledTurn) -> None:
        """Write down what has changed in a turn; raise what the store raises."""
        async with self._lock:
            entry = turn.entry()
            if entry is not None:
                await self._checkpoint([(turn, entry)])

    async def _checkpoint(self, entries: Sequence[tuple[JournaledTurn, JournalEntry]]) -> None:
        if not entries:
            return
        are_written = False
        try:
            await self._journal.checkpoint([entry for _, entry in entries])
            are_written = True
        finally:
            for turn, entry in entries:
                if are_written:
                    turn.is_written(entry)
                else:
                    turn.may_not_be_written()


def _entries(turns: Iterable[JournaledTurn]) -> list[tuple[JournaledTurn, JournalEntry]]:
    entries: list[tuple[JournaledTurn, JournalEntry]] = []
    for turn in turns:
        try:
            entry = turn.entry()
        except Exception:
            # An item that can't be copied must not keep the other turns out of the journal.
            logger.exception("the items of %s can't be written into the journal", turn.turn_id)
        else:
            if entry is not None:
                entries.append((turn, entry))
    return entries


async def keep_recovering(store: Store[Any], interval: float, tell: Tell) -> None:
    """Settle, every `interval` seconds, turns that another process left behind, until cancelled."""
    while True:
        await trio.sleep(interval)
        try:
            await recover(store, tell=tell)
        except Exception:
            logger.exception("looking for abandoned turns failed; it is tried again")


async def recover(store: Store[Any], thread_id: str | None = None, *, tell: Tell) -> None:
    """Settle every turn that a dead process has left, on one thread if it is named; tell of each.

    Without a journal there is nothing to find. Each is tried. Raises `StoreError` at the end if the
    store couldn't be used for one of them. An entry that can't be settled for another reason, or
    not be read, is logged: it must not keep the server from starting, nor the thread from being
    read. When `PATIENCE` is over, as much of it is settled as the store takes, and the rest is set
    aside.

    A node that dies may leave hundreds, and all other nodes find them at the same time. Each node
    takes them in an order of its own, some at a time, so that they share the work.
    """
    if (journal := store.journal) is None:
        return
    recovery, order = _Recovery(store, journal, tell), _order_of(store)
    tried: set[str] = set()
    has_more = True
    while has_more:
        found = [
            entry for entry in await journal.abandoned(thread_id) if entry.turn_id not in tried
        ]
        # Of few that are left, nodes would pick the same ones.
        count = min(max(len(found) // 4, _SETTLED_AT_ONCE), _SETTLED_BEFORE_A_LOOK)
        some = sorted(found, key=order)[:count]
        has_more = len(found) > count
        tried.update(entry.turn_id for entry in some)
        await recovery.settle(some)
    if recovery.settled:
        logger.warning("settled %d turns that a crash had cut short", recovery.settled)
    if recovery.store_error is not None:
        raise recovery.store_error


def _order_of(store: Store[Any]) -> Callable[[JournalEntry], bytes]:
    """Return a key that sorts turns differently for each node."""
    node = "" if store.coordination is None else store.coordination.node
    return lambda entry: hashlib.sha256(f"{node} {entry.turn_id}".encode()).digest()


@dataclass(slots=True)
class _Trouble:
    """That an abandoned turn can't be settled whole."""

    since: float
    failures: int = 0

    @property
    def has_lasted(self) -> bool:
        """Whether it is to be settled in part now."""
        seconds = trio.current_time() - self.since
        return self.failures >= _MOST_FAILURES and seconds >= PATIENCE


class _Recovery:
    """The settling of several turns, by several tasks."""

    def __init__(self, store: Store[Any], journal: Journal[Any], tell: Tell) -> None:
        self._store = store
        self._journal = journal
        if journal.engine is None:
            journal.engine = {}
        self._troubles: dict[str, _Trouble] = journal.engine
        self._tell = tell
        self.settled = 0
        self.store_error: StoreError | None = None

    async def settle(self, entries: Sequence[JournalEntry]) -> None:
        """Settle all of these turns; `store_error` says whether the store couldn't be used."""
        left = iter(entries)
        async with trio.open_nursery() as nursery:
            for _ in range(min(len(entries), _SETTLED_AT_ONCE)):
                nursery.start_soon(self._settle_each, left)

    async def _settle_each(self, entries: Iterator[JournalEntry]) -> None:
        for entry in entries:
            await self._settle(entry)

    async def _settle(self, entry: JournalEntry) -> None:
        try:
            if await self._settle_whole_or_in_part(entry) is False:
                return  # not yet, or somebody else was quicker, and tells of it
            self.settled += 1
            self._tell(TurnRecovered(entry.turn_id, entry.thread_id, _reason_of(entry).value))
        except StoreError as error:
            if self.store_error is not None:
                logger.error(
                    "one more turn that a crash had cut short can't be settled",
                    exc_info=self.store_error,
                )
            self.store_error = error
        except Exception:
            logger.exception(
                "turn %s of thread %s can't be settled", entry.turn_id, entry.thread_id
            )

    async def _settle_whole_or_in_part(self, entry: JournalEntry) -> bool | None:
        """Settle a turn and say whether it was this call; None if the journal doesn't say it."""
        refusal: Exception | None = None
        if not entry.unreadable:
            try:
                is_settled = await self._journal.settle_abandoned(_crash_settlement(entry))
            except StoreError:
                raise
            except Exception as error:
                refusal = error
            else:
                self._troubles.pop(entry.turn_id, None)
                return is_settled
        has_lasted = await self._note(entry, refusal)
        return await self._settle_in_part(entry, refusal) if has_lasted else False

    async def _note(self, entry: JournalEntry, error: Exception | None) -> bool:
        """Note that a turn can't be settled whole; say whether that has lasted for long enough.

        A refusal counts only while the store is well: then it is hardly that of the store.
        """
        turn_id, is_new = entry.turn_id, entry.turn_id not in self._troubles
        if is_new and error is not None:
            logger.error(
                "turn %s of thread %s can't be settled; it is tried again",
                turn_id,
                entry.thread_id,
                exc_info=error,
            )
        now = trio.current_time()
        trouble = self._troubles.setdefault(turn_id, _Trouble(now))
        trouble.since = min(trouble.since, now)  # it may be of a run with another clock
        if len(self._troubles) > _MOST_TROUBLES:
            del self._troubles[next(iter(self._troubles))]
        try:
            await self._store.ping()
        except Exception:
            trouble.since, trouble.failures = now, 0
            return False
        trouble.failures += 1
        return trouble.has_lasted

    async def _settle_in_part(self, entry: JournalEntry, refusal: Exception | None) -> bool | None:
        """Settle as much of a turn as the store takes, and have the rest set aside."""
        for settlement, refused in _parts(entry):
            why = text_of(refusal, repr)
            left_out = [
                UnstorableItem(entry.thread_id, item.id, entry.turn_id, as_text(item), why)
                for item in refused
            ]
            try:
                is_settled = await self._journal.settle_in_part(
                    settlement, (*entry.unreadable, *left_out)
                )
            except StoreError:
                raise
            except Exception as error:
                refusal = error
                continue
            self._troubles.pop(entry.turn_id, None)
            if is_settled is not False:
                logger.error(
                    "turn %s of thread %s couldn't be settled whole; of its items %s are set aside",
                    entry.turn_id,
                    entry.thread_id,
                    [item.item_id for item in (*entry.unreadable, *left_out)],
                )
            return is_settled
        self._troubles.pop(entry.turn_id, None)
        logger.error(
            "turn %s of thread %s can't be settled in part either; it is tried again",
            entry.turn_id,
            entry.thread_id,
            exc_info=refusal,
        )
        return False


def _parts(entry: JournalEntry) -> Iterator[tuple[Settlement, Sequence[ThreadItem]]]:
    """Yield what may be settled of a turn, and what it leaves out: the most of it first."""
    whole = _crash_settlement(entry)
    *items, note = whole.new_items
    changed = whole.changed_items
    all_items = (*items, *changed)
    fewest = 0 if entry.unreadable else 1  # with none left out it has just been refused
    ways = (
        left_out
        for count in range(fewest, len(all_items))
        for left_out in combinations(range(len(all_items)), count)
    )
    for left_out in (*islice(ways, _MOST_PARTS), tuple(range(len(all_items)))):
        kept = [item for place, item in enumerate(items) if place not in left_out]
        places = range(len(items), len(all_items))
        grown = [item for place, item in zip(places, changed, strict=True) if place not in left_out]
        part = replace(entry, items=tuple(kept), changed_items=tuple(grown))
        yield _crash_settlement(part), [all_items[place] for place in left_out]
    yield replace(whole, new_items=(), changed_items=()), (*all_items, note)


def _reason_of(entry: JournalEntry) -> CancelReason:
    return CancelReason.CRASHED if entry.reason is None else stored_reason(entry.reason)


def _crash_settlement(entry: JournalEntry) -> Settlement:
    items = kept_items(entry.items)
    note = note_of_ending(
        entry.thread_id,
        default_generate_id("sdk_hidden_context"),
        entry.turn_id,
        _reason_of(entry),
        [item.id for item in (items or entry.changed_items) if not is_hidden(item)],
    )
    return Settlement(
        thread_id=entry.thread_id,
        turn_id=entry.turn_id,
        new_items=(*items, note),
        changed_items=tuple(kept_items(entry.changed_items)),
    )
