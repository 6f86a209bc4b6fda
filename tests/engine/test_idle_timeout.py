"""`TurnPolicy.idle_timeout` ends a turn whose `respond` yields nothing for too long."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.server import TurnPolicy, current_turn
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    Scene,
    ScriptedServer,
    SlowStore,
    do,
    emit,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.types import (
    HiddenContextItem,
    ProgressUpdateEvent,
    SDKHiddenContextItem,
    ThreadItemDoneEvent,
)
from tests.transcript import transcript

from .parts import FOR_EVER, SlowWrites, answered, finish, within

DAY = 86400.0

HEL = say("Hel", finish=False)


def idle(seconds: float = 5.0, **settings: Any) -> TurnPolicy:
    return TurnPolicy(idle_timeout=seconds, **settings)


@within(DAY)
async def test_a_respond_that_falls_silent_is_cut_and_its_answer_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [HEL, pause(FOR_EVER)], policy=idle()) as server:
        began_at = trio.current_time()
        turn = await answered(server)

        assert trio.current_time() == pytest.approx(began_at + 5)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: silent",
        ]
        assert turn.text == "Hel"


@within(DAY)
async def test_a_respond_that_never_says_anything_is_cut_counted_from_its_start(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [pause(FOR_EVER)], policy=idle()) as server:
        began_at = trio.current_time()
        turn = await answered(server)

        assert trio.current_time() == pytest.approx(began_at + 5)
        assert await transcript(store, turn.thread_id) == ["user: hi", "note: silent"]


@within(DAY)
async def test_the_client_is_told_of_the_silence_and_may_try_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    scripts = [HEL, pause(FOR_EVER)], [say("Fine")]
    async with scripted_server(store, *scripts, policy=idle()) as server:
        turn = await answered(server)
        assert turn.error is not None
        assert (turn.error.code, turn.error.allow_retry) == ("custom", True)
        assert turn.error.message
        assert turn.events[-1] is turn.error
        assert turn.server_turn.cancel_reason == "silent"
        assert turn.server_turn.end_reason == "silent"

        user = turn.items[0]
        async with ChatClient.of_server(server).retry(turn.thread_id or "", user.id) as again:
            await again.read()
        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Fine"]


@within(DAY)
async def test_the_model_is_told_of_the_silence_in_words_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    notes: set[str] = set()
    for policy in (idle(), TurnPolicy(turn_timeout=5)):
        store = MemoryStore[Any]()
        async with scripted_server(store, [HEL, pause(FOR_EVER)], policy=policy) as server:
            turn = await answered(server)
            page = await store.load_thread_items(turn.thread_id or "", None, 9, "asc", None)
            note = page.data[-1]
            assert isinstance(note, SDKHiddenContextItem)
            notes.add(note.content)

    assert len(notes) == 2


@within(DAY)
async def test_without_an_idle_timeout_a_respond_may_think_all_day(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    assert TurnPolicy().idle_timeout is None
    async with scripted_server(store, [pause(DAY / 2), say("Hello")]) as server:
        turn = await answered(server)

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]


@within(DAY)
async def test_each_event_starts_the_clock_anew(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore[Any]()
    script = [say(*"Hello there", every=4.9)]
    async with scripted_server(store, script, policy=idle()) as server:
        turn = await answered(server)

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello there"]
    assert turn.error is None


def hidden(scene: Scene) -> ThreadItemDoneEvent:
    return ThreadItemDoneEvent(item=HiddenContextItem(content="x", **scene.item_fields()))


@pytest.mark.parametrize("event", [ProgressUpdateEvent(text="thinking"), hidden])
@within(DAY)
async def test_events_that_are_not_text_start_the_clock_anew_too(
    event: Any, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    script = [pause(4), emit(event), pause(4), emit(event), pause(4), say("Hello")]
    async with scripted_server(store, script, policy=idle()) as server:
        turn = await answered(server)

        assert (await transcript(store, turn.thread_id))[-1] == "assistant: Hello"
    assert turn.error is None


@pytest.mark.parametrize("operation", ["add_thread_item", "save_item", "save_thread"])
@within(DAY)
async def test_the_clock_stands_still_while_the_store_takes_an_event(
    operation: str, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryStore[Any]()
    store = SlowWrites(memory, 0, operation, "update_thread")

    def slow_down(scene: Scene) -> None:
        store.seconds = 60
        scene.thread.title = "A story"

    script = [do(slow_down), emit(finish("msg_m", "one"), finish("msg_m", "two")), pause(4), HEL]
    async with scripted_server(store, script, policy=idle()) as server:
        turn = await answered(server)

        assert await transcript(memory, turn.thread_id) == [
            "user: hi",
            "assistant: two",
            "assistant: Hel",
        ]
    assert turn.error is None


@within(DAY)
async def test_the_clock_runs_again_from_the_moment_the_store_has_taken_the_event(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore[Any]()
    store = SlowWrites(memory, 0, "add_thread_item")
    script = [
        do(lambda scene: setattr(store, "seconds", 60)),
        emit(finish("msg_m", "one")),
        pause(FOR_EVER),
    ]
    async with scripted_server(store, script, policy=idle()) as server:
        began_at = trio.current_time()
        turn = await answered(server)

        assert trio.current_time() == pytest.approx(began_at + 65)
        assert await transcript(memory, turn.thread_id) == [
            "user: hi",
            "assistant: one",
            "note: silent",
        ]


@within(DAY)
async def test_the_clock_stands_still_while_the_client_reads_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = idle(max_unread_bytes=200, stall_timeout=60)
    script = [say(*["x" * 50] * 20, every=0.1)]
    async with (
        scripted_server(store, script, policy=policy) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(lambda event: event.type == "thread.item.added")
        await trio.sleep(50)
        await turn.read()

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: " + "x" * 1000]
    assert turn.error is None


@within(DAY)
async def test_a_client_that_never_reads_again_has_stalled_and_not_fallen_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = idle(max_unread_bytes=200, stall_timeout=60)
    script = [say(*["x" * 50] * 20, every=0.1)]
    async with (
        scripted_server(store, script, policy=policy) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(lambda event: event.type == "thread.item.added")
        await turn.server_turn.settled.wait()

        assert (await transcript(store, turn.thread_id))[-1] == "note: stalled"


@within(DAY)
async def test_the_first_writes_do_not_count(autojump_clock: trio.testing.MockClock) -> None:
    store = SlowStore(MemoryStore[Any](), 20)
    script = [do(lambda scene: setattr(store, "seconds", 0)), pause(4), say("Hello")]
    async with scripted_server(store, script, policy=idle()) as server:
        turn = await answered(server)

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]


@within(DAY)
async def test_waiting_in_a_queue_does_not_count(autojump_clock: trio.testing.MockClock) -> None:
    store = MemoryStore[Any]()
    scripts = [say(*"Hello there", every=4)], [say("Fine")]
    policy = idle(on_busy="queue")
    async with scripted_server(store, *scripts, policy=policy) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as first, trio.open_nursery() as nursery:
            await first.read(3)
            nursery.start_soon(first.read)
            second = await answered(server, "more", first.thread_id)

        assert await transcript(store, first.thread_id) == [
            "user: hi",
            "assistant: Hello there",
            "user: more",
            "assistant: Fine",
        ]
    assert second.error is None


@within(DAY)
async def test_tasks_that_go_on_after_respond_are_not_silent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def respond(thread: Any, message: Any, context: Any) -> AsyncIterator[Any]:
        current_turn().nursery.start_soon(trio.sleep, 60)
        yield finish("msg_m", "Hello")(Scene(thread, message, context))

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond, policy=idle()) as server:
        turn = await answered(server)

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]
    assert turn.error is None


@within(DAY)
async def test_each_turn_may_have_an_idle_timeout_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Server(ScriptedServer):
        def get_turn_policy(self, request: Any, context: Any) -> TurnPolicy:
            return idle(context)

    store = MemoryStore[Any]()
    script = scripted_server(store, [HEL, pause(FOR_EVER)]).script
    async with Server(store, script) as server:
        for seconds in (3.0, 30.0):
            began_at = trio.current_time()
            async with ChatClient.of_server(server, seconds).send("hi") as turn:
                await turn.read()
            assert trio.current_time() == pytest.approx(began_at + seconds)


@pytest.mark.parametrize(("turn_timeout", "reason"), [(3, "deadline"), (30, "silent")])
@within(DAY)
async def test_of_two_limits_the_one_that_passes_first_is_the_reason(
    turn_timeout: float, reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    policy = idle(turn_timeout=turn_timeout)
    async with scripted_server(store, [HEL, pause(FOR_EVER)], policy=policy) as server:
        turn = await answered(server)

        assert (await transcript(store, turn.thread_id))[1:] == [
            "assistant: Hel",
            f"note: {reason}",
        ]


@within(DAY)
async def test_a_turn_that_nobody_reads_and_that_goes_on_is_cut_for_silence_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = idle(on_disconnect="finish")
    async with scripted_server(store, [HEL, pause(FOR_EVER)], policy=policy) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.read(4)
        await trio.sleep(6)

        assert (await transcript(store, turn.thread_id))[1:] == ["assistant: Hel", "note: silent"]


@within(DAY)
async def test_a_turn_that_clients_may_not_cancel_is_cut_for_silence_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    script = [HEL, pause(FOR_EVER)]
    async with scripted_server(store, script, policy=idle(), allow_cancel=False) as server:
        turn = await answered(server)

        assert (await transcript(store, turn.thread_id))[1:] == ["assistant: Hel", "note: silent"]


@within(DAY)
async def test_a_respond_that_falls_silent_on_sqlite_is_cut_once(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    store = SQLiteStore[Any](tmp_path / "chat.db")
    async with scripted_server(store, [HEL, pause(FOR_EVER)], policy=idle()) as server:
        turn = await answered(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: silent",
        ]


@within(DAY)
async def test_a_respond_that_ignores_the_cut_is_settled_all_the_same(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def respond(thread: Any, message: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, message, context)
        async for event in HEL(scene):
            yield event
        with trio.CancelScope(shield=True):
            await trio.sleep(100)
        yield finish("msg_late", "late")(scene)

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond, policy=idle()) as server:
        began_at = trio.current_time()
        turn = await answered(server)

        assert trio.current_time() == pytest.approx(began_at + 5)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: silent",
        ]
