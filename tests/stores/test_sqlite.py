from __future__ import annotations

import itertools
import json
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

from chatkit_trio.errors import NotFoundError, StoreError
from chatkit_trio.store import JournalEntry, Settlement, Store
from chatkit_trio.stores import SQLiteStore, _sqlite_queries, _sqlite_schema
from chatkit_trio.stores._fair_limiter import FairLimiter
from chatkit_trio.stores._sqlite_database import Database
from chatkit_trio.testing import StoreConformance
from chatkit_trio.testing._store_samples import note, prepare, snapshot, thread
from chatkit_trio.testing._store_under_test import CancelAtStep
from chatkit_trio.types import SDKHiddenContextItem, TurnEnding

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def crash_child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, HERE / "crash_child.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


class TestSQLiteStore(StoreConformance):
    persistent = True

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path, crash_child: subprocess.Popen[str]) -> None:
        self.path = tmp_path / "chat.db"
        self.child = crash_child

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[SQLiteStore[str]]:
        async with SQLiteStore[str](self.path, owner=str) as store:
            yield store

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"

    async def make_silent(self, store: Store[Any]) -> None:
        assert store.coordination is not None
        (self.path.parent / f"chat.db-instance-{store.coordination.node}").unlink()

    async def make_all_silent(self) -> None:
        """Time means nothing here: a process that hangs has its lock."""

    async def crash_during(self, operation: str, thread_id: str, statement: int) -> bool:
        order = json.dumps([str(self.path), operation, thread_id, statement])
        status = await trio.to_thread.run_sync(self._tell_child, order)
        assert status in ("9", "0")
        return status == "9"

    def _tell_child(self, order: str) -> str:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(order + "\n")
        self.child.stdin.flush()
        return self.child.stdout.readline().strip()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "chat.db"


def writer(store: SQLiteStore[Any]) -> sqlite3.Connection:
    """Return the store's own connection, to set limits on it or to look at its settings."""
    connection = store._database._writer
    assert connection is not None
    return connection


def beside(path: Path) -> list[Path]:
    """Return the files in the directory of this one."""
    return list(path.parent.iterdir())


