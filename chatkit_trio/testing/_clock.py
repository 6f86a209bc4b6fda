"""A clock that jumps to the next deadline when nothing can happen before it."""

from __future__ import annotations

import math

import trio
import trio.testing
from trio.abc import Clock, Instrument
from trio.lowlevel import current_statistics, current_trio_token

from chatkit_trio.agents._asyncio_thread import running_asyncio_thread

__all__ = ["JumpClock"]

PATIENCE = 5.0
"""So many seconds of real time the clock waits for an asyncio thread that gives no sign of life."""


class JumpClock(Clock, Instrument):
    """Virtual time: it stands still while a task runs, and jumps when all tasks wait.

    Unlike `trio.testing.MockClock(autojump_threshold=0)` it doesn't jump while a worker thread
    runs; otherwise an operation of a store on SQLite could meet a deadline that is far away. Nor
    does it while the asyncio thread of `chatkit_trio.agents` has work in flight, unless that waits
    for trio, or hangs: after 5 s of real time without a sign of life the clock jumps. What sleeps
    on asyncio sleeps in real time.

    Pass the clock to trio twice: `trio.run(main, clock=clock, instruments=[clock])`. pytest-trio
    does so for a fixture that returns such a clock, as `jump_clock` does.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._token: trio.lowlevel.TrioToken | None = None

    def start_clock(self) -> None:
        """Do nothing: time begins at 0."""

    def current_time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Return 0 for a deadline that has passed; other deadlines are reached by a jump.

        When trio has slept for so long it asks again, so that patience can come to its end.
        """
        return 0.0 if deadline <= self._now else PATIENCE

    def before_run(self) -> None:
        """Keep the token that can wake the run."""
        self._token = current_trio_token()

    def before_io_wait(self, timeout: float) -> None:
        """Jump if the run is about to sleep and no other thread is going to wake it."""
        if timeout <= 0 or trio.testing.active_thread_count() > 0:
            return
        to_deadline = current_statistics().seconds_to_next_deadline
        if self._token is None or not 0 < to_deadline < math.inf:
            return
        if not _asyncio_may_act_within(to_deadline):
            self._now += to_deadline
            self._token.run_sync_soon(_wake)


def _asyncio_may_act_within(seconds: float) -> bool:
    thread = running_asyncio_thread()
    if thread is None:
        return False
    return thread.may_act_within(min(seconds, PATIENCE)) and thread.silence < PATIENCE


def _wake() -> None:
    """End the sleep that has begun, so that trio checks the deadlines again."""
