"""What a user subclasses: `ChatKitServer`, its hooks, its lifecycle, and the results it returns.

The work is done in `_engine`: `requests` has a class or function for every request, `turn` is one
turn, `live` says who may begin. This module keeps the original's public names.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import trio
from typing_extensions import TypeVar

from . import errors, store, types, widgets
from ._engine.answering import Answer
from ._engine.foreign import ForeignModels
from ._engine.frames import FrameReader, SendNow
from ._engine.groups import split_cancelled, unwrapped
from ._engine.hooks import ServerHooks, must_override
from ._engine.journal import (
    RECOVERY_INTERVAL,
    JournaledTurn,
    JournalWriter,
    keep_recovering,
    recover,
)
from ._engine.keeping import CancelReason, ending_note
from ._engine.live import LiveTurns
from ._engine.node import node_of
from ._engine.opening import CheckedRequest
from ._engine.overrides import check_overrides
from ._engine.owner_limits import Owners, Slot, Toll
from ._engine.pace import BigWork
from ._engine.pages import PagedAnswer
from ._engine.policy import TurnPolicy
from ._engine.reading import as_bytes, read_request
from ._engine.remote import RemoteReader, RemoteTurn
from ._engine.repeats import Repeats
from ._engine.replay import frames_so_far
from ._engine.requests import (
    ANSWERED,
    DEFAULT_PAGE_SIZE,
    READS,
    STREAMING,
    WITH_ENDINGS,
    WITH_NAMES,
    RecoveredAnswer,
    checked_request,
    costs,
    last_answer,
)
from ._engine.runner import check_runs_on_trio
from ._engine.storing import ends_within
from ._engine.story import Story
from ._engine.streaming import stream_text, stream_widget
from ._engine.ticker import Ticker
from ._engine.turn import Turn, TurnState, current_turn
from ._engine.widget_diff import diff_widget
from ._engine.wire import to_json
from ._engine.wrong_loop import hints_at_loop
from ._settings import check_seconds
from .errors import ChatKitError, ConflictError, FramesLost, ServerNotRunningError, StoreError
from .limits import OwnerLimits, RequestLimits
from .observe import Observer, RequestRefused
from .store import AttachmentStore as AttachmentStore
from .store import Store as Store
from .types import AnswerEnding, ThreadsGetByIdReq
from .types import ChatKitReq as ChatKitReq

__all__ = [
    "DEFAULT_PAGE_SIZE",
    "CancelReason",
    "ChatKitServer",
    "FramesLost",
    "NonStreamingResult",
    "RemoteTurn",
    "StreamingResult",
    "Turn",
    "TurnPolicy",
    "TurnState",
    "current_turn",
    "diff_widget",
    "ending_note",
    "stream_text",
    "stream_widget",
]

if TYPE_CHECKING:
    # isort: off
    # The original's module has these by accident, and code in use imports them from there.
    from .actions import (
        Action as Action,
    )
    from .errors import (
        CustomStreamError as CustomStreamError,
        ErrorCode as ErrorCode,
        StreamError as StreamError,
    )
    from .store import (
        StoreItemType as StoreItemType,
        default_generate_id as default_generate_id,
    )
    from .types import (
        AssistantMessageContent as AssistantMessageContent,
        AssistantMessageContentPartAdded as AssistantMessageContentPartAdded,
        AssistantMessageContentPartAnnotationAdded as AssistantMessageContentPartAnnotationAdded,
        AssistantMessageContentPartDone as AssistantMessageContentPartDone,
        AssistantMessageContentPartTextDelta as AssistantMessageContentPartTextDelta,
        AssistantMessageItem as AssistantMessageItem,
        AttachmentsCreateReq as AttachmentsCreateReq,
        AttachmentsDeleteReq as AttachmentsDeleteReq,
        AudioInput as AudioInput,
        ClientToolCallItem as ClientToolCallItem,
        ErrorEvent as ErrorEvent,
        FeedbackKind as FeedbackKind,
        HiddenContextItem as HiddenContextItem,
        InputTranscribeReq as InputTranscribeReq,
        ItemsFeedbackReq as ItemsFeedbackReq,
        ItemsListReq as ItemsListReq,
        NonStreamingReq as NonStreamingReq,
        Page as Page,
        SDKHiddenContextItem as SDKHiddenContextItem,
        StreamingReq as StreamingReq,
        StreamOptions as StreamOptions,
        StreamOptionsEvent as StreamOptionsEvent,
        StructuredInputAnswer as StructuredInputAnswer,
        StructuredInputItem as StructuredInputItem,
        StructuredInputMultipleChoice as StructuredInputMultipleChoice,
        StructuredInputSubmission as StructuredInputSubmission,
        SyncCustomActionResponse as SyncCustomActionResponse,
        Thread as Thread,
        ThreadCreatedEvent as ThreadCreatedEvent,
        ThreadItem as ThreadItem,
        ThreadItemAddedEvent as ThreadItemAddedEvent,
        ThreadItemDoneEvent as ThreadItemDoneEvent,
        ThreadItemRemovedEvent as ThreadItemRemovedEvent,
        ThreadItemReplacedEvent as ThreadItemReplacedEvent,
        ThreadItemUpdatedEvent as ThreadItemUpdatedEvent,
        ThreadMetadata as ThreadMetadata,
        ThreadsAddClientToolOutputReq as ThreadsAddClientToolOutputReq,
        ThreadsAddStructuredInputReq as ThreadsAddStructuredInputReq,
        ThreadsAddUserMessageReq as ThreadsAddUserMessageReq,
        ThreadsCreateReq as ThreadsCreateReq,
        ThreadsCustomActionReq as ThreadsCustomActionReq,
        ThreadsDeleteReq as ThreadsDeleteReq,
        ThreadsGetByIdReq as ThreadsGetByIdReq,
        ThreadsListReq as ThreadsListReq,
        ThreadsRetryAfterItemReq as ThreadsRetryAfterItemReq,
        ThreadsSyncCustomActionReq as ThreadsSyncCustomActionReq,
        ThreadStreamEvent as ThreadStreamEvent,
        ThreadsUpdateReq as ThreadsUpdateReq,
        ThreadUpdatedEvent as ThreadUpdatedEvent,
        TranscriptionResult as TranscriptionResult,
        UserMessageInput as UserMessageInput,
        UserMessageItem as UserMessageItem,
        WidgetComponentUpdated as WidgetComponentUpdated,
        WidgetItem as WidgetItem,
        WidgetRootUpdated as WidgetRootUpdated,
        WidgetStreamingTextValueDelta as WidgetStreamingTextValueDelta,
        WorkflowItem as WorkflowItem,
        WorkflowTaskAdded as WorkflowTaskAdded,
        WorkflowTaskUpdated as WorkflowTaskUpdated,
        is_streaming_req as is_streaming_req,
    )
    from .widgets import (
        WidgetComponent as WidgetComponent,
        WidgetComponentBase as WidgetComponentBase,
        WidgetRoot as WidgetRoot,
    )
    # isort: on
else:

    def __getattr__(name: str) -> Any:
        for module in (types, errors, store, widgets):
            if not name.startswith("_") and hasattr(module, name):
                return getattr(module, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


logger = logging.getLogger(__name__)

TContext = TypeVar("TContext", default=Any)


_Reading: TypeAlias = tuple[Turn[Any] | RemoteTurn, FrameReader | RemoteReader]


class NonStreamingResult:
    """The answer to a request that doesn't stream."""

    def __init__(self, json: bytes) -> None:
        self.json = json
        """The answer's JSON text, UTF-8."""


