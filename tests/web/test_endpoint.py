"""The POST endpoint: answers, streams, errors."""

from __future__ import annotations

import json
import logging
from contextlib import suppress

import pytest
import trio
from quart import Request
from werkzeug.exceptions import Unauthorized

from chatkit_trio.errors import StoreError
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import StoreWrapper, do, fail, pause, say, scripted_server
from chatkit_trio.types import UserMessageItem
from chatkit_trio.web import create_app

from .http import CREATE, IDS, client_of, events_of, read_until, thread_id_of

LIST = {"type": "threads.list", "params": {}}


class BrokenStore(StoreWrapper):
    """A store whose operations fail, or hang, as told."""

    failure: Exception | None = None
    hangs = False

    async def around(self, name, call):
        if self.hangs:
            await trio.sleep_forever()
        if self.failure is not None:
            raise self.failure
        return await call()


async def test_a_stream_is_the_frames_and_nothing_else():
    server = scripted_server(MemoryStore(), [say("Hello", " there")])
    async with client_of(create_app(server)) as client:
        answer = await client.post(CREATE)

    assert answer.status == 200
    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    lines = answer.body.split(b"\n\n")
    assert lines.pop() == b""
    assert all(line.startswith(b"data: {") and b"\n" not in line for line in lines)
    assert [json.loads(line[6:])["type"] for line in lines] == [
        "thread.created",
        "thread.item.done",
        "stream_options",
        "thread.item.added",
        *["thread.item.updated"] * 4,
        "thread.item.done",
    ]


async def test_a_client_that_asks_gets_ids_and_the_end():
    server = scripted_server(MemoryStore(), [say("Hello")])
    async with client_of(create_app(server)) as client:
        *frames, end = events_of((await client.post(CREATE, IDS)).body)

    turn_id, _, _ = frames[0].id.rpartition(".")
    assert [frame.id for frame in frames] == [f"{turn_id}.{n}" for n in range(len(frames))]
    assert (end.type, end.data, end.id) == ("turn.end", {"reason": "finished"}, None)


async def test_the_end_tells_why_a_turn_ended_early(autojump_clock):
    server = scripted_server(
        MemoryStore(), [say("Hello", every=1), pause(60)], policy=TurnPolicy(turn_timeout=5)
    )
    async with client_of(create_app(server)) as client:
        *_, error, end = events_of((await client.post(CREATE, IDS)).body)

    assert error.data["type"] == "error"
    assert end.data == {"reason": "deadline"}


async def test_silence_is_filled_with_comments(autojump_clock):
    policy = TurnPolicy(heartbeat=15)
    server = scripted_server(MemoryStore(), [pause(50), say("Hello")], policy=policy)
    async with client_of(create_app(server)) as client:
        body = (await client.post(CREATE)).body

    assert body.count(b": ping\n\n") == 3
    assert body.replace(b": ping\n\n", b"").startswith(b"data: ")


async def test_no_comments_come_when_there_is_no_heartbeat(autojump_clock):
    policy = TurnPolicy(heartbeat=None)
    server = scripted_server(MemoryStore(), [pause(500), say("Hello")], policy=policy)
    async with client_of(create_app(server)) as client:
        body = (await client.post(CREATE)).body

    assert b": ping" not in body


async def test_a_stream_may_take_longer_than_quart_lets_a_response_take(autojump_clock):
    server = scripted_server(MemoryStore(), [pause(3600), say("At last")])
    async with client_of(create_app(server)) as client:
        events = events_of((await client.post(CREATE)).body)

    assert events[-1].data["item"]["content"][0]["text"] == "At last"


async def test_all_that_is_ready_goes_out_as_one_chunk():
    go_on = trio.Event()
    script = [do(lambda scene: go_on.wait()), say(*"abcdefghijklmnop")]
    async with (
        client_of(create_app(scripted_server(MemoryStore(), script))) as client,
        client.open("POST", "/chatkit", CREATE) as response,
    ):
        await read_until(response, b"stream_options")
        go_on.set()
        # The turn goes on while nobody takes the chunks.
        await trio.testing.wait_all_tasks_blocked()
        chunks = []
        with suppress(trio.EndOfChannel):
            while len(chunks) < 9:
                chunks.append(await response.connection.receive())

    # One that was on its way when more frames came, and one with all the others.
    assert len(chunks) <= 2
    assert b"".join(chunks).count(b"data: ") == 20


async def test_a_disconnect_settles_the_turn(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=1), pause(100)])
    async with client_of(create_app(server)) as client:
        async with client.open("POST", "/chatkit", CREATE) as response:
            thread_id = await thread_id_of(response)
            await read_until(response, b"Hello")

        page = await server.store.load_thread_items(thread_id, None, 10, "asc", None)

    assert [item.type for item in page.data] == [
        "user_message",
        "assistant_message",
        "sdk_hidden_context",
    ]
    assert page.data[1].content[0].text == "Hello"


