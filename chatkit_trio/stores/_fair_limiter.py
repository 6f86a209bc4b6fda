"""A thread limiter that owners share fairly.

Trio's limiter serves its queue in order, so whoever puts a thousand calls into it holds everybody
else up. Here an owner has a few calls in that queue, and its other ones wait outside of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class FairLimiter:
    """A `trio.CapacityLimiter` whose queue has at most `each` calls of one owner.

    Calls of the same owner are served in order.
    """

    def __init__(self, threads: int, each: int) -> None:
        self.limiter = trio.CapacityLimiter(threads)
        """What is waited for inside of `place`, as by `trio.to_thread.run_sync`."""
        self._each = each
        self._places: dict[str | None, trio.Semaphore] = {}

    @asynccontextmanager
    async def place(self, owner: str | None) -> AsyncIterator[None]:
        """Wait until the owner may have one call more in the queue; None is the program's own."""
        places = self._places.setdefault(owner, trio.Semaphore(self._each))
        try:
            async with places:
                yield
        finally:
            if places.value == self._each and not places.statistics().tasks_waiting:
                self._places.pop(owner, None)
