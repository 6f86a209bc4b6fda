"""What an operation of `PostgreSQLStore` takes: `python -m benchmarks.store_postgresql URL`.

The database should be new: the tables go to a schema of their own, `chatkit_trio_benchmark`, which
stays. One task, one operation after the other, and 50 tasks at once.
"""

from __future__ import annotations

import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from chatkit_trio.store import Fence, JournalEntry, Opening, Settlement, fence
from chatkit_trio.stores.postgresql import PostgreSQLStore
from chatkit_trio.testing._store_samples import note, thread

TIMES = 500
TASKS = 50


async def measure(name: str, operation: Callable[[int], Awaitable[object]]) -> None:
    seconds = []
    for n in range(TIMES):
        begun = time.perf_counter()
        await operation(n)
        seconds.append(time.perf_counter() - begun)
    middle, late = statistics.median(seconds), statistics.quantiles(seconds, n=100)[98]
    print(f"{name:40} p50 {middle * 1000:6.2f} ms  p99 {late * 1000:6.2f} ms")


async def main(url: str) -> None:
    numbers = itertools.count(time.time_ns())
    async with PostgreSQLStore[Any](url, schema="chatkit_trio_benchmark") as store:
        node, journal = store.coordination, store.journal
        assert node is not None
        assert journal is not None
        run = next(numbers)
        thread_id, texts = f"thr_{run}", "x" * 500
        await store.save_thread(thread(thread_id), None)

        def item(n: int) -> Any:
            return note(f"i{run}_{n}", thread_id, texts)

        await measure("add_thread_item", lambda n: store.add_thread_item(thread_id, item(n), None))
        await measure(
            "load_thread_items, 20 of them",
            lambda _: store.load_thread_items(thread_id, None, 20, "desc", None),
        )
        await measure("load_thread", lambda _: store.load_thread(thread_id, None))
        await measure("abandoned, when there are none", lambda _: journal.abandoned(thread_id))
        await measure("news, when there are none", lambda _: node.news())

        async def begin(n: int) -> None:
            new = thread(f"thr_{run}_{n}")
            mine = note(f"i_{n}", new.id, texts)
            await node.begin(Opening(new.id, f"turn_{run}_{n}", new, new_items=(mine,)), None)

        async def settle(n: int) -> None:
            mine = note(f"j_{n}", f"thr_{run}_{n}", texts)
            await store.settle(Settlement(f"thr_{run}_{n}", f"turn_{run}_{n}", (mine,)), None)

        async def write_in_turn(n: int) -> None:
            await store.add_thread_item(f"thr_{run}_0", note(f"k_{n}", f"thr_{run}_0"), None)

        await measure("coordination.begin with a new thread", begin)
        await measure(
            f"checkpoint of {TIMES} live turns",
            lambda _: journal.checkpoint(
                [
                    JournalEntry(f"turn_{run}_{n}", f"thr_{run}_{n}", (note("a", "t", texts * 4),))
                    for n in range(TIMES)
                ]
            ),
        )
        token = fence.set(Fence(f"turn_{run}_0"))
        await measure("add_thread_item in a turn (fenced)", write_in_turn)
        fence.reset(token)
        await measure("settle with an item", settle)

        begun = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(add_many, store, thread_id, numbers)
        rate = TASKS * TIMES / 5 / (time.perf_counter() - begun)
        print(f"add_thread_item, {TASKS} tasks at once: {rate:,.0f} a second")


async def add_many(
    store: PostgreSQLStore[Any], thread_id: str, numbers: itertools.count[int]
) -> None:
    own = f"{thread_id}_{next(numbers)}"
    await store.save_thread(thread(own), None)
    for _ in range(TIMES // 5):
        await store.add_thread_item(own, note(f"i{next(numbers)}", own, "x" * 500), None)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
