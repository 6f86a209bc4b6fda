"""A turn that a dead process has left and that can't be settled whole doesn't hold its thread.

Its process ran a newer version, or the store refuses an item. For a while it is left to others and
to better times; then as much of it is settled as the store takes, and the rest is set aside.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
import trio.testing

from chatkit_trio._engine.journal import PATIENCE, recover
from chatkit_trio._engine.node import Node
from chatkit_trio.errors import StoreError
from chatkit_trio.store import JournalEntry
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    RequestRefused,
    StoreWrapper,
    say,
    scripted_server,
)
from chatkit_trio.types import AssistantMessageItem, SDKHiddenContextItem, ThreadItem, WidgetItem
from tests.transcript import transcript

from .doubles import TroubledStore, fails
from .parts import NOW, card, content, within
from .scenes import ask, sending
from .test_nodes import two
from .test_recovery_by_need import SETTLED, THREAD, leave_a_turn_behind

_T = TypeVar("_T")

HOUR = 3600.0
A_FEW_LOOKS = 5
AFTERWARDS = ["user: more", "assistant: Fine"]
VIDEO = {"type": "video", "id": "vid_1", "thread_id": THREAD, "url": "half a \ud83d"}


def rows(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database, database:
        return database.execute(query).fetchall()


def unstorable(path: Path) -> list[tuple[str, str]]:
    return rows(path, "SELECT item_id, text FROM unstorable ORDER BY seq")


def journaled(path: Path) -> list[str]:
    return [turn_id for (turn_id,) in rows(path, "SELECT id FROM turns")]


def write_as_a_newer_version(path: Path, column: str, *parts: Any) -> None:
    """Add items of an unknown type to what the dead turn has in the journal."""
    with closing(sqlite3.connect(path)) as database, database:
        [(text,)] = database.execute(f"SELECT {column} FROM turns").fetchall()
        texts = json.dumps([parts[0], *json.loads(text), *parts[1:]])
        database.execute(f"UPDATE turns SET {column} = ?", (texts,))


class Picky(StoreWrapper[Any]):
    """A store that never settles an item of a dead turn for which this holds."""

    def __init__(self, path: Path, refuses: Callable[[ThreadItem], bool]) -> None:
        super().__init__(SQLiteStore(path))
        self._refuses = refuses

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name in ("journal.settle_abandoned", "journal.settle_in_part"):
            settlement = call.args[0]  # type: ignore[attr-defined]
            if any(map(self._refuses, (*settlement.new_items, *settlement.changed_items))):
                raise ValueError("refused")
        return await call()


def server_on(path: Path) -> Any:
    return scripted_server(SQLiteStore[Any](path), [say("Fine")])


@pytest.mark.parametrize("column", ["items", "changed_items"])
@within(HOUR)
async def test_an_item_of_a_newer_version_is_set_aside_and_the_rest_is_settled(
    column: str, jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    await leave_a_turn_behind(path)
    write_as_a_newer_version(path, column, VIDEO, [])
    async with server_on(path) as server:
        began_at = trio.current_time()
        await ask(server, "more", THREAD)

        assert trio.current_time() - began_at < PATIENCE + A_FEW_LOOKS
        assert await transcript(server.store, THREAD) == [*SETTLED, *AFTERWARDS]
    names, texts = zip(*unstorable(path), strict=True)
    assert names == ("vid_1", f"{column} [{1 if column == 'changed_items' else 2}]")
    assert json.loads(texts[0]) == VIDEO | {"url": "half a \ufffd"}
    assert journaled(path) == []
    assert "vid_1" in caplog.text


@pytest.mark.parametrize("column", ["items", "changed_items"])
@pytest.mark.parametrize("text", ["", "{}", "[", "null", "[" * 100_000])
@within(HOUR)
async def test_an_entry_that_is_no_list_is_set_aside(
    text: str, column: str, jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    await leave_a_turn_behind(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"UPDATE turns SET {column} = ?", (text,))
    async with server_on(path) as server:
        await ask(server, "more", THREAD)

        said = SETTLED if column == "changed_items" else [*SETTLED[:2], SETTLED[-1]]
        assert await transcript(server.store, THREAD) == [*said, *AFTERWARDS]
    assert [aside[1] for aside in unstorable(path)] == [text]


@within(HOUR)
async def test_a_thread_can_be_read_before_its_dead_turn_is_settled_in_part(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    await leave_a_turn_behind(path)
    write_as_a_newer_version(path, "items", VIDEO)
    async with server_on(path) as server:
        thread = await ChatClient.of_server(server).thread(THREAD)

        assert trio.current_time() < A_FEW_LOOKS
        kinds = [item.type for item in thread.items.data]
        assert kinds == ["user_message", "widget", "assistant_message"]
        await ChatClient.of_server(server).delete(THREAD)
    assert unstorable(path) == []
    assert journaled(path) == []


@within(HOUR)
async def test_a_process_that_can_read_it_settles_the_turn_whole(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    """While a release is rolled out, a node of the one before finds it first."""
    path = tmp_path / "chat.db"
    await leave_a_turn_behind(path)
    [(readable,)] = rows(path, "SELECT items FROM turns")
    write_as_a_newer_version(path, "items", VIDEO)
    async with server_on(path) as server:
        await trio.sleep(PATIENCE - 1)
        assert journaled(path) == ["turn_dead"]
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE turns SET items = ?", (readable,))
        await trio.sleep(2)

        assert await transcript(server.store, THREAD) == SETTLED
    assert unstorable(path) == []


@pytest.mark.parametrize(
    ("refused", "stored", "aside"),
    [
        (["msg_a"], ["widget", "assistant: also"], ["msg_a"]),
        (["msg_b"], ["widget", "assistant: so far"], ["msg_b"]),
        (["msg_a", "msg_b"], ["widget"], ["msg_a", "msg_b"]),
        (["msg_b", "wdg"], ["widget", "assistant: so far"], ["msg_b", "wdg"]),
        (["msg_a", "msg_b", "wdg"], ["widget"], ["msg_a", "msg_b", "wdg"]),
    ],
)
@within(HOUR)
async def test_as_much_of_a_dead_turn_is_settled_as_the_store_takes(
    refused: list[str],
    stored: list[str],
    aside: list[str],
    jump_clock: JumpClock,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "chat.db"
    own: dict[str, Any] = {"thread_id": THREAD, "created_at": NOW}
    items = [
        AssistantMessageItem(id=f"msg_{name}", content=content(text), **own)
        for name, text in (("a", "so far"), ("b", "also"))
    ]
    grown = WidgetItem(id="wdg", widget=card("grown"), **own)
    await leave_a_turn_behind(path, entry=JournalEntry("turn_dead", THREAD, tuple(items), (grown,)))
    store = Picky(path, lambda item: item.id in refused)
    async with scripted_server(store, [say("Fine")]) as server:
        await ask(server, "more", THREAD)

        said = await transcript(server.store, THREAD)
        assert said == ["user: hi", *stored, "note: crashed", *AFTERWARDS]
        widget = await server.store.load_item(THREAD, "wdg", None)
        assert ("grown" in widget.model_dump_json()) == ("wdg" not in refused)
    assert [name for name, _ in unstorable(path)] == aside
    assert journaled(path) == []
    # Two tasks may have tried it at the same time; it isn't told at each try.
    told = {record.message for record in caplog.records if record.levelno >= logging.ERROR}
    assert len(told) == 2


@within(HOUR)
async def test_of_a_turn_that_cannot_be_read_a_refused_item_is_set_aside_too(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    await leave_a_turn_behind(path)
    write_as_a_newer_version(path, "items", VIDEO)
    store = Picky(path, lambda item: item.id == "msg_a")
    async with scripted_server(store, [say("Fine")]) as server:
        await ask(server, "more", THREAD)

        said = await transcript(server.store, THREAD)
        assert said == ["user: hi", "widget", "note: crashed", *AFTERWARDS]
    aside = rows(path, "SELECT item_id, error FROM unstorable ORDER BY seq")
    assert [name for name, _ in aside] == ["vid_1", "msg_a"]
    assert "video" in aside[0][1]
    assert aside[1][1] == "ValueError('refused')"


@within(HOUR)
async def test_a_dead_turn_whose_note_is_refused_lets_go_of_its_thread(
    jump_clock: JumpClock, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    await leave_a_turn_behind(path)
    store = Picky(path, lambda item: isinstance(item, SDKHiddenContextItem))
    async with scripted_server(store, [say("Fine")]) as server:
        await ask(server, "more", THREAD)

        assert await transcript(server.store, THREAD) == [*SETTLED[:2], *AFTERWARDS]
    [(_, answer), (_, note)] = unstorable(path)
    assert "so far" in answer
    assert "turn_dead" in note


@within(HOUR)
async def test_nothing_is_given_up_while_the_store_is_not_well(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    await leave_a_turn_behind(path)
    store = TroubledStore(SQLiteStore(path))
    store.give(fails(OSError("the disk is full")), "journal.settle_abandoned", "ping")
    async with scripted_server(store, [say("Fine")]) as server:
        await trio.sleep(20 * PATIENCE)
        assert journaled(path) == ["turn_dead"]
        store.heal()
        await trio.sleep(2)

        assert await transcript(server.store, THREAD) == SETTLED
    assert unstorable(path) == []


@within(HOUR)
async def test_a_store_that_goes_away_meanwhile_is_asked_again(
    jump_clock: JumpClock, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "chat.db"
    await leave_a_turn_behind(path)
    write_as_a_newer_version(path, "items", VIDEO)
    store = TroubledStore(SQLiteStore(path))
    store.give(fails(), "journal.settle_in_part")
    async with scripted_server(store, [say("Fine")]) as server:
        await trio.sleep(2 * PATIENCE)
        assert journaled(path) == ["turn_dead"]
        with pytest.raises(StoreError):
            await recover(store, THREAD, tell=lambda _: None)
        store.heal()
        await trio.sleep(2)

        assert await transcript(server.store, THREAD) == SETTLED
    assert [name for name, _ in unstorable(path)] == ["vid_1"]


@within(HOUR)
async def test_a_reader_is_refused_when_a_node_says_for_long_that_a_turn_is_over(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def tell(node: Node, ask: Any, turn: Any, reply: Any) -> None:
        reply.found = False

    monkeypatch.setattr("chatkit_trio._engine.node._DEEDS", {"look": tell})
    async with two([say("Hello", every=500)]) as nodes, sending(nodes.here) as turn:
        await trio.sleep(1)
        with pytest.raises(RequestRefused):
            await ChatClient.of_server(nodes.there).thread(turn.server_turn.thread_id)
        assert trio.current_time() < 60
