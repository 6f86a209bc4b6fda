"""What a client was told is taken back or replaced stays so, though the process dies at once.

The journal has an older state by then: it is written every so often, beside the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.store import JournalEntry
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import JumpClock, Scene, Step, do, emit, pause, scripted_server
from chatkit_trio.types import (
    AssistantMessageItem,
    ThreadItem,
    ThreadItemRemovedEvent,
    ThreadItemReplacedEvent,
)
from tests.transcript import transcript

from .parts import begin, finish, more
from .scenes import ask, bounded, crash, message, sending

ITEM = "msg_1"
UNTIL_JOURNALED = pause(0.75)
"""The journal has been written once then, and not twice."""

TOLD_REMOVED, TOLD_REPLACED = "thread.item.removed", "thread.item.replaced"


class SlowToStore(SQLiteStore[Any]):
    """A store that takes so long for an item that the journal is written meanwhile."""

    async def add_thread_item(self, thread_id: str, item: ThreadItem, context: Any) -> None:
        if isinstance(item, AssistantMessageItem):
            await trio.sleep(0.75)
        await super().add_thread_item(thread_id, item, context)


def removed(_: Scene) -> ThreadItemRemovedEvent:
    return ThreadItemRemovedEvent(item_id=ITEM)


def replaced(text: str) -> Callable[[Scene], ThreadItemReplacedEvent]:
    return lambda scene: ThreadItemReplacedEvent(item=message(scene, text, ITEM))


async def after_a_crash(
    store: SQLiteStore[Any], path: Path, told: str, *scripts: Sequence[Step]
) -> list[str]:
    """Return what a thread says if its process dies soon after a client has been told this."""
    server = scripted_server(store, *scripts)
    async with server:
        thread_id = None
        for _ in scripts[1:]:
            thread_id = (await ask(server, thread_id=thread_id)).thread_id
        async with sending(server, "go on", thread_id) as turn:
            await turn.wait_for(lambda event: event.type == told)
            await trio.sleep(0.15)
            after = crash(path, path.with_name("after.db"))
    async with after:
        return await transcript(after.store, turn.thread_id)


def slow_checkpoints(store: SQLiteStore[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each checkpoint take a while before it is written."""
    checkpoint = store.journal.checkpoint

    async def slow(entries: Sequence[JournalEntry]) -> None:
        await trio.sleep(0.2)
        await checkpoint(entries)

    monkeypatch.setattr(store.journal, "checkpoint", slow)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([emit(begin(ITEM, "wrong")), UNTIL_JOURNALED], id="unfinished"),
        pytest.param([emit(finish(ITEM, "wrong"))], id="finished"),
    ],
)
@bounded
async def test_an_item_that_was_removed(
    steps: list[Step], tmp_path: Path, jump_clock: JumpClock
) -> None:
    """In the store afterwards: nothing of it."""
    path = tmp_path / "chat.db"
    script = [*steps, emit(removed), pause(60)]

    assert await after_a_crash(SlowToStore(path), path, TOLD_REMOVED, script) == [
        "user: go on",
        "note: crashed",
    ]


@bounded
async def test_an_item_of_an_earlier_turn_that_went_on_and_was_removed(
    tmp_path: Path, jump_clock: JumpClock
) -> None:
    """In the store afterwards: nothing of it."""
    path = tmp_path / "chat.db"
    goes_on = [emit(more(ITEM, " and more")), UNTIL_JOURNALED, emit(removed), pause(60)]

    assert await after_a_crash(
        SQLiteStore(path), path, TOLD_REMOVED, [emit(finish(ITEM, "some"))], goes_on
    ) == ["user: hi", "user: go on", "note: crashed"]


@bounded
async def test_an_item_that_went_on_and_was_replaced(tmp_path: Path, jump_clock: JumpClock) -> None:
    """In the store afterwards: the new state, not the one that the journal had."""
    path = tmp_path / "chat.db"
    goes_on = [emit(more(ITEM, " and more")), UNTIL_JOURNALED, emit(replaced("new")), pause(60)]

    assert await after_a_crash(
        SQLiteStore(path), path, TOLD_REPLACED, [emit(finish(ITEM, "some"))], goes_on
    ) == ["user: hi", "assistant: new", "user: go on", "note: crashed"]


@bounded
async def test_an_item_that_was_removed_while_the_journal_was_being_written(
    tmp_path: Path, jump_clock: JumpClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the store afterwards: nothing of it, though the older checkpoint ended last."""
    path = tmp_path / "chat.db"
    store = SQLiteStore[Any](path)
    slow_checkpoints(store, monkeypatch)
    script = [emit(begin(ITEM, "wrong")), pause(0.6), emit(removed), pause(60)]

    assert await after_a_crash(store, path, TOLD_REMOVED, script) == [
        "user: go on",
        "note: crashed",
    ]


@pytest.mark.parametrize(
    ("first", "left"),
    [
        pytest.param(begin(ITEM, "wrong"), [], id="unfinished"),
        pytest.param(finish(ITEM, "wrong"), ["assistant: wrong"], id="finished"),
    ],
)
@bounded
async def test_a_removal_that_the_journal_cannot_be_told_of_fails(
    first: Any,
    left: list[str],
    tmp_path: Path,
    jump_clock: JumpClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the store afterwards: what the client has been told. A finished item stays."""
    path = tmp_path / "chat.db"
    store = SlowToStore(path)

    async def fail(entries: Sequence[JournalEntry]) -> None:
        await trio.lowlevel.checkpoint()
        raise StoreError("the disk is full")

    def break_journal(_: Scene) -> None:
        monkeypatch.setattr(store.journal, "checkpoint", fail)

    server = scripted_server(
        store, [emit(first), UNTIL_JOURNALED, do(break_journal), emit(removed), pause(60)]
    )
    async with server:
        turn = await ask(server)
        said = await transcript(server.store, turn.thread_id)

    assert [line for line in said if line.startswith("assistant")] == left
    assert [item.id for item in turn.items if item.type == "assistant_message"] == [ITEM] * len(
        left
    )
    assert turn.error is not None
