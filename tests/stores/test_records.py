"""What both bundled stores say of the objects they are handed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing._store_samples import NOON, UNREADABLE, note, prepare, snapshot, thread
from chatkit_trio.types import ClientToolCallItem


@pytest.fixture(params=["memory", "sqlite"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Store[Any]]:
    if request.param == "memory":
        return MemoryStore
    return lambda **settings: SQLiteStore(tmp_path / "chat.db", **settings)


@pytest.fixture
async def store(make_store: Callable[..., Store[Any]]) -> AsyncIterator[Store[Any]]:
    async with make_store() as store:
        await prepare(store, "thr_1", None)
        yield store


async def test_an_item_of_another_thread_is_refused(store: Store[Any]) -> None:
    stray = note("i9", "thr_2")
    for write in (
        store.add_thread_item("thr_1", stray, None),
        store.save_item("thr_1", stray, None),
        store.settle(Settlement("thr_1", new_items=(stray,)), None),
    ):
        with pytest.raises(ValueError, match="item i9 says it is in thread thr_2"):
            await write


async def test_an_id_of_more_than_a_thousand_bytes_is_refused(store: Store[Any]) -> None:
    await store.add_thread_item("thr_1", note("é" * 500, "thr_1"), None)
    item = note("é" * 500 + "x", "thr_1")
    before = await snapshot(store, "thr_1", None)
    for write in (
        store.add_thread_item("thr_1", item, None),
        store.save_item("thr_1", item, None),
        store.settle(Settlement("thr_1", new_items=(item,)), None),
    ):
        with pytest.raises(ValueError, match="may have 1000 bytes, not 1001"):
            await write
    assert await snapshot(store, "thr_1", None) == before


async def test_a_settlement_of_another_threads_metadata_is_refused(store: Store[Any]) -> None:
    with pytest.raises(ValueError, match="a settlement of thread thr_1 can't save thr_2"):
        await store.settle(Settlement("thr_1", thread=thread("thr_2")), None)


async def test_a_settlement_that_cant_be_stored_whole_isnt_stored_at_all(store: Store[Any]) -> None:
    bad: Any = note("bad", "thr_1")
    bad.content = object()
    before = await snapshot(store, "thr_1", None)
    with pytest.raises(ValueError, match=r"item bad can't be stored as JSON: .*object"):
        await store.settle(Settlement("thr_1", None, (note("i5", "thr_1"), bad)), None)
    assert await snapshot(store, "thr_1", None) == before


@pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
async def test_what_couldnt_be_loaded_again_is_refused_when_it_is_stored(
    store: Store[Any], value: Any
) -> None:
    before = await snapshot(store, "thr_1", None)
    bad_item = ClientToolCallItem(
        id="bad", thread_id="thr_1", created_at=NOON, call_id="c", name="n", arguments={"a": value}
    )
    bad_thread = thread("thr_1").model_copy(update={"metadata": {"a": value}})
    for write, name in (
        (lambda: store.add_thread_item("thr_1", bad_item, None), "item bad"),
        (lambda: store.save_item("thr_1", bad_item, None), "item bad"),
        (lambda: store.settle(Settlement("thr_1", None, (bad_item,)), None), "item bad"),
        (lambda: store.save_thread(bad_thread, None), "thread thr_1"),
        (lambda: store.update_thread(bad_thread, None), "thread thr_1"),
    ):
        with pytest.raises(ValueError, match=f"{name} can't be stored"):
            await write()
    assert await snapshot(store, "thr_1", None) == before


@pytest.mark.parametrize("limit", [0, -1])
async def test_a_page_of_nothing_is_refused(store: Store[Any], limit: int) -> None:
    with pytest.raises(ValueError, match=f"limit must be at least 1, not {limit}"):
        await store.load_thread_items("thr_1", None, limit, "asc", None)
    with pytest.raises(ValueError, match="limit must be at least 1"):
        await store.load_threads(limit, None, "asc", None)


async def test_an_unknown_order_is_refused(store: Store[Any]) -> None:
    with pytest.raises(ValueError, match="order must be 'asc' or 'desc', not 'ASC; --'"):
        await store.load_thread_items("thr_1", None, 1, "ASC; --", None)


@pytest.mark.parametrize(
    ("streamed", "stored"),
    [("a\ud83d\ude00b", "a\U0001f600b"), ("a\ud83d", "a\ufffd"), ("\ude00\ud83d", "\ufffd\ufffd")],
    ids=["halves that meet", "first half", "wrong order"],
)
async def test_half_an_emoji_doesnt_cost_the_text_around_it(
    store: Store[Any], streamed: str, stored: str
) -> None:
    await store.add_thread_item("thr_1", note("i5", "thr_1", streamed), None)
    assert await store.load_item("thr_1", "i5", None) == note("i5", "thr_1", stored)


async def test_an_owner_that_isnt_text_is_refused(make_store: Callable[..., Store[Any]]) -> None:
    def forgotten_login(context: object) -> Any:
        return None

    async with make_store(owner=forgotten_login) as store:
        with pytest.raises(TypeError, match=r"owner\(context\) must return a str, not None"):
            await store.save_thread(thread("thr_1"), None)
        with pytest.raises(TypeError, match="must return a str"):
            await store.load_threads(1, None, "asc", None)
