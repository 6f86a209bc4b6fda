"""A thread has one writer, from before its first write on, and what it stores is what was sent.

Renames beside a turn, requests that reach a new thread while its first writes are being made, and
items that `respond` goes on changing after it has yielded them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from chatkit_trio.errors import BusyError
from chatkit_trio.server import ChatKitServer, TurnPolicy, current_turn
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    RequestRefused,
    Scene,
    ScriptedServer,
    Step,
    do,
    emit,
    pause,
    say,
    scripted_server,
    set_title,
)
from chatkit_trio.testing._client_turn import ClientTurn
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    CustomTask,
    ProgressUpdateEvent,
    StreamOptionsEvent,
    ThreadItem,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    Workflow,
    WorkflowItem,
)
from tests.transcript import transcript

from .doubles import (
    THREAD_WRITES,
    OneThreadStore,
    TroubledStore,
    fails,
    hangs,
    once,
    takes,
)
from .scenes import HELLO, ask, bounded, done, message, sending, thread_of

_T = TypeVar("_T")

# --- Renames beside a turn ---------------------------------------------------------------------


ITEM_WRITES = ("add_thread_item", "save_item", "delete_thread_item", "settle")


class OneWriterStore(TroubledStore):
    """Counts the writes that go on at a time; the test has one thread."""

    most_at_once = 0
    _now = 0

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name not in (*THREAD_WRITES, *ITEM_WRITES):
            return await super().around(name, call)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            return await super().around(name, call)
        finally:
            self._now -= 1

    async def title(self, thread_id: str | None) -> tuple[str | None, dict[str, Any]]:
        thread = await self.wrapped.load_thread(thread_id or "", None)
        return thread.title, thread.metadata


def note_in_metadata(scene: Scene) -> None:
    scene.thread.metadata["seen"] = True


NOTE: list[Step] = [do(note_in_metadata), emit(ProgressUpdateEvent(text="noted"))]
RENAMED = ("Renamed", {"seen": True})


@bounded
async def test_a_rename_during_a_save_of_the_turn_is_not_undone_by_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = OneWriterStore()
    # The title from outside would be stored at once, and the older state 2 seconds later.
    slow = do(lambda scene: store.give(once(takes(2)), *THREAD_WRITES))
    async with (
        scripted_server(store, [slow, *NOTE, pause(60)]) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        renamed = await ChatClient.of_server(server).rename(turn.thread_id or "", "Renamed")
        after_rename = await store.title(turn.thread_id)
        await trio.sleep(5)
        while_live = await store.title(turn.thread_id)
        await turn.stop()

        assert renamed.title == "Renamed"
        assert after_rename == RENAMED
        assert while_live == RENAMED
        assert await store.title(turn.thread_id) == RENAMED
        assert store.most_at_once == 1


@bounded
async def test_a_rename_during_an_item_write_waits_for_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = OneWriterStore()
    slow = do(lambda scene: store.give(once(takes(2)), "add_thread_item"))
    async with (
        scripted_server(store, [*NOTE, slow, emit(done("Hello")), pause(60)]) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        await ChatClient.of_server(server).rename(turn.thread_id or "", "Renamed")

        assert trio.current_time() == pytest.approx(2)
        assert await store.title(turn.thread_id) == RENAMED
        assert store.most_at_once == 1
        await turn.stop()
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


@bounded
async def test_the_later_of_two_renames_is_the_one_that_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = OneWriterStore()
    async with (
        scripted_server(store, [*NOTE, pause(60)]) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        store.give(once(takes(2)), *THREAD_WRITES)
        client = ChatClient.of_server(server)
        async with trio.open_nursery() as renaming:
            renaming.start_soon(client.rename, turn.thread_id or "", "Once")
            await trio.sleep(0.5)
            renaming.start_soon(client.rename, turn.thread_id or "", "Renamed")

        assert await store.title(turn.thread_id) == RENAMED
        assert store.most_at_once == 1
        await turn.stop()
        assert await store.title(turn.thread_id) == RENAMED


@bounded
async def test_a_rename_beside_a_turn_that_waits_for_its_model_is_stored_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = OneWriterStore()
    async with (
        scripted_server(store, [*NOTE, pause(60)]) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        renamed = await ChatClient.of_server(server).rename(turn.thread_id or "", "Renamed")

        assert trio.current_time() == pytest.approx(1)
        assert renamed.title == "Renamed"
        assert await store.title(turn.thread_id) == RENAMED
        await turn.stop()


@bounded
async def test_a_rename_beside_a_turn_that_waits_for_its_client_is_stored_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = OneWriterStore()
    script = [pause(1), *NOTE, say("Hello"), pause(60)]
    policy = TurnPolicy(max_unread_bytes=1)
    async with (
        scripted_server(store, script, policy=policy) as server,
        sending(server) as turn,
    ):
        await turn.wait_for(StreamOptionsEvent)
        await trio.sleep(5)
        await ChatClient.of_server(server).rename(turn.thread_id or "", "Renamed")

        assert trio.current_time() == pytest.approx(5)
        assert await store.title(turn.thread_id) == RENAMED


@bounded
async def test_a_rename_while_a_turn_is_settled_is_stored_when_it_is_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = OneWriterStore()
    async with (
        scripted_server(store, [HELLO, do(note_in_metadata), pause(60)]) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        store.give(takes(2), "settle")
        nursery.start_soon(turn.stop)
        await trio.sleep(1)
        await ChatClient.of_server(server).rename(turn.thread_id or "", "Renamed")

        assert await store.title(turn.thread_id) == RENAMED
        assert store.most_at_once == 1
        assert trio.current_time() <= 3
        await turn.server_turn.ended.wait()
        assert await store.title(turn.thread_id) == RENAMED
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


@bounded
async def test_a_rename_that_the_store_refuses_fails_and_ends_no_turn(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = OneWriterStore()
    async with (
        scripted_server(store, [*NOTE, pause(2), say("Hello")]) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        store.give(once(fails()), *THREAD_WRITES)
        with pytest.raises(RequestRefused) as refused:
            await ChatClient.of_server(server).rename(turn.thread_id or "", "Renamed")
        await turn.server_turn.ended.wait()

        assert refused.value.status == 503
        assert turn.server_turn.end_reason == "finished"
        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]


@bounded
async def test_a_rename_that_is_cancelled_leaves_the_turn_as_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = OneWriterStore()
    slow = do(lambda scene: store.give(once(takes(2)), "add_thread_item"))
    async with (
        scripted_server(store, [slow, emit(done("Hello")), pause(60)]) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        with trio.move_on_after(0.5):
            await ChatClient.of_server(server).rename(turn.thread_id or "", "Renamed")
        await trio.sleep(5)
        await turn.stop()

        assert turn.error is None
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]
        assert store.most_at_once == 1


@bounded
async def test_a_title_that_respond_sets_after_a_rename_counts(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = OneWriterStore()
    script = [*NOTE, pause(2), set_title("From the model"), say("Hello")]
    async with (
        scripted_server(store, script) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        await ChatClient.of_server(server).rename(turn.thread_id or "", "Renamed")
        await turn.server_turn.ended.wait()

        assert await store.title(turn.thread_id) == ("From the model", {"seen": True})


# --- A new thread while its first writes are being made ----------------------------------------


class BusyThread(ScriptedServer):
    """Answers slowly, and knows how many answers were given at a time."""

    now = 0
    most_at_once = 0

    async def respond(
        self, thread: ThreadMetadata, input_user_message: Any, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        self.now += 1
        self.most_at_once = max(self.now, self.most_at_once)
        try:
            await trio.sleep(3)
            yield done("Hi")(Scene(thread, input_user_message, context))
        finally:
            self.now -= 1


def new_thread_server(
    store: TroubledStore, policy: TurnPolicy | None = None, *, allow_cancel: bool = True
) -> BusyThread:
    respond = scripted_server(store, [say("Hi")]).script
    return BusyThread(store, respond, policy=policy, allow_cancel=allow_cancel)


SUPERSEDED = ["user: first", "note: superseded", "user: second", "assistant: Hi"]
IN_TURN = ["user: first", "assistant: Hi", "user: second", "assistant: Hi"]
FIRST_WRITES = pytest.mark.parametrize("operation", ["add_thread_item", "journal.begin"])


def slow_at(operation: str) -> TroubledStore:
    """Return a store that takes 2 seconds for the first such operation on its thread thr_1."""
    store = TroubledStore(OneThreadStore())
    store.give(once(takes(2)), operation)
    return store


@pytest.mark.parametrize(
    ("on_busy", "stored"),
    [("supersede", SUPERSEDED), ("queue", IN_TURN)],
    ids=["supersede", "queue"],
)
@FIRST_WRITES
@bounded
async def test_a_second_message_finds_a_turn_that_is_making_its_thread(
    operation: str, on_busy: Any, stored: list[str], autojump_clock: trio.testing.MockClock
) -> None:
    store = slow_at(operation)
    async with (
        new_thread_server(store, TurnPolicy(on_busy=on_busy)) as server,
        sending(server, "first") as first,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(first.read)
        await trio.sleep(1)
        second = await ask(server, "second", "thr_1")

        assert second.error is None
        assert await transcript(store, "thr_1") == stored
        assert server.most_at_once == 1


@FIRST_WRITES
@bounded
async def test_a_second_message_is_rejected_while_a_turn_is_making_its_thread(
    operation: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = slow_at(operation)
    async with (
        new_thread_server(store, TurnPolicy(on_busy="reject")) as server,
        sending(server, "first") as first,
    ):
        await trio.sleep(1)
        with pytest.raises(BusyError):
            await ask(server, "second", "thr_1")
        await first.read()

        assert await transcript(store, "thr_1") == ["user: first", "assistant: Hi"]


@bounded
async def test_a_second_message_waits_for_a_new_thread_that_may_not_be_cancelled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = slow_at("add_thread_item")
    async with (
        new_thread_server(store, allow_cancel=False) as server,
        sending(server, "first") as first,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(first.read)
        await trio.sleep(1)
        await ask(server, "second", "thr_1")

        assert await transcript(store, "thr_1") == IN_TURN
        assert server.most_at_once == 1


@FIRST_WRITES
@bounded
async def test_stop_finds_a_turn_that_is_making_its_thread(
    operation: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = slow_at(operation)
    async with (
        new_thread_server(store) as server,
        sending(server, "first") as first,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(first.read)
        await trio.sleep(1)

        assert await server.stop("thr_1")
        assert await transcript(store, "thr_1") == ["user: first", "note: stopped"]
        assert trio.current_time() == pytest.approx(2)
    assert first.is_complete


@FIRST_WRITES
@bounded
async def test_delete_finds_a_turn_that_is_making_its_thread(
    operation: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = slow_at(operation)
    async with (
        new_thread_server(store) as server,
        sending(server, "first") as first,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(first.read)
        await trio.sleep(1)
        client = ChatClient.of_server(server)
        await client.delete("thr_1")
        after_delete = await client.threads()
        await first.server_turn.ended.wait()

        assert after_delete == []
        assert await client.threads() == []
        assert server.most_at_once == 0  # the answer was never asked for
        assert trio.current_time() == pytest.approx(2)


@bounded
async def test_a_rename_finds_a_turn_that_is_making_its_thread(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = slow_at("add_thread_item")
    async with (
        scripted_server(store, [*NOTE, say("Hi")]) as server,
        sending(server, "first") as first,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(first.read)
        await trio.sleep(1)
        await ChatClient.of_server(server).rename("thr_1", "Renamed")
        await first.server_turn.ended.wait()

        thread = await store.load_thread("thr_1", None)
        assert (thread.title, thread.metadata) == RENAMED
        assert await transcript(store, "thr_1") == ["user: first", "assistant: Hi"]


@bounded
async def test_a_turn_knows_its_thread_before_it_has_written_anything(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = slow_at("save_thread")
    async with new_thread_server(store) as server, sending(server, "first") as first:
        await trio.sleep(1)
        known_as = first.server_turn.thread_id
        await first.read()

        assert known_as == "thr_1"
        assert first.thread_id == "thr_1"


# --- Items that respond goes on changing -------------------------------------------------------


def finished_message(scene: Scene) -> tuple[ThreadItem, Callable[[], None]]:
    item = message(scene, "Hello")

    def change() -> None:
        item.content[0].text = "changed"
        item.content.append(AssistantMessageContent(text=" more"))

    return item, change


def finished_workflow(scene: Scene) -> tuple[ThreadItem, Callable[[], None]]:
    plan = Workflow(type="custom", tasks=[CustomTask(title="Search", status_indicator="complete")])
    item = WorkflowItem(workflow=plan, **scene.item_fields("workflow"))

    def change() -> None:
        plan.tasks.append(CustomTask(title="changed"))

    return item, change


CHANGING: dict[str, tuple[Any, str, str]] = {
    "message": (finished_message, "add_thread_item", "assistant: Hello"),
    "workflow": (finished_workflow, "add_thread_item", "workflow: Search complete"),
    "replacement": (finished_message, "save_item", "assistant: Hello"),
}


class ChangingServer(ChatKitServer[Any]):
    """Yields an item as done, and changes it from a task of its own while that is being stored."""

    def __init__(self, store: TroubledStore, kind: str, trouble: Any, then: float) -> None:
        super().__init__(store, policy=TurnPolicy(settle_timeout=2))
        self._troubled = store
        self._make, self._operation, _ = CHANGING[kind]
        self._trouble = trouble
        self._then = then

    async def respond(
        self, thread: ThreadMetadata, input_user_message: Any, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        scene = Scene(thread, input_user_message, context)
        item, change = self._make(scene)

        async def change_soon() -> None:
            await trio.sleep(0.5)
            change()

        is_replacement = self._operation == "save_item"
        if is_replacement:
            assert isinstance(item, AssistantMessageItem)
            yield ThreadItemDoneEvent(item=message(scene, "Draft", item.id))
        self._troubled.give(once(self._trouble), self._operation)
        current_turn().nursery.start_soon(change_soon)
        yield (ThreadItemReplacedEvent if is_replacement else ThreadItemDoneEvent)(item=item)
        await trio.sleep(self._then)


KINDS = pytest.mark.parametrize("kind", CHANGING)


def sent(turn: ClientTurn) -> list[ThreadItem]:
    """Return the items as the client saw them, but for the user's own message."""
    return turn.items[1:]


