"""Big work in pieces, and one piece at a time, so that no other task has to wait for long.

What one request makes the server do may be much, but never at one go. A thread would be no way out:
the parsers hold the interpreter's lock, and so the event loop too.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

import trio

PIECE = 64 * 1024
"""Bytes or characters; some milliseconds of work when they are packed with small values."""
_ROUNDS = 8
"""How often other tasks run between two pieces. An event takes some rounds from a timer to a
socket: with one round between pieces it would wait for a piece in each."""


class BigWork:
    """Lets one task at a time go on with work that is longer than a piece."""

    def __init__(self) -> None:
        self.turn = trio.StrictFIFOLock()

    def begin(self) -> Pace:
        """Return the pace of one job, to be entered around it."""
        return Pace(self)


class Pace:
    """One job: it says what comes next, and waits for its turn if it is more than a piece so far.

    Nothing but this may be awaited between its pieces.
    """

    def __init__(self, big_work: BigWork) -> None:
        self._turn = big_work.turn
        self._has_turn = False
        self._left = PIECE

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._has_turn:
            return
        self._turn.release()
        if exc_type is None:
            # What the caller does next is work on what came of this one.
            await self._rest()  # noqa: ASYNC102  (nothing was raised)

    async def before(self, size: int) -> None:
        """Announce work on so many bytes or characters. A checkpoint, unless little is done yet."""
        self._left -= size
        if self._left >= 0:
            return
        self._left = PIECE - min(size, PIECE)
        if not self._has_turn:
            await self._turn.acquire()
            self._has_turn = True
        await self._rest()

    async def _rest(self) -> None:
        """Let other tasks run."""
        for _ in range(_ROUNDS):
            await trio.lowlevel.checkpoint()
