"""One run of a turn that is cut at one point, and all that can be observed of it."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from chatkit_trio._engine.thread_state import as_metadata
from chatkit_trio.agents._asyncio_thread import running_asyncio_thread
from chatkit_trio.server import CancelReason, ChatKitServer, Turn, TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.types import (
    HiddenContextItem,
    SDKHiddenContextItem,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    UserMessageTextContent,
)

from ._client import ChatClient
from ._client_turn import ClientTurn, SeenItems, ids_of
from ._clock import JumpClock
from ._cuts import GRACE_PERIOD, RESPOND_RAISES, RETURN, TURN_TIMEOUT, Course, Cut
from ._probe import Probe, same_schedule, without_real_time
from ._recorder import Interference, Recorder, Recording
from ._transport import RequestRefused, ServerConnection
from ._trial_store import UnsteadyStore, Witness, in_hook, turn_of_task

__all__ = ["Aftermath", "Scenario", "run_trial"]

_PAGE_SIZE = 100
_STALL_TIMEOUT = 1.0  # seconds
_AFTERWARDS = 1.0
"""So many seconds after its end, nothing of a turn may be at work."""
_NEXT_MESSAGE = "And now?"
_GRACE = (GRACE_PERIOD, RETURN)
_CUT_ELSEWHERE = (
    CancelReason.STALLED,
    CancelReason.FAILED,
    "silent",
    TURN_TIMEOUT,
    RESPOND_RAISES,
)
"""Reasons that aren't caused at a checkpoint."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What every run has in common."""

    make_server: Callable[[Store[Any]], ChatKitServer[Any]]
    make_store: Callable[[], Store[Any]]
    messages: Sequence[str]
    context: Any
    store_seconds: float
    time_limit: float
    seed: int
    expects_note: bool = True
    may_fail: bool = False


@dataclass(slots=True)
class Aftermath:
    """What a cut turn has left; given to the `check` of `explore_cancellations`."""

    cut: Cut | None
    """How it was cut; None for the run that counts."""
    expects_note: bool = True
    """Whether a turn that was cut short has to leave a hidden note."""
    may_fail: bool = False
    """Whether an answer may fail by itself."""
    failed_beside: list[str] = field(default_factory=list)
    """The answers before the turn and behind it that failed, in words."""
    reason: CancelReason | None = None
    """Why the turn ended, None if it finished."""
    has_begun: bool = False
    """Whether it had stored the user's message."""
    was_called: bool = False
    """Whether `respond` was called."""
    is_half_begun: bool = False
    """Whether it had not begun, and yet something of it is stored."""
    known: list[ThreadItem] = field(default_factory=list)
    """The items that were in the thread before the turn."""
    stored: list[ThreadItem] = field(default_factory=list)
    """All items in the store, hidden ones too, in order."""
    thread: ThreadMetadata | None = None
    """The thread as stored; None if there is none."""
    produced: list[ThreadItem] = field(default_factory=list)
    """The items as `respond` had yielded them when the turn was cut."""
    produced_at_end: list[ThreadItem] = field(default_factory=list)
    """The items as `respond` had yielded them when it ended."""
    states: dict[str, list[ThreadItem]] = field(default_factory=dict)
    """Of each item that `respond` yielded all states it was in, oldest first."""
    states_at_cut: dict[str, int] = field(default_factory=dict)
    """How many of those states there were when the turn was cut."""
    removed: set[str] = field(default_factory=set)
    """The ids of items that `respond` has taken back."""
    finished: set[str] = field(default_factory=set)
    """The ids of items that `respond` had said were done when the turn was cut."""
    received: list[ThreadItem] = field(default_factory=list)
    """The items as the client saw them in the stream."""
    received_events: list[ThreadStreamEvent] = field(default_factory=list)
    """The events the client received."""
    page: list[ThreadItem] | None = None
    """What a client shows that had loaded the thread before and read the stream to its end, in the
    order in which items were done; None for a client that left."""
    told_done: set[str] = field(default_factory=set)
    """The ids of items that the client was told are done."""
    came_back: bool = False
    """Whether the client left and came back to the live turn."""
    read_at_once: list[ThreadItem] | None = None
    """What a client was told that asked for the items at the moment of the cut."""
    notes: list[ThreadItem] = field(default_factory=list)
    """The hidden notes that the end of the turn has left, in the order of the store."""
    thread_states: list[ThreadMetadata] = field(default_factory=list)
    """The thread as `respond` had left it at the cut, and at the end."""
    stored_after_next: list[ThreadItem] = field(default_factory=list)
    """All items in the store after the next turn."""
    changed_by_next: set[str] = field(default_factory=set)
    """The ids of items that the next turn's `respond` yielded or changed."""
    written_late: list[str] = field(default_factory=list)
    """The ids of items that were written after the turn had been settled, by something of it."""
    settling_seconds: float | None = None
    """How long after its cut the turn was settled; None if nothing cut it."""
    longest_settling: float = 0.0
    """How long that may take."""
    stream_seconds: float | None = None
    """How long after that the stream ended, for a client that read on."""
    faults: list[Exception] = field(default_factory=list)
    """What the explorer's own doubles raised."""
    told: list[BaseException] = field(default_factory=list)
    """The errors that were logged, at ERROR."""
    logged: list[str] = field(default_factory=list)
    """What was logged at ERROR, in words."""
    problems: list[str] = field(default_factory=list)
    """What went wrong in the run itself."""
    leaks: list[str] = field(default_factory=list)
    """Tasks that are left, and generators that are open."""
    place: list[str] = field(default_factory=list)
    """Where the turn was waiting when it was cut."""
    used_asyncio: bool = False
    """Whether something has run on the asyncio thread."""
    uses_default_hook: bool = True
    """Whether the server leaves `handle_stream_cancelled` as it is."""
    course: Course = field(default_factory=Course)
    """How the turn went, for the run that counts."""


