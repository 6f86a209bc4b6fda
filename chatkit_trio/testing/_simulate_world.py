"""One simulated run: servers that come and go, a store, and clients, on virtual time."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import count
from types import AsyncGeneratorType
from typing import Any
from unittest import mock

import trio
from trio.abc import Clock, Instrument
from trio.lowlevel import Task

from chatkit_trio.actions import Action
from chatkit_trio.errors import ChatKitError
from chatkit_trio.server import (
    CancelReason,
    ChatKitServer,
    FramesLost,
    StreamingResult,
    Turn,
    current_turn,
)
from chatkit_trio.store import Store
from chatkit_trio.types import (
    ClientToolCallItem,
    ErrorEvent,
    StructuredInputItem,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    UserMessageItem,
    WidgetItem,
)

from ._client import ChatClient
from ._client_turn import ClientTurn, SeenItems
from ._clock import JumpClock
from ._recorder import Recorder
from ._simulate_determinism import deterministic
from ._simulate_history import (
    Body,
    Cause,
    Exchange,
    Fact,
    History,
    Life,
    LogRecord,
    Reading,
    Request,
    extent,
    has_content,
)
from ._simulate_plan import Operation, settings_of
from ._simulate_server import BUTTON_TEXT, SimulatedServer
from ._simulate_store import Door, Faults, Ledger
from ._transport import (
    Connection,
    EndedConnection,
    RequestRefused,
    ServerConnection,
    ServerTransport,
    _refusals,
)

__all__ = ["Scenario", "run_once"]

_TIME_LIMIT = 3600.0
_QUIET_TIMEOUT = 60.0
_WALL_CLOCK_AT_0 = 1.8e9
_TRIOS_OWN = ("<init>", "<TrioToken.")

_LOG_OF_REFUSALS = "chatkit_trio.web."
"""The loggers of what is said in a refusal, which is among the requests."""

_life: ContextVar[Life | None] = ContextVar("chatkit_trio_simulated_life", default=None)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What all runs have in common."""

    make_server: Callable[[Store[Any]], ChatKitServer[Any]] | None
    make_store: Callable[[], Store[Any]]
    make_cluster: Callable[[], Callable[[], Store[Any]]]
    nodes: int
    messages: Sequence[str] | None
    actions: Sequence[Action[str, Any]]
    context: Any


def run_once(scenario: Scenario, seed: int, operations: Sequence[Operation]) -> History:
    """Run the operations once and return what was recorded."""
    clock = JumpClock()
    with deterministic(seed):
        wall_clocks = _WallClocks(clock)
        with mock.patch.object(time, "time", wall_clocks.read):
            world = _World(scenario, seed, operations, wall_clocks)
            with world.listening():
                trio.run(world.run, clock=clock, instruments=[clock, world.tasks])
    return world.history


class _WallClocks:
    """What `time.time` gives to each node."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.errors: list[float] = []
        """By how many seconds the wall clock of each node is wrong."""

    def read(self) -> float:
        """Stand for `time.time`, as the node has it whose task asks."""
        life = _life.get()
        error = 0.0 if life is None else self.errors[life.node]
        return _WALL_CLOCK_AT_0 + self._clock.current_time() + error


class _LivingTasks(Instrument):
    """Knows which tasks haven't ended."""

    def __init__(self) -> None:
        self.living: dict[Task, None] = {}

    def task_spawned(self, task: Task) -> None:
        self.living[task] = None

    def task_exited(self, task: Task) -> None:
        self.living.pop(task, None)


class _Listener(logging.Handler):
    """Takes down what living servers log."""

    def __init__(self, history: History, next_number: Callable[[], int]) -> None:
        super().__init__(logging.WARNING)
        self._history = history
        self._next_number = next_number

    def emit(self, record: logging.LogRecord) -> None:
        life = _life.get()
        if life is not None and life.crashed is not None:
            return
        if record.name.startswith(_LOG_OF_REFUSALS):
            return
        error = record.exc_info[1] if record.exc_info else None
        entry = LogRecord(self._next_number(), record.levelno, record.getMessage(), error)
        self._history.log.append(entry)


class _NothingToWatch(Exception):
    """There is no live turn to watch, or no longer."""


