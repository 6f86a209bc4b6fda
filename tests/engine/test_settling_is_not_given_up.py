"""What couldn't be stored when a turn ended is stored later, in its place, before anything else.

Fault F2: a store that was away for some seconds at the cut cost the answer. Now the turn holds its
thread until it is settled; only an item that the store never takes is set aside, and all waiting
for such a turn is bounded.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.server import ChatKitServer, TurnPolicy
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    ClientTurn,
    JumpClock,
    RequestRefused,
    Scene,
    ScriptedServer,
    StoreWrapper,
    do,
    emit,
    fail,
    pause,
    say,
    scripted_server,
    set_title,
    work,
)
from chatkit_trio.types import (
    SDKHiddenContextItem,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    WidgetItem,
    WidgetStreamingTextValueDelta,
)
from tests.transcript import transcript

from .doubles import JournaledStore, TroubledStore, fails, hangs_and_fails
from .parts import (
    FOR_EVER,
    AwayStore,
    How,
    answered,
    begin,
    card,
    fields,
    finish,
    more,
    stopped,
    text_of,
    within,
)

DAY = 86400.0

BACKOFF = 120.0
"""Seconds after which a store that is back must have been tried again."""

WITH_JOURNAL = ("journal.", "load_", "ping")
"""What works of a store that can't be written while its journal can."""

HEL = say("Hel", finish=False)
HANGING = [HEL, pause(FOR_EVER)]
HOWS = pytest.mark.parametrize("how", ["raises", "raises afterwards", "hangs", "hangs afterwards"])
KEPT = ["user: hi", "assistant: Hel", "note: stopped"]


@asynccontextmanager
async def begun(server: ChatKitServer[Any]) -> AsyncIterator[ClientTurn]:
    """Send a message, and read until the first piece of the answer has come."""
    async with ChatClient.of_server(server).send("hi") as turn:
        await turn.wait_for(lambda event: "Hel" in event.model_dump_json())
        yield turn


def thread_of(turn: ClientTurn) -> str:
    assert turn.thread_id is not None
    return turn.thread_id


async def settled(turn: ClientTurn, seconds: float) -> None:
    """Wait until the turn is settled, which may take so long."""
    with trio.fail_after(seconds):
        await turn.server_turn.settled.wait()


# --- It is tried again until it is stored ------------------------------------------------------


@HOWS
@pytest.mark.parametrize("seconds", [1, 12, 25, 600, 6 * 3600])
@within(DAY)
async def test_the_answer_is_stored_once_when_the_store_is_back_however_long_it_was_away(
    seconds: float,
    how: How,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory, how)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(seconds)
        turn.server_turn.cancel()
        await settled(turn, seconds + BACKOFF)

        assert await transcript(memory, turn.thread_id) == KEPT
        assert memory.set_aside_items == []
    assert store.failing != []
    assert any(record.levelno >= logging.WARNING for record in caplog.records)


@pytest.mark.parametrize("how", ["raises", "raises afterwards"])
@pytest.mark.parametrize("calls", [1, 2, 3, 4, 5, 10])
@within(DAY)
async def test_the_answer_is_stored_once_after_some_operations_that_failed(
    calls: int, how: How, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory, how)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.fail_calls(calls)
        turn.server_turn.cancel()
        await settled(turn, 3600)

        assert await transcript(memory, turn.thread_id) == KEPT
        assert memory.set_aside_items == []


@pytest.mark.parametrize(
    "error", [StoreError("locked"), OSError("disk full"), RuntimeError("?"), TimeoutError()]
)
@within(DAY)
async def test_it_does_not_matter_what_the_store_raises_while_it_is_away(
    error: Exception, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory, error=error)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(100)
        turn.server_turn.cancel()
        await settled(turn, 100 + BACKOFF)

        assert await transcript(memory, turn.thread_id) == KEPT


@within(DAY)
async def test_a_store_whose_reads_fail_too_is_tried_again(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory, spared=())
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(100)
        turn.server_turn.cancel()
        await settled(turn, 100 + BACKOFF)

        assert await transcript(memory, turn.thread_id) == KEPT


