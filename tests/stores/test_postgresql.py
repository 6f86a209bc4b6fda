"""The PostgreSQL store, against a server of the tests' own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("psycopg", reason="PostgreSQLStore needs the extra postgres")

from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing import StoreConformance


class TestPostgreSQLStore(StoreConformance):
    persistent = True

    @pytest.fixture(autouse=True)
    def _database(self, postgresql_url: str) -> None:
        self.url = postgresql_url

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[PostgreSQLStore[str]]:
        async with PostgreSQLStore[str](self.url, owner=str) as store:
            yield store

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"
