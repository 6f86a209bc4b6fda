"""Storing what a turn leaves behind, exactly once, however it ended.

`Settling.settle` asks the user's hook what to keep, stores it in one atomic call, and returns an
`Outcome`; `ending_events` says, from the outcome alone, what the client is told. What can't be
stored now is tried again until the store has it, the thread is gone, or the server leaves.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import inf
from typing import Any

import trio

from chatkit_trio.errors import NotFoundError, StoreError
from chatkit_trio.store import (
    JournalEntry,
    Settlement,
    Store,
    UnstorableItem,
    default_generate_id,
)
from chatkit_trio.types import (
    ErrorEvent,
    SDKHiddenContextItem,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    ThreadUpdatedEvent,
    TurnEnding,
    is_hidden,
)

from .groups import StrayCancellation, ends_process
from .items import SaveItem, TurnItems
from .keeping import ENDING_MESSAGES, CancelReason, ending_note, kept_items
from .thread_state import ThreadWatch, as_metadata
from .wire import error_event, thread_answer

logger = logging.getLogger(__name__)

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 30.0  # seconds between two tries
_TRIES_TOGETHER = {True: 10, False: 3}
"""After so many failures the items are tried one by one. True: the store says that it can't be
used, which is hardly the fault of an item."""

_TRIES_OF_THREAD = 2
"""A thread that was refused so often, while its items were stored, stays as the store has it."""

_TRIES_ALONE = 3
"""An item that fails so often alone, while the store takes the note, is set aside."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a turn ended and what of it the store has."""

    reason: CancelReason | None
    """None: `respond` came to its end by itself."""
    failure: BaseException | None = None
    is_stored: bool = True
    """False: the store couldn't be used so far; it is tried again."""
    made_up_for: Sequence[ThreadItem] = ()
    """Finished items whose write failed, and which settling has stored."""
    pending: Sequence[ThreadItem] = ()
    """Items that were begun and not done, as the client has seen them."""
    kept: Sequence[ThreadItem] | None = ()
    """What of them was stored. None: an own hook has stored what it wanted."""
    thread: ThreadMetadata | None = None
    """The thread, if settling has saved it."""


def ending_events(outcome: Outcome) -> list[ThreadStreamEvent]:
    """Return what clients that still read are told: what was kept, and why the answer ends here."""
    events: list[ThreadStreamEvent] = []
    if outcome.is_stored:
        events += [ThreadItemDoneEvent(item=item) for item in outcome.made_up_for]
        events += _fate_of_pending(outcome)
    if outcome.reason is CancelReason.FAILED:
        # In the original's order: the error, then the thread.
        events.append(error_event(outcome.failure or RuntimeError("the answer failed")))
    if outcome.is_stored and outcome.thread is not None:
        events.append(ThreadUpdatedEvent(thread=thread_answer(outcome.thread)))
    if not outcome.is_stored and outcome.reason is not CancelReason.FAILED:
        events.append(error_event(StoreError("the answer couldn't be stored yet")))
    elif (told := told_at_end(outcome.reason)) is not None:
        events.append(told)
    return events


def told_at_end(reason: CancelReason | None) -> ErrorEvent | None:
    """Return what the user is told about a reason that the user can't know."""
    message = None if reason is None else ENDING_MESSAGES.get(reason)
    return None if message is None else ErrorEvent(code="custom", message=message, allow_retry=True)


def _fate_of_pending(outcome: Outcome) -> list[ThreadStreamEvent]:
    if outcome.kept is None:
        return []
    kept = {item.id: item for item in outcome.kept}
    return [
        ThreadItemDoneEvent(item=kept[item.id])
        if item.id in kept
        else ThreadItemRemovedEvent(item_id=item.id)
        for item in outcome.pending
        if not is_hidden(item)
    ]


def note_of_ending(
    thread_id: str, note_id: str, turn_id: str, reason: CancelReason, item_ids: Sequence[str]
) -> SDKHiddenContextItem:
    """Return the hidden note that tells the model, and this package, why an answer ended."""
    return SDKHiddenContextItem(
        id=note_id,
        thread_id=thread_id,
        created_at=datetime.now(UTC),
        content=ending_note(reason),
        ending=TurnEnding(turn_id=turn_id, reason=reason.value, item_ids=list(item_ids)),
    )


