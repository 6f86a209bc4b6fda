"""A whole app around one server: the endpoint, the health check, and the chat page."""

from __future__ import annotations

from quart import Response
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import TContext
from chatkit_trio.stores._signed_attachments import SignedAttachmentStore

from ._blueprint import DEFAULT_MAX_BODY_BYTES, CorsOrigins, chatkit_blueprint
from ._endpoint import ContextFunction
from ._middleware import refusal_of, refusal_response
from ._page import ChatPage, page_blueprint
from .uploads import uploads_blueprint


def create_app(
    server: ChatKitServer[TContext],
    *,
    context: ContextFunction[TContext] | None = None,
    path: str = "/chatkit",
    page: bool | ChatPage = True,
    health_path: str | None = "/healthz",
    max_body_bytes: int = DEFAULT_MAX_BODY_BYTES,
    cors_origins: CorsOrigins = None,
) -> QuartTrio:
    """Return a Quart-Trio app that serves the ChatKit protocol and, with `page`, a chat page.

    The page is at `/`, its files at `/static/`; a `ChatPage` says what is on it. If the server's
    attachment store is a `DiskAttachmentStore` or an `S3AttachmentStore`, the app gets the routes
    of `chatkit_trio.web.uploads` at the store's `base_url`, and the page may send files to the
    bucket. The other arguments are those of
    `chatkit_blueprint`. Serve the app with `chatkit-trio serve`, or with Hypercorn's trio worker.
    """
    app = QuartTrio(__name__, static_folder=None)
    # More than the limit, because the blueprint counts by itself and says what the limit is.
    app.config["MAX_CONTENT_LENGTH"] = max_body_bytes + 1024 * 1024
    app.register_error_handler(HTTPException, _refuse)
    if isinstance(server.attachment_store, SignedAttachmentStore):
        # Registered first, so that it stops before the server closes its stores.
        app.register_blueprint(
            uploads_blueprint(server, context=context, cors_origins=cors_origins)
        )
    app.register_blueprint(
        chatkit_blueprint(
            server,
            context=context,
            path=path,
            health_path=health_path,
            max_body_bytes=max_body_bytes,
            cors_origins=cors_origins,
        )
    )
    if page:
        shown = page if isinstance(page, ChatPage) else ChatPage()
        app.register_blueprint(page_blueprint(server, path, shown))
    return app


async def _refuse(error: HTTPException) -> Response:  # noqa: ASYNC124 (a plain one gets a thread)
    return refusal_response(refusal_of(error))
