"""Every wait of a turn has an end, and the reason it ends for is the true one.

First writes that hang, grace periods and time limits that fall on a write, clients that come back
in time, a stop or a rival while a turn begins or is being settled.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from chatkit_trio.errors import BusyError
from chatkit_trio.server import CancelReason, ChatKitServer, TurnPolicy
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    Step,
    do,
    emit,
    pause,
    say,
    scripted_server,
    set_title,
)
from chatkit_trio.types import ErrorEvent, StreamOptionsEvent, ThreadItemReplacedEvent
from chatkit_trio.web import create_app
from tests.transcript import transcript
from tests.web.http import CREATE, client_of

from .doubles import (
    THREAD_WRITES,
    JournaledStore,
    OneThreadStore,
    TroubledStore,
    fails,
    hangs,
    once,
    takes,
)
from .scenes import HELLO, ask, bounded, done, message, retrying, sending, thread_of

FIRST = ["user: first", "assistant: Hi"]
BOTH_ANSWERED = [*FIRST, "user: third", "assistant: Hi"]

ask_and_forget: Callable[..., Awaitable[object]] = ask


# --- First writes that hang --------------------------------------------------------------------


@bounded
async def test_a_disconnect_during_a_first_write_that_hangs_frees_the_thread(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    async with scripted_server(store, [say("Hi")], policy=TurnPolicy(settle_timeout=5)) as server:
        thread_id = await thread_of(server)
        store.give(hangs, "add_thread_item")
        async with sending(server, "second", thread_id):
            await trio.sleep(1)
        store.heal()
        third = await ask(server, "third", thread_id)

        assert trio.current_time() == pytest.approx(1 + 5)
        assert third.error is None
        assert await transcript(store, thread_id) == BOTH_ANSWERED
        assert "StoreTimeoutError" in caplog.text


@pytest.mark.parametrize("operation", ["save_thread", "add_thread_item"])
@bounded
async def test_a_disconnect_ends_a_new_thread_whose_first_write_hangs(
    operation: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    store.give(hangs, operation)
    async with scripted_server(store, [say("Hi")], policy=TurnPolicy(settle_timeout=5)) as server:
        async with sending(server) as turn:
            await trio.sleep(1)
        await turn.server_turn.ended.wait()

        assert trio.current_time() == pytest.approx(1 + 5)
        assert len(server.live_turns) == 0
        assert "StoreTimeoutError" in caplog.text


@pytest.mark.parametrize("on_busy", ["supersede", "queue"])
@bounded
async def test_a_rival_is_answered_although_the_first_write_before_it_hangs(
    on_busy: Any, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    policy = TurnPolicy(settle_timeout=5, on_busy=on_busy)
    async with scripted_server(store, [say("Hi")], policy=policy) as server:
        thread_id = await thread_of(server)
        store.give(hangs, "add_thread_item")
        async with sending(server, "second", thread_id) as second:
            await trio.sleep(1)
            store.heal()
            third = await ask(server, "third", thread_id)
            rival_answered_at = trio.current_time()
            await second.read()

        assert rival_answered_at == pytest.approx(1 + 5)
        assert [type(event) for event in second.events] == [ErrorEvent]
        assert third.error is None
        assert await transcript(store, thread_id) == BOTH_ANSWERED
        assert "StoreTimeoutError" in caplog.text


@bounded
async def test_a_rival_is_answered_although_a_load_before_the_first_write_hangs(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    async with scripted_server(store, [say("Hi")], policy=TurnPolicy(settle_timeout=5)) as server:
        thread_id = await thread_of(server)
        async with sending(server, "second", thread_id) as second:
            # The request has been checked, and its turn will look again when its task runs.
            store.give(hangs, "load_thread")
            await trio.sleep(1)
            store.heal()
            third = await ask(server, "third", thread_id)
            rival_answered_at = trio.current_time()
            await second.read()

        assert rival_answered_at <= 1 + 5
        assert third.error is None
        assert await transcript(store, thread_id) == BOTH_ANSWERED


@pytest.mark.parametrize("leaves", [False, True], ids=["rival", "disconnect"])
@bounded
async def test_a_retry_whose_first_write_hangs_frees_the_thread_too(
    leaves: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    async with scripted_server(store, [say("Hi")], policy=TurnPolicy(settle_timeout=5)) as server:
        thread_id = await thread_of(server)
        [message_id, _] = [item.id for item in await ChatClient.of_server(server).items(thread_id)]
        store.give(hangs, "delete_items_after")
        async with retrying(server, thread_id, message_id) as retry, trio.open_nursery() as nursery:
            await trio.sleep(1)
            store.heal()
            if leaves:
                nursery.start_soon(retry.disconnect)
            third = await ask(server, "third", thread_id)

        assert trio.current_time() == pytest.approx(1 + 5)
        assert third.error is None
        assert await transcript(store, thread_id) == BOTH_ANSWERED
        assert "StoreTimeoutError" in caplog.text


@bounded
async def test_rivals_in_a_row_wait_for_one_hanging_write_together(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    policy = TurnPolicy(settle_timeout=5, on_busy="queue")
    async with scripted_server(store, [say("Hi")], policy=policy) as server:
        thread_id = await thread_of(server)
        store.give(hangs, "add_thread_item")
        async with sending(server, "second", thread_id), trio.open_nursery() as nursery:
            await trio.sleep(1)
            store.heal()
            for _ in range(3):
                nursery.start_soon(ask_and_forget, server, "third", thread_id)
                await trio.sleep(1)

        assert trio.current_time() == pytest.approx(1 + 5)
        assert await transcript(store, thread_id) == [*FIRST, *["user: third", "assistant: Hi"] * 3]


@bounded
async def test_a_rival_that_is_rejected_cuts_no_first_write_short(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    policy = TurnPolicy(settle_timeout=5, on_busy="reject")
    async with scripted_server(store, [say("Hi")], policy=policy) as server:
        thread_id = await thread_of(server)
        store.give(takes(20), "add_thread_item")
        async with sending(server, "second", thread_id) as second:
            await trio.sleep(1)
            store.heal()
            with pytest.raises(BusyError):
                await ask(server, "third", thread_id)
            rejected_at = trio.current_time()
            await second.read()

        assert rejected_at == 1
        assert second.error is None
        assert await transcript(store, thread_id) == [*FIRST, "user: second", "assistant: Hi"]


@bounded
async def test_a_slow_first_write_that_nobody_waits_for_may_take_its_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    store.give(once(takes(20)), "add_thread_item")
    async with scripted_server(store, [say("Hi")], policy=TurnPolicy(settle_timeout=5)) as server:
        turn = await ask(server)

        assert turn.error is None
        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hi"]


@bounded
async def test_a_disconnect_that_cancels_nothing_bounds_no_first_write(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    policy = TurnPolicy(settle_timeout=5, on_disconnect="finish")
    async with scripted_server(store, [say("Hi")], policy=policy) as server:
        thread_id = await thread_of(server)
        store.give(once(takes(20)), "add_thread_item")
        async with sending(server, "second", thread_id) as turn:
            await trio.sleep(1)
        await turn.server_turn.settled.wait()

        stored = await transcript(store, thread_id)
        assert stored == [*FIRST, "user: second", "assistant: Hi"]


@bounded
async def test_stop_ends_a_turn_whose_first_write_hangs(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    async with scripted_server(store, [say("Hi")], policy=TurnPolicy(settle_timeout=5)) as server:
        thread_id = await thread_of(server)
        store.give(hangs, "add_thread_item")
        async with sending(server, "second", thread_id) as second:
            await trio.sleep(1)
            store.heal()
            await server.stop(thread_id)
            stopped_at = trio.current_time()
            await second.read()
        third = await ask(server, "third", thread_id)

        assert stopped_at == pytest.approx(1 + 5)
        assert third.error is None
        assert await transcript(store, thread_id) == BOTH_ANSWERED


@bounded
async def test_the_turn_timeout_ends_a_turn_whose_first_write_hangs(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    policy = TurnPolicy(settle_timeout=5, turn_timeout=30)
    async with scripted_server(store, [say("Hi")], policy=policy) as server:
        thread_id = await thread_of(server)
        store.give(hangs, "add_thread_item")
        second = await ask(server, "second", thread_id)
        ended_at = trio.current_time()
        store.heal()
        await ask(server, "third", thread_id)

        assert ended_at == pytest.approx(30 + 5)
        assert [type(event) for event in second.events] == [ErrorEvent]
        assert await transcript(store, thread_id) == BOTH_ANSWERED


@bounded
async def test_the_turn_timeout_counts_from_the_start_of_the_first_writes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    store.give(once(takes(20)), "add_thread_item")
    policy = TurnPolicy(turn_timeout=30)
    async with scripted_server(store, [HELLO, pause(20)], policy=policy) as server:
        turn = await ask(server)

        assert trio.current_time() == pytest.approx(30)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: deadline",
        ]
        assert turn.error is not None


@bounded
async def test_a_disconnect_while_the_journals_first_write_hangs_frees_the_thread(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore(JournaledStore())
    async with scripted_server(store, [say("Hi")], policy=TurnPolicy(settle_timeout=5)) as server:
        thread_id = await thread_of(server)
        store.give(hangs, "journal.begin")
        async with sending(server, "second", thread_id):
            await trio.sleep(1)
        store.heal()
        third = await ask(server, "third", thread_id)

        assert trio.current_time() == pytest.approx(1 + 5)
        assert third.error is None
        stored = await transcript(store, thread_id)
        # The message was stored before; a note behind it is allowed, a second one isn't.
        without_notes = [line for line in stored if not line.startswith("note")]
        assert without_notes == [*FIRST, "user: second", "user: third", "assistant: Hi"]
        assert len(stored) <= len(without_notes) + 1


@bounded
async def test_a_rival_on_sqlite_is_answered_although_the_first_write_hangs(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore(SQLiteStore[Any](tmp_path / "chat.db"))
    async with scripted_server(store, [say("Hi")], policy=TurnPolicy(settle_timeout=5)) as server:
        thread_id = await thread_of(server)
        store.give(hangs, "coordination.begin")
        async with sending(server, "second", thread_id) as second:
            await trio.sleep(1)
            store.heal()
            began_at = trio.current_time()
            third = await ask(server, "third", thread_id)
            took = trio.current_time() - began_at
            await second.read()

        assert took < 5 + 1
        assert third.error is None
        assert second.error is not None


# --- A grace period that passes during a write -------------------------------------------------

WRITES: dict[str, tuple[Step, tuple[str, ...], list[str]]] = {
    "add": (emit(done("Hello")), ("add_thread_item",), ["assistant: Hello"]),
    "save": (
        emit(
            done("Draft", "msg_1"),
            lambda scene: ThreadItemReplacedEvent(item=message(scene, "Hello", "msg_1")),
        ),
        ("save_item",),
        ["assistant: Hello"],
    ),
    "thread": (set_title("Title"), THREAD_WRITES, []),
}


def break_writes(
    store: TroubledStore, trouble: Callable[[Any], Awaitable[Any]], operations: tuple[str, ...]
) -> Step:
    """Put trouble on these operations when `respond` gets here."""
    return do(lambda scene: store.give(trouble, *operations))


NEXT = say("never")  # gets the thread saved, if its title was changed


@pytest.mark.parametrize("kind", WRITES)
@bounded
async def test_a_grace_period_that_passes_during_a_write_that_hangs_ends_the_turn(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = TroubledStore()
    write, operations, stored = WRITES[kind]
    script = [break_writes(store, hangs, operations), write, NEXT]
    policy = TurnPolicy(on_disconnect=1.0, settle_timeout=0.5)
    async with scripted_server(store, script, policy=policy) as server:
        async with sending(server) as turn:
            with trio.move_on_after(2):
                await turn.read()
        left_at = trio.current_time()
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(left_at + 1 + 0.5)
        kept = await transcript(store, turn.thread_id)
        assert kept == ["user: hi", *stored, "note: disconnected"]
        assert turn.server_turn.cancel_reason is CancelReason.DISCONNECTED


@bounded
async def test_a_grace_period_that_passes_during_a_slow_write_lets_it_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    script = [break_writes(store, takes(3.25), ("add_thread_item",)), emit(done("Hello")), NEXT]
    policy = TurnPolicy(on_disconnect=1.0, settle_timeout=0.5)
    async with scripted_server(store, script, policy=policy) as server:
        async with sending(server) as turn:
            with trio.move_on_after(2):
                await turn.read()
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(3.25)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: disconnected",
        ]


@bounded
async def test_each_leaving_during_a_write_that_hangs_begins_a_grace_period_of_its_own(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    script = [break_writes(store, hangs, ("add_thread_item",)), emit(done("Hello")), NEXT]
    policy = TurnPolicy(on_disconnect=1.0, settle_timeout=0.5)
    async with scripted_server(store, script, policy=policy) as server:
        async with sending(server) as turn:
            with trio.move_on_after(2):
                await turn.read()
        await trio.sleep(0.5)
        async with ChatClient.of_server(server).watch(turn.thread_id or ""):
            await trio.sleep(10)
        left_at = trio.current_time()
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(left_at + 1 + 0.5)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: disconnected",
        ]


@bounded
async def test_the_turn_timeout_that_passes_during_a_grace_period_counts_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    script = [break_writes(store, hangs, ("add_thread_item",)), emit(done("Hello")), NEXT]
    policy = TurnPolicy(on_disconnect=10.0, turn_timeout=3, settle_timeout=0.5)
    async with scripted_server(store, script, policy=policy) as server:
        async with sending(server) as turn:
            with trio.move_on_after(2):
                await turn.read()
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(3 + 0.5)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: deadline",
        ]


# --- A client that comes back in time ----------------------------------------------------------


@pytest.mark.parametrize("kind", WRITES)
@pytest.mark.parametrize("write_begins_after", [0.5, 0.0])
@bounded
async def test_a_client_that_comes_back_within_the_grace_period_gets_the_whole_answer(
    write_begins_after: float, kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The write that goes on meanwhile takes longer than the grace period would have been."""
    store = TroubledStore()
    write, operations, stored = WRITES[kind]
    begin = break_writes(store, once(takes(3)), operations)
    script = [pause(2 + write_begins_after), begin, write, say("The end")]
    policy = TurnPolicy(on_disconnect=1.0, settle_timeout=0.5)
    async with scripted_server(store, script, policy=policy) as server:
        async with sending(server) as turn:
            with trio.move_on_after(2.1 if write_begins_after == 0.0 else 2):
                await turn.read()
        await trio.sleep(0.6)
        async with ChatClient.of_server(server).watch(turn.thread_id or "") as back:
            await back.read()

        assert back.error is None
        assert turn.server_turn.end_reason == "finished"
        assert turn.server_turn.cancel_reason is None
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            *stored,
            "assistant: The end",
        ]
        assert back.text == ("HelloThe end" if stored else "The end")


