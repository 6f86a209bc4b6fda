"""HTTP exceptions of other packages, known by their shape: Starlette's, FastAPI's and the like.

Their authors write them for the client: a status, and a detail that says why. Nothing of these
packages is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_SERVER_ERRORS = 500


@dataclass(frozen=True, slots=True)
class HTTPError:
    """What an exception tells a client."""

    status: int
    detail: Any
    """Text, or anything that can be JSON."""
    headers: dict[str, str]

    @property
    def is_of_client(self) -> bool:
        """Whether the request was at fault, and not the server."""
        return self.status < _SERVER_ERRORS


def http_error_of(error: BaseException) -> HTTPError | None:
    """Return what an exception with `status_code` and `detail` tells, None for all others.

    Also for one that raises when it is looked at: its response may never have come.
    """
    try:
        return _told_by(error)
    except Exception:
        return None


def _told_by(error: BaseException) -> HTTPError | None:
    status = getattr(error, "status_code", None)
    missing = object()
    detail: Any = getattr(error, "detail", missing)
    if not isinstance(error, Exception) or detail is missing:
        return None
    if isinstance(status, bool) or not isinstance(status, int) or not 300 <= status <= 599:
        return None
    headers = getattr(error, "headers", None)
    named = headers if isinstance(headers, Mapping) else {}
    return HTTPError(int(status), detail, {str(name): str(value) for name, value in named.items()})
