"""Readiness says what would become of a message now; liveness that the process answers."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from contextlib import closing

import httpx
import pytest
import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.stores import DiskAttachmentStore, MemoryStore, SQLiteStore
from chatkit_trio.testing import SlowStore, StoreWrapper, say, scripted_server
from chatkit_trio.web import create_app
from chatkit_trio.web._health import PING_TIMEOUT

from .http import CREATE, client_of
from .sockets import served_app

WELL = {"status": "ok", "store": "ok", "live_turns": 0}
ILL = {"status": "unavailable", "store": "unavailable", "live_turns": 0}


class NotedStore(StoreWrapper):
    """Counts pings, and lets them wait for an event or fail."""

    pings = 0
    failure: Exception | None = None

    def __init__(self, store):
        super().__init__(store)
        self.may_answer = trio.Event()
        self.may_answer.set()

    async def ping(self):
        self.pings += 1
        await self.may_answer.wait()
        if self.failure is not None:
            raise self.failure


class StubbornStore(NotedStore):
    """A store whose ping doesn't heed cancellation: a thread that hangs."""

    async def ping(self):
        with trio.CancelScope(shield=True):
            await super().ping()


def app_on(store, files=None):
    server = scripted_server(store, [say("Hello")])
    server.attachment_store = files
    return create_app(server)


async def health(client):
    answer = await client.ask("GET", "/healthz")
    return answer.status, answer.json


# --- How it asks ---------------------------------------------------------------------------------


async def test_writes_that_hang_are_not_well_though_reads_answer(autojump_clock):
    async with client_of(app_on(SlowStore(MemoryStore(), 3600, reads=0))) as client:
        began = trio.current_time()
        found = await health(client)
        took = trio.current_time() - began

    assert found == (503, ILL)
    assert took == PING_TIMEOUT


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/metrics"])
async def test_probes_may_ask_by_head(path):
    server = scripted_server(MemoryStore(), [])
    app = create_app(server, metrics_path="/metrics")
    async with served_app(app) as port, httpx.AsyncClient() as client:
        asked = await client.head(f"http://127.0.0.1:{port}{path}")
        got = await client.get(f"http://127.0.0.1:{port}{path}")

    assert (asked.status_code, asked.content) == (200, b"")
    assert asked.headers["content-type"] == got.headers["content-type"]


async def test_a_ping_that_cannot_be_cancelled_holds_up_no_probe(autojump_clock):
    store = StubbornStore(MemoryStore())
    async with client_of(app_on(store)) as client:
        store.may_answer = trio.Event()
        began = trio.current_time()
        found = [await health(client) for _ in range(5)]
        took = trio.current_time() - began
        store.may_answer.set()

    assert found == [(503, ILL)] * 5
    assert took == PING_TIMEOUT  # the first waits; the others are told at once
    assert store.pings == 1


async def test_many_probes_at_once_share_one_ping(autojump_clock):
    store = NotedStore(MemoryStore())
    found = []
    async with client_of(app_on(store)) as client:
        store.may_answer = trio.Event()

        async def ask():
            found.append(await health(client))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            store.may_answer.set()

    assert found == [(200, WELL)] * 50
    assert store.pings == 1


async def test_a_store_that_recovers_is_well_again_and_each_change_is_logged_once(caplog):
    store = NotedStore(MemoryStore())
    async with client_of(app_on(store)) as client:
        store.failure = StoreError("the disk is full")
        ill = [await health(client) for _ in range(3)]
        store.failure = None
        well = [await health(client) for _ in range(3)]

    assert ill == [(503, ILL)] * 3
    assert well == [(200, WELL)] * 3
    assert [record.message for record in caplog.records] == [
        "the store isn't well: the disk is full",
        "the store is well again",
    ]


async def test_a_ping_that_fails_without_words_ends_no_server(caplog):
    class Wordless(Exception):
        def __str__(self):
            return None

    store = NotedStore(MemoryStore())
    async with client_of(app_on(store)) as client:
        store.failure = Wordless()
        ill = await health(client)
        store.failure = None
        well = await health(client)

    assert (ill, well) == ((503, ILL), (200, WELL))
    assert caplog.messages[0] == "the store isn't well: Wordless"


async def test_a_server_whose_nursery_was_cancelled_is_not_well():
    server = scripted_server(MemoryStore(), [say("Hello")])
    async with client_of(create_app(server)) as client:
        server._ChatKitServer__nursery.cancel_scope.cancel()
        found = await health(client)
        posted = await client.post(CREATE)

    assert found == (503, ILL)  # its stores are about to close, so they aren't asked
    assert posted.status == 503


async def test_liveness_needs_no_store(autojump_clock):
    store = StubbornStore(MemoryStore())
    async with client_of(app_on(store)) as client:
        store.may_answer = trio.Event()
        began = trio.current_time()
        answer = await client.ask("GET", "/livez")
        took = trio.current_time() - began
        store.may_answer.set()

    assert (answer.status, answer.json) == (200, {"status": "ok"})
    assert (took, store.pings) == (0, 0)


async def test_a_draining_server_lives():
    server = scripted_server(MemoryStore(), [say("Hello")])
    async with client_of(create_app(server)) as client:
        await server.drain(0)
        answer = await client.ask("GET", "/livez")

    assert answer.status == 200


