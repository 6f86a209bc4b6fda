"""The tests every store has to pass: subclass `StoreConformance` in your test suite.

The class knows the contract in `chatkit_trio.store` and nothing of any store's insides. What can
only be tried from outside (a process that dies) goes through hooks that a subclass may offer.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, Self, get_args

import pytest
import trio

from chatkit_trio.errors import ConflictError, NotFoundError, TurnFencedError
from chatkit_trio.store import (
    Fence,
    Journal,
    JournalEntry,
    Opening,
    RequestRecord,
    Settlement,
    Store,
    StoreItemType,
    UnstorableItem,
    fence,
)
from chatkit_trio.stores import AsyncioStore
from chatkit_trio.types import ClientToolCallItem, Page, Thread, ThreadItem, ThreadMetadata

from ._coordination_conformance import CoordinationConformance
from ._search_conformance import SearchConformance
from ._store_doubles import StoreWrapper
from ._store_samples import (
    A_TURN,
    ITEM_KINDS,
    MANY_STEPS,
    NOON,
    ODD_IDS,
    OPERATIONS,
    READS,
    UNREADABLE,
    WRITES,
    Snapshot,
    attachment,
    ending_note,
    full_thread,
    item_of_kind,
    note,
    plain,
    prepare,
    snapshot,
    thread,
)
from ._store_under_test import CancelAtStep, item_ids, needs_persistence

__all__ = ["StoreConformance"]

_any_text = pytest.mark.parametrize(
    "text",
    ["", "a\x00b", "a\ud83db", "\u2028'\"\\%_;--", "ä" * 500_000],
    ids=["empty", "nul", "lone surrogate", "odd", "a megabyte"],
)
_both_orders = pytest.mark.parametrize("order", ["asc", "desc"])
_needs_memory = pytest.mark.usefixtures("memory_of_the_deleted")
_needs_atomicity = pytest.mark.usefixtures("atomicity")


class StoreConformance(SearchConformance, CoordinationConformance):
    """Tests of the storage contract, for a store of your own.

        class TestMyStore(StoreConformance):
            @asynccontextmanager
            async def open_store(self):
                async with MyStore(...) as store:
                    yield store

    That is enough for a first run; each test opens the store itself and expects it to be empty the
    first time. The attributes and the other methods of `StoreUnderTest` say what more your store
    promises; the tests of requests that are sent twice run if it overrides `begin_request`, those
    of several nodes if it is `persistent` and has `coordination`. Needs pytest and pytest-trio
    only, and never waits on a real clock.
    """

    # --- Ids

    async def test_generated_ids_are_never_the_same(self) -> None:
        async with self.open_store() as store:
            context, metadata = self.context(), thread("thr_1")
            ids = [store.generate_thread_id(context) for _ in range(100)]
            for kind in get_args(StoreItemType):
                ids += [store.generate_item_id(kind, metadata, context) for _ in range(100)]
            assert len(set(ids)) == len(ids)
            assert all(isinstance(id_, str) and id_ for id_ in ids)

    # --- Threads

    async def test_a_thread_comes_back_as_it_was_saved(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1", "Träume\u2028✓"), self.context())
            loaded = await store.load_thread("thr_1", self.context())
            assert plain(loaded) == plain(thread("thr_1", "Träume\u2028✓"))

    async def test_an_unknown_thread_is_not_found(self) -> None:
        async with self.open_store() as store:
            with pytest.raises(NotFoundError):
                await store.load_thread("thr_none", self.context())

    async def test_a_thread_saved_again_is_replaced_in_its_place(self) -> None:
        async with self.open_store() as store:
            for thread_id in ("thr_1", "thr_2"):
                await store.save_thread(thread(thread_id, "before"), self.context())
            await store.save_thread(thread("thr_1", "after"), self.context())
            page = await store.load_threads(10, None, "asc", self.context())
            expected = [thread("thr_1", "after"), thread("thr_2", "before")]
            assert plain(page.data) == plain(expected)

    async def test_everything_a_thread_has_comes_back(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(full_thread("thr_1"), self.context())
            loaded = await store.load_thread("thr_1", self.context())
            assert plain(loaded) == plain(full_thread("thr_1"))

    async def test_times_come_back_in_whatever_zone_the_process_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A time that was kept without its zone is read as local time."""
        if not hasattr(time, "tzset"):
            pytest.skip("this system can't change the zone of a process")
        async with self.open_store() as store:
            try:
                with monkeypatch.context() as patch:
                    patch.setenv("TZ", "TEST+05")
                    time.tzset()
                    await store.save_thread(thread("thr_1"), self.context())
                    await store.add_thread_item("thr_1", note("i1", "thr_1"), self.context())
                    loaded = await store.load_thread("thr_1", self.context())
                    item = await store.load_item("thr_1", "i1", self.context())
            finally:
                time.tzset()
            assert [loaded.created_at, item.created_at] == [NOON, NOON]

    async def test_an_updated_thread_is_replaced_in_its_place(self) -> None:
        async with self.open_store() as store:
            for thread_id in ("thr_1", "thr_2"):
                await store.save_thread(thread(thread_id), self.context())
            await store.update_thread(full_thread("thr_1"), self.context())
            page = await store.load_threads(10, None, "asc", self.context())
            assert plain(page.data) == plain([full_thread("thr_1"), thread("thr_2")])

    async def test_updating_a_thread_that_is_gone_is_not_found_and_makes_none(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())
            await store.delete_thread("thr_1", self.context())
            for thread_id in ("thr_1", "thr_none"):
                with pytest.raises(NotFoundError):
                    await store.update_thread(thread(thread_id), self.context())
            assert (await store.load_threads(10, None, "asc", self.context())).data == []

    async def test_an_updated_item_is_replaced_in_its_place(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            before = await item_ids(store, "thr_1", self.context())
            after = note("i2", "thr_1", "after")
            await store.update_item("thr_1", after, self.context())
            assert await item_ids(store, "thr_1", self.context()) == before
            loaded = await store.load_item("thr_1", "i2", self.context())
            assert plain(loaded) == plain(after)

    async def test_updating_an_item_that_is_gone_is_not_found_and_makes_none(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.delete_thread_item("thr_1", "i2", self.context())
            before = await item_ids(store, "thr_1", self.context())
            for thread_id, item_id in (("thr_1", "i2"), ("thr_1", "none"), ("thr_none", "i1")):
                with pytest.raises(NotFoundError):
                    await store.update_item(thread_id, note(item_id, thread_id), self.context())
            assert await item_ids(store, "thr_1", self.context()) == before

    async def test_a_thread_with_items_is_narrowed_to_its_metadata(self) -> None:
        full = Thread(**thread("thr_1", "t").model_dump(), items=Page(data=[note("i1", "thr_1")]))
        async with self.open_store() as store:
            for save in (store.save_thread, store.update_thread):
                await save(full, self.context())
                page = await store.load_threads(10, None, "asc", self.context())
                loaded = [await store.load_thread("thr_1", self.context()), *page.data]
                assert not any(isinstance(one, Thread) for one in loaded)
                assert plain(loaded) == plain([thread("thr_1", "t")] * 2)

    async def test_what_a_caller_does_to_its_objects_changes_nothing_in_the_store(self) -> None:
        mine, item = thread("thr_1", "stored"), note("i1", "thr_1", "stored")
        async with self.open_store() as store:
            await store.save_thread(mine, self.context())
            await store.add_thread_item("thr_1", item, self.context())
            _spoil(mine, item)
            _spoil(
                await store.load_thread("thr_1", self.context()),
                await store.load_item("thr_1", "i1", self.context()),
            )
            loaded = [
                await store.load_thread("thr_1", self.context()),
                await store.load_item("thr_1", "i1", self.context()),
            ]
            assert plain(loaded) == plain(
                [thread("thr_1", "stored"), note("i1", "thr_1", "stored")]
            )

    async def test_a_deleted_thread_takes_its_items_along(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.delete_thread("thr_1", self.context())
            await store.delete_thread("thr_1", self.context())
            with pytest.raises(NotFoundError):
                await store.load_thread("thr_1", self.context())
            with pytest.raises(NotFoundError):
                await store.load_item("thr_1", "i1", self.context())
            await store.save_thread(thread("thr_1"), self.context())
            assert await item_ids(store, "thr_1", self.context()) == []

    @_both_orders
    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, sys.maxsize])
    async def test_pages_hold_every_thread_once_in_order(self, order: str, limit: int) -> None:
        ids = [f"thr_{n}" for n in (3, 1, 4, 0, 5)]
        async with self.open_store() as store:
            for thread_id in ids:
                await store.save_thread(thread(thread_id), self.context())
            pages = await _pages(
                lambda after: store.load_threads(limit, after, order, self.context())
            )
            assert [one.id for page in pages for one in page] == _ordered(ids, order)
            assert max(map(len, pages)) <= limit

    @_needs_memory
    @_both_orders
    async def test_the_threads_go_on_behind_one_that_was_deleted(self, order: str) -> None:
        async with self.open_store() as store:
            for n in range(1, 6):
                await store.save_thread(thread(f"thr_{n}"), self.context())
            # The last ones too, whose numbers a store might use again.
            for thread_id in ("thr_5", "thr_3", "thr_4"):
                await store.delete_thread(thread_id, self.context())
            await store.save_thread(thread("thr_6"), self.context())
            for cursor in ("thr_3", "thr_4", "thr_5"):
                pages = await _pages(
                    lambda after: store.load_threads(1, after, order, self.context()), cursor
                )
                found = [one.id for page in pages for one in page]
                assert found == _by_order(order, "thr_1 thr_2", "thr_6")

    @_needs_memory
    async def test_there_is_nothing_behind_a_deleted_thread_when_all_are_deleted(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())
            await store.delete_thread("thr_1", self.context())
            page = await store.load_threads(9, "thr_1", "desc", self.context())
            assert plain(page) == plain(Page(data=[]))

    async def test_a_thread_made_again_stands_as_a_cursor_where_it_was_made(self) -> None:
        async with self.open_store() as store:
            for thread_id in ("thr_1", "thr_2"):
                await store.save_thread(thread(thread_id), self.context())
            await store.delete_thread("thr_1", self.context())
            await store.save_thread(thread("thr_1"), self.context())
            page = await store.load_threads(9, "thr_1", "desc", self.context())
            assert [one.id for one in page.data] == ["thr_2"]

    @_needs_memory
    async def test_a_deleted_thread_is_a_cursor_for_its_owner_only(self, theirs: Any) -> None:
        mine = self.context()
        async with self.open_store() as store:
            for thread_id, context in (("thr_1", mine), ("thr_2", mine), ("thr_3", theirs)):
                await store.save_thread(thread(thread_id), context)
            await store.delete_thread("thr_2", theirs)
            await store.delete_thread("thr_2", mine)
            with pytest.raises(NotFoundError):
                await store.load_threads(9, "thr_2", "desc", theirs)
            # Another owner may make and delete a thread of that id: each has a place of its own.
            await store.save_thread(thread("thr_2"), theirs)
            await store.delete_thread("thr_2", theirs)
            page = await store.load_threads(9, "thr_2", "desc", mine)
            assert [one.id for one in page.data] == ["thr_1"]
            page = await store.load_threads(9, "thr_2", "desc", theirs)
            assert [one.id for one in page.data] == ["thr_3"]

    async def test_ids_that_differ_in_case_are_different_ids(self) -> None:
        ids = ["abc", "ABC"]
        async with self.open_store() as store:
            await store.save_thread(thread("THR_1"), self.context())
            await store.save_thread(thread("thr_1"), self.context())
            await store.delete_thread("THR_1", self.context())
            with pytest.raises(NotFoundError):
                await store.load_thread("THR_1", self.context())
            for id_ in ids:
                await store.add_thread_item("thr_1", note(id_, "thr_1", id_), self.context())
                await store.save_attachment(attachment(id_, id_), self.context())
            assert await item_ids(store, "thr_1", self.context()) == ids
            for id_ in ids:
                item = await store.load_item("thr_1", id_, self.context())
                assert plain(item) == plain(note(id_, "thr_1", id_))
                loaded = await store.load_attachment(id_, self.context())
                assert plain(loaded) == plain(attachment(id_, id_))
            await store.delete_thread_item("thr_1", "ABC", self.context())
            await store.delete_attachment("ABC", self.context())
            assert await item_ids(store, "thr_1", self.context()) == ["abc"]
            await store.load_attachment("abc", self.context())

    @pytest.mark.parametrize("odd", ODD_IDS.values(), ids=ODD_IDS)
    async def test_an_odd_id_that_isnt_there_is_not_found(self, odd: str) -> None:
        """Clients send any text for an id, and get 404 for it, whatever a database makes of it."""
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            for load in (
                lambda: store.load_thread(odd, self.context()),
                lambda: store.load_threads(9, odd, "asc", self.context()),
                lambda: store.load_thread_items(odd, None, 9, "asc", self.context()),
                lambda: store.load_thread_items("thr_1", odd, 9, "desc", self.context()),
                lambda: store.load_item("thr_1", odd, self.context()),
                lambda: store.load_item(odd, "i1", self.context()),
                lambda: store.load_attachment(odd, self.context()),
            ):
                with pytest.raises(NotFoundError):
                    await load()
            await store.delete_thread(odd, self.context())
            await store.delete_thread_item(odd, "i1", self.context())
            await store.delete_thread_item("thr_1", odd, self.context())
            await store.delete_attachment(odd, self.context())
            assert not store.journal or await store.journal.abandoned(odd) == []
            assert not store.coordination or await store.coordination.record(odd) is None
            assert await snapshot(store, "thr_1", self.context()) == _PREPARED

    async def test_an_unknown_cursor_is_not_found(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            with pytest.raises(NotFoundError):
                await store.load_threads(10, "thr_none", "asc", self.context())
            with pytest.raises(NotFoundError):
                await store.load_thread_items("thr_1", "none", 10, "asc", self.context())

    # --- Items

    @pytest.mark.parametrize("kind", ITEM_KINDS)
    async def test_an_item_of_each_kind_comes_back_as_it_was_stored(self, kind: str) -> None:
        item = item_of_kind(kind, "thr_1")
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())
            await store.add_thread_item("thr_1", item, self.context())
            loaded = await store.load_item("thr_1", item.id, self.context())
            assert plain(loaded) == plain(item)
            page = await store.load_thread_items("thr_1", None, 10, "asc", self.context())
            assert plain(page) == plain(Page(data=[item], has_more=False, after=None))

    @_both_orders
    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, sys.maxsize])
    async def test_pages_hold_every_item_once_in_order_of_insertion(
        self, order: str, limit: int
    ) -> None:
        # Two share a time, and the clock went back: neither may change the order.
        hours = {"i3": 0, "i1": 0, "i4": 5, "i0": -3, "i5": 0}
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())
            for item_id, hour in hours.items():
                item = note(item_id, "thr_1", at=NOON + timedelta(hours=hour))
                await store.add_thread_item("thr_1", item, self.context())
            pages = await _pages(
                lambda after: store.load_thread_items("thr_1", after, limit, order, self.context())
            )
            assert [one.id for page in pages for one in page] == _ordered(list(hours), order)
            assert max(map(len, pages)) <= limit

    async def test_a_page_that_is_the_last_one_has_all_that_there_is(self) -> None:
        ids = [f"i{n}" for n in range(120)]
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())
            for item_id in ids:
                await store.add_thread_item("thr_1", note(item_id, "thr_1"), self.context())
            pages = await _pages(
                lambda after: store.load_thread_items("thr_1", after, 1000, "asc", self.context())
            )
            assert [item.id for page in pages for item in page] == ids

    @_both_orders
    async def test_a_page_goes_on_behind_its_cursor_when_items_were_added(self, order: str) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.add_thread_item("thr_1", note("i5", "thr_1"), self.context())
            page = await store.load_thread_items("thr_1", "i3", 10, order, self.context())
            expected = {"asc": ["i4", "i5"], "desc": ["i2", "i1"]}
            assert [item.id for item in page.data] == expected[order]

    @_needs_memory
    @_both_orders
    async def test_a_page_goes_on_behind_a_cursor_that_was_deleted(self, order: str) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.delete_thread_item("thr_1", "i3", self.context())
            await store.add_thread_item("thr_1", note("i5", "thr_1"), self.context())
            assert await self._behind(store, "i3", order) == _by_order(order, "i1 i2", "i4 i5")

    @_needs_memory
    @_both_orders
    async def test_a_page_goes_on_behind_each_of_many_that_were_deleted(self, order: str) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            # The last ones too, whose numbers a store might use again.
            for item_id in ("i4", "i2", "i3"):
                await store.delete_thread_item("thr_1", item_id, self.context())
            await store.add_thread_item("thr_1", note("i5", "thr_1"), self.context())
            await store.save_item("thr_1", note("i6", "thr_1"), self.context())
            for cursor in ("i2", "i3", "i4"):
                expected = _by_order(order, "i1", "i5 i6")
                assert await self._behind(store, cursor, order) == expected

    @_needs_memory
    @_both_orders
    async def test_a_page_goes_on_behind_one_of_those_deleted_after_an_item(
        self, order: str
    ) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.delete_items_after("thr_1", "i1", self.context())
            settlement = Settlement("thr_1", new_items=(note("i5", "thr_1"),))
            await store.settle(settlement, self.context())
            for cursor in ("i2", "i3", "i4"):
                assert await self._behind(store, cursor, order) == _by_order(order, "i1", "i5")

    @_needs_memory
    @_both_orders
    async def test_a_page_goes_on_behind_one_that_a_turns_beginning_deleted(
        self, order: str
    ) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            opening = Opening(
                "thr_1",
                "turn_1",
                delete_after="i3",
                deleted_item_ids=("i2",),
                new_items=(note("i5", "thr_1"),),
            )
            if store.coordination is None:
                await store.begin_turn(opening, self.context())
            else:
                assert await store.coordination.begin(opening, self.context()) is None
            assert await self._behind(store, "i2", order) == _by_order(order, "i1", "i3 i5")
            assert await self._behind(store, "i4", order) == _by_order(order, "i1 i3", "i5")

    @_needs_memory
    @_both_orders
    async def test_an_item_added_again_stands_as_a_cursor_where_it_was_added(
        self, order: str
    ) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            for _ in range(2):
                await store.delete_thread_item("thr_1", "i2", self.context())
                await store.add_thread_item("thr_1", note("i2", "thr_1"), self.context())
            assert await self._behind(store, "i2", order) == _by_order(order, "i1 i3 i4", "")
            await store.delete_thread_item("thr_1", "i2", self.context())
            assert await self._behind(store, "i2", order) == _by_order(order, "i1 i3 i4", "")

    async def test_a_deleted_item_is_a_cursor_of_its_own_thread_only(self) -> None:
        async with self.open_store() as store:
            for thread_id in ("thr_1", "thr_2"):
                await store.save_thread(thread(thread_id), self.context())
                item = note(f"item_of_{thread_id}", thread_id)
                await store.add_thread_item(thread_id, item, self.context())
            await store.delete_thread_item("thr_1", "item_of_thr_1", self.context())
            with pytest.raises(NotFoundError):
                await store.load_thread_items("thr_2", "item_of_thr_1", 9, "asc", self.context())
            await store.delete_thread("thr_1", self.context())
            await store.save_thread(thread("thr_1"), self.context())
            with pytest.raises(NotFoundError):
                await store.load_thread_items("thr_1", "item_of_thr_1", 9, "asc", self.context())

    async def test_a_deleted_item_is_no_cursor_for_another_owner(self, theirs: Any) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.delete_thread_item("thr_1", "i2", theirs)
            assert await item_ids(store, "thr_1", self.context()) == ["i1", "i2", "i3", "i4"]
            await store.delete_thread_item("thr_1", "i2", self.context())
            with pytest.raises(NotFoundError):
                await store.load_thread_items("thr_1", "i2", 9, "asc", theirs)

    @_needs_memory
    @needs_persistence
    async def test_a_deleted_cursor_is_known_after_opening_again(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await prepare(store, "thr_2", self.context())
            await store.delete_thread_item("thr_1", "i2", self.context())
            await store.delete_thread("thr_2", self.context())
        async with self.open_store() as store:
            assert await self._behind(store, "i2", "asc") == ["i3", "i4"]
            page = await store.load_threads(9, "thr_2", "desc", self.context())
            assert [one.id for one in page.data] == ["thr_1"]

    async def _behind(self, store: Store[Any], cursor: str, order: str) -> list[str]:
        """Follow a cursor of `thr_1` to the last page, one item a page."""
        pages = await _pages(
            lambda after: store.load_thread_items("thr_1", after, 1, order, self.context()), cursor
        )
        return [item.id for page in pages for item in page]

    async def test_an_unknown_thread_has_no_items(self) -> None:
        async with self.open_store() as store:
            with pytest.raises(NotFoundError):
                await store.load_thread_items("thr_none", None, 10, "asc", self.context())
            with pytest.raises(NotFoundError):
                await store.add_thread_item("thr_none", note("i", "thr_none"), self.context())
            with pytest.raises(NotFoundError):
                await store.save_item("thr_none", note("i", "thr_none"), self.context())
            with pytest.raises(NotFoundError):
                await store.load_thread("thr_none", self.context())

    async def test_adding_an_item_twice_is_a_conflict_and_keeps_the_first(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            with pytest.raises(ConflictError):
                await store.add_thread_item("thr_1", note("i2", "thr_1", "no"), self.context())
            assert await snapshot(store, "thr_1", self.context()) == _PREPARED

    async def test_a_saved_item_is_replaced_in_its_place(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.save_item("thr_1", note("i2", "thr_1", "after"), self.context())
            items = (await snapshot(store, "thr_1", self.context())).items
            assert items == (("i1", "before"), ("i2", "after"), *_PREPARED.items[2:])

    async def test_a_saved_item_that_is_new_is_appended(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.save_item("thr_1", note("i0", "thr_1", "new"), self.context())
            items = (await snapshot(store, "thr_1", self.context())).items
            assert items == (*_PREPARED.items, ("i0", "new"))

    async def test_an_item_of_another_thread_is_not_found(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.save_thread(thread("thr_2"), self.context())
            with pytest.raises(NotFoundError):
                await store.load_item("thr_2", "i1", self.context())
            with pytest.raises(NotFoundError):
                await store.load_thread_items("thr_2", "i1", 10, "asc", self.context())
            with pytest.raises(NotFoundError):
                await store.delete_items_after("thr_2", "i1", self.context())
            await store.delete_thread_item("thr_2", "i1", self.context())
            assert await snapshot(store, "thr_1", self.context()) == _PREPARED

    async def test_two_threads_may_have_an_item_of_the_same_id(self) -> None:
        async with self.open_store() as store:
            for thread_id in ("thr_1", "thr_2"):
                await store.save_thread(thread(thread_id), self.context())
                item = note("same", thread_id, thread_id)
                await store.add_thread_item(thread_id, item, self.context())
            await store.delete_thread_item("thr_1", "same", self.context())
            loaded = await store.load_item("thr_2", "same", self.context())
            assert plain(loaded) == plain(note("same", "thr_2", "thr_2"))

    async def test_a_deleted_item_is_gone_and_deleting_it_again_is_no_error(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.delete_thread_item("thr_1", "i2", self.context())
            await store.delete_thread_item("thr_1", "i2", self.context())
            await store.delete_thread_item("thr_none", "i2", self.context())
            with pytest.raises(NotFoundError):
                await store.load_item("thr_1", "i2", self.context())
            assert await item_ids(store, "thr_1", self.context()) == ["i1", "i3", "i4"]

    @pytest.mark.parametrize(
        "text",
        ["\u2028\u2029\x85", "\r\n\t\x1b\x7f", "e\u0301 \U0001f469\u200d\U0001f52c", "'\"\\%_;--"],
        ids=["separators", "controls", "composed", "quotes"],
    )
    async def test_any_text_comes_back_as_it_was_stored(self, text: str) -> None:
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())
            await store.add_thread_item("thr_1", note("i1", "thr_1", text), self.context())
            loaded = await store.load_item("thr_1", "i1", self.context())
            assert plain(loaded) == plain(note("i1", "thr_1", text))

    @pytest.mark.parametrize("text", ["a\x00b", "a\ud83db"], ids=["nul", "lone surrogate"])
    async def test_text_a_database_may_refuse_is_stored_or_refused_whole(self, text: str) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            refusal = None
            try:
                await store.add_thread_item("thr_1", note("i5", "thr_1", text), self.context())
            except Exception as error:  # which one is the store's business
                refusal = str(error)
            assert refusal != "", "an error that says nothing helps nobody"
            ids = await item_ids(store, "thr_1", self.context())
            assert ids == ["i1", "i2", "i3", "i4"] + (["i5"] if refusal is None else [])

    @pytest.mark.parametrize("value", UNREADABLE.values(), ids=UNREADABLE)
    async def test_what_is_stored_can_be_loaded(self, value: Any) -> None:
        """Refusing is right; storing what makes the whole thread unreadable is not."""
        item = ClientToolCallItem(
            id="i5",
            thread_id="thr_1",
            created_at=NOON,
            call_id="call",
            name="tool",
            arguments={"a": value},
        )
        metadata = thread("thr_1").model_copy(update={"metadata": {"a": value}})
        settlement = Settlement("thr_1", None, (item,), thread=metadata)
        writes: tuple[Callable[[Store[Any]], Awaitable[object]], ...] = (
            lambda store: store.add_thread_item("thr_1", item, self.context()),
            lambda store: store.save_item("thr_1", item, self.context()),
            lambda store: store.settle(settlement, self.context()),
            lambda store: store.update_item("thr_1", item, self.context()),
            lambda store: store.update_thread(metadata, self.context()),
            lambda store: store.save_thread(metadata, self.context()),
        )
        for write in writes:
            async with self.open_store() as store:
                await prepare(store, "thr_1", self.context())
                with suppress(Exception):  # which one is the store's business
                    await write(store)
                await store.load_threads(10, None, "asc", self.context())
                await store.load_thread("thr_1", self.context())
                ids = await item_ids(store, "thr_1", self.context())
                for item_id in ids:
                    await store.load_item("thr_1", item_id, self.context())
                await store.delete_thread("thr_1", self.context())

    async def test_an_item_of_a_megabyte_comes_back(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())
            item = note("i1", "thr_1", "ä" * 500_000)
            await store.add_thread_item("thr_1", item, self.context())
            loaded = await store.load_item("thr_1", "i1", self.context())
            assert plain(loaded) == plain(item)

    # --- Attachments

    async def test_an_attachment_comes_back_as_it_was_saved(self) -> None:
        async with self.open_store() as store:
            await store.save_attachment(attachment("atc_1"), self.context())
            loaded = await store.load_attachment("atc_1", self.context())
            assert plain(loaded) == plain(attachment("atc_1"))

    async def test_an_attachment_saved_again_is_replaced(self) -> None:
        async with self.open_store() as store:
            await store.save_attachment(attachment("atc_1", "before"), self.context())
            await store.save_attachment(attachment("atc_1", "after"), self.context())
            loaded = await store.load_attachment("atc_1", self.context())
            assert plain(loaded) == plain(attachment("atc_1", "after"))

    async def test_a_deleted_attachment_is_gone(self) -> None:
        async with self.open_store() as store:
            await store.save_attachment(attachment("atc_1"), self.context())
            await store.delete_attachment("atc_1", self.context())
            await store.delete_attachment("atc_1", self.context())
            with pytest.raises(NotFoundError):
                await store.load_attachment("atc_1", self.context())

    # --- Isolation

    @pytest.mark.parametrize("operation", [*READS, *WRITES])
    async def test_another_owner_finds_and_changes_nothing(
        self, operation: str, theirs: Any
    ) -> None:
        mine = self.context()
        async with self.open_store() as store:
            await prepare(store, "thr_1", mine)
            perform = OPERATIONS[operation]
            if operation == "load_threads":
                assert plain(await perform(store, "thr_1", theirs)) == plain(Page(data=[]))
            elif operation.startswith("delete_") and operation != "delete_items_after":
                await perform(store, "thr_1", theirs)
            else:
                with pytest.raises(NotFoundError):
                    await perform(store, "thr_1", theirs)
            assert await snapshot(store, "thr_1", mine) == _PREPARED
            assert await snapshot(store, "thr_1", theirs) == _NOTHING

    async def test_two_owners_threads_have_separate_pages(self, theirs: Any) -> None:
        mine = self.context()
        async with self.open_store() as store:
            for thread_id, context in (("thr_1", mine), ("thr_2", theirs), ("thr_3", mine)):
                await store.save_thread(thread(thread_id), context)
            with pytest.raises(NotFoundError):
                await store.load_threads(1, "thr_2", "asc", mine)
            pages = await _pages(lambda after: store.load_threads(1, after, "desc", mine))
            assert [[one.id for one in page] for page in pages] == [["thr_3"], ["thr_1"]]

    # --- Many callers at once

    async def test_concurrent_writers_lose_nothing(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())

            async def write(writer: int) -> None:
                for n in range(5):
                    item = note(f"{writer}-{n}", "thr_1")
                    await store.add_thread_item("thr_1", item, self.context())

            async with trio.open_nursery() as nursery:
                for writer in range(20):
                    nursery.start_soon(write, writer)
            ids = await item_ids(store, "thr_1", self.context())
            assert len(ids) == 100
            for writer in range(20):
                own = [item_id for item_id in ids if item_id.startswith(f"{writer}-")]
                assert own == [f"{writer}-{n}" for n in range(5)]

    async def test_of_many_who_add_the_same_item_one_succeeds(self) -> None:
        outcomes: list[str] = []
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())

            async def add(n: int) -> None:
                try:
                    item = note("same", "thr_1", str(n))
                    await store.add_thread_item("thr_1", item, self.context())
                except ConflictError:
                    outcomes.append("conflict")
                else:
                    outcomes.append("added")

            async with trio.open_nursery() as nursery:
                for n in range(10):
                    nursery.start_soon(add, n)
            assert sorted(outcomes) == ["added"] + ["conflict"] * 9
            assert await item_ids(store, "thr_1", self.context()) == ["same"]

    async def test_callers_cancelled_in_the_queue_do_not_hold_up_the_others(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())

            async def add(item_id: str) -> None:
                await store.add_thread_item("thr_1", note(item_id, "thr_1"), self.context())

            async with trio.open_nursery() as nursery, trio.open_nursery() as doomed:
                for n in range(10):
                    nursery.start_soon(add, f"stays-{n}")
                    doomed.start_soon(add, f"doomed-{n}")
                await trio.lowlevel.checkpoint()
                doomed.cancel_scope.cancel()
            ids = await item_ids(store, "thr_1", self.context())
            assert {f"stays-{n}" for n in range(10)} <= set(ids)
            assert len(ids) == len(set(ids))

    @_needs_atomicity
    async def test_an_update_beside_a_deletion_brings_no_thread_back(self) -> None:
        async with self.open_store() as store:

            async def update(thread_id: str) -> None:
                with suppress(NotFoundError):
                    await store.update_thread(thread(thread_id, "after"), self.context())

            for n in range(20):
                await store.save_thread(thread(f"thr_{n}"), self.context())
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(update, f"thr_{n}")
                    nursery.start_soon(store.delete_thread, f"thr_{n}", self.context())
            assert (await store.load_threads(100, None, "asc", self.context())).data == []

    @_needs_atomicity
    async def test_an_update_beside_a_deletion_brings_no_item_back(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(thread("thr_1"), self.context())

            async def update(item_id: str) -> None:
                with suppress(NotFoundError):
                    item = note(item_id, "thr_1", "after")
                    await store.update_item("thr_1", item, self.context())

            for n in range(20):
                await store.add_thread_item("thr_1", note(f"i{n}", "thr_1"), self.context())
            async with trio.open_nursery() as nursery:
                for n in range(20):
                    nursery.start_soon(update, f"i{n}")
                    nursery.start_soon(store.delete_thread_item, "thr_1", f"i{n}", self.context())
            assert await item_ids(store, "thr_1", self.context()) == []

    async def test_other_tasks_get_to_run_beside_the_store(self) -> None:
        """A driver that blocks belongs in a worker thread."""
        times_run = 0
        async with self.open_store() as store:

            async def run_too() -> None:
                nonlocal times_run
                while True:
                    await trio.lowlevel.checkpoint()
                    times_run += 1

            async with trio.open_nursery() as nursery:
                nursery.start_soon(run_too)
                for perform in (READS | WRITES).values():
                    await prepare(store, "thr_1", self.context())
                    await perform(store, "thr_1", self.context())
                    await store.delete_thread("thr_1", self.context())
                nursery.cancel_scope.cancel()
        assert times_run > 0, "the store never gives way: nobody else runs while it works"

    @pytest.mark.parametrize("operation", [*READS, *WRITES])
    async def test_no_operation_holds_up_the_event_loop(self, operation: str) -> None:
        """The best of ten tries counts, so a machine that is busy does no harm."""
        perform, longest_steps = OPERATIONS[operation], []
        async with self.open_store() as store:
            for n in range(10):
                await prepare(store, f"thr_{n}", self.context())
                with _LongestStep() as step:
                    await perform(store, f"thr_{n}", self.context())
                longest_steps.append(step.seconds)
                if step.seconds < _LONG_STEP:
                    break
        assert min(longest_steps) < _LONG_STEP, (
            f"{operation} keeps every other task waiting for {min(longest_steps):.3f} s: run what"
            " blocks in a worker thread"
        )

    @_needs_atomicity
    async def test_nobody_sees_half_a_settlement(self) -> None:
        seen: set[Snapshot] = set()
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await prepare(store, "thr_2", self.context())
            await self.perform("settle", store, "thr_2", self.context())
            after = (await snapshot(store, "thr_2", self.context())).items

            async def watch(until: trio.Event) -> None:
                while not until.is_set():
                    seen.add(await snapshot(store, "thr_1", self.context()))

            async with trio.open_nursery() as nursery:
                done = trio.Event()
                for _ in range(4):
                    nursery.start_soon(watch, done)
                await self.perform("settle", store, "thr_1", self.context())
                done.set()
            assert {one.items for one in seen} <= {_PREPARED.items, after}

    # --- Cancellation

    @pytest.mark.parametrize("operation", [*READS, *WRITES])
    async def test_a_cancel_at_any_checkpoint_leaves_all_or_nothing(self, operation: str) -> None:
        """Whatever the step at which the cancel falls, and whether or not it is noticed."""
        perform = OPERATIONS[operation]
        whole = operation not in MANY_STEPS or self.atomic
        async with self.open_store() as store:
            await prepare(store, "thr_whole", self.context())
            await perform(store, "thr_whole", self.context())
            after = await snapshot(store, "thr_whole", self.context())
            for step in itertools.count():
                thread_id = f"thr_{step}"
                await prepare(store, thread_id, self.context())
                cancel = CancelAtStep(step)
                await cancel.run(partial(perform, store, thread_id, self.context()))
                now = await snapshot(store, thread_id, self.context())
                if not cancel.raised:
                    assert now == after
                elif whole and self.exact_cancellation:
                    assert now == _PREPARED
                elif whole:
                    assert now in (_PREPARED, after)
                with suppress(ConflictError):  # adding again what was added
                    await perform(store, thread_id, self.context())
                assert await snapshot(store, thread_id, self.context()) == after
                if not cancel.happened:
                    break

    # --- Settling, and retrying after an item

    async def test_settling_adds_changes_and_renames(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self.perform("settle", store, "thr_1", self.context())
            assert await snapshot(store, "thr_1", self.context()) == _SETTLED

    async def test_settling_twice_is_settling_once(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self.perform("settle", store, "thr_1", self.context())
            await self.perform("settle", store, "thr_1", self.context())
            assert await snapshot(store, "thr_1", self.context()) == _SETTLED

    async def test_settling_stores_everything_that_items_and_thread_have(self) -> None:
        new = [item_of_kind(kind, "thr_1") for kind in ITEM_KINDS]
        changed = note("i2", "thr_1", "after")
        settlement = Settlement("thr_1", None, tuple(new), (changed,), full_thread("thr_1"))
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await store.settle(settlement, self.context())
            loaded = await store.load_thread("thr_1", self.context())
            assert plain(loaded) == plain(full_thread("thr_1"))
            page = await store.load_thread_items("thr_1", "i4", 100, "asc", self.context())
            assert plain(page.data) == plain(new)
            loaded_item = await store.load_item("thr_1", "i2", self.context())
            assert plain(loaded_item) == plain(changed)

    @_needs_atomicity
    @pytest.mark.parametrize("refused", ["an item", "the thread"])
    async def test_a_settlement_that_is_refused_leaves_nothing(self, refused: str) -> None:
        """A store that takes such values stores all of it."""
        unreadable = UNREADABLE["nested deeper"]
        last: ThreadItem = note("i6", "thr_1", "new")
        metadata = thread("thr_1", "after")
        if refused == "an item":
            last = ClientToolCallItem(
                id="i6",
                thread_id="thr_1",
                created_at=NOON,
                call_id="call",
                name="tool",
                arguments={"a": unreadable},
            )
        else:
            metadata = metadata.model_copy(update={"metadata": {"a": unreadable}})
        new = (note("i5", "thr_1", "new"), last)
        settlement = Settlement("thr_1", None, new, (note("i1", "thr_1", "after"),), metadata)
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            try:
                await store.settle(settlement, self.context())
            except Exception:  # which one is the store's business
                assert await snapshot(store, "thr_1", self.context()) == _PREPARED
            else:
                ids = await item_ids(store, "thr_1", self.context())
                assert ids == ["i1", "i2", "i3", "i4", "i5", "i6"]

    async def test_settling_in_an_unknown_thread_is_not_found_and_makes_none(self) -> None:
        settlement = Settlement("thr_none", thread=thread("thr_none"))
        async with self.open_store() as store:
            with pytest.raises(NotFoundError):
                await store.settle(settlement, self.context())
            assert (await store.load_threads(10, None, "asc", self.context())).data == []

    async def test_deleting_after_an_item_keeps_it_and_those_before(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            for _ in range(2):
                await store.delete_items_after("thr_1", "i2", self.context())
                assert await item_ids(store, "thr_1", self.context()) == ["i1", "i2"]

    async def test_deleting_after_an_unknown_item_deletes_nothing(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            with pytest.raises(NotFoundError):
                await store.delete_items_after("thr_1", "none", self.context())
            assert await snapshot(store, "thr_1", self.context()) == _PREPARED

    async def test_deleting_after_an_item_deletes_however_many_there_are(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            for n in range(250):
                await store.add_thread_item("thr_1", note(f"n{n}", "thr_1"), self.context())
            await store.delete_items_after("thr_1", "i2", self.context())
            assert await item_ids(store, "thr_1", self.context()) == ["i1", "i2"]

    # --- What the store has refused

    @_any_text
    async def test_whatever_is_set_aside_raises_nothing(self, text: str) -> None:
        item = UnstorableItem("thr_1", "msg_1", "turn_1", text, f"refused: {text[:9]}")
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            for _ in range(2):
                await store.set_aside(item, self.context())
            await store.set_aside(replace(item, thread_id="thr_none"), self.context())
            assert await snapshot(store, "thr_1", self.context()) == _PREPARED

    # --- Requests that are sent twice, if the store keeps them

    async def test_a_request_is_recorded_once_and_comes_back_as_it_was(self) -> None:
        record = RequestRecord("key", "digest", "thr_1", "msg_1", "turn_1", b"\x00\xff{}", True)
        async with self.open_store() as store:
            _keeps_requests(store)
            assert await store.begin_request(record, 600, self.context()) is None
            again = replace(_REQUEST, digest="another")
            for _ in range(2):
                assert await store.begin_request(again, 600, self.context()) == record

    async def test_a_request_that_is_only_begun_has_no_answer(self) -> None:
        async with self.open_store() as store:
            _keeps_requests(store)
            await store.begin_request(_REQUEST, 600, self.context())
            assert await store.begin_request(_REQUEST, 600, self.context()) == _REQUEST

    async def test_an_updated_request_is_replaced_whole(self) -> None:
        after = RequestRecord("key", "d", "thr_2", "msg_2", "turn_2", b"answer", True)
        async with self.open_store() as store:
            _keeps_requests(store)
            await store.begin_request(_REQUEST, 600, self.context())
            await store.begin_request(replace(_REQUEST, key="other"), 600, self.context())
            await store.update_request(after, self.context())
            assert await store.begin_request(_REQUEST, 600, self.context()) == after
            other = replace(_REQUEST, key="other")
            assert await store.begin_request(other, 600, self.context()) == other

    async def test_updating_a_request_that_is_gone_makes_none(self) -> None:
        async with self.open_store() as store:
            _keeps_requests(store)
            await store.update_request(_REQUEST, self.context())
            assert await store.begin_request(_REQUEST, 600, self.context()) is None

    async def test_a_request_older_than_the_window_is_a_new_one(self) -> None:
        new = replace(_REQUEST, turn_id="turn_new")
        async with self.open_store() as store:
            _keeps_requests(store)
            await store.begin_request(_REQUEST, 600, self.context())
            # Nothing is younger than no seconds.
            assert await store.begin_request(new, 0, self.context()) is None
            assert await store.begin_request(_REQUEST, 600, self.context()) == new

    async def test_a_request_is_found_without_being_recorded(self, theirs: Any) -> None:
        mine = self.context()
        async with self.open_store() as store:
            _finds_requests(store)
            assert await store.find_request(_REQUEST.key, 600, mine) is None
            assert await store.begin_request(_REQUEST, 600, mine) is None
            assert await store.find_request(_REQUEST.key, 600, mine) == _REQUEST
            assert await store.find_request(_REQUEST.key, 600, theirs) is None
            assert await store.find_request(_REQUEST.key, 0, mine) is None
            assert await store.find_request("another", 600, mine) is None

    async def test_any_key_is_its_own(self) -> None:
        keys = ["key", "KEY", "key ", "k%", "k_", "'\"\\;--", "ä", "x" * 255]
        records = [replace(_REQUEST, key=key, digest=key) for key in keys]
        async with self.open_store() as store:
            _keeps_requests(store)
            for expected in ([None] * len(keys), records):
                found = [await store.begin_request(one, 600, self.context()) for one in records]
                assert found == expected

    async def test_two_owners_may_use_the_same_key(self, theirs: Any) -> None:
        mine, answered = self.context(), replace(_REQUEST, answer=b"theirs", begun=True)
        async with self.open_store() as store:
            _keeps_requests(store)
            assert await store.begin_request(_REQUEST, 600, mine) is None
            await store.update_request(answered, theirs)
            assert await store.begin_request(_REQUEST, 600, mine) == _REQUEST
            assert await store.begin_request(_REQUEST, 600, theirs) is None
            await store.update_request(answered, theirs)
            assert await store.begin_request(_REQUEST, 600, mine) == _REQUEST
            assert await store.begin_request(_REQUEST, 600, theirs) == answered

    async def test_of_many_who_send_the_same_request_one_is_new(self) -> None:
        outcomes: dict[str, RequestRecord | None] = {}
        async with self.open_store() as store:
            _keeps_requests(store)

            async def begin(turn_id: str) -> None:
                mine = replace(_REQUEST, turn_id=turn_id)
                outcomes[turn_id] = await store.begin_request(mine, 600, self.context())

            async with trio.open_nursery() as nursery:
                for n in range(10):
                    nursery.start_soon(begin, f"turn_{n}")
        new = [turn_id for turn_id, found in outcomes.items() if found is None]
        assert len(new) == 1
        others = [found for found in outcomes.values() if found is not None]
        assert others == [replace(_REQUEST, turn_id=new[0])] * 9

    async def test_a_cancelled_request_is_recorded_or_not_as_it_says(self) -> None:
        async with self.open_store() as store:
            _keeps_requests(store)
            for step in itertools.count():
                record = replace(_REQUEST, key=f"key_{step}")
                cancel = CancelAtStep(step)
                await cancel.run(partial(store.begin_request, record, 600, self.context()))
                found = await store.begin_request(record, 600, self.context())
                if not cancel.raised:
                    assert found == record
                elif self.exact_cancellation:
                    assert found is None
                if not cancel.happened:
                    break

    @needs_persistence
    async def test_a_turn_that_is_settled_changes_no_request(self) -> None:
        answered = replace(_REQUEST, answer=b"answer", begun=True)
        async with self.open_store() as store:
            _keeps_requests(store)
            if store.coordination is None:
                pytest.skip("the store has no coordination")
            await store.begin_request(_REQUEST, 600, self.context())
            token = fence.set(Fence("turn_none"))
            try:
                with pytest.raises(TurnFencedError):
                    await store.update_request(answered, self.context())
                with pytest.raises(TurnFencedError):
                    await store.begin_request(replace(_REQUEST, key="other"), 600, self.context())
            finally:
                fence.reset(token)
            assert await store.begin_request(_REQUEST, 600, self.context()) == _REQUEST

    @needs_persistence
    async def test_a_request_is_there_after_opening_again(self) -> None:
        answered = replace(_REQUEST, answer=b"answer", begun=True)
        async with self.open_store() as store:
            _keeps_requests(store)
            await store.begin_request(_REQUEST, 600, self.context())
            await store.update_request(answered, self.context())
        async with self.open_store() as store:
            assert await store.begin_request(_REQUEST, 600, self.context()) == answered

    # --- Opening

    async def test_an_open_store_answers_a_ping(self) -> None:
        async with self.open_store() as store:
            assert await store.ping() is None  # type: ignore[func-returns-value]

    async def test_entering_again_and_leaving_does_not_close(self) -> None:
        async with self.open_store() as store:
            async with store:
                await prepare(store, "thr_1", self.context())
            assert await snapshot(store, "thr_1", self.context()) == _PREPARED

    @needs_persistence
    async def test_what_was_stored_is_there_after_opening_again(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
        async with self.open_store() as store:
            assert await snapshot(store, "thr_1", self.context()) == _PREPARED

    @needs_persistence
    async def test_two_open_at_once_see_each_others_writes(self) -> None:
        async with self.open_store() as one, self.open_store() as other:
            await prepare(one, "thr_1", self.context())
            await self.perform("settle", other, "thr_1", self.context())
            assert await snapshot(one, "thr_1", self.context()) == _SETTLED

    @pytest.mark.parametrize("operation", WRITES)
    @needs_persistence
    async def test_a_crash_at_any_statement_leaves_all_or_nothing(self, operation: str) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_whole", self.context())
            await self.perform(operation, store, "thr_whole", self.context())
            after = await snapshot(store, "thr_whole", self.context())
        for statement in itertools.count(1):
            thread_id = f"thr_{statement}"
            async with self.open_store() as store:
                await prepare(store, thread_id, self.context())
            crashed = await self.crash_during(operation, thread_id, statement)
            async with self.open_store() as store:
                now = await snapshot(store, thread_id, self.context())
            if not crashed:
                assert now == after
                break
            assert now in (_PREPARED, after)

    # --- The journal, if there is one

    @needs_persistence
    async def test_settling_closes_the_turns_entry(self) -> None:
        async with self.open_store() as store:
            journal = _journal(store)
            await prepare(store, "thr_1", self.context())
            await journal.begin("turn_1", "thr_1", self.context())
            await journal.checkpoint([_entry("turn_1", "thr_1", "partial")])
            settlement = Settlement("thr_1", "turn_1", (note("i5", "thr_1", "whole"),))
            await store.settle(settlement, self.context())
        async with self.open_store() as store:
            assert await _journal(store).abandoned() == []
            items = (await snapshot(store, "thr_1", self.context())).items
            assert items == (*_PREPARED.items, ("i5", "whole"))

    @needs_persistence
    async def test_the_last_checkpoint_of_an_unsettled_turn_is_found_by_all(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial", "partial answer")
        async with self.open_store() as store, self.open_store() as another:
            found = await _journal(store).abandoned()
            assert plain(found) == plain([_entry("turn_1", "thr_1", "partial answer")])
            assert plain(await _journal(another).abandoned("thr_1")) == plain(found)

    @needs_persistence
    async def test_everything_that_a_checkpoint_holds_is_found(self) -> None:
        items = tuple(item_of_kind(kind, "thr_1") for kind in ITEM_KINDS)
        changed = (note("i2", "thr_1", "grown"), note("i1", "thr_1", "grown too"))
        entries = [
            JournalEntry("turn_1", "thr_1", items, changed, "stopped"),
            JournalEntry("turn_2", "thr_2", (note("i5", "thr_2", "partial"),)),
        ]
        async with self.open_store() as store:
            for entry in entries:
                await _journal(store).begin(entry.turn_id, entry.thread_id, self.context())
            await _journal(store).checkpoint(entries)
            await _journal(store).checkpoint(entries[:1])
        async with self.open_store() as store:
            found = await _journal(store).abandoned()
            by_turn = sorted(found, key=lambda entry: entry.turn_id)
            assert plain(by_turn) == plain(entries)

    @needs_persistence
    async def test_an_item_that_cant_be_stored_keeps_no_other_turn_out_of_the_journal(self) -> None:
        unreadable = ClientToolCallItem(
            id="i5",
            thread_id="thr_1",
            created_at=NOON,
            call_id="call",
            name="tool",
            arguments={"a": UNREADABLE["nested deeper"]},
        )
        entries = [
            JournalEntry("turn_1", "thr_1", (unreadable,)),
            _entry("turn_2", "thr_2", "partial"),
        ]
        async with self.open_store() as store:
            for entry in entries:
                await _journal(store).begin(entry.turn_id, entry.thread_id, self.context())
            with suppress(Exception):  # the store may say so
                await _journal(store).checkpoint(entries)
        async with self.open_store() as store:
            found = await _journal(store).abandoned("thr_2")
            assert plain(found) == plain(entries[1:])

    @needs_persistence
    async def test_a_checkpoint_replaces_all_of_the_one_before(self) -> None:
        before = JournalEntry(
            "turn_1",
            "thr_1",
            (note("i5", "thr_1", "a"), note("i6", "thr_1", "b")),
            (note("i1", "thr_1", "grown"),),
            "stopped",
        )
        async with self.open_store() as store:
            await _journal(store).begin("turn_1", "thr_1", self.context())
            await _journal(store).checkpoint([before])
            await _journal(store).checkpoint([_entry("turn_1", "thr_1", "last")])
        async with self.open_store() as store:
            found = await _journal(store).abandoned()
            assert plain(found) == plain([_entry("turn_1", "thr_1", "last")])

    @needs_persistence
    async def test_the_abandoned_turns_of_one_thread_are_found_by_its_id(self) -> None:
        async with self.open_store() as store:
            for n in (1, 2):
                await _journal(store).begin(f"turn_{n}", f"thr_{n}", self.context())
        async with self.open_store() as store:
            journal = _journal(store)
            if store.coordination is None:  # else a thread has one record at a time
                await journal.begin("turn_3", "thr_2", self.context())
            assert await journal.abandoned("thr_none") == []
            assert await journal.abandoned("THR_1") == []
            for thread_id, turn_id in (("thr_2", "turn_2"), ("thr_1", "turn_1")):
                found = await journal.abandoned(thread_id)
                assert plain(found) == plain([JournalEntry(turn_id, thread_id)])

    @needs_persistence
    async def test_a_claimed_turn_is_returned_until_it_is_settled(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
        async with self.open_store() as store:
            for thread_id in (None, "thr_1", None):
                found = await _journal(store).abandoned(thread_id)
                assert plain(found) == plain([_entry("turn_1", "thr_1", "partial")])
            await _journal(store).settle_abandoned(Settlement("thr_1", "turn_1"))
            assert await _journal(store).abandoned() == []

    @needs_persistence
    async def test_a_turn_that_is_live_elsewhere_is_not_abandoned(self) -> None:
        async with self.open_store() as store, self.open_store() as another:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
            assert await _journal(another).abandoned() == []
            assert await _journal(store).abandoned() == []

    @needs_persistence
    async def test_a_checkpoint_after_the_end_brings_nothing_back(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
            await store.settle(Settlement("thr_1", "turn_1"), self.context())
            await _journal(store).checkpoint([_entry("turn_1", "thr_1", "late")])
        async with self.open_store() as store:
            assert await _journal(store).abandoned() == []

    @needs_persistence
    async def test_an_abandoned_turn_is_settled_for_its_owner_once(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
        settlement = Settlement("thr_1", "turn_1", (note("i5", "thr_1", "partial"),))
        async with self.open_store() as store:
            await _journal(store).abandoned()
            await _journal(store).settle_abandoned(settlement)
            await _journal(store).settle_abandoned(settlement)
            items = (await snapshot(store, "thr_1", self.context())).items
            assert items == (*_PREPARED.items, ("i5", "partial"))
            assert await _journal(store).abandoned() == []

    @needs_persistence
    async def test_of_many_who_settle_an_abandoned_turn_one_is_told_so(self) -> None:
        """For a journal that says it at all: the turn is counted once then."""
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
        answers: list[bool | None] = []
        async with self.open_store() as one, self.open_store() as other:

            async def settle(store: Store[Any]) -> None:
                answers.append(await _journal(store).settle_abandoned(_CRASHED))

            for store in (one, other):
                await _journal(store).abandoned()
            async with trio.open_nursery() as nursery:
                for store in (one, other) * 2:
                    nursery.start_soon(settle, store)
            ids = await item_ids(one, "thr_1", self.context())
            assert ids == ["i1", "i2", "i3", "i4", "i5", "n1"]
        if answers != [None] * 4:
            assert sorted(map(bool, answers)) == [False, False, False, True]

    @needs_persistence
    async def test_an_abandoned_turn_is_settled_with_all_that_it_has(self) -> None:
        new = [item_of_kind(kind, "thr_1") for kind in ITEM_KINDS]
        changed = note("i2", "thr_1", "grown")
        settlement = Settlement("thr_1", "turn_1", tuple(new), (changed,), full_thread("thr_1"))
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
        async with self.open_store() as store:
            await _journal(store).abandoned()
            await _journal(store).settle_abandoned(settlement)
            page = await store.load_thread_items("thr_1", "i4", 100, "asc", self.context())
            assert plain(page.data) == plain(new)
            loaded_item = await store.load_item("thr_1", "i2", self.context())
            assert plain(loaded_item) == plain(changed)
            loaded = await store.load_thread("thr_1", self.context())
            assert plain(loaded) == plain(full_thread("thr_1"))

    @needs_persistence
    async def test_a_turn_that_another_has_settled_as_crashed_is_completed_once(self) -> None:
        """As when a process was taken for dead and wasn't: it has more text than its journal."""
        async with self._open_settled_as_crashed() as store:
            for _ in range(2):
                if not await _settle_late(store, _STOPPED, self.context()):
                    break
                items = (await snapshot(store, "thr_1", self.context())).items
                assert items == (
                    ("i1", "before"),
                    ("i2", "grown on"),
                    ("i3", "before"),
                    ("i4", "before"),
                    ("i5", "whole"),
                    ("i6", "also"),
                    ("n1", "crashed"),
                )

    @needs_persistence
    async def test_what_a_late_settlement_adds_stands_before_the_next_message(self) -> None:
        async with self._open_settled_as_crashed() as store:
            for item_id in ("m1", "m2"):
                await store.add_thread_item("thr_1", note(item_id, "thr_1"), self.context())
            if await _settle_late(store, _STOPPED, self.context()):
                expected = ["i1", "i2", "i3", "i4", "i5", "i6", "n1", "m1", "m2"]
                assert await item_ids(store, "thr_1", self.context()) == expected
                page = await store.load_thread_items("thr_1", "n1", 1, "asc", self.context())
                assert [item.id for item in page.data] == ["m1"]

    @needs_persistence
    async def test_a_late_settlement_leaves_other_turns_notes_alone(self) -> None:
        async with self.open_store() as store:
            _journal(store)
            await prepare(store, "thr_1", self.context())
            earlier = ending_note("n0", "thr_1", "turn_0", "earlier")
            await store.add_thread_item("thr_1", earlier, self.context())
            if await _settle_late(store, _STOPPED, self.context()):
                ids = await item_ids(store, "thr_1", self.context())
                assert ids == ["i1", "i2", "i3", "i4", "n0", "i5", "i6", "n2"]

    @needs_persistence
    async def test_a_turn_that_another_has_claimed_only_is_settled_once(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
        async with self.open_store() as claimer, self.open_store() as store:
            await _journal(claimer).abandoned()
            is_settled = await _settle_late(store, _STOPPED, self.context())
            await _journal(claimer).settle_abandoned(_CRASHED)
            assert await _journal(claimer).abandoned() == []
            items = (await snapshot(store, "thr_1", self.context())).items
            if is_settled:
                assert items[4:] == (("i5", "whole"), ("i6", "also"), ("n2", "stopped"))
            else:
                assert items[4:] == (("i5", "partial"), ("n1", "crashed"))

    @needs_persistence
    async def test_settling_a_journaled_turn_twice_is_settling_it_once(self) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
            for _ in range(2):
                await store.settle(_STOPPED, self.context())
                items = (await snapshot(store, "thr_1", self.context())).items
                assert items[4:] == (("i5", "whole"), ("i6", "also"), ("n2", "stopped"))

    @needs_persistence
    async def test_an_abandoned_turn_of_a_thread_that_is_gone_is_closed(self) -> None:
        async with self.open_store() as store:
            await _journal(store).begin("turn_1", "thr_none", self.context())
        settlement = Settlement("thr_none", "turn_1", (note("i5", "thr_none"),))
        async with self.open_store() as store:
            found = await _journal(store).abandoned()
            assert plain(found) == plain([JournalEntry("turn_1", "thr_none")])
            await _journal(store).settle_abandoned(settlement)
        async with self.open_store() as store:
            assert await _journal(store).abandoned() == []
            assert (await store.load_threads(10, None, "asc", self.context())).data == []

    @needs_persistence
    @_any_text
    async def test_an_abandoned_turn_may_be_settled_in_part(self, text: str) -> None:
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
        left_out = UnstorableItem("thr_1", "msg_1", "turn_1", text, f"refused: {text[:9]}")
        async with self.open_store() as store:
            await _journal(store).abandoned()
            first = await _journal(store).settle_in_part(_CRASHED, [left_out])
            again = await _journal(store).settle_in_part(_CRASHED, [left_out])
            assert first is not False
            assert not again
            ids = await item_ids(store, "thr_1", self.context())
            assert ids == ["i1", "i2", "i3", "i4", "i5", "n1"]
            assert await _journal(store).abandoned() == []

    @needs_persistence
    async def test_a_crash_at_any_statement_leaves_a_turn_in_the_journal_or_settled(self) -> None:
        states: list[str] = []
        crashed = True
        while crashed:
            thread_id = f"thr_{len(states)}"
            async with self.open_store() as store:
                _journal(store)
                await prepare(store, thread_id, self.context())
            crashed = await self.crash_during(A_TURN, thread_id, len(states) + 1)
            async with self.open_store() as store:
                states.append(await self._state_of_turn(store, thread_id))
        order = ["not begun", "begun", "written down", "settled"]
        assert states == sorted(states, key=order.index)
        assert set(states) == set(order)

    # --- What the tests share

    async def _state_of_turn(self, store: Store[Any], thread_id: str) -> str:
        entries = await _journal(store).abandoned()
        mine = [entry for entry in entries if entry.thread_id == thread_id]
        items = (await snapshot(store, thread_id, self.context())).items
        settled = items == (*_PREPARED.items, ("i5", "answer"))
        assert settled or items == _PREPARED.items
        assert not (settled and mine), "settled, and yet open in the journal"
        if mine:
            return "written down" if mine[0].items else "begun"
        return "settled" if settled else "not begun"

    @asynccontextmanager
    async def _open_settled_as_crashed(self) -> AsyncIterator[Store[Any]]:
        """Give a store whose thread has a turn that was taken for crashed and settled."""
        async with self.open_store() as store:
            await prepare(store, "thr_1", self.context())
            await self._leave_turn_open(store, "partial")
        async with self.open_store() as store:
            await _journal(store).abandoned()
            await _journal(store).settle_abandoned(_CRASHED)
            yield store

    async def _leave_turn_open(self, store: Store[Any], *texts: str) -> None:
        await _journal(store).begin("turn_1", "thr_1", self.context())
        for text in texts:
            await _journal(store).checkpoint([_entry("turn_1", "thr_1", text)])


_PREPARED = Snapshot("before", tuple((f"i{n}", "before") for n in range(1, 5)), "before")
_NOTHING = Snapshot("gone", (), "gone")
_SETTLED = Snapshot(
    "after",
    (
        ("i1", "after"),
        ("i2", "after"),
        ("i3", "before"),
        ("i4", "before"),
        ("i5", "new"),
        ("i6", "new"),
    ),
    "before",
)


_REQUEST = RequestRecord("key", "digest", "thr_1", "msg_1", "turn_1")

_CRASHED = Settlement(
    "thr_1",
    "turn_1",
    (note("i5", "thr_1", "partial"), ending_note("n1", "thr_1", "turn_1", "crashed")),
    (note("i2", "thr_1", "grown"),),
)
_STOPPED = Settlement(
    "thr_1",
    "turn_1",
    (
        note("i5", "thr_1", "whole"),
        note("i6", "thr_1", "also"),
        ending_note("n2", "thr_1", "turn_1", "stopped"),
    ),
    (note("i2", "thr_1", "grown on"),),
)

_LONG_STEP = 0.01
"""Seconds that no operation may keep the event loop for itself with the small items of this kit."""


class _LongestStep(trio.abc.Instrument):
    """Measures how long the task keeps all others waiting at most, in real seconds."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._task = trio.lowlevel.current_task()
        self._began_at = time.perf_counter()
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *_: object) -> None:
        trio.lowlevel.remove_instrument(self)
        self.after_task_step(self._task)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self._began_at = time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.seconds = max(self.seconds, time.perf_counter() - self._began_at)


def _journal(store: Store[Any]) -> Journal[Any]:
    if store.journal is None:
        pytest.skip("the store has no journal")
    return store.journal


async def _settle_late(store: Store[Any], settlement: Settlement, context: Any) -> bool:
    """Settle a turn that isn't open here any more; say whether the store has taken it.

    A store with coordination may refuse, and nothing has changed then.
    """
    before = await snapshot(store, settlement.thread_id, context)
    try:
        await store.settle(settlement, context)
    except TurnFencedError:
        assert store.coordination is not None
        assert await snapshot(store, settlement.thread_id, context) == before
        return False
    return True


def _overrides(store: Store[Any], name: str) -> bool:
    """Say whether a store, or the one inside of it, has an optional operation of its own."""
    inmost: Any = store
    while isinstance(inmost, StoreWrapper | AsyncioStore):
        inmost = inmost.wrapped
    default = getattr(Store, name)
    return getattr(type(inmost), name, default) is not default


def _keeps_requests(store: Store[Any]) -> None:
    if not _overrides(store, "begin_request"):
        pytest.skip("the store keeps no requests")


def _finds_requests(store: Store[Any]) -> None:
    _keeps_requests(store)
    if not _overrides(store, "find_request"):
        pytest.skip("the store doesn't find requests")


def _entry(turn_id: str, thread_id: str, text: str) -> JournalEntry:
    return JournalEntry(turn_id, thread_id, (note("i5", thread_id, text),))


def _spoil(metadata: ThreadMetadata, item: ThreadItem) -> None:
    metadata.title = "spoilt"
    metadata.metadata["k"].append("spoilt")
    item.id = "spoilt"


def _ordered(ids: list[str], order: str) -> list[str]:
    return ids if order == "asc" else ids[::-1]


def _by_order(order: str, before: str, behind: str) -> list[str]:
    """Return the ids behind a place; `before` and `behind` hold those on either side of it."""
    return behind.split() if order == "asc" else before.split()[::-1]


async def _pages(
    load: Callable[[str | None], Awaitable[Page[Any]]], after: str | None = None
) -> list[list[Any]]:
    """Follow the cursors to the last page."""
    pages: list[list[Any]] = []
    while True:
        page = await load(after)
        pages.append(page.data)
        if not page.has_more:
            assert page.after is None
            return pages
        assert page.after == page.data[-1].id
        after = page.after
