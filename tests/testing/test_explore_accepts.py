"""Servers and stores that are right, in every way a server may be: the explorer finds nothing.

Every tenth point of each is tried, with every reason and every trouble; what the engine does at
each point is the affair of `tests/engine/test_explored.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.server import ChatKitServer, TurnPolicy, current_turn, stream_widget
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    EVERY_REASON,
    EVERY_TROUBLE,
    Scene,
    ScriptedModel,
    ScriptedServer,
    SlowStore,
    Step,
    StoreWrapper,
    do,
    emit,
    explore_cancellations,
    pause,
    say,
    scripted_server,
    set_title,
    show_widget,
    work,
)
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageContentPartTextDelta,
    AssistantMessageItem,
    ClientToolCallItem,
    CustomTask,
    GeneratedImage,
    GeneratedImageItem,
    GeneratedImageUpdated,
    HiddenContextItem,
    ProgressUpdateEvent,
    ThreadItem,
    ThreadItemAddedEvent,
    ThreadItemDoneEvent,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadItemUpdatedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
    WorkflowItem,
    WorkflowTaskAdded,
)
from chatkit_trio.widgets import DynamicWidgetRoot

_T = TypeVar("_T")


def card(text: str) -> DynamicWidgetRoot:
    return DynamicWidgetRoot.model_validate(
        {"type": "Card", "children": [{"type": "Text", "id": "t", "value": text}]}
    )


# --- What a respond may yield ------------------------------------------------------------------


def message(scene: Scene, text: str) -> AssistantMessageItem:
    return AssistantMessageItem(content=[AssistantMessageContent(text=text)], **scene.item_fields())


async def growing_widget(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    async def states() -> AsyncIterator[DynamicWidgetRoot]:
        for text in ("a", "a b", "a b c"):
            await trio.sleep(0.01)
            yield card(text)

    async with aclosing(stream_widget(scene.thread, states())) as events:  # type: ignore[type-var]
        async for event in events:
            yield event


async def image(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    item = GeneratedImageItem(**scene.item_fields())
    yield ThreadItemAddedEvent(item=item)
    for number in range(3):
        await trio.sleep(0.01)
        picture = GeneratedImage(id=f"image_{number}", url=f"https://example.org/{number}.png")
        update = GeneratedImageUpdated(image=picture, progress=number / 3)
        yield ThreadItemUpdatedEvent(item_id=item.id, update=update)
    yield ThreadItemDoneEvent(item=item.model_copy(update={"image": picture}))


async def hidden(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    await trio.sleep(0.01)
    item = HiddenContextItem(content="what the tool said", **scene.item_fields())
    yield ThreadItemDoneEvent(item=item)


async def replaced(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    item = message(scene, "Hello")
    yield ThreadItemDoneEvent(item=item)
    for text in ("Bye", "Bye, then", "So long"):
        await trio.sleep(0.01)
        content = [AssistantMessageContent(text=text)]
        yield ThreadItemReplacedEvent(item=item.model_copy(update={"content": content}))


async def taken_back(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    pending, done = message(scene, "Never mind"), message(scene, "Forget it")
    yield ThreadItemAddedEvent(item=pending)
    yield ThreadItemDoneEvent(item=done)
    for item in (pending, done):
        await trio.sleep(0.01)
        yield ThreadItemRemovedEvent(item_id=item.id)


async def crossed(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    """Two items, of which the first that is begun is the last that is done."""
    one, two = message(scene, "one"), message(scene, "two")
    for event in (ThreadItemAddedEvent(item=one), ThreadItemAddedEvent(item=two)):
        await trio.sleep(0.01)
        yield event
    for item in (two, one):
        await trio.sleep(0.01)
        yield ThreadItemDoneEvent(item=item)


async def question(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
    await trio.sleep(0.01)
    yield ThreadItemDoneEvent(
        item=ClientToolCallItem(
            call_id="call",
            name="where",
            arguments={},
            status="completed",
            output={},
            **scene.item_fields("tool_call"),
        )
    )


def grown_later(store: Store[Any]) -> ScriptedServer:
    """A workflow that a later turn goes on with."""

    async def grow(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
        page = await store.load_thread_items(scene.thread.id, None, 20, "asc", context=None)
        workflow = next(item for item in page.data if isinstance(item, WorkflowItem))
        for number in range(3):
            await trio.sleep(0.01)
            task = CustomTask(title=f"later {number}")
            update = WorkflowTaskAdded(task_index=2 + number, task=task)
            yield ThreadItemUpdatedEvent(item_id=workflow.id, update=update)

    first: list[Step] = [work("one", "two", every=0.01)]
    return scripted_server(store, first, [grow, say("Done")])


def twice_the_same(store: Store[Any]) -> ScriptedServer:
    """It says the same in two messages, which isn't a doubled one."""
    return scripted_server(store, [say("Hello ", "you", every=0.01), say("Hello ", "you")])


