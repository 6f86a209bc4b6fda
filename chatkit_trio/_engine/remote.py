"""A turn that runs on another node, as far as it can be read from here."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import trio

from chatkit_trio.errors import FramesLost
from chatkit_trio.store import TurnRecord

from .frames import SendNow
from .policy import TurnPolicy
from .ticker import Ticker


class Reader(Protocol):
    """A place in the frames of a turn, here or elsewhere."""

    def close(self) -> None:
        """Stop reading."""


class RemoteReader:
    """A place in the frames of a turn on another node; it is used as a `FrameReader` is.

    The node of the turn sends the next frames when `taken` has been called for the last ones, so
    at most one message waits here.
    """

    def __init__(
        self, patience: float, taken: Callable[[], None], leave: Callable[[], None]
    ) -> None:
        self.number = 0
        """The number of the frame that is read next."""
        self.end_reason: str | None = None
        """How the turn ended, once it is known."""
        self._patience = patience
        # Kept across reads: who gives a read up for each heartbeat mustn't wait for ever.
        self._silent_at = trio.current_time() + patience
        self._taken = taken
        self._leave = leave
        self._state = b""
        self._frames: deque[bytes] = deque()
        self.is_over = False
        """Whether no more frames come."""
        self._news = trio.Event()

    @property
    def is_ready(self) -> bool:
        """Whether `receive` has something to return, or to raise, without waiting."""
        return bool(self._state or self._frames) or self.is_over

    def begin_with(self, number: int, state: bytes) -> None:
        """Begin with this frame; before it, return frames in place of those that aren't kept."""
        self.number, self._state = number, state
        self._expect_more()

    async def receive(self, max_bytes: int = 65536) -> list[bytes]:
        """Return frames that have come, at least one and about `max_bytes` at most.

        Always a checkpoint; a cancelled call has read nothing. Raises `trio.EndOfChannel` behind
        the last frame, and `FramesLost` if this reader has fallen too far behind or nothing has
        been heard of the other node for too long.
        """
        await trio.lowlevel.checkpoint()
        if self._state:
            state, self._state = self._state, b""
            return [state]
        while not self._frames:
            if self.is_over and self.end_reason is not None:
                raise trio.EndOfChannel
            if self.is_over:
                raise FramesLost(
                    "the server of this answer doesn't respond; load the thread instead"
                )
            await self._wait()
        taken = [self._frames.popleft()]
        size = len(taken[0])
        while self._frames and size + len(self._frames[0]) <= max_bytes:
            taken.append(self._frames.popleft())
            size += len(taken[-1])
        self.number += len(taken)
        if not self._frames and not self.is_over:
            self._taken()
            self._expect_more()
        return taken

    async def receive_in_time(
        self,
        ticker: Ticker,
        window: float,
        heartbeat: float,
        send_now: SendNow | None = None,
    ) -> list[bytes]:
        """Return frames, or an empty list when a heartbeat is due.

        Frames come in messages, so nothing is held back, and `send_now` isn't called.
        """
        with trio.move_on_after(heartbeat):
            return await self.receive()
        return []

    def close(self) -> None:
        """Stop reading. Closing twice is allowed."""
        self._leave()

    def break_off(self) -> None:
        """Stop reading, and tell whoever reads that the rest is to be had elsewhere."""
        self.close()
        self.end(None)

    def put(self, first: int, frames: Sequence[bytes]) -> None:
        """Take in what the other node has sent; a message without frames shows that it lives."""
        if first != self.number + len(self._frames):
            self.end(None)
            return
        self._frames += frames
        if not frames:
            self._taken()
        self._expect_more()
        self._wake()

    def end(self, reason: str | None) -> None:
        """Take note that no more will come; None if frames are missing."""
        self.is_over, self.end_reason = True, reason
        self._wake()

    def _expect_more(self) -> None:
        self._silent_at = trio.current_time() + self._patience

    async def _wait(self) -> None:
        with trio.move_on_at(self._silent_at):
            await self._news.wait()
            return
        self.end(None)

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()


class RemoteTurn:
    """What a reader asks of the turn that it reads."""

    def __init__(self, record: TurnRecord, policy: TurnPolicy, reader: RemoteReader) -> None:
        self.id = record.turn_id
        self.thread_id = record.thread_id
        self.policy = policy
        self.is_ending = False
        self.settled = trio.Event()
        self.settled.set()  # for what happens here: the other node sees to its storing
        self.longest_settling = 0.0
        self._reader = reader

    @property
    def end_reason(self) -> str:
        """How the turn ended, for clients that ask."""
        return self._reader.end_reason or "crashed"

    def close_reader(self, reader: Reader) -> None:
        """Tell the other node that this reader has left."""
        reader.close()
