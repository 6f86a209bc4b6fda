"""The search of the SQLite store: an index that lags behind and yet finds all, in whatever file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from chatkit_trio.store import JournalEntry, Settlement
from chatkit_trio.stores import SQLiteStore, _sqlite_schema, _sqlite_search
from chatkit_trio.stores._records import encode_item, encode_thread
from chatkit_trio.testing._store_samples import ITEM_KINDS, NOON, item_of_kind
from chatkit_trio.types import (
    ThreadItem,
)

from .search_scenes import active, answer, found, old_items, old_threads, thread

VISIBLE_KINDS = [kind for kind in ITEM_KINDS if "hidden" not in kind]

BEFORE = 6
"""The version of the last file without an index."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def old_file(path: Path) -> sqlite3.Connection:
    """Make a file as the version before has left it, and return a connection that stays open."""
    old = sqlite3.connect(path, isolation_level=None)
    old.execute("PRAGMA journal_mode = WAL")
    old.execute("PRAGMA foreign_keys = ON")
    for step in _sqlite_schema.MIGRATIONS[:BEFORE]:
        step(old)
    old.execute(f"PRAGMA application_id = {_sqlite_schema.APPLICATION_ID}")
    old.execute(f"PRAGMA user_version = {BEFORE}")
    for each in old_threads():
        query = "INSERT INTO threads (id, owner, data) VALUES (?, 'ann', ?)"
        old.execute(query, (each.id, encode_thread(each)))
    for item in old_items():
        insert_as_before(old, item)
    return old


def insert_as_before(old: sqlite3.Connection, item: ThreadItem) -> None:
    query = """
        INSERT INTO items (thread, id, data) SELECT seq, ?, ? FROM threads WHERE id = ?
        ON CONFLICT (thread, id) DO UPDATE SET data = excluded.data
    """
    old.execute(query, (item.id, encode_item(item), item.thread_id))


def unindexed(store: SQLiteStore[Any]) -> int:
    """Return how many rows the index hasn't got."""
    db = store._database._writer
    assert db is not None
    query = """
        SELECT (SELECT count(*) FROM unindexed)
            + (SELECT count(*) FROM items WHERE seq > (SELECT upto FROM indexed))
    """
    rows: int = db.execute(query).fetchone()[0]
    return rows


async def test_a_file_of_the_version_before_can_be_searched_and_listed(path: Path) -> None:
    old_file(path).close()
    async with SQLiteStore[str](path, owner=str) as store:
        assert await active(store) == [("thr_2", 5), ("thr_1", 3), ("thr_3", 0)]
        assert await found(store, "boat") == [("thr_2", None)]
        assert await found(store, "ferry") == [("thr_2", "m2"), ("thr_1", "m1")]
        assert await found(store, "ferry", "bob") == []


async def test_what_the_version_before_writes_into_an_open_file_is_found(path: Path) -> None:
    with closing(old_file(path)) as old:
        async with SQLiteStore[str](path, owner=str) as store:
            assert len(await found(store, "ferry")) == 2
            insert_as_before(old, answer("m3", "a canoe", 9, "thr_3"))
            insert_as_before(old, answer("m1", "a raft", 3))
            renamed = encode_thread(thread("thr_2", "cars"))
            old.execute("UPDATE threads SET data = ? WHERE id = 'thr_2'", (renamed,))
            assert await active(store) == [("thr_3", 9), ("thr_2", 5), ("thr_1", 3)]
            assert await found(store, "canoe") == [("thr_3", "m3")]
            assert await found(store, "raft") == [("thr_1", "m1")]
            assert await found(store, "car") == [("thr_2", None)]
            assert await found(store, "boat") == []
            old.execute("DELETE FROM threads WHERE id = 'thr_2'")
            assert await found(store, "car") == []
            assert await found(store, "ferry") == []


