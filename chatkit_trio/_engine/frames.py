"""The frames of one turn, from the turn that writes them to the connections that read them.

A `FrameLog` keeps the latest frames, each with its number; a `FrameReader` is a place in it. So
several readers can watch one turn, and one that comes back goes on where it was. Two bounds hold:

- `max_unread` bytes wait for the *leading* reader (the connection that started the turn); when
  they do, `wait_for_room` makes the writer wait. That is the backpressure on the model.
- `max_kept` bytes are kept for readers that come later or lag behind; older frames are dropped,
  and a reader that still needed them gets `FramesLost`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice
from math import inf
from time import perf_counter
from typing import Self, TypeAlias

import trio

from chatkit_trio.errors import FramesLost

from .ticker import Ticker

_MAX_ROUNDS = 32
"""How many rounds of the scheduler a reader gives way to a busy writer. A round is some 10 µs."""

_MAX_SECONDS = 0.02
"""And for how long, in real time: a round in which somebody computes takes longer."""

_OF_ITEM = b'data: {"type":"thread.item.'
"""How a frame begins that tells of an item."""

_MANY_FRAMES = 64
"""With this many frames ready, give way no longer."""

_MOST_HELD_BACK = 256
"""With this many frames ready, don't wait for the end of a window."""

_RUSH = 200.0
"""More frames a second are more than anybody reads."""

_MOST_BYTES = 65536
"""About how much is read at once."""

SendNow: TypeAlias = Callable[[list[bytes]], bool]
"""Sends frames without waiting; False if the task that reads has to be woken."""


class ComponentFrame(bytes):
    """A frame that updates one component of a widget; `whole` updates the widget instead.

    Readers get it only if their client has asked for such updates.
    """

    whole: bytes

    def __new__(cls, frame: bytes, whole: bytes) -> Self:
        made = super().__new__(cls, frame)
        made.whole = whole
        return made

    @property
    def kept_size(self) -> int:
        """How many bytes both take."""
        return len(self) + len(self.whole)


