"""The adapters to other protocols, in this process: what their published clients can't show.

tests/clients has those clients.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio

from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import ChatKitServer, TurnPolicy, stream_text
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import (
    SlowStore,
    Step,
    StoreWrapper,
    fail,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ClientToolCallItem,
    FileAttachment,
    SDKHiddenContextItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    WidgetItem,
)
from chatkit_trio.web import create_app
from chatkit_trio.web._adapter import FollowingBody
from chatkit_trio.web._sending import Sending
from chatkit_trio.web.ag_ui import AGUIAdapter, AGUITranslator, ag_ui_blueprint
from chatkit_trio.web.ai_sdk import AISDKAdapter, UIMessageTranslator, ai_sdk_blueprint
from chatkit_trio.widgets import Card, Text

from .http import Answer, Client, client_of, read_until

AI, AG = "/api/chat", "/ag-ui"
SYSTEM = {"id": "s", "role": "system", "parts": []}
OUTPUT = {"id": "t", "role": "tool", "toolCallId": "call_1", "content": "x"}


def user_of(request: Any) -> str:
    return request.headers.get("X-User", "ada")


def app_of(server: ChatKitServer[str], **settings: Any) -> QuartTrio:
    app = create_app(server, context=user_of)
    app.register_blueprint(ai_sdk_blueprint(server, context=user_of, **settings))
    app.register_blueprint(ag_ui_blueprint(server, context=user_of, **settings))
    return app


def ai_message(text: str, *, chat: str = "chat", message: str = "m1", **fields: Any) -> Any:
    parts = [{"type": "text", "text": text}]
    return {"id": chat, "messages": [{"id": message, "role": "user", "parts": parts, **fields}]}


def ag_message(text: str, *, chat: str = "chat", message: str = "m1") -> Any:
    messages = [{"id": message, "role": "user", "content": text}]
    return {"threadId": chat, "runId": "run", "messages": messages, "protocolVersion": "1.0"}


def chunks_in(answer: Answer | bytes) -> list[dict[str, Any]]:
    """Return the chunks of a stream."""
    body = answer if isinstance(answer, bytes) else answer.body
    lines = [line for line in body.split(b"\n\n") if line.startswith(b"data: {")]
    return [json.loads(line.removeprefix(b"data: ")) for line in lines]


def code_of(answer: Answer) -> tuple[int, str]:
    return answer.status, answer.json["error"]["code"]


def scripted(*steps: Step, **settings: Any) -> ChatKitServer[str]:
    """Return a server that answers each message by these steps, with owners."""
    store = MemoryStore[str](owner=lambda user: user)
    return scripted_server(store, *[list(steps)] * 3, **settings)


class Echo(ChatKitServer[str]):
    def __init__(self, **settings: Any) -> None:
        super().__init__(MemoryStore(owner=lambda user: user), **settings)

    def respond(self, thread, input_user_message, context):
        return stream_text(thread, [input_user_message.content[0].text])


async def history(client: Client, chat: str = "chat", user: str = "ada") -> Answer:
    return await client.ask("GET", f"{AI}/{chat}", headers={"X-User": user})


def texts(page: Any) -> list[str]:
    return [
        part["text"]
        for message in page["messages"]
        for part in message["parts"]
        if part["type"] == "text"
    ]


# --- Whose chat it is --------------------------------------------------------------------------


async def test_one_chat_is_the_same_in_all_three_protocols(jump_clock):
    async with client_of(app_of(Echo())) as client:
        await client.ask("POST", AI, ai_message("one"))
        await client.ask("POST", AG, ag_message("two", message="m2"))
        page = (await history(client)).json
        thread = {"type": "threads.get_by_id", "params": {"thread_id": page["thread_id"]}}
        answer = await client.post(thread)

    assert texts(page) == ["one", "one", "two", "two"]
    assert len(answer.json["items"]["data"]) == 4


async def test_two_owners_with_the_same_chat_id_have_a_chat_each(jump_clock):
    async with client_of(app_of(Echo())) as client:
        await client.ask("POST", AI, ai_message("of ada"))
        await client.ask("POST", AI, ai_message("of bob"), {"X-User": "bob"})
        ada, bob = await history(client), await history(client, user="bob")

    assert texts(ada.json) == ["of ada", "of ada"]
    assert texts(bob.json) == ["of bob", "of bob"]
    assert ada.json["thread_id"] != bob.json["thread_id"]


@pytest.mark.parametrize("path", [f"{AI}/{{}}", f"{AI}/{{}}/stream"])
async def test_a_threads_id_opens_it_for_its_owner_only(path, jump_clock):
    async with client_of(app_of(Echo())) as client:
        await client.ask("POST", AI, ai_message("of ada"))
        thread_id = (await history(client)).json["thread_id"]
        mine = await client.ask("GET", path.format(thread_id))
        others = await client.ask("GET", path.format(thread_id), headers={"X-User": "bob"})
        unknown = await client.ask("GET", path.format("none"), headers={"X-User": "bob"})

    assert mine.status in (200, 204)
    assert others.status == unknown.status


async def test_another_owner_cannot_stop_an_answer(jump_clock):
    async with (
        client_of(app_of(scripted(say("a "), pause(5), say("b")))) as client,
        client.open("POST", AI, ai_message("go")) as response,
    ):
        await read_until(response, b'"a "')
        thread_id = (await history(client)).json["thread_id"]
        answer = await client.ask("POST", f"{AI}/{thread_id}/stop", headers={"X-User": "bob"})
        rest = await response.body()

    assert answer.json == {"stopped": False}
    assert chunks_in(rest)[-1]["type"] == "finish"


async def test_the_same_message_twice_is_stored_once_and_answered_again(jump_clock):
    async with client_of(app_of(Echo())) as client:
        for _ in range(2):
            await client.ask("POST", AI, ai_message("one"))
            await client.ask("POST", AG, ag_message("one"))
        page = (await history(client)).json

    assert texts(page) == ["one", "one"]


@pytest.mark.parametrize("path", [AI, AG])
async def test_a_message_is_answered_again_that_comes_back_as_it_was_told(path, jump_clock):
    tag = {"type": "input_tag", "id": "t", "text": "line 14", "data": {}}
    content = [{"type": "input_text", "text": "See "}, tag]
    params = {"content": content, "attachments": ["atc_1"], "inference_options": {}}
    server = Echo()
    async with client_of(app_of(server)) as client:
        file = FileAttachment(id="atc_1", name="notes.txt", mime_type="text/plain")
        await server.store.save_attachment(file, "ada")
        await client.post({"type": "threads.create", "params": {"input": params}})
        (thread,) = (await server.store.load_threads(9, None, "asc", "ada")).data
        if path == AI:
            told = (await history(client, thread.id)).json["messages"][:1]
            again = {"id": thread.id, "messages": told}
        else:
            run = {"threadId": thread.id, "runId": "run", "messages": []}
            told = chunks_in(await client.ask("POST", f"{AG}/connect", run))[1]["messages"][:1]
            again = {**run, "messages": told}
        answer = await client.ask("POST", path, again)
        page = (await history(client, thread.id)).json

    assert answer.status == 200
    assert texts(page) == ["See ", "line 14", "See "]


async def at_once(server: ChatKitServer[str], path: str, *bodies: Any) -> tuple[list[Any], Any]:
    """Return the chunks of the answers to some requests, and the chat then."""
    told: list[Any] = []

    async def ask(body: Any) -> None:
        answer = await client.ask("POST", path, body)
        told.append(chunks_in(answer) if answer.status == 200 else answer.json)

    async with client_of(app_of(server)) as client:
        async with trio.open_nursery() as nursery:
            for body in bodies:
                nursery.start_soon(ask, body)
        return told, (await history(client)).json


ON_BUSY = ["supersede", "queue"]


@pytest.mark.parametrize("is_known", [False, True], ids=["a new chat", "a chat"])
@pytest.mark.parametrize("on_busy", ON_BUSY)
@pytest.mark.parametrize(("path", "message"), [(AI, ai_message), (AG, ag_message)])
async def test_the_same_message_twice_at_once_is_stored_once_and_answered_again(
    path, message, on_busy, is_known, jump_clock
):
    """As it is one after the other."""
    server = scripted(say("a ", "b", every=1), policy=TurnPolicy(on_busy=on_busy))
    first = [message("before", message="m0")] if is_known else []
    async with server:
        if is_known:
            await at_once(server, path, *first)
        told, page = await at_once(server, path, message("one"), message("one"))
    last = [chunks[-1]["type"] for chunks in told]

    assert texts(page)[2 * len(first) :] == ["one", "a b"]
    ends = {AI: ["abort", "finish"], AG: ["RUN_FINISHED"] * 2}[path]
    assert sorted(last) == (ends if on_busy == "supersede" else [ends[-1]] * 2)


@pytest.mark.parametrize("on_busy", ON_BUSY)
@pytest.mark.parametrize(("path", "message"), [(AI, ai_message), (AG, ag_message)])
async def test_two_first_messages_at_once_are_both_stored(path, message, on_busy, jump_clock):
    server = scripted(say("a ", "b", every=1), policy=TurnPolicy(on_busy=on_busy))
    one, two = message("one"), message("two", message="m2")

    told, page = await at_once(server, path, one, two)

    is_error = [chunks[-1]["type"] in ("error", "RUN_ERROR") for chunks in told]
    assert is_error == [False, False]
    assert [text for text in texts(page) if text not in ("a ", "a b")] in (
        ["one", "two"],
        ["two", "one"],
    )
    assert texts(page)[-1] == "a b"


async def test_two_texts_for_one_message_at_once_are_a_conflict_without_our_ids(jump_clock):
    server = scripted(say("a ", "b", every=1))

    told, page = await at_once(server, AI, ai_message("one"), ai_message("two"))

    errors = [chunks[-1] for chunks in told if chunks[-1]["type"] == "error"]
    assert errors == [
        {
            "type": "error",
            "errorText": "a message with this id is in the thread already, with another text; send"
            " a new one, with an id of its own",
        }
    ]
    assert texts(page)[1:] == ["a b"]


async def test_the_same_message_to_two_processes_at_once_is_answered_again(jump_clock):
    cluster = MemoryCluster()
    here, there = (
        scripted_server(
            MemoryStore[str](owner=lambda user: user, cluster=cluster),
            *[[say("a ", "b ", "c", every=5)]] * 2,
        )
        for _ in range(2)
    )
    told: list[Any] = []

    async def ask(client: Client) -> None:
        told.append(chunks_in(await client.ask("POST", AI, ai_message("go"))))

    async with client_of(app_of(here)) as one, client_of(app_of(there)) as other:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, one)
            nursery.start_soon(ask, other)
        page = (await history(other)).json

    assert sorted(chunks[-1]["type"] for chunks in told) == ["abort", "finish"]
    assert texts(page) == ["go", "a b c"]


# --- Limits and refusals -----------------------------------------------------------------------


@pytest.mark.parametrize(("path", "message"), [(AI, ai_message("x")), (AG, ag_message("x"))])
async def test_owners_limits_hold(path, message, jump_clock):
    server = Echo(owner_limits=OwnerLimits(requests_per_minute=1))
    async with client_of(app_of(server)) as client:
        await client.ask("POST", path, message)
        answer = await client.ask("POST", path, message)

    assert code_of(answer) == (429, "limit")
    assert "retry-after" in answer.headers


@pytest.mark.parametrize(
    ("path", "body", "refusal"),
    [
        (AI, b"[]", (400, "invalid_request")),
        (AI, b"{", (400, "invalid_request")),
        (AI, {"id": "chat", "messages": []}, (400, "invalid_request")),
        (AI, {"id": "", "messages": ai_message("x")["messages"]}, (400, "invalid_request")),
        (AI, ai_message("x", chat="c" * 300), (400, "invalid_request")),
        (AI, ai_message("x", message="m" * 300), (400, "invalid_request")),
        (AI, {**ai_message("x"), "trigger": "regenerate-message"}, (404, "not_found")),
        (AI, {"id": "chat", "message": SYSTEM}, (400, "invalid_request")),
        (AI, ai_message("x" * 5_000_000), (413, "too_large")),
        (AI, ai_message("x" * 600_000), (413, "too_large")),
        (AI, b'{"id":"chat","messages":' + b"[" * 90 + b"]" * 90 + b"}", (413, "too_large")),
        (AI, ai_message("x", metadata={"chatkit": {"attachments": ["atc_1"]}}), (404, "not_found")),
        (AG, {"threadId": "chat"}, (400, "invalid_request")),
        (AG, {**ag_message("x"), "messages": []}, (400, "invalid_request")),
        (AG, {**ag_message("x"), "resume": [{"interruptId": "i"}]}, (400, "invalid_request")),
        (AG, {**ag_message("x"), "messages": [OUTPUT]}, (404, "not_found")),
        (
            AG,
            {**ag_message("x"), "messages": [OUTPUT | {"content": f"[{'[],' * 40_000}[]]"}]},
            (413, "too_large"),
        ),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_cannot_be_met_is_refused_before_anything_is_stored(
    path, body, refusal, jump_clock
):
    server = Echo()
    async with client_of(app_of(server)) as client:
        answer = await client.ask("POST", path, body)
        threads = await server.store.load_threads(10, None, "desc", "ada")

    assert code_of(answer) == refusal
    assert threads.data == []


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (AI, b'{"id":', "this is no JSON: EOF while parsing a value at line 1 column 6"),
        (AG, b"\xef\xbb\xbf{}", "this is no JSON: expected value at line 1 column 1"),
        (AG, b"", "this is no JSON: EOF while parsing a value at line 1 column 0"),
        (AI, b"[]", "the body of this request has to be a JSON object"),
        (
            AI,
            {"id": "chat", "messages": [0] * 40_000},
            "this is not a chat request of the AI SDK: messages.0: Input should be a valid"
            " dictionary",
        ),
        (
            AI,
            {"id": "chat", "message": {"id": "m", "role": "user", "parts": [0] * 40_000}},
            "this is not a message of the AI SDK: parts.0: Input should be an object",
        ),
        (
            AI,
            ai_message("x", metadata={"chatkit": {"attachments": [0] * 40_000}}),
            "this is not a message of the AI SDK: metadata.chatkit.attachments.0: Input should be"
            " a valid string",
        ),
        (
            AG,
            {**ag_message("x"), "messages": [0] * 40_000},
            "this is not a RunAgentInput of AG-UI: messages.0: Input should be a valid dictionary",
        ),
        (
            AG,
            {**ag_message("x"), "messages": [{"id": "m", "role": "user", "content": 7}]},
            "this is not a message of AG-UI: content: Input should be a valid list",
        ),
        (
            AG,
            {**ag_message("x"), "messages": [{"id": "m", "role": "user", "content": [0] * 9}]},
            "this is not a message of AG-UI: content.0: Input should be an object",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_what_is_wrong_is_told_once_and_where_it_is(path, body, message, jump_clock):
    """The first wrong entry of a list is enough: looking for all of them would hold up the rest."""
    async with client_of(app_of(Echo())) as client:
        answer = await client.ask("POST", path, body)

    assert answer.status == 400
    assert answer.json["error"]["message"] == message


@pytest.mark.parametrize("text", [None, 7, True, 1.5, {"a": 1}, ["a"]], ids=str)
async def test_a_part_whose_text_is_none_is_refused_and_not_made_one(text, jump_clock):
    server = Echo()
    content = [{"type": "text", "text": text}]
    message = {"id": "m1", "role": "user", "content": content}
    async with client_of(app_of(server)) as client:
        answer = await client.ask("POST", AG, {**ag_message("x"), "messages": [message]})
        threads = await server.store.load_threads(10, None, "desc", "ada")

    assert code_of(answer) == (400, "invalid_request")
    assert threads.data == []


@pytest.mark.parametrize("metadata", [None, "sent by voice", 7, ["a"], {"mine": 1}], ids=str)
async def test_an_app_may_have_any_metadata_of_its_own(metadata, jump_clock):
    ai = ai_message("one", metadata=metadata)
    ag = ag_message("two", message="m2")
    ag["messages"][0]["metadata"] = metadata
    async with client_of(app_of(Echo())) as client:
        statuses = [(await client.ask("POST", *sent)).status for sent in ((AI, ai), (AG, ag))]
        page = (await history(client)).json

    assert statuses == [200, 200]
    assert texts(page) == ["one", "one", "two", "two"]


async def test_a_call_that_nobody_made_is_a_conflict(jump_clock):
    async with client_of(app_of(Echo())) as client:
        await client.ask("POST", AG, ag_message("x"))
        answer = await client.ask("POST", AG, {**ag_message("x"), "messages": [OUTPUT]})

    assert code_of(answer) == (409, "conflict")


async def test_a_busy_chat_refuses_before_the_stream(jump_clock):
    server = scripted(say("a "), pause(5), policy=TurnPolicy(on_busy="reject"))
    async with (
        client_of(app_of(server)) as client,
        client.open("POST", AI, ai_message("go")) as response,
    ):
        await read_until(response, b'"a "')
        answer = await client.ask("POST", AI, ai_message("more", message="m2"))

    assert code_of(answer) == (409, "busy")


async def test_pages_of_other_origins_and_other_hosts_are_refused(jump_clock):
    async with client_of(app_of(Echo(), cors_origins=["https://shop.example"])) as client:
        stranger = {"Origin": "https://evil.example"}
        refused = await client.ask("POST", AI, ai_message("x"), stranger)
        shop = {"Origin": "https://shop.example"}
        allowed = await client.ask("POST", AI, ai_message("x"), shop)

    assert code_of(refused) == (403, "forbidden")
    assert allowed.headers["access-control-allow-origin"] == "https://shop.example"


def test_a_path_has_to_be_one():
    for blueprint in (ai_sdk_blueprint, ag_ui_blueprint):
        for path in ("/", "/a//b"):
            with pytest.raises(ValueError, match="path must be a path"):
                blueprint(Echo(), path=path)


# --- The stream --------------------------------------------------------------------------------


async def test_a_silent_answer_has_heartbeats(jump_clock):
    server = scripted(say("a "), pause(40), say("b"), policy=TurnPolicy(heartbeat=15))
    async with client_of(app_of(server)) as client:
        answer = await client.ask("POST", AI, ai_message("go"))

    assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
    assert answer.body.count(b": ping\n\n") == 2
    assert answer.body.endswith(b'data: {"type":"finish"}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize(
    ("policy", "reason", "told"),
    [
        (TurnPolicy(turn_timeout=3), "deadline", "The answer took too long and was cut short."),
        (
            TurnPolicy(idle_timeout=3),
            "silent",
            "Nothing came from the assistant for too long; the answer was cut short.",
        ),
    ],
)
async def test_both_clients_are_told_why_an_answer_was_cut(policy, reason, told, jump_clock):
    server = scripted(say("a "), pause(40), say("b"), policy=policy)
    async with client_of(app_of(server)) as client:
        ai = chunks_in(await client.ask("POST", AI, ai_message("go", chat="ai")))
        ag = chunks_in(await client.ask("POST", AG, ag_message("go", chat="ag")))
        stored = [
            (await server.store.load_thread_items(thread.id, None, 9, "asc", "ada")).data
            for thread in (await server.store.load_threads(9, None, "asc", "ada")).data
        ]

    assert ai[-2:] == [
        {
            "type": "message-metadata",
            "messageMetadata": {"chatkit": {"ending": {"reason": reason}}},
        },
        {"type": "error", "errorText": told},
    ]
    assert ag[-1] == {"type": "RUN_ERROR", "message": told, "code": reason}
    for _, answer, note in stored:
        assert answer.content[0].text == "a "
        assert isinstance(note, SDKHiddenContextItem)


async def test_a_closed_tab_keeps_or_finishes_as_the_policy_says(jump_clock):
    server = scripted(say("a "), pause(5), say("b"), policy=TurnPolicy(on_disconnect=60))
    async with client_of(app_of(server)) as client:
        async with client.open("POST", AI, ai_message("go")) as response:
            await read_until(response, b'"a "')
        async with client.open("GET", f"{AI}/chat/stream") as response:
            rest = chunks_in(await response.body())

    told = [chunk["delta"] for chunk in rest if chunk["type"] == "text-delta"]
    assert "".join(told) == "a b"
    assert rest[-1] == {"type": "finish"}


async def test_clients_that_return_have_time_to(jump_clock):
    for clients_return, is_kept in ((False, False), (True, True)):
        server = scripted(say("a "), pause(5), say("b"))
        async with client_of(app_of(server, clients_return=clients_return)) as client:
            async with client.open("POST", AI, ai_message("go")) as response:
                await read_until(response, b'"a "')
            await trio.sleep(10)
            page = (await history(client)).json

        assert texts(page)[1:] == (["a ", "b"] if is_kept else ["a "])


async def test_an_answer_that_ends_before_it_is_followed_is_told_as_it_is_stored(jump_clock):
    """Between the look for a live turn and the response, which the client can't see."""

    async def send(message: Any) -> None:
        raise AssertionError("nothing is sent here")

    server = Echo()
    async with client_of(app_of(server)) as client:
        await client.ask("POST", AI, ai_message("one"))
        thread_id = (await history(client)).json["thread_id"]
        chunks = []
        for adapter_class, translator in (
            (AISDKAdapter, UIMessageTranslator(thread_id, "m")),
            (AGUIAdapter, AGUITranslator("chat", "run")),
        ):
            adapter = adapter_class(server, None, 1000, clients_return=True)
            sending = Sending(send, lambda: None)
            async with FollowingBody(adapter, thread_id, "ada", sending, translator, b"") as body:
                chunks.append(chunks_in(b"".join([chunk async for chunk in body])))

    ai, ag = chunks
    assert [each["delta"] for each in ai if each["type"] == "text-delta"] == ["one"]
    assert ai[-1] == {"type": "finish"}
    assert [each["delta"] for each in ag if each["type"] == "TEXT_MESSAGE_CONTENT"] == ["one"]
    assert ag[-1]["outcome"] == {"type": "success"}


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("end", ["failed", "deadline", "silent", "stopped"])
async def test_a_cut_answer_ends_in_the_same_way_live_and_as_it_is_stored(end, live, jump_clock):
    async def send(message: Any) -> None:
        raise AssertionError("nothing is sent here")

    after = [fail(RuntimeError("on purpose"))] if end == "failed" else [pause(100)]
    policy = TurnPolicy(
        turn_timeout=5 if end == "deadline" else None, idle_timeout=5 if end == "silent" else None
    )
    server = scripted(say("one", finish=False), *after, policy=policy)
    async with client_of(app_of(server)) as client:
        async with client.open("POST", AI, ai_message("go")) as response:
            await read_until(response, b'"one"')
            if end == "stopped":
                await client.ask("POST", f"{AI}/chat/stop")
            told = [chunks_in(await response.body())[-1]["type"]]
        thread_id = (await history(client)).json["thread_id"]
        if not live:
            told.clear()
            for adapter_class, translator in (
                (AISDKAdapter, UIMessageTranslator(thread_id, "m")),
                (AGUIAdapter, AGUITranslator("chat", "run")),
            ):
                adapter = adapter_class(server, None, 1000, clients_return=True)
                sending = Sending(send, lambda: None)
                following = FollowingBody(adapter, thread_id, "ada", sending, translator, b"")
                async with following as body:
                    chunks = chunks_in(b"".join([chunk async for chunk in body]))
                told.append([each["type"] for each in chunks if each["type"] != "finish"][-1])

    is_cut = end == "stopped"
    expected = ["abort" if is_cut else "error", "RUN_FINISHED" if is_cut else "RUN_ERROR"]
    assert told == (expected[:1] if live else expected)


