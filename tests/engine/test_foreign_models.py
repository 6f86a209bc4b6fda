"""No event is half taken: what the client is shown is stored, whoever's classes it is made of.

A forgotten import gives a class of openai-chatkit's, and a library may make its events. They are
read as ours, and all else is refused at the `yield`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import trio
from pydantic import BaseModel

import chatkit_trio.types
from chatkit_trio.server import NonStreamingResult, diff_widget, stream_widget
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    Scene,
    ScriptedRespond,
    ScriptedServer,
    do,
    emit,
    pause,
    scripted_server,
)
from chatkit_trio.types import (
    AssistantMessageItem,
    HiddenContextItem,
    StreamOptions,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    WidgetItem,
)
from tests.transcript import transcript

from .parts import FOR_EVER, answered, begin, card, content, fields, finish, more, stopped, within

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    theirs: Any = pytest.importorskip(
        "chatkit.types", reason="the original isn't installed (extra: parity)"
    )
    widgets: Any = pytest.importorskip("chatkit.widgets")
    errors: Any = pytest.importorskip("chatkit.errors")
    actions: Any = pytest.importorskip("chatkit.actions")

ours: Any = chatkit_trio.types

HOUR = 3600.0

pytestmark = pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")

NOW = datetime(2026, 11, 26, 9, 0, tzinfo=UTC)

CUTS = pytest.mark.parametrize("is_cut", [False, True], ids=["finished", "cut"])


async def run(*events: Any, is_cut: bool = False) -> tuple[Any, list[str], list[ThreadItem]]:
    """Run one turn of these events; return the client's turn, the lines and the items stored."""
    store = MemoryStore[Any]()
    async with scripted_server(store, [emit(*events), pause(FOR_EVER if is_cut else 0)]) as server:
        turn = await (stopped(server) if is_cut else answered(server))
        page = await store.load_thread_items(turn.thread_id or "", None, 100, "asc", None)
        return turn, await transcript(store, turn.thread_id), page.data


def foreign(event: Callable[[Scene], Any] | Any) -> Callable[[Scene], Any]:
    """Return a maker of the same event as one of openai-chatkit's classes."""

    def make(scene: Scene) -> Any:
        own = event(scene) if callable(event) else event
        return getattr(theirs, type(own).__name__).model_validate(own.model_dump())

    return make


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if "isn't a class" in line.getMessage()]


class Hooked(ScriptedServer):
    """Keeps something else than the pending items when it is cut."""

    def __init__(self, kept: Callable[[list[ThreadItem]], list[Any]]) -> None:
        respond = ScriptedRespond([emit(begin("m", "Hello")), pause(FOR_EVER)])
        super().__init__(MemoryStore[Any](), respond)
        self.kept = kept

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        await super().handle_stream_cancelled(thread, self.kept(pending_items), context)


# --- Hooks -------------------------------------------------------------------------------------


def as_theirs(items: list[ThreadItem]) -> list[Any]:
    return [
        getattr(theirs, type(item).__name__).model_validate(item.model_dump()) for item in items
    ]


