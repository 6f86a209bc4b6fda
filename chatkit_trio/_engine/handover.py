"""From the user's code to the turn: who runs it, and how its events are handed over.

Two tasks run user code. The *driver* steps what `respond` returned and nothing else, so that a
cancel scope or nursery which the user holds open across a `yield` can't reach the turn's writes;
when such a scope ends meanwhile, the cancellation is let out of the `yield`, where the scope can
catch it. The *keeper* holds the nursery of the user's own tasks. Either may hang in its cleanup,
which is why the turn's own task is neither of them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from math import inf
from time import perf_counter
from typing import Any

import trio

from chatkit_trio._foreign_text import text_of
from chatkit_trio.errors import TurnFencedError
from chatkit_trio.types import ThreadStreamEvent

from .ending import Ending
from .foreign import not_events
from .groups import StrayCancellation, ends_process, is_several, split_cancelled, unwrapped
from .keeping import CancelReason
from .writing import Rename, Step
from .wrong_loop import hint_at_loop

logger = logging.getLogger(__name__)

_EVENTS_A_ROUND = 16
"""How many events of a respond that never awaits are taken before others get their turn."""

_SECONDS_A_ROUND = 0.02
"""How long they may take, in real time, before others get their turn."""

_ONE_ROUND = object()
"""Marks a task that hasn't let others run since it was marked."""

_SIBLINGS_TIMEOUT = 0.5
"""How long, in seconds, the error of a failed task waits for the cleanup of the tasks beside it."""


