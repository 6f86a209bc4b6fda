"""One bad turn harms nobody else, and a slow one is named when it holds up the server's end."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import CancelReason, TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    Scene,
    ScriptedServer,
    Step,
    emit,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.testing._client_turn import ClientTurn
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartAnnotationAdded,
    AssistantMessageContentPartDone,
    AssistantMessageContentPartTextDelta,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    WidgetItem,
    WidgetRootUpdated,
    WidgetStreamingTextValueDelta,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
)
from chatkit_trio.widgets import DynamicWidgetRoot
from tests.transcript import lines, transcript

from .doubles import JournaledStore
from .scenes import (
    HELLO,
    ask,
    beside,
    bounded,
    cling,
    crash,
    message,
    receive_for,
    sending,
    sleep_shielded,
)

# --- Updates that the types forbid, made without a check ---------------------------------------

WIDGET = DynamicWidgetRoot.model_validate(
    {"type": "Card", "children": [{"type": "Text", "id": "text", "value": ""}]}
)


def bad_message(scene: Scene) -> ThreadItem:
    return message(scene, "b", "bad")


def bad_workflow(scene: Scene) -> ThreadItem:
    fields = scene.item_fields("workflow") | {"id": "bad"}
    return WorkflowItem(workflow=Workflow(type="custom", tasks=[]), **fields)


def bad_widget(scene: Scene) -> ThreadItem:
    return WidgetItem(widget=WIDGET, **scene.item_fields() | {"id": "bad"})


BAD_UPDATES: dict[str, tuple[Any, ThreadItemUpdate]] = {
    "delta": (
        bad_message,
        AssistantMessageContentPartTextDelta.model_construct(content_index=0, delta=None),
    ),
    "part": (
        bad_message,
        AssistantMessageContentPartAdded.model_construct(content_index=0, content=None),
    ),
    "text-of-part": (
        bad_message,
        AssistantMessageContentPartAdded.model_construct(
            content_index=0, content=AssistantMessageContent.model_construct(text=None)
        ),
    ),
    "text-of-part-done": (
        bad_message,
        AssistantMessageContentPartDone.model_construct(
            content_index=0, content=AssistantMessageContent.model_construct(text=None)
        ),
    ),
    "annotation": (
        bad_message,
        AssistantMessageContentPartAnnotationAdded.model_construct(
            content_index=0, annotation_index=0, annotation=None
        ),
    ),
    "task": (bad_workflow, WorkflowTaskAdded.model_construct(task_index=0, task=None)),
    "widget-text": (
        bad_widget,
        WidgetStreamingTextValueDelta.model_construct(component_id="text", delta=None, done=False),
    ),
}

UNREADABLE = (bad_widget, WidgetRootUpdated.model_construct(widget=None))
"""What can be written down and not be read again."""

BAD_KINDS = pytest.mark.parametrize("kind", BAD_UPDATES)


def bad_steps(make: Any, change: ThreadItemUpdate) -> list[Step]:
    update = ThreadItemUpdatedEvent.model_construct(
        type="thread.item.updated", item_id="bad", update=change
    )
    return [emit(lambda scene: ThreadItemAddedEvent(item=make(scene)), update)]


async def check_that_a_bad_update_harms_nobody(store: Store[Any], kind: str) -> None:
    """A good turn goes on; the bad one keeps its other items, and can be looked at and stopped."""
    bad = [HELLO, *bad_steps(*BAD_UPDATES[kind]), pause(60)]
    good = [say("Good", " answer", every=2)]
    async with scripted_server(store, bad, good) as server, sending(server) as turn:
        with trio.move_on_after(1):
            await turn.wait_for(lambda event: b'"bad"' in event.model_dump_json().encode())
        other = await ask(server)
        loaded = await ChatClient.of_server(server).thread(turn.thread_id or "")
        turn.server_turn.cancel()
        await turn.server_turn.settled.wait()
        stored = await transcript(store, turn.thread_id)

        assert other.text == "Good answer"
        assert await transcript(store, other.thread_id) == ["user: hi", "assistant: Good answer"]
        assert lines(loaded.items.data)[:2] == ["user: hi", "assistant: Hello"]
        assert stored[:2] == ["user: hi", "assistant: Hello"]
        assert len(stored) <= 4  # what is good of the bad item may be kept or not
        assert stored[-1] in ("note: stopped", "note: failed")


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@BAD_KINDS
@bounded
async def test_an_update_that_no_item_can_take_harms_no_other_turn_of_a_journaled_store(
    kind: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await check_that_a_bad_update_harms_nobody(JournaledStore(), kind)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@BAD_KINDS
@bounded
async def test_an_update_that_no_item_can_take_harms_no_other_turn_without_a_journal(
    kind: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await check_that_a_bad_update_harms_nobody(MemoryStore[Any](), kind)
    assert [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@bounded
async def test_an_update_that_no_item_can_take_harms_no_other_turn_on_sqlite(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await check_that_a_bad_update_harms_nobody(SQLiteStore(tmp_path / "chat.db"), "delta")


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings:UserWarning")
@pytest.mark.parametrize("bad", [*BAD_UPDATES.values(), UNREADABLE], ids=[*BAD_UPDATES, "widget"])
@bounded
async def test_a_crash_leaves_the_other_answers_beside_one_that_cannot_be_journaled(
    bad: Any, jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = [say("Good", " answer", every=2, finish=False), pause(60)]
    server = scripted_server(SQLiteStore(tmp_path / "chat.db"), [*bad_steps(*bad), pause(60)], good)
    async with server, sending(server) as turn:
        await receive_for(turn, 1)
        async with sending(server) as other:
            with trio.move_on_after(6):
                await other.read()
            after = crash(tmp_path / "chat.db", tmp_path / "after.db")

    async with after:
        assert await transcript(after.store, other.thread_id) == [
            "user: hi",
            "assistant: Good answer",
            "note: crashed",
        ]


# --- A server whose end waits for user code ----------------------------------------------------


SLOW_CLEANUP = 60.0


def slow_to_clean_up(thread: ThreadMetadata, _: Any, context: Any) -> AsyncIterator[Any]:
    async def respond() -> AsyncIterator[Any]:
        yield ThreadItemAddedEvent(item=message(Scene(thread, None, context), "Hello"))
        try:
            await trio.sleep_forever()
        finally:
            await sleep_shielded(SLOW_CLEANUP)

    return respond()


class Watched:
    """Leaves a server, and takes down at times what the log and the store have."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.told: dict[str, bool] = {}
        self.stored: dict[str, list[str]] = {}

    async def note(self, store: Store[Any], thread_ids: list[str], seconds: float) -> None:
        await trio.sleep(seconds)
        for thread_id in thread_ids:
            self.stored[thread_id] = await transcript(store, thread_id)
            self.told[thread_id] = any(
                record.levelno >= logging.WARNING and thread_id in record.getMessage()
                for record in self._caplog.records
            )


