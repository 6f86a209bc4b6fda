"""The PostgreSQL store, against a server of the tests' own."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
import trio.testing
from click.testing import CliRunner
from psycopg import sql

import chatkit_trio.stores
from chatkit_trio.cli import main
from chatkit_trio.errors import NotFoundError, StoreError
from chatkit_trio.store import Store
from chatkit_trio.stores import _postgresql_queries as queries
from chatkit_trio.stores import _postgresql_schema, _postgresql_settings, _records
from chatkit_trio.stores._postgresql_statements import Statement
from chatkit_trio.stores._records import PAGE_CHARS, encode_item
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.stores.sqlite import SQLiteStore
from chatkit_trio.testing import StoreConformance
from chatkit_trio.testing._store_samples import note, thread
from tests import postgresql_server
from tests.postgresql_server import Server

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def crash_child() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, HERE / "postgresql_crash_child.py"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


class TestPostgreSQLStore(StoreConformance):
    persistent = True

    @pytest.fixture(autouse=True)
    def _database(self, postgresql_url: str, crash_child: subprocess.Popen[str]) -> None:
        self.url = postgresql_url
        self.child = crash_child

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[PostgreSQLStore[str]]:
        async with PostgreSQLStore[str](self.url, owner=str) as store:
            yield store

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"

    async def crash_during(self, operation: str, thread_id: str, statement: int) -> bool:
        order = json.dumps([self.url, operation, thread_id, statement])
        status = await trio.to_thread.run_sync(self._tell_child, order)
        assert status in ("9", "0")
        return status == "9"

    async def make_silent(self, store: Store[Any]) -> None:
        assert store.coordination is not None
        let_leases_run_out(self.url, store.coordination.node)

    async def make_all_silent(self) -> None:
        """Not as soon as a server has been started: then each node has a lease to come back."""
        with session(self.url) as connection:
            connection.execute("UPDATE nodes SET lease = '5 s'")
            wait = "SELECT pg_sleep_until(pg_postmaster_start_time() + interval '5 s')"
            await trio.to_thread.run_sync(connection.execute, wait)
        let_time_pass(self.url, 2)

    def _tell_child(self, order: str) -> str:
        assert self.child.stdin is not None
        assert self.child.stdout is not None
        self.child.stdin.write(order + "\n")
        self.child.stdin.flush()
        status = self.child.stdout.readline().strip()
        with psycopg.connect(self.url, autocommit=True) as connection:
            sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
            while connection.execute(sessions, ("chatkit-trio",)).fetchone() != (0,):
                time.sleep(0.001)  # until the server has noticed
        let_leases_run_out(self.url)
        return status


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgreSQLStore[Any]]:
    async with PostgreSQLStore[Any](url, **options) as store:
        yield store


def session(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(url, autocommit=True, options="-c search_path=chatkit_trio")


@pytest.fixture
def new_database(postgresql_server: Server) -> Iterator[str]:
    """The URL of a database in which nothing is."""
    with postgresql_server.database() as url:
        yield url


@pytest.fixture
def next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this chatkit_trio know one more step than the released ones."""
    step = ("ALTER TABLE threads ADD COLUMN shape text",)
    monkeypatch.setattr(_postgresql_schema, "MIGRATIONS", (*_postgresql_schema.MIGRATIONS, step))


def test_limits_are_counted_by_the_owner_of_the_store() -> None:
    store = PostgreSQLStore[str]("postgresql://nowhere/chat", owner=str.upper)

    assert store.get_owner("ann") == "ANN"


