"""Exceptions with `status_code` and `detail`, as FastAPI has them, are answered as they say.

They come from `context=`, from hooks, and from stores.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import fastapi
import pytest
import starlette.exceptions
import trio
from quart import Response, abort, redirect
from werkzeug.exceptions import Conflict

from chatkit_trio.server import ChatKitServer
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import StoreWrapper, say, scripted_server
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ThreadItemAddedEvent,
    ThreadMetadata,
)
from chatkit_trio.web import asgi_app, create_app
from tests.transcript import transcript

from .http import CREATE, client_of, events_of

NOW = datetime(2026, 1, 2, tzinfo=UTC)
LIST = {"type": "threads.list", "params": {}}
FEEDBACK = {
    "type": "items.feedback",
    "params": {"thread_id": "thr_1", "item_ids": ["msg_1"], "kind": "positive"},
}
TRANSCRIBE = {
    "type": "input.transcribe",
    "params": {"audio_base64": "AAAA", "mime_type": "audio/webm"},
}


class OfAnotherFramework(Exception):
    """As Django REST framework has it: on the class."""

    status_code = 409
    detail = "Taken"


class WithoutDetail(Exception):
    """As clients of models have it: the status is of somebody else's answer."""

    status_code = 404


class Responseless(Exception):
    """As clients of models have it, too: its response has never come."""

    @property
    def status_code(self) -> int:
        raise RuntimeError("there is no response")

    detail = status_code


class OddStatus(Exception):
    def __init__(self, status_code: Any) -> None:
        self.status_code = status_code
        self.detail = "secret"


NESTED = ExceptionGroup("of a nursery", [fastapi.HTTPException(403, "Not you")])


def told(status: int, code: str, message: str, **details: Any) -> tuple[int, Any]:
    return status, {"error": {"code": code, "message": message, **details}}


INTERNAL = told(500, "internal", "Something went wrong on the server.")

CASES: dict[str, tuple[Exception, tuple[int, Any]]] = {
    "FastAPI's": (
        fastapi.HTTPException(402, "Pay first"),
        told(402, "payment_required", "Pay first"),
    ),
    "Starlette's": (
        starlette.exceptions.HTTPException(404, "No such desk"),
        told(404, "not_found", "No such desk"),
    ),
    "without a text": (fastapi.HTTPException(401), told(401, "unauthorized", "Unauthorized")),
    "with data": (
        fastapi.HTTPException(422, {"field": "name", "n": [1]}),
        told(
            422,
            "unprocessable_entity",
            "Unprocessable Entity",
            detail={"field": "name", "n": [1]},
        ),
    ),
    "with data that is no JSON": (
        fastapi.HTTPException(400, {"n": object()}),
        told(400, "bad_request", "Bad Request"),
    ),
    "a status without a name": (fastapi.HTTPException(499, "Gone"), told(499, "error", "Gone")),
    "a status of the server": (
        fastapi.HTTPException(502, "The model is away"),
        told(502, "bad_gateway", "The model is away"),
    ),
    "another framework's": (OfAnotherFramework(), told(409, "conflict", "Taken")),
    "in a group": (NESTED, told(403, "forbidden", "Not you")),
    "werkzeug's": (Conflict("Too late"), told(409, "conflict", "Too late")),
    "no detail": (WithoutDetail("secret"), INTERNAL),
    "a status of success": (OddStatus(200), INTERNAL),
    "a status that is none": (OddStatus(1000), INTERNAL),
    "a status that is no number": (OddStatus("404"), INTERNAL),
    "True": (OddStatus(True), INTERNAL),
    "a status that can't be asked for": (Responseless("secret"), INTERNAL),
}


class Failing(ChatKitServer[Any]):
    def __init__(self, error: Exception, *, store: Any = None) -> None:
        super().__init__(MemoryStore() if store is None else store)
        self._error = error

    async def respond(self, thread: Any, message: Any, context: Any) -> AsyncIterator[Any]:
        yield ThreadItemAddedEvent(
            item=AssistantMessageItem(
                id="msg_x",
                thread_id=thread.id,
                created_at=thread.created_at,
                content=[AssistantMessageContent(text="Half")],
            )
        )
        raise self._error

    async def add_feedback(self, *arguments: Any) -> None:
        raise self._error

    async def transcribe(self, audio: Any, context: Any) -> Any:
        raise self._error


