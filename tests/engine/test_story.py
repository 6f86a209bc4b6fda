"""What the log is told of turns: when each begins, when and why it ends, and no text of it."""

from __future__ import annotations

import logging

import pytest
import trio

from chatkit_trio.server import CancelReason, ChatKitServer, TurnPolicy, stream_text
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient

SECRET = "a word of the user"


class Talker(ChatKitServer):
    def respond(self, thread, input_user_message, context):
        return stream_text(thread, self.words(input_user_message.content[0].text))

    async def words(self, text):
        yield SECRET
        await trio.sleep(1)
        if text == "fail":
            raise RuntimeError("out of words")
        await trio.sleep(3)


@pytest.fixture
def story(caplog):
    """The records of turns, as their fields."""
    caplog.set_level(logging.INFO, "chatkit_trio.turns")

    def told():
        names = ("event", "turn_id", "thread_id", "reason", "seconds")
        return [
            tuple(getattr(record, name, None) for name in names)
            for record in caplog.records
            if record.name == "chatkit_trio.turns"
        ]

    return told


async def test_an_answer_that_ends_by_itself_has_two_lines(story, caplog, autojump_clock):
    server = Talker(MemoryStore())
    async with server, ChatClient.of_server(server) as client, client.send(SECRET) as turn:
        await turn.read()

    ids = turn.server_turn.id, turn.thread_id
    assert story() == [("turn.began", *ids, None, None), ("turn.ended", *ids, "finished", 4.0)]
    assert SECRET not in caplog.text


@pytest.mark.parametrize("reason", [CancelReason.STOPPED, CancelReason.SHUTDOWN])
async def test_a_cut_answer_ends_with_its_reason(story, autojump_clock, reason):
    server = Talker(MemoryStore())
    async with server, ChatClient.of_server(server) as client, client.send("Hi") as turn:
        await trio.sleep(2)
        turn.server_turn.cancel(reason)
        await turn.read()

    assert [each[3:] for each in story()] == [(None, None), (reason.value, 2.0)]


async def test_a_failed_answer_ends_with_that(story, autojump_clock):
    server = Talker(MemoryStore())
    async with server, ChatClient.of_server(server) as client, client.send("fail") as turn:
        await turn.read()

    assert [each[3:] for each in story()] == [(None, None), ("failed", 1.0)]


async def test_a_turn_that_never_begins_ends_all_the_same(story, autojump_clock):
    server = Talker(MemoryStore(), policy=TurnPolicy(on_busy="queue"))
    async with server, ChatClient.of_server(server) as client, client.send("Hi") as first:
        await first.read(2)
        async with client.send("and then?", thread_id=first.thread_id) as second:
            await trio.sleep(1)
            waiting = second.server_turn
            waiting.cancel()
            await waiting.ended.wait()
        await first.read()

    assert [(each[0], each[1], each[3]) for each in story()] == [
        ("turn.began", first.server_turn.id, None),
        ("turn.ended", waiting.id, "stopped"),
        ("turn.ended", first.server_turn.id, "finished"),
    ]


async def test_an_id_that_a_client_has_chosen_begins_no_line_of_its_own(story, autojump_clock):
    server = Talker(MemoryStore())
    body = (
        '{"type":"threads.create","params":{"input":{"content":[{"type":"input_text","text":"Hi"}],'
        '"attachments":[],"inference_options":{}}}}'
    )
    async with server:
        result = await server.process(body, None, new_thread_id="thr\nINFO all is well")
        async for _ in result:
            pass

    assert {each[2] for each in story()} == {"thr\\nINFO all is well"}
