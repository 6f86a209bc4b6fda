"""Chunks that go past Hypercorn into the socket: the same bytes, and nobody is passed by."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Self

import h11
import pytest
import trio
from hypercorn.protocol.http_stream import HTTPStream
from quart import Response
from quart.wrappers.response import ResponseBody
from quart_trio import QuartTrio

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryStore
from chatkit_trio.web import _direct_sends, chatkit_blueprint, create_app
from chatkit_trio.web._direct_sends import DirectWay
from chatkit_trio.web._event_stream import EventStreamBody

from .http import IDS
from .sockets import MESSAGE, Caller, calling, served, served_app, until
from .talker import Talker

WORDS = 40


@pytest.fixture
def through_hypercorn(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The pieces of responses that go through Hypercorn."""
    pieces: list[bytes] = []
    send = HTTPStream.app_send

    async def app_send(stream: HTTPStream, message: Any) -> None:
        if message is not None and message["type"] == "http.response.body":
            pieces.append(message["body"])
        await send(stream, message)

    monkeypatch.setattr(HTTPStream, "app_send", app_send)
    return pieces


def talker(**settings: Any) -> Talker:
    return Talker(MemoryStore(), **{"count": WORDS, **settings})


async def stream_of(port: int) -> trio.SocketStream:
    return await trio.open_tcp_stream("127.0.0.1", port)


@pytest.mark.parametrize("headers", [{}, IDS], ids=["plain", "with ids"])
async def test_what_is_due_goes_past_hypercorn(
    headers: dict[str, str], through_hypercorn: list[bytes]
) -> None:
    server = talker()
    async with served(server) as port, await stream_of(port) as stream:
        caller = Caller(stream)
        await caller.send(headers)
        await caller.read_to_end()

    assert caller.text == "".join(server.produced)
    assert caller.events[-1].type == ("turn.end" if headers else "message")
    if headers:
        ids = [event.id.rpartition(".")[2] for event in caller.events if event.id]
        assert ids == [str(number) for number in range(len(ids))]
    assert b"".join(through_hypercorn) == b""


async def test_two_answers_on_one_connection_are_whole() -> None:
    server = talker()
    async with served(server) as port, calling(port) as caller:
        await caller.read_to_end()
        assert caller.text == "".join(server.produced)
        server.produced.clear()
        await caller.ask()
        await caller.read_to_end()

    assert caller.text == "".join(server.produced)


async def test_an_old_client_gets_it_without_chunks(through_hypercorn: list[bytes]) -> None:
    server = talker()
    head = f"POST /chatkit HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: {len(MESSAGE)}\r\n\r\n"
    async with served(server) as port, await stream_of(port) as stream:
        await stream.send_all(head.encode() + MESSAGE)
        with trio.fail_after(20):
            answer = b"".join([bytes(piece) async for piece in stream])
    caller = Caller(stream)
    caller.body = answer.partition(b"\r\n\r\n")[2]

    assert caller.text == "".join(server.produced)
    assert b"".join(through_hypercorn) == b""


