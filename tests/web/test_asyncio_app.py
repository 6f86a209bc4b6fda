"""A whole application on asyncio, with the chat on trio beside it: one process, one server."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.agents import run_on_trio
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, say, scripted_server
from chatkit_trio.testing._asgi import ASGITransport
from chatkit_trio.types import SDKHiddenContextItem
from chatkit_trio.web import AsyncioApp, asgi_app, create_app
from chatkit_trio.web._asgi_app import chat_servers_in

from .sockets import calling, items_in, served_by_cli

pytest.importorskip("fastapi", reason="the extra `parity` isn't installed")

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse
from hypercorn.config import Config
from hypercorn.trio import serve


def api_of(events: list[str], *, fails_to: str = "") -> FastAPI:
    """Return an application whose start, end and routes wait on asyncio."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        await asyncio.sleep(0)
        if fails_to == "start":
            raise OSError("no database")
        events.append("api up")
        yield {"loop": asyncio.get_running_loop()}
        await asyncio.sleep(0)
        if fails_to == "end":
            raise OSError("the database has gone")
        events.append("api down")

    api = FastAPI(lifespan=lifespan)

    @api.get("/hello")
    async def hello(request: Request) -> dict[str, bool]:
        await asyncio.sleep(0.001)
        return {"is_same_loop": asyncio.get_running_loop() is request.state.loop}

    @api.get("/count")
    async def count() -> StreamingResponse:
        async def numbers() -> AsyncIterator[str]:
            try:
                for number in range(1000):
                    await asyncio.sleep(0.001)
                    yield f"{number} "
            finally:
                events.append("count closed")

        return StreamingResponse(numbers())

    @api.get("/hang")
    async def hang() -> None:
        try:
            events.append("hangs")
            await asyncio.Event().wait()
        finally:
            events.append("hang ended")

    @api.websocket("/echo")
    async def echo(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(await socket.receive_text())
        await socket.close()

    return api


class Noted(MemoryStore[None]):
    def __init__(self, events: list[str], *, is_down: bool = False) -> None:
        super().__init__()
        self.events = events
        self.is_down = is_down

    async def __aenter__(self) -> Noted:  # noqa: PYI034
        if self.is_down:
            raise OSError("no chat database")
        await super().__aenter__()
        self.events.append("chat up")
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await super().__aexit__(*exc_info)
        self.events.append("chat down")


def app_of(events: list[str], api: Any = None, *, is_down: bool = False) -> AsyncioApp:
    server = scripted_server(Noted(events, is_down=is_down), [say("Hel", "lo", every=0.05)])
    return AsyncioApp(api or api_of(events), beside={"/chatkit": create_app(server)})


@asynccontextmanager
async def client_of(app: AsyncioApp) -> AsyncIterator[ASGITransport]:
    async with ASGITransport(app, "/chatkit", {}) as transport:
        yield transport


async def get(transport: ASGITransport, path: str) -> tuple[int, bytes]:
    async with transport.exchange("GET", path, b"", {}) as response:
        return response.status, await response.body()


async def test_both_answer_and_start_and_end_in_order() -> None:
    events: list[str] = []
    async with client_of(app_of(events)) as client:
        status, body = await get(client, "/hello")
        unknown, _ = await get(client, "/chatkits")

        assert (status, json.loads(body)) == (200, {"is_same_loop": True})
        assert unknown == 404
        assert events == ["api up", "chat up"]

    assert events == ["api up", "chat up", "chat down", "api down"]


async def test_the_chat_beside_it_streams_and_keeps_a_cut_answer() -> None:
    app = app_of([])
    async with ChatClient.of_app(app) as client:
        async with client.send("hi") as turn:
            await turn.read()
        async with client.send("again", turn.thread_id) as cut:
            await cut.wait_for(lambda _: cut.text == "Hel")
            await cut.stop()
        assert turn.thread_id is not None
        items = await client.items(turn.thread_id)

    assert turn.text == "Hello"
    assert [item.type for item in items] == [*["user_message", "assistant_message"] * 2]


async def test_a_stream_of_the_app_ends_when_its_client_leaves() -> None:
    events: list[str] = []
    async with client_of(app_of(events)) as client:
        async with client.exchange("GET", "/count", b"", {}) as response:
            assert await response.connection.receive() == b"0 "

        with trio.fail_after(5):
            while "count closed" not in events:  # noqa: ASYNC110
                await trio.sleep(0.001)


async def test_a_cancelled_request_is_cancelled_on_asyncio() -> None:
    events: list[str] = []
    app = app_of(events)
    scope = {"type": "http", "method": "GET", "path": "/hang", "headers": [], "query_string": b""}

    async def receive() -> dict[str, Any]:
        return await trio.sleep_forever()

    async def send(message: Any) -> None:
        raise AssertionError("it has nothing to say")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(app, scope, receive, send)
        with trio.fail_after(5):
            while "hangs" not in events:  # noqa: ASYNC110
                await trio.sleep(0.001)
        nursery.cancel_scope.cancel()

    assert events == ["hangs", "hang ended"]


async def test_a_websocket_speaks_with_the_app() -> None:
    sent: list[Any] = []
    asked = [{"type": "websocket.connect"}, {"type": "websocket.receive", "text": "hello"}]

    async def receive() -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        return asked.pop(0)

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    scope = {"type": "websocket", "path": "/echo", "headers": [], "query_string": b""}
    await app_of([])(scope, receive, send)

    assert [message["type"] for message in sent] == [
        "websocket.accept",
        "websocket.send",
        "websocket.close",
    ]
    assert sent[1]["text"] == "hello"


async def test_the_app_reaches_the_chats_store() -> None:
    server = scripted_server(MemoryStore(), [say("Hello")])
    api = FastAPI()

    @api.get("/threads")
    async def threads() -> int:
        page = await run_on_trio(server.store.load_threads, 10, None, "asc", None)
        return len(page.data)

    app = AsyncioApp(api, beside={"/chatkit": create_app(server)})
    async with ChatClient.of_app(app) as client, client.send("hi") as turn:
        await turn.read()
        assert await get(ASGITransport(app, "/chatkit", {}), "/threads") == (200, b"1")


@pytest.mark.parametrize(
    ("fails_to", "is_down", "told", "left"),
    [
        ("start", False, "no database", []),
        ("", True, "no chat database", ["api up", "api down"]),
    ],
)
async def test_a_start_that_fails_is_told_and_ends_what_had_started(
    fails_to: str,
    is_down: bool,
    told: str,
    left: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[str] = []
    app = app_of(events, api_of(events, fails_to=fails_to), is_down=is_down)

    with pytest.raises(RuntimeError, match=told), trio.fail_after(5):
        async with client_of(app):
            pass

    assert events == left


async def test_an_end_that_fails_is_told_when_the_others_have_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[str] = []

    with pytest.raises(RuntimeError, match="the database has gone"), trio.fail_after(5):
        async with client_of(app_of(events, api_of(events, fails_to="end"))):
            pass

    assert events == ["api up", "chat up", "chat down"]


async def without_lifespan(scope: Any, receive: Any, send: Any) -> None:
    assert scope["type"] == "http"
    await asyncio.sleep(0)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_an_app_that_knows_no_start_and_end_is_served(
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[str] = []
    async with client_of(app_of(events, without_lifespan)) as client:
        assert await get(client, "/") == (204, b"")

    assert events == ["chat up", "chat down"]
    assert "has no lifespan" in caplog.text


@pytest.mark.parametrize("place", ["/chatkit", "/chatkit/", "chatkit"])
@pytest.mark.parametrize("path", ["/chatkit/", "/prefix/chatkit"])
async def test_where_it_is_mounted_itself_does_not_matter(path: str, place: str) -> None:
    seen: list[str] = []

    async def beside(scope: Any, receive: Any, send: Any) -> None:
        await trio.lowlevel.checkpoint()
        seen.append(scope["path"])

    async def receive() -> Any:
        raise AssertionError

    app = AsyncioApp(without_lifespan, beside={place: beside})
    root = "/prefix" if path.startswith("/prefix") else ""
    await app({"type": "http", "path": path, "root_path": root}, receive, receive)

    assert seen == [path]


@pytest.mark.parametrize("mounts", [["/", "/a", "/a/b"], ["/a/b", "/a", "/"]])
async def test_of_several_mounts_that_fit_the_longest_counts(mounts: list[str]) -> None:
    seen: list[str] = []

    def named(mount: str) -> Callable[..., Awaitable[None]]:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await trio.lowlevel.checkpoint()
            seen.append(mount)

        return app

    async def receive() -> Any:
        raise AssertionError

    app = AsyncioApp(without_lifespan, beside={mount: named(mount) for mount in mounts})
    for path in ("/", "/ab", "/a", "/a/c", "/a/b", "/a/b/c"):
        await app({"type": "http", "path": path, "root_path": ""}, receive, receive)

    assert seen == ["/", "/", "/a", "/a", "/a/b", "/a/b"]


async def test_under_hypercorn() -> None:
    """A real server, a real socket."""
    events: list[str] = []
    config = Config()
    config.bind = ["127.0.0.1:0"]
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        start: Callable[..., Awaitable[Any]] = serve  # type: ignore[assignment]
        [url] = await nursery.start(
            lambda task_status: start(
                app_of(events), config, shutdown_trigger=stop.wait, task_status=task_status
            )
        )
        host, port = url.removeprefix("http://").split(":")
        stream = await trio.open_tcp_stream(host, int(port))
        await stream.send_all(b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        answer = b""
        with trio.fail_after(10):
            while b"is_same_loop" not in answer:
                answer += await stream.receive_some()
        await stream.aclose()
        stop.set()

    assert b"200" in answer.splitlines()[0]
    assert events == ["api up", "chat up", "chat down", "api down"]


async def test_an_app_at_several_paths_starts_and_ends_once() -> None:
    events: list[str] = []

    async def counted(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                assert (await receive())["type"] == f"lifespan.{phase}"
                events.append(phase)
                await send({"type": f"lifespan.{phase}.complete"})

    both = AsyncioApp(api_of(events), beside={"/one": counted, "/two": counted})
    async with ASGITransport(both, "", []):
        pass

    assert events == ["api up", "startup", "shutdown", "api down"]


def test_serve_finds_the_servers_beside_it() -> None:
    one, two = (scripted_server(MemoryStore[Any](), [say("Hi")]) for _ in range(2))
    host = FastAPI()
    host.mount("/", asgi_app(two))
    both = AsyncioApp(FastAPI(), beside={"/one": create_app(one), "/two": host})

    assert chat_servers_in(both) == [one, two]
    assert chat_servers_in(AsyncioApp(both)) == []


async def test_a_signal_to_serve_cuts_the_answers_beside_as_a_shutdown(tmp_path: Path) -> None:
    """Its client may retry, and the note doesn't blame the connection."""
    database = tmp_path / "chat.sqlite3"
    async with (
        served_by_cli(database, "--drain-timeout=0", target="tests.web.beside:both") as server,
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word3")
        server.send_signal(signal.SIGTERM)
        await caller.read_to_end()
        await server.ended(60)
    items = await items_in(database, caller.thread_id)

    assert server.returncode == 0
    assert (
        caller.events[-1].data["message"] == "The server is restarting; the answer was cut short."
    )
    assert caller.events[-1].data["allow_retry"]
    assert [item.type for item in items] == [
        "user_message",
        "assistant_message",
        "sdk_hidden_context",
    ]
    assert isinstance(items[-1], SDKHiddenContextItem)
    assert items[-1].ending is not None
    assert items[-1].ending.reason == "shutdown"
