"""A Responses API on loopback that says what is written down: real sockets, a real client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from openai import AsyncOpenAI


class ResponsesServer:
    """Plays one list of steps for each request: events, and functions to wait for."""

    def __init__(self) -> None:
        self.answers: list[list[Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.disconnected = trio.Event()
        self.disconnected_at = 0.0

    async def __call__(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        send: Callable[[Any], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        self.requests.append(json.loads(await _body(receive)))
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, receive, nursery.cancel_scope)
            await _play(self.answers.pop(0), send)
            nursery.cancel_scope.cancel()

    async def _watch(self, receive: Callable[[], Awaitable[Any]], scope: trio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnected_at = trio.current_time()
        self.disconnected.set()
        scope.cancel()


async def _live(
    receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    while True:
        step = (await receive())["type"]
        await send({"type": f"{step}.complete"})
        if step == "lifespan.shutdown":
            return


async def _body(receive: Callable[[], Awaitable[Any]]) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body


async def _play(steps: list[Any], send: Callable[[Any], Awaitable[None]]) -> None:
    for step in steps:
        if callable(step):
            await step()
        else:
            frame = f"event: {step['type']}\ndata: {json.dumps(step)}\n\n".encode()
            await send({"type": "http.response.body", "body": frame, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def serving(server: ResponsesServer) -> AsyncIterator[AsyncOpenAI]:
    """Serve on a free port of 127.0.0.1 and give a client of it."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.loglevel = "WARNING"
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        [address] = await nursery.start(
            lambda task_status: serve(
                server,  # type: ignore[arg-type]
                config,
                shutdown_trigger=stop.wait,
                task_status=task_status,
            )
        )
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
            yield client
        stop.set()
