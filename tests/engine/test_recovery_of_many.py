"""A node dies with many turns: the others share their settling."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import trio

from chatkit_trio._engine.journal import recover
from chatkit_trio.store import JournalEntry, Opening
from chatkit_trio.stores import MemoryCluster, MemoryStore
from chatkit_trio.testing import StoreWrapper
from chatkit_trio.types import (
    AssistantMessageContent,
    AssistantMessageItem,
    ThreadMetadata,
)
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
    assert {event.turn_id for event in told} == {f"turn_{number}" for number in range(TURNS)}
    calls = sum(len(node.settled) for node in nodes)
    # Each node has an order of its own, by chance: in the worst of 400 runs it was 1.4 and 0.5.
    assert calls < 2 * TURNS  # each node by itself would make 1 * TURNS, and all together 3
    assert took < 0.8 * TURNS * SETTLING / 4  # what one node needs, with its four tasks
