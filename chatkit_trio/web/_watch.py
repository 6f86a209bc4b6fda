"""Coming back to a live turn: what a client missed, then the live rest, each event once.

If the client names the event it saw last, the stream begins with the event behind it. If it names
none (the page has just been loaded), the stream begins with the turn; if that beginning isn't kept
any more, it begins with events for the state so far. A reader is opened when the body is entered
and not before, because a reader of a response that is never sent would stay open for ever.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Self, TypeAlias

from chatkit_trio.errors import InvalidRequestError
from chatkit_trio.server import FramesLost, StreamingResult

from ._event_stream import RELOAD, EventStreamBody
from ._sending import Sending

RETRY = b"retry: 1000\n\n"
"""Tells an EventSource to reconnect 1000 ms after it has lost the connection."""


Follow: TypeAlias = Callable[..., Awaitable[StreamingResult | None]]
"""`ChatKitServer.follow` of the thread that is watched."""


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


async def followed(follow: Follow, last: EventId | None) -> StreamingResult | None:
    """Return what a client watches that has seen the event `last`, None if it has to reload.

    Raises `StoreError` if the store can't be asked.
    """
    try:
        if last is None:
            return await follow()
        return await follow(turn_id=last.turn_id, start=last.number + 1)
    except FramesLost:
        return await follow(start=None) if last is None else None


class WatchBody(EventStreamBody):
    """The rest of a live turn for a client that comes back to it or watches it too."""

    _leads = False

    def __init__(
        self,
        follow: Follow,
        last: EventId | None,
        sending: Sending,
    ) -> None:
        super().__init__(None, sending, with_ids=True)
        self._follow = follow
        self._last = last
        self._preamble = RETRY

    async def __aenter__(self) -> Self:
        self._result = await followed(self._follow, self._last)
        if self._result is None:
            # The turn has ended since the view looked for it, or its node doesn't answer in time.
            self._preamble += RELOAD
        return await super().__aenter__()
