"""What holds the process up: tasks and threads that haven't ended, and where they are.

Only reads, so that it can be asked from any thread while trio is stuck.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType

import trio

_MACHINERY = sys.stdlib_module_names | {
    "chatkit_trio",
    "click",
    "hypercorn",
    "outcome",
    "quart",
    "quart_trio",
    "trio",
}
"""Modules in which everything waits; what is told is the user's code that called them."""


_MOST_LOOKS = 20


def tasks(root: trio.lowlevel.Task | None) -> Iterator[str]:
    """Yield a line for each task below `root` that user code is in, innermost tasks first."""
    if root is None:
        return
    for nursery in root.child_nurseries:
        for child in nursery.child_tasks:
            yield from tasks(child)
    if (where := _users_place(_frames_of(root))) is not None:
        yield f"the task {root.name} waits in {where}"


def threads() -> Iterator[str]:
    """Yield a line for each other thread that user code is in, the main thread included."""
    names = {each.ident: each.name for each in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        stack = list(traceback.walk_stack(frame))[::-1]
        if ident == threading.get_ident():
            continue
        if (where := _users_place(stack)) is not None:
            yield f"the thread {names.get(ident, ident)} is in {where}"


def _frames_of(task: trio.lowlevel.Task) -> Iterable[tuple[FrameType, int]]:
    # What runs just now, in another thread than this, has no frames to be seen: one that goes round
    # in circles is looked at again, and one that computes is told as its thread.
    for _ in range(_MOST_LOOKS):
        with suppress(TypeError, RuntimeError, ValueError):
            if not getattr(task.coro, "cr_running", False):
                return [(frame, line) for frame, line in task.iter_await_frames() if frame]
        time.sleep(0.001)
    return []


def _users_place(stack: Iterable[tuple[FrameType, int]]) -> str | None:
    """Return where the innermost frame of a stack, outermost frame first, is in user code."""
    place = None
    for frame, line in stack:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        # The body of a module is how the program began.
        if package not in _MACHINERY and frame.f_code.co_name != "<module>":
            place = f"{frame.f_code.co_filename}:{line} ({frame.f_code.co_name})"
    return place
