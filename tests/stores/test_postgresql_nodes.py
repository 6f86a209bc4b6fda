"""Several nodes on one PostgreSQL database: processes that die, hang and wake up, a server that is
restarted, a network that cuts and stalls. Real processes, sockets and clocks."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from psycopg_pool import ConnectionPool

from chatkit_trio.errors import StoreError, TurnFencedError
from chatkit_trio.store import Coordination, Fence, JournalEntry, Opening, Settlement, fence
from chatkit_trio.stores._postgresql_calls import Call
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing import Scene, do, scripted_server
from chatkit_trio.testing import say as saying
from chatkit_trio.testing._store_samples import note, thread
from tests.engine.scenes import ask
from tests.postgresql_proxy import Proxy
from tests.postgresql_server import Server

HERE = Path(__file__).parent
LEASE = 1.5  # seconds


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def coordination(store: PostgreSQLStore[Any]) -> Coordination[Any]:
    assert store.coordination is not None
    return store.coordination


def opening(turn_id: str, thread_id: str = "thr_1") -> Opening:
    return Opening(thread_id, turn_id, new_items=(note(f"of_{turn_id}", thread_id),))


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[PostgreSQLStore[Any]]:
    async with PostgreSQLStore[Any](url, **options) as store:
        if options.get("min_connections") != 0:
            with suppress(StoreError):
                await store.save_thread(thread("thr_1"), None)
        yield store


@contextmanager
def fence_of(turn_id: str) -> Iterator[None]:
    token = fence.set(Fence(turn_id))
    try:
        yield
    finally:
        fence.reset(token)


async def item_ids(store: PostgreSQLStore[Any], thread_id: str = "thr_1") -> list[str]:
    page = await store.load_thread_items(thread_id, None, 10_000, "asc", None)
    return [item.id for item in page.data]


async def in_time(look: Callable[[], Awaitable[Any]], seconds: float) -> float:
    """Look until there is something; return how many seconds that took."""
    begun = trio.current_time()
    with trio.fail_after(seconds):
        while not await look():  # noqa: ASYNC110  (it happens in another process)
            await trio.sleep(0.05)
    return trio.current_time() - begun


@pytest.fixture
def child(postgresql_url: str) -> Iterator[subprocess.Popen[str]]:
    """Another process with a turn `turn_1` that is live on `thr_1` and is checkpointed.

    It renews its lease, and writes an item in the name of the turn for each line that it is sent.
    """
    with started(postgresql_url, LEASE) as process:
        yield process


@contextmanager
def started(url: str, lease: float) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, HERE / "postgresql_node_child.py", url, str(lease)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        yield process
        process.kill()


def say(child: subprocess.Popen[str], item_id: str) -> str:
    """Let the child write an item; return what came of it."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(item_id + "\n")
    child.stdin.flush()
    return child.stdout.readline().strip()


PARTIAL = JournalEntry("turn_1", "thr_1", (note("i5", "thr_1", "partial"),))
CRASHED = Settlement("thr_1", "turn_1", (note("i5", "thr_1", "partial"),))


