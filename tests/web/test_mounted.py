"""A chat inside another ASGI app has what the blueprint has, and whatever ends it keeps text."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from fastapi import FastAPI
from hypercorn.middleware import ProxyFixMiddleware
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Mount

from chatkit_trio.errors import StoreError
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.stores import MemoryStore
from chatkit_trio.stores.attachments import DiskAttachmentStore
from chatkit_trio.testing import (
    ScriptedServer,
    StoreWrapper,
    say,
    scripted_server,
)
from chatkit_trio.web import asgi_app, create_app
from chatkit_trio.web._asgi_app import ChatApp, chat_servers_in
from tests.transcript import transcript

from .http import CREATE, IDS, Client, client_of, events_of
from .sockets import calling, items_in, running, until

HOUR = 3600.0
WORDS = [f"word{number} " for number in range(30)]


def in_fastapi(chat: ChatApp) -> Any:
    app = FastAPI(lifespan=chat.lifespan)
    app.mount("/", chat)
    return app


def in_starlette(chat: ChatApp) -> Any:
    return Starlette(routes=[Mount("/", chat)], lifespan=chat.lifespan)


def below_a_path(chat: ChatApp) -> Any:
    """Mounted at /api, and reached there as if it were at the root."""
    app = FastAPI(lifespan=chat.lifespan)
    app.mount("/api", chat)

    async def shifted(scope: Any, receive: Any, send: Any) -> None:
        path = {"path": f"/api{scope['path']}"} if scope["type"] == "http" else {}
        await app({**scope, **path}, receive, send)

    return shifted


def alone(chat: ChatApp) -> Any:
    return chat


HOSTS: dict[str, Callable[[ChatApp], Any]] = {
    "FastAPI": in_fastapi,
    "Starlette": in_starlette,
    "FastAPI, below a path": below_a_path,
    "alone": alone,
}
IN_EVERY_HOST = pytest.mark.parametrize("host", HOSTS)


@asynccontextmanager
async def mounted(host: str, server: ChatKitServer[Any], **settings: Any) -> AsyncIterator[Client]:
    async with client_of(HOSTS[host](asgi_app(server, **settings))) as client:
        yield client


# --- As the blueprint --------------------------------------------------------------------------

TYPE = {"Content-Type": "application/json"}
REQUESTS: dict[str, tuple[str, str, Any, dict[str, str]]] = {
    "a list": ("POST", "/chatkit", {"type": "threads.list", "params": {}}, {}),
    "no JSON": ("POST", "/chatkit", b"{", {}),
    "no request": ("POST", "/chatkit", {"type": "nothing"}, {}),
    "an unknown thread": (
        "POST",
        "/chatkit",
        {"type": "threads.get_by_id", "params": {"thread_id": "thr_1"}},
        {},
    ),
    "a long body": ("POST", "/chatkit", b" " * 20_000, {"Content-Length": "20000"}),
    "a stranger's page": (
        "POST",
        "/chatkit",
        {"type": "threads.list", "params": {}},
        {"Origin": "https://evil.example"},
    ),
    "a page that may": (
        "POST",
        "/chatkit",
        {"type": "threads.list", "params": {}},
        {"Origin": "https://shop.example"},
    ),
    "a preflight": (
        "OPTIONS",
        "/chatkit",
        b"",
        {"Origin": "https://shop.example", "Access-Control-Request-Method": "POST"},
    ),
    "an unknown host": ("POST", "/chatkit", CREATE, {"Host": "evil.example"}),
    "another method": ("GET", "/chatkit", b"", {}),
    "dictation": (
        "POST",
        "/chatkit",
        {
            "type": "input.transcribe",
            "params": {"audio_base64": "AAAA", "mime_type": "audio/webm"},
        },
        {},
    ),
    "no such address": ("GET", "/chatkit/nothing", b"", {}),
    "no turn": ("GET", "/chatkit/threads/thr_1/turn", b"", {}),
    "threads by activity": ("GET", "/chatkit/threads?limit=2", b"", {}),
    "a search": ("GET", "/chatkit/search?q=boat", b"", {}),
    "a search for nothing": ("GET", "/chatkit/search", b"", {}),
    "a stop of nothing": ("POST", "/chatkit/threads/thr_1/stop", b"", {}),
    "health": ("GET", "/healthz", b"", {}),
    "health by address": ("GET", "/healthz", b"", {"Host": "10.0.0.1"}),
    "liveness": ("GET", "/livez", b"", {}),
    "one who is refused": (
        "POST",
        "/chatkit",
        {"type": "threads.list", "params": {}},
        {"Refused": "1"},
    ),
    "one who pays": (
        "POST",
        "/chatkit",
        {"type": "threads.list", "params": {}},
        {"Unpaid": "1"},
    ),
}


def user_of(request: Any) -> str:
    if "refused" in request.headers:
        raise PermissionError("no")
    if "unpaid" in request.headers:
        raise HTTPException(402, "Pay first", {"X-Why": "unpaid"})
    return str(request.headers.get("user", "nobody"))


SETTINGS: dict[str, Any] = {
    "context": user_of,
    "max_body_bytes": 10_000,
    "cors_origins": ["https://shop.example"],
}


async def answers_of(app: Any) -> dict[str, Any]:
    async with client_of(app) as client:
        found = {}
        for name, (method, path, body, headers) in REQUESTS.items():
            answer = await client.ask(method, path, body, headers)
            found[name] = (answer.status, dict(answer.headers), answer.body)
        return found


@IN_EVERY_HOST
async def test_each_request_is_answered_as_the_blueprint_does(host: str) -> None:
    def server() -> ChatKitServer[Any]:
        return scripted_server(MemoryStore[Any](), [say("Hello")])

    expected = await answers_of(create_app(server(), page=False, **SETTINGS))
    found = await answers_of(HOSTS[host](asgi_app(server(), **SETTINGS)))

    assert found == expected
    assert {status for status, _, _ in found.values()} == {
        *(200, 204, 400, 402, 403, 404, 405, 413, 421, 501)
    }


@IN_EVERY_HOST
async def test_a_stream_has_ids_heartbeats_and_its_end(
    host: str, autojump_clock: trio.testing.MockClock
) -> None:
    policy = TurnPolicy(heartbeat=5.0)
    server = scripted_server(MemoryStore[Any](), [say("Hel", "lo", every=12.0)], policy=policy)
    async with mounted(host, server) as client:
        answer = await client.post(CREATE, IDS)

        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-accel-buffering"] == "no"
        assert answer.body.count(b": ping\n\n") >= 2
        events = events_of(answer.body)
        assert all(event.id for event in events[:-1])
        assert (events[-1].type, events[-1].data) == ("turn.end", {"reason": "finished"})
        thread_id = events[0].data["thread"]["id"]
        assert await transcript(server.store, thread_id) == [
            "user: A question",
            "assistant: Hello",
        ]


@IN_EVERY_HOST
async def test_a_client_that_left_comes_back_and_stops_the_turn(
    host: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = scripted_server(MemoryStore[Any](), [say(*WORDS, every=1.0)])
    async with mounted(host, server) as client:
        async with client.open("POST", "/chatkit", CREATE, IDS) as response:
            body = b""
            while b"word3" not in body:
                body += await response.connection.receive()
        seen = events_of(body)
        thread_id = seen[0].data["thread"]["id"]
        path = f"/chatkit/threads/{thread_id}"

        rest: list[Any] = []
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                headers = {"Last-Event-ID": str(seen[-1].id)}
                answer = await client.ask("GET", f"{path}/turn", headers=headers)
                rest.extend(events_of(answer.body))

            nursery.start_soon(watch)
            await trio.sleep(2.5)
            stop = await client.ask("POST", f"{path}/stop")
        assert stop.json == {"stopped": True}
        assert rest[-1].data == {"reason": "stopped"}
        [kept] = [each for each in await transcript(server.store, thread_id) if "word" in each]
        told = "".join(e.data.get("update", {}).get("delta", "") for e in [*seen, *rest])
        assert kept == f"assistant: {told}"


@IN_EVERY_HOST
@pytest.mark.parametrize("how", ["leaves", "shutdown"])
async def test_a_closed_tab_and_a_shutdown_keep_the_text(
    host: str, how: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    server = scripted_server(store, [say(*WORDS, every=1.0)])
    async with mounted(host, server) as client:
        policy = {} if how == "leaves" else IDS
        async with client.open("POST", "/chatkit", CREATE, policy) as response:
            body = b""
            while b"word3" not in body:
                body += await response.connection.receive()
        thread_id = events_of(body)[0].data["thread"]["id"]
        if how == "leaves":
            assert not server.live_turns
    assert not server.is_running

    kept = await transcript(store, thread_id)
    reason = "disconnected" if how == "leaves" else "shutdown"
    assert kept == ["user: A question", f"assistant: {''.join(WORDS[:4])}", f"note: {reason}"]


# --- Where it is mounted -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "target"),
    [
        ("/", "/chatkit"),
        ("/chatkit", "/chatkit/"),
        ("/chatkit", "/chatkit/chatkit"),
        ("/api/v1", "/api/v1/chatkit"),
        ("/api/v1", "/api/v1/"),
        ("", "/chatkit"),
    ],
)
async def test_the_endpoint_is_at_the_root_of_the_mount_and_at_its_path(
    where: str, target: str
) -> None:
    chat = asgi_app(scripted_server(MemoryStore[Any](), [say("Hello")]))
    app = FastAPI(lifespan=chat.lifespan)
    app.add_api_route("/mine", lambda: "mine")
    app.mount(where, chat)
    async with client_of(app) as client:
        answer = await client.ask("POST", target, CREATE)
        thread_id = events_of(answer.body)[0].data["thread"]["id"]
        stop = await client.ask("POST", f"{target.rstrip('/')}/threads/{thread_id}/stop")
        turn = await client.ask("GET", f"{target.rstrip('/')}/threads/{thread_id}/turn")
        threads = await client.ask("GET", f"{target.rstrip('/')}/threads")
        found = await client.ask("GET", f"{target.rstrip('/')}/search?q=question")
        health = await client.ask("GET", f"{where.rstrip('/')}/healthz")

        assert [each["id"] for each in threads.json["data"]] == [thread_id]
        assert [each["thread"]["id"] for each in found.json["data"]] == [thread_id]
        assert (answer.status, stop.json, turn.status) == (200, {"stopped": False}, 204)
        assert health.json["status"] == "ok"
        assert (await client.ask("GET", "/mine")).json == "mine"


@pytest.mark.parametrize("kept", ["", "/api/v1"], ids=["taken off", "kept"])
@pytest.mark.parametrize("target", ["/chat/", "/chat/chatkit"])
async def test_a_proxy_may_take_its_own_path_off_or_keep_it(kept: str, target: str) -> None:
    chat = asgi_app(scripted_server(MemoryStore[Any](), [say("Hello")]))
    app = FastAPI(lifespan=chat.lifespan)
    app.mount("/chat", chat)

    async def behind_proxy(scope: Any, receive: Any, send: Any) -> None:
        root = {"root_path": "/api/v1"} if scope["type"] == "http" else {}
        await app({**scope, **root}, receive, send)

    async with client_of(behind_proxy) as client:
        answer = await client.ask("POST", f"{kept}{target}", CREATE)
        thread_id = events_of(answer.body)[0].data["thread"]["id"]
        stop = await client.ask("POST", f"{kept}{target.rstrip('/')}/threads/{thread_id}/stop")

    assert (answer.status, stop.json) == (200, {"stopped": False})


async def test_it_can_be_a_route_of_exactly_one_address() -> None:
    chat = asgi_app(scripted_server(MemoryStore[Any](), [say("Hello")]), path="/chat")
    app = FastAPI(lifespan=chat.lifespan)
    app.add_route("/chat", chat)  # type: ignore[arg-type]
    app.add_route("/chat/{below:path}", chat)  # type: ignore[arg-type]
    async with client_of(app) as client:
        answer = await client.ask("POST", "/chat", CREATE)
        thread_id = events_of(answer.body)[0].data["thread"]["id"]
        stop = await client.ask("POST", f"/chat/threads/{thread_id}/stop")

        assert (answer.status, stop.json) == (200, {"stopped": False})
        assert (await client.ask("GET", "/other")).json == {"detail": "Not Found"}


async def nothing(thread: Any, message: Any, context: Any) -> AsyncIterator[Any]:
    for event in ():
        yield event


@pytest.mark.parametrize("files_at", ["/files", "/attachments"])
@pytest.mark.parametrize("where", ["/", "/chatkit", "/api/chat"])
async def test_attachments_are_at_the_stores_own_address(
    where: str, files_at: str, tmp_path: Any
) -> None:
    endpoint = "/chatkit" if where == "/" else where
    store = MemoryStore[Any]()
    files = DiskAttachmentStore[Any](
        tmp_path,
        metadata=store,
        base_url=f"http://localhost{endpoint}{files_at}",
        secret="s" * 32,
    )
    server = ScriptedServer(store, nothing, attachment_store=files)
    chat = asgi_app(server)
    app = FastAPI(lifespan=chat.lifespan)
    app.mount(where, chat)
    create = {
        "type": "attachments.create",
        "params": {"name": "a.txt", "size": 2, "mime_type": "text/plain"},
    }
    async with client_of(app) as client:
        made = (await client.ask("POST", endpoint + "/" * (where != "/"), create)).json
        upload = made["upload_descriptor"]
        path = upload["url"].removeprefix("http://localhost")
        put = await client.ask(upload["method"], path, b"hi", upload.get("headers", {}))
        asked = await client.ask("GET", f"{endpoint}/attachments/{made['id']}/url")
        got = await client.ask("GET", asked.json["url"].removeprefix("http://localhost"))
        assert (put.status, asked.status, got.body) == (200, 200, b"hi")


# --- The context -------------------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
async def test_the_context_is_made_of_the_hosts_own_kind_of_request(host: str) -> None:
    seen: list[Any] = []

    async def context(request: Any) -> str:
        seen.append(request)
        return str(request.headers["user"])

    async with mounted(host, scripted_server(MemoryStore[Any](), []), context=context) as client:
        body = {"type": "threads.list", "params": {}}
        answer = await client.post(body, {"User": "ann"})

    assert answer.status == 200
    assert isinstance(seen[0], Request) == (host != "alone")
    if host != "alone":
        assert seen[0].url.path.endswith("/chatkit")


# --- Without its lifespan ----------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/chatkit", "/healthz"])
async def test_without_its_lifespan_it_says_what_is_missing(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = FastAPI()
    app.mount("/", asgi_app(scripted_server(MemoryStore[Any](), [say("Hello")])))
    async with client_of(app) as client:
        for _ in range(2):
            answer = await client.ask("POST", path, CREATE)
            assert answer.status == 503
            assert answer.json["error"]["code"] == "not_running"
            assert "FastAPI(lifespan=chat.lifespan)" in answer.json["error"]["message"]

    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_a_server_that_the_app_runs_itself_answers() -> None:
    server = scripted_server(MemoryStore[Any](), [say("Hello")])

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with server:
            yield

    app = FastAPI(lifespan=lifespan)
    app.mount("/", asgi_app(server))
    async with client_of(app) as client:
        answer = await client.post(CREATE)

        assert events_of(answer.body)[-1].data["item"]["content"][0]["text"] == "Hello"


async def test_a_server_that_its_host_runs_by_itself_is_well_too() -> None:
    server = scripted_server(MemoryStore[Any](), [say("Hello")])
    chat = asgi_app(server, admin_token="t" * 16)
    app = FastAPI()
    app.mount("/", chat)
    token = {"Authorization": "Bearer " + "t" * 16}
    async with client_of(app) as client:
        async with server:
            well = await client.ask("GET", "/healthz")
            state = await client.ask("GET", "/admin/state", b"", token)
        left = await client.ask("GET", "/healthz")

    assert (well.status, well.json) == (200, {"status": "ok", "store": "ok", "live_turns": 0})
    assert state.json["health"]["stores"] == {"store": True}
    assert (left.status, left.json["error"]["code"]) == (503, "not_running")


class NoStore(StoreWrapper[Any]):
    async def __aenter__(self) -> Any:
        raise StoreError("no such disk")


async def test_what_the_store_raises_fails_the_apps_start_up_as_it_is() -> None:
    chat = asgi_app(scripted_server(NoStore(MemoryStore[Any]()), []))

    with trio.fail_after(5), pytest.raises(StoreError, match="no such disk"):
        async with chat.lifespan():
            raise AssertionError("it has started")


async def test_an_error_of_the_apps_own_lifespan_comes_out_as_it_is() -> None:
    server = scripted_server(MemoryStore[Any](), [])
    chat = asgi_app(server)

    async def fail_inside() -> None:
        async with chat.lifespan():
            assert server.is_running
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail_inside()
    assert not server.is_running


async def test_a_lifespan_that_is_cancelled_settles_and_can_be_entered_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    server = scripted_server(store, [say(*WORDS, every=1.0)], [say("Again")])
    chat = asgi_app(server)
    body = b""

    with trio.CancelScope() as scope:
        async with chat.lifespan(), trio.open_nursery() as nursery:

            async def ask() -> None:
                nonlocal body
                client = Client(_transport(chat))
                async with client.open("POST", "/chatkit", CREATE) as response:
                    while True:
                        body += await response.connection.receive()

            nursery.start_soon(ask)
            await trio.sleep(3.5)
            scope.cancel()
            await trio.sleep_forever()
    thread_id = events_of(body)[0].data["thread"]["id"]
    kept = await transcript(store, thread_id)
    assert kept[1] == "assistant: " + "".join(WORDS[:3])
    assert len(kept) == 3

    async with chat.lifespan():
        answer = await Client(_transport(chat)).post(CREATE)
        assert b"Again" in answer.body


def _transport(app: Any) -> Any:
    from chatkit_trio.testing._asgi import ASGITransport

    return ASGITransport(app, "", [])


# --- What `serve` knows of it ------------------------------------------------------------------


def test_serve_finds_the_servers_of_chats_that_are_mounted() -> None:
    one, two = (scripted_server(MemoryStore[Any](), []) for _ in range(2))
    inner = FastAPI()
    inner.mount("/chat", asgi_app(two))
    app = FastAPI()
    app.mount("/inner", inner)
    app.mount("/", asgi_app(one))

    assert chat_servers_in(app) == [two, one]
    assert chat_servers_in(asgi_app(one)) == [one]
    assert chat_servers_in(create_app(one)) == [one]
    assert chat_servers_in(ProxyFixMiddleware(create_app(one))) == [one]
    assert chat_servers_in(FastAPI()) == []
    assert chat_servers_in(object()) == []


# --- Over sockets ------------------------------------------------------------------------------

WITHIN = 30  # seconds
KEPT = ["user_message", "assistant_message", "sdk_hidden_context"]


@pytest.fixture
def database(tmp_path: Any) -> Any:
    return tmp_path / "chat.sqlite3"


def by_hypercorn() -> tuple[list[str], str]:
    command = [sys.executable, "-m", "hypercorn", "--worker-class", "trio"]
    return [*command, "--bind", "127.0.0.1:0", "tests.web.mounted:app"], "Running on"


def by_serve() -> tuple[list[str], str]:
    command = [sys.executable, "-m", "chatkit_trio", "serve", "tests.web.mounted:app"]
    return [*command, "--port", "0", "--drain-timeout", "0"], "Serving on"


async def stored(database: Any, thread_id: str) -> list[Any]:
    """Return the items of an answer that has ended, when they are in the file."""
    with trio.fail_after(WITHIN):
        while len(items := await items_in(database, thread_id)) < len(KEPT):  # noqa: ASYNC110
            await trio.sleep(0.05)
    return items


@pytest.mark.parametrize("how", ["closed tab", "SIGTERM"])
@pytest.mark.parametrize("by", [by_hypercorn, by_serve])
async def test_a_real_fastapi_app_keeps_the_text(database: Any, by: Any, how: str) -> None:
    command, ready = by()
    environment = {"TALKER_DATABASE": str(database)}
    async with running(command, database.parent, ready, **environment) as server:
        async with calling(server.port) as caller:
            await caller.read_until(b"word9 ")
            seen = caller.text
            if how == "SIGTERM":
                server.send_signal(signal.SIGTERM)
                await server.ended(within=WITHIN)
        items = await stored(database, caller.thread_id)

    assert [item.type for item in items] == KEPT
    assert items[1].content[0].text.startswith(seen)
    if how == "closed tab":
        assert items[2].ending.reason == "disconnected"
    elif by is by_serve:
        assert items[2].ending.reason == "shutdown"
    if how == "SIGTERM":
        assert server.returncode == 0
        assert database.with_suffix(".left").exists()


async def test_a_client_that_reads_nothing_is_hung_up_on_behind_middleware(database: Any) -> None:
    """Hypercorn shields its sends, so nothing but a reset of the connection ends this one."""
    command, ready = by_hypercorn()
    environment = {"TALKER_DATABASE": str(database), "TALKER_WORD_SIZE": "20000"}
    async with (
        running(command, database.parent, ready, **environment) as server,
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word9 ")
        assert [item.type for item in await stored(database, caller.thread_id)] == KEPT
        with trio.fail_after(WITHIN):
            await until(lambda: established(server.port) == 0)


def established(port: int) -> int:
    """Return how many connections a server on this port holds; from the kernel's table."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)
