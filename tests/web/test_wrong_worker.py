"""On another loop than Trio's, one sentence says what to do: at the start if there is one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from quart import Quart

from chatkit_trio.stores import MemoryStore
from chatkit_trio.stores.attachments import DiskAttachmentStore
from chatkit_trio.testing import ScriptedServer, say, scripted_server
from chatkit_trio.web import asgi_app, chatkit_blueprint, create_app, serve
from chatkit_trio.web.uploads import uploads_blueprint

WAY_OUT = (
    "serve the app by chatkit-trio serve MODULE:app, or hypercorn --worker-class trio MODULE:app"
)

APP = """
from fastapi import FastAPI
from quart_trio import QuartTrio
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.web import asgi_app, chatkit_blueprint, create_app

server = scripted_server(MemoryStore(), [say("Hello")])
app = create_app(server)
own = QuartTrio("own")
own.register_blueprint(chatkit_blueprint(server))
chat = asgi_app(server)
fast = FastAPI(lifespan=chat.lifespan)
fast.mount("/", chat)
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "served_here.py").write_text(textwrap.dedent(APP))
    return tmp_path


def uvicorn(target: str) -> list[str]:
    return ["uvicorn", target, "--port", "0"]


def hypercorn(target: str) -> list[str]:
    return ["hypercorn", target, "--bind", "127.0.0.1:0"]


@pytest.mark.parametrize("name", ["app", "own", "chat", "fast"])
@pytest.mark.parametrize("command", [uvicorn, hypercorn])
def test_the_wrong_worker_does_not_start(
    directory: Path, command: Callable[[str], list[str]], name: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *command(f"served_here:{name}")],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    said = ended.stdout + ended.stderr
    assert WAY_OUT in said
    assert "Running on" not in said  # Hypercorn
    assert "Uvicorn running" not in said


def test_a_request_without_a_start_is_answered_with_the_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As `uvicorn --lifespan off` does it."""
    server = scripted_server(MemoryStore[Any](), [say("Hello")])
    for app in (create_app(server), asgi_app(server)):
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}"}

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/chatkit",
            "headers": [],
            "http_version": "1.1",
        }
        asyncio.run(_call(app, scope, receive, send))

        assert sent[0]["status"] == 500
        assert WAY_OUT in json.loads(sent[1]["body"])["error"]["message"]
    assert len(caplog.records) == 2


async def _call(app: Any, *arguments: Any) -> None:
    await app(*arguments)


@pytest.mark.parametrize(
    "use",
    [
        lambda server: server.process(b"{}", None),
        lambda server: server.__aenter__(),
        lambda server: server.stop("thr_1"),
        lambda server: server.follow("thr_1"),
        lambda server: server.drain(0),
        lambda server: server.last_ending("thr_1", None),
        lambda server: server.count_request(None),
        lambda server: serve(create_app(server)),
    ],
)
def test_on_asyncio_a_server_says_what_to_do(
    use: Callable[[Any], Coroutine[Any, Any, Any]],
) -> None:
    server = scripted_server(MemoryStore[Any](), [say("Hello")])

    async def main() -> None:
        await use(server)

    with pytest.raises(RuntimeError, match="hypercorn --worker-class trio"):
        asyncio.run(main())
    assert not server.is_running


def test_a_lifespan_on_asyncio_says_what_to_do() -> None:
    chat = asgi_app(scripted_server(MemoryStore[Any](), []))

    async def main() -> None:
        async with chat.lifespan():
            raise AssertionError("it has started")

    with pytest.raises(RuntimeError, match="hypercorn --worker-class trio"):
        asyncio.run(main())


async def _nothing(thread: Any, message: Any, context: Any) -> Any:
    for event in ():
        yield event


def test_a_plain_quart_app_takes_no_blueprint_of_ours(tmp_path: Path) -> None:
    store = MemoryStore[Any]()
    files = DiskAttachmentStore[Any](
        tmp_path, metadata=store, base_url="http://localhost/files", secret="s" * 32
    )
    server = ScriptedServer(store, _nothing, attachment_store=files)
    for blueprint in (chatkit_blueprint(server), uploads_blueprint(server)):
        with pytest.raises(TypeError, match=r"make the app with quart_trio\.QuartTrio"):
            Quart("plain").register_blueprint(blueprint)