class TestOtherProcesses:
    async def test_a_turn_of_a_living_process_is_not_abandoned(
        self, child: subprocess.Popen[str], postgresql_url: str
    ) -> None:
        async with PostgreSQLStore[Any](postgresql_url) as store:
            for _ in range(10):
                assert await store.journal.abandoned() == []
                await trio.sleep(LEASE / 5)
            assert say(child, "i6") == "written"

    async def test_a_killed_processs_turn_is_settled_by_another_within_its_lease(
        self, child: subprocess.Popen[str], postgresql_url: str
    ) -> None:
        async with PostgreSQLStore[Any](postgresql_url) as store:
            child.kill()
            await in_time(lambda: store.journal.abandoned("thr_1"), LEASE + 2)
            assert await store.journal.abandoned() == [PARTIAL]
            await store.journal.settle_abandoned(CRASHED)
            assert await item_ids(store) == ["of_turn_1", "i5"]
            assert await coordination(store).begin(opening("turn_2"), None) is None

    async def test_a_killed_process_is_dead_though_a_child_lives_that_it_has_forked(
        self, postgresql_url: str
    ) -> None:
        """Its lock is free then, and its sessions end, long before the lease does."""
        with started(postgresql_url, 60.0) as child:
            async with PostgreSQLStore[Any](postgresql_url) as store:
                forked = int(say(child, "fork"))
                try:
                    assert say(child, "i6") == "written"
                    child.kill()
                    await in_time(lambda: store.journal.abandoned("thr_1"), 15)
                finally:
                    os.kill(forked, signal.SIGKILL)

    async def test_a_process_that_hangs_for_longer_than_its_lease_cant_write_when_it_wakes(
        self, child: subprocess.Popen[str], postgresql_url: str
    ) -> None:
        async with PostgreSQLStore[Any](postgresql_url) as store:
            assert say(child, "i6") == "written"
            child.send_signal(signal.SIGSTOP)
            await in_time(lambda: store.journal.abandoned("thr_1"), LEASE + 2)
            await store.journal.settle_abandoned(CRASHED)
            child.send_signal(signal.SIGCONT)
            assert await trio.to_thread.run_sync(say, child, "i7") == "TurnFencedError"
            assert await item_ids(store) == ["of_turn_1", "i6", "i5"]

    async def test_a_process_that_hangs_in_a_transaction_doesnt_keep_the_thread_locked(
        self, child: subprocess.Popen[str], postgresql_url: str
    ) -> None:
        async with PostgreSQLStore[Any](postgresql_url) as store:
            assert child.stdin is not None
            child.stdin.write("hang\n")  # half way through a beginning on the same thread
            child.stdin.flush()
            assert child.stdout is not None
            assert await trio.to_thread.run_sync(child.stdout.readline) == "hangs\n"
            child.send_signal(signal.SIGSTOP)
            await in_time(lambda: store.journal.abandoned("thr_1"), LEASE + 2)
            await store.journal.settle_abandoned(CRASHED)
            assert await item_ids(store) == ["of_turn_1", "i5"]

    async def test_what_dead_nodes_leave_is_removed(
        self, child: subprocess.Popen[str], postgresql_url: str
    ) -> None:
        async with PostgreSQLStore[Any](postgresql_url, lease_timeout=0.5) as store:
            with psycopg.connect(postgresql_url, autocommit=True) as look:
                (node,) = look.execute(
                    "SELECT node FROM chatkit_trio.turns WHERE id = 'turn_1'"
                ).fetchone() or ("",)
                await coordination(store).post(node, b"for the dead")
                look.execute(
                    "INSERT INTO chatkit_trio.places (turn_id, thread_id, owner, node)"
                    " VALUES ('turn_9', 'thr_1', '', %s)",
                    (node,),
                )
                child.kill()

                async def is_clean() -> bool:
                    with suppress(StoreError):  # it has a quarter of a second, for so short a lease
                        await coordination(store).news()
                    counts = look.execute(
                        """
                        SELECT (SELECT count(*) FROM chatkit_trio.nodes WHERE id = %(node)s),
                            (SELECT count(*) FROM chatkit_trio.messages WHERE node = %(node)s),
                            (SELECT count(*) FROM chatkit_trio.places WHERE node = %(node)s)
                        """,
                        {"node": node},
                    ).fetchone()
                    return counts == (0, 0, 0)

                await in_time(is_clean, LEASE + 3)
            assert await store.journal.abandoned() == [PARTIAL]


