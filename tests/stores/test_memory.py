from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from chatkit_trio.store import Coordination, JournalEntry, News, Opening, Settlement, Store
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import StoreConformance
from chatkit_trio.testing._store_samples import thread


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
        self.nodes: list[Coordination[User]] = []
        self.cluster = MemoryCluster(clock=lambda: self.now)

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[MemoryStore[User]]:
        async with MemoryStore[User](owner=lambda u: u.name, cluster=self.cluster) as store:
            assert store.coordination is not None
            self.nodes.append(store.coordination)
            yield store
            self.nodes.remove(store.coordination)

    def context(self) -> User:
        return User("ann")

    def other_context(self) -> User:
        return User("bob")

    async def make_silent(self, store: Store[Any]) -> None:
        for _ in range(4):
            self.now += self.cluster.lease_timeout / 3
            for node in self.nodes:
                if node is not store.coordination:
                    await node.news()

    async def make_all_silent(self) -> None:
        self.now += 2 * self.cluster.lease_timeout


OPENING = Opening("thr_1", "turn_1", new_thread=thread("thr_1"))


async def test_a_lease_lasts_for_its_time_after_the_last_news(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = MemoryCluster(lease_timeout=4)
    async with (
        MemoryStore[Any](cluster=cluster) as node,
        MemoryStore[Any](cluster=cluster) as other,
    ):
        assert node.coordination is not None
        assert node.coordination.lease_timeout == 4
        assert other.journal is not None
        assert other.coordination is not None
        await node.coordination.begin(OPENING, None)
        for second in range(1, 7):
            await trio.sleep(1)
            await other.coordination.news()
            if second == 2:
                await node.coordination.news()
            is_dead = bool(await other.journal.abandoned())
            assert is_dead == (second == 6)


async def test_a_node_that_could_not_ask_itself_gives_the_others_a_lease_to_ask(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As when the store was away for all, and is back."""
    cluster = MemoryCluster(lease_timeout=4)
    async with (
        MemoryStore[Any](cluster=cluster) as node,
        MemoryStore[Any](cluster=cluster) as other,
    ):
        assert node.coordination is not None
        assert other.coordination is not None
        assert other.journal is not None
        await node.coordination.begin(OPENING, None)
        await node.coordination.begin(Opening("thr_1", "turn_2"), None)
        await trio.sleep(100)
        assert await other.journal.abandoned() == []
        for _ in range(4):
            await other.coordination.news()
            assert await other.journal.abandoned() == []
            await trio.sleep(1)
        await other.coordination.news()
        assert await other.journal.abandoned() == [JournalEntry("turn_1", "thr_1")]


@pytest.mark.parametrize("change", ["settle", "withdraw", "delete", "leave", "settle_abandoned"])
async def test_those_who_wait_on_another_node_are_told_of_a_change(
    change: str, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = MemoryCluster()
    node, other = (MemoryStore[Any](cluster=cluster) for _ in range(2))
    assert node.coordination is not None
    assert other.coordination is not None
    assert other.journal is not None
    async with other, trio.open_nursery() as nursery:
        await node.__aenter__()
        await node.coordination.begin(OPENING, None)
        await node.coordination.begin(Opening("thr_1", "turn_2"), None)
        if change == "settle_abandoned":
            for _ in range(20):
                await trio.sleep(1)
                await other.coordination.news()
            await other.journal.abandoned()
        with other.coordination.hint("thr_1") as hint:
            nursery.start_soon(hint.wait, 1000)
            await trio.testing.wait_all_tasks_blocked()
            match change:
                case "settle":
                    await node.settle(Settlement("thr_1", "turn_1"), None)
                case "withdraw":
                    await node.coordination.withdraw("turn_2")
                case "delete":
                    await node.delete_thread("thr_1", None)
                case "leave":
                    await node.__aexit__(None, None, None)
                case "settle_abandoned":
                    await other.journal.settle_abandoned(Settlement("thr_1", "turn_1"))
    assert trio.current_time() < 100


async def test_a_message_wakes_the_node_that_it_is_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = MemoryCluster()
    async with (
        MemoryStore[Any](cluster=cluster) as node,
        MemoryStore[Any](cluster=cluster) as other,
        trio.open_nursery() as nursery,
    ):
        assert node.coordination is not None
        assert other.coordination is not None
        with other.coordination.hint(other.coordination.node) as hint:
            nursery.start_soon(hint.wait, 1000)
            await trio.testing.wait_all_tasks_blocked()
            await node.coordination.post(other.coordination.node, b"stop")
        assert await other.coordination.news() == News((b"stop",))
    assert trio.current_time() < 100


async def test_a_node_that_isnt_open_says_how_to_open_it() -> None:
    store = MemoryStore[Any](cluster=MemoryCluster())
    assert store.coordination is not None
    with pytest.raises(RuntimeError, match="use its store inside 'async with store:'"):
        await store.coordination.begin(OPENING, None)


def test_a_store_without_a_cluster_has_neither_journal_nor_coordination() -> None:
    assert (MemoryStore[Any]().journal, MemoryStore[Any]().coordination) == (None, None)
