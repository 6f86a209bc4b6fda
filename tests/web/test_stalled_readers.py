"""Clients that read nothing, or next to nothing, over real sockets: they are hung up on."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response
from quart_trio import QuartTrio

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.types import AssistantMessageItem, SDKHiddenContextItem
from chatkit_trio.web import _guard, _sending, chatkit_blueprint, create_app
from chatkit_trio.web._sending import Sending

from .http import CREATE
from .talker import Talker

QUICK = 0.3  # seconds
LIMIT = 20.0  # seconds


@pytest.fixture
def hung_up(monkeypatch) -> trio.Event:
    """Set when a connection has been reset: what is read before that shows that one reads."""
    done = trio.Event()

    def reset(connection: trio.SocketStream) -> None:
        _sending.reset(connection)
        done.set()

    monkeypatch.setattr(_guard, "reset", reset)
    return done


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """Serve an app with plain Hypercorn in this process; yield the port."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    stop = trio.Event()
    run = partial(serve, app, config, shutdown_trigger=stop.wait, mode="asgi")
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(run)
        yield int(url.rpartition(":")[2])
        stop.set()


@asynccontextmanager
async def asking(
    port: int, method: str, path: str, body: bytes = b"", headers: str = ""
) -> AsyncIterator[Any]:
    """Send a request on a connection that takes little without being read."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await sock.connect(("127.0.0.1", port))
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    stream = trio.SocketStream(sock)
    try:
        await stream.send_all(f"{head}{headers}\r\n".encode() + body)
        yield stream
    finally:
        await trio.aclose_forcefully(stream)


def message() -> bytes:
    return json.dumps(CREATE).encode()


def talker(
    *, count: int = 1_000_000, cluster: MemoryCluster | None = None, **policy: Any
) -> Talker:
    """Return a server that says more than any socket's buffers take."""
    kept = {"max_unread_bytes": 16_000_000, "stall_timeout": QUICK, **policy}
    return Talker(
        MemoryStore(cluster=cluster),
        every=0,
        word_size=100_000,
        count=count,
        policy=TurnPolicy(**kept),
    )


async def is_hung_up_on(stream: trio.SocketStream) -> bool:
    """Read what is left to the end; say whether the connection was reset."""
    try:
        while await stream.receive_some(65536):
            pass
    except trio.BrokenResourceError:
        return True
    return False


async def items_of(server: Talker) -> list[Any]:
    (thread,) = (await server.store.load_threads(1, None, "asc", None)).data
    return (await server.store.load_thread_items(thread.id, None, 10, "asc", None)).data


async def when_nothing_lives(server: Talker) -> None:
    while not (turns := list(server.live_turns)):
        await trio.lowlevel.checkpoint()
    for turn in turns:
        await turn.settled.wait()


@pytest.mark.parametrize("make_app", ["create_app", "blueprint"])
async def test_who_reads_nothing_is_hung_up_on_after_the_turns_end(make_app, hung_up):
    server = talker(count=70)
    app = create_app(server)
    if make_app == "blueprint":
        app = QuartTrio(__name__)
        app.register_blueprint(chatkit_blueprint(server))
    with trio.fail_after(LIMIT):
        async with serving(app) as port, asking(port, "POST", "/chatkit", message()) as stream:
            await when_nothing_lives(server)
            items = await items_of(server)
            await hung_up.wait()
            assert await is_hung_up_on(stream)

    assert [type(item) for item in items[1:]] == [AssistantMessageItem]
    assert items[1].content[0].text == "".join(server.produced)


async def test_a_reader_whose_turn_stalled_is_hung_up_on_after_it_is_settled(hung_up):
    server = talker(max_unread_bytes=1_000_000)
    app = create_app(server)
    with trio.fail_after(LIMIT):
        async with serving(app) as port, asking(port, "POST", "/chatkit", message()) as stream:
            await when_nothing_lives(server)
            items = await items_of(server)
            await hung_up.wait()
            assert await is_hung_up_on(stream)

    assert [type(item) for item in items[1:]] == [AssistantMessageItem, SDKHiddenContextItem]
    assert items[2].ending.reason == "stalled"


