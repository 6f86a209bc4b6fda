"""Connections close when they should, whatever HTTP the client speaks.

Plain Hypercorn serves here: what holds under it holds under `serve` too.
"""

from __future__ import annotations

import json
import socket
import struct
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import pause, say, scripted_server

from .http import CREATE
from .sockets import served

WITHIN = 5  # seconds; without the cure these connections stay open for ever


def request(method: str, path: str, version: str, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: 127.0.0.1", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


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


@pytest.mark.parametrize("behind", [b"\r\n", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"], ids=str)
async def test_what_stands_behind_a_message_keeps_no_connection_whose_client_has_gone(behind):
    """Hypercorn alone waits for the end of the answer, to read on, and is never told of it."""
    script = [say(*["word "] * 10_000, every=0.01)]
    async with served(scripted_server(MemoryStore(), script)) as port:
        await trio.testing.wait_all_tasks_blocked(0.05)
        before = living()
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(request("POST", "/chatkit", "1.1", body=CHAT) + behind)
        received = b""
        while b"word" not in received:
            received += await stream.receive_some()
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()

        with trio.fail_after(WITHIN):
            while living() > before:  # noqa: ASYNC110  (there is no event for it)
                await trio.sleep(0.01)


async def test_what_stands_behind_a_message_does_not_hold_up_the_end_of_the_server():
    script = [say("Hello"), pause(0.5)]
    async with AsyncExitStack() as stack:
        async with served(scripted_server(MemoryStore(), script)) as port:
            stream = await stack.enter_async_context(await trio.open_tcp_stream("127.0.0.1", port))
            await stream.send_all(request("POST", "/chatkit", "1.1", body=CHAT) + b"\r\n")
            received = b""
            while b"Hello" not in received:
                received += await stream.receive_some()
            began = trio.current_time()
        assert trio.current_time() - began < 2  # Hypercorn's own patience is 3 s


def living() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def _frame(kind: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, 0, stream) + payload


def _upgrade(to: str, *headers: str, body: bytes = b"") -> bytes:
    connection = "Connection: Upgrade, HTTP2-Settings"
    return request("GET", "/", "1.1", connection, f"Upgrade: {to}", *headers, body=body)


_WEBSOCKET = ("Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")

UNEXPECTED = {
    "websocket protocol": _upgrade("websocket", *_WEBSOCKET, "Sec-WebSocket-Protocol: \xff"),
    "websocket body": _upgrade("websocket", *_WEBSOCKET, body=b"abcde"),
    "h2c half a setting": _upgrade("h2c", "HTTP2-Settings: AAM"),
    "h2c setting too high": _upgrade("h2c", "HTTP2-Settings: AAT_____"),
    "priorities": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(4, 0)
    + b"".join(_frame(2, 2 * one + 1, struct.pack(">IB", 0, 1)) for one in range(1500)),
}
"""Messages for which Hypercorn isn't prepared: each ended the server once."""


@pytest.mark.parametrize("message", UNEXPECTED.values(), ids=UNEXPECTED)
async def test_what_a_stranger_sends_ends_only_his_connection(message, caplog):
    go_on = trio.Event()

    async def hold(scene):
        await go_on.wait()
        return
        yield

    async with served(scripted_server(MemoryStore(), [say("Hel"), hold, say("lo")])) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as reader:
            await reader.send_all(
                request("POST", "/chatkit", "1.1", "Connection: close", body=CHAT)
            )
            received = await reader.receive_some()
            await all_until_closed(port, message)
            go_on.set()
            with trio.fail_after(WITHIN):
                while chunk := await reader.receive_some():
                    received += chunk
        healthy = await all_until_closed(port, request("GET", "/livez", "1.0"))

    assert b'"lo"' in received
    assert received.rstrip().endswith(b"0")
    assert b"HTTP/1.1 200" in healthy
    assert "a connection has failed, and is closed" in caplog.text


@pytest.mark.parametrize("path", ["/chatkit", "/nowhere"])
async def test_nothing_is_answered_to_a_client_that_has_hung_up_in_its_message(path, caplog):
    """An answer would meet the end of the connection, at which Hypercorn may fail."""
    async with served(scripted_server(MemoryStore(), [])) as port:
        for _ in range(30):
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(
                    request("POST", path, "1.1", "Content-Length: 100", "Expect: 100-continue")
                )
                await stream.send_eof()
        healthy = await all_until_closed(port, request("GET", "/livez", "1.0"))

    assert b"HTTP/1.1 200" in healthy
    assert "a connection has failed" not in caplog.text