class TestLeaving:
    async def test_a_node_leaves_also_if_closing_takes_longer_than_renewing_its_lease_may(
        self, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        close = ConnectionPool.close

        def close_slowly(pool: ConnectionPool[Any]) -> None:
            close(pool)
            time.sleep(0.4)  # as when its threads are just connecting, or get no time to run

        monkeypatch.setattr(ConnectionPool, "close", close_slowly)
        async with opened(postgresql_url, lease_timeout=0.5) as store:
            name = (coordination(store).node,)
        with psycopg.connect(postgresql_url) as look:
            rows = look.execute("SELECT FROM chatkit_trio.nodes WHERE id = %s", name).fetchall()
        assert rows == []

    async def test_a_node_that_has_no_time_to_leave_any_more_is_closed_and_says_so(
        self,
        postgresql_url: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        is_over, cut, close = threading.Event(), Call.cut, ConnectionPool.close

        def cut_and_tell(call: Call) -> None:
            cut(call)
            is_over.set()

        def close_too_slowly(pool: ConnectionPool[Any]) -> None:
            close(pool)
            assert is_over.wait(30)

        monkeypatch.setattr(Call, "cut", cut_and_tell)
        monkeypatch.setattr(ConnectionPool, "close", close_too_slowly)
        monkeypatch.setattr("chatkit_trio.stores._postgresql_database._CLOSING_TIMEOUT", 0.2)
        async with opened(postgresql_url, lease_timeout=0.2) as store:
            pass
        assert "couldn't be told that this node leaves (there was no time)" in caplog.text
        with pytest.raises(RuntimeError, match="isn't open"):
            await store.ping()


class TestFence:
    async def test_a_take_over_waits_for_a_write_that_is_under_way(
        self, postgresql_url: str
    ) -> None:
        async with (
            opened(postgresql_url) as node,
            opened(postgresql_url) as other,
        ):
            await coordination(node).begin(opening("turn_1"), None)
            await forget(postgresql_url, coordination(node).node)
            with psycopg.connect(postgresql_url) as writer:  # a fenced write, before its commit
                writer.execute(
                    "SELECT FROM chatkit_trio.turns WHERE id = 'turn_1' AND NOT abandoned FOR SHARE"
                )
                async with trio.open_nursery() as nursery:
                    taken = trio.Event()

                    async def take_over() -> None:
                        assert await other.journal.abandoned() != []
                        taken.set()

                    nursery.start_soon(take_over)
                    await trio.sleep(0.2)
                    assert not taken.is_set()
                    await trio.to_thread.run_sync(writer.commit)

    async def test_each_write_of_a_turn_that_was_taken_over_is_refused_and_changes_nothing(
        self, postgresql_url: str
    ) -> None:
        async with (
            opened(postgresql_url) as node,
            opened(postgresql_url) as other,
        ):
            await coordination(node).begin(opening("turn_1"), None)
            await forget(postgresql_url, coordination(node).node)
            assert await other.journal.abandoned() != []
            before = dump(postgresql_url)
            with fence_of("turn_1"):
                for write in (
                    lambda: node.save_thread(thread("thr_1", "late"), None),
                    lambda: node.save_thread(thread("thr_2", "late"), None),
                    lambda: node.add_thread_item("thr_1", note("of_turn_1", "thr_1"), None),
                    lambda: node.delete_items_after("thr_1", "none", None),
                    lambda: node.delete_thread("thr_1", None),
                    # (Its whole settlement is taken, as long as there is no other.)
                    lambda: node.settle(Settlement("thr_1", None), None),
                ):
                    with pytest.raises(TurnFencedError):
                        await write()
            assert dump(postgresql_url) == before

    async def test_refused_writes_leave_connections_that_can_be_used(
        self, postgresql_url: str
    ) -> None:
        """psycopg prepares a statement at its sixth use: also if that is behind one that failed."""
        async with opened(postgresql_url, max_connections=2) as node:
            for n in range(20):
                with fence_of("turn_none"), pytest.raises(TurnFencedError):
                    await node.add_thread_item("thr_1", note(f"i{n}", "thr_1"), None)
                await node.add_thread_item("thr_1", note(f"j{n}", "thr_1"), None)
                await node.delete_items_after("thr_1", f"j{n}", None)
            assert await item_ids(node) == [f"j{n}" for n in range(20)]

    async def test_news_tell_a_node_that_its_turn_was_taken_over(self, postgresql_url: str) -> None:
        async with (
            opened(postgresql_url) as node,
            opened(postgresql_url) as other,
        ):
            await coordination(node).begin(opening("turn_1"), None)
            assert (await coordination(node).news()).live == {"turn_1"}
            await forget(postgresql_url, coordination(node).node)
            assert await other.journal.abandoned() != []
            assert (await coordination(node).news()).live == frozenset()


class TestServer:
    @pytest.mark.parametrize("at_once", [False, True], ids=["fast", "immediate"])
    async def test_a_restart_under_load_loses_nothing_and_ends_no_turn(
        self, at_once: bool, postgresql_url: str, postgresql_server: Server
    ) -> None:
        stored: list[str] = []
        async with (
            opened(postgresql_url) as node,
            opened(postgresql_url) as other,
        ):
            await coordination(node).begin(opening("turn_1"), None)
            over = trio.Event()

            async def write(writer: int) -> None:
                n = 0
                while not over.is_set():
                    item_id = f"i{writer}_{n}"
                    with suppress(StoreError):
                        with fence_of("turn_1"):
                            await node.save_item("thr_1", note(item_id, "thr_1"), None)
                        stored.append(item_id)
                        n += 1
                    await trio.sleep(0.01)

            async def look() -> None:
                while not over.is_set():
                    for store in (node, other):
                        with suppress(StoreError):
                            await coordination(store).news()
                    with suppress(StoreError):
                        assert await other.journal.abandoned() == []
                    await trio.sleep(0.05)

            async with trio.open_nursery() as nursery:
                for writer in range(4):
                    nursery.start_soon(write, writer)
                nursery.start_soon(look)
                await trio.sleep(0.3)
                await trio.to_thread.run_sync(lambda: postgresql_server.restart(at_once=at_once))
                count = len(stored)
                await in_time(lambda: _true_if(len(stored) > count + 50), 10)
                over.set()
            assert sorted(await item_ids(other)) == sorted(["of_turn_1", *stored])
            assert (await coordination(node).news()).live == {"turn_1"}
            await node.settle(Settlement("thr_1", "turn_1"), None)

    async def test_a_server_that_is_away_is_a_store_error_and_back_it_works_at_once(
        self, postgresql_url: str, postgresql_server: Server
    ) -> None:
        async with opened(postgresql_url, connect_timeout=2) as store:
            postgresql_server.stop()
            try:
                for call in (
                    lambda: store.load_thread("thr_1", None),
                    lambda: store.save_thread(thread("thr_1"), None),
                    lambda: coordination(store).news(),
                    lambda: store.ping(),
                ):
                    with pytest.raises(StoreError, match="can't use postgresql:"):
                        await call()
            finally:
                postgresql_server.start()
            await store.ping()
            await coordination(store).news()
            assert (await store.load_thread("thr_1", None)).id == "thr_1"

    @pytest.mark.parametrize(("silence", "lease"), [("3 s", 60), ("1 min", 4)])
    async def test_a_standby_that_becomes_the_server_ends_no_turn(
        self, silence: str, lease: float, postgresql_url: str, postgresql_server: Server
    ) -> None:
        """It runs for long, and has no locks: neither those of the nodes nor of their judges."""
        with (
            postgresql_server.standby() as standby,
            Proxy(postgresql_server.socket) as proxy,
        ):
            url = proxy.url(postgresql_url)
            async with (
                opened(url, lease_timeout=lease) as node,
                opened(url, lease_timeout=lease) as judge,
            ):
                await coordination(node).begin(opening("turn_1"), None)
                let_time_pass(silence, standby.url(), postgresql_url, node, judge)
                await trio.to_thread.run_sync(standby.replace, postgresql_server)
                try:
                    proxy.lead_to(standby.socket)
                    await in_time(lambda: _works(lambda: judge.load_thread("thr_1", None)), 10)
                    assert await judge.journal.abandoned() == []
                    async with opened(url) as new:
                        assert await new.journal.abandoned() == []
                        if lease == 60:  # else the turn is one of a node that was silent for long
                            async with opened(url) as newest:
                                assert await newest.journal.abandoned() == []
                    await in_time(lambda: _works(coordination(judge).news), 10)
                    assert await judge.journal.abandoned() == []
                    await in_time(lambda: _works(coordination(node).news), 10)
                    await node.settle(Settlement("thr_1", "turn_1"), None)
                finally:
                    postgresql_server.start()

    async def test_while_the_server_is_away_a_call_waits_no_longer_if_many_wait(
        self, postgresql_url: str, postgresql_server: Server
    ) -> None:
        """One after the other, each for its own connection, they would take minutes."""
        async with opened(postgresql_url, connect_timeout=2) as store:
            postgresql_server.stop()
            try:
                with trio.fail_after(30):
                    async with trio.open_nursery() as nursery:
                        for _ in range(300):
                            nursery.start_soon(_fails, lambda: store.load_thread("thr_1", None))
                            nursery.start_soon(_fails, store.ping)
            finally:
                postgresql_server.start()
            await store.ping()

    async def test_after_a_restart_a_node_that_doesnt_come_back_is_dead_after_its_lease(
        self, child: subprocess.Popen[str], postgresql_url: str, postgresql_server: Server
    ) -> None:
        async with opened(postgresql_url) as store:
            child.kill()
            await trio.to_thread.run_sync(postgresql_server.restart)
            with suppress(StoreError):
                await coordination(store).news()
            await in_time(lambda: store.journal.abandoned("thr_1"), LEASE + 2)


class TestNetwork:
    async def test_a_cut_is_a_store_error_and_the_next_call_connects_again(
        self, postgresql_url: str, postgresql_server: Server
    ) -> None:
        with Proxy(postgresql_server.socket) as proxy:
            async with opened(proxy.url(postgresql_url)) as store:
                await coordination(store).begin(opening("turn_1"), None)
                for _ in range(3):
                    proxy.cut()
                    await trio.sleep(0.05)
                    assert (await store.load_thread("thr_1", None)).id == "thr_1"
                    with suppress(StoreError):
                        await coordination(store).news()
                    assert (await coordination(store).news()).live == {"turn_1"}

    async def test_a_node_whose_connections_are_cut_stays_alive(
        self, postgresql_url: str, postgresql_server: Server
    ) -> None:
        with Proxy(postgresql_server.socket) as proxy:
            async with (
                opened(proxy.url(postgresql_url)) as node,
                opened(postgresql_url) as other,
            ):
                await coordination(node).begin(opening("turn_1"), None)
                await coordination(node).news()
                proxy.cut()
                await trio.sleep(0.1)
                assert await other.journal.abandoned() == []
                with suppress(StoreError):
                    await coordination(node).news()
                await coordination(node).news()
                await trio.sleep(2.5)  # longer than the time that it has to come back
                assert await other.journal.abandoned() == []

    async def test_a_write_without_an_answer_is_given_up_in_time(
        self, postgresql_url: str, postgresql_server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Proxy(postgresql_server.socket) as proxy:
            async with opened(proxy.url(postgresql_url)) as store:
                await store.ping()
                with monkeypatch.context() as patch, proxy.stalled():
                    writing = store._database._writing
                    # All but one of the 20 s that a write may take, and what comes before it too.
                    patch.setattr(writing, "_timeout", writing._timeout - 19)
                    with trio.fail_after(5), pytest.raises(StoreError, match="whether a write"):
                        await store.save_thread(thread("thr_1", "late"), None)
                    proxy.cut()
                await in_time(lambda: _works(store.ping), 30)

    async def test_a_message_whose_answer_was_lost_on_the_way_comes_again(
        self, postgresql_url: str, postgresql_server: Server
    ) -> None:
        with Proxy(postgresql_server.socket) as proxy:
            async with (
                opened(proxy.url(postgresql_url), lease_timeout=4) as node,
                opened(postgresql_url) as other,
            ):
                await coordination(other).post(coordination(node).node, b"once")
                with proxy.stalled_answers(), pytest.raises(StoreError):
                    await coordination(node).news()
                messages: list[bytes] = []
                for _ in range(3):
                    messages += (await coordination(node).news()).messages
                assert messages == [b"once"]

    async def test_a_message_to_a_node_that_is_just_leaving_is_dropped(
        self, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url) as node, opened(postgresql_url) as leaving:
            name = coordination(leaving).node
            with psycopg.connect(postgresql_url) as its_last:
                its_last.execute("DELETE FROM chatkit_trio.nodes WHERE id = %s", (name,))
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(coordination(node).post, name, b"lost")
                    await _until_one_waits(postgresql_url)
                    its_last.commit()
                left = its_last.execute("SELECT count(*) FROM chatkit_trio.messages").fetchone()
            assert left == (0,)

    async def test_a_message_is_heard_also_if_cleaning_up_behind_it_fails(
        self, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url) as node, opened(postgresql_url) as other:
            async with opened(postgresql_url) as dead:
                await forget(postgresql_url, coordination(dead).node)
                await coordination(other).post(coordination(node).node, b"once")
                its_own = node._database.node
                its_own._cleaned_at = -math.inf  # the next news clean up
                with psycopg.connect(postgresql_url) as admin:
                    admin.execute(
                        "SELECT FROM chatkit_trio.nodes WHERE id = %s FOR UPDATE",
                        (coordination(dead).node,),
                    )
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(_fails, coordination(node).news)
                        await _cut_who_waits(postgresql_url)
            messages: list[bytes] = []
            for _ in range(3):
                messages += (await coordination(node).news()).messages
            assert messages == [b"once"]

    @pytest.mark.parametrize("is_only_journaled", [False, True], ids=["begins", "is journaled"])
    @pytest.mark.parametrize("is_buried", [False, True], ids=["silent", "buried"])
    async def test_a_turn_that_begins_while_its_node_has_lost_its_lock_stays_live(
        self, is_buried: bool, is_only_journaled: bool, postgresql_url: str
    ) -> None:
        """A node at rest asks for its news now and then only, so it doesn't know that yet."""
        async with opened(postgresql_url) as resting, opened(postgresql_url) as other:
            mine = coordination(resting).node
            end_lock_sessions(postgresql_url, resting)
            assert mine not in await coordination(other).nodes()
            if is_buried:
                with psycopg.connect(postgresql_url, autocommit=True) as admin:
                    admin.execute("DELETE FROM chatkit_trio.nodes WHERE id = %s", (mine,))
            if is_only_journaled:
                await resting.journal.begin("turn_1", "thr_1", None)
            else:
                assert await coordination(resting).begin(opening("turn_1"), None) is None
            assert await other.journal.abandoned("thr_1") == []
            assert mine in await coordination(other).nodes()
            await coordination(resting).news()
            assert (await coordination(resting).news()).live == {"turn_1"}

    @pytest.mark.parametrize("first", ["its news", "a turn and its news"])
    async def test_a_node_that_was_buried_while_all_slept_takes_nobody_for_dead_as_it_wakes(
        self, first: str, postgresql_url: str
    ) -> None:
        async with (
            opened(postgresql_url, lease_timeout=4) as node,
            opened(postgresql_url, lease_timeout=4) as judge,
        ):
            await coordination(node).begin(opening("turn_1"), None)
            with psycopg.connect(postgresql_url, autocommit=True) as admin:
                name = coordination(judge).node
                admin.execute("DELETE FROM chatkit_trio.nodes WHERE id = %s", (name,))
            let_time_pass("1 min", postgresql_url, postgresql_url, node)
            if "turn" in first:
                await judge.journal.begin("turn_2", "thr_1", None)
            await coordination(judge).news()
            assert await judge.journal.abandoned() == []
            assert coordination(node).node in await coordination(judge).nodes()

    @pytest.mark.parametrize("has_returned", [False, True], ids=["", "its judge has returned"])
    async def test_a_node_that_died_before_the_clock_went_back_is_dead_when_its_lock_is_free(
        self, has_returned: bool, postgresql_url: str
    ) -> None:
        """A standby whose clock is behind may also have been made the server since."""
        async with (
            opened(postgresql_url, lease_timeout=4) as dead,
            opened(postgresql_url) as judge,
        ):
            await coordination(dead).begin(opening("turn_1"), None)
            end_lock_sessions(postgresql_url, dead)
            let_time_pass("-10 min", postgresql_url, postgresql_url, dead)
            if has_returned:
                with psycopg.connect(postgresql_url, autocommit=True) as admin:
                    admin.execute(
                        "UPDATE chatkit_trio.nodes SET returned_at = seen_at + interval '5 min'"
                        " WHERE id = %s",
                        (coordination(judge).node,),
                    )
            assert len(await judge.journal.abandoned()) == 1

    async def test_a_node_that_was_seen_before_the_clock_went_back_lives_while_it_has_its_lock(
        self, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url) as node, opened(postgresql_url) as judge:
            await coordination(node).begin(opening("turn_1"), None)
            let_time_pass("-10 min", postgresql_url, postgresql_url, node)
            assert await judge.journal.abandoned() == []
            await coordination(node).news()
            end_lock_sessions(postgresql_url, node)
            assert len(await judge.journal.abandoned()) == 1

    async def test_a_node_that_has_lost_its_lock_takes_nobody_for_dead(
        self, postgresql_url: str
    ) -> None:
        """Its pool may be back before its own connection is: all may have lost their locks."""
        async with opened(postgresql_url) as node, opened(postgresql_url) as judge:
            await coordination(node).begin(opening("turn_1"), None)
            await coordination(node).begin(opening("turn_2"), None)
            end_lock_sessions(postgresql_url, judge, node)
            for _ in range(2):
                assert await judge.journal.abandoned() == []
                assert coordination(node).node in await coordination(judge).nodes()
            with suppress(StoreError):
                await coordination(judge).news()
            await coordination(judge).news()
            assert await judge.journal.abandoned() == []  # now each has a lease to come back

    async def test_a_node_whose_news_have_failed_takes_nobody_for_dead_until_they_are_back(
        self, postgresql_url: str, postgresql_server: Server
    ) -> None:
        """Its lock may still be held: the server doesn't know yet that the session is gone."""
        with Proxy(postgresql_server.socket) as proxy:
            async with (
                opened(postgresql_url) as node,
                opened(proxy.url(postgresql_url), lease_timeout=4) as judge,
            ):
                await coordination(node).begin(opening("turn_1"), None)
                with proxy.stalled_answers(), pytest.raises(StoreError):
                    await coordination(judge).news()
                await forget(postgresql_url, coordination(node).node)
                with hold_lock_of(postgresql_url, judge):
                    assert await judge.journal.abandoned() == []
                await coordination(judge).news()
                assert len(await judge.journal.abandoned()) == 1


class TestCancellation:
    async def test_a_cancelled_read_returns_soon_and_leaves_no_query_behind(
        self, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url) as store:
            with psycopg.connect(postgresql_url) as other:
                other.execute("LOCK TABLE chatkit_trio.items IN ACCESS EXCLUSIVE MODE")
                for _ in range(8):
                    with trio.move_on_after(0.1) as scope:
                        await store.load_thread_items("thr_1", None, 10, "asc", None)
                    assert scope.cancelled_caught
                active = other.execute(
                    "SELECT count(*) FROM pg_stat_activity WHERE state = 'active'"
                    " AND application_name = 'chatkit-trio' AND datname = current_database()"
                    " AND query NOT LIKE 'SELECT set_config%'"  # the first of a new session
                ).fetchone()
                assert active == (0,)
            assert await item_ids(store) == []

    async def test_a_cancelled_write_runs_to_its_end(self, postgresql_url: str) -> None:
        async with opened(postgresql_url) as store:
            with psycopg.connect(postgresql_url) as other:
                other.execute("SELECT FROM chatkit_trio.threads FOR UPDATE")
                async with trio.open_nursery() as nursery:
                    with trio.CancelScope() as scope:
                        nursery.start_soon(_later, 0.2, scope.cancel)
                        nursery.start_soon(_later, 0.4, other.commit)
                        await store.save_thread(thread("thr_1", "after"), None)
            assert not scope.cancelled_caught
            assert (await store.load_thread("thr_1", None)).title == "after"

    async def test_a_write_that_is_held_up_ends_with_an_error_that_says_why(
        self, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url, lock_timeout=0.2) as store:
            with psycopg.connect(postgresql_url) as other:
                other.execute("SELECT FROM chatkit_trio.threads FOR UPDATE")
                with pytest.raises(StoreError, match="longer than lock_timeout"):
                    await store.save_thread(thread("thr_1", "after"), None)
            await store.save_thread(thread("thr_1", "after"), None)


class TestHints:
    @pytest.mark.parametrize("change", ["settle", "withdraw", "delete", "leave"])
    async def test_those_who_wait_on_another_node_are_told_of_a_change(
        self, change: str, postgresql_url: str
    ) -> None:
        async with opened(postgresql_url) as other, trio.open_nursery() as nursery:
            node = PostgreSQLStore[Any](postgresql_url)
            await node.__aenter__()
            await coordination(node).begin(opening("turn_1"), None)
            await coordination(node).begin(opening("turn_2"), None)
            nursery.start_soon(coordination(other).listen)
            with coordination(other).hint("thr_1") as hint:
                await hint.wait(10)  # the first tells that it listens
                match change:
                    case "settle":
                        await node.settle(Settlement("thr_1", "turn_1"), None)
                    case "withdraw":
                        await coordination(node).withdraw("turn_2")
                    case "delete":
                        await node.delete_thread("thr_1", None)
                    case "leave":
                        await node.__aexit__(None, None, None)
                begun = trio.current_time()
                await hint.wait(10)
                assert trio.current_time() - begun < 5
            if change != "leave":
                await node.__aexit__(None, None, None)
            nursery.cancel_scope.cancel()

    async def test_a_message_wakes_the_node_that_it_is_for_also_after_a_cut(
        self, postgresql_url: str, postgresql_server: Server
    ) -> None:
        with Proxy(postgresql_server.socket) as proxy:
            async with (
                opened(proxy.url(postgresql_url)) as node,
                opened(postgresql_url) as other,
                trio.open_nursery() as nursery,
            ):
                name = coordination(node).node
                nursery.start_soon(coordination(node).listen)
                with coordination(node).hint(name) as hint:
                    for message in (b"1", b"2"):
                        await hint.wait(10)  # it listens, again
                        await coordination(other).post(name, message)
                        begun = trio.current_time()
                        await hint.wait(10)
                        assert trio.current_time() - begun < 5
                        proxy.cut()
                nursery.cancel_scope.cancel()

    async def test_everything_works_without_hints(self, postgresql_url: str) -> None:
        async with (
            opened(postgresql_url) as node,
            opened(postgresql_url) as other,
        ):
            await coordination(node).begin(opening("turn_1"), None)
            assert await coordination(other).begin(opening("turn_2"), None) is not None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_settle_later, node)

                async def is_in() -> bool:
                    return await coordination(other).begin(opening("turn_2"), None) is None

                await in_time(is_in, 5)
            assert await item_ids(node) == ["of_turn_1", "of_turn_2"]


class TestRoundTrips:
    async def test_an_operation_costs_so_many_round_trips(
        self, postgresql_url: str, postgresql_server: Server
    ) -> None:
        with Proxy(postgresql_server.socket) as proxy:
            sizes = {"min_connections": 2, "max_connections": 2}
            async with opened(proxy.url(postgresql_url), **sizes) as store:
                # Else another connection may come, with nothing prepared, when it is counted.
                assert store._database._pool is not None
                await trio.to_thread.run_sync(store._database._pool.wait)
                node, numbers = coordination(store), iter(range(1000))

                async def begin() -> None:
                    turn_id = f"turn_{next(numbers)}"
                    await store.save_thread(thread(f"thr_{turn_id}"), None)
                    trips = proxy.trips
                    await node.begin(opening(turn_id, f"thr_{turn_id}"), None)
                    counts["begin"] = proxy.trips - trips
                    with fence_of(turn_id):
                        trips = proxy.trips
                        item = note("i1", f"thr_{turn_id}")
                        await store.add_thread_item(f"thr_{turn_id}", item, None)
                        counts["add an item in a turn"] = proxy.trips - trips
                    trips = proxy.trips
                    entry = JournalEntry(turn_id, f"thr_{turn_id}", (item,))
                    await store.journal.checkpoint([entry])
                    counts["checkpoint"] = proxy.trips - trips
                    trips = proxy.trips
                    await store.settle(Settlement(f"thr_{turn_id}", turn_id, (item,)), None)
                    counts["settle"] = proxy.trips - trips

                async def others() -> None:
                    item = note(f"i{next(numbers)}", "thr_1")
                    for name, call in {
                        "save a thread": lambda: store.save_thread(thread("thr_1"), None),
                        "add an item": lambda: store.add_thread_item("thr_1", item, None),
                        "load a page": lambda: store.load_thread_items(
                            "thr_1", None, 20, "desc", None
                        ),
                        "look for abandoned turns": lambda: store.journal.abandoned("thr_1"),
                        "record": lambda: node.record("thr_1"),
                        "news": node.news,
                        "post": lambda: node.post(node.node, b"message"),
                    }.items():
                        trips = proxy.trips
                        await call()
                        counts[name] = proxy.trips - trips

                counts: dict[str, int] = {}
                for _ in range(14):  # by then all statements are prepared, on both connections
                    await begin()
                    await others()
        assert counts == {
            "begin": 2,
            "add an item in a turn": 1,
            "checkpoint": 1,
            "settle": 2,
            "save a thread": 1,
            "add an item": 1,
            "load a page": 1,
            "look for abandoned turns": 1,
            "record": 1,
            "news": 1,
            "post": 1,
        }


async def test_an_answer_that_deletes_its_own_thread_ends_without_an_error(
    postgresql_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = PostgreSQLStore[Any](postgresql_url)

    async def delete(scene: Scene) -> None:
        await store.delete_thread(scene.thread.id, None)

    async with scripted_server(store, [saying("Hel", finish=False), do(delete)]) as server:
        turn = await ask(server, "hi")
        await turn.server_turn.settled.wait()
        assert turn.is_complete
        assert (await store.load_threads(10, None, "asc", None)).data == []
    assert [line for line in caplog.records if line.levelno >= logging.ERROR] == []


LONG = secrets.token_hex(3_000)  # as random as that, it doesn't compress


@pytest.mark.parametrize(
    ("item_id", "kept_as"),
    [("i\0", "i\ufffd"), (LONG, f"{LONG[:200]}… {digest_of(LONG)}")],
    ids=["with NUL", "long"],
)
async def test_a_dead_turn_with_an_id_that_cant_be_stored_lets_go_of_its_thread(
    item_id: str, kept_as: str, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatkit_trio._engine.journal.PATIENCE", 1.0)
    items = note(item_id, "thr_1", "never an item"), note("i1", "thr_1", "kept")
    async with opened(postgresql_url) as dead:
        await dead.journal.begin("turn_1", "thr_1", None)
        await dead.journal.checkpoint([JournalEntry("turn_1", "thr_1", items)])
    store = PostgreSQLStore[Any](postgresql_url)
    async with scripted_server(store, [saying("Fine")]) as server:
        with trio.fail_after(20):
            assert (await ask(server, "more", "thr_1")).text == "Fine"
        assert (await item_ids(store))[0] == "i1"
        assert await store.journal.abandoned() == []
    with psycopg.connect(postgresql_url) as connection:
        aside = connection.execute("SELECT item_id, text FROM chatkit_trio.unstorable").fetchall()
    assert [name for name, _ in aside] == [kept_as]
    assert "never an item" in aside[0][1]


async def forget(url: str, node: str) -> None:
    """Let a node's lease run out."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "UPDATE chatkit_trio.nodes SET lease = '1 ms', seen_at = seen_at - lease WHERE id = %s",
            (node,),
        )
    await trio.sleep(0.01)


@contextmanager
def hold_lock_of(url: str, store: PostgreSQLStore[Any]) -> Iterator[None]:
    """Hold a node's lock for it, as a session does that the server takes for alive."""
    with psycopg.connect(url, autocommit=True) as connection:
        lock = (store._database.node._lock,)
        connection.execute("SELECT pg_advisory_lock(%s)", lock)
        yield
        connection.execute("SELECT pg_advisory_unlock(%s)", lock)


def end_lock_sessions(url: str, *stores: PostgreSQLStore[Any]) -> None:
    """End the sessions that hold the locks of nodes, a while after these were seen."""
    let_time_pass("3 s", url, url, *stores)
    with psycopg.connect(url, autocommit=True) as admin:
        for store in stores:
            session = store._database.node._connection.info.backend_pid
            admin.execute("SELECT pg_terminate_backend(%s, 10000)", (session,))


def let_time_pass(silence: str, server: str, url: str, *stores: PostgreSQLStore[Any]) -> None:
    """Have these nodes be silent for a while, behind the start of a server.

    One that was just started gives all nodes time to come back.
    """
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_sleep(extract(epoch FROM"
            " pg_postmaster_start_time() + interval '4 s' - clock_timestamp()))"
        )
    with psycopg.connect(url, autocommit=True) as connection:
        for store in stores:
            connection.execute(
                "UPDATE chatkit_trio.nodes"
                " SET seen_at = clock_timestamp() - %s::interval WHERE id = %s",
                (silence, store._database.node.id),
            )


def dump(url: str) -> list[Any]:
    """Return all that is stored of threads and turns."""
    with psycopg.connect(url, autocommit=True) as connection:
        queries = ("SELECT * FROM threads", "SELECT * FROM items", "SELECT * FROM turns")
        connection.execute("SET search_path TO chatkit_trio")
        return [connection.execute(query).fetchall() for query in queries]


async def _true_if(condition: bool) -> bool:
    return condition


async def _fails(call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(StoreError):
        await call()


async def _cut_who_waits(url: str) -> None:
    """End the session of a node that waits for a lock, as soon as one does."""
    end = """
        SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    with psycopg.connect(url, autocommit=True) as admin, trio.fail_after(30):
        while not admin.execute(end).fetchall():  # noqa: ASYNC110  (the server doesn't tell)
            await trio.sleep(0.01)


async def _until_one_waits(url: str) -> None:
    """Return as soon as some session waits for a lock."""
    look = """
        SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    with psycopg.connect(url, autocommit=True) as admin, trio.fail_after(30):
        while not admin.execute(look).fetchall():  # noqa: ASYNC110  (the server doesn't tell)
            await trio.sleep(0.01)


async def _works(call: Callable[[], Awaitable[object]]) -> bool:
    try:
        await call()
    except StoreError:
        return False
    return True


async def _later(seconds: float, call: Callable[[], object]) -> None:
    await trio.sleep(seconds)
    call()


async def _settle_later(store: PostgreSQLStore[Any]) -> None:
    await trio.sleep(0.3)
    await store.settle(Settlement("thr_1", "turn_1"), None)
