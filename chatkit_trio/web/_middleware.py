"""What stands around every view: the host, the method, other origins, responses and exceptions.

An exception that leaves a view becomes a JSON answer here, with the headers that let an allowed
page of another origin read it. The text of an exception goes out only if it was written for the
client: the `ChatKitError`s below 500, werkzeug's HTTP exceptions, and those of other packages that
have `status_code` and `detail`. Anything else is logged, and the client learns nothing about it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

from quart import Blueprint, Response, request
from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import (
    Forbidden,
    HTTPException,
    MethodNotAllowed,
    MisdirectedRequest,
    RequestEntityTooLarge,
    default_exceptions,
)

from chatkit_trio._engine.groups import ends_process, is_several, split_cancelled, unwrapped
from chatkit_trio._foreign_text import text_of
from chatkit_trio._http_errors import HTTPError, http_error_of
from chatkit_trio.errors import (
    ChatKitError,
    LimitError,
    ServerNotRunningError,
    TooLargeError,
)

from ._cors import Cors
from ._hosts import AllowedHosts, HostNames, asked_hosts, told_hosts, unknown_host

logger = logging.getLogger(__name__)

View: TypeAlias = Callable[..., Awaitable[Response]]

Use: TypeAlias = Literal["call", "link", "probe"]
"""How a view is meant to be used: called by a page, which must be of an origin that may; linked to
or shown by any page, as an image is; or asked by a probe, which is no page and asks by address."""

ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""Routes take every method, so that a wrong one is refused here and not as an HTML page."""

RETRY_AFTER = "2"
"""Seconds until a client may try again: about what a restart takes."""