def run_trial(scenario: Scenario, cut: Cut | None) -> Aftermath:
    """Run the scenario once, on virtual time, with a schedule that only the seed decides."""
    clock = JumpClock()
    trial = _Trial(scenario, cut)
    with same_schedule(scenario.seed), without_real_time(), _kept_log() as records:
        trio.run(trial.run, clock=clock, instruments=[clock, trial.probe])
    aftermath = trial.aftermath
    aftermath.logged = [record.getMessage() for record in records]
    aftermath.told = [error for record in records for error in _errors_in(record)]
    return aftermath


@contextmanager
def _kept_log() -> Iterator[list[logging.LogRecord]]:
    """Collect errors that are logged, and keep hundreds of them from being shown."""
    logger = logging.getLogger("chatkit_trio")
    collector = _Collector()
    level, propagate, handlers = logger.level, logger.propagate, logger.handlers
    logger.handlers, logger.propagate = [collector], False
    logger.setLevel(logging.ERROR)
    try:
        yield collector.records
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def _errors_in(record: logging.LogRecord) -> Iterator[BaseException]:
    """Return the errors that a record shows: its own, their causes, and those in groups."""
    error = record.exc_info[1] if record.exc_info else None
    waiting = [] if error is None else [error]
    seen: list[BaseException] = []
    while waiting:
        error = waiting.pop()
        if error in seen:
            continue
        seen.append(error)
        waiting += [other for other in (error.__cause__, error.__context__) if other is not None]
        if isinstance(error, BaseExceptionGroup):
            waiting += error.exceptions
    yield from seen