class FailingStore(StoreWrapper[Any]):
    error: Exception | None = None

    async def around(self, name: str, call: Any) -> Any:
        if self.error is not None and name == "load_threads":
            raise self.error
        return await call()


def apps_of(server: ChatKitServer[Any], **settings: Any) -> list[Any]:
    def in_fastapi() -> Any:
        chat = asgi_app(server, **settings)
        app = fastapi.FastAPI(lifespan=chat.lifespan)
        app.mount("/", chat)
        return app

    return [create_app(server, **settings), in_fastapi()]


@pytest.mark.parametrize("source", ["context", "hook", "another hook", "store"])
@pytest.mark.parametrize("case", CASES)
async def test_they_are_answered_as_they_say(source: str, case: str) -> None:
    error, expected = CASES[case]
    body = {"hook": FEEDBACK, "another hook": TRANSCRIBE}.get(source, LIST)

    def context(request: Any) -> None:
        if source == "context":
            raise error

    inner = MemoryStore[Any]()
    thread = ThreadMetadata(id="thr_1", created_at=NOW)
    await inner.save_thread(thread, None)
    await inner.add_thread_item(
        "thr_1",
        AssistantMessageItem(id="msg_1", thread_id="thr_1", created_at=NOW, content=[]),
        None,
    )
    store = FailingStore(inner)
    store.error = error if source == "store" else None
    for app in apps_of(Failing(error, store=store), context=context):
        async with client_of(app) as client:
            answer = await client.post(body)

        assert (answer.status, answer.json) == expected


async def test_their_headers_go_out_but_for_those_of_the_body() -> None:
    headers = {"WWW-Authenticate": "Bearer", "Content-Length": "1", "X-Odd": "a\r\nSet-Cookie: b"}

    def context(request: Any) -> None:
        raise fastapi.HTTPException(401, "Who?", headers=headers)

    for app in apps_of(scripted_server(MemoryStore[Any](), [say("Hi")]), context=context):
        async with client_of(app) as client:
            answer = await client.post(CREATE)

        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json["error"]["message"] == "Who?"
        assert not {"x-odd", "set-cookie"} & set(answer.headers)


async def test_a_response_that_an_exception_has_is_the_answer() -> None:
    def context(request: Any) -> None:
        if "login" in request.headers:
            abort(redirect("/login"))
        abort(Response("Pay first", status=402, content_type="text/plain"))

    for app in apps_of(scripted_server(MemoryStore[Any](), [say("Hi")]), context=context):
        async with client_of(app) as client:
            unpaid = await client.post(CREATE)
            unknown = await client.post(CREATE, {"login": "1"})

        assert (unpaid.status, unpaid.body) == (402, b"Pay first")
        assert (unknown.status, unknown.headers["location"]) == (302, "/login")


@pytest.mark.parametrize(("status", "is_logged"), [(404, False), (503, True)])
async def test_only_the_servers_own_faults_are_logged(
    status: int, is_logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(create_app(Failing(fastapi.HTTPException(status, "No")))) as client:
        assert (await client.post(TRANSCRIBE)).status == status

    assert [record.levelno for record in caplog.records] == [logging.ERROR] * is_logged


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (
            fastapi.HTTPException(409, "That seat is taken"),
            {"code": "custom", "message": "That seat is taken", "allow_retry": False},
        ),
        (fastapi.HTTPException(502, "secret"), {"code": "stream.error", "allow_retry": True}),
        (fastapi.HTTPException(422, {"a": 1}), {"code": "stream.error", "allow_retry": True}),
        (WithoutDetail("secret"), {"code": "stream.error", "allow_retry": True}),
    ],
)
async def test_in_a_stream_the_text_is_told_and_the_partial_answer_kept(
    error: Exception, event: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    server = Failing(error)
    async with client_of(create_app(server)) as client:
        events = events_of((await client.post(CREATE)).body)
        thread_id = events[0].data["thread"]["id"]

        assert events[-1].data == {"type": "error", **event}
        kept = await transcript(server.store, thread_id)
        assert kept == ["user: A question", "assistant: Half", "note: failed"]