async def test_a_plain_request_is_answered_with_json():
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        await client.post(CREATE)
        answer = await client.post(LIST)

    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    assert len(answer.json["data"]) == 1


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff\xfe", b'{"type": "threads.explode"}'])
async def test_what_is_no_request_is_refused(body):
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        answer = await client.post(body)

    assert (answer.status, answer.json["error"]["code"]) == (400, "invalid_request")


async def test_the_content_type_does_not_matter():
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        answer = await client.post(LIST, {"Content-Type": "text/plain"})

    assert answer.status == 200


async def test_an_unknown_thread_is_not_found():
    request = {"type": "threads.get_by_id", "params": {"thread_id": "thr_nowhere"}}
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        answer = await client.post(request)

    assert (answer.status, answer.json["error"]["code"]) == (404, "not_found")


async def test_a_second_turn_can_be_rejected(autojump_clock):
    server = scripted_server(MemoryStore(), [pause(60)], policy=TurnPolicy(on_busy="reject"))
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE) as response,
    ):
        thread_id = await thread_id_of(response)
        second = {**CREATE, "type": "threads.add_user_message"}
        second["params"] = {**CREATE["params"], "thread_id": thread_id}
        answer = await client.post(second)

    assert (answer.status, answer.json["error"]["code"]) == (409, "busy")


async def test_a_body_over_the_limit_is_refused():
    app = create_app(scripted_server(MemoryStore(), [say("Hello")]), max_body_bytes=1000)
    async with client_of(app) as client:
        fits = await client.post(json.dumps(LIST).encode().ljust(1000))
        too_large = await client.post(json.dumps(LIST).encode().ljust(1001))

    assert (fits.status, too_large.status) == (200, 413)
    assert too_large.json["error"]["code"] == "too_large"


async def test_a_body_without_a_length_is_counted_while_it_is_read():
    """The sender would go on for ever; it is told off as soon as the limit has been passed."""
    app = create_app(scripted_server(MemoryStore(), [say("Hello")]), max_body_bytes=1000)
    sent, answered = [], []

    async def receive():
        sent.append(100)
        await trio.lowlevel.checkpoint()
        return {"type": "http.request", "body": b" " * 100, "more_body": True}

    async def send(message):
        answered.append(message)

    async with client_of(app):
        await app(_post_scope(), receive, send)

    assert answered[0]["status"] == 413
    assert sum(sent) < 5000


async def test_a_body_that_never_comes_times_out(autojump_clock):
    app = create_app(scripted_server(MemoryStore(), [say("Hello")]))
    answered = []

    async def send(message):
        answered.append(message)

    async with client_of(app):
        await app(_post_scope(), trio.sleep_forever, send)

    assert answered[0]["status"] == 408


def _post_scope():
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/chatkit",
        "raw_path": b"/chatkit",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 80),
        "extensions": {},
    }


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_other_methods_are_refused(method):
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        answer = await client.ask(method, "/chatkit")

    assert (answer.status, answer.headers["allow"]) == (405, "POST, OPTIONS")
    assert answer.json["error"]["code"] == "method_not_allowed"


async def test_what_the_server_does_not_offer_is_not_implemented(caplog):
    request = {
        "type": "input.transcribe",
        "params": {"audio_base64": "AAAA", "mime_type": "audio/webm"},
    }
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        answer = await client.post(request)

    assert (answer.status, answer.json["error"]["code"]) == (501, "not_implemented")


@pytest.mark.parametrize(
    ("failure", "status", "code"),
    [
        (ZeroDivisionError("secret"), 500, "internal"),
        (ExceptionGroup("secret", [ZeroDivisionError("secret")]), 500, "internal"),
        (StoreError("secret path"), 503, "store"),
        (PermissionError("secret file"), 500, "internal"),
    ],
)
async def test_the_text_of_an_exception_stays_here(caplog, failure, status, code):
    store = BrokenStore(MemoryStore())
    async with client_of(create_app(scripted_server(store, [say("Hello")]))) as client:
        store.failure = failure
        answer = await client.post(LIST)

    assert (answer.status, answer.json["error"]["code"]) == (status, code)
    assert b"secret" not in answer.body
    assert "secret" in caplog.text


async def test_a_failing_answer_is_an_error_event_and_no_status(caplog):
    server = scripted_server(MemoryStore(), [say("Hello"), fail(ZeroDivisionError("secret"))])
    async with client_of(create_app(server)) as client:
        answer = await client.post(CREATE)

    assert answer.status == 200
    assert b"secret" not in answer.body
    assert events_of(answer.body)[-1].data == {
        "type": "error",
        "code": "stream.error",
        "allow_retry": True,
    }