def damage(path: Path) -> None:
    """Overwrite all pages but the first."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x55" * (len(content) - 4096))


async def item_ids(store: SQLiteStore[Any], thread_id: str = "thr_1") -> list[str]:
    return [item_id for item_id, _ in (await snapshot(store, thread_id, None)).items]


class TestFile:
    def test_a_store_in_memory_is_refused_with_the_name_of_the_right_class(self) -> None:
        with pytest.raises(ValueError, match=r"MemoryStore\(\)"):
            SQLiteStore(":memory:")

    def test_an_unknown_synchronous_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'NORMAL' or 'FULL', not 'OFF'"):
            SQLiteStore("chat.db", synchronous="OFF")  # type: ignore[arg-type]

    async def test_a_store_that_isnt_open_says_how_to_open_it(self, path: Path) -> None:
        store = SQLiteStore(path)
        with pytest.raises(RuntimeError, match="use it inside 'async with store:'"):
            await store.load_thread("thr_1", None)
        async with store:
            pass
        with pytest.raises(RuntimeError, match="isn't open"):
            await store.save_thread(thread("thr_1"), None)
        with pytest.raises(RuntimeError, match="isn't open"):
            await store.journal.abandoned()

    async def test_a_store_can_be_opened_again_after_closing(self, path: Path) -> None:
        store = SQLiteStore(path)
        for n in range(3):
            async with store:
                await store.save_thread(thread(f"thr_{n}"), None)
                assert len((await store.load_threads(10, None, "asc", None)).data) == n + 1

    async def test_many_tasks_may_enter_one_store_at_once(self, path: Path) -> None:
        store = SQLiteStore(path)

        async def use(n: int) -> None:
            async with store:
                await store.save_thread(thread(f"thr_{n}"), None)

        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(use, n)
        async with store:
            assert len((await store.load_threads(100, None, "asc", None)).data) == 20

    async def test_an_opening_that_is_cancelled_half_way_leaves_nothing_open(
        self, path: Path
    ) -> None:
        for step in itertools.count():
            store = SQLiteStore[Any](path)
            cancel = CancelAtStep(step)
            await cancel.run(store.__aenter__)
            if not cancel.raised:
                break
            assert {file.name for file in beside(path)} <= {"chat.db"}
        await store.__aexit__(None, None, None)
        assert beside(path) == [path]

    async def test_closing_leaves_one_file_behind(self, path: Path) -> None:
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
        assert beside(path) == [path]

    async def test_a_cancelled_server_still_closes_the_file(self, path: Path) -> None:
        with trio.CancelScope() as scope:
            async with SQLiteStore(path) as store:
                await prepare(store, "thr_1", None)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        assert beside(path) == [path]

    async def test_closing_waits_for_a_write_that_has_begun(self, path: Path) -> None:
        store = SQLiteStore(path)
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with closing(other):
            async with trio.open_nursery() as nursery:
                await store.__aenter__()
                await prepare(store, "thr_1", None)
                other.execute("BEGIN IMMEDIATE")  # so that the write is held up half way
                nursery.start_soon(store.delete_thread_item, "thr_1", "i1", None)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(store.__aexit__, None, None, None)
                await trio.testing.wait_all_tasks_blocked()
                other.execute("ROLLBACK")
        async with store:
            assert await item_ids(store) == ["i2", "i3", "i4"]

    @pytest.mark.parametrize(("synchronous", "level"), [("NORMAL", 1), ("FULL", 2)])
    async def test_synchronous_is_set_on_the_connection(
        self, path: Path, synchronous: Any, level: int
    ) -> None:
        async with SQLiteStore(path, synchronous=synchronous) as store:
            assert writer(store).execute("PRAGMA synchronous").fetchone() == (level,)
            assert writer(store).execute("PRAGMA journal_mode").fetchone() == ("wal",)


class TestSchema:
    async def test_a_file_of_version_1_is_migrated_with_its_data(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as old:
            _sqlite_schema.MIGRATIONS[0](old)
            old.execute(f"PRAGMA application_id = {_sqlite_schema.APPLICATION_ID}")
            old.execute("PRAGMA user_version = 1")
            old.execute(
                "INSERT INTO threads (id, owner, data) VALUES ('thr_1', '', ?)",
                (thread("thr_1").model_dump_json(),),
            )
            old.commit()
        async with SQLiteStore(path) as store:
            assert await store.load_thread("thr_1", None) == thread("thr_1")
            await store.journal.begin("turn_1", "thr_1", None)
            assert writer(store).execute("PRAGMA user_version").fetchone() == (7,)

    async def test_an_open_turn_in_a_file_of_version_2_is_recovered(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as old:
            for step in _sqlite_schema.MIGRATIONS[:2]:
                step(old)
            old.execute(f"PRAGMA application_id = {_sqlite_schema.APPLICATION_ID}")
            old.execute("PRAGMA user_version = 2")
            items = f"[{note('i1', 'thr_1', 'half').model_dump_json()}]"
            old.execute("INSERT INTO turns VALUES ('turn_1', 'thr_1', '', 'gone', 0, ?)", (items,))
            old.commit()
        async with SQLiteStore(path) as store:
            assert await store.journal.abandoned() == [
                JournalEntry("turn_1", "thr_1", (note("i1", "thr_1", "half"),))
            ]

    async def test_a_migration_that_fails_leaves_the_file_as_it_was(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)

        def add_table_then_fail(connection: sqlite3.Connection) -> None:
            connection.execute("CREATE TABLE half (id TEXT)")
            connection.execute("SELECT nonsense")

        steps = (*_sqlite_schema.MIGRATIONS, add_table_then_fail)
        with monkeypatch.context() as patch:
            patch.setattr(_sqlite_schema, "MIGRATIONS", steps)
            with pytest.raises(StoreError, match="no such column: nonsense"):
                await SQLiteStore(path).__aenter__()
        async with SQLiteStore(path) as store:
            assert await item_ids(store) == ["i1", "i2", "i3", "i4"]
            tables = writer(store).execute("SELECT name FROM sqlite_master").fetchall()
            assert ("half",) not in tables

    async def test_a_file_of_a_newer_version_is_refused_clearly(self, path: Path) -> None:
        async with SQLiteStore(path):
            pass
        with closing(sqlite3.connect(path)) as newer:
            newer.execute("PRAGMA user_version = 99")
            newer.execute("PRAGMA journal_mode = DELETE")
        before = await trio.Path(path).read_bytes()
        with pytest.raises(StoreError, match=r"chat\.db: its schema has version 99.*upgrade"):
            await SQLiteStore(path).__aenter__()
        assert await trio.Path(path).read_bytes() == before

    async def test_a_file_of_another_program_is_refused_and_not_a_byte_of_it_changed(
        self, path: Path
    ) -> None:
        with closing(sqlite3.connect(path)) as other:
            other.execute("CREATE TABLE customers (name TEXT)")
        before = await trio.Path(path).read_bytes()
        with pytest.raises(StoreError, match="of another program"):
            await SQLiteStore(path).__aenter__()
        assert await trio.Path(path).read_bytes() == before
        assert beside(path) == [path]

    @pytest.mark.parametrize("order", ["asc", "desc"])
    async def test_a_page_is_one_range_of_an_index_without_a_sort(
        self, path: Path, order: str
    ) -> None:
        async with SQLiteStore(path) as store:
            plans = {
                name: writer(store).execute(f"EXPLAIN QUERY PLAN {query}", (1, 1, 1)).fetchall()
                for name, query in (
                    ("items", _sqlite_queries.ITEM_PAGES[order]),
                    ("threads", _sqlite_queries.THREAD_PAGES[order]),
                )
            }
        edge = {"asc": ">", "desc": "<"}[order]
        assert {name: [row[-1] for row in plan] for name, plan in plans.items()} == {
            "items": [f"SEARCH items USING INDEX items_of_thread (thread=? AND rowid{edge}?)"],
            "threads": [f"SEARCH threads USING INDEX threads_of_owner (owner=? AND rowid{edge}?)"],
        }


class TestErrors:
    async def test_a_missing_directory_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            StoreError, match=r"no/chat\.db.*there is no directory .*/no: make it first"
        ):
            await SQLiteStore(tmp_path / "no" / "chat.db").__aenter__()

    async def test_a_link_to_itself_is_told(self, path: Path) -> None:
        await trio.Path(path).symlink_to(path)
        with pytest.raises(StoreError, match=r"chat\.db: Too many levels of symbolic links"):
            await SQLiteStore(path).__aenter__()

    async def test_a_file_that_is_no_database_is_refused(self, path: Path) -> None:
        await trio.Path(path).write_text("Dear diary, " * 1000)
        with pytest.raises(StoreError, match=r"file is not a database \(check the path"):
            await SQLiteStore(path).__aenter__()
        assert (await trio.Path(path).read_text()).startswith("Dear diary")

    async def test_a_damaged_file_is_reported_as_such(self, path: Path) -> None:
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
        damage(path)
        with pytest.raises(StoreError, match=r"malformed \(restore the file from a backup"):
            async with SQLiteStore(path) as store:
                await store.load_thread("thr_1", None)

    async def test_a_full_disk_undoes_the_write_and_leaves_the_store_usable(
        self, path: Path
    ) -> None:
        big = note("big", "thr_1", "x" * 1_000_000)
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
            (pages,) = writer(store).execute("PRAGMA page_count").fetchone()
            writer(store).execute(f"PRAGMA max_page_count = {pages + 10}")
            settlement = Settlement("thr_1", new_items=(note("i5", "thr_1"), big))
            with pytest.raises(StoreError, match=r"is full \(free some space; nothing"):
                await store.settle(settlement, None)
            assert await item_ids(store) == ["i1", "i2", "i3", "i4"]
            await store.add_thread_item("thr_1", note("small", "thr_1"), None)
            writer(store).execute("PRAGMA max_page_count = 100000")
            await store.settle(settlement, None)
            assert await item_ids(store) == ["i1", "i2", "i3", "i4", "small", "i5", "big"]

    async def test_a_read_only_file_is_reported_as_such(self, path: Path) -> None:
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
            writer(store).execute("PRAGMA query_only = ON")  # root may write to any file
            with pytest.raises(StoreError, match=r"readonly database .*needs write access"):
                await store.delete_thread("thr_1", None)
            assert await item_ids(store) == ["i1", "i2", "i3", "i4"]

    async def test_a_file_locked_by_another_process_for_too_long_is_reported(
        self, path: Path
    ) -> None:
        async with SQLiteStore(path, busy_timeout=0.01) as store:
            await prepare(store, "thr_1", None)
            with closing(sqlite3.connect(path, isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(StoreError, match=r"locked .*longer than busy_timeout"):
                    await store.delete_thread("thr_1", None)
                assert await item_ids(store) == ["i1", "i2", "i3", "i4"]
            await store.delete_thread("thr_1", None)
            with pytest.raises(NotFoundError):
                await store.load_thread("thr_1", None)

    async def test_an_item_that_cant_be_stored_as_json_undoes_the_settlement(
        self, path: Path
    ) -> None:
        bad = note("bad", "thr_1")
        bad.content = object()  # type: ignore[union-attr]
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
            with pytest.raises(ValueError, match="item bad can't be stored as JSON"):
                await store.settle(Settlement("thr_1", None, (note("i5", "thr_1"), bad)), None)
            assert await item_ids(store) == ["i1", "i2", "i3", "i4"]


async def test_a_cancel_stops_a_waiting_write_and_lets_a_begun_one_end(path: Path) -> None:
    outcomes: dict[str, str] = {}

    async def add(item_id: str) -> None:
        outcomes[item_id] = "cancelled"
        await store.add_thread_item("thr_1", note(item_id, "thr_1"), None)
        outcomes[item_id] = "returned"

    async with SQLiteStore(path) as store:
        await prepare(store, "thr_1", None)
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        with closing(other):
            other.execute("BEGIN IMMEDIATE")  # so that the first write is held up half way
            async with trio.open_nursery() as nursery:
                nursery.start_soon(add, "begun")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(add, "waiting")
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                other.execute("ROLLBACK")
        assert outcomes == {"begun": "returned", "waiting": "cancelled"}
        assert await item_ids(store) == ["i1", "i2", "i3", "i4", "begun"]


async def test_reads_go_on_while_a_write_is_held_up(path: Path) -> None:
    async with SQLiteStore(path) as store:
        await prepare(store, "thr_1", None)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(store.delete_thread, "thr_1", None)
                await trio.testing.wait_all_tasks_blocked()
                assert await item_ids(store) == ["i1", "i2", "i3", "i4"]
                other.execute("ROLLBACK")
        with pytest.raises(NotFoundError):
            await store.load_thread("thr_1", None)


def copy_after_power_cut(path: Path, copy: Path, seed: int) -> None:
    """Copy an open database as a power cut may: some sectors of its log weren't written."""
    chance = random.Random(seed)
    log = bytearray(path.with_name(f"{path.name}-wal").read_bytes())
    for start in range(0, len(log), 512):
        if chance.random() < 0.02:
            log[start : start + 512] = bytes(512)
    if seed % 2:
        del log[chance.randrange(len(log)) :]
    copy.write_bytes(path.read_bytes())
    copy.with_name(f"{copy.name}-wal").write_bytes(log)


