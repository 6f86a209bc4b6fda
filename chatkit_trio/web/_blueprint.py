"""The blueprint: routes, and a ChatKit server that runs for as long as its app serves."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, Literal, Protocol, cast

import trio
from quart import Blueprint, Quart, current_app
from quart.blueprints import BlueprintSetupState
from quart_trio import QuartTrio

from chatkit_trio._settings import check_count, is_path
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import TContext

from ._connections import contain_connections
from ._context import ContextFunction
from ._cors import Cors
from ._delivery import Delivery
from ._endpoint import Endpoint
from ._guard import Guard
from ._health import Health
from ._hosts import AllowedHosts, HostNames
from ._middleware import Gate, add_view
from ._worker import check_is_shared

logger = logging.getLogger(__name__)

EXTENSION = "chatkit_trio"
"""Where an app's `extensions` list its ChatKit servers."""

_GATES = f"{EXTENSION}.gates"

CorsOrigins = Sequence[str] | Literal["*"] | None


def chatkit_blueprint(
    server: ChatKitServer[TContext],
    *,
    context: ContextFunction[TContext] | None = None,
    path: str = "/chatkit",
    health_path: str | None = "/healthz",
    liveness_path: str | None = "/livez",
    metrics_path: str | None = None,
    max_body_bytes: int | None = None,
    cors_origins: CorsOrigins = None,
    allowed_hosts: HostNames = None,
    name: str = "chatkit",
) -> Blueprint:
    """Return a Quart-Trio blueprint that serves the ChatKit protocol.

        app = QuartTrio(__name__)
        app.register_blueprint(chatkit_blueprint(MyServer(store), context=user_of))

    `context` is called with Quart's request and returns the context that every hook and the store
    get; it may be async. It may also return an async context manager, such as a database session:
    what that gives is the context, and it is left when the answer is made, or for a stream when its
    turn is settled and the turn's code has ended. It refuses a request by raising `PermissionError`
    (answered with 403) or an HTTP exception of werkzeug. Without `context` the context is None.

    `path` is the endpoint; below it are `threads`, `search`, `threads/<id>/turn`,
    `threads/<id>/stop` and `attachments/<id>/url`. `health_path` says whether the server takes
    messages and can store them (readiness), `liveness_path` that the process answers at all; with
    None there is no such address. `metrics_path`, such as "/metrics", shows the server's metrics to
    Prometheus (extra `metrics`), to anybody who asks: have a proxy keep strangers away. Several
    workers need `PROMETHEUS_MULTIPROC_DIR` in the environment for it. What a request may hold say
    the server's `limits`; a body over `max_body_bytes`, by default the longest of those, isn't read
    to its end (413). The app's own `MAX_CONTENT_LENGTH` counts too. Pages of the app's own origin
    may call the endpoint, and those of the origins in `cors_origins`; `"*"` means all.

    `allowed_hosts` are the names by which browsers reach the app, such as `["chat.example.org"]`
    or `[".example.org"]` with all names below it; requests for others are refused (421), so that
    no page can turn its own name into a way in. Names of loopback (localhost, 127.0.0.1) are always
    allowed, and so is the host that `chatkit_trio.web.serve` listens on; `"*"` allows all. `name`
    has to differ between blueprints of one app.

    The server is entered when the app starts, unless it is running already, and left when the app
    ends: live turns are then settled before the app's shutdown is complete.
    """
    return blueprint_at(
        [path],
        server,
        context=context,
        health_path=health_path,
        liveness_path=liveness_path,
        metrics_path=metrics_path,
        max_body_bytes=max_body_bytes,
        cors_origins=cors_origins,
        allowed_hosts=allowed_hosts,
        name=name,
    )


