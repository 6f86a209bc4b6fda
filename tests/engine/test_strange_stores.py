"""Stores that answer with something else than they were asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import StoreWrapper, say, scripted_server
from chatkit_trio.types import ThreadMetadata
from chatkit_trio.web import create_app
from tests.transcript import transcript

from .parts import answered, message_request, within

HOUR = 3600.0


class Renaming(StoreWrapper[Any]):
    """Has ids of its own for threads, as a port to a table with UUIDs may have."""

    renames = False

    async def load_thread(self, thread_id: str, context: Any) -> ThreadMetadata:
        thread = await super().load_thread(thread_id, context)
        return thread.model_copy(update={"id": f"uuid-{thread.id}"}) if self.renames else thread


def request(type_: str, **params: Any) -> bytes:
    return json.dumps({"type": type_, "params": params}).encode()


REQUESTS = {
    "get": lambda thread_id: request("threads.get_by_id", thread_id=thread_id),
    "list": lambda thread_id: request("items.list", thread_id=thread_id),
    "rename": lambda thread_id: request("threads.update", thread_id=thread_id, title="New"),
    "delete": lambda thread_id: request("threads.delete", thread_id=thread_id),
    "feedback": lambda thread_id: request(
        "items.feedback", thread_id=thread_id, item_ids=[], kind="positive"
    ),
    "message": lambda thread_id: message_request("again", thread_id),
    "action": lambda thread_id: request(
        "threads.custom_action", thread_id=thread_id, action={"type": "press"}
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
@within(HOUR)
async def test_a_store_that_returns_another_thread_is_told_so_and_nothing_changes(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = Renaming(MemoryStore[Any]())
    async with scripted_server(store, [say("Hello")], [say("never")]) as server:
        thread_id = (await answered(server)).thread_id or ""
        store.renames = True

        with pytest.raises(ValueError, match=f"Renaming.load_thread.*uuid-{thread_id}.*id that"):
            await server.process(REQUESTS[name](thread_id), None)

        assert await transcript(store, thread_id) == ["user: hi", "assistant: Hello"]
        store.renames = False
        assert (await store.load_thread(thread_id, None)).title is None


@within(HOUR)
async def test_over_http_it_is_a_failure_of_the_server_and_the_log_says_why(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = Renaming(MemoryStore[Any]())
    server = scripted_server(store, [say("Hello")])
    async with create_app(server).test_app() as app:
        thread_id = (await answered(server)).thread_id or ""
        store.renames = True
        client = app.test_client()
        answers = [
            await client.post("/chatkit", data=REQUESTS["get"](thread_id)),
            await client.get(f"/chatkit/threads/{thread_id}/turn"),
            await client.post(f"/chatkit/threads/{thread_id}/stop"),
        ]

    assert [answer.status_code for answer in answers] == [500, 500, 500]
    assert caplog.text.count(f"uuid-{thread_id}") == 3
