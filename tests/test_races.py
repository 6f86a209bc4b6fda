"""Bad timing and bad user code: what once broke the promise, each in the smallest test that did.

Every test here either failed before a fix or holds a door shut that is easily opened again. The
ways in which a turn ends in good order are in test_cancellation.
"""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import (
    ChatKitServer,
    StreamingResult,
    TurnPolicy,
    current_turn,
)
from chatkit_trio.store import StoreItemType, default_generate_id
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    FaultyStore,
    JumpClock,
    Scene,
    ScriptedServer,
    SlowStore,
    Step,
    StoreWrapper,
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
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ErrorEvent,
    HiddenContextItem,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    WidgetItem,
    WidgetStreamingTextValueDelta,
)
from chatkit_trio.widgets import DynamicWidgetRoot

from .transcript import transcript

_T = TypeVar("_T")

HELLO = say("Hel", "lo", finish=False)


def message(scene: Scene, text: str = "", item_id: str | None = None) -> AssistantMessageItem:
    content = [AssistantMessageContent(text=text)] if text else []
    fields = scene.item_fields() | ({} if item_id is None else {"id": item_id})
    return AssistantMessageItem(content=content, **fields)


def more(item: ThreadItem, text: str) -> ThreadItemUpdatedEvent:
    delta = AssistantMessageContentPartTextDelta(content_index=0, delta=text)
    return ThreadItemUpdatedEvent(item_id=item.id, update=delta)


async def answered(server: ChatKitServer[Any], text: str = "hi") -> ClientTurn:
    async with ChatClient.of_server(server).send(text) as turn:
        await turn.read()
    return turn


async def stopped(server: ChatKitServer[Any], after: float = 1.0) -> ClientTurn:
    """Send a message, read on, stop the answer after some seconds, and read to the end."""
    async with ChatClient.of_server(server).send("hi") as turn, trio.open_nursery() as nursery:
        nursery.start_soon(turn.read)
        await trio.sleep(after)
        await turn.stop()
    return turn


# --- Nothing hidden leaves ---------------------------------------------------------------------


async def test_a_hidden_item_that_was_not_finished_is_kept_and_never_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def hidden(scene: Scene) -> ThreadItemAddedEvent:
        item = HiddenContextItem(content="the user is angry", **scene.item_fields())
        return ThreadItemAddedEvent(item=item)

    store = MemoryStore[Any]()
    async with scripted_server(store, [HELLO, emit(hidden), pause(9)]) as server:
        turn = await stopped(server)

        assert b"angry" not in b"".join(turn.frames)
        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "hidden_context_item",
            "note: stopped",
        ]


# --- What was sent is stored -------------------------------------------------------------------


async def test_what_respond_yields_after_the_cut_is_not_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        item = message(Scene(thread, None, context))
        yield ThreadItemAddedEvent(item=item)
        yield more(item, "before")
        with trio.CancelScope(shield=True):
            await trio.sleep(1.01)  # a payment, say: it has to be carried through
        yield more(item, " after")

    store = MemoryStore[Any]()
    async with ScriptedServer(SlowStore(store, 0.1), respond) as server:
        turn = await stopped(server, 1.15)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: before",
            "note: stopped",
        ]
        assert b" after" not in b"".join(turn.frames)
        assert turn.text == "before"


