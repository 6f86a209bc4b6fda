"""The turn: one streaming request, run in a nursery under an explicit cancel scope.

Theory of operation
-------------------

A turn is a task of the *server's* nursery; connections only read its frames. Its life is one field,
`Turn.state`, which only moves down this table:

| state     | what happens                | a stop          | the last    | a reader     | thread  |
|           |                             |                 | reader left | of the       | is      |
|           |                             |                 |             | thread       |         |
|-----------|-----------------------------|-----------------|-------------|--------------|---------|
| waiting   | checked, waits for thread   | cancels         | by policy   | doesn't wait | another |
|           |                             |                 |             |              | turn's  |
| beginning | first writes: all are made  | cancels when    | bounds      | doesn't wait | this    |
|           |                             | they are made   | them        |              | turn's  |
| answering | `respond` runs              | cancels, unless | by policy   | sees the     | this    |
|           |                             | options say no  |             | items so far | turn's  |
| settling  | what is left is stored      | waits           | nothing     | waits        | this    |
|           |                             |                 |             |              | turn's  |
| settled   | the user's cleanup ends     | nothing         | nothing     | doesn't wait | free    |
| ended     | nothing                     | nothing         | nothing     | doesn't wait | free    |

A turn that a new message supersedes is stopped in the same way.

A cancelled turn counts as settling from the moment of the cut (`is_ending`), though its task is
told a little later.

Each collaborator has its own state, and arrows only run down:

- `Ending`: the cancel scope, the reason, the time limits, and the bound of a store operation that a
  cut falls on;
- `Answer`: all there is once the turn has begun. It has the `Handover` (the user's tasks and what
  they ask for), the `ThreadWriter` (the one writer of the thread), `TurnItems` (what each event
  means) and `Settling` (what is left, and storing it);
- `FrameLog`: the frames, and those who read them.

However the turn ends, settling runs in the turn's own task, shielded with a deadline, before the
user's cleanup is waited for and before anyone may read the thread again.
"""

from __future__ import annotations

import enum
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from functools import partial
from math import inf
from typing import Any, Generic, TypeAlias

import trio

from chatkit_trio.errors import ChatKitError, StoreError
from chatkit_trio.observe import (
    FirstEventSent,
    RequestRefused,
    StoreOperation,
    TurnAsked,
    TurnBegan,
    TurnEnded,
    TurnInfo,
    TurnSettled,
    TurnSettling,
)
from chatkit_trio.store import Fence, TContext, fence
from chatkit_trio.types import (
    StreamOptions,
    StreamOptionsEvent,
    ThreadItem,
    ThreadMetadata,
)

from .answering import Answer
from .ending import Ending
from .frames import FrameLog, FrameReader
from .groups import ends_process, split_cancelled, unwrapped
from .keeping import CancelReason
from .opening import CheckedRequest, PreparedRequest, TurnHooks
from .owner_limits import Slot
from .policy import TurnPolicy
from .remote import Reader
from .settling import told_at_end
from .story import Story
from .streaming import takes_component_updates
from .wire import error_event, frame, refusal_event
from .wrong_loop import hint_at_loop

logger = logging.getLogger(__name__)

_current_turn: ContextVar[Turn[Any]] = ContextVar("chatkit_trio_current_turn")


class TurnState(enum.StrEnum):
    """Where a turn is in its life; see the table at the head of the module."""

    WAITING = "waiting"
    BEGINNING = "beginning"
    ANSWERING = "answering"
    SETTLING = "settling"
    SETTLED = "settled"
    ENDED = "ended"


def new_turn_id() -> str:
    """Return an id with 128 random bits, so it can't be guessed."""
    return f"turn_{secrets.token_hex(16)}"


