"""The client, on a server object, an ASGI application and a real socket: the same answers."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import hypercorn.config
import hypercorn.trio
import pytest
import trio
from quart import Response
from werkzeug.exceptions import Forbidden, HTTPException

from chatkit_trio.errors import StoreError
from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import TurnPolicy
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    RequestRefused,
    Scene,
    ScriptedRespond,
    ScriptedServer,
    emit,
    pause,
    say,
    scripted_server,
    set_title,
    work,
)
from chatkit_trio.types import (
    ClientToolCallItem,
    Page,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
)
from chatkit_trio.web import create_app
from tests.transcript import lines, transcript

Connect = Callable[..., AbstractAsyncContextManager[ChatClient]]
"""Connects a client to a scripted server; keywords go to the client."""


@asynccontextmanager
async def on_server(server: ScriptedServer, **keywords: Any) -> AsyncIterator[ChatClient]:
    async with server, ChatClient.of_server(server, **keywords) as client:
        yield client


@asynccontextmanager
async def on_app(server: ScriptedServer, **keywords: Any) -> AsyncIterator[ChatClient]:
    async with ChatClient.of_app(create_app(server), **keywords) as client:
        yield client


@asynccontextmanager
async def at_url(server: ScriptedServer, **keywords: Any) -> AsyncIterator[ChatClient]:
    config = hypercorn.config.Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    stop = trio.Event()
    serve = partial(hypercorn.trio.serve, create_app(server), config, shutdown_trigger=stop.wait)
    async with trio.open_nursery() as nursery:
        [url] = await nursery.start(serve)
        async with ChatClient.at(f"{url}/chatkit", **keywords) as client:
            yield client
        stop.set()


everywhere = pytest.mark.parametrize("connect", [on_server, on_app, at_url])


@everywhere
async def test_the_same_request_with_the_same_key_is_carried_out_once(connect: Connect) -> None:
    store = MemoryStore[Any]()
    server = scripted_server(store, [say("Hello")])
    async with connect(server) as client:
        for _ in range(2):
            async with client.send("hi", idempotency_key="one") as turn:
                await turn.read()
            await client.rename(str(turn.thread_id), "Title", idempotency_key="two")
        [thread] = await client.threads()

    assert thread.id == turn.thread_id
    assert await transcript(store, thread.id) == ["user: hi", "assistant: Hello"]


@everywhere
async def test_a_stream_is_read_to_its_end(connect: Connect) -> None:
    script = [say(*["word "] * 30), set_title("A story"), work("Search")]
    async with connect(scripted_server(MemoryStore(), script)) as client:
        async with client.send("hi") as turn:
            await turn.read()

        assert turn.is_complete
        assert turn.text == "word " * 30
        assert lines(turn.items) == [
            "user: hi",
            f"assistant: {turn.text}",
            "workflow: Search complete",
        ]
        assert turn.thread is not None
        assert turn.thread.title == "A story"
        assert turn.allow_cancel is True
        assert turn.error is None
        assert len(turn.frames) == len(turn.events)
        assert turn.thread_id is not None
        assert await client.items(turn.thread_id) == turn.items


@everywhere
async def test_a_disconnect_in_the_middle_keeps_what_has_been_read(connect: Connect) -> None:
    store = MemoryStore[Any]()
    server = scripted_server(store, [say("Hel", finish=False), pause(60)])
    async with connect(server, can_return=False) as client:
        async with client.send("hi") as turn:
            await turn.wait_for(lambda event: turn.text == "Hel")
            await turn.disconnect()

        assert not turn.is_complete
        assert turn.thread_id is not None
        with trio.fail_after(5):
            while len(await transcript(store, turn.thread_id)) < 3:
                # Over a socket nobody tells the client when the server has noticed.
                await client.items(turn.thread_id)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: disconnected",
        ]


@pytest.mark.parametrize("can_return", [False, True])
@pytest.mark.parametrize("connect", [on_server, on_app])
async def test_a_client_that_can_come_back_is_given_the_time_to(
    connect: Connect, can_return: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    server = scripted_server(store, [say("Hel", "lo", every=2)])
    async with connect(server, can_return=can_return) as client:
        async with client.send("hi") as turn:
            await turn.wait_for(lambda event: turn.text == "Hel")
        await trio.sleep(5)

        cut = ["assistant: Hel", "note: disconnected"]
        answer = ["assistant: Hello"] if can_return else cut
        assert await transcript(store, turn.thread_id) == ["user: hi", *answer]


@pytest.mark.parametrize(("connect", "has_ids"), [(on_server, False), (on_app, True)])
async def test_over_http_a_client_asks_for_ids_unless_told_otherwise(
    connect: Connect, has_ids: bool
) -> None:
    async with connect(scripted_server(MemoryStore(), [say("Hi")])) as client:
        async with client.send("hi") as turn:
            await turn.read()

        assert (turn.last_event_id is not None) == has_ids


@everywhere
async def test_stop_ends_the_stream_properly(connect: Connect) -> None:
    store = MemoryStore[Any]()
    async with connect(scripted_server(store, [say("Hel", finish=False), pause(60)])) as client:
        async with client.send("hi") as turn:
            await turn.wait_for(lambda event: turn.text == "Hel")
            await turn.stop()
            await turn.read()

        assert turn.is_complete
        assert (await transcript(store, turn.thread_id))[-1] == "note: stopped"


@everywhere
async def test_a_client_can_ask_how_answers_ended(connect: Connect) -> None:
    server = scripted_server(MemoryStore(), [say("Hel", finish=False), pause(60)], [say("Hi")])
    async with connect(server) as client:
        async with client.send("hi") as turn:
            await turn.wait_for(lambda event: turn.text == "Hel")
            thread_id = turn.thread_id or ""
            assert await client.last_ending(thread_id) is None
            await turn.stop()
        ending = await client.last_ending(thread_id)
        page = await client.items_page(thread_id, with_endings=True)
        thread = await client.thread(thread_id, with_endings=True)

        assert ending is not None
        assert (ending.reason, ending.can_continue) == ("stopped", True)
        assert ending.item_ids == [turn.items[-1].id]
        assert page.endings == thread.items.endings == [ending]
        assert (await client.items_page(thread_id)).endings is None

        async with client.send("more", thread_id) as turn:
            await turn.read()
        assert await client.last_ending(thread_id) is None
        with pytest.raises(RequestRefused):
            await client.last_ending("thr_unknown")


@everywhere
async def test_a_live_turn_can_be_watched(connect: Connect) -> None:
    script = [say("Hel", finish=False), pause(0.2), say("lo")]
    async with connect(scripted_server(MemoryStore(), script)) as client:
        async with client.send("hi") as turn:
            await turn.wait_for(lambda event: turn.text == "Hel")
            assert turn.thread_id is not None
            async with client.watch(turn.thread_id) as watching:
                await watching.wait_for(lambda event: watching.text == "Hel")
                await watching.read()
            await turn.read()

        assert watching.text == turn.text


async def test_a_watcher_that_comes_back_goes_on_behind_the_last_event_it_saw(
    autojump_clock: trio.testing.MockClock,
) -> None:
    script = [say("a", "b", "c", every=10)]
    async with on_app(scripted_server(MemoryStore(), script)) as client, client.send("hi") as turn:
        await turn.wait_for(lambda event: turn.text == "a")
        assert turn.thread_id is not None
        async with client.watch(turn.thread_id) as first:
            await first.wait_for(lambda event: first.text == "a")
        async with client.watch(turn.thread_id, first.last_event_id) as second:
            await second.read()
        await turn.read()

        assert first.events + second.events == turn.events
        assert second.signals == [("turn.end", {"reason": "finished"})]


@everywhere
async def test_refusals_have_status_and_code(connect: Connect) -> None:
    async with connect(scripted_server(MemoryStore(), [say("Hi")])) as client:
        with pytest.raises(RequestRefused) as caught:
            await client.thread("thr_unknown")
        with pytest.raises(RequestRefused) as caught_in_stream:
            async with client.send("hi", "thr_unknown"):
                pass

        for refused in (caught.value, caught_in_stream.value):
            assert (refused.status, refused.code) == (404, "not_found")


@everywhere
async def test_an_answer_that_may_not_be_stopped_goes_on(connect: Connect) -> None:
    store = MemoryStore[Any]()
    script = [say("Hel", "lo", every=0.2)]
    server = scripted_server(store, script, allow_cancel=False)
    async with connect(server) as client, client.send("hi") as turn:
        await turn.wait_for(lambda event: turn.text == "Hel")
        with pytest.raises(RequestRefused) as refused:
            await turn.stop()
        await turn.read()

    assert (refused.value.status, refused.value.code) == (409, "conflict")
    assert turn.text == "Hello"
    assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]


@asynccontextmanager
async def two_on_server(server: ScriptedServer) -> AsyncIterator[tuple[ChatClient, ChatClient]]:
    async with server:
        yield ChatClient.of_server(server, "ann"), ChatClient.of_server(server, "bob")


@asynccontextmanager
async def two_on_app(server: ScriptedServer) -> AsyncIterator[tuple[ChatClient, ChatClient]]:
    async with server:
        app = create_app(server, context=lambda request: request.headers["X-User"])
        ann, bob = (ChatClient.of_app(app, headers=[("X-User", name)]) for name in ("ann", "bob"))
        async with ann:
            yield ann, bob


@pytest.mark.parametrize("connect_two", [two_on_server, two_on_app])
async def test_another_owners_answer_can_be_neither_watched_nor_stopped(
    connect_two: Callable[..., AbstractAsyncContextManager[tuple[ChatClient, ChatClient]]],
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any](owner=str)
    server = scripted_server(store, [say("Hel", "lo", every=10)])
    async with connect_two(server) as (ann, bob), ann.send("hi") as turn:
        await turn.wait_for(lambda event: turn.text == "Hel")
        thread_id = turn.thread_id or ""
        refusals: list[tuple[int, str | None]] = []
        for stranger in (bob.watch(thread_id).__aenter__, partial(bob.stop, thread_id)):
            with pytest.raises(RequestRefused) as refused:
                await stranger()
            refusals.append((refused.value.status, refused.value.code))
        await turn.read()

    assert refusals == [(404, "not_found"), (404, "not_found")]
    assert turn.text == "Hello"


@everywhere
@pytest.mark.parametrize("last_event_id", [None, "turn_of_before.3"])
async def test_watching_a_thread_whose_answer_is_over_gives_a_stream_without_events(
    connect: Connect, last_event_id: str | None
) -> None:
    async with connect(scripted_server(MemoryStore(), [say("Hi")])) as client:
        async with client.send("hi") as turn:
            await turn.read()
        async with client.watch(turn.thread_id or "", last_event_id) as watching:
            await watching.read()
            await watching.disconnect()

    assert watching.is_complete
    assert watching.frames == []


@everywhere
async def test_who_watches_behind_what_is_no_event_id_is_refused(connect: Connect) -> None:
    async with connect(scripted_server(MemoryStore(), [])) as client:
        with pytest.raises(RequestRefused) as refused:
            async with client.watch("thr_any", "garbage"):
                pass

    assert (refused.value.status, refused.value.code) == (400, "invalid_request")


@pytest.mark.parametrize("connect", [on_server, on_app])
async def test_a_watcher_whose_first_events_are_not_kept_gets_the_state_so_far(
    connect: Connect, autojump_clock: trio.testing.MockClock
) -> None:
    words = [f"{number} " for number in range(100)]
    policy = TurnPolicy(max_replay_bytes=1000)
    server = scripted_server(MemoryStore(), [say(*words, every=1)], policy=policy)
    async with connect(server) as client, client.send("hi") as turn:
        await turn.wait_for(lambda event: turn.text.endswith("50 "))
        thread_id = turn.thread_id or ""
        async with client.watch(thread_id, f"{next(iter(server.live_turns)).id}.3") as late:
            await late.read()
        async with client.watch(thread_id) as watching:
            await watching.read()
        await turn.read()

    assert (late.is_complete, late.frames) == (True, [])
    assert watching.text == turn.text == "".join(words)


@pytest.mark.parametrize("connect", [on_server, on_app])
async def test_watching_and_asking_how_an_answer_ended_count_as_requests(
    connect: Connect, autojump_clock: trio.testing.MockClock
) -> None:
    limits = OwnerLimits(requests_per_minute=3)
    async with connect(scripted_server(MemoryStore(), [say("Hi")], owner_limits=limits)) as client:
        async with client.send("hi") as turn:
            await turn.read()
        thread_id = turn.thread_id or ""
        await client.last_ending(thread_id)
        async with client.watch(thread_id):
            pass
        refusals: list[tuple[int, str | None]] = []
        for ask in (client.watch(thread_id).__aenter__, partial(client.last_ending, thread_id)):
            with pytest.raises(RequestRefused) as refused:
                await ask()
            refusals.append((refused.value.status, refused.value.code))

    assert refusals == [(429, "limit"), (429, "limit")]


HOOK_ERRORS = {
    "of werkzeug": (Forbidden("not you"), 403, "forbidden", "not you"),
    "missing": (NotImplementedError("me"), 501, "not_implemented", "doesn't offer that"),
    "of the store": (StoreError("disk full"), 503, "store", "can't answer now"),
    "any": (RuntimeError("oops"), 500, "internal", "went wrong"),
    "in a group": (ExceptionGroup("", [Forbidden("not you")]), 403, "forbidden", "not you"),
    "with an answer": (HTTPException(response=Response("tea", status=418)), 418, None, "tea"),
}


@pytest.mark.parametrize("kind", HOOK_ERRORS)
@everywhere
async def test_what_a_hook_raises_is_answered_with_its_status(connect: Connect, kind: str) -> None:
    error, status, code, words = HOOK_ERRORS[kind]

    class Refusing(ScriptedServer):
        async def add_feedback(self, *args: Any) -> None:
            await trio.lowlevel.checkpoint()
            raise error

    async with connect(Refusing(MemoryStore(), ScriptedRespond([say("Hi")]))) as client:
        async with client.send("hi") as turn:
            await turn.read()
        with pytest.raises(RequestRefused, match=words) as refused:
            await client.give_feedback(turn.thread_id or "", [turn.items[-1].id], "positive")

    assert (refused.value.status, refused.value.code) == (status, code)
    if connect is on_server:
        assert refused.value.__cause__ is error


@everywhere
async def test_threads_are_listed_over_several_pages(connect: Connect) -> None:
    async with connect(scripted_server(MemoryStore(), [say("Hi")])) as client:
        for _ in range(3):
            async with client.send("hi") as turn:
                await turn.read()
        page = await client.threads_page(limit=2)

        assert page.has_more
        assert [thread.id for thread in reversed(page.data)] == [
            thread.id for thread in (await client.threads())[1:]
        ]


async def test_a_client_tool_may_return_nothing() -> None:
    def call(scene: Scene) -> ThreadItemDoneEvent:
        fields = scene.item_fields("tool_call")
        return ThreadItemDoneEvent(
            item=ClientToolCallItem(name="look", arguments={}, call_id="call_1", **fields)
        )

    server = scripted_server(MemoryStore(), [emit(call)], [say("Fine")])
    async with on_server(server) as client:
        async with client.send("hi") as turn:
            await turn.read()
        assert turn.thread_id is not None
        async with client.send_tool_output(turn.thread_id, None) as turn:
            await turn.read()

    assert turn.text == "Fine"


async def test_a_server_that_says_of_no_page_where_to_go_on_is_refused() -> None:
    class Endless(MemoryStore[None]):
        async def load_threads(self, *args: Any, **options: Any) -> Page[ThreadMetadata]:
            await trio.lowlevel.checkpoint()
            return Page(data=[], has_more=True)

    async with on_server(scripted_server(Endless(), [])) as client:
        with pytest.raises(ValueError, match="gives no cursor"):
            await client.threads()


async def test_what_is_not_read_holds_up_the_turn(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = scripted_server(MemoryStore(), [say(*["x" * 1000] * 1000)])
    async with on_app(server) as client, client.send("hi") as turn:
        await turn.read(4)
        await trio.sleep(10)
        assert len(server.live_turns) == 1
        await turn.read()
        assert len(turn.text) == 1_000_000


async def test_read_stops_after_so_many_events_and_a_cancelled_one_loses_none(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with on_server(scripted_server(MemoryStore(), [say(*"abc", every=10)])) as client:
        async with client.send("hi") as turn:
            assert [event.type for event in await turn.read(2)] == [
                "thread.created",
                "thread.item.done",
            ]
            with trio.move_on_after(15):
                await turn.read()
            assert turn.text == "a"
            rest = await turn.read()
            assert rest[-1] == turn.events[-1]
        assert turn.text == "abc"


async def test_waiting_for_an_event_that_never_comes_fails_with_what_came() -> None:
    async with on_server(scripted_server(MemoryStore(), [])) as client, client.send("hi") as turn:
        with pytest.raises(AssertionError, match=r"thread\.created"):
            await turn.wait_for(ThreadItemUpdatedEvent)


async def test_what_done_says_is_the_last_word_on_an_item() -> None:
    async with on_server(scripted_server(MemoryStore(), [say("a", "b")])) as client:
        async with client.send("hi") as turn:
            await turn.read()
        done = [event.item for event in turn.events if isinstance(event, ThreadItemDoneEvent)]
        assert turn.items == done


# --- Applications that misbehave ---------------------------------------------------------------


async def test_an_application_without_a_lifespan_will_do() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = json.loads((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        answer = json.dumps({"text": body["type"]}).encode()
        await send({"type": "http.response.body", "body": answer})

    async with ChatClient.of_app(app) as client:
        assert (await client.transcribe(b"", "audio/webm")).text == "input.transcribe"


async def test_an_application_that_fails_half_way_breaks_the_stream() -> None:
    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        assert scope["type"] == "http"
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b": hello\n\n", "more_body": True})
        raise OSError("broken")

    async with ChatClient.of_app(app) as client, client.send("hi") as turn:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await turn.read()
        assert isinstance(caught.value.__cause__, OSError)
        assert turn.heartbeats == 1


@pytest.mark.parametrize("has_shield", [False, True])
async def test_an_application_that_does_not_end_fails_the_test_and_is_cancelled(
    has_shield: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Any) -> None:
        assert scope["type"] == "http"
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with trio.CancelScope(deadline=trio.current_time() + 1000, shield=has_shield):
            await trio.sleep_forever()

    with pytest.raises(RuntimeError, match="hasn't ended 60"):
        async with ChatClient.of_app(app) as client, client.send("hi"):
            pass

    assert trio.current_time() == (1000 if has_shield else 60)


async def test_an_application_whose_start_up_fails_says_so() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(RuntimeError, match="no database"):
        async with ChatClient.of_app(app):
            pass


async def test_errors_of_a_test_come_out_of_the_clients_blocks_as_they_are() -> None:
    async def fail_within() -> None:
        app = on_app(scripted_server(MemoryStore(), [say("Hi")]))
        async with app as client, client.send("hi"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_within()


def test_a_url_has_to_be_one() -> None:
    with pytest.raises(ValueError, match="ftp"):
        ChatClient.at("ftp://localhost/chatkit")