@within(HOUR)
async def test_items_of_openai_chatkit_that_a_hook_keeps_are_stored(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with Hooked(as_theirs) as server:
        turn = await stopped(server)
        assert await transcript(server.store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]


@pytest.mark.parametrize("kept", ["Hello", {"type": "assistant_message"}, None])
@within(HOUR)
async def test_a_hook_that_keeps_what_is_no_item_is_told_so_and_costs_no_answer(
    kept: Any, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with Hooked(lambda _: [kept]) as server:
        turn = await stopped(server)
        assert await transcript(server.store, turn.thread_id) == [
            "user: hi",
            "assistant: Hello",
            "note: stopped",
        ]
    assert "keep() takes items of chatkit_trio.types" in caplog.text


# --- Whole events ------------------------------------------------------------------------------


@CUTS
@within(HOUR)
async def test_events_of_openai_chatkit_are_stored_and_the_log_is_told_once_of_each_class(
    is_cut: bool, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    half = (foreign(begin("half")), foreign(more("half", "Hel")), foreign(more("half", "lo")))
    turn, lines, _ = await run(foreign(finish("whole", "Hi")), *half, is_cut=is_cut)

    ending = ["note: stopped"] if is_cut else []
    assert lines == ["user: hi", "assistant: Hi", "assistant: Hello", *ending]
    assert turn.text == "HiHello"
    assert len(told(caplog)) == 3
    assert [line.split(" ")[0] for line in told(caplog)] == [
        "chatkit.types.ThreadItemDoneEvent",
        "chatkit.types.ThreadItemAddedEvent",
        "chatkit.types.ThreadItemUpdatedEvent",
    ]


@within(HOUR)
async def test_the_log_is_told_once_in_the_life_of_a_server(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with scripted_server(
        MemoryStore[Any](), [emit(foreign(finish("a", "A")))], [emit(foreign(finish("b", "B")))]
    ) as server:
        await answered(server)
        await answered(server)

    assert len(told(caplog)) == 1


@within(HOUR)
async def test_an_event_of_no_known_package_is_read_by_its_type(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Lookalike(BaseModel):
        type: str = "thread.item.done"
        item: dict[str, Any]
        trace_id: str = "t-1"

    def lookalike(scene: Scene) -> Lookalike:
        item = AssistantMessageItem(content=content("Hello"), **fields(scene, "msg_m"))
        return Lookalike(item=item.model_dump())

    turn, lines, _ = await run(lookalike)

    assert lines == ["user: hi", "assistant: Hello"]
    assert turn.text == "Hello"
    assert b"t-1" not in b"".join(turn.frames)


@within(HOUR)
async def test_a_foreign_event_that_respond_changes_later_is_stored_as_it_was_yielded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    made: list[Any] = []

    def kept(scene: Scene) -> Any:
        made.append(foreign(begin("msg_m", "Hel"))(scene))
        return made[0]

    store = MemoryStore[Any]()
    change = do(lambda scene: made[0].item.content.clear())
    async with scripted_server(store, [emit(kept), change, pause(FOR_EVER)]) as server:
        turn = await stopped(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: stopped",
        ]


@within(HOUR)
async def test_a_foreign_hidden_item_is_stored_and_never_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def hidden(scene: Scene) -> Any:
        return ThreadItemDoneEvent(item=HiddenContextItem(content="secret", **fields(scene, "h")))

    def by_hand(scene: Scene) -> Any:
        item = theirs.HiddenContextItem(content="secret", **fields(scene, "i"))
        return ThreadItemDoneEvent.model_construct(type="thread.item.done", item=item)

    turn, lines, items = await run(foreign(hidden), by_hand)

    assert lines == ["user: hi", "hidden_context_item", "hidden_context_item"]
    assert all(isinstance(item, HiddenContextItem) for item in items[1:])
    assert b"secret" not in b"".join(turn.frames)


def test_a_foreign_hidden_item_of_a_store_is_hidden() -> None:
    item = theirs.HiddenContextItem(id="h", thread_id="t", created_at=NOW, content="secret")

    assert ours.is_hidden(item)
    assert not ours.is_hidden(
        theirs.AssistantMessageItem(id="a", thread_id="t", created_at=NOW, content=[])
    )


# --- Foreign parts of our events ---------------------------------------------------------------


def foreign_item(scene: Scene) -> Any:
    text = theirs.AssistantMessageContent(text="Hel")
    return theirs.AssistantMessageItem(content=[text], **fields(scene, "msg_m"))


def by_constructor(scene: Scene) -> Any:
    return ThreadItemAddedEvent(item=foreign_item(scene))


def by_assignment(scene: Scene) -> Any:
    event: Any = begin("msg_m", "")(scene)
    event.item = foreign_item(scene)
    return event


def by_append(scene: Scene) -> Any:
    event: Any = begin("msg_m", "")(scene)
    event.item.content.append(theirs.AssistantMessageContent(text="Hel"))
    return event


def unchecked(scene: Scene) -> Any:
    return ThreadItemAddedEvent.model_construct(type="thread.item.added", item=foreign_item(scene))


def in_an_own_item(scene: Scene) -> Any:
    text = theirs.AssistantMessageContent(text="Hel")
    return ThreadItemAddedEvent(item=AssistantMessageItem(content=[text], **fields(scene, "msg_m")))


def foreign_update(scene: Scene) -> Any:
    delta = theirs.AssistantMessageContentPartTextDelta(content_index=0, delta="lo")
    return ThreadItemUpdatedEvent(item_id="msg_m", update=delta)


def foreign_update_unchecked(scene: Scene) -> Any:
    delta = theirs.AssistantMessageContentPartTextDelta(content_index=0, delta="lo")
    return ThreadItemUpdatedEvent.model_construct(
        type="thread.item.updated", item_id="msg_m", update=delta
    )


@CUTS
@pytest.mark.parametrize("update", [foreign_update, foreign_update_unchecked])
@pytest.mark.parametrize(
    "start", [by_constructor, by_assignment, by_append, unchecked, in_an_own_item]
)
@within(HOUR)
async def test_a_foreign_part_of_our_event_becomes_one_of_ours(
    start: Any, update: Any, is_cut: bool, autojump_clock: trio.testing.MockClock
) -> None:
    turn, lines, items = await run(start, update, is_cut=is_cut)

    ending = ["note: stopped"] if is_cut else []
    assert lines == ["user: hi", "assistant: Hello", *ending]
    assert turn.text == "Hello"
    assert isinstance(items[1], AssistantMessageItem)


@within(HOUR)
async def test_the_log_names_the_foreign_part_of_our_event(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    await run(by_append)

    assert [line.split(" ")[0] for line in told(caplog)] == [
        "chatkit.types.AssistantMessageContent"
    ]


def foreign_card(text: str) -> Any:
    press = actions.ActionConfig(type="press", payload={"n": 1})
    button = widgets.Button(label="Press", onClickAction=press)
    return widgets.Card(children=[widgets.Text(id="text", value=text, streaming=True), button])


@within(HOUR)
async def test_a_widget_of_openai_chatkit_is_stored_as_it_was_shown(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def shown(scene: Scene) -> Any:
        item = WidgetItem(widget=foreign_card("Hi"), **fields(scene, "msg_w"))
        return ThreadItemDoneEvent(item=item)

    turn, _, items = await run(shown)

    (sent,) = [event.item for event in turn.events if event.type == "thread.item.done"][1:]
    assert items[1] == sent
    assert isinstance(items[1], WidgetItem)
    props = items[1].widget.model_dump()
    assert [child["type"] for child in props["children"]] == ["Text", "Button"]
    assert props["children"][1]["onClickAction"]["payload"] == {"n": 1}


async def test_states_of_a_foreign_widget_are_streamed_as_those_of_ours() -> None:
    async def states() -> AsyncIterator[Any]:
        yield foreign_card("Hel")
        yield foreign_card("Hello")

    thread = ThreadMetadata(id="thr_1", created_at=NOW)
    events: list[Any] = [event async for event in stream_widget(thread, states())]

    assert [event.type for event in events] == [
        "thread.item.added",
        "thread.item.updated",
        "thread.item.done",
    ]
    assert events[1].update.type == "widget.streaming_text.value_delta"
    assert events[1].update.delta == "lo"
    assert diff_widget(events[0].item.widget, events[2].item.widget)


def test_a_dynamic_widget_keeps_props_that_its_class_does_not_know() -> None:
    child = widgets.DynamicWidgetComponent(type="Text", value="Hi", glow={"by": 3})
    root = widgets.DynamicWidgetRoot(type="Card", children=[child], tilt=2)

    item = WidgetItem(id="w", thread_id="t", created_at=NOW, widget=root)

    props = item.widget.model_dump()
    assert props["tilt"] == 2
    assert props["children"][0]["glow"] == {"by": 3}


# --- What can't be read ------------------------------------------------------------------------


def foreign_event_without_item(scene: Scene) -> Any:
    return theirs.ThreadItemDoneEvent.model_construct(type="thread.item.done", item=None)


def own_event_with_a_wrong_text(scene: Scene) -> Any:
    event: Any = begin("msg_m", "never")(scene)
    event.item.content[0].text = ["never"]
    return event


REFUSED: dict[str, tuple[Any, list[str]]] = {
    "their-item": (foreign_item, ["chatkit.types.AssistantMessageItem", "ThreadItemDoneEvent("]),
    "their-update": (
        lambda scene: theirs.AssistantMessageContentPartTextDelta(content_index=0, delta="never"),
        ["chatkit.types.AssistantMessageContentPartTextDelta", "ThreadItemUpdatedEvent(item_id"],
    ),
    "our-update": (
        lambda scene: ours.AssistantMessageContentPartTextDelta(content_index=0, delta="never"),
        ["chatkit_trio.types.AssistantMessage", "ThreadItemUpdatedEvent(item_id"],
    ),
    "text": (lambda scene: "never", ["builtins.str", "stream_text()"]),
    "dict": (lambda scene: {"type": "thread.item.done", "item": "never"}, ["builtins.dict"]),
    "none": (lambda scene: None, ["builtins.NoneType"]),
    "incomplete": (
        foreign_event_without_item,
        ["chatkit.types.ThreadItemDoneEvent", "thread.item.done.item"],
    ),
    "wrong": (
        own_event_with_a_wrong_text,
        ["chatkit_trio.types.ThreadItemAddedEvent", "content.0.text"],
    ),
}


@pytest.mark.parametrize("name", REFUSED)
@within(HOUR)
async def test_what_cannot_be_read_is_neither_sent_nor_stored_and_the_error_says_why(
    name: str, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    make, words = REFUSED[name]
    turn, lines, _ = await run(begin("first", "Hi"), make, finish("last", "never"))

    assert lines == ["user: hi", "assistant: Hi", "note: failed"]
    assert b"never" not in b"".join(turn.frames)
    assert "TypeError" in caplog.text
    assert [word for word in words if word not in caplog.text] == []


@within(HOUR)
async def test_respond_may_catch_the_refusal_and_go_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, message, context)
        for make, _ in REFUSED.values():
            with pytest.raises(TypeError):
                yield make(scene)
        yield finish("msg_m", "Hello")(scene)

    store = MemoryStore[Any]()
    async with ScriptedServer(store, respond) as server:
        turn = await answered(server)

        assert await transcript(store, turn.thread_id) == ["user: hi", "assistant: Hello"]
    assert turn.error is None


# --- Errors ------------------------------------------------------------------------------------


class Busy(errors.CustomStreamError):  # type: ignore[misc]
    """An application's own."""


def bare(error: Exception) -> Exception:
    return error


def in_group(error: Exception) -> Exception:
    return ExceptionGroup("a nursery's", [error])


def beside_another(error: Exception) -> Exception:
    return ExceptionGroup("a nursery's", [KeyError("x"), error])


def failing(error: Exception) -> Callable[..., AsyncIterator[Any]]:
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        yield begin("msg_m", "Hel")(Scene(thread, message, context))
        raise error

    return respond


async def error_told(error: Exception) -> Any:
    store = MemoryStore[Any]()
    async with ScriptedServer(store, failing(error)) as server:
        turn = await answered(server)

        assert await transcript(store, turn.thread_id) == [
            "user: hi",
            "assistant: Hel",
            "note: failed",
        ]
        return turn.error


@pytest.mark.parametrize("wrapped", [bare, in_group, beside_another])
@pytest.mark.parametrize("kind", [errors.CustomStreamError, Busy])
@within(HOUR)
async def test_the_user_reads_the_message_of_the_originals_custom_error(
    kind: Any, wrapped: Any, autojump_clock: trio.testing.MockClock
) -> None:
    told = await error_told(wrapped(kind("Come back at nine.", allow_retry=True)))

    assert (told.code, told.message, told.allow_retry) == ("custom", "Come back at nine.", True)


@within(HOUR)
async def test_the_originals_stream_error_keeps_its_code_and_its_retry(
    autojump_clock: trio.testing.MockClock,
) -> None:
    code = errors.ErrorCode.STREAM_ERROR

    plain = await error_told(errors.StreamError(code))
    final = await error_told(errors.StreamError(code, allow_retry=False))

    assert (plain.code, plain.message, plain.allow_retry) == ("stream.error", None, True)
    assert (final.code, final.message, final.allow_retry) == ("stream.error", None, False)


@within(HOUR)
async def test_an_error_of_the_same_name_elsewhere_tells_the_user_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class CustomStreamError(Exception):
        message = "password=1234"
        allow_retry = False

    told = await error_told(CustomStreamError())

    assert (told.code, told.message) == ("stream.error", None)


# --- What hooks return -------------------------------------------------------------------------


class Returning(ScriptedServer):
    """Its hooks return models of openai-chatkit."""

    def get_stream_options(self, thread: ThreadMetadata, context: Any) -> StreamOptions:
        options: StreamOptions = theirs.StreamOptions(allow_cancel=False)
        return options

    async def sync_action(
        self, thread: ThreadMetadata, action: Any, sender: Any, context: Any
    ) -> Any:
        item = theirs.WidgetItem(
            id="msg_w", thread_id=thread.id, created_at=NOW, widget=foreign_card("New")
        )
        return theirs.SyncCustomActionResponse(updated_item=item)


@within(HOUR)
async def test_models_of_openai_chatkit_that_hooks_return_are_sent_and_stored(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def respond(thread: ThreadMetadata, message: Any, context: Any) -> AsyncIterator[Any]:
        scene = Scene(thread, message, context)
        yield ThreadItemDoneEvent(item=WidgetItem(widget=card("Old"), **fields(scene, "msg_w")))

    store = MemoryStore[Any]()
    async with Returning(store, respond) as server:
        turn = await answered(server)
        request = {
            "type": "threads.sync_custom_action",
            "params": {"thread_id": turn.thread_id, "item_id": "msg_w", "action": {"type": "x"}},
        }
        result = await server.process(json.dumps(request), None)
        stored = await store.load_item(turn.thread_id or "", "msg_w", None)

    (options,) = [event for event in turn.events if event.type == "stream_options"]
    assert not options.stream_options.allow_cancel
    assert isinstance(result, NonStreamingResult)
    assert b'"value":"New"' in result.json
    assert isinstance(stored, WidgetItem)
    assert '"value":"New"' in stored.model_dump_json()
