"""What docs/how-to/fastapi.md shows and says, tried."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.server import ChatKitServer, stream_text
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, JumpClock
from chatkit_trio.testing._asgi import ASGITransport
from chatkit_trio.web import asgi_app

from .http import CREATE, events_of

fastapi = pytest.importorskip("fastapi", reason="the extra `parity` isn't installed")

from fastapi.staticfiles import StaticFiles  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from starlette.middleware.sessions import SessionMiddleware  # noqa: E402
from starlette.responses import StreamingResponse  # noqa: E402

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "fastapi.md"


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "fastapi_page"}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.S | re.M)
    exec("\n\n".join(blocks), names)
    return names


async def test_the_app_with_a_chat_in_it_answers_and_refuses(
    page: dict[str, Any], jump_clock: JumpClock
) -> None:
    app = page["app"]
    async with ChatClient.of_app(app, headers=[("X-User", "Ann")]) as client:
        async with client.send("Good morning") as turn:
            await turn.read()
        strangers = ASGITransport(app, "", [])
        async with strangers.exchange("POST", "/chatkit", b"{}", []) as answer:
            refusal = answer.status, json.loads(await answer.body())["error"]["message"]
        async with strangers.exchange("GET", "/hello", b"", []) as answer:
            other = await answer.body()

    assert turn.text == "Hello, Ann."
    assert refusal == (401, "Sign in first")
    assert other == b'"still here"'


def test_the_test_of_the_page_passes(page: dict[str, Any]) -> None:
    page["test_a_stranger_is_refused"]()


async def test_both_answer_side_by_side_and_the_script_is_there(page: dict[str, Any]) -> None:
    async with ChatClient.of_app(page["both"], headers=[("X-User", "Ann")]) as client:
        async with client.send("hi") as turn:
            await turn.read()
        transport = ASGITransport(page["both"], "/chatkit", ())
        async with transport.exchange("POST", "/chatkit", b"{}", ()) as response:
            refusal = response.status
        async with transport.exchange("GET", "/threads", b"", ()) as response:
            threads = await response.body()
        async with transport.exchange("GET", "/chatkit-trio.js", b"", ()) as response:
            script = (await response.body()).decode()
        (element,) = re.findall(r'"\./(static/[^"]+)"', script)
        async with transport.exchange("GET", f"/{element}", b"", ()) as response:
            status = response.status

    assert turn.text == "Hello, Ann."
    assert refusal == 401
    assert threads == b"1"
    assert status == 200


def test_what_the_page_says_of_fastapi_is_so(tmp_path: Path) -> None:
    """Each part that its table names, on Trio and beside a chat."""
    (tmp_path / "file.txt").write_text("a file")
    done: list[str] = []

    class Hello(ChatKitServer[str]):
        def respond(self, thread: Any, input_user_message: Any, context: str) -> Any:
            return stream_text(thread, f"Hello, {context}.")

    chat = asgi_app(
        Hello(MemoryStore()),
        context=lambda request: f"{request.session['name']} {request.state.name}",
    )

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, str]]:
        async with chat.lifespan(app):
            yield {"name": "of the state"}

    app = fastapi.FastAPI(lifespan=lifespan)
    app.add_middleware(SessionMiddleware, secret_key="not secret")

    async def name() -> AsyncIterator[str]:
        yield "ann"
        done.append("dependency")

    @app.get("/login")
    async def login(
        request: fastapi.Request, tasks: fastapi.BackgroundTasks, name: str = fastapi.Depends(name)
    ) -> str:
        request.session["name"] = name
        tasks.add_task(done.append, "task")
        return name

    @app.get("/thread")
    def thread() -> bool:
        return trio.lowlevel.in_trio_task()

    @app.get("/stream")
    def stream() -> StreamingResponse:
        return StreamingResponse(iter(["one ", "two"]))

    @app.get("/asyncio")
    async def on_asyncio() -> None:
        import asyncio

        await asyncio.sleep(0.01)

    app.mount("/files", StaticFiles(directory=tmp_path))
    app.mount("/", chat)
    with TestClient(app, backend="trio", base_url="http://localhost") as client:
        logged_in = client.get("/login").json()
        answer = client.post("/chatkit", json=CREATE)
        in_thread = client.get("/thread").json()
        streamed = client.get("/stream").text
        file = client.get("/files/file.txt").text
        with pytest.raises(RuntimeError, match="no running event loop"):
            client.get("/asyncio")

    said = events_of(answer.content)[-1].data["item"]["content"][0]["text"]
    assert (logged_in, streamed, file) == ("ann", "one two", "a file")
    assert said == "Hello, ann of the state."
    assert sorted(done) == ["dependency", "task"]
    assert in_thread is False