class Handover:
    """The user's tasks of one turn, the steps that they wait for, and their first failure.

    `accept` decides about an event, at once. It returns None if all is done, or the step that the
    turn's own task has to perform because the store or the client must be waited for. What it
    raises is raised out of the `yield`.
    """

    def __init__(
        self,
        name: str,
        ending: Ending,
        accept: Callable[[ThreadStreamEvent], Step | None],
        closing_timeout: float,
    ) -> None:
        self._name = name
        self._ending = ending
        self._accept = accept
        self._closing_timeout = closing_timeout
        # Holds one step, and one more for each cancel scope in respond that ended while a step was
        # being performed.
        self._steps: list[Step] = []
        self._renames: list[Rename] = []
        self._news = trio.lowlevel.ParkingLot()
        self._performed = trio.lowlevel.ParkingLot()
        self._events_this_round = 0
        self._round_began = 0.0
        self._is_closed = False
        self._silence_counts = False
        self._silent_since = inf  # infinite while respond isn't computing an event
        self._tasks: trio.Nursery | None = None
        self._tasks_running = 0
        self._responded = trio.Event()
        self.nursery: trio.Nursery | None = None
        """The nursery for the user's tasks beside `respond`."""
        self.has_answered = False
        """Whether `respond` came to its end by itself before the turn was cut short."""
        self.until_failure = trio.CancelScope()
        """Cancelled by the first failure, so that it is told at once."""
        self.failure: BaseException | None = None
        """What went wrong first, unless the turn had been cut short before."""

    @property
    def is_idle(self) -> bool:
        """Whether no step is being performed or waits."""
        return not self._steps

    # --- For the turn's own task ---------------------------------------------------------------

    async def start(
        self, respond: Callable[[], Any], tasks: trio.Nursery, idle_timeout: float | None
    ) -> None:
        """Start the user's code, and what watches it, in the nursery `tasks`."""
        self._tasks = tasks
        self._tasks_running = 2
        await tasks.start(self._keep_nursery)
        tasks.start_soon(self._drive, respond)
        if idle_timeout is not None:
            self._silence_counts = True
            tasks.start_soon(self._watch_silence, idle_timeout)

    async def next_step(self) -> Step | None:
        """Wait for a step to perform; None when all user code has ended. Renames come first."""
        while (step := self.next_rename()) is None:
            if self._steps:
                return self._steps[0]
            if not self._tasks_running:
                return None
            await self._news.park()
        return step

    def next_rename(self) -> Rename | None:
        """Return a rename that waits to be performed, if there is one."""
        return self._renames[0] if self._renames else None

    def performed(self, step: Step) -> None:
        """Note that a step has been performed."""
        if isinstance(step, Rename):
            self._renames.remove(step)
        else:
            self._steps.pop(0)
        self._performed.unpark_all()

    def fail(self, raised: BaseException) -> None:
        """Note a failure. The first one ends the turn; later ones are logged, as are errors beside
        the one that the client is told of. No failure is that another process has settled the turn,
        for nothing is wrong with the answer: that cuts it."""
        hint_at_loop(raised)
        error = unwrapped(raised)
        if isinstance(error, TurnFencedError):
            logger.error("%s: %s", self._name, text_of(error))
            self._ending.cancel(CancelReason.CRASHED)
            return
        if error is not raised and is_several(raised):
            logger.error("several errors at once in %s", self._name, exc_info=raised)
        if self._ending.is_cut or self._is_closed:
            logger.error("an error after the end of %s", self._name, exc_info=error)
        elif self.failure is None:
            self.failure = error
            self.until_failure.cancel()
        elif error is not self.failure:
            logger.error("a second error in %s", self._name, exc_info=error)

    def still_working(self) -> None:
        """Note that `respond` isn't silent, though it yields nothing."""
        if self._silent_since != inf:
            self._silent_since = trio.current_time()

    def close(self) -> list[Step]:
        """Take nothing more, cancel the user's code, return the steps that weren't performed."""
        self._is_closed = True
        left = list(self._steps)
        self._steps.clear()
        self._renames.clear()
        self._performed.unpark_all()
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()
        return left

    # --- For those who want something done by the turn's own task ------------------------------

    async def ask(self, step: Step) -> bool:
        """Have a step performed and wait for it; return False if the turn has ended instead.

        Raises what the step says was wrong with it.
        """
        queue: list[Any] = self._renames if isinstance(step, Rename) else self._steps
        if self._is_closed:
            return False
        queue.append(step)
        self._news.unpark_all()
        try:
            while step in queue:
                await self._performed.park()
        except trio.Cancelled:
            step.is_left = True
            raise
        if step.error is not None:
            raise step.error
        return step.is_done

    async def until_idle(self) -> bool:
        """Wait until no step is performed or waits; return False if the turn has ended instead."""
        while self._steps:
            await self._performed.park()
        return not self._is_closed

    # --- The user's tasks ----------------------------------------------------------------------

    async def _keep_nursery(self, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC114
        try:
            async with trio.open_nursery() as self.nursery:
                task_status.started()
                try:
                    await self._responded.wait()
                except trio.Cancelled as cancelled:
                    if cancelled.source == "nursery":
                        self._a_task_has_failed()
                    raise
        except GeneratorExit:
            raise  # the coroutine is being thrown away
        except BaseException as error:  # noqa: ASYNC103
            self._note(error)
        finally:
            self._one_ended()

    async def _drive(self, respond: Callable[[], Any]) -> None:
        try:
            self._silent_since = trio.current_time()
            await self._take_all(respond())
            is_over = self._is_closed or self._ending.is_cut
            self.has_answered = not is_over and self.failure is None
        except GeneratorExit:
            raise  # the coroutine is being thrown away
        except BaseException as error:  # noqa: ASYNC103
            self._note(error)
        finally:
            self._silent_since = inf
            self._responded.set()
            self._one_ended()

    def _note(self, error: BaseException) -> None:
        """Take apart what has come out of user code: a failure is noted, a cancellation goes on."""
        if ends_process(error):
            raise error
        cancelled, failure = split_cancelled(error)
        if failure is not None:
            self.fail(failure)
        if cancelled is not None:
            assert self._tasks is not None
            if self._ending.is_cut or self._tasks.cancel_scope.cancel_called:
                raise cancelled from None
            self.fail(StrayCancellation.of(cancelled))

    def _a_task_has_failed(self) -> None:
        """Wait for the error of a task in the nursery, which comes when its siblings have ended."""
        if self._tasks is not None and not self._ending.is_cut:
            self._tasks.start_soon(self._fail_soon)

    async def _fail_soon(self) -> None:
        await trio.sleep(_SIBLINGS_TIMEOUT)
        self.fail(RuntimeError(f"a task in the nursery of {self._name} failed; its error follows"))

    def _one_ended(self) -> None:
        self._tasks_running -= 1
        self._news.unpark_all()

    async def _watch_silence(self, seconds: float) -> None:
        """Cut the turn short when `respond` has computed for so long without yielding."""
        while not self._responded.is_set():
            since = min(self._silent_since, trio.current_time())
            with trio.move_on_at(since + seconds):
                await self._responded.wait()
            if self._silent_since + seconds <= trio.current_time():
                self._ending.cancel(CancelReason.SILENT)
                return

    # --- Stepping what respond returned --------------------------------------------------------

    async def _take_all(self, source: Any) -> None:
        """Take every event of a source, and close the source, whatever happens.

        The source is an async iterable, a context manager of one (`trio.as_safe_channel`), or an
        awaitable of either.
        """
        if inspect.isawaitable(source):
            source = await source
        if hasattr(source, "__aiter__"):
            await self._iterate(aiter(source))
        elif hasattr(source, "__aenter__"):
            async with source as channel:
                await self._iterate(aiter(channel))
        else:
            raise not_events(source)

    async def _iterate(self, iterator: AsyncIterator[ThreadStreamEvent]) -> None:
        cancelled: BaseException | None = None
        # Around the steps, too: a scope around aclose() alone would lie within the scopes and
        # nurseries that respond has open across its yield, and these end there.
        with trio.CancelScope() as closing:
            try:
                await self._step_through(iterator)
            except GeneratorExit:
                raise  # the coroutine is being thrown away
            except BaseException as error:  # noqa: ASYNC103 (it is raised below)
                if ends_process(error):
                    raise
                cancelled, failure = split_cancelled(error)
                if failure is not None:
                    # Now: the closing may take long, and may raise something else.
                    self.fail(failure)
            finally:
                closing.shield = True
                closing.deadline = trio.current_time() + self._closing_timeout
                await self._close(iterator)  # noqa: ASYNC102 (the scope is a shield now)
        if closing.cancelled_caught:
            logger.error(
                "closing what respond() returned took longer than %s s in %s; its cleanup was cut",
                self._closing_timeout,
                self._name,
            )
            await trio.lowlevel.checkpoint_if_cancelled()
        if cancelled is not None:
            raise cancelled

    async def _step_through(self, iterator: AsyncIterator[ThreadStreamEvent]) -> None:
        athrow = getattr(iterator, "athrow", None)
        step: Callable[[], Awaitable[ThreadStreamEvent]] = iterator.__anext__
        while True:
            if self._silence_counts:
                self._silent_since = trio.current_time()
            try:
                event = await step()
            except StopAsyncIteration:
                return
            self._silent_since = inf
            step = iterator.__anext__
            # A generator that swallows its cancellation must not go on for ever. And it is too late
            # for an event when the turn is being settled: nobody may be shown more.
            if self._is_closed:
                return
            try:
                needed = self._accept(event)
                if needed is not None:
                    if not await self.ask(needed):
                        return
                elif self._must_give_way():
                    await trio.lowlevel.checkpoint()
                    self._begin_round(events=0)
            except (trio.Cancelled, Exception) as raised:  # noqa: ASYNC103
                # Of a scope that respond has open across the yield, or a refused event.
                if athrow is None:
                    raise
                step = partial(athrow, raised)

    def _must_give_way(self) -> bool:
        """Say whether others need their turn now: a respond that never awaits would starve them."""
        if trio.lowlevel.current_task().custom_sleep_data is not _ONE_ROUND:
            # It has waited for something since the last event: Trio takes the mark away then.
            self._begin_round(events=1)
            return False
        self._events_this_round += 1
        if self._events_this_round >= _EVENTS_A_ROUND:
            return True
        return perf_counter() - self._round_began > _SECONDS_A_ROUND

    def _begin_round(self, events: int) -> None:
        trio.lowlevel.current_task().custom_sleep_data = _ONE_ROUND
        self._events_this_round, self._round_began = events, perf_counter()

    async def _close(self, iterator: AsyncIterator[ThreadStreamEvent]) -> None:
        aclose = getattr(iterator, "aclose", None)
        if aclose is None:
            return
        try:
            await aclose()
        except BaseExceptionGroup as group:
            # Closing a generator raises this if a nursery is open across its yield.
            failure = group.split(GeneratorExit)[1]
            if failure is not None:
                raise failure from None
