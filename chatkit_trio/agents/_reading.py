"""Reading one model run as a stream, and the sources that a run can come from.

The run isn't part of its reader: it is a task of a trio nursery (`Worker`) or of the asyncio thread
(`AsyncioSource`), and puts its events into the context's queue. So no nursery is open across a
`yield`, and a stream may be closed, dropped or cancelled anywhere: each of these ends the run.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self, TypeVar

import trio

from chatkit_trio._engine.groups import is_several, unwrapped
from chatkit_trio.server import Turn
from chatkit_trio.types import ThreadStreamEvent

from ._approval import Approvals, ApprovalWanted
from ._asyncio_thread import CLOSE_TIMEOUT, AsyncioTask, AsyncioThread, Outlet, asyncio_thread
from ._context import AgentContext
from ._queue import EventQueue, Reader
from ._telling import turn_in_progress

logger = logging.getLogger(__name__)

T = TypeVar("T")

_END = object()


@dataclass(frozen=True, slots=True)
class FromModel:
    """An entry of the queue: an event from the model."""

    source: Source
    event: Any


@dataclass(frozen=True, slots=True)
class RunEnded:
    """An entry of the queue: the run is over; `error` is None if it has succeeded."""

    source: Source
    error: BaseException | None


class Source(ABC):
    """A run that can be started once and ended at any time."""

    is_pulled = False
    """Whether the reader waits for the run itself, and not only for the queue."""

    @abstractmethod
    async def start(self, queue: EventQueue) -> None:
        """Start the run; it puts `FromModel` entries into the queue and `RunEnded` at its end."""

    @abstractmethod
    def cancel(self) -> None:
        """Cancel the run, without waiting. Does nothing if it has ended."""

    @abstractmethod
    async def wait_ended(self) -> None:
        """Wait until all tasks of the run have ended."""

    def abandon(self) -> None:
        """Cancel the run when its reader is gone, and nobody waits for its end."""
        self.cancel()

    async def receive(self, queue: EventQueue) -> Any:
        """Return the next entry."""
        return await queue.get()

    def acknowledge(self) -> None:
        """Note that the reader has taken one of this source's entries from the queue."""
        return

    def takes_back(self, error: Exception) -> bool:
        """Say whether this error means that every item of the run has to be removed."""
        return False


class StreamedRun(Protocol):
    """A run whose events can be read."""

    def stream_events(self) -> Any:
        """Return the events as an async iterable, or an awaitable of one."""


async def events_of(run: StreamedRun) -> AsyncIterable[Any]:
    """Return the events of a run. Raises `TypeError` if they can't be iterated over."""
    name = f"{type(run).__module__}.{type(run).__qualname__}.stream_events()"
    return await iterable_of(
        run.stream_events(),
        f"{name} has to return something for `async for`, and has returned",
    )


async def iterable_of(made: Any, wanted: str) -> AsyncIterable[Any]:
    """Return what was made, awaited if need be.

    Raises `TypeError` if it can't be iterated over; its text is `wanted` and what it is instead.
    """
    if inspect.isawaitable(made):
        made = await made
    if not isinstance(made, AsyncIterable):
        raise TypeError(f"{wanted} a {type(made).__name__}")
    return made


def cancel_run(run: StreamedRun) -> object:
    """Call the run's `cancel()`, if it has one, and return what that returns."""
    cancel = getattr(run, "cancel", None)
    return None if cancel is None else cancel()


class Translator(Protocol):
    """Turns the events of one run into thread events."""

    @property
    def is_incomplete(self) -> bool: ...

    async def resume(self) -> None: ...

    async def translate(self, event: Any, /) -> Iterable[ThreadStreamEvent]: ...

    def pass_on(self, event: ThreadStreamEvent, /) -> Iterable[ThreadStreamEvent]: ...

    def finish(self) -> Iterable[ThreadStreamEvent]: ...

    def withdraw(self) -> Iterable[ThreadStreamEvent]: ...

    def leave(self, context: AgentContext[Any], /) -> Iterable[ThreadStreamEvent]: ...


@asynccontextmanager
async def closing(events: AsyncIterator[T]) -> AsyncIterator[AsyncIterator[T]]:
    """Close the iterator at the end of the block, if it can be closed."""
    try:
        yield events
    finally:
        aclose = getattr(events, "aclose", None)
        if aclose is not None:
            await aclose()  # noqa: ASYNC102  (on asyncio, which cancels once)


