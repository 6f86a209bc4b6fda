"""What a turn's own code writes behind the settlement of the turn is written, on every store.

The settlement ends the turn's record, and the fence asks for that. A hook that goes on behind the
default, a cleanup and a task must get through all the same, unless another node has settled it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import trio

from chatkit_trio.errors import StoreError, TurnFencedError
from chatkit_trio.server import CancelReason, current_turn
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    Scene,
    ScriptedRespond,
    ScriptedServer,
    StoreWrapper,
    do,
    emit,
    pause,
    scripted_server,
)
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    HiddenContextItem,
    ThreadItem,
    ThreadMetadata,
)
from tests.transcript import transcript

from .doubles import TroubledStore, tells_late
from .parts import NOW, stopped
from .scenes import HELLO, bounded, done

MakeStore: TypeAlias = Callable[[], Store[Any]]

CUT = ["user: hi", "assistant: Hello", "note: stopped"]
OWN = "hidden_context_item"


@pytest.fixture(params=["memory", "cluster", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> MakeStore:
    if request.param == "memory":
        return MemoryStore[Any]
    if request.param == "cluster":
        return lambda: MemoryStore[Any](cluster=MemoryCluster())
    return lambda: SQLiteStore[Any](tmp_path / "chat.db")


def own_note(thread_id: str, item_id: str = "own") -> HiddenContextItem:
    return HiddenContextItem(id=item_id, thread_id=thread_id, created_at=NOW, content="own")


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.levelno >= logging.ERROR]


class Hooked(ScriptedServer):
    """Answers "Hello" and hangs; its hook writes something more behind the default."""

    more = ""

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        await super().handle_stream_cancelled(thread, pending_items, context)
        match self.more:
            case "adds an item":
                await self.store.add_thread_item(thread.id, own_note(thread.id), context)
            case "saves an item":
                content = [AssistantMessageContent(text="Hello …")]
                item = pending_items[0].model_copy(update={"content": content})
                await self.store.save_item(thread.id, item, context)
            case "saves the thread":
                await self.store.save_thread(
                    thread.model_copy(update={"title": "Cut off"}), context
                )
            case "changes the thread":
                thread.title = "Cut off"
            case "keeps once more":
                content = [AssistantMessageContent(text="Goodbye")]
                await current_turn().keep(
                    [
                        AssistantMessageItem(
                            id="extra", thread_id=thread.id, created_at=NOW, content=content
                        )
                    ]
                )
            case "looks for what isn't there":
                await self.store.load_item(thread.id, "none", context)
            case "deletes the thread":
                await self.store.delete_thread(thread.id, context)


def hooked(store: Store[Any], more: str) -> Hooked:
    server = Hooked(store, ScriptedRespond([HELLO, pause(100)]))
    server.more = more
    return server


BEHIND_THE_DEFAULT = {
    "adds an item": ([*CUT, OWN], None),
    "saves an item": (["user: hi", "assistant: Hello …", "note: stopped"], None),
    "saves the thread": (CUT, "Cut off"),
    "changes the thread": (CUT, "Cut off"),
    "keeps once more": ([*CUT, "assistant: Goodbye"], None),
}


@pytest.mark.parametrize("more", BEHIND_THE_DEFAULT)
@bounded
async def test_what_a_hook_does_behind_the_default_is_kept(
    make_store: MakeStore, more: str, jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = hooked(make_store(), more)
    async with server:
        thread_id = (await stopped(server)).thread_id
        assert thread_id is not None
        title = (await server.store.load_thread(thread_id, None)).title
        assert (await transcript(server.store, thread_id), title) == BEHIND_THE_DEFAULT[more]
    assert errors_in(caplog) == []


@bounded
async def test_what_a_hook_does_not_find_behind_the_default_is_in_the_log(
    make_store: MakeStore, jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with hooked(make_store(), "looks for what isn't there") as server:
        turn = await stopped(server)
        assert await transcript(server.store, turn.thread_id) == CUT
    [told] = errors_in(caplog)
    assert told.startswith("handle_stream_cancelled failed")


# --- Cleanups and tasks ------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["the answer", "its end", "a hook"])
@bounded
async def test_a_turn_that_deletes_its_own_thread_ends_without_an_error(
    make_store: MakeStore, who: str, jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = hooked(make_store(), "deletes the thread" if who == "a hook" else "")

    async def delete(scene: Scene) -> None:
        await server.store.delete_thread(scene.thread.id, None)

    if who != "a hook":
        more = [HELLO] if who == "the answer" else []
        server.script = scripted_server(server.store, [HELLO, do(delete), *more]).script
    async with server:
        turn = await stopped(server)
        await turn.server_turn.settled.wait()
        assert turn.is_complete
        assert (await server.store.load_threads(10, None, "asc", None)).data == []
    assert errors_in(caplog) == []


class LosesOneReply(StoreWrapper[Any]):
    """Loses the answer to the first settlement, and calls `meanwhile` then."""

    meanwhile: Callable[[], None] | None = None

    async def settle(self, settlement: Settlement, context: Any) -> bool | None:
        is_own = await super().settle(settlement, context)
        if settlement.new_items and self.meanwhile is not None:
            self.meanwhile()
            self.meanwhile = None
            raise StoreError("the connection was lost")
        return is_own


@bounded
async def test_a_title_that_is_set_while_a_settlement_is_repeated_is_kept(
    make_store: MakeStore, jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = LosesOneReply(make_store())

    def is_told(scene: Scene) -> None:
        scene.thread.title = "First"
        store.meanwhile = lambda: setattr(scene.thread, "title", "Last")

    async with scripted_server(store, [HELLO, do(is_told), pause(100)]) as server:
        thread_id = (await stopped(server)).thread_id
        await trio.sleep(10)
        assert await transcript(store, thread_id) == CUT
        assert (await store.load_thread(thread_id or "", None)).title == "Last"
    assert [line for line in errors_in(caplog) if "another process" in line] == []


def writes_when_cut(store: Store[Any], seconds: float) -> Callable[[str], Any]:
    """Return a task that waits to be cancelled, and adds an item so much later."""

    async def task(thread_id: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(30, shield=True):
                if seconds:
                    await trio.sleep(seconds)
                await store.add_thread_item(thread_id, own_note(thread_id), None)

    return task


@pytest.mark.parametrize("answer_seconds", [0, 1])
@pytest.mark.parametrize("seconds", [0, 0.5, 3])
@pytest.mark.parametrize("where", ["respond", "task"])
@bounded
async def test_what_a_cleanup_writes_is_kept(
    make_store: MakeStore,
    where: str,
    seconds: float,
    answer_seconds: float,
    jump_clock: JumpClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """While the turn is being settled, when that has happened and isn't known, and afterwards."""
    store = TroubledStore(make_store())
    store.give(tells_late(answer_seconds), "settle")
    cleanup = writes_when_cut(store, seconds)

    async def in_respond(scene: Scene) -> None:
        await cleanup(scene.thread.id)

    def in_task(scene: Scene) -> None:
        current_turn().nursery.start_soon(cleanup, scene.thread.id)

    script = [HELLO, do(in_respond if where == "respond" else in_task), pause(100)]
    async with scripted_server(store, script) as server:
        turn = await stopped(server)
        await turn.server_turn.ended.wait()

        stored = await transcript(store, turn.thread_id)
        assert sorted(stored) == sorted([*CUT, OWN])
        assert [line for line in stored if line != OWN] == CUT
    assert errors_in(caplog) == []


