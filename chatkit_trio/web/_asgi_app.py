"""A chat to mount in somebody else's app: FastAPI, Starlette, or any other ASGI app on Trio.

It is a Quart-Trio app inside, with the routes of `create_app` and without the page. Two things are
different in another app's house. That app runs no lifespan but its own, so the chat's is offered
as a context manager. And the paths depend on where the chat is mounted, so the endpoint is at two
places: at the root of the mount and at `path` below it.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib import import_module
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

import trio
from quart import Quart, Request
from quart_trio import QuartTrio

from chatkit_trio._engine.groups import unwrapped
from chatkit_trio._engine.runner import check_runs_on_trio
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import TContext
from chatkit_trio.stores._signed_attachments import SignedAttachmentStore

from ._app import app_at, check_routes
from ._asyncio_app import AsyncioApp
from ._blueprint import CorsOrigins, servers_of
from ._context import ContextFunction, check_context
from ._delivery import Receive
from ._direct_sends import Send
from ._hosts import HostNames
from ._middleware import Refusal, send_refusal
from ._paths import is_at
from ._signals import settling_first

logger = logging.getLogger(__name__)

AnyContextFunction: TypeAlias = Callable[
    [Any], TContext | Awaitable[TContext] | AbstractAsyncContextManager[TContext]
]
"""A `ContextFunction` for the request of whatever app is around this one."""

_OUTER = "chatkit_trio.outer_scope"


def asgi_app(
    server: ChatKitServer[TContext],
    *,
    context: AnyContextFunction[TContext] | None = None,
    path: str = "/chatkit",
    health_path: str | None = "/healthz",
    liveness_path: str | None = "/livez",
    metrics_path: str | None = None,
    max_body_bytes: int | None = None,
    cors_origins: CorsOrigins = None,
    allowed_hosts: HostNames = None,
    admin_token: str | None = None,
    admin_path: str = "/admin",
) -> ChatApp:
    """Return an ASGI app that serves the ChatKit protocol, to be mounted in another app.

        chat = asgi_app(MyServer(store), context=user_of)
        app = FastAPI(lifespan=chat.lifespan)
        app.mount("/chatkit", chat)

    The app has to run on Trio: `hypercorn --worker-class trio`, or `chatkit-trio serve`. Without
    the lifespan nothing is answered (503); in a lifespan of your own write
    `async with chat.lifespan(app):`.

    The endpoint is at the root of the mount, and at `path` below it: mounted at "/chatkit" it is
    `/chatkit/`, and mounted at "/", behind all other routes, `/chatkit`. The stop, the watch, the
    list by activity and the search are below the endpoint, the health checks and the page that
    `admin_token` opens below the root. The
    routes of a `DiskAttachmentStore` or an `S3AttachmentStore` are at the whole path of its
    `base_url`, which has to be inside the mount.

    `context` is called with the request, of Starlette's class in an app of Starlette or FastAPI
    and of Quart's elsewhere, and must not read its body; what it returns is as for
    `chatkit_blueprint`. Besides `PermissionError` (403) it may
    raise an `HTTPException` of Starlette, FastAPI or werkzeug. The other arguments are those of
    `chatkit_blueprint`.
    """
    check_context(context)  # here, because what is around it is a function always
    inner = app_at(
        list(dict.fromkeys([path, "/"])),
        server,
        context=None if context is None else _with_request_of_host(context),
        health_path=health_path,
        liveness_path=liveness_path,
        metrics_path=metrics_path,
        max_body_bytes=max_body_bytes,
        cors_origins=cors_origins,
        allowed_hosts=allowed_hosts,
        admin_token=admin_token,
        admin_path=admin_path,
    )
    check_routes(inner)
    return ChatApp(server, inner)


def _with_request_of_host(
    context: AnyContextFunction[TContext],
) -> ContextFunction[TContext]:
    return lambda request: context(_request_of_host(request))


def _request_of_host(request: Request) -> Any:
    """Return a request as the functions of the app around this one know it, without its body."""
    scope: Any = cast(Any, request).scope.get(_OUTER, {})
    starlette = sys.modules.get("starlette.applications")
    if starlette is None or not isinstance(scope.get("app"), starlette.Starlette):
        return request
    return import_module("starlette.requests").Request(scope)


class ChatApp:
    """What `asgi_app` returns: an ASGI app, and the lifespan that its host has to run."""

    def __init__(self, server: ChatKitServer[Any], inner: QuartTrio) -> None:
        self.inner = inner
        """The Quart-Trio app that answers."""
        self._server = server
        self._has_told = False
        files = server.attachment_store
        self._files_path = (
            urlsplit(files.base_url).path.rstrip("/")
            if isinstance(files, SignedAttachmentStore)
            else ""
        )

    def lifespan(self, app: object = None) -> AbstractAsyncContextManager[None]:
        """Return a context manager in which the chat answers; a lifespan as Starlette takes it.

        Entering it opens the stores and raises what they raise. Leaving it settles live turns and
        closes the stores, within the limits of `ChatKitServer.settling_timeout` and
        `leaving_timeout`, also if the caller is cancelled. `app` isn't used.
        """
        check_runs_on_trio("the chat of asgi_app()")
        return _running(self.inner, self._server)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer, as ASGI says."""
        if scope["type"] != "http":
            await self.inner(scope, receive, send)
            return
        if trio.lowlevel.in_trio_task() and not self._is_open:
            await self._refuse(send)
            return
        await self.inner(self._inner_scope(scope), receive, send)

    @property
    def _is_open(self) -> bool:
        """Whether somebody runs the lifespan, or the server itself."""
        return self._server.is_running or hasattr(self.inner, "nursery")

    async def _refuse(self, send: Send) -> None:
        name = type(self._server).__name__
        sentence = (
            f"{name} isn't running: give the app that mounts it the chat's lifespan, as in"
            " FastAPI(lifespan=chat.lifespan), or async with chat.lifespan(app) in your own"
        )
        if not self._has_told:
            self._has_told = True
            logger.error("%s", sentence)
        await send_refusal(Refusal(503, "not_running", sentence), send)

    def _inner_scope(self, scope: Any) -> Any:
        path: str = scope["path"]
        if not self._is_of_file(path):
            path = next((path[len(root) :] or "/" for root in _roots(scope, path)), path)
        return {**scope, "path": path, "root_path": "", _OUTER: scope}

    def _is_of_file(self, path: str) -> bool:
        """Say whether it is the place of all files or of one; `.../url` below that is another's."""
        place, _, name = path.rpartition("/")
        return bool(self._files_path) and (
            path == self._files_path or (place == self._files_path and bool(name))
        )