class Worker(Source):
    """A run that is a task of trio's; `spawn` starts it, as a nursery's `start_soon` does."""

    def __init__(
        self,
        spawn: Callable[..., None],
        work: Callable[[Callable[[Any], Awaitable[None]]], Awaitable[None]],
    ) -> None:
        self._spawn = spawn
        self._work = work
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def start(self, queue: EventQueue) -> None:
        self._spawn(self._carry_out, queue)

    def cancel(self) -> None:
        self._scope.cancel()

    async def wait_ended(self) -> None:
        await self._ended.wait()

    async def _carry_out(self, queue: EventQueue) -> None:
        async def emit(event: Any) -> None:
            await queue.put(FromModel(self, event))

        error: Exception | None = None
        try:
            with self._scope:
                await self._work(emit)
        except Exception as raised:
            error = self._unwrapped(raised)
        finally:
            self._ended.set()
        if not self._scope.cancel_called:
            queue.put_nowait(RunEnded(self, error))

    def _unwrapped(self, raised: Exception) -> Exception:
        error = unwrapped(raised)
        assert isinstance(error, Exception)
        if self._scope.cancel_called:
            logger.error("cleanup in a cancelled model run failed", exc_info=raised)
        elif is_several(raised):
            logger.error("several things failed in a model run; one is told", exc_info=raised)
        return error


class Pulled(Source):
    """A stream that the caller has opened; the task that reads the thread events reads it too.

    Events that tools have sent meanwhile go out before the model's next event. The caller closes
    the stream.
    """

    is_pulled = True

    _events: AsyncIterator[Any] | None = None
    _next: FromModel | RunEnded | None = None
    """What the stream has given, while events stand before it."""

    def __init__(self, stream: AsyncIterable[Any]) -> None:
        self._stream = stream

    async def start(self, queue: EventQueue) -> None:
        # An iterator is used as it is: aiter() of the OpenAI client's stream makes a generator.
        stream = self._stream
        self._events = stream if isinstance(stream, AsyncIterator) else aiter(stream)

    def cancel(self) -> None:
        pass

    async def wait_ended(self) -> None:
        pass

    async def receive(self, queue: EventQueue) -> Any:
        if not queue and self._next is None:
            self._next = await self._pull()
        if queue:
            return queue.get_nowait()
        entry, self._next = self._next, None
        return entry

    async def _pull(self) -> FromModel | RunEnded:
        assert self._events is not None
        try:
            return FromModel(self, await anext(self._events))
        except StopAsyncIteration:
            return RunEnded(self, None)
        except Exception as error:
            return RunEnded(self, error)


class OtherRun(Worker):
    """A run of no library known here, such as the double of a test, or what wraps another run.

    It needs an async `stream_events()`. Its `cancel()`, if it has one, is called when it is left
    early, and its events are closed, in two seconds at most. It is read by a task of its own: what
    tools send through the context has to go out while the run waits for them.
    """

    def __init__(self, run: StreamedRun) -> None:
        super().__init__(_start_in_turn, self._read)
        self._run = run
        self._is_over = False
        self._cancelled: object = None

    def cancel(self) -> None:
        super().cancel()
        if not self._is_over:
            self._is_over = True
            with _logged():
                self._cancelled = cancel_run(self._run)

    async def wait_ended(self) -> None:
        with _logged():
            if inspect.isawaitable(self._cancelled):
                await self._cancelled
        await super().wait_ended()

    def abandon(self) -> None:
        self.cancel()
        # A system task, for the tasks that have read it may be over, and somebody has to wait.
        trio.lowlevel.spawn_system_task(self._end_in_time)

    async def _end_in_time(self) -> None:
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
            await self.wait_ended()

    async def _read(self, emit: Callable[[Any], Awaitable[None]]) -> None:
        try:
            events = aiter(await events_of(self._run))
            try:
                # Not by `async for`: a mock's iterator is no iterable.
                while (event := await anext(events, _END)) is not _END:
                    await emit(event)
            finally:
                with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                    async with closing(events):
                        pass
        except Exception:
            self._is_over = True
            raise
        self._is_over = True


