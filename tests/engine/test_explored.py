"""The engine, cut at every checkpoint for every reason, with everything that may go wrong beside.

The explorer looks into store, stream and log after each cut; `tests/testing/test_explore_finds.py`
shows what it would find.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.server import ChatKitServer, current_turn
from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.testing import (
    EVERY_REASON,
    Aftermath,
    Scene,
    ScriptedRespond,
    ScriptedServer,
    SlowStore,
    Step,
    explore_cancellations,
    pause,
    say,
    scripted_server,
    set_title,
    show_widget,
    work,
)
from chatkit_trio.types import (
    AssistantMessageItem,
    SDKHiddenContextItem,
    ThreadItem,
    ThreadItemReplacedEvent,
    ThreadMetadata,
    ThreadStreamEvent,
)
from chatkit_trio.widgets import DynamicWidgetRoot

THE_END = DynamicWidgetRoot.model_validate(
    {"type": "Card", "children": [{"type": "Text", "value": "The end"}]}
)

ANSWER: list[Step] = [
    say("It was ", "a dark ", "night.", every=0.01),
    set_title("A story"),
    work("Search", "Write", every=0.01),
    show_widget(THE_END),
    say("More?", every=0.01),
]


def story_server(store: Store[Any]) -> ScriptedServer:
    return scripted_server(store, ANSWER)


class ToolServer(ChatKitServer[Any]):
    """Waits for a tool that runs in a task beside it, and corrects itself afterwards."""

    async def respond(
        self, thread: ThreadMetadata, message: Any, context: Any
    ) -> AsyncIterator[ThreadStreamEvent]:
        found = trio.Event()
        current_turn().nursery.start_soon(look_up, found)
        scene = Scene(thread, message, context)
        for step in (work("Search", every=0.01), say("I think ", "so", every=0.01)):
            async with aclosing(step(scene)) as events:  # type: ignore[type-var]
                async for event in events:
                    yield event
        await found.wait()
        item = getattr(event, "item", None)
        assert isinstance(item, AssistantMessageItem)
        part = item.content[0].model_copy(update={"text": "I know"})
        yield ThreadItemReplacedEvent(item=item.model_copy(update={"content": [part]}))


class WordyServer(ScriptedServer):
    """Says more in the hidden note than the engine does, once that is stored."""

    async def handle_stream_cancelled(
        self, thread: ThreadMetadata, pending_items: list[ThreadItem], context: Any
    ) -> None:
        await super().handle_stream_cancelled(thread, pending_items, context)
        [note] = (await self.store.load_thread_items(thread.id, None, 1, "desc", context)).data
        assert isinstance(note, SDKHiddenContextItem)
        wordy = note.model_copy(update={"content": f"{note.content} So it goes."})
        await self.store.save_item(thread.id, wordy, context=context)
        thread.metadata["cut"] = True


async def look_up(found: trio.Event) -> None:
    await trio.sleep(0.05)
    found.set()


# --- In memory ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", EVERY_REASON)
def test_a_story_cut_anywhere_is_kept_once(reason: str) -> None:
    explore_cancellations(story_server, "Tell me a story", reasons=[reason], troubles=[])


def test_a_story_cut_anywhere_is_kept_once_whatever_goes_wrong_beside() -> None:
    explore_cancellations(story_server, "Hi", "Tell me a story", step=5)


def test_a_first_message_cut_anywhere_is_kept_or_leaves_nothing() -> None:
    script: list[Step] = [say("Hello ", "there", every=0.01), pause(0.02)]

    explore_cancellations(lambda store: scripted_server(store, script), "Hi", step=3)


def test_a_turn_cut_in_the_middle_of_a_tool_is_kept_once() -> None:
    explore_cancellations(ToolServer, "Where is it?", step=5)


@pytest.mark.parametrize("seed", [1, 2])
def test_the_order_in_which_tasks_run_does_not_matter(seed: int) -> None:
    explore_cancellations(story_server, "Tell me a story", step=9, seed=seed)


def test_a_slow_store_changes_nothing() -> None:
    explore_cancellations(
        story_server,
        "Tell me a story",
        make_store=lambda: SlowStore(MemoryStore(), 0.3, answer_seconds=0.3),
        step=13,
    )


@pytest.mark.parametrize("kind", ["memory", "cluster", "sqlite"])
def test_what_a_hook_writes_behind_the_default_is_kept_wherever_the_turn_is_cut(
    kind: str, tmp_path: Path
) -> None:
    numbers = count()

    def make_store() -> Store[Any]:
        if kind == "sqlite":
            return SQLiteStore(tmp_path / f"{next(numbers)}.db")
        return MemoryStore(cluster=MemoryCluster() if kind == "cluster" else None)

    def check(aftermath: Aftermath) -> None:
        notes = [item for item in aftermath.stored if isinstance(item, SDKHiddenContextItem)]
        assert all(note.content.endswith("So it goes.") for note in notes)
        saved = {} if aftermath.thread is None else aftermath.thread.metadata
        assert saved == ({"cut": True} if notes else {})

    explore_cancellations(
        lambda store: WordyServer(store, ScriptedRespond([say("Hello ", "there", every=0.01)])),
        "Hi",
        make_store=make_store,
        reasons=["stopped", "disconnected", "deadline", "shutdown", "superseded"],
        troubles=[],
        check=check,
        step=7 if kind == "sqlite" else 1,
    )


# --- On SQLite ---------------------------------------------------------------------------------


def test_a_story_cut_here_and_there_is_kept_once_on_sqlite(tmp_path: Path) -> None:
    numbers = count()

    explore_cancellations(
        story_server,
        "Tell me a story",
        make_store=lambda: SQLiteStore(tmp_path / f"{next(numbers)}.db"),
        step=25,
    )