def blueprint_at(
    paths: Sequence[str],
    server: ChatKitServer[TContext],
    *,
    context: ContextFunction[TContext] | None,
    health_path: str | None,
    liveness_path: str | None,
    metrics_path: str | None,
    max_body_bytes: int | None,
    cors_origins: CorsOrigins,
    allowed_hosts: HostNames,
    name: str = "chatkit",
) -> Blueprint:
    """Return a blueprint as `chatkit_blueprint` does, with the endpoint at each of these paths."""
    if max_body_bytes is not None:
        check_count("max_body_bytes", max_body_bytes)
    if None in paths:
        raise ValueError("path must be a path such as '/chat', not None")
    for path in paths:
        _check_paths(
            path=path,
            health_path=health_path,
            liveness_path=liveness_path,
            metrics_path=metrics_path,
        )
    blueprint = Blueprint(name, __name__)
    longest_body = max_body_bytes or server.limits.longest_body
    endpoint = Endpoint(server, context, longest_body)
    health = Health(server)
    gate = Gate(allowed_hosts, Cors.of(cors_origins))

    route = partial(add_view, blueprint, gate)
    places = ["/" + path.strip("/") if path.strip("/") else "" for path in paths]
    route(places, "POST", endpoint.process)
    route([f"{place}/threads" for place in places], "GET", endpoint.threads)
    route([f"{place}/search" for place in places], "GET", endpoint.search)
    route([f"{place}/threads/<thread_id>/turn" for place in places], "GET", endpoint.watch)
    route([f"{place}/threads/<thread_id>/stop" for place in places], "POST", endpoint.stop)
    file_urls = [f"{place}/attachments/<attachment_id>/url" for place in places]
    route(file_urls, "GET", endpoint.attachment_url)
    if health_path is not None:
        route([_rule(health_path)], "GET", health.health, "probe")
    if liveness_path is not None:
        route([_rule(liveness_path)], "GET", health.liveness, "probe")
    parts: list[Part] = []
    if metrics_path is not None:
        from ._metrics_view import MetricsView  # it needs a package of its own

        metrics = MetricsView(server)
        route([_rule(metrics_path)], "GET", metrics.metrics, "probe")
        blueprint.after_app_request(metrics.count)
        parts.append(metrics)
    tie(blueprint, server, gate, places, longest_body, parts)
    return blueprint


def _rule(path: str) -> str:
    return "/" + path.removeprefix("/")


def _check_paths(**paths: str | None) -> None:
    """Raise unless these arguments can be addresses, all different; None is no address."""
    for name, path in paths.items():
        if path is not None and not is_path(path):
            raise ValueError(f"{name} must be a path such as '/chat', not {path!r}")
    taken: dict[str, str] = {}
    for name, path in paths.items():
        if path is not None:
            plain = "/" + path.strip("/")
            other = taken.setdefault(plain, name)
            if other != name:
                raise ValueError(same_path(other, name, plain))


def same_path(one: str, other: str, path: str) -> str:
    """Return what to tell whoever puts two things at one path."""
    return f"{one} and {other} must be different paths, and are both {path!r}: change one of them"


class Part(Protocol):
    """Something that works beside a server."""

    def start(self, nursery: trio.Nursery) -> None:
        """Start, with tasks in this nursery."""
        ...

    def stop(self) -> None:
        """End: the app does."""
        ...


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
        """Enter the server; raises what its store raises if that can't be opened.

        Raises `NotSharedError` in one of several workers if they can't share the store.
        """
        check_is_shared(self._server)
        contain_connections()  # Hypercorn listens when the app has started
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
            logger.error("%s hasn't closed yet; the app shuts down without waiting for it", name)

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


def require_quart_trio(app: object) -> QuartTrio:
    """Return the app that a blueprint is registered with. Raises `TypeError` for a plain Quart."""
    if not isinstance(app, QuartTrio):
        raise TypeError(
            f"this blueprint runs on Trio, and {type(app).__name__} is an app for asyncio: make"
            " the app with quart_trio.QuartTrio"
        )
    return app


def servers_of(app: Quart) -> list[ChatKitServer[Any]]:
    """Return the ChatKit servers whose blueprints an app has."""
    return list(app.extensions.get(EXTENSION, ()))


def allowed_by(app: Quart) -> list[AllowedHosts]:
    """Return what each ChatKit blueprint of an app allows."""
    return list(app.extensions.get(_GATES, ()))


def tie(
    blueprint: Blueprint,
    server: ChatKitServer[Any],
    gate: Gate,
    places: Iterable[str],
    max_body_bytes: int,
    parts: Sequence[Part] = (),
) -> None:
    """Have the server run while a blueprint's app serves, and its endpoint guarded.

    `places` are where messages are posted; `parts` start and end with the server. Several
    blueprints of one app may have the same server.
    """
    lifespan = ServerLifespan(server)

    def list_server(state: BlueprintSetupState) -> None:
        app = require_quart_trio(state.app)
        servers = app.extensions.setdefault(EXTENSION, [])
        if server not in servers:
            servers.append(server)
        app.extensions.setdefault(_GATES, []).append(gate.hosts)
        full_paths = [(state.url_prefix or "").rstrip("/") + place or "/" for place in places]
        # Inside of the delivery, which sees the body's messages as they are read.
        for full_path in full_paths:
            Guard.around(app).add_path(full_path, max_body_bytes)
        Delivery.around(app).add_endpoints(full_paths, server)

    async def start() -> None:
        nursery = cast(QuartTrio, current_app).nursery
        await lifespan.start(nursery)
        for part in parts:
            part.start(nursery)

    async def stop() -> None:
        for part in parts:
            part.stop()
        await lifespan.stop()

    blueprint.record_once(list_server)
    blueprint.before_app_serving(start)
    blueprint.after_app_serving(stop)
