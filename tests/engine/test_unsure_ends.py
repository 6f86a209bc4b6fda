"""What is stored and told when a turn ends and it isn't known what the store has of it.

Ids that another item may have, removals that may not have happened, items that go on in the store,
and events that were left behind by a cancel scope in `respond`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import pytest
import trio

from chatkit_trio.server import ChatKitServer, current_turn
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    JumpClock,
    Scene,
    ScriptedRespond,
    ScriptedServer,
    emit,
    fail,
    pause,
    scripted_server,
)
from chatkit_trio.testing._client_turn import ClientTurn
from chatkit_trio.types import (
    CustomTask,
    SDKHiddenContextItem,
    StreamOptionsEvent,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
)
from tests.transcript import transcript

from .doubles import Trouble, TroubledStore, fails, once, raise_beside_the_cancellation, takes
from .parts import begin, finish, more, stopped
from .scenes import HELLO, ask, bounded, message, sending

ITEM = "msg_1"
OLD = emit(finish(ITEM, "old"))


def fails_afterwards() -> Trouble:
    """Carry the operation out, and raise."""

    async def trouble(call: Any) -> Any:
        await call()
        raise OSError("the connection is lost")

    return trouble


async def items_of(store: Store[Any], turn: ClientTurn) -> list[ThreadItem]:
    assert turn.thread_id is not None
    page = await store.load_thread_items(turn.thread_id, None, 100, "asc", None)
    return page.data


async def ids_of_ending(store: Store[Any], turn: ClientTurn) -> list[str]:
    """Return the ids that the only note names."""
    items = await items_of(store, turn)
    [note] = [item for item in items if isinstance(item, SDKHiddenContextItem)]
    assert note.ending is not None
    return note.ending.item_ids


def told(turn: ClientTurn) -> list[tuple[str, str]]:
    """Return what the client was told of items, but for updates and what it has sent itself."""
    ids = [
        (event.type, event.item_id if isinstance(event, ThreadItemRemovedEvent) else event.item.id)
        for event in turn.events
        if isinstance(event, ThreadItemAddedEvent | ThreadItemDoneEvent | ThreadItemRemovedEvent)
    ]
    return [(kind, item_id) for kind, item_id in ids if item_id != turn.events[0].item.id]  # type: ignore[union-attr]


async def second_turn(
    server: ChatKitServer[Any], trouble: dict[str, Trouble], *, stops: bool = False
) -> ClientTurn:
    """Have a first message answered, and a second one while the store is in trouble.

    The trouble begins when the second turn has begun, which has to wait a second at first.
    """
    store = server.store
    assert isinstance(store, TroubledStore)
    first = await ask(server)
    async with sending(server, "more", first.thread_id) as turn, trio.open_nursery() as nursery:
        await turn.wait_for(StreamOptionsEvent)
        nursery.start_soon(turn.read)
        for name, each in trouble.items():
            store.give(each, name)
        if stops:
            await trio.sleep(2)
            await turn.stop()
    return turn


# --- An id that another item may have ----------------------------------------------------------


@pytest.mark.parametrize("failures", [1, 3])
@bounded
async def test_a_finished_item_whose_id_is_taken_is_kept_though_its_write_failed(
    failures: int, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Settling adds items unless they are there: another item of the same id isn't this one."""
    store = TroubledStore()
    script = [pause(1), emit(finish(ITEM, "new"))]
    async with scripted_server(store, [OLD], script) as server:
        trouble = {"add_thread_item": once(fails())}
        if failures > 1:
            trouble |= {"load_item": once(fails()), "settle": once(fails())}
        turn = await second_turn(server, trouble)

        items = await items_of(store, turn)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: old",
            "user: more",
            "assistant: new",
            "note: failed",
        ]
        new_id = items[3].id
        assert new_id != ITEM
        assert told(turn) == [("thread.item.done", new_id)]
        assert await ids_of_ending(store, turn) == [new_id]
        assert turn.server_turn.item_ids() == [turn.events[0].item.id, new_id][1:]  # type: ignore[union-attr]
    assert ITEM in caplog.text


