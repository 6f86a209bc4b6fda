"""Sending past the server: a chunk goes into the connection's socket in the moment that it is due.

The way through Hypercorn (its lock, a shielded scope, the task that has to be woken) costs several
times what a chunk's own write does. So a chunk is framed by Hypercorn's own h11 connection, and
written by the task that finds it due, as far as the socket takes it. The rest of it, and the head
and the end of a response, go the usual way.

That is right only if nobody stands between: nothing that an app has put around the response
(compression, a log of what is sent), no other server, no TLS and no HTTP/2. So each step of the way
is looked at once a response, and with one that isn't known all goes the usual way.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any, TypeVar

import h11
import trio
from hypercorn.events import RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.http_stream import HTTPStream
from hypercorn.trio.tcp_server import TCPServer
from quart.asgi import ASGIHTTPConnection

Send = Callable[[Any], Awaitable[None]]
T = TypeVar("T")


class DirectWay:
    """The way of one response's chunks into its connection."""

    def __init__(self, protocol: H11Protocol, stream: trio.SocketStream) -> None:
        self._protocol = protocol
        self._stream = stream
        self.unsent = memoryview(b"")
        """What is to be sent before anything else, as it is."""

    @classmethod
    def behind(cls, send: Send) -> DirectWay | None:
        """Return the way behind a `send`, None if it isn't known whole."""
        owner: Any = getattr(send, "__self__", None)
        while hasattr(owner, "passes_to"):
            send = owner.passes_to
            owner = getattr(send, "__self__", None)
        response = _owner(send, HTTPStream, "app_send")
        protocol = _owner(getattr(response, "send", None), H11Protocol, "stream_send")
        connection = _owner(getattr(protocol, "send", None), TCPServer, "protocol_send")
        stream: object = getattr(connection, "stream", None)
        if protocol is None or not isinstance(stream, trio.SocketStream):
            return None
        return cls(protocol, stream) if isinstance(protocol.connection, h11.Connection) else None

    def send(self, chunk: bytes) -> bool:
        """Send a chunk as far as the socket takes it now, and say whether that is all of it.

        Call it only while nothing else is being sent. Not a checkpoint.
        """
        try:
            data = self._protocol.connection.send(h11.Data(data=chunk))
        except h11.LocalProtocolError:
            return False  # the connection is ending
        try:
            # Asked for each time: a closed socket's number may be another connection's by now.
            sent = os.write(self._stream.socket.fileno(), data)
        except OSError:
            sent = 0  # full, or broken: then sending the rest tells so
        self.unsent = memoryview(data)[sent:]
        return sent == len(data)

    async def send_rest(self, max_bytes: int) -> None:
        """Send some of what the socket hasn't taken, as Hypercorn sends it."""
        piece, self.unsent = self.unsent[:max_bytes], self.unsent[max_bytes:]
        await self._protocol.send(RawData(data=bytes(piece)))


def _owner(method: object, kind: type[T], name: str) -> T | None:
    """Return the object of this class whose method of this name it is, None if it isn't one."""
    owner = getattr(method, "__self__", None)
    return owner if isinstance(owner, kind) and getattr(owner, name, None) == method else None


def is_asked_by_quart(caller: FrameType, send: Send) -> bool:
    """Say whether it is Quart itself that iterates a body, and sends what it gets by `send`.

    `caller` is the frame that awaits the body's `__anext__`. Something that an app has put around
    the body, or between Quart and `send`, would be found there instead.
    """
    asking = getattr(getattr(ASGIHTTPConnection, "_send_response", None), "__code__", None)
    return caller.f_code is asking and bool(caller.f_locals.get("send") == send)
