"""Keeping the journal, and settling what it holds when a server starts."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chatkit_trio.server import ChatKitServer
from chatkit_trio.store import JournalEntry
from chatkit_trio.stores.sqlite import SQLiteStore
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ThreadMetadata,
    ThreadStreamEvent,
)

NOW = datetime(2026, 1, 2, tzinfo=UTC)


class SilentServer(ChatKitServer[None]):
    async def respond(self, *args: Any) -> AsyncIterator[ThreadStreamEvent]:
        return
        yield


async def leave_two_turns_behind(path: Path) -> None:
    """Make a file as a crash leaves it: two threads, each with a turn of a process that is gone."""
    async with SQLiteStore(path) as store:
        for name in ("a", "b"):
            await store.save_thread(ThreadMetadata(id=f"thr_{name}", created_at=NOW), None)
            await store.journal.begin(f"turn_{name}", f"thr_{name}", None)
            item = AssistantMessageItem(
                id=f"msg_{name}",
                thread_id=f"thr_{name}",
                created_at=NOW,
                content=[AssistantMessageContent(text="so far")],
            )
            await store.journal.checkpoint([JournalEntry(f"turn_{name}", f"thr_{name}", (item,))])


async def stored_kinds(path: Path, thread_id: str) -> list[str]:
    async with SilentServer(SQLiteStore(path)) as server:
        page = await server.store.load_thread_items(thread_id, None, 10, "asc", None)
        return [item.type for item in page.data]


async def test_a_restarted_server_settles_what_a_crash_left(tmp_path: Path) -> None:
    """In the store afterwards: each partial answer and one note, also after a second restart."""
    path = tmp_path / "chat.sqlite3"
    await leave_two_turns_behind(path)

    kinds = [await stored_kinds(path, thread_id) for thread_id in ("thr_a", "thr_b", "thr_a")]

    assert kinds == [["assistant_message", "sdk_hidden_context"]] * 3


async def test_an_entry_that_cannot_be_read_holds_up_no_other(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In the store afterwards: the other thread's answer and note; the entry is still there."""
    path = tmp_path / "chat.sqlite3"
    await leave_two_turns_behind(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE turns SET items = '[{}]' WHERE id = 'turn_a'")

    with caplog.at_level(logging.ERROR):
        kinds = [await stored_kinds(path, thread_id) for thread_id in ("thr_a", "thr_b")]

    with closing(sqlite3.connect(path)) as database:
        left = database.execute("SELECT id FROM turns").fetchall()
    assert kinds == [[], ["assistant_message", "sdk_hidden_context"]]
    assert left == [("turn_a",)]
    assert "turn_a" in caplog.text


async def test_an_entry_that_cannot_be_settled_holds_up_no_other(tmp_path: Path) -> None:
    """In the store afterwards: the other thread's answer and note; the failed one's at the next
    start."""
    path = tmp_path / "chat.sqlite3"
    await leave_two_turns_behind(path)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON items WHEN new.id = 'msg_a'"
            " BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    first = [await stored_kinds(path, thread_id) for thread_id in ("thr_a", "thr_b")]
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("DROP TRIGGER refuse")

    settled = ["assistant_message", "sdk_hidden_context"]
    assert first == [[], settled]
    assert await stored_kinds(path, "thr_a") == settled