class _PageTransport(ServerTransport):
    """Sends as our page does, whose clients can come back to a stream."""

    @asynccontextmanager
    async def stream(
        self, request: bytes, *, idempotency_key: str | None = None
    ) -> AsyncIterator[Connection]:
        async with _refusals():
            result = await self._server.process(
                request, self._context, can_return=True, idempotency_key=idempotency_key
            )
        assert isinstance(result, StreamingResult)
        async with result:
            async with _refusals():
                connection = ServerConnection(result)
                _ = connection.turn
            yield connection


class _World:
    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        operations: Sequence[Operation],
        wall_clocks: _WallClocks,
    ) -> None:
        self._scenario = scenario
        self._operations = operations
        self.next_number = partial(next, count(1))
        settings = settings_of(seed, scenario.nodes)
        self._clock_errors = wall_clocks.errors
        self._clock_errors += [number * settings.clock_skew for number in range(scenario.nodes)]
        if scenario.nodes == 1:
            self._ledgers = [Ledger(scenario.make_store(), self.next_number)]
        else:
            make_node = scenario.make_cluster()
            first = Ledger(make_node(), self.next_number)
            others = range(scenario.nodes - 1)
            self._ledgers = [
                first,
                *(Ledger(make_node(), self.next_number, first) for _ in others),
            ]
        ledger = self._ledgers[0]
        faults = Faults(settings.store_seconds)
        self.history = History(seed, settings, ledger, faults, scenario.make_server is None)
        self.tasks = _LivingTasks()
        self._current: dict[int, Life] = {}
        self._connections: dict[Life, list[trio.CancelScope]] = {}
        self._scopes: dict[Life, trio.CancelScope] = {}
        self._up: dict[Life, trio.Event] = {}
        self._leaving: dict[Life, trio.Event] = {}
        self._down: dict[Life, trio.Event] = {}
        self._lives: trio.Nursery
        self._clients: trio.Nursery
        self._slots: dict[int, str] = {}
        self._creating: list[int] = []
        self._seen: dict[tuple[int, str], SeenItems] = {}
        self._generators: list[AsyncGeneratorType[Any, Any]] = []

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the package's log for the run."""
        logger = logging.getLogger("chatkit_trio")
        handler = _Listener(self.history, self.next_number)
        level, propagate, handlers = logger.level, logger.propagate, logger.handlers[:]
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.setLevel(level)

    def _trace(self, words: str) -> None:
        self.history.trace.append(f"{trio.current_time():9.3f}  {words}")

    def _problem(self, kind: str, words: str) -> None:
        self.history.problems.append((kind, words))

    # --- The run -------------------------------------------------------------------------------

    async def run(self) -> None:
        with trio.move_on_after(_TIME_LIMIT) as limit, self._watching_generators():
            try:
                await self._run_operations()
                await self._look()
            except Exception as error:
                trace = "".join(traceback.format_exception(error))
                self._problem("the run failed", f"the run failed: {trace}")
        if limit.cancelled_caught:
            self._problem("hangs", f"the run didn't end within {_TIME_LIMIT:.0f} s")
        self._look_for_left_over()

    async def _run_operations(self) -> None:
        async with trio.open_nursery() as self._lives:
            for node in range(self._scenario.nodes):
                await self._start_life(node)
            async with trio.open_nursery() as self._clients:
                for operation in self._operations:
                    await trio.sleep_until(operation.at)
                    self._clients.start_soon(self._do, operation)
            self.history.faults.heal()
            await self._wait_until_quiet()
            await self._end_lives()

    async def _do(self, operation: Operation) -> None:
        match operation.do:
            case "store":
                self._trace(f"the store: {operation.text} for {operation.seconds} s")
                for life in self._current.values():
                    life.troubles.append((trio.current_time(), operation.seconds))
                self.history.faults.begin(operation.text, operation.seconds)
            case "crash":
                await self._crash(operation)
            case "restart":
                await self._restart(operation)
            case "hold":
                self._hold(operation)
            case "clock":
                self._trace(f"the clock of node {operation.node} jumps by {operation.seconds} s")
                self._clock_errors[operation.node] += operation.seconds
            case _:
                await self._request(operation)

    async def _wait_until_quiet(self) -> None:
        with trio.move_on_after(_QUIET_TIMEOUT) as limit:
            for body in self.history.bodies:
                if body.life in self._current.values():
                    await body.turn.settled.wait()
        if limit.cancelled_caught:
            self._problem(
                "not settled", f"a turn isn't settled {_QUIET_TIMEOUT:.0f} s after the last request"
            )

    # --- Servers -------------------------------------------------------------------------------

    async def _start_life(self, node: int) -> None:
        history = self.history
        door = Door(self._ledgers[node], history.faults, self.next_number, history.settings.hints)
        make_server = self._scenario.make_server
        server = (
            SimulatedServer(door, history.settings) if make_server is None else make_server(door)
        )
        if server.store is not door:
            raise ValueError("make_server must give the store it's called with to the server")
        life = Life(len(history.lives), server, door, self.next_number(), node)
        history.journal_interval = server.journal_interval
        self._follow_bodies(life)
        history.lives.append(life)
        self._connections[life] = []
        self._scopes[life] = trio.CancelScope()
        self._up[life], self._leaving[life], self._down[life] = (trio.Event() for _ in range(3))
        self._current[node] = life
        self._lives.start_soon(self._live, life)
        await self._up[life].wait()

    async def _live(self, life: Life) -> None:
        _life.set(life)
        try:
            with self._scopes[life]:
                while not await self._try_to_live(life):  # noqa: ASYNC110
                    await trio.sleep(0.5)
        finally:
            life.is_up = False
            if life.crashed is None:
                self._note_unsettled(life)
            life.ended = self.next_number()
            gave_up_at = min(life.gives_up_at, trio.current_time())
            life.ended_in_trouble = self.history.faults.last_away >= gave_up_at
            self._up[life].set()
            self._down[life].set()

    def _note_unsettled(self, life: Life) -> None:
        """Note which turns a process leaves behind."""
        turns = [body.turn for body in self.history.bodies if body.life is life]
        read = [each.turn for each in self.history.exchanges if each.request.life is life]
        turns += [turn for turn in read if isinstance(turn, Turn)]
        life.unsettled = {turn.id for turn in turns if not turn.settled.is_set()}

    async def _try_to_live(self, life: Life) -> bool:
        """Run the server; return False if it couldn't start because the store is away."""
        try:
            async with life.server:
                life.is_up = True
                self._trace(f"server {life.index} is up")
                self._up[life].set()
                await self._leaving[life].wait()
        except Exception as error:
            if not life.is_up:
                self._note_told(error)
                return False
            if life.crashed is None:
                self._problem("server failed", f"the server raised {error!r}")
        return True

    def _note_told(self, error: Exception) -> None:
        entry = LogRecord(self.next_number(), logging.INFO, "the server didn't start", error)
        self.history.log.append(entry)

    async def _end_lives(self) -> None:
        async with trio.open_nursery() as nursery:
            for life in self._current.values():
                if not life.is_ending:
                    nursery.start_soon(self._leave, life)

    async def _leave(self, life: Life) -> None:
        life.is_ending = True
        self.history.causes.append(Cause(self.next_number(), CancelReason.SHUTDOWN, life=life))
        life.gives_up_at = trio.current_time() + 4 * life.server.policy.settle_timeout + 1
        self._leaving[life].set()
        await self._down[life].wait()
        self._trace(f"server {life.index} is down")

    def _hold(self, operation: Operation) -> None:
        """Pause a server, or cut it off from the store."""
        life = self._current.get(operation.node)
        if life is None or not life.is_up:
            return
        self._trace(f"server {life.index}: {operation.text} for {operation.seconds} s")
        self.history.faults.were_any = True
        life.troubles.append((trio.current_time(), operation.seconds))
        life.door.hold(operation.text, operation.seconds)

    async def _restart(self, operation: Operation) -> None:
        life = self._current.get(operation.node)
        if life is None or life.is_ending or not life.is_up:
            return
        life.is_ending = True
        self._trace(f"server {life.index} drains for {operation.seconds} s")
        self.history.causes.append(Cause(self.next_number(), CancelReason.SHUTDOWN, life=life))
        _life.set(life)
        await life.server.drain(operation.seconds)
        await self._leave(life)
        if life.crashed is None:
            await self._start_life(life.node)

    async def _crash(self, operation: Operation) -> None:
        life = self._current.get(operation.node)
        if life is None or not life.is_up:
            return
        self._trace(f"server {life.index} crashes")
        life.is_ending = True
        life.crashed, life.crashed_at = self.next_number(), trio.current_time()
        life.door.is_shut = True
        self._note_unsettled(life)
        for scope in self._connections[life]:
            scope.cancel()
        self._scopes[life].cancel()
        await life.door.crash()
        await trio.sleep(max(operation.seconds, 0.01))
        if self._current[life.node] is life:
            await self._start_life(life.node)

    def _follow_bodies(self, life: Life) -> None:
        recorder = Recorder(life.server)
        for name in ("respond", "action"):
            hook = getattr(life.server, name)
            setattr(life.server, name, self._followed(life, recorder, hook))

    def _followed(self, life: Life, recorder: Recorder, hook: Callable[..., Any]) -> Any:
        def call(thread: ThreadMetadata, *args: Any) -> Any:
            source = hook(thread, *args)
            recording = recorder.recordings[-1]
            body = Body(self.next_number(), life, current_turn(), thread.id, recording)
            self.history.bodies.append(body)
            self._trace(f"respond begins on {thread.id}")
            return (
                _Followed(source, body, self.next_number)
                if hasattr(source, "__aiter__")
                else source
            )

        return call

    # --- Requests ------------------------------------------------------------------------------

    async def _request(self, operation: Operation) -> None:
        life = self._current.get(operation.node)
        if life is None or not life.is_up:
            return
        _life.set(life)
        thread_id = self._slots.get(operation.thread)
        request = Request(
            self.next_number(), trio.current_time(), operation, life, thread_id=thread_id
        )
        self.history.requests.append(request)
        with trio.CancelScope() as scope:
            self._connections[life].append(scope)
            try:
                client = self._client(request)
                await getattr(self, f"_do_{operation.do}")(request, client)
                request.outcome = "ok"
            except RequestRefused as refusal:
                request.outcome, request.error = f"{refusal.status} {refusal.code}", refusal
            except ChatKitError as error:  # of what isn't a request of the protocol, such as stop
                request.outcome, request.error = f"{error.http_status} {error.code}", error
            except Exception as error:
                request.outcome, request.error = f"raised {type(error).__name__}", error
        if life.crashed is not None or (request.error is not None and not life.is_up):
            request.outcome = "broken"
        request.ended, request.ended_at = self.next_number(), trio.current_time()
        self._trace(f"client {operation.client} {operation.do}: {request.outcome}")

    def _client(self, request: Request) -> ChatClient:
        """Return the client that makes this request: our page, or one that can't come back."""
        is_page = request.operation.reading.partition(":")[0] in ("back", "lose", "twice")
        transport = _PageTransport if is_page else ServerTransport
        return ChatClient(transport(request.life.server, self._scenario.context))

    def _cause(self, reason: CancelReason, request: Request, thread_id: str | None) -> None:
        # Where servers share a store, a request to one ends turns of another.
        life = request.life if self._scenario.nodes == 1 else None
        cause = Cause(self.next_number(), reason, thread_id, life=life, request=request)
        self.history.causes.append(cause)

    async def _do_send(self, request: Request, client: ChatClient) -> None:
        operation, thread_id = request.operation, request.thread_id
        if thread_id is None and operation.thread in self._creating:
            # Another tab, which finds the thread that is just being created.
            newest = (await client.threads_page(limit=1)).data
            known = list(self._slots.values())
            thread_id = next((thread.id for thread in newest if thread.id not in known), None)
        if thread_id is None:
            self._creating.append(operation.thread)
        else:
            self._cause(CancelReason.SUPERSEDED, request, thread_id)
        request.thread_id = thread_id
        try:
            request.sent_to = thread_id
            await self._stream(request, client, self._send(request, client))
        finally:
            if thread_id is None:
                self._creating.remove(operation.thread)

    async def _do_retry(self, request: Request, client: ChatClient) -> None:
        if (thread_id := request.thread_id) is None:
            return
        messages = [
            item
            for item in await self._load_items(client, thread_id)
            if isinstance(item, UserMessageItem)
        ]
        if messages:
            message = messages[0 if request.operation.text == "first" else -1]
            self._cause(CancelReason.SUPERSEDED, request, thread_id)
            await self._stream(request, client, client.retry(thread_id, message.id))

    async def _do_answer(self, request: Request, client: ChatClient) -> None:
        if (thread_id := request.thread_id) is None:
            return
        text = request.operation.text
        match (await self._load_items(client, thread_id))[-1:]:
            case [ClientToolCallItem(status="pending")]:
                self._cause(CancelReason.SUPERSEDED, request, thread_id)
                await self._stream(request, client, client.send_tool_output(thread_id, text))
            case [StructuredInputItem(status="pending", id=item_id, inputs=[question, *_])]:
                self._cause(CancelReason.SUPERSEDED, request, thread_id)
                answers = {question.id: [text]}
                await self._stream(
                    request, client, client.send_answers(thread_id, item_id, answers)
                )

    async def _do_act(self, request: Request, client: ChatClient) -> None:
        if (thread_id := request.thread_id) is None or (action := self._action(request)) is None:
            return
        sender = await self._sender(client, thread_id)
        self._cause(CancelReason.SUPERSEDED, request, thread_id)
        await self._stream(request, client, client.act(thread_id, action, sender))

    async def _do_act_and_wait(self, request: Request, client: ChatClient) -> None:
        if (thread_id := request.thread_id) is None or (action := self._action(request)) is None:
            return
        sender = await self._sender(client, thread_id)
        if sender is not None:
            await client.act_and_wait(thread_id, action, sender)

    def _action(self, request: Request) -> Action[str, Any] | None:
        if self._scenario.make_server is None:
            return Action[str, Any](type="press", payload=request.operation.text)
        actions = self._scenario.actions
        return actions[request.number % len(actions)] if actions else None

    async def _sender(self, client: ChatClient, thread_id: str) -> str | None:
        items = await self._load_items(client, thread_id)
        widgets = [item for item in items if isinstance(item, WidgetItem)]
        if self._scenario.make_server is None:
            # Not one that still grows: who answers with it as it was would undo its growth.
            widgets = [item for item in widgets if extent(item) == BUTTON_TEXT]
        return widgets[-1].id if widgets else None

    async def _do_stop(self, request: Request, client: ChatClient) -> None:
        if request.thread_id is not None:
            await self._stop(request, request.thread_id)

    async def _stop(self, request: Request, thread_id: str) -> None:
        began = self.next_number()
        self._cause(CancelReason.STOPPED, request, thread_id)
        if self._scenario.nodes == 1:
            self.history.stops.append((began, began, thread_id))
        # Not by the client, which looks for the thread first: no rule could say when it takes
        # effect, and so who has to find the answer stored.
        await request.life.server.stop(thread_id)
        if self._scenario.nodes > 1:
            # It has taken effect when it has reached the server of the turn.
            self.history.stops.append((began, self.next_number(), thread_id))

    async def _do_watch(self, request: Request, client: ChatClient) -> None:
        if (thread_id := request.thread_id) is not None:
            with suppress(_NothingToWatch):
                await self._stream(request, client, client.watch(thread_id))

    async def _do_load(self, request: Request, client: ChatClient) -> None:
        if (thread_id := request.thread_id) is None:
            return
        number = self.next_number()
        page = (await client.thread(thread_id)).items
        reading = Reading(
            number, thread_id, True, not page.has_more, self.next_number(), list(page.data)
        )
        self.history.readings.append(reading)
        await self._load_items(client, thread_id)

    async def _load_items(self, client: ChatClient, thread_id: str) -> list[ThreadItem]:
        life = _life.get()
        if life is not None and not life.is_up:
            return []  # nobody takes the connection any more
        number = self.next_number()
        items = await client.items(thread_id)
        reading = Reading(number, thread_id, False, True, self.next_number(), items)
        self.history.readings.append(reading)
        return items

    async def _do_list(self, request: Request, client: ChatClient) -> None:
        number = self.next_number()
        threads = await client.threads()
        self.history.lists.append((number, [thread.id for thread in threads]))

    async def _do_rename(self, request: Request, client: ChatClient) -> None:
        if (thread_id := request.thread_id) is not None:
            await client.rename(thread_id, request.operation.text)

    async def _do_delete(self, request: Request, client: ChatClient) -> None:
        if (thread_id := request.thread_id) is not None:
            self._cause(CancelReason.STOPPED, request, thread_id)
            await client.delete(thread_id)
            if self._slots.get(request.operation.thread) == thread_id:
                del self._slots[request.operation.thread]

    async def _do_feedback(self, request: Request, client: ChatClient) -> None:
        if (thread_id := request.thread_id) is not None:
            items = await self._load_items(client, thread_id)
            await client.give_feedback(thread_id, [item.id for item in items[-1:]], "positive")

    # --- Streams -------------------------------------------------------------------------------

    async def _stream(
        self,
        request: Request,
        client: ChatClient,
        stream: AbstractAsyncContextManager[ClientTurn],
    ) -> None:
        async with self._exchanging(request, stream) as (exchange, turn):
            mode, *arguments = request.operation.reading.split(":")
            numbers = [float(argument) for argument in arguments]
            # A watcher for whom the first frames aren't kept gets the state so far. It leaves: the
            # rules know what a frame is by its number.
            if exchange.first_frame == 0:
                await getattr(self, f"_read_{mode}")(exchange, client, turn, *numbers)
        if exchange.complete is not None and exchange.thread_id is not None:
            await self._load_items(client, exchange.thread_id)

    @asynccontextmanager
    async def _exchanging(
        self, request: Request, stream: AbstractAsyncContextManager[ClientTurn]
    ) -> AsyncIterator[tuple[Exchange, ClientTurn]]:
        """Give the stream and its record; whatever fails, the client leaves it."""
        async with stream as turn:
            if isinstance(turn.connection, EndedConnection):
                raise _NothingToWatch
            exchange = self._exchange(request, turn)
            failure: Exception | None = None
            try:
                yield exchange, turn
            except Exception as error:
                failure = error
            await self._hang_up(exchange, turn)
            if failure is not None:
                raise failure

    def _exchange(self, request: Request, turn: ClientTurn) -> Exchange:
        connection = turn.connection
        assert isinstance(connection, ServerConnection)
        result = connection.result
        first = result.next_frame_number
        exchange = Exchange(self.next_number(), request, result.turn, first, request.thread_id)
        self.history.exchanges.append(exchange)
        return exchange

    async def _read_all(self, exchange: Exchange, client: ChatClient, turn: ClientTurn) -> None:
        await self._read(exchange, turn)

    async def _read_leave(
        self, exchange: Exchange, client: ChatClient, turn: ClientTurn, count: float
    ) -> None:
        await self._read(exchange, turn, int(count))

    async def _read_lose(
        self, exchange: Exchange, client: ChatClient, turn: ClientTurn, count: float
    ) -> None:
        """Leave, as one who could come back."""
        await self._read(exchange, turn, int(count))

    async def _read_quit(
        self, exchange: Exchange, client: ChatClient, turn: ClientTurn, seconds: float
    ) -> None:
        with trio.move_on_after(seconds):
            await self._read(exchange, turn)

    async def _hang_up(self, exchange: Exchange, turn: ClientTurn) -> None:
        """Break the connection if the stream hasn't ended."""
        if exchange.complete is None:
            number = self.next_number()
            self.history.causes.append(
                Cause(number, CancelReason.DISCONNECTED, turn_id=exchange.turn.id)
            )
            await turn.disconnect()

    async def _read_stop(
        self, exchange: Exchange, client: ChatClient, turn: ClientTurn, count: float
    ) -> None:
        await self._read(exchange, turn, int(count))
        if turn.thread_id is not None and exchange.complete is None:
            await self._stop(exchange.request, turn.thread_id)
        await self._read(exchange, turn)

    async def _read_pause(
        self, exchange: Exchange, client: ChatClient, turn: ClientTurn, count: float, seconds: float
    ) -> None:
        await self._read(exchange, turn, int(count))
        if seconds >= self.history.settings.stall_timeout:
            number = self.next_number()
            self.history.causes.append(
                Cause(number, CancelReason.STALLED, turn_id=exchange.turn.id)
            )
        await trio.sleep(seconds)
        await self._read(exchange, turn)

    async def _read_twice(
        self, exchange: Exchange, client: ChatClient, turn: ClientTurn, count: float
    ) -> None:
        """Lose the connection, and send the same request again."""
        await self._read(exchange, turn, int(count))
        await self._hang_up(exchange, turn)
        request = exchange.request
        if request.operation.do == "send" and request.life.is_up:
            async with self._exchanging(request, self._send(request, client)) as (repeated, again):
                repeated.is_repeat = True
                await self._read(repeated, again)

    def _send(
        self, request: Request, client: ChatClient
    ) -> AbstractAsyncContextManager[ClientTurn]:
        """Send the message of a request; sent twice, it has a key by which it is known again."""
        is_repeated = request.operation.reading.startswith("twice")
        key = f"request {request.number}" if is_repeated else None
        return client.send(request.operation.text, request.sent_to, idempotency_key=key)

    async def _read_back(
        self, exchange: Exchange, client: ChatClient, turn: ClientTurn, count: float, seconds: float
    ) -> None:
        """Lose the connection, and come back to the next event."""
        await self._read(exchange, turn, int(count))
        await self._hang_up(exchange, turn)
        if exchange.complete is not None or (thread_id := turn.thread_id) is None:
            return
        await trio.sleep(seconds)
        last = exchange.first_frame + len(exchange.frames) - 1
        try:
            watch = client.watch(thread_id, f"{exchange.turn.id}.{last}")
            async with self._exchanging(exchange.request, watch) as (resumed, again):
                await self._read(resumed, again)
        except _NothingToWatch:
            pass
        except RequestRefused as refusal:
            if refusal.status != 404:
                raise
        await self._load_items(client, thread_id)

    async def _read(self, exchange: Exchange, turn: ClientTurn, count: int | None = None) -> None:
        while count is None or count > 0:
            try:
                event = await anext(turn)
            except StopAsyncIteration:
                if exchange.complete is None:
                    exchange.complete = self.next_number()
                    self._trace(f"client {exchange.request.operation.client} has read to the end")
                return
            except FramesLost:
                return  # one that watches and has fallen behind
            exchange.frames.append(turn.frames[-1])
            self._note_event(exchange, turn, event)
            count = None if count is None else count - 1

    def _note_event(self, exchange: Exchange, turn: ClientTurn, event: ThreadStreamEvent) -> None:
        self._trace(f"client {exchange.request.operation.client} gets {_told(event)}")
        if exchange.thread_id is None and turn.thread_id is not None:
            self._note_thread(exchange, turn.thread_id)
        match event:
            case ThreadItemAddedEvent() | ThreadItemDoneEvent() | ThreadItemReplacedEvent():
                # The state so far has items that were updated when they were done: those updates
                # are in the journal, and in the store only when the turn has ended.
                is_state = exchange.is_repeat and exchange.first_frame > 0
                is_done = not (is_state or isinstance(event, ThreadItemAddedEvent))
                self._note_fact(exchange, event.item.id, event, is_done=is_done)
                if isinstance(event.item, UserMessageItem):
                    exchange.accepted = event.item.id
            case ThreadItemUpdatedEvent():
                self._note_fact(exchange, event.item_id, event, is_done=False)
            case ThreadItemRemovedEvent():
                exchange.removed.add(event.item_id)
            case ErrorEvent():
                exchange.error = event

    def _note_thread(self, exchange: Exchange, thread_id: str) -> None:
        exchange.thread_id = thread_id
        self.history.known.setdefault(thread_id, self.next_number())
        slot = exchange.request.operation.thread
        if slot not in self._slots:
            self._slots[slot] = thread_id

    def _note_fact(
        self, exchange: Exchange, item_id: str, event: ThreadStreamEvent, *, is_done: bool
    ) -> None:
        seen = self._seen.setdefault((exchange.number, item_id), SeenItems())
        seen.feed(event)
        if exchange.thread_id is None or not (items := seen.items()):
            return
        [item] = items
        fact = Fact(
            self.next_number(),
            trio.current_time(),
            exchange.thread_id,
            item_id,
            item.type,
            extent(item),
            is_done,
            has_content(item),
            exchange.turn.id,
            exchange.request.life,
        )
        self.history.facts.append(fact)

    # --- Afterwards ----------------------------------------------------------------------------

    async def _look(self) -> None:
        """Have another server read and continue every thread, then look into the store itself."""
        async with trio.open_nursery() as self._lives:
            self._current.clear()
            await self._start_life(0)
            for thread_id in list(self.history.known):
                await self._continue(thread_id)
            await self._wait_until_quiet()
            await self._end_lives()
        await self._look_into_store()

    async def _continue(self, thread_id: str) -> None:
        messages = self._scenario.messages
        text = "say:1" if messages is None else messages[0]
        self._slots[-1] = thread_id
        for do in ("load", "send"):
            await self._request(Operation(trio.current_time(), do, thread=-1, client=-1, text=text))

    async def _look_into_store(self) -> None:
        history, context = self.history, self._scenario.context
        raw = history.ledger.wrapped
        async with raw:
            threads = await raw.load_threads(10_000, None, "asc", context)
            for thread in threads.data:
                history.threads[thread.id] = thread
                page = await raw.load_thread_items(thread.id, None, 10_000, "asc", context)
                history.stored[thread.id] = list(page.data)
            if raw.journal is not None:
                history.abandoned = len(await raw.journal.abandoned())

    def _look_for_left_over(self) -> None:
        main = trio.lowlevel.current_task()
        for task in self.tasks.living:
            if task is not main and not task.name.startswith(_TRIOS_OWN):
                self._problem("left running", f"task {task.name} is left")
        for body in self.history.bodies:
            for generator in body.recording.generators:
                if generator.ag_frame is not None:
                    self._problem("left running", "a generator of respond() isn't closed")
        for life in self.history.lives:
            if len(life.server.live_turns):
                self._problem("left running", "a turn is still counted as live")
        for generator in self._generators:
            if generator.ag_frame is not None and not generator.ag_running:
                self._problem("left running", f"generator {generator.__qualname__} isn't closed")

    @contextmanager
    def _watching_generators(self) -> Iterator[None]:
        """Keep hold of every async generator that is begun, to see later whether it was closed."""
        hooks = sys.get_asyncgen_hooks()

        def firstiter(generator: Any) -> None:
            self._generators.append(generator)
            if hooks.firstiter is not None:
                hooks.firstiter(generator)

        sys.set_asyncgen_hooks(firstiter=firstiter)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(firstiter=hooks.firstiter)


