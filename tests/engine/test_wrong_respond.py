"""A `respond` that returns something else than events is told what to write instead."""

from __future__ import annotations

import pytest

from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient
from chatkit_trio.types import AssistantMessageItem, ProgressUpdateEvent

STREAM_TEXT = "return stream_text(thread, text)"
EVENT = ProgressUpdateEvent(text="Looking")


async def later(value):
    return value


def generator():
    yield EVENT


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        (lambda: "Hello", f"returned a str: {STREAM_TEXT}"),
        (lambda: None, f"returned None: yield events in it, or {STREAM_TEXT}"),
        (lambda: later("Hello"), f"returned a str: {STREAM_TEXT}"),
        (lambda: later(None), f"returned None: yield events in it, or {STREAM_TEXT}"),
        (lambda: EVENT, "returned one ProgressUpdateEvent: write yield instead of return"),
        (lambda: [EVENT], "returned a plain list: yield events in an async def"),
        (generator, "returned a plain generator: yield events in an async def"),
        (lambda: 7, "returned a builtins.int: write it as an async generator"),
    ],
)
async def test_what_is_wrong_is_told_and_only_the_question_is_stored(
    caplog, autojump_clock, returned, told
):
    class Wrong(ChatKitServer):
        def respond(self, thread, input_user_message, context):
            return returned()

    server = Wrong(MemoryStore())
    async with server, ChatClient.of_server(server) as client, client.send("Hi") as turn:
        await turn.read()
        page = await server.store.load_thread_items(turn.thread_id, None, 10, "asc", None)

    (record,) = [each for each in caplog.records if "failed" in each.message]
    assert told in str(record.exc_info[1])
    assert not [item for item in page.data if isinstance(item, AssistantMessageItem)]
