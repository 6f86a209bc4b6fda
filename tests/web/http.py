"""Plain HTTP to an app in this process, for what a ChatKit client hides: headers and statuses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio
from quart import Quart

from chatkit_trio.testing._asgi import ASGITransport
from chatkit_trio.testing._transport import HTTPResponse

CREATE = {
    "type": "threads.create",
    "params": {
        "input": {
            "content": [{"type": "input_text", "text": "A question"}],
            "attachments": [],
            "inference_options": {},
        }
    },
}
IDS = {"ChatKit-Event-Ids": "1"}


def parse_json(text: bytes) -> Any:
    """Return what JSON a browser would read: without Python's NaN and Infinity."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return parse_json(self.body)


class Client:
    """Sends requests to an app that is running."""

    def __init__(self, transport: ASGITransport) -> None:
        self._transport = transport

    @asynccontextmanager
    async def open(
        self, method: str, path: str, body: Any = b"", headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[HTTPResponse]:
        """Send a request; the body of the answer is to be read."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._transport.exchange(
            method, path, data, list((headers or {}).items())
        ) as response:
            yield response

    async def ask(
        self, method: str, path: str, body: Any = b"", headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send a request and read the answer to its end."""
        async with self.open(method, path, body, headers) as response:
            names = {name.lower(): value for name, value in response.headers}
            return Answer(response.status, names, await response.body())

    async def post(self, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
        return await self.ask("POST", "/chatkit", body, headers)


@asynccontextmanager
async def client_of(app: Quart) -> AsyncIterator[Client]:
    """Run an app's lifespan around a client of it."""
    async with ASGITransport(app, "", []) as transport:
        yield Client(transport)


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event."""

    type: str
    data: Any
    id: str | None = None


def events_of(body: bytes) -> list[Event]:
    """Return the events of a complete stream."""
    return [_event(block) for block in body.split(b"\n\n") if b"data: " in block]


def _event(block: bytes) -> Event:
    fields = dict(line.split(b": ", 1) for line in block.split(b"\n"))
    number = fields[b"id"].decode() if b"id" in fields else None
    return Event(fields.get(b"event", b"message").decode(), parse_json(fields[b"data"]), number)


async def chunks_of(response: HTTPResponse) -> list[tuple[float, bytes]]:
    """Read an answer to its end; return its chunks, each with the time at which it came."""
    chunks: list[tuple[float, bytes]] = []
    while True:
        try:
            chunk = await response.connection.receive()
        except trio.EndOfChannel:
            return chunks
        chunks.append((trio.current_time(), chunk))


async def read_until(response: HTTPResponse, text: bytes) -> bytes:
    """Read chunks until this text has come."""
    body = b""
    while text not in body:
        body += await response.connection.receive()
    return body


async def thread_id_of(response: HTTPResponse) -> str:
    """Read a new thread's stream until the thread is known."""
    body = await read_until(response, b'"thread.created"')
    created = next(event for event in events_of(body) if event.data["type"] == "thread.created")
    thread_id: str = created.data["thread"]["id"]
    return thread_id