def _told(event: ThreadStreamEvent) -> str:
    item = getattr(event, "item", None)
    item_id = getattr(event, "item_id", "") if item is None else item.id
    return f"{event.type} {item_id}".rstrip()


class _Followed:
    """An iterable that takes down how its iteration ends."""

    def __init__(self, inner: Any, body: Body, next_number: Callable[[], int]) -> None:
        self._inner = inner
        self._body = body
        self._next_number = next_number

    def __aiter__(self) -> AsyncIterator[Any]:
        return _FollowedIterator(aiter(self._inner), self._body, self._next_number)


class _FollowedIterator:
    def __init__(self, inner: Any, body: Body, next_number: Callable[[], int]) -> None:
        self._inner = inner
        self._body = body
        self._next_number = next_number
        if hasattr(inner, "athrow"):
            self.athrow = self._athrow
        if hasattr(inner, "aclose"):
            self.aclose = self._aclose

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await self._noting(self._inner.__anext__())

    async def _athrow(self, error: BaseException) -> Any:
        return await self._noting(self._inner.athrow(error))

    async def _aclose(self) -> None:
        self._note("cancelled", None)
        await self._inner.aclose()

    async def _noting(self, step: Awaitable[Any]) -> Any:
        try:
            return await step
        except StopAsyncIteration:
            self._note("finished", None)
            raise
        except Exception as error:
            self._note("raised", error)
            raise
        except BaseException as error:
            self._note("cancelled", error)
            raise

    def _note(self, outcome: str, error: BaseException | None) -> None:
        body = self._body
        if body.outcome == "open":
            body.outcome, body.error, body.ended = outcome, error, self._next_number()