async def test_who_reads_nothing_of_another_nodes_answer_is_hung_up_on(hung_up):
    """A repeat of a request with a key, which another process is answering."""
    cluster = MemoryCluster()
    here, there = (talker(count=200, cluster=cluster, max_replay_bytes=10**9) for _ in range(2))
    key = "Idempotency-Key: once\r\n"
    with trio.fail_after(LIMIT):
        async with (
            serving(create_app(here)) as port,
            serving(create_app(there)) as other_port,
            asking(port, "POST", "/chatkit", message(), key) as reading,
            trio.open_nursery() as nursery,
        ):
            await reading.receive_some(10)
            while not any(turn.has_begun for turn in here.live_turns):
                await trio.lowlevel.checkpoint()
            async with asking(other_port, "POST", "/chatkit", message(), key) as stream:
                nursery.start_soon(is_hung_up_on, reading)
                await when_nothing_lives(here)
                await hung_up.wait()
                assert await is_hung_up_on(stream)
            nursery.cancel_scope.cancel()


async def test_who_reads_a_byte_now_and_then_is_hung_up_on_too(hung_up):
    server = talker(count=70)
    app = create_app(server)
    with trio.fail_after(LIMIT):
        async with serving(app) as port, asking(port, "POST", "/chatkit", message()) as stream:
            await when_nothing_lives(server)
            while not hung_up.is_set():
                await stream.receive_some(1)
                await trio.sleep(QUICK / 10)
            assert await is_hung_up_on(stream)


async def test_who_reads_gets_all_however_long_it_takes():
    server = talker(count=20)
    app = create_app(server)
    with trio.fail_after(LIMIT):
        async with serving(app) as port, asking(port, "POST", "/chatkit", message()) as stream:
            await when_nothing_lives(server)
            received = b""
            while not received.endswith(b"0\r\n\r\n"):
                await trio.sleep(QUICK / 10)
                wanted = len(received) + 60_000
                while len(received) < wanted and not received.endswith(b"0\r\n\r\n"):
                    received += await stream.receive_some(60_000)

    assert b'"thread.item.done"' in received


async def test_an_answer_that_is_no_stream_is_bounded_too(monkeypatch, hung_up):
    monkeypatch.setattr("chatkit_trio.web._sending.SEND_TIMEOUT", QUICK)
    app = create_app(talker())

    @app.route("/long")
    async def long():
        return Response(b"x" * 30_000_000)

    with trio.fail_after(LIMIT):
        async with serving(app) as port, asking(port, "GET", "/long") as stream:
            await hung_up.wait()
            assert await is_hung_up_on(stream)


async def send_for_ever(stream: trio.SocketStream) -> None:
    while True:
        await stream.send_all(b"x" * 65536)


async def test_a_refused_upload_that_goes_on_for_ever_ends_its_connection():
    """Hypercorn's queue for a body that nobody reads is short; what waits at it must be let go."""
    app = create_app(talker())
    with trio.fail_after(LIMIT):
        async with serving(app) as port:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            head = b"POST /chatkit/threads/none/stop HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            await stream.send_all(head + b"Content-Length: 1000000000\r\n\r\n")
            with pytest.raises(trio.BrokenResourceError):
                await send_for_ever(stream)
            await trio.aclose_forcefully(stream)


# --- The clock of one response -------------------------------------------------------------------


async def run(sending: Sending, *pieces: bytes) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sending.watch)
        for piece in pieces:
            await sending.send({"type": "http.response.body", "body": piece, "more_body": True})
        nursery.cancel_scope.cancel()


async def test_each_piece_has_the_whole_time(autojump_clock):
    hung_up: list[float] = []
    sent: list[int] = []

    async def send(message):
        await trio.sleep(50)
        sent.append(len(message["body"]))

    sending = Sending(send, lambda: hung_up.append(trio.current_time()))
    await run(sending, b"x" * 200_000, b"y")

    assert sent == [65536, 65536, 65536, 3392, 1]
    assert hung_up == []


async def test_an_excused_client_is_hung_up_on_after_the_excuse(autojump_clock):
    started = trio.current_time()
    hung_up: list[float] = []

    async def send(message):
        await trio.sleep(1000)

    async def excuse():
        await trio.sleep_until(started + 300)

    sending = Sending(send, lambda: hung_up.append(trio.current_time() - started))
    sending.excuse = excuse
    await run(sending, b"x")

    assert hung_up == [360.0]


async def test_a_client_that_went_on_during_the_excuse_is_not_hung_up_on(autojump_clock):
    started = trio.current_time()
    hung_up: list[float] = []

    async def send(message):
        await trio.sleep(200)

    async def excuse():
        await trio.sleep_until(started + 350)

    sending = Sending(send, lambda: hung_up.append(trio.current_time() - started))
    sending.excuse = excuse
    await run(sending, b"x", b"y", b"")

    assert hung_up == [460.0]
