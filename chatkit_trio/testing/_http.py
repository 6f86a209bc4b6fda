"""HTTP/1.1 over sockets: one connection a request; a client may stop reading or hang up."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import h11
import trio

from ._transport import Connection, Headers, HTTPResponse, HTTPTransport

__all__ = ["SocketTransport"]

_RECEIVE_SIZE = 65536


class SocketTransport(HTTPTransport):
    """Talks to the server of a URL. The TCP connection is closed after every request."""

    def __init__(self, url: str, headers: Headers, *, can_return: bool = False) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise ValueError(f"a client needs an http or https URL, not {url!r}")
        super().__init__(parts.path, headers, can_return=can_return)
        self._host = parts.hostname
        self._is_secure = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_secure else 80)
        self._netloc = parts.netloc

    @asynccontextmanager
    async def exchange(
        self, method: str, path: str, body: bytes, headers: Headers
    ) -> AsyncIterator[HTTPResponse]:
        connection = _SocketConnection(await self._open())
        try:
            request = h11.Request(
                method=method,
                target=path,
                headers=[
                    ("host", self._netloc),
                    ("content-length", str(len(body))),
                    ("connection", "close"),
                    *headers,
                ],
            )
            response = await connection.send(request, body)
            given = [(name.decode(), value.decode()) for name, value in response.headers]
            yield HTTPResponse(response.status_code, given, connection)
        finally:
            await connection.disconnect()  # noqa: ASYNC102  (closing forcefully doesn't wait)

    async def _open(self) -> trio.abc.Stream:
        if self._is_secure:
            context = ssl.create_default_context()
            return await trio.open_ssl_over_tcp_stream(
                self._host, self._port, ssl_context=context, https_compatible=True
            )
        return await trio.open_tcp_stream(self._host, self._port)


class _SocketConnection(Connection):
    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._protocol = h11.Connection(h11.CLIENT)

    async def send(self, request: h11.Request, body: bytes) -> h11.Response:
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            data = self._protocol.send(event)
            if data:
                await self._stream.send_all(data)
        while True:
            answer = await self._next_event()
            if isinstance(answer, h11.Response):
                return answer

    async def receive(self) -> bytes:
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        raise trio.EndOfChannel

    async def disconnect(self) -> None:
        await trio.aclose_forcefully(self._stream)

    async def _next_event(self) -> Any:
        while True:
            try:
                event = self._protocol.next_event()
            except h11.RemoteProtocolError as error:
                raise trio.BrokenResourceError("the response was cut off") from error
            if event is not h11.NEED_DATA:
                return event
            self._protocol.receive_data(bytes(await self._stream.receive_some(_RECEIVE_SIZE)))
