"""Answers cut short over real sockets, with a real database that is slow.

The promise, whatever cuts an answer short: the partial answer and a hidden note are in the store
exactly once; the text is the beginning of what was produced, and has all that the client was sent.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import h11
import pytest
import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import SlowStore
from chatkit_trio.types import AssistantMessageItem, SDKHiddenContextItem, UserMessageItem
from chatkit_trio.web import create_app

from .http import CREATE, Event, events_of
from .talker import SLOW, Talker

ROOT = Path(__file__).parents[2]


@pytest.fixture
def database(tmp_path):
    return tmp_path / "chat.sqlite3"


# --- A client that can misbehave -----------------------------------------------------------------


class Caller:
    """A connection that has sent a message and reads the answer as it likes."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.body = b""
        self._http = h11.Connection(h11.CLIENT)

    async def send(self) -> None:
        data = json.dumps(CREATE).encode()
        headers = [("Host", "127.0.0.1"), ("Content-Length", str(len(data)))]
        request = h11.Request(method="POST", target="/chatkit", headers=headers)
        for event in (request, h11.Data(data=data), h11.EndOfMessage()):
            await self.stream.send_all(self._http.send(event) or b"")

    async def read_until(self, text: bytes) -> None:
        with trio.fail_after(20):
            while text not in self.body:
                assert await self._read(), f"the answer ended before {text!r}"

    async def read_to_end(self) -> None:
        with trio.fail_after(20):
            while await self._read():
                pass

    async def _read(self) -> bool:
        event = self._http.next_event()
        if event is h11.NEED_DATA:
            self._http.receive_data(bytes(await self.stream.receive_some()))
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return False
        elif isinstance(event, h11.Data):
            self.body += bytes(event.data)
        return True

    @property
    def events(self) -> list[Event]:
        """The events that have arrived whole."""
        return events_of(self.body.rpartition(b"\n\n")[0])

    @property
    def thread_id(self) -> str:
        return self.events[0].data["thread"]["id"]

    @property
    def text(self) -> str:
        """The assistant's text that has arrived."""
        updates = [event.data.get("update", {}) for event in self.events]
        return "".join(update.get("delta", "") for update in updates)


@asynccontextmanager
async def calling(port: int) -> AsyncIterator[Caller]:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    try:
        caller = Caller(stream)
        await caller.send()
        yield caller
    finally:
        await trio.aclose_forcefully(stream)


@asynccontextmanager
async def served(server) -> AsyncIterator[int]:
    """Serve in this process; yield the port."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    stop = trio.Event()
    run = partial(serve, create_app(server), config, shutdown_trigger=stop.wait, mode="asgi")
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(run)
        yield int(url.rpartition(":")[2])
        stop.set()


async def items_in(database, thread_id):
    async with SQLiteStore(database) as store:
        page = await store.load_thread_items(thread_id, None, 100, "asc", None)
    return page.data


async def note_if_kept_once(database, caller, produced=None) -> str:
    """Check the promise, and return what the hidden note says."""
    message, partial_answer, note = await items_in(database, caller.thread_id)
    assert isinstance(message, UserMessageItem)
    assert isinstance(partial_answer, AssistantMessageItem)
    assert isinstance(note, SDKHiddenContextItem)
    text = partial_answer.content[0].text
    assert text.startswith(caller.text)
    assert caller.text
    if produced is not None:
        assert "".join(produced).startswith(text)
    return note.content


# --- In this process -----------------------------------------------------------------------------


def talker_on(database, **settings) -> Talker:
    return Talker(SlowStore(SQLiteStore(database), SLOW, reads=0), **settings)


async def test_a_closed_connection_keeps_the_answer(database):
    server = talker_on(database)
    async with served(server) as port:
        async with calling(port) as caller:
            await caller.read_until(b"word9 ")
        await _gone(server)

        note = await note_if_kept_once(database, caller, server.produced)
    assert note.startswith("The user cancelled the previous answer, or lost the connection")


async def _gone(server) -> None:
    """Wait until the server has noticed that its clients left, and settled their turns."""
    with trio.fail_after(20):
        for turn in server.live_turns:
            await turn.ended.wait()


async def test_a_reset_connection_keeps_the_answer(database):
    server = talker_on(database)
    async with served(server) as port:
        async with calling(port) as caller:
            await caller.read_until(b"word9 ")
            linger = struct.pack("ii", 1, 0)
            caller.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await _gone(server)

        await note_if_kept_once(database, caller, server.produced)


async def test_a_client_that_stops_reading_stalls_only_itself(database):
    server = talker_on(
        database, word_size=65536, policy=TurnPolicy(stall_timeout=0.3, on_disconnect="finish")
    )
    async with served(server) as port, calling(port) as caller:
        await caller.read_until(b"word2 ")
        await _gone(server)

        note = await note_if_kept_once(database, caller, server.produced)
    assert note.startswith("The user's connection stalled")


async def test_an_answer_over_its_time_is_kept_and_ended_politely(database):
    server = talker_on(database, policy=TurnPolicy(turn_timeout=0.4))
    async with served(server) as port, calling(port) as caller:
        await caller.read_to_end()

        note = await note_if_kept_once(database, caller, server.produced)
    assert note.startswith("The previous answer reached its time limit")
    assert caller.events[-1].data["message"] == ("The answer took too long and was cut short.")


async def test_the_servers_end_keeps_the_answer(database):
    server = talker_on(database)
    async with served(server) as port, calling(port) as caller:
        await caller.read_until(b"word9 ")
        server_turns = list(server.live_turns)
        await server.drain(0)
        await caller.read_to_end()

    note = await note_if_kept_once(database, caller, server.produced)
    assert note.startswith("The server was restarted")
    assert server_turns[0].end_reason == "shutdown"


async def test_one_who_hangs_up_does_not_harm_another(database):
    server = talker_on(database, every=0.005, count=150)
    async with served(server) as port, calling(port) as patient:
        await patient.read_until(b"word0 ")
        async with calling(port) as hasty:
            await hasty.read_until(b"thread.created")
        await patient.read_to_end()

        items = await items_in(database, patient.thread_id)
    assert [item.type for item in items] == ["user_message", "assistant_message"]


# --- In a process of its own ---------------------------------------------------------------------


@asynccontextmanager
async def served_by_cli(database, *options, **environment) -> AsyncIterator[tuple]:
    """Run `chatkit-trio serve` on the talker; yield the process and its port."""
    command = [sys.executable, "-m", "chatkit_trio", "serve", "tests.web.talker:server"]
    env = {**os.environ, "TALKER_DATABASE": str(database), **environment}
    process = await trio.lowlevel.open_process(
        [*command, "--port", "0", *options], cwd=ROOT, env=env, stdout=subprocess.PIPE
    )
    try:
        line = b""
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                line += await process.stdout.receive_some()
        yield process, int(line.strip().rpartition(b":")[2])
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()


async def ended(process, within: float) -> float:
    """Wait for the process's end, and return how long that took."""
    began = trio.current_time()
    with trio.fail_after(within):
        await process.wait()
    return trio.current_time() - began


