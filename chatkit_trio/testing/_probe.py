"""Watching the tasks of one turn from outside, and doing something at one of their checkpoints.

A checkpoint is a moment at which a task of the turn gives up control: the only moments at which a
cancellation can strike. Trio tells an `Instrument` of each, after the task has been suspended and
before anything else runs; so what is done there is done exactly there.

Also watched is what may outlive a turn: its tasks, system tasks, and async generators.
"""

from __future__ import annotations

import linecache
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from types import AsyncGeneratorType
from typing import Any
from unittest import mock

import trio
from trio.abc import Instrument
from trio.lowlevel import Task

from chatkit_trio.agents._asyncio_thread import CALL_NAME, THREAD_NAME

from ._trial_store import turn_of_task

__all__ = ["Probe", "can_repeat_schedules", "same_schedule"]

_TURN_TASK = "chatkit_trio turn_"


class Probe(Instrument):
    """Counts the steps of the tasks of the first turn that starts once it has been armed.

    `act` is called at checkpoint number `at`, `look` before each step of the turn.
    """

    def __init__(
        self, at: int | None, act: Callable[[], None], look: Callable[[], None] = lambda: None
    ) -> None:
        self.count = 0
        """How many checkpoints have passed."""
        self.failure: Exception | None = None
        """What `act` or `look` raised, which trio would drop."""
        self.place: list[str] = []
        """Where the turn was when `act` was called."""
        self.living: set[Task] = set()
        """The turn's tasks that haven't ended."""
        self.system_tasks: set[Task] = set()
        """The system tasks that were started once it had been armed and haven't ended."""
        self.on_checkpoint: Callable[[], None] = lambda: None
        """Called behind each checkpoint."""
        self._at = at
        self._act = act
        self._look = look
        self._generators: list[AsyncGeneratorType[Any, Any]] = []
        self._is_armed = False
        self._found_turn = False

    def arm(self) -> None:
        """Wait for the turn."""
        self._is_armed = True

    def begin(self) -> None:
        """Act if that is to be before the turn's first step."""
        if self._at == 0:
            self._call(self._act)

    @property
    def open_generators(self) -> list[str]:
        """The async generators which the turn's tasks began and nobody has closed, in words."""
        return [
            f"{generator.__qualname__} ({generator.ag_code.co_filename}:{frame.f_lineno})"
            for generator in self._generators
            if (frame := generator.ag_frame) is not None
        ]

    @contextmanager
    def watching_generators(self) -> Iterator[None]:
        """Take note of async generators that the turn's tasks begin. Enter it inside Trio.

        They are kept until this object goes: one that nobody closes is then still open when it's
        asked for, and not closed by the garbage collector at some moment.
        """
        hooks = sys.get_asyncgen_hooks()
        trios = hooks.firstiter

        def firstiter(generator: AsyncGenerator[Any, Any]) -> None:
            if trios is not None:
                trios(generator)
            is_ours = self.living and trio.lowlevel.current_task() in self.living
            if is_ours and isinstance(generator, AsyncGeneratorType):
                self._generators.append(generator)

        sys.set_asyncgen_hooks(firstiter=firstiter)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(firstiter=trios)

    def task_spawned(self, task: Task) -> None:
        """Take note of the turn's tasks, and of system tasks."""
        nursery = task.parent_nursery
        parent = None if nursery is None else nursery.parent_task
        if self._is_armed and not self._found_turn and task.name.startswith(_TURN_TASK):
            self._found_turn = True
            self.living.add(task)
        elif parent in self.living or (task.name == CALL_NAME and self._is_called_by_turn(task)):
            self.living.add(task)
        elif task.name == THREAD_NAME:
            return  # it serves the whole trio run
        elif self._is_armed and parent is not None and parent.parent_nursery is None:
            self.system_tasks.add(task)

    def _is_called_by_turn(self, task: Task) -> bool:
        turn = _turn_of(task)
        return turn is not None and any(_turn_of(living) is turn for living in self.living)

    def task_exited(self, task: Task) -> None:
        """Take note of a task's end."""
        self.living.discard(task)
        self.system_tasks.discard(task)

    def before_task_step(self, task: Task) -> None:
        """Let the turn be looked at."""
        if task in self.living:
            self._call(self._look)

    def after_task_step(self, task: Task) -> None:
        """Count, and act when it's time."""
        if task not in self.living:
            return
        self.count += 1
        self._call(self.on_checkpoint)
        if self.count == self._at:
            self.place = [f"task {task.name}", *_where(task)]
            self._call(self._act)

    def _call(self, function: Callable[[], None]) -> None:
        try:
            function()
        except Exception as error:
            self.failure = error


def _turn_of(task: Task) -> Any:
    return task.context.copy().run(turn_of_task)  # a copy: one that is entered can't be run


def _where(task: Task) -> list[str]:
    """Return where a suspended task waits, the innermost frame first, without Trio's own."""
    frames = [(frame.f_code, line) for frame, line in task.iter_await_frames()]
    lines = [
        f"{code.co_filename}:{line} in {code.co_name}: "
        + linecache.getline(code.co_filename, line).strip()
        for code, line in reversed(frames)
        if "/trio/_" not in code.co_filename
    ]
    return lines[:6]


# Trio shuffles the tasks of each tick with this generator. It isn't public, but pytest-trio and
# hypothesis seed it too; without it every schedule is still explored, only not the same one twice.
def _schedule_source() -> tuple[Any, random.Random | None]:
    from trio._core import _run

    source = getattr(_run, "_r", None)
    is_usable = isinstance(source, random.Random) and hasattr(
        _run, "_ALLOW_DETERMINISTIC_SCHEDULING"
    )
    return _run, source if is_usable else None


def can_repeat_schedules() -> bool:
    """Say whether this version of Trio lets a seed decide the order in which tasks run."""
    return _schedule_source()[1] is not None


@contextmanager
def same_schedule(seed: int) -> Iterator[None]:
    """Make Trio run tasks in the order that this seed gives, if it can be made to."""
    module, source = _schedule_source()
    if source is None:
        yield
        return
    state, is_deterministic = source.getstate(), module._ALLOW_DETERMINISTIC_SCHEDULING
    source.seed(seed)
    module._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        yield
    finally:
        source.setstate(state)
        module._ALLOW_DETERMINISTIC_SCHEDULING = is_deterministic


@contextmanager
def without_real_time() -> Iterator[None]:
    """Let computing take no time for the engine, which glances at the real clock now and then.

    How often it gives others their turn depends on nothing then but on what it does.
    """
    with ExitStack() as stack:
        for module, name in _real_clocks():
            stack.enter_context(mock.patch.object(module, name, _no_time))
        yield


@cache  # the whole engine is loaded with this module, and there are thousands of runs
def _real_clocks() -> list[tuple[Any, str]]:
    """Return where the engine reads the real clock: the modules and the names that they use."""
    return [
        (module, name)
        for full_name, module in sorted(sys.modules.items())
        if full_name.startswith("chatkit_trio._engine.")
        for name, value in vars(module).items()
        if value is time.perf_counter
    ]


def _no_time() -> float:
    return 0.0
