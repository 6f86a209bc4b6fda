"""The routes of an attachment store of this package: upload and download the bytes.

The store decides who may do what, and what is kept; this module is its HTTP. `create_app` adds
these routes by itself. docs/how-to/attachments.md describes the wire.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, cast
from urllib.parse import urlsplit

import trio
from quart import Blueprint, Response, current_app, request
from quart.blueprints import BlueprintSetupState
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import ClientDisconnected

from chatkit_trio._engine.wire import to_json
from chatkit_trio._settings import check_seconds, own_path
from chatkit_trio.errors import TooLargeError
from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import TContext
from chatkit_trio.stores._signed_attachments import Count, Redirect, SignedAttachmentStore
from chatkit_trio.stores.attachments import DiskAttachmentStore
from chatkit_trio.types import Attachment

from ._blueprint import CorsOrigins, require_quart_trio
from ._context import ContextFunction, RequestContext
from ._cors import Cors
from ._delivery import Delivery
from ._guard import Guard
from ._hosts import HostNames
from ._middleware import ALL_METHODS, Gate, View, json_response, with_middleware
from ._multipart import MultipartFile
from ._request_body import RequestBody, request_body

__all__ = ["uploads_blueprint"]

T = TypeVar("T")

_Caller = Callable[[], Awaitable[Any]]
"""Returns the context of the request."""

_SENT_AT_ONCE = 64 * 1024  # bytes
_FORM_BYTES = 64 * 1024  # of a multipart form, besides its file
_THREADS = 16  # that read files to send
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
    allowed_hosts: HostNames = None,
    idle_timeout: float = 30,
    upload_timeout: float = 3600,
    name: str = "chatkit_uploads",
) -> Blueprint:
    """Return a Quart-Trio blueprint that serves the server's attachment store.

    That is a `DiskAttachmentStore` or an `S3AttachmentStore`. At `path`, by default the path of
    the store's `base_url`, `POST` takes a multipart form with a part `file` and answers with the
    attachment (direct uploads). Below `path`, at the URLs the store makes, `GET` returns an
    attachment's bytes, or leads to the bucket; `PUT` and `POST` take them for the disk.

    `context`, `cors_origins` and `allowed_hosts` are as for `chatkit_blueprint`; `context` must not
    read the body. The host of `base_url` is allowed too.
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
    path = urlsplit(store.base_url).path if path is None else path
    if (place := own_path(path)) is None:
        raise ValueError(
            "attachments need a path of their own, as in https://host/attachments,"
            f" and have {path!r}"
        )
    check_seconds("idle_timeout", idle_timeout)
    check_seconds("upload_timeout", upload_timeout)
    blueprint = Blueprint(name, __name__)
    uploads = Uploads(server, store, context, idle_timeout, upload_timeout)
    gate = Gate(allowed_hosts, Cors.of(cors_origins), urlsplit(store.base_url).hostname or "")

    def route(rule: str, endpoint: str, views: dict[str, View]) -> None:
        blueprint.add_url_rule(
            rule,
            endpoint=endpoint,
            view_func=_by_method(views, gate),
            methods=ALL_METHODS,
            provide_automatic_options=False,
        )

    route(place, "attachments", {"POST": uploads.take_form})
    views: dict[str, View] = {"GET": uploads.send}
    if isinstance(store, DiskAttachmentStore):
        take = partial(uploads.take, store)
        views |= {"PUT": take, "POST": take}
    route(f"{place}/<attachment_id>", "attachment", views)
    _tie(blueprint, store, place)
    return blueprint