@bounded
async def test_a_task_that_outlives_its_turn_writes_on_while_that_ends(
    make_store: MakeStore, jump_clock: JumpClock
) -> None:
    store = TroubledStore(make_store())
    store.give(tells_late(0.3), "settle")
    written = trio.Event()

    async def audit(thread_id: str, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        for number in range(10):
            await trio.sleep(0.1)
            await store.add_thread_item(thread_id, own_note(thread_id, f"own_{number}"), None)
        written.set()

    async def start(scene: Scene) -> None:
        await server.start_task(audit, scene.thread.id)

    async with scripted_server(store, [do(start), pause(0.25), emit(done("Hello"))]) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.read()
        await written.wait()

        assert sorted(await transcript(store, turn.thread_id)) == sorted(
            ["user: hi", "assistant: Hello", *[OWN] * 10]
        )


# --- A turn that another node has settled ------------------------------------------------------


@pytest.fixture(params=["cluster", "sqlite"])
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Store[Any], Store[Any]]:
    """Two stores on the same data."""
    if request.param == "sqlite":
        return SQLiteStore[Any](tmp_path / "chat.db"), SQLiteStore[Any](tmp_path / "chat.db")
    cluster = MemoryCluster()
    return MemoryStore[Any](cluster=cluster), MemoryStore[Any](cluster=cluster)


