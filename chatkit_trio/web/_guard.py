"""Around a Quart app: requests whose bodies and responses hold nothing for longer than they should.

For every request below a path of this package, `Guard` puts a `RequestBody` in the place of
`request.body` and sends the response through a `Sending`. Other requests of the app pass unchanged.
"""

from __future__ import annotations

import logging
from typing import Any, cast

import trio
from quart import Quart, Request

from ._paths import place_of
from ._request_body import RequestBody
from ._sending import Sending, connection_behind, reset

logger = logging.getLogger(__name__)

_EXTENSION = "chatkit_trio.guard"
_SCOPE_KEY = "chatkit_trio.guarded"
_WITHOUT_BODY = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})


class Guard:
    """An app whose paths are guarded as the module says."""

    def __init__(self, app: Quart) -> None:
        self._app = app.asgi_app
        self._handle_request = app.handle_request
        self._paths: dict[str, int] = {}

    @classmethod
    def around(cls, app: Quart) -> Guard:
        """Return the guard of an app; puts it there first if there is none."""
        guard: Guard | None = app.extensions.get(_EXTENSION)
        if guard is None:
            guard = app.extensions[_EXTENSION] = cls(app)
            app.asgi_app = guard  # type: ignore[method-assign]
            app.handle_request = guard.handle_request  # type: ignore[method-assign]
        return guard

    def add_path(self, path: str, max_body_bytes: int) -> None:
        """Guard the requests to a path and below it; "/" is the whole app."""
        self._paths[path.rstrip("/")] = max_body_bytes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Call the app, as ASGI says."""
        max_bytes = self._max_body_bytes(scope)
        if max_bytes is None:
            await self._app(scope, receive, send)
            return
        body = RequestBody(receive, max_bytes)
        if scope["method"] in _WITHOUT_BODY:
            body.leave()
        request = GuardedRequest(body, send, scope)
        await request.run(self._app, {**scope, _SCOPE_KEY: request})

    async def handle_request(self, request: Request) -> Any:
        """Answer a request, whose body is read by who awaits it."""
        guarded: GuardedRequest | None = cast(Any, request).scope.get(_SCOPE_KEY)
        if guarded is not None:
            cast(Any, request).body = guarded.body
        return await self._handle_request(request)

    def _max_body_bytes(self, scope: Any) -> int | None:
        if scope["type"] != "http":
            return None
        asked: str = scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/")
        place = place_of(asked, self._paths)
        return None if place is None else self._paths[place]


class GuardedRequest:
    """One request to a guarded path, with its response."""

    def __init__(self, body: RequestBody, send: Any, scope: Any) -> None:
        self.body = body
        self.sending = Sending(self._send, self._hang_up)
        self.passes_to = send
        """What gets each message of the response, unchanged."""
        self._is_alone = scope["http_version"].startswith("1")
        """Whether the connection is this request's, and not shared by several (HTTP/2)."""
        self._path = scope["path"]
        self._scope = trio.CancelScope()

    @classmethod
    def of(cls, request: Request) -> GuardedRequest:
        """Return what guards a request."""
        return cast("GuardedRequest", cast(Any, request).scope[_SCOPE_KEY])

    async def run(self, app: Any, scope: Any) -> None:
        """Have the app answer the request."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.sending.watch)
                await app(scope, self.body.receive_for_quart, self.sending.send)
                nursery.cancel_scope.cancel()

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.body.leave()
        await self.passes_to(message)

    def _hang_up(self) -> None:
        connection = connection_behind(self.passes_to) if self._is_alone else None
        logger.info("a client that reads nothing is hung up on")
        if connection is None:
            self._scope.cancel()
        else:
            reset(connection)
