"""Behind a real nginx: with the least that docs/how-to/nginx.md asks for, and with all it says.

nginx listens on a Unix socket; between it and the server are real connections. What nginx leaves at
its defaults is the point here: HTTP/1.0 to the server, and buffering.
"""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import DiskAttachmentStore, MemoryStore
from chatkit_trio.web import create_app
from tests.nginx import NGINX, nginx_command, running_nginx

from .http import IDS
from .sockets import ROOT, Caller, served_app
from .talker import Talker

pytestmark = pytest.mark.skipif(
    NGINX is None, reason="nginx isn't installed: apt-get install nginx"
)

KEPT = ["user_message", "assistant_message", "sdk_hidden_context"]

LEAST = """
server {
    listen 80;
    location / {
        proxy_pass http://127.0.0.1:8000;
        proxy_set_header Host $http_host;
    }
}
"""


def documented() -> str:
    text = (ROOT / "docs" / "how-to" / "nginx.md").read_text()
    return re.search(r"```nginx\n(.*?)```", text, re.DOTALL)[1]


@pytest.fixture(params=["least", "documented"])
def config(request):
    return LEAST if request.param == "least" else documented()


@asynccontextmanager
async def behind_nginx(app, config):
    """Serve an app behind nginx; yield a function that opens a connection to nginx."""
    # The path of a Unix socket has to be short.
    with tempfile.TemporaryDirectory(prefix="nginx") as name:
        async with served_app(app) as port:
            path = f"{name}/socket"
            server = config.replace("listen 80;", f"listen unix:{path};")
            server = server.replace("127.0.0.1:8000", f"127.0.0.1:{port}")
            async with running_nginx(nginx_command(Path(name), server)):

                async def connect():
                    return await trio.open_unix_socket(path)

                with trio.fail_after(10):
                    while not await is_served(connect):  # noqa: ASYNC110  (it is another process)
                        await trio.sleep(0.01)
                yield connect


async def is_served(connect):
    try:
        stream = await connect()
    except OSError:  # there is no socket yet, or nginx doesn't listen yet
        return False
    await stream.aclose()
    return True


@asynccontextmanager
async def asking(connect, **headers):
    stream = await connect()
    try:
        caller = Caller(stream)
        await caller.send(headers)
        yield caller
    finally:
        await trio.aclose_forcefully(stream)


async def answer(connect, method, path, body=b"", **headers) -> tuple[int, bytes]:
    """Send a request on a connection of its own; return the status and the body."""
    async with await connect() as stream:
        caller = Caller(stream)
        await caller.send(headers, method=method, path=path, body=body)
        await caller.read_to_end()
        return caller.status, caller.body


async def types_in(server, thread_id) -> list[str]:
    page = await server.store.load_thread_items(thread_id, None, 10, "asc", None)
    return [item.type for item in page.data]


async def settled(server) -> None:
    with trio.fail_after(10):
        for turn in server.live_turns:
            await turn.ended.wait()


async def test_a_stream_arrives_event_by_event(config):
    server = Talker(MemoryStore())
    async with (
        behind_nginx(create_app(server), config) as connect,
        asking(connect) as caller,
    ):
        await caller.read_until(b"word9 ")

        assert len(server.live_turns) == 1


async def test_a_stream_ends_when_the_answer_is_over(config):
    server = Talker(MemoryStore(), count=20)
    async with (
        behind_nginx(create_app(server), config) as connect,
        asking(connect) as caller,
    ):
        await caller.read_to_end()

    assert caller.text.split()[-1] == "word19"
    assert caller.events[-1].data["type"] == "thread.item.done"


async def test_an_answer_can_be_stopped(config):
    server = Talker(MemoryStore())
    async with (
        behind_nginx(create_app(server), config) as connect,
        asking(connect) as caller,
    ):
        await caller.read_until(b"word9 ")
        path = f"/chatkit/threads/{caller.thread_id}/stop"
        status, body = await answer(connect, "POST", path)
        await caller.read_to_end()
        types = await types_in(server, caller.thread_id)

    assert (status, json.loads(body)) == (200, {"stopped": True})
    assert types == KEPT


async def test_a_client_that_leaves_cancels_its_turn(config):
    server = Talker(MemoryStore())
    async with behind_nginx(create_app(server), config) as connect:
        async with asking(connect) as caller:
            await caller.read_until(b"word9 ")
            (turn,) = server.live_turns
        await settled(server)
        types = await types_in(server, caller.thread_id)

    assert turn.end_reason == "disconnected"
    assert types == KEPT


async def test_a_client_that_can_return_goes_on_where_it_was(config):
    server = Talker(MemoryStore(), count=60, policy=TurnPolicy(return_timeout=30))
    async with behind_nginx(create_app(server), config) as connect:
        async with asking(connect, **IDS) as caller:
            await caller.read_until(b"word9 ")
        last = caller.events[-1]
        path = f"/chatkit/threads/{caller.thread_id}/turn"
        status, rest = await answer(connect, "GET", path, **{"Last-Event-ID": last.id})

    assert status == 200
    assert b"word59" in rest
    assert rest.rstrip().endswith(b'{"reason": "finished"}')


async def test_the_servers_end_reaches_the_client(config):
    server = Talker(MemoryStore())
    async with (
        behind_nginx(create_app(server), config) as connect,
        asking(connect) as caller,
    ):
        await caller.read_until(b"word9 ")
        await server.drain(0)
        await caller.read_to_end()

    assert caller.events[-1].data["message"] == (
        "The server is restarting; the answer was cut short."
    )


async def test_a_large_upload_passes(tmp_path):
    data = b"\x89PNG\r\n\x1a\n" + bytes(3_000_000)
    files = DiskAttachmentStore(
        tmp_path,
        metadata=MemoryStore(),
        base_url="http://127.0.0.1/files",
        secret="a secret of tests only",
    )
    server = Talker(files.metadata)
    server.attachment_store = files
    async with behind_nginx(create_app(server), documented()) as connect:
        request = {
            "type": "attachments.create",
            "params": {"name": "a.png", "size": len(data), "mime_type": "image/png"},
        }
        _, created = await answer(connect, "POST", "/chatkit", json.dumps(request).encode())
        url = json.loads(created)["upload_descriptor"]["url"]
        status, _ = await answer(
            connect,
            "PUT",
            url.removeprefix("http://127.0.0.1"),
            data,
            **{"Content-Type": "image/png"},
        )

    assert status in (200, 201, 204)
    assert [each.stat().st_size for each in tmp_path.rglob("*") if each.is_file()].count(len(data))


@pytest.mark.parametrize(
    ("origin", "status"), [("http://127.0.0.1:81", 200), ("http://evil.test", 403)]
)
async def test_the_own_page_is_told_from_others(config, origin, status):
    """The page's port isn't a usual one: `Host` has to be passed on with it."""
    body = json.dumps({"type": "threads.list", "params": {}}).encode()
    async with behind_nginx(create_app(Talker(MemoryStore())), config) as connect:
        got, _ = await answer(connect, "POST", "/chatkit", body, Host="127.0.0.1:81", Origin=origin)

    assert got == status


async def test_without_the_host_the_own_page_is_refused():
    config = "\n".join(line for line in LEAST.splitlines() if "Host" not in line)
    body = json.dumps({"type": "threads.list", "params": {}}).encode()
    headers = {"Host": "chat.example.com", "Origin": "http://chat.example.com"}
    app = create_app(Talker(MemoryStore()), allowed_hosts=["chat.example.com"])
    async with behind_nginx(app, config) as connect:
        got, _ = await answer(connect, "POST", "/chatkit", body, **headers)

    assert got == 403
