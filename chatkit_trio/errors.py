"""The errors of this package.

Your hooks raise `StreamError` and `CustomStreamError` to end a stream with an `error` event. The
package raises the tree under `ChatKitError`: each class carries the HTTP status and a stable `code`
that the web layer answers with. A wrong call is a `TypeError`, `ValueError` or `RuntimeError`, as
usual.
"""

from __future__ import annotations

from abc import ABC
from enum import Enum
from typing import ClassVar

__all__ = [
    "DEFAULT_ALLOW_RETRY",
    "DEFAULT_STATUS",
    "BaseStreamError",
    "BusyError",
    "ChatKitError",
    "ConflictError",
    "CustomStreamError",
    "ErrorCode",
    "ForbiddenError",
    "FramesLost",
    "GoneError",
    "InvalidRequestError",
    "LimitError",
    "ModelError",
    "NotFoundError",
    "ServerNotRunningError",
    "StoreError",
    "StoreTimeoutError",
    "StreamError",
    "TooLargeError",
    "UnsupportedTypeError",
    "WidgetTemplateError",
]


class ErrorCode(str, Enum):  # noqa: UP042  (StrEnum would change what str() gives)
    """Codes for which a client has its own text. More may be added; don't rely on the set."""

    STREAM_ERROR = "stream.error"


DEFAULT_STATUS: dict[ErrorCode, int] = {ErrorCode.STREAM_ERROR: 500}
"""HTTP status by code, for an error that isn't sent as an event of a stream."""

DEFAULT_ALLOW_RETRY: dict[ErrorCode, bool] = {ErrorCode.STREAM_ERROR: True}
"""Whether the client offers a retry, by code."""


class BaseStreamError(ABC, Exception):
    """An error a hook raises to end its stream with an `error` event."""

    allow_retry: bool


class StreamError(BaseStreamError):
    """End the stream with a code; the client shows its own text for it.

    `allow_retry` overrides the code's default.
    """

    code: ErrorCode

    def __init__(self, code: ErrorCode, *, allow_retry: bool | None = None) -> None:
        super().__init__(code.value if isinstance(code, ErrorCode) else code)
        self.code = code
        self.status_code = DEFAULT_STATUS.get(code, 500)
        default = DEFAULT_ALLOW_RETRY.get(code, False)
        self.allow_retry = default if allow_retry is None else allow_retry


class CustomStreamError(BaseStreamError):
    """End the stream with a message the user sees; localise it before raising."""

    message: str

    def __init__(self, message: str, *, allow_retry: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.allow_retry = allow_retry


class ChatKitError(Exception):
    """Base of the errors this package raises to its callers."""

    http_status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"


class InvalidRequestError(ChatKitError, ValueError):
    """The request isn't one of the protocol, or a value in it is wrong."""

    http_status = 400
    code = "invalid_request"


class NotFoundError(ChatKitError):
    """No such thread, item or attachment, or it belongs to somebody else."""

    http_status = 404
    code = "not_found"


def means_not_found(error: Exception) -> bool:
    """Say whether a store says so that something isn't there: a forgotten import does it too."""
    return isinstance(error, NotFoundError) or any(
        (cls.__module__, cls.__name__) == ("chatkit.store", "NotFoundError")
        for cls in type(error).__mro__
    )


class ConflictError(ChatKitError):
    """The request was valid when it was made, but something else happened first."""

    http_status = 409
    code = "conflict"


class BusyError(ConflictError):
    """The thread has a live turn, and the server's policy is to reject a second one."""

    code = "busy"


class TurnFencedError(ConflictError):
    """A turn wrote that isn't live any more: another process has settled it, or its thread is gone.

    Nothing was written.
    """

    code = "turn_fenced"


class ThreadChangedError(ConflictError):
    """A turn was to begin on a thread that another process has changed since it was looked at.

    Nothing was written.
    """

    code = "thread_changed"


class TooLargeError(ChatKitError):
    """A body, file or field is over its limit."""

    http_status = 413
    code = "too_large"


class UnsupportedTypeError(ChatKitError):
    """A file's type isn't accepted, or its content isn't of the type it was declared to be."""

    http_status = 415
    code = "unsupported_type"


class ForbiddenError(ChatKitError):
    """A URL's signature isn't one that this server has made."""

    http_status = 403
    code = "forbidden"


class GoneError(ChatKitError):
    """An upload URL has expired."""

    http_status = 410
    code = "expired"


class LimitError(ChatKitError):
    """An owner has used all that it may for now; nothing of the request was carried out.

    `limit` is the name of the field of `OwnerLimits`, and `retry_after` says in how many seconds
    the request may be allowed.
    """

    http_status = 429
    code = "limit"

    def __init__(self, message: str, *, limit: str, retry_after: float) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after = retry_after


class FramesLost(ChatKitError):
    """The frames a reader asked for aren't kept any more; the reader has to load the thread."""

    http_status = 410
    code = "frames_lost"


class ModelError(ChatKitError):
    """The model ended its answer with an error, or went on calling tools for too long."""

    code = "model"


class ServerNotRunningError(ChatKitError, RuntimeError):
    """A request that streams came to a server that isn't entered, or is shutting down."""

    http_status = 503
    code = "not_running"


class StoreError(ChatKitError):
    """The store can't be used: its disk is full, or its file damaged, locked or out of reach."""

    http_status = 503
    code = "store"


class WidgetTemplateError(ChatKitError, ValueError):
    """A widget template can't be loaded, or doesn't make a widget from the data it was given."""

    code = "widget_template"


class StoreTimeoutError(ChatKitError):
    """A store operation took too long and was left; what has become of it is unknown."""

    http_status = 503
    code = "store_timeout"
