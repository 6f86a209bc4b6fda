"""What a store has refused: where it is kept for the operator, and for how long."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from chatkit_trio.cli import main
from chatkit_trio.store import Settlement, Store, UnstorableItem
from chatkit_trio.stores import MemoryCluster, MemoryStore, SQLiteStore
from chatkit_trio.testing._store_samples import note, prepare
from tests.engine.doubles import RecordingJournal

from .test_store_defaults import TwelveMethodStore

ITEM = UnstorableItem("thr_1", "msg_1", "turn_1", "a long answer", "disk says no")
IN_THE_LOG = (
    "item msg_1 of thread thr_1 (turn turn_1) can't be stored (disk says no); its text is kept in"
    " this line only: a long answer"
)


def rows(path: Path) -> list[Any]:
    with closing(sqlite3.connect(path)) as file:
        return file.execute(
            "SELECT thread_id, item_id, turn_id, text, error FROM unstorable"
        ).fetchall()


async def test_the_default_writes_the_whole_text_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await TwelveMethodStore().set_aside(ITEM, "ann")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", IN_THE_LOG)
    ]


async def test_the_store_in_memory_keeps_each_item_once_until_its_thread_is_deleted() -> None:
    store = MemoryStore[Any]()
    await prepare(store, "thr_1", None)
    for _ in range(2):
        await store.set_aside(ITEM, None)
    kept = list(store.set_aside_items)
    await store.delete_thread("thr_1", None)
    assert (kept, store.set_aside_items) == ([ITEM], [])


async def test_sqlite_keeps_each_item_once_until_its_thread_is_deleted(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with SQLiteStore(path) as store:
        await prepare(store, "thr_1", None)
        for _ in range(2):
            await store.set_aside(ITEM, None)
        kept = rows(path)
        await store.delete_thread("thr_1", None)
        left = rows(path)
    assert kept == [("thr_1", "msg_1", "turn_1", "a long answer", "disk says no")]
    assert left == []


async def test_sqlite_keeps_text_that_no_file_can_hold_as_far_as_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    odd = UnstorableItem("thr_1", "msg_1", "turn_1", "a\ud83db\0c", "\udc80")
    async with SQLiteStore(path) as store:
        await store.set_aside(odd, None)
    assert rows(path) == [("thr_1", "msg_1", "turn_1", "a\ufffdb\0c", "\ufffd")]


@pytest.mark.parametrize("thread_id", ["thr_1", "thr_none"])
async def test_what_a_dead_turn_leaves_out_is_kept_for_its_owner_with_its_end(
    thread_id: str, tmp_path: Path
) -> None:
    path = tmp_path / "chat.db"
    item = replace(ITEM, thread_id=thread_id)
    async with SQLiteStore[str](path, owner=str) as dead:
        await prepare(dead, "thr_1", "ann")
        await dead.journal.begin("turn_1", thread_id, "ann")
    async with SQLiteStore[str](path, owner=str) as store:
        await store.journal.abandoned()
        settlement = Settlement(thread_id, "turn_1", (note("i5", thread_id),))
        assert [await store.journal.settle_in_part(settlement, [item]) for _ in range(2)] == [
            True,
            False,
        ]
    with closing(sqlite3.connect(path)) as file:
        kept = file.execute("SELECT owner, text FROM unstorable").fetchall()
    assert kept == ([("ann", "a long answer")] if thread_id == "thr_1" else [])


async def test_a_part_that_is_refused_leaves_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with SQLiteStore(path) as dead:
        await prepare(dead, "thr_1", None)
        await dead.journal.begin("turn_1", "thr_1", None)
    async with SQLiteStore(path) as store:
        await store.journal.abandoned()
        bad: Any = note("i5", "thr_1")
        bad.content = object()
        with pytest.raises(ValueError, match="i5"):
            await store.journal.settle_in_part(Settlement("thr_1", "turn_1", (bad,)), [ITEM])
        assert [entry.turn_id for entry in await store.journal.abandoned()] == ["turn_1"]
    assert rows(path) == []


async def test_what_a_dead_turn_leaves_out_in_memory_is_kept() -> None:
    cluster = MemoryCluster()
    async with MemoryStore[Any](cluster=cluster) as dead:
        await prepare(dead, "thr_1", None)
        assert dead.journal is not None
        await dead.journal.begin("turn_1", "thr_1", None)
    async with MemoryStore[Any](cluster=cluster) as store:
        assert store.journal is not None
        await store.journal.abandoned()
        assert await store.journal.settle_in_part(Settlement("thr_1", "turn_1"), [ITEM])
        assert store.set_aside_items == [ITEM]


async def test_a_journal_that_keeps_nothing_aside_writes_it_to_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    journal = RecordingJournal()
    assert await journal.settle_in_part(Settlement("thr_1", "turn_1"), [ITEM]) is None
    assert caplog.messages == [IN_THE_LOG]


async def test_what_sqlite_cant_keep_either_goes_to_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with SQLiteStore(tmp_path / "chat.db") as store:
        assert store._database._writer is not None
        store._database._writer.execute("DROP TABLE unstorable")
        await store.set_aside(ITEM, None)
    assert caplog.records[-1].getMessage() == IN_THE_LOG


async def test_the_doctor_says_that_something_could_not_be_stored(tmp_path: Path) -> None:
    path = tmp_path / "chat.db"
    async with SQLiteStore(path) as store:
        await store.set_aside(ITEM, None)
    run = CliRunner().invoke(main, ["doctor", "--database", str(path)])
    assert "BAD  the store refused 1 item; the text is in the table `unstorable`" in run.output
    assert run.exit_code == 1


async def test_the_log_that_has_the_only_copy_can_be_written_whatever_is_in_it(tmp_path):
    """Half a character isn't UTF-8: logging would drop the line, and the text with it."""
    handler = logging.FileHandler(tmp_path / "log", encoding="utf-8")
    logger = logging.getLogger("chatkit_trio.store")
    logger.addHandler(handler)
    try:
        item = UnstorableItem("thr_1", "msg_1", "turn_1", "half \ud83d of it", "refused: \ud83d")
        await Store.set_aside(MemoryStore(), item, None)
    finally:
        logger.removeHandler(handler)
        handler.close()

    assert "half \\ud83d of it" in (tmp_path / "log").read_text("utf-8")
