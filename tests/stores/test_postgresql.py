"""The PostgreSQL store, against a server of the tests' own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from chatkit_trio.store import Store
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing import StoreConformance

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


def let_leases_run_out(url: str, node: str | None = None) -> None:
    """Set back when a node, or each, was seen last: as if its lease had run out since."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            """
            UPDATE chatkit_trio.nodes SET lease = lease / 1000, seen_at = seen_at - lease
            WHERE id = coalesce(%s, id)
            """,
            (node,),
        )
