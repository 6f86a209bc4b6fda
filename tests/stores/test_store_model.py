"""A store equals a plain list, whatever is done to it in whatever order."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatkit_trio.errors import ConflictError, NotFoundError
from chatkit_trio.store import Settlement, Store
from chatkit_trio.stores import MemoryStore, SQLiteStore
from chatkit_trio.testing._store_samples import note, thread
from chatkit_trio.types import ThreadItem

from .test_store_defaults import TwelveMethodStore

Outcome = Any


class ListModel:
    """What a store should do, written with lists and nothing else."""

    def __init__(self) -> None:
        self.threads: list[tuple[str, str, list[ThreadItem]]] = []
        self.order: list[tuple[str, ...]] = []
        """Owner and thread id, or with an item id, of all that came, deleted or not, in order."""

    def stand(self, *key: str) -> None:
        """Give a new thread or item its place, at the end."""
        self.order = [other for other in self.order if other != key]
        self.order.append(key)

    def items(self, owner: str, thread_id: str) -> list[ThreadItem]:
        for name, id_, items in self.threads:
            if (name, id_) == (owner, thread_id):
                return items
        raise NotFoundError

    def save_thread(self, owner: str, thread_id: str) -> None:
        if all(id_ != thread_id for _, id_, _ in self.threads):
            self.threads.append((owner, thread_id, []))
            self.stand(owner, thread_id)
        self.items(owner, thread_id)

    def update_thread(self, owner: str, thread_id: str) -> None:
        self.items(owner, thread_id)

    def delete_thread(self, owner: str, thread_id: str) -> None:
        self.threads = [row for row in self.threads if row[:2] != (owner, thread_id)]
        mine = (owner, thread_id)
        self.order = [key for key in self.order if len(key) == 2 or key[:2] != mine]

    def add(self, owner: str, thread_id: str, item: ThreadItem) -> None:
        items = self.items(owner, thread_id)
        if item.id in ids(items):
            raise ConflictError
        items.append(item)
        self.stand(owner, thread_id, item.id)

    def save(self, owner: str, thread_id: str, item: ThreadItem) -> None:
        items = self.items(owner, thread_id)
        if item.id in ids(items):
            items[ids(items).index(item.id)] = item
        else:
            items.append(item)
            self.stand(owner, thread_id, item.id)

    def update(self, owner: str, thread_id: str, item: ThreadItem) -> None:
        items = self.items(owner, thread_id)
        if item.id not in ids(items):
            raise NotFoundError
        items[ids(items).index(item.id)] = item

    def delete(self, owner: str, thread_id: str, item_id: str) -> None:
        try:
            items = self.items(owner, thread_id)
            del items[ids(items).index(item_id)]
        except (NotFoundError, ValueError):
            pass

    def delete_after(self, owner: str, thread_id: str, item_id: str) -> None:
        items = self.items(owner, thread_id)
        if item_id not in ids(items):
            raise NotFoundError
        del items[ids(items).index(item_id) + 1 :]

    def settle(self, owner: str, thread_id: str, new: ThreadItem, changed: ThreadItem) -> None:
        if new.id not in ids(self.items(owner, thread_id)):
            self.add(owner, thread_id, new)
        self.save(owner, thread_id, changed)

    def load_threads(self, owner: str, after: str | None, limit: int, order: str) -> Outcome:
        found = [id_ for name, id_, _ in self.threads if name == owner]
        placed = [key[1] for key in self.order if len(key) == 2 and key[0] == owner]
        return cut(found, placed, after, limit, order)

    def load_items(
        self, owner: str, thread_id: str, after: str | None, limit: int, order: str
    ) -> Outcome:
        items = self.items(owner, thread_id)
        mine = (owner, thread_id)
        placed = [key[2] for key in self.order if len(key) == 3 and key[:2] == mine]
        found, has_more = cut(ids(items), placed, after, limit, order)
        return [items[ids(items).index(item_id)] for item_id in found], has_more


def ids(items: list[ThreadItem]) -> list[str]:
    return [item.id for item in items]


def cut(
    found: list[str], placed: list[str], after: str | None, limit: int, order: str
) -> tuple[list[str], bool]:
    """Return a page of those found; `placed` has the deleted ones too, in their places."""
    placed = placed if order == "asc" else placed[::-1]
    if after is not None:
        if after not in placed:
            raise NotFoundError
        placed = placed[placed.index(after) + 1 :]
    found = [one for one in placed if one in found]
    return found[:limit], len(found) > limit


class StoreAsModel:
    """A store, spoken to in the model's words."""

    def __init__(self, store: Store[str]) -> None:
        self.store = store

    async def save_thread(self, owner: str, thread_id: str) -> None:
        await self.store.save_thread(thread(thread_id), owner)

    async def update_thread(self, owner: str, thread_id: str) -> None:
        await self.store.update_thread(thread(thread_id), owner)

    async def delete_thread(self, owner: str, thread_id: str) -> None:
        await self.store.delete_thread(thread_id, owner)

    async def add(self, owner: str, thread_id: str, item: ThreadItem) -> None:
        await self.store.add_thread_item(thread_id, item, owner)

    async def save(self, owner: str, thread_id: str, item: ThreadItem) -> None:
        await self.store.save_item(thread_id, item, owner)

    async def update(self, owner: str, thread_id: str, item: ThreadItem) -> None:
        await self.store.update_item(thread_id, item, owner)

    async def delete(self, owner: str, thread_id: str, item_id: str) -> None:
        await self.store.delete_thread_item(thread_id, item_id, owner)

    async def delete_after(self, owner: str, thread_id: str, item_id: str) -> None:
        await self.store.delete_items_after(thread_id, item_id, owner)

    async def settle(
        self, owner: str, thread_id: str, new: ThreadItem, changed: ThreadItem
    ) -> None:
        settlement = Settlement(thread_id, new_items=(new,), changed_items=(changed,))
        await self.store.settle(settlement, owner)

    async def load_threads(self, owner: str, after: str | None, limit: int, order: str) -> Outcome:
        page = await self.store.load_threads(limit, after, order, owner)
        return [found.id for found in page.data], page.has_more

    async def load_items(
        self, owner: str, thread_id: str, after: str | None, limit: int, order: str
    ) -> Outcome:
        page = await self.store.load_thread_items(thread_id, after, limit, order, owner)
        return page.data, page.has_more


