"""What the client is told of an exception: a status, a stable code and a message.

The text of an exception goes out only where it was written for the client: the `ChatKitError`s
below 500, and werkzeug's HTTP exceptions. Anything else is logged, and the client learns nothing.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field

from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from chatkit_trio.errors import ChatKitError, ServerNotRunningError, TooLargeError

logger = logging.getLogger(__name__)

RETRY_AFTER = "2"
"""Seconds until a client may try again: about what a restart takes."""

_UNAVAILABLE = "The server can't answer now; try again in a moment."
_BROKEN = "Something went wrong on the server."
_NOT_OFFERED = "This server doesn't offer that."
_OWN_HEADERS = {"content-type", "content-length"}


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that isn't what was asked for."""

    status: int
    code: str
    message: str
    headers: dict[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """Return the JSON text."""
        return json.dumps({"error": {"code": self.code, "message": self.message}}).encode()


def refusal_of(error: BaseException) -> Refusal:
    """Return what to answer, and log what is the server's own fault."""
    match error:
        case ServerNotRunningError():
            return Refusal(503, error.code, _UNAVAILABLE, {"Retry-After": RETRY_AFTER})
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


def _refusal_of_http_exception(error: HTTPException) -> Refusal:
    headers = {
        name: value for name, value in error.get_headers() if name.lower() not in _OWN_HEADERS
    }
    code = error.name.lower().replace(" ", "_")
    return Refusal(error.code or 500, code, error.description or error.name, headers)