async def test_an_error_ends_its_own_answer_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer of all streams is where it happens."""
    encoded = EventStreamBody._encoded

    def failing(body: EventStreamBody, result: Any, frames: list[bytes]) -> bytes:
        if not body._with_ids and any(b"word20 " in each for each in frames):
            raise RuntimeError("nobody thought of this")
        return encoded(body, result, frames)

    monkeypatch.setattr(EventStreamBody, "_encoded", failing)
    server = talker()
    async with served(server) as port, calling(port) as caller, await stream_of(port) as stream:
        other = Caller(stream)
        await other.send(IDS)
        with pytest.raises(h11.RemoteProtocolError, match="without sending complete message"):
            await caller.read_to_end()
        await other.read_to_end()

    assert "word9 " in caller.text
    assert "word20 " not in caller.text
    assert other.text.endswith(f"word{WORDS - 1} ".ljust(8))
    for thread_id, notes in [(caller.thread_id, 1), (other.thread_id, 0)]:
        page = await server.store.load_thread_items(thread_id, None, 10, "asc", None)
        assert [item.type for item in page.data] == [
            "user_message",
            "assistant_message",
            *["sdk_hidden_context"] * notes,
        ]


# --- Sockets that don't take it ----------------------------------------------------------------


def takes_little(fd: int, data: bytes) -> int:
    return os.write(fd, data[:7])


def is_full(fd: int, data: bytes) -> int:
    raise BlockingIOError


def fails(fd: int, data: bytes) -> int:
    raise OSError("as where sockets are no files")


@pytest.mark.parametrize("write", [takes_little, is_full, fails])
async def test_the_rest_goes_the_usual_way(
    write: Callable[[int, bytes], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_direct_sends, "os", SimpleNamespace(write=write))
    server = talker(word_size=200)
    async with served(server) as port, calling(port) as caller:
        await caller.read_to_end()

    assert caller.text == "".join(server.produced)
    assert caller.events[-1].data["type"] == "thread.item.done"


async def test_a_client_that_begins_to_read_late_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the buffers take, so that the socket is full in the middle of a chunk."""
    sent: list[tuple[int, int]] = []

    def noted(fd: int, data: bytes) -> int:
        sent.append((len(data), os.write(fd, data)))
        return sent[-1][1]

    monkeypatch.setattr(_direct_sends, "os", SimpleNamespace(write=noted))
    policy = TurnPolicy(max_unread_bytes=20_000_000, flush_interval=0.001)
    server = talker(count=120, word_size=100_000, every=0.002, policy=policy)
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with served(server) as port, trio.SocketStream(sock) as stream:
        await sock.connect(("127.0.0.1", port))
        caller = Caller(stream)
        await caller.send()
        await until(lambda: len(server.produced) == 120)
        assert any(taken < size for size, taken in sent)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1_000_000)
        await caller.read_to_end()

    assert caller.text == "".join(server.produced)


async def test_nothing_is_written_to_the_number_of_a_closed_socket() -> None:
    """Another connection has that number soon."""
    ours, theirs = (trio.socket.from_stdlib_socket(each) for each in socket.socketpair())
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n")
    connection.next_event()
    connection.send(h11.Response(status_code=200, headers=[]))
    stream = trio.SocketStream(ours)
    way = DirectWay(SimpleNamespace(connection=connection), stream)  # type: ignore[arg-type]
    number = ours.fileno()
    await stream.aclose()
    another, reader = socket.socketpair()
    assert number in (another.fileno(), reader.fileno())

    assert not way.send(b"data: {}\n\n")
    for each in (another, reader):
        each.setblocking(False)
        with pytest.raises(BlockingIOError):
            each.recv(100)
    for each in (another, reader, theirs):
        each.close()


# --- Who stands between ------------------------------------------------------------------------


class Watched:
    """ASGI that sees what is sent."""

    def __init__(self, app: Any, seen: list[bytes]) -> None:
        self._app, self._seen = app, seen

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            if message["type"] == "http.response.body":
                self._seen.append(message["body"])
            await send(message)

        await self._app(scope, receive, watched)


class WatchedBody(ResponseBody):
    """A body that sees what another one has."""

    def __init__(self, body: Any, seen: list[bytes]) -> None:
        self._body, self._seen = body, seen

    async def __aenter__(self) -> Self:
        self._pieces = aiter(await self._body.__aenter__())
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._body.__aexit__(*raised)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._seen.append(await anext(self._pieces))
        return self._seen[-1]


def outside(server: Talker, seen: list[bytes]) -> Any:
    return Watched(create_app(server), seen)


def around(server: Talker, seen: list[bytes]) -> Any:
    app = create_app(server)
    app.asgi_app = Watched(app.asgi_app, seen)  # type: ignore[method-assign]
    return app


def inside(server: Talker, seen: list[bytes]) -> Any:
    app = QuartTrio(__name__)
    app.asgi_app = Watched(app.asgi_app, seen)  # type: ignore[method-assign]
    app.register_blueprint(chatkit_blueprint(server))
    return app


def in_quart(server: Talker, seen: list[bytes]) -> Any:
    app = create_app(server)

    @app.after_request
    async def watch(response: Response) -> Response:
        response.response = WatchedBody(response.response, seen)
        return response

    return app


@pytest.mark.parametrize("build", [outside, around, inside, in_quart])
async def test_nobody_who_stands_between_is_passed_by(
    build: Callable[[Talker, list[bytes]], Any],
) -> None:
    server, seen = talker(), list[bytes]()
    async with served_app(build(server, seen)) as port, calling(port) as caller:
        await caller.read_to_end()

    assert caller.text == "".join(server.produced)
    assert b"".join(seen) == caller.body
