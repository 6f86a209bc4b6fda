"""HTTP without a network: an ASGI application called in this process, on any clock.

The application's `send` waits until the client has taken the chunk. So a client that doesn't read
stalls the application, and a disconnect reaches the application at once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import unquote

import trio

from ._transport import Connection, Headers, HTTPResponse, HTTPTransport

__all__ = ["ASGIApp", "ASGITransport"]

Message = MutableMapping[str, Any]
ASGIApp = Callable[
    [Any, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Awaitable[None]
]

_LIFESPAN_TIMEOUT = 30.0  # seconds
_ENDING_TIMEOUT = 60.0  # seconds after a disconnect; settling an answer takes less


class ASGITransport(HTTPTransport):
    """Calls an ASGI application; entering it runs the application's start-up, if it has one."""

    def __init__(
        self, app: ASGIApp, path: str, headers: Headers, *, can_return: bool = False
    ) -> None:
        super().__init__(path, headers, can_return=can_return)
        self._app = app
        self._state: dict[str, Any] = {}
        self._lifespan: Any = None

    async def __aenter__(self) -> Self:
        self._lifespan = _running(self._app, self._state)
        await self._lifespan.__aenter__()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        lifespan, self._lifespan = self._lifespan, None
        await lifespan.__aexit__(*exc_info)  # noqa: ASYNC102  (it shields its own waiting)

    @asynccontextmanager
    async def exchange(
        self, method: str, path: str, body: bytes, headers: Headers
    ) -> AsyncIterator[HTTPResponse]:
        call = _Call(body)
        scope = _http_scope(method, path, body, headers, self._state.copy())
        async with _beside(call.run, self._app, scope):
            try:
                status, response_headers = await call.head()
                yield HTTPResponse(status, response_headers, call)
            finally:
                # Shielded, so that the application has settled its turn when this block is left.
                with trio.move_on_after(_ENDING_TIMEOUT, shield=True) as limit:
                    await call.disconnect()
                call.scope.cancel()
        if limit.cancelled_caught:
            raise RuntimeError(
                f"the application hasn't ended {_ENDING_TIMEOUT} s after its client left or had"
                " read everything"
            )


def _http_scope(
    method: str, target: str, body: bytes, headers: Headers, state: dict[str, Any]
) -> dict[str, Any]:
    path, _, query = target.partition("?")
    given = [(name.lower().encode(), value.encode()) for name, value in headers]
    if b"host" not in dict(given):
        # A name that every ChatKit app answers for, as a browser on this machine would send.
        given.insert(0, (b"host", b"localhost"))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [
            (b"content-length", str(len(body)).encode()),
            *given,
        ],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "extensions": {},
        "state": state,
    }


class _Call(Connection):
    """One request: the two callables an application is given, and what the client reads."""

    def __init__(self, body: bytes) -> None:
        self.scope = trio.CancelScope()
        """Ends the application's task when it is cancelled."""
        self._body: bytes | None = body
        self._gone = trio.Event()
        self._ended = trio.Event()
        self._head_send, self._head = trio.open_memory_channel[tuple[int, Headers]](1)
        # No buffer: the application waits until its chunk has been read.
        self._chunk_send, self._chunks = trio.open_memory_channel[bytes](0)
        self._is_complete = False
        self._failure: Exception | None = None

    async def run(self, app: ASGIApp, scope: dict[str, Any]) -> None:
        try:
            with self.scope:
                await app(scope, self._app_receive, self._app_send)
        except Exception as error:
            # As with real servers, the client sees a broken answer; here it also gets the cause.
            self._failure = error
        finally:
            self._head_send.close()
            self._chunk_send.close()
            self._ended.set()

    async def head(self) -> tuple[int, Headers]:
        try:
            return await self._head.receive()
        except trio.EndOfChannel:
            message = "the application ended without starting a response"
            raise trio.BrokenResourceError(message) from self._failure

    async def receive(self) -> bytes:
        try:
            return await self._chunks.receive()
        except trio.EndOfChannel:
            if not self._is_complete:
                message = "the application ended in the middle of its response"
                raise trio.BrokenResourceError(message) from self._failure
            raise

    async def disconnect(self) -> None:
        """Tell the application that the client has left, and return when it has ended."""
        self._gone.set()
        self._chunks.close()
        await self._ended.wait()

    async def _app_receive(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _app_send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(name.decode(), value.decode()) for name, value in message["headers"]]
            self._head_send.send_nowait((message["status"], headers))
        elif message["type"] == "http.response.body":
            if message.get("body"):
                await self._deliver(bytes(message["body"]))
            if not message.get("more_body", False):
                self._is_complete = True
                self._chunk_send.close()

    async def _deliver(self, chunk: bytes) -> None:
        try:
            await self._chunk_send.send(chunk)
        except trio.BrokenResourceError:
            # As with real servers, sending to a client that has left does nothing.
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def _beside(run: Callable[..., Awaitable[None]], *args: Any) -> AsyncIterator[None]:
    """Run a task beside the block; an error of the block is raised without a group around it."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, *args)
        try:
            yield
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


@asynccontextmanager
async def _running(app: ASGIApp, state: dict[str, Any]) -> AsyncIterator[None]:
    """Run an application's lifespan, if it supports that."""
    lifespan = _Lifespan()
    async with _beside(lifespan.run, app, state):
        try:
            await lifespan.phase("startup")
            yield
        finally:
            with trio.move_on_after(_LIFESPAN_TIMEOUT, shield=True) as limit:
                await lifespan.phase("shutdown")
                await lifespan.ended.wait()
            lifespan.scope.cancel()
    if limit.cancelled_caught:
        raise RuntimeError(f"the application didn't shut down within {_LIFESPAN_TIMEOUT} s")
    lifespan.raise_failure()


class _Lifespan:
    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self._to_app, self._app_receives = trio.open_memory_channel[Message](1)
        self._app_sends, self._from_app = trio.open_memory_channel[Message](1)
        self._has_begun = False
        self._failure: Exception | None = None

    async def run(self, app: ASGIApp, state: dict[str, Any]) -> None:
        scope = {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": state,
        }
        with self._app_sends, self.scope:
            try:
                await app(scope, self._app_receives.receive, self._answer)
            except Exception as error:
                # An error before the first answer only means that it doesn't support lifespans.
                self._failure = error if self._has_begun else None
        self.ended.set()

    async def _answer(self, message: Message) -> None:
        self._has_begun = True
        await self._app_sends.send(message)

    async def phase(self, name: str) -> None:
        if self.ended.is_set():
            return
        self._to_app.send_nowait({"type": f"lifespan.{name}"})
        try:
            answer = await self._from_app.receive()
        except trio.EndOfChannel:
            return
        if answer["type"].endswith(".failed"):
            raise RuntimeError(f"the application's {name} failed: {answer.get('message', '')}")

    def raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
