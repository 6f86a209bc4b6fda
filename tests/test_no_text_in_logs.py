"""No word of a user or a model is in the log, at any level from INFO on."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

import pytest

from chatkit_trio.agents import stream_response
from chatkit_trio.agents._context import AgentContext
from chatkit_trio.errors import ChatKitError
from chatkit_trio.logs import JSONFormatter
from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import DiskAttachmentStore, MemoryStore
from chatkit_trio.testing import ChatClient, emit, say, scripted_server, set_title
from chatkit_trio.types import (
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ClientToolCallItem,
    ProgressUpdateEvent,
    StructuredInputFreeform,
    StructuredInputItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    WidgetComponentUpdated,
    WidgetItem,
)
from chatkit_trio.web import create_app
from chatkit_trio.widgets import Card, Text

from .agents import script
from .agents.model_endpoint import ModelEndpoint
from .agents.ways import Native
from .all_ends import ENDS, SECRET, let_end
from .engine.doubles import TroubledStore, fails, once
from .engine.scenes import ask, sending
from .web.http import CREATE, client_of, thread_id_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
IN_WORDS = [{"type": "input_text", "text": SECRET}]
INPUT = {"content": IN_WORDS, "attachments": [], "inference_options": {}}


@pytest.fixture(autouse=True)
def nothing_of_it_is_logged(caplog):
    """Look at all records when the test is over, with their fields and tracebacks."""
    caplog.set_level(logging.INFO)
    yield
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    text = "\n".join(map(JSONFormatter().format, records))
    assert SECRET not in text, text.replace("\\n", "\n")


@pytest.mark.parametrize("reason", ENDS)
async def test_a_turn_that_ends_in_whatever_way(reason, autojump_clock):
    await let_end(reason, lambda server: None)


@pytest.mark.parametrize("method", ["settle", "add_thread_item", "save_thread", "load_item"])
async def test_a_store_that_fails_once(method, autojump_clock):
    store = TroubledStore(MemoryStore())
    store.give(once(fails()), method)
    server = scripted_server(store, [set_title(SECRET), say(SECRET)])
    async with server, sending(server, SECRET) as turn:
        await turn.read()


@pytest.mark.parametrize(
    "body",
    [
        SECRET,
        {"type": SECRET},
        {"type": "threads.create", "params": {"input": SECRET}},
        {"type": "threads.create", "params": {"input": {**INPUT, "attachments": [SECRET]}}},
        {"type": "threads.create", "params": {"input": INPUT}, SECRET: SECRET},
        {"type": "threads.update", "params": {"thread_id": "THREAD", "title": SECRET}},
        {"type": "threads.update", "params": {"thread_id": "thr_1", "title": SECRET}},
        {
            "type": "threads.custom_action",
            "params": {"thread_id": "THREAD", "action": {"type": SECRET, "payload": SECRET}},
        },
        {
            "type": "threads.sync_custom_action",
            "params": {"thread_id": "THREAD", "action": {"type": SECRET, "payload": SECRET}},
        },
        {"type": "input.transcribe", "params": {"audio_base64": SECRET, "mime_type": SECRET}},
        {
            "type": "attachments.create",
            "params": {"name": SECRET, "size": 10, "mime_type": "text/plain"},
        },
        {
            "type": "threads.add_user_message",
            "params": {"thread_id": "THREAD", "input": {**INPUT, "quoted_text": SECRET}},
        },
        {
            "type": "threads.add_client_tool_output",
            "params": {"thread_id": "THREAD", "result": SECRET},
        },
    ],
    ids=lambda body: body["type"] if isinstance(body, dict) else "no JSON",
)
async def test_a_request_that_is_answered_or_refused(body, tmp_path, jump_clock):
    store = MemoryStore()
    files = DiskAttachmentStore(
        tmp_path, metadata=store, base_url="http://localhost/files", secret="s" * 16
    )
    server = scripted_server(store, [say(SECRET)])
    server.attachment_store = files
    async with client_of(create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await response.body()
        text = body if isinstance(body, str) else json.dumps(body)
        await client.post(text.replace("THREAD", thread_id).encode(), {"Idempotency-Key": "k"})
        await client.post(text.encode() + b" ", {"Idempotency-Key": "k"})
        await client.ask("GET", f"/chatkit?{SECRET}")


async def test_an_answer_to_questions_that_nobody_has_asked(autojump_clock):
    def question(scene: Any) -> ThreadItemDoneEvent:
        free = StructuredInputFreeform(id="q", question=SECRET)
        item = StructuredInputItem(inputs=[free], status="pending", **scene.item_fields())
        return ThreadItemDoneEvent(item=item)

    server = scripted_server(MemoryStore(), [emit(question)])
    async with server, ChatClient.of_server(server) as client:
        async with client.send(SECRET) as turn:
            await turn.read()
        item_id = turn.events[-1].item.id
        params = {
            "thread_id": turn.thread_id,
            "item_id": item_id,
            "input": {"status": "answered", "answers": {SECRET: {"values": [SECRET]}}},
        }
        body = json.dumps({"type": "threads.add_structured_input", "params": params})
        async for _ in await server.process(body, None):
            pass


def item_with(scene: Any) -> AssistantMessageItem:
    return AssistantMessageItem.model_construct(content=SECRET, **scene.item_fields())


@pytest.mark.parametrize(
    "event",
    [
        lambda scene: SECRET,
        lambda scene: {"text": SECRET},
        lambda scene: ProgressUpdateEvent.model_construct(
            type="progress_update", text=[SECRET], icon=None
        ),
        lambda scene: ThreadItemDoneEvent.model_construct(item=item_with(scene)),
        lambda scene: ThreadItemDoneEvent.model_construct(item=SECRET),
        lambda scene: ThreadItemUpdatedEvent(
            item_id="msg_1",
            update=AssistantMessageContentPartTextDelta(content_index=0, delta=SECRET),
        ),
    ],
)
async def test_an_event_that_is_none(event, autojump_clock):
    server = scripted_server(MemoryStore(), [say(SECRET, finish=False), emit(event)])
    async with server:
        await ask(server, SECRET)


@pytest.mark.parametrize(
    "update",
    [
        WidgetComponentUpdated(component_id="none", component=Text(value=SECRET)),
        WidgetComponentUpdated.model_construct(component_id="x", component=SECRET),
        WidgetComponentUpdated(
            component_id="x", component=Text.model_construct(type="Text", value=[SECRET])
        ),
    ],
)
async def test_an_update_that_fits_no_widget(update, autojump_clock):
    def added(scene: Any) -> ThreadItemAddedEvent:
        card = Card(children=[Text(id="x", value=SECRET)])
        fields = {**scene.item_fields(), "id": "msg_1"}
        return ThreadItemAddedEvent(item=WidgetItem(widget=card, **fields))

    events = [added, ThreadItemUpdatedEvent.model_construct(item_id="msg_1", update=update)]
    server = scripted_server(MemoryStore(), [emit(*events)])
    async with server:
        await ask(server, SECRET)


async def test_a_tool_call_that_is_never_answered(autojump_clock):
    def call(scene: Any) -> ThreadItemDoneEvent:
        item = ClientToolCallItem(
            call_id=SECRET, name=SECRET, arguments={"a": SECRET}, **scene.item_fields("tool_call")
        )
        return ThreadItemDoneEvent(item=item)

    server = scripted_server(MemoryStore(), [emit(call, call)], [say("Fine")])
    async with server, ChatClient.of_server(server) as client:
        async with client.send(SECRET) as turn:
            await turn.read()
        params = {"thread_id": turn.thread_id, "result": SECRET}
        body = json.dumps({"type": "threads.add_client_tool_output", "params": params})
        async for _ in await server.process(body, None):
            pass


@pytest.mark.parametrize(
    "answer",
    [
        script.answer(*script.call("look_up", json.dumps({SECRET: SECRET}))),
        script.answer(*script.call("look_up", SECRET)),
        script.answer(*script.call(SECRET)),
        script.answer(*script.message("msg_1", SECRET))[:-1],
    ],
    ids=["wrong arguments", "no JSON", "no such tool", "broken off"],
)
async def test_a_model_that_misbehaves(answer, jump_clock):
    from chatkit_trio.agents import tool

    @tool
    async def look_up(what: str) -> str:
        return SECRET

    class Server(Native):
        def start(self, context, agent_input):
            from chatkit_trio.agents import run_model

            client = self.endpoint.client()
            return run_model(context, client, model="x", input=SECRET, tools=[look_up])

    last = script.answer(*script.message("msg_2", SECRET))
    server = Server(ModelEndpoint(answer, last))
    async with server, ChatClient.of_server(server).send(SECRET) as turn:
        await turn.read()


async def test_a_stream_of_a_model_with_something_that_is_no_event(autojump_clock):
    class Server(ChatKitServer[Any]):
        async def respond(self, thread, input_user_message, context):
            async def stream():
                yield {"text": SECRET}

            own = AgentContext(thread=thread, store=self.store, request_context=context)
            async for event in stream_response(own, stream()):
                yield event

    async with Server(MemoryStore()) as server:
        await ask(server, SECRET)


async def test_an_id_that_is_taken(autojump_clock):
    server = scripted_server(MemoryStore(), [say(SECRET)])
    async with server:
        for _ in range(2):
            try:
                result = await server.process(
                    json.dumps({"type": "threads.create", "params": {"input": INPUT}}),
                    None,
                    new_thread_id="thr_1",
                )
            except ChatKitError:
                continue
            async for _frame in result:
                pass