@within(DAY)
async def test_a_store_that_is_away_is_not_asked_all_the_time(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = AwayStore(MemoryStore[Any]())
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(3600)
        turn.server_turn.cancel()
        await settled(turn, 3600 + BACKOFF)

    assert 10 < len(store.failing) < 4000
    assert len(caplog.records) < 4000


@pytest.mark.parametrize(
    ("script", "lines"),
    [
        ([HEL], ["assistant: Hel"]),
        ([HEL, fail(OSError("broken"))], ["assistant: Hel", "note: failed"]),
        ([HEL, work("a", finish=False)], ["assistant: Hel", "workflow: a complete"]),
    ],
    ids=["forgotten", "failed", "two-forgotten"],
)
@within(DAY)
async def test_a_turn_that_ends_by_itself_while_the_store_is_away_is_stored_later(
    script: list[Any],
    lines: list[str],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory)
    away = do(lambda scene: store.leave(300))
    async with scripted_server(store, [HEL, away, *script[1:]]) as server, begun(server) as turn:
        await settled(turn, 300 + BACKOFF)

        assert await transcript(memory, turn.thread_id) == ["user: hi", *lines]


@within(DAY)
async def test_a_finished_item_that_could_not_be_stored_is_stored_later(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory)
    script = [HEL, do(lambda scene: store.leave(300)), emit(finish("msg_m", "Hello"))]
    async with scripted_server(store, script) as server, begun(server) as turn:
        await settled(turn, 300 + BACKOFF)

        first, *rest, note = await transcript(memory, turn.thread_id)
    assert (first, note) == ("user: hi", "note: failed")
    assert sorted(rest) == ["assistant: Hel", "assistant: Hello"]


@within(DAY)
async def test_a_title_and_a_grown_widget_are_stored_later_too(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def make(scene: Scene) -> ThreadItemDoneEvent:
        return ThreadItemDoneEvent(item=WidgetItem(widget=card("Hel"), **fields(scene, "wdg_m")))

    update = WidgetStreamingTextValueDelta(component_id="body", delta="lo", done=False)
    memory = MemoryStore[Any]()
    store = AwayStore(memory)
    script = [
        emit(make),
        emit(ThreadItemUpdatedEvent(item_id="wdg_m", update=update)),
        set_title("A story"),
        pause(FOR_EVER),
    ]
    async with (
        scripted_server(store, script) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.wait_for(ThreadItemUpdatedEvent)
        await trio.testing.wait_all_tasks_blocked()
        store.leave(300)
        turn.server_turn.cancel()
        await settled(turn, 300 + BACKOFF)

        thread_id = thread_of(turn)
        assert await transcript(memory, thread_id) == ["user: hi", "widget", "note: stopped"]
        assert text_of(await memory.load_item(thread_id, "wdg_m", None)) == "Hello"
        assert (await memory.load_thread(thread_id, None)).title == "A story"


@within(DAY)
async def test_a_locked_sqlite_file_costs_nothing_and_the_journal_is_closed(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    store = SQLiteStore[Any](path, busy_timeout=0.01)
    server = scripted_server(store, HANGING)
    server.journal_interval = 10.0
    async with server, begun(server) as turn:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            turn.server_turn.cancel()
            await trio.sleep(60)
            assert await transcript(store, turn.thread_id) == ["user: hi"]
            other.execute("ROLLBACK")
        await settled(turn, BACKOFF)

        assert await transcript(store, turn.thread_id) == KEPT
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM turns").fetchall() == [(0,)]


@within(DAY)
async def test_a_journal_that_is_away_with_its_store_costs_nothing(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    store = AwayStore(SQLiteStore(path), spared=())
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(100)
        turn.server_turn.cancel()
        await settled(turn, 100 + BACKOFF)

        assert await transcript(store, turn.thread_id) == KEPT
    after = SQLiteStore[Any](path)
    async with scripted_server(after, HANGING):  # nothing is recovered a second time
        assert await transcript(after, turn.thread_id) == KEPT


@within(DAY)
async def test_a_thread_that_is_deleted_meanwhile_ends_the_trying(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(100)
        turn.server_turn.cancel()
        await trio.sleep(50)
        await memory.delete_thread(thread_of(turn), None)
        await settled(turn, 50 + BACKOFF)

        assert (await memory.load_threads(10, None, "asc", None)).data == []
        assert memory.set_aside_items == []


@within(DAY)
async def test_other_threads_go_on_while_one_cannot_be_settled(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class OneRefused(StoreWrapper[Any]):
        refused = ""

        async def settle(self, settlement: Settlement, context: Any) -> None:
            if settlement.thread_id == self.refused:
                raise StoreError("locked")
            await super().settle(settlement, context)

        async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
            if thread_id == self.refused:
                raise StoreError("locked")
            await super().add_thread_item(thread_id, item, context)

    memory = MemoryStore[Any]()
    store = OneRefused(memory)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.refused = thread_of(turn)
        turn.server_turn.cancel()
        began_at = trio.current_time()
        other = await stopped(server)

        assert trio.current_time() == pytest.approx(began_at + 1)
        assert await transcript(memory, other.thread_id) == KEPT
        assert not turn.server_turn.settled.is_set()
        store.refused = ""
        await settled(turn, BACKOFF)
        assert await transcript(memory, turn.thread_id) == KEPT


# --- What comes next waits for it --------------------------------------------------------------


@pytest.mark.parametrize("on_busy", ["supersede", "queue"])
@within(DAY)
async def test_a_next_message_waits_until_the_answer_before_it_is_stored(
    on_busy: Any, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory)
    seen: list[list[str]] = []

    async def look(scene: Scene) -> None:
        seen.append(await transcript(memory, scene.thread.id))

    scripts = HANGING, [do(look), say("Fine")]
    policy = TurnPolicy(on_busy=on_busy)
    async with scripted_server(store, *scripts, policy=policy) as server, begun(server) as turn:
        store.leave(6)
        turn.server_turn.cancel()
        next_turn = await answered(server, "more", turn.thread_id)

        assert seen == [[*KEPT, "user: more"]]
        assert await transcript(memory, turn.thread_id) == [*KEPT, "user: more", "assistant: Fine"]
    assert next_turn.error is None


@within(DAY)
async def test_a_message_that_supersedes_an_answer_comes_behind_it(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory)
    async with scripted_server(store, HANGING, [say("Fine")]) as server, begun(server) as turn:
        store.leave(6)
        await answered(server, "more", turn.thread_id)

        assert await transcript(memory, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: superseded",
            "user: more",
            "assistant: Fine",
        ]


async def get_by_id(client: ChatClient, thread_id: str) -> list[str]:
    return [item.type for item in (await client.thread(thread_id)).items.data]


async def items_list(client: ChatClient, thread_id: str) -> list[str]:
    return [item.type for item in await client.items(thread_id)]


@pytest.mark.parametrize("load", [get_by_id, items_list])
@within(DAY)
async def test_a_reader_waits_until_the_answer_is_stored_and_finds_it(
    load: Any, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = AwayStore(MemoryStore[Any]())
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(6)
        turn.server_turn.cancel()

        loaded = await load(ChatClient.of_server(server), thread_of(turn))
    assert loaded == ["user_message", "assistant_message"]


@within(DAY)
async def test_a_stop_returns_when_the_answer_is_stored(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(6)
        assert await server.stop(thread_of(turn))

        assert await transcript(memory, turn.thread_id) == KEPT


@within(DAY)
async def test_the_client_of_the_turn_sees_it_end_as_ever_if_the_store_is_back_in_time(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = AwayStore(MemoryStore[Any]())
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(6)
        turn.server_turn.cancel()
        await turn.read()

    assert turn.events[-1].type == "thread.item.done"
    assert turn.text == "Hel"
    assert turn.error is None


# --- Waiting for it is bounded -----------------------------------------------------------------

LONGEST = TurnPolicy().settle_timeout * 4
"""The longest settling time of a turn with the default policy."""


@pytest.mark.parametrize("how", ["raises", "hangs"])
@pytest.mark.parametrize("load", [get_by_id, items_list])
@within(DAY)
async def test_a_reader_is_refused_when_it_has_waited_long_enough(
    load: Any,
    how: How,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = AwayStore(MemoryStore[Any](), how)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        assert turn.server_turn.longest_settling == LONGEST
        store.leave(3600)
        turn.server_turn.cancel()
        began_at = trio.current_time()
        with pytest.raises(RequestRefused) as refused:
            await load(ChatClient.of_server(server), thread_of(turn))

        assert (refused.value.status, refused.value.code) == (503, "store")
        assert trio.current_time() <= began_at + LONGEST + 1
        # And later, when the store is back, it is all there.
        await settled(turn, 3600 + BACKOFF)
        loaded = await load(ChatClient.of_server(server), thread_of(turn))
    assert loaded == ["user_message", "assistant_message"]


@pytest.mark.parametrize("how", ["raises", "hangs"])
@within(DAY)
async def test_a_stop_raises_when_it_has_waited_long_enough(
    how: How, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory, how)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(3600)
        began_at = trio.current_time()
        with pytest.raises(StoreError):
            await server.stop(thread_of(turn))

        assert trio.current_time() <= began_at + LONGEST + 1
        await settled(turn, 3600 + BACKOFF)
        assert await transcript(memory, turn.thread_id) == KEPT


@pytest.mark.parametrize("how", ["raises", "hangs"])
@within(DAY)
async def test_a_next_message_gets_an_error_when_it_has_waited_long_enough(
    how: How, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory, how)
    async with scripted_server(store, HANGING, [say("Fine")]) as server, begun(server) as turn:
        store.leave(3600)
        turn.server_turn.cancel()
        began_at = trio.current_time()
        refused = await answered(server, "more", turn.thread_id)

        assert trio.current_time() <= began_at + LONGEST + 1
        assert refused.error is not None
        assert [event.type for event in refused.events] == ["error"]
        await settled(turn, 3600 + BACKOFF)
        assert await transcript(memory, turn.thread_id) == KEPT
        await answered(server, "again", turn.thread_id)
        assert await transcript(memory, turn.thread_id) == [*KEPT, "user: again", "assistant: Fine"]


@pytest.mark.parametrize("how", ["raises", "hangs"])
@within(DAY)
async def test_the_client_of_the_turn_gets_an_error_and_the_end_when_it_has_waited_long_enough(
    how: How, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = AwayStore(MemoryStore[Any](), how)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(3600)
        turn.server_turn.cancel()
        began_at = trio.current_time()
        await turn.read()

        assert trio.current_time() <= began_at + LONGEST + 1
        assert turn.error is not None
        assert turn.is_complete
        assert not turn.server_turn.settled.is_set()


@within(DAY)
async def test_a_client_that_leaves_is_let_go_when_it_has_waited_long_enough(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = AwayStore(memory)
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(3600)
        began_at = trio.current_time()
        await turn.disconnect()

        assert trio.current_time() <= began_at + LONGEST + 1
        await settled(turn, 3600 + BACKOFF)
        assert await transcript(memory, turn.thread_id) == [*KEPT[:-1], "note: disconnected"]


# --- The server leaves meanwhile ---------------------------------------------------------------


@HOWS
@pytest.mark.parametrize("reason", ["stopped", "disconnected", "failed"])
@within(DAY)
async def test_a_server_that_leaves_while_the_store_is_away_writes_all_it_has_into_the_journal(
    reason: str,
    how: How,
    jump_clock: JumpClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """After the next start: the newest text, and the true reason, which isn't "crashed"."""
    path = tmp_path / "chat.db"
    store = AwayStore(SQLiteStore(path), how, spared=WITH_JOURNAL)
    leave = do(lambda scene: store.leave(FOR_EVER))
    last = [fail(OSError("broken"))] if reason == "failed" else [pause(FOR_EVER)]
    server = scripted_server(store, [HEL, emit(begin("msg_m", " there")), leave, *last])
    server.journal_interval = FOR_EVER  # no checkpoint but what the end writes
    async with server, begun(server) as turn:
        await trio.sleep(1)
        if reason == "stopped":
            turn.server_turn.cancel()
            await trio.sleep(1)
        left_at = trio.current_time()
    assert trio.current_time() <= left_at + 3 * LONGEST

    after = SQLiteStore[Any](path)
    async with scripted_server(after, HANGING):
        assert await transcript(after, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "assistant:  there",
            f"note: {reason}",
        ]


@within(DAY)
async def test_a_shutdown_while_the_store_is_away_is_told_as_a_shutdown_after_the_next_start(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    store = AwayStore(SQLiteStore(path), spared=WITH_JOURNAL)
    server = scripted_server(store, HANGING)
    server.journal_interval = FOR_EVER
    thread_ids: list[str] = []

    async def read() -> None:
        async with begun(server) as turn:
            thread_ids.append(thread_of(turn))
            await turn.read()

    async with trio.open_nursery() as nursery, server:
        nursery.start_soon(read)
        await trio.sleep(1)
        store.leave(FOR_EVER)
    after = SQLiteStore[Any](path)
    async with scripted_server(after, HANGING):
        assert await transcript(after, thread_ids[0]) == [*KEPT[:-1], "note: shutdown"]


@pytest.mark.parametrize("how", ["raises", "hangs"])
@within(DAY)
async def test_a_server_whose_store_never_comes_back_ends_all_the_same(
    how: How, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = AwayStore(MemoryStore[Any](), how, spared=())
    async with scripted_server(store, HANGING) as server, begun(server) as turn:
        store.leave(FOR_EVER)
        turn.server_turn.cancel()
        await trio.sleep(1)
        left_at = trio.current_time()

    assert trio.current_time() <= left_at + 3 * LONGEST
    # What is lost with a store that has no journal is named in the log.
    assert any(
        turn.items[-1].id in record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.ERROR
    )


@within(DAY)
async def test_a_write_that_outlasts_every_limit_costs_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A write in a thread can't be cancelled, however long the disk takes."""

    class HungDisk(StoreWrapper[Any]):
        hangs = True

        async def around(self, name: str, call: Any) -> Any:
            if name == "settle" and self.hangs:
                self.hangs = False
                with trio.CancelScope(shield=True):
                    await trio.sleep(60)
                raise OSError("the disk is gone")
            return await call()

    memory = MemoryStore[Any]()
    server = scripted_server(HungDisk(memory), HANGING, policy=TurnPolicy(settle_timeout=1))
    async with server, begun(server) as turn:
        turn.server_turn.cancel()
        await settled(turn, 300)

        assert await transcript(memory, thread_of(turn)) == KEPT


@HOWS
@within(DAY)
async def test_a_store_that_comes_back_while_the_server_leaves_gets_the_answer(
    how: How, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The pauses between two tries have grown to half a minute by then."""
    memory = MemoryStore[Any]()
    store = AwayStore(memory, how)
    policy = TurnPolicy(settle_timeout=1)
    async with scripted_server(store, HANGING, policy=policy) as server, begun(server) as turn:
        store.leave(1000)
        turn.server_turn.cancel()
        await trio.sleep(998.5)

    assert await transcript(memory, thread_of(turn)) == KEPT


@within(DAY)
async def test_a_journal_that_fails_beside_its_timeout_while_the_server_leaves_is_logged(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore(JournaledStore())
    policy = TurnPolicy(settle_timeout=1)
    async with scripted_server(store, HANGING, policy=policy) as server, begun(server) as turn:
        await trio.sleep(1)
        store.give(fails(), "settle")
        store.give(hangs_and_fails(ValueError("lost on the way")), "journal.checkpoint")
        turn.server_turn.cancel()
        await trio.sleep(1)

    assert "lost on the way" in caplog.text


@within(DAY)
async def test_a_store_that_is_too_slow_to_close_is_named_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class SlowToClose(MemoryStore[Any]):
        async def __aexit__(self, *exc_info: object) -> None:
            await trio.sleep(100)

    async with scripted_server(SlowToClose(), HANGING):
        pass

    assert trio.current_time() <= 10
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "5" in record.getMessage()


@within(DAY)
async def test_what_a_hook_has_dealt_with_is_not_in_the_journal_any_more(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Else the next process would store it beside what the hook has stored."""

    class Summing(ScriptedServer):
        async def handle_stream_cancelled(self, thread: Any, pending: Any, context: Any) -> None:
            await trio.sleep(2)  # the journal is written meanwhile
            summary = finish("msg_sum", "in short")(Scene(thread, None, context)).item
            await self.store.add_thread_item(thread.id, summary, context=context)

    inner = JournaledStore()
    store = TroubledStore(inner)
    async with Summing(store, scripted_server(store, HANGING).script) as server:
        async with begun(server) as turn:
            await trio.sleep(1)
            store.give(fails(), "settle")
            turn.server_turn.cancel()
            await trio.sleep(4)
        thread_id = thread_of(turn)

    assert await transcript(inner, thread_id) == ["user: hi", "assistant: in short"]
    [entry] = inner.journal.entries.values()
    assert (entry.items, entry.reason) == ((), "stopped")


# --- An item that the store never takes --------------------------------------------------------

POISON = "poison"


class Picky(StoreWrapper[Any]):
    """A store that never takes one item: it raises, or hangs if `error` is None."""

    def __init__(self, store: Store[Any], error: Exception | None) -> None:
        super().__init__(store)
        self._error = error

    async def _look_at(self, *items: ThreadItem) -> None:
        if any(POISON in item.model_dump_json() for item in items):
            if self._error is None:
                await trio.sleep_forever()
            else:
                raise self._error

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await self._look_at(item)
        await super().add_thread_item(thread_id, item, context)

    async def save_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await self._look_at(item)
        await super().save_item(thread_id, item, context)

    async def settle(self, settlement: Settlement, context: Any) -> None:
        await self._look_at(*settlement.new_items, *settlement.changed_items)
        await super().settle(settlement, context)


ERRORS = pytest.mark.parametrize(
    "error",
    [ValueError("can't be encoded"), StoreError("too large"), None],
    ids=["value", "store", "hangs"],
)


@ERRORS
@pytest.mark.parametrize("end", ["cut", "forgotten", "failed"])
@pytest.mark.parametrize("place", [0, 1, 2])
@within(DAY)
async def test_an_item_that_the_store_never_takes_is_set_aside_and_the_rest_kept_in_place(
    place: int,
    end: str,
    error: Exception | None,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts = ["one", "two"]
    texts.insert(place, POISON)
    events = [
        event
        for index, text in enumerate(texts)
        for event in (begin(f"msg_{index}"), more(f"msg_{index}", text))
    ]
    last = {"cut": pause(FOR_EVER), "forgotten": pause(0), "failed": fail(OSError("broken"))}[end]
    memory = MemoryStore[Any]()
    scripts = [emit(*events), last], [say("Fine")]
    async with scripted_server(Picky(memory, error), *scripts) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            with trio.move_on_after(1):
                await turn.read()
            turn.server_turn.cancel()
            await turn.read()
            await settled(turn, 600)
        thread_id = thread_of(turn)
        note = {"cut": ["note: stopped"], "forgotten": [], "failed": ["note: failed"]}[end]
        kept = ["user: hi", "assistant: one", "assistant: two", *note]
        assert await transcript(memory, thread_id) == kept

        # The thread goes on.
        await answered(server, "more", thread_id)
        assert await transcript(memory, thread_id) == [*kept, "user: more", "assistant: Fine"]
    [aside] = memory.set_aside_items
    assert (aside.thread_id, aside.item_id) == (thread_id, f"msg_{place}")
    assert POISON in aside.text
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert any(f"msg_{place}" in record.getMessage() for record in errors)


@ERRORS
@within(DAY)
async def test_a_finished_item_that_the_store_never_takes_is_set_aside(
    error: Exception | None,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    memory = MemoryStore[Any]()
    script = [
        emit(finish("msg_0", "one"), begin("msg_1", "two"), finish("msg_2", POISON)),
        pause(FOR_EVER),
    ]
    async with scripted_server(Picky(memory, error), script) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            with trio.move_on_after(1):
                await turn.read()
            turn.server_turn.cancel()
            await settled(turn, 600)

        *lines, note = await transcript(memory, turn.thread_id)
    assert lines == ["user: hi", "assistant: one", "assistant: two"]
    # The turn failed at the write that raised; one that hung was cut by the stop.
    assert note == ("note: stopped" if error is None else "note: failed")
    assert [aside.item_id for aside in memory.set_aside_items] == ["msg_2"]


@ERRORS
@within(DAY)
async def test_a_stored_widget_whose_growth_the_store_never_takes_stays_as_it_was(
    error: Exception | None,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def make(scene: Scene) -> ThreadItemDoneEvent:
        return ThreadItemDoneEvent(item=WidgetItem(widget=card("Hel"), **fields(scene, "wdg_m")))

    update = WidgetStreamingTextValueDelta(component_id="body", delta=POISON, done=False)
    growing = ThreadItemUpdatedEvent(item_id="wdg_m", update=update)
    memory = MemoryStore[Any]()
    script = [emit(make, growing, begin("msg_m", "one")), pause(FOR_EVER)]
    async with scripted_server(Picky(memory, error), script) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            with trio.move_on_after(1):
                await turn.read()
            turn.server_turn.cancel()
            await settled(turn, 600)

        thread_id = thread_of(turn)
        assert await transcript(memory, thread_id) == [
            "user: hi",
            "widget",
            "assistant: one",
            "note: stopped",
        ]
        assert text_of(await memory.load_item(thread_id, "wdg_m", None)) == "Hel"
    [aside] = memory.set_aside_items
    assert aside.item_id == "wdg_m"
    assert POISON in aside.text


@pytest.mark.parametrize("has_poison", [False, True])
@within(DAY)
async def test_a_note_that_the_store_never_takes_is_set_aside_and_frees_the_thread(
    has_poison: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class TakesNoNotes(Picky):
        async def _look_at(self, *items: ThreadItem) -> None:
            if any(isinstance(item, SDKHiddenContextItem) for item in items):
                raise TypeError("no column for this")
            await super()._look_at(*items)

    memory = MemoryStore[Any]()
    texts = ["one", POISON] if has_poison else ["one"]
    events = [begin(f"msg_{index}", text) for index, text in enumerate(texts)]
    scripts = [emit(*events), pause(FOR_EVER)], [say("Fine")]
    async with scripted_server(TakesNoNotes(memory, ValueError("no")), *scripts) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            with trio.move_on_after(1):
                await turn.read()
            turn.server_turn.cancel()
            await settled(turn, 600)
        await answered(server, "more", thread_of(turn))

        assert await transcript(memory, turn.thread_id) == [
            "user: hi",
            "assistant: one",
            "user: more",
            "assistant: Fine",
        ]
    *poison, note = memory.set_aside_items
    assert [aside.item_id for aside in poison] == ["msg_1"] * has_poison
    assert "stopped" in note.text


@within(DAY)
async def test_an_item_set_aside_on_sqlite_is_not_settled_again_after_a_restart(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    store = Picky(SQLiteStore(path), ValueError("can't be encoded"))
    events = begin("msg_0", "one"), begin("msg_1", POISON), begin("msg_2", "two")
    async with (
        scripted_server(store, [emit(*events), pause(FOR_EVER)]) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        with trio.move_on_after(2):
            await turn.read()
        turn.server_turn.cancel()
        await settled(turn, 600)

    after = SQLiteStore[Any](path)
    async with scripted_server(after, HANGING):
        assert await transcript(after, turn.thread_id) == [
            "user: hi",
            "assistant: one",
            "assistant: two",
            "note: stopped",
        ]
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM turns").fetchall() == [(0,)]
        assert database.execute("SELECT count(*) FROM unstorable").fetchall() == [(1,)]