async def test_a_draining_server_says_when_to_try_again():
    server = scripted_server(MemoryStore(), [say("Hello")])
    async with client_of(create_app(server)) as client:
        await server.drain(0)
        answer = await client.post(CREATE)

    assert (answer.status, answer.json["error"]["code"]) == (503, "not_running")
    assert answer.headers["retry-after"] == "2"


# --- The context ---------------------------------------------------------------------------------


class WhoAsks(ChatKitServer[str]):
    """Keeps what contexts it was called with."""

    seen: str | None = None

    async def respond(self, thread, input_user_message: UserMessageItem | None, context: str):
        self.seen = context
        return
        yield


def sync_context(request: Request) -> str:
    return request.headers["X-User"]


async def async_context(request: Request) -> str:
    await trio.lowlevel.checkpoint()
    return request.headers["X-User"]


@pytest.mark.parametrize("context", [sync_context, async_context])
async def test_the_context_comes_from_the_request(context):
    server = WhoAsks(MemoryStore())
    async with client_of(create_app(server, context=context)) as client:
        await client.post(CREATE, {"X-User": "ada"})

    assert server.seen == "ada"


class Greeter(ChatKitServer[Request]):
    """Looks at the request in its answer, when the view has long returned."""

    user: str | None = None

    async def respond(self, thread, input_user_message, context: Request):
        await trio.sleep(1)
        self.user = context.headers["X-User"]
        return
        yield


async def test_the_context_may_be_the_request_itself(autojump_clock):
    server = Greeter(MemoryStore())
    async with client_of(create_app(server, context=lambda request: request)) as client:
        await client.post(CREATE, {"X-User": "ada"})

    assert server.user == "ada"


async def test_the_context_is_none_when_nothing_makes_one():
    server = WhoAsks(MemoryStore())
    server.seen = "nobody yet"
    async with client_of(create_app(server)) as client:
        await client.post(CREATE)

    assert server.seen is None


async def test_a_context_may_refuse_by_permission_error(caplog):
    def refuse(request: Request) -> None:
        raise PermissionError("secret reason")

    async with client_of(create_app(WhoAsks(MemoryStore()), context=refuse)) as client:
        answers = [
            await client.post(CREATE),
            await client.ask("POST", "/chatkit/threads/thr_x/stop"),
            await client.ask("GET", "/chatkit/threads/thr_x/turn"),
        ]

    assert [answer.status for answer in answers] == [403] * 3
    assert all(b"secret" not in answer.body for answer in answers)


async def test_a_context_may_refuse_by_an_http_exception():
    def refuse(request: Request) -> None:
        raise Unauthorized("Log in first.")

    async with client_of(create_app(WhoAsks(MemoryStore()), context=refuse)) as client:
        answer = await client.post(CREATE)

    assert answer.status == 401
    assert answer.json == {"error": {"code": "unauthorized", "message": "Log in first."}}


async def test_a_refusal_inside_a_nursery_counts_too():
    async def refuse(request: Request) -> None:
        async with trio.open_nursery():
            raise Unauthorized("Log in first.")

    async with client_of(create_app(WhoAsks(MemoryStore()), context=refuse)) as client:
        answer = await client.post(CREATE)

    assert answer.status == 401


# --- Health --------------------------------------------------------------------------------------


async def test_a_healthy_process_says_so(autojump_clock):
    server = scripted_server(MemoryStore(), [pause(60)])
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE) as response,
    ):
        await thread_id_of(response)
        answer = await client.ask("GET", "/healthz")

    assert answer.status == 200
    assert answer.json == {"status": "ok", "store": "ok", "live_turns": 1}


async def test_a_draining_process_is_not_healthy():
    server = scripted_server(MemoryStore(), [say("Hello")])
    async with client_of(create_app(server)) as client:
        await server.drain(0)
        answer = await client.ask("GET", "/healthz")

    assert answer.status == 503
    assert answer.json == {"status": "unavailable", "store": "ok", "live_turns": 0}


async def test_a_broken_store_is_not_healthy(caplog):
    store = BrokenStore(MemoryStore())
    async with client_of(create_app(scripted_server(store, [say("Hello")]))) as client:
        store.failure = StoreError("secret path")
        answer = await client.ask("GET", "/healthz")

    assert answer.status == 503
    assert answer.json == {"status": "unavailable", "store": "unavailable", "live_turns": 0}


async def test_a_store_that_hangs_is_not_healthy(autojump_clock):
    store = BrokenStore(MemoryStore())
    async with client_of(create_app(scripted_server(store, [say("Hello")]))) as client:
        store.hangs = True
        began = trio.current_time()
        answer = await client.ask("GET", "/healthz")
        took = trio.current_time() - began

    assert (answer.status, answer.json["store"]) == (503, "unavailable")
    assert took < 5


async def test_the_health_check_logs_no_errors(caplog):
    async with client_of(create_app(scripted_server(MemoryStore(), [say("Hello")]))) as client:
        await client.ask("GET", "/healthz")

    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
