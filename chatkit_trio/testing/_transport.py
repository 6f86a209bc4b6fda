"""How a client's requests are sent: straight to a server object, or as HTTP.

A `Transport` has five operations: ask, open a stream, watch a stream, stop a turn, ask how one
ended. Over HTTP all use one method, `exchange`, which the ASGI and the socket transport implement.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self
from urllib.parse import quote

import trio

from chatkit_trio._engine.groups import unwrapped
from chatkit_trio._engine.loading import load_thread
from chatkit_trio.server import (
    ChatKitServer,
    NonStreamingResult,
    StreamingResult,
    Turn,
)
from chatkit_trio.types import AnswerEnding
from chatkit_trio.web._middleware import refused
from chatkit_trio.web._watch import followed, parse_event_id

__all__ = [
    "Connection",
    "EndedConnection",
    "HTTPResponse",
    "HTTPTransport",
    "Headers",
    "RequestRefused",
    "ServerConnection",
    "ServerTransport",
    "Transport",
]

Headers = Sequence[tuple[str, str]]

_WITH_EVENT_IDS = ("chatkit-event-ids", "1")
_WITH_ENDINGS = ("chatkit-endings", "1")


class RequestRefused(Exception):
    """The server answered with an error status.

    `status` is the HTTP status, `body` the answer's JSON (its text, if it isn't JSON). Without
    HTTP both are as the web layer would answer, and the server's own exception is the
    `__cause__`; one that is no fault of the client is logged too, as there.
    """

    def __init__(self, status: int, body: Any) -> None:
        super().__init__(f"HTTP {status}: {body}")
        self.status = status
        self.body = body

    @property
    def code(self) -> str | None:
        """The error's stable code, such as "not_found"; None if the body has none."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return error.get("code") if isinstance(error, dict) else None


class Connection(ABC):
    """A stream that is being read."""

    @abstractmethod
    async def receive(self) -> bytes:
        """Return the next bytes. Raises `trio.EndOfChannel` at the end; a cancelled call has
        read nothing."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Break the connection; may be called again."""


