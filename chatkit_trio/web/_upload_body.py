"""Bodies too large for memory: read from the ASGI server no faster than the view uses them.

Quart reads a body as fast as it arrives, whether or not a view reads it. On upload routes Quart is
given no body: the view reads the ASGI server's messages itself, by way of the request's scope.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self, cast

import trio
from quart import Quart, Request
from werkzeug.exceptions import ClientDisconnected, RequestTimeout

from chatkit_trio.errors import TooLargeError

_SCOPE_KEY = "chatkit_trio.upload_body"
_DISCARDED_AT_MOST = 4 * 1024 * 1024  # bytes
_DISCARDING_TIMEOUT = 5.0  # seconds


class UploadBody:
    """The chunks of a request's body, to be iterated once.

    Raises `TooLargeError` for more than `max_bytes`, `RequestTimeout` if nothing arrives for
    `idle_timeout` seconds or the whole hasn't arrived within `timeout`, and `ClientDisconnected`.
    """

    def __init__(self, receive: Callable[[], Awaitable[Any]]) -> None:
        self._receive = receive
        self._is_read = False
        self._size = 0
        self.max_bytes = 0
        self.idle_timeout = 0.0
        self._deadline = 0.0

    def begin(self, max_bytes: int, idle_timeout: float, timeout: float) -> None:
        """Set the limits, and start the clock."""
        self.max_bytes = max_bytes
        self.idle_timeout = idle_timeout
        self._deadline = trio.current_time() + timeout

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._is_read:
            chunk = await self._next_message()
            self._size += len(chunk)
            if self._size > self.max_bytes:
                raise TooLargeError(f"the request is larger than {self.max_bytes} bytes")
            if chunk:
                return chunk
        raise StopAsyncIteration

    async def discard_rest(self) -> None:
        """Read on for a while, so that a client that is still sending can read the refusal.

        If the connection were closed at once, it would be reset, and the client would lose the
        answer.
        """
        left = _DISCARDED_AT_MOST
        with trio.move_on_after(_DISCARDING_TIMEOUT), suppress(ClientDisconnected, RequestTimeout):
            while not self._is_read and left > 0:
                left -= len(await self._next_message())

    async def _next_message(self) -> bytes:
        deadline = min(trio.current_time() + self.idle_timeout, self._deadline)
        with trio.move_on_at(deadline):
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._is_read = True
                raise ClientDisconnected("The client left before the whole body had arrived.")
            self._is_read = not message.get("more_body", False)
            return bytes(message.get("body", b""))
        raise RequestTimeout("The file took too long to arrive.")


def upload_body(request: Request) -> UploadBody:
    """Return the body of a request to a path given to `leave_bodies_to_views`."""
    return cast(dict[str, UploadBody], request.scope)[_SCOPE_KEY]


def leave_bodies_to_views(app: Quart, path: str) -> None:
    """Let the views read the bodies that are sent to this path or below it."""
    inner = app.asgi_app

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        if _is_upload(scope, path):
            scope = {**scope, _SCOPE_KEY: UploadBody(receive)}
            # Quart would wait for a disconnect here; reading the body notices it instead.
            receive = trio.sleep_forever
        await inner(scope, receive, send)

    app.asgi_app = asgi_app  # type: ignore[method-assign]


def _is_upload(scope: Any, path: str) -> bool:
    if scope["type"] != "http" or scope["method"] not in ("POST", "PUT"):
        return False
    asked: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return asked == path or asked.startswith(f"{path}/")
