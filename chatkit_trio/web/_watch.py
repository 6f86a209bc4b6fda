"""Coming back to a live turn: what a client missed, then the live rest, each event once.

If the client names the event it saw last, the stream begins with the event behind it. If it names
none (the page has just been loaded), the stream begins with the turn; if that beginning isn't kept
any more, it begins with events for the state so far. A reader is opened when the body is entered
and not before, because a reader of a response that is never sent would stay open for ever.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from chatkit_trio._engine.replay import events_so_far, latest_items
from chatkit_trio._engine.wire import frame
from chatkit_trio.errors import InvalidRequestError
from chatkit_trio.server import ChatKitServer, FramesLost, StreamingResult
from chatkit_trio.types import ThreadItem

from ._event_stream import RELOAD, EventStreamBody, numbered

RETRY = b"retry: 1000\n\n"
"""Tells an EventSource to reconnect 1000 ms after it has lost the connection."""


class EventId(NamedTuple):
    """The id of an event, as given out by `numbered`."""

    turn_id: str
    number: int


def parse_event_id(text: str | None) -> EventId | None:
    """Return the id a client saw last, None if it has seen none. Raises `InvalidRequestError`."""
    if not text:
        return None
    turn_id, _, number = text.rpartition(".")
    # isdecimal() alone takes digits of every script; an id of ours has at most 18 of them.
    if not (turn_id and number.isascii() and number.isdecimal() and len(number) <= 18):
        raise InvalidRequestError("Last-Event-ID is not an event id of this server")
    return EventId(turn_id, int(number))


class WatchBody(EventStreamBody):
    """The rest of a live turn for a client that comes back to it or watches it too."""

    def __init__(
        self, server: ChatKitServer[Any], thread_id: str, last: EventId | None, context: Any
    ) -> None:
        super().__init__(None, with_ids=True)
        self._server = server
        self._thread_id = thread_id
        self._last = last
        self._context = context
        self._preamble = RETRY
        self._so_far: tuple[list[ThreadItem], list[ThreadItem]] | None = None

    async def __aenter__(self) -> Self:
        self._result = await self._watch()
        if self._result is None:
            # The turn has ended since the view looked for it, so the stored thread is complete.
            self._preamble += RELOAD
        return await super().__aenter__()

    async def __anext__(self) -> bytes:
        if self._preamble:
            chunk, self._preamble = self._preamble, b""
            return chunk
        if self._so_far is not None and self._result is not None:
            (new, changed), self._so_far = self._so_far, None
            return await self._state_so_far(self._result, new, changed)
        return await super().__anext__()

    async def _watch(self) -> StreamingResult | None:
        try:
            if self._last is None:
                return await self._server.follow(self._thread_id)
            turn_id, number = self._last
            return await self._server.follow(self._thread_id, turn_id=turn_id, start=number + 1)
        except FramesLost:
            return None if self._last is not None else await self._watch_from_now()

    async def _watch_from_now(self) -> StreamingResult | None:
        result = await self._server.follow(self._thread_id, start=None)
        if result is not None:
            # Read in the same step as the reader was opened, so that no event is missed between.
            self._so_far = result.turn.items_so_far()
        return result

    async def _state_so_far(
        self, result: StreamingResult, new: list[ThreadItem], changed: list[ThreadItem]
    ) -> bytes:
        """Return events that rebuild the part that isn't kept; applying one twice is harmless."""
        last_lost = result.next_frame_number - 1
        stored = await latest_items(self._server.store, self._thread_id, self._context)
        frames = map(frame, events_so_far(stored, new, changed))
        return b"".join(numbered(result.turn.id, last_lost, [each]) for each in frames)
