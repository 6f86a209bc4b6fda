"""A clock that jumps to the next deadline when nothing can happen before it."""

from __future__ import annotations

import math

import trio
import trio.testing
from trio.abc import Clock, Instrument
from trio.lowlevel import current_statistics, current_trio_token

__all__ = ["JumpClock"]

_WAIT_FOR_EVER = 1e9  # seconds; trio shortens it


class JumpClock(Clock, Instrument):
    """Virtual time: it stands still while anything works, and jumps when everything waits.

    Unlike `trio.testing.MockClock(autojump_threshold=0)` it doesn't jump while a worker thread
    is at work, so that a store on SQLite doesn't run into deadlines that aren't near. It has to be
    given to trio twice: `trio.run(main, clock=clock, instruments=[clock])`. pytest-trio does that
    for a fixture that returns one, such as `jump_clock`.
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
        """Return 0 for a deadline that has passed; others come by a jump."""
        return 0.0 if deadline <= self._now else _WAIT_FOR_EVER

    def before_run(self) -> None:
        """Remember how to wake the run."""
        self._token = current_trio_token()

    def before_io_wait(self, timeout: float) -> None:
        """Jump if the run is about to sleep and no worker thread will wake it."""
        if timeout <= 0 or trio.testing.active_thread_count() > 0:
            return
        to_deadline = current_statistics().seconds_to_next_deadline
        if self._token is not None and 0 < to_deadline < math.inf:
            self._now += to_deadline
            self._token.run_sync_soon(_wake)


def _wake() -> None:
    """End the sleep that has begun; the run then looks at the deadlines again."""
