"""The file in a multipart body, as a stream; werkzeug's decoder does the parsing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Self

from werkzeug.sansio.multipart import Data, Epilogue, Event, File, MultipartDecoder, NeedData

from chatkit_trio.errors import InvalidRequestError

_FED_AT_ONCE = 64 * 1024  # bytes; the decoder searches its whole buffer each time
_HELD_AT_MOST = 1024 * 1024  # bytes; the decoder buffers a part's headers until all are there
_MAX_PARTS = 16
_HELD_DASHES = 2


class MultipartFile:
    """The bytes of the first file in a part called `file`; other parts are ignored.

    Raises `InvalidRequestError` for a body that is cut off, malformed or without such a part.
    """

    def __init__(self, body: AsyncIterator[bytes], boundary: str | None) -> None:
        if not boundary:
            raise InvalidRequestError("the Content-Type of a multipart body must name a boundary")
        self._body = body
        self._unfed = b""
        self._is_body_read = False
        self._decoder = MultipartDecoder(
            boundary.encode(), max_form_memory_size=_HELD_AT_MOST, max_parts=_MAX_PARTS
        )
        self._head: File | None = None
        self._is_ended = False

    async def head(self) -> File:
        """Read up to the file's bytes, and return the head with the file's name and type."""
        while self._head is None:
            event = await self._next_event()
            if isinstance(event, File) and event.name == "file":
                self._head = event
            elif isinstance(event, Epilogue):
                raise InvalidRequestError('the body has no file in a part named "file"')
        return self._head

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        await self.head()
        while not self._is_ended:
            event = await self._next_event()
            if isinstance(event, Data):
                self._is_ended = not event.more_data
                if event.data:
                    return event.data
        async for _ in self._body:  # the rest has to be read off the connection
            pass
        raise StopAsyncIteration

    async def _next_event(self) -> Event:
        while True:
            try:
                event = self._decoder.next_event()
            except ValueError as error:
                raise InvalidRequestError("the multipart body is malformed or cut off") from error
            if not isinstance(event, NeedData):
                return event
            self._decoder.receive_data(await self._next_piece())

    async def _next_piece(self) -> bytes | None:
        if len(self._unfed) <= _HELD_DASHES and not self._is_body_read:
            chunk = await anext(self._body, b"")
            self._is_body_read = not chunk
            self._unfed += chunk
        piece = self._unfed[:_FED_AT_ONCE]
        if self._is_body_read:
            self._unfed = self._unfed[len(piece) :]
            return piece or None
        # Up to two dashes at the end wait for what follows. Werkzeug 3.1.9 takes the line break of
        # a last boundary for data if it sees only one of the two dashes behind that boundary.
        held = min(_HELD_DASHES, len(piece) - len(piece.rstrip(b"-")))
        piece = piece[: len(piece) - held]
        self._unfed = self._unfed[len(piece) :]
        return piece
