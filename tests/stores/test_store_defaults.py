"""The operations a store gets for free from its twelve methods."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatkit_trio.errors import NotFoundError
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import StoreConformance
from chatkit_trio.testing._store_samples import note, prepare, snapshot


class TwelveMethodStore(MemoryStore[str]):
    """A store as most people write it: the twelve methods, and nothing of the rest."""

    update_item = Store.update_item
    update_thread = Store.update_thread
    settle = Store.settle
    delete_items_after = Store.delete_items_after
    set_aside = Store.set_aside
    begin_request = Store.begin_request
    update_request = Store.update_request
    search_threads = Store.search_threads
    load_threads_by_activity = Store.load_threads_by_activity


class TestStoreWithTheDefaults(StoreConformance):
    atomic = False

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Store[str]]:
        async with TwelveMethodStore(owner=str) as store:
            yield store

    def context(self) -> str:
        return "ann"

    def other_context(self) -> str:
        return "bob"


class PowerCutError(Exception):
    pass


class FailingStore(TwelveMethodStore):
    """Fails at the n-th write."""

    def __init__(self, writes: int) -> None:
        super().__init__(owner=str)
        self.writes = writes

    def _write(self) -> None:
        self.writes -= 1
        if self.writes < 0:
            raise PowerCutError

    async def add_thread_item(self, *args: Any, **kwargs: Any) -> None:
        self._write()
        await super().add_thread_item(*args, **kwargs)

    async def delete_thread_item(self, *args: Any, **kwargs: Any) -> None:
        self._write()
        await super().delete_thread_item(*args, **kwargs)


@pytest.mark.parametrize("deletions", [0, 1, 2])
async def test_a_failure_among_the_deletions_leaves_no_hole(deletions: int) -> None:
    store = FailingStore(4 + deletions)
    await prepare(store, "thr_1", "ann")
    with pytest.raises(PowerCutError):
        await store.delete_items_after("thr_1", "i1", "ann")
    left = [item_id for item_id, _ in (await snapshot(store, "thr_1", "ann")).items]
    assert left == ["i1", "i2", "i3", "i4"][: 4 - deletions]


async def test_a_settlement_that_failed_half_way_is_completed_by_another_try() -> None:
    store = FailingStore(5)
    await prepare(store, "thr_1", "ann")
    settlement = Settlement("thr_1", new_items=(note("i5", "thr_1"), note("i6", "thr_1")))
    with pytest.raises(PowerCutError):
        await store.settle(settlement, "ann")
    store.writes = 1
    await store.settle(settlement, "ann")
    left = [item_id for item_id, _ in (await snapshot(store, "thr_1", "ann")).items]
    assert left == ["i1", "i2", "i3", "i4", "i5", "i6"]


@pytest.mark.parametrize("count", [99, 100, 101, 250])
async def test_deleting_after_an_item_goes_through_more_than_one_page(count: int) -> None:
    store = TwelveMethodStore(owner=str)
    await prepare(store, "thr_1", "ann")
    for n in range(count):
        await store.add_thread_item("thr_1", note(f"n{n}", "thr_1"), "ann")
    await store.delete_items_after("thr_1", "i2", "ann")
    left = [item_id for item_id, _ in (await snapshot(store, "thr_1", "ann")).items]
    assert left == ["i1", "i2"]


def test_a_store_without_a_journal_says_so() -> None:
    assert TwelveMethodStore().journal is None


async def test_a_settlement_doesnt_bring_a_deleted_thread_back() -> None:
    store = TwelveMethodStore(owner=str)
    await prepare(store, "thr_1", "ann")
    metadata = await store.load_thread("thr_1", "ann")
    await store.delete_thread("thr_1", "ann")
    with pytest.raises(NotFoundError):
        await store.settle(Settlement("thr_1", thread=metadata), "ann")
    with pytest.raises(NotFoundError):
        await store.load_thread("thr_1", "ann")
