"""Settling a turn: asking the user's hook what to keep, having it stored, saying what came of it.

`Settling.settle` returns an `Outcome`; `ending_events` says, from the outcome alone, what clients
are told. What is left is decided in `leftovers`, and stored by `storing`.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import trio

from chatkit_trio.errors import NotFoundError, StoreError, TurnFencedError
from chatkit_trio.store import Store, default_generate_id
from chatkit_trio.types import (
    ErrorEvent,
    SDKHiddenContextItem,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    ThreadUpdatedEvent,
    TurnEnding,
    is_hidden,
)

from .foreign import own_items
from .groups import ends_process
from .items import TurnItems
from .keeping import ENDING_MESSAGES, CancelReason, ending_note, kept_items
from .leftovers import Leftovers
from .storing import Storing, ends_within
from .thread_state import ThreadWatch
from .wire import error_event, thread_answer

logger = logging.getLogger(__name__)

Hook: TypeAlias = Callable[[ThreadMetadata, list[ThreadItem], Any], Awaitable[None]]
"""`handle_stream_cancelled`: takes the thread, the pending items and the context."""


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
    put_at_rest: Sequence[ThreadItem] = ()
    """Stored items that had gone on and were stored otherwise than clients have seen them."""
    thread: ThreadMetadata | None = None
    """The thread, if settling has saved it."""


def ending_events(outcome: Outcome) -> list[ThreadStreamEvent]:
    """Return what clients that still read are told: what was kept, and why the answer ends here."""
    events: list[ThreadStreamEvent] = []
    if outcome.is_stored:
        events += [ThreadItemDoneEvent(item=item) for item in outcome.made_up_for]
        events += [ThreadItemReplacedEvent(item=item) for item in outcome.put_at_rest]
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
    fates = [
        ThreadItemDoneEvent(item=kept.pop(item.id))
        if item.id in kept
        else ThreadItemRemovedEvent(item_id=item.id)
        for item in outcome.pending
        if not is_hidden(item)
    ]
    # What a hook has kept besides.
    return [*fates, *(ThreadItemDoneEvent(item=item) for item in kept.values())]


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
    """The end of one turn."""

    def __init__(
        self,
        turn_id: str,
        store: Store[Any],
        context: Any,
        items: TurnItems,
        watch: ThreadWatch,
        seconds: float,
    ) -> None:
        self.left = Leftovers(turn_id, items, watch)
        self.storing = Storing(store, context, self.left, seconds)
        self._store = store
        self._context = context
        self._seconds = seconds
        self._hook_runs = False
        self._keeping_failed: Exception | None = None

    async def settle(
        self,
        reason: CancelReason | None,
        failure: BaseException | None,
        hook: Hook,
        *,
        broke_off: bool = False,
    ) -> Outcome:
        """Store what is left, by the hook if the turn was cut short.

        `broke_off` says that the failure is the model's: what is stored of its answer may lack its
        end, though no item is left open.

        Shielded; takes at most three times the settling time. If the outcome isn't stored then,
        go on with `storing.until_stored`.
        """
        until = trio.current_time() + 3 * self._seconds
        items = self.left.items
        pending = items.pending()
        self.left.reason = reason
        if reason is None or (
            reason is CancelReason.FAILED and not self._has_to_keep(pending, broke_off)
        ):
            self.left.keep(pending, None)
        else:
            # First, because a hook may write a note of its own, which belongs behind them.
            await self.storing.finished_items()
            await self._call_hook(hook, pending)
        is_stored = await self.storing.until(until)
        return Outcome(
            reason,
            failure,
            is_stored,
            made_up_for=self.left.made_up_for,
            # Of others clients haven't been told, and their ids may be those of other items.
            pending=[item for item in pending if items.was_new(item.id)],
            kept=self.left.kept,
            put_at_rest=self.left.put_at_rest,
            thread=self.left.saved_thread,
        )

    async def keep(self, pending: Sequence[ThreadItem]) -> None:
        """Store what is worth keeping of these items, the note, and all else that is unsaved.

        This is the default hook. Raises what the store raises; what is kept stays noted, and is
        tried again by `settle`. Raises `RuntimeError` if the hook doesn't run, and `TypeError` for
        what can't be read as an item.
        """
        if not self._hook_runs:
            raise RuntimeError("keep() works only in handle_stream_cancelled(), while that runs")
        self.left.keep(own_items(pending, "keep()"), self._make_note)
        try:
            await self.storing.once()
        except (NotFoundError, TurnFencedError) as error:
            self._keeping_failed = error
            raise

    def _has_to_keep(self, pending: Sequence[ThreadItem], broke_off: bool) -> bool:
        """Say whether a failed turn has an answer that was cut: a refusal alone isn't one."""
        items = self.left.items
        if broke_off and items.last_visible_id is not None:
            return True
        goes_on = items.reopened() or self.left.late_updates
        return bool(kept_items(pending) or items.unconfirmed_additions() or goes_on)

    async def _call_hook(self, hook: Hook, pending: list[ThreadItem]) -> None:
        error: Exception | None = None
        is_done = False
        self._hook_runs = True
        try:
            thread = self.left.watch.thread
            is_done = await ends_within(self._seconds, hook, thread, [*pending], self._context)
        except Exception as raised:
            # Storing says what it is that has failed the default: it meets it again.
            is_done = raised is self._keeping_failed
            error = None if is_done else raised
        finally:
            self._hook_runs = False
        if not is_done:
            logger.error(
                "handle_stream_cancelled %s for thread %s; items %s are kept by the default rule",
                "failed" if error is not None else f"hadn't ended after {self._seconds} s",
                self.left.thread_id,
                [item.id for item in pending],
                exc_info=error,
            )
            if self.left.kept is None:
                self.left.keep(pending, self._make_note)
        self.left.decide_pending()

    def _make_note(self, kept: Sequence[ThreadItem]) -> SDKHiddenContextItem:
        """Return the note of why this turn ended."""
        unfinished = (*kept, *self.left.items.reopened())
        cut = [item.id for item in unfinished if not is_hidden(item)]
        if not cut and self.left.items.last_visible_id is not None:
            cut = [self.left.items.last_visible_id]
        reason = self.left.reason or CancelReason.STOPPED
        thread_id, turn_id = self.left.thread_id, self.left.turn_id
        return note_of_ending(thread_id, self._note_id(), turn_id, reason, cut)

    def _note_id(self) -> str:
        thread, context = self.left.watch.thread, self._context
        try:
            return self._store.generate_item_id("sdk_hidden_context", thread, context)
        except BaseException as error:  # noqa: ASYNC103 (nothing is awaited: it's no cancellation)
            if ends_process(error):
                raise
            logger.exception("generate_item_id() made no id for the hidden note; it gets a random")
            return default_generate_id("sdk_hidden_context")  # noqa: ASYNC104