class Settling:
    """What one turn leaves behind, and the storing of it."""

    def __init__(
        self,
        turn_id: str,
        store: Store[Any],
        context: Any,
        items: TurnItems,
        watch: ThreadWatch,
        seconds: float,
    ) -> None:
        self.in_journal = False
        """Whether the journal has an entry of this turn, for all that is known."""
        self._turn_id = turn_id
        self._store = store
        self._context = context
        self._items = items
        self._watch = watch
        self._thread_id = watch.thread.id
        self._seconds = seconds
        self._outcome = Outcome(None)
        self._to_add: list[ThreadItem] = []
        """What is kept of the pending items, and the note behind it."""
        self._note: SDKHiddenContextItem | None = None
        self._is_decided = False  # what is kept of the pending items, by the hook or by the rule
        self._thread_refusals = 0
        self._is_gone = False
        self._tries = 0
        self._tries_alone: dict[str, int] = {}
        self._last_error: Exception | None = None
        self._is_given_up = False
        self._waiting = trio.lowlevel.ParkingLot()

    # --- What is left --------------------------------------------------------------------------

    @property
    def reason(self) -> CancelReason | None:
        """Why the turn ended, as far as settling knows."""
        return self._outcome.reason

    def settlement(self) -> Settlement:
        """Return all that this turn has left unsaved."""
        return Settlement(
            thread_id=self._thread_id,
            turn_id=self._turn_id if self.in_journal else None,
            new_items=(*self._own(self._items.unconfirmed_additions()), *self._own(self._to_add)),
            changed_items=self._own(self._items.changed()),
            thread=self._unsaved_thread(),
        )

    def journal_entry(self) -> JournalEntry:
        """Return what would have to be settled if the process died now."""
        left = self._to_add if self._is_decided else kept_items(self._items.pending())
        return JournalEntry(
            turn_id=self._turn_id,
            thread_id=self._thread_id,
            items=(
                *self._own(self._items.unconfirmed_additions()),
                *self._own([item for item in left if item is not self._note]),
            ),
            changed_items=self._own(self._items.changed()),
            reason=None if self.reason is None else self.reason.value,
        )

    def _own(self, items: Sequence[ThreadItem]) -> tuple[ThreadItem, ...]:
        """Fix a wrong thread_id: the store would reject the whole settlement because of it."""
        update = {"thread_id": self._thread_id}
        return tuple(
            item if item.thread_id == self._thread_id else item.model_copy(update=update)
            for item in items
        )

    def _unsaved_thread(self) -> ThreadMetadata | None:
        """Return the thread if it has changed; None if it can't be copied or stored. Items are
        stored all the same."""
        if self._thread_refusals >= _TRIES_OF_THREAD:
            return None
        try:
            return as_metadata(self._watch.thread) if self._watch.changed() else None
        except Exception:
            logger.exception("what respond() made of thread %s can't be saved", self._thread_id)
            return None

    def _make_note(self) -> SDKHiddenContextItem:
        """Return the note of why this turn ended: always the same one, so it is stored once."""
        if self._note is None:
            cut = [item.id for item in self._outcome.kept or () if not is_hidden(item)]
            if not cut and self._items.last_visible_id is not None:
                cut = [self._items.last_visible_id]
            self._note = note_of_ending(
                self._thread_id,
                self._note_id(),
                self._turn_id,
                self.reason or CancelReason.STOPPED,
                cut,
            )
        return self._note

    def _note_id(self) -> str:
        thread, context = self._watch.thread, self._context
        try:
            return self._store.generate_item_id("sdk_hidden_context", thread, context)
        except Exception:
            logger.exception("generate_item_id() made no id for the hidden note; it gets a random")
            return default_generate_id("sdk_hidden_context")

    # --- Settling ------------------------------------------------------------------------------

    async def settle(
        self,
        reason: CancelReason | None,
        failure: BaseException | None,
        hook: Callable[[list[ThreadItem]], Awaitable[None]],
    ) -> Outcome:
        """Store what is left, by the hook if the turn was cut short.

        Shielded; takes at most three times the settling time. If the outcome isn't stored then,
        call `settle_later`.
        """
        until = trio.current_time() + 3 * self._seconds
        pending = self._items.pending()
        self._outcome = Outcome(reason, failure, pending=tuple(pending), kept=None)
        if reason is None or (reason is CancelReason.FAILED and not self._has_to_keep(pending)):
            self._keep(pending, with_note=False)
        else:
            await self._store_unconfirmed()
            await self._call_hook(hook, pending)
        is_stored = await self._store_left(until)
        self._outcome = replace(self._outcome, is_stored=is_stored)
        return self._outcome

    async def settle_later(self) -> bool:
        """Try again until all is stored or the thread is gone; False if `give_up` was called."""
        is_stored = await self._store_left(inf)
        if not is_stored:
            self._log_lost()
        return is_stored

    def give_up(self) -> None:
        """End `settle_later`: the server leaves."""
        self._is_given_up = True
        self._waiting.unpark_all()

    def try_now(self) -> None:
        """Have `settle_later` try at once, because somebody waits for it."""
        self._waiting.unpark_all()

    async def keep(self, pending: Sequence[ThreadItem]) -> None:
        """Store what is worth keeping of these items, the note, and all else that is unsaved.

        This is the default hook. Raises what the store raises; what is kept stays noted, and is
        tried again by `settle`.
        """
        self._keep(pending, with_note=True)
        await self._store_settlement(self.settlement())

    def _has_to_keep(self, pending: Sequence[ThreadItem]) -> bool:
        """Say whether a failed turn has an answer that was cut: a refusal alone isn't one."""
        return bool(kept_items(pending) or self._items.unconfirmed_additions())

    async def _store_unconfirmed(self) -> None:
        """Store finished items whose write failed: a hook may add a note, which comes behind them.

        If it fails they are stored with what the hook keeps.
        """
        finished = self._items.unconfirmed()
        new = self._own(self._items.unconfirmed_additions())
        replaced = self._own([item for item in finished if item.id not in {i.id for i in new}])
        if finished and await self._is_taken(Settlement(self._thread_id, None, new, replaced)):
            made_up_for = (*self._outcome.made_up_for, *self._own(finished))
            self._outcome = replace(self._outcome, made_up_for=made_up_for)
            for item in finished:
                self._items.confirm(SaveItem(item))

    def _keep(self, pending: Sequence[ThreadItem], *, with_note: bool) -> None:
        kept = self._own(kept_items(pending))
        self._outcome = replace(self._outcome, kept=kept)
        self._to_add = [*kept, self._make_note()] if with_note else [*kept]
        self._is_decided = True

    async def _call_hook(
        self, hook: Callable[[list[ThreadItem]], Awaitable[None]], pending: list[ThreadItem]
    ) -> None:
        try:
            is_done = await self._within(self._seconds, hook, list(pending))
        except NotFoundError:
            is_done = self._outcome.kept is not None  # the store says whether it is the thread
        except Exception as error:
            is_done = False
            self._log_hook("failed", error)
        else:
            if not is_done:
                self._log_hook(f"hadn't ended after {self._seconds} s", None)
        if not is_done and self._outcome.kept is None:
            self._keep(pending, with_note=True)
        self._is_decided = True

    def _log_hook(self, what: str, error: BaseException | None) -> None:
        logger.error(
            "handle_stream_cancelled %s for thread %s; items %s are kept by the default rule",
            what,
            self._thread_id,
            [item.id for item in self._outcome.pending],
            exc_info=error,
        )

    async def _within(
        self, seconds: float, operation: Callable[..., Awaitable[None]], *args: Any
    ) -> bool:
        """Run an operation shielded, and say whether it ended in time.

        Whatever it raises comes out as an `Exception`; only Ctrl-C and exits pass. The group of a
        nursery may hold a cancellation by this scope beside a real error: the scope takes the
        cancellation out, and the rest is raised.
        """
        try:
            with trio.move_on_after(seconds, shield=True):
                await operation(*args)
                return True
        except (Exception, GeneratorExit):
            raise
        except BaseException as error:
            if ends_process(error):
                raise
            # A cancellation of some scope of the hook's own, raised again where it is no more.
            raise StrayCancellation.of(error) from None  # noqa: ASYNC104
        return False

    # --- The storing ---------------------------------------------------------------------------

    async def _store_left(self, until: float) -> bool:
        """Store what is left, trying again until this time or `give_up`; say if all is stored."""
        delay = _FIRST_DELAY
        while not self._is_nothing_left:
            if await self._try_to_store(min(self._seconds, until - trio.current_time())):
                continue
            with trio.move_on_after(min(delay, until - trio.current_time()), shield=True):
                await self._waiting.park()
            if self._is_given_up or trio.current_time() >= until:
                return False
            delay = min(delay * 2, _LONGEST_DELAY)
        return True

    @property
    def _is_nothing_left(self) -> bool:
        return self._is_gone or self.settlement() == Settlement(thread_id=self._thread_id)

    async def _try_to_store(self, seconds: float) -> bool:
        error: Exception | None
        try:
            if await self._within(seconds, self._store_settlement, self.settlement()):
                return True
            error = None
        except NotFoundError:
            logger.info("thread %s was deleted; %s is settled", self._thread_id, self._turn_id)
            self._thread_is_gone()
            return True
        except Exception as raised:
            error = raised
        self._tries += 1
        level = logging.ERROR if self._tries == 1 else logging.WARNING
        logger.log(
            level,
            "settling %s of thread %s %s (try %d); items %s aren't stored%s; it is tried again",
            self._turn_id,
            self._thread_id,
            f"hadn't ended after {seconds} s" if error is None else "failed",
            self._tries,
            [item.id for item in self.settlement().new_items],
            ", and are in the journal" if self.in_journal else "",
            exc_info=error if level == logging.ERROR else None,
        )
        store_is_away = error is None or isinstance(error, StoreError)
        if self._tries >= _TRIES_TOGETHER[store_is_away]:
            return await self._store_one_by_one()
        return False

    async def _store_settlement(self, settlement: Settlement) -> None:
        try:
            await self._store.settle(settlement, self._context)
        except (NotFoundError, StoreError):
            raise
        except Exception:
            if settlement.thread is None:
                raise
            # It may be the thread that can't be stored: the items are stored without it.
            logger.exception("thread %s couldn't be saved with its items", self._thread_id)
            settlement = replace(settlement, thread=None)
            await self._store.settle(settlement, self._context)
            self._thread_refusals += 1
        if settlement.thread is not None:
            self._thread_is_saved(settlement.thread)
        self._items_are_stored()

    def _thread_is_saved(self, thread: ThreadMetadata) -> None:
        self._watch.saved(thread)
        self._outcome = replace(self._outcome, thread=thread)

    def _items_are_stored(self) -> None:
        made_up_for = (*self._outcome.made_up_for, *self._own(self._items.unconfirmed()))
        self._outcome = replace(self._outcome, made_up_for=made_up_for)
        self.in_journal = False
        self._to_add = []
        self._items.settled()

    def _thread_is_gone(self) -> None:
        self._outcome = replace(self._outcome, made_up_for=(), kept=None)
        self.in_journal = False
        self._to_add = []
        self._items.settled()
        self._is_gone = True

    async def _store_one_by_one(self) -> bool:
        """Store each item alone, so that one which the store can never take doesn't hold up all.

        A failure counts only if the store has just taken something else. The note comes last.
        """
        whole = self.settlement()
        if not await self._is_taken(Settlement(self._thread_id, thread=self._watch.as_saved())):
            return False
        parts = {
            item.id: Settlement(self._thread_id, None, (item,))
            for item in whole.new_items
            if item is not self._note
        }
        for item in whole.changed_items:
            parts[item.id] = Settlement(self._thread_id, changed_items=(item,))
        if whole.thread is not None:
            parts[self._thread_id] = Settlement(self._thread_id, thread=whole.thread)
        refused = [name for name, part in parts.items() if not await self._is_taken(part)]
        for name in refused:
            self._tries_alone[name] = self._tries_alone.get(name, 0) + 1
        if any(self._tries_alone[name] < _TRIES_ALONE for name in refused):
            return False
        notes = () if self._note is None else self._own([self._note])
        if not await self._is_taken(Settlement(self._thread_id, whole.turn_id, notes)):
            return False
        for item in (*whole.new_items, *whole.changed_items):
            if item.id in refused:
                await self._set_aside(item)
        if whole.thread is not None:
            if self._thread_id in refused:
                self._thread_refusals = _TRIES_OF_THREAD
            else:
                self._thread_is_saved(whole.thread)
        self._items_are_stored()
        return True

    async def _is_taken(self, settlement: Settlement) -> bool:
        try:
            return await self._within(self._seconds, self._store.settle, settlement, self._context)
        except Exception as error:
            self._last_error = error
            return False

    async def _set_aside(self, item: ThreadItem) -> None:
        error = self._last_error
        aside = UnstorableItem(
            thread_id=self._thread_id,
            item_id=item.id,
            turn_id=self._turn_id,
            text=_as_text(item),
            error=repr(error),
        )
        logger.error(
            "the store has never taken item %s of thread %s; it is set aside",
            item.id,
            self._thread_id,
            exc_info=error,
        )
        kept = [other for other in self._outcome.kept or () if other.id != item.id]
        self._outcome = replace(self._outcome, kept=kept)
        self._items.forget(item.id)
        try:
            if await self._within(self._seconds, self._store.set_aside, aside, self._context):
                return
        except Exception:
            logger.exception("the store couldn't set it aside; here it is: %s", aside.text)
        else:
            logger.error("the store couldn't set it aside in time; here it is: %s", aside.text)

    def _log_lost(self) -> None:
        logger.error(
            "the server leaves before %s of thread %s could be stored; items %s are %s",
            self._turn_id,
            self._thread_id,
            [item.id for item in self.settlement().new_items],
            "in the journal" if self.in_journal else "lost",
        )


def _as_text(item: ThreadItem) -> str:
    try:
        return item.model_dump_json()
    except Exception:
        return repr(item)