@contextmanager
def _logged() -> Iterator[None]:
    """Log what the `cancel()` of a run raises: nobody waits for it, and the run has to end."""
    try:
        yield
    except Exception:
        logger.exception("cancel() of a model run failed")


def _start_in_turn(work: Callable[[EventQueue], Awaitable[None]], queue: EventQueue) -> None:
    turn = turn_in_progress()
    if turn is None:
        trio.lowlevel.spawn_system_task(work, queue, context=copy_context())
    else:
        turn.nursery.start_soon(work, queue)


class AsyncioSource(Source):
    """A run that is a task of the asyncio thread; `iterate` is called there."""

    def __init__(self, iterate: Callable[[], AsyncIterator[Any]]) -> None:
        self._iterate = iterate
        self._task: AsyncioTask[None] | None = None
        self._outlet: Outlet[FromModel | RunEnded] | None = None

    async def start(self, queue: EventQueue) -> None:
        thread = await asyncio_thread()
        self._outlet = Outlet(thread, queue.put_nowait)
        self._task = AsyncioTask(thread, partial(self._pump, thread, self._outlet))

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def wait_ended(self) -> None:
        if self._task is not None:
            await self._task.ended.wait()

    def acknowledge(self) -> None:
        if self._outlet is not None:
            self._outlet.acknowledge()

    async def _pump(self, thread: AsyncioThread, outlet: Outlet[FromModel | RunEnded]) -> None:
        try:
            async with closing(self._iterate()) as events:
                async for event in events:
                    await outlet.send(FromModel(self, event))
        except Exception as error:
            await outlet.send(RunEnded(self, error))
        except asyncio.CancelledError:
            # If this source was cancelled, nobody reads this entry; else the library did it, or an
            # exit of a task's has ended the loop.
            itself = RuntimeError("the model run was cancelled by itself")
            outlet.send_last(RunEnded(self, thread.exit or itself))
            raise
        except GeneratorExit:
            raise  # the loop was left to itself, and nobody reads
        except BaseException as error:
            # Without waiting: if it is an exit, the loop ends with it.
            outlet.send_last(RunEnded(self, error))
            raise
        else:
            await outlet.send(RunEnded(self, None))