async def settle_elsewhere(here: Store[Any], there: ScriptedServer, turn_id: str) -> str:
    """Have another node take a live turn for crashed and settle it; return its thread's id."""
    assert here.coordination is not None
    [thread] = (await here.load_threads(10, None, "asc", None)).data
    await here.coordination.abandon(turn_id)
    await ChatClient.of_server(there).thread(thread.id)
    assert (await transcript(there.store, thread.id))[-1] == "note: crashed"
    return thread.id


@pytest.mark.parametrize("seconds", [0, 0.5, 20])
@bounded
async def test_a_turn_that_another_node_has_settled_writes_nothing_in_its_cleanup(
    nodes: tuple[Store[Any], Store[Any]], seconds: float, jump_clock: JumpClock
) -> None:
    here, there = TroubledStore(nodes[0]), nodes[1]
    here.give(tells_late(0.3), "settle")
    refused: list[str] = []

    async def cleanup(scene: Scene) -> None:
        try:
            await writes_when_cut(here, seconds)(scene.thread.id)
        except TurnFencedError:
            refused.append(scene.thread.id)
            raise

    script = [HELLO, do(cleanup)]
    async with scripted_server(here, script) as server, scripted_server(there, []) as other:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.wait_for(lambda event: "Hello" in event.model_dump_json())
            thread_id = await settle_elsewhere(here, other, turn.server_turn.id)
            await turn.server_turn.ended.wait()

        assert turn.server_turn.cancel_reason is CancelReason.CRASHED
        stored = await transcript(there, thread_id)
        assert OWN not in stored
        assert stored[-1] == "note: crashed"
    assert refused == [thread_id]


@bounded
async def test_a_hook_writes_nothing_when_another_node_has_settled_its_turn(
    nodes: tuple[Store[Any], Store[Any]], jump_clock: JumpClock
) -> None:
    here, there = nodes
    async with hooked(here, "adds an item") as server, scripted_server(there, []) as other:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.wait_for(lambda event: "Hello" in event.model_dump_json())
            thread_id = await settle_elsewhere(here, other, turn.server_turn.id)
            await turn.server_turn.ended.wait()

        assert OWN not in await transcript(there, thread_id)


@bounded
async def test_what_became_of_a_request_is_recorded_though_another_node_has_settled_its_turn(
    nodes: tuple[Store[Any], Store[Any]], jump_clock: JumpClock, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = nodes
    script = [HELLO, pause(100)]
    async with scripted_server(here, script) as server, scripted_server(there, []) as other:
        async with ChatClient.of_server(server).send("hi", idempotency_key="once") as turn:
            await turn.wait_for(lambda event: "Hello" in event.model_dump_json())
            await settle_elsewhere(here, other, turn.server_turn.id)
            await turn.server_turn.ended.wait()
        await trio.sleep(1)

        record = await here.find_request("once", 600, None)
        assert record is not None
        assert record.answer is not None
    assert "couldn't be recorded" not in caplog.text
