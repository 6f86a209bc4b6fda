"""A message whose tab is closed at once: once it has arrived whole, the policy decides.

Plain Hypercorn serves here; the clients are raw sockets.
"""

from __future__ import annotations

import json
import socket
import struct

import pytest
import trio

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, SlowStore
from chatkit_trio.web import _delivery, create_app

from .http import CREATE
from .sockets import calling, served, served_app, until
from .talker import Talker

COUNT = 50
WORDS = 3
BODY = json.dumps(CREATE).encode()


def message(*headers: str, body: bytes = BODY, missing: int = 0) -> bytes:
    length = len(body) + missing
    lines = ["POST /chatkit HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def body_of(thread_id: str) -> bytes:
    params = {"thread_id": thread_id, "input": CREATE["params"]["input"]}
    return json.dumps({"type": "threads.add_user_message", "params": params}).encode()


async def leave_at_once(port: int, data: bytes, *, reset: bool) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(data)
    if reset:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await trio.aclose_forcefully(stream)


async def answered(server: Talker, count: int) -> int:
    """Wait for so many answers; return how many whole ones are in the store."""
    with trio.move_on_after(10):
        await until(lambda: len(server.produced) == count * WORDS)
        for turn in server.live_turns:
            await turn.ended.wait()
    whole = 0
    for thread in (await server.store.load_threads(1000, None, "asc", None)).data:
        page = await server.store.load_thread_items(thread.id, None, 10, "asc", None)
        whole += [item.type for item in page.data] == ["user_message", "assistant_message"]
    return whole


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(
    ("policy", "headers"),
    [
        (TurnPolicy(on_disconnect="finish"), ()),
        (TurnPolicy(on_disconnect=20.0), ()),
        (TurnPolicy(), ("ChatKit-Event-Ids: 1",)),
    ],
    ids=["finish", "a time", "can return"],
)
async def test_a_message_is_stored_and_answered(policy, headers, reset):
    server = Talker(SlowStore(MemoryStore(), 0.002), count=WORDS, policy=policy)
    async with served(server) as port:
        for _ in range(COUNT):
            await leave_at_once(port, message(*headers), reset=reset)

        assert await answered(server, COUNT) == COUNT


async def test_an_answer_that_may_be_cut_is_cut_at_once(monkeypatch):
    """The client is gone while its thread is loaded, and the answer begins behind that."""
    monkeypatch.setattr(_delivery, "_BEGINNING_TIMEOUT", 1000.0)
    store = SlowStore(MemoryStore(), 0.0)
    server = Talker(store, policy=TurnPolicy(on_disconnect="cancel"))
    async with served(server) as port:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.wait_for(lambda event: "word0" in event.model_dump_json())
            await turn.stop()
        store.seconds = 0.1
        body = body_of(turn.thread_id)
        await leave_at_once(port, message(body=body), reset=False)
        await until(lambda: len(server.live_turns) == 1)

        with trio.fail_after(10):
            await until(lambda: len(server.live_turns) == 0)
        page = await store.load_thread_items(turn.thread_id, None, 10, "asc", None)
        kinds = [item.type for item in page.data]
        assert kinds.count("user_message") == 2
        assert (kinds[0], kinds[-1]) == ("user_message", "sdk_hidden_context")


async def test_a_message_that_has_not_arrived_whole_is_none():
    server = Talker(MemoryStore(), policy=TurnPolicy(on_disconnect="finish"))
    async with served(server) as port:
        await leave_at_once(port, message(missing=1), reset=False)
        with trio.move_on_after(0.3):
            await until(lambda: bool(server.produced))

        assert (await server.store.load_threads(10, None, "asc", None)).data == []


async def test_a_view_that_hangs_does_not_hold_the_request_of_one_who_left(monkeypatch):
    monkeypatch.setattr(_delivery, "_BEGINNING_TIMEOUT", 0.1)
    gone = trio.Event()

    async def hanging_context(request):
        try:
            await trio.sleep_forever()
        finally:
            gone.set()

    app = create_app(Talker(MemoryStore()), context=hanging_context)
    async with served_app(app) as port:
        await leave_at_once(port, message(), reset=False)

        with trio.fail_after(5):
            await gone.wait()


async def test_an_answer_that_cannot_be_sent_is_not_read_for_ever():
    """The app's own code spoils the response, so nobody will ever read the turn's stream."""
    server = Talker(MemoryStore(), every=1000.0)
    app = create_app(server)

    @app.after_request
    async def spoil(response):
        raise RuntimeError("a bug of the app")

    async with served_app(app) as port, calling(port) as caller:
        with trio.fail_after(5):
            await caller.read_to_end()
            await until(lambda: not server.live_turns)
            ending = [item.type for item in await items_of_only_thread(server.store)]

    assert ending == ["user_message", "sdk_hidden_context"]


async def items_of_only_thread(store):
    (thread,) = (await store.load_threads(10, None, "asc", None)).data
    return (await store.load_thread_items(thread.id, None, 10, "asc", None)).data