@pytest.mark.parametrize("path", ["/ready", "ready"])
async def test_the_addresses_can_be_changed_and_left_out(path):
    server = scripted_server(MemoryStore(), [say("Hello")])
    app = create_app(server, health_path=path, liveness_path=None)
    async with client_of(app) as client:
        found = [
            (await client.ask("GET", path)).status for path in ("/ready", "/healthz", "/livez")
        ]

    assert found == [200, 404, 404]


# --- What SQLite knows ---------------------------------------------------------------------------


def removed(path):
    path.unlink()


def moved(path):
    path.rename(path.with_name("moved.db"))


def replaced_by_a_copy(path):
    copy = path.with_name("copy.db")
    shutil.copy(path, copy)
    os.replace(copy, path)


def replaced_by_a_directory(path):
    path.unlink()
    path.mkdir()


def directory_moved(path):
    path.parent.rename(path.parent.with_name("elsewhere"))


def log_removed(path):
    path.with_name(f"{path.name}-wal").unlink()


def log_replaced(path):
    log = path.with_name(f"{path.name}-wal")
    log.rename(path.with_name("old-wal"))
    log.touch()


def index_of_log_removed(path):
    path.with_name(f"{path.name}-shm").unlink()


@pytest.mark.parametrize(
    "happens",
    [
        removed,
        moved,
        replaced_by_a_copy,
        replaced_by_a_directory,
        directory_moved,
        log_removed,
        log_replaced,
        index_of_log_removed,
    ],
    ids=lambda happens: happens.__name__,
)
async def test_a_database_that_is_not_where_it_was_is_not_well(tmp_path, happens):
    path = tmp_path / "data" / "chat.db"
    path.parent.mkdir()
    async with client_of(app_on(SQLiteStore(path))) as client:
        before = await health(client)
        happens(path)
        after = await health(client)

    assert before == (200, WELL)
    assert after == (503, ILL)


async def test_a_database_that_comes_back_is_well(tmp_path):
    path, away = tmp_path / "chat.db", tmp_path / "away.db"
    async with client_of(app_on(SQLiteStore(path))) as client:
        path.rename(away)
        gone = await health(client)
        away.rename(path)
        back = await health(client)

    assert (gone, back) == ((503, ILL), (200, WELL))


async def test_a_full_disk_is_not_well(tmp_path):
    """The disk is full for pages that are new and for the log alike: here by a limit of SQLite."""
    store = SQLiteStore(tmp_path / "chat.db")
    async with client_of(app_on(store)) as client:
        writer = store._database._writer
        writer.execute("PRAGMA query_only = ON")
        ill = await health(client)
        writer.execute("PRAGMA query_only = OFF")
        well = await health(client)

    assert (ill, well) == ((503, ILL), (200, WELL))


async def test_a_database_that_another_process_keeps_locked_is_not_well(tmp_path):
    path = tmp_path / "chat.db"
    ping_ended = trio.Event()

    class Store(SQLiteStore):
        async def ping(self):
            try:
                await super().ping()
            finally:
                ping_ended.set()

    async with client_of(app_on(Store(path))) as client:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            locked = await health(client)
            other.execute("ROLLBACK")
        # It may take longer than the answer, and until it ends the store isn't well.
        await ping_ended.wait()
        free = await health(client)

    assert (locked, free) == ((503, ILL), (200, WELL))


async def test_a_probe_leaves_the_busy_timeout_as_it_was(tmp_path):
    async with SQLiteStore(tmp_path / "chat.db", busy_timeout=7) as store:
        await store.ping()
        (found,) = store._database._writer.execute("PRAGMA busy_timeout").fetchone()

    assert found == 7000


async def test_a_write_that_hangs_in_its_thread_is_not_well(tmp_path):
    store, release = SQLiteStore(tmp_path / "chat.db"), threading.Event()
    async with client_of(app_on(store)) as client, trio.open_nursery() as nursery:
        begun = trio.Event()

        def hang(db):
            trio.from_thread.run_sync(begun.set)
            release.wait()

        nursery.start_soon(store._database.write, hang)
        await begun.wait()
        ill = await health(client)
        release.set()

    assert ill == (503, ILL)


async def test_a_ping_changes_nothing_that_can_be_seen(tmp_path):
    path = tmp_path / "chat.db"
    async with SQLiteStore(path) as store:
        with closing(sqlite3.connect(path)) as other:
            before = list(other.iterdump()), other.execute("PRAGMA user_version").fetchone()
            await store.ping()
            after = list(other.iterdump()), other.execute("PRAGMA user_version").fetchone()

    assert after == before


# --- What the attachments' directory knows -------------------------------------------------------


def files_in(directory, metadata):
    return DiskAttachmentStore(
        directory, metadata=metadata, base_url="http://localhost/files", secret="s" * 16
    )


async def test_a_directory_of_attachments_counts_too(tmp_path):
    store, directory = MemoryStore(), tmp_path / "files"
    async with client_of(app_on(store, files_in(directory, store))) as client:
        well = await health(client)
        names = sorted(path.name.partition("-")[0] for path in directory.iterdir())
        directory.rename(tmp_path / "moved")
        gone = await health(client)
        directory.mkdir()
        replaced = await health(client)
        directory.rmdir()
        (tmp_path / "moved").rename(directory)
        back = await health(client)

    assert well == back == (200, {**WELL, "attachments": "ok"})
    assert gone == replaced == (503, {**ILL, "store": "ok", "attachments": "unavailable"})
    assert names == ["store", "store"]  # the probe's own file is gone
