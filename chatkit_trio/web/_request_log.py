"""One line in the log for each request, when it has been answered or its client has left.

It tells the method, the path, the status and the time. It doesn't tell the query, in which links to
files have their signature, nor the client's address.
"""

from __future__ import annotations

import logging
from typing import Any
from urllib.parse import quote

import trio

logger = logging.getLogger("chatkit_trio.requests")

_MARK = "chatkit_trio.is_logged"
_LONGEST_PATH = 200  # characters of it that are logged


async def logged(app: Any, scope: Any, receive: Any, send: Any) -> None:
    """Call an app, as ASGI says, and log the request, unless that is being done further out."""
    if scope["type"] != "http" or _MARK in scope or not logger.isEnabledFor(logging.INFO):
        await app(scope, receive, send)
        return
    answer = _Answer(send)
    began = trio.current_time()
    try:
        await app({**scope, _MARK: True}, receive, answer.send)
    finally:
        _log(scope, answer, trio.current_time() - began)


def _log(scope: Any, answer: _Answer, seconds: float) -> None:
    # Quoted: what a client sends may not begin a line of its own.
    method, path = quote(scope["method"]), quote(scope["path"])[:_LONGEST_PATH]
    status = answer.status or "unanswered"
    cut = "" if answer.is_whole else ", cut short"
    logger.info(
        "%s %s %s%s, %.3f s",
        method,
        path,
        status,
        cut,
        seconds,
        extra={
            "event": "request",
            "method": method,
            "path": path,
            "status": answer.status,
            "is_whole": answer.is_whole,
            "seconds": round(seconds, 6),
        },
    )


class _Answer:
    """What is sent to a client, as it passes."""

    def __init__(self, send: Any) -> None:
        self.status: int | None = None
        self.is_whole = False
        """Whether the last message has been sent; else the client has left, or the app failed."""
        self.passes_to = send
        """What gets each message, unchanged."""

    async def send(self, message: Any) -> None:
        await self.passes_to(message)
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_whole = True
