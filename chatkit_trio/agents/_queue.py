"""The queue of a context: what a model run and its tools have produced, and nobody has read yet.

Thread events of tools and events of the model stand in the queue in the order of production, so
that one reader can turn both into a single stream. The queue is bounded: tools wait when it is
full. The entries of a model on the asyncio thread are bounded by their sender
(`_asyncio_thread.Outlet`).
"""

from __future__ import annotations

from collections import deque
from typing import Any

import trio

CAPACITY = 256
"""How many entries may wait before their producers have to wait too."""


class EventQueue:
    """A first-in, first-out queue with one reader; used on the trio thread only."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: deque[Any] = deque()
        self._has_reader = False
        self._filled = trio.lowlevel.ParkingLot()
        self._emptied = trio.lowlevel.ParkingLot()

    def attach_reader(self) -> None:
        """Become the reader. Raises `RuntimeError` if there is one."""
        if self._has_reader:
            raise RuntimeError(
                "this AgentContext's events are being read already: give each model run that"
                " streams at the same time a context of its own"
            )
        self._has_reader = True

    def detach_reader(self) -> None:
        """Stop reading; what is left is dropped, and nobody waits for it any more."""
        self._has_reader = False
        self._entries.clear()
        self._emptied.unpark_all()

    async def put(self, entry: Any) -> None:
        """Append an entry, waiting for room. A cancelled call has appended nothing.

        Raises `RuntimeError` if the queue is full and nobody reads it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while len(self._entries) >= self._capacity:
            if not self._has_reader:
                raise RuntimeError(
                    f"{len(self._entries)} events wait in this AgentContext and nobody reads them:"
                    " start to iterate stream_agent_response() (or run_model()) first"
                )
            await self._emptied.park()
        self.put_nowait(entry)
        await trio.lowlevel.cancel_shielded_checkpoint()

    def put_nowait(self, entry: Any) -> None:
        """Append an entry without waiting for room; its sender limits how many there are."""
        self._entries.append(entry)
        self._filled.unpark()

    async def get(self) -> Any:
        """Return the oldest entry, waiting for one. A cancelled call has removed nothing."""
        while not self._entries:
            await self._filled.park()
        return self.get_nowait()

    def get_nowait(self) -> Any:
        """Return the oldest entry. Raises `IndexError` if there is none."""
        entry = self._entries.popleft()
        if len(self._entries) < self._capacity:
            self._emptied.unpark()
        return entry

    def __len__(self) -> int:
        return len(self._entries)
