"""Work in pieces: other tasks get to run after each of them.

What one request makes the server do may be much, but never at one go. A thread would be no way out:
the parsers hold the interpreter's lock, and so the event loop too.
"""

from __future__ import annotations

import trio

PIECE = 64 * 1024
"""Bytes or characters; some milliseconds of work when they are packed with small values."""


class Pace:
    """Counts work, and gives way to other tasks when a piece of it is done."""

    def __init__(self) -> None:
        self._left = PIECE

    async def done(self, size: int) -> None:
        """Count so many bytes or characters of work. A checkpoint, if a piece is full."""
        self._left -= size
        if self._left <= 0:
            self._left = PIECE
            await trio.lowlevel.checkpoint()
