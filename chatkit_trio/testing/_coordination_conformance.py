"""The part of the store conformance kit on coordination: two nodes and more on the same data.

Each test is one rule of `chatkit_trio.store.Coordination`. A node is a store that the test has
opened; a node is lost by closing it, or by `make_silent`, a hook of the store under test, and time
in which all are silent passes in `make_all_silent`.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import pytest
import trio

from chatkit_trio.errors import (
    ConflictError,
    NotFoundError,
    ThreadChangedError,
    TurnFencedError,
)
from chatkit_trio.limits import OwnerUsage, Rate
from chatkit_trio.store import (
    Coordination,
    Fence,
    Journal,
    JournalEntry,
    News,
    Opening,
    Settlement,
    Store,
    TurnRecord,
    UnstorableItem,
    fence,
)
from chatkit_trio.types import ClientToolCallItem, LockedStatus, ThreadItem

from ._store_samples import (
    A_BEGINNING,
    A_FULL_OPENING,
    NOON,
    OPERATIONS,
    UNREADABLE,
    WRITES,
    Snapshot,
    attachment,
    ending_note,
    full_opening,
    note,
    opening,
    plain,
    prepare,
    snapshot,
    thread,
)
from ._store_under_test import CancelAtStep, StoreUnderTest, item_ids

__all__ = ["CoordinationConformance"]


class CoordinationConformance(StoreUnderTest):
    """Tests of a store that several processes share; skipped for one without `coordination`."""

    @pytest.fixture(autouse=True)
    def _same_data(self, request: pytest.FixtureRequest) -> None:
        is_one_of_these = request.function.__name__ in vars(CoordinationConformance)
        if is_one_of_these and not self.persistent:
            pytest.skip("the store isn't persistent: no two nodes have the same data")

    @asynccontextmanager
    async def _nodes(self, count: int = 2) -> AsyncIterator[list[Store[Any]]]:
        """Open so many nodes on the same data, with a prepared thread."""
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(self.open_store()) for _ in range(count)]
            _coordination(nodes[0])
            await prepare(nodes[0], "thr_1", self.context())
            yield nodes

    async def _begin(self, node: Store[Any], turn_id: str, thread_id: str = "thr_1") -> str | None:
        """Let a turn ask to begin; return the id of the one that it has to wait for."""
        mine = opening(turn_id, thread_id)
        record = await _coordination(node).begin(mine, self.context())
        return None if record is None else record.turn_id

    async def _settle(self, node: Store[Any], turn_id: str, thread_id: str = "thr_1") -> None:
        await node.settle(Settlement(thread_id, turn_id), self.context())

    async def _take_for_dead(self, silent: Store[Any], *others: Store[Any]) -> None:
        """Make a node silent while the others aren't."""
        await self.make_silent(silent)
        for node in others:
            await _coordination(node).news()

    # --- Beginning

    async def test_each_opening_of_a_store_is_a_node_of_its_own(self) -> None:
        async with self._nodes() as nodes:
            names = [_coordination(node).node for node in nodes]
        async with self.open_store() as again:
            names.append(_coordination(again).node)
        assert all(isinstance(name, str) and name for name in names)
        assert len(set(names)) == 3

    async def test_the_nodes_are_those_that_are_open(self) -> None:
        async with self._nodes() as (node, other):
            living = {_named(node), _named(other)}
            async with self.open_store() as leaving:
                for each in (node, other, leaving):
                    assert await _living_nodes(each) == {*living, _named(leaving)}
            for each in (node, other):
                assert await _living_nodes(each) == living

    async def test_a_silent_node_isnt_among_the_nodes(self) -> None:
        async with self._nodes(3) as (node, other, silent):
            await self._take_for_dead(silent, node, other)
            assert await _living_nodes(node) == {_named(node), _named(other)}

    async def test_a_turn_that_begins_makes_all_of_its_first_writes(self) -> None:
        async with self._nodes() as (node, other):
            begun = full_opening("turn_1", "thr_1")
            assert await _coordination(node).begin(begun, self.context()) is None
            assert await snapshot(other, "thr_1", self.context()) == A_FULL_OPENING

    async def test_a_turn_may_begin_with_a_thread_that_it_makes(self) -> None:
        begun = Opening(
            "thr_2",
            "turn_1",
            new_thread=thread("thr_2", "new"),
            attachments=(attachment("atc_thr_2", "sent along"),),
            new_items=(note("i1", "thr_2", "hello"),),
        )
        async with self._nodes() as (node, other):
            assert await _coordination(node).begin(begun, self.context()) is None
            found = await snapshot(other, "thr_2", self.context())
            assert found == Snapshot("new", (("i1", "hello"),), "sent along")
            record = await _coordination(other).record("thr_2")
            assert record == TurnRecord("turn_1", "thr_2", _coordination(node).node)

    @pytest.mark.parametrize(
        "trouble", ["an id that is there", "an item that isn't there", "an unreadable item"]
    )
    async def test_a_turn_that_cant_make_a_first_write_leaves_nothing(self, trouble: str) -> None:
        last: ThreadItem = note("i1", "thr_1", "again")
        deleted_after = "i2"
        match trouble:
            case "an item that isn't there":
                last, deleted_after = note("i6", "thr_1"), "none"
            case "an unreadable item":
                last = _unreadable("thr_1")
        begun = Opening(
            "thr_1",
            "turn_1",
            attachments=(attachment("atc_thr_1", "after"),),
            delete_after=deleted_after,
            new_items=(note("i5", "thr_1"), last),
        )
        async with self._nodes() as (node, other):
            with pytest.raises((NotFoundError, ConflictError, ValueError)):
                await _coordination(node).begin(begun, self.context())
            assert await snapshot(other, "thr_1", self.context()) == _PREPARED
            assert await _coordination(other).record("thr_1") is None
            assert await self._begin(other, "turn_2") is None

    @pytest.mark.parametrize(
        "change",
        ["it was made", "it was locked", "an item was added", "an item was changed", "one is gone"],
    )
    async def test_a_turn_doesnt_begin_on_a_thread_that_has_changed_since_it_was_looked_at(
        self, change: str
    ) -> None:
        context = self.context()
        begun = full_opening("turn_1", "thr_1")
        async with self._nodes() as (node, other):
            match change:
                case "it was made":
                    begun = Opening("thr_1", "turn_1", new_thread=thread("thr_1", "again"))
                case "it was locked":
                    locked = thread("thr_1", "before")
                    locked.status = LockedStatus()
                    await other.save_thread(locked, context)
                case "an item was added":
                    await other.add_thread_item("thr_1", note("i5", "thr_1", "newer"), context)
                case "an item was changed":
                    await other.save_item("thr_1", note("i3", "thr_1", "newer"), context)
                case "one is gone":
                    await other.delete_thread_item("thr_1", "i1", context)
            before = await snapshot(other, "thr_1", context)
            with pytest.raises(ThreadChangedError):
                await _coordination(node).begin(begun, context)
            assert await snapshot(other, "thr_1", context) == before
            assert await _coordination(other).record("thr_1") is None
            # It has no place in the line either: nobody waits for it.
            assert await self._begin(other, "turn_2") is None

    async def test_a_turn_on_a_thread_that_isnt_there_is_not_found(self) -> None:
        async with self._nodes() as (node, other):
            with pytest.raises(NotFoundError):
                await self._begin(node, "turn_1", "thr_none")
            assert await _coordination(other).record("thr_none") is None

    async def test_of_many_who_begin_on_one_thread_one_is_let_in(self) -> None:
        answers: dict[str, str | None] = {}
        async with self._nodes() as nodes:

            async def begin(node: Store[Any], turn_id: str) -> None:
                answers[turn_id] = await self._begin(node, turn_id)

            async with trio.open_nursery() as nursery:
                for n in range(10):
                    nursery.start_soon(begin, nodes[n % 2], f"turn_{n}")
            (let_in,) = [turn_id for turn_id, answer in answers.items() if answer is None]
            assert {answer for answer in answers.values() if answer} == {let_in}
            record = await _coordination(nodes[0]).record("thr_1")
            assert record is not None
            assert record.turn_id == let_in
            ids = await item_ids(nodes[0], "thr_1", self.context())
            assert ids == ["i1", "i2", "i3", "i4", f"of_{let_in}"]

    async def test_a_turn_that_has_begun_here_begins_once(self) -> None:
        async with self._nodes() as (node, _):
            for _ in range(2):
                assert await self._begin(node, "turn_1") is None
            ids = await item_ids(node, "thr_1", self.context())
            assert ids == ["i1", "i2", "i3", "i4", "of_turn_1"]

    async def test_a_turn_that_is_settled_doesnt_begin_again(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_0")
            for one in (node, other):
                assert await self._begin(one, "turn_1") == "turn_0"
            await self._settle(node, "turn_0")
            assert await self._begin(node, "turn_1") is None
            await self._settle(node, "turn_1")
            before = await snapshot(node, "thr_1", self.context())
            for one in (other, node):
                with pytest.raises(ConflictError):
                    await self._begin(one, "turn_1")
            assert await snapshot(node, "thr_1", self.context()) == before
            assert await _coordination(node).record("thr_1") is None

    async def test_a_turn_that_wrote_nothing_at_first_doesnt_begin_again_either(self) -> None:
        """An action, say: nothing else tells that it was carried out."""
        async with self._nodes() as (node, other):
            action = Opening("thr_1", "turn_1")
            assert await _coordination(node).begin(action, self.context()) is None
            await self._settle(node, "turn_1")
            for one in (other, node):
                with pytest.raises(TurnFencedError):
                    await _coordination(one).begin(action, self.context())
            assert await _coordination(node).record("thr_1") is None

    async def test_a_turn_that_is_refused_is_told_who_holds_the_thread(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            refused = full_opening("turn_2", "thr_1")
            for one in (other, node):
                record = await _coordination(one).begin(refused, self.context())
                assert record == TurnRecord("turn_1", "thr_1", _coordination(node).node)
            items = (await snapshot(node, "thr_1", self.context())).items
            assert items == (*_PREPARED.items, ("of_turn_1", ""))

    async def test_turns_of_different_threads_are_live_at_once(self) -> None:
        async with self._nodes() as (node, other):
            await prepare(node, "THR_1", self.context())
            assert await self._begin(node, "turn_1", "thr_1") is None
            assert await self._begin(other, "turn_2", "THR_1") is None
            await self._settle(node, "turn_1")
            record = await _coordination(node).record("THR_1")
            assert record == TurnRecord("turn_2", "THR_1", _coordination(other).node)

    async def test_a_cancelled_beginning_is_made_whole_or_not_at_all(self) -> None:
        async with self._nodes() as (node, other):
            for step in itertools.count():
                thread_id = f"thr_1{step}"
                await prepare(node, thread_id, self.context())
                begun = full_opening(f"turn_{step}", thread_id)
                cancel = CancelAtStep(step)
                await cancel.run(partial(_coordination(node).begin, begun, self.context()))
                record = await _coordination(other).record(thread_id)
                found = await snapshot(other, thread_id, self.context())
                assert found == (_PREPARED if record is None else A_FULL_OPENING)
                assert record is not None or cancel.raised
                if self.exact_cancellation:
                    assert record is None or not cancel.raised
                assert await _coordination(node).begin(begun, self.context()) is None
                assert await snapshot(other, thread_id, self.context()) == A_FULL_OPENING
                if not cancel.happened:
                    break

    async def test_a_crash_at_any_statement_leaves_a_turn_begun_whole_or_not_at_all(self) -> None:
        states: list[str] = []
        crashed = True
        while crashed:
            thread_id = f"thr_{len(states)}"
            async with self.open_store() as store:
                _coordination(store)
                await prepare(store, thread_id, self.context())
            crashed = await self.crash_during(A_BEGINNING, thread_id, len(states) + 1)
            async with self.open_store() as store:
                entries = await _journal(store).abandoned(thread_id)
                found = await snapshot(store, thread_id, self.context())
                assert found == (A_FULL_OPENING if entries else _PREPARED)
                states.append("begun" if entries else "not begun")
        assert states == sorted(states, reverse=True)
        assert set(states) == {"not begun", "begun"}

    # --- The line

    async def test_turns_that_wait_begin_in_the_order_in_which_they_came(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_0")
            for waiting, at in (("turn_3", other), ("turn_1", node), ("turn_2", other)):
                assert await self._begin(at, waiting) == "turn_0"
            await self._settle(node, "turn_0")
            for waiting, at in (("turn_2", other), ("turn_1", node)):
                assert await self._begin(at, waiting) == "turn_3"
            assert await self._begin(other, "turn_3") is None
            assert await self._begin(node, "turn_1") == "turn_3"
            await self._settle(other, "turn_3")
            assert await self._begin(other, "turn_2") == "turn_1"
            assert await self._begin(node, "turn_1") is None
            await self._settle(node, "turn_1")
            assert await self._begin(other, "turn_2") is None
            ids = await item_ids(node, "thr_1", self.context())
            assert ids[4:] == [f"of_turn_{n}" for n in (0, 3, 1, 2)]

    async def test_who_comes_to_a_free_thread_waits_behind_those_who_wait(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_0")
            await self._begin(node, "turn_1")
            await self._settle(node, "turn_0")
            record = await _coordination(other).begin(opening("turn_2", "thr_1"), self.context())
            assert record == TurnRecord("turn_1", "thr_1", _coordination(node).node)
            assert await self._begin(node, "turn_1") is None

    async def test_who_comes_later_waits_behind_a_turn_that_has_lined_up(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_0")
            for turn_id in ("turn_1", "turn_2", "turn_1"):
                await _coordination(node).line_up(turn_id, "thr_1", self.context())
            assert await self._begin(other, "turn_3") == "turn_0"
            await self._settle(node, "turn_0")
            assert await self._begin(other, "turn_3") == "turn_1"
            assert await self._begin(node, "turn_2") == "turn_1"
            assert await self._begin(node, "turn_1") is None
            await _coordination(node).withdraw("turn_2")
            await self._settle(node, "turn_1")
            assert await self._begin(other, "turn_3") is None

    async def test_a_live_turn_that_lines_up_gets_no_place(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            await _coordination(node).line_up("turn_1", "thr_1", self.context())
            await self._settle(node, "turn_1")
            assert await self._begin(other, "turn_2") is None

    async def test_a_turn_that_lines_up_writes_nothing_else(self) -> None:
        async with self._nodes() as (node, other):
            await _coordination(node).line_up("turn_1", "thr_1", self.context())
            assert await snapshot(node, "thr_1", self.context()) == _PREPARED
            assert await _coordination(other).record("thr_1") is None
            assert await self._begin(other, "turn_2") == "turn_1"

    async def test_the_line_of_one_thread_holds_up_no_other(self) -> None:
        async with self._nodes() as (node, other):
            await prepare(node, "thr_2", self.context())
            await self._begin(node, "turn_0")
            await self._begin(node, "turn_1")
            assert await self._begin(other, "turn_2", "thr_2") is None

    async def test_a_place_that_is_given_up_is_waited_for_no_more(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_0")
            for turn_id in ("turn_1", "turn_2"):
                await self._begin(node, turn_id)
            await self._settle(node, "turn_0")
            for turn_id in ("turn_1", "turn_1", "turn_none"):
                await _coordination(node).withdraw(turn_id)
            assert await self._begin(other, "turn_3") == "turn_2"
            assert await self._begin(node, "turn_2") is None

    async def test_no_node_gives_up_the_place_of_another(self) -> None:
        """A request that is sent again to another node is the same turn."""
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_0")
            await self._begin(node, "turn_1")
            await self._begin(other, "turn_2")
            assert await self._begin(other, "turn_1") == "turn_0"
            await _coordination(other).withdraw("turn_1")
            await self._settle(node, "turn_0")
            assert await self._begin(other, "turn_2") == "turn_1"
            assert await self._begin(node, "turn_1") is None

    async def test_withdrawing_doesnt_end_a_live_turn(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            await _coordination(node).withdraw("turn_1")
            assert await self._begin(other, "turn_2") == "turn_1"

    async def test_the_places_of_a_node_that_left_dont_count(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_0")
            async with self.open_store() as leaving:
                await self._begin(leaving, "turn_1")
            await self._begin(other, "turn_2")
            await self._settle(node, "turn_0")
            assert await self._begin(other, "turn_2") is None

    async def test_the_places_of_a_silent_node_dont_count(self) -> None:
        async with self._nodes(3) as (node, other, silent):
            await self._begin(node, "turn_0")
            await self._begin(silent, "turn_1")
            await self._begin(other, "turn_2")
            await self._settle(node, "turn_0")
            assert await self._begin(other, "turn_2") == "turn_1"
            await self._take_for_dead(silent, node, other)
            assert await self._begin(other, "turn_2") is None

    # --- Records

    async def test_every_node_sees_the_record_of_a_live_turn(self) -> None:
        async with self._nodes() as nodes:
            for node in nodes:
                assert await _coordination(node).record("thr_1") is None
            await self._begin(nodes[0], "turn_1")
            for node in nodes:
                record = await _coordination(node).record("thr_1")
                assert record == TurnRecord("turn_1", "thr_1", _coordination(nodes[0]).node)
            await self._settle(nodes[0], "turn_1")
            for node in nodes:
                assert await _coordination(node).record("thr_1") is None

    async def test_every_node_sees_what_a_live_turn_has_checkpointed(self) -> None:
        async with self._nodes() as nodes:
            await self._begin(nodes[0], "turn_1")
            for node in nodes:
                found = await _coordination(node).checkpointed("turn_1")
                assert plain([found]) == plain([JournalEntry("turn_1", "thr_1")])
            changed = (note("i1", "thr_1", "grown"),)
            for text in ("half", "more"):
                items = (note("i5", "thr_1", text),)
                entry = JournalEntry("turn_1", "thr_1", items, changed)
                await _journal(nodes[0]).checkpoint([entry])
                for node in nodes:
                    found = await _coordination(node).checkpointed("turn_1")
                    assert plain([found]) == plain([entry])
            await self._settle(nodes[0], "turn_1")
            for node in nodes:
                assert await _coordination(node).checkpointed("turn_1") is None

    async def test_a_settlement_stores_the_answer_and_ends_the_record(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            await node.settle(_STOPPED, self.context())
            items = (await snapshot(other, "thr_1", self.context())).items
            assert items[5:] == (("i5", "whole"), ("n2", "stopped"))
            assert await self._begin(other, "turn_2") is None

    async def test_a_cancelled_settlement_ends_the_record_or_leaves_it(self) -> None:
        async with self._nodes() as (node, other):
            for step in itertools.count():
                thread_id, turn_id = f"thr_1{step}", f"turn_{step}"
                await prepare(node, thread_id, self.context())
                await self._begin(node, turn_id, thread_id)
                settlement = Settlement(thread_id, turn_id, (note("i5", thread_id),))
                cancel = CancelAtStep(step)
                await cancel.run(partial(node.settle, settlement, self.context()))
                is_live = await _coordination(other).record(thread_id) is not None
                assert is_live != await other.has_item(thread_id, "i5", self.context())
                assert not is_live or cancel.raised
                if self.exact_cancellation:
                    assert is_live or not cancel.raised
                await node.settle(settlement, self.context())
                assert await _coordination(other).record(thread_id) is None
                if not cancel.happened:
                    break

    async def test_deleting_a_thread_ends_its_turn_and_its_line(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            await self._begin(node, "turn_2")
            await other.delete_thread("thr_1", self.context())
            assert await _coordination(node).record("thr_1") is None
            assert await _coordination(node).checkpointed("turn_1") is None
            assert (await _coordination(node).news()).live == frozenset()
            with pytest.raises(NotFoundError):
                await self._begin(node, "turn_2")
            with pytest.raises((NotFoundError, TurnFencedError)):
                await self._settle(node, "turn_1")
            await prepare(other, "thr_1", self.context())
            assert await self._begin(other, "turn_3") is None

    # --- Owners

    async def test_another_owners_thread_is_not_found_whoever_holds_it(self, theirs: Any) -> None:
        async with self._nodes() as (node, other):
            for turn_id in ("turn_1", "turn_2"):
                for mine in (opening("theirs", "thr_1"), Opening("thr_1", "theirs")):
                    with pytest.raises(NotFoundError):
                        await _coordination(other).begin(mine, theirs)
                assert await self._begin(node, turn_id) is None
                with pytest.raises(NotFoundError):
                    await _coordination(other).begin(Opening("thr_1", "theirs"), theirs)
                await self._settle(node, turn_id)

    async def test_another_owners_thread_isnt_made_again(self, theirs: Any) -> None:
        begun = Opening("thr_1", "theirs", new_thread=thread("thr_1", "theirs"))
        async with self._nodes() as (node, other):
            with pytest.raises(NotFoundError):
                await _coordination(other).begin(begun, theirs)
            assert await snapshot(node, "thr_1", self.context()) == _PREPARED
            assert await _coordination(node).record("thr_1") is None

    async def test_another_owners_attachment_isnt_replaced(self, theirs: Any) -> None:
        begun = Opening(
            "thr_2",
            "theirs",
            new_thread=thread("thr_2"),
            attachments=(attachment("atc_thr_1", "theirs"),),
        )
        async with self._nodes() as (node, other):
            with pytest.raises(NotFoundError):
                await _coordination(other).begin(begun, theirs)
            assert await snapshot(node, "thr_1", self.context()) == _PREPARED
            with pytest.raises(NotFoundError):
                await node.load_thread("thr_2", theirs)

    async def test_the_id_of_another_owners_turn_is_a_conflict(self, theirs: Any) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            await prepare(node, "thr_2", theirs)
            for one in (node, other):
                with pytest.raises(ConflictError):
                    await _coordination(one).begin(opening("turn_1", "thr_2"), theirs)
                with pytest.raises(ConflictError):
                    await _coordination(one).line_up("turn_1", "thr_2", theirs)
            assert await snapshot(node, "thr_2", theirs) == _PREPARED
            assert await _coordination(node).record("thr_2") is None

    async def test_another_owner_settles_no_turn_of_mine(self, theirs: Any) -> None:
        async with self._nodes() as (node, _):
            await self._begin(node, "turn_1")
            await prepare(node, "thr_2", theirs)
            with suppress(NotFoundError, TurnFencedError):
                await node.settle(Settlement("thr_2", "turn_1"), theirs)
            assert await _coordination(node).record("thr_1") is not None

    # --- What owners use

    async def test_what_one_node_lets_an_owner_spend_is_missing_to_all(self) -> None:
        async with self._nodes() as (node, other):
            one, two = _usage(node), _usage(other)
            assert await one.spend("Ann", "requests_per_minute", 4, _RATE) == 0
            assert await two.spend("Ann", "requests_per_minute", 5, _RATE) == 0
            assert await two.spend("Ann", "requests_per_minute", 1, _RATE, only_look=True) == 0
            for usage in (one, two):
                wait = await usage.spend("Ann", "requests_per_minute", 3, _RATE)
                assert 0 < wait <= 2 * _RATE.seconds / _RATE.amount
            assert await one.spend("Ann", "requests_per_minute", 1, _RATE) == 0
            assert await two.spend("Ann", "requests_per_minute", 1, _RATE) > 0

    async def test_rates_of_other_owners_and_kinds_are_others(self) -> None:
        async with self._nodes(1) as (node,):
            usage = _usage(node)
            assert await usage.spend("Ann", "requests_per_minute", 10, _RATE) == 0
            assert await usage.spend("Ben", "requests_per_minute", 10, _RATE) == 0
            assert await usage.spend("Ann", "uploads_per_hour", 10, _RATE) == 0
            assert await usage.spend("Ann", "requests_per_minute", 1, _RATE) > 0

    async def test_more_than_a_rate_has_is_spent_when_nothing_was(self) -> None:
        async with self._nodes(1) as (node,):
            usage = _usage(node)
            assert await usage.spend("Ann", "text_bytes_per_minute", 25, _RATE) == 0
            wait = await usage.spend("Ann", "text_bytes_per_minute", 1, _RATE)
            assert wait > 1.5 * _RATE.seconds

    async def test_of_many_who_spend_at_once_no_more_is_let_pass_than_there_is(self) -> None:
        async with self._nodes() as nodes:
            waits: list[float] = []

            async def spend(node: Store[Any]) -> None:
                waits.append(await _usage(node).spend("Ann", "requests_per_minute", 1, _RATE))

            async with trio.open_nursery() as nursery:
                for number in range(15):
                    nursery.start_soon(spend, nodes[number % 2])
            assert sum(wait == 0 for wait in waits) == _RATE.amount

    async def test_the_slots_that_one_node_has_taken_are_missing_to_all(self) -> None:
        async with self._nodes() as (node, other):
            one, two = _usage(node), _usage(other)
            assert await one.take_slot("Ann", "live_turns", "slot_1", 2, None)
            one.keep_slot("Ann", "live_turns", "slot_1")
            assert await two.take_slot("Ann", "live_turns", "slot_2", 2, None)
            for usage in (one, two):
                assert not await usage.take_slot("Ann", "live_turns", "slot_3", 2, None)
                assert await usage.take_slot("Ben", "live_turns", f"of {id(usage)}", 2, None)
            two.free_slot("Ann", "live_turns", "slot_2")
            two.free_slot("Ann", "live_turns", "slot_2")
            await _coordination(other).news()
            assert await one.take_slot("Ann", "live_turns", "slot_3", 2, None)
            assert not await two.take_slot("Ann", "live_turns", "slot_4", 2, None)

    async def test_a_slot_that_another_replaces_isnt_counted(self) -> None:
        async with self._nodes() as (node, other):
            one, two = _usage(node), _usage(other)
            assert await one.take_slot("Ann", "live_turns", "slot_1", 1, None)
            one.keep_slot("Ann", "live_turns", "slot_1")
            await _coordination(node).news()
            assert not await two.take_slot("Ann", "live_turns", "slot_2", 1, None)
            assert await two.take_slot("Ann", "live_turns", "slot_2", 1, "slot_1")
            assert not await one.take_slot("Ann", "live_turns", "slot_3", 1, None)
            one.free_slot("Ann", "live_turns", "slot_1")
            await _coordination(node).news()
            assert not await one.take_slot("Ann", "live_turns", "slot_3", 1, None)

    async def test_of_many_who_take_slots_at_once_no_more_get_one_than_there_are(self) -> None:
        async with self._nodes() as nodes:
            taken: list[str] = []

            async def take(node: Store[Any], slot_id: str) -> None:
                if await _usage(node).take_slot("Ann", "live_turns", slot_id, 3, None):
                    taken.append(slot_id)

            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(take, nodes[number % 2], f"slot_{number}")
            assert len(taken) == 3

    async def test_the_slots_of_a_node_that_left_are_free(self) -> None:
        async with self._nodes(1) as (node,):
            async with self.open_store() as leaving:
                assert await _usage(leaving).take_slot("Ann", "live_turns", "slot_1", 1, None)
                _usage(leaving).keep_slot("Ann", "live_turns", "slot_1")
                await _coordination(leaving).news()
                assert not await _usage(node).take_slot("Ann", "live_turns", "slot_2", 1, None)
            assert await _usage(node).take_slot("Ann", "live_turns", "slot_2", 1, None)

    # --- Nodes that are gone

    async def test_the_turn_of_a_node_that_left_holds_its_thread_until_it_is_settled(self) -> None:
        async with self._nodes(1) as (node,):
            async with self.open_store() as leaving:
                await self._begin(leaving, "turn_1")
                entry = JournalEntry("turn_1", "thr_1", (note("i5", "thr_1", "partial"),))
                await _journal(leaving).checkpoint([entry])
            assert await self._begin(node, "turn_2") == "turn_1"
            found = await _journal(node).abandoned("thr_1")
            assert plain(found) == plain([entry])
            assert await self._begin(node, "turn_2") == "turn_1"
            record = await _coordination(node).record("thr_1")
            assert record is not None
            assert record.turn_id == "turn_1"
            for _ in range(2):
                await _journal(node).settle_abandoned(_CRASHED)
            assert await self._begin(node, "turn_2") is None
            items = (await snapshot(node, "thr_1", self.context())).items
            expected = ["of_turn_1", "i5", "n1", "of_turn_2"]
            assert [item_id for item_id, _ in items[4:]] == expected

    async def test_the_turn_of_a_silent_node_is_abandoned_and_settled_once(self) -> None:
        async with self._nodes(3) as (node, other, silent):
            await self._begin(silent, "turn_1")
            for one in (node, other):
                assert await _journal(one).abandoned() == []
            await self._take_for_dead(silent, node, other)
            for one in (node, other):
                found = await _journal(one).abandoned("thr_1")
                assert plain(found) == plain([JournalEntry("turn_1", "thr_1")])
            for one in (node, other):
                await _journal(one).settle_abandoned(_CRASHED)
            assert await _journal(node).abandoned() == []
            items = (await snapshot(node, "thr_1", self.context())).items
            assert items[5:] == (("i5", "partial"), ("n1", "crashed"))

    async def test_the_turns_of_nodes_that_ask_for_news_are_never_abandoned(self) -> None:
        async with self._nodes(3) as (node, other, silent):
            await self._begin(node, "turn_1")
            await self._take_for_dead(silent, node, other)
            assert await _journal(other).abandoned() == []
            assert await _journal(node).abandoned() == []

    @pytest.mark.parametrize("first", ["nothing", "its news", "a turn", "a turn and its news"])
    async def test_a_node_that_was_silent_as_long_as_the_others_takes_none_for_dead(
        self, first: str
    ) -> None:
        """Machines are suspended, the store is away: then nobody's silence means anything."""
        async with self._nodes(3) as (node, other, judge):
            await prepare(node, "thr_2", self.context())
            await self._begin(node, "turn_1")
            await self._begin(other, "turn_2")
            await self.make_all_silent()
            if "turn" in first:
                assert await self._begin(judge, "turn_3", "thr_2") is None
            if "news" in first:
                await _coordination(judge).news()
            assert await _journal(judge).abandoned() == []
            assert await _journal(judge).abandoned("thr_1") == []
            await _coordination(judge).post(_named(node), b"message")
            assert await self._begin(judge, "turn_4") == "turn_1"
            assert await _coordination(node).news() == News((b"message",), frozenset({"turn_1"}))
            await self._settle(node, "turn_1")
            assert await self._begin(judge, "turn_4") == "turn_2"

    async def test_nodes_that_were_all_silent_are_still_among_the_nodes(self) -> None:
        async with self._nodes() as (node, judge):
            living = {_named(node), _named(judge)}
            await self.make_all_silent()
            assert await _living_nodes(judge) == living
            await _coordination(judge).news()
            assert await _living_nodes(judge) == living

    async def test_the_slots_of_nodes_that_were_all_silent_are_kept(self) -> None:
        async with self._nodes() as (node, judge):
            assert await _usage(node).take_slot("Ann", "live_turns", "slot_1", 1, None)
            _usage(node).keep_slot("Ann", "live_turns", "slot_1")
            await _coordination(node).news()
            await self.make_all_silent()
            for _ in range(2):
                assert not await _usage(judge).take_slot("Ann", "live_turns", "slot_2", 1, None)
                await _coordination(judge).news()

    async def test_who_stays_silent_behind_a_silence_of_all_is_dead_in_the_end(self) -> None:
        async with self._nodes() as (silent, judge):
            await self._begin(silent, "turn_1")
            await self.make_all_silent()
            await _coordination(judge).news()
            await self._take_for_dead(silent, judge)
            found = await _journal(judge).abandoned()
            assert plain(found) == plain([JournalEntry("turn_1", "thr_1")])

    async def test_a_node_that_was_taken_for_dead_learns_it_from_its_news(self) -> None:
        async with self._nodes() as (node, silent):
            await self._begin(silent, "turn_1")
            assert (await _coordination(silent).news()).live == {"turn_1"}
            await self._take_for_dead(silent, node)
            await _journal(node).abandoned()
            assert (await _coordination(silent).news()).live == frozenset()
            await _journal(node).settle_abandoned(_CRASHED)
            assert (await _coordination(silent).news()).live == frozenset()

    async def test_a_turn_that_is_given_up_is_abandoned_though_its_node_lives(self) -> None:
        async with self._nodes() as (node, other):
            await prepare(node, "thr_2", self.context())
            await self._begin(node, "turn_1")
            await self._begin(node, "turn_2", "thr_2")
            for turn_id in ("turn_1", "turn_1", "turn_none"):
                await _coordination(node).abandon(turn_id)
            assert (await _coordination(node).news()).live == {"turn_2"}
            for one in (other, node):
                found = await _journal(one).abandoned()
                assert plain(found) == plain([JournalEntry("turn_1", "thr_1")])
            assert await self._begin(other, "turn_3") == "turn_1"
            with _fence_of("turn_1"), pytest.raises(TurnFencedError):
                await node.add_thread_item("thr_1", note("i5", "thr_1"), self.context())
            await _journal(node).settle_abandoned(_CRASHED)
            assert await self._begin(other, "turn_3") is None

    async def test_no_node_abandons_the_turn_of_another(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            await _coordination(other).abandon("turn_1")
            assert (await _coordination(node).news()).live == {"turn_1"}
            assert await _journal(other).abandoned() == []

    # --- The fence

    @pytest.mark.parametrize("operation", WRITES)
    async def test_a_live_turn_writes(self, operation: str) -> None:
        async with self._nodes() as (node, other):
            await prepare(node, "thr_2", self.context())
            await OPERATIONS[operation](node, "thr_2", self.context())
            after = await snapshot(node, "thr_2", self.context())
            await prepare(node, "thr_3", self.context())
            await _coordination(node).begin(Opening("thr_1", "turn_1"), self.context())
            with _fence_of("turn_1"):
                await OPERATIONS[operation](node, "thr_3", self.context())
            assert await snapshot(other, "thr_3", self.context()) == after

    @pytest.mark.parametrize("operation", WRITES)
    async def test_a_turn_that_is_settled_writes_nothing(self, operation: str) -> None:
        async with self._nodes() as (node, other):
            await _coordination(node).begin(Opening("thr_1", "turn_1"), self.context())
            await self._settle(node, "turn_1")
            with _fence_of("turn_1"), pytest.raises(TurnFencedError):
                await OPERATIONS[operation](node, "thr_1", self.context())
            assert await snapshot(other, "thr_1", self.context()) == _PREPARED

    @pytest.mark.parametrize("operation", WRITES)
    async def test_a_turn_that_was_taken_for_dead_writes_nothing(self, operation: str) -> None:
        async with self._nodes() as (node, silent):
            await _coordination(silent).begin(Opening("thr_1", "turn_1"), self.context())
            await self._take_for_dead(silent, node)
            await _journal(node).abandoned("thr_1")
            with _fence_of("turn_1"), pytest.raises(TurnFencedError):
                await OPERATIONS[operation](silent, "thr_1", self.context())
            assert await snapshot(node, "thr_1", self.context()) == _PREPARED
            await _journal(node).settle_abandoned(Settlement("thr_1", "turn_1"))
            with _fence_of("turn_1"), pytest.raises(TurnFencedError):
                await OPERATIONS[operation](silent, "thr_1", self.context())
            assert await snapshot(node, "thr_1", self.context()) == _PREPARED

    async def test_a_turn_that_is_live_elsewhere_writes_nothing_here(self) -> None:
        async with self._nodes() as (node, other):
            await _coordination(node).begin(Opening("thr_1", "turn_1"), self.context())
            with _fence_of("turn_1"), pytest.raises(TurnFencedError):
                await other.add_thread_item("thr_1", note("i5", "thr_1"), self.context())
            assert await snapshot(node, "thr_1", self.context()) == _PREPARED

    async def test_a_turn_of_a_deleted_thread_brings_nothing_back(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            await other.delete_thread("thr_1", self.context())
            with _fence_of("turn_1"):
                with pytest.raises(TurnFencedError):
                    await node.save_thread(thread("thr_1"), self.context())
                with pytest.raises(TurnFencedError):
                    await node.save_attachment(attachment("atc_1"), self.context())
            assert (await other.load_threads(10, None, "asc", self.context())).data == []
            with pytest.raises(NotFoundError):
                await other.load_attachment("atc_1", self.context())

    async def test_a_turn_deletes_its_own_thread_and_writes_nothing_more(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            await self._begin(other, "turn_2")
            with _fence_of("turn_1"):
                await node.delete_thread("thr_1", self.context())
                with pytest.raises((NotFoundError, TurnFencedError)):
                    await node.save_thread(thread("thr_1"), self.context())
                with pytest.raises((NotFoundError, TurnFencedError)):
                    await self._settle(node, "turn_1")
            assert (await other.load_threads(10, None, "asc", self.context())).data == []
            assert await _coordination(other).record("thr_1") is None
            with pytest.raises(NotFoundError):
                await self._begin(other, "turn_2")

    async def test_a_turn_reads_behind_its_end(self) -> None:
        async with self._nodes() as (node, _):
            with _fence_of("turn_none"):
                assert await snapshot(node, "thr_1", self.context()) == _PREPARED
                assert await _coordination(node).record("thr_1") is None

    async def test_what_is_refused_is_set_aside_behind_the_end_of_its_turn(self) -> None:
        async with self._nodes() as (node, _):
            await self._begin(node, "turn_1")
            await self._settle(node, "turn_1")
            with _fence_of("turn_1"):
                item = UnstorableItem("thr_1", "i5", "turn_1", "text", "refused")
                await node.set_aside(item, self.context())

    async def test_others_write_while_a_turn_is_live(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            for n, one in enumerate((node, other)):
                await one.add_thread_item("thr_1", note(f"x{n}", "thr_1"), self.context())
            ids = await item_ids(node, "thr_1", self.context())
            assert ids[4:] == ["of_turn_1", "x0", "x1"]

    async def test_a_turn_whose_fence_is_lifted_writes_as_anybody(self) -> None:
        async with self._nodes() as (node, _):
            with _fence_of("turn_1") as mine:
                mine.lift()
                await node.save_thread(thread("thr_1", "after"), self.context())
            assert (await node.load_thread("thr_1", self.context())).title == "after"

    async def test_what_is_on_its_way_when_its_turn_settles_itself_is_written(self) -> None:
        """Writers are at work while their own turn is settled: none may be refused."""
        async with self._nodes() as (node, other):
            for n in range(5):
                thread_id, turn_id = f"thr_1{n}", f"turn_{n}"
                await prepare(node, thread_id, self.context())
                await self._begin(node, turn_id, thread_id)
                with _fence_of(turn_id) as mine:
                    async with trio.open_nursery() as nursery:
                        for writer in range(4):
                            nursery.start_soon(self._write_some, node, thread_id, writer)
                        while not await other.has_item(thread_id, "0-0", self.context()):
                            pass
                        with mine.settling():
                            await self._settle(node, turn_id, thread_id)
                            mine.lift()
                ids = await item_ids(node, thread_id, self.context())
                written = {f"{writer}-{m}" for writer in range(4) for m in range(20)}
                assert written <= set(ids)

    async def _write_some(self, node: Store[Any], thread_id: str, writer: int) -> None:
        for n in range(20):
            await node.add_thread_item(thread_id, note(f"{writer}-{n}", thread_id), self.context())

    async def test_nothing_is_written_behind_the_settlement_of_another(self) -> None:
        """Writers are at work while their turn is taken over: none may come too late."""
        async with self._nodes() as (node, silent):
            for n in range(5):
                thread_id, turn_id = f"thr_1{n}", f"turn_{n}"
                await prepare(node, thread_id, self.context())
                await self._begin(silent, turn_id, thread_id)
                await self._take_for_dead(silent, node)
                last = note("last", thread_id)
                async with trio.open_nursery() as nursery:
                    for writer in range(4):
                        nursery.start_soon(self._write_on, silent, turn_id, thread_id, writer)
                    is_written = False
                    while not is_written:
                        is_written = await node.has_item(thread_id, "0-0", self.context())
                    await _journal(node).abandoned(thread_id)
                    settlement = Settlement(thread_id, turn_id, (last,))
                    await _journal(node).settle_abandoned(settlement)
                assert (await item_ids(node, thread_id, self.context()))[-1] == "last"

    async def _write_on(self, node: Store[Any], turn_id: str, thread_id: str, writer: int) -> None:
        """Write as a task of a turn, until the fence stops it."""
        with _fence_of(turn_id), suppress(TurnFencedError):
            for n in itertools.count():
                item = note(f"{writer}-{n}", thread_id)
                await node.add_thread_item(thread_id, item, self.context())

    async def test_a_settlement_that_is_repeated_is_stored_once(self) -> None:
        async with self._nodes() as (node, _):
            await self._begin(node, "turn_1")
            with _fence_of("turn_1"):
                for _ in range(2):
                    await node.settle(_STOPPED, self.context())
                    items = (await snapshot(node, "thr_1", self.context())).items
                    assert items[5:] == (("i5", "whole"), ("n2", "stopped"))

    async def test_a_repeated_settlement_undoes_nothing_that_came_after_it(self) -> None:
        async with self._nodes() as (node, other):
            await self._begin(node, "turn_1")
            settlement = Settlement("thr_1", "turn_1", (note("i5", "thr_1", "whole"),))
            await node.settle(settlement, self.context())
            assert await self._begin(other, "turn_2") is None
            await node.settle(settlement, self.context())
            ids = await item_ids(node, "thr_1", self.context())
            assert ids[4:] == ["of_turn_1", "i5", "of_turn_2"]
            record = await _coordination(node).record("thr_1")
            assert record is not None
            assert record.turn_id == "turn_2"

    async def test_a_turn_that_another_has_only_marked_is_settled_whole_by_its_node(self) -> None:
        async with self._nodes() as (node, silent):
            await self._begin(silent, "turn_1")
            await self._take_for_dead(silent, node)
            await _journal(node).abandoned("thr_1")
            with _fence_of("turn_1"):
                for is_own in (False, True):
                    assert await silent.settle(_STOPPED, self.context()) in (is_own, None)
                    items = (await snapshot(node, "thr_1", self.context())).items
                    assert items[5:] == (("i5", "whole"), ("n2", "stopped"))
            await _journal(node).settle_abandoned(_CRASHED)
            assert await _journal(node).abandoned() == []
            assert (await snapshot(node, "thr_1", self.context())).items == items

    async def test_a_turn_that_another_has_settled_is_refused_or_completed(self) -> None:
        """Completed, if the store's `settle` has the rule for a turn that was alive after all."""
        async with self._nodes() as (node, silent):
            await self._begin(silent, "turn_1")
            await self._take_for_dead(silent, node)
            await _journal(node).abandoned()
            await _journal(node).settle_abandoned(_CRASHED)
            text = "whole"
            with _fence_of("turn_1"):
                try:
                    assert await silent.settle(_STOPPED, self.context()) is False
                except TurnFencedError:
                    text = "partial"
            items = (await snapshot(node, "thr_1", self.context())).items
            assert items[5:] == (("i5", text), ("n1", "crashed"))

    # --- Messages and news

    async def test_messages_arrive_once_and_in_order(self) -> None:
        messages = (b"first", b"\x00\xff", b"", b"x" * 100_000)
        async with self._nodes() as (node, other):
            assert await _coordination(other).news() == News()
            for message in messages:
                await _coordination(node).post(_coordination(other).node, message)
            await _coordination(other).post(_coordination(other).node, b"mine")
            assert await _coordination(node).news() == News()
            assert await _coordination(other).news() == News((*messages, b"mine"))
            assert await _coordination(other).news() == News()

    async def test_a_message_to_a_node_that_left_is_dropped(self) -> None:
        async with self._nodes() as (node, other):
            async with self.open_store() as leaving:
                name = _coordination(leaving).node
            for gone in (name, "node_none"):
                await _coordination(node).post(gone, b"lost")
            async with self.open_store() as new:
                for one in (new, node, other):
                    assert await _coordination(one).news() == News()

    async def test_of_many_who_post_and_ask_each_message_is_heard_once(self) -> None:
        heard: list[bytes] = []
        async with self._nodes() as (node, other):

            async def post(writer: int) -> None:
                for n in range(10):
                    message = b"%d %d" % (writer, n)
                    await _coordination(node).post(_coordination(other).node, message)

            async def listen() -> None:
                for _ in range(10):
                    heard.extend((await _coordination(other).news()).messages)

            async with trio.open_nursery() as nursery:
                for writer in range(4):
                    nursery.start_soon(post, writer)
                for _ in range(3):
                    nursery.start_soon(listen)
            heard.extend((await _coordination(other).news()).messages)
        assert sorted(heard) == [b"%d %d" % (w, n) for w in range(4) for n in range(10)]

    async def test_who_is_cancelled_while_it_asks_for_news_loses_none(self) -> None:
        async with self._nodes() as (node, other):
            for step in itertools.count():
                message = b"%d" % step
                heard: list[bytes] = []
                await _coordination(node).post(_coordination(other).node, message)

                async def listen(heard: list[bytes] = heard) -> None:
                    heard.extend((await _coordination(other).news()).messages)

                cancel = CancelAtStep(step)
                await cancel.run(listen)
                assert heard == ([] if cancel.raised else [message])
                await listen()
                assert heard == [message]
                if not cancel.happened:
                    break

    async def test_a_cancelled_message_is_posted_or_not_as_it_says(self) -> None:
        async with self._nodes() as (node, other):
            for step in itertools.count():
                cancel = CancelAtStep(step)
                post = partial(_coordination(node).post, _coordination(other).node, b"message")
                await cancel.run(post)
                heard = (await _coordination(other).news()).messages
                if not cancel.raised:
                    assert heard == (b"message",)
                elif self.exact_cancellation:
                    assert heard == ()
                if not cancel.happened:
                    break

    async def test_news_tells_which_turns_are_live_here(self) -> None:
        async with self._nodes() as (node, other):
            for n in (2, 3):
                await prepare(node, f"thr_{n}", self.context())
            await self._begin(node, "turn_1", "thr_1")
            await self._begin(node, "turn_2", "thr_2")
            await self._begin(other, "turn_3", "thr_3")
            await self._begin(other, "turn_4", "thr_1")
            assert (await _coordination(node).news()).live == {"turn_1", "turn_2"}
            assert (await _coordination(other).news()).live == {"turn_3"}
            await self._settle(node, "turn_1", "thr_1")
            assert (await _coordination(node).news()).live == {"turn_2"}


_RATE = Rate(10, 60.0)

_PREPARED = Snapshot("before", tuple((f"i{n}", "before") for n in range(1, 5)), "before")

_CRASHED = Settlement(
    "thr_1",
    "turn_1",
    (note("i5", "thr_1", "partial"), ending_note("n1", "thr_1", "turn_1", "crashed")),
)
_STOPPED = Settlement(
    "thr_1",
    "turn_1",
    (note("i5", "thr_1", "whole"), ending_note("n2", "thr_1", "turn_1", "stopped")),
)


def _usage(store: Store[Any]) -> OwnerUsage:
    """Return where the nodes count what owners use; skips if each counts for itself."""
    usage = _coordination(store).usage
    if usage is None:
        pytest.skip("each node counts for itself what owners use: coordination.usage is None")
    return usage


def _named(store: Store[Any]) -> str:
    return _coordination(store).node


async def _living_nodes(store: Store[Any]) -> set[str]:
    coordination = _coordination(store)
    if type(coordination).nodes is Coordination.nodes:
        pytest.skip("the store doesn't say which nodes live")
    names = await coordination.nodes()
    assert len(names) == len(set(names))
    return set(names)


def _coordination(store: Store[Any]) -> Coordination[Any]:
    if store.coordination is None:
        pytest.skip("the store has no coordination")
    return store.coordination


def _journal(store: Store[Any]) -> Journal[Any]:
    assert store.journal is not None, "a store with coordination has a journal"
    return store.journal


@contextmanager
def _fence_of(turn_id: str) -> Iterator[Fence]:
    mine = Fence(turn_id)
    token = fence.set(mine)
    try:
        yield mine
    finally:
        fence.reset(token)


def _unreadable(thread_id: str) -> ThreadItem:
    return ClientToolCallItem(
        id="i6",
        thread_id=thread_id,
        created_at=NOON,
        call_id="call",
        name="tool",
        arguments={"a": UNREADABLE["nested deeper"]},
    )
