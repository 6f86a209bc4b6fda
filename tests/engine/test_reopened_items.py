"""Items that go on after they were stored: kept in a crash, shown to late pages, kept small."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from chatkit_trio.actions import Action
from chatkit_trio.server import TurnPolicy
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    ClientTurn,
    JumpClock,
    Scene,
    ScriptedServer,
    SlowStore,
    Step,
    emit,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.types import (
    CustomTask,
    ProgressUpdateEvent,
    SyncCustomActionResponse,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    WidgetComponentUpdated,
    WidgetItem,
    WidgetRootUpdated,
    WidgetStreamingTextValueDelta,
    Workflow,
    WorkflowItem,
    WorkflowTaskAdded,
    WorkflowTaskUpdated,
)
from chatkit_trio.web import create_app
from chatkit_trio.widgets import DynamicWidgetComponent, DynamicWidgetRoot
from tests.transcript import lines, transcript
from tests.web.http import client_of, events_of

from .doubles import JournaledStore, TroubledStore
from .parts import PRESS
from .scenes import ask, bounded, crash, receive_for, sending, thread_of

ITEM = "item_1"


def card(*texts: str) -> DynamicWidgetRoot:
    children = [
        {"type": "Markdown", "id": f"text_{number}", "value": text}
        for number, text in enumerate(texts)
    ]
    return DynamicWidgetRoot.model_validate({"type": "Card", "children": children})


def task(title: str, status: str = "complete") -> CustomTask:
    return CustomTask.model_validate({"title": title, "status_indicator": status})


def workflow(scene: Scene) -> ThreadItemDoneEvent:
    plan = Workflow(type="custom", tasks=[task("one")])
    item = WorkflowItem(workflow=plan, **scene.item_fields("workflow") | {"id": ITEM})
    return ThreadItemDoneEvent(item=item)


def widget(scene: Scene) -> ThreadItemDoneEvent:
    item = WidgetItem(widget=card("Hello"), **scene.item_fields() | {"id": ITEM})
    return ThreadItemDoneEvent(item=item)


def update(change: ThreadItemUpdate) -> Step:
    return emit(ThreadItemUpdatedEvent(item_id=ITEM, update=change))


def delta(text: str) -> WidgetStreamingTextValueDelta:
    return WidgetStreamingTextValueDelta(component_id="text_0", delta=text, done=False)


def said(item: ThreadItem) -> str:
    """Return what the workflow or widget says, in short."""
    if isinstance(item, WorkflowItem):
        return ", ".join(str(getattr(each, "title", None)) for each in item.workflow.tasks)
    assert isinstance(item, WidgetItem)
    return " | ".join(child["value"] for child in item.widget.model_dump()["children"])


# What a later turn does to the item: at once, and after one checkpoint has been written.
GROWING = {
    "workflow": (
        workflow,
        [
            update(WorkflowTaskAdded(task_index=1, task=task("two", "loading"))),
            update(WorkflowTaskAdded(task_index=2, task=task("three", "loading"))),
        ],
        ["one, two", "one, two, three"],
    ),
    "workflow-task": (
        workflow,
        [
            update(WorkflowTaskUpdated(task_index=0, task=task("one, again"))),
            update(WorkflowTaskUpdated(task_index=0, task=task("one, a third time"))),
        ],
        ["one, again", "one, a third time"],
    ),
    "widget": (widget, [update(delta(", ")), update(delta("world"))], ["Hello, ", "Hello, world"]),
}

GROWING_KINDS = pytest.mark.parametrize("kind", GROWING)


def growing_script(kind: str) -> tuple[list[Step], list[Step]]:
    make, (first, second), _ = GROWING[kind]
    return [emit(make)], [first, pause(2), second, pause(60)]


@pytest.mark.parametrize("seconds", [1, 3])
@GROWING_KINDS
@bounded
async def test_an_item_that_goes_on_in_a_later_turn_survives_a_crash(
    kind: str, seconds: int, jump_clock: JumpClock, tmp_path: Path
) -> None:
    server = scripted_server(SQLiteStore(tmp_path / "chat.db"), *growing_script(kind))
    async with server:
        thread_id = await thread_of(server)
        async with sending(server, "go on", thread_id) as turn:
            with trio.move_on_after(seconds):
                await turn.read()
            after = crash(tmp_path / "chat.db", tmp_path / "after.db")

    async with after:
        page = await after.store.load_thread_items(thread_id, None, 100, "asc", None)
        items = await ChatClient.of_server(after).items(thread_id)

    assert [item.type for item in page.data] == [
        "user_message",
        kind.split("-")[0],
        "user_message",
        "sdk_hidden_context",
    ]
    assert lines(page.data)[-1] == "note: crashed"
    assert said(page.data[1]) == GROWING[kind][2][seconds // 3]
    assert b"loading" not in items[1].model_dump_json().encode()


@GROWING_KINDS
@bounded
async def test_an_item_that_was_stored_in_the_same_turn_and_goes_on_survives_a_crash(
    kind: str, jump_clock: JumpClock, tmp_path: Path
) -> None:
    make, growth, expected = GROWING[kind]
    script = [emit(make), *growth, pause(60)]
    server = scripted_server(SQLiteStore(tmp_path / "chat.db"), script)
    async with server, sending(server) as turn:
        with trio.move_on_after(3):
            await turn.read()
        after = crash(tmp_path / "chat.db", tmp_path / "after.db")

    async with after:
        page = await after.store.load_thread_items(turn.thread_id or "", None, 100, "asc", None)

    assert [item.id for item in page.data if item.id == ITEM] == [ITEM]
    assert said(page.data[1]) == expected[1]
    assert lines(page.data)[-1] == "note: crashed"


@bounded
async def test_an_item_that_goes_on_and_one_that_has_begun_survive_a_crash_together(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    make, growth, expected = GROWING["workflow"]
    script = [*growth, say("Hel", "lo", finish=False), pause(60)]
    server = scripted_server(SQLiteStore(tmp_path / "chat.db"), [emit(make)], script)
    async with server:
        thread_id = await thread_of(server)
        async with sending(server, "go on", thread_id) as turn:
            with trio.move_on_after(3):
                await turn.read()
            after = crash(tmp_path / "chat.db", tmp_path / "after.db")

    async with after:
        page = await after.store.load_thread_items(thread_id, None, 100, "asc", None)

    assert said(page.data[1]) == expected[1]
    assert lines(page.data)[2:] == ["user: go on", "assistant: Hello", "note: crashed"]


@bounded
async def test_an_item_that_has_not_changed_is_not_written_to_the_journal_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    checkpoints: list[float] = []

    class Counting(TroubledStore):
        async def around(self, name: str, call: Any) -> Any:
            if name == "journal.checkpoint":
                checkpoints.append(trio.current_time())
            return await super().around(name, call)

    server = scripted_server(Counting(JournaledStore()), *growing_script("workflow"))
    async with server:
        thread_id = await thread_of(server)
        async with sending(server, "go on", thread_id) as turn:
            with trio.move_on_after(29.8):
                await turn.read()

    assert 2 <= len(checkpoints) <= 4  # the updates come at the start and after 2 seconds
    assert max(checkpoints) < 4


@GROWING_KINDS
@bounded
async def test_a_page_that_loads_meanwhile_shows_how_far_a_stored_item_has_grown(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    server = scripted_server(MemoryStore[Any](), *growing_script(kind))
    async with server:
        thread_id = await thread_of(server)
        async with sending(server, "go on", thread_id) as turn:
            with trio.move_on_after(3):
                await turn.read()
            loaded = (await ChatClient.of_server(server).thread(thread_id)).items.data

    kinds = ["user_message", kind.split("-")[0], "user_message"]
    assert [item.type for item in loaded] == kinds
    assert said(loaded[1]) == GROWING[kind][2][1]


@GROWING_KINDS
@bounded
async def test_a_late_watcher_is_shown_how_far_a_stored_item_has_grown(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    """So little is kept of the stream that the updates themselves are gone."""
    make, growth, expected = GROWING[kind]
    noise = emit(*[ProgressUpdateEvent(text="x" * 500)] * 20)
    policy = TurnPolicy(max_replay_bytes=1000)
    script = [*growth, noise, pause(60)]
    server = scripted_server(MemoryStore[Any](), [emit(make)], script, policy=policy)
    async with client_of(create_app(server)) as client:
        thread_id = await thread_of(server)
        async with sending(server, "go on", thread_id) as turn:
            with trio.move_on_after(3):
                await turn.read()
            async with client.open("GET", f"/chatkit/threads/{thread_id}/turn") as response:
                body = b""
                with trio.move_on_after(1):
                    while True:
                        body += await response.connection.receive()

    shown = [
        event.data["item"]
        for event in events_of(body)
        if event.data.get("item", {}).get("id") == ITEM
    ]
    assert shown
    model = WorkflowItem if kind.startswith("workflow") else WidgetItem
    assert said(model.model_validate(shown[-1])) == expected[1]


# --- A button is pressed in a widget that goes on -----------------------------------------------


class SwitchServer(ScriptedServer):
    """Its sync action turns the second text of a widget to "on", and leaves the first."""

    async def sync_action(
        self,
        thread: ThreadMetadata,
        action: Action[str, Any],
        sender: WidgetItem | None,
        context: Any,
    ) -> SyncCustomActionResponse:
        assert sender is not None
        text, _ = said(sender).split(" | ")
        return SyncCustomActionResponse(
            updated_item=sender.model_copy(update={"widget": card(text, "on")})
        )


def switch(scene: Scene) -> ThreadItemDoneEvent:
    item = WidgetItem(widget=card("", "off"), **scene.item_fields() | {"id": ITEM})
    return ThreadItemDoneEvent(item=item)


@asynccontextmanager
async def switching(
    store: Store[Any], *, makes: bool = False, seconds: float = 1.0
) -> AsyncIterator[tuple[SwitchServer, ClientTurn]]:
    """Give a server and a turn that streams into a widget of its own, or of an earlier turn."""
    flow = [step for letter in "abc" for step in (update(delta(letter)), pause(seconds))]
    first, *rest = [[emit(switch), *flow]] if makes else [[emit(switch)], flow]
    server = SwitchServer(store, scripted_server(store, first, *rest).script)
    async with server:
        thread_id = None if makes else await thread_of(server)
        async with sending(server, "go on", thread_id) as turn:
            await turn.wait_for(lambda event: '"delta":"a"' in event.model_dump_json())
            yield server, turn


async def press(server: SwitchServer, thread_id: str) -> str:
    answer = await ChatClient.of_server(server).act_and_wait(thread_id, PRESS, ITEM)
    assert answer.updated_item is not None
    return said(answer.updated_item)


@pytest.mark.parametrize("makes", [True, False], ids=["in its turn", "in a later turn"])
@pytest.mark.parametrize("end", ["finished", "stopped"])
@pytest.mark.parametrize("pressed", ["its node", "another node"])
@bounded
async def test_what_a_sync_action_makes_of_a_widget_that_goes_on_stays(
    pressed: str, end: str, makes: bool, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = MemoryCluster()
    memory, elsewhere = MemoryStore[Any](cluster=cluster), MemoryStore[Any](cluster=cluster)
    other = SwitchServer(elsewhere, scripted_server(elsewhere, []).script)
    async with other, switching(memory, makes=makes, seconds=9.0) as (server, turn):
        thread_id = turn.thread_id or ""
        await turn.wait_for(lambda event: '"delta":"b"' in event.model_dump_json())
        answer = await press(server if pressed == "its node" else other, thread_id)
        loaded = (await ChatClient.of_server(server).thread(thread_id)).items.data
        if end == "stopped":
            await turn.stop()
        events = await turn.read()
        stored = await memory.load_item(thread_id, ITEM, None)

    [replaced] = [event for event in events if isinstance(event, ThreadItemReplacedEvent)]
    [shown] = [said(item) for item in loaded if item.id == ITEM]
    assert answer == shown == said(replaced.item) == "ab | on"
    assert said(stored) == ("abc | on" if end == "finished" else "ab | on")


@pytest.mark.parametrize("pressed", ["its node", "another node"])
@pytest.mark.parametrize("end", ["finished", "stopped"])
@pytest.mark.parametrize("number", range(30))
@bounded
async def test_a_sync_action_at_any_moment_of_a_turn_is_not_undone_by_it(
    number: int, end: str, pressed: str, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = MemoryCluster()
    memory, elsewhere = MemoryStore[Any](cluster=cluster), MemoryStore[Any](cluster=cluster)
    other = SwitchServer(elsewhere, scripted_server(elsewhere, []).script)
    store = SlowStore(memory, 0.0)
    async with other, switching(store, seconds=0.2) as (server, turn):
        store.seconds = store.answer_seconds = 0.05
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turn.read)
            await trio.sleep(number * 0.03)
            if end == "stopped":
                nursery.start_soon(turn.stop)
            await press(server if pressed == "its node" else other, turn.thread_id or "")
        await turn.server_turn.settled.wait()
        stored = await memory.load_item(turn.thread_id or "", ITEM, None)

    assert said(stored).endswith(" | on")


# --- Widgets that change many times ------------------------------------------------------------


def component(text: str, number: int = 0) -> WidgetComponentUpdated:
    name = f"text_{number}"
    new = DynamicWidgetComponent.model_validate({"type": "Markdown", "id": name, "value": text})
    return WidgetComponentUpdated(component_id=name, component=new)


def updates_in_memory() -> int:
    gc.collect()
    kinds = WidgetComponentUpdated | WidgetRootUpdated
    return sum(isinstance(each, kinds) for each in gc.get_objects())


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("is_stored", [False, True], ids=["begun", "stored"])
@bounded
async def test_replaced_components_of_a_widget_do_not_pile_up(
    is_stored: bool, components: int, autojump_clock: trio.testing.MockClock
) -> None:
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        fields = Scene(thread, message, context).item_fields() | {"id": ITEM}
        item = WidgetItem(widget=card(*["old"] * components), **fields)
        yield (ThreadItemDoneEvent if is_stored else ThreadItemAddedEvent)(item=item)
        for number in range(600):
            change = component(f"new {number}", number % components)
            yield ThreadItemUpdatedEvent(item_id=ITEM, update=change)
        del change
        await trio.sleep(60)

    store = MemoryStore[Any]()
    policy = TurnPolicy(max_replay_bytes=1000)
    async with ScriptedServer(store, respond, policy=policy) as server:
        before = updates_in_memory()
        async with sending(server) as turn:
            await receive_for(turn, 1)
            held = updates_in_memory() - before
            thread_id = turn.server_turn.thread_id or ""
            await server.stop(thread_id)
            item = await store.load_item(thread_id, ITEM, None)

    assert held <= 50
    last = [f"new {600 - components + number}" for number in range(components)]
    assert said(item) == " | ".join(last)


NESTED = DynamicWidgetRoot.model_validate(
    {
        "type": "Card",
        "children": [
            {"type": "Col", "id": "box", "children": [{"type": "Text", "id": "t", "value": "old"}]}
        ],
    }
)


def box(text: str, name: str = "t") -> WidgetComponentUpdated:
    child = {"type": "Text", "id": name, "value": text}
    new = DynamicWidgetComponent.model_validate({"type": "Col", "id": "box", "children": [child]})
    return WidgetComponentUpdated(component_id="box", component=new)


def inner(text: str, name: str = "t", new_name: str | None = None) -> WidgetComponentUpdated:
    child = {"type": "Text", "id": new_name or name, "value": text}
    new = DynamicWidgetComponent.model_validate(child)
    return WidgetComponentUpdated(component_id=name, component=new)


def inner_delta(text: str, name: str = "t") -> WidgetStreamingTextValueDelta:
    return WidgetStreamingTextValueDelta(component_id=name, delta=text, done=False)


@pytest.mark.parametrize(
    ("updates", "text"),
    [
        ([inner("a"), inner("b")], "b"),
        ([inner("a"), inner_delta("x"), inner("b"), inner_delta("y")], "by"),
        ([inner("a"), box("b")], "b"),
        ([box("b"), inner("a")], "a"),
        ([box("b"), inner("a"), box("c"), inner_delta("!")], "c!"),
        ([inner("a"), box("b"), inner_delta("!"), inner_delta("?")], "b!?"),
        ([inner("a", new_name="u"), inner("b", name="u"), inner_delta("!", name="u")], "b!"),
        ([box("a", name="u"), inner("b", name="u"), box("c", name="t"), inner("d")], "d"),
    ],
)
@bounded
async def test_replacements_of_components_have_their_effect_in_their_order(
    updates: list[ThreadItemUpdate], text: str, autojump_clock: trio.testing.MockClock
) -> None:
    def begin(scene: Scene) -> ThreadItemAddedEvent:
        fields = scene.item_fields() | {"id": ITEM}
        return ThreadItemAddedEvent(item=WidgetItem(widget=NESTED, **fields))

    store = MemoryStore[Any]()
    script = [emit(begin), *map(update, updates)]
    async with scripted_server(store, script) as server:
        turn = await ask(server)
        item = await store.load_item(turn.thread_id or "", ITEM, None)

        assert await transcript(store, turn.thread_id) == ["user: hi", "widget"]
    assert isinstance(item, WidgetItem)
    [outer] = item.widget.model_dump()["children"]
    assert [child["value"] for child in outer["children"]] == [text]