class FrameLog:
    """A bounded run of frames with one writer and any number of readers."""

    def __init__(self, *, max_unread: int, max_kept: int) -> None:
        self._max_unread = max_unread
        self._max_kept = max_kept
        self._frames: deque[bytes] = deque()
        self._size = 0
        self._first = 0
        self._unread = 0
        self._leader: FrameReader | None = None
        self._readers: set[FrameReader] = set()
        self._pacing: dict[FrameReader, None] = {}
        """The readers that wait for their time to send."""
        self._waiting_readers = trio.lowlevel.ParkingLot()
        self._waiting_writer = trio.lowlevel.ParkingLot()
        self.closed = trio.Event()
        """Set when the last frame has been written."""
        self._taps: list[Callable[[bytes], None]] = []
        self.last_could_return = False
        """Whether the reader that left last can come back."""

    @property
    def next_number(self) -> int:
        """The number the next frame will have."""
        return self._first + len(self._frames)

    @property
    def kept_bytes(self) -> int:
        """How much is kept now."""
        return self._size

    @property
    def unread_bytes(self) -> int:
        """How much waits for the leading reader."""
        return self._unread

    @property
    def readers(self) -> int:
        """How many are reading now."""
        return len(self._readers)

    @property
    def has_readers(self) -> bool:
        """Whether anyone is reading now."""
        return bool(self._readers)

    @property
    def has_room(self) -> bool:
        """Whether the leading reader, if there is one, has read enough for more to be written."""
        return self._leader is None or self._unread < self._max_unread

    @property
    def is_closed(self) -> bool:
        """Whether the last frame has been written."""
        return self.closed.is_set()

    def append(self, frame: bytes) -> None:
        """Write a frame and tell the readers. Never waits; ask `has_room` first."""
        self._frames.append(frame)
        if self._taps:
            for tap in tuple(self._taps):
                tap(frame)
        size = unread = len(frame)
        # Asked here and not in a function: most frames are plain, and a call costs each of them.
        if isinstance(frame, ComponentFrame):
            size = frame.kept_size
            unread = 0 if self._leader is None else len(self._leader.version_of(frame))
        self._size += size
        if self._leader is not None:
            self._unread += unread
        if self._size > self._max_kept:
            self._drop_old_frames()
        if self._waiting_readers:
            self._waiting_readers.unpark_all()
        if self._pacing:
            for reader in tuple(self._pacing):
                reader.frame_came()

    def tap(self, tap: Callable[[bytes], None]) -> None:
        """Have this called with each frame when it is written, at once; it must not raise."""
        self._taps.append(tap)

    def untap(self, tap: Callable[[bytes], None]) -> None:
        """Call this no more, if it was."""
        if tap in self._taps:
            self._taps.remove(tap)

    def close(self) -> None:
        """Write the end: readers get what is left, then `trio.EndOfChannel`."""
        self.closed.set()
        self._waiting_readers.unpark_all()
        self._waiting_writer.unpark_all()
        for reader in tuple(self._pacing):
            reader.wake()

    async def wait_for_room(self) -> None:
        """Wait until the leading reader has read something, or is gone, or `wake_writer`."""
        await self._waiting_writer.park()

    def wake_writer(self) -> None:
        """End the wait for room, because the writer has something else to do."""
        self._waiting_writer.unpark_all()

    def open_reader(
        self,
        start: int | None = None,
        *,
        leads: bool = False,
        can_return: bool = False,
        component_updates: bool = False,
    ) -> FrameReader:
        """Return a reader that begins with frame `start` (None: the first frame written next).

        Raises `FramesLost` if that frame isn't kept any more.
        """
        number = self.next_number if start is None else start
        if not self._first <= number <= self.next_number:
            raise FramesLost(
                f"frame {number} isn't kept (kept are {self._first} to {self.next_number - 1});"
                " load the thread instead"
            )
        reader = FrameReader(
            self, number, can_return=can_return, component_updates=component_updates
        )
        self._readers.add(reader)
        if leads:
            self._leader = reader
        return reader

    def _drop_old_frames(self) -> None:
        while self._size > self._max_kept and len(self._frames) > 1:
            if self._leader is not None and self._first >= self._leader.number:
                return
            frame = self._frames.popleft()
            self._size -= frame.kept_size if isinstance(frame, ComponentFrame) else len(frame)
            self._first += 1

    def _take(self, reader: FrameReader, max_bytes: int) -> list[bytes]:
        if reader.number < self._first:
            raise FramesLost(f"frame {reader.number} isn't kept any more; load the thread instead")
        taken: list[bytes] = []
        size = 0
        # By index, not by iterating over those before it: it costs little near either end.
        for place in range(reader.number - self._first, len(self._frames)):
            frame = self._frames[place]
            if isinstance(frame, ComponentFrame):
                frame = reader.version_of(frame)
            if taken and size + len(frame) > max_bytes:
                break
            taken.append(frame)
            size += len(frame)
        reader.number += len(taken)
        if reader is self._leader:
            self._unread -= size
            self._drop_old_frames()
            self._waiting_writer.unpark_all()
        return taken

    def _leave(self, reader: FrameReader) -> None:
        if reader in self._readers:
            self._readers.discard(reader)
            self.last_could_return = reader.can_return
        if reader is self._leader:
            self._leader = None
            self._unread = 0
            self._drop_old_frames()
            self._waiting_writer.unpark_all()


class Prelude:
    """What a reader is told before any frame, made in a task of its own.

    A read may be given up and begun again, because a heartbeat is due; this goes on meanwhile.
    """

    def __init__(self, make: Callable[[], Awaitable[bytes]], nursery: trio.Nursery) -> None:
        self._scope = trio.CancelScope()
        self._made = trio.Event()
        self._told: bytes | None = None
        self._error: Exception | None = None
        nursery.start_soon(self._run, make)

    @property
    def is_ready(self) -> bool:
        """Whether `receive` doesn't wait."""
        return self._made.is_set()

    async def receive(self) -> bytes:
        """Return what has been made. Raises what making it has raised."""
        await self._made.wait()
        if self._error is not None:
            raise self._error
        if self._told is None:
            raise FramesLost("the server is about to leave; load the thread instead")
        return self._told

    def leave(self) -> None:
        """Give up making it."""
        self._scope.cancel()

    async def _run(self, make: Callable[[], Awaitable[bytes]]) -> None:
        try:
            with self._scope:
                self._told = await make()
        except Exception as error:
            self._error = error
        finally:
            self._made.set()


