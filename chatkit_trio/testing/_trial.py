"""One run of a turn that is cut at one point, and all that can be observed of it."""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import trio

from chatkit_trio._engine.thread_state import as_metadata
from chatkit_trio.errors import StoreError
from chatkit_trio.server import CancelReason, ChatKitServer, Turn
from chatkit_trio.store import Store
from chatkit_trio.types import (
    ThreadItem,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
)

from ._client import ChatClient
from ._client_turn import ClientTurn, ids_of
from ._clock import JumpClock
from ._probe import Probe, same_schedule
from ._recorder import Recorder, Recording
from ._store_doubles import READS, FaultyStore, SlowStore, StoreWrapper
from ._transport import ServerConnection

__all__ = ["Aftermath", "Cut", "Scenario", "run_trial"]

_T = TypeVar("_T")
_PAGE_SIZE = 100
_STALL_TIMEOUT = 1.0  # seconds
_NEXT_MESSAGE = "And now?"
_CUT_ELSEWHERE = (CancelReason.STALLED, CancelReason.FAILED)
"""Reasons that aren't caused at a checkpoint, but by a client or a store."""


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


@dataclass(frozen=True, slots=True)
class Cut:
    """What ends the turn, and where: a number of checkpoints, for `stalled` of events that the
    client reads, for `failed` of the write that fails."""

    reason: CancelReason
    at: int


@dataclass(slots=True)
class Aftermath:
    """What a cut turn has left; given to the `check` of `explore_cancellations`."""

    cut: Cut | None
    """How it was cut; None for the run that counts."""
    reason: CancelReason | None = None
    """Why the turn ended, None if it finished."""
    has_begun: bool = False
    """Whether it had stored the user's message."""
    is_half_begun: bool = False
    """Whether it had not begun, and yet something of it is stored."""
    stored: list[ThreadItem] = field(default_factory=list)
    """All items in the store, hidden ones too, in order."""
    thread: ThreadMetadata | None = None
    """The thread as stored; None if there is none."""
    produced: list[ThreadItem] = field(default_factory=list)
    """The items as `respond` had yielded them when the turn was cut."""
    produced_at_end: list[ThreadItem] = field(default_factory=list)
    """The items as `respond` had yielded them when it ended."""
    removed: set[str] = field(default_factory=set)
    """The ids of items that `respond` has taken back."""
    finished: set[str] = field(default_factory=set)
    """The ids of items that `respond` had said were done when the turn was cut."""
    received: list[ThreadItem] = field(default_factory=list)
    """The items as the client saw them."""
    received_events: list[ThreadStreamEvent] = field(default_factory=list)
    """The events the client received."""
    read_at_once: list[ThreadItem] | None = None
    """What a client was told that asked for the items at the moment of the cut."""
    thread_states: list[ThreadMetadata] = field(default_factory=list)
    """The thread as `respond` had left it at the cut, and at the end."""
    stored_after_next: list[ThreadItem] = field(default_factory=list)
    """All items in the store after the next turn."""
    problems: list[str] = field(default_factory=list)
    """What went wrong in the run itself."""
    place: list[str] = field(default_factory=list)
    """Where the turn was waiting when it was cut."""
    uses_default_hook: bool = True
    """Whether the server leaves `handle_stream_cancelled` as it is."""
    checkpoints: int = 0
    writes: int = 0


def run_trial(scenario: Scenario, cut: Cut | None) -> Aftermath:
    """Run the scenario once, on virtual time, with a schedule that only the seed decides."""
    clock = JumpClock()
    trial = _Trial(scenario, cut)
    with same_schedule(scenario.seed), _quiet_log():
        trio.run(trial.run, clock=clock, instruments=[clock, trial.probe])
    return trial.aftermath


@contextmanager
def _quiet_log() -> Iterator[None]:
    """Keep hundreds of turns that fail on purpose from filling the log."""
    logger = logging.getLogger("chatkit_trio")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


class _AuditedStore(StoreWrapper[Any]):
    """Counts how often each item is appended."""

    def __init__(self, store: Store[Any]) -> None:
        super().__init__(store)
        self.additions: Counter[str] = Counter()

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await super().add_thread_item(thread_id, item, context)
        self.additions[item.id] += 1


class _NoticingStore(SlowStore[Any]):
    """Slow, and says when a write fails on purpose.

    Reads are faster than writes, so that one which doesn't wait for its turn comes too early.
    """

    def __init__(
        self, store: Store[Any], seconds: float, fault: Exception, notice: Callable[[], None]
    ) -> None:
        super().__init__(store, seconds)
        self._fault = fault
        self._notice = notice

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name in READS:
            await trio.sleep(self.seconds / 10)
            return await call()
        try:
            return await super().around(name, call)
        except Exception as error:
            if error is self._fault:
                self._notice()
            raise