async def test_sigterm_keeps_the_answer_and_tells_the_client(database):
    async with served_by_cli(database, "--drain-timeout", "0.2") as (process, port):
        async with calling(port) as caller:
            await caller.read_until(b"word9 ")
            process.send_signal(signal.SIGTERM)
            await caller.read_to_end()
        await ended(process, within=10)

    assert process.returncode == 0
    assert caller.events[-1].data == {
        "type": "error",
        "code": "custom",
        "message": "The server is restarting; the answer was cut short.",
        "allow_retry": True,
    }
    note = await note_if_kept_once(database, caller)
    assert note.startswith("The server was restarted")


async def test_sigterm_lets_an_answer_finish_that_soon_will(database):
    async with served_by_cli(database, TALKER_COUNT="60") as (process, port):
        async with calling(port) as caller:
            await caller.read_until(b"word5 ")
            process.send_signal(signal.SIGTERM)
            await caller.read_to_end()
        await ended(process, within=10)

    items = await items_in(database, caller.thread_id)
    assert [item.type for item in items] == ["user_message", "assistant_message"]
    assert items[1].content[0].text.split()[-1] == "word59"


async def test_an_answer_nobody_reads_gets_its_time_too(database):
    """No connection is left to wait for; the app's shutdown has to wait all the same."""
    async with served_by_cli(database, TALKER_COUNT="60") as (process, port):
        async with calling(port) as caller:
            await caller.read_until(b"word5 ")
        process.send_signal(signal.SIGTERM)
        await ended(process, within=10)

    items = await items_in(database, caller.thread_id)
    assert items[1].content[0].text.split()[-1] == "word59"


async def test_new_connections_are_refused_at_once(database):
    async with (
        served_by_cli(database, "--drain-timeout", "2") as (process, port),
        calling(port) as caller,
    ):
        await caller.read_until(b"word5 ")
        process.send_signal(signal.SIGTERM)
        await trio.sleep(0.5)
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream("127.0.0.1", port)


async def test_a_second_signal_ends_the_waiting_but_not_the_settling(database):
    async with served_by_cli(database, "--drain-timeout", "60") as (process, port):
        async with calling(port) as caller:
            await caller.read_until(b"word9 ")
            process.send_signal(signal.SIGINT)
            await trio.sleep(0.3)
            process.send_signal(signal.SIGINT)
            await caller.read_to_end()
        await ended(process, within=10)

    assert process.returncode == 0
    assert (await note_if_kept_once(database, caller)).startswith("The server was restarted")


async def test_one_who_never_reads_cannot_hold_the_process(database):
    settings = {"TALKER_WORD_SIZE": "65536"}
    async with (
        served_by_cli(database, "--drain-timeout", "0.2", **settings) as (process, port),
        calling(port) as caller,
    ):
        await caller.read_until(b"word2 ")
        await trio.sleep(1)  # by now the server's sends are stuck
        process.send_signal(signal.SIGTERM)
        took = await ended(process, within=15)

        note = await note_if_kept_once(database, caller)
    assert note.startswith("The server was restarted")
    assert process.returncode == 0
    assert took < 6


async def test_killing_the_process_loses_half_a_second_at_most(database):
    async with served_by_cli(database) as (process, port):
        async with calling(port) as caller:
            await caller.read_until(b"word150 ")
            process.kill()
            await process.wait()
        thread_id, seen = caller.thread_id, caller.text

    # The next start settles what the kill has left.
    async with Talker(SQLiteStore(database)) as server:
        page = await server.store.load_thread_items(thread_id, None, 10, "asc", None)
    _, partial_answer, note = page.data
    assert seen.startswith(partial_answer.content[0].text[: len(seen)])
    assert len(partial_answer.content[0].text.split()) > 50
    assert note.content.startswith("The server failed")
