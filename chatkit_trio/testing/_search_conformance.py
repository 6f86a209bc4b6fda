"""The part of the store conformance kit on finding threads: by activity, and by a search."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from chatkit_trio.errors import InvalidRequestError, NotFoundError
from chatkit_trio.store import ActiveThread, Opening, SearchHit, Settlement, Store
from chatkit_trio.types import (
    HiddenContextItem,
    Page,
    ThreadItem,
    ThreadMetadata,
)

from ._store_samples import ITEM_KINDS, NOON, answered, at, ending_note, item_of_kind, plain, said
from ._store_under_test import CancelAtStep, StoreUnderTest, needs_persistence

__all__ = ["SearchConformance"]


def _thread(thread_id: str, title: str | None = None, minutes: float = 0) -> ThreadMetadata:
    return ThreadMetadata(id=thread_id, title=title, created_at=at(minutes))


def _hidden(item_id: str, thread_id: str, text: str, minutes: float = 0) -> ThreadItem:
    return HiddenContextItem(id=item_id, thread_id=thread_id, created_at=at(minutes), content=text)


class SearchConformance(StoreUnderTest):
    """Tests of `load_threads_by_activity` and `search_threads`, whether overridden or not."""

    # --- Threads by activity

    async def test_the_thread_with_the_newest_message_comes_first(self) -> None:
        async with self.open_store() as store:
            for number in range(3):
                await store.save_thread(_thread(f"thr_{number}", minutes=number), self.context())
            assert await self._active(store) == [("thr_2", 2), ("thr_1", 1), ("thr_0", 0)]
            await store.add_thread_item("thr_0", said("m1", "thr_0", "a", 5), self.context())
            assert await self._active(store) == [("thr_0", 5), ("thr_2", 2), ("thr_1", 1)]
            await store.save_item("thr_1", answered("m2", "thr_1", "b", 6), self.context())
            assert await self._active(store) == [("thr_1", 6), ("thr_0", 5), ("thr_2", 2)]

    async def test_what_a_turn_begins_and_settles_with_is_activity(self) -> None:
        async with self.open_store() as store:
            for number in range(2):
                await store.save_thread(_thread(f"thr_{number}", minutes=number), self.context())
            await self._open_turn(
                store, Opening("thr_0", "turn_1", new_items=(said("m", "thr_0", "a", 5),))
            )
            assert await self._active(store) == [("thr_0", 5), ("thr_1", 1)]
            new_items = (answered("m2", "thr_0", "b", 7), ending_note("n", "thr_0", "turn_1", "x"))
            await store.settle(Settlement("thr_0", "turn_1", new_items), self.context())
            assert await self._active(store) == [("thr_0", 7), ("thr_1", 1)]

    async def test_a_new_title_a_changed_item_and_a_hidden_note_are_no_activity(self) -> None:
        async with self.open_store() as store:
            for number in range(2):
                thread_id = f"thr_{number}"
                await store.save_thread(_thread(thread_id), self.context())
                item = said("m", thread_id, "a", number)
                await store.add_thread_item(thread_id, item, self.context())
            renamed = _thread("thr_0", "renamed", 60)
            await store.save_thread(renamed, self.context())
            await store.update_thread(renamed, self.context())
            changed = said("m", "thr_0", "changed", 0)
            await store.save_item("thr_0", changed, self.context())
            await store.update_item("thr_0", changed, self.context())
            note = ending_note("n", "thr_0", "turn_1", "x")
            await store.settle(Settlement("thr_0", None, (note,), thread=renamed), self.context())
            await store.add_thread_item("thr_0", _hidden("h", "thr_0", "x", 60), self.context())
            assert await self._active(store) == [("thr_1", 1), ("thr_0", 0)]
            page = await store.load_threads_by_activity(9, None, self.context())
            assert plain([each.thread for each in page.data]) == plain([_thread("thr_1"), renamed])

    @pytest.mark.parametrize("limit", [1, 2, 5, 6, sys.maxsize])
    async def test_pages_by_activity_hold_every_thread_once(self, limit: int) -> None:
        async with self.open_store() as store:
            # Two at the same time: whichever comes first, it does so each time.
            for number, minutes in enumerate((3, 1, 4, 1, 5)):
                await store.save_thread(_thread(f"thr_{number}", minutes=minutes), self.context())
            pages = await self._pages(partial(store.load_threads_by_activity, limit))
            assert max(map(len, pages)) <= limit
            found = [each for page in pages for each in page]
            assert [each.last_activity_at for each in found] == [at(n) for n in (5, 4, 3, 1, 1)]
            assert sorted(each.thread.id for each in found) == [f"thr_{n}" for n in range(5)]

    async def test_a_page_by_activity_goes_on_whatever_becomes_of_its_last_thread(self) -> None:
        async with self.open_store() as store:
            for number in range(6):
                await store.save_thread(_thread(f"thr_{number}", minutes=number), self.context())
            first = await store.load_threads_by_activity(2, None, self.context())
            assert [each.thread.id for each in first.data] == ["thr_5", "thr_4"]
            await store.delete_thread("thr_4", self.context())
            second = await store.load_threads_by_activity(2, first.after, self.context())
            assert [each.thread.id for each in second.data] == ["thr_3", "thr_2"]
            await store.add_thread_item("thr_2", said("m", "thr_2", "a", 9), self.context())
            third = await store.load_threads_by_activity(2, second.after, self.context())
            assert [each.thread.id for each in third.data] == ["thr_1", "thr_0"]

    async def test_another_owners_activity_is_not_seen(self, theirs: Any) -> None:
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1"), self.context())
            await store.save_thread(_thread("thr_2", minutes=1), theirs)
            page = await store.load_threads_by_activity(9, None, self.context())
            assert [each.thread.id for each in page.data] == ["thr_1"]
            assert not page.has_more

    # --- Search

    async def test_titles_messages_and_answers_are_found(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1", "Trains to Naples"), self.context())
            await store.save_thread(_thread("thr_2"), self.context())
            await store.add_thread_item("thr_2", said("m1", "thr_2", "a boat"), self.context())
            answer = answered("m2", "thr_2", "the ferry leaves at nine")
            await store.add_thread_item("thr_2", answer, self.context())
            assert await self._found(store, "naples") == [("thr_1", None, ["Naples"])]
            assert await self._found(store, "boat") == [("thr_2", "m1", ["boat"])]
            assert await self._found(store, "ferry") == [("thr_2", "m2", ["ferry"])]
            assert await self._found(store, "car") == []
            page = await store.search_threads("naples", 9, None, self.context())
            assert plain(page.data[0].thread) == plain(_thread("thr_1", "Trains to Naples"))
            assert page.data[0].excerpt == "Trains to Naples"

    async def test_hidden_context_is_never_found(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1"), self.context())
            for item in (
                _hidden("h1", "thr_1", "secret"),
                ending_note("h2", "thr_1", "turn_1", "secret"),
            ):
                await store.add_thread_item("thr_1", item, self.context())
                await store.save_item("thr_1", item, self.context())
            settled = ending_note("h3", "thr_1", "turn_2", "secret")
            await store.settle(Settlement("thr_1", None, (settled,)), self.context())
            assert await self._found(store, "secret") == []

    async def test_of_all_kinds_of_items_only_messages_are_found(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1"), self.context())
            for kind in ITEM_KINDS:
                await store.add_thread_item("thr_1", item_of_kind(kind, "thr_1"), self.context())
            for text in ("hello", "Which?", "thought", "rows", "stopped", "pdf", "model", "line"):
                assert await self._found(store, text) == []
            assert await self._found(store, "sales") == [("thr_1", "user_message_1", ["sales"])]
            assert await self._found(store, "table") == [
                ("thr_1", "assistant_message_1", ["table"])
            ]

    async def test_another_owner_finds_nothing(self, theirs: Any) -> None:
        mine = self.context()
        async with self.open_store() as store:
            for thread_id, context in (("thr_1", mine), ("thr_2", theirs)):
                await store.save_thread(_thread(thread_id, "boats"), context)
                item = said("m", thread_id, f"a boat of {thread_id}")
                await store.add_thread_item(thread_id, item, context)
            assert await self._found(store, "thr 1") == [("thr_1", "m", ["thr", "1"])]
            assert await self._found(store, "thr 2") == []
            page = await store.search_threads("boat", 1, None, mine)
            assert [hit.thread.id for hit in page.data] == ["thr_1"]
            rest = await store.search_threads("boat", 1, page.after, theirs)
            assert {hit.thread.id for hit in rest.data} <= {"thr_2"}

    async def test_what_is_deleted_is_not_found_any_more(self) -> None:
        async with self.open_store() as store:
            for number in range(3):
                thread_id = f"thr_{number}"
                await store.save_thread(_thread(thread_id, "boats", number), self.context())
                for item_id in ("m1", "m2", "m3"):
                    item = said(item_id, thread_id, "a boat", number)
                    await store.add_thread_item(thread_id, item, self.context())
            assert [hit[1] for hit in await self._found(store, "boat")] == ["m3", "m3", "m3"]
            await store.delete_thread("thr_2", self.context())
            await store.delete_thread_item("thr_1", "m3", self.context())
            await store.delete_items_after("thr_0", "m1", self.context())
            found = [("thr_1", "m2", ["boat"]), ("thr_0", "m1", ["boat"])]
            assert await self._found(store, "boat") == found
            # Whatever takes the place of what was deleted is not taken for it.
            await store.save_thread(_thread("thr_3", "cars", 9), self.context())
            for thread_id in ("thr_3", "thr_1", "thr_0"):
                item = said("m9", thread_id, "a car", 9)
                await store.add_thread_item(thread_id, item, self.context())
            assert sorted(await self._found(store, "boat")) == sorted(found)

    async def test_what_is_replaced_is_found_by_its_new_text_only(self) -> None:
        ways: Sequence[Callable[[Store[Any], ThreadItem], Awaitable[object]]] = (
            lambda store, item: store.save_item("thr_1", item, self.context()),
            lambda store, item: store.update_item("thr_1", item, self.context()),
            lambda store, item: store.settle(
                Settlement("thr_1", None, (), (item,)), self.context()
            ),
        )
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1", "old0"), self.context())
            await store.add_thread_item("thr_1", said("m", "thr_1", "old1"), self.context())
            assert await self._found(store, "old1") == [("thr_1", "m", ["old1"])]
            for number, replace in enumerate(ways, 2):
                await replace(store, said("m", "thr_1", f"old{number}"))
                assert await self._found(store, f"old{number - 1}") == []
                assert await self._found(store, f"old{number}") == [
                    ("thr_1", "m", [f"old{number}"])
                ]
            for number, rename in enumerate((store.save_thread, store.update_thread), 5):
                await rename(_thread("thr_1", f"old{number}"), self.context())
                assert await self._found(store, f"old{number}") == [
                    ("thr_1", None, [f"old{number}"])
                ]
            assert await self._found(store, "old0") == []

    async def test_what_a_turn_begins_and_settles_with_is_found(self) -> None:
        async with self.open_store() as store:
            opening = Opening(
                "thr_1",
                "turn_1",
                new_thread=_thread("thr_1", "opened"),
                new_items=(said("m1", "thr_1", "asked"),),
            )
            await self._open_turn(store, opening)
            settlement = Settlement(
                "thr_1",
                "turn_1",
                (answered("m2", "thr_1", "answered"),),
                thread=_thread("thr_1", "settled"),
            )
            assert await self._found(store, "opened") == [("thr_1", None, ["opened"])]
            await store.settle(settlement, self.context())
            assert await self._found(store, "asked") == [("thr_1", "m1", ["asked"])]
            assert await self._found(store, "answered") == [("thr_1", "m2", ["answered"])]
            assert await self._found(store, "settled") == [("thr_1", None, ["settled"])]
            assert await self._found(store, "opened") == []

    async def test_the_newest_message_that_matches_is_shown(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1", "boats"), self.context())
            for item_id, text in (("m1", "a boat"), ("m2", "two boats"), ("m3", "a car")):
                await store.add_thread_item("thr_1", said(item_id, "thr_1", text), self.context())
            assert await self._found(store, "boat") == [("thr_1", "m2", ["boat"])]
            assert await self._found(store, "boats") == [("thr_1", "m2", ["boats"])]

    @pytest.mark.parametrize("limit", [1, 2, 3, 4, sys.maxsize])
    async def test_pages_of_hits_hold_every_thread_once_the_latest_active_first(
        self, limit: int
    ) -> None:
        async with self.open_store() as store:
            for number, minutes in enumerate((3, 1, 4, 2)):
                thread_id = f"thr_{number}"
                await store.save_thread(_thread(thread_id), self.context())
                for item_id in ("m1", "m2"):
                    item = said(item_id, thread_id, "a boat", minutes)
                    await store.add_thread_item(thread_id, item, self.context())
            await store.save_thread(_thread("thr_other", "car", 9), self.context())
            pages = await self._pages(partial(store.search_threads, "boat", limit))
            assert max(map(len, pages)) <= limit
            found = [hit.thread.id for page in pages for hit in page]
            assert found == ["thr_2", "thr_0", "thr_3", "thr_1"]

    async def test_a_page_of_hits_goes_on_whatever_becomes_of_its_last_thread(self) -> None:
        async with self.open_store() as store:
            for number in range(6):
                await store.save_thread(_thread(f"thr_{number}", "boats", number), self.context())
            first = await store.search_threads("boat", 2, None, self.context())
            assert [hit.thread.id for hit in first.data] == ["thr_5", "thr_4"]
            await store.delete_thread("thr_4", self.context())
            await store.save_thread(_thread("thr_6", "boats", 6), self.context())
            second = await store.search_threads("boat", 2, first.after, self.context())
            assert [hit.thread.id for hit in second.data] == ["thr_3", "thr_2"]

    @pytest.mark.parametrize(
        ("query", "finds"),
        [
            ("shall leave", ["shall", "leave"]),
            ("LEAV  shall", ["shall", "leav"]),
            ("leave!", ["leave"]),
            ("cafe", ["Café"]),
            ("CAFÉ", ["Café"]),
            ("strasse", ["Straße"]),
            ("fé", []),
            ("hall", []),
            ("leave car", []),
            ("東", ["東"]),
            ("京都", ["京都"]),
            ("東京都に", ["東京都に"]),
            ("京東", []),
            ("京に", []),
            ("สวัส", ["สวัส"]),
            ("학교", ["학교"]),
            ("вагон", ["Вагон"]),
            ("👍", ["👍"]),
            ('"leave"', ["leave"]),
            ("leave AND NOT shall", []),
            ("lea*", ["lea"]),
            ("%", []),
            ("_", []),
            ("leave OR", []),
            ("NEAR(leave", []),
            ("a:leave", []),
            ("words:leave", []),
            ("-leave", ["leave"]),
            ("leave & !shall | x", []),
            ("'leave':*", ["leave"]),
            ("", []),
            ("   ", []),
            ("\x00", []),
            ("lea\x00", ["lea"]),
            ("\\", []),
            ("'", []),
            ('"', []),
            ('" OR 1=1 --', []),
            ("^{}()[]", []),
            ("\ud83d", []),
        ],
    )
    async def test_each_word_has_to_begin_a_word_of_the_text(
        self, query: str, finds: list[str]
    ) -> None:
        text = "We shall leave the Café in the Straße. 東京都に行く สวัสดี 학교에서 Вагоны 👍"
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1"), self.context())
            await store.add_thread_item("thr_1", said("m", "thr_1", text), self.context())
            expected = [("thr_1", "m", finds)] if finds else []
            assert await self._found(store, query) == expected

    @pytest.mark.parametrize(
        ("query", "text", "finds"),
        [
            ("\u2764", "\u2764\ufe0f", "\u2764\ufe0f"),
            ("\u2764\ufe0f", "\u2764", "\u2764"),
            ("love", "\u2764\ufe0flove", "love"),
            ("葛飾", "葛\U000e0100飾区", "葛\U000e0100飾"),
            ("cafe", "cafe\u0301 au lait", "cafe\u0301"),
        ],
        ids=["sign", "emoji", "word-behind", "kanji", "accent"],
    )
    async def test_what_only_says_how_a_character_looks_doesnt_count(
        self, query: str, text: str, finds: str
    ) -> None:
        """A keyboard writes an emoji as a sign and a variation selector."""
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1"), self.context())
            await store.add_thread_item("thr_1", said("m", "thr_1", text), self.context())
            assert await self._found(store, query) == [("thr_1", "m", [finds])]

    async def test_words_of_different_messages_dont_add_up(self) -> None:
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1", "three"), self.context())
            for item_id, text in (("m1", "one"), ("m2", "two")):
                await store.add_thread_item("thr_1", said(item_id, "thr_1", text), self.context())
            assert await self._found(store, "one two") == []
            assert await self._found(store, "two three") == []

    async def test_the_place_is_shown_in_a_long_text(self) -> None:
        text = (
            "x" * 30 + " before\n" * 5_000 + "<b>needle</b> é and another needle" + " behind" * 999
        )
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1"), self.context())
            await store.add_thread_item("thr_1", answered("m", "thr_1", text), self.context())
            (hit,) = (await store.search_threads("needle", 9, None, self.context())).data
            assert "<b>needle</b> é and another needle behind" in hit.excerpt
            assert len(hit.excerpt) < 400
            assert "\n" not in hit.excerpt
            assert [hit.excerpt[a:b] for a, b in hit.matches] == ["needle", "needle"]

    @pytest.mark.parametrize("query", ["a" * 257, "b " * 128 + "a", "東" * 10_000])
    async def test_a_query_that_is_too_long_is_refused(self, query: str) -> None:
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1", "a"), self.context())
            with pytest.raises(InvalidRequestError):
                await store.search_threads(query, 9, None, self.context())

    @pytest.mark.parametrize("cursor", ["", "thr_1", "x/thr_1", "2025/thr_1", "'", "/" * 999])
    async def test_what_is_no_cursor_is_not_found(self, cursor: str) -> None:
        async with self.open_store() as store:
            await store.save_thread(_thread("thr_1", "boat"), self.context())
            with pytest.raises(NotFoundError):
                await store.search_threads("boat", 9, cursor, self.context())
            with pytest.raises(NotFoundError):
                await store.load_threads_by_activity(9, cursor, self.context())

    async def test_a_search_that_is_cancelled_costs_the_next_one_nothing(self) -> None:
        async with self.open_store() as store:
            for step in itertools.count():
                item = said(f"m{step}", "thr_1", f"boat{step}", step)
                await store.save_thread(_thread("thr_1", f"raft{step}"), self.context())
                await store.save_item("thr_1", item, self.context())
                cancel = CancelAtStep(step)
                search = partial(store.search_threads, f"boat{step}", 9, None, self.context())
                await cancel.run(search)
                found = [("thr_1", f"m{step}", [f"boat{step}"])]
                assert await self._found(store, f"boat{step}") == found
                assert await self._found(store, f"raft{step}") == [("thr_1", None, [f"raft{step}"])]
                if not cancel.happened:
                    break

    @needs_persistence
    async def test_what_is_written_at_one_opening_is_found_at_the_other(self) -> None:
        async with self.open_store() as one, self.open_store() as other:
            await one.save_thread(_thread("thr_1"), self.context())
            for number in range(5):
                item = said(f"m{number}", "thr_1", f"boat{number}", number)
                await one.add_thread_item("thr_1", item, self.context())
                found = [("thr_1", f"m{number}", [f"boat{number}"])]
                assert await self._found(other, f"boat{number}") == found
            assert await self._active(other) == [("thr_1", 4)]
        async with self.open_store() as store:
            assert await self._found(store, "boat3") == [("thr_1", "m3", ["boat3"])]
            assert await self._active(store) == [("thr_1", 4)]

    # --- What they have in common

    async def _open_turn(self, store: Store[Any], opening: Opening) -> None:
        if store.coordination is None:
            await store.begin_turn(opening, self.context())
        else:
            assert await store.coordination.begin(opening, self.context()) is None

    async def _active(self, store: Store[Any]) -> list[tuple[str, float]]:
        """Return the threads by activity, with the minutes since noon."""
        page: Page[ActiveThread] = await store.load_threads_by_activity(99, None, self.context())
        return [
            (each.thread.id, (each.last_activity_at - NOON) / timedelta(minutes=1))
            for each in page.data
        ]

    async def _found(
        self, store: Store[Any], query: str
    ) -> list[tuple[str, str | None, list[str]]]:
        """Search, and return where and what was found."""
        pages = await self._pages(partial(store.search_threads, query, 99))
        hits: list[SearchHit] = [hit for page in pages for hit in page]
        return [
            (hit.thread.id, hit.item_id, [hit.excerpt[a:b] for a, b in hit.matches]) for hit in hits
        ]

    async def _pages(
        self, load: Callable[[str | None, Any], Awaitable[Page[Any]]]
    ) -> list[list[Any]]:
        pages: list[list[Any]] = []
        after: str | None = None
        while True:
            page = await load(after, self.context())
            pages.append(page.data)
            assert page.has_more == (page.after is not None)
            after = page.after
            if after is None:
                return pages