class TestOpening:
    def test_the_name_is_imported_when_it_is_asked_for(self) -> None:
        script = "import sys, chatkit_trio.stores; print('psycopg' in sys.modules)"
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert run.stdout == "False\n"
        assert chatkit_trio.stores.PostgreSQLStore is PostgreSQLStore

    def test_without_psycopg_the_error_says_what_to_install(self) -> None:
        script = """
import sys
sys.modules["psycopg"] = None
import chatkit_trio.stores
try:
    chatkit_trio.stores.PostgreSQLStore
except ImportError as error:
    print(error)
"""
        run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert "pip install 'chatkit-trio[postgres]'" in run.stdout

    async def test_a_store_that_isnt_open_says_how_to_open_it(self, postgresql_url: str) -> None:
        store = PostgreSQLStore[Any](postgresql_url)
        with pytest.raises(RuntimeError, match="use it inside 'async with store:'"):
            await store.load_thread("thr_1", None)
        async with store:
            await store.save_thread(thread("thr_1"), None)
        with pytest.raises(RuntimeError, match="isn't open"):
            await store.journal.abandoned()
        async with store:
            assert (await store.load_thread("thr_1", None)).id == "thr_1"

    async def test_closing_leaves_no_session_and_no_node_behind(self, postgresql_url: str) -> None:
        with trio.CancelScope() as scope:
            async with PostgreSQLStore[Any](postgresql_url) as store:
                await store.save_thread(thread("thr_1"), None)
                scope.cancel()
                await trio.lowlevel.checkpoint()
        with session(postgresql_url) as look:
            assert look.execute("SELECT count(*) FROM nodes").fetchone() == (0,)
            with trio.fail_after(5):
                query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
                while look.execute(query, ("chatkit-trio",)).fetchone() != (0,):  # noqa: ASYNC110
                    await trio.sleep(0.01)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"max_connections": 1},
            {"min_connections": 9, "max_connections": 4},
            {"schema": "My-own"},
        ],
        ids=str,
    )
    def test_wrong_arguments_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValueError, match="must be"):
            PostgreSQLStore("", **wrong)

    def test_a_wrong_url_is_refused_without_its_password(self) -> None:
        with pytest.raises(ValueError, match="postgresql://user@host") as caught:
            PostgreSQLStore("postgresql://ann:se%zzcret@host/db")
        assert "cret" not in str(caught.value)
        assert caught.value.__suppress_context__

    async def test_a_server_that_isnt_there_is_named_and_the_password_isnt(self) -> None:
        url = "postgresql://ann:secret@127.0.0.1:1/chat"
        with pytest.raises(
            StoreError, match=r"postgresql://127.0.0.1:1/chat.*server running"
        ) as caught:
            async with opened(url):
                pass
        assert "secret" not in str(caught.value)

    async def test_a_database_that_isnt_there_is_named(self, postgresql_server: Server) -> None:
        with pytest.raises(StoreError, match='database "none" does not exist'):
            async with opened(postgresql_server.url("none")):
                pass

    async def test_a_password_comes_from_the_environment(
        self,
        new_database: str,
        postgresql_server: Server,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        url = new_database.replace("chatkit@", "ann@")
        with session(new_database) as admin, postgresql_server.asking_for_passwords("ann"):
            admin.execute("DROP ROLE IF EXISTS ann")
            admin.execute("CREATE ROLE ann LOGIN PASSWORD 'secret'")
            name = admin.info.dbname
            admin.execute(
                sql.SQL("GRANT CREATE ON DATABASE {} TO ann").format(sql.Identifier(name))
            )
            with pytest.raises(StoreError, match=r"no password supplied.*password right"):
                async with opened(url):
                    pass
            monkeypatch.setenv("PGPASSWORD", "secret")
            async with opened(url) as store:
                await store.save_thread(thread("thr_1"), None)
            admin.execute("DROP OWNED BY ann CASCADE")
            admin.execute("DROP ROLE ann")

    async def test_two_schemas_of_a_database_are_two_stores(self, new_database: str) -> None:
        async with opened(new_database) as one, opened(new_database, schema="other") as other:
            await one.save_thread(thread("thr_1"), None)
            with pytest.raises(NotFoundError):
                await other.load_thread("thr_1", None)

    async def test_a_server_that_takes_no_writes_fails_a_ping(self, postgresql_url: str) -> None:
        read_only = f"{postgresql_url}&options=-c%20default_transaction_read_only%3Don"
        async with opened(postgresql_url) as store:
            await store.ping()
        with pytest.raises(StoreError, match="name the primary server"):
            async with opened(read_only):
                pass
        async with opened(postgresql_url) as store:
            with session(postgresql_url) as admin:
                admin.execute("ALTER TABLE nodes RENAME TO gone")
                try:
                    with pytest.raises(StoreError, match='relation "nodes" does not exist'):
                        await store.ping()
                finally:
                    admin.execute("ALTER TABLE gone RENAME TO nodes")

    async def test_a_server_that_cant_see_whether_its_client_is_there_is_used_all_the_same(
        self, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # What such a server refuses: any value of this setting but 0.
        refused = _postgresql_settings._LOOK_FOR_CLIENT.as_string().replace("2000", "-1")
        monkeypatch.setattr(_postgresql_settings, "_LOOK_FOR_CLIENT", sql.SQL(refused))
        async with opened(postgresql_url, statement_timeout=7) as store:
            query = "SELECT current_setting('client_connection_check_interval')"
            limit = "SELECT current_setting('statement_timeout')"
            cursors = await store._database.read(Statement(query), Statement(limit))
            assert [cursor.fetchall() for cursor in cursors] == [[("0",)], [("7s",)]]


class TestText:
    async def test_ids_that_postgresql_cant_hold_are_not_found_or_refused(
        self, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url, owner=str) as store:
            await store.save_thread(thread("thr_1"), "ann")
            for bad in ("thr_\x00", "thr_\ud83d"):
                with pytest.raises(NotFoundError):
                    await store.load_thread(bad, "ann")
                with pytest.raises(NotFoundError):
                    await store.load_threads(10, None, "asc", bad)
                with pytest.raises(ValueError, match="NUL character or half a surrogate"):
                    await store.save_thread(thread("thr_2"), bad)
                await store.delete_thread(bad, "ann")
                await store.delete_thread_item("thr_1", bad, "ann")
                await store.delete_attachment(bad, "ann")
            assert len((await store.load_threads(10, None, "asc", "ann")).data) == 1

    async def test_nul_in_a_text_is_kept(self, postgresql_url: str) -> None:
        item = note("i1", "thr_1", "a\x00b \\u0000")
        async with opened(postgresql_url) as store:
            await store.save_thread(thread("thr_1", "t\x00"), None)
            await store.add_thread_item("thr_1", item, None)
            assert await store.load_item("thr_1", "i1", None) == item
            assert (await store.load_thread("thr_1", None)).title == "t\x00"

    async def test_an_id_too_long_for_an_index_is_refused(self, postgresql_url: str) -> None:
        noise = "".join(chr(n) for n in random.Random(1).choices(range(0x4E00, 0x9FFF), k=9000))
        async with opened(postgresql_url) as store:
            with pytest.raises(ValueError, match="too long"):
                await store.save_thread(thread(noise), None)


class TestSchema:
    async def test_many_may_open_a_new_database_at_once(self, new_database: str) -> None:
        async with trio.open_nursery() as nursery:
            for n in range(8):
                nursery.start_soon(_save, new_database, f"thr_{n}")
        async with opened(new_database) as store:
            assert len((await store.load_threads(10, None, "asc", None)).data) == 8

    async def test_opening_can_be_cancelled_while_another_process_makes_the_tables(
        self, new_database: str
    ) -> None:
        lock = _postgresql_schema._lock_of("chatkit_trio")
        with session(new_database) as other:
            other.execute("SELECT pg_advisory_lock(%s)", (lock,))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_save, new_database, "thr_1")
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_save, new_database, "thr_1")
                await trio.testing.wait_all_tasks_blocked()
                other.execute("SELECT pg_advisory_unlock(%s)", (lock,))
        async with opened(new_database) as store:
            assert (await store.load_thread("thr_1", None)).id == "thr_1"

    async def test_an_older_schema_is_refused_unless_it_may_be_migrated(
        self, new_database: str, request: pytest.FixtureRequest
    ) -> None:
        async with opened(new_database) as old:
            await old.save_thread(thread("thr_1"), None)
            request.getfixturevalue("next_version")
            with pytest.raises(
                StoreError, match=r"version 4.*needs version 5.*chatkit-trio migrate"
            ):
                async with opened(new_database):
                    pass
            async with opened(new_database, migrate=True) as new:
                assert (await new.load_thread("thr_1", None)).id == "thr_1"
                # The servers of the release before run on.
                await old.save_thread(thread("thr_2"), None)
                assert (await new.load_thread("thr_2", None)).id == "thr_2"

    async def test_a_newer_schema_is_refused_clearly(self, new_database: str) -> None:
        async with opened(new_database):
            with session(new_database) as newer:
                newer.execute("INSERT INTO migrations (version) VALUES (99)")
        for options in ({}, {"migrate": True}):
            with pytest.raises(StoreError, match=r"has version 99.*upgrade this one"):
                async with opened(new_database, **options):
                    pass

    async def test_a_schema_of_another_program_is_refused_and_left_as_it_was(
        self, new_database: str
    ) -> None:
        with psycopg.connect(new_database, autocommit=True) as other:
            other.execute("CREATE TABLE migrations (name text)")
            with pytest.raises(StoreError, match="tables of another program: choose another"):
                async with opened(new_database, schema="public", migrate=True):
                    pass
            tables = other.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            assert tables.fetchall() == [("migrations",)]

    async def test_a_migration_that_fails_leaves_the_schema_as_it_was(
        self, new_database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        steps = (*_postgresql_schema.MIGRATIONS, ("CREATE TABLE half (id text)", "SELECT nonsense"))
        async with opened(new_database):
            pass
        with monkeypatch.context() as patch:
            patch.setattr(_postgresql_schema, "MIGRATIONS", steps)
            with pytest.raises(StoreError, match="nonsense"):
                async with opened(new_database, migrate=True):
                    pass
        async with opened(new_database):
            with session(new_database) as look:
                assert look.execute("SELECT to_regclass('half')").fetchone() == (None,)

    async def test_a_database_of_another_encoding_is_refused(
        self, postgresql_server: Server
    ) -> None:
        with (
            postgresql_server.database(encoding="LATIN1") as url,
            pytest.raises(StoreError, match=r"encoding is LATIN1.*createdb --encoding=UTF8"),
        ):
            async with opened(url):
                pass


class TestMigrateCommand:
    def run(self, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["migrate", *arguments])
        return result.exit_code, result.output

    def test_it_makes_the_tables_and_says_when_there_is_nothing_to_do(
        self, new_database: str
    ) -> None:
        assert self.run(new_database, "--check") == (
            1,
            "schema chatkit_trio has no tables; the newest is 4\n",
        )
        assert self.run(new_database) == (
            0,
            "schema chatkit_trio had no tables; it has version 4 now\n",
        )
        for arguments in ((), ("--check",)):
            assert self.run(new_database, *arguments) == (
                0,
                "schema chatkit_trio has version 4, which is the newest: nothing to do\n",
            )

    def test_it_upgrades_an_older_schema(
        self, new_database: str, request: pytest.FixtureRequest
    ) -> None:
        self.run(new_database)
        request.getfixturevalue("next_version")
        assert self.run(new_database, "--check")[0] == 1
        assert self.run(new_database) == (
            0,
            "schema chatkit_trio had version 4; it has version 5 now\n",
        )

    def test_a_schema_keeps_its_name_in_what_is_said(self, new_database: str) -> None:
        assert self.run(new_database, "--schema", "chas_has") == (
            0,
            "schema chas_has had no tables; it has version 4 now\n",
        )

    def told(self, *arguments: str) -> tuple[int, dict[str, object]]:
        code, output = self.run(*arguments, "--json")
        return code, json.loads(output)

    def test_machines_are_told_what_was_and_what_is(
        self, new_database: str, request: pytest.FixtureRequest
    ) -> None:
        schema = {"schema": "chatkit_trio"}
        none = {"before": None, "after": None, "newest": 4, "applied": []}
        made = {"before": None, "after": 4, "newest": 4, "applied": [1, 2, 3, 4]}
        newest = {"before": 4, "after": 4, "newest": 4, "applied": []}
        old = {"before": 4, "after": 4, "newest": 5, "applied": []}
        upgraded = {"before": 4, "after": 5, "newest": 5, "applied": [5]}

        assert self.told(new_database, "--check") == (1, schema | none)
        assert self.told(new_database) == (0, schema | made)
        assert self.told(new_database) == (0, schema | newest)
        assert self.told(new_database, "--check") == (0, schema | newest)
        request.getfixturevalue("next_version")
        assert self.told(new_database, "--check") == (1, schema | old)
        assert self.told(new_database) == (0, schema | upgraded)

    def test_what_it_cant_do_is_told_to_machines_in_the_same_way(self) -> None:
        place = "postgresql://127.0.0.1:1/chat"

        result = CliRunner().invoke(main, ["migrate", place, "--json"])

        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr.startswith(f"Error: can't use {place}: connection")

    def test_what_it_cant_do_is_said_without_a_traceback(self, new_database: str) -> None:
        code, output = self.run("postgresql://127.0.0.1:1/chat")
        assert code == 3
        assert output.startswith("Error: can't use postgresql://127.0.0.1:1/chat: connection")
        assert self.run(new_database, "--schema", "My-own")[0] == 2


class TestPages:
    """A page touches so many blocks of the disk, whatever its place and the size of the thread."""

    async def test_a_page_of_items_is_one_range_of_an_index(self, postgresql_url: str) -> None:
        touched: dict[str, list[int]] = {}
        async with opened(postgresql_url) as store:
            with session(postgresql_url) as look:
                look.execute("SET session_replication_role = replica")  # no checks of references
                # Threads of a usual size, by which the planner judges one that is unusual.
                look.execute(
                    "INSERT INTO threads (id, owner, data)"
                    " SELECT 'thr_' || n, '', '{}' FROM generate_series(1, 1000) AS n"
                )
                look.execute(
                    "INSERT INTO items (thread, id, data) SELECT threads.seq, 'i' || n, '{}'"
                    " FROM threads, generate_series(1, 100) AS n"
                )
                await store.save_thread(thread("thr_large"), None)
                look.execute(
                    "INSERT INTO items (thread, id, data) SELECT threads.seq, 'i' || n, '{}'"
                    " FROM threads, generate_series(1, 1000000) AS n WHERE id = 'thr_large'"
                )
                look.execute("VACUUM ANALYZE items")
                look.execute("VACUUM ANALYZE threads")
                places = itertools.product(
                    ("asc", "desc"), (("thr_500", "i50"), ("thr_large", "i500000")), (False, True)
                )
                for order, (thread_id, middle), is_first in places:
                    parameters = {
                        "thread": thread_id,
                        "owner": "",
                        "item": None if is_first else middle,
                        "limit": 21,
                        "most_chars": PAGE_CHARS,
                    }
                    plan = explain(look, queries.ITEM_PAGES[order], parameters)
                    assert "Sort" not in plan.text
                    assert "Seq Scan on items" not in plan.text
                    touched.setdefault(thread_id, []).append(plan.blocks)
        for small, large in zip(*touched.values(), strict=True):
            assert large <= small + 10, touched

    @pytest.mark.parametrize("order", ["asc", "desc"])
    async def test_a_page_of_threads_is_one_range_of_an_index(
        self, order: str, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url):
            with session(postgresql_url) as look:
                look.execute(
                    "INSERT INTO threads (id, owner, data)"
                    " SELECT 'thr_' || n, 'owner_' || n % 500, '{}'"
                    " FROM generate_series(1, 50000) AS n"
                )
                look.execute("VACUUM ANALYZE threads")
                for place in (None, "thr_25001"):
                    parameters = {
                        "owner": "owner_1",
                        "after": place,
                        "limit": 21,
                        "most_chars": PAGE_CHARS,
                    }
                    plan = explain(look, queries.THREAD_PAGES[order], parameters)
                    assert "threads_of_owner" in plan.text
                    assert "Sort" not in plan.text
                    assert plan.blocks < 60

    @pytest.mark.parametrize("order", ["asc", "desc"])
    async def test_of_large_items_no_more_are_read_than_a_page_can_have(
        self, order: str, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url) as store:
            await store.save_thread(thread("thr_1"), None)
            for number in range(20):
                text = "x" * (PAGE_CHARS // 4)
                halves = thread(f"thr_{number}", text[: len(text) // 2])  # as title, and once more
                await store.save_thread(halves, None)
                await store.add_thread_item("thr_1", note(f"i{number}", "thr_1", text), None)
            items = await store._database.read(*queries.load_items("", "thr_1", None, 99, order))
            threads = await store._database.read(*queries.load_threads("", 99, None, order))
        assert len(queries.item_rows(items, "thr_1", None)) == 4
        assert len(queries.thread_rows(threads, None)) == 4

    @pytest.mark.parametrize("order", ["asc", "desc"])
    async def test_pages_end_where_those_of_sqlite_do(
        self, order: str, postgresql_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        most = 10_000
        for module in (queries, _records):
            monkeypatch.setattr(module, "PAGE_CHARS", most)
        empty = len(encode_item(note("i00", "thr_1", "")))
        # Pairs that fit just so, and that have a character too much; and what is too long alone.
        pairs = [most - 2 * empty - 9, 9], [most - 2 * empty - 8, 9], [9, most - 2 * empty - 8]
        sizes = [*itertools.chain(*pairs), most, 5 * most, 9, 9, 3000, 3000, 3000, most, most]
        stores = opened(postgresql_url), SQLiteStore[Any](tmp_path / "chat.sqlite3")
        pages: list[list[list[str]]] = []
        for each in stores:
            async with each as store:
                await store.save_thread(thread("thr_1"), None)
                for number, size in enumerate(sizes):
                    # Of three bytes each, and of one.
                    item = note(f"i{number:02}", "thr_1", ("x" if number % 2 else "船") * size)
                    await store.add_thread_item("thr_1", item, None)
                pages.append(await all_pages(store, order))
        assert pages[0] == pages[1]
        ids = [f"i{number:02}" for number in range(len(sizes))]
        assert list(itertools.chain(*pages[0])) == (ids if order == "asc" else ids[::-1])


async def all_pages(store: Store[Any], order: str) -> list[list[str]]:
    """Return the ids of the items, page by page."""
    pages: list[list[str]] = []
    after: str | None = None
    while True:
        page = await store.load_thread_items("thr_1", after, 99, order, None)
        pages.append([item.id for item in page.data])
        if not page.has_more:
            return pages
        after = page.after


class TestFairness:
    async def test_an_owner_with_many_slow_calls_holds_others_up_for_some_of_them_only(
        self, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url, owner=str) as store:
            coordination = store.coordination
            assert coordination is not None
            for owner in ("ann", "bob"):
                await store.save_thread(thread(f"thr_{owner}"), owner)

            async def read() -> None:
                await store.load_thread_items("thr_ann", None, 9, "asc", "ann")
                ended.append("read of ann")

            async def write() -> None:
                await store.save_thread(thread("thr_ann"), "ann")
                ended.append("write of ann")

            async def note_end(name: str, call: Callable[[], Awaitable[object]]) -> None:
                await call()
                ended.append(name)

            others: dict[str, Callable[[], Awaitable[object]]] = {
                "read": lambda: store.load_thread("thr_bob", "bob"),
                "write": lambda: store.save_thread(thread("thr_bob"), "bob"),
                "record": lambda: coordination.record("thr_ann"),
                "post": lambda: coordination.post(coordination.node, b"message"),
                "ping": store.ping,
            }
            ended: list[str] = []
            with session(postgresql_url) as holding, trio.fail_after(60):
                async with trio.open_nursery() as nursery:
                    with holding.transaction():
                        holding.execute("SELECT FROM threads WHERE id = 'thr_ann' FOR UPDATE")
                        holding.execute("LOCK TABLE items IN ACCESS EXCLUSIVE MODE")
                        for call in [*[read] * 100, *[write] * 100]:
                            nursery.start_soon(call)
                        await trio.testing.wait_all_tasks_blocked()
                        for name, other in others.items():
                            nursery.start_soon(note_end, name, other)
                        await trio.testing.wait_all_tasks_blocked()
        assert max(ended.index(name) for name in others) < 100


@dataclass(frozen=True)
class Plan:
    text: str
    blocks: int


def explain(
    connection: psycopg.Connection[tuple[Any, ...]], query: Any, parameters: dict[str, Any]
) -> Plan:
    """Run a query as a prepared one is run in the end: with a plan for any parameters."""
    connection.execute("SET plan_cache_mode = force_generic_plan")
    rows = connection.execute(f"EXPLAIN (ANALYZE, BUFFERS) {query}", parameters, prepare=True)
    text = "\n".join(line for (line,) in rows)
    # The first line with buffers is that of the whole plan.
    buffers = next(line for line in text.splitlines() if "Buffers:" in line)
    return Plan(text, sum(int(n) for n in re.findall(r"(?:hit|read)=(\d+)", buffers)))


async def _save(url: str, thread_id: str) -> None:
    async with opened(url) as store:
        await store.save_thread(thread(thread_id), None)


def let_leases_run_out(url: str, node: str | None = None) -> None:
    """Let the lease of a node, or of each, run out, while the others ask for their news."""
    let_time_pass(url, 1)
    with session(url) as connection:
        connection.execute(
            "UPDATE nodes SET lease = lease / 1000 WHERE id = coalesce(%s, id)", (node,)
        )
        connection.execute("UPDATE nodes SET seen_at = clock_timestamp() WHERE id <> %s", (node,))


def let_time_pass(url: str, leases: int) -> None:
    """Put what the nodes have noted so many leases earlier."""
    with session(url) as connection:
        connection.execute(
            """
            UPDATE nodes SET
                seen_at = seen_at - %(leases)s * lease,
                returned_at = returned_at - %(leases)s * lease
            """,
            {"leases": leases},
        )


def test_without_a_server_these_tests_are_skipped_or_fail_where_one_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(postgresql_server, "programs", lambda: None)
    for needed, outcome in (("", pytest.skip.Exception), ("1", pytest.fail.Exception)):
        monkeypatch.setenv(postgresql_server.NEEDED, needed)
        with pytest.raises(outcome, match="apt-get install postgresql"):
            postgresql_server.running_server().__enter__()