async def test_a_power_cut_loses_the_last_writes_at_most_and_damages_nothing(
    path: Path, tmp_path: Path
) -> None:
    async with SQLiteStore(path) as store:
        await store.save_thread(thread("thr_1"), None)
        for n in range(80):
            await store.add_thread_item("thr_1", note(f"i{n}", "thr_1"), None)
        copies = [tmp_path / f"{seed}.db" for seed in range(40)]
        for seed, copy in enumerate(copies):
            copy_after_power_cut(path, copy, seed)
    survivors = set()
    for copy in copies:
        async with SQLiteStore(copy) as store:
            assert writer(store).execute("PRAGMA integrity_check").fetchone() == ("ok",)
            found = await item_ids(store)
            assert found == [f"i{n}" for n in range(len(found))]
            survivors.add(len(found))
    assert len(survivors) > 5, "the damage should differ, or this test shows nothing"


# --- Several processes

WRITE_FIFTY = """
import sys, trio
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing._store_samples import note, thread

async def main(path, name):
    async with SQLiteStore(path, busy_timeout=60) as store:
        await store.save_thread(thread("thr_1"), None)
        for n in range(50):
            await store.add_thread_item("thr_1", note(f"{name}-{n}", "thr_1"), None)

trio.run(main, *sys.argv[1:])
"""

