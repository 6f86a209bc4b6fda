"""What stands around every view: the method, pages of other origins, and exceptions.

Everything that leaves a view by an exception becomes a JSON answer here, with the headers that
let an allowed page of another origin read it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps
from typing import TypeAlias

from quart import Response, request
from werkzeug.exceptions import Forbidden, MethodNotAllowed

from chatkit_trio._engine.groups import split_cancelled, unwrapped

from ._cors import Cors
from ._errors import Refusal, refusal_of
from ._responses import empty_response, json_response

View: TypeAlias = Callable[..., Awaitable[Response]]

ALL_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
"""Routes take every method, so that a wrong one is refused here and not as an HTML page."""


def bordered(view: View, *, method: str, cors: Cors) -> View:
    """Return the view behind the border: it takes one method (and OPTIONS), and never raises."""

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


def refusal_response(refusal: Refusal) -> Response:
    """Return a refusal as a response."""
    return json_response(refusal.body(), refusal.status, refusal.headers)
