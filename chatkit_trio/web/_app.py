"""A whole app around one server: the endpoint, the health check, and the chat page."""

from __future__ import annotations

from collections.abc import Sequence

from quart import Response
from quart.wrappers.base import BaseRequestWebsocket
from quart_trio import QuartTrio
from werkzeug.exceptions import BadHost, HTTPException
from werkzeug.routing import MapAdapter

from chatkit_trio._settings import check_count
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import TContext
from chatkit_trio.stores._signed_attachments import SignedAttachmentStore

from ._blueprint import CorsOrigins, blueprint_at, same_path
from ._context import ContextFunction
from ._guard import Guard
from ._hosts import HostNames
from ._middleware import refused
from ._page import ChatPage, page_blueprint
from .admin import admin_blueprint
from .uploads import uploads_blueprint


def create_app(
    server: ChatKitServer[TContext],
    *,
    context: ContextFunction[TContext] | None = None,
    path: str = "/chatkit",
    page: bool | ChatPage = True,
    health_path: str | None = "/healthz",
    liveness_path: str | None = "/livez",
    metrics_path: str | None = None,
    max_body_bytes: int | None = None,
    cors_origins: CorsOrigins = None,
    allowed_hosts: HostNames = None,
    admin_token: str | None = None,
    admin_path: str = "/admin",
) -> QuartTrio:
    """Return a Quart-Trio app that serves the ChatKit protocol and, with `page`, a chat page.

    The page is at `/`, its files at `/static/`; a `ChatPage` says what is on it. If the server's
    attachment store is a `DiskAttachmentStore` or an `S3AttachmentStore`, the app gets the routes
    of `chatkit_trio.web.uploads` at the store's `base_url`, and the page may send files to the
    bucket. With `admin_token` the app has the page of `chatkit_trio.web.admin` at `admin_path`, for
    those who know this secret. The other arguments are those of `chatkit_blueprint`. Raises
    `ValueError` if one of them hides another, such as `path="/"` the page. Serve the app with
    `chatkit-trio serve`, or with Hypercorn's trio worker.
    """
    if not isinstance(page, bool | ChatPage):
        raise TypeError(f"page must be True, False or a ChatPage, not {page!r}")
    app = app_at(
        [path],
        server,
        context=context,
        health_path=health_path,
        liveness_path=liveness_path,
        metrics_path=metrics_path,
        max_body_bytes=max_body_bytes,
        cors_origins=cors_origins,
        allowed_hosts=allowed_hosts,
        admin_token=admin_token,
        admin_path=admin_path,
    )
    if page:
        shown = page if isinstance(page, ChatPage) else ChatPage()
        app.register_blueprint(page_blueprint(server, path, shown, allowed_hosts))
    check_routes(app)
    return app


def app_at(
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
    admin_token: str | None,
    admin_path: str,
) -> QuartTrio:
    """Return an app as `create_app` does, without a page, with the endpoint at all these paths.

    `check_routes` is for when the app has all its routes.
    """
    if max_body_bytes is not None:
        check_count("max_body_bytes", max_body_bytes)
    app = _App(__name__, static_folder=None)
    # More than the limit, because the blueprint counts by itself and says what the limit is.
    longest_body = max_body_bytes or server.limits.longest_body
    app.config["MAX_CONTENT_LENGTH"] = longest_body + 1024 * 1024
    app.register_error_handler(HTTPException, _refuse)
    Guard.around(app).add_path("/", longest_body)
    if isinstance(server.attachment_store, SignedAttachmentStore):
        # Registered first, so that it stops before the server closes its stores.
        app.register_blueprint(
            uploads_blueprint(
                server, context=context, cors_origins=cors_origins, allowed_hosts=allowed_hosts
            )
        )
    app.register_blueprint(
        blueprint_at(
            paths,
            server,
            context=context,
            health_path=health_path,
            liveness_path=liveness_path,
            metrics_path=metrics_path,
            max_body_bytes=max_body_bytes,
            cors_origins=cors_origins,
            allowed_hosts=allowed_hosts,
        )
    )
    if admin_token is not None:
        # Behind the server's: it starts later, and stops earlier.
        app.register_blueprint(
            admin_blueprint(server, token=admin_token, path=admin_path, allowed_hosts=allowed_hosts)
        )
    return app


def check_routes(app: QuartTrio) -> None:
    """Raise `ValueError` if one argument's routes hide another's."""
    routes = app.url_map.bind("localhost")
    for rule in app.url_map.iter_rules():
        mine = _argument(rule.endpoint)
        for method in rule.methods or ():
            # A rule fits itself: its <name> is a name that nothing else of the app has.
            found, _ = routes.match(rule.rule, method)
            if _argument(found) != mine:
                raise ValueError(same_path(mine, _argument(found), rule.rule))


def _argument(endpoint: str) -> str:
    """Return what moves the route with this endpoint."""
    return _ARGUMENTS.get(endpoint) or _ARGUMENTS[endpoint.partition(".")[0]]


_ARGUMENTS = {
    "chatkit": "path",
    "chatkit.health": "health_path",
    "chatkit.liveness": "liveness_path",
    "chatkit.metrics": "metrics_path",
    "chatkit_admin": "admin_path",
    "chatkit_uploads": "the attachment store's base_url",
    "page": "the page (unless page=False)",
}
"""By the names of blueprints, and of those routes that have an argument of their own."""


class _App(QuartTrio):
    """Quart gives up on a host that is no name before any view is asked; here the view refuses."""

    def create_url_adapter(self, request: BaseRequestWebsocket | None) -> MapAdapter | None:
        try:
            return super().create_url_adapter(request)
        except BadHost:
            if request is None:
                raise
            return self.url_map.bind(
                "invalid", path_info=request.path, default_method=request.method
            )


async def _refuse(error: HTTPException) -> Response:  # noqa: ASYNC124 (a plain one gets a thread)
    return refused(error)
