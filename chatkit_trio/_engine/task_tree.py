"""What the tasks of a program do now: their nurseries, what each one waits for, and since when.

Trio knows its tasks and where each of them stands; this only reads that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import takewhile
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import trio
from pydantic import BaseModel

_MOST_PLACES = 8
"""How many places in the code of one task are told, the innermost ones."""

_LONGEST_NAME = 120  # characters


class TaskClock(trio.abc.Instrument):
    """Notes since when each task waits; from now on, in the run it is added to."""

    def __init__(self) -> None:
        self._since: WeakKeyDictionary[trio.lowlevel.Task, float] = WeakKeyDictionary()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._since[task] = trio.current_time()

    def seconds(self, task: trio.lowlevel.Task) -> float | None:
        """Return for how long a task has been waiting; None if it hasn't run since the start."""
        since = self._since.get(task)
        return None if since is None else trio.current_time() - since


class Place(BaseModel):
    """A place in the code at which a task stands."""

    function: str
    module: str
    line: int


class NurseryTree(BaseModel):
    """A nursery with its tasks."""

    tasks: list[TaskTree]
    left_out: int = 0
    """How many of its tasks aren't told."""
    is_cancelled: bool = False
    is_shielded: bool = False
    seconds_left: float | None = None
    """Until its deadline; None if it has none."""


class TaskTree(BaseModel):
    """A task with all the tasks below it."""

    name: str
    waits_for: str
    seconds: float | None
    """For how long it has been waiting; None if that isn't known."""
    places: list[Place]
    """From the outermost to the one that waits; those in Trio are left out."""
    nurseries: list[NurseryTree]


def tree_of(task: trio.lowlevel.Task, clock: TaskClock, most_tasks: int) -> TaskTree:
    """Return a task and what is below it, `most_tasks` in all. Not a checkpoint."""
    return _Drawing(clock, most_tasks).task(task)


class _Drawing:
    def __init__(self, clock: TaskClock, most_tasks: int) -> None:
        self._clock = clock
        self._left = most_tasks - 1

    def task(self, task: trio.lowlevel.Task) -> TaskTree:
        is_running = task is trio.lowlevel.current_task()
        stack = [] if is_running else list(task.iter_await_frames())
        ours = [(frame, line) for frame, line in stack if not _is_trios(frame)]
        inner = takewhile(_is_trios, (frame for frame, _ in reversed(stack)))
        return TaskTree(
            name=_short(task.name),
            waits_for="nothing: it runs" if is_running else _short(_awaited([*inner][::-1])),
            seconds=None if is_running else self._clock.seconds(task),
            places=[_place(frame, line) for frame, line in ours[-_MOST_PLACES:]],
            nurseries=[self._nursery(nursery) for nursery in task.child_nurseries],
        )

    def _nursery(self, nursery: trio.Nursery) -> NurseryTree:
        # A set has no order: those that have waited longest come first.
        tasks = sorted(nursery.child_tasks, key=lambda task: -(self._clock.seconds(task) or 0))
        told = tasks[: max(0, self._left)]
        self._left -= len(told)
        scope = nursery.cancel_scope
        left = scope.deadline - trio.current_time()
        return NurseryTree(
            tasks=[self.task(each) for each in told],
            left_out=len(tasks) - len(told),
            is_cancelled=scope.cancel_called,
            is_shielded=scope.shield,
            seconds_left=left if math.isfinite(left) else None,
        )


def _is_trios(frame: FrameType) -> bool:
    return _module(frame).partition(".")[0] == "trio"


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _place(frame: FrameType, line: int) -> Place:
    return Place(
        function=_short(frame.f_code.co_qualname), module=_short(_module(frame)), line=line
    )


def _awaited(frames: Iterable[FrameType]) -> str:
    """Return the name of what is awaited, as Trio's documentation has it."""
    for frame in frames:
        name = frame.f_code.co_name
        if name == "_nested_child_finished":
            return "the tasks of its nursery"
        if name == "to_thread_run_sync":
            function = frame.f_locals.get("sync_fn")
            return f"a worker thread, in {_name_of(function)}"
        if name.startswith("checkpoint"):
            return "its next step"
        if (public := _public_name(frame)) is not None:
            return public
    return "something that isn't Trio's"


def _public_name(frame: FrameType) -> str | None:
    name = frame.f_code.co_name
    if name.startswith("_"):
        return None
    owner = frame.f_locals.get("self")
    first = name if owner is None else type(owner).__name__
    for module in (trio, trio.lowlevel):
        if hasattr(module, first):
            return ".".join((module.__name__, first, *(() if owner is None else (name,))))
    return None


def _name_of(function: Any) -> str:
    while hasattr(function, "func"):  # a partial
        function = function.func
    return str(getattr(function, "__qualname__", type(function).__qualname__))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_NAME else f"{text[: _LONGEST_NAME - 1]}…"