SCRIPTS: list[list[Step]] = [
    [work("Search", "Write", every=0.01), say("Found ", "it", every=0.01)],
    [show_widget(card("Hi")), growing_widget],
    [image, say("Like it?")],
    [hidden, say("It says ", "so"), hidden],
    [replaced, say("Or not")],
    [taken_back, say("Good")],
    [crossed],
    [question],
    [say("Hello ", "you", every=0.01, finish=False)],
    [emit(ProgressUpdateEvent(text="Thinking")), pause(30), say("Hm")],
    [set_title("One"), say("a", "b"), set_title("Two"), pause(0.1), set_title("Three")],
    [],
]


# --- How a respond may be made -----------------------------------------------------------------


def made_of(respond: Any, **options: Any) -> Callable[[Store[Any]], ScriptedServer]:
    return lambda store: ScriptedServer(store, respond, **options)


@trio.as_safe_channel
async def by_channel(thread: ThreadMetadata, user: Any, context: Any) -> AsyncIterator[Any]:
    async with aclosing(say("Hel", "lo", every=0.01)(Scene(thread, user, context))) as events:  # type: ignore[type-var]
        async for event in events:
            yield event


async def with_nursery_and_scope(thread: ThreadMetadata, user: Any, context: Any) -> Any:
    scene = Scene(thread, user, context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 0.02)
        with trio.move_on_after(0.015):
            async with aclosing(say("a", "b", "c", every=0.01)(scene)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
    async with aclosing(say("d")(scene)) as events:  # type: ignore[type-var]
        async for event in events:
            yield event


async def with_tools(thread: ThreadMetadata, user: Any, context: Any) -> Any:
    """One tool in a task beside it, one that it waits for."""
    scene, found = Scene(thread, user, context), trio.Event()

    async def look_up() -> None:
        await trio.sleep(0.03)
        found.set()

    current_turn().nursery.start_soon(look_up)
    async with aclosing(work("Search", every=0.01)(scene)) as events:  # type: ignore[type-var]
        async for event in events:
            yield event
    await found.wait()
    await trio.sleep(0.02)
    async with aclosing(say("Found")(scene)) as events:  # type: ignore[type-var]
        async for event in events:
            yield event


async def that_cleans_up(thread: ThreadMetadata, user: Any, context: Any) -> Any:
    """Closes what it uses, which takes a while, and lets nothing cancel that."""
    try:
        async with aclosing(say("a", "b", every=0.01)(Scene(thread, user, context))) as events:  # type: ignore[type-var]
            async for event in events:
                yield event
    finally:
        with trio.move_on_after(0.5, shield=True):
            await trio.sleep(0.2)


async def with_a_model(thread: ThreadMetadata, user: Any, context: Any) -> Any:
    item, text = message(Scene(thread, user, context), ""), ""
    yield ThreadItemAddedEvent(item=item)
    model = ScriptedModel(["It ", "was ", "dark"], every=0.01)
    async with model.stream("Tell") as pieces:
        async for piece in pieces:
            text += piece
            delta = AssistantMessageContentPartTextDelta(content_index=0, delta=piece)
            yield ThreadItemUpdatedEvent(item_id=item.id, update=delta)
    content = [AssistantMessageContent(text=text)]
    yield ThreadItemDoneEvent(item=item.model_copy(update={"content": content}))


async def that_does_not_give_up(thread: ThreadMetadata, user: Any, context: Any) -> Any:
    """Swallows its cancellation and goes on; the engine has to see to it that it ends."""
    scene = Scene(thread, user, context)
    for _ in range(3):
        with suppress(trio.Cancelled):
            await trio.sleep(0.01)
        yield ThreadItemDoneEvent(item=message(scene, "on"))


# --- What a hook and a policy may be -----------------------------------------------------------


class WithHook(ScriptedServer):
    """Calls the default, and leaves a word for the user."""

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        await super().handle_stream_cancelled(thread, pending_items, context)
        word = message(Scene(thread, None, context), "(cut short)")
        await self.store.add_thread_item(thread.id, word, context=context)


class WithHookOfItsOwn(ScriptedServer):
    """Stores by hand what is to be kept, and a note."""

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        kept = [
            item
            for item in pending_items
            if isinstance(item, AssistantMessageItem) and any(part.text for part in item.content)
        ]
        note = HiddenContextItem(
            id=self.store.generate_item_id("message", thread, context),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            content="cut short",
        )
        await self.store.settle(Settlement(thread.id, new_items=(*kept, note)), context)


HELLO: list[Step] = [say("Hello ", "there", every=0.01), pause(0.02), say("More", every=0.01)]


def hooked(kind: type[ScriptedServer]) -> Callable[[Store[Any]], ScriptedServer]:
    return lambda store: kind(store, scripted_server(store, HELLO).script)


def under(**settings: Any) -> Callable[[Store[Any]], ScriptedServer]:
    return lambda store: scripted_server(store, HELLO, policy=TurnPolicy(**settings))


SERVERS: dict[str, Callable[[Store[Any]], ChatKitServer[Any]]] = {
    **{
        f"script_{number}": lambda store, script=script: scripted_server(store, script)
        for number, script in enumerate(SCRIPTS)
    },
    "grown_later": grown_later,
    "twice_the_same": twice_the_same,
    "by_channel": made_of(by_channel),
    "with_nursery_and_scope": made_of(with_nursery_and_scope),
    "with_tools": made_of(with_tools),
    "that_cleans_up": made_of(that_cleans_up),
    "with_a_model": made_of(with_a_model),
    "that_does_not_give_up": made_of(that_does_not_give_up),
    "with_hook": hooked(WithHook),
    "with_hook_of_its_own": hooked(WithHookOfItsOwn),
    "on_disconnect_finish": under(on_disconnect="finish"),
    "on_disconnect_number": under(on_disconnect=30.0),
    "on_busy_queue": under(on_busy="queue"),
    "on_busy_reject": under(on_busy="reject"),
    "with_time_limit": under(turn_timeout=60.0),
    "that_settles_quickly": under(settle_timeout=0.5),
    "not_to_be_cancelled": lambda store: scripted_server(store, HELLO, allow_cancel=False),
}


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_that_is_right_is_left_alone(name: str) -> None:
    messages = ["hi", "go on"] if name == "grown_later" else ["hi"]

    # Another seed each: together they fall on every phase of a turn.
    explore_cancellations(SERVERS[name], *messages, step=10, seed=list(SERVERS).index(name))


# --- What a store may do -----------------------------------------------------------------------


class FailsAtFirst(StoreWrapper[Any]):
    """Settles at the second try."""

    tries = 0

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name == "settle":
            self.tries += 1
            if self.tries == 1:
                raise StoreError("the connection was lost")
        return await call()


class SettlesInSteps(MemoryStore[Any]):
    """Isn't atomic: an interface of the original's with what `Store` makes of it."""

    settle = Store.settle


STORES: dict[str, Callable[[], Store[Any]]] = {
    "slow": lambda: SlowStore(MemoryStore(), 0.3),
    "slow_answers": lambda: SlowStore(MemoryStore(), 0.3, answer_seconds=0.3),
    "fails_at_first": lambda: FailsAtFirst(MemoryStore()),
    "in_steps": SettlesInSteps,
}


@pytest.mark.parametrize("name", STORES)
def test_a_store_that_is_right_is_left_alone(name: str) -> None:
    explore_cancellations(
        lambda store: scripted_server(store, HELLO), "hi", make_store=STORES[name], step=9
    )


def test_sqlite_is_left_alone(tmp_path: Path) -> None:
    numbers = iter(range(1000))

    explore_cancellations(
        lambda store: scripted_server(store, HELLO),
        "hi",
        make_store=lambda: SQLiteStore(tmp_path / f"{next(numbers)}.db"),
        step=30,
    )


def test_a_hook_that_leaves_no_note_on_purpose_is_left_alone() -> None:
    class WithoutNote(ScriptedServer):
        async def handle_stream_cancelled(
            self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
        ) -> None:
            await self.store.settle(Settlement(thread.id, new_items=tuple(pending_items)), context)

    explore_cancellations(hooked(WithoutNote), "hi", step=9, expects_note=False)


def test_every_reason_and_trouble_is_tried() -> None:
    exploration = explore_cancellations(under(), "hi", step=9)

    assert set(exploration.runs) == {*EVERY_REASON, *EVERY_TROUBLE}


def test_a_step_that_does_nothing_is_no_event() -> None:
    explore_cancellations(
        lambda store: scripted_server(store, [do(lambda scene: None)]), "hi", step=9
    )
