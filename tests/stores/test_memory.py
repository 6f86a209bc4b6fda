from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from chatkit_trio.stores import MemoryStore
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