EVENT_STREAM_HEADERS = {
    # no-transform: a proxy that compresses would hold events back to fill its blocks.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

NO_STORE = {"Cache-Control": "no-store"}
_UNAVAILABLE = "The server can't answer now; try again in a moment."
_BROKEN = "Something went wrong on the server."
_NOT_OFFERED = "This server doesn't offer that."
_HEADERS_SET_HERE = {"content-type", "content-length"}
_LONGEST_HOST = 253  # characters of it that are told and logged
_MOST_HOSTS_TOLD_OF = 20  # names; a stranger mustn't fill the log or the memory


# --- Around a view -----------------------------------------------------------------------------


class Gate:
    """Who may ask a blueprint's views: which hosts for, and pages of which origins.

    `allowed_hosts` and `cors` are as for `chatkit_blueprint`. Allowed besides are `own_host` and
    what `serve` tells the app.
    """

    def __init__(self, allowed_hosts: HostNames, cors: Cors, own_host: str = "") -> None:
        self.cors = cors
        self.hosts = AllowedHosts.served(own_host, allowed_hosts)
        self._told_of: set[str] = set()

    def check_host(self, *, by_address: bool = False) -> None:
        """Raise `MisdirectedRequest` (421) if the request is for a host that isn't allowed.

        With `by_address`, requests for any IP address pass.
        """
        rules = (self.hosts, told_hosts(request.scope))
        host = unknown_host(request.headers, rules, by_address=by_address)
        if host is None:
            return
        host = host[:_LONGEST_HOST]
        if host not in self._told_of and len(self._told_of) < _MOST_HOSTS_TOLD_OF:
            self._told_of.add(host)
            logger.warning("refused a request for the host %r, which isn't allowed", host)
        raise MisdirectedRequest(
            f"This server doesn't answer requests for the host {host!r}. If that is a name of"
            " its own, allow it: chatkit-trio serve --allowed-host NAME, or"
            " create_app(..., allowed_hosts=[NAME]). See docs/how-to/deploy.md, Host names."
        )

    async def refuse_unknown_host(self) -> Response | None:  # noqa: ASYNC124 (Quart awaits it)
        """Refuse a request for a host that isn't allowed, before any view of a blueprint."""
        try:
            self.check_host()
        except MisdirectedRequest as error:
            return refused(error)
        return None

    def check_origin(self, use: Use) -> None:
        """Raise `Forbidden` (403) for a page of an origin that may not use the view."""
        if use == "probe" or not self.cors.refuses(request.headers, is_link=use == "link"):
            return
        origin = request.headers.get("Origin", "unknown")[:_LONGEST_HOST]
        asked = ", ".join(asked_hosts(request.headers))[:_LONGEST_HOST]
        raise Forbidden(
            f"Pages of the origin {origin!r} may not use the chat of {asked!r}. If they should,"
            " list the origin in cors_origins; if it is the chat's own, a proxy has to pass on the"
            " browser's Host with its port."
        )


def with_middleware(view: View, *, methods: Sequence[str], gate: Gate, use: Use = "call") -> View:
    """Return a view that takes these methods (and OPTIONS) and answers where `view` raises."""

    @wraps(view)
    async def answer(**path: str) -> Response:
        response = await _answered(view, methods, gate, use, path)
        response.headers.extend(gate.cors.headers(request.headers))
        return response

    return answer


def add_view(
    blueprint: Blueprint,
    gate: Gate,
    rules: Iterable[str],
    method: str,
    view: View,
    use: Use = "call",
) -> None:
    """Give a view, with what stands around it, to a blueprint at all these rules."""
    # Some probes ask by HEAD. The ASGI server leaves the body out.
    methods = [method, "HEAD"] if use == "probe" else [method]
    function = with_middleware(view, methods=methods, gate=gate, use=use)
    for rule in rules:
        blueprint.add_url_rule(
            rule or "/",
            endpoint=view.__name__,
            view_func=function,
            methods=ALL_METHODS,
            provide_automatic_options=False,
        )


async def _answered(
    view: View, methods: Sequence[str], gate: Gate, use: Use, path: dict[str, str]
) -> Response:
    try:
        gate.check_host(by_address=use == "probe")
        if request.method == "OPTIONS":
            return _preflight(methods, gate.cors)
        if request.method not in methods:
            takes = " and ".join(methods)
            raise MethodNotAllowed([*methods, "OPTIONS"], f"This address takes {takes} only.")
        gate.check_origin(use)
        return await view(**path)
    except BaseException as error:  # noqa: ASYNC103  (a cancellation is raised again)
        # A disconnect may come beside a real error, which Quart-Trio would drop unseen.
        cancelled, failure = split_cancelled(error)
        if failure is None or ends_process(failure):
            raise
        if is_several(failure):
            logger.error("several things failed in a request; one is answered", exc_info=failure)
        response = refused(unwrapped(failure))
        if cancelled is not None:
            raise
        return response  # noqa: ASYNC104


def _preflight(methods: Sequence[str], cors: Cors) -> Response:
    offered = ", ".join([*methods, "OPTIONS"])
    return empty_response({"Allow": offered, **cors.preflight_headers(request.headers, offered)})


# --- Responses ---------------------------------------------------------------------------------


def json_response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> TrioResponse:
    """Return a response with JSON text that no cache may keep."""
    return TrioResponse(
        body,
        status=status,
        headers={**NO_STORE, **(headers or {})},
        content_type="application/json",
    )


def empty_response(headers: Mapping[str, str] | None = None) -> TrioResponse:
    """Return a response without a body (204)."""
    return TrioResponse(status=204, headers={**NO_STORE, **(headers or {})})


def event_stream(body: ResponseBody) -> TrioResponse:
    """Return a response that sends server-sent events for as long as the body has any."""
    response = TrioResponse(body, headers=EVENT_STREAM_HEADERS, content_type="text/event-stream")
    # Quart's default cuts any response after 60 seconds.
    response.timeout = None
    return response


# --- Refusals ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """What the client is told of an exception: a status, a stable code and a message."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    def body(self) -> bytes:
        """Return the JSON text."""
        error = {"code": self.code, "message": self.message, **self.details}
        return json.dumps({"error": error}).encode()


def refusal_response(refusal: Refusal) -> Response:
    """Return a refusal as a response."""
    return json_response(refusal.body(), refusal.status, refusal.headers)


async def send_refusal(refusal: Refusal, send: Callable[[Any], Awaitable[None]]) -> None:
    """Send a refusal as ASGI says, where there is no app to do it. Any event loop will do."""
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": refusal.body()})


def refused(error: BaseException) -> Response:
    """Return the response to a request that ended with an exception: the one it has, or JSON."""
    if isinstance(error, HTTPException) and isinstance(error.response, Response):
        return error.response
    return refusal_response(refusal_of(error))


def refusal_of(error: BaseException) -> Refusal:
    """Return what to tell the client of an exception, and log the server's own faults."""
    match error:
        case ServerNotRunningError():
            return Refusal(503, error.code, _UNAVAILABLE, {"Retry-After": RETRY_AFTER})
        case LimitError():
            return _refusal_of_limit(error)
        case ChatKitError() if error.http_status < 500:
            return Refusal(error.http_status, error.code, text_of(error))
        case RequestEntityTooLarge():
            return Refusal(413, TooLargeError.code, "The request is too large.")
        case HTTPException():
            return _refusal_of_http_exception(error)
    if (http_error := http_error_of(error)) is not None:
        if not http_error.is_of_client:
            logger.error("a request failed", exc_info=error)
        return _refusal_of_http_error(http_error)
    logger.error("a request failed", exc_info=error)
    match error:
        case ChatKitError() if error.http_status == 503:
            return Refusal(503, error.code, _UNAVAILABLE, {"Retry-After": RETRY_AFTER})
        case NotImplementedError():
            return Refusal(501, "not_implemented", _NOT_OFFERED)
    return Refusal(500, "internal", _BROKEN)


def _refusal_of_limit(error: LimitError) -> Refusal:
    seconds = max(1, math.ceil(error.retry_after))
    details = {"limit": error.limit, "retry_after": seconds}
    headers = {"Retry-After": str(seconds)}
    return Refusal(error.http_status, error.code, text_of(error), headers, details)


def _refusal_of_http_error(error: HTTPError) -> Refusal:
    """Return what another package's exception tells, in the words that werkzeug has for it."""
    name = "Error"
    with suppress(ValueError):  # not every number has a name
        name = HTTPStatus(error.status).phrase
    with suppress(LookupError):
        name = default_exceptions[error.status]().name
    headers = {
        name: value
        for name, value in error.headers.items()
        if name.lower() not in _HEADERS_SET_HERE and _fits_header(name + value)
    }
    detail, details = error.detail, {}
    if not isinstance(detail, str):
        with suppress(TypeError, ValueError, RecursionError):
            details = {"detail": json.loads(json.dumps(detail, allow_nan=False))}
        detail = name
    return Refusal(error.status, _code(name), detail or name, headers, details)


def _fits_header(text: str) -> bool:
    return text.isprintable() and text.isascii()


def _code(name: str) -> str:
    return name.lower().replace(" ", "_")


def _refusal_of_http_exception(error: HTTPException) -> Refusal:
    headers = {
        name: value for name, value in error.get_headers() if name.lower() not in _HEADERS_SET_HERE
    }
    code = error.code or 500
    return Refusal(code, _code(error.name), error.description or error.name, headers)