class FrameReader:
    """A place in a `FrameLog`."""

    _ticker: Ticker
    _window = 0.0
    _heartbeat = inf
    _sent_at = -inf
    _silent_since = 0.0
    _rushes = False
    """Whether the frames sent last have come faster than anybody reads."""
    _has_window = False
    """Whether the ticker knows when the frames that wait are to be sent."""
    _has_beat = False
    """Whether the ticker knows of this reader's heartbeats."""
    _send_now: SendNow | None = None
    _error: Exception | None = None
    """What `_send_now` has raised."""

    def __init__(
        self, log: FrameLog, number: int, *, can_return: bool, component_updates: bool
    ) -> None:
        self._log = log
        self._component_updates = component_updates
        self.can_return = can_return
        """Whether the client behind it knows how to come back to the turn."""
        self.number = number
        """The number of the frame that is read next."""
        self._prelude: Prelude | None = None
        self._time = trio.lowlevel.ParkingLot()

    @property
    def is_ready(self) -> bool:
        """Whether `receive` has something to return, or to raise, without waiting."""
        if self._prelude is not None:
            return self._prelude.is_ready
        return self.number < self._log.next_number or self._log.is_closed

    def begin_with(self, make: Callable[[], Awaitable[bytes]], nursery: trio.Nursery) -> None:
        """Before any frame, return what `make` makes, in place of frames that aren't kept.

        It comes as one piece, so that a reader which has all of it goes on with `number`.
        """
        self._prelude = Prelude(make, nursery)

    def knows_items(self) -> list[bytes]:
        """Go on with the frame that is written next; return those before it that tell of no items.

        The state that the reader begins with has what the others tell, and a piece of text isn't to
        be told twice. So all that is before the next frame has to be told in one piece: a reader
        that comes back to a frame among these would get the others with it.
        """
        log = self._log
        # Some may not be kept any more: a reader that comes later doesn't get them either.
        kept = islice(log._frames, max(self.number - log._first, 0), None)
        self.number = log.next_number
        return [frame for frame in kept if not frame.startswith(_OF_ITEM)]

    def version_of(self, frame: ComponentFrame) -> bytes:
        """Return such a frame as the client behind this reader gets it."""
        return frame if self._component_updates else frame.whole

    async def wait_for_more(self) -> None:
        """Wait until another frame has been written, or the last one has been."""
        if not self._log.is_closed:
            await self._log._waiting_readers.park()

    async def receive(self, max_bytes: int = _MOST_BYTES) -> list[bytes]:
        """Return all frames that are ready, at least one and about `max_bytes` at most.

        Always a checkpoint; a cancelled call has read nothing. Raises `trio.EndOfChannel` behind
        the last frame and `FramesLost` when this reader has fallen too far behind.
        """
        if self._prelude is not None:
            state = await self._prelude.receive()
            self._prelude = None
            return [state]
        if self.is_ready:
            await trio.lowlevel.checkpoint()
        while True:
            while self.number == self._log.next_number:
                if self._log.is_closed:
                    raise trio.EndOfChannel
                await self._log._waiting_readers.park()
            if self._log.next_number - self.number > 1:
                await self._let_writer_go_on()
            # Another task that reads the same result may have taken them.
            if frames := self._log._take(self, max_bytes):
                return frames

    async def receive_in_time(
        self,
        ticker: Ticker,
        window: float,
        heartbeat: float,
        send_now: SendNow | None = None,
    ) -> list[bytes]:
        """Return frames when they are to be sent, or an empty list when a heartbeat is due.

        Frames that come within `window` seconds of the last ones are held back so long. A
        heartbeat is due after so many seconds without a frame. While this waits, frames whose
        window has ended are handed to `send_now`, if it is given; when that returns False, this
        returns what has come since, which may be nothing. A checkpoint; a cancelled call has
        read nothing. Raises what `receive` does, and what `send_now` has raised.
        """
        if self._prelude is not None:
            with trio.move_on_after(heartbeat):
                return await self.receive()
            return []
        self._ticker, self._window, self._heartbeat = ticker, window, heartbeat
        # Without a window a busy writer's frames would go out one by one.
        self._send_now = send_now if window else None
        self._silent_since = trio.current_time()
        while True:
            if self._is_due(trio.current_time()):
                await trio.lowlevel.checkpoint()
            else:
                await self._wait_for_time()
            self._raise_error()
            if self.is_ready:
                if not window and self._log.next_number - self.number > 1:
                    await self._let_writer_go_on()
                if frames := self._take_to_send():
                    return frames
                if self._log.is_closed:
                    raise trio.EndOfChannel
            elif self._send_now is not None or self._is_silent:
                return []
            # Else another task that reads the same result has taken them.

    @property
    def _is_silent(self) -> bool:
        """Whether a heartbeat is due."""
        return trio.current_time() >= self._silent_since + self._heartbeat

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _take_to_send(self) -> list[bytes]:
        frames = self._log._take(self, _MOST_BYTES)
        now = trio.current_time()
        self._rushes = len(frames) > _RUSH * (now - self._sent_at)
        self._sent_at = self._silent_since = now
        return frames

    @property
    def _window_end(self) -> float:
        stretch = self._ticker.rush_stretch if self._rushes else self._ticker.stretch
        return self._sent_at + self._window * stretch

    def _is_due(self, now: float) -> bool:
        """Say whether there is something that can't wait any longer."""
        log = self._log
        if self.number == log.next_number:
            return log.is_closed
        return now >= self._window_end or log.is_closed or self._has_much

    @property
    def _has_much(self) -> bool:
        log = self._log
        return log.next_number - self.number >= _MOST_HELD_BACK or not log.has_room

    async def _wait_for_time(self) -> None:
        """Wait until frames are to be sent, or a heartbeat."""
        if self.number < self._log.next_number:
            self._begin_window(self._silent_since)
        if not self._has_beat and self._heartbeat < inf:
            self._has_beat = True
            self._ticker.at_beat(self._silent_since + self._heartbeat, self)
        self._log._pacing[self] = None
        try:
            await self._time.park()
        finally:
            if not self._time:  # else another task waits, too
                self._log._pacing.pop(self, None)

    def frame_came(self) -> None:
        """Take note of a frame while this reader waits for its time."""
        if self._has_much:
            self.wake()
        elif not self._has_window:
            now = trio.current_time()
            if self._send_now is None and self._is_due(now):
                self.wake()
            else:
                # If it is due, the ticker sends it, with all else that comes in the same moment.
                self._begin_window(now)

    def _begin_window(self, now: float) -> None:
        if not self._has_window:
            self._has_window = True
            self._ticker.at_window_end(max(self._window_end, now), self)

    def windows_end(self, until: float) -> None:
        """Send what has waited, if this reader's window ends until then. Called by the ticker."""
        self._has_window = False
        if self not in self._log._pacing:
            return  # it sends already
        if self._is_due(until) and not self._is_sent_now():
            self.wake()
        elif self.number < self._log.next_number:
            self._begin_window(until)

    def _is_sent_now(self) -> bool:
        """Send what is due in this very moment, if that can be; the end can't."""
        if self._send_now is None or self._log.is_closed or self.number < self._log._first:
            return False
        frames = self._take_to_send()
        try:
            return self._send_now(frames)
        except Exception as error:
            # It is raised where the frames are read: here it would end the timer of all streams.
            self._error = error
            return False

    def beat_may_be_due(self) -> float | None:
        """Send a heartbeat if one is due; return when the next one may be, None if nobody waits."""
        if self not in self._log._pacing:
            self._has_beat = False
            return None
        due = self._silent_since + self._heartbeat
        if due > trio.current_time():
            return due
        self._has_beat = False
        self.wake()
        return None

    def wake(self) -> None:
        """End the wait of `receive_in_time`, if there is one."""
        if self in self._log._pacing:
            del self._log._pacing[self]
            self._time.unpark_all()

    async def _let_writer_go_on(self) -> None:
        """Give way for as long as rounds of the scheduler bring frames, some rounds at most.

        A send costs many times what a frame does. This never waits: a writer that has to wait for
        something itself brings none, and what there is goes out. Two rounds without a frame are
        needed to tell, because trio shuffles the tasks of a round. Called only when several frames
        are ready: one alone comes from a writer that isn't busy.
        """
        known, idle_rounds = self._log.next_number, 0
        until = perf_counter() + _MAX_SECONDS
        for _ in range(_MAX_ROUNDS):
            if known - self.number >= _MANY_FRAMES or self._log.is_closed or idle_rounds == 2:
                return
            if perf_counter() > until:
                return
            await trio.lowlevel.checkpoint()
            idle_rounds = idle_rounds + 1 if self._log.next_number == known else 0
            known = self._log.next_number

    def close(self) -> None:
        """Stop reading. Closing twice is allowed."""
        if self._prelude is not None:
            self._prelude.leave()
        self._send_now = self._error = None  # they may hold this reader, and so all frames
        self._log._leave(self)