async def test_without_fts5_it_reads_and_later_the_index_has_all(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("chatkit_trio.stores._sqlite_database.is_possible", lambda db: False)
        async with SQLiteStore[str](path, owner=str) as store:
            await store.save_thread(thread("thr_1", "boats"), "ann")
            for number in range(300):
                await store.add_thread_item("thr_1", answer(f"m{number}", "a ferry"), "ann")
            assert await found(store, "ferry") == [("thr_1", "m299")]
            tables = {name for (name,) in await read(store, "SELECT name FROM sqlite_master")}
            assert "search" not in tables
    async with SQLiteStore[str](path, owner=str) as store:
        assert await found(store, "ferry") == [("thr_1", "m299")]
        assert await read(store, "SELECT count(*) FROM search") == [(301,)]


async def read(store: SQLiteStore[Any], query: str) -> list[Any]:
    return await store._database.read(lambda db: db.execute(query).fetchall())


async def test_the_index_keeps_up_with_writes(path: Path) -> None:
    async with SQLiteStore[str](path, owner=str) as store:
        for number in range(20):
            await store.save_thread(thread(f"thr_{number}"), "ann")
        most = 0
        for number in range(2_000):
            item = answer(f"m{number}", "a ferry", thread_id=f"thr_{number % 20}")
            await store.add_thread_item(item.thread_id, item, "ann")
            most = max(most, unindexed(store))
        assert most <= 300


async def test_what_an_older_file_has_keeps_no_new_message_from_the_index(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index, seconds = _sqlite_search._index, 0.0

    def slow_index(db: sqlite3.Connection, row: int) -> None:
        nonlocal seconds
        seconds += _sqlite_search._SECONDS / 200
        index(db, row)

    clock = SimpleNamespace(monotonic=lambda: seconds)
    monkeypatch.setattr(_sqlite_search, "time", clock)
    monkeypatch.setattr(_sqlite_search, "_index", slow_index)
    with closing(old_file(path)) as old, old:
        for number in range(5_000):
            insert_as_before(old, answer(f"old{number}", "a ferry", thread_id="thr_1"))
    async with SQLiteStore[str](path, owner=str) as store:
        await store.save_thread(thread("thr_bob"), "bob")
        for number in range(1_000):
            item = answer(f"m{number}", "a raft", thread_id="thr_bob")
            await store.add_thread_item("thr_bob", item, "bob")
        query = "SELECT count(*) FROM items WHERE seq > (SELECT upto FROM indexed)"
        ((new,),) = await read(store, query)
        assert new <= 300
        assert await found(store, "raft", "bob") == [("thr_bob", "m999")]


async def test_checkpoints_of_live_turns_index_nothing(path: Path) -> None:
    async with SQLiteStore[str](path, owner=str) as store:
        await store.save_thread(thread("thr_1"), "ann")
        assert await found(store, "ferry") == []
        await store.journal.begin("turn_1", "thr_1", "ann")
        for number in range(600):
            entry = JournalEntry("turn_1", "thr_1", (answer("m1", f"a ferry {number}"),))
            await store.journal.checkpoint([entry])
        assert unindexed(store) == 0
        assert await read(store, "SELECT count(*) FROM search") == [(0,)]
        assert await found(store, "ferry") == []
        await store.settle(Settlement("thr_1", "turn_1", (answer("m1", "a ferry"),)), "ann")
        assert await found(store, "ferry") == [("thr_1", "m1")]


async def test_an_abandoned_turn_is_found_once_it_is_settled(path: Path) -> None:
    async with SQLiteStore[str](path, owner=str) as store:
        await store.save_thread(thread("thr_1"), "ann")
        await store.journal.begin("turn_1", "thr_1", "ann")
        await store.journal.checkpoint([JournalEntry("turn_1", "thr_1", (answer("m1", "a raft"),))])
    async with SQLiteStore[str](path, owner=str) as store:
        assert await found(store, "raft") == []
        (entry,) = await store.journal.abandoned()
        settlement = Settlement(entry.thread_id, entry.turn_id, entry.items)
        await store.journal.settle_abandoned(settlement)
        assert await found(store, "raft") == [("thr_1", "m1")]


async def test_an_index_that_cant_be_written_costs_no_write(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(db: sqlite3.Connection, row: int) -> None:
        raise sqlite3.DatabaseError("the index is damaged")

    async with SQLiteStore[str](path, owner=str) as store:
        await store.save_thread(thread("thr_1"), "ann")
        with monkeypatch.context() as patch:
            patch.setattr(_sqlite_search, "_index", fail)
            for number in range(600):
                await store.add_thread_item("thr_1", answer(f"m{number}", "a ferry"), "ann")
        told = [each.message for each in caplog.records]
        assert told == ["the index for searches can't be written; it is tried again"]
        page = await store.load_thread_items("thr_1", None, 999, "asc", "ann")
        assert len(page.data) == 600
        assert await found(store, "ferry") == [("thr_1", "m599")]


async def test_owners_whose_words_have_the_same_key_find_their_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sqlite_search, "owner_key", lambda owner: "same")
    async with SQLiteStore[str](path, owner=str) as store:
        for number, owner in enumerate(("ann", "bob"), 1):
            await store.save_thread(thread(f"thr_{number}"), owner)
            item = answer("m1", f"a ferry of {owner}", thread_id=f"thr_{number}")
            await store.add_thread_item(f"thr_{number}", item, owner)
        assert await found(store, "ferry", "ann") == [("thr_1", "m1")]
        assert await found(store, "ferry", "bob") == [("thr_2", "m1")]
        assert await found(store, "ferry bob", "ann") == []


async def test_a_search_goes_through_the_words_of_its_owner_only(path: Path) -> None:
    async with SQLiteStore[str](path, owner=str) as store:
        for owner in ("ann", "bob"):
            await store.save_thread(thread(f"thr_{owner}"), owner)
        for number in range(500):
            item = answer(f"m{number}", "a ferry", thread_id="thr_bob")
            await store.add_thread_item("thr_bob", item, "bob")
        assert await found(store, "ferry", "bob") == [("thr_bob", "m499")]
        query = "SELECT count(*) FROM search WHERE search MATCH '\"{}ferry\"*'"
        of_ann, of_bob = (query.format(_sqlite_search.owner_key(each)) for each in ("ann", "bob"))
        assert await read(store, of_ann) == [(0,)]
        assert await read(store, of_bob) == [(500,)]


async def test_an_item_that_cant_be_read_any_more_hides_no_other(path: Path) -> None:
    async with SQLiteStore[str](path, owner=str) as store:
        await store.save_thread(thread("thr_1", "boats"), "ann")
        for item_id in ("m1", "m2"):
            await store.add_thread_item("thr_1", answer(item_id, "a ferry"), "ann")
        with closing(sqlite3.connect(path)) as other, other:
            other.execute("UPDATE items SET data = '{\"type\": \"of tomorrow\"}' WHERE id = 'm2'")
        assert await found(store, "ferry") == [("thr_1", "m1")]


async def test_a_text_that_looks_like_fields_changes_no_time(path: Path) -> None:
    trap = '"created_at":"1999-01-01T00:00:00Z","type":"hidden_context_item"'
    async with SQLiteStore[str](path, owner=str) as store:
        await store.save_thread(thread("thr_1", trap), "ann")
        await store.save_thread(thread("thr_2"), "ann")
        assert await active(store) == [("thr_2", 0), ("thr_1", 0)]
        await store.add_thread_item("thr_1", answer(trap, trap, 7), "ann")
        assert await active(store) == [("thr_1", 7), ("thr_2", 0)]
        assert await found(store, "hidden_context_item") == [("thr_1", trap)]


@pytest.mark.parametrize("kind", VISIBLE_KINDS)
async def test_the_time_of_each_kind_is_read_from_its_text(path: Path, kind: str) -> None:
    """The triggers read the time and the type out of the JSON text, without parsing it."""
    item = item_of_kind(kind, "thr_1").model_copy(
        update={"created_at": NOON + timedelta(minutes=4, microseconds=5)}
    )
    async with SQLiteStore[str](path, owner=str) as store:
        await store.save_thread(thread("thr_1"), "ann")
        await store.add_thread_item("thr_1", item, "ann")
        (each,) = (await store.load_threads_by_activity(9, None, "ann")).data
        assert each.last_activity_at == item.created_at


@pytest.fixture
def plan(path: Path) -> Iterator[list[str]]:
    with closing(sqlite3.connect(path)) as db:
        for step in _sqlite_schema.MIGRATIONS:
            step(db)
        mine = {"owner": "ann", "active": "T", "id": "", "limit": 20}
        rows = db.execute(f"EXPLAIN QUERY PLAN {_sqlite_search.THREADS_BY_ACTIVITY}", mine)
        yield [row[3] for row in rows]


def test_a_page_by_activity_is_one_range_of_an_index(plan: list[str]) -> None:
    assert len(plan) == 1
    assert plan[0].startswith("SEARCH threads USING INDEX threads_by_activity (owner=? AND ")
