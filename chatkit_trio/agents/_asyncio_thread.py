"""An asyncio event loop beside trio, for libraries that need asyncio.

The loop runs in a thread of its own, one for each `trio.run` that asks for it, and ends with that
run. Three things cross between the threads: a coroutine and its outcome, a stream of entries with
credits, and calls from asyncio into trio. Context variables cross with them. A coroutine never
outlives the task that waits for it: if the task stops waiting, it first cancels the coroutine and
all tasks that the coroutine has started.

The thread knows whether work is in flight, so that the clock of tests can stand still meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import Context, ContextVar, copy_context
from functools import partial
from math import inf
from typing import Any, Generic, TypeVar, TypeVarTuple

import outcome
import trio

from chatkit_trio._engine.groups import ends_process

logger = logging.getLogger(__name__)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CLOSE_TIMEOUT = 2.0
"""How long, in seconds, a cancelled coroutine may take to clean up before it's left to itself."""

CREDIT = 256
"""How many entries of a stream may be sent and not yet taken before its producer waits."""

THREAD_NAME = "chatkit_trio asyncio"
"""The name of the thread, and of the system task that keeps it."""

CALL_NAME = "chatkit_trio call from asyncio"
"""The name of the system tasks that carry out calls from asyncio."""

_home: ContextVar[AsyncioThread] = ContextVar("chatkit_trio_home")
_running: ContextVar[AsyncioTask[Any]] = ContextVar("chatkit_trio_asyncio_task")
_thread_var: trio.lowlevel.RunVar[AsyncioThread | None] = trio.lowlevel.RunVar(
    "chatkit_trio_asyncio", None
)


def in_trio() -> bool:
    """Say whether the caller is in a trio task."""
    return trio.lowlevel.in_trio_task()


class _Selector(selectors.DefaultSelector):
    """Where the loop waits; it tells whether it does, and until when."""

    def __init__(self, told_asleep: Callable[[], None]) -> None:
        super().__init__()
        self.is_asleep = False
        """Whether the loop has nothing to do but to wait."""
        self.wakes_at = inf
        """When, by `time.monotonic()`, its next timer wakes it."""
        self._told_asleep = told_asleep

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        self.wakes_at = inf if timeout is None else time.monotonic() + timeout
        self.is_asleep = True
        self._told_asleep()
        try:
            return super().select(timeout)
        finally:
            self.is_asleep = False