@bounded
async def test_a_finished_item_whose_write_was_made_and_failed_is_kept_once(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    script = [pause(1), emit(finish("msg_2", "new"))]
    async with scripted_server(store, [OLD], script) as server:
        turn = await second_turn(server, {"add_thread_item": once(fails_afterwards())})

        assert (await transcript(store, turn.thread_id))[2:] == [
            "user: more",
            "assistant: new",
            "note: failed",
        ]
        assert told(turn) == [("thread.item.done", "msg_2")]


@pytest.mark.parametrize("text", ["new", ""])
@bounded
async def test_a_begun_item_whose_id_is_taken_changes_nothing_of_the_other_though_the_store_failed(
    text: str, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    script = [pause(1), emit(begin(ITEM, text))]
    async with scripted_server(store, [OLD], script) as server:
        turn = await second_turn(server, {"load_item": once(fails())})

        kept = ["assistant: new", "note: failed"] if text else []
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: old",
            "user: more",
            *kept,
        ]
        assert ITEM not in [item_id for _, item_id in told(turn)]
        if text:
            new_id = (await items_of(store, turn))[3].id
            assert told(turn) == [("thread.item.done", new_id)]
            assert await ids_of_ending(store, turn) == [new_id]


@bounded
async def test_a_begun_item_whose_id_is_taken_is_kept_on_sqlite(
    jump_clock: JumpClock, tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore(SQLiteStore[Any](tmp_path / "chat.db"))
    script = [pause(1), emit(begin(ITEM, "new"))]
    async with scripted_server(store, [OLD], script) as server:
        turn = await second_turn(server, {"load_item": once(fails(OSError("no disk")))})

        assert (await transcript(store, turn.thread_id))[1:] == [
            "assistant: old",
            "user: more",
            "assistant: new",
            "note: failed",
        ]


def numbers_its_notes(kind: type[Any], note_id: str = "shcx_1") -> type[Any]:
    """Return a kind of store that has forgotten, after each start, which notes it has numbered."""

    class NumbersItsNotes(kind):  # type: ignore[misc]
        def generate_item_id(self, item_type: Any, thread: ThreadMetadata, context: Any) -> str:
            if item_type == "sdk_hidden_context":
                return note_id
            new_id: str = super().generate_item_id(item_type, thread, context)
            return new_id

    return NumbersItsNotes


@pytest.mark.parametrize("happens", [True, False])
@pytest.mark.parametrize("kind", [MemoryStore, SQLiteStore])
@bounded
async def test_a_note_whose_id_is_taken_is_kept_once(
    kind: Any, happens: bool, jump_clock: JumpClock, tmp_path: Any, caplog: Any
) -> None:
    """Also when it isn't known whether a first try has stored it."""
    arguments = [] if kind is MemoryStore else [tmp_path / "chat.db"]
    store = TroubledStore(numbers_its_notes(kind)(*arguments))
    async with scripted_server(store, [HELLO, pause(100)]) as server:
        first = await stopped(server)
        store.give(once(fails_afterwards() if happens else fails()), "settle")
        second = await stopped(server, "more", first.thread_id)

        one_answer = ["assistant: Hello", "note: stopped"]
        stored = await transcript(store, second.thread_id)
        assert stored == ["user: hi", *one_answer, "user: more", *one_answer]
        *_, answer, note = await items_of(store, second)
        ending = await server.last_ending(second.thread_id or "", None)
        assert ending is not None
        assert (ending.item_ids, note.id != "shcx_1") == ([answer.id], True)
    assert "shcx_1" in caplog.text


@pytest.mark.parametrize("event", [begin, finish])
@bounded
async def test_a_note_that_gets_the_id_of_the_answer_is_kept_beside_it(
    event: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore(numbers_its_notes(MemoryStore, "msg_2")())
    script = [pause(1), emit(event("msg_2", "new")), pause(100)]
    async with scripted_server(store, [OLD], script) as server:
        turn = await second_turn(server, {"add_thread_item": fails()}, stops=event is begin)

        assert (await transcript(store, turn.thread_id))[2:4] == ["user: more", "assistant: new"]
        *_, answer, note = await items_of(store, turn)
        assert isinstance(note, SDKHiddenContextItem)
        assert answer.id == "msg_2"
        assert await ids_of_ending(store, turn) == ["msg_2"]


@bounded
async def test_a_hook_may_change_the_note_and_keep_more(autojump_clock: Any) -> None:
    class KeepsTwice(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            await super().handle_stream_cancelled(thread, pending_items, context)
            note = await self.store.load_item(thread.id, "shcx_1", context)
            changed = note.model_copy(update={"content": "cut"})
            await self.store.save_item(thread.id, changed, context)
            await current_turn().keep([])

    store = numbers_its_notes(MemoryStore)()
    server = KeepsTwice(store, ScriptedRespond([HELLO, pause(100)]))
    async with server:
        turn = await stopped(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: cut",
        ]


@bounded
async def test_what_has_gone_into_a_stored_item_outlives_an_item_that_is_begun_with_its_id(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, [OLD], [emit(more(ITEM, "er"), begin(ITEM))]) as server:
        first = await ask(server)
        turn = await ask(server, "more", first.thread_id)

        assert (await transcript(store, turn.thread_id))[1] == "assistant: older"
        assert turn.error is not None
        assert told(turn) == []


# --- Events that a cancel scope in respond has left behind -------------------------------------


@pytest.mark.parametrize("stops", [False, True])
@bounded
async def test_an_item_done_again_while_its_first_state_is_being_stored_is_stored_once(
    stops: bool, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, None, context)
        await trio.sleep(1)
        with trio.move_on_after(0.5):
            yield finish("msg_2", "first")(scene)
        yield finish("msg_2", "second")(scene)

    script = ScriptedServer(MemoryStore[Any](), respond).script
    scripts = iter([scripted_server(MemoryStore[Any](), [OLD]).script, script])
    store = TroubledStore()
    async with ScriptedServer(store, lambda *args: next(scripts)(*args)) as server:
        turn = await second_turn(server, {"add_thread_item": takes(2)}, stops=stops)

        note = ["note: stopped"] if stops else []
        assert (await transcript(store, turn.thread_id))[2:] == [
            "user: more",
            "assistant: second",
            *note,
        ]
        assert turn.error is None
        assert set(told(turn)) == {("thread.item.done", "msg_2")}
        assert turn.text == "second"


@bounded
async def test_an_item_that_was_begun_with_a_taken_id_and_left_behind_fails_the_turn(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, None, context)
        await trio.sleep(1)
        with trio.move_on_after(0.5):
            yield begin(ITEM)(scene)
        await trio.sleep(10)
        yield more(ITEM, "er")

    scripts = iter([scripted_server(MemoryStore[Any](), [OLD]).script, respond])
    store = TroubledStore()
    async with ScriptedServer(store, lambda *args: next(scripts)(*args)) as server:
        turn = await second_turn(server, {"load_item": once(takes(2))})

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: old",
            "user: more",
        ]
        assert turn.error is not None
    assert ITEM in caplog.text


# --- A removal that may not have happened ------------------------------------------------------


@pytest.mark.parametrize("grows", [False, True])
@bounded
async def test_an_item_whose_removal_failed_stays_as_the_client_has_seen_it(
    grows: bool, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    growth = [more(ITEM, "er")] if grows else []
    script = [pause(1), emit(*growth, ThreadItemRemovedEvent(item_id=ITEM))]
    async with scripted_server(store, [OLD], script) as server:
        turn = await second_turn(server, {"delete_thread_item": fails()})

        assert (await transcript(store, turn.thread_id))[1] == (
            "assistant: older" if grows else "assistant: old"
        )
        assert told(turn) == []


@pytest.mark.parametrize("grows", [False, True])
@bounded
async def test_a_removal_that_was_made_and_failed_is_told(
    grows: bool, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    growth = [more(ITEM, "er")] if grows else []
    script = [pause(1), emit(*growth, ThreadItemRemovedEvent(item_id=ITEM))]
    async with scripted_server(store, [OLD], script) as server:
        turn = await second_turn(server, {"delete_thread_item": fails_afterwards()})

        assert await transcript(store, turn.thread_id) == ["user: hi", "user: more"]
        assert told(turn) == [("thread.item.removed", ITEM)]
        assert turn.error is not None


@bounded
async def test_a_removal_that_had_not_begun_at_the_cut_is_not_made_and_loses_nothing(
    autojump_clock: Any,
) -> None:
    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        yield more(ITEM, "er")
        await trio.sleep(1)
        current_turn().cancel()
        yield ThreadItemRemovedEvent(item_id=ITEM)

    scripts = iter([scripted_server(MemoryStore[Any](), [OLD]).script, respond])
    store = TroubledStore()
    async with ScriptedServer(store, lambda *args: next(scripts)(*args)) as server:
        turn = await second_turn(server, {})

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: older",
            "user: more",
            "note: stopped",
        ]
        assert told(turn) == []


# --- Items that go on in the store -------------------------------------------------------------


def workflow(scene: Scene) -> ThreadItemDoneEvent:
    fields = scene.item_fields("workflow") | {"id": "wf_1"}
    return ThreadItemDoneEvent(
        item=WorkflowItem(workflow=Workflow(type="custom", tasks=[]), **fields)
    )


LOADING = ThreadItemUpdatedEvent(
    item_id="wf_1",
    update=WorkflowTaskAdded(
        task_index=0, task=CustomTask(title="Search", status_indicator="loading")
    ),
)


@pytest.mark.parametrize("stops", [False, True])
@bounded
async def test_a_client_is_told_of_a_stored_workflow_that_was_put_at_rest(
    stops: bool, autojump_clock: Any
) -> None:
    store = TroubledStore()
    last = pause(60 if stops else 0)
    async with scripted_server(store, [emit(workflow)], [emit(LOADING), last]) as server:
        turn = await second_turn(server, {}, stops=stops)

        assert (await transcript(store, turn.thread_id))[1] == "workflow: Search none"
        [replaced] = [event for event in turn.events if event.type == "thread.item.replaced"]
        assert replaced.item == (await items_of(store, turn))[1]  # type: ignore[union-attr]


@bounded
async def test_a_client_is_told_nothing_anew_of_a_stored_item_that_has_grown(
    autojump_clock: Any,
) -> None:
    store = TroubledStore()
    async with scripted_server(store, [OLD], [emit(more(ITEM, "er")), pause(60)]) as server:
        turn = await second_turn(server, {}, stops=True)

        assert (await transcript(store, turn.thread_id))[1] == "assistant: older"
        assert {event.type for event in turn.events} == {
            "thread.item.done",
            "stream_options",
            "thread.item.updated",
        }


@pytest.mark.parametrize("trouble", [None, "save_item"])
@bounded
async def test_a_stored_item_that_has_gone_on_may_be_done_again(
    trouble: str | None, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    script = [emit(more(ITEM, "er")), pause(1), emit(finish(ITEM, "oldest"))]
    async with scripted_server(store, [OLD], script) as server:
        turn = await second_turn(server, {} if trouble is None else {trouble: once(fails())})

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: oldest",
            "user: more",
        ]
        assert told(turn) == [("thread.item.done", ITEM)]
        assert (turn.error is None) == (trouble is None)


@pytest.mark.parametrize("fails_itself", [False, True])
@bounded
async def test_the_note_of_a_stored_item_that_was_cut_names_it(
    fails_itself: bool, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    last = fail(OSError("no model")) if fails_itself else pause(60)
    async with scripted_server(store, [OLD], [emit(more(ITEM, "er")), last]) as server:
        turn = await second_turn(server, {}, stops=not fails_itself)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: older",
            "user: more",
            "note: failed" if fails_itself else "note: stopped",
        ]
        assert await ids_of_ending(store, turn) == [ITEM]


@bounded
async def test_the_note_names_a_finished_item_that_could_not_be_stored_before_it(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    store = TroubledStore()
    script = [pause(1), emit(finish("msg_2", "new"))]
    async with scripted_server(store, [OLD], script) as server:
        trouble = {"add_thread_item": fails(), "settle": once(fails())}
        turn = await second_turn(server, trouble)

        assert (await transcript(store, turn.thread_id))[3:] == ["assistant: new", "note: failed"]
        assert await ids_of_ending(store, turn) == ["msg_2"]


# --- What a hook adds --------------------------------------------------------------------------


@bounded
async def test_a_client_is_told_of_what_a_hook_has_added(autojump_clock: Any) -> None:
    class Server(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            added = message(Scene(thread, None, context), "(stopped)", "msg_added")
            await current_turn().keep([*pending_items, added])

    store = MemoryStore[Any]()
    async with (
        Server(store, scripted_server(store, [HELLO, pause(60)]).script) as server,
        sending(server) as turn,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(turn.read)
        await trio.sleep(1)
        await turn.stop()
        await turn.server_turn.ended.wait()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "assistant: (stopped)",
            "note: stopped",
        ]
    assert ("thread.item.done", "msg_added") in [
        (event.type, event.item.id)
        for event in turn.events
        if isinstance(event, ThreadItemDoneEvent)
    ]


# --- The first writes --------------------------------------------------------------------------


@bounded
async def test_a_cut_after_the_first_writes_keeps_its_reason_whatever_is_raised_beside_it(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """With coordination the thread is loaded again when the turn has it."""
    inner = MemoryStore[Any](cluster=MemoryCluster())
    store = TroubledStore(inner)

    async def trouble(call: Any) -> Any:
        with suppress(RuntimeError):
            if current_turn().has_begun:
                await raise_beside_the_cancellation(ValueError("lost on the way"))
        return await call()

    async with scripted_server(store, [HELLO, pause(3)]) as server:
        first = await ask(server)
        store.give(trouble, "load_thread")
        async with sending(server, "more", first.thread_id) as turn, trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            await trio.sleep(1)
            turn.server_turn.cancel()
        await turn.server_turn.settled.wait()

        assert (await transcript(inner, turn.thread_id))[2:] == ["user: more", "note: stopped"]
        assert turn.error is None
    assert "lost on the way" in caplog.text


@pytest.mark.parametrize("how", ["at-the-cut", "load-fails"])
@bounded
async def test_an_update_of_a_finished_item_that_was_not_performed_is_kept_and_told(
    how: str, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        yield finish("msg_2", "new")(Scene(thread, None, context))
        await trio.sleep(1)
        if how == "at-the-cut":
            current_turn().cancel()
        yield more("msg_2", "er")

    scripts = iter([scripted_server(MemoryStore[Any](), [OLD]).script, respond])
    store = TroubledStore()
    async with ScriptedServer(store, lambda *args: next(scripts)(*args)) as server:
        trouble = {} if how == "at-the-cut" else {"load_item": once(fails())}
        turn = await second_turn(server, trouble)

        assert (await transcript(store, turn.thread_id))[3] == "assistant: newer"
        assert turn.text == "newer"


@pytest.mark.parametrize("event", [more(ITEM, "er"), ThreadItemRemovedEvent(item_id=ITEM)])
@bounded
async def test_an_item_that_can_never_be_loaded_does_not_hold_its_thread(
    event: Any, autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def wrong(call: Any) -> Any:
        if ITEM in call.args:
            raise ValueError("it can't be read")
        return await call()

    store = TroubledStore()
    script = [emit(begin("msg_2", "new")), pause(1), emit(event)]
    async with scripted_server(store, [OLD], script) as server:
        turn = await second_turn(server, {"load_item": wrong, "delete_thread_item": fails()})
        with trio.fail_after(600):
            await turn.server_turn.settled.wait()

        assert (await transcript(store, turn.thread_id))[1:] == [
            "assistant: old",
            "user: more",
            "assistant: new",
            "note: failed",
        ]
    assert ITEM in caplog.text
