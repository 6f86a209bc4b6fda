"""What the client was sent, what the store has, and what the journal knows are one thing.

Faults F4, F5, F8, F9 and F20: text that went into an item that was stored already, subclasses,
repeated ids, updates that come late, and objects that aren't events.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from pydantic import BaseModel

from chatkit_trio.errors import ConflictError
from chatkit_trio.server import TurnPolicy, current_turn
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    Scene,
    ScriptedServer,
    StoreWrapper,
    do,
    emit,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.types import (
    Annotation,
    AssistantMessageContent,
    AssistantMessageContentPartAdded,
    AssistantMessageContentPartAnnotationAdded,
    AssistantMessageContentPartDone,
    AssistantMessageItem,
    ClientToolCallItem,
    CustomTask,
    EndOfTurnItem,
    GeneratedImage,
    GeneratedImageItem,
    GeneratedImageUpdated,
    HiddenContextItem,
    SDKHiddenContextItem,
    StructuredInputFreeform,
    StructuredInputItem,
    TaskItem,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdate,
    ThreadItemUpdatedEvent,
    ThreadListParams,
    ThreadMetadata,
    ThreadsListReq,
    URLSource,
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
from chatkit_trio.widgets import DynamicWidgetComponent
from tests.transcript import transcript

from .doubles import TroubledStore, hangs, once, takes
from .parts import (
    FOR_EVER,
    MakeEvent,
    Mortal,
    answered,
    begin,
    card,
    content,
    delta,
    fields,
    finish,
    more,
    stopped,
    text_of,
    within,
)

HOUR = 3600.0

HEL = say("Hel", finish=False)

CUTS = pytest.mark.parametrize("is_cut", [False, True], ids=["finished", "cut"])


async def run(
    is_cut: bool, *events: Any, store: Store[Any] | None = None
) -> tuple[Any, list[str], list[ThreadItem]]:
    """Run one turn of these events; return the client's turn, the lines and the items stored."""
    store = MemoryStore() if store is None else store
    script = [emit(*events), pause(FOR_EVER if is_cut else 0)]
    async with scripted_server(store, script) as server:
        turn = await (stopped(server) if is_cut else answered(server))
        stored = await items_of(store, turn.thread_id)
        return turn, await transcript(store, turn.thread_id), stored


async def items_of(store: Store[Any], thread_id: str | None) -> list[ThreadItem]:
    assert thread_id is not None
    return (await store.load_thread_items(thread_id, None, 100, "asc", None)).data


def ids_sent(turn: Any) -> set[str]:
    """Return the ids of all items that a stream has told of."""
    sent = [event.model_dump() for event in turn.events]
    return {event["item"]["id"] for event in sent if "item" in event} | {
        event["item_id"] for event in sent if "item_id" in event
    }


def ending(is_cut: bool) -> list[str]:
    return ["note: stopped"] if is_cut else []


# --- F5: subclasses of our classes -------------------------------------------------------------


class MarkedAdded(ThreadItemAddedEvent):
    pass


class MarkedUpdated(ThreadItemUpdatedEvent):
    pass


class MarkedDone(ThreadItemDoneEvent):
    pass


class MarkedRemoved(ThreadItemRemovedEvent):
    pass


class MarkedReplaced(ThreadItemReplacedEvent):
    pass


def marked(kind: type[Any], make: MakeEvent) -> MakeEvent:
    """Return a maker of the same event as an object of the subclass `kind`."""
    return lambda scene: kind.model_construct(**dict(make(scene)))


