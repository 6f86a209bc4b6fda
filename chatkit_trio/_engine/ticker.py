"""When readers send what they have: one timer for all connections of a server.

A send costs many times what a frame does, and as much whatever it holds. So frames that follow each
other within a short window go out together. The first one after a pause goes out at once. The same
timer tells readers that have been silent for too long to send a heartbeat.

A server that can't keep up sees its timer come late. Then the windows grow, up to a bound, and
shrink again when it isn't late any more: a full server becomes a little slower for all. Those of
streams that nobody can read as fast as they come grow first, when the server is merely busy.
"""

from __future__ import annotations

from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Protocol, TypeAlias
from weakref import ref

import trio

_SLACK = 0.004
"""Windows that end within so many seconds end together."""

_LATE = 0.01
"""So many seconds late, the server has more to do than it can."""

_BUSY = 0.0015
"""So many seconds late, many tasks want to run at once."""

_GROWTH, _SHRINKAGE, _MOST = 1.25, 0.97, 4.0
"""What the windows are multiplied by when the timer is late, and when it isn't; and at most."""


class Ticked(Protocol):
    """A reader, as the ticker sees it."""

    def windows_end(self, until: float) -> None:
        """Send what has waited, if the window ends until then."""

    def beat_may_be_due(self) -> float | None:
        """Send a heartbeat if one is due; return when the next one may be, None if nobody waits."""


_Entry: TypeAlias = "tuple[float, int, ref[Ticked]]"


class Ticker:
    """Wakes readers when their window ends, and when a heartbeat is due."""

    def __init__(self) -> None:
        # Readers that have left aren't kept: each holds the frames of a turn.
        self._windows: list[_Entry] = []
        self._beats: list[_Entry] = []
        self._numbers = count()
        self._waiting = trio.CancelScope()
        self.stretch = 1.0
        """What windows are multiplied by."""
        self.rush_stretch = 1.0
        """What windows are multiplied by whose frames come faster than anybody reads."""

    def at_window_end(self, when: float, reader: Ticked) -> None:
        """Call `windows_end` at about this time. Not a checkpoint."""
        self._push(self._windows, when, reader)

    def at_beat(self, when: float, reader: Ticked) -> None:
        """Call `beat_may_be_due` at this time. Not a checkpoint."""
        self._push(self._beats, when, reader)

    def _push(self, entries: list[_Entry], when: float, reader: Ticked) -> None:
        heappush(entries, (when, next(self._numbers), ref(reader)))
        if when < self._waiting.deadline:
            self._waiting.deadline = when

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            now = trio.current_time()
            self._end_windows(now + _SLACK)
            self._beat(now)
            wakes_at = min(_first(self._windows), _first(self._beats))
            with trio.CancelScope(deadline=wakes_at) as self._waiting:
                await trio.sleep_forever()
            self._adapt(trio.current_time() - self._waiting.deadline)

    def _end_windows(self, until: float) -> None:
        while _first(self._windows) <= until:
            if (reader := heappop(self._windows)[2]()) is not None:
                reader.windows_end(until)

    def _beat(self, now: float) -> None:
        while _first(self._beats) <= now:
            reader = heappop(self._beats)[2]()
            if reader is not None and (again := reader.beat_may_be_due()) is not None:
                self._push(self._beats, again, reader)

    def _adapt(self, late: float) -> None:
        self.stretch = _adapted(self.stretch, is_late=late > _LATE)
        self.rush_stretch = _adapted(self.rush_stretch, is_late=late > _BUSY)


def _adapted(stretch: float, *, is_late: bool) -> float:
    return min(max(stretch * (_GROWTH if is_late else _SHRINKAGE), 1.0), _MOST)


def _first(entries: list[_Entry]) -> float:
    return entries[0][0] if entries else inf
