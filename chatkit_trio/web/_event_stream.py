"""The body of a streamed answer: all frames that are ready are one chunk, and silence is filled.

The server takes as long to send one frame as to send fifty, so a chunk holds all frames that have
come within the policy's `flush_interval`. Frames are sent unchanged, unless the client asked for
ids.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import trio
from quart.wrappers.response import ResponseBody

from chatkit_trio._engine.wire import frame
from chatkit_trio.errors import ErrorCode, ServerNotRunningError
from chatkit_trio.server import FramesLost, RemoteTurn, StreamingResult, Turn
from chatkit_trio.types import ErrorEvent

from ._sending import Sending

HEARTBEAT = b": ping\n\n"
RELOAD = b"event: reload\ndata: {}\n\n"


def numbered(turn_id: str, first: int, frames: Iterable[bytes]) -> bytes:
    """Return frames with their ids, `<turn id>.<number of the frame in its turn>`.

    Of events that come as one piece the last has the id: a client that has lost some of them comes
    back to their beginning. What is before the first frame has no id.
    """
    return b"".join(
        _with_id(b"id: %s.%d\n" % (turn_id.encode(), number), each) if number >= 0 else each
        for number, each in enumerate(frames, first)
    )


def _with_id(identifier: bytes, events: bytes) -> bytes:
    end = events.rfind(b"\n\n", 0, -2)  # of the event before the last one
    last = 0 if end < 0 else end + 2
    return events[:last] + identifier + events[last:] if events else b""


def end_event(reason: str) -> bytes:
    """Return the event that tells a client which asked for ids how the turn ended."""
    return b"event: turn.end\ndata: " + json.dumps({"reason": reason}).encode() + b"\n\n"


class EventStreamBody(ResponseBody):
    """The frames of a turn, as chunks of a response.

    The task that sends the response enters and leaves it. A disconnect makes that task leave early,
    and so leaves the result early too.
    """

    _leads = True
    """Whether the turn waits for this client."""

    def __init__(
        self,
        result: StreamingResult | None,
        sending: Sending,
        *,
        with_ids: bool,
    ) -> None:
        self._result = result
        self._sending = sending
        self._with_ids = with_ids
        self._is_over = False
        self._sends_now: bool | None = None
        self._preamble = b""
        """What is sent before anything is read."""

    async def __aenter__(self) -> Self:
        if self._result is not None:
            await self._result.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._result is not None:
            await self._result.aclose()  # noqa: ASYNC102 (it shields itself)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._sends_now is None:
            self._sends_now = self._sending.find_direct_way(sys._getframe(1))
        if self._preamble:
            chunk, self._preamble = self._preamble, b""
            return chunk
        if self._is_over or self._result is None:
            raise StopAsyncIteration
        try:
            return await self._next_chunk(self._result)
        except FramesLost:
            self._is_over = True
            return self._lost()
        except trio.EndOfChannel:
            self._is_over = True
            left = self._left_of(self._end(self._result))
            if left is None:
                raise StopAsyncIteration from None
            return left
        except ServerNotRunningError:
            # The turn would begin with this read, but the server is shutting down.
            self._is_over = True
            return self._refused(ErrorEvent(code=ErrorCode.STREAM_ERROR, allow_retry=True))

    async def _next_chunk(self, result: StreamingResult) -> bytes:
        """Return what Quart has to send; what can be sent at once is sent here."""
        self._bound_sending(result.turn)
        send_now = self._send_now if self._sends_now else None
        while True:
            frames = await result.receive_in_time(send_now)
            if frames:
                chunk = self._encoded(result, frames)
            else:
                chunk = b"" if self._sending.has_unsent else HEARTBEAT
            if (left := self._left_of(chunk)) is not None:
                return left

    def _left_of(self, chunk: bytes) -> bytes | None:
        """Send a chunk at once, if that can be; return what Quart has to send, None if nothing.

        An empty chunk has that sent which the socket hasn't taken.
        """
        if self._sends_now and not self._sending.has_unsent:
            return None if not chunk or self._sending.send_now(chunk) else b""
        return chunk if chunk or self._sending.has_unsent else None

    def _send_now(self, frames: list[bytes]) -> bool:
        """Send frames while `_next_chunk` waits for some; return False if it has to go on."""
        assert self._result is not None
        chunk = self._encoded(self._result, frames)
        return not chunk or self._sending.send_now(chunk)

    def _bound_sending(self, turn: Turn[Any] | RemoteTurn) -> None:
        """Have a client that reads nothing hung up on, once its turn has ended.

        While the turn is live, its policy says what becomes of it, and it ends the turn.
        """
        stall_timeout = turn.policy.stall_timeout
        self._sending.timeout = math.inf if stall_timeout is None else stall_timeout
        if self._leads and not turn.settled.is_set():
            self._sending.excuse = turn.settled.wait

    # --- What is told, in the words of the protocol ---------------------------------------------

    def _encoded(self, result: StreamingResult, frames: list[bytes]) -> bytes:
        """Return what these frames are for this client; nothing, if they tell it nothing."""
        if not self._with_ids:
            return b"".join(frames)
        return numbered(result.turn.id, result.next_frame_number - len(frames), frames)

    def _end(self, result: StreamingResult) -> bytes:
        """Return what is said behind the last frame."""
        return end_event(result.turn.end_reason) if self._with_ids else b""

    def _lost(self) -> bytes:
        """Return what is said to a client that has fallen too far behind."""
        return RELOAD

    def _refused(self, error: ErrorEvent) -> bytes:
        """Return what is said if the turn can't begin any more."""
        return frame(error)