@CUTS
@within(HOUR)
async def test_a_subclass_of_the_added_event_begins_an_item(
    is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    turn, lines, _ = await run(is_cut, marked(MarkedAdded, begin("msg_m")), more("msg_m", "Hel"))

    assert lines == ["user: hi", "assistant: Hel", *ending(is_cut)]
    assert turn.text == "Hel"


@CUTS
@within(HOUR)
async def test_a_subclass_of_the_updated_event_changes_an_item(
    is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    updated = MarkedUpdated(item_id="msg_m", update=delta("Hel"))
    turn, lines, _ = await run(is_cut, begin("msg_m"), updated)

    assert lines == ["user: hi", "assistant: Hel", *ending(is_cut)]
    assert turn.text == "Hel"


@CUTS
@within(HOUR)
async def test_a_subclass_of_the_done_event_stores_its_item(
    is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    turn, lines, _ = await run(is_cut, marked(MarkedDone, finish("msg_m", "Hello")))

    assert lines == ["user: hi", "assistant: Hello", *ending(is_cut)]
    assert turn.text == "Hello"


@CUTS
@within(HOUR)
async def test_a_subclass_of_the_removed_event_deletes_its_item(
    is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    removed = MarkedRemoved(item_id="msg_m")
    turn, lines, _ = await run(is_cut, finish("msg_m", "Hello"), removed)

    assert lines == ["user: hi", *ending(is_cut)]
    assert turn.text == ""


@CUTS
@within(HOUR)
async def test_a_subclass_of_the_replaced_event_replaces_its_item(
    is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    def replaced(scene: Scene) -> MarkedReplaced:
        return MarkedReplaced(item=finish("msg_m", "Bye")(scene).item)

    turn, lines, _ = await run(is_cut, finish("msg_m", "Hello"), replaced)

    assert lines == ["user: hi", "assistant: Bye", *ending(is_cut)]
    assert turn.text == "Bye"


@within(HOUR)
async def test_a_subclass_of_an_event_that_hides_its_item_is_not_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def hidden(scene: Scene) -> MarkedDone:
        return MarkedDone(item=HiddenContextItem(content="angry", **fields(scene, "msg_m")))

    turn, lines, _ = await run(True, hidden)

    assert lines == ["user: hi", "hidden_context_item", "note: stopped"]
    assert b"angry" not in b"".join(turn.frames)


IMAGE = GeneratedImage(id="img", url="https://example.org/1.png")
LOADING = CustomTask(title="a", status_indicator="loading")
AT_REST = CustomTask(title="a", status_indicator="none")

KEPT: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "message": (AssistantMessageItem, {"content": content("Hel")}),
    "workflow": (WorkflowItem, {"workflow": Workflow(type="custom", tasks=[AT_REST])}),
    "task": (TaskItem, {"task": AT_REST}),
    "widget": (WidgetItem, {"widget": card("Hel")}),
    "image": (GeneratedImageItem, {"image": IMAGE}),
    "hidden": (HiddenContextItem, {"content": "angry"}),
    "sdk-hidden": (SDKHiddenContextItem, {"content": "angry"}),
}
"""The kinds of items that a cut leaves in the thread, and their fields."""

OTHERS: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "tool-call": (ClientToolCallItem, {"call_id": "c", "name": "n", "arguments": {}}),
    "questions": (
        StructuredInputItem,
        {"inputs": [StructuredInputFreeform(id="q", question="Why?")]},
    ),
    "end-of-turn": (EndOfTurnItem, {}),
}


def subclass_item(kind: type[Any], own: dict[str, Any]) -> Callable[[Scene], Any]:
    subclass = type(f"My{kind.__name__}", (kind,), {"__module__": __name__})
    return lambda scene: subclass(**fields(scene, "msg_m"), **own)


@pytest.mark.parametrize("name", KEPT)
@within(HOUR)
async def test_a_subclass_of_an_item_that_was_begun_is_kept_at_the_cut(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    kind, own = KEPT[name]
    make = subclass_item(kind, own)
    turn, _, stored = await run(True, lambda scene: ThreadItemAddedEvent(item=make(scene)))

    assert [item.type for item in stored[:-1]] == [
        "user_message",
        kind.model_fields["type"].default,
    ]
    assert dumped({key: getattr(stored[1], key) for key in own}) == dumped(own)
    assert stored[-1].type == "sdk_hidden_context"
    visible = [item.id for item in stored if "hidden" not in item.type]
    assert [item.id for item in turn.items] == visible


@CUTS
@pytest.mark.parametrize("name", KEPT | OTHERS)
@within(HOUR)
async def test_a_subclass_of_an_item_is_stored_when_it_is_done(
    name: str, is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    kind, own = (KEPT | OTHERS)[name]
    make = subclass_item(kind, own)
    _, _, stored = await run(is_cut, lambda scene: ThreadItemDoneEvent(item=make(scene)))

    expected = ["user_message", kind.model_fields["type"].default]
    assert [item.type for item in stored] == expected + ["sdk_hidden_context"] * is_cut
    assert dumped({key: getattr(stored[1], key) for key in own}) == dumped(own)


@pytest.mark.parametrize("name", ["hidden", "sdk-hidden"])
@pytest.mark.parametrize("event", [ThreadItemAddedEvent, ThreadItemDoneEvent])
@within(HOUR)
async def test_a_subclass_of_a_hidden_item_is_never_sent(
    name: str, event: type[Any], autojump_clock: trio.testing.MockClock
) -> None:
    make = subclass_item(*KEPT[name])
    turn, _, _ = await run(True, lambda scene: event(item=make(scene)))

    assert b"angry" not in b"".join(turn.frames)


BEGUN: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "message": (AssistantMessageItem, {"content": content("Hel")}),
    "workflow": (WorkflowItem, {"workflow": Workflow(type="custom", tasks=[AT_REST])}),
    "widget": (WidgetItem, {"widget": card("Hel")}),
    "image": (GeneratedImageItem, {"image": IMAGE}),
}
"""Items of the kinds that have updates."""

NOTED = AssistantMessageContent(text="Hel", annotations=[])
ANNOTATION = Annotation(source=URLSource(title="A page", url="https://example.org"))
BETTER = GeneratedImage(id="img", url="https://example.org/2.png")
GROWN = CustomTask(title="b", status_indicator="none")
PART = DynamicWidgetComponent(type="Markdown", id="body", value="Part")

UPDATES: dict[str, tuple[str, ThreadItemUpdate, dict[str, Any]]] = {
    "text": (
        "message",
        delta("lo"),
        {"content": content("Hello")},
    ),
    "part-added": (
        "message",
        AssistantMessageContentPartAdded(
            content_index=1, content=AssistantMessageContent(text="lo")
        ),
        {"content": [*content("Hel"), *content("lo")]},
    ),
    "part-done": (
        "message",
        AssistantMessageContentPartDone(
            content_index=0, content=AssistantMessageContent(text="Hello", annotations=[ANNOTATION])
        ),
        {"content": [AssistantMessageContent(text="Hello", annotations=[ANNOTATION])]},
    ),
    "annotation": (
        "message",
        AssistantMessageContentPartAnnotationAdded(
            content_index=0, annotation_index=0, annotation=ANNOTATION
        ),
        {"content": [AssistantMessageContent(text="Hel", annotations=[ANNOTATION])]},
    ),
    "widget-root": ("widget", WidgetRootUpdated(widget=card("New")), {"widget": card("New")}),
    "widget-component": (
        "widget",
        WidgetComponentUpdated(component_id="body", component=PART),
        {"widget": card("Part")},
    ),
    "widget-text": (
        "widget",
        WidgetStreamingTextValueDelta(component_id="body", delta="lo", done=False),
        {"widget": card("Hello")},
    ),
    "task-added": (
        "workflow",
        WorkflowTaskAdded(task_index=1, task=GROWN),
        {"workflow": Workflow(type="custom", tasks=[AT_REST, GROWN])},
    ),
    "task-updated": (
        "workflow",
        WorkflowTaskUpdated(task_index=0, task=GROWN),
        {"workflow": Workflow(type="custom", tasks=[GROWN])},
    ),
    "image": ("image", GeneratedImageUpdated(image=BETTER), {"image": BETTER}),
}
"""By name: the kind of item, the update, and the fields of the item afterwards."""

EVERY_UPDATE = pytest.mark.parametrize("name", UPDATES)


def dumped(values: dict[str, Any]) -> dict[str, Any]:
    """Return fields as JSON, so that a widget compares equal whatever class holds it."""

    def dump(value: Any) -> Any:
        if isinstance(value, list):
            return [dump(each) for each in value]
        return value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value

    return {key: dump(value) for key, value in values.items()}


def as_sent(event: Any) -> dict[str, Any]:
    sent: dict[str, Any] = event.model_dump(exclude_none=True)
    return sent


def as_told(event: ThreadItemUpdatedEvent) -> dict[str, Any]:
    """Return an update as it is sent to a client that takes no updates of components."""
    if isinstance(event.update, WidgetComponentUpdated):
        event = event.model_copy(update={"update": WidgetRootUpdated(widget=card("Part"))})
    return as_sent(event)


def made(kind: str, event: type[Any]) -> MakeEvent:
    item_class, own = BEGUN[kind]
    return lambda scene: event(item=item_class(**fields(scene, "msg_m"), **own))


def assert_is_everywhere(expected: dict[str, Any], stored: ThreadItem, turn: Any) -> None:
    """Compare the fields of an item in the store and as the client has it."""
    [shown] = [item for item in turn.items if item.id == stored.id]
    assert dumped({key: getattr(stored, key) for key in expected}) == dumped(expected)
    assert dumped({key: getattr(shown, key) for key in expected}) == dumped(expected)


@EVERY_UPDATE
@within(HOUR)
async def test_updates_of_a_subclass_of_an_item_are_kept_at_the_cut(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    kind, update, expected = UPDATES[name]
    make = subclass_item(*BEGUN[kind])
    turn, _, stored = await run(
        True,
        lambda scene: ThreadItemAddedEvent(item=make(scene)),
        ThreadItemUpdatedEvent(item_id="msg_m", update=update),
    )

    assert [item.id for item in stored[1:-1]] == ["msg_m"]
    assert_is_everywhere(expected, stored[1], turn)


@EVERY_UPDATE
@within(HOUR)
async def test_a_subclass_of_an_update_is_applied(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    kind, update, expected = UPDATES[name]
    subclass: Any = type("MyUpdate", (type(update),), {"__module__": __name__})
    event = ThreadItemUpdatedEvent(item_id="msg_m", update=subclass(**dict(update)))
    turn, _, stored = await run(True, made(kind, ThreadItemAddedEvent), event)

    assert [item.id for item in stored[1:-1]] == ["msg_m"]
    assert_is_everywhere(expected, stored[1], turn)


# --- F9: updates after done --------------------------------------------------------------------


@CUTS
@EVERY_UPDATE
@within(HOUR)
async def test_an_update_of_an_item_that_is_done_is_stored_and_sent(
    name: str, is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    kind, update, expected = UPDATES[name]
    event = ThreadItemUpdatedEvent(item_id="msg_m", update=update)
    turn, _, stored = await run(is_cut, made(kind, ThreadItemDoneEvent), event)

    assert [item.id for item in stored[1:2]] == ["msg_m"]
    assert len(stored) == 2 + is_cut
    assert as_told(event) in [as_sent(each) for each in turn.events]
    assert_is_everywhere(expected, stored[1], turn)


@CUTS
@EVERY_UPDATE
@within(HOUR)
async def test_an_update_of_an_item_of_an_earlier_turn_is_stored_and_sent(
    name: str, is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    kind, update, expected = UPDATES[name]
    event = ThreadItemUpdatedEvent(item_id="msg_m", update=update)
    store = MemoryStore[Any]()
    second = [emit(event), pause(FOR_EVER if is_cut else 0)]
    async with scripted_server(store, [emit(made(kind, ThreadItemDoneEvent))], second) as server:
        thread_id = (await answered(server)).thread_id
        turn = await (stopped if is_cut else answered)(server, "more", thread_id)

        stored = await items_of(store, thread_id)
    types = ["user_message", stored[1].type, "user_message"]
    assert [item.type for item in stored] == types + ["sdk_hidden_context"] * is_cut
    assert as_told(event) in [as_sent(each) for each in turn.events]
    own = {key: getattr(stored[1], key) for key in expected}
    assert dumped(own) == dumped(expected)


@CUTS
@within(HOUR)
async def test_many_deltas_after_done_are_all_stored_in_order(
    is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    words = [more("msg_m", f" {number}") for number in range(100)]
    turn, lines, _ = await run(is_cut, finish("msg_m", "Hello"), *words)

    text = "Hello" + "".join(f" {number}" for number in range(100))
    assert lines == ["user: hi", f"assistant: {text}", *ending(is_cut)]
    assert turn.text == text


@CUTS
@EVERY_UPDATE
@within(HOUR)
async def test_an_update_of_an_item_that_is_not_there_is_logged_and_goes_nowhere(
    name: str,
    is_cut: bool,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    event = ThreadItemUpdatedEvent(item_id="msg_nowhere", update=UPDATES[name][1])
    turn, lines, _ = await run(is_cut, begin("msg_m", "Hel"), event, more("msg_m", "lo"))

    assert lines == ["user: hi", "assistant: Hello", *ending(is_cut)]
    assert "msg_nowhere" not in ids_sent(turn)
    assert turn.error is None
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert any("msg_nowhere" in record.getMessage() for record in warnings)


MISFITS = [(kind, name) for kind in BEGUN for name in UPDATES if UPDATES[name][0] != kind]


@pytest.mark.parametrize("event", [ThreadItemAddedEvent, ThreadItemDoneEvent])
@pytest.mark.parametrize(("kind", "name"), MISFITS)
@within(HOUR)
async def test_an_update_that_does_not_fit_its_item_is_logged_and_goes_nowhere(
    kind: str,
    name: str,
    event: type[Any],
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = ThreadItemUpdatedEvent(item_id="msg_m", update=UPDATES[name][1])
    turn, _, stored = await run(True, made(kind, event), wrong)

    assert [item.id for item in stored[1:-1]] == ["msg_m"]
    assert_is_everywhere(BEGUN[kind][1], stored[1], turn)
    assert "thread.item.updated" not in [each.type for each in turn.events]
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert [record for record in warnings if "msg_m" in record.getMessage()]


@within(HOUR)
async def test_a_delta_for_the_message_of_the_user_is_logged_and_goes_nowhere(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong(scene: Scene) -> ThreadItemUpdatedEvent:
        assert scene.message is not None
        return more(scene.message.id, " and more")

    turn, lines, _ = await run(False, wrong, finish("msg_m", "Hello"))

    assert lines == ["user: hi", "assistant: Hello"]
    assert "thread.item.updated" not in [each.type for each in turn.events]


# --- F8: ids that the thread has already -------------------------------------------------------


async def second_turn(
    *events: Any, is_cut: bool, first_is_cut: bool = False, store: Store[Any] | None = None
) -> tuple[Any, list[tuple[str, str]], Store[Any]]:
    """Answer once with message "msg_m" ("one"), then play these events in a second turn.

    Return the client's second turn, and the ids and lines of what is stored.
    """
    store = MemoryStore() if store is None else store
    first = [emit(begin("msg_m"), more("msg_m", "one"))]
    first += [pause(FOR_EVER)] if first_is_cut else [emit(finish("msg_m", "one"))]
    second = [emit(*events), pause(FOR_EVER if is_cut else 0)]
    async with scripted_server(store, first, second) as server:
        thread_id = (await (stopped if first_is_cut else answered)(server)).thread_id
        async with ChatClient.of_server(server).send("more", thread_id) as turn:
            with trio.move_on_after(1):
                await turn.read()
            if not turn.is_complete:
                await turn.stop()
                await turn.read()
        stored = await items_of(store, thread_id)
        lines = await transcript(store, thread_id)
    return turn, [(item.id, line) for item, line in zip(stored, lines, strict=True)], store


def shortened(stored: list[tuple[str, str]]) -> list[str]:
    return [line for _, line in stored]


@CUTS
@pytest.mark.parametrize("first_is_cut", [False, True], ids=["after-finished", "after-cut"])
@within(HOUR)
async def test_an_item_begun_with_the_id_of_an_earlier_answer_is_refused_and_not_sent(
    is_cut: bool, first_is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    turn, stored, _ = await second_turn(
        begin("kept", "Hel"),
        begin("msg_m"),
        more("msg_m", "two"),
        is_cut=is_cut,
        first_is_cut=first_is_cut,
    )

    assert shortened(stored) == [
        "user: hi",
        "assistant: one",
        *ending(first_is_cut),
        "user: more",
        "assistant: Hel",
        "note: failed",
    ]
    assert stored[1][0] == "msg_m"
    assert "msg_m" not in ids_sent(turn)
    assert turn.error is not None


@within(HOUR)
async def test_an_item_begun_with_the_id_of_the_users_message_is_refused_and_not_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def same_id(scene: Scene) -> Any:
        assert scene.message is not None
        return begin(scene.message.id, "two")(scene)

    turn, lines, _ = await run(True, begin("kept", "Hel"), same_id)

    assert lines == ["user: hi", "assistant: Hel", "note: failed"]
    assert [event.type for event in turn.events].count("thread.item.added") == 1
    assert turn.error is not None


@within(HOUR)
async def test_an_item_begun_twice_is_refused_the_second_time_and_the_first_is_kept(
    autojump_clock: trio.testing.MockClock,
) -> None:
    turn, lines, _ = await run(
        True, begin("msg_m"), more("msg_m", "one"), begin("msg_m"), more("msg_m", "two")
    )

    assert lines == ["user: hi", "assistant: one", "note: failed"]
    assert b"two" not in b"".join(turn.frames)
    assert turn.error is not None


@CUTS
@within(HOUR)
async def test_an_item_begun_again_after_it_was_done_is_refused(
    is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    turn, lines, _ = await run(
        is_cut, begin("kept", "Hel"), finish("msg_m", "one"), begin("msg_m"), more("msg_m", "two")
    )

    assert sorted(lines[1:-1]) == ["assistant: Hel", "assistant: one"]
    assert (lines[0], lines[-1]) == ("user: hi", "note: failed")
    assert b"two" not in b"".join(turn.frames)
    assert turn.error is not None


@within(HOUR)
async def test_a_refused_id_is_raised_out_of_the_yield_so_that_respond_can_take_another(
    autojump_clock: trio.testing.MockClock,
) -> None:
    errors: list[Exception] = []

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, message, context)
        yield begin("msg_m", "one")(scene)
        try:
            yield begin("msg_m", "two")(scene)
        except ConflictError as error:
            errors.append(error)
        yield finish("n", "two")(scene)
        yield finish("msg_m", "one")(scene)

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        turn = await answered(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: two",
            "assistant: one",
        ]
    assert turn.error is None
    assert len(errors) == 1
    assert "msg_m" in str(errors[0])


@CUTS
@within(HOUR)
async def test_an_item_done_twice_has_its_last_text_in_the_store_and_on_the_wire(
    is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    turn, lines, _ = await run(is_cut, finish("msg_m", "one"), finish("msg_m", "two"))

    assert lines == ["user: hi", "assistant: two", *ending(is_cut)]
    assert turn.text == "two"


@CUTS
@pytest.mark.parametrize("is_begun", [False, True], ids=["done-only", "begun-and-done"])
@within(HOUR)
async def test_an_item_done_with_the_id_of_an_earlier_answer_is_kept_under_a_new_id(
    is_cut: bool,
    is_begun: bool,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Begun and done: `added` is refused, and what respond yields next doesn't come any more.
    events = [begin("kept", "two"), begin("msg_m")] if is_begun else []
    turn, stored, _ = await second_turn(*events, finish("msg_m", "two"), is_cut=is_cut)

    assert shortened(stored) == [
        "user: hi",
        "assistant: one",
        "user: more",
        "assistant: two",
        "note: failed",
    ]
    assert len({item_id for item_id, _ in stored}) == 5
    assert "msg_m" not in ids_sent(turn)
    assert turn.error is not None
    assert any(record.levelno >= logging.WARNING for record in caplog.records)
    assert "msg_m" in caplog.text


@within(HOUR)
async def test_an_item_done_with_the_id_of_the_users_message_is_kept_under_a_new_id(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    user_ids: list[str] = []

    def same_id(scene: Scene) -> Any:
        assert scene.message is not None
        user_ids.append(scene.message.id)
        return finish(scene.message.id, "two")(scene)

    turn, lines, stored = await run(False, same_id)

    assert lines == ["user: hi", "assistant: two", "note: failed"]
    assert [item.id for item in stored].count(user_ids[0]) == 1
    assert turn.error is not None
    assert user_ids[0] in caplog.text


@within(HOUR)
async def test_a_cut_while_an_item_with_a_used_id_is_being_stored_loses_neither_text(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    class SlowAdds(StoreWrapper[Any]):
        async def around(self, name: str, call: Any) -> Any:
            if name == "add_thread_item":
                await trio.sleep(3)
            return await call()

    memory = MemoryStore[Any]()
    script = [emit(finish("msg_m", "one"))], [emit(finish("msg_m", "two")), pause(FOR_EVER)]
    async with scripted_server(SlowAdds(memory), *script) as server:
        thread_id = (await answered(server)).thread_id
        await stopped(server, "more", thread_id, after=4)

        *lines, note = await transcript(memory, thread_id)
    assert lines == ["user: hi", "assistant: one", "user: more", "assistant: two"]
    assert note in ("note: stopped", "note: failed")


@pytest.mark.parametrize("item_id", ["__fake_id__", "msg_m"])
@within(HOUR)
async def test_a_constant_id_is_enough_for_one_answer_in_each_thread(
    item_id: str, autojump_clock: trio.testing.MockClock
) -> None:
    store = MemoryStore[Any]()
    script = [emit(begin(item_id), more(item_id, "one"), finish(item_id, "one"))]
    async with scripted_server(store, script) as server:
        turns = [await answered(server) for _ in range(2)]

        for turn in turns:
            assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: one"]


@within(HOUR)
async def test_a_constant_id_on_sqlite_loses_no_answer_and_is_refused_aloud(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = SQLiteStore[Any](tmp_path / "chat.db")
    script = [emit(begin("kept", "Hel")), emit(begin("msg_m"), more("msg_m", "one"))]
    second = [emit(begin("kept2", "Hel")), emit(begin("msg_m"), more("msg_m", "two"))]
    pauses = [pause(FOR_EVER)]
    async with scripted_server(store, script + pauses, second + pauses) as server:
        thread_id = (await stopped(server)).thread_id
        turn = await stopped(server, "more", thread_id)

        assert await transcript(store, thread_id) == [
            "user: hi",
            "assistant: Hel",
            "assistant: one",
            "note: stopped",
            "user: more",
            "assistant: Hel",
            "note: failed",
        ]
    assert b"two" not in b"".join(turn.frames)


# --- F20: what isn't an event ------------------------------------------------------------------


class Foreign(BaseModel):
    """A model that isn't ours."""

    text: str = "foreign"


class Lookalike(BaseModel):
    """Has all that an event of ours has, but for the type of one."""

    type: str = "thread.item.gone"
    item: Any = None
    text: str = "foreign"


def item_for_event(scene: Scene) -> Any:
    return AssistantMessageItem(content=content("foreign"), **fields(scene, "msg_m"))


def lookalike(scene: Scene) -> Any:
    return Lookalike(item=item_for_event(scene))


NOT_EVENTS: dict[str, tuple[Any, list[str]]] = {
    "item": (item_for_event, ["AssistantMessageItem"]),
    "list-of-events": (lambda scene: [finish("msg_m", "foreign")(scene)], ["list"]),
    "dict": (lambda scene: {"type": "progress_update", "text": "foreign"}, ["dict"]),
    "none": (lambda scene: None, ["NoneType"]),
    "text": (lambda scene: "foreign", ["str"]),
    "bytes": (lambda scene: b"foreign", ["bytes"]),
    "class": (lambda scene: ThreadItemDoneEvent, []),
    "foreign-model": (lambda scene: Foreign(), [__name__, "Foreign"]),
    "lookalike": (lookalike, [__name__, "Lookalike"]),
    "request": (lambda scene: ThreadsListReq(params=ThreadListParams()), ["ThreadsListReq"]),
    "thread": (lambda scene: scene.thread, ["chatkit_trio.types", "Thread"]),
    "update": (lambda scene: delta("foreign"), ["AssistantMessageContentPartTextDelta"]),
}


@CUTS
@pytest.mark.parametrize("name", NOT_EVENTS)
@within(HOUR)
async def test_what_is_not_an_event_fails_the_turn_and_is_neither_sent_nor_stored(
    name: str,
    is_cut: bool,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    make, names = NOT_EVENTS[name]
    turn, lines, _ = await run(is_cut, begin("kept", "Hel"), make, begin("n", "never"))

    assert lines == ["user: hi", "assistant: Hel", "note: failed"]
    assert b"foreign" not in b"".join(turn.frames)
    assert b"never" not in b"".join(turn.frames)
    assert turn.error is not None
    assert "TypeError" in caplog.text
    assert [word for word in names if word not in caplog.text] == []


@within(HOUR)
async def test_what_is_not_an_event_is_refused_at_the_yield(
    autojump_clock: trio.testing.MockClock,
) -> None:
    errors: list[str] = []

    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, message, context)
        for make, _ in NOT_EVENTS.values():
            try:
                yield make(scene)
            except TypeError as error:
                errors.append(str(error))
        yield finish("msg_m", "Hello")(scene)

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        turn = await answered(server)

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]
    assert len(errors) == len(NOT_EVENTS)
    assert turn.error is None


def set_thread_id(scene: Scene) -> None:
    scene.thread.id = "thr_other"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([HEL, do(set_thread_id), HEL], "failed"),
        ([HEL, do(set_thread_id)], "failed"),
        ([do(set_thread_id), HEL], "failed"),
        ([HEL, do(set_thread_id), pause(FOR_EVER)], "stopped"),
    ],
    ids=["before-an-event", "before-the-end", "before-the-first-event", "before-the-cut"],
)
@within(HOUR)
async def test_a_changed_thread_id_makes_no_second_thread_and_leaves_the_first_free(
    script: list[Any],
    reason: str,
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore[Any]()
    async with scripted_server(store, script, [say("Fine")]) as server:
        async with ChatClient.of_server(server).send("hi") as turn:
            with trio.move_on_after(1):
                await turn.read()
            thread_id = turn.thread_id
            assert thread_id is not None
            if not turn.is_complete:
                await server.stop(thread_id)
                await turn.read()
        again = await answered(server, "more", thread_id)

        threads = (await store.load_threads(10, None, "asc", None)).data
        *begun, last_user, last = await transcript(store, thread_id)
    assert [thread.id for thread in threads] == [thread_id]
    assert begun[0] == "user: hi"
    assert begun[1:] in (["assistant: Hel", f"note: {reason}"], [])
    assert bool(begun[1:]) == (script[0] is HEL)
    assert (last_user, last) == ("user: more", "assistant: Fine")
    assert again.error is None
    assert b"thr_other" not in b"".join(turn.frames)
    if reason == "failed":
        assert "ValueError" in caplog.text
        assert turn.error is not None


# --- Objects that respond goes on changing ------------------------------------------------------


def overwrite(value: Any) -> None:
    """Give every text within an object another value."""
    for name, field in dict(value).items():
        if isinstance(field, str) and name not in ("type", "id", "component_id"):
            setattr(value, name, "never sent")
        for part in field if isinstance(field, list) else [field]:
            if isinstance(part, BaseModel):
                overwrite(part)


@EVERY_UPDATE
@within(HOUR)
async def test_what_respond_changes_in_an_update_after_it_was_sent_is_not_kept(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    kind, update, expected = UPDATES[name]
    event = ThreadItemUpdatedEvent(item_id="msg_m", update=update.model_copy(deep=True))
    script = [
        emit(made(kind, ThreadItemAddedEvent), event),
        do(lambda _: overwrite(event.update)),
        pause(FOR_EVER),
    ]
    async with scripted_server(store := MemoryStore[Any](), script) as server:
        turn = await stopped(server)
        stored = await items_of(store, turn.thread_id)

    assert dumped({key: getattr(stored[1], key) for key in expected}) == dumped(expected)


@EVERY_UPDATE
@pytest.mark.parametrize("is_cut", [False, True], ids=["slow", "cut"])
@within(HOUR)
async def test_what_respond_changes_in_an_update_while_its_item_is_loaded_is_not_kept(
    name: str, is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    kind, update, expected = UPDATES[name]
    event = ThreadItemUpdatedEvent(item_id="msg_m", update=update.model_copy(deep=True))
    store = TroubledStore()

    async def overwrite_soon() -> None:
        await trio.sleep(0.25)
        overwrite(event.update)

    def begin_to_change(_: Scene) -> None:
        store.give(once(hangs) if is_cut else takes(0.5), "load_item")
        current_turn().nursery.start_soon(overwrite_soon)

    script = [
        emit(made(kind, ThreadItemDoneEvent)),
        do(begin_to_change),
        emit(event),
        pause(FOR_EVER),
    ]
    async with scripted_server(store, script) as server:
        turn = await stopped(server)
        store.heal()
        stored = await items_of(store, turn.thread_id)

    assert dumped({key: getattr(stored[1], key) for key in expected}) == dumped(expected)


# --- F4: text that goes into an item that is stored already ------------------------------------


def grown(name: str) -> tuple[MakeEvent, ThreadItemUpdatedEvent, dict[str, Any]]:
    kind, update, expected = UPDATES[name]
    event = ThreadItemUpdatedEvent(item_id="msg_m", update=update)
    return made(kind, ThreadItemDoneEvent), event, expected


@EVERY_UPDATE
@pytest.mark.parametrize("turns", [1, 2], ids=["same-turn", "later-turn"])
@within(HOUR)
async def test_a_crash_keeps_what_has_gone_into_a_stored_item(
    name: str, turns: int, jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, event, expected = grown(name)
    path = tmp_path / "chat.db"
    store = Mortal(path)
    scripts = [[emit(make), emit(event), pause(FOR_EVER)]]
    if turns == 2:
        scripts = [[emit(make)], [emit(event), pause(FOR_EVER)]]
    async with scripted_server(store, *scripts) as server:
        client = ChatClient.of_server(server)
        thread_id = None if turns == 1 else (await answered(server)).thread_id
        async with client.send("hi", thread_id) as turn:
            await turn.wait_for(ThreadItemUpdatedEvent)
            thread_id = turn.thread_id
            await trio.sleep(2)  # four checkpoints
            await store.die()

    after = SQLiteStore[Any](path)
    async with scripted_server(after, [say("Fine")]):
        stored = await items_of(after, thread_id)
        lines = await transcript(after, thread_id)
    users = ["user_message"] * (turns - 1)
    types = ["user_message", stored[1].type, *users, "sdk_hidden_context"]
    assert [item.type for item in stored] == types
    assert lines[-1] == "note: crashed"
    assert dumped({key: getattr(stored[1], key) for key in expected}) == dumped(expected)


@EVERY_UPDATE
@pytest.mark.parametrize("turns", [1, 2], ids=["same-turn", "later-turn"])
@pytest.mark.parametrize("request_name", ["threads.get_by_id", "items.list"])
@within(HOUR)
async def test_a_page_that_loads_during_the_turn_shows_what_has_gone_into_a_stored_item(
    name: str, turns: int, request_name: str, autojump_clock: trio.testing.MockClock
) -> None:
    make, event, expected = grown(name)
    scripts = [[emit(make), emit(event), pause(FOR_EVER)]]
    if turns == 2:
        scripts = [[emit(make)], [emit(event), pause(FOR_EVER)]]
    async with scripted_server(MemoryStore(), *scripts) as server:
        client = ChatClient.of_server(server)
        thread_id = None if turns == 1 else (await answered(server)).thread_id
        async with client.send("hi", thread_id) as turn:
            await turn.wait_for(ThreadItemUpdatedEvent)
            assert turn.thread_id is not None
            if request_name == "items.list":
                items = await client.items(turn.thread_id)
            else:
                items = (await client.thread(turn.thread_id)).items.data

    assert [item.id for item in items if item.id == "msg_m"] == ["msg_m"]
    assert len(items) == 1 + turns
    assert dumped({key: getattr(items[1], key) for key in expected}) == dumped(expected)


@pytest.mark.parametrize("turns", [1, 2], ids=["same-turn", "later-turn"])
@within(HOUR)
async def test_a_page_that_comes_when_the_replay_has_overflowed_sees_the_whole_widget(
    turns: int, autojump_clock: trio.testing.MockClock
) -> None:
    words = [f"word{number} " for number in range(300)]
    updates = [
        WidgetStreamingTextValueDelta(component_id="body", delta=w, done=False) for w in words
    ]

    async def grow(scene: Scene) -> AsyncIterator[Any]:
        for update in updates:
            await trio.sleep(0.1)
            yield ThreadItemUpdatedEvent(item_id="msg_m", update=update)

    def make(scene: Scene) -> ThreadItemDoneEvent:
        return ThreadItemDoneEvent(item=WidgetItem(widget=card(""), **fields(scene, "msg_m")))

    policy = TurnPolicy(max_replay_bytes=2000, on_disconnect="finish")
    scripts = [[emit(make), grow]] if turns == 1 else [[emit(make)], [grow]]
    server = scripted_server(MemoryStore(), *scripts, policy=policy)
    async with ChatClient.of_app(create_app(server)) as client:
        thread_id = None
        for _ in range(turns - 1):
            async with client.send("hi") as first:
                await first.read()
                thread_id = first.thread_id
        async with client.send("hi", thread_id) as turn:
            await turn.wait_for(ThreadItemUpdatedEvent)
            thread_id = turn.thread_id
        assert thread_id is not None
        await trio.sleep(20)
        page = {item.id: item for item in (await client.thread(thread_id)).items.data}
        async with client.watch(thread_id) as watched:
            await watched.read()

    # A page has the items of its load, and the events of the stream on top of them.
    page |= {item.id: item for item in watched.items}
    assert text_of(page["msg_m"]) == "".join(words)


@CUTS
@within(HOUR)
async def test_what_goes_into_a_stored_item_is_in_the_store_before_the_turn_ends(
    is_cut: bool, jump_clock: JumpClock, tmp_path: Path
) -> None:
    """Two items grow in turns; a third is new: all three are settled, none twice."""
    make, event, expected = grown("widget-text")
    store = SQLiteStore[Any](tmp_path / "chat.db")
    first = [emit(make, finish("n", "one"))]
    second = [
        emit(event, more("n", " two"), begin("o", "three"), event, more("n", " four")),
        pause(FOR_EVER if is_cut else 0),
    ]
    async with scripted_server(store, first, second) as server:
        thread_id = (await answered(server)).thread_id
        await (stopped if is_cut else answered)(server, "more", thread_id)

        stored = await items_of(store, thread_id)
        lines = await transcript(store, thread_id)
    assert lines == [
        "user: hi",
        "widget",
        "assistant: one two four",
        "user: more",
        "assistant: three",
        *ending(is_cut),
    ]
    assert text_of(stored[1]) == "Hellolo"
    assert expected.keys() == {"widget"}
