"""Answers cut short over real sockets, with a real database that is slow.

The promise, whatever cuts an answer short: the partial answer and a hidden note are in the store
exactly once; the text is the beginning of what was produced, and has all that the client was sent.
"""

from __future__ import annotations

import signal
import socket
import struct

import pytest
import trio

from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import SlowStore
from chatkit_trio.types import AssistantMessageItem, SDKHiddenContextItem, UserMessageItem

from .sockets import calling, items_in, served, served_by_cli
from .talker import SLOW, Talker
from .test_serve_workers import refused


@pytest.fixture
def database(tmp_path):
    return tmp_path / "chat.sqlite3"


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


async def test_sigterm_keeps_the_answer_and_tells_the_client(database):
    async with served_by_cli(database, "--drain-timeout", "0.2") as server:
        async with calling(server.port) as caller:
            await caller.read_until(b"word9 ")
            server.send_signal(signal.SIGTERM)
            await caller.read_to_end()
        await server.ended(within=10)

    assert server.returncode == 0
    assert caller.events[-1].data == {
        "type": "error",
        "code": "custom",
        "message": "The server is restarting; the answer was cut short.",
        "allow_retry": True,
    }
    note = await note_if_kept_once(database, caller)
    assert note.startswith("The server was restarted")


async def test_sigterm_lets_an_answer_finish_that_soon_will(database):
    async with served_by_cli(database, TALKER_COUNT="60") as server:
        async with calling(server.port) as caller:
            await caller.read_until(b"word5 ")
            server.send_signal(signal.SIGTERM)
            await caller.read_to_end()
        await server.ended(within=10)

    items = await items_in(database, caller.thread_id)
    assert [item.type for item in items] == ["user_message", "assistant_message"]
    assert items[1].content[0].text.split()[-1] == "word59"


async def test_an_answer_nobody_reads_gets_its_time_too(database):
    """No connection is left to wait for; the app's shutdown has to wait all the same."""
    async with served_by_cli(database, TALKER_COUNT="60") as server:
        async with calling(server.port) as caller:
            await caller.read_until(b"word5 ")
        server.send_signal(signal.SIGTERM)
        await server.ended(within=10)

    items = await items_in(database, caller.thread_id)
    assert items[1].content[0].text.split()[-1] == "word59"


async def test_new_connections_are_refused_while_an_answer_goes_on(database):
    async with (
        served_by_cli(database, "--drain-timeout", "1000") as server,
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word5 ")
        server.send_signal(signal.SIGTERM)
        await refused(server.port)
        # Some words have been on their way meanwhile.
        await caller.read_until(b"word200 ")


async def test_a_second_signal_ends_the_waiting_but_not_the_settling(database):
    async with served_by_cli(database, "--drain-timeout", "60") as server:
        async with calling(server.port) as caller:
            await caller.read_until(b"word9 ")
            server.send_signal(signal.SIGINT)
            await refused(server.port)
            server.send_signal(signal.SIGINT)
            await caller.read_to_end()
        await server.ended(within=10)

    assert server.returncode == 0
    assert (await note_if_kept_once(database, caller)).startswith("The server was restarted")


async def test_one_who_never_reads_cannot_hold_the_process(database):
    settings = {"TALKER_WORD_SIZE": "65536"}
    async with (
        served_by_cli(database, "--drain-timeout", "0.2", **settings) as server,
        calling(server.port) as caller,
    ):
        await caller.read_until(b"word2 ")
        await trio.sleep(1)  # by now the server's sends are stuck
        server.send_signal(signal.SIGTERM)
        took = await server.ended(within=15)

        note = await note_if_kept_once(database, caller)
    assert note.startswith("The server was restarted")
    assert server.returncode == 0
    assert took < 6


async def test_killing_the_process_loses_half_a_second_at_most(database):
    async with served_by_cli(database) as server:
        async with calling(server.port) as caller:
            await caller.read_until(b"word150 ")
            server.kill()
            await server.wait()
        thread_id, seen = caller.thread_id, caller.text

    # The next start settles what the kill has left.
    async with Talker(SQLiteStore(database)) as next_server:
        page = await next_server.store.load_thread_items(thread_id, None, 10, "asc", None)
    _, partial_answer, note = page.data
    assert seen.startswith(partial_answer.content[0].text[: len(seen)])
    assert len(partial_answer.content[0].text.split()) > 50
    assert note.content.startswith("The server failed")
