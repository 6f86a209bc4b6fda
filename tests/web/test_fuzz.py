"""Whatever is sent, the endpoint answers with JSON or a stream, and never with a 500."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import AttachmentStore
from chatkit_trio.stores import MemoryStore
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ChatKitReq,
    FileAttachment,
    SyncCustomActionResponse,
    ThreadItemDoneEvent,
    TranscriptionResult,
)
from chatkit_trio.web import create_app

from .http import CREATE, client_of, events_of, parse_json, thread_id_of

SCHEMA = TypeAdapter(ChatKitReq).json_schema()
KNOWN_IDS = ["thr_known", "msg_known", "atc_known"]

texts = st.one_of(st.text(max_size=20), st.sampled_from(["", "\x00", "\ud800", "../..", "é" * 9]))
anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)


def values_of(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return a strategy of values that fit a JSON schema of ours."""
    if "$ref" in schema:
        return st.deferred(lambda: values_of(SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]))
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    for name in ("oneOf", "anyOf"):
        if name in schema:
            return st.one_of([values_of(each) for each in schema[name]])
    return _values_of_type(schema)


def _values_of_type(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    match schema.get("type"):
        case "object" if "properties" in schema:
            return _objects(schema)
        case "object":
            return st.dictionaries(texts, anything, max_size=3)
        case "array":
            return st.lists(values_of(schema.get("items", {})), max_size=3)
        case "string":
            return texts
        case "integer":
            return st.integers()
        case "boolean":
            return st.booleans()
        case "null":
            return st.none()
        case _:
            return anything


def _objects(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    required = set(schema.get("required", ())) | {"type"} & set(schema["properties"])
    known = {
        name: st.sampled_from(KNOWN_IDS) if name.endswith("_id") else values_of(each)
        for name, each in schema["properties"].items()
    }
    return st.fixed_dictionaries(
        {name: known[name] for name in required},
        optional={name: known[name] for name in known if name not in required},
    )


requests = values_of(SCHEMA)


class Shelf(AttachmentStore):
    """Takes attachments and forgets them."""

    async def create_attachment(self, input, context):
        return FileAttachment(
            id=self.generate_attachment_id(input.mime_type, context),
            name=input.name,
            mime_type=input.mime_type,
        )

    async def delete_attachment(self, attachment_id, context):
        return None


class Willing(ChatKitServer):
    """Implements every hook."""

    async def respond(self, thread, input_user_message, context):
        content = AssistantMessageContent(text="Yes.")
        yield ThreadItemDoneEvent(
            item=AssistantMessageItem(
                id=self.store.generate_item_id("message", thread, context),
                thread_id=thread.id,
                created_at=thread.created_at,
                content=[content],
            )
        )

    async def action(self, thread, action, sender, context):
        async for event in self.respond(thread, None, context):
            yield event

    async def sync_action(self, thread, action, sender, context):
        return SyncCustomActionResponse()

    async def transcribe(self, audio_input, context):
        return TranscriptionResult(text="Yes.")


class KnownIds(MemoryStore):
    """Gives the first thread and attachment ids that requests can guess."""

    def __init__(self):
        super().__init__()
        self._unused = {"thread": "thr_known", "message": "msg_known"}

    def generate_thread_id(self, context):
        return self._unused.pop("thread", None) or super().generate_thread_id(context)

    def generate_item_id(self, item_type, thread, context):
        return self._unused.pop(item_type, None) or super().generate_item_id(
            item_type, thread, context
        )


async def check(body: bytes) -> None:
    """Send a body to a server with one thread in it, and look at what comes back."""
    server = Willing(KnownIds(), Shelf())
    async with client_of(create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            assert await thread_id_of(response) == "thr_known"
            await response.body()
        attachment = FileAttachment(id="atc_known", name="a.txt", mime_type="text/plain")
        await server.store.save_attachment(attachment, None)

        answer = await client.post(body)

    assert answer.status in {200, 400, 404, 409, 413}, answer.body
    if answer.headers["content-type"] == "text/event-stream":
        assert events_of(answer.body)
    else:
        parse_json(answer.body)


in_time = settings(
    max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
)


@in_time
@given(requests)
async def test_requests_of_the_schema_are_answered(request):
    await check(json.dumps(request).encode(errors="surrogatepass"))


@in_time
@given(requests, st.data())
async def test_requests_with_one_thing_wrong_are_answered(request, data):
    place = request
    while place.get("params"):
        place = place["params"]
    name = data.draw(st.sampled_from(sorted(place)))
    place[name] = data.draw(anything)

    await check(json.dumps(request).encode(errors="surrogatepass"))


@in_time
@given(st.one_of(st.binary(max_size=200), anything.map(lambda value: json.dumps(value).encode())))
async def test_garbage_is_refused(body):
    await check(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"type":"threads.list","params":{"limit":1e999}}',
        b'{"type":"threads.list","params":{"limit":' + b"9" * 5000 + b"}}",
        b"[" * 100_000,
        b'{"type":"threads.add_client_tool_output","params":{"thread_id":"thr_known","result":'
        + b"[" * 150
        + b"]" * 150
        + b"}}",
        b'{"type":"threads.list","params":{},"metadata":{"\\ud800":1}}',
        b"\xef\xbb\xbf{}",
        b"\x00" * 1000,
    ],
    ids=["infinite", "huge number", "deep", "nested result", "surrogate", "bom", "zeros"],
)
async def test_known_troublemakers_are_answered(body):
    await check(body)


paths = st.text(alphabet=string.printable, min_size=1, max_size=20).filter(
    lambda text: "?" not in text and "#" not in text
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(paths, st.text(alphabet=string.printable.strip(), max_size=20))
async def test_odd_thread_ids_and_event_ids_are_answered(thread_id, event_id):
    async with client_of(create_app(Willing(MemoryStore()))) as client:
        headers = {"Last-Event-ID": event_id}
        watched = await client.ask("GET", f"/chatkit/threads/{thread_id}/turn", b"", headers)
        stopped = await client.ask("POST", f"/chatkit/threads/{thread_id}/stop")

    assert watched.status in {400, 404}
    assert stopped.status == 404
