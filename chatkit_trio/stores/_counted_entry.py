"""How a store that may be entered many times is opened and closed once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class CountedEntry:
    """Opens something for the first who enters, and closes it when the last leaves."""

    def __init__(
        self,
        open_: Callable[[], Awaitable[None]],
        close: Callable[[], Awaitable[None]],
        *,
        close_timeout: float,
    ) -> None:
        self._open = open_
        self._close = close
        self._close_timeout = close_timeout
        self._changing = trio.Lock()
        self._times_entered = 0

    async def enter(self) -> None:
        """Open, unless it is open; if that fails, nothing is open and the entry isn't counted."""
        async with self._changing:
            if self._times_entered == 0:
                await self._open_all()
            self._times_entered += 1

    async def leave(self) -> None:
        """Close, unless somebody is still in; even if cancelled, within `close_timeout` seconds."""
        with trio.move_on_after(self._close_timeout, shield=True):
            async with self._changing:
                self._times_entered -= 1
                if self._times_entered == 0:
                    await self._close()

    async def _open_all(self) -> None:
        try:
            await self._open()
        except BaseException:
            # What was opened before it failed, or was cancelled.
            with trio.move_on_after(self._close_timeout, shield=True):
                await self._close()
            raise
