"""A client that can come back gets the time to: its turn goes on for a while without a reader.

A client that asked for event ids can come back (`can_return=True`), and so can a watcher. For one
that can't, such as ChatKit.js, whose stop is a disconnect, a disconnect cancels at once.
"""

from __future__ import annotations

from typing import Any

import pytest
import trio

from chatkit_trio.server import ChatKitServer, StreamingResult, TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    ScriptedServer,
    SlowStore,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.types import ThreadItemUpdatedEvent
from chatkit_trio.web import create_app
from tests.transcript import transcript

from .parts import (
    FOR_EVER,
    answered,
    message_request,
    read_all,
    stream,
    thread_id_of,
    within,
)

HOUR = 3600.0

WORDS = [f"word{number} " for number in range(30)]
EVERY = say(*WORDS, every=1.0)
"""An answer that takes half a minute."""

WHOLE = ["user: hi", "assistant: " + "".join(WORDS)]


def server_of(store: Store[Any], **settings: Any) -> ScriptedServer:
    return scripted_server(store, [EVERY, pause(0)], [say("Fine")], policy=TurnPolicy(**settings))


def cut_after(words: int, reason: str) -> list[str]:
    return ["user: hi", "assistant: " + "".join(WORDS[:words]), f"note: {reason}"]


async def leave_after(
    server: ChatKitServer[Any], seconds: float, *, can_return: bool
) -> tuple[str, list[bytes]]:
    """Send a message, read for so long, and leave; return the thread's id and what was read."""
    frames: list[bytes] = []
    async with await stream(server, message_request(), can_return=can_return) as result:
        with trio.move_on_after(seconds):
            async for frame in result:
                frames.append(frame)  # noqa: PERF401  (as it comes)
    return thread_id_of(frames), frames


def watch(server: ChatKitServer[Any], thread_id: str, **where: Any) -> StreamingResult:
    result = server.watch(thread_id, **where)
    assert result is not None
    return result


def test_the_grace_period_is_twenty_seconds_by_default() -> None:
    assert TurnPolicy().return_timeout == 20.0
    assert TurnPolicy().on_disconnect == "cancel"