class _Trial:
    def __init__(self, scenario: Scenario, cut: Cut | None) -> None:
        self.aftermath = Aftermath(cut, scenario.expects_note, scenario.may_fail)
        self._scenario = scenario
        self._cut = cut
        counts_checkpoints = cut is not None and cut.reason not in _CUT_ELSEWHERE
        self.probe = Probe(cut.at if cut and counts_checkpoints else None, self._act, self._watch)
        self._raw = scenario.make_store()
        self._witness = Witness(self._raw, self._subject)
        self._store = UnsteadyStore(
            self._witness, scenario.store_seconds, self._subject, self._note_fault
        )
        if cut is not None and cut.reason == CancelReason.FAILED:
            self._store.fail_at = cut.at
        self._thread_id: str | None = None
        self._server: ChatKitServer[Any]
        self._client: ChatClient
        self._client_turn: ClientTurn | None = None
        self._returned: ClientTurn | None = None
        self._found_by_next: list[ThreadItem] | None = None
        self._rival: ClientTurn | None = None
        self._rival_done: trio.Event | None = None
        self._recording: Recording | None = None
        self._next_recording: Recording | None = None
        self._interference: Interference | None = None
        self._readers: trio.Nursery
        self._reader_scope = trio.CancelScope()
        self._is_opening = False
        self._started = trio.Event()
        self._cut_or_ended = trio.Event()
        self._was_cut = False
        self._started_at = 0.0
        self._cut_at: float | None = None
        self._settled_at: float | None = None
        self._stream_ended_at: float | None = None

    async def run(self) -> None:
        with self.probe.watching_generators():
            with trio.move_on_after(self._scenario.time_limit) as limit:
                try:
                    await self._run_and_look()
                except Exception as error:
                    trace = "".join(traceback.format_exception(error))
                    self.aftermath.problems.append(f"the run failed: {trace}")
            if limit.cancelled_caught:
                self.aftermath.problems.append(
                    f"it didn't end within {self._scenario.time_limit} s of virtual time"
                )
        self.aftermath.used_asyncio = running_asyncio_thread() is not None
        if self.probe.failure is not None:
            raise self.probe.failure

    async def _run_and_look(self) -> None:
        # Those that read are outside of the server's block: they see it shut down.
        async with trio.open_nursery() as self._readers:
            await self._run_server()
        if self._is_shutdown:
            async with self._new_server() as server:
                await self._look(server)
        await trio.sleep(_AFTERWARDS)
        self.aftermath.leaks += [
            f"system task {task.name} is left, started by the turn or beside it"
            for task in self.probe.system_tasks
        ]

    async def _run_server(self) -> None:
        async with self._new_server() as server:
            self._server = server
            self._client = ChatClient.of_server(server, self._context)
            await self._send_earlier()
            await self._prepare()
            self._readers.start_soon(self._read)
            await self._started.wait()
            self._readers.start_soon(self._note_settled)
            self._readers.start_soon(self._note_end)
            await self._cut_or_ended.wait()
            if not self._is_shutdown:
                await self._read_at_once()
                await self._look(server)
            self._snapshot()

    @property
    def _context(self) -> Any:
        return self._scenario.context

    @property
    def _turn(self) -> Turn[Any]:
        assert self._client_turn is not None
        return self._client_turn.server_turn

    def _subject(self) -> Turn[Any] | None:
        """Return the turn that is to be cut, once it has been started."""
        return None if self._client_turn is None else self._client_turn.server_turn

    @property
    def _reason(self) -> str | None:
        return None if self._cut is None else self._cut.reason

    @property
    def _trouble(self) -> str | None:
        return None if self._cut is None else self._cut.trouble

    @property
    def _is_shutdown(self) -> bool:
        return self._reason == CancelReason.SHUTDOWN

    # --- The server ----------------------------------------------------------------------------

    def _new_server(self) -> ChatKitServer[Any]:
        server = self._scenario.make_server(self._store)
        if server.store is not self._store:
            raise ValueError("make_server must give the store it's called with to the server")
        hook = type(server).handle_stream_cancelled
        self.aftermath.uses_default_hook = hook is ChatKitServer.handle_stream_cancelled
        # Its own class stays as it is; what is replaced are attributes of this one object.
        server.process = self._processing(server.process)  # type: ignore[method-assign]
        server.get_turn_policy = self._deciding(server.get_turn_policy)  # type: ignore[method-assign]
        server.handle_stream_cancelled = self._settling(  # type: ignore[method-assign]
            server.handle_stream_cancelled
        )
        Recorder(server, self._record)
        return server

    def _processing(self, process: Any) -> Any:
        """Let the client of the turn be one that can come back, or one that can't."""

        async def call(request: Any, context: Any, **options: Any) -> Any:
            can_return = self._is_opening and self._uses_return_timeout
            return await process(request, context, **{**options, "can_return": can_return})

        return call

    @property
    def _uses_return_timeout(self) -> bool:
        """Whether the grace period is the one for clients that can come back.

        It's the turn of the one or the other setting from checkpoint to checkpoint.
        """
        return self._cut is not None and self._reason in _GRACE and self._cut.at % 2 == 1

    def _deciding(self, get_turn_policy: Any) -> Any:
        def call(request: Any, context: Any) -> TurnPolicy:
            policy: TurnPolicy = get_turn_policy(request, context)
            if not self._is_opening:
                return policy
            return replace(policy, **self._changes(policy))

        return call

    def _changes(self, policy: TurnPolicy) -> dict[str, Any]:
        if self._cut is None:
            return {}
        seconds = self._cut.seconds
        match self._cut.reason:
            case CancelReason.STALLED:
                return {"max_unread_bytes": 1, "stall_timeout": _STALL_TIMEOUT}
            case "turn_timeout":
                return {"turn_timeout": seconds}
            case "silent":
                return {"idle_timeout": seconds}
            case "grace_period" | "return" if policy.on_disconnect == "finish":
                return {}
            case "grace_period" | "return" if self._uses_return_timeout:
                return {"on_disconnect": "cancel", "return_timeout": seconds}
            case "grace_period" | "return":
                return {"on_disconnect": seconds}
            case _:
                return {}

    def _settling(self, hook: Any) -> Any:
        async def call(thread: Any, pending: Any, context: Any) -> None:
            in_hook.set(True)
            try:
                if self._trouble == "failing_hook" and thread.id == self._turn.thread_id:
                    await self._failing_hook(hook, thread, pending, context)
                else:
                    await hook(thread, pending, context)
            finally:
                in_hook.set(False)

        return call

    async def _failing_hook(self, hook: Any, thread: Any, pending: Any, context: Any) -> None:
        """Hang in a nursery, before the user's hook or after it, beside a task that fails then."""
        assert self._cut is not None
        error = ValueError("the explorer made a task in handle_stream_cancelled() fail")

        async def fail_at_end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                self.aftermath.faults.append(error)
                raise error

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_at_end)
            if self.aftermath.uses_default_hook and self._cut.at % 2:
                await hook(thread, pending, context)
            await trio.sleep_forever()

    def _record(self, thread: ThreadMetadata) -> Recording:
        subject, turn = self._subject(), turn_of_task()
        if subject is None:
            return Recording(thread)
        if turn is subject:
            self._recording = Recording(thread, self.aftermath.known, self._interference)
            return self._recording
        self._note_next(subject, thread)
        self._next_recording = Recording(thread, interference=_Before(self._look_at_next))
        return self._next_recording

    def _note_next(self, subject: Turn[Any], thread: ThreadMetadata) -> None:
        """Take note of what the next turn finds."""
        if not subject.settled.is_set():
            self.aftermath.problems.append("two turns of the thread were live at once")
        elif self.aftermath.thread is None:
            self.aftermath.thread = as_metadata(thread)

    async def _look_at_next(self) -> None:
        """Look at what the next turn finds, before its `respond` changes anything."""
        self._found_by_next = await self._stored_items(self._turn.thread_id)

    # --- The turn ------------------------------------------------------------------------------

    async def _send_earlier(self) -> None:
        for message in self._scenario.messages[:-1]:
            async with self._client.send(message, self._thread_id) as turn:
                await turn.read()
            self._note_failure(turn, f"the answer to {message!r}, before the turn")
            self._thread_id = turn.thread_id

    async def _prepare(self) -> None:
        if self._thread_id is not None:
            self.aftermath.known = await self._stored_items(self._thread_id)
        if self._cut is None:
            self.probe.on_checkpoint = self._note_checkpoint
        elif self._cut.reason == "silent":
            self._interference = Interference(silent_at=self._cut.at)
        elif self._cut.reason == RESPOND_RAISES:
            error = RuntimeError("the explorer made respond() fail")
            self._interference = Interference(raises_at=self._cut.at, error=error)
        self.probe.arm()

    def _prepare_trouble(self) -> None:
        """Prepare what goes wrong, now that it's known how long the turn may take to settle."""
        if self._cut is None or self._cut.trouble is None:
            return
        # It ends at some time: a turn that nothing cuts has to end too.
        a_long_time = 2 * self._turn.longest_settling + 10
        match self._cut.trouble:
            case "hanging_write" if self._cut.reason == RETURN:
                policy = self._turn.policy
                self._store.hang_seconds = self._cut.seconds + 2 * policy.settle_timeout
            case "hanging_write":
                self._store.hang_seconds = a_long_time
                if self._cut.reason == TURN_TIMEOUT:
                    self._store.hang_at = self._cut.at
            case "failing_write":
                self._store.happens = self._cut.at % 2 == 1
            case "hanging_cleanup":
                self._interference = Interference(cleanup_seconds=a_long_time)
            case _:
                pass

    async def _read(self) -> None:
        with self._reader_scope:
            self._is_opening = True
            async with self._client.send(self._scenario.messages[-1], self._thread_id) as turn:
                self._is_opening = False
                self._client_turn = turn
                self._started_at = trio.current_time()
                self._prepare_trouble()
                self._started.set()
                self.probe.begin()
                if self._reason == CancelReason.STALLED:
                    assert self._cut is not None
                    await turn.read(self._cut.at)
                    await self._turn.settled.wait()
                await turn.read()
                self._stream_ended_at = trio.current_time()

    async def _note_settled(self) -> None:
        await self._turn.settled.wait()
        self._settled_at = trio.current_time()

    async def _note_end(self) -> None:
        await self._turn.ended.wait()
        self._cut_or_ended.set()

    def _note_checkpoint(self) -> None:
        course = self.aftermath.course
        course.checkpoints.append((trio.current_time(), self._store.write_under_way))

    async def _read_at_once(self) -> None:
        """Ask for the items as soon as the turn has been cut: the answer must be the final one."""
        if not self._turn.is_ending:
            return
        try:
            self.aftermath.read_at_once = await self._client.items(self._turn.thread_id)
        except RequestRefused as refusal:
            # Not there, or not settled in time, which is reported as such.
            if refusal.status not in (404, 503):
                raise

    # --- The cut -------------------------------------------------------------------------------

    def _act(self) -> None:
        """End the turn, at once, as the reason does it. Called by the probe, outside all tasks."""
        assert self._cut is not None
        if self._is_trouble_of_write:
            self._store.trouble(self._cut.trouble or "")
        match self._cut.reason:
            case "grace_period":
                self._hang_up()
                self._cut_at = trio.current_time() + self._cut.seconds
            case "return":
                self._hang_up()
                self._readers.start_soon(self._come_back)
            case "task_raises":
                self._start_failing_task()
            case CancelReason.SUPERSEDED:
                self._rival_done = trio.Event()
                self._readers.start_soon(self._send_rival, self._rival_done)
            case CancelReason.DISCONNECTED:
                self._hang_up()
                seconds = self._turn.policy.seconds_after_disconnect(can_return=False)
                self._cut_at = trio.current_time() + seconds
            case _:
                self._cut_at = trio.current_time()
                self._snapshot()
                self._cut_now()

    def _cut_now(self) -> None:
        if self._reason != CancelReason.DEADLINE:
            self._turn.cancel(CancelReason(str(self._reason)))
        elif self._turn.has_begun:
            self._turn.cancel_scope.deadline = trio.current_time()

    @property
    def _is_trouble_of_write(self) -> bool:
        is_return = self._reason == RETURN
        # A client can't come back to a turn that hasn't begun.
        return self._trouble in ("hanging_write", "failing_write") and (
            self._turn.has_begun or not is_return
        )

    def _hang_up(self) -> None:
        """Do what a broken connection does, in its order: the reader is closed, its task ends."""
        assert self._client_turn is not None
        connection = self._client_turn.connection
        assert isinstance(connection, ServerConnection)
        connection.hang_up()
        self._reader_scope.cancel()

    async def _come_back(self) -> None:
        """Go on reading where the connection broke, when half of the grace period has passed."""
        assert self._cut is not None
        await trio.sleep(self._cut.seconds / 2)
        if not self._turn.has_begun or self._turn.is_ending:
            return
        assert self._client_turn is not None
        connection = self._client_turn.connection
        assert isinstance(connection, ServerConnection)
        # At once: what a client asks for before it watches may take longer than the grace period.
        rest = self._server.watch(
            self._turn.thread_id,
            turn_id=self._turn.id,
            start=connection.result.next_frame_number,
        )
        assert rest is not None
        async with rest:
            self._returned = turn = ClientTurn(ServerConnection(rest), self._client.stop)
            await turn.read()
            self._stream_ended_at = trio.current_time()

    async def _send_rival(self, done: trio.Event) -> None:
        """Send another message to the thread, from another tab, as soon as there is a thread."""
        try:
            thread_id = await self._find_thread()
            if thread_id is None:
                return
            self._cut_at = trio.current_time()
            async with self._client.send(_NEXT_MESSAGE, thread_id) as turn:
                self._rival = turn
                await turn.read()
        except RequestRefused as refusal:
            if refusal.status != 409:
                raise
        finally:
            done.set()

    async def _find_thread(self) -> str | None:
        seconds = self._scenario.store_seconds / 4
        while not self._turn.ended.is_set():
            page = await self._raw.load_threads(1, None, "asc", context=self._context)
            if page.data:
                return page.data[0].id
            await trio.sleep(seconds)
            seconds *= 1.2
        return None

    def _start_failing_task(self) -> None:
        """Let a task that the user has started beside `respond` raise an error."""
        error = RuntimeError("the explorer made a task in turn.nursery fail")

        async def fail() -> None:  # noqa: ASYNC124 (a nursery starts only async functions)
            self.aftermath.faults.append(error)
            self._cut_at = trio.current_time()
            raise error

        try:
            self._turn.nursery.start_soon(fail)
        except RuntimeError:
            return  # the turn hasn't got there yet, or is over

    def _watch(self) -> None:
        """Notice that the turn ends, before anything of it runs on."""
        if not self._was_cut and self._client_turn is not None and self._turn.is_ending:
            self._snapshot()

    def _note_fault(self) -> None:
        self._cut_at = trio.current_time()
        self._snapshot()

    def _snapshot(self) -> None:
        """Remember what had been yielded at the cut; what comes later needn't be kept."""
        if self._was_cut:
            return
        self._was_cut = True
        self._cut_or_ended.set()
        self.aftermath.place = self.probe.place
        if self._recording is not None:
            self._note_recording(self._recording)

    def _note_recording(self, recording: Recording) -> None:
        aftermath = self.aftermath
        aftermath.produced = recording.items()
        aftermath.states_at_cut = {key: len(states) for key, states in recording.states.items()}
        aftermath.finished = ids_of(recording.events, "thread.item.done", "thread.item.replaced")
        aftermath.thread_states.append(as_metadata(recording.thread))

    # --- Afterwards ----------------------------------------------------------------------------

    async def _look(self, server: ChatKitServer[Any]) -> None:
        await self._turn.ended.wait()
        await trio.sleep(_AFTERWARDS)
        if self._rival_done is not None:
            await self._rival_done.wait()
        self._look_at_turn()
        if self._thread_id is None and not self._turn.has_begun:
            await self._look_for_traces()
            return
        thread_id = self._turn.thread_id
        if self.aftermath.thread is None:
            self.aftermath.thread = await self._raw.load_thread(thread_id, context=self._context)
        await self._look_at_store(thread_id)
        await self._send_next(server, thread_id)

    def _look_at_turn(self) -> None:
        self._snapshot()
        aftermath, turn = self.aftermath, self._turn
        aftermath.reason = turn.cancel_reason
        aftermath.has_begun = turn.has_begun
        aftermath.was_called = self._recording is not None
        aftermath.longest_settling = turn.longest_settling
        aftermath.faults += self._store.raised
        if self._interference is not None and self._interference.has_raised:
            aftermath.faults.append(self._interference.error)
        if self._recording is not None:
            self._look_at_recording(self._recording)
        self._look_at_client()
        self._look_at_times()
        aftermath.leaks += [f"task {task.name} is left" for task in self.probe.living]
        aftermath.leaks += [
            f"the generator {name} was left open" for name in self.probe.open_generators
        ]

    def _look_at_recording(self, recording: Recording) -> None:
        aftermath = self.aftermath
        aftermath.produced_at_end = recording.items()
        aftermath.states = recording.states
        aftermath.removed = ids_of(recording.events, "thread.item.removed")
        aftermath.thread_states.append(as_metadata(recording.thread))
        if any(generator.ag_frame is not None for generator in recording.generators):
            aftermath.leaks.append("the generator that respond() returned isn't closed")

    def _look_at_client(self) -> None:
        assert self._client_turn is not None
        aftermath, readings = self.aftermath, [self._client_turn]
        if self._returned is not None:
            aftermath.came_back = True
            readings.append(self._returned)
        events = [event for reading in readings for event in reading.events]
        aftermath.received_events = events
        seen = SeenItems()
        for event in events:
            seen.feed(event)
        aftermath.received = seen.items()
        aftermath.told_done = ids_of(events, "thread.item.done", "thread.item.replaced")
        if readings[-1].is_complete:
            aftermath.page = _page(aftermath.known, events)

    def _look_at_times(self) -> None:
        aftermath, settled_at = self.aftermath, self._settled_at
        course = aftermath.course
        if settled_at is None:
            aftermath.problems.append("the turn ended and was never settled")
            return
        if self._stream_ended_at is not None:
            aftermath.stream_seconds = self._stream_ended_at - settled_at
        recording = self._recording
        if self._reason == TURN_TIMEOUT and self._cut is not None:
            self._cut_at = self._started_at + self._cut.seconds
        if self._cut_at is not None:
            aftermath.settling_seconds = settled_at - self._cut_at
        course.started_at = self._started_at
        course.ended_at = settled_at
        course.writes = self._store.writes
        course.received = len(aftermath.received_events)
        if recording is not None:
            course.began_at = recording.began_at
            course.yielded = len(recording.events)
            course.longest_silence = recording.longest_silence

    async def _look_for_traces(self) -> None:
        """Look whether a turn that was to begin the first thread has left a part of one."""
        page = await self._raw.load_threads(1, None, "asc", context=self._context)
        self.aftermath.is_half_begun = bool(page.data)

    async def _look_at_store(self, thread_id: str) -> None:
        aftermath, witness = self.aftermath, self._witness
        aftermath.problems += [
            f"item {item_id} was added {times} times"
            for item_id, times in witness.additions.items()
            if times > 1
        ]
        items = await self._stored_items(thread_id)
        aftermath.stored = _before_message(self._found_by_next or items)
        if len(_before_message(items)) < len(items):
            aftermath.stored_after_next = items
        messages = [item for item in aftermath.stored if isinstance(item, UserMessageItem)]
        has_message = len(messages) == len(self._scenario.messages)
        aftermath.is_half_begun = has_message and not aftermath.has_begun
        if aftermath.has_begun and not has_message:
            aftermath.problems.append("the user's message isn't in the store, once")
        aftermath.notes = [item for item in aftermath.stored if self._is_note(item)]
        aftermath.written_late = list(dict.fromkeys(witness.late))

    def _is_note(self, item: ThreadItem) -> bool:
        """Say whether a hidden item tells how the turn ended, and isn't one of `respond`'s own."""
        known = {known.id for known in self.aftermath.known}
        if item.id in known or item.id in self.aftermath.states:
            return False
        if isinstance(item, HiddenContextItem):
            return item.id in self._witness.from_hook
        return isinstance(item, SDKHiddenContextItem)

    async def _stored_items(self, thread_id: str) -> list[ThreadItem]:
        items: list[ThreadItem] = []
        after: str | None = None
        while True:
            page = await self._raw.load_thread_items(
                thread_id, after, _PAGE_SIZE, "asc", context=self._context
            )
            items += page.data
            after = page.after
            if not page.has_more:
                return items

    async def _send_next(self, server: ChatKitServer[Any], thread_id: str) -> None:
        """Send another message, unless the one that superseded the turn was the next."""
        turn = self._rival
        if not self.aftermath.stored_after_next:
            client = ChatClient.of_server(server, self._context)
            async with client.send(_NEXT_MESSAGE, thread_id) as turn:
                await turn.read()
            self.aftermath.stored_after_next = await self._stored_items(thread_id)
        if turn is None or not turn.is_complete:
            self.aftermath.problems.append("the next turn's stream didn't end")
        else:
            self._note_failure(turn, f"the next turn's answer, to {_NEXT_MESSAGE!r},")
        if self._next_recording is not None:
            self.aftermath.changed_by_next = {
                item_id
                for event in self._next_recording.events
                if (item_id := _item_of(event)) is not None
            }

    def _note_failure(self, turn: ClientTurn, name: str) -> None:
        if turn.error is not None:
            self.aftermath.failed_beside.append(f"{name} failed")


