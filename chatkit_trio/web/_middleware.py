"""What stands around every view: the method, pages of other origins, responses and exceptions.

An exception that leaves a view becomes a JSON answer here, with the headers that let an allowed
page of another origin read it. The text of an exception goes out only if it was written for the
client: the `ChatKitError`s below 500, and werkzeug's HTTP exceptions. Anything else is logged, and
the client learns nothing about it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeAlias

from quart import Response, request
from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse
from werkzeug.exceptions import (
    Forbidden,
    HTTPException,
    MethodNotAllowed,
    RequestEntityTooLarge,
)

from chatkit_trio._engine.groups import split_cancelled, unwrapped
from chatkit_trio.errors import (
    ChatKitError,
    LimitError,
    ServerNotRunningError,
    TooLargeError,
)

from ._cors import Cors

logger = logging.getLogger(__name__)

View: TypeAlias = Callable[..., Awaitable[Response]]

ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""Routes take every method, so that a wrong one is refused here and not as an HTML page."""

RETRY_AFTER = "2"
"""Seconds until a client may try again: about what a restart takes."""

EVENT_STREAM_HEADERS = {
    # no-transform: a proxy that compresses would hold events back to fill its blocks.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}

_NO_STORE = {"Cache-Control": "no-store"}
_UNAVAILABLE = "The server can't answer now; try again in a moment."
_BROKEN = "Something went wrong on the server."
_NOT_OFFERED = "This server doesn't offer that."
_HEADERS_SET_HERE = {"content-type", "content-length"}


# --- Around a view -----------------------------------------------------------------------------


def with_middleware(view: View, *, method: str, cors: Cors) -> View:
    """Return a view that takes one method (and OPTIONS) and answers where `view` raises."""

    @wraps(view)
    async def answer(**path: str) -> Response:
        if request.method == "OPTIONS":
            response = _preflight(method, cors)
        else:
            response = await _answered(view, method, cors, path)
        response.headers.extend(cors.headers(request.headers))
        return response

    return answer


async def _answered(view: View, method: str, cors: Cors, path: dict[str, str]) -> Response:
    try:
        _check(method, cors)
        return await view(**path)
    except Exception as error:
        return _refused(unwrapped(error))
    except BaseExceptionGroup as group:
        # A disconnect beside a real error: Quart-Trio would drop the error unseen.
        cancelled, failure = split_cancelled(group)
        response = None if failure is None else _refused(unwrapped(failure))
        if cancelled is not None or response is None:
            raise
        return response


def _check(method: str, cors: Cors) -> None:
    if request.method != method:
        raise MethodNotAllowed([method, "OPTIONS"], f"This address takes {method} only.")
    if method == "POST" and cors.refuses(request.headers):
        raise Forbidden("Pages of this origin may not use the chat.")


def _preflight(method: str, cors: Cors) -> Response:
    allowed = cors.preflight_headers(request.headers, method)
    return empty_response({"Allow": f"{method}, OPTIONS", **allowed})


def _refused(error: BaseException) -> Response:
    return refusal_response(refusal_of(error))


# --- Responses ---------------------------------------------------------------------------------


def json_response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> TrioResponse:
    """Return a response with JSON text that no cache may keep."""
    return TrioResponse(
        body,
        status=status,
        headers={**_NO_STORE, **(headers or {})},
        content_type="application/json",
    )


def empty_response(headers: Mapping[str, str] | None = None) -> TrioResponse:
    """Return a response without a body (204)."""
    return TrioResponse(status=204, headers={**_NO_STORE, **(headers or {})})


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


def refusal_of(error: BaseException) -> Refusal:
    """Return what to tell the client of an exception, and log the server's own faults."""
    match error:
        case ServerNotRunningError():
            return Refusal(503, error.code, _UNAVAILABLE, {"Retry-After": RETRY_AFTER})
        case LimitError():
            return _refusal_of_limit(error)
        case ChatKitError() if error.http_status < 500:
            return Refusal(error.http_status, error.code, str(error))
        case RequestEntityTooLarge():
            return Refusal(413, TooLargeError.code, "The request is too large.")
        case HTTPException():
            return _refusal_of_http_exception(error)
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
    return Refusal(error.http_status, error.code, str(error), headers, details)


def _refusal_of_http_exception(error: HTTPException) -> Refusal:
    headers = {
        name: value for name, value in error.get_headers() if name.lower() not in _HEADERS_SET_HERE
    }
    code = error.name.lower().replace(" ", "_")
    return Refusal(error.code or 500, code, error.description or error.name, headers)