async def test_an_answer_of_another_process_is_resumed_and_stopped(jump_clock):
    cluster = MemoryCluster()
    here, there = (
        scripted_server(
            MemoryStore[str](owner=lambda user: user, cluster=cluster),
            [say("a ", "b ", "c", every=5)],
            policy=TurnPolicy(on_disconnect="finish"),
        )
        for _ in range(2)
    )
    async with client_of(app_of(here)) as one, client_of(app_of(there)) as other:
        async with one.open("POST", AI, ai_message("go")) as response:
            await read_until(response, b'"a "')
        async with other.open("GET", f"{AI}/chat/stream") as response:
            body = await read_until(response, b'"b "')
            answer = await other.ask("POST", f"{AI}/chat/stop")
            body += await response.body()
        page = (await history(other)).json

    told = [chunk["delta"] for chunk in chunks_in(body) if chunk["type"] == "text-delta"]
    assert "".join(told) == "a b "
    assert answer.json == {"stopped": True}
    assert chunks_in(body)[-1] == {"type": "abort"}
    assert texts(page) == ["go", "a b "]
    assert page["messages"][1]["metadata"]["chatkit"]["ending"]["reason"] == "stopped"


class _SilentNode(StoreWrapper[str]):
    """One that answers no other node in time, as if its store were slow."""

    async def around(self, name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        if name == "coordination.post":
            await trio.sleep(60)
        return await call()


async def test_a_live_answer_of_a_silent_process_is_not_told_as_finished(jump_clock):
    cluster = MemoryCluster(lease_timeout=15)
    here, there = (MemoryStore[str](owner=lambda user: user, cluster=cluster) for _ in range(2))
    writing = scripted_server(_SilentNode(here), [say(*["a "] * 50, every=2)])
    other = scripted_server(there, [])
    async with client_of(app_of(writing)) as one, client_of(app_of(other)) as two:
        async with one.open("POST", AI, ai_message("go")) as response:
            await read_until(response, b'"a "')
            resumed = await two.ask("GET", f"{AI}/chat/stream")
            connected = await two.ask("POST", f"{AG}/connect", ag_message("go"))
            is_live = len(writing.live_turns) == 1
            await response.body()
        page = (await history(two)).json

    assert is_live
    assert chunks_in(resumed)[-1]["type"] == "error"
    assert chunks_in(connected)[-1]["type"] == "RUN_ERROR"
    assert "load the chat again" in resumed.body.decode()
    assert texts(page) == ["go", "a " * 50]


async def while_the_first_message_is_stored(
    method: str, path: str, body: Any = None, user: str = "ada"
) -> tuple[Answer, list[dict[str, Any]]]:
    """Return the answer to a request that comes then, and what the first one is answered."""
    store = SlowStore(MemoryStore[str](owner=lambda user: user), 1, reads=0)
    server = scripted_server(store, [say("a ", "b", every=5)])
    told: list[dict[str, Any]] = []

    async def first() -> None:
        told.extend(chunks_in(await client.ask("POST", AI, ai_message("go"))))

    async with client_of(app_of(server)) as client, trio.open_nursery() as nursery:
        nursery.start_soon(first)
        await trio.sleep(0.5)
        answer = await client.ask(method, path, body, {"X-User": user})
    return answer, told


@pytest.mark.parametrize("path", [f"{AI}/chat/stop", f"{AG}/chat/stop"])
async def test_an_answer_is_stopped_whose_new_chat_is_not_stored_yet(path, jump_clock):
    answer, told = await while_the_first_message_is_stored("POST", path)

    assert answer.json == {"stopped": True}
    assert told[-1] == {"type": "abort"}


async def test_nobody_else_finds_a_new_chat_that_is_not_stored_yet(jump_clock):
    stopped, told = await while_the_first_message_is_stored("POST", f"{AI}/chat/stop", user="bob")
    resumed, _ = await while_the_first_message_is_stored("GET", f"{AI}/chat/stream", user="bob")

    assert stopped.json == {"stopped": False}
    assert told[-1] == {"type": "finish"}
    assert resumed.status == 204


async def test_an_answer_is_resumed_whose_new_chat_is_not_stored_yet(jump_clock):
    resumed, told = await while_the_first_message_is_stored("GET", f"{AI}/chat/stream")
    connected, _ = await while_the_first_message_is_stored("POST", f"{AG}/connect", ag_message(""))

    def deltas(chunks: list[dict[str, Any]]) -> list[str]:
        return [chunk["delta"] for chunk in chunks if "delta" in chunk]

    assert deltas(chunks_in(resumed)) == deltas(told) == ["a ", "b"]
    assert deltas(chunks_in(connected)) == ["a ", "b"]


async def test_one_who_follows_too_slowly_is_told_to_load_again(jump_clock):
    async def send(message: Any) -> None:
        raise AssertionError("nothing is sent here")

    words = say(*[f"{number:4}" * 20 for number in range(200)], every=0.1)
    policy = TurnPolicy(on_disconnect="finish", max_replay_bytes=2000)
    server = scripted(words, policy=policy)
    async with client_of(app_of(server)) as client:
        async with client.open("POST", AI, ai_message("go")) as response:
            await read_until(response, b"text-delta")
            thread_id = next(iter(server.live_turns)).thread_id
            adapter = AISDKAdapter(server, None, 1000, clients_return=True)
            sending = Sending(send, lambda: None)
            translator = UIMessageTranslator(thread_id, "m")
            async with FollowingBody(adapter, thread_id, "ada", sending, translator, b"") as body:
                told = [await anext(body), await anext(body)]
                await read_until(response, b"text-end")
                told += [chunk async for chunk in body]
        page = (await history(client)).json

    assert chunks_in(b"".join(told))[-1] == {
        "type": "error",
        "errorText": "The answer can't be followed any further from here; load the chat again.",
    }
    assert texts(page)[1].endswith(" 199" * 20)


async def test_a_long_history_comes_in_pages_that_tear_no_answer(jump_clock):
    server = Echo()
    async with client_of(app_of(server)) as client:
        for number in range(60):
            await client.ask("POST", AI, ai_message(str(number), message=f"m{number}"))
        latest = (await history(client)).json
        older = (await client.ask("GET", f"{AI}/chat?after={latest['after']}")).json

    assert older["after"] is None
    assert texts(older) + texts(latest) == [str(number // 2) for number in range(120)]
    assert {page["messages"][0]["role"] for page in (latest, older)} == {"user"}


async def many_widgets(scene: Any) -> Any:
    for number in range(250):
        card = Card(children=[Text(value=str(number))])
        yield ThreadItemDoneEvent(item=WidgetItem(**scene.item_fields(), widget=card))


async def test_a_long_live_answer_is_told_from_its_beginning(jump_clock):
    server = scripted(many_widgets, pause(30), policy=TurnPolicy(max_replay_bytes=2000))
    async with (
        client_of(app_of(server)) as client,
        client.open("POST", AI, ai_message("go")) as response,
    ):
        await read_until(response, b'"249"')
        page = (await history(client)).json
        async with client.open("GET", f"{AI}/chat/stream") as resuming:
            resumed = chunks_in(await read_until(resuming, b'"249"'))
        async with client.open("POST", f"{AG}/connect", ag_message("")) as connecting:
            connected = chunks_in(await read_until(connecting, b'"249"'))

    (message,) = page["messages"]
    assert (page["live"], page["after"], message["role"]) == (True, None, "user")
    assert resumed[0]["messageId"] == f"{message['id']}.answer"
    assert sum(chunk["type"] == "data-widget" for chunk in resumed) == 250
    assert [each["role"] for each in connected[1]["messages"]] == ["user"]
    assert sum(chunk["type"] == "ACTIVITY_SNAPSHOT" for chunk in connected) == 250


async def test_a_long_answer_is_one_message_when_it_is_loaded_again(jump_clock):
    async with client_of(app_of(scripted(many_widgets))) as client:
        await client.ask("POST", AI, ai_message("before", message="m0"))
        await client.ask("POST", AI, ai_message("go"))
        latest = (await history(client)).json
        older = (await client.ask("GET", f"{AI}/chat?after={latest['after']}")).json

    shown = [
        [(message["role"], len(message["parts"])) for message in page["messages"]]
        for page in (older, latest)
    ]
    assert shown == [[("user", 1), ("assistant", 251)]] * 2
    assert older["after"] is None
    question, answer = latest["messages"]
    assert answer["id"] == f"{question['id']}.answer"


async def test_an_adapter_can_stand_alone_under_a_prefix(jump_clock):
    server = Echo()
    app = QuartTrio(__name__)
    blueprint = ai_sdk_blueprint(server, context=user_of, path="/chat")
    app.register_blueprint(blueprint, url_prefix="/v1")
    async with client_of(app) as client:
        answer = await client.ask("POST", "/v1/chat", ai_message("one"))
        was_running = server.is_running

    assert chunks_in(answer)[-1] == {"type": "finish"}
    assert (was_running, server.is_running) == (True, False)


# --- What can't be taken back ------------------------------------------------------------------


MESSAGE = {"type": "assistant_message", "id": "a", "thread_id": "t", "created_at": "2026-01-02"}
PART = "assistant_message.content_part"


def text_item(*texts: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {**MESSAGE, "content": content}


def reasoning(*tasks: dict[str, Any]) -> dict[str, Any]:
    workflow = {"type": "reasoning", "tasks": list(tasks), "expanded": False}
    return {**MESSAGE, "type": "workflow", "workflow": workflow}


CALL = {
    **MESSAGE,
    "type": "client_tool_call",
    "id": "c",
    "call_id": "call_1",
    "name": "look",
    "arguments": {},
    "status": "completed",
    "output": 1,
}


def updated(kind: str, **fields: Any) -> dict[str, Any]:
    update = {"type": f"{PART}.{kind}", "content_index": 0, **fields}
    return {"type": "thread.item.updated", "item_id": "a", "update": update}


DONE = {"type": "thread.item.done", "item": text_item("Hello")}
STREAMED = [
    {"type": "thread.item.added", "item": text_item()},
    updated("text_delta", delta="Hel"),
    updated("text_delta", delta="lo"),
]


@pytest.mark.parametrize(
    "events",
    [
        [*STREAMED, DONE, DONE],
        [DONE, DONE],
        [*STREAMED, DONE, updated("done", content=text_item("Hello")["content"][0])],
        [*STREAMED[:2], DONE, {**DONE, "item": text_item("Hello")}],
    ],
    ids=["done twice", "only done, twice", "a part that ends behind its item", "the rest, twice"],
)
@pytest.mark.parametrize("translator", [UIMessageTranslator, AGUITranslator])
def test_text_that_was_told_is_not_told_again(translator, events):
    telling = translator("t", "x")

    chunks = [*telling.feed(events), *telling.end("finished")]

    assert "".join(chunk["delta"] for chunk in chunks if "delta" in chunk) == "Hello"


def test_another_text_for_a_message_that_was_told_is_told_aside():
    translator = AGUITranslator("t", "r")
    other = {"type": "thread.item.done", "item": text_item("Bye")}

    chunks = translator.feed([*STREAMED, DONE, other])

    assert chunks[-1] == {
        "type": "CUSTOM",
        "name": "chatkit.thread.item.replaced",
        "value": {"item": other["item"]},
    }


SOURCES = [
    {"type": "annotation", "source": {"type": "url", "url": f"https://{name}.example", "title": ""}}
    for name in "ab"
]
PART_DONE = updated("done", content=text_item("Hello")["content"][0])


def cited(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": SOURCES}]
    return {"type": "thread.item.done", "item": {**MESSAGE, "content": content}}


@pytest.mark.parametrize(
    "events",
    [
        [*STREAMED, PART_DONE, cited("Hello")],
        [
            *STREAMED,
            PART_DONE,
            *(updated("annotation_added", annotation=source) for source in SOURCES),
            cited("Hello"),
        ],
        [*STREAMED, PART_DONE, updated("annotation_added", annotation=SOURCES[0]), cited("Hello")],
        [*STREAMED, DONE, cited("Hello")],
        [*STREAMED, DONE, *(updated("annotation_added", annotation=each) for each in SOURCES)],
        [*STREAMED, cited("Hello")],
        [cited("Hello")],
        [cited("")],
    ],
    ids=[
        "when the item is done",
        "behind its part",
        "in both",
        "when the item is done again",
        "behind their item",
        "in time",
        "at once",
        "without text",
    ],
)
def test_sources_are_told_to_ag_ui_whenever_they_come(events):
    """Its clients take a message that begins and ends again for the same one."""
    telling = AGUITranslator("t", "r")

    chunks = [*telling.feed(events), *telling.end("finished")]

    kinds = [chunk["type"].removeprefix("TEXT_MESSAGE_") for chunk in chunks]
    ends = [chunk for chunk in chunks if chunk["type"] == "TEXT_MESSAGE_END"]
    assert ends[-1]["metadata"] == {"chatkit": {"annotations": SOURCES}}
    assert [kind for kind in kinds if kind in ("START", "END")] == ["START", "END"] * len(ends)
    assert len(ends) <= 2
    assert {chunk["messageId"] for chunk in ends} == {"a"}


@pytest.mark.parametrize("translator", [UIMessageTranslator, AGUITranslator])
def test_a_message_is_taken_back_of_which_only_the_sources_were_told(translator):
    telling = translator("t", "x")
    telling.feed([STREAMED[0], updated("annotation_added", annotation=SOURCES[0])])

    chunks = telling.feed([{"type": "thread.item.removed", "item_id": "a"}])

    assert "thread.item.removed" in json.dumps(chunks[-1])


@pytest.mark.parametrize("is_thought", [False, True])
def test_no_part_is_open_across_a_step_of_the_ai_sdk(is_thought):
    """Its clients forget with a step which parts are open, and throw at a delta of one."""
    if is_thought:
        thought = {"type": "thought", "content": "Hel"}
        begun, more = reasoning(thought), {**thought, "content": "Hello"}
        update = {"type": "workflow.task.updated", "task_index": 0, "task": more}
        events = [
            {"type": "thread.item.added", "item": begun},
            {"type": "thread.item.done", "item": CALL},
            {"type": "thread.item.updated", "item_id": "a", "update": update},
            {"type": "thread.item.done", "item": reasoning(more)},
        ]
    else:
        events = [*STREAMED[:2], {"type": "thread.item.done", "item": CALL}, STREAMED[2], DONE]
    telling = UIMessageTranslator("t", "x")

    chunks = [*telling.begin(), *telling.feed(events), *telling.end("finished")]

    kind = "reasoning" if is_thought else "text"
    assert [chunk["type"] for chunk in chunks] == [
        "start",
        "start-step",
        f"{kind}-start",
        f"{kind}-delta",
        "tool-input-available",
        "tool-output-available",
        f"{kind}-end",
        "finish-step",
        "start-step",
        f"{kind}-start",
        f"{kind}-delta",
        f"{kind}-end",
        "finish-step",
        "finish",
    ]
    assert "".join(chunk.get("delta", "") for chunk in chunks) == "Hello"


async def test_a_tool_that_failed_on_the_page_has_failed_after_a_reload_too(jump_clock):
    async def ask_page(scene: Any) -> Any:
        call = {"call_id": "call_1", "name": "locate", "arguments": {}}
        yield ThreadItemDoneEvent(item=ClientToolCallItem(**scene.item_fields(), **call))

    store: MemoryStore[None] = MemoryStore()
    server = scripted_server(store, [ask_page], [say("As you like")])
    failed = {"type": "tool-locate", "toolCallId": "call_1", "input": {}, "state": "output-error"}
    answered = {"id": "m.answer", "role": "assistant", "parts": [{**failed, "errorText": "denied"}]}
    async with client_of(app_of(server)) as client:
        await client.ask("POST", AI, ai_message("where am I", chat="ai"))
        await client.ask("POST", AI, {"id": "ai", "message": answered})
        parts = (await history(client, "ai")).json["messages"][-1]["parts"]
        (thread,) = (await store.load_threads(9, None, "asc", None)).data
        items = (await store.load_thread_items(thread.id, None, 9, "asc", None)).data

    assert [part["type"] for part in parts if part["type"] != "step-start"] == [
        "tool-locate",
        "text",
    ]
    assert failed | {"errorText": "denied"} in parts
    (output,) = [item.output for item in items if isinstance(item, ClientToolCallItem)]
    assert output == {"error": "denied", "is_error": True}


def message(scene: Any, item_id: str, text: str) -> AssistantMessageItem:
    fields = {**scene.item_fields(), "id": item_id}
    return AssistantMessageItem(**fields, content=[AssistantMessageContent(text=text)])


async def test_text_that_is_replaced_or_removed_is_told_aside(jump_clock):
    async def rewrite(scene: Any) -> Any:
        yield ThreadItemAddedEvent(item=message(scene, "msg_1", "Rude"))
        yield ThreadItemDoneEvent(item=message(scene, "msg_1", "Polite"))
        yield ThreadItemReplacedEvent(item=message(scene, "msg_1", "Kind"))
        yield ThreadItemRemovedEvent(item_id="msg_1")

    async with client_of(app_of(scripted(rewrite))) as client:
        ai = chunks_in(await client.ask("POST", AI, ai_message("go", chat="ai")))
        page = (await history(client, "ai")).json
        ag = chunks_in(await client.ask("POST", AG, ag_message("go", chat="ag")))

    told = [chunk for chunk in ai if chunk["type"].startswith(("text", "data-thread.item"))]
    assert [chunk["type"] for chunk in told] == [
        "text-start",
        "text-delta",
        "text-end",
        "data-thread.item.replaced",
        "data-thread.item.replaced",
        "data-thread.item.removed",
    ]
    assert told[4]["data"]["item"]["content"][0]["text"] == "Kind"
    assert told[5]["data"] == {"item_id": "msg_1"}
    assert texts(page) == ["go"]
    assert [chunk["name"] for chunk in ag if chunk["type"] == "CUSTOM"][-3:] == [
        "chatkit.thread.item.replaced",
        "chatkit.thread.item.replaced",
        "chatkit.thread.item.removed",
    ]


@pytest.mark.parametrize(
    ("translator", "last"),
    [
        (UIMessageTranslator("thr", "msg"), "error"),
        (AGUITranslator("chat", "run"), "RUN_ERROR"),
    ],
)
def test_a_stream_that_ends_in_the_middle_leaves_nothing_open(translator, last):
    begun = {"type": "thread.item.added", "item": {"type": "assistant_message", "id": "msg_1"}}
    begun["item"]["content"] = [{"type": "output_text", "text": "a", "annotations": []}]
    chunks = translator.feed([begun, {"type": "error", "message": "It is over."}])
    chunks += translator.end("failed")
    kinds = [chunk["type"] for chunk in chunks]

    assert kinds[-1] == last
    assert sum(kind.lower().endswith("start") for kind in kinds) == 1
    assert sum(kind.lower().endswith("end") for kind in kinds) == 1


# --- A context that has an end -----------------------------------------------------------------


async def test_a_context_is_left_when_its_turn_has_ended_and_when_a_follower_has_read(jump_clock):
    server = scripted(say("one ", "two ", every=1.0))
    told: list[str] = []

    @asynccontextmanager
    async def context(request: Any):
        name = f"{request.method} {request.path}"
        told.append(f"entered for {name}")
        yield "ada"
        told.append(f"left for {name} with {len(server.live_turns)} live")

    app = create_app(server, context=context)
    app.register_blueprint(ai_sdk_blueprint(server, context=context, clients_return=True))
    async with client_of(app) as client:
        async with client.open("POST", AI, ai_message("hi")) as first:
            await read_until(first, b"one ")
            async with client.open("GET", f"{AI}/chat/stream") as second:
                await read_until(second, b"one ")
                assert [line for line in told if line.startswith("left")] == []
                await second.body()
            await first.body()
        assert texts((await history(client)).json) == ["hi", "one two "]
    followed, asked = f"GET {AI}/chat/stream", f"POST {AI}"
    assert sorted(told[:4]) == [
        *(f"entered for {name}" for name in (followed, asked)),
        *(f"left for {name} with 0 live" for name in (followed, asked)),
    ]