async def test_a_piece_that_arrives_as_the_user_stops_is_sent_and_stored_or_neither(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        item = message(Scene(thread, None, context))
        yield ThreadItemAddedEvent(item=item)
        for _number in range(3):
            await trio.sleep(0.5)
            yield more(item, "x")

    store = MemoryStore[Any]()
    async with ScriptedServer(SlowStore(store, 0.01), respond) as server:
        for _ in range(30):
            turn = await stopped(server, 1.0 + 0.02)
            sent = b"".join(turn.frames).count(b'"delta":"x"')

            assert (await transcript(store, turn.thread_id))[1] == "assistant: " + "x" * sent


async def test_a_respond_that_swallows_its_cancellation_and_goes_on_yielding_is_closed(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        item = message(Scene(thread, None, context))
        yield ThreadItemAddedEvent(item=item)
        while True:
            with suppress(BaseException):  # the mistake
                await trio.sleep(0.3)
            yield more(item, "x")

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        turn = await stopped(server)
        with trio.fail_after(10):
            await turn.server_turn.ended.wait()

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            f"assistant: {turn.text}",
            "note: stopped",
        ]


async def test_an_item_that_was_finished_as_the_turn_was_cut_is_announced_as_done(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class HangingOnce(StoreWrapper[Any]):
        """A store whose first added answer takes longer than the turn will wait."""

        async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
            if name == "add_thread_item" and current_turn().has_begun:
                await trio.sleep(100)
            return await call()

    store = MemoryStore[Any]()
    async with scripted_server(HangingOnce(store), [say("Hel", "lo")]) as server:
        turn = await stopped(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]
        done = [event for event in turn.events if isinstance(event, ThreadItemDoneEvent)]
        assert [event.item.type for event in done] == ["user_message", "assistant_message"]


# --- One bad turn harms nobody else ------------------------------------------------------------


WIDGET = DynamicWidgetRoot.model_validate(
    {"type": "Card", "children": [{"type": "Text", "id": "text", "value": ""}]}
)


def raising(error: BaseException) -> Step:
    def act(scene: Scene) -> None:
        raise error

    return do(act)


def set_status(scene: Scene) -> None:
    scene.thread.status = "closed"  # type: ignore[assignment]


def set_metadata(scene: Scene) -> None:
    scene.thread.metadata["lock"] = trio.Lock()


@pytest.mark.parametrize(
    "bad_step",
    [
        raising(CustomStreamError("half an emoji: \ud83d")),
        raising(CustomStreamError(ValueError("not a text"))),  # type: ignore[arg-type]
        raising(asyncio.CancelledError()),
        raising(GeneratorExit()),
        raising(StopAsyncIteration()),
        raising(BaseExceptionGroup("", [asyncio.CancelledError(), ValueError()])),
        do(set_status),
        do(set_metadata),
    ],
    ids=[
        "surrogate",
        "not-a-text",
        "asyncio-cancelled",
        "generator-exit",
        "stop-async-iteration",
        "group",
        "thread-status",
        "thread-metadata",
    ],
)
async def test_what_goes_wrong_in_one_respond_costs_neither_its_answer_nor_another_turn(
    bad_step: Step, jump_clock: JumpClock, tmp_path: Path
) -> None:
    store = SQLiteStore[Any](tmp_path / "chat.db")
    bad = [HELLO, bad_step, pause(1), HELLO]
    async with scripted_server(store, [say("Good", " answer", every=2)], bad) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as other:
            await other.read(3)
            turn = await answered(server)
            await other.read()

        assert other.text == "Good answer"
        assert turn.error is not None
        assert turn.thread_id is not None
        stored = await transcript(store, turn.thread_id)
        assert stored[:2] == ["user: hi", "assistant: Hello"]
        assert stored[-1] == "note: failed"
        assert (await client.thread(turn.thread_id)).status.type == "active"


async def test_a_wrong_update_of_an_unfinished_widget_costs_neither_the_answer_nor_the_server(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(scene: Scene) -> ThreadItemAddedEvent:
        return ThreadItemAddedEvent(
            item=WidgetItem(widget=WIDGET, **scene.item_fields() | {"id": "wdg_1"})
        )

    update = WidgetStreamingTextValueDelta(component_id="no such", delta="x", done=False)
    wrong = ThreadItemUpdatedEvent(item_id="wdg_1", update=update)
    store = SQLiteStore[Any](tmp_path / "chat.db")  # its journal reads the widget meanwhile
    async with scripted_server(store, [HELLO, emit(begin, wrong), pause(9)]) as server:
        turn = await stopped(server, 3)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "widget",
            "note: stopped",
        ]
    assert "no such" in caplog.text


@pytest.mark.filterwarnings("ignore:.*garbage collected:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_scope_that_an_inner_generator_holds_across_its_yield_ends_its_turn_only(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def inner(item: ThreadItem) -> AsyncIterator[Any]:
        with trio.move_on_after(1):
            while True:
                yield more(item, "x")  # noqa: ASYNC119
                await trio.lowlevel.checkpoint()

    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        item = message(Scene(thread, None, context))
        yield ThreadItemAddedEvent(item=item)
        async for event in inner(item):
            yield event
            yield ThreadItemDoneEvent(item=message(Scene(thread, None, context), "y"))

    store = MemoryStore[Any]()
    async with ScriptedServer(SlowStore(store, 0.3), respond) as server:
        turn = await answered(server)

        stored = await transcript(store, turn.thread_id)
        assert turn.is_complete
        assert "assistant: xxx" in stored[-2]
        assert stored[-1] == "note: failed"


async def test_keyboard_interrupt_in_respond_settles_every_turn_and_ends_the_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    script = [HELLO, pause(1), raising(KeyboardInterrupt())]
    threads: list[str | None] = []
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
        async with scripted_server(store, [HELLO, pause(9)], script) as server:
            client = ChatClient.of_server(server)
            async with client.send("hi") as other:
                await other.wait_for(ThreadItemAddedEvent)
                async with client.send("hi") as turn:
                    await turn.read(3)
                    threads += [other.thread_id, turn.thread_id]
                    await trio.sleep_forever()

    assert caught.group_contains(KeyboardInterrupt)
    for thread_id, reason in zip(threads, ["disconnected", "failed"], strict=True):
        assert await transcript(store, thread_id) == [
            "user: hi",
            "assistant: Hello",
            f"note: {reason}",
        ]


async def test_an_item_of_another_thread_does_not_cost_the_rest_of_the_answer(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def foreign(scene: Scene) -> ThreadItemAddedEvent:
        item = message(scene, "not mine").model_copy(update={"thread_id": "thr_other"})
        return ThreadItemAddedEvent(item=item)

    store = MemoryStore[Any]()
    async with scripted_server(store, [HELLO, emit(foreign), pause(9)]) as server:
        turn = await stopped(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "assistant: not mine",
            "note: stopped",
        ]


async def test_a_store_that_makes_no_id_for_the_note_does_not_cost_the_answer(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class OwnIds(MemoryStore[Any]):
        def generate_item_id(
            self, item_type: StoreItemType, thread: ThreadMetadata, context: Any
        ) -> str:
            return {"message": default_generate_id("message")}[item_type]

    store = OwnIds()
    async with scripted_server(store, [HELLO, pause(9)]) as server:
        turn = await stopped(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


async def test_a_hook_that_waits_for_its_own_turn_leaves_it_to_the_default(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Server(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            await self.stop(thread.id)

    store = MemoryStore[Any]()
    script = scripted_server(store, [HELLO, pause(9)]).script
    async with Server(store, script) as server:
        turn = await stopped(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


# --- Stores that fail --------------------------------------------------------------------------


async def test_a_settling_that_fails_after_it_has_happened_stores_one_note(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = FaultyStore(memory, operations=["settle"], happens=True)
    async with scripted_server(store, [HELLO, pause(9)]) as server:
        turn = await stopped(server)

        assert await transcript(memory, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


async def test_a_replacement_whose_write_failed_is_made_up_for(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStore[Any]()
    store = FaultyStore(memory, operations=["save_item"])
    script = [
        emit(
            lambda scene: ThreadItemDoneEvent(item=message(scene, "draft", "msg_1")),
            lambda scene: ThreadItemReplacedEvent(item=message(scene, "final", "msg_1")),
        )
    ]
    async with scripted_server(store, script) as server:
        turn = await answered(server)

        assert await transcript(memory, turn.thread_id) == ["user: hi", "assistant: final"]


async def test_a_store_that_hangs_again_and_again_holds_a_stopped_turn_for_the_settle_timeout(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class Hanging(StoreWrapper[Any]):
        async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
            if name == "add_thread_item" and current_turn().has_begun:
                await trio.sleep(2)
            if name == "save_thread" and current_turn().has_begun:
                await trio.sleep_forever()
            return await call()

    memory = MemoryStore[Any]()
    hello = emit(lambda scene: ThreadItemDoneEvent(item=message(scene, "Hello")))
    script = [set_title("A title"), hello, pause(9)]
    async with scripted_server(Hanging(memory), script) as server:
        with trio.fail_after(10):
            turn = await stopped(server, 1)

        assert (await transcript(memory, turn.thread_id))[:2] == ["user: hi", "assistant: Hello"]
        thread = await memory.load_thread(turn.thread_id or "", None)
        assert thread.title == "A title"


async def test_a_turn_that_cannot_be_recorded_ends_with_an_error(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = FaultyStore(SQLiteStore[Any](tmp_path / "chat.db"), operations=["coordination.begin"])
    async with scripted_server(store, [say("Hello")]) as server:
        bad = await answered(server)
        good = await answered(server)

        assert isinstance(bad.events[-1], ErrorEvent)
        assert good.text == "Hello"
        assert len(server.live_turns) == 0


async def test_a_title_that_a_task_of_the_turn_sets_after_respond_survives_a_stop(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def find_title(thread: ThreadMetadata) -> None:
        await trio.sleep(0.5)
        thread.title = "Found"
        await trio.sleep_forever()

    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        current_turn().nursery.start_soon(find_title, thread)
        yield ThreadItemDoneEvent(item=message(Scene(thread, None, context), "Hello"))

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        turn = await stopped(server)

        assert (await store.load_thread(turn.thread_id or "", None)).title == "Found"
        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]


async def test_a_task_of_the_turn_that_is_slow_to_end_holds_up_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def cling(thread: ThreadMetadata) -> None:
        thread.title = "Found"
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(60)

    async def respond(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
        current_turn().nursery.start_soon(cling, thread)
        yield ThreadItemDoneEvent(item=message(Scene(thread, None, context), "Hello"))

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        began_at = trio.current_time()
        turn = await stopped(server)
        thread_id = turn.thread_id or ""

        assert trio.current_time() == pytest.approx(began_at + 1)
        assert turn.thread is not None
        assert turn.thread.title == "Found"
        assert (await store.load_thread(thread_id, None)).title == "Found"
        assert await transcript(store, thread_id) == ["user: hi", "assistant: Hello"]


# --- Reading -----------------------------------------------------------------------------------


async def test_a_watcher_that_leaves_before_it_has_read_does_not_count_as_a_reader(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    policy = TurnPolicy(on_disconnect=5.0)
    async with scripted_server(store, [HELLO, pause(60)], policy=policy) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read(3)
        assert turn.thread_id is not None
        async with client.watch(turn.thread_id):
            await trio.sleep(1)
        await trio.sleep(5.1)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: disconnected",
        ]


async def test_two_tasks_that_read_one_result_get_every_frame_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    frames: list[bytes] = []

    async def read(result: StreamingResult) -> None:
        async for frame in result:
            frames.append(frame)  # noqa: PERF401  (as it comes)

    async with scripted_server(MemoryStore(), [say(*"Hello there", every=0.1)]) as server:
        expected = len((await answered(server)).frames)
        body = b'{"type":"threads.create","params":{"input":{"content":[{"type":"input_text",'
        body += b'"text":"hi"}],"attachments":[],"inference_options":{}}}}'
        result = await server.process(body, None)
        assert isinstance(result, StreamingResult)
        async with result, trio.open_nursery() as nursery:
            nursery.start_soon(read, result)
            nursery.start_soon(read, result)

    assert len(frames) == expected


async def test_a_page_that_loads_while_an_item_is_being_stored_shows_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    script = [say("Hello"), pause(9)]
    slow = SlowStore(store, 1.0)
    async with scripted_server(slow, script) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.wait_for(ThreadItemAddedEvent)
            await trio.sleep(0.1)
            assert turn.thread_id is not None
            slow.seconds = 0.0
            thread = await client.thread(turn.thread_id)

    assert [item.type for item in thread.items.data] == ["user_message", "assistant_message"]


async def test_a_page_that_loads_as_the_answer_ends_shows_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = MemoryStore[Any]()
    slow = SlowStore(store, 0.0, answer_seconds=0.0)
    async with scripted_server(slow, [say("Hel", "lo", every=1.0)]) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.read(5)
            assert turn.thread_id is not None
            await trio.sleep(0.95)
            slow.answer_seconds = 0.5
            thread = await client.thread(turn.thread_id)

    assert [item.type for item in thread.items.data] == ["user_message", "assistant_message"]


# --- Who else works on the thread --------------------------------------------------------------


async def test_a_client_whose_message_is_queued_at_the_shutdown_is_told_to_retry(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = TurnPolicy(on_busy="queue")
    async with scripted_server(MemoryStore(), [HELLO, pause(60)], policy=policy) as server:
        client = ChatClient.of_server(server)
        async with client.send("first") as first:
            await first.read(3)
            async with (
                client.send("second", first.thread_id) as second,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(second.read)
                await trio.sleep(1)
                await server.drain(1)

    assert second.error is not None
    assert second.error.allow_retry


async def _send(client: ChatClient, text: str, thread_id: str) -> None:
    async with client.send(text, thread_id) as turn:
        await turn.read()


async def test_a_thread_with_queued_messages_is_deleted_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    policy = TurnPolicy(on_busy="queue")
    store = MemoryStore[Any]()
    async with scripted_server(store, [HELLO, pause(60)], policy=policy) as server:
        client = ChatClient.of_server(server)
        async with client.send("first") as first, trio.open_nursery() as nursery:
            await first.read(3)
            thread_id = first.thread_id
            assert thread_id is not None
            for text in ("second", "third"):
                nursery.start_soon(_send, client, text, thread_id)
            await trio.sleep(1)
            with trio.fail_after(5):
                await client.delete(thread_id)
        assert await client.threads() == []


async def test_a_rename_while_a_turn_begins_is_not_undone_by_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def note(scene: Scene) -> None:
        scene.thread.metadata["seen"] = True

    store = MemoryStore[Any]()
    slow = SlowStore(store, 0.0)
    async with scripted_server(slow, [say("Hi")], [do(note), say("Hello")]) as server:
        client = ChatClient.of_server(server)
        thread_id = (await answered(server)).thread_id
        assert thread_id is not None
        async with client.send("more", thread_id) as turn, trio.open_nursery() as nursery:
            slow.seconds = 1.0
            nursery.start_soon(turn.read)
            await trio.sleep(2.5)  # the thread is loaded, the message is being stored
            slow.seconds = 0.0
            await client.rename(thread_id, "Renamed")

        thread = await store.load_thread(thread_id, None)
        assert (thread.title, thread.metadata) == ("Renamed", {"seen": True})


async def test_a_rename_while_a_turn_settles_is_not_undone_by_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class SlowSettle(StoreWrapper[Any]):
        async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
            if name == "settle":
                await trio.sleep(2)
            return await call()

    def note(scene: Scene) -> None:
        scene.thread.metadata["seen"] = True

    store = MemoryStore[Any]()
    async with scripted_server(SlowSettle(store), [HELLO, do(note), pause(9)]) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn, trio.open_nursery() as nursery:
            await turn.read(4)
            await trio.sleep(1)  # the script has changed the thread, and waits
            nursery.start_soon(turn.stop)
            await trio.sleep(1)
            assert turn.thread_id is not None
            await client.rename(turn.thread_id, "Renamed")

        thread = await store.load_thread(turn.thread_id, None)
        assert (thread.title, thread.metadata) == ("Renamed", {"seen": True})


async def test_respond_may_stop_its_own_thread(autojump_clock: trio.testing.MockClock) -> None:
    async def stop(scene: Scene) -> None:
        await server.stop(scene.thread.id)

    store = MemoryStore[Any]()
    async with scripted_server(store, [HELLO, do(stop), say("never")]) as server:
        with trio.fail_after(5):
            turn = await answered(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


async def test_respond_may_cancel_its_own_turn_and_go_on_to_the_next_event(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def cancel(scene: Scene) -> None:
        current_turn().cancel()

    store = MemoryStore[Any]()
    async with scripted_server(store, [HELLO, do(cancel), say("never")]) as server:
        with trio.fail_after(5):
            turn = await answered(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


async def test_respond_may_ask_the_server_on_another_thread(
    autojump_clock: trio.testing.MockClock,
) -> None:
    seen: list[str] = []

    async def ask(scene: Scene) -> None:
        if scene.message is not None and scene.message.content[0].text == "hi":
            seen.append((await answered(server, "sub-question")).text)
            assert current_turn().thread_id == scene.thread.id

    store = MemoryStore[Any]()
    async with scripted_server(store, [do(ask), say("Hello")]) as server:
        turn = await answered(server)

    assert (turn.text, seen) == ("Hello", ["Hello"])


async def test_a_thousand_turns_leave_nothing_behind(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turns: list[weakref.ref[Any]] = []
    async with scripted_server(MemoryStore(), [say("Hi")]) as server:
        for _ in range(1000):
            turn = await answered(server)
            turns.append(weakref.ref(turn.server_turn))
        del turn
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()

        assert [ref for ref in turns if ref() is not None] == []
        assert len(server.live_turns) == 0
        assert vars(server.live_turns)["_admission"] == {}
