"""The turn: one streaming request, run in a nursery under an explicit cancel scope.

A turn is a task of the *server's* nursery; connections only read its frames. Two tasks share the
work. The *driver* steps the user's generator and nothing else, so that a cancel scope or nursery
which the user holds open across a `yield` can't reach our writes. The turn's own task performs
what an event asks for: store first, then forward.

However the turn ends, the items that were begun and aren't stored are settled by the turn's own
task, shielded with a deadline, before the user's cleanup is waited for and before anyone may read
the thread again.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any, Generic

import trio
from pydantic import BaseModel
from typing_extensions import TypeVar

from chatkit_trio.errors import BaseStreamError, ChatKitError, StoreError
from chatkit_trio.store import JournalEntry, NotFoundError, Settlement, Store, default_generate_id
from chatkit_trio.types import (
    ErrorEvent,
    SDKHiddenContextItem,
    StreamOptions,
    StreamOptionsEvent,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    ThreadUpdatedEvent,
)

from .driver import drive
from .frames import FrameLog, FrameReader
from .groups import StrayCancellation, ends_process, split_cancelled, unwrapped
from .items import (
    COLLECTED_UPDATES,
    ENDING_NOTES,
    AddItem,
    CancelReason,
    DeleteItem,
    SaveItem,
    StoreEffect,
    ThreadWatch,
    TurnItems,
    UpdateStoredItem,
    as_metadata,
    is_hidden,
    is_visible,
    kept_items,
    updated_item,
)
from .policy import TurnPolicy
from .wire import error_event, frame, refusal_event, thread_answer

if TYPE_CHECKING:
    from chatkit_trio.server import ChatKitServer

    from .live import LiveTurns

logger = logging.getLogger(__name__)

TContext = TypeVar("TContext", default=Any)
_T = TypeVar("_T")

_current_turn: ContextVar[Turn[Any]] = ContextVar("chatkit_trio_current_turn")

_ENDING_MESSAGES = {
    CancelReason.DEADLINE: "The answer took too long and was cut short.",
    CancelReason.SHUTDOWN: "The server is restarting; the answer was cut short.",
}


_EVENTS_A_ROUND = 16
"""How many events of a respond that never awaits are taken before others get their turn."""

_SECONDS_A_ROUND = 0.02
"""How long they may take, in real time, before others get their turn."""


class StoreTimeoutError(ChatKitError):
    """A store write was still going on `settle_timeout` after its turn had been cancelled."""

    code = "store_timeout"


@dataclass(frozen=True, slots=True)
class Begun(Generic[TContext]):
    """A streaming request after its first writes: what to send, and where events come from.

    The events here tell of those writes; they are sent as they are.
    """

    thread: ThreadMetadata
    first_events: Sequence[ThreadStreamEvent]
    respond: Callable[[], Any]
    sends_options: bool = True
    events_after_options: Sequence[ThreadStreamEvent] = ()


@dataclass(frozen=True, slots=True)
class Opening(Generic[TContext]):
    """A streaming request that has been checked and has written nothing yet.

    `check` looks again, by reads only, whether the request still fits the thread; `begin` does
    the first writes. Both run while no other turn can begin on the thread.
    """

    thread_id: str | None
    check: Callable[[], Awaitable[None]]
    begin: Callable[[], Awaitable[Begun[TContext]]]


def current_turn() -> Turn[Any]:
    """Return the turn that the calling task belongs to.

    Works in `respond`, `action`, `handle_stream_cancelled` and every task they start. Raises
    `RuntimeError` elsewhere.
    """
    try:
        return _current_turn.get()
    except LookupError:
        raise RuntimeError(
            "there is no current turn: current_turn() works only in code that a streaming request"
            " runs, such as respond()"
        ) from None


class Turn(Generic[TContext]):
    """One streaming request from its first read to its settling.

    Public: `id`, `thread`, `context`, `policy`, `cancel_scope`, `nursery`, `cancel_reason`,
    `cancel()`. Tasks started in `nursery` belong to the turn: it doesn't end before they do, and
    cancels them when it is cancelled.
    """

    def __init__(
        self,
        server: ChatKitServer[TContext],
        live: LiveTurns[TContext],
        opening: Opening[TContext],
        policy: TurnPolicy,
        context: TContext,
    ) -> None:
        self.id = f"turn_{secrets.token_hex(16)}"
        self.context = context
        self.policy = policy
        self.cancel_reason: CancelReason | None = None
        # Shielded, so that only cancel() and the deadline end a turn, and the reason is known.
        self.cancel_scope = trio.CancelScope(shield=True)
        self.log = FrameLog(max_unread=policy.max_unread_bytes, max_kept=policy.max_replay_bytes)
        self.items = TurnItems()
        self.settled = trio.Event()
        """Set when nothing of this turn remains to be stored."""
        self.ended = trio.Event()
        """Set when the user's code has ended too."""
        self._server = server
        self._live = live
        self._opening = opening
        self._is_beginning = False
        self._begun: Begun[TContext] | None = None
        self._nursery: trio.Nursery | None = None
        self._watch: ThreadWatch | None = None
        self._options: StreamOptions | None = None
        self._turn_deadline = float("inf")
        self._grace_deadline = float("inf")
        self._journaled_version = 0
        self._in_journal = False
        self._is_over = False
        self._thread_at_end: ThreadMetadata | None = None
        self._pending_at_end: list[ThreadItem] | None = None
        self._kept: list[ThreadItem] | None = None
        self._write_scope: trio.CancelScope | None = None
        self._cancelled_at = float("inf")
        self._note: SDKHiddenContextItem | None = None
        self._made_up_for: list[ThreadItem] = []
        # Holds one event, plus one for each scope of respond's own that ended while an event of
        # its was being stored.
        self._inbox: deque[ThreadStreamEvent] = deque()
        self._inbox_filled = trio.lowlevel.ParkingLot()
        self._inbox_empty = trio.lowlevel.ParkingLot()
        self._performing = False
        self._quick_events = 0
        self._gave_way_at = 0.0
        self._driver_ended = trio.Event()
        self._tasks_ended = trio.Event()
        self._tasks_scope = trio.CancelScope()
        self._answered = False
        self._failure: BaseException | None = None

    # --- What user code may ask and do ---------------------------------------------------------

    @property
    def thread(self) -> ThreadMetadata:
        """The thread this turn works on; changes to it are saved after the next event."""
        return self._started.thread

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery for tasks beside `respond`, such as one that finds a title."""
        if self._nursery is None:
            raise RuntimeError(f"{self.id} isn't running, so it has no nursery")
        return self._nursery

    def cancel(self, reason: CancelReason = CancelReason.STOPPED) -> None:
        """End the turn early, keeping what it has produced. The first reason given counts."""
        if self.cancel_reason is None and not self._is_over:
            self.cancel_reason = reason
            self._cancelled_at = trio.current_time()
            self.cancel_scope.cancel()
            if self._write_scope is not None:
                self._write_scope.deadline = self._write_deadline

    # --- What the server and the connections ask -----------------------------------------------

    @property
    def allow_cancel(self) -> bool:
        """Whether a client may end this turn; says `get_stream_options`."""
        return self._options is None or self._options.allow_cancel

    @property
    def thread_id(self) -> str | None:
        """The id of the thread, None while `threads.create` hasn't made it."""
        return self._opening.thread_id if self._begun is None else self._begun.thread.id

    @property
    def has_begun(self) -> bool:
        """Whether the first writes have been made."""
        return self._begun is not None

    @property
    def longest_settling(self) -> float:
        """How long settling may take, in seconds: an interrupted write, the hook, the default after
        it, and what these leave have `settle_timeout` each."""
        return 4 * self.policy.settle_timeout

    @property
    def is_ending(self) -> bool:
        """Whether the turn is being settled, so that a reader of the thread should wait."""
        return self._is_over or self.cancel_reason is not None or self.cancel_scope.cancel_called

    @property
    def end_reason(self) -> str:
        """How the turn ended, for clients that ask: "finished", or the `CancelReason`."""
        return "finished" if self.cancel_reason is None else self.cancel_reason.value

    @property
    def _started_watch(self) -> ThreadWatch:
        if self._watch is None:
            raise RuntimeError(f"{self.id} hasn't begun")
        return self._watch

    @property
    def _started(self) -> Begun[TContext]:
        if self._begun is None:
            raise RuntimeError(f"{self.id} hasn't begun")
        return self._begun

    def visible_items_so_far(self) -> list[ThreadItem]:
        """Return what the client has seen and the store may lack, empty items left out."""
        return kept_items(self.items.unfinished())

    def forget_checkpoint(self) -> None:
        """Take note that the last journal entry wasn't written."""
        self._journaled_version = -1

    def rename(self, title: str) -> None:
        """Take over a title that was stored from outside, so that this turn won't undo it."""
        self.thread.title = title
        self._started_watch.saved_title(title)

    def open_reader(self, start: int | None = None, *, leads: bool = False) -> FrameReader:
        """Return a reader of this turn's frames; see `FrameLog.open_reader`."""
        reader = self.log.open_reader(start, leads=leads)
        self._grace_deadline = float("inf")
        self._set_deadline()
        return reader

    def close_reader(self, reader: FrameReader) -> None:
        """Take note that a reader has left; the last one to leave is a disconnect."""
        reader.close()
        if not self.log.has_readers and not self.log.is_closed:
            self._on_disconnect()

    def journal_entry(self) -> JournalEntry | None:
        """Return the items to checkpoint, or None if nothing has changed since the last time."""
        if not self._in_journal or self._journaled_version == self.items.version:
            return None
        self._journaled_version = self.items.version
        return JournalEntry(self.id, self.thread.id, tuple(self.items.unfinished()))

    def settlement(self, new_items: Sequence[ThreadItem]) -> Settlement:
        """Return these items with all else that this turn has left unsaved."""
        return Settlement(
            thread_id=self.thread.id,
            turn_id=self.id if self._in_journal else None,
            new_items=(*self._own(self.items.unconfirmed_additions()), *self._own(new_items)),
            changed_items=self._own(self.items.changed()),
            thread=self._unsaved_thread(),
        )

    def ending_note(self) -> SDKHiddenContextItem:
        """Return the hidden note of why this turn ended; always the same one, to be stored once."""
        if self._note is None:
            reason = self.cancel_reason or CancelReason.STOPPED
            self._note = _ending_note(self._server.store, self.thread, self.context, reason)
        return self._note

    def _own(self, items: Sequence[ThreadItem]) -> tuple[ThreadItem, ...]:
        """Return the items as items of this thread: one that names another costs all the rest."""
        update = {"thread_id": self.thread.id}
        return tuple(
            item if item.thread_id == self.thread.id else item.model_copy(update=update)
            for item in items
        )

    def _unsaved_thread(self) -> ThreadMetadata | None:
        """Return the thread if it has changed and can be copied; what can't costs nothing else."""
        try:
            return as_metadata(self.thread) if self._started_watch.changed() else None
        except Exception:
            logger.exception("what respond() made of thread %s can't be saved", self.thread.id)
            return None

    async def settle(self, new_items: Sequence[ThreadItem]) -> None:
        """Store these items with all else that is unsaved, in one step; nothing remains then."""
        await self._store_settlement(self.settlement(new_items))
        self._kept = list(self._own(new_items))

    async def _store_settlement(self, settlement: Settlement) -> None:
        try:
            await self._server.store.settle(settlement, self.context)
        except NotFoundError:
            raise
        except Exception:
            if settlement.thread is None:
                raise
            # It may be the thread that can't be stored: that mustn't cost the answer.
            logger.exception("thread %s couldn't be saved with its items", settlement.thread_id)
            settlement = replace(settlement, thread=None)
            await self._server.store.settle(settlement, self.context)
        if settlement.thread is not None:
            self._started_watch.saved(settlement.thread)
        self._in_journal = False
        self._made_up_for += self.items.unconfirmed()
        self.items.clear()

    # --- The turn's own task -------------------------------------------------------------------

    async def run(self) -> None:
        """Run the turn to its end; an error of user code ends this turn and nothing else."""
        _current_turn.set(self)
        try:
            await self._run_in_scope()
            await self._finish()
        except Exception:
            # Nothing that can be thought of; but whatever it is, other turns go on.
            logger.exception("ending %s failed", self.id)
        finally:
            self._release()
            self.ended.set()

    async def _run_in_scope(self) -> None:
        try:
            with self.cancel_scope:
                await self._live.admit(self, self._opening, self._begin)
                await self._stream()
        except GeneratorExit:
            raise  # the coroutine is being thrown away
        except BaseException as error:  # noqa: ASYNC103
            if ends_process(error):
                if self.has_begun:
                    await self._settle(CancelReason.FAILED)  # noqa: ASYNC102 (it shields itself)
                raise
            self._failure = unwrapped(error)
        self._is_over = True
        if self.cancel_scope.cancelled_caught and not self._is_complete:
            self.cancel_reason = self.cancel_reason or self._expired_reason()
        elif self._pending_at_end is None:
            # A cancellation that came too late to be delivered, or fell on tasks beside an answer
            # that was complete, hasn't cut anything short.
            self.cancel_reason = None

    async def _begin(self) -> None:
        """Do the request's first writes; once they have begun they are all made."""
        # A write runs to its end whatever happens, so one that needn't be begun must not be.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._is_beginning = True
        begun = await self._write(self._opening.begin)
        self._begun = begun
        self._watch = ThreadWatch(begun.thread)
        journal = self._server.store.journal
        if journal is not None:
            # Before the call: when it fails, there may be an entry all the same.
            self._in_journal = True
            await self._write(partial(journal.begin, self.id, begun.thread.id, self.context))
        if self.policy.turn_timeout is not None:
            self._turn_deadline = trio.current_time() + self.policy.turn_timeout
            self._set_deadline()

    async def _stream(self) -> None:
        for event in self._started.first_events:
            self._forward(event)
        self._options = self._server.get_stream_options(self.thread, self.context)
        await trio.lowlevel.checkpoint()
        if self._started.sends_options:
            self._forward(StreamOptionsEvent(stream_options=self._options))
        for event in self._started.events_after_options:
            self._forward(event)
        await self._run_respond()
        if self._failure is None:
            await self._save_thread_if_changed()

    async def _run_respond(self) -> None:
        async with trio.open_nursery() as nursery:
            self._tasks_scope = nursery.cancel_scope
            await nursery.start(self._keep_nursery)
            nursery.start_soon(self._drive)
            if not self.log.has_readers:
                self._on_disconnect()
            try:
                await self._perform_events()
                if self._failure is not None:
                    nursery.cancel_scope.cancel()
                await self._tasks_ended.wait()
            except BaseException as error:
                # Before the user's cleanup, which may hang, and before the nursery waits for it.
                # Every write in it is shielded, with a deadline.
                await self._settle_early(error)  # noqa: ASYNC102
                raise

    async def _keep_nursery(self, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC114
        """Hold the nursery of the user's tasks, in a task of its own: their cleanup may hang."""
        try:
            async with trio.open_nursery() as self._nursery:
                task_status.started()
                await self._driver_ended.wait()
        finally:
            self._tasks_ended.set()

    async def _perform_events(self) -> None:
        while self._inbox or not self._driver_ended.is_set():
            while self._inbox:
                self._performing = True
                await self._perform(self._inbox[0])
                self._performing = False
                self._inbox.popleft()
            self._inbox_empty.unpark_all()
            if not self._driver_ended.is_set():
                await self._inbox_filled.park()

    async def _perform(self, event: ThreadStreamEvent) -> None:
        # Before it is taken in: what can't be written as JSON couldn't be stored either.
        encoded = frame(event)
        effect = self.items.feed(event)
        if effect is not None:
            await self._write(partial(self._carry_out, effect))
        if is_visible(event):
            await self._wait_for_room()
            self.log.append(encoded)
        await self._save_thread_if_changed()

    async def _carry_out(self, effect: StoreEffect) -> None:
        store, thread_id = self._server.store, self.thread.id
        match effect:
            case AddItem():
                await store.add_thread_item(thread_id, effect.item, context=self.context)
            case SaveItem():
                await store.save_item(thread_id, effect.item, context=self.context)
            case DeleteItem():
                await store.delete_thread_item(thread_id, effect.item_id, context=self.context)
            case UpdateStoredItem():
                await self._update_stored_item(effect)
        self.items.done(effect)

    async def _update_stored_item(self, effect: UpdateStoredItem) -> None:
        store, thread_id = self._server.store, self.thread.id
        try:
            item = await store.load_item(thread_id, effect.item_id, context=self.context)
        except NotFoundError:
            logger.warning("update of item %s, which isn't in thread %s", effect.item_id, thread_id)
            return
        if isinstance(effect.update, COLLECTED_UPDATES):
            self.items.reopen(item, effect.update)
        else:
            updated = updated_item(item, effect.update)
            await store.save_item(thread_id, updated, context=self.context)

    async def _save_thread_if_changed(self) -> None:
        if not self._started_watch.changed():
            return
        snapshot = as_metadata(self.thread)
        await self._write(partial(self._server.store.save_thread, snapshot, context=self.context))
        self._started_watch.saved(snapshot)
        self._forward(ThreadUpdatedEvent(thread=thread_answer(snapshot)))

    async def _write(self, write: Callable[[], Awaitable[_T]]) -> _T:
        """Run a store write to its end: a cancellation that falls on it waits for the outcome.

        The shield's deadline is set when the turn is cancelled, by `cancel` or by its timeout.
        """
        deadline = self._write_deadline
        with trio.CancelScope(shield=True, deadline=deadline) as self._write_scope:
            return await write()
        raise StoreTimeoutError(
            f"a store write of {self.id} hadn't ended {self.policy.settle_timeout} s after the"
            " turn was cancelled; its outcome is unknown"
        )

    @property
    def _write_deadline(self) -> float:
        cut_at = min(self._cancelled_at, self.cancel_scope.deadline)
        return cut_at + self.policy.settle_timeout

    async def _wait_for_room(self) -> None:
        if self.log.has_room:
            return
        timeout = self.policy.stall_timeout
        with trio.move_on_after(float("inf") if timeout is None else timeout) as waiting:
            await self.log.wait_for_room()
        if waiting.cancelled_caught:
            self.cancel(CancelReason.STALLED)
            await trio.lowlevel.checkpoint()

    def _forward(self, event: ThreadStreamEvent) -> None:
        self.log.append(frame(event))

    # --- The driver's task ---------------------------------------------------------------------

    async def _drive(self) -> None:
        try:
            await drive(self._started.respond(), self._take, self.policy.settle_timeout)
            self._answered = self._pending_at_end is None
        except BaseException as error:  # noqa: ASYNC103
            cancelled, failure = split_cancelled(error)
            if failure is not None:
                self._note_failure(failure)
            if cancelled is not None:
                if self._is_cancelled:
                    raise cancelled from None  # noqa: ASYNC104
                self._note_failure(StrayCancellation.of(cancelled))
        finally:
            self._driver_ended.set()
            self._inbox_filled.unpark_all()

    @property
    def _is_cancelled(self) -> bool:
        """Whether the tasks of this turn have been cancelled, by the turn or by one of them."""
        return self.cancel_scope.cancel_called or self._tasks_scope.cancel_called

    def _note_failure(self, failure: BaseException) -> None:
        if ends_process(failure):
            raise failure
        self._failure = unwrapped(failure)
        if self.is_ending:
            logger.error("cleanup in the cancelled %s failed", self.id, exc_info=self._failure)

    async def _take(self, event: ThreadStreamEvent) -> bool:
        """Accept an event, at once; then wait until it has been performed.

        Returns False if it comes too late: what is kept is being settled, or has been, and nobody
        may be shown more.
        """
        if self._pending_at_end is not None:
            return False
        if not isinstance(event, BaseModel):
            raise TypeError(f"respond() yielded {type(event).__name__}, which is not an event")
        if self._is_quick(event):
            self._perform_quickly(event)
            await self._give_way_sometimes()
            return True
        self._inbox.append(event)
        self._inbox_filled.unpark_all()
        while self._inbox:
            await self._inbox_empty.park()
        return True

    async def _give_way_sometimes(self) -> None:
        """Checkpoint now and then: a respond that never awaits must not starve the server."""
        self._quick_events += 1
        now = perf_counter()
        if self._quick_events >= _EVENTS_A_ROUND or now - self._gave_way_at > _SECONDS_A_ROUND:
            self._quick_events, self._gave_way_at = 0, now
            await trio.lowlevel.checkpoint()

    def _is_quick(self, event: ThreadStreamEvent) -> bool:
        """Say whether nothing has to be waited for: no write, no room, no earlier event."""
        return (
            not self._inbox
            and self.log.has_room
            and self.items.needs_no_write(event)
            and not self._started_watch.changed()
        )

    def _perform_quickly(self, event: ThreadStreamEvent) -> None:
        encoded = frame(event)
        self.items.feed(event)
        if is_visible(event):
            self.log.append(encoded)

    # --- Ends ----------------------------------------------------------------------------------

    def _on_disconnect(self) -> None:
        # Asked again before `respond` is called, when it is known whether the client may cancel.
        undecided = self._is_beginning and self._options is None
        if self.policy.on_disconnect == "finish" or not self.allow_cancel or undecided:
            return
        if self.policy.on_disconnect == "cancel":
            self.cancel(CancelReason.DISCONNECTED)
        else:
            self._grace_deadline = trio.current_time() + self.policy.on_disconnect
            self._set_deadline()

    def _set_deadline(self) -> None:
        self.cancel_scope.deadline = min(self._turn_deadline, self._grace_deadline)

    def _expired_reason(self) -> CancelReason:
        """Say what has ended the turn, when `cancel` wasn't called."""
        if trio.current_time() < self.cancel_scope.deadline:
            return CancelReason.STOPPED  # user code has cancelled the scope itself
        if self._grace_deadline < self._turn_deadline:
            return CancelReason.DISCONNECTED
        return CancelReason.DEADLINE

    async def _settle_early(self, error: BaseException) -> None:
        """Settle in the middle of an unwinding turn; the client hears of a failure later."""
        failed = not (isinstance(error, trio.Cancelled) and self.cancel_scope.cancel_called)
        if self._answered and not failed and not self._inbox:
            await self._settle_finished()
            self._release()
            return
        await self._settle(CancelReason.FAILED if failed else self._expired_reason())
        if self.cancel_reason is not CancelReason.FAILED:
            self._announce_items()
            self._release()

    @property
    def _is_complete(self) -> bool:
        """Whether all that `respond` yielded is stored and it came to its end by itself."""
        return self._answered and self.settled.is_set() and self._pending_at_end is None

    async def _finish(self) -> None:
        """Settle what isn't settled yet and tell the client how the turn ended."""
        if not self.has_begun:
            if self._failure is not None:
                self._forward(self._refusal(self._failure))
            else:
                self._announce_reason()
        elif self.settled.is_set():
            return
        elif self._failure is None and (self._answered or self.cancel_reason is None):
            await self._settle_finished()
        else:
            await self._settle(CancelReason.FAILED)
            if self.cancel_reason is CancelReason.FAILED:
                self._announce_failure()
            else:
                self._announce_items()

    def _refusal(self, failure: BaseException) -> ErrorEvent:
        if isinstance(failure, ChatKitError) and failure.http_status < 500:
            return refusal_event(failure)
        logger.error("a streaming request failed before its turn began", exc_info=failure)
        return error_event(failure)

    async def _settle_finished(self) -> None:
        """Store what `respond` began and forgot to finish; close the journal's entry."""
        left, thread = kept_items(self.items.begun()), self._unsaved_thread()
        if left or self.settlement(()) != Settlement(thread_id=self.thread.id):
            settle = partial(self.settle, left)
            # Twice: nothing comes after it that could make up for a write that failed.
            is_kept = await self._shielded(settle) or await self._shielded(settle)
            if left and not is_kept:
                self._forward(error_event(StoreError("what respond() left couldn't be stored")))
            if thread is not None and is_kept:
                self._forward(ThreadUpdatedEvent(thread=thread_answer(thread)))

    async def _settle(self, default_reason: CancelReason) -> None:
        """Keep what the client has seen, by the hook; runs once, shielded, with a deadline."""
        if self._pending_at_end is not None:
            return
        self._fold_inbox()
        self.cancel_reason = self.cancel_reason or default_reason
        self._thread_at_end = self._unsaved_thread()
        self._pending_at_end = pending = self.items.begun()
        is_kept = True
        if self.cancel_reason is not CancelReason.FAILED or kept_items(pending):
            is_kept = await self._call_hook(pending) or await self._shielded(
                partial(settle_cancelled, self._server.store, self.thread, pending, self.context)
            )
        if is_kept:
            await self._shielded(self._settle_rest)

    def _fold_inbox(self) -> None:
        """Take in events that were accepted and not performed: they may hold finished items."""
        for event in [*self._inbox][self._performing :]:
            try:
                frame(event)
                self.items.feed(event)
            except Exception:
                logger.exception("the last event of thread %s can't be kept", self.thread.id)
        self._inbox.clear()

    async def _call_hook(self, pending: list[ThreadItem]) -> bool:
        """Call the user's hook and return whether the items are settled by it."""
        error: BaseException | None = None
        with trio.move_on_after(self.policy.settle_timeout, shield=True):
            try:
                await self._server.handle_stream_cancelled(self.thread, pending, self.context)
                return True
            except NotFoundError:
                return self._kept is not None  # the default finds out whether it is the thread
            except BaseException as raised:  # noqa: ASYNC103
                if ends_process(raised) or split_cancelled(raised)[0] is not None:
                    raise
                error = raised
        what = "failed" if error else f"hadn't ended after {self.policy.settle_timeout} s"
        logger.error(
            "handle_stream_cancelled %s for thread %s; items %s are kept by the default rule",
            what,
            self.thread.id,
            [item.id for item in pending],
            exc_info=error,
        )
        return self._kept is not None

    async def _settle_rest(self) -> None:
        """Store what an overridden hook doesn't know of: the thread, the journal's entry."""
        rest = self.settlement(())
        if rest != Settlement(thread_id=rest.thread_id):
            await self._store_settlement(rest)

    async def _shielded(self, operation: Callable[[], Awaitable[None]]) -> bool:
        """Run one step of settling and return whether it was done.

        It has `settle_timeout`; failing is logged, not raised. What couldn't be stored is still
        in the journal if the store has one: its entry stays open.
        """
        with trio.move_on_after(self.policy.settle_timeout, shield=True):
            try:
                await operation()
                return True
            except NotFoundError:
                logger.info("thread %s was deleted; %s is settled", self.thread.id, self.id)
                return True
            except Exception as error:
                self._log_lost("failed", error)
                return False
        self._log_lost(f"hadn't ended after {self.policy.settle_timeout} s", None)
        return False

    def _log_lost(self, what: str, error: Exception | None) -> None:
        logger.error(
            "settling %s of thread %s %s; items %s may be missing%s",
            self.id,
            self.thread.id,
            what,
            [item.id for item in self.items.unfinished()],
            ", and are in the journal" if self._in_journal else "",
            exc_info=error,
        )

    def _announce_failure(self) -> None:
        failure = self._failure or RuntimeError("a task in the turn's nursery failed")
        if not isinstance(failure, BaseStreamError):
            logger.error("the answer in thread %s failed", self.thread.id, exc_info=failure)
        self._forward(error_event(failure))
        if self._thread_at_end is not None:
            self._forward(ThreadUpdatedEvent(thread=thread_answer(self._thread_at_end)))

    def _announce_items(self) -> None:
        """Tell clients that still read what was kept, and why the answer ends here."""
        for item in self._made_up_for:
            self._announce(ThreadItemDoneEvent(item=item))
        if self._kept is not None:
            kept = {item.id: item for item in self._kept}
            for item in self._pending_at_end or ():
                if item.id in kept:
                    self._announce(ThreadItemDoneEvent(item=kept[item.id]))
                elif not is_hidden(item):
                    self._forward(ThreadItemRemovedEvent(item_id=item.id))
        self._announce_reason()

    def _announce(self, event: ThreadItemDoneEvent) -> None:
        if is_visible(event):
            self._forward(event)

    def _announce_reason(self) -> None:
        message = _ENDING_MESSAGES.get(self.cancel_reason) if self.cancel_reason else None
        if message is not None:
            self._forward(ErrorEvent(code="custom", message=message, allow_retry=True))

    def _release(self) -> None:
        """End the frames and let go of the thread: all that will be stored is."""
        self.log.close()
        self.settled.set()
        self._live.remove(self)


async def settle_cancelled(
    store: Store[TContext],
    thread: ThreadMetadata,
    pending_items: Sequence[ThreadItem],
    context: TContext,
) -> None:
    """Store what is worth keeping of these items, and a hidden note why the answer ended."""
    items = kept_items(pending_items)
    turn = _current_turn.get(None)
    if turn is not None and turn.thread_id == thread.id:
        await turn.settle([*items, turn.ending_note()])
    else:
        note = _ending_note(store, thread, context, CancelReason.STOPPED)
        await store.settle(Settlement(thread.id, new_items=(*items, note)), context)


def _ending_note(
    store: Store[TContext], thread: ThreadMetadata, context: TContext, reason: CancelReason
) -> SDKHiddenContextItem:
    try:
        note_id = store.generate_item_id("sdk_hidden_context", thread, context)
    except Exception:
        logger.exception("generate_item_id() made no id for the hidden note; it gets a random one")
        note_id = default_generate_id("sdk_hidden_context")
    return SDKHiddenContextItem(
        id=note_id,
        thread_id=thread.id,
        created_at=datetime.now(UTC),
        content=ENDING_NOTES[reason],
    )
