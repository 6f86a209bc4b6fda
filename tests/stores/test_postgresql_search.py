"""The search of the PostgreSQL store: an index that lags behind and yet finds all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import psycopg
import pytest
import trio

from chatkit_trio.stores import (
    _postgresql_database,
    _postgresql_schema,
    _postgresql_search,
)
from chatkit_trio.stores._postgresql_search import index_some
from chatkit_trio.stores._records import encode_item, encode_thread
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing._store_samples import ITEM_KINDS, NOON, item_of_kind
from tests.postgresql_server import Server

from .search_scenes import active, answer, found, old_items, old_threads, thread

BEFORE = 3
"""The version of the last schema without an index."""


@pytest.fixture
def new_database(postgresql_server: Server) -> Iterator[str]:
    """The URL of a database in which nothing is."""
    with postgresql_server.database() as url:
        yield url


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgreSQLStore[str]]:
    async with PostgreSQLStore[str](url, owner=str, **options) as store:
        yield store


def session(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(url, autocommit=True, options="-c search_path=chatkit_trio")


async def make_old_schema(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a schema as the release before has left it, with some threads."""
    with monkeypatch.context() as patch:
        steps = _postgresql_schema.MIGRATIONS[:BEFORE]
        patch.setattr(_postgresql_schema, "MIGRATIONS", steps)
        async with opened(url) as old:
            for each in old_threads():
                await old.save_thread(each, "ann")
            for item in old_items():
                await old.add_thread_item(item.thread_id, item, "ann")