class StreamingResult:
    """The SSE frames of one turn, as bytes.

    The turn starts when the first frame is asked for; before that nothing is stored. Best read in
    an `async with`: leaving it early is a disconnect, and what the turn has produced is in the
    store when the block has been left. Without one, a cancelled read is a disconnect.

        async with result as frames:
            async for frame in frames:
                await send(frame)
    """

    def __init__(
        self, start: Callable[[], _Reading], ticker: Ticker, slot: Slot | None = None
    ) -> None:
        self._start = start
        self._ticker = ticker
        self._slot = slot
        self._reading: _Reading | None = None
        self._is_entered = False
        self._is_closed = False

    @property
    def json_events(self) -> AsyncIterator[bytes]:
        """The frames, one at a time; the same iterator as `async for` over the result."""
        return self

    def begin(self) -> None:
        """Start the turn now, before the first frame is asked for; `aclose` has to follow.

        Raises `ServerNotRunningError`. Not a checkpoint.
        """
        self._started()

    @property
    def turn(self) -> Turn[Any] | RemoteTurn:
        """The turn that is being read; starts it. A `RemoteTurn` if another process runs it."""
        return self._started()[0]

    @property
    def next_frame_number(self) -> int:
        """The number, counted from 0 in this turn, of the frame that is read next."""
        return self._started()[1].number

    @property
    def is_ready(self) -> bool:
        """Whether `receive` has something to return, or to raise, without waiting."""
        return self._started()[1].is_ready

    async def receive(self, max_bytes: int = 65536) -> list[bytes]:
        """Return all frames that are ready, at least one and about `max_bytes` at most.

        Raises `trio.EndOfChannel` behind the last frame, and `FramesLost` for a watcher that has
        fallen too far behind. Inside `async with` a cancelled call has read nothing and changes
        nothing; outside it is a disconnect.
        """
        _turn, reader = self._started()
        try:
            return await reader.receive(max_bytes)
        except trio.Cancelled:
            if not self._is_entered:
                await self.aclose()
            raise

    async def receive_in_time(self, send_now: SendNow | None = None) -> list[bytes]:
        """Return frames when the policy says that they are to be sent.

            async with result:
                while True:
                    frames = await result.receive_in_time()
                    await send(b"".join(frames) or b": ping\n\n")

        An empty list means that a heartbeat is due. Raises `trio.EndOfChannel` behind the last
        frame, and `FramesLost` as `receive` does. Use it inside `async with`: a cancelled call has
        read nothing and changes nothing.

        While this waits, frames that are due may be handed to `send_now` instead, if it is given:
        it sends them at once, and must not wait. If it returns False, this returns at once: with
        what has come since, or with an empty list. What it raises is raised here.
        """
        turn, reader = self._started()
        heartbeat = inf if turn.policy.heartbeat is None else turn.policy.heartbeat
        window = turn.policy.flush_interval
        return await reader.receive_in_time(self._ticker, window, heartbeat, send_now)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        try:
            return (await self.receive(1))[0]
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        self._is_entered = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading; if that cancels the turn, return when it is settled.

        Waits even if the caller has been cancelled, for at most four times `settle_timeout`.
        Closing twice is allowed.
        """
        self._free_unused_slot()
        if self._reading is None:
            return
        turn, reader = self._reading
        if not self._is_closed:
            self._is_closed = True
            turn.close_reader(reader)
        if turn.is_ending:
            with trio.move_on_after(turn.longest_settling, shield=True):
                await turn.settled.wait()

    def _started(self) -> _Reading:
        if self._reading is None:
            self._reading = self._start()
            self._free_unused_slot()  # a repeat reads along another request's turn
        return self._reading

    def _free_unused_slot(self) -> None:
        if self._slot is not None:
            self._slot.free_unless_kept()


class ChatKitServer(ServerHooks[TContext]):
    """A ChatKit backend: subclass it, write `respond`, and run it as an async context manager.

        async with MyServer(MemoryStore()) as server:
            result = await server.process(body, context)

    `policy` says how turns treat disconnects, rivals and the clock. `journal_interval` is how
    often, in seconds, live answers are written to the store's journal if it has one: a crash
    loses at most so much of an answer. `idempotency_window` is how long, in seconds, a request with
    an `Idempotency-Key` is remembered, so that its repeat isn't carried out again. `limits` says
    how much one request may hold. `owner_limits` bounds what one owner may use; without it nothing
    is bounded. See `limits.OwnerLimits` and `get_owner`.

    A subclass that overrides one of the insides of the original's server, which nothing here would
    call, or a `process` that takes no further options, is a `TypeError`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_overrides(cls, ChatKitServer.process)

    def __init__(
        self,
        store: Store[TContext],
        attachment_store: AttachmentStore[TContext] | None = None,
        *,
        policy: TurnPolicy | None = None,
        limits: RequestLimits | None = None,
        journal_interval: float = 0.5,
        idempotency_window: float = 600.0,
        owner_limits: OwnerLimits | None = None,
    ) -> None:
        if policy is not None and not isinstance(policy, TurnPolicy):
            raise TypeError(f"policy must be a TurnPolicy, not {policy!r}")
        check_seconds("journal_interval", journal_interval)
        check_seconds("idempotency_window", idempotency_window, or_zero=True)
        self.store = store
        self.attachment_store = attachment_store
        self.policy = policy if policy is not None else TurnPolicy()
        self.limits = limits if limits is not None else RequestLimits()
        self.big_work = BigWork()
        self.foreign_models = ForeignModels()
        self.turn_story = Story()
        self.journal_interval = journal_interval
        self.journal_writer = None if store.journal is None else JournalWriter(store.journal)
        self.__node = node_of(store)
        self.live_turns = LiveTurns(partial(recover, store, tell=self.turn_story.tell), self.__node)
        coordination = store.coordination
        self.owners = Owners(owner_limits, None if coordination is None else coordination.usage)
        self.__repeats = Repeats(self, idempotency_window)
        # Two underscores: a subclass has names of its own, and must not replace these by chance.
        self.__stack: AsyncExitStack | None = None
        self.__nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None
        self.__nursery: trio.Nursery | None = None
        self.__ticker = Ticker()
        self.__is_draining = False
        self.__settle_by: float | None = None
        self.held_up = trio.Event()
        """Set when the server is being left and user code of a turn, whose answer is stored, hasn't
        ended in its time. It has to be waited for; nothing else does."""
        self.given_up = 0
        """How many answers the store hadn't taken when the server was left; a journal has them."""

    def observe(self, observer: Observer) -> None:
        """Have an observer told what happens to turns from now on; see `chatkit_trio.observe`.

            server = MyServer(store)
            server.observe(Tracing())

        It is a plain function of an event. It is called in the middle of things, so it must not
        wait; what it raises is logged once and harms nothing. Raises `TypeError` for an async
        function. Not a checkpoint.
        """
        self.turn_story.add(observer)

    # --- Lifecycle -----------------------------------------------------------------------------

    @hints_at_loop
    async def __aenter__(self) -> Self:
        """Open the stores, settle what a crash left behind, and begin to accept streams.

        Raises what the store raises if it can't be opened, and `RuntimeError` outside of Trio.
        """
        check_runs_on_trio(type(self).__name__)
        if self.__stack is not None:
            raise RuntimeError("this server is running already; enter it once")
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.store)
            if self.attachment_store is not None:
                await stack.enter_async_context(self.attachment_store)
            await self.__recover_all()
            self.__stack = stack.pop_all()
        self.__nursery_manager = manager = trio.open_nursery()
        self.__nursery = nursery = await manager.__aenter__()
        self.__is_draining = False
        self.live_turns.is_leaving = False
        self.__settle_by = None
        self.held_up = trio.Event()
        self.given_up = 0
        nursery.start_soon(self.__ticker.run)
        if self.journal_writer is not None:
            nursery.start_soon(
                self.journal_writer.keep, self.live_turns.journaled, self.journal_interval
            )
            nursery.start_soon(
                keep_recovering, self.store, self.__recovery_interval, self.turn_story.tell
            )
        if self.__node is not None:
            nursery.start_soon(self.__node.run, partial(iter, self.live_turns), self.turn_story)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Cancel live turns with reason `shutdown`, wait until each is settled, close the stores.

        Each step is shielded from a cancellation of the caller and bounded: see `settling_timeout`
        and `leaving_timeout`. But user code that doesn't end, or a thread that hangs, has to be
        waited for: the log says which turn it is, and `held_up` is set.
        """
        stack, self.__stack = self.__stack, None
        nursery, self.__nursery = self.__nursery, None
        manager, self.__nursery_manager = self.__nursery_manager, None
        assert stack is not None
        assert nursery is not None
        assert manager is not None
        await self.__settle_all()  # noqa: ASYNC102 (it shields itself)
        await self.__give_up(nursery)  # noqa: ASYNC102 (it shields itself)
        if self.__node is not None:
            await self.__node.finish()  # noqa: ASYNC102 (it shields itself)
        nursery.cancel_scope.cancel()
        await self.__wait_for_cleanup()  # noqa: ASYNC102 (it shields itself)
        # An ordinary error of the caller's stays as it is: the nursery would wrap it in a group.
        is_ours = exc_value is not None and split_cancelled(exc_value)[0] is not None
        try:
            details = (exc_type, exc_value, traceback) if is_ours else (None, None, None)
            caught = await manager.__aexit__(*details)  # noqa: ASYNC102
        finally:
            seconds = self.policy.settle_timeout
            with trio.move_on_after(seconds, shield=True) as closing:
                await stack.aclose()
            if closing.cancelled_caught:
                logger.error("the stores hadn't closed after %s s; closing them was cut", seconds)
        return bool(caught) and is_ours

    @property
    def is_running(self) -> bool:
        """Whether new streams are taken: the server has been entered and isn't shutting down."""
        nursery = self.__nursery
        is_open = nursery is not None and not nursery.cancel_scope.cancel_called
        return is_open and not self.__is_draining

    @property
    def settling_timeout(self) -> float:
        """How long, in seconds, settling what is live now takes at most; 0 if nothing is."""
        live = [turn for turn in self.live_turns if not turn.settled.is_set()]
        return max((turn.longest_settling + 1 for turn in live), default=0.0)

    @property
    def leaving_timeout(self) -> float:
        """How long, in seconds, leaving the server takes after settling, unless it is `held_up`.

        Three steps have `settle_timeout` each: the journal gets what the store hasn't taken, user
        code ends, the stores close.
        """
        return 3 * self.policy.settle_timeout

    async def drain(self, seconds: float) -> None:
        """Refuse new streams, wait up to so many seconds for live turns, cancel the rest.

        Those end with reason `shutdown`, and their clients get an error that allows a retry. Then
        those who watch another process's turn here get `FramesLost`, and come back elsewhere. Call
        it before leaving the server's block. Cancelled, it leaves the turns as they are.
        """
        check_runs_on_trio(type(self).__name__)
        self.__is_draining = True
        with trio.move_on_after(seconds):
            for turn in self.live_turns:
                await turn.settled.wait()
        await self.__settle_all()

    async def __settle_all(self) -> None:
        turns = list(self.live_turns)
        for turn in turns:
            turn.cancel(CancelReason.SHUTDOWN)
            turn.hasten_settling()
        # Once: who drains and then leaves doesn't wait twice for a store that is away.
        if self.__settle_by is None:
            self.__settle_by = trio.current_time() + self.settling_timeout
        with trio.CancelScope(deadline=self.__settle_by, shield=True):
            for turn in turns:
                await turn.settled.wait()
        self.live_turns.leave_elsewhere()

    async def __give_up(self, nursery: trio.Nursery) -> None:
        """Leave what couldn't be stored to the journal, if there is one: the server leaves."""
        left = [
            turn.answer
            for turn in self.live_turns
            if turn.answer is not None and not turn.settled.is_set()
        ]
        self.given_up = len(left)
        for answer in left:
            answer.settling.storing.give_up()
        if left and self.journal_writer is not None:
            written = trio.Event()
            # In a task of its own, because a write that hangs in its thread outlives its deadline.
            nursery.start_soon(self.__write_down, self.journal_writer, left, written)
            with trio.move_on_after(self.policy.settle_timeout, shield=True):
                await written.wait()

    async def __write_down(
        self, journal: JournalWriter, answers: list[Answer], written: trio.Event
    ) -> None:
        def journaled() -> list[JournaledTurn]:
            return [answer.journaled for answer in answers]

        seconds = self.policy.settle_timeout
        try:
            if not await ends_within(seconds, journal.write_down, journaled):
                logger.error("the journal hadn't been written after %s s", seconds)
        except Exception:
            logger.exception("the journal couldn't be written")
        written.set()

    async def __wait_for_cleanup(self) -> None:
        """Say which turns hold the server up: no task can be abandoned."""
        with trio.move_on_after(self.policy.settle_timeout, shield=True):
            for turn in self.live_turns:
                await turn.ended.wait()
            return
        for turn in self.live_turns:
            logger.error(
                "%s can't close yet: the cleanup of user code in %s of thread %s hasn't ended (%s)",
                type(self).__name__,
                turn.id,
                turn.thread_id,
                "what it has yielded is settled"
                if turn.settled.is_set()
                else "what it has yielded isn't stored",
            )
        self.held_up.set()

    @property
    def __recovery_interval(self) -> float:
        coordination = self.store.coordination
        return RECOVERY_INTERVAL if coordination is None else coordination.poll_interval

    async def __recover_all(self) -> None:
        try:
            await recover(self.store, tell=self.turn_story.tell)
        except StoreError:
            # The server starts all the same: each thread is recovered before it is read.
            logger.exception(
                "the answers that a crash has left can't be settled now; it is tried again"
            )

    # --- Requests ------------------------------------------------------------------------------

    @hints_at_loop
    async def process(
        self,
        request: str | bytes | bytearray,
        context: TContext,
        *,
        can_return: bool = False,
        idempotency_key: str | None = None,
        with_endings: bool = False,
        with_names: bool = False,
        component_updates: bool = False,
        is_counted: bool = False,
        new_thread_id: str | None = None,
        new_message_id: str | None = None,
        answers_again: bool = False,
    ) -> StreamingResult | NonStreamingResult:
        """Answer one request of the ChatKit protocol.

            result = await server.process(body, context)
            if isinstance(result, NonStreamingResult):
                return result.json
            async with result as frames:
                async for frame in frames:
                    await send(frame)

        `can_return` says that the client knows how to come back to its turn (`watch`): when it
        leaves, the turn has the policy's `return_timeout`. `with_endings` adds to a page of items,
        as `endings`, how its cut answers ended (`types.AnswerEnding`). `with_names` adds to a page
        of threads, as `names`, the first words of those that have no title; they are read from the
        store for each. `component_updates` says that the client can take updates of single
        components of a widget; else it gets the whole.

        `idempotency_key` is the client's name for this request, which it sends again with the
        request if it has lost the response. A repeat reads along the turn of the first request, or
        gets what that turn has stored; one with a single answer gets the same bytes. Requests that
        only read don't need a key and ignore it. The store keeps the keys of each owner for
        `idempotency_window` seconds, also over a restart. A request that was refused, or whose
        first writes failed, uses no key up.

        `is_counted` says that the caller has counted the request by `count_request` already.

        `new_thread_id` and `new_message_id` are the ids that the thread and the user's message get
        which the request makes, for a protocol whose clients choose them; they should be as hard to
        guess as the store's own. One that is taken is a `ConflictError`. They don't go with an
        `idempotency_key` (`ValueError`): a message that is sent again has the same id. With
        `answers_again`, which takes both ids, the message is added to a thread that is there
        already, and is answered again if it is there itself, as by `threads.retry_after_item`; only
        one with another text is a `ConflictError`. So a message may be sent twice at once.

        Raises `InvalidRequestError` (400), `TooLargeError` (413, for one over `limits`),
        `NotFoundError` (404), `ConflictError` and `BusyError` (409; `ConflictError` also for a key
        that came with another body), and `LimitError` (429), for which nothing has been stored;
        each has an `http_status`. A stream's errors come as `error` events. Checkpoints; a
        cancelled non-streaming request has either been carried out or not, and its key can be used
        again.
        """
        check_runs_on_trio(type(self).__name__)
        ids = (new_thread_id, new_message_id)
        if idempotency_key is not None and ids != (None, None):
            raise ValueError("give an idempotency_key or ids of what is new, not both")
        if answers_again and None in ids:
            raise ValueError("answers_again takes a new_thread_id and a new_message_id")
        kind = ""
        try:
            if not is_counted:
                await self.__count(context)
            body = as_bytes(request)
            parsed = await read_request(body, self.limits, self.big_work)
            kind = parsed.type
            return await self.__process(
                parsed,
                body,
                context,
                idempotency_key,
                ids,
                answers_again=answers_again,
                can_return=can_return,
                with_endings=with_endings,
                with_names=with_names,
                component_updates=component_updates,
            )
        except Exception as error:
            self.__tell_refusal(kind, error)
            raise

    async def __process(
        self,
        parsed: ChatKitReq,
        body: bytes | bytearray,
        context: TContext,
        idempotency_key: str | None,
        ids: tuple[str | None, str | None],
        *,
        answers_again: bool,
        can_return: bool,
        with_endings: bool,
        with_names: bool,
        component_updates: bool,
    ) -> StreamingResult | NonStreamingResult:
        toll = self.owners.toll(self.owner_if_limited(context), costs(self, parsed, len(body)))
        if type(parsed) in STREAMING:
            key = None if idempotency_key is None else (idempotency_key, body)
            return await self.__open(
                parsed,
                context,
                key,
                ids,
                toll,
                answers_again=answers_again,
                can_return=can_return,
                component_updates=component_updates,
            )
        answer = partial(
            self.__answer, parsed, context, toll, with_endings=with_endings, with_names=with_names
        )
        if idempotency_key is None or type(parsed) in READS:
            return NonStreamingResult(await answer())
        await toll.ask()
        await self.__refuse_unless_known(toll, idempotency_key, context)
        return NonStreamingResult(
            await self.__repeats.answer(idempotency_key, body, answer, context)
        )

    async def count_request(self, context: TContext) -> None:
        """Count a request of the context's owner. Raises `LimitError` if it is one too many.

        `process` does it by itself; this is for views of your own, such as one that watches.
        """
        check_runs_on_trio(type(self).__name__)
        try:
            await self.__count(context)
        except Exception as error:
            self.__tell_refusal("", error)
            raise

    async def __count(self, context: TContext) -> None:
        await self.owners.spend(self.owner_if_limited(context), "requests_per_minute", 1)

    def __tell_refusal(self, kind: str, error: Exception) -> None:
        if self.turn_story.is_watched:
            failure = unwrapped(error)
            code = failure.code if isinstance(failure, ChatKitError) else ChatKitError.code
            self.turn_story.tell(RequestRefused(code, kind, failure))

    def owner_if_limited(self, context: TContext) -> str:
        """Return `get_owner(context)` if owners have limits; else nobody needs to know: ""."""
        return self.get_owner(context) if self.owners.are_limited else ""

    async def __answer(
        self,
        request: ChatKitReq,
        context: TContext,
        toll: Toll,
        *,
        with_endings: bool,
        with_names: bool,
    ) -> bytes:
        await toll.pay()
        if isinstance(request, ThreadsGetByIdReq) and self.goes_on and self.is_running:
            with suppress(ChatKitError):  # then the thread is shown as it is
                await self.continue_answer(request.params.thread_id, context)
        kind = type(request)
        if with_endings and kind in WITH_ENDINGS:
            answer: Any = await WITH_ENDINGS[kind](self, request, context)
        elif with_names and kind in WITH_NAMES:
            answer = await WITH_NAMES[kind](self, request, context)
        else:
            answer = await ANSWERED[kind](self, request, context)
        return answer.to_json() if isinstance(answer, PagedAnswer) else to_json(answer)

    async def __open(
        self,
        request: ChatKitReq,
        context: TContext,
        key: tuple[str, bytes | bytearray] | None,
        ids: tuple[str | None, str | None],
        toll: Toll,
        *,
        answers_again: bool,
        can_return: bool,
        component_updates: bool,
    ) -> StreamingResult:
        nursery = self.__require_running()
        checked = checked_request(self, request, ids, context, answers_again=answers_again)
        policy = self.get_turn_policy(request, context)
        await toll.ask_for_turn(await self.__superseded(checked.thread_id, policy))
        check = partial(self.__check, checked, policy, toll)
        start = partial(
            self.__start,
            toll.slot,
            policy=policy,
            context=context,
            can_return=can_return,
            component_updates=component_updates,
        )
        try:
            await self.__refuse_unless_known(toll, None if key is None else key[0], context)
            if key is None:
                await check()
                read = partial(start, checked, self.live_turns.run)
                return StreamingResult(read, self.__ticker, toll.slot)
            keyed = await self.__repeats.open(*key, checked, context)
            start_keyed = partial(start, keyed, partial(self.__repeats.run, keyed))
            reading = await keyed.reading(
                checked,
                context,
                policy,
                check,
                start_keyed,
                nursery,
                can_return=can_return,
                component_updates=component_updates,
            )
            return StreamingResult(reading, self.__ticker, toll.slot)
        except BaseException:
            toll.free_slot()
            raise

    async def __superseded(self, thread_id: str, policy: TurnPolicy) -> str | None:
        """Return the slot of the turn that a new one will supersede: they aren't counted twice."""
        if self.owners.limits.live_turns is None or policy.on_busy != "supersede":
            return None
        return await self.live_turns.superseded_slot(thread_id)

    async def __refuse_unless_known(self, toll: Toll, key: str | None, context: TContext) -> None:
        """Raise if the owner can't pay, unless the request is a repeat, which may cost nothing."""
        if toll.refusal is None:
            return
        if key is None or not await self.__repeats.knows(key, context):
            raise toll.refusal

    async def __check(self, checked: CheckedRequest, policy: TurnPolicy, toll: Toll) -> None:
        """Raise if the request can't be carried out; else let its owner pay for it."""
        toll.require()
        await checked.check()
        if policy.on_busy == "reject":
            await self.live_turns.refuse_if_busy(checked.thread_id)
        await toll.pay()

    def __start(
        self,
        slot: Slot | None,
        checked: CheckedRequest,
        run: Callable[[Turn[TContext]], Awaitable[None]],
        policy: TurnPolicy,
        context: TContext,
        *,
        can_return: bool,
        component_updates: bool,
    ) -> tuple[Turn[TContext], FrameReader]:
        nursery = self.__require_running()
        turn = Turn(self, checked, policy, context)
        if slot is not None:
            slot.keep()
            turn.slot = slot
        self.live_turns.add(turn)
        reader = turn.open_reader(
            leads=True, can_return=can_return, component_updates=component_updates
        )
        nursery.start_soon(self.__run, run, turn, name=f"chatkit_trio {turn.id}")
        return turn, reader

    async def __run(
        self, run: Callable[[Turn[TContext]], Awaitable[None]], turn: Turn[TContext]
    ) -> None:
        try:
            await run(turn)
        finally:
            turn.context_is_free.set()

    async def start_task(
        self, task: Callable[..., Awaitable[Any]], *args: object, name: str | None = None
    ) -> Any:
        """Start a task that lives as long as this server; returns what it calls `started` with.

        It works as `trio.Nursery.start` does. An error of the task would end the server. Raises
        `ServerNotRunningError`.
        """
        if self.__nursery is None or self.__nursery.cancel_scope.cancel_called:
            raise self.__not_running()
        return await self.__nursery.start(task, *args, name=name)

    def __require_running(self) -> trio.Nursery:
        if self.__nursery is None or not self.is_running:
            raise self.__not_running()
        return self.__nursery

    def __not_running(self) -> ServerNotRunningError:
        is_ending = self.__is_draining or self.__nursery is not None
        state = "shutting down" if is_ending else "not running"
        return ServerNotRunningError(
            f"{type(self).__name__} is {state}, so it can't stream an answer; streams need"
            " `async with server:` around them"
        )

    # --- Beside the protocol -------------------------------------------------------------------

    async def continue_answer(self, thread_id: str, context: TContext) -> bool:
        """Go on with a thread's last answer if a crash has cut it; say whether that has begun.

        `on_recovered` does it, which has to be overridden. A client that opens the thread has the
        same done; this is for a server that doesn't wait for one:

            for thread_id in await my_unfinished_threads():
                await server.continue_answer(thread_id, context_of(thread_id))

        Returns when `on_recovered` is called. Raises `NotImplementedError` if it isn't overridden,
        `NotFoundError`, `LimitError`, `StoreError`, and `ServerNotRunningError`. A checkpoint; if
        it is cancelled, the answer may have begun.
        """
        check_runs_on_trio(type(self).__name__)
        if not self.goes_on:
            raise must_override(self, "on_recovered() to go on with answers that were cut")
        request = RecoveredAnswer(self, thread_id, context)
        policy = replace(self.policy, on_busy="reject", on_disconnect="finish")
        toll = self.owners.toll(self.owner_if_limited(context), {})
        await toll.ask_for_turn(None)
        try:
            await self.__check(request, policy, toll)
        except ConflictError:
            toll.free_slot()
            return False
        except BaseException:
            toll.free_slot()
            raise
        turn, reader = self.__start(
            toll.slot,
            request,
            self.live_turns.run,
            policy,
            context,
            can_return=False,
            component_updates=False,
        )
        turn.close_reader(reader)
        await turn.options_known.wait()
        return turn.has_begun

    async def stop(self, thread_id: str, *, by_client: bool = False) -> bool:
        """End the live turn of a thread, keeping its answer so far; return whether there was one.

        Returns when the turn is settled, in whatever process it runs. Who may stop it is for the
        caller to check. With `by_client`, a turn whose options don't allow it goes on: that is a
        `ConflictError`. Raises `StoreError` if the turn can't be settled for long.
        """
        check_runs_on_trio(type(self).__name__)
        stopped = await self.live_turns.end(thread_id, CancelReason.STOPPED, by_client=by_client)
        if stopped is None:
            raise ConflictError("this answer can't be stopped")
        return stopped

    async def last_ending(self, thread_id: str, context: TContext) -> AnswerEnding | None:
        """Return how the thread's last answer was cut; None if it wasn't, or if a turn is live.

        Waits until an answer that is being stored is. Raises `NotFoundError`, and `StoreError` if
        that answer can't be stored for long. A checkpoint.
        """
        check_runs_on_trio(type(self).__name__)
        _, ending = await last_answer(self, thread_id, context)
        return ending

    def watch(
        self,
        thread_id: str,
        *,
        turn_id: str | None = None,
        start: int | None = 0,
        component_updates: bool = False,
    ) -> StreamingResult | None:
        """Return the frames of the thread's live turn from number `start`, or None.

        None means that no turn is live, or another one than `turn_id`. `start=None` begins with
        the next frame. Raises `FramesLost` if `start` isn't kept any more. A watcher doesn't slow
        the turn down, and counts as a reader for `on_disconnect`. `component_updates` is as for
        `process`.
        """
        reading = self.__reading_here(thread_id, turn_id, start, component_updates)
        return None if reading is None else self.__result(reading)

    async def follow(
        self,
        thread_id: str,
        *,
        turn_id: str | None = None,
        start: int | None = 0,
        component_updates: bool = False,
    ) -> StreamingResult | None:
        """Do as `watch`, also for a turn that another process of the same store runs.

        `start=None` begins with events that rebuild what the turn has told before its next frame.
        A turn of this process is watched at once, without waiting. Leave the result, by
        `async with` or `aclose`, or else the turn counts as being read. Raises `FramesLost`,
        and `StoreError` if the store can't be asked.
        """
        check_runs_on_trio(type(self).__name__)
        if self.__node is not None and self.live_turns.on_thread(thread_id) is None:
            elsewhere = await self.live_turns.watch_elsewhere(
                thread_id, turn_id, start, self.policy, component_updates=component_updates
            )
            return None if elsewhere is None else self.__result(elsewhere)
        reading = self.__reading_here(thread_id, turn_id, start, component_updates)
        if reading is not None and start is None:
            assert self.__nursery is not None  # a turn is live in it
            reading[1].begin_with(partial(frames_so_far, *reading), self.__nursery)
        return None if reading is None else self.__result(reading)

    def __reading_here(
        self, thread_id: str, turn_id: str | None, start: int | None, component_updates: bool
    ) -> tuple[Turn[TContext], FrameReader] | None:
        turn = self.live_turns.on_thread(thread_id)
        if turn is None or turn.is_ending or (turn_id is not None and turn.id != turn_id):
            return None
        return turn, turn.open_reader(start, component_updates=component_updates)

    def __result(self, reading: _Reading) -> StreamingResult:
        """Return a result that counts as a reader from now on: closing it unread has to tell."""
        result = StreamingResult(lambda: reading, self.__ticker)
        result._started()
        return result
