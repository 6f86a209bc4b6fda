"""The routes of an attachment store of this package: upload and download the bytes.

The store decides who may do what, and what is kept; this module is its HTTP. `create_app` adds
these routes by itself. docs/how-to/attachments.md describes the wire.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, cast
from urllib.parse import urlsplit

import trio
from quart import Blueprint, Quart, Response, current_app, request
from quart.blueprints import BlueprintSetupState
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import ClientDisconnected

from chatkit_trio._engine.wire import to_json
from chatkit_trio.errors import TooLargeError
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import TContext
from chatkit_trio.stores._signed_attachments import Redirect, SignedAttachmentStore
from chatkit_trio.stores.attachments import DiskAttachmentStore
from chatkit_trio.types import Attachment

from ._blueprint import CorsOrigins
from ._cors import Cors
from ._endpoint import ContextFunction, RequestContext
from ._middleware import ALL_METHODS, View, json_response, with_middleware
from ._multipart import MultipartFile
from ._upload_body import UploadBody, leave_bodies_to_views, upload_body

__all__ = ["uploads_blueprint"]

_SENT_AT_ONCE = 64 * 1024  # bytes
_FORM_BYTES = 64 * 1024  # of a multipart form, besides its file
_FIRST_COLLECTION = 60.0  # seconds after the start, so that it doesn't slow the start down

_DOWNLOAD_HEADERS = {
    # A browser must not show an uploaded file as a page of this site, whatever it contains.
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Referrer-Policy": "no-referrer",
    # The bytes of an attachment never change, but they can be deleted.
    "Cache-Control": "private, max-age=3600",
}


def uploads_blueprint(
    server: ChatKitServer[TContext],
    *,
    context: ContextFunction[TContext] | None = None,
    path: str | None = None,
    cors_origins: CorsOrigins = None,
    idle_timeout: float = 30,
    upload_timeout: float = 3600,
    name: str = "chatkit_uploads",
) -> Blueprint:
    """Return a Quart-Trio blueprint that serves the server's attachment store.

    That is a `DiskAttachmentStore` or an `S3AttachmentStore`. At `path`, by default the path of
    the store's `base_url`, `POST` takes a multipart form with a part `file` and answers with the
    attachment (direct uploads). Below `path`, at the URLs the store makes, `GET` returns an
    attachment's bytes, or leads to the bucket; `PUT` and `POST` take them for the disk.

    `context` and `cors_origins` are as for `chatkit_blueprint`; `context` must not read the body.
    An upload is refused if nothing arrives for `idle_timeout` seconds, or if it takes longer than
    `upload_timeout`. While the app serves, orphaned attachments are collected every hour.

    Register it before the server's `chatkit_blueprint`, so that collecting stops before the store
    closes. Raises `TypeError` if the server's attachment store is of another kind.
    """
    store = server.attachment_store
    if not isinstance(store, SignedAttachmentStore):
        raise TypeError(
            f"uploads_blueprint needs a DiskAttachmentStore or S3AttachmentStore, and got {store!r}"
        )
    path = "/" + (urlsplit(store.base_url).path if path is None else path).strip("/")
    if path == "/":
        raise ValueError("attachments need a path of their own, as in https://host/attachments")
    blueprint = Blueprint(name, __name__)
    uploads = Uploads(store, context, idle_timeout, upload_timeout)
    cors = Cors.of(cors_origins)

    def route(rule: str, endpoint: str, views: dict[str, View]) -> None:
        blueprint.add_url_rule(
            rule,
            endpoint=endpoint,
            view_func=_by_method(views, cors),
            methods=ALL_METHODS,
            provide_automatic_options=False,
        )

    route(path, "attachments", {"POST": uploads.take_form})
    views: dict[str, View] = {"GET": uploads.send}
    if isinstance(store, DiskAttachmentStore):
        take = partial(uploads.take, store)
        views |= {"PUT": take, "POST": take}
    route(f"{path}/<attachment_id>", "attachment", views)
    _tie(blueprint, store, path)
    return blueprint


class Uploads(Generic[TContext]):
    """The views of one store."""

    def __init__(
        self,
        store: SignedAttachmentStore[TContext],
        context: ContextFunction[TContext] | None,
        idle_timeout: float,
        upload_timeout: float,
    ) -> None:
        self._store = store
        self._context = RequestContext(context)
        self._idle_timeout = idle_timeout
        self._upload_timeout = upload_timeout

    async def take(self, store: DiskAttachmentStore[TContext], attachment_id: str) -> Response:
        """Take the bytes of a created attachment, raw or as a form."""

        async def received(body: UploadBody) -> Attachment:
            return await store.receive_upload(
                attachment_id,
                request.args.get("expires", ""),
                request.args.get("signature", ""),
                _form(body) if request.mimetype == "multipart/form-data" else body,
                self._context,
            )

        return await self._answer(received)

    async def take_form(self) -> Response:
        """Take a new attachment, all in one request."""

        async def received(body: UploadBody) -> Attachment:
            form = _form(body)
            head = await form.head()
            return await self._store.receive_direct(
                head.filename, head.headers.get("Content-Type", ""), form, self._context
            )

        return await self._answer(received)

    async def send(self, attachment_id: str) -> Response:
        """Send the bytes of an attachment, or the browser to where they are."""
        signature = request.args.get("signature", "")
        download = await self._store.open_download(attachment_id, signature, self._context)
        if isinstance(download, Redirect):
            return _redirect(download)
        response = TrioResponse(
            _FileBody(download.path),
            headers={**_DOWNLOAD_HEADERS, "Content-Disposition": download.disposition},
            content_type=download.mime_type,
        )
        response.content_length = download.size
        response.timeout = None  # Quart's default cuts any response after 60 seconds
        return response

    async def _answer(self, receive: Callable[[UploadBody], Awaitable[Attachment]]) -> Response:
        body = upload_body(request)
        max_bytes = self._store.max_bytes + _FORM_BYTES
        body.begin(max_bytes, self._idle_timeout, self._upload_timeout)
        try:
            if (request.content_length or 0) > max_bytes:
                raise TooLargeError(f"a file may have {self._store.max_bytes} bytes at most")
            return json_response(to_json(await receive(body)))
        except ClientDisconnected:
            raise
        except Exception as error:
            refusal = error
        await body.discard_rest()
        raise refusal


class _FileBody(ResponseBody):
    """The bytes of a file, as chunks of a response."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None

    async def __aenter__(self) -> Self:
        self._file = await trio.open_file(self._path, "rb")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._file.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk: bytes = await self._file.read(_SENT_AT_ONCE)
        if not chunk:
            raise StopAsyncIteration
        return chunk