class Transport(ABC):
    """The connection to a server, real or not. Enter it before use."""

    @abstractmethod
    async def ask(
        self, request: bytes, *, idempotency_key: str | None = None, with_endings: bool = False
    ) -> bytes:
        """Return the JSON that answers a request. Raises `RequestRefused`."""

    @abstractmethod
    def stream(
        self, request: bytes, *, idempotency_key: str | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """Open the stream that answers a request. Raises `RequestRefused` when entered."""

    @abstractmethod
    def watch(
        self, thread_id: str, last_event_id: str | None
    ) -> AbstractAsyncContextManager[Connection]:
        """Open the stream of a thread's live turn; one that is over if there is none to watch.

        Raises `RequestRefused` when entered.
        """

    @abstractmethod
    async def stop(self, thread_id: str) -> None:
        """End a thread's live turn; returns when it is settled. Raises `RequestRefused`."""

    @abstractmethod
    async def last_ending(self, thread_id: str) -> AnswerEnding | None:
        """Return how a thread's last answer was cut. Raises `RequestRefused`."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        return None


# --- Straight to a server object ---------------------------------------------------------------


class ServerConnection(Connection):
    """The reading of a `StreamingResult`."""

    def __init__(self, result: StreamingResult) -> None:
        self.result = result

    @property
    def turn(self) -> Turn[Any]:
        """The engine's turn behind the stream; starts it.

        Raises `TypeError` if it runs on another server.
        """
        turn = self.result.turn
        if not isinstance(turn, Turn):
            raise TypeError(f"{turn.id} runs on another server, which has its turn")
        return turn

    async def receive(self) -> bytes:
        return b"".join(await self.result.receive())

    async def disconnect(self) -> None:
        await self.result.aclose()

    def hang_up(self) -> None:
        """Disconnect without waiting until the turn is settled."""
        turn, reader = self.result._started()
        turn.close_reader(reader)


class EndedConnection(Connection):
    """The reading of a stream without events: there was no live turn to watch."""

    async def receive(self) -> bytes:
        await trio.lowlevel.checkpoint()
        raise trio.EndOfChannel

    async def disconnect(self) -> None:
        await trio.lowlevel.checkpoint()


class ServerTransport(Transport):
    """Does to a server object what the web layer does, with one context for all requests."""

    def __init__(
        self, server: ChatKitServer[Any], context: Any, *, can_return: bool = False
    ) -> None:
        self._server = server
        self._context = context
        self._can_return = can_return

    async def ask(
        self, request: bytes, *, idempotency_key: str | None = None, with_endings: bool = False
    ) -> bytes:
        async with _refusals():
            result = await self._server.process(
                request,
                self._context,
                idempotency_key=idempotency_key,
                with_endings=with_endings,
            )
        assert isinstance(result, NonStreamingResult)
        return result.json

    @asynccontextmanager
    async def stream(
        self, request: bytes, *, idempotency_key: str | None = None
    ) -> AsyncIterator[Connection]:
        async with _refusals():
            result = await self._server.process(
                request,
                self._context,
                can_return=self._can_return,
                idempotency_key=idempotency_key,
            )
        assert isinstance(result, StreamingResult)
        async with result:
            async with _refusals():
                connection = ServerConnection(result)
                _ = result.turn
            yield connection

    @asynccontextmanager
    async def watch(self, thread_id: str, last_event_id: str | None) -> AsyncIterator[Connection]:
        async with _refusals():
            result = await self._watched(thread_id, last_event_id)
        if result is None:
            yield EndedConnection()
            return
        async with result:
            yield ServerConnection(result)

    async def _watched(self, thread_id: str, last_event_id: str | None) -> StreamingResult | None:
        server, last = self._server, parse_event_id(last_event_id)
        await server.count_request(self._context)
        await load_thread(server.store, thread_id, self._context)
        turn_id = await server.live_turns.watchable(thread_id)
        if turn_id is None or (last is not None and last.turn_id != turn_id):
            return None
        return await followed(partial(server.follow, thread_id), last)

    async def stop(self, thread_id: str) -> None:
        async with _refusals():
            await load_thread(self._server.store, thread_id, self._context)
            await self._server.stop(thread_id, by_client=True)

    async def last_ending(self, thread_id: str) -> AnswerEnding | None:
        async with _refusals():
            await self._server.count_request(self._context)
            return await self._server.last_ending(thread_id, self._context)


@asynccontextmanager
async def _refusals() -> AsyncIterator[None]:
    """Raise `RequestRefused` for an exception, as the web layer would answer it."""
    try:
        yield
    except Exception as error:
        refusal = error
    else:
        return
    answer = refused(unwrapped(refusal))
    body = _parsed(await answer.get_data(as_text=False))
    raise RequestRefused(answer.status_code, body) from refusal


# --- Over HTTP ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HTTPResponse:
    """The head of an answer, and the connection to read its body from."""

    status: int
    headers: Headers
    connection: Connection

    async def body(self) -> bytes:
        """Read the body to its end."""
        chunks: list[bytes] = []
        try:
            while True:
                chunks.append(await self.connection.receive())
        except trio.EndOfChannel:
            return b"".join(chunks)


class HTTPTransport(Transport):
    """The protocol over HTTP, with the paths of `chatkit_trio.web` below one base path."""

    def __init__(self, path: str, headers: Headers, *, can_return: bool) -> None:
        self._path = path.rstrip("/")
        self._headers = headers
        self._stream_headers: Headers = [_WITH_EVENT_IDS] if can_return else []

    @abstractmethod
    def exchange(
        self, method: str, path: str, body: bytes, headers: Headers
    ) -> AbstractAsyncContextManager[HTTPResponse]:
        """Send a request. Entering returns when the head of the answer has arrived; leaving breaks
        the connection if the body hasn't been read to its end."""

    async def ask(
        self, request: bytes, *, idempotency_key: str | None = None, with_endings: bool = False
    ) -> bytes:
        extra = [*_key_header(idempotency_key), *([_WITH_ENDINGS] if with_endings else [])]
        async with self._accepted("POST", "", request, extra) as response:
            return await response.body()

    @asynccontextmanager
    async def stream(
        self, request: bytes, *, idempotency_key: str | None = None
    ) -> AsyncIterator[Connection]:
        extra = [*self._stream_headers, *_key_header(idempotency_key)]
        async with self._accepted("POST", "", request, extra) as response:
            yield response.connection

    @asynccontextmanager
    async def watch(self, thread_id: str, last_event_id: str | None) -> AsyncIterator[Connection]:
        path = _path_of(thread_id, "turn")
        headers = [] if last_event_id is None else [("last-event-id", last_event_id)]
        async with self._accepted("GET", path, b"", headers) as response:
            yield response.connection

    async def stop(self, thread_id: str) -> None:
        async with self._accepted("POST", _path_of(thread_id, "stop"), b""):
            pass

    async def last_ending(self, thread_id: str) -> AnswerEnding | None:
        path = _path_of(thread_id, "turn")
        async with self._accepted("GET", path, b"", [_WITH_ENDINGS]) as response:
            types = [value for name, value in response.headers if name.lower() == "content-type"]
            if types != ["application/json"]:
                return None  # the turn is live
            ending = _parsed(await response.body())["ending"]
            return None if ending is None else AnswerEnding.model_validate(ending)

    @asynccontextmanager
    async def _accepted(
        self, method: str, path: str, body: bytes, extra: Headers = ()
    ) -> AsyncIterator[HTTPResponse]:
        headers = [("content-type", "application/json"), *self._headers, *extra]
        async with self.exchange(method, self._path + path, body, headers) as response:
            if response.status >= 400:
                raise RequestRefused(response.status, _parsed(await response.body()))
            yield response


def _key_header(key: str | None) -> Headers:
    return [] if key is None else [("idempotency-key", key)]


def _path_of(thread_id: str, what: str) -> str:
    return f"/threads/{quote(thread_id, safe='')}/{what}"


def _parsed(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode(errors="replace")
