"""Sending in bounded time: a client that reads nothing is hung up on.

A server waits for its client's socket for ever, and Hypercorn shields that wait: cancelling the
task that sends doesn't end it. So the connection itself has to be closed, which an ASGI app isn't
offered. It is found behind the `send` that the app was given, which in Hypercorn is a method of
objects that lead to it. With another server, or behind a middleware that hides `send`, the request
is cancelled instead, and whether that closes the connection is up to the server.
"""

from __future__ import annotations

import functools
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from math import inf
from types import FrameType, FunctionType
from typing import Any

import trio

from ._direct_sends import DirectWay, Send, is_asked_by_quart

logger = logging.getLogger(__name__)

SEND_TIMEOUT = 60.0
"""Seconds that a piece of a response may take to leave, if nothing else is said."""

_PIECE = 64 * 1024  # bytes
_LONGEST_WAY = 16  # objects from `send` to the connection; Hypercorn has three, FastAPI some more
_RESET = struct.pack("ii", 1, 0)  # linger for no time: what is unsent is thrown away


class Sending:
    """The sends of one response.

    A piece of at most 64 kB that hasn't left after `timeout` seconds ends the connection. `excuse`
    is awaited before: it returns when the client's silence begins to count.
    """

    def __init__(self, send: Send, hang_up: Callable[[], None]) -> None:
        self.timeout = SEND_TIMEOUT
        self.excuse: Callable[[], Awaitable[None]] | None = None
        self._send = send
        self._hang_up = hang_up
        self._since = inf
        self._patience = trio.CancelScope()
        self._direct: DirectWay | None = None

    def find_direct_way(self, caller: FrameType) -> bool:
        """Say whether `send_now` may be used for a body whose `__anext__` this frame awaits."""
        if is_asked_by_quart(caller, self.send):
            self._direct = DirectWay.behind(self._send)
        return self._direct is not None

    @property
    def has_unsent(self) -> bool:
        """Whether `send_now` has left something for the next `send`."""
        return self._direct is not None and bool(self._direct.unsent)

    def send_now(self, chunk: bytes) -> bool:
        """Send a chunk without waiting; if it hasn't left whole, the next `send` sends the rest.

        Say whether it has. Call it only while no `send` is under way.
        """
        return self._direct is not None and self._direct.send(chunk)

    async def send(self, message: Any) -> None:
        """Send a message, in pieces if it is long."""
        while self._direct is not None and self._direct.unsent:
            await self._in_time(self._direct.send_rest(_PIECE))
        body = message.get("body", b"") if message["type"] == "http.response.body" else b""
        while len(body) > _PIECE:
            piece, body = body[:_PIECE], body[_PIECE:]
            await self._in_time(self._send({**message, "body": piece, "more_body": True}))
            message = {**message, "body": body}
        await self._in_time(self._send(message))

    async def watch(self) -> None:
        """Wait until a piece has taken too long, and hang up."""
        while True:
            with self._patience:
                await trio.sleep_forever()
            self._patience = trio.CancelScope()
            deadline = self._since + self.timeout
            if deadline <= trio.current_time():
                counts_from = 0.0
                if self.excuse is not None:
                    await self.excuse()
                    counts_from = trio.current_time()
                deadline = max(self._since, counts_from) + self.timeout
                if deadline <= trio.current_time():
                    self._hang_up()
                    return
                self.excuse = None
            if self._since != inf:  # else the piece has left
                self._patience.deadline = deadline

    async def _in_time(self, sending: Awaitable[None]) -> None:
        self._since = trio.current_time()
        # One that is due sooner stays, and `watch` looks what it was for: setting it costs more
        # than all else here.
        if self._patience.deadline > self._since + self.timeout:
            self._patience.deadline = self._since + self.timeout
        try:
            await sending
        finally:
            self._since = inf


def connection_behind(send: Send) -> trio.SocketStream | None:
    """Return the connection on which a server's `send` writes, None if it can't be found."""
    owner = _connection_owner(send)
    return None if owner is None else _socket_stream(owner)


def _connection_owner(send: Send) -> Any:
    """Return the server's object for the connection on which `send` writes, None if unknown."""
    step: Any = send
    for _ in range(_LONGEST_WAY):
        owner = getattr(step, "__self__", None)
        if _socket_stream(owner) is not None:
            return owner
        step = _wrapped_send(step, owner)
        if step is None:
            return None
    return None


def _wrapped_send(step: Any, owner: Any) -> Any:
    """Return the `send` that a middleware has wrapped into this one, None if it can't be found.

    It is kept by the object whose method the wrapper is, as an argument of a partial, or as a
    variable of the function around the wrapper; Starlette has all three.
    """
    if isinstance(step, functools.partial):
        return step.keywords.get("send")
    names = ("passes_to", "_send", "send")
    if isinstance(step, FunctionType):
        cells = zip(step.__code__.co_freevars, step.__closure__ or (), strict=True)
        return next((cell.cell_contents for name, cell in cells if name in names), None)
    return next((getattr(owner, name) for name in names if hasattr(owner, name)), None)


def _socket_stream(owner: Any) -> trio.SocketStream | None:
    stream = getattr(owner, "stream", None)
    if isinstance(stream, trio.SSLStream):
        stream = stream.transport_stream
    return stream if isinstance(stream, trio.SocketStream) else None


def reset(connection: trio.SocketStream) -> None:
    """Close a connection at once, whoever waits for it, and drop what it hasn't sent."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    except (OSError, trio.ClosedResourceError):
        return  # it is closed already
    connection.socket.close()