@KINDS
@bounded
async def test_an_item_that_changes_while_it_is_stored_is_stored_as_it_was_yielded(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = TroubledStore()
    async with ChangingServer(store, kind, takes(1), 0) as server:
        turn = await ask(server)

        assert await transcript(store, turn.thread_id) == ["user: hi", CHANGING[kind][2]]
        stored = await ChatClient.of_server(server).items(turn.thread_id or "")
        assert sent(turn) == stored[1:]


@pytest.mark.parametrize("trouble", [fails(after=1), hangs], ids=["fails", "hangs"])
@KINDS
@bounded
async def test_an_item_whose_write_is_made_up_for_is_stored_as_it_was_yielded(
    kind: str,
    trouble: Any,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = TroubledStore()
    async with (
        ChangingServer(store, kind, trouble, 0) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(0.75)
        await turn.stop()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            CHANGING[kind][2],
            "note: stopped",
        ]
        stored = await ChatClient.of_server(server).items(turn.thread_id or "")
        await turn.server_turn.ended.wait()
    assert sent(turn) == stored[1:]


@bounded
async def test_a_thread_that_respond_changes_during_its_save_is_stored_in_its_last_state(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def change_soon(scene: Scene) -> None:
        async def change() -> None:
            await trio.sleep(0.5)
            scene.thread.title = "Second"

        current_turn().nursery.start_soon(change)
        store.give(once(takes(1)), *THREAD_WRITES)

    store = TroubledStore(MemoryStore[Any]())
    script = [set_title("First"), do(change_soon), emit(ProgressUpdateEvent(text=".")), pause(5)]
    async with scripted_server(store, script) as server:
        thread_id = await thread_of(server)

        assert (await store.load_thread(thread_id, None)).title == "Second"
