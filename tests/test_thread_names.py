"""Threads without a title are known by the first words of the user, for those who ask."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from chatkit_trio.server import NonStreamingResult
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    FileAttachment,
    HiddenContextItem,
    InferenceOptions,
    ThreadItem,
    ThreadMetadata,
    UserMessageItem,
    UserMessageTagContent,
    UserMessageTextContent,
)
from chatkit_trio.web import create_app
from tests.web.http import client_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LIST = {"type": "threads.list", "params": {"limit": 10, "order": "asc"}}


def said(*content: Any, attachments: Any = ()) -> UserMessageItem:
    return UserMessageItem(
        id="msg_1",
        thread_id="thr_1",
        created_at=NOW,
        content=list(content),
        attachments=list(attachments),
        inference_options=InferenceOptions(),
    )


def text(words: str) -> UserMessageTextContent:
    return UserMessageTextContent(text=words)


async def store_with(*items: ThreadItem, title: str | None = None) -> MemoryStore[Any]:
    store = MemoryStore[Any]()
    await store.save_thread(ThreadMetadata(id="thr_1", created_at=NOW, title=title), None)
    for item in items:
        await store.add_thread_item("thr_1", item, None)
    return store


async def listed(store: MemoryStore[Any], **options: Any) -> Any:
    server = scripted_server(store, [say("Hello")])
    result = await server.process(json.dumps(LIST), None, **options)
    assert isinstance(result, NonStreamingResult)
    return json.loads(result.json)


GREETING = AssistantMessageItem(
    id="msg_0",
    thread_id="thr_1",
    created_at=NOW,
    content=[AssistantMessageContent(text="Welcome")],
)
HIDDEN = HiddenContextItem(id="hid", thread_id="thr_1", created_at=NOW, content="secret")
TAG = UserMessageTagContent(id="t", text="Ann", data={}, interactive=False)
FILE = FileAttachment(id="atc_1", name="plan.pdf", mime_type="application/pdf")


@pytest.mark.parametrize(
    ("items", "name"),
    [
        pytest.param([said(text("Hi  there,\n\nyou"))], "Hi there, you", id="white space"),
        pytest.param([said(text("ask "), TAG, text(" first"))], "ask @Ann first", id="a mention"),
        pytest.param([said(text("word " * 40))], "word " * 15 + "word…", id="many words"),
        pytest.param([said(text("x" * 5000))], "x" * 80 + "…", id="one long word"),
        pytest.param([said(attachments=[FILE])], "plan.pdf", id="a file alone"),
        pytest.param([GREETING, HIDDEN, said(text("Hi"))], "Hi", id="behind a greeting"),
    ],
)
async def test_a_name_is_the_beginning_of_the_first_message(
    items: list[ThreadItem], name: str
) -> None:
    page = await listed(await store_with(*items), with_names=True)

    assert page["names"] == {"thr_1": name}


async def test_a_thread_with_a_title_or_without_a_message_has_no_name() -> None:
    titled = await listed(await store_with(said(text("Hi")), title="Greetings"), with_names=True)
    silent = await listed(await store_with(GREETING), with_names=True)

    assert titled["names"] == {}
    assert silent["names"] == {}


async def test_who_does_not_ask_gets_what_the_original_sends() -> None:
    page = await listed(await store_with(said(text("Hi"))))

    assert set(page) == {"data", "has_more"}


async def test_over_http_a_header_asks() -> None:
    app = create_app(scripted_server(await store_with(said(text("Hi"))), [say("Hello")]))
    async with client_of(app) as client:
        asked = await client.ask("POST", "/chatkit", LIST, {"ChatKit-Names": "1"})
        plain = await client.ask("POST", "/chatkit", LIST)

    assert json.loads(asked.body)["names"] == {"thr_1": "Hi"}
    assert "names" not in json.loads(plain.body)
