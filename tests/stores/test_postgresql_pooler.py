"""The PostgreSQL store behind a real PgBouncer that gives each client a session of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import trio

from chatkit_trio.errors import StoreError
from chatkit_trio.store import Opening, Settlement
from chatkit_trio.stores._postgresql_statements import Statement
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing._store_samples import note, thread
from tests import pgbouncer
from tests.pgbouncer import running_pgbouncer
from tests.postgresql_server import NEEDED, Server

OURS = {
    "search_path": "chatkit_trio",
    "statement_timeout": "7s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "2s",
    "idle_session_timeout": "0",
    "client_connection_check_interval": "2s",
    "transaction_isolation": "read committed",
    "client_encoding": "UTF8",
}
LIMITS = {"statement_timeout": 7, "lock_timeout": 3, "lease_timeout": 6}


@pytest.fixture
def through_pgbouncer(postgresql_server: Server) -> Iterator[Callable[[str], str]]:
    with running_pgbouncer(postgresql_server) as through:
        yield through


def settings() -> Statement:
    return Statement(
        "SELECT name, current_setting(name) FROM unnest(%(names)s::text[]) AS name",
        {"names": list(OURS)},
    )


async def of_each_session(store: PostgreSQLStore[Any]) -> list[dict[str, str]]:
    """Return what the sessions of reads, of writes and of the node have been told."""
    database = store._database
    (read,) = await database.read(settings())
    written = await database.write(lambda tx: tx.finish(settings())[0].fetchall())
    kept = await database.keep(lambda node, call: settings().send(node._connection).fetchall())
    other = await database.connect()
    with other:
        return [dict(rows) for rows in (read, written, kept, settings().send(other))]


async def test_each_session_is_told_its_limits_also_if_another_client_had_it_before(
    postgresql_url: str, through_pgbouncer: Callable[[str], str]
) -> None:
    for _ in range(2):
        async with PostgreSQLStore[Any](through_pgbouncer(postgresql_url), **LIMITS) as store:
            assert await of_each_session(store) == [OURS] * 4


async def test_two_nodes_come_to_terms(
    postgresql_url: str, through_pgbouncer: Callable[[str], str]
) -> None:
    url = through_pgbouncer(postgresql_url)
    async with PostgreSQLStore[Any](url) as node, PostgreSQLStore[Any](url) as other:
        assert node.coordination is not None
        assert other.coordination is not None
        await node.save_thread(thread("thr_1"), None)
        await node.coordination.begin(Opening("thr_1", "turn_1"), None)
        record = await other.coordination.begin(Opening("thr_1", "turn_2"), None)
        assert record is not None
        assert record.turn_id == "turn_1"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.coordination.listen)
            with other.coordination.hint("thr_1") as hint, trio.fail_after(60):
                await hint.wait(60)  # the first tells that it listens
                await node.settle(Settlement("thr_1", "turn_1", (note("i1", "thr_1"),)), None)
                await hint.wait(60)
            nursery.cancel_scope.cancel()
        assert await other.coordination.begin(Opening("thr_1", "turn_2"), None) is None


async def test_a_client_that_has_left_keeps_no_lock(
    postgresql_url: str, through_pgbouncer: Callable[[str], str]
) -> None:
    async with PostgreSQLStore[Any](through_pgbouncer(postgresql_url)) as store:
        with psycopg.connect(postgresql_url, autocommit=True) as look:
            locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
            assert look.execute(locks).fetchone() == (1,)
            store._database.node._connection.close()  # as the death of its process would
            with trio.fail_after(60):
                while look.execute(locks).fetchone() != (0,):  # noqa: ASYNC110
                    await trio.sleep(0.01)


async def test_a_pooler_that_has_no_session_left_is_a_store_error(
    postgresql_url: str, postgresql_server: Server
) -> None:
    with running_pgbouncer(postgresql_server, sessions=1) as through:
        store = PostgreSQLStore[Any](through(postgresql_url), connect_timeout=0.5)
        async with store:  # the node has the only one
            with pytest.raises(StoreError):  # maybe before it is known why
                await store.load_thread("thr_1", None)
            with pytest.raises(StoreError, match="a session for each connection of each process"):
                await store.load_thread("thr_1", None)


def test_without_pgbouncer_these_tests_are_skipped_or_fail_where_one_is_needed(
    monkeypatch: pytest.MonkeyPatch, postgresql_server: Server
) -> None:
    monkeypatch.setattr(pgbouncer, "program", lambda: None)
    for needed, outcome in (("", pytest.skip.Exception), ("1", pytest.fail.Exception)):
        monkeypatch.setenv(NEEDED, needed)
        with pytest.raises(outcome, match="apt-get install pgbouncer"):
            running_pgbouncer(postgresql_server).__enter__()