OWNERS = st.sampled_from(["ann", "bob"])
THREADS = st.sampled_from(["thr_1", "thr_2", "thr_3"])
ITEMS = st.sampled_from([f"i{n}" for n in range(6)])
BEGINNING = [("save_thread", ("ann", "thr_1")), ("save_thread", ("bob", "thr_2"))]
PAGES = (st.integers(1, 4), st.sampled_from(["asc", "desc"]))


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, tuple[Any, ...]]:
    owner, thread_id = draw(OWNERS), draw(THREADS)

    def item() -> ThreadItem:
        return note(draw(ITEMS), thread_id, draw(st.text(max_size=3)))

    def page(of: st.SearchStrategy[str]) -> tuple[Any, ...]:
        return (draw(st.none() | of), *map(draw, PAGES))

    arguments = {
        "save_thread": lambda: (),
        "update_thread": lambda: (),
        "delete_thread": lambda: (),
        "add": lambda: (item(),),
        "save": lambda: (item(),),
        "update": lambda: (item(),),
        "delete": lambda: (draw(ITEMS),),
        "delete_after": lambda: (draw(ITEMS),),
        "settle": lambda: (item(), item()),
        "load_items": lambda: page(ITEMS),
    }
    name = draw(st.sampled_from([*arguments, "load_threads"]))
    if name == "load_threads":
        return name, (owner, *page(THREADS))
    return name, (owner, thread_id, *arguments[name]())


def outcome_of_model(model: ListModel, name: str, arguments: tuple[Any, ...]) -> Outcome:
    try:
        return getattr(model, name)(*arguments)
    except (NotFoundError, ConflictError) as error:
        return type(error)


async def outcome_of_store(store: StoreAsModel, name: str, arguments: tuple[Any, ...]) -> Outcome:
    try:
        return await getattr(store, name)(*arguments)
    except (NotFoundError, ConflictError) as error:
        return type(error)


@asynccontextmanager
async def open_store(kind: str) -> AsyncIterator[Store[str]]:
    if kind == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            async with SQLiteStore[str](Path(directory) / "chat.db", owner=str) as store:
                yield store
    else:
        yield {"memory": MemoryStore[str], "defaults": TwelveMethodStore}[kind](owner=str)


@pytest.mark.parametrize("kind", ["memory", "defaults", "sqlite"])
@given(script=st.lists(calls(), min_size=5, max_size=50))
@settings(deadline=None)
async def test_a_store_equals_a_list(kind: str, script: list[tuple[str, tuple[Any, ...]]]) -> None:
    model = ListModel()
    async with open_store(kind) as store:
        for name, arguments in [*BEGINNING, *script]:
            expected = outcome_of_model(model, name, arguments)
            assert await outcome_of_store(StoreAsModel(store), name, arguments) == expected
        for owner, thread_id, items in model.threads:
            assert (await store.load_thread_items(thread_id, None, 99, "asc", owner)).data == items
