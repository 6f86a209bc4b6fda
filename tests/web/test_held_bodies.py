"""Bodies that trickle, stop half way or are too many: they hold neither memory nor others up."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest
import trio
from quart import request as current_request

from chatkit_trio.limits import OwnerLimits
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import say, scripted_server
from chatkit_trio.web import create_app
from chatkit_trio.web._request_body import BodyBudget

from .http import CREATE, client_of

LIST = {"type": "threads.list", "params": {}}
MB = 1024 * 1024


class Sender:
    """Sends a body in pieces, each after so many seconds, and then waits for the answer."""

    def __init__(
        self, app: Any, pieces: Iterable[bytes], every: float = 0.0, *, ends: bool = True
    ) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.answer = b""
        self.seconds = 0.0
        self.taken = 0
        self._app = app
        self._pieces = iter(pieces)
        self._every = every
        self._ends = ends

    async def run(self, owner: str = "ann", path: str = "/chatkit") -> None:
        started = trio.current_time()
        headers = [(b"host", b"127.0.0.1"), (b"user", owner.encode())]
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": headers,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
            "extensions": {},
        }
        await self._app(scope, self._receive, self._send)
        self.seconds = trio.current_time() - started

    async def _receive(self) -> Any:
        await trio.sleep(self._every)
        piece = next(self._pieces, None)
        if piece is not None:
            self.taken += len(piece)
            return {"type": "http.request", "body": piece, "more_body": True}
        if self._ends:
            self._ends = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await trio.Event().wait()
        raise AssertionError("nothing more is sent")

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.answer += message.get("body", b"")

    @property
    def error(self) -> Any:
        return json.loads(self.answer)["error"]


def app_for(*, context: Any = lambda request: request.headers["User"], **kwargs: Any) -> Any:
    server = scripted_server(MemoryStore(owner=str), [say("Hello")], **kwargs)
    return create_app(server, context=context)


def recording(size: int) -> bytes:
    """Return a request for dictation, the only one that may be long."""
    params = {"mime_type": "audio/webm", "audio_base64": "A" * size}
    return json.dumps({"type": "input.transcribe", "params": params}).encode()


def held(app: Any, size: int) -> Sender:
    """Return a sender of so many bytes, which then sends no more and doesn't end."""
    return Sender(app, [b" " * 65536] * (size // 65536), ends=False)


@pytest.mark.parametrize("every", [1.0, 4.0, 10.0])
async def test_a_body_that_trickles_is_dropped(autojump_clock, every):
    app = app_for()
    async with client_of(app):
        sender = Sender(app, [b" "] * 1000, every)
        await sender.run()

    assert sender.status == 408
    assert sender.seconds <= 20


async def test_a_body_that_stops_half_way_is_dropped(autojump_clock):
    app = app_for()
    async with client_of(app):
        sender = held(app, 5 * MB)
        await sender.run()

    assert sender.status == 408
    assert sender.seconds == pytest.approx(15, abs=0.1)


async def test_a_long_body_on_a_slow_line_is_taken(autojump_clock):
    app = app_for()
    pieces = [json.dumps(CREATE).encode(), *[b" " * 4096] * 20]
    async with client_of(app):
        sender = Sender(app, pieces, every=2.5)
        await sender.run()

    assert sender.status == 200


async def test_who_may_not_ask_is_refused_before_the_body_has_come(autojump_clock):
    def refuse(request):
        raise PermissionError

    app = app_for(context=refuse)
    async with client_of(app):
        sender = held(app, 10 * MB)
        with trio.fail_after(1):
            await sender.run()

    assert sender.status == 403


async def test_who_has_asked_too_often_is_refused_before_the_body_has_come(autojump_clock):
    app = app_for(owner_limits=OwnerLimits(requests_per_minute=1))
    async with client_of(app):
        await Sender(app, [json.dumps(LIST).encode()]).run()
        sender = held(app, 10 * MB)
        with trio.fail_after(1):
            await sender.run()

    assert sender.status == 429
    assert sender.headers["retry-after"] == "60"
    assert sender.error == {
        "code": "limit",
        "message": "only 1 requests a minute are allowed; try again in 60 s",
        "limit": "requests_per_minute",
        "retry_after": 60,
    }


async def test_bodies_that_are_held_leave_room_for_those_of_others(autojump_clock):
    app = app_for()
    senders = [held(app, 9 * MB) for _ in range(20)]
    async with client_of(app), trio.open_nursery() as nursery:
        for sender in senders:
            nursery.start_soon(sender.run)
        await trio.sleep(1)
        refused = [sender for sender in senders if sender.status == 429]
        other = Sender(app, [recording(5 * MB)])
        await other.run("ben")
        small = Sender(app, [json.dumps(LIST).encode()])
        await small.run()

    assert len(refused) == 19
    assert {sender.error["limit"] for sender in refused} == {"body_bytes_at_once"}
    assert (other.status, small.status) == (501, 200)  # nobody transcribes, but all was read


async def test_bodies_of_many_are_refused_beyond_what_the_process_holds(autojump_clock):
    app = app_for()
    senders = [held(app, 9 * MB) for _ in range(60)]
    async with client_of(app), trio.open_nursery() as nursery:
        for number, sender in enumerate(senders):
            nursery.start_soon(sender.run, f"owner {number}")
        await trio.sleep(1)
        refused = [sender for sender in senders if sender.status == 503]
        small = Sender(app, [json.dumps(LIST).encode()])
        await small.run()

    assert len(senders) - len(refused) <= 7
    assert all(sender.headers["retry-after"] == "2" for sender in refused)
    assert small.status == 200


async def test_what_bodies_have_held_is_free_again(autojump_clock):
    app = app_for()
    async with client_of(app):
        for _ in range(3):
            async with trio.open_nursery() as nursery:
                senders = [held(app, 9 * MB) for _ in range(7)]
                for number, sender in enumerate(senders):
                    nursery.start_soon(sender.run, f"owner {number}")
            assert {sender.status for sender in senders} == {408}


async def test_the_context_function_may_read_the_body(autojump_clock):
    seen = []

    async def context(request):
        seen.append(await request.get_json(force=True))
        return "ann"

    app = app_for(context=context)
    async with client_of(app) as client:
        answer = await client.post(LIST)

    assert (answer.status, seen) == (200, [LIST])


async def test_code_that_runs_before_every_view_may_read_the_body():
    app, seen = app_for(), []

    @app.before_request
    async def look():
        seen.append(await current_request.get_data())

    async with client_of(app) as client:
        answer = await client.post(LIST, {"User": "ann"})

    assert (answer.status, seen) == (200, [json.dumps(LIST).encode()])


async def test_a_body_that_no_view_wants_is_thrown_away(autojump_clock):
    app = app_for()
    async with client_of(app):
        sender = held(app, 20 * MB)
        with trio.fail_after(1):
            await sender.run(path="/chatkit/threads/thr_none/stop")

    assert sender.status == 404


async def test_a_client_that_leaves_during_its_answer_is_noticed(autojump_clock):
    server = scripted_server(MemoryStore(), [say("Hello", " there", every=100)])
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE) as response,
    ):
        await response.connection.receive()
        (turn,) = server.live_turns

    assert turn.end_reason == "disconnected"


def test_a_budget_forgets_owners_whose_bodies_are_gone():
    budget = BodyBudget(1000, 1000)
    for owner in ("ann", "ben"):
        with budget.hold(owner) as body:
            body.grow(10)
            assert budget.held == 10

    assert budget._held == {}