class _Trial:
    def __init__(self, scenario: Scenario, cut: Cut | None) -> None:
        self.aftermath = Aftermath(cut)
        self._scenario = scenario
        self._cut = cut
        counts_checkpoints = cut is not None and cut.reason not in _CUT_ELSEWHERE
        self.probe = Probe(cut.at if cut and counts_checkpoints else None, self._act)
        self._raw = scenario.make_store()
        self._audited = _AuditedStore(self._raw)
        is_fault = cut is not None and cut.reason is CancelReason.FAILED
        fault = StoreError("the explorer made this write fail")
        self._faulty = FaultyStore(self._audited, cut.at if cut and is_fault else 0, error=fault)
        self._faulty.disarm()
        self._store = _NoticingStore(self._faulty, scenario.store_seconds, fault, self._snapshot)
        self._thread_id: str | None = None
        self._client: ChatClient | None = None
        self._client_turn: ClientTurn | None = None
        self._recorder: Recorder | None = None
        self._recording: Recording | None = None
        self._readers: trio.Nursery
        self._reader_scope = trio.CancelScope()
        self._started = trio.Event()
        self._cut_or_ended = trio.Event()
        self._was_cut = False

    async def run(self) -> None:
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
        if self.probe.failure is not None:
            raise self.probe.failure

    async def _run_and_look(self) -> None:
        # Those that read are outside of the server's block: they see it shut down.
        async with trio.open_nursery() as self._readers:
            await self._run_server()
        if self._is_shutdown:
            async with self._new_server() as server:
                await self._look(server)

    async def _run_server(self) -> None:
        async with self._new_server() as server:
            await self._send_earlier(server)
            self._faulty.arm()
            self.probe.arm()
            self._client = ChatClient.of_server(server, self._context)
            self._readers.start_soon(self._read)
            await self._started.wait()
            if self._is_shutdown:
                self._readers.start_soon(self._note_end)
                await self._cut_or_ended.wait()
            else:
                await self._wait_and_read_at_once()
                await self._look(server)
            self._snapshot()

    @property
    def _context(self) -> Any:
        return self._scenario.context

    @property
    def _turn(self) -> Turn[Any]:
        assert self._client_turn is not None
        return self._client_turn.server_turn

    @property
    def _is_shutdown(self) -> bool:
        return self._cut is not None and self._cut.reason is CancelReason.SHUTDOWN

    def _new_server(self) -> ChatKitServer[Any]:
        server = self._scenario.make_server(self._store)
        if server.store is not self._store:
            raise ValueError("make_server must give the store it's called with to the server")
        hook = type(server).handle_stream_cancelled
        self.aftermath.uses_default_hook = hook is ChatKitServer.handle_stream_cancelled
        if self._cut is not None and self._cut.reason is CancelReason.STALLED:
            server.policy = replace(server.policy, max_unread_bytes=1, stall_timeout=_STALL_TIMEOUT)
        recorder = Recorder(server)
        self._recorder = self._recorder or recorder
        return server

    # --- The turn ------------------------------------------------------------------------------

    async def _send_earlier(self, server: ChatKitServer[Any]) -> None:
        client = ChatClient.of_server(server, self._context)
        for message in self._scenario.messages[:-1]:
            async with client.send(message, self._thread_id) as turn:
                await turn.read()
            self._thread_id = turn.thread_id

    async def _read(self) -> None:
        assert self._client is not None
        with self._reader_scope:
            async with self._client.send(self._scenario.messages[-1], self._thread_id) as turn:
                self._client_turn = turn
                self._started.set()
                self.probe.begin()
                if self._cut is not None and self._cut.reason is CancelReason.STALLED:
                    await turn.read(self._cut.at)
                    self._snapshot()
                    await self._turn.settled.wait()
                await turn.read()

    async def _note_end(self) -> None:
        await self._turn.ended.wait()
        self._cut_or_ended.set()

    async def _wait_and_read_at_once(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._note_end)
            await self._cut_or_ended.wait()
            await self._read_at_once()

    async def _read_at_once(self) -> None:
        """Ask for the items as soon as the turn has been cut: the answer must be the final one."""
        assert self._client is not None
        if self._turn.has_begun and self._turn.is_ending:
            self.aftermath.read_at_once = await self._client.items(self._turn.thread_id)

    # --- The cut -------------------------------------------------------------------------------

    def _act(self) -> None:
        """End the turn, at once, as the reason does it. Called by the probe, outside all tasks."""
        assert self._cut is not None
        self._snapshot()
        match self._cut.reason:
            case CancelReason.DISCONNECTED:
                self._hang_up()
            case CancelReason.DEADLINE:
                if self._turn.has_begun:
                    self._turn.cancel_scope.deadline = trio.current_time()
            case CancelReason.SUPERSEDED:
                if self._turn.allow_cancel:
                    self._turn.cancel(CancelReason.SUPERSEDED)
            case reason:
                self._turn.cancel(reason)
        self._cut_or_ended.set()

    def _hang_up(self) -> None:
        """Do what a broken connection does, in its order: the reader is closed, its task ends."""
        assert self._client_turn is not None
        connection = self._client_turn.connection
        assert isinstance(connection, ServerConnection)
        connection.hang_up()
        self._reader_scope.cancel()

    def _snapshot(self) -> None:
        """Remember what had been yielded at the cut; what comes later needn't be kept."""
        if self._was_cut:
            return
        self._was_cut = True
        self.aftermath.place = self.probe.place
        if self._recorder is not None and self._has_answered:
            self._note_recording(self._recorder.recordings[-1])

    @property
    def _has_answered(self) -> bool:
        """Whether `respond` has been called for the message in question."""
        assert self._recorder is not None
        return len(self._recorder.recordings) == len(self._scenario.messages)

    def _note_recording(self, recording: Recording) -> None:
        aftermath = self.aftermath
        aftermath.produced = recording.items()
        aftermath.finished = ids_of(recording.events, "thread.item.done", "thread.item.replaced")
        aftermath.thread_states.append(as_metadata(recording.thread))
        self._recording = recording

    # --- Afterwards ----------------------------------------------------------------------------

    async def _look(self, server: ChatKitServer[Any]) -> None:
        await self._turn.ended.wait()
        self._faulty.disarm()
        self._look_at_turn()
        thread_id = self._turn.thread_id
        if self._thread_id is None and not self._turn.has_begun:
            await self._look_for_traces()
            return
        await self._look_at_store(thread_id)
        await self._send_next(server, thread_id)

    def _look_at_turn(self) -> None:
        assert self._client_turn is not None
        self._snapshot()
        aftermath, turn = self.aftermath, self._turn
        aftermath.checkpoints = self.probe.count
        aftermath.writes = len(self._faulty.calls)
        aftermath.reason = turn.cancel_reason
        aftermath.has_begun = turn.has_begun
        aftermath.received = self._client_turn.items
        aftermath.received_events = self._client_turn.events
        if self._recording is not None:
            self._look_at_recording(self._recording)
        aftermath.problems += [f"task {task.name} is left" for task in self.probe.living]

    def _look_at_recording(self, recording: Recording) -> None:
        aftermath = self.aftermath
        aftermath.produced_at_end = recording.items()
        aftermath.removed = ids_of(recording.events, "thread.item.removed")
        aftermath.thread_states.append(as_metadata(recording.thread))
        if any(generator.ag_frame is not None for generator in recording.generators):
            aftermath.problems.append("the generator that respond() returned isn't closed")

    async def _look_for_traces(self) -> None:
        """Look whether a turn that was to begin the first thread has left a part of one."""
        page = await self._raw.load_threads(1, None, "asc", context=self._context)
        self.aftermath.is_half_begun = bool(page.data)

    async def _look_at_store(self, thread_id: str) -> None:
        aftermath = self.aftermath
        aftermath.problems += [
            f"item {item_id} was added {times} times"
            for item_id, times in self._audited.additions.items()
            if times > 1
        ]
        aftermath.stored = await self._stored_items(thread_id)
        messages = [item for item in aftermath.stored if isinstance(item, UserMessageItem)]
        has_message = len(messages) == len(self._scenario.messages)
        aftermath.is_half_begun = has_message and not aftermath.has_begun
        if aftermath.has_begun and not has_message:
            aftermath.problems.append("the user's message isn't in the store, once")
        aftermath.thread = await self._raw.load_thread(thread_id, context=self._context)

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
        client = ChatClient.of_server(server, self._context)
        async with client.send(_NEXT_MESSAGE, thread_id) as turn:
            await turn.read()
        if not turn.is_complete:
            self.aftermath.problems.append("the next turn's stream didn't end")
        self.aftermath.stored_after_next = await self._stored_items(thread_id)