@within(HOUR)
async def test_a_client_that_comes_back_in_time_gets_the_rest(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        whole = await read_all(await stream(server, message_request(), can_return=True))
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        thread_id, seen = await leave_after(server, 5.5, can_return=True)
        await trio.sleep(15)
        rest = await read_all(watch(server, thread_id, start=len(seen)))

        assert await transcript(store, thread_id) == WHOLE
    assert len(seen) + len(rest) == len(whole)


@within(HOUR)
async def test_leaving_returns_at_once_if_the_client_can_return(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with server_of(MemoryStore()) as server:
        began_at = trio.current_time()
        thread_id, _ = await leave_after(server, 5.5, can_return=True)

        assert trio.current_time() == pytest.approx(began_at + 5.5)
        result = watch(server, thread_id)
        assert not result.turn.is_ending
        await result.aclose()


@within(HOUR)
async def test_a_client_that_does_not_come_back_is_gone_when_the_grace_period_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        thread_id, _ = await leave_after(server, 5.5, can_return=True)
        await trio.sleep(19.9)
        assert await transcript(store, thread_id) == ["user: hi"]
        await trio.sleep(0.2)

        assert await transcript(store, thread_id) == cut_after(25, "disconnected")
        assert server.watch(thread_id) is None


@within(HOUR)
async def test_a_client_that_cannot_return_cancels_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        thread_id, _ = await leave_after(server, 5.5, can_return=False)

        assert await transcript(store, thread_id) == cut_after(5, "disconnected")


@within(HOUR)
async def test_without_can_return_nothing_changes(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        frames: list[bytes] = []
        async with await stream(server, message_request()) as result:
            with trio.move_on_after(5.5):
                async for frame in result:
                    frames.append(frame)  # noqa: PERF401

        assert await transcript(store, thread_id_of(frames)) == cut_after(5, "disconnected")


@within(HOUR)
async def test_an_answer_that_ends_within_the_grace_period_is_complete(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        thread_id, _ = await leave_after(server, 15.5, can_return=True)
        await trio.sleep(60)

        assert await transcript(store, thread_id) == WHOLE


@pytest.mark.parametrize("can_return", [False, True])
@pytest.mark.parametrize(
    ("settings", "with_return", "without"),
    [
        ({"return_timeout": 3.0}, 3.0, 0.0),
        ({"return_timeout": 0.0}, 0.0, 0.0),
        ({"on_disconnect": 7.0}, 7.0, 7.0),
        ({"on_disconnect": 7.0, "return_timeout": 3.0}, 7.0, 7.0),
        ({"on_disconnect": 3.0, "return_timeout": 7.0}, 3.0, 3.0),
    ],
    ids=["shorter", "none", "number", "number-beside-shorter", "number-beside-longer"],
)
@within(HOUR)
async def test_the_policy_says_how_long_a_turn_goes_on_without_a_reader(
    settings: dict[str, Any],
    with_return: float,
    without: float,
    can_return: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store, **settings) as server:
        thread_id, _ = await leave_after(server, 5.5, can_return=can_return)
        await trio.sleep(20)

        words = 5 + int(with_return if can_return else without)
        assert await transcript(store, thread_id) == cut_after(words, "disconnected")


@pytest.mark.parametrize("can_return", [False, True])
@within(HOUR)
async def test_a_turn_that_finishes_without_readers_does_so_for_all(
    can_return: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store, on_disconnect="finish", return_timeout=1.0) as server:
        thread_id, _ = await leave_after(server, 5.5, can_return=can_return)
        await trio.sleep(60)

        assert await transcript(store, thread_id) == WHOLE


@within(HOUR)
async def test_a_turn_that_clients_may_not_cancel_goes_on_after_the_grace_period(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = TurnPolicy(return_timeout=1.0)
    async with scripted_server(store, [EVERY], policy=policy, allow_cancel=False) as server:
        thread_id, _ = await leave_after(server, 5.5, can_return=True)
        await trio.sleep(60)

        assert await transcript(store, thread_id) == WHOLE


@within(HOUR)
async def test_each_time_the_client_leaves_the_grace_period_begins_anew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store, return_timeout=8.0) as server:
        thread_id, _ = await leave_after(server, 1.5, can_return=True)
        for _ in range(3):
            await trio.sleep(6)
            async with watch(server, thread_id) as result:
                await result.receive()
        await trio.sleep(7.9)
        assert await transcript(store, thread_id) == ["user: hi"]
        await trio.sleep(0.2)

        assert await transcript(store, thread_id) == cut_after(27, "disconnected")


@within(HOUR)
async def test_a_watcher_that_leaves_last_can_return(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store, return_timeout=8.0) as server:
        result = await stream(server, message_request(), can_return=False)
        async with result:
            frames = [await anext(result)]
            watcher = watch(server, thread_id_of(frames))
            await trio.sleep(1.5)
        await trio.sleep(1)
        await watcher.aclose()
        await trio.sleep(8.1)

        assert await transcript(store, thread_id_of(frames)) == cut_after(10, "disconnected")


@within(HOUR)
async def test_a_client_that_cannot_return_and_leaves_last_cancels_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        result = await stream(server, message_request(), can_return=False)
        async with result:
            frames = [await anext(result)]
            watcher = watch(server, thread_id_of(frames))
            await trio.sleep(1.5)
            await watcher.aclose()
            await trio.sleep(1)
            assert not result.turn.is_ending

        assert await transcript(store, thread_id_of(frames)) == cut_after(2, "disconnected")


@within(HOUR)
async def test_a_stop_during_the_grace_period_stops_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        thread_id, _ = await leave_after(server, 5.5, can_return=True)
        await trio.sleep(1)

        assert await server.stop(thread_id)
        assert await transcript(store, thread_id) == cut_after(6, "stopped")


@within(HOUR)
async def test_a_new_message_during_the_grace_period_supersedes_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        thread_id, _ = await leave_after(server, 5.5, can_return=True)
        await trio.sleep(1)
        await answered(server, "more", thread_id)

        assert await transcript(store, thread_id) == [
            *cut_after(6, "superseded"),
            "user: more",
            "assistant: Fine",
        ]


@within(HOUR)
async def test_a_server_that_leaves_during_the_grace_period_does_not_wait_for_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with server_of(store) as server:
        thread_id, _ = await leave_after(server, 5.5, can_return=True)
        left_at = trio.current_time()

    assert trio.current_time() == pytest.approx(left_at)
    assert await transcript(store, thread_id) == cut_after(5, "shutdown")


@within(HOUR)
async def test_a_client_that_leaves_before_its_turn_has_begun_has_the_grace_period_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore[Any]()
    store = SlowStore(memory, 1.0)
    async with server_of(store) as server:
        async with await stream(server, message_request(), can_return=True) as result:
            with trio.move_on_after(0.5):
                await result.receive()
        store.seconds = 0.0
        await trio.sleep(5)
        [thread] = (await memory.load_threads(10, None, "asc", None)).data
        frames = await read_all(watch(server, thread.id))

        assert thread_id_of(frames) == thread.id
        assert await transcript(memory, thread.id) == WHOLE


@within(HOUR)
async def test_the_client_that_comes_back_late_finds_the_cut_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with server_of(MemoryStore()) as server:
        thread_id, _ = await leave_after(server, 5.5, can_return=True)
        await trio.sleep(30)
        thread = await ChatClient.of_server(server).thread(thread_id)

        assert [item.type for item in thread.items.data] == ["user_message", "assistant_message"]


@within(HOUR)
async def test_a_client_over_http_asks_for_event_ids_and_has_the_grace_period(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    server = scripted_server(store, [EVERY])
    async with ChatClient.of_app(create_app(server)) as client:
        async with client.send("hi") as turn:
            await turn.wait_for(ThreadItemUpdatedEvent)
            assert turn.last_event_id is not None
        await trio.sleep(15)
        async with client.watch(turn.thread_id or "", turn.last_event_id) as rest:
            await rest.read()

        assert await transcript(store, turn.thread_id) == WHOLE
    assert ("turn.end", {"reason": "finished"}) in rest.signals


@within(HOUR)
async def test_a_stop_over_http_is_a_stop_during_the_grace_period_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    server = scripted_server(store, [say("Hel", finish=False), pause(FOR_EVER)])
    async with ChatClient.of_app(create_app(server)) as client:
        async with client.send("hi") as turn:
            await turn.wait_for(lambda event: "Hel" in event.model_dump_json())
        await trio.sleep(5)
        await client.stop(turn.thread_id or "")

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: stopped",
        ]
