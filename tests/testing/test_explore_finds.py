"""Servers and stores that are wrong in one way each: the explorer has to find every one.

Each is tried with the reasons and troubles that bring its fault to light; what the report says is
part of what is tested.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import trio

from chatkit_trio.errors import CustomStreamError
from chatkit_trio.server import ChatKitServer, current_turn
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    CancellationBroken,
    Scene,
    ScriptedServer,
    Step,
    explore_cancellations,
    fail,
    pause,
    say,
    scripted_server,
    set_title,
    work,
)
from chatkit_trio.types import (
    AssistantMessageItem,
    ErrorEvent,
    HiddenContextItem,
    ProgressUpdateEvent,
    ThreadItem,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
)

SCRIPT: list[Step] = [say("Hello ", "there", every=0.1), pause(0.1), say("More", every=0.1)]


class Talker(ChatKitServer[Any]):
    """Right in all but what its subclasses do."""

    async def respond(
        self, thread: ThreadMetadata, message: Any, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        for step in SCRIPT:
            async with aclosing(step(Scene(thread, message, context))) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event

    async def store_text(self, thread: ThreadMetadata, item: ThreadItem, item_id: str) -> None:
        again = item.model_copy(update={"id": item_id})
        await self.store.add_thread_item(thread.id, again, context=None)


def note_of(thread: ThreadMetadata, content: str) -> HiddenContextItem:
    note_id = f"note_{content}" if content else "note"
    return HiddenContextItem(
        id=note_id, thread_id=thread.id, created_at=datetime.now(UTC), content=content
    )


# --- Servers that fail by themselves -----------------------------------------------------------


def failing(yields: Sequence[Any] = (), error: Exception | None = None) -> Callable[..., Any]:
    """Return a `respond` that yields these events and then fails."""

    async def respond(
        thread: ThreadMetadata, message: Any, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        await trio.lowlevel.checkpoint()
        for event in yields:
            yield event
        if error is not None:
            raise error

    return respond


async def fails_in_a_task(
    thread: ThreadMetadata, message: Any, context: Any
) -> AsyncIterator[ThreadStreamEvent]:
    async def task() -> None:
        await trio.lowlevel.checkpoint()
        raise ValueError("in a task")

    current_turn().nursery.start_soon(task)
    yield ProgressUpdateEvent(text="one moment")


ALWAYS_FAILING = [
    failing(error=NameError("no such name")),
    failing([ProgressUpdateEvent(text="one moment")], ValueError("too late")),
    failing(error=CustomStreamError("no model today")),
    failing([ErrorEvent(message="no model today")]),
    fails_in_a_task,
]


@pytest.mark.parametrize("respond", ALWAYS_FAILING)
def test_an_answer_that_always_fails_shows_nothing_about_cuts(respond: Any) -> None:
    def make_server(store: Store[Any]) -> ScriptedServer:
        return ScriptedServer(store, respond)

    with pytest.raises(CancellationBroken, match="its cuts would show nothing"):
        explore_cancellations(make_server, "hi", reasons=["stopped"], troubles=[])


@pytest.mark.parametrize("respond", ALWAYS_FAILING)
def test_an_answer_may_always_fail_if_its_author_says_so(respond: Any) -> None:
    exploration = explore_cancellations(
        lambda store: ScriptedServer(store, respond), "one", "two", may_fail=True, step=3
    )

    assert exploration.ends["failed"] > 0 or respond is ALWAYS_FAILING[3]
    assert exploration.ends["stopped"] > 0


@pytest.mark.parametrize(
    ("failing_text", "told"),
    [
        ("one", "the answer to 'one', before the turn failed"),
        ("And now?", "the next turn's answer"),
    ],
)
def test_an_answer_that_fails_beside_the_turn_is_found(failing_text: str, told: str) -> None:
    async def respond(
        thread: ThreadMetadata, message: Any, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        yield ProgressUpdateEvent(text="one moment")
        if message.content[0].text == failing_text:
            raise KeyError(failing_text)

    def make_server(store: Store[Any]) -> ScriptedServer:
        return ScriptedServer(store, respond)

    with pytest.raises(CancellationBroken, match=told):
        explore_cancellations(make_server, "one", "two", reasons=["stopped"], troubles=[])


def test_a_thread_that_a_cut_has_poisoned_is_found() -> None:
    """As with a model that refuses a call of a tool without its output."""

    class RefusesNotes(Talker):
        async def respond(
            self, thread: ThreadMetadata, message: Any, context: Any
        ) -> AsyncIterator[ThreadStreamEvent]:
            page = await self.store.load_thread_items(thread.id, None, 20, "asc", context)
            if any(item.type == "sdk_hidden_context" for item in page.data):
                raise ValueError("the model refuses this input")
            async with aclosing(super().respond(thread, message, context)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event

    with pytest.raises(CancellationBroken, match="ValueError: the model refuses this input"):
        explore_cancellations(RefusesNotes, "hi", reasons=["stopped"], troubles=[])


# --- Servers -----------------------------------------------------------------------------------


class StoresItsTextInItsOwnCleanup(Talker):
    """The likeliest mistake of all: what the engine keeps, `respond` stores as well."""

    async def respond(self, thread: ThreadMetadata, message: Any, context: Any) -> Any:
        item = AssistantMessageItem(
            id=self.store.generate_item_id("message", thread, context),
            thread_id=thread.id,
            created_at=datetime.now(UTC),
            content=[],
        )
        text, step = "", say("Hello ", "there", every=0.1)
        try:
            async with aclosing(step(Scene(thread, message, context))) as events:  # type: ignore[type-var]
                async for event in events:
                    text += getattr(getattr(event, "update", None), "delta", "")
                    yield event
        finally:
            if text and text != "Hello there":
                with trio.move_on_after(1, shield=True):
                    part = {"type": "output_text", "text": text, "annotations": []}
                    kept = AssistantMessageItem.model_validate(
                        {**item.model_dump(), "content": [part]}
                    )
                    await self.store.add_thread_item(thread.id, kept, context=context)


class StoresItsTextAgainInTheHook(Talker):
    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        await super().handle_stream_cancelled(thread, pending_items, context)
        for item in pending_items:
            await self.store_text(thread, item, f"{item.id}_again")


class KeepsNothing(Talker):
    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        return


class LeavesTwoNotes(Talker):
    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        await super().handle_stream_cancelled(thread, pending_items, context)
        await self.store.add_thread_item(thread.id, note_of(thread, "cut"), context=context)


class HookThatStoresByHand(Talker):
    notes: Sequence[str] = ()
    notes_first = False

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        texts: list[ThreadItem] = [
            item for item in pending_items if isinstance(item, AssistantMessageItem)
        ]
        notes: list[ThreadItem] = [note_of(thread, content) for content in self.notes]
        for item in [*notes, *texts] if self.notes_first else [*texts, *notes]:
            await self.store.add_thread_item(thread.id, item, context=context)


class LeavesNoNote(HookThatStoresByHand):
    pass


class LeavesAnEmptyNote(HookThatStoresByHand):
    notes = ("",)


class LeavesItsNoteBeforeTheText(HookThatStoresByHand):
    notes = ("cut",)
    notes_first = True


class LeavesATaskOfTheSystem(Talker):
    def respond(self, thread: ThreadMetadata, message: Any, context: Any) -> Any:
        trio.lowlevel.spawn_system_task(trio.sleep, 1000, name="forgotten")
        return super().respond(thread, message, context)


class WritesAfterItsEnd(Talker):
    """A task that outlives the turn writes what the turn doesn't know."""

    def respond(self, thread: ThreadMetadata, message: Any, context: Any) -> Any:
        async def write() -> None:
            await current_turn_ended.wait()
            await trio.sleep(0.5)
            item = note_of(thread, f"afterthought {id(thread)}")
            await self.store.add_thread_item(thread.id, item, context=context)

        current_turn_ended = current_turn().ended
        trio.lowlevel.spawn_system_task(write)
        return super().respond(thread, message, context)


