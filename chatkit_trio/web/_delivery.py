"""Between the ASGI server and the app: the two moments that a disconnect may not fall into.

Quart-Trio cancels all there is of a request as soon as its client is gone. That is right, but for

- the last message of a response. Hypercorn closes the connection within that call, and before it
  does so it tells the app of a disconnect: the app would cancel its own call, and a connection that
  isn't to be kept (`Connection: close`, HTTP/1.0, a server that ends) would stay open for ever;
- a message that has arrived whole. Its sender may close the tab at once; whether the answer goes on
  then is for the turn's policy to say, so the turn has to begin first.

A request may name an address in several ways, so its path is made plain first: all that looks at
paths behind this (`_guard`, the routes) then sees the same one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import trio
from quart import Quart

from chatkit_trio.server import ChatKitServer, StreamingResult

from ._direct_sends import Send
from ._request_log import logged
from ._signals import settling_first
from ._wrong_loop import refuse_on_wrong_loop

Receive: TypeAlias = Callable[[], Awaitable[Any]]
ASGIApp: TypeAlias = Callable[[Any, Receive, Send], Awaitable[None]]

_EXTENSION = "chatkit_trio.delivery"
_SCOPE_KEY = "chatkit_trio.exchange"

_LAST_MESSAGE_TIMEOUT = 10.0
"""Seconds that the last message of a response is shielded from a disconnect."""

_BEGINNING_TIMEOUT = 10.0
"""Seconds that a message whose sender is gone may take until its turn begins."""


class Delivery:
    """An app whose requests are delivered as the module says."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._endpoints: set[str] = set()
        self._servers: list[ChatKitServer[Any]] = []

    @classmethod
    def around(cls, app: Quart) -> Delivery:
        """Return the delivery around an app; puts it there first if there is none."""
        delivery: Delivery | None = app.extensions.get(_EXTENSION)
        if delivery is None:
            delivery = app.extensions[_EXTENSION] = cls(app.asgi_app)
            app.asgi_app = delivery  # type: ignore[method-assign]
        return delivery

    def add_endpoints(self, paths: Iterable[str], server: ChatKitServer[Any]) -> None:
        """Have messages that are posted to these paths begin, even if their sender is gone."""
        self._endpoints.update(paths)
        if server not in self._servers:
            self._servers.append(server)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Call the app, as ASGI says. On another loop than Trio's it is refused."""
        if not trio.lowlevel.in_trio_task():
            await refuse_on_wrong_loop(scope, receive, send)
            return
        if scope["type"] == "lifespan":
            await settling_first(self._servers, partial(self._app, scope, receive, send))
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        await logged(self._deliver, scope, receive, send)

    async def _deliver(self, scope: Any, receive: Receive, send: Send) -> None:
        scope = _with_plain_path(scope)
        path = scope["path"].removeprefix(scope["root_path"])
        begins = scope["method"] == "POST" and path in self._endpoints
        exchange = Exchange(receive, send, begins=begins)
        try:
            await self._app({**scope, _SCOPE_KEY: exchange}, exchange.receive, exchange.send)
        finally:
            await exchange.aclose()  # noqa: ASYNC102 (it shields itself)


def _with_plain_path(scope: Any) -> Any:
    """Return a scope whose path is its `root_path` and the rest, with one slash between them.

    The routes pass over more slashes, and over the host of a whole address, which a client may send
    instead of a path. What isn't below `root_path` is nowhere: Quart has no route at that itself.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    if not path.startswith("/"):
        try:
            path = urlsplit(path).path
        except ValueError:  # brackets of an IPv6 address that aren't closed
            path = "*"
        path = "/" + path.removeprefix("/")
    is_below = path.startswith(f"{root}/")
    plain = f"{root}/{path.removeprefix(root).lstrip('/')}" if is_below else root
    return {**scope, "path": plain, "root_path": root}


class Exchange:
    """One request and its response."""

    def __init__(self, receive: Receive, send: Send, *, begins: bool) -> None:
        self._receive = receive
        self.passes_to = send
        """What gets each message, unchanged."""
        self._begins = begins
        self._has_arrived = False
        self._is_client_gone = False
        self._is_answered = trio.Event()
        self.is_over = trio.Event()
        """Set when the request has been answered, or its client is gone."""
        self._results: list[StreamingResult] = []

    @classmethod
    def of(cls, scope: Any) -> Exchange:
        """Return the exchange that a request belongs to."""
        exchange: Exchange = scope[_SCOPE_KEY]
        return exchange

    def begin(self, result: StreamingResult) -> None:
        """Begin a turn now, and stop reading it when the exchange is over. Not a checkpoint.

        The response, which reads it, may never be sent.
        """
        self._results.append(result)
        result.begin()

    async def receive(self) -> Any:
        """Receive a message; a disconnect comes when there is an answer, or none in time."""
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._is_client_gone = True
        if message["type"] == "http.request":
            self._has_arrived = not message.get("more_body", False)
        elif self._begins and self._has_arrived:
            with trio.move_on_after(_BEGINNING_TIMEOUT):
                await self._is_answered.wait()
        return message

    async def send(self, message: Any) -> None:
        """Send a message; the last one isn't interrupted. Nothing is sent to a client that is gone.

        Hypercorn may be closing its connection, and fails if something is sent meanwhile.
        """
        if self._is_client_gone:
            self._is_answered.set()
            await trio.lowlevel.checkpoint()
            return
        is_body = message["type"] == "http.response.body"
        if is_body and not message.get("more_body", False):
            with trio.move_on_after(_LAST_MESSAGE_TIMEOUT, shield=True):
                await self.passes_to(message)
        else:
            await self.passes_to(message)
        self._is_answered.set()

    async def aclose(self) -> None:
        """Stop reading; a turn that this cancels is settled then."""
        try:
            for result in self._results:
                await result.aclose()
            self._results.clear()  # who keeps the request, as a context may, keeps no turn
        finally:
            self.is_over.set()
