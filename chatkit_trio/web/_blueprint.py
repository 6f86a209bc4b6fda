"""The blueprint: routes, and the tie between an app's life and its server's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

from quart import Blueprint, Quart, current_app
from quart.blueprints import BlueprintSetupState
from quart_trio import QuartTrio
from typing_extensions import TypeVar

from chatkit_trio.server import ChatKitServer

from ._border import ALL_METHODS, View, bordered
from ._context import ContextFunction
from ._cors import Cors
from ._endpoint import Endpoint
from ._lifespan import ServerLifespan

TContext = TypeVar("TContext", default=Any)

EXTENSION = "chatkit_trio"
"""Where an app's `extensions` list its ChatKit servers."""

DEFAULT_MAX_BODY_BYTES = 10 * 1024 * 1024
"""Room for several minutes of dictation, which comes as base64."""

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

    `context` makes the context of a request that every hook and the store get, from Quart's
    request; it may be async. It refuses one by raising `PermissionError` (answered with 403) or
    an HTTP exception of werkzeug's. Without it the context is None.

    `path` is the endpoint; below it are `threads/<id>/turn` and `threads/<id>/stop`. `health_path`
    is where the health check is, None for nowhere. A body over `max_body_bytes` is refused (413);
    the app's own `MAX_CONTENT_LENGTH` counts too. `cors_origins` lists the origins whose pages may
    call besides the own one, `"*"` means all. `name` has to differ between blueprints of one app.

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
            view_func=bordered(view, method=method, cors=cors),
            methods=ALL_METHODS,
            provide_automatic_options=False,
        )

    path = "/" + path.strip("/")
    route(path, "POST", endpoint.process)
    route(f"{path}/threads/<thread_id>/turn", "GET", endpoint.watch)
    route(f"{path}/threads/<thread_id>/stop", "POST", endpoint.stop)
    if health_path is not None:
        route(health_path, "GET", endpoint.health)
    _tie(blueprint, server)
    return blueprint


def servers_of(app: Quart) -> list[ChatKitServer[Any]]:
    """Return the ChatKit servers whose blueprints an app has."""
    return list(app.extensions.get(EXTENSION, ()))


def _tie(blueprint: Blueprint, server: ChatKitServer[Any]) -> None:
    lifespan = ServerLifespan(server)

    def list_server(state: BlueprintSetupState) -> None:
        state.app.extensions.setdefault(EXTENSION, []).append(server)

    async def start() -> None:
        await lifespan.start(cast(QuartTrio, current_app).nursery)

    blueprint.record_once(list_server)
    blueprint.before_app_serving(start)
    blueprint.after_app_serving(lifespan.stop)
