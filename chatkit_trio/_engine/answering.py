"""The answer of a turn that has begun: performing what `respond` asks for, then settling it.

An event goes one way. `accept` decides about it, at once, in the task that runs `respond`. If the
store or the client must be waited for, the turn's own task performs the step: store first, then
forward.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from math import inf
from typing import Any, TypeGuard

import trio
from pydantic_core import PydanticSerializationError

from chatkit_trio.errors import BaseStreamError
from chatkit_trio.store import Store
from chatkit_trio.types import (
    ThreadItem,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadStreamEvent,
    WidgetComponentUpdated,
    is_hidden,
)

from .drafts import UnfitUpdate
from .ending import Ending
from .foreign import ForeignModels, is_event
from .frames import FrameLog
from .groups import ends_process, split_cancelled
from .handover import Handover
from .items import (
    DeleteItem,
    DropItem,
    RequireNew,
    StoreEffect,
    TurnItems,
    UpdateStoredItem,
    is_visible,
)
from .journal import JournaledTurn, JournalWriter
from .keeping import CancelReason, kept_items
from .opening import PreparedRequest
from .policy import TurnPolicy
from .settling import Hook, Outcome, Settling, ending_events
from .text_deltas import TextDeltas
from .thread_state import ThreadWatch, as_metadata
from .wire import frame, strict_frame
from .writing import Rename, Step, ThreadWriter, for_each_client

logger = logging.getLogger(__name__)


class Answer:
    """What there is of a turn from its first write on."""

    def __init__(
        self,
        turn_id: str,
        store: Store[Any],
        context: Any,
        policy: TurnPolicy,
        ending: Ending,
        log: FrameLog,
        prepared: PreparedRequest,
        foreign: ForeignModels,
        journal: JournalWriter | None,
    ) -> None:
        self.turn_id = turn_id
        self.prepared = prepared
        self.thread = thread = prepared.thread
        self.items = TurnItems()
        self._policy = policy
        self._ending = ending
        self._log = log
        self._foreign = foreign
        self._watch = ThreadWatch(thread)
        self._text_deltas = TextDeltas()
        name = f"{turn_id} of thread {thread.id}"
        self.settling = Settling(
            turn_id, store, context, self.items, self._watch, policy.settle_timeout
        )
        self.journaled = JournaledTurn(self.settling.left)
        self._writer = ThreadWriter(
            store, context, ending, self.items, self._watch, journal, self.journaled, name
        )
        self.handover = Handover(name, ending, self._accept, policy.settle_timeout)
        self._left: list[Step] = []
        self._is_incomplete = False
        self._model_error: Exception | None = None
        self._ids_at_end: list[str] | None = None
        self._reason: CancelReason | None = None

    # --- For others ----------------------------------------------------------------------------

    def items_so_far(self) -> tuple[list[ThreadItem], list[ThreadItem]]:
        """Return the visible items that the store lacks, and those of which it has an older state.

        They are as they would be stored if the turn ended now, for who loads the thread: without
        empty ones, and nothing in them is loading.
        """
        new, changed = self.items_as_told()
        return kept_items(new), kept_items(changed)

    def items_as_told(self) -> tuple[list[ThreadItem], list[ThreadItem]]:
        """Return the same as those see them who read the frames, for one who will read the rest.

        Empty ones are among them: else what comes later would update an item that isn't there.
        """
        items = self.items
        return (
            _visible([*items.unconfirmed_additions(), *items.pending()]),
            _visible(items.changed_as_told()),
        )

    @property
    def is_shown(self) -> bool:
        """Whether the frames tell all that `items_as_told` does: no event waits to be sent."""
        return self.handover.is_idle and (not self._left or self._log.is_closed)

    def item_ids(self) -> list[str]:
        """Return the ids of the items that the client may see, in the order of the store.

        Of a turn that has ended, some may have been dropped.
        """
        if self._ids_at_end is None:
            return self.items.visible_ids()
        return list(map(self.items.own_id, self._ids_at_end))

    def mark_incomplete(self, is_incomplete: bool, error: Exception | None) -> None:
        """Note whether the model has cut the answer itself, and the error of its stream."""
        self._is_incomplete, self._model_error = is_incomplete, error

    async def rename(self, title: str) -> bool:
        """Have the turn's own task save a title; return False if the turn has ended instead.

        Raises what the store raises.
        """
        self._log.wake_writer()  # it may wait for its client meanwhile
        return await self.handover.ask(Rename(title=title))

    async def replace(self, item: ThreadItem) -> bool:
        """Have the turn go on with an item as a request beside it has stored it.

        Return False if the turn has ended instead: it may have stored an older state.
        """
        # An update that is being performed may have loaded the item as it was.
        if not await self.handover.until_idle():
            return False
        if self.items.begun(item.id) is None:
            return True
        step = self._accept(ThreadItemReplacedEvent(item=item))
        return step is None or await self.handover.ask(step)

    def thread_is_as_stored(self) -> None:
        """Take note that the thread has been loaded again."""
        self._watch.saved(as_metadata(self.thread))

    # --- In the task of respond ----------------------------------------------------------------

    def _accept(self, event: ThreadStreamEvent) -> Step | None:
        """Decide about an event; return the step to perform if it has to wait for anything.

        Raises for what isn't an event, and for what can't be sent or stored.
        """
        if type(event) is ThreadItemUpdatedEvent and self._accept_text(event):
            return None
        if not is_event(event):
            event = self._foreign.own_event(event)
        thread_has_changed = self._watch.changed()
        # Encoded before the items take it in: what can't be JSON couldn't be stored either.
        try:
            encoded = strict_frame(event, odd_parts="error")
        except PydanticSerializationError:
            event = self._foreign.own_event(event)
            encoded = strict_frame(event, odd_parts="warn")
        try:
            effect = self.items.feed(event)
        except UnfitUpdate as unfit:
            logger.warning("in thread %s: %s", self.thread.id, unfit)
            return None
        if effect is None and _is_of_component(event):
            encoded = for_each_client(encoded, self.items.begun(event.item_id))
        step = Step(encoded if is_visible(event) else None, effect)
        must_wait = (
            effect is not None
            or not self.handover.is_idle
            or not self._log.has_room
            or thread_has_changed
        )
        if must_wait:
            return step
        if step.frame is not None:
            self._log.append(step.frame)
        return None

    def _accept_text(self, event: ThreadItemUpdatedEvent) -> bool:
        """Accept a text delta that nothing has to wait for, as most events are.

        Say whether it was one. It does what `_accept` would do, with less work.
        """
        if not self.handover.is_idle or not self._log.has_room or self._watch.changed():
            return False
        encoded = self._text_deltas.encode(event)
        if encoded is None or not self.items.add_text(event):
            return False
        self._log.append(encoded)
        return True

    # --- In the turn's own task ----------------------------------------------------------------

    async def perform(self, tasks: trio.Nursery) -> BaseException | None:
        """Run `respond` and perform its steps, until all user code has ended or the turn is cut.

        Return the cancellation that has cut it, to be raised when the turn is settled: the user's
        cleanup, which may hang, must not be waited for before that. Failures are noted.
        """
        try:
            with self.handover.until_failure:
                await trio.lowlevel.checkpoint()
                await self.handover.start(self.prepared.respond, tasks, self._policy.idle_timeout)
                while (step := await self.handover.next_step()) is not None:
                    await self._perform(step)
                await self._save_thread_if_changed()
        except GeneratorExit:
            raise  # the coroutine is being thrown away
        except BaseException as error:  # noqa: ASYNC103
            if ends_process(error):
                return error  # noqa: ASYNC104 (the caller raises it)
            cut, failure = split_cancelled(error)
            if failure is not None:
                self.handover.fail(failure)
            return cut  # noqa: ASYNC104 (the caller raises it)
        return None

    async def _perform(self, step: Step) -> None:
        if isinstance(step, Rename):
            await self._rename(step)
            return
        step.frame = await self._writer.write(step)
        step.is_done = True
        if step.error is not None and step.is_left:
            self.handover.fail(step.error)
        if step.frame is not None:
            await self._wait_for_room()
            self._log.append(step.frame)
        self.handover.performed(step)
        await self._save_thread_if_changed()

    async def _rename(self, step: Rename) -> None:
        step.frame = await self._writer.rename(step)
        step.is_done = True
        if step.frame is not None:
            self._log.append(step.frame)
        self.handover.performed(step)

    async def _save_thread_if_changed(self) -> None:
        if self._watch.changed():
            self._log.append(await self._writer.save_thread())

    async def _wait_for_room(self) -> None:
        if self._log.has_room:
            return
        timeout = self._policy.stall_timeout
        with trio.move_on_after(inf if timeout is None else timeout) as waiting:
            while not self._log.has_room:
                if (step := self.handover.next_rename()) is not None:
                    await self._rename(step)
                else:
                    await self._log.wait_for_room()
        if waiting.cancelled_caught:
            self._ending.cancel(CancelReason.STALLED)
            await trio.lowlevel.checkpoint()

    # --- The end -------------------------------------------------------------------------------

    def close(self) -> CancelReason | None:
        """Take nothing more; return why the answer is cut short, None if it isn't.

        The first of these counts: a failure, the answer's end, a cut.
        """
        self._left = self.handover.close()
        self.settling.left.late_updates = [
            step.effect
            for step in self._left
            if isinstance(step.effect, UpdateStoredItem) and not step.is_done
        ]
        self._ids_at_end = self.items.visible_ids()
        if self.handover.failure is not None:
            was_cut = self._is_incomplete and self._has_model_failed
            self._reason = CancelReason.INCOMPLETE if was_cut else CancelReason.FAILED
        elif self.handover.has_answered:
            self._reason = CancelReason.INCOMPLETE if self._is_incomplete else None
        else:
            self._reason = self._ending.reason or CancelReason.FAILED
        return self._reason

    async def settle(self, hook: Hook) -> Outcome:
        """Store what is left, after `close`."""
        failure, broke_off = self.handover.failure, self._has_model_failed
        return await self.settling.settle(self._reason, failure, hook, broke_off=broke_off)

    @property
    def _has_model_failed(self) -> bool:
        failure = self.handover.failure
        return failure is not None and failure is self._model_error

    def announce(self, outcome: Outcome) -> None:
        """Tell clients that still read, and the log, what was kept and why the answer ends here."""
        failure = outcome.failure
        if outcome.reason is CancelReason.INCOMPLETE:
            logger.warning("the model ended the answer in thread %s early", self.thread.id)
        elif failure is not None and not isinstance(failure, BaseStreamError):
            logger.error("the answer in thread %s failed", self.thread.id, exc_info=failure)
        if outcome.is_stored:
            for step in self._left:
                if step.frame is not None and (step.is_done or self._is_as_told(step.effect)):
                    self._log.append(step.frame)
        for event in ending_events(outcome):
            if is_visible(event):
                self._log.append(frame(event))

    def _is_as_told(self, effect: StoreEffect | None) -> bool:
        """Say whether the store is as the frame of a step says that wasn't performed."""
        match effect:
            case RequireNew(item_id=item_id):
                return self.items.was_new(item_id)
            case DeleteItem(item_id=item_id):
                return self.settling.left.is_gone(item_id)
            case UpdateStoredItem():
                return self.settling.left.is_applied(effect)
            case _:
                return isinstance(effect, DropItem | None)


def _is_of_component(event: ThreadStreamEvent) -> TypeGuard[ThreadItemUpdatedEvent]:
    if not isinstance(event, ThreadItemUpdatedEvent):
        return False
    return isinstance(event.update, WidgetComponentUpdated)


def _visible(items: Iterable[ThreadItem]) -> list[ThreadItem]:
    return [item for item in items if not is_hidden(item)]
