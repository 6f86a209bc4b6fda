"""Connections close when they should, whatever HTTP the client speaks.

Plain Hypercorn serves here: what holds under it holds under `serve` too.
"""

from __future__ import annotations

import json
import socket
import struct

import pytest
import trio
import trio.testing

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import say, scripted_server

from .http import CREATE
from .sockets import served

WITHIN = 5  # seconds; without the cure these connections stay open for ever


def request(method: str, path: str, version: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


async def all_until_closed(port: int, data: bytes) -> bytes:
    """Send bytes, and return all that comes until the server closes the connection."""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(data)
        received = b""
        with trio.fail_after(WITHIN):
            while chunk := await stream.receive_some():
                received += chunk
        return received


CHAT = json.dumps(CREATE).encode()


@pytest.mark.parametrize(
    ("version", "headers"), [("1.0", ()), ("1.1", ("Connection: close",))], ids=["1.0", "close"]
)
@pytest.mark.parametrize(
    ("method", "path", "body", "end"),
    [
        ("GET", "/healthz", b"", b"}"),
        ("GET", "/", b"", b"</html>"),
        ("GET", "/nowhere", b"", b"}"),
        ("POST", "/chatkit", b"nonsense", b"}"),
        ("POST", "/chatkit", CHAT, b"\n\n"),
    ],
    ids=["health", "page", "404", "refusal", "stream"],
)
async def test_a_client_that_asks_for_it_is_hung_up_on(version, headers, method, path, body, end):
    async with served(scripted_server(MemoryStore(), [say("Hello")])) as port:
        received = await all_until_closed(port, request(method, path, version, *headers, body=body))

    assert received.removesuffix(b"0\r\n\r\n").rstrip(b"\r\n").endswith(end.rstrip(b"\n"))


async def test_a_connection_carries_several_requests():
    async with served(scripted_server(MemoryStore(), [say("Hello")] * 2)) as port:
        one = request("POST", "/chatkit", "1.1", body=CHAT)
        last = request("GET", "/healthz", "1.1", "Connection: close")
        received = await all_until_closed(port, one + one + last)

    assert received.count(b"HTTP/1.1 200") == 3
    assert received.count(b"thread.created") == 2
    assert b'"status": "ok"' in received


@pytest.mark.parametrize("path_and_body", [("/healthz", b""), ("/chatkit", CHAT)], ids=str)
@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
async def test_a_connection_that_its_client_has_closed_is_let_go_of(path_and_body, is_reset):
    """Hypercorn alone keeps its socket and its tasks until `keep_alive_timeout` has passed."""
    path, body = path_and_body
    async with served(scripted_server(MemoryStore(), [say("Hello")])) as port:
        await trio.testing.wait_all_tasks_blocked(0.05)
        before = living()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(request("POST" if body else "GET", path, "1.1", body=body))
        received = b""
        while not received.endswith((b"}", b"0\r\n\r\n")):
            received += await stream.receive_some()
        assert living() > before
        if is_reset:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

        with trio.fail_after(20):
            while living() > before:  # noqa: ASYNC110  (there is no event for it)
                await trio.sleep(0.01)


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living