class WritesInItsCleanup(Talker):
    """Another message may have been answered by then."""

    async def respond(self, thread: ThreadMetadata, message: Any, context: Any) -> Any:
        try:
            async with aclosing(super().respond(thread, message, context)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        except trio.Cancelled:
            with trio.move_on_after(1, shield=True):
                await trio.sleep(0.5)
                await self.store.add_thread_item(thread.id, note_of(thread, "bye"), context=context)
            raise


class LeavesAGeneratorOpen(Talker):
    async def respond(self, thread: ThreadMetadata, message: Any, context: Any) -> Any:
        async for delta in pieces_of_a_model():
            async for event in say(delta)(Scene(thread, message, context)):
                yield event


async def pieces_of_a_model() -> AsyncIterator[str]:
    for piece in ("Hello ", "there"):
        await trio.sleep(0.1)
        yield piece


class HidesAnError(Talker):
    """Keeps an error of the store to itself."""

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        with suppress(Exception):
            await super().handle_stream_cancelled(thread, pending_items, context)


class KeepsHalfOfTheText(Talker):
    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        halves = [halved(item) for item in pending_items]
        await super().handle_stream_cancelled(thread, halves, context)


def halved(item: ThreadItem) -> ThreadItem:
    if not isinstance(item, AssistantMessageItem):
        return item
    content = [
        part.model_copy(update={"text": part.text[: len(part.text) // 2]}) for part in item.content
    ]
    return item.model_copy(update={"content": content})


SERVERS: list[tuple[Callable[[Store[Any]], ChatKitServer[Any]], str, str]] = [
    (StoresItsTextInItsOwnCleanup, "stopped", "which respond() had yielded"),
    # Which of the two is seen first depends on the order of tasks at that checkpoint.
    (
        StoresItsTextInItsOwnCleanup,
        "disconnected",
        "which respond() had yielded|was written after the turn had been settled",
    ),
    (StoresItsTextAgainInTheHook, "stopped", "which respond() had yielded"),
    (StoresItsTextAgainInTheHook, "grace_period", "which respond() had yielded"),
    (KeepsNothing, "disconnected", "0 hidden notes are in the store"),
    (KeepsHalfOfTheText, "stopped", "'Hello ', and the store has assistant_message"),
    (LeavesTwoNotes, "stopped", "2 hidden notes are in the store"),
    (LeavesNoNote, "stopped", "0 hidden notes are in the store"),
    (LeavesAnEmptyNote, "stopped", "is empty"),
    (LeavesItsNoteBeforeTheText, "disconnected", "stands behind the note about its end"),
    (LeavesATaskOfTheSystem, "stopped", "system task forgotten is left"),
    (WritesAfterItsEnd, "stopped", "was written after the turn had been settled"),
    (WritesInItsCleanup, "disconnected", "was written after the turn had been settled"),
    (LeavesAGeneratorOpen, "disconnected", "generator pieces_of_a_model ("),
    (LeavesAGeneratorOpen, "respond_raises", "generator pieces_of_a_model ("),
    (
        lambda store: scripted_server(store, [say("Hello"), fail(ValueError("no model"))]),
        "stopped",
        "it ended as failed, so its cuts would show nothing: ValueError: no model",
    ),
]


@pytest.mark.parametrize(("make_server", "reason", "found"), SERVERS)
def test_a_server_that_is_wrong_is_found_out(
    make_server: Callable[[Store[Any]], ChatKitServer[Any]], reason: str, found: str
) -> None:
    with pytest.raises(CancellationBroken) as caught:
        explore_cancellations(make_server, "hi", reasons=[reason], troubles=[])

    assert any(words in str(caught.value) for words in found.split("|"))


def test_a_hook_that_drops_an_error_of_the_store_is_found_out() -> None:
    with pytest.raises(CancellationBroken) as caught:
        explore_cancellations(
            HidesAnError, "hi", reasons=["stopped"], troubles=["failing_write"], at=10
        )

    assert "(the explorer made this write fail) was neither told" in str(caught.value)


def test_a_server_that_leaves_no_note_on_purpose_has_to_keep_the_text_all_the_same() -> None:
    with pytest.raises(CancellationBroken) as caught:
        explore_cancellations(
            KeepsNothing, "hi", reasons=["disconnected"], troubles=[], expects_note=False
        )

    assert "'Hello ', and the store hasn't got it" in str(caught.value)


# --- Stores ------------------------------------------------------------------------------------


class Altering(MemoryStore[Any]):
    """Changes what a turn leaves behind, on its way to the store."""

    def change(self, settlement: Settlement) -> Settlement:
        raise NotImplementedError

    async def settle(self, settlement: Settlement, context: Any) -> None:
        await super().settle(self.change(settlement), context)


class LosesNotes(Altering):
    def change(self, settlement: Settlement) -> Settlement:
        kept = [item for item in settlement.new_items if item.type != "sdk_hidden_context"]
        return replace(settlement, new_items=tuple(kept))


class DoublesNotes(Altering):
    def change(self, settlement: Settlement) -> Settlement:
        again = [item.model_copy(update={"id": f"{item.id}_"}) for item in settlement.new_items]
        notes = [item for item in again if item.type == "sdk_hidden_context"]
        return replace(settlement, new_items=(*settlement.new_items, *notes))


class PutsNotesFirst(Altering):
    def change(self, settlement: Settlement) -> Settlement:
        return replace(settlement, new_items=settlement.new_items[::-1])


class LosesTheThread(Altering):
    def change(self, settlement: Settlement) -> Settlement:
        return replace(settlement, thread=None)


class LosesItems(Altering):
    def change(self, settlement: Settlement) -> Settlement:
        return replace(settlement, new_items=settlement.new_items[-1:])


class DoublesItems(Altering):
    def change(self, settlement: Settlement) -> Settlement:
        again = [item.model_copy(update={"id": f"{item.id}_"}) for item in settlement.new_items]
        texts = [item for item in again if item.type == "assistant_message"]
        return replace(settlement, new_items=(*texts, *settlement.new_items))


class Shouts(Altering):
    def change(self, settlement: Settlement) -> Settlement:
        items = [shouted(item) for item in settlement.new_items]
        return replace(settlement, new_items=tuple(items))


def shouted(item: ThreadItem) -> ThreadItem:
    if not isinstance(item, AssistantMessageItem):
        return item
    parts = [part.model_copy(update={"text": part.text + "!"}) for part in item.content]
    return item.model_copy(update={"content": parts})


class WritesLater(MemoryStore[Any]):
    """Says that it's done, and does it when nobody waits any more."""

    async def settle(self, settlement: Settlement, context: Any) -> None:
        await trio.lowlevel.checkpoint()
        trio.lowlevel.spawn_system_task(self.settle_later, settlement, context)

    async def settle_later(self, settlement: Settlement, context: Any) -> None:
        await trio.sleep(0.5)
        await super().settle(settlement, context)


class TakesAMinute(MemoryStore[Any]):
    """Can't be interrupted, and settles in a minute."""

    async def settle(self, settlement: Settlement, context: Any) -> None:
        with trio.move_on_after(100, shield=True):
            await trio.sleep(60)
            await super().settle(settlement, context)


class LosesWhatIsDone(MemoryStore[Any]):
    """Says that an item is stored, and it isn't."""

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await trio.lowlevel.checkpoint()
        if not isinstance(item, AssistantMessageItem):
            await super().add_thread_item(thread_id, item, context)


class LosesReplacements(MemoryStore[Any]):
    async def save_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await trio.lowlevel.checkpoint()


class KeepsWhatIsRemoved(MemoryStore[Any]):
    async def delete_thread_item(self, thread_id: str, item_id: str, context: Any) -> None:
        await trio.lowlevel.checkpoint()


class AddsTwice(MemoryStore[Any]):
    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        await super().add_thread_item(thread_id, item, context)
        copy = item.model_copy(update={"id": f"{item.id}_again"})
        await super().add_thread_item(thread_id, copy, context)


class SavesNoTitle(MemoryStore[Any]):
    async def update_thread(self, thread: ThreadMetadata, context: Any) -> None:
        await super().update_thread(thread.model_copy(update={"title": None}), context)


def replacing(store: Store[Any]) -> ScriptedServer:
    """A server that replaces a message after it's done."""

    async def replace_last(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
        page = await store.load_thread_items(scene.thread.id, None, 1, "desc", context=None)
        item = page.data[0]
        assert isinstance(item, AssistantMessageItem)
        yield ThreadItemReplacedEvent(item=shouted(item))

    return scripted_server(store, [say("Hello"), replace_last, pause(0.1)])


def removing(store: Store[Any]) -> ScriptedServer:
    """A server that takes a message back after it's done."""

    async def remove_last(scene: Scene) -> AsyncIterator[ThreadStreamEvent]:
        page = await store.load_thread_items(scene.thread.id, None, 1, "desc", context=None)
        yield ThreadItemRemovedEvent(item_id=page.data[0].id)

    return scripted_server(store, [say("Hello"), remove_last, pause(0.1)])


def titled(store: Store[Any]) -> ScriptedServer:
    script = [say("Hello ", "there", every=0.1), set_title("A story"), pause(0.1), say("More")]
    return scripted_server(store, script)


def two_at_once(store: Store[Any]) -> ScriptedServer:
    """A server whose items are begun before the first is done."""
    return scripted_server(store, [say("Hello", finish=False), work("Search", every=0.1)])


STORES: list[tuple[Callable[[], Store[Any]], Any, str, str]] = [
    (LosesNotes, titled, "stopped", "0 hidden notes"),
    (DoublesNotes, titled, "stopped", "2 hidden notes"),
    (PutsNotesFirst, titled, "disconnected", "stands behind the note about its end"),
    (LosesTheThread, titled, "stopped", "respond() had left the thread as"),
    (LosesItems, titled, "grace_period", "and the store hasn't got it"),
    (LosesItems, two_at_once, "turn_timeout", "and the store hasn't got it"),
    (DoublesItems, titled, "stopped", "which respond() had yielded"),
    (Shouts, titled, "stopped", "and the store has assistant_message"),
    (WritesLater, titled, "stopped", "a client that read the thread at the cut was told"),
    (TakesAMinute, titled, "stopped", "the turn was settled 60 s after the cut"),
    (TakesAMinute, titled, "grace_period", "the turn was settled 60 s after the cut"),
    (LosesWhatIsDone, titled, "return", "and the store hasn't got it"),
    (LosesReplacements, replacing, "stopped", "a client that read to the end shows"),
    (KeepsWhatIsRemoved, removing, "return", "respond() had removed assistant_message"),
    (AddsTwice, titled, "stopped", "isn't in the store, once"),
    (SavesNoTitle, titled, "stopped", "respond() had left the thread as title='A story'"),
]


@pytest.mark.parametrize(("make_store", "make_server", "reason", "found"), STORES)
def test_a_store_that_is_wrong_is_found_out(
    make_store: Callable[[], Store[Any]], make_server: Any, reason: str, found: str
) -> None:
    with pytest.raises(CancellationBroken) as caught:
        explore_cancellations(
            make_server, "hi", make_store=make_store, reasons=[reason], troubles=[]
        )

    assert found in str(caught.value)