def current_turn() -> Turn[Any]:
    """Return the turn that the calling task belongs to.

        async def respond(self, thread, input_user_message, context):
            current_turn().nursery.start_soon(find_title, thread)
            ...

    Works in `respond`, `action`, `handle_stream_cancelled` and every task they start. Raises
    `RuntimeError` elsewhere. Not a checkpoint.
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

    For user code: `id`, `thread`, `context`, `policy`, `state`, `cancel_scope`, `nursery`,
    `cancel_reason`, `cancel()`, `mark_incomplete()`, `still_working()`, `keep()`, `settled` and
    `ended`; the rest is for the server. Tasks started in `nursery` belong to the turn: it doesn't
    end before they do, and cancels them when it is cancelled.
    """

    def __init__(
        self,
        hooks: TurnHooks,
        request: CheckedRequest,
        policy: TurnPolicy,
        context: TContext,
    ) -> None:
        self.hooks = hooks
        """The server's."""
        self.id = request.turn_id or new_turn_id()
        self.thread_id = request.thread_id
        self.context = context
        self.policy = policy
        self.state = TurnState.WAITING
        """Where the turn is in its life."""
        self.log = FrameLog(max_unread=policy.max_unread_bytes, max_kept=policy.max_replay_bytes)
        self.settled = trio.Event()
        """Set when nothing of this turn remains to be stored."""
        self.ended = trio.Event()
        """Set when the user's code has ended too."""
        self.context_is_free = trio.Event()
        """Set when nothing of this turn uses the request's context any more."""
        self.options_known = trio.Event()
        """Set when it is known whether a client may end this turn, or when the turn is over."""
        self.request = request
        self.ending = Ending(self.id, policy.settle_timeout)
        self.answer: Answer | None = None
        """What there is of the turn from its first write on."""
        self.task: trio.lowlevel.Task | None = None
        """The task that runs the turn, while one does."""
        self.slot: Slot | None = None
        """The owner's slot that this turn has until it is settled, if turns are limited."""
        self.model_runs: dict[Any, Any] = {}
        """What `chatkit_trio.agents` knows of the runs that haven't come to their end."""
        self._options: StreamOptions | None = None
        self._leader_takes_components = False
        self._came_at: float | None = None
        self._settling_since = 0.0
        self._info: TurnInfo | None = None
        self._failure: BaseException | None = None
        self._end_is_told = False

    # --- What user code may ask and do ---------------------------------------------------------

    @property
    def thread(self) -> ThreadMetadata:
        """The thread this turn works on; changes to it are saved after the next event."""
        return self._begun.thread

    @property
    def nursery(self) -> trio.Nursery:
        """The nursery for tasks beside `respond`, such as one that finds a title."""
        nursery = None if self.answer is None else self.answer.handover.nursery
        if nursery is None:
            raise RuntimeError(f"{self.id} isn't running, so it has no nursery")
        return nursery

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """The scope around everything that the turn runs."""
        return self.ending.scope

    @property
    def cancel_reason(self) -> CancelReason | None:
        """Why the turn ended early, or is about to; None if it didn't."""
        if self.answer is not None and self.state not in _BEFORE_SETTLING:
            return self.answer.settling.left.reason
        return self.ending.reason

    def cancel(self, reason: CancelReason = CancelReason.STOPPED) -> None:
        """End the turn early, keeping what it has produced. The first reason given counts.

        Returns at once; `settled` says when everything is stored. Raises `ValueError` for what is
        no `CancelReason`. Not a checkpoint.
        """
        self.ending.cancel(CancelReason(reason))

    def mark_incomplete(
        self, is_incomplete: bool = True, *, error: Exception | None = None
    ) -> None:
        """Say that the model has cut the answer itself, for example because it was too long.

            if choice.finish_reason == "length":
                current_turn().mark_incomplete()

        When `respond` ends, the answer is kept with reason `incomplete`, and user and model are
        told. If `respond` raises `error`, that is the same: it tells nothing else. With
        `is_incomplete=False` an `error` is one that broke the model's stream off. The streams of
        `chatkit_trio.agents` do this by themselves; the last call counts. Not a checkpoint.
        """
        self._begun.mark_incomplete(is_incomplete, error)

    def still_working(self) -> None:
        """Start the clock of `idle_timeout` anew: something goes on that isn't shown.

        The streams of `chatkit_trio.agents` do this with each event of the model. Not a checkpoint.
        """
        if self.answer is not None:
            self.answer.handover.still_working()

    async def keep(self, pending_items: Sequence[ThreadItem]) -> None:
        """Store what is worth keeping of these items, the hidden note, and all else unsaved.

            async def handle_stream_cancelled(self, thread, pending_items, context):
                await current_turn().keep(pending_items)

        This is what the default `handle_stream_cancelled` does: one atomic store call. Raises what
        the store raises; what couldn't be stored is tried again after the hook. Raises `TypeError`
        for what is no item, and `RuntimeError` elsewhere than in the hook. A checkpoint.
        """
        await self._begun.settling.keep(pending_items)

    # --- What the server and the connections ask -----------------------------------------------

    @property
    def allow_cancel(self) -> bool:
        """Whether a client may end this turn; says `get_stream_options`."""
        return self._options is None or self._options.allow_cancel

    @property
    def superseded_slot(self) -> str | None:
        """The id of its slot, which isn't counted beside that of a message that supersedes it."""
        return self.slot.id if self.slot is not None and self.allow_cancel else None

    @property
    def has_begun(self) -> bool:
        """Whether the first writes have been made."""
        return self.answer is not None

    @property
    def is_ending(self) -> bool:
        """Whether the turn is cut or over, so that a reader of the thread should wait for it."""
        return self.ending.is_cut or self.state not in _BEFORE_SETTLING

    @property
    def is_lost(self) -> bool:
        """Whether another process settles this turn, or may: this one was silent for too long."""
        return self.ending.reason is CancelReason.CRASHED

    @property
    def end_reason(self) -> str:
        """How the turn ended, for clients that ask: "finished", or the `CancelReason`."""
        return _told(self.cancel_reason)

    @property
    def seconds(self) -> float:
        """Since it was asked for; 0 before it runs."""
        return 0.0 if self._came_at is None else trio.current_time() - self._came_at

    @property
    def settling_seconds(self) -> float | None:
        """Since its answer was over, while that isn't stored; else None."""
        is_settling = self.state is TurnState.SETTLING
        return trio.current_time() - self._settling_since if is_settling else None

    @property
    def longest_settling(self) -> float:
        """How long others wait for this turn's settling, in seconds.

        An interrupted write, the hook, and two tries to store what these leave have
        `settle_timeout` each.
        """
        return 4 * self.policy.settle_timeout

    def hasten_settling(self) -> None:
        """Try more often to store what is left: the server is about to leave."""
        if self.answer is not None:
            self.answer.settling.storing.hasten()

    def settle_now(self) -> None:
        """Have what couldn't be stored so far tried again at once: somebody waits for it."""
        if self.answer is not None:
            self.answer.settling.storing.try_now()

    async def wait_settled(self) -> None:
        """Wait until all is stored. Raises `StoreError` if that takes longer than it should."""
        self.settle_now()
        with trio.move_on_after(self.longest_settling):
            await self.settled.wait()
            return
        raise StoreError(
            f"the answer in thread {self.thread_id} has ended and couldn't be stored yet; it is"
            " tried again"
        )

    def items_so_far(self) -> tuple[list[ThreadItem], list[ThreadItem]]:
        """Return what the store lacks, as it would be stored now: new items, and changed ones."""
        return ([], []) if self.answer is None else self.answer.items_so_far()

    def items_as_told(self) -> tuple[list[ThreadItem], list[ThreadItem]]:
        """Return the same as clients have seen them, with empty ones."""
        return ([], []) if self.answer is None else self.answer.items_as_told()

    @property
    def writes(self) -> int:
        """How often the store has got another state of an item of this turn."""
        return 0 if self.answer is None else self.answer.items.writes

    @property
    def is_shown(self) -> bool:
        """Whether the frames tell all that `items_as_told` does."""
        return self.answer is None or self.answer.is_shown

    def item_ids(self) -> list[str]:
        """Return the ids of the turn's items that a client may see; some may have been dropped."""
        return [] if self.answer is None else self.answer.item_ids()

    def open_reader(
        self,
        start: int | None = None,
        *,
        leads: bool = False,
        can_return: bool = True,
        component_updates: bool = False,
    ) -> FrameReader:
        """Return a reader of this turn's frames; see `FrameLog.open_reader`."""
        reader = self.log.open_reader(
            start, leads=leads, can_return=can_return, component_updates=component_updates
        )
        if leads:
            self._leader_takes_components = component_updates
        self.ending.limit(CancelReason.DISCONNECTED, None)
        return reader

    def close_reader(self, reader: Reader) -> None:
        """Take note that a reader has left; the last one to leave is a disconnect."""
        reader.close()
        if not self.log.has_readers and not self.log.is_closed:
            self._on_disconnect()

    def _limit_disconnect_anew(self) -> None:
        """Do what a disconnect does in the state that the turn is in now."""
        self.ending.limit(CancelReason.DISCONNECTED, None)
        self._on_disconnect()

    def _on_disconnect(self) -> None:
        seconds = self.policy.seconds_after_disconnect(can_return=self.log.last_could_return)
        if seconds == inf or not self.allow_cancel:
            return
        if self.state is TurnState.BEGINNING:
            # Asked again before `respond` is called: then the options are known.
            self.ending.hurry()
        elif seconds == 0:
            self.ending.cancel(CancelReason.DISCONNECTED)
        else:
            self.ending.limit(CancelReason.DISCONNECTED, seconds)

    @property
    def _begun(self) -> Answer:
        if self.answer is None:
            raise RuntimeError(f"{self.id} hasn't begun")
        return self.answer

    # --- The life ------------------------------------------------------------------------------

    def recall(self, frames: Iterable[bytes], reason: CancelReason | None) -> None:
        """Become a turn that has ended earlier; readers get these frames. It isn't run."""
        for each in frames:
            self.log.append(each)
        if reason is not None:
            self.cancel(reason)
        self._release()
        self._end()
        self.context_is_free.set()

    async def run(
        self, admission: AbstractAsyncContextManager[None], begin: Begin | None = None
    ) -> None:
        """Run the turn to its end; an error of user code ends this turn and nothing else.

        The turn begins inside of `admission`, which waits for the thread. `begin` makes its first
        writes, and records it, where several processes share the store.
        """
        _current_turn.set(self)
        outside = fence.get()
        self.task = trio.lowlevel.current_task()
        self._came_at = trio.current_time()
        if self.story.is_watched:
            self.ending.tell_operation = self._tell_operation
            self.story.tell(TurnAsked(self.info))
        takes_component_updates.set(self._leader_takes_components)
        try:
            with self.cancel_scope:
                await self._begin_and_answer(admission, begin)
            if not self.has_begun and (told := told_at_end(self.ending.reason)) is not None:
                self.log.append(frame(told))
        except GeneratorExit:
            self._end_is_told = True  # the coroutine is being thrown away
            raise
        except BaseException as error:  # noqa: ASYNC103
            if ends_process(error):
                raise
            if self.has_begun:
                # A bug here must not end the server.
                logger.exception("ending %s of thread %s failed", self.id, self.thread_id)
            else:
                self._refuse(error)
        finally:
            if not self.has_begun:
                self._release()
            self._tell_end()
            self._end()
        # What this task still does isn't the turn's: it records what became of a request.
        fence.set(outside)

    async def _begin_and_answer(
        self, admission: AbstractAsyncContextManager[None], begin: Begin | None
    ) -> None:
        error: BaseException | None = None
        try:
            async with admission:
                await self._begin(begin)
        except GeneratorExit:
            raise  # the coroutine is being thrown away
        except BaseException as raised:  # noqa: ASYNC103
            if not self.has_begun or ends_process(raised):
                raise
            # A cancellation isn't swallowed: the scope is cancelled, so the answer meets it at its
            # first checkpoint.
            error = split_cancelled(raised)[1]
        await self._run_answer(error)

    async def _begin(self, begin: Begin | None) -> None:
        """Do the request's first writes; once they have begun they are all made."""
        # A write runs to its end whatever happens: don't start one for a cancelled turn.
        await trio.lowlevel.checkpoint_if_cancelled()
        own_fence: Fence | None = None
        if begin is None:
            prepared = await self._make_first_writes()
        else:
            prepared = await begin(self)
            own_fence = Fence(self.id)
            fence.set(own_fence)
        self.answer = Answer(
            self.id,
            self.hooks.store,
            self.context,
            self.policy,
            self.ending,
            self.log,
            prepared,
            self.hooks.foreign_models,
            self.hooks.journal_writer,
        )
        self.answer.settling.storing.fence = own_fence
        journal = self.hooks.store.journal
        if journal is not None:
            # Before the call: when it fails, there may be an entry all the same.
            self.answer.settling.left.in_journal = True
            if begin is None:
                begin_entry = partial(journal.begin, self.id, self.thread_id, self.context)
                await self.ending.write(begin_entry, "journal.begin")
        await self.ending.write(self.request.began)
        if begin is not None:
            await self.ending.read(partial(self.request.refresh, prepared.thread))
            self.answer.thread_is_as_stored()
        self.ending.stop_hurrying()

    async def _make_first_writes(self) -> PreparedRequest:
        self.first_write_begins()
        prepared = await self.ending.read(partial(self.request.prepare, self.id))
        begin = partial(self.hooks.store.begin_turn, prepared.opening, self.context)
        await self.ending.write(begin, "begin_turn")
        return prepared

    def first_write_begins(self) -> None:
        """Take note that the turn begins now, if it may."""
        self.state = TurnState.BEGINNING
        if not self.log.has_readers:
            # They left while it waited. Asked again before `respond`: then the options are known.
            self._limit_disconnect_anew()
        if self.policy.turn_timeout is not None:
            self.ending.limit(CancelReason.DEADLINE, self.policy.turn_timeout)

    def has_to_wait(self) -> None:
        """Take note that the turn couldn't begin: another node's turn holds the thread."""
        self.state = TurnState.WAITING
        self.ending.limit(CancelReason.DEADLINE, None)
        if not self.log.has_readers:
            self._limit_disconnect_anew()
        # Those who wait to know whether it may be ended look again: it isn't the one to end.
        self.options_known.set()
        self.options_known = trio.Event()

    async def _run_answer(self, error: BaseException | None) -> None:
        answer = self._begun
        self.state = TurnState.ANSWERING
        if self.story.is_heard:
            self.story.tell(TurnBegan(self.info, self.seconds))
        async with trio.open_nursery() as tasks:
            # Whatever went wrong: the client has to know of what the first writes have made.
            for each in (error, self._greet()):
                if each is not None:
                    answer.handover.fail(each)
            if answer.handover.failure is None and self.story.is_watched:
                self.log.tap(self._tell_first_event)
            cut = await answer.perform(tasks)
            # Here, inside of the nursery, because leaving it waits for the user's cleanup.
            self.state = TurnState.SETTLING
            await self._settle(answer)
            if cut is not None:
                raise cut

    async def _settle(self, answer: Answer) -> None:
        """Store what is left and tell what came of it; returns when it is stored or given up."""
        began_at = self._settling_since = trio.current_time()
        self.log.untap(self._tell_first_event)
        reason = answer.close()
        if reason is CancelReason.FAILED:
            self._failure = answer.handover.failure
        if self.story.is_watched:
            self.story.tell(TurnSettling(self.info, _told(reason)))
        outcome = await answer.settle(self.hooks.handle_stream_cancelled)
        try:
            answer.announce(outcome)
        except Exception:
            # It is stored: whatever can't be told of it, the thread must be let go of.
            logger.exception("the end of %s of thread %s can't be told", self.id, self.thread_id)
            self.log.append(frame(error_event(StoreError("the end can't be told"))))
        self.log.close()
        storing = answer.settling.storing
        is_stored = outcome.is_stored or await storing.until_stored()
        if is_stored:
            self._release()
        if self.story.is_watched:
            seconds = trio.current_time() - began_at
            self.story.tell(TurnSettled(self.info, seconds, storing.tries, is_stored))
        self._tell_end()

    def _greet(self) -> BaseException | None:
        """Send what the first writes have made, and the options; return what went wrong."""
        prepared = self._begun.prepared
        try:
            for event in prepared.first_events:
                self.log.append(frame(event))
            options = self.hooks.get_stream_options(self.thread, self.context)
            self._options = self.hooks.foreign_models.own(
                StreamOptions, options, "get_stream_options()"
            )
            self.options_known.set()
            if prepared.sends_options:
                self.log.append(frame(StreamOptionsEvent(stream_options=self._options)))
            for event in prepared.events_after_options:
                self.log.append(frame(event))
        except BaseException as error:  # noqa: ASYNC103 (nothing is awaited: it's no cancellation)
            if ends_process(error):
                raise
            return error  # noqa: ASYNC104
        if not self.log.has_readers:
            self._on_disconnect()
        return None

    def _refuse(self, error: BaseException) -> None:
        """Tell the client why its request wasn't carried out. Never raises: it would end others."""
        try:
            self._tell_refusal(error)
        except Exception:
            logger.exception("why %s was refused can't be told as it is", self.id)
            self.log.append(frame(error_event(error)))

    def _tell_refusal(self, error: BaseException) -> None:
        hint_at_loop(error)
        failure = self._failure = unwrapped(error)
        code = failure.code if isinstance(failure, ChatKitError) else ChatKitError.code
        self.story.tell(RequestRefused(code, self.request.kind, failure))
        if isinstance(failure, ChatKitError) and failure.http_status < 500:
            self.log.append(frame(refusal_event(failure)))
            return
        logger.error("a streaming request failed before its turn began", exc_info=error)
        self.log.append(frame(error_event(failure)))

    # --- What observers are told ---------------------------------------------------------------

    @property
    def story(self) -> Story:
        """Tells the log and the observers."""
        return self.hooks.turn_story

    @property
    def info(self) -> TurnInfo:
        """What events say of this turn."""
        if self._info is None:
            try:
                owner = str(self.hooks.get_owner(self.context))
            except BaseException as error:  # noqa: ASYNC103 (nothing is awaited here either)
                if ends_process(error):
                    raise
                logger.exception("get_owner() failed; %s is told of without its owner", self.id)
                owner = ""
            self._info = TurnInfo(self.id, self.thread_id, self.request.kind, owner)
        return self._info

    def _tell_first_event(self, _frame: bytes) -> None:
        self.log.untap(self._tell_first_event)
        self.story.tell(FirstEventSent(self.info, self.seconds))

    def _tell_operation(self, name: str, seconds: float, is_done: bool) -> None:
        self.story.tell(StoreOperation(self.info, name, seconds, is_done))

    def _tell_end(self) -> None:
        """Tell that the turn is over, once."""
        if self._end_is_told or not self.story.is_heard:
            return
        self._end_is_told = True
        reason = self.end_reason if self.has_begun or self.ending.is_cut else "refused"
        events = self.log.next_number
        self.story.tell(TurnEnded(self.info, reason, self.seconds, events, self._failure))

    def _release(self) -> None:
        """Let go of the thread: all that will be stored is."""
        self.log.close()
        self.state = TurnState.SETTLED
        self._free_slot()
        self.settled.set()

    def _end(self) -> None:
        """Note that nothing of this turn runs any more."""
        self.log.close()
        self._free_slot()
        self.state = TurnState.ENDED
        self.task = None
        self.options_known.set()
        self.ended.set()

    def _free_slot(self) -> None:
        if self.slot is not None:
            self.slot.free()


def _told(reason: CancelReason | None) -> str:
    return "finished" if reason is None else reason.value


Begin: TypeAlias = Callable[[Turn[Any]], Awaitable[PreparedRequest]]
"""Makes the first writes of a turn, when no other process has one on the thread."""

_BEFORE_SETTLING = frozenset((TurnState.WAITING, TurnState.BEGINNING, TurnState.ANSWERING))
