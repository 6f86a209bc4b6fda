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

_PATIENCE = 2.0
"""Seconds that a tool waits for a reader to have done with earlier entries."""


class Reader:
    """Who reads a queue, and maybe reads it no more."""

    is_gone = False
    """Whether it was closed or dropped; a dropped one lets go of its queue a moment later."""


class EventQueue:
    """A first-in, first-out queue with one reader; used on the trio thread only."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._entries: deque[Any] = deque()
        self._reader: Reader | None = None
        self._reading_task: trio.lowlevel.Task | None = None
        """The task that reads, if this queue is all that it waits for."""
        self._is_behind = False
        """Whether entries wait, or have been taken and aren't done with."""
        self._filled = trio.lowlevel.ParkingLot()
        self._emptied = trio.lowlevel.ParkingLot()
        self._handled = trio.lowlevel.ParkingLot()

    def attach_reader(self, reader: Reader, *, waits_elsewhere: bool = False) -> None:
        """Let this one read. Raises `RuntimeError` if another does, and isn't gone.

        `waits_elsewhere` says that it waits for more than this queue.
        """
        if self._reader is not None:
            if not self._reader.is_gone:
                raise RuntimeError(
                    "this AgentContext's events are being read already: give each model run that"
                    " streams at the same time a context of its own"
                )
            self.detach_reader(self._reader)
        self._reader = reader
        self._reading_task = None if waits_elsewhere else trio.lowlevel.current_task()

    def detach_reader(self, reader: Reader) -> None:
        """Stop reading; what is left is dropped, and nobody waits for it any more.

        Does nothing if another reads already.
        """
        if self._reader is not reader:
            return
        self._reader = self._reading_task = None
        self._entries.clear()
        self._emptied.unpark_all()
        self._note_handled()

    async def put(self, entry: Any) -> None:
        """Append an entry, waiting for room. A cancelled call has appended nothing.

        Raises `RuntimeError` if the queue is full and nobody reads it.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while len(self._entries) >= self._capacity:
            if self._reader is None:
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
        self._is_behind = True
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

    def all_handled(self) -> None:
        """Take note that the reader, which calls this, has done with what it has taken."""
        if self._reading_task is not None:
            self._reading_task = trio.lowlevel.current_task()
        self._note_handled()

    def _note_handled(self) -> None:
        self._is_behind = bool(self._entries)
        if not self._is_behind:
            self._handled.unpark_all()

    async def wait_handled(self) -> None:
        """Wait until the reader has done with all entries, for two seconds at most.

        Returns at once if nobody reads, or if the reader waits for something else meanwhile: for a
        run that it reads itself, or for this very call.
        """
        with trio.move_on_after(_PATIENCE):
            while self._is_behind and self._reading_task not in (
                None,
                trio.lowlevel.current_task(),
            ):
                await self._handled.park()

    def __len__(self) -> int:
        return len(self._entries)
