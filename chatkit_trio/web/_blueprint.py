"""The blueprint: routes, and a ChatKit server that runs for as long as its app serves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal, cast

import trio
from quart import Blueprint, Quart, current_app
from quart.blueprints import BlueprintSetupState
from quart_trio import QuartTrio

from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import TContext

from ._cors import Cors
from ._delivery import Delivery
from ._endpoint import ContextFunction, Endpoint
from ._middleware import ALL_METHODS, View, with_middleware

logger = logging.getLogger(__name__)

EXTENSION = "chatkit_trio"
"""Where an app's `extensions` list its ChatKit servers."""

DEFAULT_MAX_BODY_BYTES = 10 * 1024 * 1024
"""Enough for several minutes of dictation, which is sent as Base64."""

CorsOrigins = Sequence[str] | Literal["*"] | None


def chatkit_blueprint(
    server: ChatKitServer[TContext],
    *,
    context: ContextFunction[TContext] | None = None,
    path: str = "/chatkit",
    health_path: str | None = "/healthz",
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    cors_origins: CorsOrigins = None,
    name: str = "chatkit",
) -> Blueprint:
    """Return a Quart-Trio blueprint that serves the ChatKit protocol.

        app = QuartTrio(__name__)
        app.register_blueprint(chatkit_blueprint(MyServer(store), context=user_of))

    `context` is called with Quart's request and returns the context that every hook and the store
    get; it may be async. It refuses a request by raising `PermissionError` (answered with 403) or
    an HTTP exception of werkzeug. Without `context` the context is None.

    `path` is the endpoint; below it are `threads/<id>/turn` and `threads/<id>/stop`. `health_path`
    is the address of the health check; with None there is none. A body over `max_body_bytes` is
    refused (413); the app's own `MAX_CONTENT_LENGTH` counts too. Pages of the app's own origin may
    call the endpoint, and those of the origins in `cors_origins`; `"*"` means all. `name` has to
    differ between blueprints of one app.

    The server is entered when the app starts, unless it is running already, and left when the app
    ends: live turns are then settled before the app's shutdown is complete.
    """
    blueprint = Blueprint(name, __name__)
    endpoint = Endpoint(server, context, max_body_bytes)
    cors = Cors.of(cors_origins)

    def route(rule: str, method: str, view: View) -> None:
        blueprint.add_url_rule(
            rule,
            endpoint=view.__name__,
            view_func=with_middleware(view, method=method, cors=cors),
            methods=ALL_METHODS,
            provide_automatic_options=False,
        )

    path = "/" + path.strip("/")
    route(path, "POST", endpoint.process)
    route(f"{path}/threads/<thread_id>/turn", "GET", endpoint.watch)
    route(f"{path}/threads/<thread_id>/stop", "POST", endpoint.stop)
    if health_path is not None:
        route(health_path, "GET", endpoint.health)
    _tie(blueprint, server, path)
    return blueprint


class ServerLifespan:
    """Enters a server when the app starts, unless it is running, and leaves it at shutdown.

    One task of the app's nursery enters the server and leaves it, because the server's nursery must
    be opened and closed by the same task. Quart-Trio ends the app's background tasks by cancelling
    them; the server may then still be left in order, because leaving it is shielded and has time
    limits of its own.
    """

    def __init__(self, server: ChatKitServer[Any]) -> None:
        self._server = server
        self._stopping = trio.Event()
        self._stopped = trio.Event()

    async def start(self, nursery: trio.Nursery) -> None:
        """Enter the server; raises what its store raises if that can't be opened."""
        self._stopping, self._stopped = trio.Event(), trio.Event()
        if self._server.is_running:
            self._stopped.set()
        else:
            await nursery.start(self._keep_running)

    async def stop(self) -> None:
        """Leave the server; returns when its turns are settled and its stores closed.

        Returns without that if user code holds the server up, or a thread that hangs: the rest of
        the app has to be shut down all the same.
        """
        self._stopping.set()
        limit = self._server.settling_timeout + self._server.leaving_timeout
        # Shielded: Quart-Trio may have cancelled the app's tasks, this one among them.
        with trio.move_on_after(limit, shield=True):
            await _first_of(self._stopped, self._server.held_up)
        if not self._stopped.is_set():
            name = type(self._server).__name__
            logger.error("%s isn't left yet; the app shuts down without it", name)

    async def _keep_running(  # noqa: ASYNC114
        self, task_status: trio.TaskStatus[None]
    ) -> None:
        try:
            async with self._server:
                task_status.started()
                await self._stopping.wait()
        finally:
            self._stopped.set()


async def _first_of(*events: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)


def servers_of(app: Quart) -> list[ChatKitServer[Any]]:
    """Return the ChatKit servers whose blueprints an app has."""
    return list(app.extensions.get(EXTENSION, ()))


def _tie(blueprint: Blueprint, server: ChatKitServer[Any], path: str) -> None:
    lifespan = ServerLifespan(server)

    def list_server(state: BlueprintSetupState) -> None:
        state.app.extensions.setdefault(EXTENSION, []).append(server)
        delivery = Delivery.around(cast(Quart, state.app))
        delivery.add_endpoint((state.url_prefix or "").rstrip("/") + path, server)

    async def start() -> None:
        await lifespan.start(cast(QuartTrio, current_app).nursery)

    blueprint.record_once(list_server)
    blueprint.before_app_serving(start)
    blueprint.after_app_serving(lifespan.stop)