class _Collection:
    """Collects orphaned attachments for as long as the app serves."""

    def __init__(self, store: SignedAttachmentStore[Any]) -> None:
        self._store = store
        self._scope = trio.CancelScope()

    async def start(self) -> None:
        self._scope = trio.CancelScope()
        cast(QuartTrio, current_app).nursery.start_soon(self._run)

    async def stop(self) -> None:
        self._scope.cancel()

    async def _run(self) -> None:
        with self._scope:
            await trio.sleep(_FIRST_COLLECTION)
            await self._store.keep_collecting()


def _by_method(views: dict[str, View], cors: Cors) -> View:
    """Return one view that passes each request to the view of its method."""
    known = {
        method: with_middleware(view, method=method, cors=cors) for method, view in views.items()
    }

    async def answer(**path: str) -> Response:
        # A preflight goes to the view whose method it asks for.
        method = request.headers.get("Access-Control-Request-Method", request.method)
        # For an unknown method any of the views will do: each refuses it.
        view = known.get(method) or next(iter(known.values()))
        return await view(**path)

    return answer


def _tie(blueprint: Blueprint, store: SignedAttachmentStore[Any], path: str) -> None:
    collection = _Collection(store)

    def leave_bodies(state: BlueprintSetupState) -> None:
        leave_bodies_to_views(
            cast(Quart, state.app), f"{(state.url_prefix or '').rstrip('/')}{path}"
        )

    blueprint.record_once(leave_bodies)
    blueprint.before_app_serving(collection.start)
    blueprint.after_app_serving(collection.stop)


def _form(body: UploadBody) -> MultipartFile:
    return MultipartFile(body, request.mimetype_params.get("boundary"))


def _redirect(elsewhere: Redirect) -> Response:
    caching = {"Cache-Control": f"private, max-age={int(elsewhere.max_age)}"}
    return TrioResponse(
        status=302, headers={**_DOWNLOAD_HEADERS, **caching, "Location": elsewhere.url}
    )