class _Loop(asyncio.SelectorEventLoop):
    """A plain loop, and not the default one, which trio-asyncio patches. It counts its threads."""

    jobs = 0
    """How many functions run in threads that the loop waits for."""

    def run_in_executor(
        self, executor: Any, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        job = super().run_in_executor(executor, func, *args)
        self.jobs += 1
        job.add_done_callback(self._job_done)
        return job

    def _job_done(self, job: asyncio.Future[Any]) -> None:
        self.jobs -= 1


class AsyncioThread:
    """The thread, its loop, and the token of the trio run it belongs to."""

    def __init__(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        self.loop: _Loop
        self._selector = _Selector(self._tell_asleep)
        self._started = trio.Event()
        self._stop: asyncio.Event
        self._thread = threading.Thread(target=self._run_loop, name=THREAD_NAME, daemon=True)
        self._live: set[AsyncioTask[Any]] = set()
        # Each counter is changed on one thread only, so they need no lock.
        self._posted = self._handled = self._sent = self._arrived = 0
        self._crossed_at = time.monotonic()
        self._is_asked_about = False
        self.exit: BaseException | None = None
        """The `SystemExit` or `KeyboardInterrupt` of code on the loop, which has ended the loop."""
        self.is_exit_told = False
        """Whether a task of trio's that waits for the loop gets the exit."""
        self._over = trio.Event()

    async def wait_started(self) -> None:
        """Wait until the loop takes work."""
        await self._started.wait()

    async def keep(self) -> None:
        """Run the thread until this is cancelled; then cancel the tasks that the loop still has.

        Raises an exit of code on the loop if no other task of trio's gets it: it ends the process,
        as everywhere in user code.
        """
        self._thread.start()
        try:
            await self._over.wait()
            if self.exit is not None and not self.is_exit_told:
                raise self.exit
        finally:
            with trio.move_on_after(CLOSE_TIMEOUT, shield=True):
                await self._started.wait()
                with suppress(RuntimeError):  # an exit has closed the loop
                    self.loop.call_soon_threadsafe(self._stop.set)
                # A limiter of its own, for user code may take all threads of the default one.
                await trio.to_thread.run_sync(
                    self._thread.join, abandon_on_cancel=True, limiter=trio.CapacityLimiter(1)
                )

    def post(
        self, function: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> None:
        """Call a function on the loop. To be called on the trio thread.

        Raises `RuntimeError` if the loop is closed, so that the trio run is about to end.
        """
        self.loop.call_soon_threadsafe(self._handle, function, args, context=context)
        self._posted += 1
        self._crossed_at = time.monotonic()

    def send(self, function: Callable[[], object]) -> None:
        """Call a function on the trio thread. To be called on the loop.

        Raises `trio.RunFinishedError` if the trio run has ended.
        """
        self._sent += 1
        self._crossed_at = time.monotonic()
        self.token.run_sync_soon(self._arrive, function)

    def add(self, task: AsyncioTask[Any]) -> None:
        """Note that a coroutine is in flight."""
        self._live.add(task)

    def discard(self, task: AsyncioTask[Any]) -> None:
        """Note that a coroutine has ended."""
        self._live.discard(task)

    def may_act_within(self, seconds: float) -> bool:
        """Say whether the loop may do something for trio within `seconds` in which trio does
        nothing. To be called on the trio thread, which is woken when the answer may have changed.

        So it is while something crosses between the threads, and while a coroutine is in flight
        that doesn't wait for trio. Of those that wait for trio, some tasks may go on: they count if
        they wait for a thread, or for a timer that is due within `seconds`.
        """
        if not self._thread.is_alive():
            return False
        # Before the look at the selector: of the two threads one sees what the other has set.
        self._is_asked_about = True
        if not self._selector.is_asleep:
            return True
        if self._posted != self._handled or self._sent != self._arrived:
            return True
        if not all(task.is_waiting_for_trio for task in self._live):
            return True
        has_timer = self._selector.wakes_at - time.monotonic() < seconds
        return bool(self._live) and (self.loop.jobs > 0 or has_timer)

    @property
    def silence(self) -> float:
        """For how many seconds of real time the loop has waited and nothing has crossed."""
        return time.monotonic() - self._crossed_at if self._selector.is_asleep else 0.0

    def _handle(self, function: Callable[..., object], args: tuple[Any, ...]) -> None:
        self._handled += 1
        function(*args)

    def _arrive(self, function: Callable[[], object]) -> None:
        self._arrived += 1
        function()

    def _tell_asleep(self) -> None:
        if self._is_asked_about:
            self._is_asked_about = False
            with suppress(trio.RunFinishedError):
                self.token.run_sync_soon(_look_again)

    def _run_loop(self) -> None:
        made = partial(_Loop, self._selector)
        with suppress(KeyboardInterrupt, SystemExit), asyncio.Runner(loop_factory=made) as runner:
            self._serve_until_exit(runner)
        with suppress(trio.RunFinishedError):
            self.token.run_sync_soon(self._over.set)

    def _serve_until_exit(self, runner: asyncio.Runner) -> None:
        try:
            runner.run(self._serve())
        except (KeyboardInterrupt, SystemExit) as error:
            # asyncio lets them out of the loop. The runner now cancels all tasks, which tell it.
            self.exit = error

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Loop)
        self.loop = loop
        self.loop.set_task_factory(_new_task)
        self._stop = asyncio.Event()
        self.send(self._started.set)
        await self._stop.wait()


def _look_again() -> None:
    """Wake trio, so that its clock asks again."""


def _new_task(
    loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None
) -> asyncio.Task[Any]:
    """Make a task and note it in its family, because libraries don't await all they cancel."""
    task = asyncio.Task(coro, loop=loop, context=context)
    running = _running.get(None) if context is None else context.get(_running)
    if running is not None:
        running.family.add(task)
        task.add_done_callback(running.family.discard)
    return task


def running_asyncio_thread() -> AsyncioThread | None:
    """Return this trio run's asyncio thread, None if nothing has asked for it."""
    return _thread_var.get()


async def asyncio_thread() -> AsyncioThread:
    """Return this trio run's asyncio thread, starting it the first time."""
    thread = _thread_var.get()
    # After an exit the process may still have turns to bring to their end.
    if thread is None or thread.exit is not None:
        thread = AsyncioThread()
        _thread_var.set(thread)
        # A system task, because the thread outlives the task that asks for it first.
        trio.lowlevel.spawn_system_task(thread.keep, name=THREAD_NAME, context=Context())
    await thread.wait_started()
    return thread


class AsyncioTask(Generic[T]):
    """One coroutine on the loop, watched from trio.

    Cancelling it cancels all tasks that the coroutine has started, and it ends when they have
    ended. Without a cancellation those tasks may outlive it, as usual on asyncio.
    """

    def __init__(self, thread: AsyncioThread, async_fn: Callable[[], Awaitable[T]]) -> None:
        self._thread = thread
        self._async_fn = async_fn
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._outcome: outcome.Outcome[T] | None = None
        self._waits = 0
        self.family: set[asyncio.Task[Any]] = set()
        """The tasks that the coroutine has started and that haven't ended."""
        self.ended = trio.Event()
        context = copy_context()
        context.run(_home.set, thread)
        context.run(_running.set, self)
        thread.post(self._start, context=context)
        thread.add(self)

    @property
    def is_waiting_for_trio(self) -> bool:
        """Whether one of its tasks waits for trio."""
        return self._waits > 0

    @contextmanager
    def waiting_for_trio(self) -> Iterator[None]:
        """Note, in a block on the loop, that one of its tasks waits for trio."""
        self._waits += 1
        try:
            yield
        finally:
            self._waits -= 1

    def cancel(self) -> None:
        """Cancel the coroutine, without waiting, from trio; also more than once."""
        # RuntimeError: the loop is closed, so the trio run and the coroutine are over.
        with suppress(RuntimeError):
            self._thread.post(self._cancel)

    async def aclose(self) -> None:
        """Cancel the coroutine and wait for its end, for `CLOSE_TIMEOUT` at most."""
        self.cancel()
        with trio.move_on_after(CLOSE_TIMEOUT, shield=True) as scope:
            await self.ended.wait()
        if scope.cancelled_caught:
            logger.error("a cancelled asyncio task is still running after %s s", CLOSE_TIMEOUT)

    async def result(self) -> T:
        """Wait for the coroutine, and return its value or raise its error.

        A cancelled call cancels the coroutine and waits for its end.
        """
        try:
            await self.ended.wait()
        except BaseException:
            await self.aclose()
            raise
        assert self._outcome is not None
        return self._outcome.unwrap()

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())
        if self._is_cancelled:
            self._task.cancel()
        self._task.add_done_callback(self._report)

    def _cancel(self) -> None:
        if self._task is not None and self._task.done():
            return  # who has heard of the end from the coroutine itself cancels it before `_report`
        if self._task is not None and not self._is_cancelled:
            self._task.cancel()
        self._is_cancelled = True

    async def _run(self) -> None:
        try:
            self._outcome = outcome.Value(await self._async_fn())
        finally:
            if self._is_cancelled:
                await self._end_family()  # noqa: ASYNC102  (asyncio cancels once)

    async def _end_family(self) -> None:
        while others := self.family - {self._task}:
            for task in others:
                task.cancel()
            await asyncio.wait(others)

    def _report(self, task: asyncio.Task[None]) -> None:
        error = self._error_of(task)
        if error is not None:
            self._outcome = outcome.Error(error)
            if error is self._thread.exit and not self._is_cancelled:
                self._thread.is_exit_told = True
        with suppress(trio.RunFinishedError):
            self._thread.send(self._end)

    def _error_of(self, task: asyncio.Task[None]) -> BaseException | None:
        if task.cancelled():
            # An exit of another task's has ended the loop, or the library cancelled it: after our
            # own cancellation nobody asks for the outcome.
            return self._thread.exit or RuntimeError("the asyncio task cancelled itself")
        return task.exception()

    def _end(self) -> None:
        self._thread.discard(self)
        self.ended.set()


class Outlet(Generic[T]):
    """The sending end, on asyncio, of a stream of entries whose receiver is on trio.

    At most `credit` entries are sent and not yet acknowledged. Entries that are sent in one step of
    the loop wake the trio thread once.
    """

    def __init__(
        self, thread: AsyncioThread, deliver: Callable[[T], None], credit: int = CREDIT
    ) -> None:
        self._thread = thread
        self._deliver = deliver
        self._credit = credit
        self._refill_size = max(1, credit // 2)
        self._refilled: asyncio.Event | None = None
        self._crossing: deque[T] = deque()
        self._taken = 0

    async def send(self, entry: T) -> None:
        """Send an entry; wait while too many aren't acknowledged. To be called on the loop."""
        while self._credit == 0:
            self._refilled = asyncio.Event()
            with _running.get().waiting_for_trio():
                await self._refilled.wait()
        self._credit -= 1
        self.send_last(entry)

    def send_last(self, entry: T) -> None:
        """Send the last entry, without waiting. To be called on the loop."""
        self._crossing.append(entry)
        # If there were entries already, the wake-up for them is under way and takes this one too.
        if len(self._crossing) == 1:
            self._thread.send(self._land)

    def acknowledge(self) -> None:
        """Note that the receiver has taken an entry. To be called on the trio thread."""
        self._taken += 1
        if self._taken == self._refill_size:
            self._taken = 0
            with suppress(RuntimeError):
                self._thread.post(self._refill)

    def _land(self) -> None:
        while self._crossing:
            self._deliver(self._crossing.popleft())

    def _refill(self) -> None:
        self._credit += self._refill_size
        if self._refilled is not None:
            self._refilled.set()


async def run_on_asyncio(async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run a coroutine function on the asyncio thread and return what it returns.

    The function sees the caller's context variables. A cancelled call cancels the coroutine and
    waits for its end. A call made on the asyncio thread just awaits the coroutine.
    """
    if not in_trio():
        return await async_fn(*args)
    thread = await asyncio_thread()
    return await AsyncioTask(thread, partial(async_fn, *args)).result()


async def run_on_trio(async_fn: Callable[[*Ts], Awaitable[T]], *args: *Ts) -> T:
    """Run an async function on trio and return what it returns, from trio or asyncio.

    A tool that an asyncio library runs calls it to use a store or anything else that needs trio.
    A call made in a trio task just awaits the function. If the asyncio task is cancelled meanwhile,
    the function is cancelled and has ended when this raises. Raises `RuntimeError` on an asyncio
    loop that trio didn't start.
    """
    if in_trio():
        return await async_fn(*args)
    thread = _home.get(None)
    if thread is None:
        raise RuntimeError(
            "there is no trio to go to: call this in a trio task, or in code that a run started"
            " by chatkit_trio.agents (Runner.run_streamed, run_on_asyncio) runs"
        )
    call = _CallOnTrio(thread, partial(async_fn, *args))
    with _running.get().waiting_for_trio():
        return await call.result()


class _CallOnTrio(Generic[T]):
    """A call from the asyncio loop to trio."""

    def __init__(self, thread: AsyncioThread, async_fn: Callable[[], Awaitable[T]]) -> None:
        self._thread = thread
        self._async_fn = async_fn
        self._scope = trio.CancelScope()
        self._future: asyncio.Future[T] = thread.loop.create_future()
        self._context = copy_context()

    async def result(self) -> T:
        self._thread.send(self._spawn)
        try:
            return await asyncio.shield(self._future)
        except asyncio.CancelledError:
            if not self._future.done():
                self._thread.send(self._scope.cancel)
                await asyncio.wait([self._future])  # noqa: ASYNC102  (asyncio cancels once)
            if not self._future.cancelled():
                self._future.exception()  # so that asyncio doesn't log it as never retrieved
            raise

    def _spawn(self) -> None:
        try:
            trio.lowlevel.spawn_system_task(self._run, name=CALL_NAME, context=self._context)
        except RuntimeError:
            # The trio run has ended and takes no new tasks.
            self._send(self._future.cancel)

    async def _run(self) -> None:
        answer: Callable[[], object] = self._future.cancel
        try:
            with self._scope:
                answer = partial(self._future.set_result, await self._async_fn())
        except trio.Cancelled:
            raise  # the trio run is over
        except BaseException as error:
            # Of another kind than Exception too, such as asyncio's cancellation: nobody stands
            # above this task but Trio itself.
            if ends_process(error):
                raise
            answer = partial(self._future.set_exception, error)
        finally:
            self._send(answer)

    def _send(self, answer: Callable[[], object]) -> None:
        with suppress(RuntimeError):
            self._thread.post(self._answer, answer)

    def _answer(self, answer: Callable[[], object]) -> None:
        if not self._future.done():
            answer()