@bounded
async def test_a_client_that_comes_back_and_leaves_again_begins_a_new_grace_period(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    script = [break_writes(store, takes(6), ("add_thread_item",)), emit(done("Hello")), pause(60)]
    policy = TurnPolicy(on_disconnect=5.0, settle_timeout=0.5)
    async with scripted_server(store, script, policy=policy) as server:
        async with sending(server) as turn:
            with trio.move_on_after(1):
                await turn.read()
        await trio.sleep(1)
        async with ChatClient.of_server(server).watch(turn.thread_id or ""):
            await trio.sleep(2)
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(1 + 1 + 2 + 5)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: disconnected",
        ]


# --- A time limit that falls on a write --------------------------------------------------------


@pytest.mark.parametrize("trouble", [hangs, fails(after=1.25)], ids=["hangs", "fails"])
@pytest.mark.parametrize("kind", WRITES)
@bounded
async def test_a_deadline_that_falls_on_a_write_in_trouble_is_told_as_the_deadline(
    kind: str,
    trouble: Callable[[Any], Awaitable[Any]],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = TroubledStore()
    write, operations, stored = WRITES[kind]
    script = [break_writes(store, trouble, operations), write, NEXT]
    policy = TurnPolicy(turn_timeout=1, settle_timeout=0.5)
    async with scripted_server(store, script, policy=policy) as server:
        turn = await ask(server)

        assert trio.current_time() <= 1 + 0.5 + 0.01
        kept = await transcript(store, turn.thread_id)
        assert kept == ["user: hi", *stored, "note: deadline"]
        thread = await store.load_thread(turn.thread_id or "", None)
        assert thread.title == ("Title" if kind == "thread" else None)
        assert turn.server_turn.cancel_reason is CancelReason.DEADLINE
        assert turn.error is not None
        assert (turn.error.code, turn.error.allow_retry) == ("custom", True)
        assert turn.error.message == "The answer took too long and was cut short."
        assert turn.text == "".join(line.removeprefix("assistant: ") for line in stored)


@bounded
async def test_a_grace_period_that_ends_on_a_write_begun_after_leaving_is_a_disconnect(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    begin = break_writes(store, hangs, ("add_thread_item",))
    script = [pause(2.5), begin, emit(done("Hello")), NEXT]
    policy = TurnPolicy(on_disconnect=1.0, settle_timeout=0.5)
    async with scripted_server(store, script, policy=policy) as server:
        async with sending(server) as turn:
            with trio.move_on_after(2):
                await turn.read()
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(2 + 1 + 0.5)
        assert turn.server_turn.cancel_reason is CancelReason.DISCONNECTED
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: disconnected",
        ]


@pytest.mark.parametrize("reason", [CancelReason.STOPPED, CancelReason.SHUTDOWN])
@bounded
async def test_whoever_ends_a_turn_during_a_write_that_hangs_is_the_reason_it_is_told(
    reason: CancelReason, autojump_clock: trio.testing.MockClock
) -> None:
    store = TroubledStore()
    script = [break_writes(store, hangs, ("add_thread_item",)), emit(done("Hello")), NEXT]
    async with (
        scripted_server(store, script, policy=TurnPolicy(settle_timeout=0.5)) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        turn.server_turn.cancel(reason)
        await turn.server_turn.settled.wait()

        assert trio.current_time() == pytest.approx(1 + 0.5)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            f"note: {reason.value}",
        ]


# --- Who may stop a turn that begins -----------------------------------------------------------


def body_for(thread_id: str) -> dict[str, Any]:
    params = {**CREATE["params"], "thread_id": thread_id}  # type: ignore[dict-item]
    return {"type": "threads.add_user_message", "params": params}


@pytest.mark.parametrize("allow_cancel", [False, True])
@bounded
async def test_the_stop_endpoint_asks_a_turn_that_is_beginning_whether_it_may_be_stopped(
    allow_cancel: bool, autojump_clock: trio.testing.MockClock
) -> None:
    store = TroubledStore()
    server = scripted_server(store, [say("Hi", every=1)], allow_cancel=allow_cancel)
    async with client_of(create_app(server)) as client:
        thread_id = await thread_of(server)
        began_at = trio.current_time()
        store.give(takes(4), "add_thread_item")
        async with client.open("POST", "/chatkit", body_for(thread_id)) as response:
            await trio.sleep(1)
            store.heal()
            answer = await client.ask("POST", f"/chatkit/threads/{thread_id}/stop")
            answered_at = trio.current_time()
            await response.body()

        assert answered_at == pytest.approx(began_at + 4)
        stored = await transcript(store, thread_id)
        if allow_cancel:
            assert (answer.status, answer.json) == (200, {"stopped": True})
            assert stored == [*FIRST, "user: A question", "note: stopped"]
        else:
            assert answer.status == 409
            assert stored == [*FIRST, "user: A question", "assistant: Hi"]


@bounded
async def test_the_stop_endpoint_finds_a_new_thread_whose_first_message_is_being_stored(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore(OneThreadStore())
    store.give(once(takes(4)), "add_thread_item")
    server = scripted_server(store, [say("Hi", every=1)], allow_cancel=False)
    async with (
        client_of(create_app(server)) as client,
        client.open("POST", "/chatkit", CREATE) as response,
    ):
        await trio.sleep(1)
        answer = await client.ask("POST", "/chatkit/threads/thr_1/stop")
        await response.body()

        assert answer.status == 409
        assert await transcript(store, "thr_1") == ["user: A question", "assistant: Hi"]


@bounded
async def test_the_stop_endpoint_answers_although_a_first_write_hangs(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    policy = TurnPolicy(settle_timeout=5)
    server = scripted_server(store, [say("Hi")], allow_cancel=False, policy=policy)
    async with client_of(create_app(server)) as client:
        thread_id = await thread_of(server)
        store.give(hangs, "add_thread_item")
        async with client.open("POST", "/chatkit", body_for(thread_id)) as response:
            await trio.sleep(1)
            store.heal()
            await client.ask("POST", f"/chatkit/threads/{thread_id}/stop")
            answered_at = trio.current_time()
            await response.body()
        await ask(server, "third", thread_id)

        assert answered_at == pytest.approx(1 + 5)
        assert await transcript(store, thread_id) == BOTH_ANSWERED


@bounded
async def test_the_servers_own_stop_asks_nobody(autojump_clock: trio.testing.MockClock) -> None:
    store = TroubledStore()
    async with (
        scripted_server(store, [HELLO, pause(60)], allow_cancel=False) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)

        assert await server.stop(turn.thread_id or "")
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


# --- A rejected rival, while the turn before it is being settled -------------------------------


async def end_by_stop(server: ChatKitServer[Any], thread_id: str) -> None:
    await server.stop(thread_id)


async def end_by_cancelling(server: ChatKitServer[Any], thread_id: str) -> None:
    [turn] = server.live_turns
    turn.cancel(CancelReason.DISCONNECTED)


async def end_by_itself(server: ChatKitServer[Any], thread_id: str) -> None:
    await trio.sleep(0.5)


REJECTED_ENDS: dict[str, tuple[Callable[..., Awaitable[None]], float, list[str]]] = {
    "stopped": (end_by_stop, 60, ["note: stopped"]),
    "disconnected": (end_by_cancelling, 60, ["note: disconnected"]),
    "deadline": (end_by_itself, 60, ["note: deadline"]),
    "finished": (end_by_itself, 1.5, []),
}


@pytest.mark.parametrize("ending", REJECTED_ENDS)
@bounded
async def test_a_message_sent_while_the_turn_before_is_being_settled_is_not_rejected(
    ending: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = TroubledStore()
    end, seconds, note = REJECTED_ENDS[ending]
    policy = TurnPolicy(on_busy="reject", turn_timeout=1.5 if ending == "deadline" else None)
    server = scripted_server(store, [HELLO, pause(seconds)], [say("Hi")], policy=policy)
    async with server:
        store.give(takes(0.5), "settle")
        async with sending(server) as first, trio.open_nursery() as nursery:
            nursery.start_soon(first.read)
            await trio.sleep(1)
            nursery.start_soon(end, server, first.thread_id)
            await trio.sleep(0.7 if end is end_by_itself else 0.2)
            assert not first.server_turn.settled.is_set()
            second = await ask(server, "second", first.thread_id)

        assert second.error is None
        assert await transcript(store, first.thread_id) == [
            "user: hi",
            "assistant: Hello",
            *note,
            "user: second",
            "assistant: Hi",
        ]


@bounded
async def test_of_two_messages_sent_while_a_turn_is_being_settled_one_is_rejected(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    outcomes: list[str] = []

    async def send(thread_id: str) -> None:
        try:
            turn = await ask(server, "more", thread_id)
        except BusyError:
            outcomes.append("rejected")
        else:
            outcomes.append("answered" if turn.error is None else "rejected")

    policy = TurnPolicy(on_busy="reject")
    server = scripted_server(store, [HELLO, pause(60)], [say("Hi", every=1)], policy=policy)
    async with server:
        store.give(takes(0.5), "settle")
        async with sending(server) as first, trio.open_nursery() as nursery:
            nursery.start_soon(first.read)
            await trio.sleep(1)
            nursery.start_soon(first.stop)
            await trio.sleep(0.2)
            nursery.start_soon(send, first.thread_id or "")
            nursery.start_soon(send, first.thread_id or "")

        assert sorted(outcomes) == ["answered", "rejected"]
        assert await transcript(store, first.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
            "user: more",
            "assistant: Hi",
        ]


@bounded
async def test_a_message_sent_while_the_turn_before_answers_is_rejected(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = TroubledStore()
    policy = TurnPolicy(on_busy="reject")
    async with (
        scripted_server(store, [pause(60), say("The end")], policy=policy) as server,
        sending(server) as first,
    ):
        await first.wait_for(StreamOptionsEvent)
        with pytest.raises(BusyError):
            await ask(server, "second", first.thread_id)
        await first.read()

        assert first.error is None
        assert await transcript(store, first.thread_id) == ["user: hi", "assistant: The end"]


@bounded
async def test_a_message_that_waits_for_a_settling_that_hangs_is_not_answered_too_early(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    policy = TurnPolicy(on_busy="reject", settle_timeout=1)
    async with scripted_server(store, [HELLO, pause(60)], [say("Hi")], policy=policy) as server:
        store.give(once(hangs), "settle")
        async with sending(server) as first, trio.open_nursery() as nursery:
            nursery.start_soon(first.read)
            await trio.sleep(1)
            nursery.start_soon(first.stop)
            await trio.sleep(0.2)
            second = await ask(server, "second", first.thread_id)

        assert second.error is None
        assert await transcript(store, first.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
            "user: second",
            "assistant: Hi",
        ]
