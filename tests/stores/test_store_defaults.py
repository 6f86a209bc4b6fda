"""The operations a store gets for free from its twelve methods."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from chatkit_trio.errors import NotFoundError
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore
from chatkit_trio.testing import (
    ChatClient,
    JumpClock,
    RequestRefused,
    StoreConformance,
    pause,
    say,
    scripted_server,
)
from chatkit_trio.testing._store_samples import note, prepare, snapshot
from chatkit_trio.types import ThreadItem


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


def _nothing() -> Any:
    return None


def _raises_the_originals() -> Any:
    raise type("NotFoundError", (Exception,), {"__module__": "chatkit.store"})("no item")


class _OfOldWays(TwelveMethodStore):
    """A store that was written for openai-chatkit, and says in its own way what isn't there."""

    def __init__(self, missing: Callable[[], Any]) -> None:
        super().__init__()
        self.missing = missing

    async def load_item(self, thread_id: str, item_id: str, context: Any) -> ThreadItem:
        try:
            return await super().load_item(thread_id, item_id, context)
        except NotFoundError:
            return self.missing()  # type: ignore[no-any-return]


@pytest.mark.parametrize("missing", [_nothing, _raises_the_originals])
async def test_a_store_may_say_otherwise_that_an_item_isnt_there(
    jump_clock: JumpClock, missing: Callable[[], Any]
) -> None:
    store = _OfOldWays(missing)
    async with scripted_server(store, [say("Hel"), pause(60), say("lo")]) as server:
        client = ChatClient.of_server(server)
        async with client.send("hi") as turn:
            await turn.wait_for(lambda _: turn.text == "Hel")
            await turn.stop()
        assert turn.thread_id is not None
        stored = await store.load_thread_items(turn.thread_id, None, 9, "asc", "")
        with pytest.raises(RequestRefused) as refused:
            async with client.retry(turn.thread_id, "msg_nowhere") as again:
                await again.read()

    assert turn.error is None
    assert [item.type for item in stored.data] == [
        "user_message",
        "assistant_message",
        "sdk_hidden_context",
    ]
    assert refused.value.status == 404


async def test_a_store_whose_error_for_a_missing_item_is_another_is_told_so() -> None:
    def missing() -> Any:
        raise KeyError("msg_nowhere")

    store = _OfOldWays(missing)
    await prepare(store, "thr_1", "")
    with pytest.raises(KeyError) as raised:
        await store.has_item("thr_1", "msg_nowhere", "")

    assert raised.value.__notes__ == [
        "_OfOldWays.load_item() was asked whether there is an item msg_nowhere: it has to raise"
        " NotFoundError for one that isn't there"
    ]