def _roots(scope: Any, path: str) -> Iterator[str]:
    """Yield what of a path belongs to the apps around the chat.

    Starlette tells apart what a proxy puts before all paths: the proxy may have taken it off.
    """
    root: str = scope.get("root_path", "").rstrip("/")
    before_all: str = scope.get("app_root_path", "").rstrip("/")
    for place in (root, root.removeprefix(before_all)):
        if _is_below(path, place):
            yield place


def _is_below(path: str, place: str) -> bool:
    return bool(place) and is_at(place, path)


def chat_servers_in(app: object) -> list[ChatKitServer[Any]]:
    """Return the ChatKit servers of an app, also those that are mounted in it."""
    return [server for inner in quart_apps_in(app) for server in servers_of(inner)]


def quart_apps_in(app: object, _depth: int = 0) -> Iterator[Quart]:
    """Yield the Quart app that this is, or those of chats that are mounted in it or beside it."""
    if isinstance(app, Quart):
        yield app
    elif isinstance(app, ChatApp):
        yield app.inner
    elif _depth < _DEEPEST:
        mounted = {id(each): each for each in _mounted(app)}
        for each in mounted.values():
            yield from quart_apps_in(each, _depth + 1)


_DEEPEST = 5  # mounts within each other


def _mounted(app: object) -> Iterator[object]:
    if isinstance(app, AsyncioApp):
        yield from app.beside.values()
    # The words of Starlette: an app or router has routes, a mount or a route has an app.
    routes = getattr(app, "routes", None)
    for route in routes if isinstance(routes, list) else ():
        yield getattr(route, "app", None)
    # What stands around an app calls it so as well, such as the middleware of Hypercorn.
    yield getattr(app, "app", None)


@asynccontextmanager
async def _running(app: QuartTrio, server: ChatKitServer[Any]) -> AsyncIterator[None]:
    """Run the lifespan of a Quart-Trio app, with a nursery that its own lifespan would give it."""
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:
        stopped = trio.Event()
        nursery.start_soon(settling_first, [server], stopped.wait)
        try:
            async with trio.open_nursery() as app.nursery:
                try:
                    await app.startup()
                    try:
                        yield
                    except Exception as error:
                        failures.append(error)
                    await app.shutdown()
                except Exception as error:
                    failures.append(error)
                # Cut short instead, by a cancellation, this leaves the server in order too.
                app.nursery.cancel_scope.cancel()
        finally:
            del app.nursery
            stopped.set()
    if failures:
        # Without the group that a nursery would put around it. A later one has been logged.
        raise unwrapped(failures[0])
