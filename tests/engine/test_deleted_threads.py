"""What was deleted stays deleted, and nobody reads a thread in the middle of its settling.

Fault F14: a conversation that another process deleted came back with the next title. Fault F19:
sync actions and feedback read a thread that was being settled, and a sync action brought back a
widget that a retry had deleted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from chatkit_trio.actions import Action
from chatkit_trio.errors import NotFoundError
from chatkit_trio.limits import OwnerLimits
from chatkit_trio.server import TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    RequestRefused,
    Scene,
    ScriptedServer,
    SlowStore,
    StoreWrapper,
    do,
    emit,
    pause,
    say,
    scripted_server,
    set_title,
)
from chatkit_trio.types import (
    ClosedStatus,
    SyncCustomActionResponse,
    ThreadItemDoneEvent,
    ThreadMetadata,
    WidgetItem,
)
from tests.transcript import transcript

from .parts import FOR_EVER, PRESS, SlowWrites, answered, card, fields, stopped, within

_T = TypeVar("_T")

HOUR = 3600.0

HEL = say("Hel", finish=False)
HANGING = [HEL, pause(FOR_EVER)]


async def nothing_is_left(store: Store[Any]) -> bool:
    return (await store.load_threads(10, None, "asc", None)).data == []


# --- F14: another process deletes the thread ---------------------------------------------------


def set_metadata(scene: Scene) -> None:
    scene.thread.metadata["seen"] = True


def set_status(scene: Scene) -> None:
    scene.thread.status = ClosedStatus()


CHANGES = pytest.mark.parametrize(
    "change",
    [set_title("A story"), do(set_metadata), do(set_status), pause(0)],
    ids=["title", "metadata", "status", "none"],
)

AFTERWARDS = pytest.mark.parametrize(
    "afterwards",
    [[HEL], [say("Hello")], [], [pause(FOR_EVER)], [HEL, pause(FOR_EVER)]],
    ids=["an-event", "an-item", "the-end", "the-cut", "an-event-and-the-cut"],
)


@CHANGES
@AFTERWARDS
@within(HOUR)
async def test_a_thread_that_was_deleted_elsewhere_does_not_come_back(
    change: Any,
    afterwards: list[Any],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore[Any]()

    async def delete(scene: Scene) -> None:
        await store.delete_thread(scene.thread.id, None)

    async with scripted_server(store, [HEL, do(delete), change, *afterwards]) as server:
        turn = await stopped(server)
        await trio.sleep(60)

        assert await nothing_is_left(store)
        assert turn.is_complete
        with pytest.raises(RequestRefused):
            await ChatClient.of_server(server).thread(turn.thread_id or "")


@CHANGES
@within(HOUR)
async def test_a_thread_that_another_server_deleted_does_not_come_back(
    change: Any, jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    first = scripted_server(SQLiteStore(path), [HEL, pause(2), change, HEL, pause(FOR_EVER)])
    async with first, scripted_server(SQLiteStore(path), HANGING) as second:
        async with ChatClient.of_server(first).send("hi") as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            await trio.sleep(1)
            await ChatClient.of_server(second).delete(turn.thread_id or "")
            await trio.sleep(5)
            turn.server_turn.cancel()
        await trio.sleep(60)

        assert await nothing_is_left(first.store)
    async with scripted_server(SQLiteStore(path), HANGING) as after:
        assert await nothing_is_left(after.store)


@within(HOUR)
async def test_a_deletion_in_the_middle_of_a_turns_save_of_its_thread_is_not_undone(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = SlowWrites(memory, 0, "save_thread", "update_thread")
    script = [
        HEL,
        do(lambda scene: setattr(store, "seconds", 2)),
        set_title("A story"),
        HEL,
        pause(FOR_EVER),
    ]
    async with (
        scripted_server(store, script) as server,
        ChatClient.of_server(server).send("hi") as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        await memory.delete_thread(turn.thread_id or "", None)
        await trio.sleep(10)
        turn.server_turn.cancel()
        await turn.server_turn.settled.wait()

        assert await nothing_is_left(memory)


@pytest.mark.parametrize("seconds", [0.1 * tenths for tenths in range(1, 12)])
@within(HOUR)
async def test_a_rename_does_not_bring_back_a_thread_that_is_deleted_elsewhere(
    seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryStore[Any]()
    store = SlowStore(memory, 0.0)
    async with scripted_server(store, [say("Hello")]) as server:
        thread_id = (await answered(server)).thread_id or ""
        store.seconds = 0.25

        async def rename() -> None:
            with pytest.raises(RequestRefused):
                await ChatClient.of_server(server).rename(thread_id, "New")

        async def rename_or_fail() -> None:
            with suppress(RequestRefused):
                await ChatClient.of_server(server).rename(thread_id, "New")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename if seconds < 0.2 else rename_or_fail)
            await trio.sleep(seconds)
            await memory.delete_thread(thread_id, None)

        assert await nothing_is_left(memory)


@within(HOUR)
async def test_a_rename_during_a_turn_does_not_bring_back_a_thread_deleted_elsewhere(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = SlowWrites(memory, 2, "save_thread", "update_thread")
    async with (
        scripted_server(store, HANGING) as server,
        ChatClient.of_server(server).send("hi") as turn,
    ):
        await turn.read(4)
        client, thread_id = ChatClient.of_server(server), turn.thread_id or ""

        async def rename() -> None:
            with pytest.raises(RequestRefused) as refused:
                await client.rename(thread_id, "New")
            assert refused.value.status == 404

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rename)
            await trio.sleep(1)
            await memory.delete_thread(thread_id, None)
        turn.server_turn.cancel()
        await turn.server_turn.settled.wait()

        assert await nothing_is_left(memory)


# --- F19: who reads a thread that is being settled ---------------------------------------------


class LookingServer(ScriptedServer):
    """Notes what the thread says when one of its hooks is called."""

    def __init__(self, store: Store[Any], memory: MemoryStore[Any], *scripts: list[Any]) -> None:
        super().__init__(store, scripted_server(store, *scripts).script)
        self.memory = memory
        self.seen: list[list[str]] = []
        self.titles: list[str | None] = []

    async def sync_action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: Any,
    ) -> SyncCustomActionResponse:
        self.titles.append(thread.title)
        self.seen.append(await transcript(self.memory, thread.id))
        return SyncCustomActionResponse()

    async def add_feedback(
        self, thread_id: str, item_ids: list[str], feedback: Any, context: Any
    ) -> None:
        self.seen.append(await transcript(self.memory, thread_id))


async def act_and_wait(client: ChatClient, thread_id: str) -> None:
    await client.act_and_wait(thread_id, PRESS)


async def give_feedback(client: ChatClient, thread_id: str) -> None:
    await client.give_feedback(thread_id, ["msg_m"], "positive")


@pytest.mark.parametrize("request_", [act_and_wait, give_feedback])
@pytest.mark.parametrize("asked", ["its node", "another node"])
@within(HOUR)
async def test_a_request_that_comes_while_the_thread_is_settled_finds_it_settled(
    asked: str,
    request_: Callable[[ChatClient, str], Awaitable[None]],
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = MemoryCluster()
    memory, elsewhere = MemoryStore[Any](cluster=cluster), MemoryStore[Any](cluster=cluster)
    store = SlowWrites(memory, 4, "settle")
    script = [HEL, set_title("A story"), pause(FOR_EVER)]
    async with (
        LookingServer(store, memory, script) as server,
        LookingServer(elsewhere, elsewhere, []) as other,
    ):
        async with ChatClient.of_server(server).send("hi") as turn:
            with trio.move_on_after(1):
                await turn.read()
            turn.server_turn.cancel()
            await trio.sleep(1)
            looking = server if asked == "its node" else other
            await request_(ChatClient.of_server(looking), turn.thread_id or "")

        assert looking.seen == [["user: hi", "assistant: Hel", "note: stopped"]]
        if request_ is act_and_wait:
            assert looking.titles == ["A story"]


@pytest.mark.parametrize("request_", [act_and_wait, give_feedback])
@within(HOUR)
async def test_a_request_beside_a_live_turn_is_answered_at_once(
    request_: Callable[[ChatClient, str], Awaitable[None]],
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore[Any]()
    async with LookingServer(memory, memory, HANGING) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read(4)
            began_at = trio.current_time()
            await request_(client, turn.thread_id or "")

            assert trio.current_time() == began_at
    assert server.seen == [["user: hi"]]


class WidgetServer(ScriptedServer):
    """Answers the first message with a widget, which its sync action changes after a while."""

    seconds = 0.5

    async def sync_action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: Any,
    ) -> SyncCustomActionResponse:
        assert sender is not None
        await trio.sleep(self.seconds)
        return SyncCustomActionResponse(
            updated_item=sender.model_copy(update={"widget": card("New")})
        )


def make_widget(scene: Scene) -> ThreadItemDoneEvent:
    return ThreadItemDoneEvent(item=WidgetItem(widget=card("Old"), **fields(scene, "wdg")))


async def remove_by_retry(client: ChatClient, thread_id: str, user_id: str) -> None:
    async with client.retry(thread_id, user_id) as turn:
        await turn.read()


@pytest.mark.parametrize("hook_seconds", [0.0, 0.5])
@pytest.mark.parametrize("offset", range(0, 40, 2))
@within(HOUR)
async def test_a_sync_action_does_not_bring_back_a_widget_that_a_retry_deletes(
    offset: int, hook_seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    memory = MemoryStore[Any]()
    store = SlowStore(memory, 0.0, answer_seconds=0.0)
    script = scripted_server(store, [emit(make_widget)], [say("Fine")]).script
    async with WidgetServer(store, script) as server:
        server.seconds = hook_seconds
        client = ChatClient.of_server(server)
        turn = await answered(server)
        thread_id, user_id = turn.thread_id or "", turn.items[0].id
        store.seconds = 0.05
        store.answer_seconds = 0.05

        async def act() -> None:
            with suppress(RequestRefused):  # the widget may be gone already
                await client.act_and_wait(thread_id, PRESS, "wdg")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(act)
            await trio.sleep(offset * 0.03)
            await remove_by_retry(client, thread_id, user_id)

        assert await transcript(memory, thread_id) == ["user: hi", "assistant: Fine"]


class Gap(StoreWrapper[Any]):
    """A store where something else happens right before an item is saved."""

    def __init__(self, store: Store[Any]) -> None:
        super().__init__(store)
        self.meanwhile: list[Callable[[], Awaitable[None]]] = []

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name == "save_item" and self.meanwhile:
            with trio.move_on_after(5):  # it may have to wait for this very request
                await self.meanwhile.pop()()
        return await call()


@pytest.mark.parametrize("nodes", [1, 2])
@within(HOUR)
async def test_a_sync_action_does_not_bring_back_a_widget_deleted_between_its_look_and_its_save(
    nodes: int, autojump_clock: trio.testing.MockClock
) -> None:
    """The retry that deletes it comes to the same server, or to another one."""
    cluster = MemoryCluster()
    store = Gap(MemoryStore[Any](cluster=cluster))
    script = scripted_server(store, [emit(make_widget)]).script
    policy = TurnPolicy(on_disconnect="finish")
    async with (
        WidgetServer(store, script, policy=policy) as server,
        scripted_server(MemoryStore[Any](cluster=cluster), [say("Fine")]) as other,
    ):
        turn = await answered(server)
        thread_id, user_id = turn.thread_id or "", turn.items[0].id
        server.script = other.script
        client = ChatClient.of_server([server, other][nodes - 1])
        store.meanwhile.append(partial(remove_by_retry, client, thread_id, user_id))
        await ChatClient.of_server(server).act_and_wait(thread_id, PRESS, "wdg")
        await trio.sleep(60)

        assert store.meanwhile == []
        assert await transcript(store, thread_id) == ["user: hi", "assistant: Fine"]


@pytest.mark.parametrize("waits", ["its node", "another node"])
@within(HOUR)
async def test_a_sync_action_does_not_wait_behind_a_message_that_waits_for_the_answer(
    waits: str, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = MemoryCluster()
    policy = TurnPolicy(on_busy="queue")
    script = scripted_server(MemoryStore[Any](), [emit(make_widget)], HANGING, [say("Fine")]).script
    async with (
        WidgetServer(MemoryStore[Any](cluster=cluster), script, policy=policy) as server,
        WidgetServer(MemoryStore[Any](cluster=cluster), script, policy=policy) as other,
    ):
        thread_id = (await answered(server)).thread_id or ""
        acting = server if waits == "its node" else other
        async with (
            ChatClient.of_server(server).send("go on", thread_id) as turn,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(answered, acting, "and?", thread_id)
            await trio.sleep(1)

            began_at = trio.current_time()
            await ChatClient.of_server(acting).act_and_wait(thread_id, PRESS, "wdg")
            assert trio.current_time() - began_at < 5
            await turn.stop()

        stored = await server.store.load_item(thread_id, "wdg", None)
        assert '"value":"New"' in stored.model_dump_json()
        assert (await transcript(server.store, thread_id))[-1] == "assistant: Fine"


class Theirs(StoreWrapper[Any]):
    """A store that was written for openai-chatkit, and says in its words what isn't there."""

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        try:
            return await call()
        except NotFoundError as error:
            raise type("NotFoundError", (Exception,), {"__module__": "chatkit.store"})() from error


@within(HOUR)
async def test_a_turn_whose_thread_is_gone_ends_in_a_store_that_says_so_in_other_words(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore[Any]()
    limits = OwnerLimits(live_turns=1)
    async with scripted_server(
        Theirs(memory), HANGING, [say("Fine")], owner_limits=limits
    ) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            await turn.read(4)
            await memory.delete_thread(turn.thread_id or "", None)
            turn.server_turn.cancel()
            await turn.server_turn.ended.wait()
        assert turn.server_turn.settled.is_set()

        again = await answered(server)
        assert await transcript(memory, again.thread_id) == ["user: hi", "assistant: Fine"]


@within(HOUR)
async def test_a_sync_action_still_saves_the_widget_that_it_changed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    memory = MemoryStore[Any]()
    script = scripted_server(memory, [emit(make_widget)]).script
    async with WidgetServer(memory, script) as server:
        turn = await answered(server)
        await ChatClient.of_server(server).act_and_wait(turn.thread_id or "", PRESS, "wdg")

        stored = await memory.load_item(turn.thread_id or "", "wdg", None)
    assert stored.model_dump()["widget"]["children"][0]["value"] == "New"