async def test_a_schema_of_the_version_before_can_be_searched_and_listed(
    new_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_old_schema(new_database, monkeypatch)
    async with opened(new_database, migrate=True) as store:
        assert await active(store) == [("thr_2", 5), ("thr_1", 3), ("thr_3", 0)]
        assert await found(store, "boat") == [("thr_2", None)]
        assert await found(store, "ferry") == [("thr_2", "m2"), ("thr_1", "m1")]
        assert await found(store, "ferry", "bob") == []


async def test_what_the_servers_of_the_release_before_write_is_found(
    new_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_old_schema(new_database, monkeypatch)
    async with opened(new_database, migrate=True) as store:
        assert len(await found(store, "ferry")) == 2
        with session(new_database) as old:
            insert = """
                INSERT INTO items (thread, id, data) SELECT seq, %s, %s FROM threads WHERE id = %s
                ON CONFLICT (thread, id) DO UPDATE SET data = excluded.data
            """
            for item in (answer("m3", "a canoe", 9, "thr_3"), answer("m1", "a raft", 3)):
                old.execute(insert, (item.id, encode_item(item), item.thread_id))
            renamed = encode_thread(thread("thr_2", "cars"))
            old.execute("UPDATE threads SET data = %s WHERE id = 'thr_2'", (renamed,))
            assert await active(store) == [("thr_3", 9), ("thr_2", 5), ("thr_1", 3)]
            assert await found(store, "canoe") == [("thr_3", "m3")]
            assert await found(store, "raft") == [("thr_1", "m1")]
            assert await found(store, "car") == [("thr_2", None)]
            assert await found(store, "boat") == []
            old.execute("DELETE FROM threads WHERE id = 'thr_2'")
            assert await found(store, "car") == []
            assert await found(store, "ferry") == []
            left = "SELECT (SELECT count(*) FROM unindexed), (SELECT count(*) FROM search_words)"
            assert old.execute(left).fetchone() == (0, 2)


async def test_the_index_keeps_up_with_writes(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_postgresql_database, "_WRITES_BEFORE_UPKEEP", 10)
    async with opened(postgresql_url) as store:
        await store.save_thread(thread("thr_1"), "ann")
        with session(postgresql_url) as look:
            for number in range(99):
                await store.add_thread_item("thr_1", answer(f"m{number}", "a ferry"), "ann")
                row = look.execute("SELECT count(*) FROM unindexed").fetchone()
                assert row is not None
                assert row[0] <= 10


async def test_an_index_that_cant_be_written_costs_no_write(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(_postgresql_database, "_WRITES_BEFORE_UPKEEP", 10)
    async with opened(postgresql_url) as store:
        await store.save_thread(thread("thr_1"), "ann")
        with session(postgresql_url) as broken:
            broken.execute("ALTER TABLE search_words RENAME TO words_of_search")
            for number in range(35):
                await store.add_thread_item("thr_1", answer(f"m{number}", "a ferry"), "ann")
            broken.execute("ALTER TABLE words_of_search RENAME TO search_words")
        told = [each.message for each in caplog.records if each.name.startswith("chatkit_trio")]
        assert told == ["the index for searches can't be written; it is tried again"]
        page = await store.load_thread_items("thr_1", None, 999, "asc", "ann")
        assert len(page.data) == 35
        assert await found(store, "ferry") == [("thr_1", "m34")]


async def test_those_who_write_search_and_delete_at_once_hold_each_other_up_for_a_moment_only(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In whatever order they come: none waits for another that waits for it."""
    monkeypatch.setattr(_postgresql_database, "_WRITES_BEFORE_UPKEEP", 3)
    async with opened(postgresql_url) as one, opened(postgresql_url) as other:
        for number in range(4):
            await one.save_thread(thread(f"thr_{number}", "boats"), "ann")

        async def write(store: PostgreSQLStore[str], name: str, thread_id: str) -> None:
            for number in range(25):
                item = answer(f"{name}_{number}", f"a ferry {number}", thread_id=thread_id)
                await store.save_item(thread_id, item, "ann")
                await store.save_thread(thread(thread_id, f"boats {number}"), "ann")

        async def look(store: PostgreSQLStore[str]) -> None:
            for _ in range(25):
                await found(store, "ferry")

        async with trio.open_nursery() as nursery:
            for store in (one, other):
                nursery.start_soon(look, store)
                for number in range(3):
                    name = f"m{id(store)}_{number}"
                    nursery.start_soon(write, store, name, f"thr_{number}")
            nursery.start_soon(one.delete_thread, "thr_3", "ann")
        threads = [thread_id for thread_id, _ in await found(one, "ferry 24")]
        assert sorted(threads) == ["thr_0", "thr_1", "thr_2"]
        with session(postgresql_url) as after:
            rows = "SELECT (SELECT count(*) FROM unindexed), (SELECT count(*) FROM search_words)"
            assert after.execute(rows).fetchone() == (0, 3 * 50 + 3)


async def test_owners_whose_words_have_the_same_key_find_their_own(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_postgresql_search, "owner_key", lambda owner: "same")
    async with opened(postgresql_url) as store:
        for number, owner in enumerate(("ann", "bob"), 1):
            await store.save_thread(thread(f"thr_{number}"), owner)
            item = answer("m1", f"a ferry of {owner}", thread_id=f"thr_{number}")
            await store.add_thread_item(f"thr_{number}", item, owner)
        assert await found(store, "ferry", "ann") == [("thr_1", "m1")]
        assert await found(store, "ferry", "bob") == [("thr_2", "m1")]
        assert await found(store, "ferry bob", "ann") == []


async def test_a_text_of_more_words_than_an_index_can_hold_is_stored_and_found(
    postgresql_url: str,
) -> None:
    # Some 100,000 different pairs of characters, of three bytes each.
    text = "boat " + "".join(chr(0x4E00 + (number * 7919) % 20_000) for number in range(99_000))
    async with opened(postgresql_url) as store:
        await store.save_thread(thread("thr_1"), "ann")
        await store.add_thread_item("thr_1", answer("m1", text), "ann")
        assert await found(store, "boat") == [("thr_1", "m1")]


async def test_large_texts_are_indexed_a_few_at_a_time(postgresql_url: str) -> None:
    """All at once they would take longer than the server waits, each time anew."""
    large = "a ferry " * 20_000  # 160 kB
    async with opened(postgresql_url) as store:
        await store.save_thread(thread("thr_1"), "ann")
        for number in range(10):
            text = large * (5 if number == 8 else 1)
            await store.add_thread_item("thr_1", answer(f"m{number}", text), "ann")
        left: list[object] = []
        with session(postgresql_url) as look:
            more = True
            while more:
                more = await store._database.write(partial(index_some, owner="ann"))
                left += look.execute("SELECT count(*) FROM unindexed").fetchone() or ()
        assert left == [7, 4, 2, 1, 0]  # of ten messages and a title
        assert await found(store, "ferry") == [("thr_1", "m9")]


async def test_a_nul_in_a_text_keeps_nothing_from_being_found(postgresql_url: str) -> None:
    async with opened(postgresql_url) as store:
        await store.save_thread(thread("thr_1"), "ann")
        await store.add_thread_item("thr_1", answer("m1", "a\x00ferry", 4), "ann")
        assert await found(store, "ferry") == [("thr_1", "m1")]
        assert await active(store) == [("thr_1", 4)]


async def test_a_text_that_looks_like_fields_changes_no_time(postgresql_url: str) -> None:
    trap = '"created_at":"1999-01-01T00:00:00Z","type":"hidden_context_item"'
    async with opened(postgresql_url) as store:
        await store.save_thread(thread("thr_1", trap), "ann")
        await store.save_thread(thread("thr_2"), "ann")
        assert await active(store) == [("thr_2", 0), ("thr_1", 0)]
        await store.add_thread_item("thr_1", answer(trap, trap, 7), "ann")
        assert await active(store) == [("thr_1", 7), ("thr_2", 0)]
        assert await found(store, "hidden_context_item") == [("thr_1", trap)]


async def test_the_time_of_each_kind_is_read_from_its_text(postgresql_url: str) -> None:
    """The triggers read the time and the type out of the JSON text, without parsing it."""
    async with opened(postgresql_url) as store:
        await store.save_thread(thread("thr_1"), "ann")
        for minutes, kind in enumerate(ITEM_KINDS, 1):
            moment = NOON + timedelta(minutes=minutes, microseconds=5)
            item = item_of_kind(kind, "thr_1").model_copy(update={"created_at": moment})
            await store.add_thread_item("thr_1", item, "ann")
            (each,) = (await store.load_threads_by_activity(9, None, "ann")).data
            assert (each.last_activity_at == moment) == ("hidden" not in kind)


async def test_a_page_by_activity_is_one_range_of_an_index(postgresql_url: str) -> None:
    async with opened(postgresql_url) as store:
        await store.save_thread(thread("thr_1"), "ann")
    with session(postgresql_url) as look:
        # Of a table with one row the planner may think anything; this is what it can do at best.
        for way in ("seqscan", "bitmapscan", "sort"):
            look.execute(f"SET enable_{way} = off")
        mine = {"owner": "ann", "active": "T", "id": "", "limit": 20}
        rows = look.execute(f"EXPLAIN {_postgresql_search.THREADS_BY_ACTIVITY}", mine).fetchall()
    plan = "\n".join(row[0] for row in rows)
    assert "Index Scan Backward using threads_by_activity" in plan
    assert "Sort" not in plan