OPEN_TURN_AND_HANG = """
import sys, trio
from chatkit_trio.store import JournalEntry
from chatkit_trio.stores import SQLiteStore
from chatkit_trio.testing._store_samples import note, thread

async def main(path):
    async with SQLiteStore(path, owner=str) as store:
        await store.save_thread(thread("thr_1"), "ann")
        await store.journal.begin("turn_1", "thr_1", "ann")
        entry = JournalEntry("turn_1", "thr_1", (note("i1", "thr_1", "half"),))
        await store.journal.checkpoint([entry])
        print("open", flush=True)
        await trio.sleep_forever()

trio.run(main, *sys.argv[1:])
"""


def python(code: str, *args: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def test_opening_a_new_file_waits_for_another_process_that_is_opening_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        monkeypatch.setattr(time, "sleep", lambda _: other.execute("ROLLBACK"))
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
            assert writer(store).execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_processes_that_open_a_new_file_at_once_all_write_to_it(path: Path) -> None:
    children = [python(WRITE_FIFTY, path, name) for name in range(4)]
    codes = [await trio.to_thread.run_sync(child.wait) for child in children]
    for child in children:
        child.communicate()
    async with SQLiteStore(path) as store:
        page = await store.load_thread_items("thr_1", None, 1000, "asc", None)
        found = [item.id for item in page.data]
    assert codes == [0, 0, 0, 0]
    assert sorted(found) == sorted(f"{name}-{n}" for name in range(4) for n in range(50))
    for name in range(4):
        own = [item_id for item_id in found if item_id.startswith(f"{name}-")]
        assert own == [f"{name}-{n}" for n in range(50)]


@asynccontextmanager
async def process_with_an_open_turn(path: Path) -> AsyncIterator[subprocess.Popen[str]]:
    with python(OPEN_TURN_AND_HANG, path) as child:
        try:
            assert child.stdout is not None
            assert await trio.to_thread.run_sync(child.stdout.readline) == "open\n"
            yield child
        finally:
            child.kill()


class TestRecovery:
    async def test_the_turn_of_a_killed_process_is_taken_over_at_once(self, path: Path) -> None:
        async with process_with_an_open_turn(path) as child:
            child.send_signal(signal.SIGKILL)
            await trio.to_thread.run_sync(child.wait)
            left_behind = {file.name[:17] for file in beside(path)}
            async with SQLiteStore(path, owner=str) as store:
                found = await store.journal.abandoned()
                await store.journal.settle_abandoned(Settlement("thr_1", "turn_1", found[0].items))
                items = (await snapshot(store, "thr_1", "ann")).items
        half = note("i1", "thr_1", "half")
        assert found == [JournalEntry("turn_1", "thr_1", (half,))]
        assert items == (("i1", "half"),)
        assert "chat.db-instance-" in left_behind
        assert beside(path) == [path]

    async def test_a_live_process_keeps_its_turn(self, path: Path) -> None:
        async with process_with_an_open_turn(path), SQLiteStore(path, owner=str) as store:
            assert await store.journal.abandoned() == []

    async def test_a_live_process_keeps_its_turn_from_one_that_came_by_a_link(
        self, path: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "links").mkdir()
        link = tmp_path / "links" / "other.db"
        link.symlink_to(path)
        async with process_with_an_open_turn(path), SQLiteStore(link, owner=str) as store:
            assert await store.journal.abandoned() == []

    async def test_a_stopped_process_keeps_its_turn(self, path: Path) -> None:
        async with process_with_an_open_turn(path) as child:
            child.send_signal(signal.SIGSTOP)
            async with SQLiteStore(path, owner=str) as store:
                assert await store.journal.abandoned() == []

    async def test_of_many_who_recover_at_once_one_settles_the_turn(self, path: Path) -> None:
        async with SQLiteStore(path) as dead:
            await prepare(dead, "thr_1", None)
            await dead.journal.begin("turn_1", "thr_1", None)
        numbers = iter(range(8))
        async with AsyncExitStack() as stack:
            stores = [await stack.enter_async_context(SQLiteStore(path)) for _ in range(8)]

            async def recover(store: SQLiteStore[Any]) -> None:
                for entry in await store.journal.abandoned():
                    text = note(f"n{next(numbers)}", "thr_1", "crash")
                    settlement = Settlement("thr_1", entry.turn_id, (text,))
                    await store.journal.settle_abandoned(settlement)

            async with trio.open_nursery() as nursery:
                for store in stores:
                    nursery.start_soon(recover, store)
            items = (await snapshot(stores[0], "thr_1", None)).items
            assert await stores[0].journal.abandoned() == []
        assert [text for _, text in items[4:]] == ["crash"]

    async def test_a_recovery_that_failed_can_be_tried_again(self, path: Path) -> None:
        async with SQLiteStore(path) as dead:
            await prepare(dead, "thr_1", None)
            await dead.journal.begin("turn_1", "thr_1", None)
        settlement = Settlement("thr_1", "turn_1", (note("i5", "thr_1", "x" * 1_000_000),))
        async with SQLiteStore(path) as store:
            await store.journal.abandoned()
            (pages,) = writer(store).execute("PRAGMA page_count").fetchone()
            writer(store).execute(f"PRAGMA max_page_count = {pages}")
            with pytest.raises(StoreError, match="full"):
                await store.journal.settle_abandoned(settlement)
            writer(store).execute("PRAGMA max_page_count = 100000")
            assert await store.journal.abandoned() == [JournalEntry("turn_1", "thr_1")]
            await store.journal.settle_abandoned(settlement)
            assert await item_ids(store) == ["i1", "i2", "i3", "i4", "i5"]

    async def test_settle_abandoned_leaves_a_live_turn_alone(self, path: Path) -> None:
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
            await store.journal.begin("turn_1", "thr_1", None)
            settlement = Settlement("thr_1", "turn_1", (note("i5", "thr_1"),))
            await store.journal.settle_abandoned(settlement)
            assert await item_ids(store) == ["i1", "i2", "i3", "i4"]

    async def test_deleting_a_thread_closes_its_turns(self, path: Path) -> None:
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
            await store.journal.begin("turn_1", "thr_1", None)
            await store.delete_thread("thr_1", None)
        async with SQLiteStore(path) as store:
            assert await store.journal.abandoned() == []

    async def test_settling_in_a_deleted_thread_closes_the_turn(self, path: Path) -> None:
        async with SQLiteStore(path) as store:
            await store.journal.begin("turn_1", "thr_gone", None)
            with pytest.raises(NotFoundError):
                await store.settle(Settlement("thr_gone", "turn_1"), None)
        async with SQLiteStore(path) as store:
            assert await store.journal.abandoned() == []

    async def test_another_owners_settlement_doesnt_close_a_turn(self, path: Path) -> None:
        async with SQLiteStore(path, owner=str) as store:
            await prepare(store, "thr_2", "bob")
            await store.journal.begin("turn_1", "thr_1", "ann")
            await store.settle(Settlement("thr_2", "turn_1"), "bob")
        async with SQLiteStore(path, owner=str) as store:
            assert await store.journal.abandoned() == [JournalEntry("turn_1", "thr_1")]

    async def test_a_file_name_of_odd_characters_doesnt_confuse_the_locks(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "a[b]*?.db"
        async with process_with_an_open_turn(path) as child:
            child.kill()
            await trio.to_thread.run_sync(child.wait)
        async with SQLiteStore(path, owner=str) as store:
            assert len(await store.journal.abandoned()) == 1
        assert beside(path) == [path]

    async def test_the_lock_files_of_the_dead_are_removed_when_a_store_is_opened(
        self, path: Path
    ) -> None:
        (path.parent / "chat.db-instance-00ff").touch()
        async with SQLiteStore(path):
            pass
        assert beside(path) == [path]

    async def test_asking_for_abandoned_turns_writes_nothing_if_there_are_none(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with SQLiteStore(path) as alive, SQLiteStore(path) as store:
            await alive.journal.begin("turn_1", "thr_1", None)
            await store.journal.begin("turn_2", "thr_1", None)
            monkeypatch.setattr(store._database, "write", None)
            assert await store.journal.abandoned() == []
            assert await store.journal.abandoned("thr_1") == []
            assert await store.journal.abandoned("thr_2") == []

    async def test_what_cant_be_read_is_handed_on_as_text_and_logged_once(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with SQLiteStore(path) as dead:
            await dead.journal.begin("turn_1", "thr_1", None)
            await dead.journal.begin("turn_2", "thr_2", None)
            writer(dead).execute("UPDATE turns SET items = '[{}]' WHERE id = 'turn_1'")
        async with SQLiteStore(path) as store:
            for _ in range(3):
                one, other = sorted(await store.journal.abandoned(), key=lambda each: each.turn_id)
                assert other == JournalEntry("turn_2", "thr_2")
                [item] = one.unreadable
                assert replace(one, unreadable=()) == JournalEntry("turn_1", "thr_1")
                assert (item.item_id, item.text) == ("items [0]", "{}")
        assert [record.getMessage() for record in caplog.records] == [
            "items ['items [0]'] of turn turn_1 are in the journal and can't be read: another"
            " version may have written them"
        ]

    async def test_an_item_that_cant_be_stored_keeps_no_other_from_being_journaled(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        bad: Any = note("bad", "thr_1")
        bad.content = object()
        entries = [
            JournalEntry("turn_1", "thr_1", (note("i1", "thr_1", "a"), bad)),
            JournalEntry("turn_2", "thr_2", (note("i2", "thr_2", "b"),)),
        ]
        async with SQLiteStore(path) as dead:
            for entry in entries:
                await dead.journal.begin(entry.turn_id, entry.thread_id, None)
            for _ in range(3):
                await dead.journal.checkpoint(entries)
        async with SQLiteStore(path) as store:
            assert await store.journal.abandoned() == [
                JournalEntry("turn_1", "thr_1", (note("i1", "thr_1", "a"),)),
                entries[1],
            ]
        assert [record.getMessage() for record in caplog.records] == [
            "item bad of thread thr_1 can't be journaled; it is left out"
        ]


def ending_note(item_id: str, text: str) -> SDKHiddenContextItem:
    at, ending = note("", "").created_at, TurnEnding(turn_id="turn_1", reason="stopped")
    return SDKHiddenContextItem(
        id=item_id, thread_id="thr_1", created_at=at, content=text, ending=ending
    )


def lock_file(path: Path) -> Path:
    (found,) = path.parent.glob("chat.db-instance-*")
    return found


class TestRemovedLockFile:
    """Somebody removes the lock file of a store that is open: others take it for dead."""

    WHOLE = Settlement("thr_1", "turn_1", (note("i5", "thr_1", "whole"), ending_note("n2", "stop")))
    CRASHED = Settlement(
        "thr_1", "turn_1", (note("i5", "thr_1", "half"), ending_note("n1", "crash"))
    )

    async def begin_and_lose_the_lock(self, store: SQLiteStore[Any], path: Path) -> None:
        await prepare(store, "thr_1", None)
        await store.journal.begin("turn_1", "thr_1", None)
        half = JournalEntry("turn_1", "thr_1", (note("i5", "thr_1", "half"),))
        await store.journal.checkpoint([half])
        lock_file(path).unlink()

    async def test_a_turn_that_another_has_settled_as_crashed_is_completed(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with SQLiteStore(path) as store:
            await self.begin_and_lose_the_lock(store, path)
            async with SQLiteStore(path) as other:
                assert len(await other.journal.abandoned()) == 1
                await other.journal.settle_abandoned(self.CRASHED)
            for _ in range(2):
                await store.settle(self.WHOLE, None)
            items = (await snapshot(store, "thr_1", None)).items
        assert items[4:] == (("i5", "whole"), ("n1", "crash"))
        told, warned, *_ = [record.getMessage() for record in caplog.records]
        assert "was removed while the store is open" in told
        assert warned == (
            "turn turn_1 of thread thr_1 was taken for crashed by another process while it was"
            " alive here; what it has stored is completed"
        )

    async def test_a_turn_that_another_has_claimed_only_is_settled_once(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with SQLiteStore(path) as store:
            await self.begin_and_lose_the_lock(store, path)
            async with SQLiteStore(path) as other:
                assert len(await other.journal.abandoned()) == 1
                await store.settle(self.WHOLE, None)
                await other.journal.settle_abandoned(self.CRASHED)
                assert await other.journal.abandoned() == []
            items = (await snapshot(store, "thr_1", None)).items
        assert items[4:] == (("i5", "whole"), ("n2", "stop"))
        assert "was taken for crashed" in caplog.text

    async def test_a_settlement_that_is_only_repeated_says_nothing(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
            await store.journal.begin("turn_1", "thr_1", None)
            for _ in range(2):
                await store.settle(self.WHOLE, None)
            items = (await snapshot(store, "thr_1", None)).items
        assert items[4:] == (("i5", "whole"), ("n2", "stop"))
        assert caplog.records == []

    async def test_a_late_settlement_leaves_the_notes_of_other_turns_alone(
        self, path: Path
    ) -> None:
        earlier = ending_note("n0", "earlier").model_copy(
            update={"ending": TurnEnding(turn_id="turn_0", reason="stopped", item_ids=["turn_1"])}
        )
        async with SQLiteStore(path) as store:
            await prepare(store, "thr_1", None)
            await store.add_thread_item("thr_1", earlier, None)
            await store.settle(self.WHOLE, None)
            items = (await snapshot(store, "thr_1", None)).items
        assert items[4:] == (("n0", "earlier"), ("i5", "whole"), ("n2", "stop"))

    @pytest.mark.parametrize("write", ["begin", "checkpoint", "settle"])
    async def test_the_next_write_of_a_turn_puts_the_lock_file_back_and_tells(
        self, path: Path, write: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with SQLiteStore(path) as store, SQLiteStore(path) as other:
            removed = path.parent / f"chat.db-instance-{store._database.instance}"
            await prepare(store, "thr_1", None)
            await store.journal.begin("turn_1", "thr_1", None)
            removed.unlink()
            for n in range(2):
                match write:
                    case "begin":
                        await store.journal.begin(f"turn_{n + 2}", "thr_1", None)
                    case "checkpoint":
                        await store.journal.checkpoint([])
                    case _:
                        await store.settle(Settlement("thr_1", "turn_2"), None)
            assert await other.journal.abandoned() == []
        assert [record.getMessage() for record in caplog.records] == [
            f"the lock file {removed} was removed while the store is open; it is back, but other"
            " processes may have settled live turns of this one as crashed"
        ]

    async def test_a_store_never_takes_its_own_live_turn_for_crashed(self, path: Path) -> None:
        async with SQLiteStore(path) as store:
            await self.begin_and_lose_the_lock(store, path)
            assert await store.journal.abandoned() == []
            assert await store.journal.abandoned("thr_1") == []

    async def test_a_lock_file_that_cant_be_made_again_fails_no_write(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        directory = tmp_path / "before"
        directory.mkdir()
        path = directory / "chat.db"
        async with SQLiteStore(path) as store:
            await self.begin_and_lose_the_lock(store, path)
            directory.rename(tmp_path / "after")
            await store.journal.checkpoint([])
            await store.settle(self.WHOLE, None)
            assert await item_ids(store) == ["i1", "i2", "i3", "i4", "i5", "n2"]
            (tmp_path / "after").rename(directory)
        (record,) = caplog.records
        assert record.getMessage().endswith("is gone and can't be made again")


# --- Owners take turns ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["write", "read"])
async def test_an_owner_with_many_calls_is_overtaken_by_another_one(tmp_path, kind, monkeypatch):
    """Writes that take long aren't committed together with others."""
    monkeypatch.setattr("chatkit_trio.stores._sqlite_writes._SECONDS", -1.0)
    database = Database(
        tmp_path / "chat.sqlite3", synchronous="NORMAL", readers=1, busy_timeout=5.0
    )
    first_may_end = threading.Event()
    served: list[str] = []

    def call(db, owner):
        first_may_end.wait(30)
        served.append(owner)

    async def ask(owner):
        await getattr(database, kind)(partial(call, owner=owner), owner=owner)

    await database.open()
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask, "greedy")
            await wait_all_tasks_blocked()
            nursery.start_soon(ask, "modest")
            await wait_all_tasks_blocked()
            first_may_end.set()
    finally:
        await database.close()

    assert served.index("modest") <= 1
    assert len(served) == 51


async def test_owners_whose_calls_have_ended_are_forgotten(tmp_path):
    limiter = FairLimiter(1, each=1)
    for number in range(100):
        async with limiter.place(f"owner {number}"):
            pass

    assert not limiter._places
