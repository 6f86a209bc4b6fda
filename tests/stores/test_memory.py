from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from chatkit_trio.store import Store
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import StoreConformance


@dataclass(frozen=True)
class User:
    name: str


class TestMemoryStore(StoreConformance):
    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[MemoryStore[User]]:
        async with MemoryStore[User](owner=lambda user: user.name) as store:
            yield store

    def context(self) -> User:
        return User("ann")

    def other_context(self) -> User:
        return User("bob")


class TestMemoryStoreWithoutOwners(StoreConformance):
    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[MemoryStore[object]]:
        async with MemoryStore[object]() as store:
            yield store


class TestMemoryCluster(StoreConformance):
    persistent = True

    @pytest.fixture(autouse=True)
    def _cluster(self) -> None:
        self.now = 0.0
        self.cluster = MemoryCluster(clock=lambda: self.now)

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[MemoryStore[User]]:
        async with MemoryStore[User](owner=lambda u: u.name, cluster=self.cluster) as store:
            yield store

    def context(self) -> User:
        return User("ann")

    def other_context(self) -> User:
        return User("bob")

    async def make_silent(self, store: Store[Any]) -> None:
        self.now += self.cluster.lease_timeout