async def begun(server: ScriptedServer, turns: list[ClientTurn]) -> None:
    """Send a message and stay; leave when the server ends the stream."""
    async with sending(server) as turn:
        turns.append(turn)
        await turn.read()


@pytest.mark.parametrize("count", [1, 2])
@bounded
async def test_a_server_that_waits_for_the_cleanup_of_turns_names_them_in_the_log(
    count: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, watched, turns = MemoryStore[Any](), Watched(caplog), list[ClientTurn]()
    policy = TurnPolicy(settle_timeout=5)
    async with trio.open_nursery() as nursery:
        async with ScriptedServer(store, slow_to_clean_up, policy=policy) as server:
            for _ in range(count):
                nursery.start_soon(begun, server, turns)
            await trio.sleep(1)
            ids = [turn.thread_id or "" for turn in turns]
            nursery.start_soon(watched.note, store, ids, 5.5)
        left_at = trio.current_time()

    assert left_at == pytest.approx(1 + SLOW_CLEANUP)
    for thread_id in ids:
        assert watched.stored[thread_id] == ["user: hi", "assistant: Hello", "note: shutdown"]
        assert watched.told[thread_id]


@bounded
async def test_a_server_that_waits_for_a_task_of_a_turn_names_it_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, watched, turns = MemoryStore[Any](), Watched(caplog), list[ClientTurn]()
    script = [HELLO, beside(cling, SLOW_CLEANUP), pause(600)]
    policy = TurnPolicy(settle_timeout=5)
    async with (
        trio.open_nursery() as nursery,
        scripted_server(store, script, policy=policy) as server,
    ):
        nursery.start_soon(begun, server, turns)
        await trio.sleep(1)
        ids = [turn.thread_id or "" for turn in turns]
        nursery.start_soon(watched.note, store, ids, 5.5)

    assert watched.stored[ids[0]] == ["user: hi", "assistant: Hello", "note: shutdown"]
    assert watched.told[ids[0]]


@bounded
async def test_a_server_that_waits_for_a_turn_settled_long_ago_names_it_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, watched = MemoryStore[Any](), Watched(caplog)
    policy = TurnPolicy(settle_timeout=5)
    async with trio.open_nursery() as nursery:
        async with ScriptedServer(store, slow_to_clean_up, policy=policy) as server:
            async with sending(server) as turn:
                with trio.move_on_after(1):
                    await turn.read()
            await trio.sleep(20)
            caplog.clear()
            nursery.start_soon(watched.note, store, [turn.thread_id or ""], 5.5)
        left_at = trio.current_time()

    assert left_at == pytest.approx(1 + SLOW_CLEANUP)
    assert list(watched.stored.values()) == [["user: hi", "assistant: Hello", "note: disconnected"]]
    assert list(watched.told.values()) == [True]


@bounded
async def test_a_server_that_waits_for_a_finished_turns_task_names_it_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer is complete; only a task beside it is left, and is slow to go."""
    store, watched, turns = MemoryStore[Any](), Watched(caplog), list[ClientTurn]()
    script = [beside(cling, SLOW_CLEANUP), say("Hello")]
    policy = TurnPolicy(settle_timeout=5)
    async with (
        trio.open_nursery() as nursery,
        scripted_server(store, script, policy=policy) as server,
    ):
        nursery.start_soon(begun, server, turns)
        await trio.sleep(1)
        ids = [turn.thread_id or "" for turn in turns]
        nursery.start_soon(watched.note, store, ids, 5.5)

    assert watched.stored[ids[0]] == ["user: hi", "assistant: Hello"]
    assert watched.told[ids[0]]


@bounded
async def test_a_server_that_need_not_wait_long_names_no_turn(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    store, turns = MemoryStore[Any](), list[ClientTurn]()
    script = [HELLO, beside(cling, 2.0), pause(600)]
    policy = TurnPolicy(settle_timeout=5)
    async with (
        trio.open_nursery() as nursery,
        scripted_server(store, script, policy=policy) as server,
    ):
        nursery.start_soon(begun, server, turns)
        await trio.sleep(1)

    assert turns[0].server_turn.cancel_reason is CancelReason.SHUTDOWN
    assert await transcript(store, turns[0].thread_id) == [
        "user: hi",
        "assistant: Hello",
        "note: shutdown",
    ]
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# --- Several errors at once --------------------------------------------------------------------


@bounded
async def test_an_error_beside_the_one_that_the_user_is_told_of_is_in_the_log(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail_with(error: Exception) -> None:
        raise error

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_with, CustomStreamError("Sorry, no more tokens."))
            nursery.start_soon(fail_with, OSError("the disk is gone"))
        for event in ():
            yield event

    async with ScriptedServer(MemoryStore[Any](), respond) as server:
        turn = await ask(server)

    assert turn.error is not None
    assert turn.error.message == "Sorry, no more tokens."
    logged = [str(record.exc_info) for record in caplog.records if record.exc_info]
    assert any("the disk is gone" in text for text in logged)
