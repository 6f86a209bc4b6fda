"""Bodies too large for memory: read from the ASGI server no faster than they are used.

Quart takes a body in as fast as it comes, whether anyone reads it or not. For upload routes it is
given no body at all: the view reads the server's messages itself, from the request's scope.
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

    Raises `TooLargeError` past `max_bytes`, `RequestTimeout` when nothing comes for `idle_timeout`
    seconds or all hasn't come within `timeout`, and `ClientDisconnected`.
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
        """Read on for a while, so that a client in the middle of sending can read the refusal.

        Closing on it at once would reset the connection, and the answer with it.
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
                raise ClientDisconnected("The client left before all had come.")
            self._is_read = not message.get("more_body", False)
            return bytes(message.get("body", b""))
        raise RequestTimeout("The file took too long to arrive.")


def upload_body(request: Request) -> UploadBody:
    """Return the body of a request to a path given to `leave_bodies_to_views`."""
    return cast(dict[str, UploadBody], request.scope)[_SCOPE_KEY]


def leave_bodies_to_views(app: Quart, path: str) -> None:
    """Have the bodies sent to this path, and below it, read by the views."""
    inner = app.asgi_app

    async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
        if _is_upload(scope, path):
            scope = {**scope, _SCOPE_KEY: UploadBody(receive)}
            # Quart watches for a disconnect; here reading the body is what finds out.
            receive = trio.sleep_forever
        await inner(scope, receive, send)

    app.asgi_app = asgi_app  # type: ignore[method-assign]


def _is_upload(scope: Any, path: str) -> bool:
    if scope["type"] != "http" or scope["method"] not in ("POST", "PUT"):
        return False
    asked: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return asked == path or asked.startswith(f"{path}/")