def _page(known: Sequence[ThreadItem], events: Sequence[ThreadStreamEvent]) -> list[ThreadItem]:
    """Return what a page shows that had loaded these items and then got these events.

    An item's place is where it was done, as in the store; it may have been begun in another order.
    """
    seen = SeenItems()
    places: dict[str, int] = {}
    first = [ThreadItemDoneEvent(item=item) for item in known]
    for number, event in enumerate([*first, *events]):
        seen.feed(event)
        for item_id in ids_of([event], "thread.item.done"):
            places.setdefault(item_id, number)
    return sorted(seen.items(), key=lambda item: places.get(item.id, len(places) + len(events)))


def _item_of(event: ThreadStreamEvent) -> str | None:
    """Return the id of the item that an event is about."""
    match event:
        case ThreadItemAddedEvent() | ThreadItemDoneEvent() | ThreadItemReplacedEvent():
            return event.item.id
        case ThreadItemUpdatedEvent() | ThreadItemRemovedEvent():
            return event.item_id
        case _:
            return None


class _Before(Interference):
    """Does something before `respond` makes its first event."""

    def __init__(self, function: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._function = function

    async def before_event(self, number: int) -> None:
        if number == 0:
            await self._function()


def _before_message(items: list[ThreadItem]) -> list[ThreadItem]:
    """Return the items before the message that was sent after the turn: all if it isn't there."""
    for place, item in enumerate(items):
        if isinstance(item, UserMessageItem) and _text(item) == _NEXT_MESSAGE:
            return items[:place]
    return items


def _text(message: UserMessageItem) -> str:
    return "".join(
        part.text for part in message.content if isinstance(part, UserMessageTextContent)
    )
