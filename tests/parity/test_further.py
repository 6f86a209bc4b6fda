"""Promises of the original that the conversations of `scenarios.py` don't touch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chatkit_trio.server import StreamingResult
from chatkit_trio.store import AttachmentStore
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import ChatClient, ScriptedServer, emit, say, scripted_server
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ThreadItemDoneEvent,
    ThreadsCreateReq,
)

from .scenarios import ask
from .scenarios import say as message

BODY = json.dumps(message("Hello"))


@pytest.mark.parametrize(
    "body", [BODY, BODY.encode(), bytearray(BODY.encode())], ids=["str", "bytes", "bytearray"]
)
async def test_a_request_may_be_text_or_bytes(body: Any) -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        result = await server.process(body, None)
        assert isinstance(result, StreamingResult)
        frames = [frame async for frame in result]

    assert b'"Hi"' in b"".join(frames)


async def test_json_events_are_the_frames_of_the_stream() -> None:
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        result = await server.process(BODY, None)
        assert isinstance(result, StreamingResult)
        frames = [frame async for frame in result.json_events]

    events = [json.loads(frame.removeprefix(b"data: ")) for frame in frames]
    assert [event["type"] for event in events] == [
        "thread.created",
        "thread.item.done",
        "stream_options",
        "thread.item.added",
        "thread.item.updated",
        "thread.item.updated",
        "thread.item.updated",
        "thread.item.done",
    ]


async def test_a_page_has_twenty_entries_unless_asked() -> None:
    def numbered(number: int) -> Any:
        content = [AssistantMessageContent(text=str(number))]
        return lambda scene: ThreadItemDoneEvent(
            item=AssistantMessageItem(content=content, **scene.item_fields())
        )

    many = emit(*(numbered(number) for number in range(30)))
    async with (
        scripted_server(MemoryStore(), [many]) as server,
        ChatClient.of_server(server) as client,
    ):
        async with client.send("Hello") as turn:
            await turn.read()
        thread = await client.thread(turn.thread_id or "")
        without_limit = await client.items_page(thread.id)
        zero = await client.items_page(thread.id, limit=0)
        asked = await client.items_page(thread.id, limit=25, order="asc")

    sizes = [len(page.data) for page in (thread.items, without_limit, zero, asked)]
    assert sizes == [20, 20, 20, 25]
    assert thread.items.data == asked.data[:20]
    assert thread.items.has_more


async def test_a_hook_may_see_the_metadata_of_a_request() -> None:
    seen = []

    class Curious(ScriptedServer):
        def get_turn_policy(self, request: Any, context: Any) -> Any:
            seen.append((type(request), request.metadata))
            return super().get_turn_policy(request, context)

    request = {**message("Hello"), "metadata": {"page": "/prices"}}
    async with Curious(MemoryStore(), scripted_server(MemoryStore(), []).script) as server:
        await server.process(json.dumps(request), None)

    assert seen == [(ThreadsCreateReq, {"page": "/prices"})]


async def test_an_attachment_store_may_leave_creation_to_direct_uploads() -> None:
    class Shelf(AttachmentStore[None]):
        async def delete_attachment(self, attachment_id: str, context: None) -> None:
            return None

    script = scripted_server(MemoryStore(), []).script
    request = ask("attachments.create", name="a.txt", size=1, mime_type="text/plain")
    async with ScriptedServer(MemoryStore(), script, attachment_store=Shelf()) as server:
        with pytest.raises(NotImplementedError, match="create_attachment"):
            await server.process(json.dumps(request), None)
