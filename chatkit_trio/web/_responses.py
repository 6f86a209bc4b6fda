"""The three kinds of response: JSON, nothing, and a stream of events."""

from __future__ import annotations

from collections.abc import Mapping

from quart.wrappers.response import ResponseBody
from quart_trio.wrappers import TrioResponse

_NO_STORE = {"Cache-Control": "no-store"}

EVENT_STREAM_HEADERS = {
    # no-transform: a proxy that compresses would hold events back to fill its blocks.
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
}


def json_response(
    body: bytes, status: int = 200, headers: Mapping[str, str] | None = None
) -> TrioResponse:
    """Return a response with JSON text that nobody may keep."""
    return TrioResponse(
        body,
        status=status,
        headers={**_NO_STORE, **(headers or {})},
        content_type="application/json",
    )


def empty_response(headers: Mapping[str, str] | None = None) -> TrioResponse:
    """Return the response that says there is nothing to say (204)."""
    return TrioResponse(status=204, headers={**_NO_STORE, **(headers or {})})


def event_stream(body: ResponseBody) -> TrioResponse:
    """Return the response that sends this body for as long as it takes."""
    response = TrioResponse(body, headers=EVENT_STREAM_HEADERS, content_type="text/event-stream")
    # Quart's default cuts any response after 60 seconds.
    response.timeout = None
    return response
