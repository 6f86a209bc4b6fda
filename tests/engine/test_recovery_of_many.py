"""A node dies with many turns: the others share their settling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import trio

from chatkit_trio._engine.journal import recover
from chatkit_trio.store import JournalEntry, Opening, Settlement
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import StoreWrapper
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ThreadMetadata,
)
from tests.testing.broken_stores import FaultyJournal
from tests.transcript import transcript

from .parts import NOW

_T = TypeVar("_T")

TURNS = 120
SETTLING = 0.1  # seconds for one turn
OTHERS = 3


class Counting(StoreWrapper[Any]):
    """Takes its time for settling, and counts how often it is asked to."""

    def __init__(self, store: MemoryStore[Any]) -> None:
        super().__init__(store)
        self.settled: list[str] = []

    async def around(self, name: str, call: Callable[[], Awaitable[_T]]) -> _T:
        if name == "journal.settle_abandoned":
            self.settled.append(name)
            await trio.sleep(SETTLING)
        return await call()


class SaysNothing(FaultyJournal):
    """As journals were before they said whether they have settled something."""

    async def settle_abandoned(self, settlement: Settlement) -> None:
        await super().settle_abandoned(settlement)


async def leave_behind(cluster: MemoryCluster) -> None:
    """Begin turns on as many threads and die."""
    async with MemoryStore[Any](cluster=cluster) as store:
        coordination = store.coordination
        assert coordination is not None
        assert store.journal is not None
        for number in range(TURNS):
            thread = ThreadMetadata(id=f"thr_{number}", created_at=NOW)
            opening = Opening(thread.id, f"turn_{number}", new_thread=thread)
            assert await coordination.begin(opening, None) is None
        await store.journal.checkpoint([entry(number) for number in range(TURNS)])


def entry(number: int) -> JournalEntry:
    item = AssistantMessageItem(
        id=f"msg_{number}",
        thread_id=f"thr_{number}",
        created_at=NOW,
        content=[AssistantMessageContent(text="so far")],
    )
    return JournalEntry(turn_id=f"turn_{number}", thread_id=item.thread_id, items=(item,))


async def test_nodes_that_find_the_same_dead_turns_share_their_settling(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = MemoryCluster()
    await leave_behind(cluster)
    told: list[Any] = []
    nodes = [Counting(MemoryStore[Any](cluster=cluster)) for _ in range(OTHERS)]
    async with nodes[0], nodes[1], nodes[2]:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for node in nodes:
                nursery.start_soon(partial(recover, node, tell=told.append))
        took = trio.current_time() - begun
        for number in range(TURNS):
            assert await transcript(nodes[0], f"thr_{number}") == [
                "assistant: so far",
                "note: crashed",
            ]
    # Each of them once, whichever node has settled it.
    assert sorted(event.turn_id for event in told) == sorted(f"turn_{n}" for n in range(TURNS))
    calls = sum(len(node.settled) for node in nodes)
    # Each node has an order of its own, by chance: in the worst of 400 runs it was 1.4 and 0.5.
    assert calls < 2 * TURNS  # each node by itself would make 1 * TURNS, and all together 3
    assert took < 0.8 * TURNS * SETTLING / 4  # what one node needs, with its four tasks


async def test_a_turn_that_two_tasks_of_a_node_recover_at_once_is_told_of_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = MemoryCluster()
    await leave_behind(cluster)
    told: list[Any] = []
    async with Counting(MemoryStore[Any](cluster=cluster)) as node:
        async with trio.open_nursery() as nursery:
            for _ in range(2):  # someone reads the thread, and the server looks at all of them
                nursery.start_soon(partial(recover, node, "thr_7", tell=told.append))
        assert len(node.settled) == 2
        assert await transcript(node, "thr_7") == ["assistant: so far", "note: crashed"]
    assert [event.turn_id for event in told] == ["turn_7"]


async def test_a_journal_that_doesnt_say_who_has_settled_a_turn_is_believed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    cluster = MemoryCluster()
    await leave_behind(cluster)
    told: list[Any] = []
    async with Counting(MemoryStore[Any](cluster=cluster)) as node:
        assert node.journal is not None
        node.journal = SaysNothing(node.journal)
        await recover(node, "thr_7", tell=told.append)
    assert [event.turn_id for event in told] == ["turn_7"]


async def test_a_turn_that_was_cut_for_a_reason_of_a_newer_release_is_settled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """While a release is rolled out, nodes of the one before find what its nodes have left."""
    cluster = MemoryCluster()
    async with MemoryStore[Any](cluster=cluster) as store:
        assert store.coordination is not None
        assert store.journal is not None
        thread = ThreadMetadata(id="thr_1", created_at=NOW)
        await store.coordination.begin(Opening("thr_1", "turn_1", new_thread=thread), None)
        await store.journal.checkpoint([replace(entry(1), reason="unheard of")])
    told: list[Any] = []
    async with MemoryStore[Any](cluster=cluster) as node:
        await recover(node, tell=told.append)
        assert await transcript(node, "thr_1") == ["assistant: so far", "note: crashed"]
    assert [event.reason for event in told] == ["crashed"]