class RunReader(AsyncIterator[T]):
    """Reads one run; the base class of the streams that callers get.

    The first read starts the run. A cancelled read and `aclose()` end it: both return when all
    tasks of the run have ended, after two seconds at the latest. Dropping the reader ends the run
    too.
    """

    _token: trio.lowlevel.TrioToken | None = None
    _turn: Turn[Any] | None = None
    _is_over = False

    def __init__(self, queue: EventQueue, source: Source) -> None:
        self._queue = queue
        self._source = source
        self._reader = Reader()
        self._ready: deque[T] = deque()
        self._error: Exception | None = None

    @abstractmethod
    async def _convert(self, event: Any) -> Iterable[T]:
        """Return what to yield for an event of the model."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self._is_over:
                raise StopAsyncIteration
            await self._read_more()
        return self._ready.popleft()

    async def aclose(self) -> None:
        """End the run and wait until its tasks have ended, for two seconds at most."""
        if self._is_over:
            return
        self._is_over = True
        if self._token is None:
            return
        self._source.cancel()
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True) as scope:
            await self._source.wait_ended()
        if scope.cancelled_caught:
            logger.error("a cancelled model run is still going on after %s s", CLOSE_TIMEOUT)
        self._reader.is_gone = True
        self._queue.detach_reader(self._reader)

    def __del__(self) -> None:
        if self._token is not None and not self._is_over:
            self._reader.is_gone = True
            # The garbage collector may call this in any thread.
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(_abandon, self._source, self._queue, self._reader)

    async def _read_more(self) -> None:
        try:
            if self._token is None:
                await self._begin()
            self._ready += await self._handle(await self._source.receive(self._queue))
            self._queue.all_handled()
        except Exception as error:
            self._error = error
            self._fail(error)
            await self.aclose()
        except BaseException:
            await self.aclose()
            raise

    async def _begin(self) -> None:
        # First of all: a run that can't be read, for another one is, must change nothing.
        self._queue.attach_reader(self._reader, waits_elsewhere=self._source.is_pulled)
        self._turn = turn_in_progress()
        try:
            await self._prepare()
        except BaseException:
            self._queue.detach_reader(self._reader)
            raise
        self._token = trio.lowlevel.current_trio_token()
        await self._source.start(self._queue)

    async def _handle(self, entry: Any) -> Iterable[T]:
        match entry:
            case FromModel() if entry.source is self._source:
                self._source.acknowledge()
                if self._turn is not None:
                    # Also if nothing of the event is shown: the model hasn't fallen silent.
                    self._turn.still_working()
                return await self._convert(entry.event)
            case RunEnded() if entry.source is self._source:
                return self._end(entry.error)
            case FromModel() | RunEnded():
                return ()  # an entry of an earlier run that was abandoned
        return self._pass_on(entry)

    def _end(self, error: BaseException | None) -> Iterable[T]:
        if error is not None:
            raise error
        rest: list[T] = []
        while self._queue:
            entry = self._queue.get_nowait()
            if not isinstance(entry, FromModel | RunEnded):
                rest += self._pass_on(entry)
        self._is_over = True
        self._queue.detach_reader(self._reader)
        return [*rest, *self._finish()]

    async def _prepare(self) -> None:
        """Do what has to be done before the run starts."""

    def _pass_on(self, entry: Any) -> Iterable[T]:
        return ()

    def _finish(self) -> Iterable[T]:
        return ()

    def _fail(self, error: Exception) -> None:
        pass


def _abandon(source: Source, queue: EventQueue, reader: Reader) -> None:
    source.abandon()
    queue.detach_reader(reader)


class Unchanged(RunReader[T]):
    """What a run yields, as it is."""

    async def _convert(self, event: Any) -> Iterable[T]:
        return (event,)


def _ends_of_left_runs(
    turn: Turn[Any] | None, context: AgentContext[Any]
) -> Iterator[ThreadStreamEvent]:
    """Return the events that end what the turn's earlier runs have left open.

    A run that fails or is closed ends no item: the turn does it, with its note, if nothing follows.
    But what another run adds would be stored before it.
    """
    if turn is not None:
        begun: dict[Reader, Translator] = turn.model_runs
        for reader in [reader for reader in begun if reader.is_gone]:
            yield from begun.pop(reader).leave(context)


class EventStream(RunReader[ThreadStreamEvent]):
    """The thread events of a run and its tools, in the order of production."""

    def __init__(
        self,
        context: AgentContext[Any],
        source: Source,
        translator: Translator,
        approvals: Approvals | None = None,
    ) -> None:
        super().__init__(context._queue, source)
        self._context = context
        self._translator = translator
        self._approvals = approvals

    @property
    def is_incomplete(self) -> bool:
        """Whether the model has cut its answer itself, for example at its length limit.

        A turn whose last stream is incomplete ends with reason `incomplete`.
        """
        return self._translator.is_incomplete

    async def _prepare(self) -> None:
        await self._translator.resume()
        asked = [] if self._approvals is None else await self._approvals.look()
        self._ready += [*_ends_of_left_runs(self._turn, self._context), *asked]
        if self._turn is not None:
            self._turn.model_runs[self._reader] = self._translator

    async def _convert(self, event: Any) -> Iterable[ThreadStreamEvent]:
        if isinstance(event, ApprovalWanted):
            assert self._approvals is not None
            return [
                made
                for asking in self._approvals.ask(event)
                for made in self._translator.pass_on(asking)
            ]
        return await self._translator.translate(event)

    def _pass_on(self, entry: Any) -> Iterable[ThreadStreamEvent]:
        return self._translator.pass_on(entry)

    def _finish(self) -> Iterable[ThreadStreamEvent]:
        self._tell_turn(None)
        if self._turn is not None:
            del self._turn.model_runs[self._reader]
        # The run's own end first: a client tool call has to be the last item that is seen.
        last = self._translator.finish()
        if self._approvals is None:
            return last
        return [*last, *self._approvals.finish(was_cut=self._was_cut())]

    def _was_cut(self) -> bool:
        """Say whether the run has ended before its end, and without an error."""
        return self.is_incomplete

    def _tell_turn(self, error: Exception | None) -> None:
        if self._turn is not None:
            self._turn.mark_incomplete(self.is_incomplete, error=error)

    def _fail(self, error: Exception) -> None:
        self._tell_turn(error)
        if self._source.takes_back(error):
            self._ready += self._translator.withdraw()