class Uploads(Generic[TContext]):
    """The views of one store."""

    def __init__(
        self,
        server: ChatKitServer[TContext],
        store: SignedAttachmentStore[TContext],
        context: ContextFunction[TContext] | None,
        idle_timeout: float,
        upload_timeout: float,
    ) -> None:
        self._server = server
        self._store = store
        self._context = RequestContext(server, context)
        self._idle_timeout = idle_timeout
        self._upload_timeout = upload_timeout
        # Its own, for user code may take all threads of Trio's default limiter.
        self._threads = trio.CapacityLimiter(_THREADS)

    async def take(self, store: DiskAttachmentStore[TContext], attachment_id: str) -> Response:
        """Take the bytes of a created attachment, raw or as a form."""

        async def received(body: RequestBody, caller: _Caller) -> Attachment:
            return await store.receive_upload(
                attachment_id,
                request.args.get("expires", ""),
                request.args.get("signature", ""),
                _form(body) if request.mimetype == "multipart/form-data" else body,
                caller,
                meter=self._meter,
            )

        return await self._answer(received)

    async def take_form(self) -> Response:
        """Take a new attachment, all in one request."""

        async def received(body: RequestBody, caller: _Caller) -> Attachment:
            # Before the body is read: who may not ask, or has asked too often, isn't listened to.
            context: TContext = await caller()
            owners, owner = self._server.owners, self._server.owner_if_limited(context)
            await owners.spend(owner, "uploads_per_hour", 1, only_look=True)
            form = _form(body)
            head = await form.head()
            await owners.spend(owner, "uploads_per_hour", 1)

            async def known_caller() -> TContext:  # noqa: ASYNC124 (the store may have to wait)
                return context

            return await self._store.receive_direct(
                head.filename,
                head.headers.get("Content-Type", ""),
                form,
                known_caller,
                meter=self._meter,
            )

        return await self._answer(received)

    async def send(self, attachment_id: str) -> Response:
        """Send the bytes of an attachment, or the browser to where they are."""
        signature = request.args.get("signature", "")
        async with AsyncExitStack() as stack:
            caller = partial(self._counted_context, stack)
            download = await self._store.open_download(attachment_id, signature, caller)
        if isinstance(download, Redirect):
            return _redirect(download)
        response = TrioResponse(
            _FileBody(download.path, self._threads),
            headers={**_DOWNLOAD_HEADERS, "Content-Disposition": download.disposition},
            content_type=download.mime_type,
        )
        response.content_length = download.size
        response.timeout = None  # Quart's default cuts any response after 60 seconds
        return response

    async def _counted_context(self, stack: AsyncExitStack) -> TContext:
        """Return the context of the request, which is left with the stack."""
        lent = await stack.enter_async_context(self._context())
        await self._server.count_request(lent.context)
        return lent.context

    @asynccontextmanager
    async def _meter(self, context: TContext) -> AsyncIterator[Count]:
        """Count an upload and its bytes against what the owner of the context may use."""
        owners, owner = self._server.owners, self._server.owner_if_limited(context)
        length = request.content_length
        slot = await owners.take_slot(owner, "live_uploads")
        if slot is not None:
            slot.keep()
        spend = partial(owners.spend, owner, "upload_bytes_per_hour")
        try:
            if length is None:
                yield spend
            else:
                # At once, so that what doesn't fit is refused before it is sent.
                await spend(length)
                yield _counted_already
        finally:
            if slot is not None:
                slot.free()

    async def _answer(
        self, receive: Callable[[RequestBody, _Caller], Awaitable[Attachment]]
    ) -> Response:
        body = request_body(request)
        max_bytes = self._store.max_bytes + _FORM_BYTES
        body.begin(max_bytes, self._idle_timeout, self._upload_timeout)
        try:
            if (request.content_length or 0) > max_bytes:
                raise TooLargeError(f"a file may have {self._store.max_bytes} bytes at most")
            async with AsyncExitStack() as stack:
                received = await receive(body, partial(self._counted_context, stack))
            return json_response(to_json(received))
        except ClientDisconnected:
            raise
        except Exception as error:
            refusal = error
        await body.discard_rest()
        raise refusal


class _FileBody(ResponseBody):
    """The bytes of a file, as chunks of a response."""

    def __init__(self, path: Path, threads: trio.CapacityLimiter) -> None:
        self._path = path
        self._threads = threads
        self._file: Any = None

    async def __aenter__(self) -> Self:
        self._file = await self._in_thread(partial(self._path.open, "rb"))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()  # it was only read, so there is nothing to write that could block

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        chunk: bytes = await self._in_thread(partial(self._file.read, _SENT_AT_ONCE))
        if not chunk:
            raise StopAsyncIteration
        return chunk

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(function, limiter=self._threads)


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


def _by_method(views: dict[str, View], gate: Gate) -> View:
    """Return one view that passes each request to the view of its method."""
    known = {
        method: with_middleware(
            view, methods=list(views), gate=gate, use="link" if method == "GET" else "call"
        )
        for method, view in views.items()
    }

    async def answer(**path: str) -> Response:
        # For another method any of the views will do: what is around each refuses it, or answers.
        view = known.get(request.method) or next(iter(known.values()))
        return await view(**path)

    return answer


def _tie(blueprint: Blueprint, store: SignedAttachmentStore[Any], path: str) -> None:
    collection = _Collection(store)

    def guard(state: BlueprintSetupState) -> None:
        guarded = f"{(state.url_prefix or '').rstrip('/')}{path}"
        app = require_quart_trio(state.app)
        Guard.around(app).add_path(guarded, store.max_bytes + _FORM_BYTES)
        Delivery.around(app)

    blueprint.record_once(guard)
    blueprint.before_app_serving(collection.start)
    blueprint.after_app_serving(collection.stop)


async def _counted_already(size: int) -> None:  # noqa: ASYNC124 (other meters wait)
    return


def _form(body: RequestBody) -> MultipartFile:
    return MultipartFile(body, request.mimetype_params.get("boundary"))


def _redirect(elsewhere: Redirect) -> Response:
    caching = {"Cache-Control": f"private, max-age={int(elsewhere.max_age)}"}
    return TrioResponse(
        status=302, headers={**_DOWNLOAD_HEADERS, **caching, "Location": elsewhere.url}
    )
